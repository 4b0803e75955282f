//! Everybody who is to be told of an end, once all locks are gone.
//!
//! # Invariants
//!
//! 1. A harvest is run, or its pieces dropped, without any lock of quell's held.
//! 2. Wakers come first, then quell's own functions, then what is the users': nobody waits to
//!    be woken, and no pipeline to be stopped, for somebody else's code. Subscribers, and how a
//!    cause displays itself and is dropped, are the users' as well. A token comes after quell's
//!    own, for what it wakes may be a context with functions of its own. Where users' code may
//!    not run, it is left to another thread.
//! 3. A panic in one of them is caught and keeps no other from being told.
//! 4. Ends inside many others are told of before the outermost has been (`nested`); those
//!    who wait, and quell's own functions, are held up the last.

use super::after::Func;
use super::cause::Cause;
use super::members::{Member, Members};
use super::scope::End;
use crate::rt::{self, Job, PipelineId, Work, undisturbed};
use std::task::Waker;

#[derive(Default)]
pub(super) struct Harvest {
    /// The whole list of the first who are to be told, as it was: mostly there are no others.
    first: Members,
    wakers: Vec<Waker>,
    calls: Calls,
    /// Not needed any more; disarmed when the harvest goes.
    pub(super) alarms: Vec<crate::rt::Alarm>,
    /// Ended by this sweep, each for a reason of its own.
    ended: Vec<Cause>,
    /// An end that came too late: the error in it is the user's to drop.
    pub(super) late: Option<End>,
}

/// What may take its time.
#[derive(Default)]
struct Calls {
    ours: Vec<Func>,
    /// Whatever else is to end with the contexts.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    tokens: Vec<super::token::Root>,
    users: Vec<Func>,
}

/// What is the users'.
struct Users {
    ended: Vec<Cause>,
    funcs: Vec<Func>,
    late: Option<End>,
}

impl Harvest {
    /// Takes all of a list in which there are no children, unless it has one: those that
    /// come later are told later.
    pub(super) fn takes_all(&mut self, list: &mut Members) -> bool {
        let is_first = self.is_empty();
        if is_first {
            std::mem::swap(&mut self.first, list);
        }
        is_first
    }

    pub(super) fn add(&mut self, member: Member) {
        match member {
            Member::Waiter(waker) => self.wakers.push(waker),
            Member::Func(func) if func.is_ours() => self.calls.ours.push(func),
            Member::Func(func) => self.calls.users.push(func),
            Member::Child(_) => unreachable!("children stay"),
        }
    }

    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn add_token(&mut self, token: super::token::Root) {
        self.calls.tokens.push(token);
    }

    /// What another sweep has found, told with this one's.
    #[cfg(all(unix, not(loom)))]
    pub(super) fn join(&mut self, other: Harvest) {
        let Harvest { first, wakers, calls, alarms, ended, late } = other;
        first.into_all().for_each(|member| self.add(member));
        self.wakers.extend(wakers);
        self.calls.append(calls);
        self.alarms.extend(alarms);
        self.ended.extend(ended);
        drop(late);
    }

    pub(super) fn report(&mut self, ended: &Cause) {
        if super::trace::is_heard() {
            self.ended.push(ended.clone());
        }
    }

    /// Tells everybody, on this thread.
    pub(super) fn run(&mut self) {
        #[cfg(not(loom))]
        if !self.is_empty() {
            return super::nested::tell(self);
        }
        self.tell();
    }

    /// The same, however many ends this one is inside of.
    pub(super) fn tell(&mut self) {
        let (mut calls, users) = self.wake();
        calls.make_ours_and_tokens();
        #[cfg(not(loom))]
        if rt::is_quells_own() {
            if let Some(users) = users.for_another_thread() {
                rt::leave_to_crew(rt::Clock::ambient(), Work::new(None, Some(users)));
            }
            return;
        }
        users.run();
    }

    /// Tells those who are never kept waiting for somebody else's code, and gives back the rest.
    #[cfg(not(loom))]
    pub(super) fn tell_those_who_wait(&mut self) -> Harvest {
        let (mut calls, Users { ended, funcs, late }) = self.wake();
        calls.make_ours();
        calls.users = funcs;
        Harvest { calls, ended, late, ..Harvest::default() }
    }

    /// Whether nobody is to be told.
    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.wakers.is_empty() && self.calls.is_empty()
    }

    /// Wakes everybody, and leaves what may take its time to another thread.
    pub(super) fn wake_and_leave_the_rest(mut self) -> Option<Work> {
        let (mut calls, users) = self.wake();
        let users = users.for_another_thread();
        let ours =
            (!calls.is_empty()).then(|| Box::new(move || calls.make_ours_and_tokens()) as Job);
        (ours.is_some() || users.is_some()).then(|| Work::new(ours, users))
    }

    /// Wakes everybody, and gives back what comes after that.
    fn wake(&mut self) -> (Calls, Users) {
        let later = std::mem::take(&mut self.calls);
        for member in std::mem::take(&mut self.first).into_all() {
            match member {
                Member::Waiter(waker) => rt::wake_next(PipelineId::NONE, [waker]),
                func => self.add(func),
            }
        }
        self.calls.append(later);
        rt::wake_next(PipelineId::NONE, self.wakers.drain(..));
        let mut calls = std::mem::take(&mut self.calls);
        let (ended, funcs) = (std::mem::take(&mut self.ended), std::mem::take(&mut calls.users));
        (calls, Users { ended, funcs, late: self.late.take() })
    }
}

impl Users {
    fn run(self) {
        // Whoever has been woken on this thread is not to wait for them.
        if !self.is_empty() {
            rt::gets_on();
        }
        for cause in self.ended {
            undisturbed(move || super::trace::ended(cause.seen()));
        }
        for func in self.funcs {
            undisturbed(|| func.run());
        }
        undisturbed(|| drop(self.late));
    }

    fn for_another_thread(self) -> Option<Job> {
        (!self.is_empty()).then(|| Box::new(move || self.run()) as Job)
    }

    fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.funcs.is_empty() && self.late.is_none()
    }
}

impl Calls {
    fn is_empty(&self) -> bool {
        #[cfg(all(feature = "tokio-util", not(loom)))]
        if !self.tokens.is_empty() {
            return false;
        }
        self.ours.is_empty() && self.users.is_empty()
    }

    fn append(&mut self, later: Calls) {
        self.ours.extend(later.ours);
        #[cfg(all(feature = "tokio-util", not(loom)))]
        self.tokens.extend(later.tokens);
        self.users.extend(later.users);
    }

    fn make_ours(&mut self) {
        for func in self.ours.drain(..) {
            undisturbed(|| func.run());
        }
    }

    fn make_ours_and_tokens(&mut self) {
        self.make_ours();
        #[cfg(all(feature = "tokio-util", not(loom)))]
        for token in self.tokens.drain(..) {
            undisturbed(|| token.cancel());
            rt::comes_next();
        }
    }
}
