//! Looks at contexts, and what counts as one: where the injection may come within a turn, and how
//! long a turn may go on without letting others run.
//!
//! # Invariants
//!
//! 1. While a task is polled, and only then, looks that cannot be the point of an injection are
//!    counted by the thread (`world::only_count`). `settle_looks` takes them over before any other
//!    code runs. A schedule that is told does without, and comes to the same hash.

use super::{Engine, Inject, Look, NOBODY, Trouble, What, world};
use crate::rt::probe::Wait;
use std::panic::Location;

impl Engine {
    /// Notes a look at a watched context. True: the onlooker is to [`inject`](crate::rt::world::Onlooker::inject) here.
    pub(in super::super) fn look(&mut self, look: Look) -> bool {
        self.stirred = true;
        self.funcs |= look == Look::AfterFunc;
        // Before there is a body, the looks are the checker's own.
        if self.closing || self.trouble.is_some() || self.tasks.is_empty() {
            return false;
        }
        let by = self.current;
        if by == NOBODY {
            // In a function called by time or by an end: it is in no turn, so nothing is counted.
            self.looked = true;
            return self.kind.comes_at_a_look() && self.point();
        }
        self.take_looks();
        self.looks += 1;
        if self.looks_left == 0 {
            self.spins(None);
            return true;
        }
        self.looks_left -= 1;
        self.only_count();
        self.note(by, || What::Looked);
        self.kind.comes_at_a_look() && self.point()
    }

    /// Notes an await that did not have to wait: it counts as a look, but is no point. True: the
    /// turn has been long enough. `None`: a tick that was missed and is made up, of which there are
    /// only so many, each with looks of its own.
    pub(in super::super) fn passes(&mut self, wait: Option<Wait>) -> bool {
        if self.closing || self.current == NOBODY || self.trouble.is_some() {
            return false;
        }
        self.take_looks();
        let Some(wait) = wait else {
            self.looks_left = self.limits.steps;
            self.only_count();
            return false;
        };
        if self.looks_left == 0 {
            self.spins(Some(wait.at));
            return true;
        }
        self.looks_left -= 1;
        self.only_count();
        false
    }

    /// The current task lets no other run: the injection comes by itself, or
    /// [`inject`](crate::rt::world::Onlooker::inject) throws the task out of its loop.
    fn spins(&mut self, at: Option<&'static Location<'static>>) {
        if self.may_come_by_itself() && self.kind != Inject::Drop {
            self.cut = true;
        } else {
            self.trouble = Some(Trouble::Spins { task: self.current, at });
        }
    }

    /// Has the thread count the looks that the current task has left, where a count is all that is
    /// needed (invariant 1).
    #[inline(always)]
    pub(super) fn only_count(&self) {
        if self.current != NOBODY && self.log.is_none() && !self.may_come_at_a_look() {
            world::only_count(self.looks_left);
        }
    }

    /// Something went wrong in this turn. Looks from here on, while it is thrown away, are not
    /// counted.
    pub(in super::super) fn goes_wrong(&mut self, trouble: Trouble) {
        world::only_count(0);
        self.take_looks();
        self.trouble.get_or_insert(trouble);
    }

    /// Takes over the looks that were only counted.
    #[inline]
    pub(super) fn take_looks(&mut self) {
        let asked = world::take_asked();
        self.looks_left = self.looks_left.saturating_sub(asked);
        self.looks += asked;
    }

    /// Takes the looks of a turn that is over into the hash.
    #[inline]
    pub(in super::super) fn settle_looks(&mut self) {
        world::only_count(0);
        self.take_looks();
        if self.looks > 0 {
            self.looked = true;
            self.mix(u64::from(self.looks) << 8 | 6);
            self.looks = 0;
        }
    }
}
