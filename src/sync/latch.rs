//! A cell that is written at most once and read without a lock.
//!
//! In production `std::sync::OnceLock` would do, but a model cannot look inside it, and almost
//! every query to a context goes through a latch.
//!
//! # Invariants
//!
//! 1. The state moves `EMPTY → BUSY → SET` and never back.
//! 2. Only the thread that moved `EMPTY → BUSY` writes the value, before it stores `SET`.
//! 3. The value is read only after `SET` was seen, and is never moved or changed until the latch
//!    is dropped.

use super::planted::{Break, skip};
use super::{Cell, atomic::AtomicU8, atomic::Ordering, thread};
use std::mem::MaybeUninit;

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const SET: u8 = 2;

pub(crate) struct Latch<T> {
    state: AtomicU8,
    value: Cell<MaybeUninit<T>>,
    /// In models, threads wait on this for `BUSY` to pass: if several spun, loom could schedule
    /// them in turns for ever, and the busy one never.
    #[cfg(loom)]
    turn: super::Mutex<()>,
}

// SAFETY: a latch hands out `&T` to every thread that shares it (so `T: Sync` is needed), and one
// thread may put the value in that another drops (so `T: Send` is needed).
unsafe impl<T: Send + Sync> Sync for Latch<T> {}
// SAFETY: owning a latch is owning its value.
unsafe impl<T: Send> Send for Latch<T> {}

impl<T> Latch<T> {
    pub(crate) fn new() -> Self {
        Latch {
            state: AtomicU8::new(EMPTY),
            value: Cell::new(MaybeUninit::uninit()),
            #[cfg(loom)]
            turn: super::Mutex::new(()),
        }
    }

    /// The value, if it has been set.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // Acquire: partner of the Release in `set`, so that the value is visible too.
        (self.state.load(Ordering::Acquire) == SET).then(|| self.read())
    }

    /// Sets the value, or gives it back if another was set before. Either way the latch is set when
    /// this returns.
    #[inline]
    pub(crate) fn set(&self, value: T) -> Result<&T, T> {
        #[cfg(loom)]
        let _turn = self.turn.lock();
        // Acquire on failure: `SET` may be seen here, and the caller reads the value next.
        match self.state.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                self.value.with_mut(|cell| {
                    // SAFETY: this thread moved `EMPTY → BUSY`, so by invariant 2 it is the only
                    // one to write; by invariant 3 no thread reads before the store below.
                    unsafe { (*cell).write(value) };
                });
                // Release: partner of every Acquire above.
                let order = if skip(Break::LatchAnnouncesUnordered) {
                    Ordering::Relaxed
                } else {
                    Ordering::Release
                };
                self.state.store(SET, order);
                Ok(self.read())
            }
            Err(_) => {
                // The winner is between two instructions, where no user code runs.
                while self.state.load(Ordering::Acquire) != SET {
                    thread::yield_now();
                }
                Err(value)
            }
        }
    }

    fn read(&self) -> &T {
        self.value.with(|cell| {
            // SAFETY: every caller has seen or stored `SET`, so by invariant 3 the value is there
            // and stays as it is while `self` is borrowed.
            unsafe { (*cell).assume_init_ref() }
        })
    }
}

impl<T> Drop for Latch<T> {
    fn drop(&mut self) {
        // Relaxed: `&mut self` proves that all other threads are done with the latch.
        if self.state.load(Ordering::Relaxed) == SET {
            self.value.with_mut(|cell| {
                // SAFETY: after `SET` the value is there (invariant 3), and `&mut self` proves that
                // no reference to it is left.
                unsafe { (*cell).assume_init_drop() };
            });
        }
    }
}
