//! Everybody who is to be told of an end, once all locks are gone.
//!
//! # Invariants
//!
//! 1. A harvest is run, or its pieces dropped, without any lock of quell's held.
//! 2. Wakers come before events and functions, and quell's own functions before the
//!    users': nobody waits to be woken, and no pipeline to be stopped, for somebody
//!    else's code. A token comes after quell's own, for what it wakes may be a context
//!    with functions of its own. Where those may not run, they are left to another thread, and
//!    so are events: subscribers, and how a cause displays itself, are the users'.
//! 3. A panic in one of them is caught and keeps no other from being told.
//! 4. Ends inside many others are told of before the outermost has been (`nested`); those
//!    who wait, and quell's own functions, are held up the last.

use super::after::Func;
use super::cause::Cause;
use super::members::{Member, Members};
use super::scope::End;
use crate::rt::{self, Job, Work, undisturbed};
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
        let calls = self.wake();
        let ended = std::mem::take(&mut self.ended);
        if calls.is_empty() && ended.is_empty() {
            return;
        }
        #[cfg(not(loom))]
        if rt::is_quells_own() {
            // What is quell's own is done here, as it would be elsewhere.
            let mut calls = calls;
            calls.make_ours_and_tokens();
            if let Some(users) = calls.leave_users(ended) {
                rt::leave_to_crew(rt::Clock::ambient(), Work::new(None, Some(users)));
            }
            return;
        }
        tell_events(ended);
        calls.make();
    }

    /// Tells those who are never kept waiting for somebody else's code, and gives back the rest.
    #[cfg(not(loom))]
    pub(super) fn tell_those_who_wait(&mut self) -> Harvest {
        let mut calls = self.wake();
        calls.make_ours();
        Harvest { calls, ended: std::mem::take(&mut self.ended), ..Harvest::default() }
    }

    /// Whether nobody is to be told.
    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.wakers.is_empty() && self.calls.is_empty()
    }

    /// Wakes everybody, and leaves what may take its time to another thread.
    pub(super) fn wake_and_leave_the_rest(mut self) -> Option<Work> {
        let mut calls = self.wake();
        let ended = std::mem::take(&mut self.ended);
        if calls.is_empty() && ended.is_empty() {
            return None;
        }
        let users = calls.leave_users(ended);
        let ours =
            (!calls.is_empty()).then(|| Box::new(move || calls.make_ours_and_tokens()) as Job);
        Some(Work::new(ours, users))
    }

    fn wake(&mut self) -> Calls {
        let later = std::mem::take(&mut self.calls);
        for member in std::mem::take(&mut self.first).into_all() {
            match member {
                Member::Waiter(waker) => rt::wake([waker]),
                func => self.add(func),
            }
        }
        self.calls.append(later);
        rt::wake(self.wakers.drain(..));
        if let Some(late) = self.late.take() {
            undisturbed(|| drop(late));
        }
        std::mem::take(&mut self.calls)
    }
}

fn make_users(users: Vec<Func>) {
    for func in users {
        undisturbed(|| func.run());
    }
}

fn tell_events(ended: Vec<Cause>) {
    for cause in ended {
        super::trace::ended(cause.seen());
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
        }
    }

    /// Runs the functions, and drops what they kept.
    fn make(mut self) {
        self.make_ours_and_tokens();
        make_users(self.users);
    }

    /// The users' functions, for another thread, and events with them.
    fn leave_users(&mut self, ended: Vec<Cause>) -> Option<Job> {
        let users = std::mem::take(&mut self.users);
        (!ended.is_empty() || !users.is_empty()).then(|| {
            Box::new(move || {
                tell_events(ended);
                make_users(users);
            }) as Job
        })
    }
}
