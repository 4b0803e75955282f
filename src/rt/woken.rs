//! Whom a turn has woken, and when they come.
//!
//! What a task wakes last, tokio keeps for the thread of that task, however long it goes on.
//! So whoever has woken somebody, and goes on to what may take its time, leaves him to other
//! threads first: by a nudge, a task of nothing that takes his place.
//!
//! That takes as long as several quick items do, and has a thread come that is in the way of
//! this one. So a task that has long been brisk keeps whom it wakes until its turn is over,
//! which is soon. Should it not be, the timer thread wakes them.
//!
//! # Invariants
//!
//! 1. Who is kept is woken when a turn of the pipeline's ends that has kept somebody, however
//!    it ends; or, if none does, at the second look of the timer thread's. Nobody is kept where
//!    nobody looks.
//! 2. A task keeps others that has been brisk [`BRISK`] times in a row, or that the timer
//!    thread looks after anyway. Where one has hung nobody is kept for a while.
//! 3. Nobody is kept under a checker, nor where one thread runs all tasks. (Models have tasks
//!    of their own, see `by_thread`.)

use super::task::{Nudge, undisturbed, wake};
use super::{is_in_real_time, look_every, real_now};
use crate::sync::{Arc, BriefLock};
use std::cell::Cell;
use std::task::Waker;
use std::time::{Duration, Instant};

/// After so many steps of the user's code the clock is looked at.
const STEPS: u32 = 64;

/// What is brisk takes less for them, waits included.
const TIME: Duration = Duration::from_micros(100);

/// So often a task has to be brisk before it keeps anybody.
const BRISK: u32 = 16;

/// How often the timer thread looks.
const LOOK: Duration = Duration::from_millis(10);

/// So many are woken at once after somebody had to wait for two looks: to have kept these
/// would have saved about as much.
const UNKEPT: u32 = 20_000;

std::thread_local! {
    /// Whether somebody has been woken in this turn, who is this thread's until it is over.
    static WOKE: Cell<bool> = const { Cell::new(false) };
    /// Whether that matters: there are other threads.
    static MATTERS: Cell<bool> = const { Cell::new(true) };
    /// Whether the task whose turn it is keeps those whom it wakes.
    static KEEPS: Cell<bool> = const { Cell::new(false) };
    /// How many steps the user's code has made in this turn.
    static STEP: Cell<u32> = const { Cell::new(0) };
    /// That task, where there are other threads.
    static HERE: Cell<Option<Box<Here>>> = const { Cell::new(None) };
}

/// Whom the tasks of a pipeline keep.
#[derive(Clone)]
pub(crate) struct Woken(Arc<Shared>);

struct Shared {
    nudge: Nudge,
    kept: BriefLock<Kept>,
}

struct Kept {
    wakers: Vec<Waker>,
    /// Whether anybody has been kept since the last look.
    used: bool,
    /// Whether that look found somebody who is there still.
    seen: bool,
    /// Whether there will be another.
    looked_after: bool,
    /// How many more are to be woken at once.
    unkept: u32,
}

/// What a task knows of itself from turn to turn; nothing, where there is but one thread.
pub(crate) struct Hand(Cell<Option<Box<Here>>>);

struct Here {
    shared: Arc<Shared>,
    keeps: bool,
    /// Whether it has kept anybody in this turn.
    has_kept: bool,
    /// How often it has been brisk, and since when it may be so once more.
    brisk: u32,
    since: Option<Instant>,
}

impl Woken {
    /// For tasks of the runtime that is ambient here.
    pub(crate) fn here() -> Self {
        let kept =
            Kept { wakers: Vec::new(), used: false, seen: false, looked_after: false, unkept: 0 };
        Woken(Arc::new(Shared { nudge: Nudge::here(), kept: BriefLock::new(kept) }))
    }

    /// Whether the tasks are run by several threads.
    pub(crate) fn on_threads(&self) -> bool {
        self.0.nudge.is_needed()
    }

    pub(crate) fn hand(&self) -> Hand {
        let here = Here {
            shared: Arc::clone(&self.0),
            keeps: false,
            has_kept: false,
            brisk: 0,
            since: None,
        };
        Hand(Cell::new(self.on_threads().then(|| Box::new(here))))
    }
}

impl Hand {
    /// Runs a turn of the task.
    #[inline]
    pub(crate) fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        let _turn = HasTurn::begin(self);
        poll()
    }
}

/// Until it is dropped, a task has its turn on this thread.
struct HasTurn<'a> {
    hand: &'a Hand,
    before: Option<Box<Here>>,
    mattered: bool,
}

impl<'a> HasTurn<'a> {
    #[inline]
    fn begin(hand: &'a Hand) -> Self {
        let mine = hand.0.take();
        WOKE.set(false);
        let mattered = MATTERS.replace(mine.is_some());
        let mut before = None;
        if let Some(mine) = mine {
            KEEPS.set(mine.keeps);
            STEP.set(0);
            before = HERE.try_with(|here| here.replace(Some(mine))).ok().flatten();
        }
        HasTurn { hand, before, mattered }
    }
}

