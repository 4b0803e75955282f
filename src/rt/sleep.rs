//! Waiting for a time.
//!
//! Inside tokio these are tokio's timers, on its clock. Elsewhere they are alarms (see `clock`),
//! which need no runtime; likewise where the runtime turns out to have been built without timers,
//! or to have shut down. The only way to find out is to try: tokio panics, which is caught here,
//! once for each runtime without timers, and its message is still printed.
//!
//! # Invariants
//!
//! 1. One lock covers both replacing a sleeper's waker and asking whether the bell has rung: a bell
//!    that rings between two polls is not lost.

#![allow(clippy::disallowed_methods, reason = "the right door")]

use super::clock::{Alarm, Clock};
use super::probe::{self, Wait};
use crate::sync::{Arc, Mutex};
use pin_project_lite::pin_project;
use std::fmt;
use std::marker::PhantomPinned;
#[cfg(all(feature = "tokio", not(loom)))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Waits for `duration`. `Duration::MAX`, or any duration beyond the range of the clock, is for
/// ever.
///
/// The end is fixed when this is called, by [`now`](super::now). The runtime that first polls the
/// future keeps the time, and one of a single thread does so only while it is driven, as with
/// tokio's own timers. (The deadline of a context comes all the same.) If that runtime shuts down,
/// or has no timers, tokio panics; the panic is caught here, and quell's own timer waits for what is
/// left, by the clock that is ambient then.
///
/// # Cancel safety
///
/// A sleep that is dropped leaves nothing behind.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    Sleep::new(super::now().checked_add(duration), Location::caller())
}

/// Waits until the clock reads `at`; does not wait if that has passed.
///
/// In a task of tokio's that has used up its budget, other tasks go first, once, though the time has
/// come. So one that is polled only once, say by `now_or_never`, may be pending after `at`.
#[track_caller]
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep::new(Some(at), Location::caller())
}

pin_project! {
    /// The future of [`sleep`] and [`sleep_until`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Sleep {
        // `None`: for ever.
        at: Option<Instant>,
        made_at: &'static Location<'static>,
        #[pin]
        timer: Timer,
        // `!Unpin` with every set of features, because it is with some.
        #[pin]
        pinned: PhantomPinned,
    }
}

#[cfg(all(feature = "tokio", not(loom)))]
pin_project! {
    #[project = TimerProjected]
    enum Timer {
        // Not polled yet.
        New,
        // Its time had come, and it lets others run first.
        Behind,
        Tokio { #[pin] sleep: tokio::time::Sleep, clock: Clock },
        Alarm { bedside: Arc<Bedside>, alarm: Alarm },
    }
}

#[cfg(not(all(feature = "tokio", not(loom))))]
pin_project! {
    #[project = TimerProjected]
    enum Timer {
        New,
        Behind,
        Alarm { bedside: Arc<Bedside>, alarm: Alarm },
    }
}

// A panic elsewhere leaves what it holds of a runtime whole; and the traits are there with every
// set of features.
impl UnwindSafe for Sleep {}
impl RefUnwindSafe for Sleep {}

/// Where a bell finds the waker.
struct Bedside(Mutex<Sleeper>);

#[derive(Default)]
struct Sleeper {
    rung: bool,
    waker: Option<Waker>,
}

impl Sleep {
    pub(crate) fn new(at: Option<Instant>, made_at: &'static Location<'static>) -> Self {
        Sleep { at, made_at, timer: Timer::New, pinned: PhantomPinned }
    }

    /// When it ends; `None`: never.
    pub fn until(&self) -> Option<Instant> {
        self.at
    }

    fn start(at: Instant) -> Timer {
        #[cfg(all(feature = "tokio", not(loom)))]
        if let Some(clock) = Clock::ambient_of_tokio() {
            match catch_unwind(|| tokio::time::sleep_until(at.into())) {
                Ok(sleep) => return Timer::Tokio { sleep, clock },
                Err(_without_timers) => Clock::note_no_timers_here(),
            }
        }
        Sleep::start_alarm(at)
    }

    fn start_alarm(at: Instant) -> Timer {
        let bedside = Arc::new(Bedside(Mutex::new(Sleeper::default())));
        let bell = Arc::clone(&bedside);
        let alarm = Clock::ambient().arm(
            at,
            Box::new(move || {
                bell.ring();
                None
            }),
        );
        Timer::Alarm { bedside, alarm }
    }
}

impl Bedside {
    fn ring(&self) {
        let mut sleeper = self.0.lock();
        sleeper.rung = true;
        let waker = sleeper.waker.take();
        drop(sleeper);
        super::wake(waker);
    }

    fn poll(&self, waker: &Waker, alarm: &Alarm) -> Poll<()> {
        let waker = waker.clone();
        let mut sleeper = self.0.lock();
        if sleeper.rung {
            return Poll::Ready(());
        }
        // Several tasks may share it, by a waker that wakes them all.
        let shared = sleeper.waker.as_ref().is_some_and(|before| before.will_wake(&waker));
        let before = sleeper.waker.replace(waker);
        drop(sleeper);
        drop(before);
        alarm.awaited(!shared);
        Poll::Pending
    }
}

impl Sleep {
    /// `passes` is called if there is nothing to wait for.
    fn poll_or(self: Pin<&mut Self>, cx: &mut Context<'_>, passes: impl FnOnce(Wait)) -> Poll<()> {
        let mut this = self.project();
        let wait = Wait { what: "a time", at: this.made_at, of: 0 };
        let Some(at) = *this.at else {
            probe::waits_in_vain(|| wait);
            return Poll::Pending;
        };
        loop {
            let polled = match this.timer.as_mut().project() {
                TimerProjected::New if super::now() >= at => {
                    if is_out_of_budget(cx) {
                        this.timer.set(Timer::Behind);
                        super::turn::go_last(cx);
                        return Poll::Pending;
                    }
                    passes(wait);
                    return Poll::Ready(());
                }
                TimerProjected::Behind => return Poll::Ready(()),
                TimerProjected::New => {
                    this.timer.set(Sleep::start(at));
                    continue;
                }
                #[cfg(all(feature = "tokio", not(loom)))]
                TimerProjected::Tokio { sleep, clock } => {
                    match catch_unwind(AssertUnwindSafe(|| sleep.poll(cx))) {
                        Ok(polled) => polled,
                        Err(_shut_down) => {
                            // That clock may be far from the one that is ambient here, and may
                            // stand still for good.
                            let left = at.saturating_duration_since(clock.now());
                            let at = super::now().checked_add(left).unwrap_or(at);
                            this.timer.set(Sleep::start_alarm(at));
                            continue;
                        }
                    }
                }
                TimerProjected::Alarm { bedside, alarm } => bedside.poll(cx.waker(), alarm),
            };
            if polled.is_pending() {
                probe::waits(|| wait);
            }
            return polled;
        }
    }
}

/// Whether the task has used up the budget that tokio gives it for one poll. Otherwise a loop of
/// waits that are already over, such as ticks that are always late, would never let others run.
fn is_out_of_budget(_cx: &mut Context<'_>) -> bool {
    #[cfg(all(feature = "tokio", not(loom)))]
    {
        // A checker has tasks of its own, and counts such waits itself.
        #[cfg(feature = "check")]
        if super::world::is_here() {
            return false;
        }
        std::pin::pin!(tokio::task::consume_budget()).poll(_cx).is_pending()
    }
    #[cfg(not(all(feature = "tokio", not(loom))))]
    false
}

impl Sleep {
    /// Polls it though the task may have used up the budget that tokio gives it for one poll: a
    /// timer that is polled behind something that is always ready would otherwise never be.
    ///
    /// If its time has come when it is first polled, other tasks do go first, once. A task that asks
    /// again and again by a timeout of zero would otherwise hear for ever that nothing has come.
    pub(crate) fn poll_out_of_budget(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(all(feature = "tokio", not(loom)))]
        {
            if matches!(self.timer, Timer::New) && self.at.is_some_and(|at| super::now() >= at) {
                return self.poll(cx);
            }
            let poll = std::future::poll_fn(|cx| self.as_mut().poll(cx));
            std::pin::pin!(tokio::task::unconstrained(poll)).poll(cx)
        }
        #[cfg(not(all(feature = "tokio", not(loom))))]
        self.as_mut().poll(cx)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_or(cx, |wait| probe::passes(|| Some(wait)))
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("until", &self.at).finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`timeout`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: Sleep,
    }
}

