//! The wakers of tasks, and what happens when one is used on another thread.
//!
//! # Invariants
//!
//! 1. The number of a waker says which schedule and which task it is of. A waker that outlives its
//!    schedule wakes no task.
//! 2. `FOREIGN_COUNT` is the number of wakes in `FOREIGN_WAKES`: reading it tells that there are
//!    none.

use super::engine::{self, Engine};
use crate::rt::Stop;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::numbered::{self, Numbered};
use crate::sync::{Condvar, Mutex};
use std::task::Waker;
use std::time::Duration;

/// How many bits of a number are the task's. The rest are the schedule's.
const TASK_BITS: u32 = usize::BITS * 3 / 8;
/// The most tasks of a schedule.
pub(super) const MOST_TASKS: usize = 1 << TASK_BITS;
/// After this many schedules of the process, their numbers begin anew.
const MOST_RUNS: usize = usize::MAX >> TASK_BITS;

/// How many schedules this process has begun.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// Wakes from threads that run no schedule.
static FOREIGN_WAKES: Mutex<Vec<(usize, u32)>> = Mutex::new(Vec::new());
static FOREIGN_COUNT: AtomicUsize = AtomicUsize::new(0);
static ARRIVED: Condvar = Condvar::new();

/// The number of a new schedule, never zero.
pub(super) fn new_run() -> usize {
    // Relaxed: only a number, and each is given once.
    RUNS.fetch_add(1, Ordering::Relaxed) % MOST_RUNS + 1
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
        if engine::with(abort).is_none() {
            wake(run, task);
        }
    };
    Stop { task: number(run, task), stop }
}

/// Wakes a task, from wherever this is called.
pub(super) fn wake(run: usize, task: u32) {
    let wake = |engine: &mut Engine| engine.of_run(run).map(|engine| engine.wake(task));
    if engine::with(wake).is_none() {
        let mut abroad = FOREIGN_WAKES.lock();
        // Wakes for schedules that are over are never collected.
        if abroad.len() > 10_000 {
            abroad.clear();
        }
        abroad.push((run, task));
        // Relaxed: a thread that sees the count takes the lock.
        FOREIGN_COUNT.store(abroad.len(), Ordering::Relaxed);
        ARRIVED.notify_all();
    }
}

/// Gives other threads this long to wake a task of a schedule that hangs. A body that counts on
/// them hangs only because a checker is faster.
pub(super) fn wait_for_other_threads(run: usize, patience: Duration) {
    let abroad = FOREIGN_WAKES.lock();
    let none = |abroad: &mut Vec<(usize, u32)>| !abroad.iter().any(|(of, _)| *of == run);
    let waited = ARRIVED.wait_timeout_while(abroad, patience, none);
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
    let mut abroad = FOREIGN_WAKES.lock();
    let woken = abroad.iter().find(|(of, _)| *of == run).map(|(_, task)| *task);
    abroad.retain(|(of, _)| *of != run);
    FOREIGN_COUNT.store(abroad.len(), Ordering::Relaxed);
    woken
}
