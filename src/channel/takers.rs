//! Taking items out, many workers.
//!
//! A taker is one worker's end of the channel. The takers of a stage share what has been fetched:
//! any of them can take an item that no other has begun. A taker that leaves items behind makes
//! sure that another comes for them before it begins its own. Where items take next to no time (see
//! `pace`), a taker goes alone instead: it takes one item after the other, and calls no other until
//! it has to wait.
//!
//! # Invariants
//!
//! They hold until the link is closed; from then on each taker learns of that by itself, and none
//! is called.
//!
//! 1. `arriving` counts takers that have been called (or are new) and have not looked for an item
//!    since. While it is above zero no other is called: the one that comes takes an item, and calls
//!    the next if there are more.
//! 2. While items are left, no taker is idle, or one is arriving, or one goes alone, or an item is
//!    being put in by a sender that calls one next.
//! 3. `link.state.call` is false only if no taker is idle, or one is arriving or goes alone, or is
//!    just being called. (True too often is harmless.)
//! 4. A taker that was called, or goes alone, and goes away calls another in its place.
//! 5. `front` is locked before `state`.
//! 6. Unless there are as many takers as there may be, one is idle or arriving: a taker that finds
//!    itself the last hires another before it begins its item.
//! 7. A taker that goes alone is about to take an item, or busy with one and has not been seen to
//!    wait. It stops going alone if its items turn out to take long, or if it has hardly got on at
//!    a look of the timer thread.

use super::link::{Calls, Link};
#[cfg(not(loom))]
use super::pace::GETS_ON;
use super::pace::{ClockOnce, Pace, Stint};
use super::receiver::Receiver;
use crate::rt;
use crate::rt::probe::{self, Wait};
use crate::sync::Arc;
use crate::sync::planted::{Break, skip};
use std::collections::VecDeque;
use std::panic::Location;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What the takers of a link share.
pub(super) struct Front<T> {
    /// Items that were fetched and not taken.
    batch: VecDeque<T>,
    /// How many were taken since this side last offered room by itself.
    unoffered: usize,
    /// How many items have been taken.
    taken: usize,
    /// How long takers have been idle, in total.
    waited: Duration,
    /// Numbers and wakers. The one that went idle last is called first, for its memory is still in
    /// the caches; in a [`Waiting`](crate::rt::Waiting) it would be the last.
    idle: Vec<(usize, Waker)>,
    arriving: usize,
    /// How many there are. Those that go after the link was closed are not always subtracted.
    takers: usize,
    /// How many takers there have been: each has a number.
    count: usize,
    at_most: usize,
    /// The number of the one that goes alone; zero: none.
    alone: usize,
    pace: Pace,
    /// Whether the timer thread watches how the one that goes alone gets on, or need not: on a
    /// single-threaded runtime no other could come meanwhile.
    watched: bool,
}

impl<T> Front<T> {
    pub(super) fn new() -> Self {
        Front {
            batch: VecDeque::new(),
            unoffered: 0,
            taken: 0,
            waited: Duration::ZERO,
            idle: Vec::new(),
            arriving: 0,
            takers: 0,
            count: 0,
            at_most: 0,
            alone: 0,
            pace: Pace::new(),
            watched: false,
        }
    }

    /// Calls an idle taker, unless one is coming: invariant 1. Returns its waker, for when the lock
    /// is released.
    fn call(&mut self) -> Option<Waker> {
        if !self.wants_call() {
            return None;
        }
        let (_, waker) = self.idle.pop()?;
        self.arriving += 1;
        Some(waker)
    }

    /// Whether an item that comes should call a taker: invariant 3.
    fn wants_call(&self) -> bool {
        !self.idle.is_empty() && self.arriving == 0 && self.alone == 0
    }

    /// Whether no taker is left to come for the next item, and one may be hired: invariant 6.
    #[inline(always)]
    fn is_short_handed(&self) -> bool {
        self.idle.is_empty() && self.arriving == 0 && self.takers < self.at_most
    }

    /// Whether this taker leaves the items to another, which goes alone.
    #[inline(always)]
    fn is_for_another_than(&self, number: usize) -> bool {
        self.alone != 0 && self.alone != number
    }
}

impl<T> Link<T> {
    /// Takes out what takers have fetched and none will take.
    pub(super) fn leave_batch(&self) -> VecDeque<T> {
        std::mem::take(&mut self.takes.front.lock().batch)
    }

    /// How long takers have been idle, in total.
    pub(super) fn takers_waited(&self) -> Duration {
        self.takes.front.lock().waited
    }

