//! The wakers of tasks, and what happens when one is used on another thread.
//!
//! # Invariants
//!
//! 1. A signal says which schedule and which task it is of. One that outlives its
//!    schedule wakes nobody: a signal is used again only where nobody else has it.
//! 2. `ELSEWHERE` counts the wakes in `ABROAD`: looking at the count is enough to know
//!    that there are none.

use super::engine;
use crate::rt::Abort;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Mutex, atomic};
use std::task::{Wake, Waker};
use std::time::Duration;

/// Wakes and aborts one task of one schedule.
#[derive(Debug)]
pub(super) struct Signal {
    run: atomic::AtomicU64,
    task: u32,
}

/// Wakes from threads that run no schedule.
static ABROAD: Mutex<Vec<(u64, u32)>> = Mutex::new(Vec::new());
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);
static ARRIVED: Condvar = Condvar::new();

impl Signal {
    pub(super) fn new(run: u64, task: u32) -> Self {
        Signal { run: atomic::AtomicU64::new(run), task }
    }

    fn run(&self) -> u64 {
        // Relaxed: set before anybody else has it.
        self.run.load(Ordering::Relaxed)
    }

    pub(super) fn send(&self) {
        wake(self.run(), self.task);
    }
}

/// Wakes a task, from wherever this is called.
pub(super) fn wake(run: u64, task: u32) {
    if engine::with(|engine| engine.wake(run, task)).is_none() {
        let mut abroad = ABROAD.lock();
        // Those of schedules that are over wait for nobody to come for them.
        if abroad.len() > 10_000 {
            abroad.clear();
        }
        abroad.push((run, task));
        // Relaxed: whoever sees the count takes the lock.
        ELSEWHERE.store(abroad.len(), Ordering::Relaxed);
        ARRIVED.notify_all();
    }
}

/// Gives other threads this long to wake a task of a schedule that hangs: a body that
/// counts on them hangs only because a checker is faster.
pub(super) fn wait_for_other_threads(run: u64, patience: Duration) {
    let abroad = ABROAD.lock();
    let none = |abroad: &mut Vec<(u64, u32)>| !abroad.iter().any(|(of, _)| *of == run);
    let waited = ARRIVED.wait_timeout_while(abroad, patience, none);
    drop(waited);
}

/// The tasks of this schedule that were woken on other threads.
pub(super) fn from_other_threads(run: u64) -> Vec<u32> {
    // Relaxed: what is missed now is seen at the next step.
    if ELSEWHERE.load(Ordering::Relaxed) == 0 {
        return Vec::new();
    }
    let mut abroad = ABROAD.lock();
    let woken = abroad.iter().filter(|(of, _)| *of == run).map(|(_, task)| *task).collect();
    abroad.retain(|(of, _)| *of != run);
    ELSEWHERE.store(abroad.len(), Ordering::Relaxed);
    woken
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.send();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.send();
    }
}

impl Abort for Signal {
    fn abort(&self) {
        engine::with(|engine| engine.abort(self.run(), self.task));
    }
}

/// Where a task's signal is kept from one schedule to the next.
pub(super) struct Seat {
    task: u32,
    signal: Arc<Signal>,
    /// `None` while the task is polled.
    pub(super) waker: Option<Waker>,
}

impl Seat {
    pub(super) fn new(task: u32) -> Self {
        let signal = Arc::new(Signal::new(0, task));
        Seat { task, waker: Some(Waker::from(Arc::clone(&signal))), signal }
    }

    /// For the task of this number in this schedule.
    pub(super) fn take(&mut self, run: u64) {
        // Invariant 1: the two are this seat's own.
        if Arc::strong_count(&self.signal) != 2 || self.waker.is_none() {
            *self = Seat::new(self.task);
        }
        self.signal.run.store(run, Ordering::Relaxed);
    }

    pub(super) fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.signal)
    }
}
