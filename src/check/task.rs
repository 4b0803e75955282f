//! What is known of a task while it runs.

use crate::rt::probe::Wait;
use std::pin::Pin;

pub(super) type Future = Pin<Box<dyn std::future::Future<Output = ()> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Idle,
    Queued,
    /// Being polled; `true` if it was woken meanwhile.
    Running(bool),
    Ended,
}

pub(super) struct Task {
    /// `None` for the body, whose future is elsewhere; while it is polled; and once it has ended.
    pub(super) future: Option<Future>,
    pub(super) state: State,
    pub(super) aborted: bool,
    pub(super) label: u32,
    /// The address that a join of this task waits for.
    pub(super) address: usize,
    /// The most telling wait of its last poll. Among equals it is the last, as another may be of a
    /// branch that has lost, in a `select!` that was left.
    pub(super) wait: Option<Wait>,
    /// Whether there was one as telling in another line.
    pub(super) waits_twice: bool,
    /// A hash of what it could act on so far: its turns, its choices, what woke it, and where the
    /// injection came among them. It tells its awaits apart where no line does.
    pub(super) saw: u64,
    /// The step at which it had its last turn.
    pub(super) last_turn: u32,
    /// How often it was woken while it was being polled, since the injection.
    pub(super) again: u32,
}

impl Task {
    /// A task that is in line.
    pub(super) fn new(future: Option<Future>, label: u32, address: usize) -> Self {
        let state = State::Queued;
        Task {
            future,
            state,
            aborted: false,
            label,
            address,
            wait: None,
            waits_twice: false,
            saw: 0,
            last_turn: 0,
            again: 0,
        }
    }

    #[inline]
    pub(super) fn sees(&mut self, what: u64) {
        self.saw = mixed(self.saw, what);
    }
}

/// Hashes `with` into `before`.
#[inline]
pub(super) fn mixed(before: u64, with: u64) -> u64 {
    (before.rotate_left(5) ^ with).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
