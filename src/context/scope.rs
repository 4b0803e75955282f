//! The part of a context that its parent knows: how it ended, and what to notify of that.
//!
//! A context that has no waiter, no after-function and nothing derived from it has no scope; it
//! asks its parent's. When it gets the first of these it gets a scope, and its parent's scope
//! keeps that (never the context) in its list of children.
//!
//! # Invariants
//!
//! 1. `end` is set once. A `cancel` or an alarm sets the `end` of its scope and sweeps the scope
//!    under the scope's lock, without releasing it in between. A mere look sets `end` without the
//!    lock and notifies nothing. If it found that a parent has ended, the parent's sweep follows.
//!    If it found that a deadline has passed, the alarm follows: it is armed while there is a
//!    waiter here or below, even if the first waiter comes after the look.
//! 2. A scope is in its parent's `children` from its registration to the drop of its context.
//!    Registration takes the parent's lock and is refused once the parent has ended, so a sweep of
//!    the parent sees every child that did not see the parent's end.
//! 3. A sweep holds the locks of the whole path from its root to where it is. Locks are taken
//!    parent first. So a thread that then gets the lock of a scope that was `swept`, in either
//!    mode, knows that everything below that scope is marked.
//! 4. Once a scope was harvested, its waiters and functions have been taken, and none are added
//!    after that. A sweep harvests only scopes that ended for its own reason (`by`) or by a
//!    deadline; all others it only marks. They belong to the `cancel` that ended them, which has
//!    promised to have made all notifications when it returns. A scope that a deadline ended
//!    belongs to no `cancel`, so a later `cancel` harvests it too: where its clock was moved, the
//!    alarm may take long to come.
//! 5. Wakers, user functions and user values are used and dropped only after every lock is
//!    released.
//!
//! A cancel that lost does not wait for a sweep that is under way. It marks its own subtree itself,
//! which has the same result.

use super::ContextError;
use super::after::Func;
use super::cause::Cause;
use super::harvest::Harvest;
use super::members::{Member, Members};
use crate::rt::Clock;
#[cfg(all(feature = "check", not(loom)))]
use crate::rt::world::{self, Look, WaitId};
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, ArcGuard, Latch, Lent, Mutex, lock_arc};
use std::task::Waker;
use std::time::{Duration, Instant};

// Aligned as `Tagged` asks.
#[repr(align(8))]
pub(super) struct Scope {
    end: Latch<End>,
    /// The clock by which to note the time when this ends, for children with deadlines that are
    /// not in the list: see [`End::came_after`].
    note: Latch<Box<Clock>>,
    pub(super) deadline: Option<Arc<Deadline>>,
    /// The key in the parent's list plus one, or zero if not registered. Written under the
    /// parent's lock.
    seat: AtomicUsize,
    /// How far sweeps have come: zero, or the greatest [`Mode`]. Written under the lock, and read
    /// without it by woken waiters, which then need not take their wakers back.
    swept: AtomicU8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many wait for the deadline, here or below.
    watchers: u32,
    /// Armed while there are watchers.
    alarm: Option<Box<crate::rt::Alarm>>,
    /// The parent of all tokens that were asked for.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    token: Option<super::token::Root>,
    members: Members,
}

/// How a scope ended.
pub(super) struct End {
    pub(super) cause: Cause,
    /// The address of the scope in which the end began.
    by: usize,
    /// The time of the end and its clock, if some child needs it noted.
    when: Option<Box<(Instant, Clock)>>,
}

/// A deadline of a context's own, which the context and its scope share. (A deadline inherited from
/// the parent stays the parent's.)
pub(super) struct Deadline {
    pub(super) at: Instant,
    /// The duration that was asked for, if it was not a point in time.
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
    /// The end of a linked parent that ended without a scope.
    pub(super) fn foreign(cause: Cause) -> Self {
        End { cause, by: 0, when: None }
    }

    fn is_deadline(&self) -> bool {
        self.cause.end() == ContextError::DeadlineExceeded
    }

    /// Whether a child with this deadline had already ended by it when this end came. If the time
    /// was not noted, the child was made or became known while the parent was ending, with its
    /// deadline ahead. The noted time is read just before the end becomes visible.
    pub(super) fn came_after(&self, deadline: &Deadline) -> bool {
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
    /// Sets `end` below it, to keep the promise of a cancel that lost.
    Mark = 1,
    /// The same, and takes everything that is to be notified.
    Harvest = 2,
}

struct Frame {
    state: ArcGuard<Scope, State>,
    mode: Mode,
    next: usize,
}

// Every field is written once, or under a lock, where nothing panics.
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

