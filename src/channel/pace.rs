//! Whether one taker is better than many.
//!
//! Where items take next to no time, what several takers do most of that time is to
//! pass locks from thread to thread. So time is kept as an account: each item earns
//! [`ITEM`], and what it took is charged. A stage that has something left has, on the
//! whole, items that are not worth a second thread.
//!
//! # Invariants
//!
//! 1. The account is never above what [`FEW`] items earn, so an item that takes longer than
//!    that overdraws it; and never lower than [`DEBT`], which that many nanoseconds of items
//!    earn again.
//! 2. Real time is what counts: it is a thread that is being shared. A checker and a model
//!    share theirs by other rules, and must see the same steps each time: there the
//!    account stays as it is.

use crate::sync::planted;
use std::time::{Duration, Instant};

/// An item that takes longer is worth a thread of its own.
const ITEM: i64 = 250;

/// What several takers may take for it, who wait for each other at the locks.
const ITEM_TOGETHER: i64 = 750;

const FEW: i64 = 64;

/// How often somebody looks whether a taker that goes alone has got on: those behind an item
/// that takes long wait for twice as long at most. Looking ten times as often costs a
/// quarter of what going alone is good for.
#[cfg(not(loom))]
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// Two of them: so whatever others have waited for one item is earned again before anybody
/// goes alone, and what that costs is never more than what it saves.
const DEBT: i64 = 20_000_000;

/// What it costs at least to have gone alone where it did not pay: nobody is to go to and fro.
const MISTAKE: i64 = 200_000;

pub(super) struct Pace {
    nanos: i64,
}

impl Pace {
    pub(super) fn new() -> Self {
        let earned = FEW * ITEM;
        Pace { nanos: if planted::is_hurried() { earned } else { -earned } }
    }

    #[inline]
    pub(super) fn is_brisk(&self) -> bool {
        self.nanos >= 0
    }

    /// So many items took one taker so long, alone or not.
    fn charge(&mut self, items: usize, took: Duration, alone: bool) {
        let took = i64::try_from(took.as_nanos()).unwrap_or(i64::MAX);
        let each = if alone { ITEM } else { ITEM_TOGETHER };
        let earned = each.saturating_mul(i64::try_from(items).unwrap_or(i64::MAX));
        let balance = self.nanos.saturating_add(earned).saturating_sub(took);
        self.nanos = balance.clamp(-DEBT, FEW * ITEM);
        if alone && self.nanos < 0 {
            self.nanos = self.nanos.min(-MISTAKE);
        }
    }

    /// It was a mistake to go alone.
    #[cfg(not(loom))]
    pub(super) fn overdraw(&mut self) {
        self.nanos = -DEBT;
    }
}

/// What a taker has done since it last had nothing to do.
pub(super) struct Stint {
    began: Option<Instant>,
    items: usize,
}

impl Stint {
    pub(super) fn new() -> Self {
        Stint { began: None, items: 0 }
    }

    #[inline(always)]
    pub(super) fn take(&mut self) {
        if self.items == 0 {
            self.began = crate::rt::real_now();
        }
        self.items += 1;
    }

    pub(super) fn end(&mut self, pace: &mut Pace, alone: bool) {
        if let (Some(began), Some(now)) = (self.began.take(), crate::rt::real_now()) {
            pace.charge(self.items, now - began, alone);
        }
        self.items = 0;
    }

    /// It waits for an item of the user's: that time is nobody's.
    pub(super) fn forget(&mut self) {
        self.began = None;
        self.items = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The account after so many items that took so many microseconds, together.
    fn after(items: &[(usize, u64)]) -> Pace {
        let mut pace = Pace::new();
        for &(items, micros) in items {
            pace.charge(items, Duration::from_micros(micros), false);
        }
        pace
    }

    #[test]
    fn a_stage_is_brisk_when_its_items_have_been() {
        assert!(!after(&[]).is_brisk());
        assert!(!after(&[(10, 1)]).is_brisk(), "too few to tell");
        assert!(after(&[(100, 5)]).is_brisk());
        assert!(!after(&[(1_000_000, 800_000)]).is_brisk(), "800 ns each");
    }

    #[test]
    fn one_long_item_is_not_forgotten_for_a_few_short_ones() {
        let long = [(1_000_000, 50_000), (1, 900)];
        assert!(!after(&long).is_brisk());
        assert!(!after(&[&long[..], &[(1_000, 50)]].concat()).is_brisk());
        assert!(after(&[&long[..], &[(2_000, 100)]].concat()).is_brisk());
    }

    #[test]
    fn one_taker_is_not_enough_for_what_several_may_take_their_time_for() {
        let mut pace = after(&[(1_000, 500)]);
        assert!(pace.is_brisk());
        pace.charge(1_000, Duration::from_micros(500), true);
        assert!(!pace.is_brisk(), "500 ns each");
        pace.charge(500, Duration::from_micros(250), false);
        assert!(!pace.is_brisk(), "it would go to and fro");
    }

    #[test]
    fn however_long_an_item_took_it_is_forgiven_in_time() {
        let mut pace = Pace::new();
        pace.charge(1, Duration::MAX, false);
        assert!(!pace.is_brisk());
        pace.charge(usize::MAX, Duration::ZERO, true);
        assert!(pace.is_brisk());
    }
}
