//! Waiting in a task.
//!
//! # Invariants
//!
//! 1. The waker of the last poll is in the scope, or has been woken, or the future is not
//!    pending.
//! 2. The deadline is watched from the first waker until the waker is taken back. A dropped `Done`
//!    leaves nothing behind.

use super::{Context, ContextError};
use crate::rt::probe::{self, Wait};
use futures_core::future::FusedFuture;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Poll, Waker};

/// The future of [`Context::done`], ready when the context has ended. Polled again after that, it
/// is ready again.
#[must_use = "futures do nothing unless polled"]
pub struct Done {
    ctx: Context,
    made_at: &'static Location<'static>,
    /// The key of this future's waker in the scope.
    key: Option<usize>,
    answered: bool,
}

impl Done {
    #[track_caller]
    pub(super) fn new(ctx: Context) -> Self {
        Done { ctx, made_at: Location::caller(), key: None, answered: false }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.ctx
    }

    /// Registers `waker`, in place of the last one, to be woken at the end. `Some`: the context has
    /// ended, and no waker will be woken.
    pub(super) fn poll_with(&mut self, waker: &Waker) -> Option<ContextError> {
        let wait = Wait { what: "the end of a context", at: self.made_at, of: 0 };
        // Without a branch there is no end to wait for.
        let Some(branch) = self.ctx.branch() else {
            probe::waits_in_vain(|| wait);
            return None;
        };
        branch.note_stir();
        let cause = match branch.open() {
            Err(cause) => cause,
            Ok(scope) => {
                let mut arms = false;
                let waits = match self.key {
                    Some(key) => scope.wait_with(key, waker).then_some(key),
                    None => {
                        // Cloning is user code and may panic, so it comes before any counting.
                        let waker = waker.clone();
                        arms = branch.watch();
                        self.key = scope.wait(waker);
                        if self.key.is_none() {
                            branch.unwatch();
                        }
                        self.key
                    }
                };
                if let Some(key) = waits {
                    let of = std::ptr::from_ref(scope.get()) as *const () as usize;
                    probe::waits(|| Wait { of, ..wait });
                    branch.joined(key, arms);
                    // "Not yet" is an answer too: code that only polls may act on it.
                    branch.note_look();
                    return None;
                }
                branch.look().expect("a scope refuses once it has ended")
            }
        };
        let error = cause.end();
        self.leave();
        self.answered = true;
        Some(error)
    }

    /// Takes the waker back, and stops watching the deadline.
    pub(super) fn leave(&mut self) {
        if let (Some(key), Some(branch)) = (self.key.take(), self.ctx.branch()) {
            branch.left(key);
            branch.unwatch();
            // Last: dropping the waker is user code.
            branch.unwait(key);
        }
    }
}

impl Future for Done {
    type Output = ContextError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<ContextError> {
        match self.poll_with(cx.waker()) {
            Some(error) => Poll::Ready(error),
            None => Poll::Pending,
        }
    }
}

impl FusedFuture for Done {
    fn is_terminated(&self) -> bool {
        self.answered
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").field("of", &format_args!("{}", self.ctx)).finish_non_exhaustive()
    }
}
