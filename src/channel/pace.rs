//! Whether one taker is better than many.
//!
//! Where items take next to no time, what several takers do most of that time is to
//! pass locks from thread to thread. So time is kept as an account, of what going alone
//! has saved and what it has cost: those who could have begun the next item meanwhile.
//!
//! # Invariants
//!
//! 1. Items that are brisk earn, and more where one has taken them alone; all others are
//!    charged with the time that they took too long. One taker is enough while there is
//!    something left.
//! 2. There is never more left than [`CREDIT`], so an item that takes longer overdraws it;
//!    and never less than [`DEBT`].
//! 3. It is a thread that is being shared, so what counts is its time. (By a paused clock
//!    nothing takes any, and there is but one thread.) A checker and a model share theirs by
//!    other rules, and must see the same steps each time: there the account stays as it is.

use crate::sync::planted;
use std::time::{Duration, Instant};

/// An item that takes longer is worth a thread of its own.
const ITEM: i64 = 250;

/// What several takers may take for it, who wait for each other at the locks.
const ITEM_TOGETHER: i64 = 750;

/// What an item earns that is taken alone: about as much as it saves.
const SAVED: i64 = 75;

/// What it earns if not: so that, of a debt that is repaid like this, nobody ever notices
/// more than a sixth.
const REPAID: i64 = 25;

/// As long as a turn may be.
const CREDIT: i64 = 100_000;

/// What is earned before anybody goes alone for the first time.
const FEW: i64 = 64 * REPAID;

/// What is earned at least before anybody does so again after it did not pay: nobody is to go
/// to and fro.
const SOME: i64 = 1_000 * REPAID;

/// Whoever has taken fewer items from one look of the timer thread's to the next has not got on:
/// brisk ones are forty thousand.
#[cfg(not(loom))]
pub(super) const GETS_ON: usize = 512;

/// Two looks: what others have waited for at most.
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

    /// So many items took one taker so long, alone or not.
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

    /// Who went alone has had the others wait for as long as may be.
    #[cfg(not(loom))]
    pub(super) fn overdraw(&mut self) {
        self.nanos = -DEBT;
    }
}

/// The clock, read once at most: for all that is reckoned in one look.
#[derive(Default)]
pub(super) struct Glance(Option<Instant>);

impl Glance {
    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(crate::rt::now)
    }

    /// `None` where no time counts: invariant 3.
    fn that_counts(&mut self) -> Option<Instant> {
        crate::rt::is_in_real_time().then(|| self.now())
    }
}

/// What a taker has done since that was last reckoned.
pub(super) struct Stint {
    began: Option<Instant>,
    items: u32,
}

impl Stint {
    /// After so many items the one that goes alone looks at the clock.
    const LONGEST: u32 = 64;

    pub(super) fn new() -> Self {
        Stint { began: None, items: 0 }
    }

    #[inline(always)]
    pub(super) fn take(&mut self, glance: &mut Glance) {
        if self.items == 0 {
            self.begin(glance);
        }
        self.items += 1;
    }

    #[inline(never)]
    fn begin(&mut self, glance: &mut Glance) {
        self.began = glance.that_counts();
    }

    #[inline(always)]
    pub(super) fn is_long(&self) -> bool {
        self.items >= Stint::LONGEST
    }

    /// It is over, and counts.
    pub(super) fn end(&mut self, glance: &mut Glance, pace: &mut Pace, alone: bool) {
        if let Some((began, now)) = self.began.take().zip(glance.that_counts()) {
            pace.charge(self.items as usize, now.saturating_duration_since(began), alone);
        }
        self.items = 0;
    }

    /// It does not count: part of it was a wait, in which others were at work or could be called.
    pub(super) fn forget(&mut self) {
        self.began = None;
        self.items = 0;
    }
}

#[cfg(all(test, not(loom)))]
impl Pace {
    /// That of a stage whose items have taken no time.
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
