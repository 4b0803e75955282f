//! Letting others go first, and leaving a choice to others.
//!
//! A task that wakes itself is ready at once, and tokio looks at its timers and sockets only when
//! no task is ready, or after 61 polls. So on a runtime of one thread a task lets those go first
//! too: tokio wakes what its own `yield_now` has put off after it has looked at them. That look is
//! a system call, which takes as long as some items do. A task that yields often does without it if
//! its thread has looked a moment ago.
//!
//! On several threads, a task that waits for its worker's look is out of reach of the other
//! workers, and an item may keep that worker busy. Besides, another worker usually looks.
//!
//! # Invariants
//!
//! 1. Within a process, every task that learns `TASKS_TABLE` stores the same value. Until it is
//!    known, each runtime is asked for it: one that is driven no more may never answer. None is
//!    asked again before another one has been.

#[cfg(not(loom))]
use super::clock::Clock;
use super::probe::{self, Wait};
#[cfg(all(feature = "tokio", not(loom)))]
use crate::sync::Mutex;
#[cfg(all(feature = "tokio", not(loom)))]
use crate::sync::atomic::{AtomicUsize, Ordering};
use std::panic::Location;
use std::pin::Pin;
#[cfg(all(feature = "tokio", not(loom)))]
use std::task::Waker;
use std::task::{Context, Poll};
#[cfg(not(loom))]
use std::time::Duration;

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct YieldNow {
    made_at: &'static Location<'static>,
    yielded: bool,
}

/// Lets every other ready task go first; in a task of a single-threaded runtime, ready timers and
/// sockets as well.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use quell::rt;
///
/// let other = rt::spawn(async { println!("first") });
/// rt::yield_now().await;
/// println!("second");
/// # other.await.unwrap();
/// # }
/// ```
#[track_caller]
pub fn yield_now() -> YieldNow {
    YieldNow { made_at: Location::caller(), yielded: false }
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        probe::waits(|| Wait { what: "its turn", at: self.made_at, of: 0 });
        go_last(cx);
        Poll::Pending
    }
}

/// Puts the task being polled behind all others that are ready, and, on a single thread, behind
/// timers and sockets.
pub(crate) fn go_last(cx: &mut Context<'_>) {
    #[cfg(all(feature = "tokio", not(loom)))]
    if is_on_one_thread() && is_of_a_task(cx.waker()) {
        // The deferred waker outlives this future. On a thread that is no tokio worker it is woken
        // at once.
        let polled = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        return debug_assert!(polled.is_pending());
    }
    // In any reasonable executor, waking the task being polled puts it behind all others.
    cx.waker().wake_by_ref();
}

/// [`go_last`] for tasks that do so often; `_now` is the time the caller last read. Goes behind
/// timers and sockets only if no task of this thread has done so for a while.
pub(crate) fn go_behind(cx: &mut Context<'_>, _now: Option<std::time::Instant>) {
    #[cfg(all(feature = "tokio", not(loom)))]
    {
        use std::cell::Cell;
        /// Timers have millisecond resolution.
        const LOOK: Duration = Duration::from_millis(1);
        thread_local! {
            static WENT_LAST: Cell<Option<std::time::Instant>> = const { Cell::new(None) };
        }
        if let Some(now) = _now {
            let before = WENT_LAST.try_with(Cell::get).ok().flatten();
            if before.is_some_and(|before| now.saturating_duration_since(before) < LOOK) {
                return cx.waker().wake_by_ref();
            }
            let _at_the_end_of_a_thread = WENT_LAST.try_with(|went| went.set(Some(now)));
        }
    }
    go_last(cx);
}

/// The address of the vtable that all wakers of tokio tasks share.
#[cfg(all(feature = "tokio", not(loom)))]
static TASKS_TABLE: AtomicUsize = AtomicUsize::new(UNKNOWN);
#[cfg(all(feature = "tokio", not(loom)))]
const UNKNOWN: usize = 0;
/// The runtime that was asked last.
#[cfg(all(feature = "tokio", not(loom)))]
static ASKED: Mutex<Option<tokio::runtime::Id>> = Mutex::new(None);

