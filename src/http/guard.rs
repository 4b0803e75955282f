//! What ends a request's context, with the right cause, wherever it is dropped.
//!
//! A guard goes where the request goes: first it lies in the response's future,
//! then in the response's body. Both are dropped by whoever drives them; when
//! and in which state says why the context ended.
//!
//! # Invariants
//!
//! 1. Dropping the guard ends the context. It is the first field of what holds
//!    it, so the context has ended, with its cause, before any of the handler is
//!    dropped.
//! 2. `entered` is true exactly while the handler's code is being polled. A guard
//!    that is dropped then, or later without having left, has seen a panic.

use super::RequestEnd;
use super::context::ServerTie;
use crate::context::Canceller;

#[derive(Debug)]
pub(super) struct Guard {
    canceller: Canceller,
    complete: bool,
    entered: bool,
    /// What tells the requests of the server's end, for as long as there are any.
    _server: Option<ServerTie>,
}

impl Guard {
    pub(super) fn new(canceller: Canceller, server: Option<ServerTie>) -> Self {
        Guard { canceller, complete: false, entered: false, _server: server }
    }

    /// From now on a drop means that the response is finished.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// The handler's code is about to be polled.
    pub(super) fn enter(&mut self) {
        self.entered = true;
    }

    /// It has returned.
    pub(super) fn leave(&mut self) {
        self.entered = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.canceller.cancel_with(match (self.entered, self.complete) {
            (true, _) => RequestEnd::Panicked,
            (false, true) => RequestEnd::ResponseFinished,
            (false, false) => RequestEnd::ClientGone,
        });
    }
}
