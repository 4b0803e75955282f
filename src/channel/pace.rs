//! Whether one taker is better than many.
//!
//! Where items take next to no time, several takers spend most of their time passing locks from
//! thread to thread. So an account of time is kept: what going alone has saved, and what it has
//! cost, in that others could have begun the next item meanwhile.
//!
//! # Invariants
//!
//! 1. Brisk items earn, and earn more if one taker has taken them alone; all others are charged
//!    with the time by which they took too long. One taker is enough while the balance is not below
//!    zero.
//! 2. The balance is never above [`CREDIT`], so an item that takes longer overdraws it; and never
//!    below minus [`DEBT`].
//! 3. Workers share a thread, so thread time is what counts. (By a paused clock nothing takes any,
//!    and there is only one thread.) A checker and a model share their thread by other rules, and
//!    must see the same steps each time: there the account stays as it is.

use crate::sync::planted;
use std::time::{Duration, Instant};

/// Nanoseconds. An item that takes longer is worth a thread of its own.
const ITEM: i64 = 250;

/// How long it may take with several takers, which wait for each other at the locks.
const ITEM_TOGETHER: i64 = 750;

/// What a brisk item earns if it is taken alone: about as much as that saves.
const SAVED: i64 = 75;

/// What it earns otherwise. A debt is repaid so slowly that the wait that caused it is never more
/// than a sixth of the time that repaying it takes.
const REPAID: i64 = 25;

/// As long as a turn may take.
const CREDIT: i64 = 100_000;

/// What must be earned before a taker goes alone for the first time.
const FEW: i64 = 64 * REPAID;

/// What must be earned at least before a taker goes alone again after that did not pay: takers must
/// not go to and fro.
const SOME: i64 = 1_000 * REPAID;

/// A taker that goes alone and takes fewer items than this between two looks of the timer thread
/// has not got on: brisk ones are forty thousand.
#[cfg(not(loom))]
pub(super) const GETS_ON: usize = 512;

/// Two looks of the timer thread: the longest that others can have waited.
const DEBT: i64 = 20_000_000;

pub(super) struct Pace {
    nanos: i64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Pace { nanos: if planted::is_hurried() { CREDIT } else { -FEW } }
    }

    #[inline]
    pub(super) fn is_brisk(&self) -> bool {
        self.nanos >= 0
    }

    /// Accounts for items that took one taker so long, alone or not.
    fn charge(&mut self, items: usize, took: Duration, alone: bool) {
        let items = i64::try_from(items).unwrap_or(i64::MAX);
        let took = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        let (each, earned) = if alone { (ITEM, SAVED) } else { (ITEM_TOGETHER, REPAID) };
        let too_long = took.saturating_sub(each.saturating_mul(items));
        let change = if too_long > 0 { -too_long } else { earned.saturating_mul(items) };
        self.nanos = self.nanos.saturating_add(change).clamp(-DEBT, CREDIT);
        if alone && self.nanos < 0 {
            self.nanos = self.nanos.min(-SOME);
        }
    }

    /// Charges a taker that went alone, and had the others wait for as long as they can.
    #[cfg(not(loom))]
    pub(super) fn overdraw(&mut self) {
        self.nanos = -DEBT;
    }
}

/// The clock, read at most once for all that is reckoned in one look.
#[derive(Default)]
pub(super) struct ClockOnce(Option<Instant>);

impl ClockOnce {
    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(crate::rt::now)
    }

    /// `None` where time does not count: invariant 3.
    fn that_counts(&mut self) -> Option<Instant> {
        crate::rt::is_in_real_time().then(|| self.now())
    }
}

/// What a taker has done since its last reckoning.
pub(super) struct Stint {
    began: Option<Instant>,
    items: u32,
}

impl Stint {
    /// After how many items a taker that goes alone looks at the clock.
    const LONGEST: u32 = 64;

    pub(super) fn new() -> Self {
        Stint { began: None, items: 0 }
    }

    #[inline(always)]
    pub(super) fn take(&mut self, glance: &mut ClockOnce) {
        if self.items == 0 {
            self.begin(glance);
        }
        self.items += 1;
    }

    #[inline(never)]
    fn begin(&mut self, glance: &mut ClockOnce) {
        self.began = glance.that_counts();
    }

    #[inline(always)]
    pub(super) fn is_long(&self) -> bool {
        self.items >= Stint::LONGEST
    }

    /// Ends it and accounts for it.
    pub(super) fn end(&mut self, glance: &mut ClockOnce, pace: &mut Pace, alone: bool) {
        if let Some((began, now)) = self.began.take().zip(glance.that_counts()) {
            pace.charge(self.items as usize, now.saturating_duration_since(began), alone);
        }
        self.items = 0;
    }

    /// Ends it without accounting: part of it was a wait, in which others worked or could be
    /// called.
    pub(super) fn forget(&mut self) {
        self.began = None;
        self.items = 0;
    }
}

#[cfg(all(test, not(loom)))]
impl Pace {
    /// The pace of a stage whose items have taken no time.
    pub(super) fn brisk() -> Self {
        Pace { nanos: CREDIT }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TOGETHER: bool = false;
    const ALONE: bool = true;

    fn after(stints: &[(usize, u64, bool)]) -> Pace {
        let mut pace = Pace::new();
        for &(items, micros, alone) in stints {
            pace.charge(items, Duration::from_micros(micros), alone);
        }
        pace
    }

    #[test]
    fn a_stage_is_brisk_when_its_items_have_been() {
        assert!(!after(&[]).is_brisk());
        assert!(!after(&[(10, 1, TOGETHER)]).is_brisk(), "too few to tell");
        assert!(after(&[(100, 5, TOGETHER)]).is_brisk());
        assert!(!after(&[(1_000_000, 800_000, TOGETHER)]).is_brisk(), "800 ns each");
    }

    #[test]
    fn one_long_item_is_not_forgotten_for_as_many_short_ones_as_would_take_as_long() {
        let long = [(1_000_000, 50_000, ALONE), (1, 900, ALONE)];
        assert!(!after(&long).is_brisk());
        let then = |items| after(&[&long[..], &[(items, 0, TOGETHER)]].concat());
        assert!(!then(30_000).is_brisk());
        assert!(then(40_000).is_brisk());
    }

    #[test]
    fn one_taker_is_not_enough_for_what_several_may_take_their_time_for() {
        let together = [(1_000, 500, TOGETHER)];
        assert!(after(&together).is_brisk());
        let alone = [&together[..], &[(1_000, 500, ALONE)]].concat();
        assert!(!after(&alone).is_brisk(), "500 ns each");
        let again = [&alone[..], &[(1_000, 500, TOGETHER)]].concat();
        assert!(!after(&again).is_brisk(), "it would go to and fro");
    }

    #[test]
    fn who_went_alone_in_vain_does_not_soon_do_so_again_however_little_was_lost() {
        let little = [(1_000, 0, TOGETHER), (100, 49, ALONE)];
        assert!(!after(&little).is_brisk(), "490 ns each, which is more than was saved before");
        let then = |items| after(&[&little[..], &[(items, 0, TOGETHER)]].concat());
        assert!(!then(900).is_brisk());
        assert!(then(1_000).is_brisk());
    }

    #[test]
    fn however_long_an_item_took_it_is_forgiven_in_time() {
        let mut pace = Pace::new();
        pace.charge(1, Duration::MAX, TOGETHER);
        assert!(!pace.is_brisk());
        pace.charge(usize::MAX, Duration::ZERO, ALONE);
        assert!(pace.is_brisk());
    }
}
