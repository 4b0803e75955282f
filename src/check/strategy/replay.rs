//! One known schedule, by its deviations.

use super::{Deviation, Length, Next, Point, STRIKE, Strategy, Turn};

#[derive(Debug)]
pub(crate) struct Replay {
    deviations: Vec<Deviation>,
    due: usize,
    begun: bool,
    diverged: bool,
}

impl Replay {
    pub(crate) fn new(deviations: Vec<Deviation>) -> Self {
        Replay { deviations, due: 0, begun: false, diverged: false }
    }

    fn follow(&mut self, at: u32) -> u32 {
        while let Some(deviation) = self.deviations.get(self.due) {
            if deviation.at > at {
                return 0;
            }
            self.due += 1;
            if deviation.at == at {
                return deviation.value;
            }
        }
        0
    }

    /// The value there, if it is possible.
    fn within(&mut self, at: u32, of: u32) -> u32 {
        let value = self.follow(at);
        self.diverged |= value >= of;
        if value < of { value } else { 0 }
    }
}

impl Strategy for Replay {
    fn next(&mut self) -> Next {
        if std::mem::replace(&mut self.begun, true) {
            return Next::Over;
        }
        Next::Run { counts: true }
    }

    fn turn(&mut self, turn: &Turn<'_>) -> u32 {
        self.within(turn.at, turn.options())
    }

    fn choose(&mut self, at: u32, _hash: u32, of: u32) -> u32 {
        self.within(at, of)
    }

    fn strikes(&mut self, point: &Point) -> bool {
        match self.follow(point.at) {
            0 => false,
            STRIKE => true,
            _ => {
                self.diverged = true;
                false
            }
        }
    }

    fn over(&mut self, _length: Length) {
        self.diverged |= self.due < self.deviations.len();
    }

    fn covered(&self) -> String {
        "the schedule of a token".to_string()
    }

    fn has_diverged(&self) -> bool {
        self.diverged
    }
}