impl Drop for HasTurn<'_> {
    #[inline]
    fn drop(&mut self) {
        if !MATTERS.replace(self.mattered) {
            return;
        }
        let keeps = KEEPS.replace(false);
        let before = self.before.take();
        let mine = HERE.try_with(|here| here.replace(before)).ok().flatten();
        let Some(mut mine) = mine else { return };
        mine.keeps = keeps;
        if std::mem::take(&mut mine.has_kept) {
            mine.shared.send();
        }
        self.hand.0.set(Some(mine));
    }
}

/// Looks at the task whose turn it is. Nobody's code runs meanwhile.
fn here<R>(f: impl FnOnce(&mut Here) -> R) -> Option<R> {
    let at_the_end_of_a_thread = HERE.try_with(|here| {
        let mut task = here.take()?;
        let result = f(&mut task);
        here.set(Some(task));
        Some(result)
    });
    at_the_end_of_a_thread.ok().flatten()
}

impl Shared {
    /// Keeps it, or gives it back.
    fn keep(this: &Arc<Self>, waker: Waker) -> Option<Waker> {
        let mut kept = this.kept.lock();
        if kept.unkept > 0 {
            kept.unkept -= 1;
            return Some(waker);
        }
        if !std::mem::replace(&mut kept.looked_after, true) {
            drop(kept);
            let of = Arc::downgrade(this);
            let look = move || of.upgrade().is_some_and(|shared| shared.look());
            if look_every(LOOK, look).is_err() {
                let mut kept = this.kept.lock();
                (kept.looked_after, kept.unkept) = (false, UNKEPT);
                return Some(waker);
            }
            kept = this.kept.lock();
        }
        kept.used = true;
        kept.wakers.push(waker);
        None
    }

    /// Wakes all who are kept. The first of them comes next on this thread: he waits for what
    /// this turn has made first.
    fn send(&self) {
        let mut is_more = true;
        while is_more {
            let mut kept = self.kept.lock();
            kept.seen = false;
            let waker = kept.wakers.pop();
            is_more = !kept.wakers.is_empty();
            drop(kept);
            wake(waker);
        }
    }

    /// Invariant 1, on the timer thread. Whether it has to look again.
    fn look(&self) -> bool {
        let mut kept = self.kept.lock();
        let used = std::mem::take(&mut kept.used);
        if !kept.seen {
            kept.seen = !kept.wakers.is_empty();
            kept.looked_after = used || kept.seen;
            return kept.looked_after;
        }
        (kept.seen, kept.looked_after, kept.unkept) = (false, false, UNKEPT);
        let wakers = std::mem::take(&mut kept.wakers);
        drop(kept);
        wake(wakers);
        false
    }
}

/// Wakes those who come next: now, or when this turn is over.
#[inline]
pub(crate) fn wake_next(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        let now = if KEEPS.get() { keep(waker) } else { Some(waker) };
        if let Some(waker) = now {
            WOKE.set(true);
            undisturbed(|| waker.wake());
        }
    }
}

/// Keeps it, or gives it back.
#[inline(never)]
fn keep(waker: Waker) -> Option<Waker> {
    let mut waker = Some(waker);
    here(|here| {
        waker = waker.take().and_then(|waker| Shared::keep(&here.shared, waker));
        here.has_kept |= waker.is_none();
    });
    waker
}

/// Somebody has been spawned, who comes next.
pub(crate) fn spawned() {
    WOKE.set(true);
}

/// Whether somebody has been woken in this turn, or since whoever did so got on.
pub(crate) fn has_woken() -> bool {
    WOKE.get() && MATTERS.get()
}

/// What comes now may keep this thread: whoever has been woken should not have to wait for it.
#[inline]
pub(crate) fn gets_on() {
    if WOKE.replace(false) && MATTERS.get() {
        nudge();
    }
}

#[inline(never)]
fn nudge() {
    // Not in a turn: it may be in a task of the user's.
    if here(|here| here.shared.nudge.nudge()).is_none() {
        Nudge::here().nudge();
    }
}

/// The user's code [gets on](gets_on), by an end of a channel in its hands.
#[inline]
pub(crate) fn step() {
    if !MATTERS.get() {
        return;
    }
    gets_on();
    STEP.set(STEP.get() + 1);
    if STEP.get() == STEPS {
        steps();
    }
}

#[inline(never)]
fn steps() {
    STEP.set(0);
    let now = real_now();
    let before = here(|here| std::mem::replace(&mut here.since, now)).flatten();
    was_brisk(now.zip(before).is_some_and(|(now, before)| now - before < TIME));
}

/// Whether the latest steps of this task were brisk.
pub(crate) fn was_brisk(is_brisk: bool) {
    let brisk = here(|here| {
        here.brisk = if is_brisk { (here.brisk + 1).min(BRISK) } else { 0 };
        here.brisk
    });
    keeps(brisk == Some(BRISK));
}