#[cfg(all(feature = "tokio", not(loom)))]
fn table_of(waker: &Waker) -> usize {
    std::ptr::from_ref(waker.vtable()).addr()
}

/// Learns that table, run as a tokio task.
#[cfg(all(feature = "tokio", not(loom)))]
pub(crate) fn learn_of_tasks() -> impl Future<Output = ()> + Send + 'static {
    std::future::poll_fn(|cx| {
        // Relaxed, here and below: a plain number, and all that learn it store the same.
        TASKS_TABLE.store(table_of(cx.waker()), Ordering::Relaxed);
        Poll::Ready(())
    })
}

/// Whether this waker wakes a tokio task directly. A task polled with another waker, as by another
/// library's `block_on`, may keep the thread to itself, and never return to where tokio wakes what
/// it has put off.
#[cfg(all(feature = "tokio", not(loom)))]
fn is_of_a_task(waker: &Waker) -> bool {
    let table = TASKS_TABLE.load(Ordering::Relaxed);
    // Outside of a task perhaps nothing drives the runtime, and the question is never answered.
    if table == UNKNOWN && tokio::task::try_id().is_some() {
        ask();
    }
    table == table_of(waker)
}

#[cfg(all(feature = "tokio", not(loom)))]
#[cold]
fn ask() {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let before = ASKED.lock().replace(runtime.id());
    if before != Some(runtime.id()) {
        drop(runtime.spawn(learn_of_tasks()));
    }
}

/// Whether tokio runs all tasks here on one thread.
#[cfg(all(feature = "tokio", not(loom)))]
fn is_on_one_thread() -> bool {
    #[cfg(feature = "check")]
    if super::world::is_here() {
        return false;
    }
    let runtime = tokio::runtime::Handle::try_current();
    runtime.is_ok_and(|runtime| runtime.metrics().num_workers() == 1)
}

/// Counts how long a task that never has to wait has gone on, until it must let others run.
#[derive(Debug)]
pub(crate) struct Turn {
    steps: u32,
    /// The step at which to look at the clock next: reading it may take as long as an item.
    look_at: u32,
    is_brisk: bool,
    #[cfg(not(loom))]
    began: std::time::Instant,
    /// When the clock was last read.
    #[cfg(not(loom))]
    seen: std::time::Instant,
}

impl Turn {
    pub(super) const STEPS: u32 = 64;
    #[cfg(not(loom))]
    pub(super) const TIME: Duration = Duration::from_micros(100);

    pub(crate) fn begin() -> Self {
        #[cfg(not(loom))]
        let now = Clock::system_now();
        Turn {
            steps: 0,
            look_at: 1,
            is_brisk: false,
            #[cfg(not(loom))]
            began: now,
            #[cfg(not(loom))]
            seen: now,
        }
    }

    /// Whether less time than a turn may take has passed since `_then`.
    pub(crate) fn is_short_since(_then: std::time::Instant) -> bool {
        #[cfg(not(loom))]
        return real_now().is_none_or(|now| now - _then < Self::TIME);
        #[cfg(loom)]
        true
    }

    /// Lets others run, and begins the next turn.
    #[track_caller]
    pub(crate) fn rest(self) -> Rest {
        Rest { turn: self, made_at: Location::caller(), rested: false }
    }

    fn next(&self) -> Self {
        let next = Turn::begin();
        // This turn's steps and the wait for others' turns together took less than one turn may. So
        // the next need not read the clock from its first step on.
        #[cfg(not(loom))]
        let is_brisk = next.began - self.began < Self::TIME;
        #[cfg(loom)]
        let is_brisk = false;
        Turn { look_at: if is_brisk { Self::STEPS / 2 } else { next.look_at }, is_brisk, ..next }
    }

    /// Whether the turn before made all its steps, and took no longer than a turn may, wait
    /// included.
    pub(crate) fn is_brisk(&self) -> bool {
        self.is_brisk
    }

    /// Counts a step. True: the turn is over.
    #[inline(always)]
    pub(crate) fn is_over(&mut self) -> bool {
        self.steps += 1;
        self.steps >= self.look_at && self.looks()
    }

