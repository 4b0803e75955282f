//! The part of a context that its parent knows: how it ended, and who is to be
//! told.
//!
//! A context that nobody waits for and nothing is derived from has no scope; it
//! asks its parent's. The moment it gets a child, a waiter or an after-function
//! it gets a scope, and its parent's scope keeps that (never the context) in
//! its list of children.
//!
//! # Invariants
//!
//! 1. `end` is set once. A scope that is set to end by a `cancel` or an alarm is
//!    set, and swept, under its own lock without a break. A mere look sets `end`
//!    without the lock and tells nobody. Where it looked at a parent that has
//!    ended, the parent's sweep comes by. Where it looked at a deadline that has
//!    passed, the alarm comes: it is armed while anybody waits below, also if
//!    the first to wait comes after the look.
//! 2. A scope is in its parent's `children` from its registration to the drop
//!    of its context. Registration takes the parent's lock and is refused once
//!    the parent has ended, so a sweep of the parent sees every child that did
//!    not see the parent's end.
//! 3. A sweep holds the locks of the whole path from its root to where it is.
//!    Locks are taken parent first. So whoever then gets the lock of a scope
//!    that was `swept` knows that everything below it is marked.
//! 4. `swept` says that waiters and functions have been taken; nothing is added
//!    after `end` is set. A sweep takes only what ended for its own reason (`by`)
//!    or by a deadline: the rest belongs to the `cancel` that ended it, which has
//!    promised to have told everybody when it returns. The rest it only marks.
//! 5. Wakers and users' functions and values are used and dropped only after
//!    every lock is gone.
//!
//! A cancel that lost does not wait for a sweep that is under way: it marks its
//! own subtree itself, which comes to the same.

use super::ContextError;
use super::after::Func;
use super::cause::Cause;
use super::harvest::Harvest;
use crate::rt::Clock;
#[cfg(all(feature = "check", not(loom)))]
use crate::rt::world::{self, Look};
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, ArcGuard, Latch, Lent, Mutex, lock_arc};
use slab::Slab;
use std::task::Waker;
use std::time::{Duration, Instant};

// Aligned as `Tagged` asks.
#[repr(align(8))]
pub(super) struct Scope {
    end: Latch<End>,
    /// The clock by which to note the time when this ends, for the children
    /// with deadlines that are not in the list: see [`End::outran`].
    note: Latch<Box<Clock>>,
    pub(super) deadline: Option<Deadline>,
    /// Key in the parent's list plus one; zero: not registered. Written under
    /// the parent's lock.
    seat: AtomicUsize,
    /// One once it has been swept. Written under the lock, and read without it by the
    /// many who have been woken and need not take anything back.
    swept: AtomicU8,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    marked: bool,
    /// How many wait for the deadline, here or below, and the alarm that is
    /// armed while anybody does.
    watchers: u32,
    alarm: Option<Box<crate::rt::Alarm>>,
    /// The token of which all tokens that were asked for are children.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    token: Option<super::token::Root>,
    /// How many of them are children.
    children: u32,
    /// How many have places that are not in the first quarter of the list's memory.
    behind: u32,
    all: Slab<Member>,
}

/// Who is to be told of an end.
pub(super) enum Member {
    Child(Arc<Scope>),
    Waiter(Waker),
    Func(Func),
}

/// How a scope ended.
pub(super) struct End {
    pub(super) cause: Cause,
    /// Identifies the scope in which it began: its address.
    by: usize,
    /// When, by which clock, if anybody wanted it noted.
    when: Option<Box<(Instant, Clock)>>,
}

/// A deadline of a context's own (one it shares with its parent is its parent's).
#[derive(Clone)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    /// How much time was asked for, where it was not asked for by the clock.
    pub(super) asked: Option<Duration>,
    pub(super) clock: Clock,
    pub(super) cause: Cause,
}

impl Deadline {
    pub(super) fn has_passed(&self) -> bool {
        self.clock.now() >= self.at
    }
}

impl End {
    /// An end whose scope is not known: of a linked context that ended without one.
    pub(super) fn foreign(cause: Cause) -> Self {
        End { cause, by: 0, when: None }
    }

    fn is_deadline(&self) -> bool {
        self.cause.end() == ContextError::DeadlineExceeded
    }

    /// Whether a child with this deadline had already ended by it when this end
    /// came. Where the time was not noted, the child was made or came to be
    /// known while the parent was ending, with its deadline ahead.
    pub(super) fn outran(&self, deadline: &Deadline) -> bool {
        match self.when.as_deref() {
            Some((when, clock)) if clock.same(&deadline.clock) => deadline.at <= *when,
            Some(_) => deadline.has_passed(),
            None => false,
        }
    }
}

