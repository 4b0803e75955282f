//! What a checker is told of a branch, and what it may do with one.
//!
//! Where there is no checker, in a build without it and in a model, a mark has no size, and to note
//! something does nothing.
//!
//! # Invariants
//!
//! 1. A mark is changed only while there is no other handle to its branch, so Relaxed is enough.

use super::Branch;
#[cfg(all(feature = "check", not(loom)))]
use crate::context::{cause::Cause, scope::Scope};
#[cfg(all(feature = "check", not(loom)))]
use crate::rt::Work;
#[cfg(all(feature = "check", not(loom)))]
use crate::rt::world::{self, Look, WaitId};
#[cfg(all(feature = "check", not(loom)))]
use crate::sync::Lent;
#[cfg(all(feature = "check", not(loom)))]
use crate::sync::atomic::{AtomicU16, Ordering};

/// The mark of the checker that watches a branch, or zero. Descendants inherit it.
pub(super) struct Mark {
    #[cfg(all(feature = "check", not(loom)))]
    number: AtomicU16,
}

impl Mark {
    /// The mark of a branch below `_parent`.
    #[inline(always)]
    pub(super) fn below(_parent: Option<&Branch<'_>>) -> Self {
        Mark {
            #[cfg(all(feature = "check", not(loom)))]
            number: _parent.map_or(0, Branch::mark).into(),
        }
    }
}

/// What is noted.
impl Branch<'_> {
    /// Notes that it has been made.
    #[inline(always)]
    pub(super) fn note_made(&self) {
        #[cfg(all(feature = "check", not(loom)))]
        if self.mark() != 0 {
            self.tell_made();
        }
    }

    /// Notes that it is gone.
    #[inline(always)]
    pub(super) fn note_gone(&self) {
        #[cfg(all(feature = "check", not(loom)))]
        if self.mark() != 0 {
            self.tell_gone();
        }
    }

    /// Notes that it has been asked. If a checker watches the context, this is where it may end,
    /// right after the answer; otherwise this does nothing.
    #[inline(always)]
    pub(in super::super) fn note_look(&self) {
        #[cfg(all(feature = "check", not(loom)))]
        if self.mark() != 0 {
            tell_checker(Look::Asked);
        }
    }

    /// Notes that it is being waited for or ended: no query, but the order matters to a checker.
    #[inline(always)]
    pub(in super::super) fn note_stir(&self) {
        #[cfg(all(feature = "check", not(loom)))]
        if self.mark() != 0 {
            tell_checker(Look::Stirred);
        }
    }

    /// Notes that a function was registered to run at its end.
    #[inline(always)]
    pub(in super::super) fn note_func(&self) {
        #[cfg(all(feature = "check", not(loom)))]
        if self.mark() != 0 {
            tell_checker(Look::AfterFunc);
        }
    }

    /// Notes that the task being polled waits for it by the waker with this key, and whether it
    /// armed the alarm for that.
    #[inline(always)]
    pub(in super::super) fn joined(&self, _key: usize, _arms: bool) {
        #[cfg(all(feature = "check", not(loom)))]
        if let Some((scope, wait)) = self.wait_in_a_world(_key) {
            scope.get().joined(wait, _arms);
        }
    }

    /// Notes that this wait is over.
    #[inline(always)]
    pub(in super::super) fn left(&self, _key: usize) {
        #[cfg(all(feature = "check", not(loom)))]
        if let Some((scope, wait)) = self.wait_in_a_world(_key) {
            scope.get().left(wait);
        }
    }

    /// Whether its deadline may end it before its clock gets there.
    pub(in super::super) fn may_end_ahead_of_time(&self) -> bool {
        #[cfg(all(feature = "check", not(loom)))]
        return self.mark() != 0;
        #[cfg(not(all(feature = "check", not(loom))))]
        false
    }
}

/// For the checker.
#[cfg(all(feature = "check", not(loom)))]
impl Branch<'_> {
    /// The mark of the checker that watches it, or zero.
    #[inline]
    pub(in super::super) fn mark(&self) -> u16 {
        self.mark.number.load(Ordering::Relaxed)
    }

    /// Has a checker watch a branch that is new, or as new, and everything that will be derived
    /// from it.
    pub(in super::super) fn mark_as(&self, mark: u16) {
        if self.mark() == 0 && mark != 0 {
            self.mark.number.store(mark, Ordering::Relaxed);
            self.tell_made();
        }
    }

    /// Has a branch that is as new watched no longer.
    pub(in super::super) fn unmark(&self) {
        self.tell_gone();
        self.mark.number.store(0, Ordering::Relaxed);
    }

    /// Whether nothing done to a branch shows, once its list has begun anew. The caller has the
    /// only handle. A branch with a deadline is never as new: its time is fixed.
    pub(in super::super) fn reset_if_pristine(&self) -> bool {
        let scope_is = match self.fate.scope() {
            Ok(scope) => scope.is_none_or(|scope| scope.reset_if_empty()),
            Err(_) => false,
        };
        scope_is && matches!(self.bound, super::Bound::None { .. })
    }

    /// [`cancel`](Branch::cancel), for a caller that will run the functions at its end later.
    pub(in super::super) fn cancel_and_leave_the_rest(&self, cause: Cause) -> Option<Work> {
        self.note_stir();
        let scope = self.open().ok()?;
        Scope::cancel(scope, cause)?.wake_and_leave_the_rest()
    }

    fn tell_made(&self) {
        world::tell(|onlooker| onlooker.made(self.mark(), self.made_at));
    }

    fn tell_gone(&self) {
        world::tell(|onlooker| onlooker.gone(self.mark(), self.made_at));
    }

    fn wait_in_a_world(&self, key: usize) -> Option<(Lent<'_, Scope>, WaitId)> {
        let bounding = self.bounding().filter(|_| world::is_here())?;
        let own = self.fate.scope().ok()??;
        Some((bounding, (std::ptr::from_ref(own.get()).addr(), key)))
    }
}

#[cfg(all(feature = "check", not(loom)))]
pub(in super::super) fn tell_checker(look: Look) {
    if world::looked(look) {
        world::inject();
    }
}
