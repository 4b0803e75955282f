//! What both sides of a channel share: the items, the room, and the waiting tasks.
//!
//! # Invariants
//!
//! 1. Until it is closed, `room` is its capacity less the items in the queue, those that the
//!    receiving side has fetched and whose room has not been given back, and the room that has been
//!    promised. Room of items that have been handed to user code is given back by a sender that
//!    finds none, before it waits or gives up, and by the receiving side when it has handed out
//!    `quantum` items, fetches, or is about to wait itself.
//! 2. Room that is given back is promised to the waiting senders, in their order; a newcomer gets
//!    what is left. A sender that goes away with a promise passes it on. So there is never both
//!    room and a sender that waits for it.
//! 3. A reader that waits has looked at the queue under the lock under which its waker was stored.
//!    Whatever puts an item in takes the waker under that lock.
//! 4. With several takers (`takers`): if `call` is false, none of them is idle, or one is going to
//!    look: it has been woken and is on its way, or goes alone.
//! 5. Once closed, there is no room, nothing is put in or fetched, and no sender waits. What is in
//!    the queue has been counted as left; it is discarded by the call that closed it, or by a later
//!    one, and so are items that takers have fetched and not taken.
//! 6. Wakers are cloned, called and dropped, and items dropped, without a lock. A panic in one of
//!    them concerns only its owner, and keeps nothing else from being done.

use super::takers::Front;
use crate::rt::{self, PipelineId, Waiting, probe};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, is_hurried, skip};
use crate::sync::{Arc, BriefLock, OwnLines};
use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

/// How often in a row user code may find that it need not wait before it lets other tasks go first.
/// (Quell's own stages see to that themselves.) This counts items that were already there, and
/// answers that nothing comes or goes any more: a task that ignores such answers may ask for ever,
/// and only a task that waits can be aborted.
pub(super) const PATIENCE: u32 = 128;

/// The state that both sides write, the state that the receiving side writes, and what is only read
/// lie on separate cache lines: that saves a sixth of the time of an item that passes between two
/// threads.
pub(super) struct Link<T> {
    pub(super) state: OwnLines<BriefLock<State<T>>>,
    pub(super) takes: OwnLines<Takes<T>>,
    /// Whether room is offered with each item that is handed out. That is so where the reader is
    /// no stage, because nothing tells when such a reader waits.
    pub(super) offers_each: bool,
    /// After how many items the receiving side offers their room at the latest, whoever reads.
    pub(super) quantum: usize,
    bulk: Option<Bulk<T>>,
    /// Whether a custom stage puts the items in.
    pub(super) is_users: bool,
    /// The pipeline between whose stages it lies.
    pub(super) pipeline: PipelineId,
    /// Nonzero once the link is closed: tells the receiver without a lock.
    looks_closed: AtomicUsize,
}

/// How to handle items that go through as one and count as many.
pub(crate) struct Bulk<T> {
    pub(crate) weigh: fn(&T) -> usize,
    /// Drops each of them by itself.
    pub(crate) discard: fn(T),
}

/// What the receiving side writes.
pub(super) struct Takes<T> {
    /// Shared by takers; not used by a [`Receiver`](super::Receiver).
    pub(super) front: BriefLock<Front<T>>,
    /// How many items have been handed to user code, times two. Where room is offered item by item,
    /// it is odd if a sender may be waiting for room: the receiving side sees that as it counts,
    /// and takes the lock only then.
    handed: AtomicUsize,
    /// How many had been handed out when room was last offered.
    offered: AtomicUsize,
    /// The weight of those handed out. Written by the receiving side only, one thread at a time.
    handed_weight: AtomicUsize,
}

pub(super) struct State<T> {
    pub(super) queue: VecDeque<T>,
    /// How many more items fit, not counting room promised to senders.
    pub(super) room: usize,
    /// The number of items handed out, since the beginning, whose room has been freed.
    freed: usize,
    pub(super) senders: usize,
    pub(super) closed: bool,
    /// The receiver's waker, if there is a receiver and it waits.
    pub(super) reader: Option<Waker>,
    /// Whether to call an idle taker when an item comes.
    pub(super) call: bool,
    pub(super) writers: Waiting,
    /// How many values have been given back since a sender last let other tasks go first.
    refused: u32,
    /// The weight of what has been fetched, and of what was left in the queue at the close.
    fetched_weight: usize,
    left: usize,
    waited_for_items: Duration,
    waited_for_room: Duration,
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Items handed to the reader.
    pub(crate) taken: usize,
    /// The weight of those.
    pub(crate) taken_weight: usize,
    /// The weight of items that were put in and that nothing took.
    pub(crate) left: usize,
    pub(crate) waited_for_items: Duration,
    pub(crate) waited_for_room: Duration,
}

