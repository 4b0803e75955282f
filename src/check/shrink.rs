//! Turns a schedule that shows a violation into a simpler one that shows the same.

use super::strategy::{Deviation, STRIKE};

/// How many schedules are tried for one violation.
const TRIES: u32 = 400;

/// The injection is tried at each of this many first decisions. If there are more deviations than
/// this, it is first tried there without any other.
const EARLY: u32 = 64;

/// A schedule that shows the violation: its deviations, and its length.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) deviations: Vec<Deviation>,
    pub(super) steps: u32,
}

impl Shown {
    /// Fewer delays first, then smaller ones, then fewer steps.
    fn cost(&self) -> (usize, u64, u32) {
        let delays = self.deviations.iter().filter(|one| one.value != STRIKE);
        (delays.clone().count(), delays.map(|one| u64::from(one.value)).sum(), self.steps)
    }
}

/// Takes deviations away, makes the remaining ones smaller and, if the injection `strikes` at all,
/// moves that forward, as long as `shows` says that the violation is still there. `is_same` has the
/// last word on what would be simpler than the best so far. Returns what really deviated: some
/// decisions may not have come up.
pub(super) fn shrink(
    mut best: Shown,
    strikes: bool,
    mut shows: impl FnMut(&[Deviation]) -> Option<Shown>,
    mut is_same: impl FnMut(&[Deviation]) -> bool,
) -> Vec<Deviation> {
    let mut tries = TRIES;
    let mut attempt = |candidate: &[Deviation], best: &mut Shown| {
        if tries == 0 {
            return false;
        }
        tries -= 1;
        match shows(candidate) {
            Some(shown) if shown.cost() < best.cost() && is_same(&shown.deviations) => {
                *best = shown;
                true
            }
            _ => false,
        }
    };
    // If mere chance led there, none of it matters.
    let by_chance = strikes && best.deviations.len() > EARLY as usize;
    for at in 0..if by_chance { EARLY } else { 0 } {
        if attempt(&[Deviation { at, value: STRIKE }], &mut best) {
            break;
        }
    }
    let mut chunk = best.deviations.len();
    while chunk > 0 {
        let mut from = 0;
        while from < best.deviations.len() {
            let mut candidate = best.deviations.clone();
            candidate.drain(from..(from + chunk).min(candidate.len()));
            if !attempt(&candidate, &mut best) {
                from += chunk;
            }
        }
        chunk /= 2;
    }
    for at in 0..best.deviations.len() {
        if best.deviations.get(at).is_some_and(|one| one.value > 1 && one.value != STRIKE) {
            let mut candidate = best.deviations.clone();
            candidate[at].value = 1;
            attempt(&candidate, &mut best);
        }
    }
    for early in 0..if strikes { EARLY } else { 0 } {
        let mut candidate = best.deviations.clone();
        candidate.retain(|one| one.value != STRIKE && one.at != early);
        let place = candidate.partition_point(|one| one.at < early);
        candidate.insert(place, Deviation { at: early, value: STRIKE });
        if attempt(&candidate, &mut best) {
            break;
        }
    }
    best.deviations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_goes_and_what_does_stays() {
        let mut all: Vec<_> = (0..50).map(|at| Deviation { at, value: 3 }).collect();
        all.push(Deviation { at: 90, value: STRIKE });
        // It takes 7, 31, and an injection after 40.
        let shows = |candidate: &[Deviation]| {
            let has = |at| candidate.iter().any(|one| one.at == at && one.value != STRIKE);
            let strike = candidate.iter().find(|one| one.value == STRIKE).map_or(200, |one| one.at);
            let shown = Shown { deviations: candidate.to_vec(), steps: strike };
            (has(7) && has(31) && strike > 40).then_some(shown)
        };
        let left = shrink(Shown { deviations: all, steps: 90 }, true, shows, |_| true);
        let value = STRIKE;
        let expected = [
            Deviation { at: 7, value: 1 },
            Deviation { at: 31, value: 1 },
            Deviation { at: 41, value },
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn where_only_the_injection_matters_all_that_chance_has_done_goes_at_once() {
        let mut all: Vec<_> = (0..2_000).map(|at| Deviation { at, value: 1 }).collect();
        all.push(Deviation { at: 2_500, value: STRIKE });
        // Leaving out only some of it leads elsewhere.
        let shows = |candidate: &[Deviation]| match candidate {
            [one] if one.value == STRIKE && one.at >= 7 => {
                Some(Shown { deviations: candidate.to_vec(), steps: one.at })
            }
            _ => None,
        };
        let left = shrink(Shown { deviations: all, steps: 2_500 }, true, shows, |_| true);
        assert_eq!(left, [Deviation { at: 7, value: STRIKE }]);
    }
}
