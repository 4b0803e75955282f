//! One run of a body on its runtime, from its first poll until nothing is left of it, or what is
//! left has had its time.
//!
//! # Invariants
//!
//! 1. The runtime rests when no task is ready, and then moves its paused clock to the next timer. A
//!    body that has taken too many rests comes to no end ([`Rest`]). Once the body has ended, a
//!    future that is always ready keeps the runtime from resting, and moves the clock itself.
//! 2. User code runs, and is dropped, behind [`Run::guard`].
//! 3. A thread of `spawn_blocking` keeps the clock where it is, and so does a task that is always
//!    ready. If that lasts, the watchdog wakes the body, which is then given its injection: at once
//!    if it was woken out of a rest; without a rest the second time, for the first time a task may
//!    just have been slow. If the injection has come already, the poll is no beat: a task that
//!    keeps the clock for ever is told in the end. A poll that the watchdog asks for is no point.
//! 4. A deadline that comes at a look ends the root there, but the clock cannot move within a poll.
//!    It follows before the body has its next turn, or once the body has ended.

use super::super::inject::Inject;
use super::super::place::Seen;
use super::super::pulse::Pulse;
use super::super::quiet::Panic;
use super::super::subject::Running;
use super::watcher::{Landed, MARK, Point, Tracer, Watcher};
use crate::context::Context;
use crate::rt::{self, panic_words};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::traced;
use crate::sync::{Arc, Mutex};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll, Waker, ready};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

/// A body that waits for longer than this, two years, waits for the injection.
const LONG: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// What is told of a body that the checker cannot move the time for.
const RESUMED: &str =
    "the body has called `tokio::time::resume`, and the checker cannot move the time";

/// The time that tasks have to stop is divided into this many moments, if it is long enough.
const MOMENTS: u32 = 1_000;

/// The least that the clock moves by.
const LEAST_MOVE: Duration = Duration::from_millis(1);

/// As what the body's polls, and those of other tasks, count for the watchdog.
pub(super) const BODY: u32 = 0;
const OTHERS: u32 = u32::MAX;

/// How a run is to go.
pub(super) struct Run<'a> {
    pub(super) kind: Inject,
    pub(super) asked_at: &'static Location<'static>,
    pub(super) stop_within: Duration,
    pub(super) steps: u32,
    pub(super) watcher: &'a Watcher,
    pub(super) rest: &'a Rest,
    pub(super) pulse: &'a Pulse,
}

/// How a body came out.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    Ended,
    /// It waits for something that will never come, and its time is over.
    Waits,
    /// It waits and its time is over, but it would go on later.
    GoesOn,
    /// It is polled again and again.
    Busy,
}

/// What is still there at the end.
pub(super) struct Left {
    pub(super) body: Body,
    pub(super) tasks: usize,
    /// Whether a timer of a context is pending.
    pub(super) timer: bool,
    /// Where the body waits, in a traced run.
    pub(super) waits: Seen,
}

/// Whether the watchdog has the body polled (invariant 3).
#[derive(Clone, Copy, PartialEq)]
enum Nudge {
    None,
    /// For the first time, and without a rest.
    Once,
    /// Nothing else would: the injection is due.
    Due,
}

/// What the runtime tells of its rests.
#[derive(Debug)]
pub(super) struct Rest {
    times: AtomicU32,
    /// Whether the watchdog ended the last one.
    nudged: AtomicBool,
    /// Whether the last poll of the body was [`Nudge::Once`], with no rest since.
    once: AtomicBool,
    /// The waker to wake once there have been this many.
    waker: Mutex<Option<(u32, Waker)>>,
    pulse: Arc<Pulse>,
}

impl Rest {
    pub(super) fn new(pulse: &Arc<Pulse>) -> Rest {
        Rest {
            times: AtomicU32::new(0),
            nudged: AtomicBool::new(false),
            once: AtomicBool::new(false),
            waker: Mutex::new(None),
            pulse: Arc::clone(pulse),
        }
    }

    // Relaxed throughout: these are for the runtime's one thread.

