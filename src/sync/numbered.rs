//! A waker that is a number, with nothing to count and nothing to free.
//!
//! A checker makes, clones, wakes and drops wakers by the million, all on one thread. The standard
//! library's are counted by atomics, which would be a good part of a schedule's cost.
//!
//! # Invariants
//!
//! 1. The pointer in a waker made here is a number and is never dereferenced.

use std::ptr::without_provenance;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// Knows by its number what to wake.
pub(crate) trait Numbered: 'static {
    /// Wakes it, on whatever thread calls this.
    fn wake(number: usize);
}

#[inline]
pub(crate) fn waker<T: Numbered>(number: usize) -> Waker {
    // SAFETY: the table's functions treat the pointer as the number that it is (invariant 1), which
    // may be copied, used on any thread and forgotten.
    unsafe { Waker::from_raw(raw::<T>(without_provenance(number))) }
}

#[inline]
fn raw<T: Numbered>(number: *const ()) -> RawWaker {
    let table = &RawWakerVTable::new(raw::<T>, wake::<T>, wake::<T>, forget);
    RawWaker::new(number, table)
}

fn wake<T: Numbered>(number: *const ()) {
    T::wake(number.addr());
}

fn forget(_number: *const ()) {}
