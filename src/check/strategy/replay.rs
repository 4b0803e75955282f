//! One known schedule, by its deviations.

use super::{Deviation, Length, Next, Point, STRIKE, Strategy, Turn};

#[derive(Debug)]
pub(crate) struct Replay {
    deviations: Vec<Deviation>,
    due: usize,
    begun: bool,
    diverged: Option<u32>,
}

impl Replay {
    pub(crate) fn new(deviations: Vec<Deviation>) -> Self {
        Replay { deviations, due: 0, begun: false, diverged: None }
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
        if value < of {
            return value;
        }
        self.diverged.get_or_insert(at);
        0
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
                self.diverged.get_or_insert(point.at);
                false
            }
        }
    }

    fn over(&mut self, _length: Length) {
        if let Some(left) = self.deviations.get(self.due) {
            self.diverged.get_or_insert(left.at);
        }
    }

    fn covered(&self) -> String {
        "the schedule of a token".to_string()
    }

    fn diverged(&self) -> Option<u32> {
        self.diverged
    }
}