    pub(super) fn begins(&self) {
        self.times.store(self.times().saturating_add(1), Ordering::Relaxed);
        // A nudge before this rest was for a task that was slow.
        self.pulse.was_nudged();
        self.once.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) {
        if self.pulse.was_nudged() {
            self.nudged.store(true, Ordering::Relaxed);
        }
        let times = self.times();
        let due = self.waker.lock().take_if(|(due, _)| *due <= times);
        if let Some((_, waker)) = due {
            waker.wake();
        }
    }

    fn wakes(&self, waker: &Waker, due: u32) {
        let before = self.waker.lock().replace((due, waker.clone()));
        drop(before);
    }

    /// Wakes nothing any more.
    pub(super) fn forgets(&self) {
        let before = self.waker.lock().take();
        drop(before);
    }

    /// Whether, and how, the watchdog brought about the poll that has just begun.
    fn nudge(&self, may_come: bool) -> Nudge {
        let again = may_come && self.pulse.was_nudged();
        let before = self.once.swap(again, Ordering::Relaxed);
        match (self.nudged.swap(false, Ordering::Relaxed), again) {
            (true, _) => Nudge::Due,
            (false, true) if before => Nudge::Due,
            (false, true) => Nudge::Once,
            (false, false) => Nudge::None,
        }
    }

    fn times(&self) -> u32 {
        self.times.load(Ordering::Relaxed)
    }
}

impl Run<'_> {
    /// Runs user code. A panic is recorded, and gives no answer.
    fn guard<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(answer) => Some(answer),
            Err(payload) => {
                self.watcher.note_panic(&*payload);
                drop(panic_words(payload));
                None
            }
        }
    }

    /// Calls what was left until the turn is over.
    fn calls_later(&self) {
        for work in self.watcher.takes_later() {
            self.guard(|| work.run());
        }
    }

    pub(super) async fn go(&self, running: &mut dyn Running) -> Left {
        let after = (self.kind == Inject::Deadline).then_some(hour());
        let due = tokio_now() + hour();
        let (ctx, canceller) = Context::watched(MARK, self.asked_at, after);
        self.watcher.state.lock().canceller = Some(canceller);
        running.takes(ctx);
        let (mut body, told) = Polls::begin(self, running, due).await;
        let trail = self.watcher.trail.as_ref().filter(|_| body != Body::Ended);
        let waits = self.pulse.own_time(|| trail.map(|trail| trail.waits())).unwrap_or_default();
        if body == Body::Waits && self.would_be_woken().await {
            body = Body::GoesOn;
        }
        self.guard(|| running.end());
        let canceller = {
            let mut state = self.watcher.state.lock();
            state.body_ended = true;
            state.canceller.take()
        };
        self.guard(|| drop(canceller));
        if self.time_follows(due) {
            self.moves_time(due).await;
        }
        let until = told.unwrap_or_else(tokio_now) + self.stop_within;
        let tasks = self.settle(until).await;
        Left { body, tasks, timer: rt::keeps_time_here(), waits }
    }

    /// Whether the root has ended by its deadline, at `due`, and the clock is still behind
    /// (invariant 4).
    fn time_follows(&self, due: Instant) -> bool {
        let has_come = || self.watcher.state.lock().landed.is_some();
        self.kind == Inject::Deadline && has_come() && tokio_now() < due
    }

    /// Moves the clock to this time, if it is not there yet. `false`: the body has resumed it.
    async fn moves_time(&self, until: Instant) -> bool {
        let before = self.watcher.state.lock().panicked.clone();
        let mut advance = pin!(tokio::time::advance(until.saturating_duration_since(tokio_now())));
        let moved = std::future::poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| advance.as_mut().poll(cx))) {
                Ok(polled) => polled.map(|()| true),
                Err(_is_not_frozen) => Poll::Ready(false),
            }
        })
        .await;
        if !moved {
            // In place of tokio's own words.
            let resumed = Panic { message: RESUMED.to_string(), place: None };
            self.watcher.state.lock().panicked = before.or(Some(resumed));
        }
        moved
    }

    /// Whether the body, whose time is over, would be woken later: by a timer of its own, or by a
    /// task that goes on. It is not polled any more. If others have timers again and again, they go
    /// on, whatever they wake.
    async fn would_be_woken(&self) -> bool {
        const MANY: u32 = 1_000;
        self.watcher.state.lock().over = true;
        self.pulse.nudges(None);
        let until = self.rest.times().saturating_add(MANY);
        let mut for_ever = pin!(tokio_sleep(Duration::MAX));
        let mut begun = false;
        std::future::poll_fn(|cx| {
            self.pulse.beats(OTHERS);
            // A wake of the body wakes the future that has polled it: this thread's only one.
            self.rest.wakes(cx.waker(), until);
            match for_ever.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending if std::mem::replace(&mut begun, true) => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Gives the tasks that are left until `until`, and each of them as many turns as a schedule
    /// has steps: half of them at once. Returns how many are alive after that.
    async fn settle(&self, until: Instant) -> usize {
        self.pulse.nudges(None);
        let alive = || Handle::current().metrics().num_alive_tasks();
        // The task that keeps the time of contexts is none of the body's.
        let left_behind = || alive().saturating_sub(usize::from(rt::keeps_time_here()));
        let step = (self.stop_within / MOMENTS).max(LEAST_MOVE);
        // Tokio's timers ring at whole milliseconds: one due at `until` may ring at the next.
        let until = until + LEAST_MOVE;
        let mut turns = self.steps / 2;
        loop {
            for _ in 0..turns {
                if alive() == 0 {
                    return 0;
                }
                self.pulse.beats(OTHERS);
                tokio::task::yield_now().await;
            }
            let left = until.saturating_duration_since(tokio_now());
            if left.is_zero() {
                return left_behind();
            }
            // Invariant 1.
            if !self.moves_time(tokio_now() + left.min(step)).await {
                return left_behind();
            }
            turns = (self.steps / 2 / MOMENTS).max(1);
        }
    }
}

/// The polls of a body, to its end: how it came out, and when it was told to stop.
struct Polls<'a> {
    run: &'a Run<'a>,
    running: &'a mut dyn Running,
    /// When the deadline of the root is.
    due: Instant,
    /// Until when the body may go on.
    limit: Pin<Box<Sleep>>,
    told: Option<Instant>,
    /// How often it was polled, counted anew from when it was told; and how many rests there had
    /// been when that count began.
    polls: u32,
    rests: u32,
    /// Whether its time was over before. At that instant the body, and whatever else is ready, have
    /// their turns before the clock moves on; only after that does the body have its last.
    was_over: bool,
    /// The clock on its way to the deadline.
    jump: Option<Pin<Box<dyn Future<Output = bool> + 'a>>>,
}

impl Future for Polls<'_> {
    type Output = (Body, Option<Instant>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let body = ready!(self.poll_once(cx));
        Poll::Ready((body, self.told))
    }
}

