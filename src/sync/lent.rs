//! A counted pointer that is borrowed, in one word.
//!
//! A `&Arc<T>` points at where the pointer is kept. This points at the value, so it
//! can be had from a place that keeps the pointer in another form.
//!
//! # Invariants
//!
//! 1. The pointer is that of an `Arc<T>` that is kept, uncounted by this, for `'a`.

use super::Arc;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

pub(crate) struct Lent<'a, T>(NonNull<T>, PhantomData<&'a Arc<T>>);

// SAFETY: it is a `&'a Arc<T>`, which may be sent where `Arc<T>` may be shared.
unsafe impl<T: Send + Sync> Send for Lent<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Lent<'_, T> {}

impl<'a, T> Lent<'a, T> {
    /// # Safety
    ///
    /// Invariant 1.
    pub(super) unsafe fn new(pointer: NonNull<T>) -> Self {
        Lent(pointer, PhantomData)
    }

    #[inline]
    pub(crate) fn get(self) -> &'a T {
        // SAFETY: invariant 1: the value lives for `'a`.
        unsafe { self.0.as_ref() }
    }

    /// The pointer itself.
    ///
    /// # Safety
    ///
    /// Nobody else keeps it, and no other copy of this is used afterwards.
    pub(super) unsafe fn assume_owned(self) -> Arc<T> {
        // SAFETY: invariant 1, and the caller's promise.
        unsafe { Arc::from_raw(self.0.as_ptr().cast_const()) }
    }

    /// One that is counted.
    #[inline]
    pub(crate) fn to_arc(self) -> Arc<T> {
        let pointer = self.0.as_ptr().cast_const();
        // SAFETY: by invariant 1 the pointer came from an `Arc<T>` that is alive, and the
        // one made here is counted by the first line.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

impl<'a, T> From<&'a Arc<T>> for Lent<'a, T> {
    #[inline]
    fn from(arc: &'a Arc<T>) -> Self {
        // Not by way of a `&T`: from such a pointer the count beside the value is out of reach.
        let pointer = Arc::as_ptr(arc).cast_mut();
        // SAFETY: the value of an `Arc` is never at null, and this one is kept for `'a`.
        unsafe { Lent::new(NonNull::new_unchecked(pointer)) }
    }
}

impl<T> Clone for Lent<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Lent<'_, T> {}

impl<T> Deref for Lent<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.get()
    }
}
