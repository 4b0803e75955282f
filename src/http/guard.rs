//! Ends a request's context, with the right cause, wherever it is dropped.
//!
//! A guard travels with the request: first in the response's future, then in the response's body.
//! Both are dropped by the code that drives them; when, and in which state, says why the context
//! ended.
//!
//! # Invariants
//!
//! 1. Dropping the guard ends the context. The guard is the first field of the struct that holds
//!    it, so the context has ended, with its cause, before any of the handler is dropped.
//! 2. `entered` is true while the handler's code runs. A guard that is dropped then has seen a
//!    panic.

use super::RequestEnd;
use super::context::ServerTie;
use crate::context::Canceller;

#[derive(Debug)]
pub(super) struct Guard {
    canceller: Canceller,
    complete: bool,
    entered: bool,
    /// Ties the request to the server's end for as long as the request lives.
    _server: Option<ServerTie>,
}

impl Guard {
    pub(super) fn new(canceller: Canceller, server: Option<ServerTie>) -> Self {
        Guard { canceller, complete: false, entered: false, _server: server }
    }

    /// Marks the response as finished, which is what a drop means from now on.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Runs the handler's code. Invariant 2.
    pub(super) fn during<R>(&mut self, handlers: impl FnOnce() -> R) -> R {
        self.entered = true;
        let result = handlers();
        self.entered = false;
        result
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let end = match (self.entered, self.complete) {
            (true, _) => RequestEnd::Panicked,
            (false, true) => RequestEnd::ResponseFinished,
            (false, false) => RequestEnd::ClientGone,
        };
        end.ends(&self.canceller);
    }
}
