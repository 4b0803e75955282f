//! A lock guard that keeps its owner alive.
//!
//! A sweep down the tree holds the locks of a whole path at once, in a `Vec`, and a guard that
//! borrows cannot be kept beside the owner that it borrows from.

use super::{Arc, Mutex, MutexGuard};
use std::ops::{Deref, DerefMut};

/// The lock of a mutex inside `owner`, and `owner` with it.
pub(crate) struct ArcGuard<O: 'static, T: 'static> {
    // Declared before `owner`, so unlocked before the owner can be dropped.
    guard: MutexGuard<'static, T>,
    owner: Arc<O>,
}

/// Locks the mutex that `part` finds in `owner`.
pub(crate) fn lock_arc<O, T>(owner: Arc<O>, part: fn(&O) -> &Mutex<T>) -> ArcGuard<O, T> {
    let guard = part(&owner).lock();
    // SAFETY: only the lifetime changes. `part` is a plain function that captures nothing, so the
    // mutex is inside `*owner` or is static. The `Arc` beside the guard keeps it alive, at the same
    // address, until the guard (the first field) has been dropped.
    let guard = unsafe { std::mem::transmute::<MutexGuard<'_, T>, MutexGuard<'static, T>>(guard) };
    ArcGuard { guard, owner }
}

impl<O, T> ArcGuard<O, T> {
    pub(crate) fn owner(&self) -> &Arc<O> {
        &self.owner
    }

    /// The owner, and the locked value.
    pub(crate) fn parts(&mut self) -> (&O, &mut T) {
        (&self.owner, &mut self.guard)
    }
}

impl<O, T> Deref for ArcGuard<O, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<O, T> DerefMut for ArcGuard<O, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
