//! Atomics for the models: loom's, with the schedules that loom leaves out.
//!
//! For each operation loom considers which earlier one it might have to precede, and remembers only
//! the latest operation on that atomic. So a thread that reads and then writes hides its write from
//! a thread that read before it: of "A reads, B reads, B writes" loom 0.7 never tries the order in
//! which B comes first (`tests/loom/loom_itself.rs` shows it). Code that looks before it swaps, as
//! all of quell's does, would be explored in one order and called correct.
//!
//! So every operation here first does a read-modify-write that changes nothing on a shadow of the
//! atomic. Two of these always depend on each other, so all orders are tried. As they are relaxed,
//! they make nothing visible that the operation itself would not.
//!
//! # Invariants
//!
//! 1. Every operation first does such a read-modify-write. The shadow's value is never used.

use super::atomic::Ordering;

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

            fn real(&self) -> &loom::sync::atomic::$name {
                self.shadow.fetch_add(0, Ordering::Relaxed);
                &self.real
            }

            pub(crate) fn load(&self, order: Ordering) -> $of {
                self.real().load(order)
            }

            pub(crate) fn store(&self, value: $of, order: Ordering) {
                self.real().store(value, order);
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $of,
                new: $of,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$of, $of> {
                self.real().compare_exchange(current, new, success, failure)
            }

            pub(crate) fn fetch_add(&self, value: $of, order: Ordering) -> $of {
                self.real().fetch_add(value, order)
            }

            pub(crate) fn fetch_sub(&self, value: $of, order: Ordering) -> $of {
                self.real().fetch_sub(value, order)
            }

            pub(crate) fn fetch_and(&self, value: $of, order: Ordering) -> $of {
                self.real().fetch_and(value, order)
            }

            pub(crate) fn fetch_or(&self, value: $of, order: Ordering) -> $of {
                self.real().fetch_or(value, order)
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

    fn real(&self) -> &loom::sync::atomic::AtomicPtr<T> {
        self.shadow.fetch_add(0, Ordering::Relaxed);
        &self.real
    }

    /// The final value; every access must have come before.
    pub(crate) fn taken(&mut self) -> *mut T {
        self.real.with_mut(|value| *value)
    }

    pub(crate) fn load(&self, order: Ordering) -> *mut T {
        self.real().load(order)
    }

    pub(crate) fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.real().compare_exchange(current, new, success, failure)
    }
}