const SETTLED: &str = "a latch that refuses a value has one";

/// What a sweep does with a scope it comes to.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Sets `end` below it, for a promise made to a cancel that lost.
    Mark,
    /// The same, and takes everybody who is to be told.
    Harvest,
}

struct Frame {
    members: ArcGuard<Scope, Members>,
    mode: Mode,
    next: usize,
}

// Everything in it is written once or under its lock, where nothing panics.
impl std::panic::UnwindSafe for Scope {}
impl std::panic::RefUnwindSafe for Scope {}

impl Scope {
    pub(super) fn new(deadline: Option<Deadline>) -> Self {
        Scope {
            end: Latch::new(),
            note: Latch::new(),
            deadline,
            seat: AtomicUsize::new(0),
            swept: AtomicU8::new(0),
            members: Mutex::new(Members::default()),
        }
    }

    #[inline]
    pub(super) fn end(&self) -> Option<&End> {
        self.end.get()
    }

    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Sets the end. `Err` gives back the one that came too late; either way
    /// there is an end when this returns.
    fn settle(&self, end: End) -> Result<&End, End> {
        self.end.set(end)
    }

    /// Ends by its own deadline, unless it has ended before. True if this call
    /// ended it.
    pub(super) fn settle_deadline(&self, deadline: &Deadline) -> (&End, bool) {
        let when = self.note.get().map(|_| Box::new((deadline.at, deadline.clock.clone())));
        let end = End { cause: deadline.cause.clone(), by: self.id(), when };
        match self.settle(end) {
            Ok(end) => (end, true),
            Err(_late) => (self.end.get().expect(SETTLED), false),
        }
    }

    /// Ends as its parent did, or by a deadline of its own that came first,
    /// unless it has ended before. True if this call ended it by that deadline.
    pub(super) fn inherit(&self, parent: &End) -> (&End, bool) {
        if let Some(end) = self.end.get() {
            return (end, false);
        }
        if let Some(deadline) = self.deadline.as_ref().filter(|own| parent.outran(own)) {
            return self.settle_deadline(deadline);
        }
        let when = self.note.get().map(|clock| match parent.when.as_deref() {
            Some((when, noted)) if noted.same(clock) => Box::new((*when, Clock::clone(clock))),
            _ => Box::new((clock.now(), Clock::clone(clock))),
        });
        let end = End { cause: parent.cause.clone(), by: parent.by, when };
        match self.settle(end) {
            Ok(end) => (end, false),
            Err(_late) => (self.end.get().expect(SETTLED), false),
        }
    }

