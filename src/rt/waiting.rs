//! A line of waiting tasks, each under a number: for room in a channel, a place in a group, the end
//! of tasks, a turn.
//!
//! # Invariants
//!
//! 1. A waker in the line has not been called. Calling it takes it out of the line, and so does
//!    leaving: it is called once at most.
//! 2. The line lies behind its owner's lock, and runs no user code: every waker that comes out of
//!    it is returned, to be woken or dropped when that lock is released.

use std::collections::VecDeque;
use std::task::Waker;

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// In order of arrival.
    line: VecDeque<(usize, Waker)>,
    tickets: usize,
}

impl Waiting {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Joins the line, under a number that has not been used before.
    pub(crate) fn join(&mut self, waker: Waker) -> usize {
        self.tickets += 1;
        self.line.push_back((self.tickets, waker));
        self.tickets
    }

    /// Joins the line under the caller's own number. A caller that uses this assigns all numbers.
    pub(crate) fn join_as(&mut self, number: usize, waker: Waker) {
        self.line.push_back((number, waker));
    }

    /// Replaces the waker of this number, and returns the one before. `Err`, with the new waker:
    /// the number is no longer in line.
    pub(crate) fn renew(&mut self, number: usize, waker: Waker) -> Result<Waker, Waker> {
        match self.line.iter_mut().find(|(of, _)| *of == number) {
            Some((_, place)) => Ok(std::mem::replace(place, waker)),
            None => Err(waker),
        }
    }

    /// Takes a waker out of the line, to leave it or to call it out of turn. `None`: it was called
    /// before.
    pub(crate) fn take(&mut self, number: usize) -> Option<Waker> {
        let at = self.line.iter().position(|(of, _)| *of == number)?;
        self.line.remove(at).map(|(_, waker)| waker)
    }

    /// Calls the waker that has waited for longest.
    pub(crate) fn take_first(&mut self) -> Option<Waker> {
        self.line.pop_front().map(|(_, waker)| waker)
    }

    /// Calls all wakers.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.line).into_iter().map(|(_, waker)| waker)
    }
}