impl<'a> Polls<'a> {
    fn begin(run: &'a Run<'a>, running: &'a mut dyn Running, due: Instant) -> Self {
        Polls {
            run,
            running,
            due,
            limit: Box::pin(tokio_sleep(LONG)),
            told: None,
            polls: 0,
            rests: 0,
            was_over: false,
            jump: None,
        }
    }

    fn poll_once(&mut self, cx: &mut Task<'_>) -> Poll<Body> {
        let Run { kind, watcher, pulse, rest, steps, .. } = *self.run;
        let may_come = kind.comes_by_itself() && self.told.is_none();
        let nudge = rest.nudge(may_come);
        // Invariant 3. The first of two nudges is no beat either, or the second would not come.
        let beats = nudge == Nudge::None || (nudge == Nudge::Due && may_come);
        if beats {
            pulse.beats(BODY);
        }
        pulse.nudges(may_come.then(|| cx.waker().clone()));
        self.run.calls_later();
        if !ready!(self.jumps(cx)) {
            return Poll::Ready(Body::Ended);
        }
        let busy = self.polls == steps;
        let cut = busy || rest.times() - self.rests >= steps;
        let late = self.is_over(may_come, cx) || cut;
        if busy && !may_come {
            return Poll::Ready(Body::Busy);
        }
        if may_come && (self.strikes(nudge, late, cut, cx) || self.run.time_follows(self.due)) {
            match kind {
                Inject::Cancel => watcher.ends_root(false),
                Inject::Drop => {
                    self.run.guard(|| self.running.end());
                    self.told = Some(tokio_now());
                    return Poll::Ready(Body::Ended);
                }
                Inject::Deadline => {
                    self.jump = Some(Box::pin(self.run.moves_time(self.due)));
                    if !ready!(self.jumps(cx)) {
                        return Poll::Ready(Body::Ended);
                    }
                }
                Inject::Panic | Inject::None => {}
            }
        }
        if may_come && watcher.state.lock().landed.is_some() {
            self.is_told(cx);
        }
        rest.wakes(cx.waker(), self.rests.saturating_add(steps));
        self.polls += 1;
        let is_last = late && !may_come;
        let polled = self.poll_body(is_last, cx);
        self.run.calls_later();
        if beats {
            pulse.beats(OTHERS);
        }
        if nudge != Nudge::None {
            watcher.state.lock().asked_for = false;
        }
        match polled {
            Some(Poll::Pending) if is_last => Poll::Ready(Body::Waits),
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(())) | None => Poll::Ready(Body::Ended),
        }
    }

    /// Waits for the clock, if that is on its way. `false`: the body has resumed it.
    fn jumps(&mut self, cx: &mut Task<'_>) -> Poll<bool> {
        let Some(jump) = &mut self.jump else { return Poll::Ready(true) };
        let moved = ready!(jump.as_mut().poll(cx));
        self.jump = None;
        Poll::Ready(moved)
    }

    /// Whether its time is over.
    fn is_over(&mut self, may_come: bool, cx: &mut Task<'_>) -> bool {
        let mut is_over = self.limit.as_mut().poll(cx).is_ready();
        if is_over && !may_come && !std::mem::replace(&mut self.was_over, true) {
            self.limit.as_mut().reset(tokio_now() + LEAST_MOVE);
            is_over = self.limit.as_mut().poll(cx).is_ready();
        }
        is_over
    }

    /// Passes a point: whether the injection comes here, or by itself.
    fn strikes(&self, nudge: Nudge, late: bool, cut: bool, cx: &mut Task<'_>) -> bool {
        let mut state = self.run.watcher.state.lock();
        state.driver = Some(cx.waker().clone());
        state.asked_for = nudge != Nudge::None;
        let strikes = !state.asked_for && state.point(Point::Poll);
        let by_itself = (late || nudge == Nudge::Due) && state.landed.is_none();
        if by_itself {
            state.landed = Some(Landed::ByItself);
            state.cut |= cut;
        }
        strikes || by_itself
    }

    /// The injection has come: from now on the body has its time to stop.
    fn is_told(&mut self, cx: &mut Task<'_>) {
        let now = tokio_now();
        self.told = Some(now);
        (self.polls, self.rests, self.was_over) = (0, self.run.rest.times(), false);
        self.limit.as_mut().reset(now + self.run.stop_within);
        if self.limit.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn poll_body(&mut self, is_last: bool, cx: &mut Task<'_>) -> Option<Poll<()>> {
        let trail = self.run.watcher.trail.as_ref();
        if let Some(trail) = trail {
            trail.stays(self.polls == self.run.steps || is_last);
        }
        self.run.guard(|| {
            let own = trail.map(|trail| {
                let (waker, trail) = (cx.waker().clone(), Arc::clone(trail));
                traced::waker(Arc::new(Tracer { waker, clone: 0, trail }))
            });
            self.running.poll(&mut Task::from_waker(own.as_ref().unwrap_or(cx.waker())))
        })
    }
}

fn hour() -> Duration {
    Duration::from_nanos(super::super::DEADLINE)
}

#[allow(clippy::disallowed_methods, reason = "the runtime is tokio's, whatever world this is in")]
fn tokio_sleep(time: Duration) -> Sleep {
    tokio::time::sleep(time)
}

#[allow(clippy::disallowed_methods, reason = "the runtime is tokio's, whatever world this is in")]
fn tokio_now() -> Instant {
    Instant::now()
}
