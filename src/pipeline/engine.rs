//! Starting and ending, whatever the stages are.
//!
//! # Invariants
//!
//! 1. A pipeline's own context ends exactly once, and all that its stages are made of ends with it:
//!    a function that runs at that context's end closes the channels and aborts the tasks; or the
//!    call that ends the pipeline does, while that function is at work elsewhere. No part can be
//!    stopped from outside, except its sources (4). What is left in the channels is dropped by
//!    another function, later: drops of items are user code, and keep no other pipeline from being
//!    stopped.
//! 2. `end` is noted once, by the first thing that ends the pipeline, before the context ends for
//!    it. Where the context ends with its parent, the first to see that notes it.
//! 3. When all tasks have ended, every count has been told: a [`Tally`](super::tally::Tally) tells
//!    its own when it is dropped, which is when its task's future is.
//! 4. While it drains, only the user's context has ended: sources make no further item.
//! 5. A stage's channel is held open until the ending of its last task has been told, with all that
//!    it set off: the reader must not see the end of the items before it can know why.

use super::drain::Drain;
use super::end::End;
use super::report::StageEnd;
#[cfg(not(loom))]
use crate::channel::at_home;
use crate::channel::{AnyLink, Bulk, Receiver, Sender};
use crate::context::{BoxError, Canceller, Cause, Context, is_an_end};
use crate::group::{Boxed, Ending, Owner, Tasks};
use crate::rt::{self, KeptWakers, Turns};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, BriefLock, Latch, Mutex};
use std::borrow::Cow;
use std::error::Error;
use std::panic::Location;
use std::time::Duration;

/// How many items fit behind a stage, unless [`buffer`](super::Pipeline::buffer) says otherwise.
#[cfg(not(loom))]
pub(super) const BUFFER: usize = 64;
#[cfg(loom)]
pub(super) const BUFFER: usize = 1;

/// What the stages of a running pipeline share.
pub(super) struct Engine {
    /// The user's context.
    parent: Context,
    /// Ends with the pipeline; the context that stages' closures get.
    pub(super) ctx: Context,
    canceller: Canceller,
    pub(super) tasks: Arc<Tasks>,
    pub(super) woken: KeptWakers,
    pub(super) stages: Vec<Stage>,
    /// Invariant 2.
    end: Mutex<Option<End>>,
    /// Nonzero once everything is being stopped.
    stopped: AtomicUsize,
    /// Whether the clock may end it.
    is_timed: bool,
    /// `Some` if it drains when the user's context ends.
    drain: Option<Box<Drain>>,
}

/// One stage, as its tasks and the report see it.
pub(super) struct Stage {
    pub(super) name: Cow<'static, str>,
    pub(super) place: &'static Location<'static>,
    pub(super) capacity: usize,
    /// The stages whose output it takes.
    pub(super) inputs: Vec<usize>,
    /// Whether the code between its channels is user code.
    pub(super) custom: bool,
    pub(super) counts: BriefLock<StageCounts>,
    /// Why its tasks failed or panicked: the first of them that did.
    pub(super) failure: Latch<Cause>,
    /// The channels its tasks take from, once the first of them is spawned.
    input_links: Latch<Vec<std::sync::Arc<dyn AnyLink>>>,
    /// The channel behind it, while it runs and after.
    pub(super) output_link: Mutex<Option<std::sync::Arc<dyn AnyLink>>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StageCounts {
    /// How many of its tasks have not ended.
    running: usize,
    pub(super) received: usize,
    pub(super) filtered: usize,
    pub(super) failed: usize,
    pub(super) discarded: usize,
    pub(super) ended: Option<StageEnd>,
}

/// What a task of a stage returns.
pub(super) type StageResult = Result<StageEnd, BoxError>;

impl Engine {
    /// An engine that aborts when `parent` ends, at once or after a drain with this grace. It must
    /// [watch](Self::watch) for that before it has any tasks.
    pub(super) fn new(parent: &Context, grace: Option<Duration>, stages: Vec<Stage>) -> Arc<Self> {
        let place = stages[0].place;
        let (ctx, canceller) = match grace {
            None => parent.of_pipeline(place),
            Some(_) => parent.without_cancel().of_pipeline(place),
        };
        let drain = grace.map(|grace| Box::new(Drain::new(grace)));
        Arc::new(Engine {
            parent: parent.clone(),
            is_timed: ctx.deadline().is_some() || drain.is_some(),
            ctx,
            canceller,
            tasks: Tasks::new(),
            woken: KeptWakers::here(),
            stages,
            end: Mutex::new(None),
            stopped: AtomicUsize::new(0),
            drain,
        })
    }