    /// Counts an item that is being taken; returns how many were before it.
    #[inline(always)]
    fn take(&self, front: &mut Front<T>, item: &T) -> usize {
        self.hand_out(item);
        front.unoffered += 1;
        front.taken += 1;
        front.taken - 1
    }

    /// An item has come, and a taker is idle.
    #[cold]
    pub(super) fn call_one(&self) {
        probe::touches("sent", || std::ptr::from_ref(self) as *const () as usize);
        let called = self.takes.front.lock().call();
        rt::wake_at(self.pipeline, called);
    }

    /// Ends going alone. If there is something for another taker, returns its waker, for when the
    /// lock is released.
    #[must_use]
    fn end_alone(&self, front: &mut Front<T>) -> Option<Waker> {
        front.alone = 0;
        let mut state = self.state.lock();
        let is_something = !front.batch.is_empty() || !state.queue.is_empty();
        let called =
            if is_something && !skip(Break::LoneTakerCallsNobody) { front.call() } else { None };
        state.call = front.wants_call();
        called
    }

    /// Invariant 7. A taker goes alone from its next item on, and not at all if the timer thread
    /// cannot look.
    #[cold]
    fn watch(this: &Arc<Self>)
    where
        T: Send + 'static,
    {
        #[cfg(not(loom))]
        {
            let mut seen = 0;
            let link = Arc::downgrade(this);
            let look = move || link.upgrade().is_some_and(|link| link.gets_on(&mut seen));
            if crate::rt::look_often(look).is_err() {
                let mut front = this.takes.front.lock();
                front.pace.overdraw();
                let called = this.unwatch(&mut front);
                drop(front);
                rt::wake_at(this.pipeline, called);
            }
        }
        let _ = this;
    }

    /// Whether a taker goes alone, and enough items have been taken since the last look.
    #[cfg(not(loom))]
    fn gets_on(&self, seen: &mut usize) -> bool {
        let mut front = self.takes.front.lock();
        let before = std::mem::replace(seen, front.taken);
        if front.alone != 0 && front.taken - before >= GETS_ON {
            return true;
        }
        let called = self.unwatch(&mut front);
        drop(front);
        rt::wake_at(self.pipeline, called);
        false
    }

    /// Ends the watching, and with it going alone.
    #[must_use]
    #[cfg(not(loom))]
    fn unwatch(&self, front: &mut Front<T>) -> Option<Waker> {
        front.watched = false;
        if front.alone == 0 {
            return None;
        }
        front.pace.overdraw();
        self.end_alone(front)
    }

    /// Nothing more will come: the wakers of all idle takers.
    pub(super) fn call_all(&self) -> impl Iterator<Item = Waker> + use<T> {
        let mut front = self.takes.front.lock();
        let idle = std::mem::take(&mut front.idle);
        front.arriving += idle.len();
        drop(front);
        idle.into_iter().map(|(_, waker)| waker)
    }
}

/// One worker's end of a channel.
pub(crate) struct Taker<T> {
    link: Arc<Link<T>>,
    seat: Seat,
}

/// A taker's own state.
struct Seat {
    number: usize,
    state: State,
    /// When it became idle.
    since: Option<Instant>,
    /// How many items had been taken before its last.
    before: usize,
    /// Whether it is to start a colleague.
    hires: bool,
    /// Whether it has left nothing behind, and will be idle next.
    expects_nothing: bool,
    /// Whether it went alone when it last looked. The front knows whether it still does.
    alone: bool,
    stint: Stint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has looked and found an item, or that none will come.
    Busy,
    /// It is idle, or it was called: the front knows which.
    Waiting,
    /// It has been hired, and not looked yet.
    New,
}

impl<T> Taker<T> {
    /// Closes the link: nothing more is to be taken, by any taker.
    pub(crate) fn close(&self) {
        self.link.close();
        self.link.discard();
    }
}

