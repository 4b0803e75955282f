//! A lock for a handful of instructions.
//!
//! Releasing it is a plain store; a mutex that threads may sleep on needs a second
//! read-modify-write to find out whether one does. For the roster, which every context that is made
//! or dropped goes through and where threads hardly ever meet, that halves the cost. Channels, the
//! counts of a stage, the list of an owner's tasks and the wakers that a turn keeps have one too.
//!
//! No user code runs under it. Few holders keep it longer: listings of the whole tree or of an
//! owner's late tasks, while they are written down; a receiver that fetches chunks, while it counts
//! their items; and, once, the last of a crowd to leave. A thread that finds it held yields.
//!
//! # Invariants
//!
//! 1. Only the thread that changed `held` from false to true, and has not changed it back, touches
//!    the value.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct BriefLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock passes the value from thread to thread (so `T: Send` is needed), to one at a
// time (so `T: Sync` is not).
unsafe impl<T: Send> Sync for BriefLock<T> {}

pub(crate) struct BriefGuard<'a, T>(&'a BriefLock<T>);

// SAFETY: sharing a guard shares the value. (The auto impl would ask only that the lock is `Sync`.)
unsafe impl<T: Sync> Sync for BriefGuard<'_, T> {}

impl<T> BriefLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        BriefLock { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> BriefGuard<'_, T> {
        // Acquire: partner of the Release in the guard's drop.
        let free = self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        if free.is_err() {
            self.wait();
        }
        BriefGuard(self)
    }

    /// Waits, with growing pauses: each attempt takes the cache line from the holder, which is
    /// about to write it.
    #[cold]
    fn wait(&self) {
        let mut pauses = 16;
        loop {
            (0..pauses).for_each(|_| std::hint::spin_loop());
            let free =
                self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            if free.is_ok() {
                return;
            }
            if pauses < 128 {
                pauses *= 2;
            } else {
                // The holder may have been preempted: let it run.
                std::thread::yield_now();
            }
        }
    }
}

impl<T> Deref for BriefGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: invariant 1: this guard's thread holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for BriefGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: invariant 1, and the guard is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for BriefGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: partner of the Acquire in `lock`.
        self.0.held.store(false, Ordering::Release);
    }
}
