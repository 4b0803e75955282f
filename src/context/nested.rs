//! Ends inside ends: a function, or a waker, that ends a context whose function ends another.
//!
//! Each nested end needs stack, so only a limited number are told on the spot. Deeper ones leave
//! all but wakers and quell's own functions for later; beyond twice the depth all is left.
//!
//! # Invariants
//!
//! 1. `depth` counts the harvests that this thread is telling, one inside the other.
//! 2. A harvest is left for later only inside another. The outermost tells what was left before it
//!    returns, whatever panics. So nothing is ever left at depth zero, nor dropped with the thread.
//! 3. What is left has not begun: stopping a function in it still keeps it from running.
//! 4. No user code runs while `left` is borrowed.

use super::harvest::Harvest;
use crate::rt::contain_panic;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

/// Up to this depth, everything is told on the spot.
const ALL_TOLD: u32 = 64;

/// Beyond this depth, nothing is told on the spot, not even wakers.
const NONE_TOLD: u32 = 2 * ALL_TOLD;

struct Ends {
    depth: Cell<u32>,
    /// Never dropped: a thread-local with a destructor must be registered, and cannot be used while
    /// the thread ends.
    left: RefCell<ManuallyDrop<Vec<Harvest>>>,
}

thread_local! {
    static ENDS: Ends = const {
        Ends { depth: Cell::new(0), left: RefCell::new(ManuallyDrop::new(Vec::new())) }
    };
}

/// Tells `harvest`, at once or before the outermost call of this on this thread returns.
pub(super) fn tell(harvest: &mut Harvest) {
    let _inside = Inside::enter();
    match ENDS.with(|ends| ends.depth.get()) {
        depth if depth <= ALL_TOLD => harvest.tell(),
        depth if depth <= NONE_TOLD => leave(harvest.wake_and_run_own()),
        _ => leave(std::mem::take(harvest)),
    }
}

fn leave(harvest: Harvest) {
    ENDS.with(|ends| ends.left.borrow_mut().push(harvest));
}

struct Inside;

impl Inside {
    fn enter() -> Self {
        ENDS.with(|ends| ends.depth.set(ends.depth.get() + 1));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        ENDS.with(|ends| {
            while ends.depth.get() == 1 {
                let left = std::mem::take(&mut **ends.left.borrow_mut());
                if left.is_empty() {
                    break;
                }
                for mut harvest in left {
                    // Each notification is guarded already. This guards the drop of the harvest:
                    // an alarm may hold the last handle of a scope, and an event that of a cause,
                    // whose drop is user code.
                    contain_panic(move || harvest.tell());
                }
            }
            ends.depth.set(ends.depth.get() - 1);
        });
    }
}
