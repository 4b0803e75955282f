//! A bridge to and from `tokio_util::sync::CancellationToken`.
//!
//! No task is spawned in either direction. A context ends its tokens from its scope, which keeps
//! the token that is their parent. A token ends a context from the waker of the token's future;
//! after the first poll, only that waker polls it.
//!
//! # Invariants
//!
//! 1. A bridge does not keep its context alive, and is gone when the context has ended or been
//!    dropped: the scope, or a function in it, owns it.
//! 2. The token's future is polled by one thread at a time, outside of the lock. A wake that comes
//!    during a poll is noted, and the future is polled again.

use super::after::{Func, Job, Whose};
use super::cause::Cause;
use super::outside::{Target, Vigil};
use super::{Canceller, Context};
use crate::rt::{self, contain_panic};
use crate::sync::Mutex;
use std::pin::Pin;
use std::task::{Poll, Wake, Waker};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(super) type Token = CancellationToken;

/// With the feature `tokio-util`.
impl Context {
    /// A child that also ends when `token` is cancelled, before that call returns. Its cause then
    /// reads `context canceled` and has no origin, because the token does not know one.
    ///
    /// ```
    /// # use quell::Context;
    /// # use tokio_util::sync::CancellationToken;
    /// let token = CancellationToken::new();
    /// let (ctx, _canceller) = Context::background().with_token(&token);
    /// token.cancel();
    /// assert!(ctx.is_done());
    /// ```
    #[track_caller]
    pub fn with_token(&self, token: &CancellationToken) -> (Context, Canceller) {
        let (ctx, canceller) = self.with_cancel();
        if let Some((branch, Ok(scope))) = ctx.branch().map(|branch| (branch, branch.open())) {
            let bridge = std::sync::Arc::new(Bridge {
                target: Target::new(branch, scope, self.branch()),
                crossing: Mutex::new(Crossing::Waiting(Box::pin(token.clone().cancelled_owned()))),
            });
            let owner = Owner(std::sync::Arc::clone(&bridge));
            let kept =
                scope.add_func(Func::quiet(Job::new(Whose::Ours, Box::new(move || drop(owner)))));
            drop(kept);
            bridge.poll();
        }
        (ctx, canceller)
    }

    /// A token that is cancelled when this context ends. Cancelling the token does nothing to the
    /// context; the token does not keep it alive.
    ///
    /// All tokens of a context are children of one, so dropped tokens leave nothing behind. The
    /// context does not learn of the last drop: from its first token on, a context with a deadline
    /// keeps its alarm armed until it has ended or been dropped.
    ///
    /// ```
    /// # use quell::Context;
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// let token = ctx.token();
    /// canceller.cancel();
    /// assert!(token.is_cancelled());
    /// ```
    pub fn token(&self) -> CancellationToken {
        self.note_look();
        let Some(branch) = self.branch() else { return CancellationToken::new() };
        let root = branch.open().ok().and_then(|scope| {
            scope.token(|| {
                branch.note_func();
                Root { token: CancellationToken::new(), _vigil: Vigil::begin(branch) }
            })
        });
        let ended = || {
            let token = CancellationToken::new();
            token.cancel();
            token
        };
        root.map_or_else(ended, |root| root.child_token())
    }
}

/// The parent of all tokens of a context.
pub(super) struct Root {
    token: CancellationToken,
    _vigil: Vigil,
}

impl Root {
    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Cancels all tokens of the context, which has ended. Runs wakers.
    pub(super) fn cancel(self) {
        contain_panic(|| self.token.cancel());
        rt::note_woken();
    }
}

/// From a token to a context.
struct Bridge {
    target: Target,
    crossing: Mutex<Crossing>,
}

enum Crossing {
    Waiting(Pin<Box<WaitForCancellationFutureOwned>>),
    Polled { again: bool },
    Closed,
}

/// Closes the bridge when it is dropped, as a function that the scope runs or drops.
struct Owner(std::sync::Arc<Bridge>);

impl Drop for Owner {
    fn drop(&mut self) {
        let closed = std::mem::replace(&mut *self.0.crossing.lock(), Crossing::Closed);
        drop(closed);
    }
}

impl Wake for Bridge {
    fn wake(self: std::sync::Arc<Self>) {
        self.poll();
    }
}

impl Bridge {
    fn poll(self: &std::sync::Arc<Self>) {
        let waker = Waker::from(std::sync::Arc::clone(self));
        let mut cx = std::task::Context::from_waker(&waker);
        let mut crossing = self.crossing.lock();
        let mut future = match &mut *crossing {
            Crossing::Polled { again } => {
                *again = true;
                return;
            }
            Crossing::Closed => return,
            waiting @ Crossing::Waiting(_) => {
                match std::mem::replace(waiting, Crossing::Polled { again: false }) {
                    Crossing::Waiting(future) => future,
                    Crossing::Polled { .. } | Crossing::Closed => unreachable!("just looked"),
                }
            }
        };
        loop {
            drop(crossing);
            if future.as_mut().poll(&mut cx) == Poll::Ready(()) {
                let held = self.target.hold();
                let end = held.as_ref().and_then(|held| held.end(Cause::cancelled(None)));
                if let Some(mut harvest) = end {
                    harvest.run();
                }
                return;
            }
            crossing = self.crossing.lock();
            match &mut *crossing {
                Crossing::Polled { again: true } => *crossing = Crossing::Polled { again: false },
                Crossing::Polled { again: false } => {
                    *crossing = Crossing::Waiting(future);
                    return;
                }
                Crossing::Waiting(_) | Crossing::Closed => {
                    drop(crossing);
                    return;
                }
            }
        }
    }
}