/// A pipeline's view of each of its channels, whatever goes through it.
pub(crate) trait AnyLink: std::marker::Send + Sync {
    /// The receiving task is about to wait: offers the room of what it has used to waiting senders.
    fn offer_room(&self);
    /// Which channel it is.
    #[cfg(not(loom))]
    fn address(&self) -> usize;
    /// Holds it open: the items do not end, even when every sender has gone.
    fn hold_open(&self);
    fn let_end(&self);
    /// Lets nothing more through. What is there stays until it is discarded.
    fn close(&self);
    /// Drops what nothing has taken, if it was closed.
    fn discard(&self);
    fn is_closed(&self) -> bool;
    fn counts(&self) -> Counts;
}

/// Wakers to call once the lock is released: mostly none.
#[derive(Default)]
pub(super) struct Calls {
    wakers: Vec<Waker>,
}

impl Calls {
    pub(super) fn add(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// Calls them; they wait at a channel of this pipeline.
    #[inline]
    pub(super) fn make(self, pipeline: PipelineId) {
        if !self.wakers.is_empty() {
            self.make_some(pipeline);
        }
    }

    #[inline(never)]
    fn make_some(self, pipeline: PipelineId) {
        rt::wake_at(pipeline, self.wakers);
    }
}

/// Drops items that nothing takes, each by itself: if two panicked in one drop of all, the second
/// would abort the process.
pub(crate) fn discard<T>(items: impl IntoIterator<Item = T>) {
    if std::mem::needs_drop::<T>() {
        for item in items {
            rt::contain_panic(|| drop(item));
        }
    }
}

/// How long a wait has taken. Not under a model: it may end, and its clock with it, before a thread
/// that nothing joins.
pub(super) fn time_since(since: Option<Instant>) -> Duration {
    match since {
        Some(since) if !cfg!(loom) => rt::now().saturating_duration_since(since),
        _ => Duration::ZERO,
    }
}

/// Whether offered room is noted. In few models only: it doubles what the others have to explore.
fn notes_offers() -> bool {
    !cfg!(loom) || is_hurried()
}

impl<T> Link<T> {
    pub(super) fn new(capacity: usize, offers_each: bool, bulk: Option<Bulk<T>>) -> Self {
        // Models' channels are small; this lets them offer room as late as large ones do.
        let quantum = if cfg!(loom) { 32 } else { capacity };
        let state = State {
            queue: VecDeque::new(),
            room: capacity,
            freed: 0,
            senders: 1,
            closed: false,
            reader: None,
            call: false,
            writers: Waiting::default(),
            refused: 0,
            fetched_weight: 0,
            left: 0,
            waited_for_items: Duration::ZERO,
            waited_for_room: Duration::ZERO,
        };
        Link {
            state: OwnLines(BriefLock::new(state)),
            takes: OwnLines(Takes {
                front: BriefLock::new(Front::new()),
                handed: AtomicUsize::new(0),
                offered: AtomicUsize::new(0),
                handed_weight: AtomicUsize::new(0),
            }),
            offers_each,
            quantum,
            bulk,
            is_users: false,
            pipeline: PipelineId::NONE,
            looks_closed: AtomicUsize::new(0),
        }
    }

    fn weight_of(&self, items: &VecDeque<T>) -> usize {
        self.bulk.as_ref().map_or(items.len(), |bulk| items.iter().map(bulk.weigh).sum())
    }

    /// Counts an item that is being handed out; one thread at a time does so. True: a sender may be
    /// waiting for its room.
    #[inline]
    pub(super) fn hand_out(&self, item: &T) -> bool {
        // Relaxed loads: nothing else writes these, except a sender that announces itself. Release:
        // partner of the Acquires in `make_room` and `reclaim`.
        if let Some(bulk) = &self.bulk {
            let weight = self.takes.handed_weight.load(Ordering::Relaxed) + (bulk.weigh)(item);
            self.takes.handed_weight.store(weight, Ordering::Release);
        }
        if self.offers_each {
            return self.takes.handed.fetch_add(2, Ordering::Release) & 1 != 0;
        }
        let handed = &self.takes.handed;
        handed.store(handed.load(Ordering::Relaxed).wrapping_add(2), Ordering::Release);
        false
    }

