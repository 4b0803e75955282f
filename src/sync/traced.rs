//! A waker that reports when it is cloned, and that tells its clones apart.
//!
//! A future that is going to wait keeps a clone of the waker it was polled with, so a stack trace
//! taken at the clone shows what waits. The standard library's wakers of an `Arc` do not report
//! their clones.
//!
//! # Invariants
//!
//! 1. The pointer in a waker made here is from `Arc::into_raw` of an `Arc<T>`, and the waker owns
//!    that count: `wake` or the drop gives it back, once.

use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// The target of such a waker.
pub(crate) trait Traced: Send + Sync + 'static {
    fn wake(&self);
    /// The target of a clone that the code running now is making.
    fn cloned(&self) -> Arc<Self>;
}

pub(crate) fn waker<T: Traced>(traced: Arc<T>) -> Waker {
    // SAFETY: the table's functions treat the pointer as what it is, an `Arc<T>` of which the waker
    // owns a count (invariant 1). `T` is `Send` and `Sync` (`Traced`), so any thread may use it.
    unsafe { Waker::from_raw(raw(traced)) }
}

fn raw<T: Traced>(traced: Arc<T>) -> RawWaker {
    let table = &RawWakerVTable::new(clone::<T>, wake::<T>, wake_by_ref::<T>, drop_one::<T>);
    RawWaker::new(Arc::into_raw(traced).cast(), table)
}

/// # Safety
///
/// Called by a `Waker` with its own pointer, for which invariant 1 holds.
unsafe fn clone<T: Traced>(pointer: *const ()) -> RawWaker {
    // SAFETY: the waker that is being cloned keeps the value alive during the call.
    raw(unsafe { &*pointer.cast::<T>() }.cloned())
}

/// # Safety
///
/// As for `clone`; the waker gives up its count with this call.
unsafe fn wake<T: Traced>(pointer: *const ()) {
    // SAFETY: the pointer is from `Arc::into_raw`, and its count now belongs to this call.
    unsafe { Arc::from_raw(pointer.cast::<T>()) }.wake();
}

/// # Safety
///
/// As for `clone`.
unsafe fn wake_by_ref<T: Traced>(pointer: *const ()) {
    // SAFETY: the waker keeps the value alive during the call.
    unsafe { &*pointer.cast::<T>() }.wake();
}

/// # Safety
///
/// As for `wake`.
unsafe fn drop_one<T: Traced>(pointer: *const ()) {
    // SAFETY: the pointer is from `Arc::into_raw`, and its count now belongs to this call.
    drop(unsafe { Arc::from_raw(pointer.cast::<T>()) });
}