impl<T: Send + 'static> Taker<T> {
    /// The first of at most `at_most` takers. `on_threads`: whether they run on several threads.
    pub(crate) fn first(receiver: Receiver<T>, at_most: usize, on_threads: bool) -> Taker<T> {
        let link = receiver.into_link();
        let mut front = link.takes.front.lock();
        front.at_most = at_most;
        front.watched = !on_threads;
        front.takers = 1;
        front.arriving = 1;
        drop(front);
        Taker::new(link)
    }

    /// How many items had been taken, by all takers, before its last.
    pub(crate) fn before(&self) -> usize {
        self.seat.before
    }

    /// If no taker is left to come for the next item, a further one, which is to be started before
    /// this one begins its own. At most one for each item.
    #[inline]
    pub(crate) fn hire(&mut self) -> Option<Taker<T>> {
        std::mem::take(&mut self.seat.hires).then(|| Taker::new(Arc::clone(&self.link)))
    }

    /// Whether it went alone when it took its last item.
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        self.seat.alone
    }

    /// It is about to wait, with its item in hand: it stops going alone.
    #[inline]
    pub(crate) fn pauses(&mut self) {
        if self.seat.alone {
            self.calls_others();
        } else {
            self.seat.stint.forget();
        }
    }

    #[inline(never)]
    fn calls_others(&mut self) {
        let mut front = self.link.takes.front.lock();
        // The others have waited for what it did until now.
        self.seat.stint.end(&mut ClockOnce::default(), &mut front.pace, true);
        self.seat.alone = false;
        if front.alone != self.seat.number {
            return;
        }
        let called = self.link.end_alone(&mut front);
        drop(front);
        rt::wake_at(self.link.pipeline, called);
    }

    /// Accounts for what it has done so far, before it lets other tasks go first. Any thread may
    /// run them, and it too: so it goes on alone, as long as that pays.
    pub(crate) fn rests(&mut self) {
        let mut front = self.link.takes.front.lock();
        self.seat.stint.end(&mut ClockOnce::default(), &mut front.pace, self.seat.alone);
        let is_enough = front.pace.is_brisk();
        drop(front);
        if !is_enough {
            self.pauses();
        }
    }

    fn new(link: Arc<Link<T>>) -> Taker<T> {
        let mut front = link.takes.front.lock();
        front.count += 1;
        let number = front.count;
        drop(front);
        let seat = Seat {
            number,
            state: State::New,
            since: None,
            before: 0,
            hires: false,
            expects_nothing: false,
            alone: false,
            stint: Stint::new(),
        };
        Taker { link, seat }
    }

    /// The next item that no other has taken; `None`: no more will come.
    #[inline(always)]
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        made_at: &'static Location<'static>,
    ) -> Poll<Option<T>> {
        if self.seat.state == State::Busy && !self.link.looks_closed() {
            let mut front = self.link.takes.front.lock();
            let nobody_to_call = !front.is_short_handed()
                && (front.alone == self.seat.number
                    || (front.alone == 0
                        && (front.arriving > 0
                            || front.idle.is_empty()
                            || front.batch.len() == 1)));
            let is_long = self.seat.alone && self.seat.stint.is_long();
            if nobody_to_call && !is_long && front.unoffered + 1 < self.link.quantum {
                if let Some(item) = front.batch.pop_front() {
                    self.seat.before = self.link.take(&mut front, &item);
                    // A look of the timer thread may have ended it meanwhile.
                    self.seat.alone = front.alone == self.seat.number;
                    self.seat.stint.take(&mut ClockOnce::default());
                    return Poll::Ready(Some(item));
                }
            }
        }
        self.look(cx, made_at)
    }

    #[inline(never)]
    fn look(
        &mut self,
        cx: &mut Context<'_>,
        made_at: &'static Location<'static>,
    ) -> Poll<Option<T>> {
        let Taker { link, seat } = self;
        let address = Arc::as_ptr(link) as *const () as usize;
        let mut waker = std::mem::take(&mut seat.expects_nothing).then(|| cx.waker().clone());
        let mut glance = ClockOnce::default();
        loop {
            let mut front = link.takes.front.lock();
            let came = seat.arrive(&mut front, &mut glance);
            let mut calls = Calls::default();
            if link.looks_closed() {
                drop(front);
                drop(came);
                return Poll::Ready(None);
            }
            let mut state = link.state.lock();
            if front.batch.is_empty() {
                front.unoffered = 0;
                link.give_back(&mut state, &mut calls);
                link.fetch(&mut state, &mut front.batch);
            }
            // At the end all takers help, for none is called any more.
            let leaves_it = front.is_for_another_than(seat.number) && !state.is_over();
            if let Some(item) = if leaves_it { None } else { front.batch.pop_front() } {
                seat.before = link.take(&mut front, &item);
                let watch = seat.goes_alone(&mut front, &mut glance);
                seat.stint.take(&mut glance);
                let mut called = None;
                if !front.batch.is_empty() {
                    called = front.call();
                }
                if front.unoffered >= link.quantum {
                    front.unoffered = 0;
                    link.give_back(&mut state, &mut calls);
                }
                if front.wants_call() && !state.queue.is_empty() {
                    called = front.call();
                }
                state.call = front.wants_call();
                seat.expects_nothing = front.batch.is_empty() && state.queue.is_empty();
                drop(state);
                if front.is_short_handed() {
                    seat.hires = true;
                    front.takers += 1;
                    front.arriving += 1;
                }
                drop(front);
                drop(came);
                calls.make(link.pipeline);
                rt::wake_at(link.pipeline, called);
                if watch {
                    Link::watch(link);
                }
                return Poll::Ready(Some(item));
            }
            if front.batch.is_empty() && state.is_over() {
                drop(state);
                drop(front);
                drop(came);
                calls.make(link.pipeline);
                return Poll::Ready(None);
            }
            if let Some(waker) = waker.take() {
                front.idle.push((seat.number, waker));
                seat.state = State::Waiting;
                seat.stint.end(&mut glance, &mut front.pace, seat.alone);
                if front.alone == seat.number {
                    front.alone = 0;
                }
                seat.alone = false;
                seat.since.get_or_insert_with(|| glance.now());
                state.call = front.wants_call() && !skip(Break::IdleTakerNotNoted);
                drop(state);
                drop(front);
                drop(came);
                calls.make(link.pipeline);
                probe::waits(|| Wait { what: "an item", at: made_at, of: address });
                return Poll::Pending;
            }
            drop(state);
            drop(front);
            drop(came);
            calls.make(link.pipeline);
            waker = Some(cx.waker().clone());
        }
    }
}

