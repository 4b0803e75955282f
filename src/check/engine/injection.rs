//! Where and when the injection comes: at one of the points that a schedule passes, or by itself.

use super::{BODY, Engine, Inject, Landed, What};
use crate::check::DEADLINE;
use crate::check::strategy::{Deviation, Point, STRIKE};
use crate::rt::world;

impl Engine {
    /// Whether an injection is still to come. What the body has left behind may yet reach a fault
    /// point.
    #[inline]
    fn may_come(&self) -> bool {
        let is_late = self.body_ended && self.kind != Inject::Panic;
        self.landed.is_none() && !is_late && self.kind.is_any()
    }

    #[inline]
    pub(super) fn may_come_at_a_look(&self) -> bool {
        self.kind.comes_at_a_look() && self.may_come()
    }

    /// Passes a point, and says whether the injection comes here.
    #[inline]
    pub(in super::super) fn point(&mut self) -> bool {
        self.may_come() && self.comes()
    }

    /// Passes a point at which the injection may come.
    fn comes(&mut self) -> bool {
        if self.points >= self.limits.points {
            // A panic: anything that comes by itself would have come at the last point.
            self.cut = true;
            return false;
        }
        self.stirred |= world::take_stirred();
        let at = self.at;
        self.at += 1;
        let number = self.points;
        self.points += 1;
        // See docs/checker.md: a cancel commutes with what comes after it unless that stirs a
        // context, or the cancel itself sets something going: a function that runs at the end, a
        // task that waits for it.
        let distinct = self.kind != Inject::Cancel || self.stirred || self.funcs || self.waited;
        self.stirred = false;
        let point = Point { at, hash: self.short_hash(), number, distinct };
        if self.strategy.strikes(&point) {
            self.taken.push(Deviation { at, value: STRIKE });
            let (point, time) = (Some(number), self.clock.now());
            self.landed = Some(Landed { point, at_maximum: false, time });
            return true;
        }
        if self.points >= self.limits.points && self.kind.comes_by_itself() {
            self.cut = true;
            return true;
        }
        false
    }

    /// Records that the injection comes now.
    pub(in super::super) fn lands(&mut self) {
        let by_itself = Landed { point: None, at_maximum: self.cut, time: self.clock.now() };
        let mut landed = self.landed.unwrap_or(by_itself);
        if self.kind == Inject::Deadline {
            landed.time = landed.time.max(DEADLINE);
        }
        self.landed = Some(landed);
        // A panic is no order to stop: the remaining tasks go on.
        if self.kind != Inject::Panic {
            self.until = Some(landed.time.saturating_add(self.limits.stop_within));
        }
        self.tasks.iter_mut().for_each(|task| task.again = 0);
        let crowd = self.tasks.len().clamp(500, 100_000) as u32 - 500;
        self.steps_left = self.limits.steps.saturating_add(20 * crowd);
        self.take_looks();
        self.looks_left = self.limits.steps;
        self.only_count();
        self.mix(5);
        let (task, kind, point) = (self.current, self.kind, landed.point);
        if let Some(struck) = self.tasks.get_mut(task as usize) {
            // In the middle of its turn, after this many looks.
            struck.sees(u64::from(self.looks) << 8 | 5);
        }
        self.note(task, || What::Injected { kind, point });
    }

    /// Whether the injection that has come drops the body's future. If so, that is the body's turn.
    pub(in super::super) fn drops_body(&mut self) -> bool {
        let drops = self.kind == Inject::Drop;
        if drops {
            self.current = BODY;
            self.beats(BODY);
        }
        drops
    }

    #[inline]
    pub(super) fn may_come_by_itself(&self) -> bool {
        self.kind.comes_by_itself() && self.landed.is_none() && !self.body_ended
    }

    /// Whether the next move of time comes to the deadline of the root.
    #[inline]
    pub(super) fn jumps_next(&self) -> bool {
        self.kind == Inject::Deadline
            && self.landed.is_none()
            && !self.body_ended
            && self.clock.next().is_some_and(|due| due >= DEADLINE)
    }
}
