//! Starting and ending, whatever the stages are.
//!
//! # Invariants
//!
//! 1. A pipeline's own context ends exactly once, and what its stages are made of
//!    ends with it: the channels are closed and the tasks aborted by a function
//!    that runs at that context's end, or by whoever ends it while that is at work elsewhere.
//!    No part can be stopped from outside, but for its sources (4). What is left in the
//!    channels is dropped by another function, later: drops of items are the users', and keep no
//!    other pipeline from being stopped.
//! 2. `outcome` is set once, by the first thing that ends the pipeline, before the
//!    context ends for it. Where the context ends with its parent, whoever sees that
//!    first sets it.
//! 3. When all tasks have ended, every count has been told: a [`Tally`] tells when
//!    it is dropped, which is when its task's future is.
//! 4. While it drains, only the user's context has ended: sources make no further item.
//! 5. A stage's channel is held open until the ending of its last task has been told, with all
//!    that it set off: the reader must not see the end of the items before it can know why.

use super::report::{Outcome, StageEnd};
#[cfg(not(loom))]
use crate::channel::at_home;
use crate::channel::{Bulk, Gauge, Receiver, Sender};
use crate::context::{AfterFunc, BoxError, Canceller, Cause, Context, is_an_end};
use crate::group::{Boxed, Ending, Owner, TaskPanicked, Tasks};
use crate::rt::{self, Alarm, Clock, Hand, Woken, Work};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, BriefLock, Latch, Mutex};
use std::borrow::Cow;
use std::ops::Deref;
use std::panic::Location;
use std::time::{Duration, Instant};

/// What the stages of a running pipeline share.
pub(super) struct Engine {
    /// The user's context.
    parent: Context,
    /// Ends with the pipeline; what the stages' closures get.
    pub(super) ctx: Context,
    canceller: Canceller,
    pub(super) tasks: Arc<Tasks>,
    pub(super) woken: Woken,
    pub(super) stages: Vec<Stage>,
    /// How it ended, and the cause for which its context ends.
    outcome: Mutex<Option<(Outcome, Cause)>>,
    /// Nonzero from when everything is being stopped.
    stopped: AtomicUsize,
    /// Whether it may end by the clock.
    is_timed: bool,
    /// When the grace of a drain that has begun is over.
    grace_over: Latch<Instant>,
    /// How long it may drain, if it may, and by which clock.
    grace: Option<(Duration, Clock)>,
    /// What would drain the pipeline, and what will end that.
    drain: Mutex<(Option<AfterFunc>, Option<Alarm>)>,
}

/// One stage, as its tasks and the report see it.
pub(super) struct Stage {
    pub(super) name: Cow<'static, str>,
    pub(super) place: &'static Location<'static>,
    pub(super) capacity: usize,
    /// The stages whose output it takes.
    pub(super) inputs: Vec<usize>,
    /// Whether the code between its channels is the user's.
    pub(super) custom: bool,
    pub(super) counts: BriefLock<StageCounts>,
    /// Why the first of its tasks that failed or panicked did so.
    pub(super) failure: Latch<Cause>,
    /// What its tasks take from, once the first of them is spawned.
    pub(super) gauges: Latch<Gauges>,
    /// The channel behind it, while it runs and after.
    pub(super) output: Mutex<Option<std::sync::Arc<dyn Gauge>>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StageCounts {
    /// Of its tasks.
    running: usize,
    pub(super) received: usize,
    pub(super) filtered: usize,
    pub(super) failed: usize,
    pub(super) discarded: usize,
    pub(super) ended: Option<StageEnd>,
}

/// The channels that a stage takes from.
pub(super) type Gauges = std::sync::Arc<[std::sync::Arc<dyn Gauge>]>;

/// What a task of a stage returns.
pub(super) type StageResult = Result<StageEnd, BoxError>;

impl Engine {
    /// An engine that will abort at once when `parent` ends.
    pub(super) fn start(parent: &Context, stages: Vec<Stage>) -> Arc<Self> {
        let (ctx, canceller) = parent.of_pipeline(stages[0].place);
        Engine::new(parent, ctx, canceller, None, stages)
    }

    /// An engine that will drain when `parent` ends.
    pub(super) fn start_draining(
        parent: &Context,
        grace: Duration,
        stages: Vec<Stage>,
    ) -> Arc<Self> {
        let (ctx, canceller) = parent.without_cancel().of_pipeline(stages[0].place);
        let grace = Some((grace, Clock::ambient()));
        let engine = Engine::new(parent, ctx, canceller, grace, stages);
        let draining = Arc::clone(&engine);
        let watch = parent.at_end(move || Engine::begin_to_drain(&draining));
        engine.drain.lock().0 = Some(watch);
        engine.forget_drain_if_stopped();
        engine
    }