    /// Reads the clock at steps 1, 4 and 16, and then every sixteen; half-way, if the turn before
    /// was brisk.
    #[inline(never)]
    fn looks(&mut self) -> bool {
        let next = self.steps.next_multiple_of(16) + 16;
        let next = if self.is_brisk { Self::STEPS } else { (self.steps * 4).min(next) };
        self.look_at = next.min(Self::STEPS);
        self.steps >= Self::STEPS || self.is_late()
    }

    /// Never under a checker, which shares its thread by other rules.
    fn is_late(&mut self) -> bool {
        #[cfg(loom)]
        return false;
        #[cfg(not(loom))]
        real_now().is_some_and(|now| {
            self.seen = now;
            now - self.began >= Self::TIME
        })
    }

    /// When the clock was last read, where that matters.
    fn seen(&self) -> Option<std::time::Instant> {
        #[cfg(loom)]
        return None;
        #[cfg(not(loom))]
        is_in_real_time().then_some(self.seen)
    }
}

/// The future of [`Turn::rest`].
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Rest {
    turn: Turn,
    made_at: &'static Location<'static>,
    rested: bool,
}

impl Future for Rest {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        if std::mem::replace(&mut self.rested, true) {
            return Poll::Ready(self.turn.next());
        }
        probe::waits(|| Wait { what: "its turn", at: self.made_at, of: 0 });
        go_behind(cx, self.turn.seen());
        Poll::Pending
    }
}

/// Whether thread time matters here. Not in a model nor under a checker, which must see the same
/// steps each time.
#[inline]
pub(crate) fn is_in_real_time() -> bool {
    #[cfg(all(feature = "check", not(loom)))]
    return !super::world::is_here() && !super::world::is_looked_on();
    #[cfg(not(all(feature = "check", not(loom))))]
    !cfg!(loom)
}

/// The real time, whatever clock the tasks go by; `None` where thread time does not matter.
#[inline]
pub(crate) fn real_now() -> Option<std::time::Instant> {
    #[cfg(loom)]
    return None;
    #[cfg(not(loom))]
    is_in_real_time().then(Clock::system_now)
}

/// Returns one of 0 to n - 1: at random or, under a checker, as its strategy says.
///
/// For whatever may go either way: which branch of a `select!` to look at first, which replica to
/// ask. An exhaustive search tries every choice. `Checker::tokio` has one schedule, and the same
/// choices in each of its runs, on the thread that checks.
///
/// # Panics
///
/// When `n` is zero.
#[track_caller]
pub fn choose(n: usize) -> usize {
    assert!(n > 0, "quell: `choose(0)` has nothing to choose from; pass 1 or more");
    if n == 1 {
        return 0;
    }
    #[cfg(all(feature = "check", not(loom)))]
    if let Some(chosen) = super::world::ask(|world| world.choose(n)) {
        return chosen;
    }
    #[cfg(loom)]
    return 0;
    #[cfg(not(loom))]
    at_random(n)
}

#[cfg(not(loom))]
std::thread_local! {
    /// From which the next choice of this thread is made.
    static SEED: std::cell::Cell<u64> = {
        use std::hash::{BuildHasher, RandomState};
        std::cell::Cell::new(RandomState::new().hash_one(0))
    };
}

/// While one of these lives, this thread makes the same choices as while any other did.
#[cfg(all(feature = "check", feature = "tokio", not(loom)))]
pub(crate) struct SameChoices(u64);

#[cfg(all(feature = "check", feature = "tokio", not(loom)))]
impl SameChoices {
    pub(crate) fn begin() -> Self {
        SameChoices(SEED.replace(0))
    }
}

#[cfg(all(feature = "check", feature = "tokio", not(loom)))]
impl Drop for SameChoices {
    fn drop(&mut self) {
        SEED.set(self.0);
    }
}

#[cfg(not(loom))]
fn at_random(n: usize) -> usize {
    // splitmix64: good enough to be fair, and no dependency.
    let seed = SEED.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    SEED.set(seed);
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) % n as u64) as usize
}
