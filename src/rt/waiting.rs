//! Who waits in a line, each under a number: for room in a channel, a place in a group, the end
//! of tasks, a turn.
//!
//! # Invariants
//!
//! 1. Whoever is in the line has not been called, and is called once at most: who is called, or
//!    leaves, is out of it.
//! 2. It lies behind a lock of its owner's, and runs nobody's code: every waker that comes out of
//!    it is given back, to be woken or dropped when that lock is gone.

use std::collections::VecDeque;
use std::task::Waker;

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// In the order in which they came.
    line: VecDeque<(usize, Waker)>,
    tickets: usize,
}

impl Waiting {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Gets in line, under a number that nobody else has had.
    pub(crate) fn join(&mut self, waker: Waker) -> usize {
        self.tickets += 1;
        self.line.push_back((self.tickets, waker));
        self.tickets
    }

    /// Gets in line under a number of the caller's own, who gives them all.
    pub(crate) fn join_as(&mut self, number: usize, waker: Waker) {
        self.line.push_back((number, waker));
    }

    /// Has this waker called in place of the one before, which is given back; or gives this one
    /// back: whoever has the number is not in line any more.
    pub(crate) fn renew(&mut self, number: usize, waker: Waker) -> Result<Waker, Waker> {
        match self.line.iter_mut().find(|(of, _)| *of == number) {
            Some((_, place)) => Ok(std::mem::replace(place, waker)),
            None => Err(waker),
        }
    }

    /// Leaves the line, or is called out of turn. `None`: it was called before.
    pub(crate) fn take(&mut self, number: usize) -> Option<Waker> {
        let at = self.line.iter().position(|(of, _)| *of == number)?;
        self.line.remove(at).map(|(_, waker)| waker)
    }

    /// Calls the one who has waited for the longest.
    pub(crate) fn take_first(&mut self) -> Option<Waker> {
        self.line.pop_front().map(|(_, waker)| waker)
    }

    /// Calls everybody.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.line).into_iter().map(|(_, waker)| waker)
    }
}
