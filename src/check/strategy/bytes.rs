//! A schedule made from bytes, for fuzzing. The first two say where the injection comes; each one
//! after that is a decision. After the last, every decision is zero.

use super::{Next, Point, Strategy, Turn};

#[derive(Debug)]
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    next: usize,
    target: u32,
    begun: bool,
}

impl Bytes {
    /// The one schedule is in the first part, and in no other.
    pub(crate) fn new(bytes: &[u8], is_first_part: bool) -> Self {
        let target = match bytes {
            [high, low, ..] => u32::from(*high) << 8 | u32::from(*low),
            [low] => u32::from(*low),
            [] => 0,
        };
        Bytes { bytes: bytes.to_vec(), next: 2, target, begun: !is_first_part }
    }

    fn take(&mut self, of: u32) -> u32 {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        u32::from(byte) % of
    }
}

impl Strategy for Bytes {
    fn next(&mut self) -> Next {
        if std::mem::replace(&mut self.begun, true) {
            return Next::Over;
        }
        Next::Run { counts: true }
    }

    fn turn(&mut self, turn: &Turn<'_>) -> u32 {
        self.take(turn.options())
    }

    fn choose(&mut self, _at: u32, _hash: u32, of: u32) -> u32 {
        self.take(of)
    }

    fn strikes(&mut self, point: &Point) -> bool {
        point.number == self.target
    }

    fn covered(&self) -> String {
        format!("the schedule of {} bytes", self.bytes.len())
    }
}
