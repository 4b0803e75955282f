//! The primitives under all other rooms: `std` in production, `loom` in models.
//!
//! No other room names an atomic, a lock or a counted pointer directly, so a model sees every step
//! that two threads could disagree about. This is also the only room in which `unsafe` may be
//! written; each block carries its proof.

// | file | what it is |
// |---|---|
// | `latch` | a cell that is written once and read without a lock |
// | `tagged` | the same in one word, for one of three kinds of pointer |
// | `lent` | a borrowed counted pointer, in one word |
// | `lineage` | counted links to a parent, with free pointers to elder links (the roster of them in a file apart) |
// | `purse` | clones of one link, paid for in advance |
// | `brief` | a lock for a handful of instructions |
// | `guard` | a lock guard that keeps its owner alive |
// | `planted` | bugs for the models to catch |
// | `numbered` | a waker that is a number, for the checker |
// | `traced` | a waker that reports its clones, for the checker |
// | `watched` | loom's atomics, with the schedules that loom leaves out |

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the right door")]

#[cfg(not(loom))]
mod brief;
mod guard;
mod latch;
mod lent;
pub(crate) mod lineage;
#[cfg(all(feature = "check", not(loom)))]
pub(crate) mod numbered;
#[allow(unreachable_pub)]
pub mod planted;
#[cfg(not(loom))]
mod purse;
mod tagged;
#[cfg(all(feature = "check", not(loom)))]
pub(crate) mod traced;

#[cfg(not(loom))]
pub(crate) use brief::{BriefGuard, BriefLock};
pub(crate) use guard::{ArcGuard, lock_arc};
pub(crate) use latch::Latch;
pub(crate) use lent::Lent;
pub(crate) use lineage::{Family, Link, Ref};
#[cfg(not(loom))]
pub(crate) use purse::Purse;
pub(crate) use tagged::{Kept, Label, Tagged};

#[cfg(loom)]
mod watched;
#[cfg(loom)]
pub(crate) mod atomic {
    pub(crate) use super::watched::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};
    pub(crate) use std::sync::atomic::Ordering;
}
#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Condvar, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, Condvar, MutexGuard, atomic};

#[cfg(loom)]
pub(crate) use loom::thread::{self, ThreadId};
#[cfg(not(loom))]
pub(crate) use std::thread::{self, ThreadId};

use std::ops::Deref;
use std::sync::PoisonError;

/// A mutex without poisoning: no lock of quell's is held while user code runs, so a panic under a
/// lock would be a bug in quell, not a state to report.
#[derive(Debug)]
pub(crate) struct Mutex<T>(
    #[cfg(loom)] loom::sync::Mutex<T>,
    #[cfg(not(loom))] std::sync::Mutex<T>,
);

impl<T> Mutex<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: T) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    #[cfg(loom)]
    pub(crate) fn new(value: T) -> Self {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value on cache lines of its own, two because processors fetch them in pairs. Frequent writes
/// by one thread would otherwise slow down threads that only read what lies beside it.
#[repr(align(128))]
pub(crate) struct OwnLines<T>(pub(crate) T);

impl<T> Deref for OwnLines<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// In models every lock is one that loom sees.
#[cfg(loom)]
pub(crate) type BriefLock<T> = Mutex<T>;
#[cfg(loom)]
pub(crate) type BriefGuard<'a, T> = MutexGuard<'a, T>;

/// Waits on `condvar`, ignoring poison as [`Mutex::lock`] does.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// An `UnsafeCell`: loom's in models, so that accesses are checked; std's otherwise.
#[derive(Debug)]
pub(crate) struct Cell<T>(
    #[cfg(loom)] loom::cell::UnsafeCell<T>,
    #[cfg(not(loom))] std::cell::UnsafeCell<T>,
);

impl<T> Cell<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: T) -> Self {
        Cell(std::cell::UnsafeCell::new(value))
    }

    #[cfg(loom)]
    pub(crate) fn new(value: T) -> Self {
        Cell(loom::cell::UnsafeCell::new(value))
    }

    /// Reads through a shared pointer; in models, a racing write is reported.
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        #[cfg(loom)]
        return self.0.with(f);
        #[cfg(not(loom))]
        f(self.0.get())
    }

    /// Writes through an exclusive pointer; in models, any racing access is reported.
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(loom)]
        return self.0.with_mut(f);
        #[cfg(not(loom))]
        f(self.0.get())
    }
}
