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
    /// The most telling of the waits of its last poll.
    pub(super) wait: Option<Wait>,
    pub(super) polls: u32,
}

impl Task {
    /// One that is in line.
    pub(super) fn new(future: Option<Future>, label: u32, address: usize) -> Self {
        let state = State::Queued;
        Task { future, state, aborted: false, label, address, wait: None, polls: 0 }
    }
}