    /// Sets the end. `Err` gives back an end that came too late; either way there is an end when
    /// this returns.
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
        if let Some(deadline) = self.deadline.as_ref().filter(|own| parent.came_after(own)) {
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

    /// Ends as `elder`, a scope above, has ended, or should have ended by its deadline: as a look
    /// at the context would find.
    #[cfg(all(any(unix, feature = "tokio-util"), not(loom)))]
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

    /// Has the time of the end noted by this clock. False if another clock is used for that.
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
        // Relaxed: a stale `false` only leads to the parent's lock.
        self.seat.load(Ordering::Relaxed) != 0
    }

    /// Puts `child` into this scope's list, unless it is listed or this scope has ended.
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

    /// Lists a linked context under a further parent. The caller keeps the key. `None`: this scope
    /// has ended.
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
        // Relaxed: the context is being dropped, so it is no longer being registered.
        if let Some(key) = child.seat.load(Ordering::Relaxed).checked_sub(1) {
            self.remove(key);
        }
    }

    /// Adds a waker. `None`: the scope has ended.
    pub(super) fn wait(&self, waker: Waker) -> Option<usize> {
        let mut state = self.state.lock();
        if self.end.get().is_some() && !skip(Break::WaiterNotChecked) {
            drop(state);
            // Dropping a waker is user code: after the lock.
            drop(waker);
            return None;
        }
        Some(state.members.add(Member::Waiter(waker)))
    }

    /// Replaces the waker with this key. False: the scope has ended.
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
        // Cloning and dropping a waker is user code: outside of the lock.
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

    /// Takes a waker out, unless a sweep has taken it.
    pub(super) fn unwait(&self, key: usize) {
        if self.is_swept() {
            return;
        }
        self.remove(key);
    }

    /// Adds a function, or gives it back if the scope has ended.
    pub(super) fn add_func(&self, func: Func) -> Result<usize, Func> {
        let mut state = self.state.lock();
        if self.end.get().is_some() && !skip(Break::FuncNotChecked) {
            Err(func)
        } else {
            Ok(state.members.add(Member::Func(func)))
        }
    }

    /// The root of the tokens, made by `make` if there is none. `None`: the scope has ended.
    #[cfg(all(feature = "tokio-util", not(loom)))]
    pub(super) fn token(
        &self,
        make: impl FnOnce() -> super::token::Root,
    ) -> Option<super::token::Token> {
        let root_of = |state: &State| state.token.as_ref().map(|root| root.token().clone());
        if let Some(token) = root_of(&self.state.lock()) {
            return Some(token);
        }
        // Outside of the lock, because it may arm an alarm.
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

    /// Takes out the member with this key, unless a sweep has. In that case the key has not been
    /// given out again (invariant 4).
    pub(super) fn remove(&self, key: usize) {
        let mut state = self.state.lock();
        let Some(gone) = state.members.take(key) else { return };
        state.members.give_memory_back();
        drop(state);
        drop(gone);
    }

    /// Ends for `cause` if it has not ended. When this returns, everything below is marked. If this
    /// call ended it, the harvest has everything that is to be notified. `None`: it had been swept
    /// before.
    pub(super) fn cancel(this: Lent<'_, Self>, cause: Cause) -> Option<Harvest> {
        Scope::end_and_sweep(this, |harvest| {
            let when = this.note.get().map(|clock| Box::new((clock.now(), Clock::clone(clock))));
            match this.settle(End { cause, by: this.id(), when }) {
                Ok(end) => {
                    harvest.report(&end.cause);
                    Some(Mode::Harvest)
                }
                // A look came first.
                Err(late) => {
                    harvest.came_too_late(late);
                    match this.end() {
                        // Invariant 4.
                        Some(end) if end.is_deadline() => Some(Mode::Harvest),
                        // The cancel that ended it will harvest.
                        _ => (!skip(Break::LoserReturnsAtOnce)).then_some(Mode::Mark),
                    }
                }
            }
        })
    }

    /// Ends by its own deadline, which has passed, and harvests.
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

    /// Unless it has been swept before, calls `settle` to end it and sweeps in the mode which that
    /// returns, both under its lock.
    fn end_and_sweep(
        this: Lent<'_, Self>,
        settle: impl FnOnce(&mut Harvest) -> Option<Mode>,
    ) -> Option<Harvest> {
        // This need not be watched itself to have a watched context below it: one that is linked to
        // it, or to a context that ends with it.
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

    /// Whether a sweep has taken everything that is to be notified, or is about to.
    fn is_swept(&self) -> bool {
        // Relaxed: no data is read on the strength of this answer. Under the lock it is exact;
        // without, a stale `false` only leads to the lock.
        self.is_past(Mode::Harvest)
    }

    /// Whether a sweep in this mode has nothing left to do here.
    fn is_past(&self, mode: Mode) -> bool {
        // Relaxed: as in `is_swept`.
        self.swept.load(Ordering::Relaxed) >= mode as u8
    }

    /// Notes how far sweeps have come and, to harvest, takes everything that is to be notified.
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

    /// Adds a watcher of this scope's deadline, here or below; the first arms the alarm. It does so
    /// even if a look has found that the deadline has passed: the alarm then rings at once, and
    /// sweeps, which the look did not. Returns whether this armed it.
    pub(super) fn watch(this: Lent<'_, Self>) -> bool {
        let Some(deadline) = &this.deadline else { return false };
        {
            let mut state = this.state.lock();
            let trusts = skip(Break::WatchTrustsTheLook) && this.end.get().is_some();
            if state.watchers > 0 || this.is_swept() || trusts {
                state.watchers += 1;
                return false;
            }
        }
        // Outside of the lock, because it may start a thread, or fail to.
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
        let arms = needless.is_none();
        drop(needless);
        arms
    }

    /// Notes, for a checker, that the task being polled waits, here or below, and whether it armed
    /// the alarm for that.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn joined(&self, wait: WaitId, arms: bool) {
        if let Some(alarm) = &self.state.lock().alarm {
            alarm.joined(wait, arms);
        }
    }

    /// Notes, for a checker, that this wait is over.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn left(&self, wait: WaitId) {
        if let Some(alarm) = &self.state.lock().alarm {
            alarm.left(wait);
        }
    }

    /// The opposite of `watch`: the last watcher disarms the alarm.
    pub(super) fn unwatch(&self) {
        if self.deadline.is_some() {
            let mut state = self.state.lock();
            state.watchers -= 1;
            let alarm = if state.watchers == 0 { state.alarm.take() } else { None };
            drop(state);
            drop(alarm);
        }
    }

    /// Empties the scope of a context that is being dropped, unless a sweep has done so. The scope
    /// has no waiters; the list has only quell's own functions that keep no context alive: bridges
    /// from tokens, and places among those that wait for a signal. A handle to the scope may
    /// remain, in a stopped `AfterFunc` for one, and must not keep these. `_is_done`: whether the
    /// context has ended.
    #[cfg(not(loom))]
    pub(super) fn empty(&self, _is_done: impl FnOnce() -> bool) {
        if self.is_swept() {
            return;
        }
        let mut state = self.state.lock();
        let members = std::mem::take(&mut state.members);
        #[cfg(feature = "tokio-util")]
        let token = state.token.take();
        drop(state);
        drop(members);
        // It may have ended without a sweep, say by its deadline, and none comes any more.
        #[cfg(feature = "tokio-util")]
        if let Some(token) = token.filter(|_| _is_done()) {
            token.cancel();
        }
    }

    /// Resets the list, if it is empty and nothing else is kept here, so that the next members get
    /// the same places as in a new one, and are notified in the same order.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn reset_if_empty(&self) -> bool {
        let mut state = self.state.lock();
        #[cfg(feature = "tokio-util")]
        let keeps_token = state.token.is_some();
        #[cfg(not(feature = "tokio-util"))]
        let keeps_token = false;
        if self.end.get().is_some() || self.note.get().is_some() || keeps_token {
            return false;
        }
        state.members.reset_if_empty()
    }

    /// How many children are in the list, for the models.
    #[cfg(loom)]
    pub(super) fn children(&self) -> usize {
        self.state.lock().members.children()
    }
}

/// Goes down from a scope that has been visited and whose lock is held (invariant 3).
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
        // The path keeps the guard, so the guard must keep the child. Between the two locks
        // nothing is added, because the child has ended; but another sweep may come first.
        drop(state);
        let mut state = lock_arc(Arc::clone(child), |scope| &scope.state);
        let (child, locked) = state.parts();
        if !child.is_past(mode) {
            child.visit(locked, mode, harvest);
            path.push(Frame { state, mode, next: 0 });
        }
    }
}