    fn new(
        parent: &Context,
        ctx: Context,
        canceller: Canceller,
        grace: Option<(Duration, Clock)>,
        stages: Vec<Stage>,
    ) -> Arc<Self> {
        let is_timed = ctx.deadline().is_some() || grace.is_some();
        let engine = Arc::new(Engine {
            parent: parent.clone(),
            is_timed,
            grace_over: Latch::new(),
            ctx,
            canceller,
            grace,
            tasks: Tasks::new(),
            woken: Woken::here(),
            stages,
            outcome: Mutex::new(None),
            stopped: AtomicUsize::new(0),
            drain: Mutex::new((None, None)),
        });
        // Invariant 1.
        let (stopping, discarding) = (Arc::clone(&engine), Arc::clone(&engine));
        let _registered = engine.ctx.at_end(move || stopping.stop());
        let _registered = engine.ctx.after_end(move || discarding.discard());
        engine
    }

    fn begin_to_drain(this: &Arc<Self>) {
        let Some((grace, clock)) = &this.grace else { return };
        let cause = this.parent.cause().expect("it has ended");
        this.cancelled(cause.clone());
        // However late it hears of a deadline.
        let began = this.parent.ran_out_by(clock).unwrap_or_else(|| clock.now());
        if let Some(at) = began.checked_add(*grace) {
            let _first = this.grace_over.set(at);
            let engine = Arc::clone(this);
            let alarm = clock.arm(
                at,
                Box::new(move || Some(Work::ours(move || engine.canceller.cancel_as(cause)))),
            );
            let before = this.drain.lock().1.replace(alarm);
            drop(before);
            this.forget_drain_if_stopped();
        }
    }

    /// Everything ends, now.
    fn stop(&self) {
        // Until the last channel has been closed, it is not over.
        let busy = self.tasks.busy();
        let cause = self.ctx.cause().expect("it has ended");
        self.cancelled(cause);
        // Before anything is stopped: a channel that comes now is either found below, or its maker
        // finds this, by the lock of `output` (see `link`). Release: partner of the Acquire in
        // `is_stopped`.
        self.stopped.store(1, Ordering::Release);
        if !skip(Break::StagesNotStopped) {
            self.tasks.stop();
        }
        self.outputs().for_each(|output| output.close());
        // Whoever waits for the end may have been called for an item before, by a turn that hangs.
        self.woken.send();
        self.forget_drain();
        drop(busy);
        // The users' functions at this end may be what comes next on this thread.
        rt::gets_on();
    }

    /// What is left in channels is dropped.
    pub(super) fn discard(&self) {
        // Until the last of it has been dropped, it is not over.
        let busy = self.tasks.busy();
        self.outputs().for_each(|output| {
            // Whoever stops it may not have come so far.
            output.close();
            output.discard();
        });
        drop(busy);
        rt::gets_on();
    }

    fn outputs(&self) -> impl Iterator<Item = std::sync::Arc<dyn Gauge>> {
        self.stages.iter().filter_map(|stage| stage.output.lock().clone())
    }

    fn forget_drain_if_stopped(&self) {
        if self.is_stopped() {
            self.forget_drain();
        }
    }

    fn forget_drain(&self) {
        let (watch, alarm) = std::mem::take(&mut *self.drain.lock());
        if let Some(watch) = watch {
            watch.stop();
        }
        drop(alarm);
    }

