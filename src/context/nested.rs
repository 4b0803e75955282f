//! Ends inside ends: a function, or a waker, that ends a context whose function ends another.
//!
//! Each end inside another needs stack, so it is told there and then only while there are
//! few: below that what may take its time is left for later, and at twice the depth all is.
//!
//! # Invariants
//!
//! 1. `depth` counts the harvests that this thread is telling, one inside the other.
//! 2. Only inside of another is a harvest left for later. The outermost tells what was left
//!    before it returns, whatever panics: so there is never anything left at depth zero, and
//!    nothing to be dropped with the thread.
//! 3. What is left has not begun: whoever stops a function in it keeps it from running.
//! 4. Nobody's code runs while `left` is borrowed.

use super::harvest::Harvest;
use crate::rt::undisturbed;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

/// So many ends inside each other have all their functions run where they are.
const ALL_TOLD: u32 = 64;

/// From here on nobody is woken either.
const NONE_TOLD: u32 = 2 * ALL_TOLD;

struct Ends {
    depth: Cell<u32>,
    /// Not dropped with the thread, which would then have to be told of it, and forbid it
    /// in its last moments.
    left: RefCell<ManuallyDrop<Vec<Harvest>>>,
}

thread_local! {
    static ENDS: Ends = const {
        Ends { depth: Cell::new(0), left: RefCell::new(ManuallyDrop::new(Vec::new())) }
    };
}

/// Tells everybody in `harvest`, at once or before the outermost call of this on this thread
/// returns.
pub(super) fn tell(harvest: &mut Harvest) {
    let _inside = Inside::enter();
    match ENDS.with(|ends| ends.depth.get()) {
        depth if depth <= ALL_TOLD => harvest.tell(),
        depth if depth <= NONE_TOLD => leave(harvest.tell_those_who_wait()),
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
                    // Each who is told is guarded already. This is for what goes with the
                    // harvest: an alarm may hold the last of a scope, and an event that of a
                    // cause, whose drop is the user's.
                    undisturbed(move || harvest.tell());
                }
            }
            ends.depth.set(ends.depth.get() - 1);
        });
    }
}