    /// Ends as `elder`, a scope above, has ended or should have by its deadline: as a look
    /// at the context would find.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn end_with(&self, elder: &Scope) {
        if let Some(passed) = elder.deadline.as_ref().filter(|own| own.has_passed()) {
            let (end, first) = elder.settle_deadline(passed);
            if first {
                super::trace::ended(end.cause.seen());
            }
        }
        if let Some(end) = elder.end() {
            self.inherit(end);
        }
    }

    /// Notes the time by this clock when it ends. False if it already does so
    /// by another.
    pub(super) fn note_time_by(&self, clock: &Clock) -> bool {
        match self.note.get() {
            Some(noted) => noted.same(clock),
            None => match self.note.set(Box::new(clock.clone())) {
                Ok(_) => true,
                Err(_late) => self.note.get().expect(SETTLED).same(clock),
            },
        }
    }

    /// Whether it is in its parent's list.
    pub(super) fn is_listed(&self) -> bool {
        // Relaxed: a stale "no" only leads to the parent's lock.
        self.seat.load(Ordering::Relaxed) != 0
    }

    /// Puts `child` into this scope's list, unless it is there or this has ended.
    pub(super) fn register(&self, child: Lent<'_, Scope>) {
        if child.is_listed() {
            return;
        }
        let newcomer = Member::Child(child.to_arc());
        let mut members = self.members.lock();
        let refused = self.end.get().is_some() || child.is_listed();
        if !refused {
            let key = members.add(newcomer);
            child.seat.store(key + 1, Ordering::Relaxed);
            return;
        }
        drop(members);
        drop(newcomer);
    }

    /// A second parent, for a linked context: the key is the caller's to keep.
    pub(super) fn adopt(&self, child: Lent<'_, Scope>) -> Option<usize> {
        let mut members = self.members.lock();
        if self.end.get().is_some() && !skip(Break::AdoptedTooLate) {
            None
        } else {
            Some(members.add(Member::Child(child.to_arc())))
        }
    }

    /// Takes `child`, whose context is being dropped, out of this scope's list.
    pub(super) fn dismiss(&self, child: &Scope) {
        if skip(Break::DeadChildStays) {
            return;
        }
        // Relaxed: the context is being dropped, so nobody registers it any more.
        if let Some(key) = child.seat.load(Ordering::Relaxed).checked_sub(1) {
            self.remove(key, |_| true);
        }
    }

    /// Adds a waker. `None`: it has ended.
    pub(super) fn wait(&self, waker: Waker) -> Option<usize> {
        let mut members = self.members.lock();
        if self.end.get().is_some() && !skip(Break::WaiterNotChecked) {
            drop(members);
            // The waker is the user's to drop: after the lock.
            drop(waker);
            return None;
        }
        Some(members.add(Member::Waiter(waker)))
    }

    /// Changes the waker with this key. False: it has ended.
    pub(super) fn wait_with(&self, key: usize, waker: &Waker) -> bool {
        {
            let mut members = self.members.lock();
            if self.end.get().is_some() {
                return false;
            }
            if members.waker(key).will_wake(waker) || skip(Break::WakerNotReplaced) {
                return true;
            }
        }
        // Cloning a waker and dropping one is the user's code: outside of the lock.
        let new = waker.clone();
        let mut members = self.members.lock();
        if self.end.get().is_some() {
            drop(members);
            drop(new);
            return false;
        }
        let old = std::mem::replace(members.waker(key), new);
        drop(members);
        drop(old);
        true
    }

    /// Takes back a waker that was added, unless a sweep has.
    pub(super) fn unwait(&self, key: usize) {
        if self.is_swept() {
            return;
        }
        self.remove(key, |member| matches!(member, Member::Waiter(_)));
    }

    /// Adds a function; gives it back where the scope has ended.
    pub(super) fn add_func(&self, func: Func) -> Result<usize, Func> {
        let mut members = self.members.lock();
        if self.end.get().is_some() && !skip(Break::FuncNotChecked) {
            Err(func)
        } else {
            Ok(members.add(Member::Func(func)))
        }
    }

    /// The root of the tokens, which `make` makes where there is none; `None`: it has ended.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn token(
        &self,
        make: impl FnOnce() -> super::token::Root,
    ) -> Option<super::token::Token> {
        let root_of = |members: &Members| members.token.as_ref().map(|root| root.token().clone());
        if let Some(token) = root_of(&self.members.lock()) {
            return Some(token);
        }
        // Outside of the lock: it may arm an alarm.
        let made = make();
        let mut members = self.members.lock();
        let mut spare = Some(made);
        if self.end.get().is_none() && members.token.is_none() {
            members.token = spare.take();
        }
        let token = root_of(&members);
        drop(members);
        drop(spare);
        token
    }

    /// Takes out the member with this key, if a sweep has not taken it and it is
    /// still the one that is meant.
    pub(super) fn remove(&self, key: usize, is_meant: impl FnOnce(&Member) -> bool) {
        let mut members = self.members.lock();
        let gone = match members.all.get(key) {
            _ if skip(Break::SweptIsTakenBack) => Some(members.all.remove(key)),
            Some(member) if is_meant(member) => members.take(key),
            _ => None,
        };
        let Some(gone) = gone else { return };
        if members.behind == 0 && members.all.capacity() > 64 {
            members.give_memory_back();
        }
        drop(members);
        drop(gone);
    }

    /// Ends for `cause` if it has not ended; everything below it is marked when
    /// this returns. What is to be told is in the harvest, if this call was the
    /// one that ended it. `None`: it had been swept before.
    pub(super) fn cancel(this: Lent<'_, Self>, cause: Cause) -> Option<Harvest> {
        Scope::end_and_sweep(this, |harvest| {
            let when = this.note.get().map(|clock| Box::new((clock.now(), Clock::clone(clock))));
            match this.settle(End { cause, by: this.id(), when }) {
                Ok(end) => {
                    harvest.report(&end.cause);
                    Some(Mode::Harvest)
                }
                // Somebody's look came first: whoever it was that ended it will harvest.
                Err(late) => {
                    harvest.late = Some(late);
                    (!skip(Break::LoserReturnsAtOnce)).then_some(Mode::Mark)
                }
            }
        })
    }

    /// Ends by its own deadline, which has passed, and tells everybody.
    fn ring(this: Lent<'_, Self>) -> Option<Harvest> {
        let deadline = this.deadline.as_ref().expect("only a deadline rings");
        Scope::end_and_sweep(this, |harvest| {
            let (end, ended_now) = this.settle_deadline(deadline);
            if ended_now {
                harvest.report(&end.cause);
            }
            (end.by == this.id() && end.is_deadline()).then_some(Mode::Harvest)
        })
    }

    /// Ends it with `settle` and sweeps as that says, both under its lock, unless
    /// it has been swept before.
    fn end_and_sweep(
        this: Lent<'_, Self>,
        settle: impl FnOnce(&mut Harvest) -> Option<Mode>,
    ) -> Option<Harvest> {
        // A context that a checker watches may be below this one, which is anybody's: linked
        // to it, or to what ends with it.
        #[cfg(all(feature = "check", not(loom)))]
        world::looked(Look::Stirred);
        let mut members = this.members.lock();
        if this.is_swept() {
            return None;
        }
        let mut harvest = Harvest::default();
        if members.children == 0 {
            if let Some(mode) = settle(&mut harvest) {
                this.visit(&mut members, mode, &mut harvest);
            }
            return Some(harvest);
        }
        drop(members);
        let mut members = lock_arc(this.to_arc(), |scope| &scope.members);
        if !this.is_swept() {
            let mode = settle(&mut harvest);
            if let Some(mode) = mode.filter(|&mode| !this.is_past(&members, mode)) {
                this.visit(&mut members, mode, &mut harvest);
                sweep(members, mode, &mut harvest);
            }
        }
        Some(harvest)
    }

    /// Whether a sweep has taken everybody who was to be told, or is about to.
    fn is_swept(&self) -> bool {
        // Relaxed: nothing is read by this answer. Who has the lock knows it for certain;
        // a stale "no" only leads to the lock.
        self.swept.load(Ordering::Relaxed) != 0
    }

    /// Whether a sweep has nothing to do here any more.
    fn is_past(&self, members: &Members, mode: Mode) -> bool {
        self.is_swept() || (mode == Mode::Mark && members.marked)
    }

    /// Marks, and takes everybody who is to be told.
    fn visit(&self, members: &mut Members, mode: Mode, harvest: &mut Harvest) {
        members.marked = true;
        if mode == Mode::Mark {
            return;
        }
        self.swept.store(1, Ordering::Relaxed);
        harvest.alarms.extend(members.alarm.take().map(|alarm| *alarm));
        #[cfg(all(feature = "tokio-util", not(loom)))]
        if let Some(token) = members.token.take() {
            harvest.add_token(token);
        }
        if members.children == 0 && harvest.takes_all(&mut members.all) {
            return;
        }
        if members.all.len() > members.children as usize {
            for key in 0..members.all.capacity() {
                if let Some(Member::Waiter(_) | Member::Func(_)) = members.all.get(key) {
                    harvest.add(members.take(key).expect("it was just there"));
                }
            }
        }
    }

    /// Somebody, here or below, waits for this scope's deadline: the first arms
    /// the alarm. It does so even where a look has found that the deadline has
    /// passed: the alarm then rings at once, and sweeps, which the look did not.
    pub(super) fn watch(this: Lent<'_, Self>) {
        let Some(deadline) = &this.deadline else { return };
        {
            let mut members = this.members.lock();
            let trusts = skip(Break::WatchTrustsTheLook) && this.end.get().is_some();
            if members.watchers > 0 || this.is_swept() || trusts {
                members.watchers += 1;
                return;
            }
        }
        // Outside of the lock: it may start a thread, or fail to.
        let scope = this.to_arc();
        let bell = Box::new(move || Scope::ring(Lent::from(&scope))?.wake_and_leave_the_rest());
        let alarm = Box::new(deadline.clock.arm(deadline.at, bell));
        let mut members = this.members.lock();
        members.watchers += 1;
        let needless = if this.is_swept() || members.alarm.is_some() {
            Some(alarm)
        } else {
            members.alarm = Some(alarm);
            None
        };
        drop(members);
        drop(needless);
    }

    /// The task that is being polled waits, here or below, and may not be whoever armed it.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn awaited(&self) {
        if let Some(alarm) = &self.members.lock().alarm {
            alarm.awaited(false);
        }
    }

    /// The opposite of `watch`: the last one disarms.
    pub(super) fn unwatch(&self) {
        if self.deadline.is_some() {
            let mut members = self.members.lock();
            members.watchers -= 1;
            let alarm = if members.watchers == 0 { members.alarm.take() } else { None };
            drop(members);
            drop(alarm);
        }
    }

    /// Nobody waits any more: its context is being dropped. Whoever still holds this, as a
    /// function that was stopped does, is to hold nothing but this.
    pub(super) fn disarm(&self) {
        let may_keep = self.deadline.is_some() || cfg!(all(feature = "tokio-util", not(loom)));
        if may_keep && !self.is_swept() {
            let mut members = self.members.lock();
            let _alarm = members.alarm.take();
            #[cfg(all(feature = "tokio-util", not(loom)))]
            let _token = members.token.take();
            drop(members);
        }
    }

    /// Has its list begin anew, where nobody is left in it and nothing else is kept here:
    /// the next to come get the same places in it as in a new one, and are told in the same
    /// order.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn begins_anew(&self) -> bool {
        let mut members = self.members.lock();
        #[cfg(feature = "tokio-util")]
        let keeps_token = members.token.is_some();
        #[cfg(not(feature = "tokio-util"))]
        let keeps_token = false;
        if self.end.get().is_some() || self.note.get().is_some() || keeps_token {
            return false;
        }
        let nobody = members.all.is_empty();
        if nobody {
            members.all.clear();
        }
        nobody
    }

    /// How many children are in the list: for the models.
    #[cfg(loom)]
    pub(super) fn children(&self) -> usize {
        self.members.lock().children as usize
    }
}

