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
//!    set, and swept, under its own lock without a break. A mere look (at a
//!    parent that has ended, at a deadline that has passed) sets `end` without
//!    the lock and tells nobody: whoever sweeps, later, does.
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

use super::after::Func;
use super::cause::{Cause, Outcome};
use super::harvest::Harvest;
use crate::rt::Clock;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, ArcGuard, Latch, Mutex, lock_arc};
use slab::Slab;
use std::task::Waker;
use std::time::Instant;

pub(super) struct Scope {
    end: Latch<End>,
    pub(super) deadline: Option<Deadline>,
    /// The clock by which to note the time when this ends, for the children
    /// with deadlines that are not in the list: see [`End::outruns`].
    note: Latch<Clock>,
    /// Key in the parent's list plus one; zero: not registered. Written under
    /// the parent's lock.
    seat: AtomicUsize,
    members: Mutex<Members>,
}

#[derive(Default)]
pub(super) struct Members {
    marked: bool,
    swept: bool,
    children: Slab<Arc<Scope>>,
    waiters: Slab<Waker>,
    funcs: Slab<Func>,
}

/// How a scope ended.
#[derive(Clone)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    /// Identifies the scope in which it began: its address.
    by: usize,
    /// When, by which clock, if anybody wanted it noted.
    when: Option<(Instant, Clock)>,
}

/// A deadline of a context's own (one it shares with its parent is its parent's).
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) clock: Clock,
    pub(super) cause: Cause,
    /// How many wait for it, and the alarm that is armed while anybody does.
    #[cfg(not(loom))]
    watch: Mutex<(usize, Option<crate::rt::Alarm>)>,
}

