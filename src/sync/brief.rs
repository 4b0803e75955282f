//! A lock for a handful of instructions.
//!
//! Letting go of it is a plain store, where a mutex that threads may sleep on
//! needs a second read-modify-write to find out whether one does. For the
//! roster, which every context that is made or dropped goes through, and where
//! threads hardly ever meet, that is half the cost. Channels have it too, the counts of
//! a stage, the list of an owner's tasks, and whom a turn keeps. Nothing that is the user's runs under it.
//! Few hold one for longer: a look at the whole tree, and at the tasks of an owner that are late,
//! both for a person, while they write down what there is; whoever fetches chunks, while it counts
//! what is in them; and once whoever is the last of a crowd to go. A thread that meets it yields.
//!
//! # Invariants
//!
//! 1. Only the thread that took `held` from false to true, and has not put it
//!    back, touches the value.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct BriefLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock passes the value from thread to thread (`T: Send`), to one at a
// time (so `T: Sync` is not needed).
unsafe impl<T: Send> Sync for BriefLock<T> {}

pub(crate) struct BriefGuard<'a, T>(&'a BriefLock<T>);

// SAFETY: to share a guard is to share the value. (By itself it would be as `Sync` as the lock.)
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

    /// Each look takes the line from the holder, who is about to write it: so it looks
    /// seldom, and ever more so.
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
                // The holder may have been put to sleep: let it run.
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