impl Members {
    fn add(&mut self, member: Member) -> usize {
        if self.all.len() == self.all.capacity() {
            self.grow();
        }
        self.children += u32::from(matches!(member, Member::Child(_)));
        let key = self.all.insert(member);
        self.behind += self.is_behind(key);
        key
    }

    fn grow(&mut self) {
        match self.all.capacity() {
            // One is the usual number.
            0 => self.all = Slab::with_capacity(1),
            1 => {
                // A new list takes half of the time that it takes to have so small a one grow.
                let first = std::mem::replace(&mut self.all, Slab::with_capacity(4));
                for (_, member) in first {
                    self.all.insert(member);
                }
            }
            room => self.all.reserve(room),
        }
        // There is nobody missing among those in front.
        self.behind = self.all.len().saturating_sub(self.all.capacity() / 4) as u32;
    }

    /// One or none, to be counted in `behind`.
    fn is_behind(&self, key: usize) -> u32 {
        u32::from(key >= self.all.capacity() / 4)
    }

    /// A crowd has left: the memory behind those who stay goes too, three quarters of it or
    /// more. Nobody changes places.
    #[cold]
    fn give_memory_back(&mut self) {
        self.all.shrink_to_fit();
        self.behind = self.all.iter().map(|(key, _)| self.is_behind(key)).sum();
    }