    /// If there is no room, reclaims that of items handed out, for waiting senders first. Announces
    /// to the receiving side that a sender may be waiting.
    pub(super) fn make_room(&self, state: &mut State<T>, calls: &mut Calls) {
        if state.room > 0 {
            return;
        }
        if self.offers_each && !skip(Break::WaiterNotAnnounced) {
            state.free(self.takes.handed.fetch_or(1, Ordering::Acquire) / 2);
        } else {
            self.reclaim(state);
        }
        self.call_writers(state, calls);
    }

    /// Whether a stage reads: its report says how long it has waited.
    pub(super) fn is_read_by_a_stage(&self) -> bool {
        !self.offers_each
    }

    /// Whether it was closed from outside.
    #[inline]
    pub(super) fn looks_closed(&self) -> bool {
        // Relaxed: the lock orders what comes through the channel, and this only says that nothing
        // need come any more.
        self.looks_closed.load(Ordering::Relaxed) != 0
    }

    /// Fetches all that is there into an empty `batch`, for the receiving side.
    pub(super) fn fetch(&self, state: &mut State<T>, batch: &mut VecDeque<T>) {
        // Invariant 5.
        if state.closed {
            return;
        }
        std::mem::swap(&mut state.queue, batch);
        state.fetched_weight += self.weight_of(batch);
    }

    /// Drops items that nothing takes, one by one where one counts as many. Drops are user code:
    /// tasks that have just been woken should not have to wait for them.
    pub(super) fn discard_all(&self, items: VecDeque<T>) {
        if items.is_empty() || !std::mem::needs_drop::<T>() {
            return;
        }
        rt::stop_keeping();
        match &self.bulk {
            Some(bulk) => items.into_iter().for_each(bulk.discard),
            None => discard(items),
        }
    }

    /// The same for an item that was not put in.
    pub(super) fn discard_one(&self, item: T) {
        match &self.bulk {
            Some(bulk) => (bulk.discard)(item),
            None => discard([item]),
        }
    }

    /// Drops what was there when it was closed: invariant 5.
    pub(super) fn discard(&self) {
        let mut state = self.state.lock();
        if !state.closed {
            return;
        }
        let left = std::mem::take(&mut state.queue);
        drop(state);
        self.discard_all(left);
        self.discard_all(self.leave_batch());
    }

    /// Frees the room of items that have been handed out.
    pub(super) fn reclaim(&self, state: &mut State<T>) {
        state.free(self.takes.handed.load(Ordering::Acquire) / 2);
    }

    /// Gives the room of items that have been handed out to waiting senders.
    pub(super) fn give_back(&self, state: &mut State<T>, calls: &mut Calls) {
        self.reclaim(state);
        // Relaxed: see `all_is_offered`.
        if notes_offers() {
            self.takes.offered.store(state.freed & (usize::MAX / 2), Ordering::Relaxed);
        }
        self.call_writers(state, calls);
        // Relaxed: a sender announces itself under this lock.
        if self.takes.handed.load(Ordering::Relaxed) & 1 != 0 && state.writers.is_empty() {
            self.takes.handed.fetch_and(!1, Ordering::Relaxed);
        }
    }

    /// The same, taking the lock.
    pub(super) fn offer_room(&self) {
        let mut state = self.state.lock();
        let mut calls = Calls::default();
        self.give_back(&mut state, &mut calls);
        drop(state);
        calls.make(self.pipeline);
    }

    /// Whether nothing has been handed out since room was last offered.
    fn all_is_offered(&self) -> bool {
        // Relaxed: the count only goes up, and includes what the caller has handed out. So if both
        // are equal, all of that has been offered: by this thread, or by another that is doing so
        // and holds the lock.
        notes_offers()
            && self.takes.handed.load(Ordering::Relaxed) / 2
                == self.takes.offered.load(Ordering::Relaxed)
    }

