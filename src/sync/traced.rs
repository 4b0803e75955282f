//! A waker that tells when it is cloned, and that knows its clones apart.
//!
//! Whoever is going to wait keeps a clone of the waker it was polled with: the
//! moment of the clone is the moment at which a stack trace shows who waits. The
//! standard library's wakers of an `Arc` clone without a word.
//!
//! # Invariants
//!
//! 1. The pointer in a waker made here is from `Arc::into_raw` of an `Arc<T>`, and
//!    the waker owns that count: it is given back by `wake` or by the drop, once.

use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// What stands behind such a waker.
pub(crate) trait Traced: Send + Sync + 'static {
    fn wake(&self);
    /// What is to stand behind a clone that is being made, by the code that is running now.
    fn cloned(&self) -> Arc<Self>;
}

pub(crate) fn waker<T: Traced>(traced: Arc<T>) -> Waker {
    // SAFETY: the table's functions take the pointer for what it is, an `Arc<T>` whose
    // count this waker owns (invariant 1); `T` may be used from any thread (`Traced`).
    unsafe { Waker::from_raw(raw(traced)) }
}

fn raw<T: Traced>(traced: Arc<T>) -> RawWaker {
    let table = &RawWakerVTable::new(clone::<T>, wake::<T>, wake_by_ref::<T>, drop_one::<T>);
    RawWaker::new(Arc::into_raw(traced).cast(), table)
}

/// # Safety
///
/// Called by a `Waker` with its own pointer, which invariant 1 is about.
unsafe fn clone<T: Traced>(pointer: *const ()) -> RawWaker {
    // SAFETY: the waker that is being cloned keeps the value alive meanwhile.
    raw(unsafe { &*pointer.cast::<T>() }.cloned())
}

/// # Safety
///
/// As for `clone`; the waker gives its count up with this call.
unsafe fn wake<T: Traced>(pointer: *const ()) {
    // SAFETY: from `Arc::into_raw`, with a count that is ours now.
    unsafe { Arc::from_raw(pointer.cast::<T>()) }.wake();
}

/// # Safety
///
/// As for `clone`.
unsafe fn wake_by_ref<T: Traced>(pointer: *const ()) {
    // SAFETY: the waker keeps the value alive meanwhile.
    unsafe { &*pointer.cast::<T>() }.wake();
}

/// # Safety
///
/// As for `wake`.
unsafe fn drop_one<T: Traced>(pointer: *const ()) {
    // SAFETY: from `Arc::into_raw`, with a count that is ours now.
    drop(unsafe { Arc::from_raw(pointer.cast::<T>()) });
}