    /// Whether everything is being stopped: nothing more is delivered.
    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) != 0
    }

    /// Whether nothing more is delivered. A deadline, or a grace, may be over though no timer has
    /// had its turn; without one, there is nothing to look at but a flag.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.is_stopped() || (self.is_timed && self.has_ended())
    }

    #[cold]
    fn has_ended(&self) -> bool {
        if self.is_grace_over() {
            return true;
        }
        let cause = self.ctx.cause();
        let ended = cause.is_some();
        if let Some(cause) = cause {
            self.cancelled(cause);
        }
        ended
    }

    /// Whether it may drain no longer, though nobody has had a turn to tell, nor perhaps to begin.
    fn is_grace_over(&self) -> bool {
        let Some((grace, clock)) = &self.grace else { return false };
        let until = match self.grace_over.get() {
            Some(at) => Some(*at),
            None => self.parent.ran_out_by(clock).and_then(|at| at.checked_add(*grace)),
        };
        until.is_some_and(|until| clock.now() >= until)
    }

    /// How it ended, unless that is known already; the cause for which it did.
    fn settle(&self, outcome: Outcome, cause: Cause) -> Cause {
        let mut known = self.outcome.lock();
        if let Some((_, first)) = &*known {
            let first = first.clone();
            drop(known);
            drop((outcome, cause));
            return first;
        }
        *known = Some((outcome, cause.clone()));
        cause
    }

    /// Its context ended, if nothing else was before.
    pub(super) fn cancelled(&self, cause: Cause) {
        self.settle(Outcome::Cancelled(cause.clone()), cause);
    }

    /// Ends it, as it was read to its end.
    pub(super) fn complete(&self, place: &'static Location<'static>) {
        self.end(Outcome::Completed, Cause::failure("the pipeline completed".into(), place));
    }

    /// Ends it, as its reader reads no more.
    pub(super) fn stop_reading(&self, place: &'static Location<'static>) {
        self.end(Outcome::ReaderStopped, Cause::failure("the reader stopped".into(), place));
    }

    /// Ends it for this cause, unless it has ended before. Of two that end it at once, the
    /// one that is the outcome is also the cause.
    fn end(&self, outcome: Outcome, cause: Cause) {
        self.end_for(self.first(outcome, cause));
    }

    /// [`settle`](Self::settle), after whatever has ended it before.
    fn first(&self, outcome: Outcome, cause: Cause) -> Cause {
        // Where it drains, or nobody has had a turn to tell, the user's context may have
        // ended before.
        if let Some(cause) = self.parent.cause() {
            self.cancelled(cause);
        }
        self.settle(outcome, cause)
    }

    fn end_for(&self, first: Cause) {
        self.canceller.cancel_as(first);
        // Another thread, or this one further up, may be in the middle of ending it.
        if !self.is_stopped() {
            self.stop();
        }
    }

    /// How it ended, and the cause for which its context did.
    pub(super) fn outcome(&self) -> (Outcome, Cause) {
        self.known_outcome().expect("asked when it has ended")
    }

    pub(super) fn known_outcome(&self) -> Option<(Outcome, Cause)> {
        self.outcome.lock().clone()
    }

    /// The channel behind the stage of this number.
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
        let gauge = sender.gauge();
        // Invariant 5.
        if !skip(Break::EndBeforeEnding) {
            gauge.hold_open();
        }
        // In this order: see `stop`.
        *stage.output.lock() = Some(gauge.clone());
        if self.is_stopped() {
            gauge.close();
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
        if stage.gauges.get().is_none() {
            let links = stage.inputs.iter().filter_map(|&k| this.stages[k].output.lock().clone());
            let _ = stage.gauges.set(links.collect());
        }
        stage.counts.lock().running += 1;
        let owner = StageTask { engine: Arc::clone(this), index, hand: this.woken.hand() };
        Tasks::spawn(tasks, stage.name.clone(), stage.place, future, owner);
        rt::comes_next();
    }

    /// A task of a stage has ended: how that counts, and how the pipeline ends for it, and why.
    fn judge(
        &self,
        stage: &Stage,
        how: Ending<StageResult>,
    ) -> (StageEnd, Option<(Outcome, Cause)>) {
        let (end, outcome, cause) = match how {
            // What it found closed was closed for it as for all.
            Ending::Returned(Ok(_)) if self.is_stopped() => return (StageEnd::Aborted, None),
            Ending::Returned(Ok(end)) => return (end, None),
            Ending::Aborted if self.ctx.is_done() => return (StageEnd::Aborted, None),
            // Nobody here did that, so its runtime has gone.
            Ending::Aborted => {
                let cause = Cause::failure("the runtime was shut down".into(), stage.place);
                (StageEnd::Aborted, Outcome::Cancelled(cause.clone()), cause)
            }
            // It noticed that the pipeline has ended before it was aborted for that.
            Ending::Returned(Err(error)) if self.ctx.is_done() && is_an_end(&*error, None) => {
                return (StageEnd::Aborted, None);
            }
            Ending::Returned(Err(error)) => {
                let cause = Cause::failure(error, stage.place);
                let name = stage.name.clone().into_owned();
                (StageEnd::Failed, Outcome::Failed { stage: name, cause: cause.clone() }, cause)
            }
            Ending::Panicked(message) => {
                let error = TaskPanicked::new(stage.name.clone(), message.clone());
                let outcome = Outcome::Panicked { stage: stage.name.clone().into_owned(), message };
                (StageEnd::Panicked, outcome, Cause::failure(Box::new(error), stage.place))
            }
        };
        (end, Some((outcome, cause)))
    }
}