    fn take(&mut self, key: usize) -> Option<Member> {
        let member = self.all.try_remove(key)?;
        self.children -= u32::from(matches!(member, Member::Child(_)));
        self.behind -= self.is_behind(key);
        Some(member)
    }

    fn waker(&mut self, key: usize) -> &mut Waker {
        match &mut self.all[key] {
            Member::Waiter(waker) => waker,
            Member::Child(_) | Member::Func(_) => unreachable!("the key is a waiter's"),
        }
    }

    /// The first child whose key is not below `from`.
    fn child(&self, from: usize) -> Option<(usize, &Arc<Scope>)> {
        (from..self.all.capacity()).find_map(|key| match self.all.get(key) {
            Some(Member::Child(child)) => Some((key, child)),
            _ => None,
        })
    }
}

/// Goes down from a scope that has been visited and whose lock is held
/// (invariant 3).
fn sweep(root: ArcGuard<Scope, Members>, mode: Mode, harvest: &mut Harvest) {
    let mut path = vec![Frame { members: root, mode, next: 0 }];
    while let Some(Frame { members, mode, next }) = path.last_mut() {
        let Some((key, child)) = members.child(*next) else {
            path.pop();
            continue;
        };
        *next = key + 1;
        let end = members.owner().end.get().expect("a sweep goes below what has ended");
        let (childs, ended_now) = child.inherit(end);
        if ended_now {
            harvest.report(&childs.cause);
        }
        // Invariant 4.
        let theirs = childs.by != end.by && !childs.is_deadline();
        let mode = if theirs && !skip(Break::SweepTakesOthersWaiters) { Mode::Mark } else { *mode };
        let mut members = child.members.lock();
        if child.is_past(&members, mode) {
            continue;
        }
        if members.children == 0 {
            child.visit(&mut members, mode, harvest);
            continue;
        }
        // The path keeps the guard, so the guard keeps the child. Nothing is added in
        // between, for the child has ended; another sweep may come first.
        drop(members);
        let mut members = lock_arc(Arc::clone(child), |scope| &scope.members);
        let (child, locked) = members.parts();
        if !child.is_past(locked, mode) {
            child.visit(locked, mode, harvest);
            path.push(Frame { members, mode, next: 0 });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
