//! Every schedule within a number of delays.
//!
//! Passing over a ready task costs one delay; so does time that moves although tasks are ready, and
//! so does a choice other than the first. The injection is free, but comes once.
//!
//! A schedule is a list of deviations in the order of time, so its parent is the one without the
//! last. Running a schedule shows which decisions come after its last deviation; each value of each
//! of them is a child. So every schedule is reached once, from its parent, and only the way down is
//! kept. Schedules without a delay come first, then those with one, and so on: the first witness of
//! a bug is among the simplest. Schedules with fewer delays are run again on the way to those with
//! more; they are a small part, and are not counted again.
//!
//! # Invariants
//!
//! 1. `frames[..depth]` are the schedules on the way down; the last is the one that was run last,
//!    and `deviations` is its list.
//! 2. A frame's `open` decisions come after its last deviation, in order.
//! 3. A child that can have no children of its own in this level need not be run to be counted: if
//!    it is of another share, it is only counted.
//! 4. A level without a schedule is the last, because every schedule of a level leads to one of the
//!    level below: leave out what costs nothing at its end; what is last then either costs one and
//!    is left out, or passes over several tasks and passes over one less.

use super::{Deviation, Length, Next, Point, STRIKE, Share, Strategy, Turn};

#[derive(Debug)]
pub(crate) struct Exhaustive {
    most: u32,
    level: u32,
    strikes: bool,
    share: Share,
    deviations: Vec<Deviation>,
    frames: Vec<Frame>,
    depth: usize,
    /// The next deviation to be made in the schedule that is running.
    due: usize,
    /// The hash that the parent had at the last deviation.
    expected: u32,
    number: u64,
    /// How many schedules there were before this level.
    before: u64,
    begun: bool,
    cut: bool,
    over: bool,
    points: u32,
    diverged: bool,
}

#[derive(Debug, Default)]
struct Frame {
    length: usize,
    spent: u32,
    struck: bool,
    open: Vec<Open>,
    /// The open decision of the next child.
    next: usize,
    value: u32,
}

/// A decision that can be made otherwise.
#[derive(Clone, Copy, Debug)]
struct Open {
    at: u32,
    hash: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Turn { tasks: u32, time: bool },
    Choice { of: u32 },
    Point,
}

impl Open {
    /// The first value above `above` that costs no more than `left`, and its cost.
    fn after(&self, above: u32, left: u32) -> Option<(u32, u32)> {
        let value = above + 1;
        match self.kind {
            Kind::Point => (above == 0).then_some((STRIKE, 0)),
            _ if left == 0 => None,
            Kind::Choice { of } => (value < of).then_some((value, 1)),
            Kind::Turn { tasks, time } => {
                if value < tasks && value <= left {
                    Some((value, value))
                } else {
                    (time && above < tasks).then_some((tasks, 1))
                }
            }
        }
    }
}

impl Exhaustive {
    /// `strikes`: whether there is an injection at all.
    pub(crate) fn new(most: u32, strikes: bool, share: Share) -> Self {
        Exhaustive {
            most,
            level: 0,
            strikes,
            share,
            deviations: Vec::new(),
            frames: Vec::new(),
            depth: 0,
            due: 0,
            expected: 0,
            number: 0,
            before: 0,
            begun: false,
            cut: false,
            over: false,
            points: 0,
            diverged: false,
        }
    }

    /// How many schedules have been counted so far.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Ends it here, as a maximum does.
    pub(crate) fn cut_short(&mut self) {
        (self.cut, self.over) = (true, true);
    }

    fn push(&mut self, spent: u32, struck: bool) {
        if self.depth == self.frames.len() {
            self.frames.push(Frame::default());
        }
        let frame = &mut self.frames[self.depth];
        frame.length = self.deviations.len();
        (frame.spent, frame.struck) = (spent, struck);
        frame.open.clear();
        (frame.next, frame.value) = (0, 0);
        self.depth += 1;
        self.due = 0;
    }

    /// Counts a schedule that has exactly as many delays as this level. Returns whether it is this
    /// share's to run; `None` if the limit is reached.
    fn count(&mut self) -> Option<bool> {
        if self.number >= self.share.limit {
            self.cut_short();
            return None;
        }
        let own = self.share.has(self.number);
        self.number += 1;
        Some(own)
    }

