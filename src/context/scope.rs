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
//!    that was `swept`, in either mode, knows that everything below it is marked.
//! 4. Once it was harvested, waiters and functions have been taken; nothing is added
//!    after that. A sweep takes only what ended for its own reason (`by`)
//!    or by a deadline: the rest belongs to the `cancel` that ended it, which has
//!    promised to have told everybody when it returns. The rest it only marks.
//!    What a deadline ended belongs to nobody, so a `cancel` that comes after one takes
//!    it as well: the alarm may be long in coming, where its clock was moved.
//! 5. Wakers and users' functions and values are used and dropped only after
//!    every lock is gone.
//!
//! A cancel that lost does not wait for a sweep that is under way: it marks its
//! own subtree itself, which comes to the same.

use super::ContextError;
use super::after::Func;
use super::cause::Cause;
use super::harvest::Harvest;
use super::members::{Member, Members};
use crate::rt::Clock;
#[cfg(all(feature = "check", not(loom)))]
use crate::rt::world::{self, Look};
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, ArcGuard, Latch, Lent, Mutex, lock_arc};
use std::task::Waker;
use std::time::{Duration, Instant};

// Aligned as `Tagged` asks.
#[repr(align(8))]
pub(super) struct Scope {
    end: Latch<End>,
    /// The clock by which to note the time when this ends, for the children
    /// with deadlines that are not in the list: see [`End::outran`].
    note: Latch<Box<Clock>>,
    pub(super) deadline: Option<Arc<Deadline>>,
    /// Key in the parent's list plus one; zero: not registered. Written under
    /// the parent's lock.
    seat: AtomicUsize,
    /// How far sweeps have come: zero, or the greatest [`Mode`]. Written under the lock, and read
    /// without it by the many who have been woken and need not take anything back.
    swept: AtomicU8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many wait for the deadline, here or below, and the alarm that is
    /// armed while anybody does.
    watchers: u32,
    alarm: Option<Box<crate::rt::Alarm>>,
    /// The token of which all tokens that were asked for are children.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    token: Option<super::token::Root>,
    members: Members,
}

/// How a scope ended.
pub(super) struct End {
    pub(super) cause: Cause,
    /// Identifies the scope in which it began: its address.
    by: usize,
    /// When, by which clock, if anybody wanted it noted.
    when: Option<Box<(Instant, Clock)>>,
}

/// A deadline of a context's own (one it shares with its parent is its parent's), which the context
/// and its scope both have.
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
    /// known while the parent was ending, with its deadline ahead. Either way the time of an
    /// end is when whoever ends it looks, which is a moment before anybody can see it.
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
#[repr(u8)]
enum Mode {
    /// Sets `end` below it, for a promise made to a cancel that lost.
    Mark = 1,
    /// The same, and takes everybody who is to be told.
    Harvest = 2,
}

struct Frame {
    state: ArcGuard<Scope, State>,
    mode: Mode,
    next: usize,
}

// Everything in it is written once or under its lock, where nothing panics.
impl std::panic::UnwindSafe for Scope {}
impl std::panic::RefUnwindSafe for Scope {}

