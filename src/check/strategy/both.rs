//! Every schedule within a few delays, then some at random: what a checker does unless told
//! otherwise.
//!
//! With two delays, the number of schedules grows with the square of their length, and each takes
//! as long as it is. So steps are limited as well, and the rest is left to chance.

use super::{Exhaustive, Length, Next, Point, Random, Share, Strategy, Turn};
use crate::check::report::grouped;

/// How many schedules are run at random, after all others.
const AFTERWARDS: u64 = 1_000;

/// As many steps as 100,000 schedules of 1,000 steps each have.
const ENOUGH: u64 = 100_000_000;

/// This many are enough once something was found: with that to mend, the check will be run again.
const ENOUGH_TO_MEND: u64 = 10_000_000;

#[derive(Debug)]
pub(crate) struct Both {
    first: Exhaustive,
    second: Option<Random>,
    seed: u64,
    share: Share,
    /// Steps of the first strategy so far.
    steps: u64,
    enough: u64,
    /// Chance has the injection come at no point beyond this one.
    farthest: u32,
}

impl Both {
    pub(crate) fn new(most: u32, strikes: bool, seed: u64, share: Share, farthest: u32) -> Self {
        // The second strategy gets what the first leaves when it is cut short.
        let rest = AFTERWARDS.min(share.limit / 4);
        let first = Share { limit: share.limit - rest, ..share };
        let first = Exhaustive::new(most, strikes, first);
        Both { first, second: None, seed, share, steps: 0, enough: ENOUGH, farthest }
    }

    fn current(&mut self) -> &mut dyn Strategy {
        match &mut self.second {
            Some(second) => second,
            None => &mut self.first,
        }
    }
}

impl Strategy for Both {
    fn next(&mut self) -> Next {
        if self.second.is_none() {
            if self.steps >= self.enough {
                self.first.cut_short();
            }
            let next = self.first.next();
            if next != Next::Over {
                return next;
            }
            let limit =
                AFTERWARDS.min(self.share.limit - self.first.number().min(self.share.limit));
            let share = Share { limit, ..self.share };
            self.second = Some(Random::new(self.seed, share, self.farthest, false));
        }
        self.current().next()
    }

    fn turn(&mut self, turn: &Turn<'_>) -> u32 {
        self.current().turn(turn)
    }

    fn choose(&mut self, at: u32, hash: u32, of: u32) -> u32 {
        self.current().choose(at, hash, of)
    }

    fn strikes(&mut self, point: &Point) -> bool {
        self.current().strikes(point)
    }

    fn over(&mut self, length: Length) {
        self.current().over(length);
        if self.second.is_none() {
            self.steps += u64::from(length.steps);
        }
    }

    fn has_found(&mut self) {
        if self.second.is_none() {
            self.enough = ENOUGH_TO_MEND;
        }
    }

    fn ends_early(&mut self) {
        self.current().ends_early();
    }

    fn covered(&self) -> String {
        match &self.second {
            Some(second) => {
                let (first, second) = (self.first.covered(), second.covered());
                if self.steps < self.enough {
                    return format!("{first}, then {second}");
                }
                format!("{first} (stopped after {} steps), then {second}", grouped(self.enough))
            }
            None => self.first.covered(),
        }
    }

    fn points(&self) -> Option<u32> {
        self.first.points()
    }

    fn is_everywhere(&self) -> bool {
        self.first.is_everywhere()
    }

    fn was_cut(&self) -> bool {
        self.first.was_cut()
    }

    fn has_diverged(&self) -> bool {
        self.first.has_diverged()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs schedules of a hundred thousand steps until chance takes over. Returns how many.
    fn run_to_chance(both: &mut Both) -> u32 {
        let mut runs = 0;
        while both.second.is_none() {
            assert!(runs <= 1_001, "it goes on and on");
            assert_ne!(both.next(), Next::Over);
            for number in 0..100 {
                let ready = [1, 2].into();
                both.strikes(&Point { at: 2 * number, hash: 0, number, distinct: true });
                both.turn(&Turn { at: 2 * number + 1, hash: 0, ready: &ready, time: false });
            }
            both.over(Length { points: 100, turns: 100, steps: 100_000 });
            runs += 1;
        }
        assert!(both.was_cut() && !both.is_everywhere());
        runs
    }

    #[test]
    fn after_so_many_steps_the_rest_is_left_to_chance_and_after_fewer_once_something_is_found() {
        let share = Share { part: 0, of: 1, limit: 100_000 };
        let mut both = Both::new(2, true, 1, share, 1_000);
        assert_eq!(run_to_chance(&mut both), 1_001);
        assert!(both.covered().contains("(stopped after 100,000,000 steps), then"), "{both:?}");
        let mut both = Both::new(2, true, 1, share, 1_000);
        both.has_found();
        assert_eq!(run_to_chance(&mut both), 101);
        assert!(both.covered().contains("(stopped after 10,000,000 steps), then"), "{both:?}");
    }
}