    /// Invariant 2. (The calls are not returned: moving them would load as one value what has just
    /// been stored as three, and the processor would stall on that each time.)
    #[inline]
    pub(super) fn call_writers(&self, state: &mut State<T>, calls: &mut Calls) {
        if !state.writers.is_empty() && !skip(Break::RoomNotOffered) {
            self.call_some_writers(state, calls);
        }
    }

    #[inline(never)]
    fn call_some_writers(&self, state: &mut State<T>, calls: &mut Calls) {
        while state.room > 0 {
            let Some(writer) = state.writers.take_first() else { break };
            state.room -= 1;
            calls.add(writer);
        }
    }

    pub(super) fn hold_open(&self) {
        self.state.lock().senders += 1;
    }

    /// Undoes `hold_open`, or lets a sender go. The last one ends the channel for the reader.
    pub(super) fn let_end(&self) {
        let mut state = self.state.lock();
        state.senders -= 1;
        if state.senders > 0 || skip(Break::LastSenderSilent) {
            return;
        }
        let reader = state.reader.take();
        drop(state);
        probe::touches("closed", || std::ptr::from_ref(self) as *const () as usize);
        // A waker called for an end is never kept.
        rt::wake_now(self.call_all().chain(reader));
    }

    /// Closes it. The caller, or another, has to discard what is left.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        // Under this lock: a caller that finds it closed finds these counted.
        if !state.closed && !skip(Break::LeftNotCounted) {
            state.left += self.weight_of(&state.queue);
        }
        (state.closed, state.room) = (true, 0);
        self.looks_closed.store(1, Ordering::Relaxed);
        let writers = state.writers.take_all().filter(|_| !skip(Break::CloseForgetsWriters));
        let reader = state.reader.take();
        drop(state);
        // At once, whatever the turn: a waker called for an end is never kept.
        rt::wake_now(self.call_all().chain(writers).chain(reader));
    }
}

impl<T> State<T> {
    /// Frees the room of the first `handed` items handed out.
    fn free(&mut self, handed: usize) {
        let more = self.not_freed(handed);
        if !self.closed {
            self.room += more;
        }
        self.freed = self.freed.wrapping_add(more);
    }

    /// How many of those have not been freed. The count of items handed out wraps at half a word's
    /// range: on 32 bits after two thousand million items.
    fn not_freed(&self, handed: usize) -> usize {
        handed.wrapping_sub(self.freed) & (usize::MAX / 2)
    }

    /// Whether nothing more will be put in.
    pub(super) fn is_over(&self) -> bool {
        self.closed || self.senders == 0
    }

    /// Counts a value that is given back. False: other tasks go first, and the sender asks again.
    pub(super) fn refuses_at_once(&mut self) -> bool {
        let at_once = self.refused < PATIENCE;
        self.refused = if at_once { self.refused + 1 } else { 0 };
        at_once
    }

    pub(super) fn waited_for_items(&mut self, time: Duration) {
        self.waited_for_items += time;
    }

    pub(super) fn waited_for_room(&mut self, time: Duration) {
        self.waited_for_room += time;
    }
}

impl<T: std::marker::Send> AnyLink for Arc<Link<T>> {
    // These call the link's own methods: by the bare name they would call themselves.
    fn hold_open(&self) {
        Link::hold_open(self);
    }

    fn let_end(&self) {
        Link::let_end(self);
    }

    fn close(&self) {
        Link::close(self);
    }

    fn discard(&self) {
        Link::discard(self);
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    fn offer_room(&self) {
        if !self.all_is_offered() {
            Link::offer_room(self);
        }
    }

    #[cfg(not(loom))]
    fn address(&self) -> usize {
        Arc::as_ptr(self) as *const () as usize
    }

    fn counts(&self) -> Counts {
        let state = self.state.lock();
        let handed = self.takes.handed.load(Ordering::Acquire) / 2;
        let taken = state.freed.wrapping_add(state.not_freed(handed));
        let taken_weight =
            self.bulk.as_ref().map_or(taken, |_| self.takes.handed_weight.load(Ordering::Acquire));
        // Nothing will get what was fetched and not handed out, wherever it is: a receiver may
        // outlive its stage.
        let left = state.left + (state.fetched_weight - taken_weight);
        let (waited_for_items, waited_for_room) = (state.waited_for_items, state.waited_for_room);
        drop(state);
        let waited_for_items = waited_for_items + self.takers_waited();
        Counts { taken, taken_weight, left, waited_for_items, waited_for_room }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