impl Scope {
    pub(super) fn new(deadline: Option<Arc<Deadline>>) -> Self {
        Scope {
            end: Latch::new(),
            note: Latch::new(),
            deadline,
            seat: AtomicUsize::new(0),
            swept: AtomicU8::new(0),
            state: Mutex::new(State::default()),
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
        let mut state = self.state.lock();
        let refused = self.end.get().is_some() || child.is_listed();
        if !refused {
            let key = state.members.add(newcomer);
            child.seat.store(key + 1, Ordering::Relaxed);
            return;
        }
        drop(state);
        drop(newcomer);
    }

    /// A second parent, for a linked context: the key is the caller's to keep.
    pub(super) fn adopt(&self, child: Lent<'_, Scope>) -> Option<usize> {
        let mut state = self.state.lock();
        if self.end.get().is_some() && !skip(Break::AdoptedTooLate) {
            None
        } else {
            Some(state.members.add(Member::Child(child.to_arc())))
        }
    }

    /// Takes `child`, whose context is being dropped, out of this scope's list.
    pub(super) fn dismiss(&self, child: &Scope) {
        if skip(Break::DeadChildStays) {
            return;
        }
        // Relaxed: the context is being dropped, so nobody registers it any more.
        if let Some(key) = child.seat.load(Ordering::Relaxed).checked_sub(1) {
            self.remove(key);
        }
    }

    /// Adds a waker. `None`: it has ended.
    pub(super) fn wait(&self, waker: Waker) -> Option<usize> {
        let mut state = self.state.lock();
        if self.end.get().is_some() && !skip(Break::WaiterNotChecked) {
            drop(state);
            // The waker is the user's to drop: after the lock.
            drop(waker);
            return None;
        }
        Some(state.members.add(Member::Waiter(waker)))
    }

    /// Changes the waker with this key. False: it has ended.
    pub(super) fn wait_with(&self, key: usize, waker: &Waker) -> bool {
        {
            let mut state = self.state.lock();
            if self.end.get().is_some() {
                return false;
            }
            if state.members.waker(key).will_wake(waker) || skip(Break::WakerNotReplaced) {
                return true;
            }
        }
        // Cloning a waker and dropping one is the user's code: outside of the lock.
        let new = waker.clone();
        let mut state = self.state.lock();
        if self.end.get().is_some() {
            drop(state);
            drop(new);
            return false;
        }
        let old = std::mem::replace(state.members.waker(key), new);
        drop(state);
        drop(old);
        true
    }

    /// Takes back a waker that was added, unless a sweep has.
    pub(super) fn unwait(&self, key: usize) {
        if self.is_swept() {
            return;
        }
        self.remove(key);
    }

    /// Adds a function; gives it back where the scope has ended.
    pub(super) fn add_func(&self, func: Func) -> Result<usize, Func> {
        let mut state = self.state.lock();
        if self.end.get().is_some() && !skip(Break::FuncNotChecked) {
            Err(func)
        } else {
            Ok(state.members.add(Member::Func(func)))
        }
    }

    /// The root of the tokens, which `make` makes where there is none; `None`: it has ended.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn token(
        &self,
        make: impl FnOnce() -> super::token::Root,
    ) -> Option<super::token::Token> {
        let root_of = |state: &State| state.token.as_ref().map(|root| root.token().clone());
        if let Some(token) = root_of(&self.state.lock()) {
            return Some(token);
        }
        // Outside of the lock: it may arm an alarm.
        let made = make();
        let mut state = self.state.lock();
        let mut spare = Some(made);
        if self.end.get().is_none() && state.token.is_none() {
            state.token = spare.take();
        }
        let token = root_of(&state);
        drop(state);
        drop(spare);
        token
    }

    /// Takes out the member with this key, if a sweep has not taken it: nobody else has been
    /// given its key since (invariant 4).
    pub(super) fn remove(&self, key: usize) {
        let mut state = self.state.lock();
        let Some(gone) = state.members.take(key) else { return };
        state.members.give_memory_back();
        drop(state);
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
                // Somebody's look came first.
                Err(late) => {
                    harvest.came_too_late(late);
                    match this.end() {
                        // Invariant 4.
                        Some(end) if end.is_deadline() => Some(Mode::Harvest),
                        // Whoever it was that ended it will harvest.
                        _ => (!skip(Break::LoserReturnsAtOnce)).then_some(Mode::Mark),
                    }
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
        let mut state = this.state.lock();
        if this.is_swept() {
            return None;
        }
        let mut harvest = Harvest::default();
        if !state.members.has_children() {
            if let Some(mode) = settle(&mut harvest) {
                this.visit(&mut state, mode, &mut harvest);
            }
            return Some(harvest);
        }
        drop(state);
        let mut state = lock_arc(this.to_arc(), |scope| &scope.state);
        if !this.is_swept() {
            let mode = settle(&mut harvest);
            if let Some(mode) = mode.filter(|&mode| !this.is_past(mode)) {
                this.visit(&mut state, mode, &mut harvest);
                sweep(state, mode, &mut harvest);
            }
        }
        Some(harvest)
    }

    /// Whether a sweep has taken everybody who was to be told, or is about to.
    fn is_swept(&self) -> bool {
        // Relaxed: nothing is read by this answer. Who has the lock knows it for certain;
        // a stale "no" only leads to the lock.
        self.is_past(Mode::Harvest)
    }

    /// Whether a sweep has nothing to do here any more.
    fn is_past(&self, mode: Mode) -> bool {
        // Relaxed: as in `is_swept`.
        self.swept.load(Ordering::Relaxed) >= mode as u8
    }

    /// Marks, and takes everybody who is to be told.
    fn visit(&self, state: &mut State, mode: Mode, harvest: &mut Harvest) {
        self.swept.store(mode as u8, Ordering::Relaxed);
        if mode == Mode::Mark {
            return;
        }
        if let Some(alarm) = state.alarm.take() {
            harvest.disarm(*alarm);
        }
        #[cfg(all(feature = "tokio-util", not(loom)))]
        if let Some(token) = state.token.take() {
            harvest.add_token(token);
        }
        if !state.members.has_children() && harvest.takes_all(&mut state.members) {
            return;
        }
        state.members.take_all_but_children(|member| harvest.add(member));
    }

    /// Somebody, here or below, waits for this scope's deadline: the first arms
    /// the alarm. It does so even where a look has found that the deadline has
    /// passed: the alarm then rings at once, and sweeps, which the look did not.
    pub(super) fn watch(this: Lent<'_, Self>) {
        let Some(deadline) = &this.deadline else { return };
        {
            let mut state = this.state.lock();
            let trusts = skip(Break::WatchTrustsTheLook) && this.end.get().is_some();
            if state.watchers > 0 || this.is_swept() || trusts {
                state.watchers += 1;
                return;
            }
        }
        // Outside of the lock: it may start a thread, or fail to.
        let scope = this.to_arc();
        let bell = Box::new(move || Scope::ring(Lent::from(&scope))?.wake_and_leave_the_rest());
        let alarm = Box::new(deadline.clock.arm(deadline.at, bell));
        let mut state = this.state.lock();
        state.watchers += 1;
        let needless = if this.is_swept() || state.alarm.is_some() {
            Some(alarm)
        } else {
            state.alarm = Some(alarm);
            None
        };
        drop(state);
        drop(needless);
    }

    /// The task that is being polled waits, here or below, and may not be whoever armed it.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn awaited(&self) {
        if let Some(alarm) = &self.state.lock().alarm {
            alarm.awaited(false);
        }
    }

