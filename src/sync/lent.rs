//! A borrowed counted pointer, in one word.
//!
//! A `&Arc<T>` points at the `Arc`. A `Lent` points at the value, so it can also be made from a
//! place that keeps the `Arc` in another form.
//!
//! # Invariants
//!
//! 1. The pointer is that of an `Arc<T>` that is kept for `'a`; the `Lent` itself is not counted.

use super::Arc;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

pub(crate) struct Lent<'a, T>(NonNull<T>, PhantomData<&'a Arc<T>>);

// SAFETY: it stands for a `&'a Arc<T>`, which is `Send` if `Arc<T>` is `Sync`.
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
        // SAFETY: by invariant 1 the value lives for `'a`.
        unsafe { self.0.as_ref() }
    }

    /// Takes over the `Arc` itself.
    ///
    /// # Safety
    ///
    /// The `Arc` is not kept anywhere else, and no other copy of this `Lent` is used afterwards.
    pub(super) unsafe fn assume_owned(self) -> Arc<T> {
        // SAFETY: invariant 1, and the caller's promise that this takes the count over once.
        unsafe { Arc::from_raw(self.0.as_ptr().cast_const()) }
    }

    /// A counted pointer to the same value.
    #[inline]
    pub(crate) fn to_arc(self) -> Arc<T> {
        let pointer = self.0.as_ptr().cast_const();
        // SAFETY: by invariant 1 the pointer is that of an `Arc<T>` that is alive, and the first
        // line counts the one made here.
        unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        }
    }
}

impl<'a, T> From<&'a Arc<T>> for Lent<'a, T> {
    #[inline]
    fn from(arc: &'a Arc<T>) -> Self {
        // Not by way of a `&T`: its provenance does not cover the count beside the value.
        let pointer = Arc::as_ptr(arc).cast_mut();
        // SAFETY: the value of an `Arc` is never at null, and `arc` is borrowed for `'a`.
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
