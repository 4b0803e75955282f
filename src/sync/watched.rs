//! Atomics for the models: loom's, with the schedules that loom leaves out.
//!
//! For each operation loom asks which earlier one it might have to come before,
//! and remembers only the latest on that atomic. A thread that reads and then
//! writes thereby hides its write from a thread that read before it: of "A
//! reads, B reads, B writes" loom 0.7 never tries the order in which B comes
//! first (`tests/loom/loom_itself.rs` shows it). Code that looks before it swaps, as
//! all of quell's does, would be explored in one order and called correct.
//!
//! So every operation here also adds nothing to a shadow of the atomic. Two
//! additions always depend on each other, so all orders are tried; and as they are
//! relaxed they make nothing visible that the operation itself would not.
//!
//! # Invariants
//!
//! 1. Every operation adds to the shadow right after, and nothing reads that.
//! 2. Nobody comes between an operation and its addition: it would make no difference,
//!    and twice as many steps are many times as many schedules. Where another thread is
//!    to go first, loom has it go before the last step that it may come before: the
//!    operation itself.

use super::atomic::Ordering;

/// Invariant 2.
fn add_nothing(shadow: &loom::sync::atomic::AtomicU8) {
    loom::stop_exploring();
    shadow.fetch_add(0, Ordering::Relaxed);
    loom::explore();
}

macro_rules! watched {
    ($($name:ident($of:ty);)*) => {$(
        #[derive(Debug)]
        pub(crate) struct $name {
            shadow: loom::sync::atomic::AtomicU8,
            real: loom::sync::atomic::$name,
        }

        #[allow(dead_code)] // each type has the whole set
        impl $name {
            pub(crate) fn new(value: $of) -> Self {
                Self {
                    shadow: loom::sync::atomic::AtomicU8::new(0),
                    real: loom::sync::atomic::$name::new(value),
                }
            }

            fn once<R>(&self, op: impl FnOnce(&loom::sync::atomic::$name) -> R) -> R {
                let result = op(&self.real);
                add_nothing(&self.shadow);
                result
            }

            pub(crate) fn load(&self, order: Ordering) -> $of {
                self.once(|real| real.load(order))
            }

            pub(crate) fn store(&self, value: $of, order: Ordering) {
                self.once(|real| real.store(value, order));
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $of,
                new: $of,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$of, $of> {
                self.once(|real| real.compare_exchange(current, new, success, failure))
            }

            pub(crate) fn fetch_add(&self, value: $of, order: Ordering) -> $of {
                self.once(|real| real.fetch_add(value, order))
            }

            pub(crate) fn fetch_sub(&self, value: $of, order: Ordering) -> $of {
                self.once(|real| real.fetch_sub(value, order))
            }

            pub(crate) fn fetch_and(&self, value: $of, order: Ordering) -> $of {
                self.once(|real| real.fetch_and(value, order))
            }

            pub(crate) fn fetch_or(&self, value: $of, order: Ordering) -> $of {
                self.once(|real| real.fetch_or(value, order))
            }
        }
    )*};
}

watched! {
    AtomicU8(u8);
    AtomicU32(u32);
    AtomicUsize(usize);
}

#[derive(Debug)]
pub(crate) struct AtomicPtr<T> {
    shadow: loom::sync::atomic::AtomicU8,
    real: loom::sync::atomic::AtomicPtr<T>,
}

impl<T> AtomicPtr<T> {
    pub(crate) fn new(value: *mut T) -> Self {
        Self {
            shadow: loom::sync::atomic::AtomicU8::new(0),
            real: loom::sync::atomic::AtomicPtr::new(value),
        }
    }

    fn once<R>(&self, op: impl FnOnce(&loom::sync::atomic::AtomicPtr<T>) -> R) -> R {
        let result = op(&self.real);
        add_nothing(&self.shadow);
        result
    }

    /// What it ends with; every access must have come before.
    pub(crate) fn taken(&mut self) -> *mut T {
        self.real.with_mut(|value| *value)
    }

    pub(crate) fn load(&self, order: Ordering) -> *mut T {
        self.once(|real| real.load(order))
    }

    pub(crate) fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.once(|real| real.compare_exchange(current, new, success, failure))
    }
}