    /// The opposite of `watch`: the last one disarms.
    pub(super) fn unwatch(&self) {
        if self.deadline.is_some() {
            let mut state = self.state.lock();
            state.watchers -= 1;
            let alarm = if state.watchers == 0 { state.alarm.take() } else { None };
            drop(state);
            drop(alarm);
        }
    }

    /// Its context is being dropped: nobody waits, and so no alarm is armed, but for the token;
    /// and who is in the list are bridges from tokens, which keep no context alive. Whoever still
    /// holds this, as a function that was stopped does, is to hold nothing but this.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn drop_tokens(&self) {
        if !self.is_swept() {
            let mut state = self.state.lock();
            let gone = (state.token.take(), std::mem::take(&mut state.members));
            drop(state);
            drop(gone);
        }
    }

    /// Has its list begin anew, where nobody is left in it and nothing else is kept here:
    /// the next to come get the same places in it as in a new one, and are told in the same
    /// order.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn begins_anew(&self) -> bool {
        let mut state = self.state.lock();
        #[cfg(feature = "tokio-util")]
        let keeps_token = state.token.is_some();
        #[cfg(not(feature = "tokio-util"))]
        let keeps_token = false;
        if self.end.get().is_some() || self.note.get().is_some() || keeps_token {
            return false;
        }
        state.members.begin_anew()
    }

    /// How many children are in the list: for the models.
    #[cfg(loom)]
    pub(super) fn children(&self) -> usize {
        self.state.lock().members.children()
    }
}

/// Goes down from a scope that has been visited and whose lock is held
/// (invariant 3).
fn sweep(root: ArcGuard<Scope, State>, mode: Mode, harvest: &mut Harvest) {
    let mut path = vec![Frame { state: root, mode, next: 0 }];
    while let Some(Frame { state, mode, next }) = path.last_mut() {
        let Some((key, child)) = state.members.child(*next) else {
            path.pop();
            continue;
        };
        *next = key + 1;
        let end = state.owner().end.get().expect("a sweep goes below what has ended");
        let (childs, ended_now) = child.inherit(end);
        if ended_now {
            harvest.report(&childs.cause);
        }
        // Invariant 4.
        let theirs = childs.by != end.by && !childs.is_deadline();
        let mode = if theirs && !skip(Break::SweepTakesOthersWaiters) { Mode::Mark } else { *mode };
        let mut state = child.state.lock();
        if child.is_past(mode) {
            continue;
        }
        if !state.members.has_children() {
            child.visit(&mut state, mode, harvest);
            continue;
        }
        // The path keeps the guard, so the guard keeps the child. Nothing is added in
        // between, for the child has ended; another sweep may come first.
        drop(state);
        let mut state = lock_arc(Arc::clone(child), |scope| &scope.state);
        let (child, locked) = state.parts();
        if !child.is_past(mode) {
            child.visit(locked, mode, harvest);
            path.push(Frame { state, mode, next: 0 });
        }
    }
}
