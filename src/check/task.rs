//! What is known of a task while it runs.

use crate::rt::probe::Wait;
use std::pin::Pin;

pub(super) type Future = Pin<Box<dyn std::future::Future<Output = ()> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Idle,
    Queued,
    /// Being polled; `true`: woken meanwhile.
    Running(bool),
    Ended,
}

pub(super) struct Task {
    /// `None`: the body's, which is elsewhere; or being polled; or ended.
    pub(super) future: Option<Future>,
    pub(super) state: State,
    pub(super) aborted: bool,
    pub(super) label: u32,
    /// Joining it is waiting for this address.
    pub(super) address: usize,
    /// The most telling of the waits of its last poll, and of those the last: another may be
    /// of a branch that has lost, in a `select!` that was left.
    pub(super) wait: Option<Wait>,
    /// Whether there was one as telling in another line.
    pub(super) waits_twice: bool,
    /// What it could go by so far, in short: its turns, its choices and who woke it, and where
    /// the injection came among them. It tells its awaits apart where no line does.
    pub(super) saw: u64,
    /// Which step of its schedule its last turn was.
    pub(super) last_turn: u32,
    /// How often it has had itself woken while it was polled, since the injection.
    pub(super) again: u32,
}

impl Task {
    /// One that is in line.
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

/// A hash of what was hashed before, and of this.
#[inline]
pub(super) fn mixed(before: u64, with: u64) -> u64 {
    (before.rotate_left(5) ^ with).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