/// Whether this task keeps those whom it wakes from now on.
pub(crate) fn keeps(keeps: bool) {
    let keeps = keeps && is_in_real_time();
    let kept = here(|here| {
        KEEPS.set(keeps);
        let sends = !keeps && std::mem::take(&mut here.has_kept);
        sends.then(|| Arc::clone(&here.shared))
    });
    if let Some(shared) = kept.flatten() {
        shared.send();
        WOKE.set(true);
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;
    use crate::rt::runtime::Builder;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::task::Wake;
    use std::time::Duration;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn on(threads: usize) -> (crate::rt::runtime::Runtime, Hand, Arc<Count>, Waker) {
        let runtime = match threads {
            1 => Builder::new_current_thread().build(),
            _ => Builder::new_multi_thread().worker_threads(threads).build(),
        };
        let runtime = runtime.expect("a runtime");
        let there = runtime.enter();
        let hand = Woken::here().hand();
        drop(there);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        (runtime, hand, count, waker)
    }

    fn wake(waker: &Waker) {
        wake_next([waker.clone()]);
    }

    #[test]
    fn who_is_kept_is_woken_when_the_turn_ends() {
        let (_runtime, hand, count, waker) = on(2);
        hand.turn(|| {
            keeps(true);
            wake(&waker);
            wake(&waker);
            assert_eq!((count.woken(), has_woken()), (0, false));
        });
        assert_eq!(count.woken(), 2);
        // From turn to turn.
        hand.turn(|| {
            wake(&waker);
            assert_eq!(count.woken(), 2);
        });
        assert_eq!(count.woken(), 3);
    }

    #[test]
    fn who_is_kept_is_woken_when_the_turn_ends_by_a_panic() {
        let (_runtime, hand, count, waker) = on(2);
        let panics = || {
            hand.turn(|| {
                keeps(true);
                wake(&waker);
                std::panic::resume_unwind(Box::new(()))
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(count.woken(), 1);
    }

    #[test]
    fn nobody_is_kept_outside_of_a_turn_nor_by_a_task_that_is_not_brisk_any_more() {
        let (_runtime, hand, count, waker) = on(2);
        hand.turn(|| {
            keeps(true);
            wake(&waker);
            keeps(false);
            assert_eq!((count.woken(), has_woken()), (1, true));
            gets_on();
            wake(&waker);
            assert_eq!((count.woken(), has_woken()), (2, true));
        });
        hand.turn(|| keeps(true));
        wake(&waker);
        assert_eq!(count.woken(), 3);
    }

    #[test]
    fn nobody_is_kept_and_nobody_nudged_where_there_is_one_thread() {
        let (_runtime, hand, count, waker) = on(1);
        hand.turn(|| {
            keeps(true);
            wake(&waker);
            assert_eq!((count.woken(), has_woken()), (1, false));
        });
    }

    #[test]
    fn whoever_is_kept_by_a_turn_that_hangs_is_woken_all_the_same_and_the_next_at_once() {
        let (_runtime, hand, count, waker) = on(2);
        let began = std::time::Instant::now();
        hand.turn(|| {
            keeps(true);
            wake(&waker);
            while count.woken() == 0 {
                assert!(began.elapsed() < Duration::from_secs(10), "it is not woken");
                crate::sync::thread::yield_now();
            }
            wake(&waker);
            assert_eq!(count.woken(), 2);
        });
    }

    #[test]
    fn nobody_looks_after_nobody() {
        let (_runtime, hand, count, waker) = on(2);
        let mine = hand.0.take().expect("there are two threads");
        let shared = Arc::clone(&mine.shared);
        hand.0.set(Some(mine));
        for _ in 0..2 {
            hand.turn(|| {
                keeps(true);
                wake(&waker);
            });
            assert!(shared.kept.lock().looked_after);
            let began = std::time::Instant::now();
            while shared.kept.lock().looked_after {
                assert!(began.elapsed() < Duration::from_secs(10), "it is looked at for ever");
                crate::sync::thread::yield_now();
            }
        }
        assert_eq!(count.woken(), 2);
    }

    #[test]
    fn a_task_keeps_others_that_has_been_brisk_for_a_while_and_not_once_it_was_slow() {
        let (_runtime, hand, count, waker) = on(2);
        let keeps_now = || {
            let before = count.woken();
            wake(&waker);
            count.woken() == before
        };
        let brisk = || (0..STEPS).for_each(|_| step());
        hand.turn(|| {
            // The first tells when the next began.
            (0..BRISK).for_each(|_| brisk());
            assert!(!keeps_now());
            let until = std::time::Instant::now() + Duration::from_secs(10);
            // The machine may be slow itself.
            while !keeps_now() {
                assert!(std::time::Instant::now() < until, "it is never brisk");
                brisk();
            }
            (1..STEPS).for_each(|_| step());
            std::thread::sleep(2 * TIME);
            step();
            assert!(!keeps_now());
        });
        // One that waits after a few steps each time has no long turn to shorten.
        hand.turn(|| (1..STEPS).for_each(|_| step()));
        hand.turn(|| {
            step();
            assert!(!keeps_now());
        });
    }
}