impl Deadline {
    pub(super) fn new(at: Instant, clock: Clock, cause: Cause) -> Self {
        Deadline {
            at,
            clock,
            cause,
            #[cfg(not(loom))]
            watch: Mutex::new((0, None)),
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.clock.now() >= self.at
    }
}

impl End {
    /// Whether a child with this deadline had already ended by it when this end
    /// came. Where the time was not noted, the child was made or came to be
    /// known while the parent was ending, with its deadline ahead.
    fn outrun_by(&self, deadline: &Deadline) -> bool {
        match &self.when {
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

impl Scope {
    pub(super) fn new(deadline: Option<Deadline>) -> Self {
        Scope {
            end: Latch::new(),
            deadline,
            note: Latch::new(),
            seat: AtomicUsize::new(0),
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
        let end = End {
            outcome: Outcome::deadline(deadline.cause.clone()),
            by: self.id(),
            when: Some((deadline.at, deadline.clock.clone())),
        };
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
        if let Some(deadline) = self.deadline.as_ref().filter(|own| parent.outrun_by(own)) {
            return self.settle_deadline(deadline);
        }
        let when = self.note.get().map(|clock| match &parent.when {
            Some((when, noted)) if noted.same(clock) => (*when, clock.clone()),
            _ => (clock.now(), clock.clone()),
        });
        let end = End { outcome: parent.outcome.clone(), by: parent.by, when };
        match self.settle(end) {
            Ok(end) => (end, false),
            Err(_late) => (self.end.get().expect(SETTLED), false),
        }
    }

    /// Notes the time by this clock when it ends. False if it already does so
    /// by another.
    pub(super) fn note_time_by(&self, clock: &Clock) -> bool {
        match self.note.get() {
            Some(noted) => noted.same(clock),
            None => match self.note.set(clock.clone()) {
                Ok(_) => true,
                Err(_late) => self.note.get().expect(SETTLED).same(clock),
            },
        }
    }

    /// Puts `child` into this scope's list, unless it is there or this has ended.
    pub(super) fn register(&self, child: &Arc<Scope>) {
        // Relaxed: a stale zero only leads to the lock, under which it is asked again;
        // and no decision but this one hangs on the seat.
        if child.seat.load(Ordering::Relaxed) != 0 {
            return;
        }
        let newcomer = Arc::clone(child);
        let mut members = self.members.lock();
        let refused = self.end.get().is_some() || child.seat.load(Ordering::Relaxed) != 0;
        if !refused {
            let key = members.children.insert(newcomer);
            child.seat.store(key + 1, Ordering::Relaxed);
            return;
        }
        drop(members);
        drop(newcomer);
    }

    /// A second parent, for a linked context: the key is the caller's to keep.
    pub(super) fn adopt(&self, child: &Arc<Scope>) -> Option<usize> {
        let mut members = self.members.lock();
        if self.end.get().is_some() && !skip(Break::AdoptedTooLate) {
            None
        } else {
            Some(members.children.insert(Arc::clone(child)))
        }
    }

    /// Takes `child`, whose context is being dropped, out of this scope's list.
    pub(super) fn dismiss(&self, child: &Scope) {
        // Relaxed: the context is being dropped, so nobody registers it any more.
        if skip(Break::DeadChildStays) {
            return;
        }
        if let Some(key) = child.seat.load(Ordering::Relaxed).checked_sub(1) {
            self.dismiss_key(key);
        }
    }

    pub(super) fn dismiss_key(&self, key: usize) {
        let mut members = self.members.lock();
        let gone = members.children.remove(key);
        let memory = if_emptied(&mut members.children);
        drop(members);
        drop((gone, memory));
    }

    /// Adds a waker, or changes the one with this key. `None`: it has ended.
    pub(super) fn wait(&self, key: Option<usize>, waker: &Waker) -> Option<usize> {
        if let Some(key) = key {
            let members = self.members.lock();
            if self.end.get().is_some() {
                return None;
            }
            if members.waiters[key].will_wake(waker) {
                return Some(key);
            }
        }
        // Cloning and dropping a waker is the user's code: outside of the lock.
        let waker = waker.clone();
        let mut members = self.members.lock();
        let unchecked = key.is_none() && skip(Break::WaiterNotChecked);
        if self.end.get().is_some() && !unchecked {
            drop(members);
            return None;
        }
        match key {
            Some(key) => {
                let place = &mut members.waiters[key];
                let old = if skip(Break::WakerNotReplaced) {
                    waker
                } else {
                    std::mem::replace(place, waker)
                };
                drop(members);
                drop(old);
                Some(key)
            }
            None => Some(members.waiters.insert(waker)),
        }
    }

    /// Takes back a waker that was added.
    pub(super) fn unwait(&self, key: usize) {
        let mut members = self.members.lock();
        let gone = (!members.swept).then(|| members.waiters.remove(key));
        let memory = if_emptied(&mut members.waiters);
        drop(members);
        drop((gone, memory));
    }

    /// Adds a function; gives it back where the scope has ended.
    pub(super) fn add_func(&self, func: Func) -> Result<usize, Func> {
        let mut members = self.members.lock();
        if self.end.get().is_some() { Err(func) } else { Ok(members.funcs.insert(func)) }
    }

    /// Takes out the function with this key, if it is still the one meant.
    pub(super) fn remove_func(&self, key: usize, is_it: impl FnOnce(&Func) -> bool) {
        let mut members = self.members.lock();
        let gone = match members.funcs.get(key) {
            Some(func) if is_it(func) => Some(members.funcs.remove(key)),
            _ => None,
        };
        let memory = if_emptied(&mut members.funcs);
        drop(members);
        drop((gone, memory));
    }

    /// Ends for `outcome` if it has not ended; everything below it is marked
    /// when this returns. What is to be told is in the harvest, if this call
    /// was the one that ended it.
    pub(super) fn cancel(this: &Arc<Self>, outcome: Outcome) -> Harvest {
        let members = lock_arc(Arc::clone(this), |scope| &scope.members);
        if members.swept {
            return Harvest::default();
        }
        let when = this.note.get().map(|clock| (clock.now(), clock.clone()));
        match this.settle(End { outcome, by: this.id(), when }) {
            Ok(end) => {
                let ended = end.outcome.clone();
                sweep(members, Mode::Harvest).reporting(ended)
            }
            // Somebody's look came first: whoever it was that ended it will harvest.
            Err(_) if skip(Break::LoserReturnsAtOnce) => Harvest::default(),
            Err(late) => {
                let mut harvest = sweep(members, Mode::Mark);
                harvest.late = Some(late);
                harvest
            }
        }
    }

    /// Ends by its own deadline, which has passed, and tells everybody.
    #[cfg(not(loom))]
    fn ring(this: &Arc<Self>) -> Harvest {
        let members = lock_arc(Arc::clone(this), |scope| &scope.members);
        let deadline = this.deadline.as_ref().expect("only a deadline rings");
        let (end, ended_now) = this.settle_deadline(deadline);
        if members.swept || end.by != this.id() || !end.is_deadline() {
            return Harvest::default();
        }
        let ended = ended_now.then(|| end.outcome.clone());
        let harvest = sweep(members, Mode::Harvest);
        match ended {
            Some(outcome) => harvest.reporting(outcome),
            None => harvest,
        }
    }

    /// Somebody below waits for this scope's deadline: arms the alarm.
    #[cfg(not(loom))]
    pub(super) fn watch(this: &Arc<Self>) {
        let Some(deadline) = &this.deadline else { return };
        let mut watch = deadline.watch.lock();
        watch.0 += 1;
        if watch.0 == 1 && this.end.get().is_none() {
            let scope = Arc::clone(this);
            watch.1 =
                Some(deadline.clock.arm(
                    deadline.at,
                    Box::new(move || Scope::ring(&scope).wake_and_leave_the_rest()),
                ));
        }
    }

    /// The opposite of `watch`.
    #[cfg(not(loom))]
    pub(super) fn unwatch(&self) {
        let Some(deadline) = &self.deadline else { return };
        let mut watch = deadline.watch.lock();
        watch.0 -= 1;
        let alarm = if watch.0 == 0 { watch.1.take() } else { None };
        drop(watch);
        drop(alarm);
    }

    #[cfg(loom)]
    pub(super) fn children(&self) -> usize {
        self.members.lock().children.len()
    }

    /// Nobody waits any more: its context is being dropped.
    #[cfg(not(loom))]
    pub(super) fn disarm(&self) {
        if let Some(deadline) = &self.deadline {
            let alarm = deadline.watch.lock().1.take();
            drop(alarm);
        }
    }

    #[cfg(loom)]
    pub(super) fn watch(_this: &Arc<Self>) {}

    #[cfg(loom)]
    pub(super) fn unwatch(&self) {}
}

impl End {
    fn is_deadline(&self) -> bool {
        self.outcome.error == super::ContextError::DeadlineExceeded
    }
}

/// A list that a crowd has left gives its memory back.
fn if_emptied<T>(list: &mut Slab<T>) -> Option<Slab<T>> {
    (list.is_empty() && list.capacity() > 64).then(|| std::mem::take(list))
}

/// Goes down from a scope that has ended and whose lock is held (invariant 3).
fn sweep(root: ArcGuard<Scope, Members>, mode: Mode) -> Harvest {
    let mut harvest = Harvest::default();
    let mut path = Vec::new();
    enter(root, mode, &mut path, &mut harvest);
    while let Some(frame) = path.last_mut() {
        let children = &frame.members.children;
        let rest = frame.next..children.capacity();
        let Some((key, child)) = rest.filter_map(|key| Some((key, children.get(key)?))).next()
        else {
            path.pop();
            continue;
        };
        let end = frame.members.owner().end.get().expect("a sweep goes below what has ended");
        let (child_end, ended_now) = child.inherit(end);
        if ended_now {
            harvest.report(child_end.outcome.clone());
        }
        // Invariant 4.
        let theirs = !skip(Break::SweepTakesOthersWaiters)
            && child_end.by != end.by
            && !child_end.is_deadline();
        let mode = if theirs { Mode::Mark } else { frame.mode };
        let child = Arc::clone(child);
        frame.next = key + 1;
        let members = lock_arc(child, |scope| &scope.members);
        if !members.swept && (mode == Mode::Harvest || !members.marked) {
            enter(members, mode, &mut path, &mut harvest);
        }
    }
    harvest
}

fn enter(
    mut members: ArcGuard<Scope, Members>,
    mode: Mode,
    path: &mut Vec<Frame>,
    harvest: &mut Harvest,
) {
    members.marked = true;
    if mode == Mode::Harvest {
        members.swept = true;
        let Members { waiters, funcs, .. } = &mut *members;
        harvest.take(waiters, funcs);
        #[cfg(not(loom))]
        if let Some(deadline) = &members.owner().deadline {
            let alarm = deadline.watch.lock().1.take();
            harvest.alarms.extend(alarm);
        }
    }
    path.push(Frame { members, mode, next: 0 });
}

impl End {
    /// An end whose scope is not known: of a linked context that ended without one.
    pub(super) fn foreign(outcome: Outcome) -> Self {
        End { outcome, by: 0, when: None }
    }
}
