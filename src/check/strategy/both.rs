//! Every schedule within a few delays, and then some at random: what a checker
//! does unless it is told otherwise.

use super::{Exhaustive, Length, Next, Point, Random, Share, Strategy, Turn};

/// At random, after all others.
const AFTERWARDS: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Both {
    first: Exhaustive,
    second: Option<Random>,
    seed: u64,
    share: Share,
    /// Chance has the injection come at no point beyond this one.
    farthest: u32,
}

impl Both {
    pub(crate) fn new(most: u32, strikes: bool, seed: u64, share: Share, farthest: u32) -> Self {
        // What is left when the first is cut short is for the second.
        let rest = AFTERWARDS.min(share.limit / 4);
        let first = Share { limit: share.limit - rest, ..share };
        let first = Exhaustive::new(most, strikes, first);
        Both { first, second: None, seed, share, farthest }
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
    }

    fn covered(&self) -> String {
        match &self.second {
            Some(second) => format!("{}, then {}", self.first.covered(), second.covered()),
            None => self.first.covered(),
        }
    }

    fn is_everywhere(&self) -> bool {
        self.first.is_everywhere()
    }

    fn was_cut(&self) -> bool {
        self.first.was_cut()
    }

    fn diverged(&self) -> Option<u32> {
        self.first.diverged()
    }
}
