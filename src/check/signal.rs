//! The wakers of tasks, and what happens when one is used on another thread.
//!
//! # Invariants
//!
//! 1. The number of a waker says which schedule and which task it is of. A waker that outlives its
//!    schedule wakes no task.
//! 2. `FOREIGN_COUNT` is the number of wakes in `FOREIGN`: reading it tells that there are none.
//! 3. A wake of a schedule that is over is not kept beyond the next step of any schedule, or the
//!    end of any check.

use super::engine::{self, Engine};
use crate::rt::Stop;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::numbered::{self, Numbered};
use crate::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::time::Duration;

/// How many bits of a number are the task's; the rest are the schedule's. On 32 bits a schedule has
/// room for 65,536 tasks.
const TASK_BITS: u32 = if usize::BITS < 64 { 16 } else { 24 };
/// The most tasks of a schedule.
pub(super) const MOST_TASKS: usize = 1 << TASK_BITS;
/// After this many schedules of the process, their numbers begin anew.
const MOST_RUNS: usize = usize::MAX >> TASK_BITS;

/// How many schedules and engines this process has begun.
static NUMBERS: AtomicUsize = AtomicUsize::new(0);

/// Wakes from threads other than the schedule's; they may run schedules of their own.
struct Foreign {
    /// The schedule and the task of each.
    wakes: Vec<(usize, u32)>,
    /// The number of each schedule that is running.
    running: Vec<Arc<AtomicUsize>>,
}

static FOREIGN: Mutex<Foreign> = Mutex::new(Foreign { wakes: Vec::new(), running: Vec::new() });
static FOREIGN_COUNT: AtomicUsize = AtomicUsize::new(0);
static ARRIVED: Condvar = Condvar::new();

impl Foreign {
    fn is_running(&self, run: usize) -> bool {
        // Relaxed: a thread that was given a waker of this schedule sees it or a later one.
        self.running.iter().any(|running| running.load(Ordering::Relaxed) == run)
    }

    /// Forgets the wakes of schedules that are over, and counts the rest.
    fn tidy(&mut self) {
        let mut wakes = std::mem::take(&mut self.wakes);
        wakes.retain(|(run, _)| self.is_running(*run));
        self.wakes = wakes;
        // Relaxed: a thread that sees the count takes the lock.
        FOREIGN_COUNT.store(self.wakes.len(), Ordering::Relaxed);
    }
}

/// Which schedule an engine runs, where other threads see it.
pub(super) struct Running(Arc<AtomicUsize>);

impl Running {
    pub(super) fn none() -> Self {
        let running = Arc::new(AtomicUsize::new(0));
        FOREIGN.lock().running.push(Arc::clone(&running));
        Running(running)
    }

    /// Zero: none, from here on.
    #[inline]
    pub(super) fn set(&self, run: usize) {
        // Relaxed: see `is_running`.
        self.0.store(run, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut foreign = FOREIGN.lock();
        foreign.running.retain(|running| !Arc::ptr_eq(running, &self.0));
        foreign.tidy();
    }
}

/// The number of a new schedule or engine, never zero.
pub(super) fn new_number() -> usize {
    // Relaxed: only a number, and each is given once.
    NUMBERS.fetch_add(1, Ordering::Relaxed) % MOST_RUNS + 1
}

fn number(run: usize, task: u32) -> usize {
    run << TASK_BITS | task as usize
}

fn parts(number: usize) -> (usize, u32) {
    (number >> TASK_BITS, (number & (MOST_TASKS - 1)) as u32)
}

/// Wakes a task by its number.
struct Signal;

impl Numbered for Signal {
    fn wake(number: usize) {
        let (run, task) = parts(number);
        wake(run, task);
    }
}

/// A waker of this task of this schedule.
#[inline]
pub(super) fn waker(run: usize, task: u32) -> Waker {
    numbered::waker::<Signal>(number(run, task))
}

/// A handle that aborts this task.
pub(super) fn stop(run: usize, task: u32) -> Stop {
    let stop = |number| {
        let (run, task) = parts(number);
        let abort = |engine: &mut Engine| engine.of_run(run).map(|engine| engine.abort(task));
        if engine::with(abort).flatten().is_none() {
            wake(run, task);
        }
    };
    Stop { task: number(run, task), stop }
}

/// Wakes a task, from wherever this is called.
pub(super) fn wake(run: usize, task: u32) {
    let wake = |engine: &mut Engine| engine.of_run(run).map(|engine| engine.wake(task));
    if engine::with(wake).flatten().is_none() {
        let mut foreign = FOREIGN.lock();
        if foreign.is_running(run) {
            foreign.wakes.push((run, task));
            // Relaxed: as in `tidy`.
            FOREIGN_COUNT.store(foreign.wakes.len(), Ordering::Relaxed);
            ARRIVED.notify_all();
        }
    }
}

/// Gives other threads this long to wake a task of a schedule that hangs. A body that counts on
/// them hangs only because a checker is faster.
pub(super) fn wait_for_other_threads(run: usize, patience: Duration) {
    let foreign = FOREIGN.lock();
    let none = |foreign: &mut Foreign| !foreign.wakes.iter().any(|(of, _)| *of == run);
    let waited = ARRIVED.wait_timeout_while(foreign, patience, none);
    drop(waited);
}

/// Whether another thread has woken a task of any schedule.
#[inline]
pub(super) fn is_any_elsewhere() -> bool {
    // Relaxed: a wake that is missed now is seen at the next step.
    FOREIGN_COUNT.load(Ordering::Relaxed) > 0
}

/// The first task of this schedule that was woken on another thread since this was last called.
pub(super) fn from_other_threads(run: usize) -> Option<u32> {
    let mut foreign = FOREIGN.lock();
    let woken = foreign.wakes.iter().find(|(of, _)| *of == run).map(|(_, task)| *task);
    foreign.wakes.retain(|(of, _)| *of != run);
    foreign.tidy();
    woken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Checker, ViolationKind};
    use std::task::Poll;

    #[test]
    fn a_wake_that_comes_too_late_is_forgotten() {
        let kept = std::cell::RefCell::new(Vec::new());
        let wakes_all = || {
            let wakers = std::mem::take(&mut *kept.borrow_mut());
            let wakes = move || wakers.iter().for_each(Waker::wake_by_ref);
            std::thread::spawn(wakes).join().unwrap();
        };
        let keeps = |cx: &mut std::task::Context<'_>| {
            kept.borrow_mut().push(cx.waker().clone());
            Poll::Ready(())
        };
        Checker::random(1, 5)
            .run(|ctx| async move {
                let _ = ctx.is_done();
                std::future::poll_fn(keeps).await;
            })
            .assert_clean();
        wakes_all();
        assert!(FOREIGN.lock().wakes.is_empty());
        // One that comes just before the end is not seen, nor in the way of the next check.
        let report = Checker::random(1, 1).run(|ctx| async move {
            let _ = ctx.is_done();
            std::future::poll_fn(keeps).await;
            wakes_all();
        });
        assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic, "{report}");
        assert!(FOREIGN.lock().wakes.is_empty());
        assert!(!is_any_elsewhere());
    }
}