/// Runs `future` for at most this long.
///
/// An output that the future has produced is never thrown away: the future is polled before the
/// time is looked at. Where the time has come before the first poll, other tasks may go first, once,
/// as for [`sleep_until`].
///
/// # Errors
///
/// [`Elapsed`], when the time is up.
///
/// # Cancel safety
///
/// That of `future`, which is dropped with it.
#[track_caller]
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration) }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => this.sleep.poll_out_of_budget(cx).map(|()| Err(Elapsed(()))),
        }
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").field("until", &self.sleep.at).finish_non_exhaustive()
    }
}

/// The time given to [`timeout`] is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is up")
    }
}

impl std::error::Error for Elapsed {}

/// For code that returns `io::Result`: the kind is `TimedOut`.
impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Returns an interval that ticks at once and then once every `period`, counted from the first
/// tick: lateness does not add up, and missed ticks follow at once.
///
/// # Panics
///
/// When `period` is zero.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    assert!(
        !period.is_zero(),
        "quell: `interval` of zero would tick for ever at once; pass a period above zero"
    );
    Interval { next: Some(super::now()), period }
}

/// Ticks at a fixed period: see [`interval`].
#[derive(Debug)]
pub struct Interval {
    /// `None`: beyond the clock.
    next: Option<Instant>,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick, and returns when it was due.
    ///
    /// # Cancel safety
    ///
    /// A tick dropped before it is ready has not been taken.
    #[track_caller]
    pub fn tick(&mut self) -> Tick<'_> {
        let sleep = Sleep::new(self.next, Location::caller());
        Tick { interval: self, sleep }
    }

    /// The time between two ticks.
    pub fn period(&self) -> Duration {
        self.period
    }
}

pin_project! {
    /// The future of [`Interval::tick`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Tick<'a> {
        interval: &'a mut Interval,
        #[pin]
        sleep: Sleep,
    }
}

impl Future for Tick<'_> {
    type Output = Instant;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Instant> {
        let this = self.project();
        let Some(due) = this.sleep.at else { return this.sleep.poll(cx).map(|()| unreachable!()) };
        // Missed ticks follow at once but come to an end. The first tick of an interval is always
        // on time, so a loop that makes a new one each time may never wait.
        let passes = |wait| probe::passes(|| (due == super::now()).then_some(wait));
        this.sleep.poll_or(cx, passes).map(|()| {
            this.interval.next = due.checked_add(this.interval.period);
            due
        })
    }
}
