//! Everybody who is to be told of an end, once all locks are gone.
//!
//! # Invariants
//!
//! 1. A harvest is run, or its pieces dropped, without any lock of quell's held.
//! 2. Wakers come before events and functions, and quell's own functions before the
//!    users': nobody waits to be woken, and no pipeline to be stopped, for somebody
//!    else's code.
//! 3. A panic in one of them is caught and keeps no other from being told.

use super::after::Func;
use super::cause::Cause;
use super::scope::{End, Member};
use slab::Slab;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

#[derive(Default)]
pub(super) struct Harvest {
    /// The whole list of the first who are to be told, as it was: mostly there are no others.
    first: Slab<Member>,
    wakers: Vec<Waker>,
    ours: Vec<Func>,
    users: Vec<Func>,
    /// Whatever else is to end with the contexts.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) tokens: Vec<super::token::Root>,
    /// Not needed any more; disarmed when the harvest goes.
    pub(super) alarms: Vec<crate::rt::Alarm>,
    /// Ended by this sweep, each for a reason of its own.
    ended: Vec<Cause>,
    /// An end that came too late: the error in it is the user's to drop.
    pub(super) late: Option<End>,
}

impl Harvest {
    /// Takes all of a list in which there are no children, unless it has one: those that
    /// come later are told later.
    pub(super) fn takes_all(&mut self, list: &mut Slab<Member>) -> bool {
        let nobody = self.wakers.is_empty() && self.ours.is_empty() && self.users.is_empty();
        let is_first = nobody && self.first.is_empty();
        if is_first {
            std::mem::swap(&mut self.first, list);
        }
        is_first
    }

    pub(super) fn add(&mut self, member: Member) {
        match member {
            Member::Waiter(waker) => self.wakers.push(waker),
            Member::Func(func) if func.is_ours() => self.ours.push(func),
            Member::Func(func) => self.users.push(func),
            Member::Child(_) => unreachable!("children stay"),
        }
    }

    pub(super) fn report(&mut self, ended: &Cause) {
        if cfg!(feature = "tracing") {
            self.ended.push(ended.clone());
        }
    }

    /// Tells everybody, on this thread.
    pub(super) fn run(mut self) {
        let funcs = self.wake();
        if !funcs.is_empty() {
            run_all(funcs);
        }
    }

    /// Wakes everybody, and leaves the users' functions to another thread.
    pub(super) fn wake_and_leave_the_rest(mut self) -> Option<crate::rt::Work> {
        let funcs = self.wake();
        (!funcs.is_empty()).then(|| Box::new(move || run_all(funcs)) as crate::rt::Work)
    }

    fn wake(&mut self) -> Vec<Func> {
        for (_, member) in std::mem::take(&mut self.first) {
            match member {
                Member::Waiter(waker) => quietly(|| waker.wake()),
                func => self.add(func),
            }
        }
        for waker in self.wakers.drain(..) {
            quietly(|| waker.wake());
        }
        #[cfg(all(feature = "tokio-util", not(loom)))]
        for token in self.tokens.drain(..) {
            quietly(|| token.cancel());
        }
        for cause in self.ended.drain(..) {
            super::trace::ended(cause.seen());
        }
        if let Some(late) = self.late.take() {
            quietly(|| drop(late));
        }
        let mut funcs = std::mem::take(&mut self.ours);
        funcs.append(&mut self.users);
        funcs
    }
}

/// Runs the functions, and drops what they kept.
fn run_all(funcs: Vec<Func>) {
    for func in funcs {
        quietly(|| func.run());
    }
}

/// Runs the user's `f`; a panic in it has been printed by the panic hook and
/// goes no further. Neither does one in the drop of its payload.
pub(super) fn quietly(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        crate::rt::probe::panicked(&*payload);
        if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(worse);
        }
    }
}