    /// Watches for the end: invariant 1.
    ///
    /// # Panics
    ///
    /// If no alarm can be armed for its deadline.
    pub(super) fn watch(this: &Arc<Self>) {
        let (stopping, discarding) = (Arc::clone(this), Arc::clone(this));
        let _registered = this.ctx.own_func_at_end(move || stopping.stop());
        let _registered = this.ctx.users_func_at_end(move || discarding.discard());
        if let Some(drain) = &this.drain {
            let draining = Arc::clone(this);
            drain.watch(this.parent.own_func_at_end(move || {
                Engine::begin_to_drain(&draining);
                Engine::let_go(draining);
            }));
            this.forget_drain_if_stopped();
        }
    }

    /// Drops a reference. Dropping the last one drops the user's values, which is user code.
    fn let_go(this: Arc<Self>) {
        rt::for_users(move || drop(this));
    }

    fn begin_to_drain(this: &Arc<Self>) {
        let Some(drain) = &this.drain else { return };
        let cause = this.parent.cause().expect("it has ended");
        this.note(End::cancelled(cause.clone()));
        let engine = Arc::clone(this);
        drain.begin(&this.parent, move || {
            engine.canceller.cancel_as(cause);
            Engine::let_go(engine);
        });
        this.forget_drain_if_stopped();
    }

    /// Stops everything, now.
    fn stop(&self) {
        // It is not over until the last channel has been closed.
        let busy = self.tasks.busy();
        let cause = self.ctx.cause().expect("it has ended");
        self.note(End::cancelled(cause));
        // Before anything is stopped: a channel that comes now is either found below, or its maker
        // finds this, by the lock of `output_link` (see `link`). Release: partner of the Acquire in
        // `is_stopped`.
        self.stopped.store(1, Ordering::Release);
        if !skip(Break::StagesNotStopped) {
            self.tasks.stop();
        }
        self.outputs().for_each(|output| output.close());
        // A task that waits for the end may have been called for an item already, by a turn that
        // hangs and keeps its waker.
        self.woken.send();
        self.forget_drain();
        drop(busy);
        // User functions at this end may be what runs next on this thread.
        rt::free_woken();
    }

    /// Drops what is left in channels.
    pub(super) fn discard(&self) {
        // It is not over until the last of it has been dropped.
        let busy = self.tasks.busy();
        self.outputs().for_each(|output| {
            // The call that stops it may not have come so far.
            output.close();
            output.discard();
        });
        drop(busy);
        rt::free_woken();
    }

    fn outputs(&self) -> impl Iterator<Item = std::sync::Arc<dyn AnyLink>> {
        self.stages.iter().filter_map(|stage| stage.output_link.lock().clone())
    }

    fn forget_drain_if_stopped(&self) {
        if self.is_stopped() {
            self.forget_drain();
        }
    }

    fn forget_drain(&self) {
        if let Some(drain) = &self.drain {
            drain.forget();
        }
    }