    /// Goes to the next schedule: the next child of the last frame that has one.
    fn descend(&mut self) -> Next {
        while self.depth > 0 {
            let frame = &mut self.frames[self.depth - 1];
            let left = self.level - frame.spent;
            let Some(open) = frame.open.get(frame.next).copied() else {
                self.depth -= 1;
                continue;
            };
            let Some((value, cost)) = open.after(frame.value, left) else {
                (frame.next, frame.value) = (frame.next + 1, 0);
                continue;
            };
            if value == STRIKE {
                (frame.next, frame.value) = (frame.next + 1, 0);
            } else {
                frame.value = value;
            }
            let (spent, struck) = (frame.spent + cost, frame.struck || value == STRIKE);
            let length = frame.length;
            let counted = spent == self.level;
            let own = if counted {
                match self.count() {
                    Some(own) => own,
                    None => return Next::Over,
                }
            } else {
                false
            };
            // Invariant 3.
            if counted && !own && (struck || !self.strikes) {
                continue;
            }
            self.deviations.truncate(length);
            self.deviations.push(Deviation { at: open.at, value });
            self.expected = open.hash;
            self.push(spent, struck);
            return Next::Run { counts: own };
        }
        Next::Over
    }

    /// The value of the deviation that is due here, zero if none is due yet; `None` after the last.
    #[inline]
    fn follow(&mut self, at: u32, hash: u32) -> Option<u32> {
        let deviation = *self.deviations.get(self.due)?;
        if deviation.at > at {
            return Some(0);
        }
        // If it belongs to an earlier decision, that decision did not come up this time.
        self.diverged |= deviation.at < at;
        self.due += 1;
        self.diverged |= self.due == self.deviations.len() && hash != self.expected;
        Some(deviation.value)
    }

    fn note(&mut self, open: Open) {
        self.frames[self.depth - 1].open.push(open);
    }

    fn left(&self) -> u32 {
        self.level - self.frames[self.depth - 1].spent
    }
}

impl Strategy for Exhaustive {
    fn next(&mut self) -> Next {
        if self.over {
            return Next::Over;
        }
        if self.begun {
            match self.descend() {
                Next::Run { counts } => return Next::Run { counts },
                Next::Over if self.over || self.level == self.most => {
                    self.over = true;
                    return Next::Over;
                }
                // Invariant 4.
                Next::Over if self.number == self.before => {
                    (self.level, self.over) = (self.most, true);
                    return Next::Over;
                }
                Next::Over => (self.level, self.before) = (self.level + 1, self.number),
            }
        }
        self.deviations.clear();
        self.push(0, false);
        if self.begun {
            return Next::Run { counts: false };
        }
        self.begun = true;
        match self.count() {
            Some(own) => Next::Run { counts: own },
            None => Next::Over,
        }
    }

    fn turn(&mut self, turn: &Turn<'_>) -> u32 {
        if let Some(value) = self.follow(turn.at, turn.hash) {
            return value;
        }
        if self.left() > 0 {
            let kind = Kind::Turn { tasks: turn.ready.len() as u32, time: turn.time };
            self.note(Open { at: turn.at, hash: turn.hash, kind });
        }
        0
    }

    fn choose(&mut self, at: u32, hash: u32, of: u32) -> u32 {
        if let Some(value) = self.follow(at, hash) {
            return value;
        }
        if self.left() > 0 {
            self.note(Open { at, hash, kind: Kind::Choice { of } });
        }
        0
    }

    fn strikes(&mut self, point: &Point) -> bool {
        if let Some(value) = self.follow(point.at, point.hash) {
            return value == STRIKE;
        }
        if point.distinct && !self.frames[self.depth - 1].struck {
            self.note(Open { at: point.at, hash: point.hash, kind: Kind::Point });
        }
        false
    }

    fn over(&mut self, length: Length) {
        self.points = self.points.max(length.points);
        self.diverged |= self.due < self.deviations.len();
    }

    fn ends_early(&mut self) {
        self.cut_short();
    }

    fn covered(&self) -> String {
        let delays = |n: u32| match n {
            0 => "without a delay".to_string(),
            1 => "within 1 delay".to_string(),
            n => format!("within {n} delays"),
        };
        if self.cut && self.level == 0 {
            format!("some schedules {}", delays(0))
        } else if self.cut {
            let before = delays(self.level - 1);
            format!("every schedule {before}, and some with {}", self.level)
        } else {
            format!("every schedule {}", delays(self.level))
        }
    }

    fn points(&self) -> Option<u32> {
        Some(self.points)
    }

    fn is_everywhere(&self) -> bool {
        !self.cut
    }

    fn was_cut(&self) -> bool {
        self.cut
    }

    fn has_diverged(&self) -> bool {
        self.diverged
    }
}
