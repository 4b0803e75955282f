//! Any schedule, by a seed.
//!
//! Half of the schedules take a random task at each turn; the other half keep to the order of
//! waiting and leave it now and then, which comes nearer to how a real executor goes wrong. The
//! injection comes at a point chosen beforehand: mostly among as many as the first schedule had,
//! now and then far beyond.

use super::{Dice, Length, Next, Point, Share, Strategy, Turn};

#[derive(Debug)]
pub(crate) struct Random {
    seed: u64,
    share: Share,
    round: u64,
    dice: Dice,
    /// One turn in this many leaves the order.
    rarely: u32,
    target: u32,
    points: u32,
    /// The injection comes at no point beyond this one.
    farthest: u32,
    begun: bool,
    cut: bool,
}

impl Random {
    /// `cut`: more schedules were asked for.
    pub(crate) fn new(seed: u64, share: Share, farthest: u32, cut: bool) -> Self {
        Random {
            seed,
            share,
            round: 0,
            dice: Dice::new(seed, 0),
            rarely: 1,
            target: 0,
            points: 0,
            farthest,
            begun: false,
            cut,
        }
    }

    /// How the schedule of this number goes.
    fn roll(&mut self, round: u64) {
        self.dice = Dice::new(self.seed, round);
        self.rarely = [1, 1, 4, 16][self.dice.below(4) as usize];
        // All shards must choose alike, so this is the number of the first schedule, and a little
        // more for those that are longer.
        let target = self.dice.place(self.points + self.points / 8 + 1, self.farthest);
        // The first has exactly that many, so a run of a single schedule has its injection.
        self.target = if round == 0 { target % self.points.max(1) } else { target };
    }
}

impl Strategy for Random {
    fn next(&mut self) -> Next {
        if !self.begun {
            // To count the points: the first schedule, without its injection.
            self.begun = true;
            self.roll(0);
            self.target = u32::MAX;
            return Next::Run { counts: false };
        }
        let Some(round) = self.share.first_from(self.round) else { return Next::Over };
        self.roll(round);
        self.round = round + 1;
        Next::Run { counts: true }
    }

    fn turn(&mut self, turn: &Turn<'_>) -> u32 {
        if self.rarely != 1 && self.dice.below(self.rarely) != 0 {
            return 0;
        }
        // Time is not a task like the others: it also moves by itself.
        if turn.time && self.dice.below(8) == 0 {
            return turn.ready.len() as u32;
        }
        self.dice.below(turn.ready.len() as u32)
    }

    fn choose(&mut self, _at: u32, _hash: u32, of: u32) -> u32 {
        self.dice.below(of)
    }

    fn strikes(&mut self, point: &Point) -> bool {
        point.number == self.target
    }

    fn over(&mut self, length: Length) {
        if self.target == u32::MAX {
            self.points = length.points;
        }
    }

    fn was_cut(&self) -> bool {
        self.cut
    }

    fn covered(&self) -> String {
        let schedules = crate::check::report::many(self.share.limit, "schedule");
        format!("{schedules} at random, seed {}", self.seed)
    }
}
