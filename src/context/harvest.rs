//! Everybody who is to be told of an end, once all locks are gone.
//!
//! # Invariants
//!
//! 1. A harvest is run, or its pieces dropped, without any lock of quell's held.
//! 2. Wakers come first, then quell's own functions, then what is the users': nobody waits to
//!    be woken, and no pipeline to be stopped, for somebody else's code. Subscribers, how a
//!    cause displays itself and is dropped, and what goes with the last handle of a context, are
//!    the users' as well. A token comes after quell's own, for what it wakes may be a context with
//!    functions of its own. Where users' code may not run, it is left to another thread.
//! 3. A panic in one of them is caught and keeps no other from being told. An alarm that is not
//!    needed any more counts as one: the last of a cause may go with it.
//! 4. Ends inside many others are told of before the outermost has been (`nested`); those
//!    who wait, and quell's own functions, are held up the last.

use super::Context;
use super::after::Func;
use super::cause::Cause;
use super::members::{Member, Members};
use super::scope::End;
use crate::rt::{self, Work, undisturbed};
use crate::sync::{Arc, Mutex};
use std::task::Waker;

#[derive(Default)]
pub(super) struct Harvest {
    /// The whole list of the first who are to be told, as it was: mostly there are no others.
    first: Members,
    wakers: Vec<Waker>,
    ours: Ours,
    users: Users,
}

/// What is quell's own, and may take its time.
#[derive(Default)]
struct Ours {
    funcs: Vec<Func>,
    /// Whatever else is to end with the contexts.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    tokens: Vec<super::token::Root>,
    /// Not needed any more.
    alarms: Vec<rt::Alarm>,
}

/// What is the users', and comes last.
#[derive(Default)]
struct Users {
    /// Ended by this sweep, each for a reason of its own: there are subscribers.
    ended: Vec<Cause>,
    funcs: Vec<Func>,
    /// Ends that came too late: the error in one is the user's to drop.
    late: Vec<End>,
    /// Contexts that functions of quell's own have kept alive.
    kept: Vec<Context>,
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
            Member::Func(func) if func.is_ours() => self.ours.funcs.push(func),
            Member::Func(func) => self.users.funcs.push(func),
            Member::Child(_) => unreachable!("children stay"),
        }
    }

    pub(super) fn disarm(&mut self, alarm: rt::Alarm) {
        self.ours.alarms.push(alarm);
    }

    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn add_token(&mut self, token: super::token::Root) {
        self.ours.tokens.push(token);
    }

    /// What another sweep has found, told with this one's.
    #[cfg(all(unix, not(loom)))]
    pub(super) fn join(&mut self, other: Harvest) {
        let Harvest { first, wakers, ours, users } = other;
        first.into_all().for_each(|member| self.add(member));
        self.wakers.extend(wakers);
        self.ours.append(ours);
        self.users.append(users);
    }

    pub(super) fn report(&mut self, ended: &Cause) {
        if super::trace::is_heard() {
            self.users.ended.push(ended.clone());
        }
    }

    pub(super) fn came_too_late(&mut self, end: End) {
        self.users.late.push(end);
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
        let (ours, mut users) = self.wake();
        users.kept.extend(ours.run());
        users.tell();
    }

    /// Tells those who are never kept waiting for somebody else's code, and gives back the rest.
    #[cfg(not(loom))]
    pub(super) fn tell_those_who_wait(&mut self) -> Harvest {
        let (mut ours, mut users) = self.wake();
        users.kept.extend(ours.run_funcs());
        Harvest { ours, users, ..Harvest::default() }
    }

    /// Whether nobody is to be told.
    fn is_empty(&self) -> bool {
        self.first.is_empty()
            && self.wakers.is_empty()
            && self.ours.is_empty()
            && self.users.funcs.is_empty()
    }

    /// Wakes everybody, and leaves what may take its time to another thread.
    pub(super) fn wake_and_leave_the_rest(mut self) -> Option<Work> {
        let (ours, mut users) = self.wake();
        if ours.is_empty() {
            let _nobodys = ours.run();
            return (!users.is_empty()).then(|| Work::new(None, Some(Box::new(|| users.run()))));
        }
        // What quell's own have kept goes when the users' have run, which is after them.
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        let ours = Box::new(move || *keeps.lock() = ours.run());
        let users = Box::new(move || {
            users.kept.append(&mut kept.lock());
            users.run();
        });
        Some(Work::new(Some(ours), Some(users)))
    }

    /// Wakes everybody, and gives back what comes after that.
    fn wake(&mut self) -> (Ours, Users) {
        // They come after those of `first`.
        let (ours, users) = (std::mem::take(&mut self.ours), std::mem::take(&mut self.users));
        for member in std::mem::take(&mut self.first).into_all() {
            match member {
                Member::Waiter(waker) => rt::wake_now([waker]),
                func => self.add(func),
            }
        }
        self.ours.append(ours);
        self.users.append(users);
        rt::wake_now(self.wakers.drain(..));
        (std::mem::take(&mut self.ours), std::mem::take(&mut self.users))
    }
}

impl Users {
    /// On this thread, unless that is one of quell's own.
    fn tell(self) {
        if !self.is_empty() {
            rt::for_users(move || self.run());
        }
    }

    fn run(self) {
        // Whoever has been woken on this thread is not to wait for them.
        if !self.is_empty() {
            rt::free_woken();
        }
        for cause in self.ended {
            undisturbed(move || super::trace::ended(cause.seen()));
        }
        for func in self.funcs {
            undisturbed(|| drop(func.run()));
        }
        for end in self.late {
            undisturbed(|| drop(end));
        }
        for context in self.kept {
            undisturbed(|| drop(context));
        }
    }

    fn append(&mut self, later: Users) {
        self.ended.extend(later.ended);
        self.funcs.extend(later.funcs);
        self.late.extend(later.late);
        self.kept.extend(later.kept);
    }

    fn is_empty(&self) -> bool {
        let Users { ended, funcs, late, kept } = self;
        ended.is_empty() && funcs.is_empty() && late.is_empty() && kept.is_empty()
    }
}

impl Ours {
    /// Whether there is nobody to be told. (An alarm tells nobody.)
    fn is_empty(&self) -> bool {
        #[cfg(all(feature = "tokio-util", not(loom)))]
        if !self.tokens.is_empty() {
            return false;
        }
        self.funcs.is_empty()
    }

    fn append(&mut self, later: Ours) {
        self.funcs.extend(later.funcs);
        #[cfg(all(feature = "tokio-util", not(loom)))]
        self.tokens.extend(later.tokens);
        self.alarms.extend(later.alarms);
    }

    /// Gives back the contexts that they have kept alive, for later.
    fn run_funcs(&mut self) -> Vec<Context> {
        let run = self.funcs.drain(..).map(|func| undisturbed(|| func.run()).flatten());
        run.flatten().collect()
    }

    /// The same, and ends all else.
    fn run(mut self) -> Vec<Context> {
        let kept = self.run_funcs();
        #[cfg(all(feature = "tokio-util", not(loom)))]
        for token in self.tokens.drain(..) {
            undisturbed(|| token.cancel());
            rt::note_woken();
        }
        for alarm in self.alarms {
            undisturbed(move || drop(alarm));
        }
        kept
    }
}
