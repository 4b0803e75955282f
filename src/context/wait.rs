//! Waiting on a thread.
//!
//! # Invariants
//!
//! 1. A wake sets `woken`, and the waiting thread clears it before it looks at the context again.
//!    So no wake between a look and a sleep is lost.

use super::{Context, ContextError};
use crate::rt::Clock;
use crate::sync::planted::{Break, skip};
use crate::sync::{Condvar, Mutex};
use std::sync::PoisonError;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// How often a clock that may jump is read.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// A thread that can be woken.
struct Sleeper {
    woken: Mutex<bool>,
    change: Condvar,
}

impl Wake for Sleeper {
    fn wake(self: std::sync::Arc<Self>) {
        *self.woken.lock() = true;
        if !skip(Break::SleeperNotTold) {
            self.change.notify_one();
        }
    }
}

/// Waits until `ctx` has ended or the system's clock reads `limit`.
#[track_caller]
pub(super) fn until(ctx: &Context, limit: Option<Instant>) -> Option<ContextError> {
    crate::rt::probe::blocks("`Context::wait`", "await `Context::done` instead");
    let sleeper = std::sync::Arc::new(Sleeper { woken: Mutex::new(false), change: Condvar::new() });
    let waker = Waker::from(std::sync::Arc::clone(&sleeper));
    let mut done = ctx.done();
    loop {
        if let Some(error) = done.poll_with(&waker) {
            return Some(error);
        }
        let now = Clock::system_now();
        if limit.is_some_and(|limit| limit <= now) {
            return None;
        }
        // This keeps its own time too: a deadline needs no timer to be looked at. A clock that is
        // moved by hand does not notify, so it is read now and then.
        let clock = ctx.branch().and_then(|branch| branch.deadline()).map(|own| &own.clock);
        let patience = if clock.is_some_and(Clock::may_jump) { ASK_AGAIN } else { Duration::MAX };
        let deadline = ctx.remaining().and_then(|left| now.checked_add(left.min(patience)));
        let next = limit.into_iter().chain(deadline).min();
        let mut woken = sleeper.woken.lock();
        while !std::mem::take(&mut *woken) {
            woken = match next {
                None => crate::sync::wait(&sleeper.change, woken),
                Some(next) => {
                    let now = Clock::system_now();
                    if next <= now {
                        break;
                    }
                    let waited = sleeper.change.wait_timeout(woken, next - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
