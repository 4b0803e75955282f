//! The strategies, which make the choices.
//!
//! A schedule is a sequence of numbered decisions: which ready task goes next, what `rt::choose`
//! says, and at each point whether the injection comes. Zero is always what a plain executor would
//! do: the task that has waited longest, the first alternative, no injection. So a schedule is told
//! by its *deviations*, the decisions that were not zero; of decisions, a token holds only those.

// | file | what it tries |
// |---|---|
// | `exhaustive` | every schedule within a number of delays |
// | `random` | any, by a seed |
// | `pct` | priorities that change a few times |
// | `bytes` | what the bytes say: for fuzzing |
// | `replay` | one that is known |
// | `both` | one strategy, then another |

mod both;
mod bytes;
mod exhaustive;
mod pct;
mod random;
mod replay;

pub(super) use both::Both;
pub(super) use bytes::Bytes;
pub(super) use exhaustive::Exhaustive;
pub(super) use pct::Pct;
pub(super) use random::Random;
pub(super) use replay::Replay;

use std::collections::VecDeque;
use std::fmt;

/// A decision that was not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deviation {
    /// The number of the decision in its schedule.
    pub(super) at: u32,
    pub(super) value: u32,
}

/// The value of a deviation that is the injection.
pub(super) const STRIKE: u32 = u32::MAX;

/// The choice of what goes next: one of `ready`, in the order in which they have waited; or, if
/// `time` is set, time.
pub(super) struct Turn<'a> {
    pub(super) at: u32,
    /// A hash of what has happened up to here.
    pub(super) hash: u32,
    pub(super) ready: &'a VecDeque<u32>,
    pub(super) time: bool,
}

impl Turn<'_> {
    /// The number of possible answers.
    pub(super) fn options(&self) -> u32 {
        self.ready.len() as u32 + u32::from(self.time)
    }
}

/// A place where the injection may come.
pub(super) struct Point {
    pub(super) at: u32,
    pub(super) hash: u32,
    /// Its number in this schedule.
    pub(super) number: u32,
    /// Whether the code under test could tell it from the one before.
    pub(super) distinct: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// Run a schedule. `counts`: it is one of this share's, and was not run before.
    Run { counts: bool },
    /// There is none left.
    Over,
}

/// How long a schedule was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Length {
    pub(super) points: u32,
    pub(super) turns: u32,
    pub(super) steps: u32,
}

/// A way to go through the schedules of a body.
pub(super) trait Strategy: fmt::Debug {
    /// Prepares the next schedule.
    fn next(&mut self) -> Next;

    /// How many ready tasks to pass over; if all of them, time moves instead.
    fn turn(&mut self, turn: &Turn<'_>) -> u32;

    /// Chooses one of `of` alternatives.
    fn choose(&mut self, at: u32, hash: u32, of: u32) -> u32;

    /// Whether the injection comes here.
    fn strikes(&mut self, point: &Point) -> bool;

    /// Told that the schedule has come to its end.
    fn over(&mut self, _length: Length) {}

    /// Told that no other schedule will be run, though there may be more.
    fn ends_early(&mut self) {}

    /// Told that something was found: from now on only the rest is looked for.
    fn has_found(&mut self) {}

    /// What it has gone through, in words.
    fn covered(&self) -> String;

    /// The most points of a schedule, of those that are enumerated. How many one left to chance
    /// would have had without its injection is not known.
    fn points(&self) -> Option<u32> {
        None
    }

    /// Whether the injection has come at each point, and not only at some.
    fn is_everywhere(&self) -> bool {
        false
    }

    /// Whether a maximum has cut it short.
    fn was_cut(&self) -> bool {
        false
    }

    /// Whether the body once did something other than before.
    fn has_diverged(&self) -> bool {
        false
    }
}

/// The schedules that are this run's to do: those whose number modulo `of` is `part`, and none
/// beyond `limit`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) part: u64,
    pub(super) of: u64,
    pub(super) limit: u64,
}

impl Share {
    pub(super) fn has(&self, number: u64) -> bool {
        number % self.of == self.part
    }

    /// The first of them from this number on.
    pub(super) fn first_from(&self, number: u64) -> Option<u64> {
        (number..self.limit).find(|&number| self.has(number))
    }
}

/// splitmix64: good enough, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, round: u64) -> Self {
        let mut dice = Dice(seed ^ round.wrapping_mul(0xD1B5_4A32_D192_ED03));
        dice.roll();
        dice
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A place among the `usual` ones or, one time in eight, any up to `most`, near ones more often
    /// than far ones: a schedule may be much longer than the one that set what is usual.
    pub(super) fn place(&mut self, usual: u32, most: u32) -> u32 {
        let roll = self.roll();
        if roll & 7 != 0 {
            return (((roll >> 32) * u64::from(usual)) >> 32) as u32;
        }
        let scale = Dice(roll).below(most.max(1).ilog2() + 1);
        Dice(!roll).below((2 << scale).min(most.max(1)))
    }

    /// One of `n`.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        (((self.roll() >> 32) * u64::from(n)) >> 32) as u32
    }
}