    /// Whether everything is being stopped: nothing more is delivered.
    #[inline]
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) != 0
    }

    /// Whether nothing more is delivered. A deadline or a grace may be over even if no timer has
    /// had its turn; without either, there is only a flag to look at.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.is_stopped() || (self.is_timed && self.is_over_by_the_clock())
    }

    #[cold]
    fn is_over_by_the_clock(&self) -> bool {
        if self.drain.as_ref().is_some_and(|drain| drain.is_over(&self.parent)) {
            return true;
        }
        let cause = self.ctx.cause();
        let ended = cause.is_some();
        if let Some(cause) = cause {
            self.note(End::cancelled(cause));
        }
        ended
    }

    /// The context at whose end sources make no further item; `None`: the pipeline's own.
    pub(super) fn end_of_sources(&self) -> Option<&Context> {
        self.drain.as_ref().map(|_| &self.parent)
    }

    /// Notes how it ends, unless that is known already. Returns the cause with which it ends.
    pub(super) fn note(&self, end: End) -> Cause {
        let mut known = self.end.lock();
        if let Some(first) = &*known {
            let cause = first.cause.clone();
            drop(known);
            drop(end);
            return cause;
        }
        known.insert(end).cause.clone()
    }

    /// [`note`](Self::note), but first notes the end of the user's context, if that has ended.
    fn note_after_parent(&self, end: End) -> Cause {
        // While it drains, or until a task has had a turn to tell, that end may not have been
        // noted.
        if let Some(cause) = self.parent.cause() {
            self.note(End::cancelled(cause));
        }
        self.note(end)
    }

    /// Ends it, unless it has ended before. If two ends come at once, the one that is noted is also
    /// the cause.
    pub(super) fn end(&self, end: End) {
        self.end_for(self.note_after_parent(end));
    }

    /// Ends it for the cause of the noted end.
    fn end_for(&self, cause: Cause) {
        self.canceller.cancel_as(cause);
        // Another thread, or a caller further up this stack, may be in the middle of ending it.
        if !self.is_stopped() {
            self.stop();
        }
    }

    /// How it ended, or will in a moment.
    pub(super) fn known_end(&self) -> Option<End> {
        self.end.lock().clone()
    }

    /// Makes the channel behind the stage of this number.
    pub(super) fn link<T: Send + 'static>(
        &self,
        index: usize,
        bulk: Option<Bulk<T>>,
    ) -> (Sender<T>, Receiver<T>) {
        let stage = &self.stages[index];
        let is_last = index + 1 == self.stages.len();
        let (sender, receiver) = crate::channel::of_stage(
            stage.capacity,
            bulk,
            (is_last, stage.custom, self.woken.id()),
        );
        let link = sender.any_link();
        // Invariant 5.
        if !skip(Break::EndBeforeEnding) {
            link.hold_open();
        }
        // In this order: see `stop`.
        *stage.output_link.lock() = Some(link.clone());
        if self.is_stopped() {
            link.close();
        }
        (sender, receiver)
    }

    /// Runs a task of a stage.
    pub(super) fn spawn(this: &Arc<Self>, index: usize, future: Boxed<StageResult>) {
        let stage = &this.stages[index];
        let forgets = (skip(Break::ThrottleNotStopped) && stage.name == "throttle")
            || (skip(Break::WorkersNotStopped) && stage.name == "dispatch");
        let nobodys = forgets.then(Tasks::new);
        let tasks = nobodys.as_ref().unwrap_or(&this.tasks);
        if stage.input_links.get().is_none() {
            let links =
                stage.inputs.iter().filter_map(|&k| this.stages[k].output_link.lock().clone());
            let _ = stage.input_links.set(links.collect());
        }
        stage.counts.lock().running += 1;
        let owner = StageTask { engine: Arc::clone(this), index, turns: this.woken.turns() };
        Tasks::spawn(tasks, stage.name.clone(), stage.place, future, owner);
        rt::note_woken();
    }

    /// Whether an error only says that the context has ended. (The cause of the pipeline's own end
    /// does not count: if two workers fail with the same words, the second has failed as well.)
    fn is_echo(&self, error: &(dyn Error + 'static)) -> bool {
        is_an_end(error, self.parent.cause().as_ref())
    }

    /// How the ending of a stage's task counts, and how the pipeline ends for it, if it does.
    fn judge(&self, stage: &Stage, how: Ending<StageResult>) -> (StageEnd, Option<End>) {
        let place = stage.place;
        let (end, all) = match how {
            // What it found closed was closed by the stop.
            Ending::Returned(Ok(_)) if self.is_stopped() => return (StageEnd::Aborted, None),
            Ending::Returned(Ok(end)) => return (end, None),
            Ending::Aborted if self.ctx.is_done() => return (StageEnd::Aborted, None),
            // Nothing here aborted it, so its runtime is gone.
            Ending::Aborted => {
                let cause = Cause::failure("the runtime was shut down".into(), place);
                (StageEnd::Aborted, End::cancelled(cause))
            }
            // It noticed the end of the pipeline before it was aborted.
            Ending::Returned(Err(error)) if self.ctx.is_done() && self.is_echo(&*error) => {
                return (StageEnd::Aborted, None);
            }
            Ending::Returned(Err(error)) => {
                (StageEnd::Failed, End::failed(stage.name.clone(), error, place))
            }
            Ending::Panicked(message) => {
                (StageEnd::Panicked, End::panicked(stage.name.clone(), message, place))
            }
        };
        (end, Some(all))
    }
}