/// What a stage's task belongs to.
struct StageTask {
    engine: Arc<Engine>,
    index: usize,
    hand: Hand,
}

impl Owner<StageResult> for StageTask {
    /// Offers the room of what it has used when it waits.
    #[inline]
    fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        self.hand.turn(|| {
            let inputs =
                self.engine.stages[self.index].gauges.get().expect("set before it was spawned");
            #[cfg(not(loom))]
            let polled = match inputs.first() {
                None => poll(),
                Some(input) => at_home(input.address(), poll),
            };
            #[cfg(loom)]
            let polled = poll();
            // Ready, too: a receiver may outlive its stage, in another task.
            inputs.iter().for_each(|input| input.offer_room());
            polled
        })
    }

    fn ended(self, how: Ending<StageResult>) -> Option<impl FnOnce()> {
        let StageTask { engine, index, .. } = self;
        let stage = &engine.stages[index];
        let (end, ends_all) = engine.judge(stage, how);
        let Some((outcome, cause)) = ends_all else {
            stage.leave(end);
            return None;
        };
        stage.counts.lock().note(end);
        if end >= StageEnd::Failed {
            let _another_was_first = stage.failure.set(cause.clone());
        }
        // Whoever finds no task any more must know why.
        let first = engine.first(outcome, cause);
        // The users' functions at this end run then.
        Some(move || {
            engine.end_for(first);
            engine.stages[index].leave(end);
        })
    }
}

impl Stage {
    /// One of its tasks has ended, and set off what it does. After the last of them the channel
    /// behind it may end: invariant 5.
    fn leave(&self, end: StageEnd) {
        let mut counts = self.counts.lock();
        counts.note(end);
        counts.running -= 1;
        let is_last = counts.running == 0;
        drop(counts);
        if is_last && !skip(Break::EndBeforeEnding) {
            let output = self.output.lock().clone();
            output.expect("it runs").let_end();
        }
    }
}

impl StageCounts {
    /// The worst of the ends of its tasks counts.
    fn note(&mut self, end: StageEnd) {
        self.ended = self.ended.max(Some(end));
    }
}

/// What one task of a stage has seen of its items; told when it is dropped.
pub(super) struct Tally<E: Deref<Target = Engine> = Arc<Engine>> {
    engine: E,
    index: usize,
    counts: StageCounts,
    /// Items received that are neither passed on nor counted otherwise.
    in_hand: usize,
    /// The user's code has it in hand: if that panics, the item has failed.
    in_users_hand: bool,
}

impl<E: Deref<Target = Engine>> Tally<E> {
    pub(super) fn new(engine: E, index: usize) -> Self {
        Tally { engine, index, counts: StageCounts::default(), in_hand: 0, in_users_hand: false }
    }

    /// Ends when no more items are to be made; `None`: that is when the pipeline ends.
    pub(super) fn more(&self) -> Option<Context> {
        self.engine.grace.as_ref().map(|_| self.engine.parent.clone())
    }

    /// Where the stage was described.
    pub(super) fn place(&self) -> &'static Location<'static> {
        self.engine.stages[self.index].place
    }

    #[inline]
    pub(super) fn receive(&mut self) {
        self.counts.received += 1;
        self.in_hand += 1;
    }

    #[inline]
    pub(super) fn give_to_user(&mut self) {
        self.in_users_hand = true;
    }

    #[inline]
    pub(super) fn take_from_user(&mut self) {
        self.in_users_hand = false;
    }

    /// So many have been put into the channel, which counts them from now on.
    #[inline]
    pub(super) fn pass_on(&mut self, items: usize) {
        self.in_hand -= items;
    }

    pub(super) fn filter(&mut self) {
        self.in_hand -= 1;
        self.counts.filtered += 1;
    }

    pub(super) fn fail(&mut self) {
        self.in_hand -= 1;
        self.counts.failed += 1;
    }
}

impl<E: Deref<Target = Engine>> Drop for Tally<E> {
    fn drop(&mut self) {
        if self.in_users_hand && self.in_hand > 0 {
            self.fail();
        }
        let mut counts = self.engine.stages[self.index].counts.lock();
        counts.received += self.counts.received;
        counts.filtered += self.counts.filtered;
        counts.failed += self.counts.failed;
        counts.discarded += self.in_hand;
    }
}