impl Seat {
    /// Decides whether it goes alone with the item that it has just taken. True: the caller must
    /// have the timer thread watch, and it may go alone from the next item on.
    fn goes_alone<T>(&mut self, front: &mut Front<T>, glance: &mut ClockOnce) -> bool {
        if self.stint.is_long() {
            self.stint.end(glance, &mut front.pace, self.alone);
        }
        let may = front.at_most > 1 && !front.is_for_another_than(self.number);
        // A taker that leaves nothing behind calls no other, so it makes no difference.
        let would = may && front.pace.is_brisk() && (self.alone || !front.batch.is_empty());
        let is_new = would && !front.watched;
        front.watched |= is_new;
        let alone = would && !is_new;
        if alone != self.alone {
            self.stint.end(glance, &mut front.pace, self.alone);
            self.alone = alone;
        }
        if may {
            front.alone = if alone { self.number } else { 0 };
        }
        is_new
    }

    /// It looks: it is no longer idle or arriving. Returns its old waker, if there is one.
    fn arrive<T>(&mut self, front: &mut Front<T>, glance: &mut ClockOnce) -> Option<Waker> {
        let before = match self.state {
            State::Busy => return None,
            State::New => {
                front.arriving -= 1;
                None
            }
            State::Waiting => {
                let at = front.idle.iter().position(|(number, _)| *number == self.number);
                if at.is_none() {
                    front.arriving -= 1;
                }
                at.map(|at| front.idle.swap_remove(at).1)
            }
        };
        self.state = State::Busy;
        if let Some(since) = self.since.take() {
            front.waited += glance.now().saturating_duration_since(since);
        }
        before
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        // No taker is called any more, and the call that closed the link drops what is left.
        if self.seat.state == State::Busy && self.link.looks_closed() {
            return;
        }
        let mut front = self.link.takes.front.lock();
        let mut was_called = self.seat.state != State::Busy;
        let before = self.seat.arrive(&mut front, &mut ClockOnce::default());
        // Together with the one it was to start, if it was dropped before it could.
        let hires = usize::from(self.seat.hires);
        front.takers -= 1 + hires;
        front.arriving -= hires;
        if front.takers == 0 {
            drop(front);
            drop(before);
            return self.close();
        }
        // Invariant 4.
        if front.alone == self.seat.number {
            front.alone = 0;
            was_called = true;
        }
        let called = if was_called && !skip(Break::CallNotPassedOn) { front.call() } else { None };
        // The others may be idle, and would never come for an item whose sender waits for this
        // room.
        let mut calls = Calls::default();
        if !self.link.looks_closed() && !skip(Break::LeaverKeepsRoom) {
            self.link.give_back(&mut self.link.state.lock(), &mut calls);
        }
        drop(front);
        drop(before);
        calls.make(self.link.pipeline);
        rt::wake_at(self.link.pipeline, called);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