/// What a stage's task belongs to.
struct StageTask {
    engine: Arc<Engine>,
    index: usize,
    turns: Turns,
}

impl Owner<StageResult> for StageTask {
    /// Offers the room of what the task has used when it waits.
    #[inline]
    fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        self.turns.turn(|| {
            let inputs = self.engine.stages[self.index]
                .input_links
                .get()
                .expect("set before it was spawned");
            #[cfg(not(loom))]
            let polled = match inputs.first() {
                None => poll(),
                Some(input) => at_home(input.address(), poll),
            };
            #[cfg(loom)]
            let polled = poll();
            // Also when it is ready: a receiver may outlive its stage, in another task.
            inputs.iter().for_each(|input| input.offer_room());
            polled
        })
    }

    fn ended(self, how: Ending<StageResult>) -> Option<impl FnOnce()> {
        let StageTask { engine, index, .. } = self;
        let stage = &engine.stages[index];
        let (end, all) = engine.judge(stage, how);
        let Some(all) = all else {
            stage.leave(end);
            return None;
        };
        stage.counts.lock().note(end);
        if end >= StageEnd::Failed {
            let _another_was_first = stage.failure.set(all.cause.clone());
        }
        // A caller that finds no task left must know why.
        let first = engine.note_after_parent(all);
        // The users' functions at this end run in this closure, when the task has left the list.
        Some(move || {
            engine.end_for(first);
            engine.stages[index].leave(end);
        })
    }
}

impl Stage {
    /// A stage that has not begun.
    #[track_caller]
    pub(super) fn new(name: Cow<'static, str>, inputs: Vec<usize>) -> Self {
        Stage {
            name,
            place: Location::caller(),
            capacity: BUFFER,
            inputs,
            custom: false,
            counts: BriefLock::new(StageCounts::default()),
            failure: Latch::new(),
            input_links: Latch::new(),
            output_link: Mutex::new(None),
        }
    }

    /// One of its tasks has ended, and what that sets off is done. After the last of them the
    /// channel behind it may end: invariant 5.
    fn leave(&self, end: StageEnd) {
        let mut counts = self.counts.lock();
        counts.note(end);
        counts.running -= 1;
        let is_last = counts.running == 0;
        drop(counts);
        if is_last && !skip(Break::EndBeforeEnding) {
            let output = self.output_link.lock().clone();
            output.expect("it runs").let_end();
        }
    }
}

impl StageCounts {
    /// Of the ends of its tasks, the worst counts.
    fn note(&mut self, end: StageEnd) {
        self.ended = self.ended.max(Some(end));
    }
}
