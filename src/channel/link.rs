//! What both sides of a channel share: the items, the room, and who waits.
//!
//! # Invariants
//!
//! 1. Until it is closed, `room` is what is left of its capacity beside the queue, what the
//!    receiving side has fetched and not given back, and what has been promised. What has been
//!    handed to the user's code is given back by a sender who finds no room, before it waits,
//!    and by the receiving side, when it has handed out `quantum` items, or fetches, or is
//!    about to wait itself.
//! 2. Room that is given back is promised to the senders that wait, in their order; a
//!    newcomer gets what is left. A sender that goes away with a promise passes it on. So
//!    room and a sender waiting for it never meet.
//! 3. A reader that waits has looked at the queue under the lock under which its
//!    waker was stored. Whoever puts an item in takes the waker under that lock.
//! 4. Where several take (`takers`): if `call` is false, nobody of them is idle, or one will
//!    look: it has been woken and is on its way, or goes alone.
//! 5. Once closed there is no room, nothing is put in or fetched, and nobody waits to send.
//!    What is in the queue has been counted as left: it is discarded by whoever closed it, or by
//!    another after that, and so is what takers have fetched and nobody has taken.
//! 6. Wakers are cloned, called and dropped, and items dropped, without a lock. A panic
//!    in one of them is its owner's affair, and keeps nothing else from being done.

use super::takers::Front;
use crate::rt::{self, PipelineId, Waiting, probe};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, is_hurried, skip};
use crate::sync::{Arc, BriefLock, OwnLines};
use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

/// What both sides write, what the receiving side writes, and what is only read lie on
/// lines of their own: a sixth of the time of an item where two threads pass it on.
pub(super) struct Link<T> {
    pub(super) state: OwnLines<BriefLock<State<T>>>,
    pub(super) takes: OwnLines<Takes<T>>,
    /// Whether the room of each item is offered when it is handed out: where who reads is no
    /// stage, nobody knows when it waits.
    pub(super) offers_each: bool,
    /// After how many the receiving side offers it at the latest, whoever reads and waits.
    pub(super) quantum: usize,
    bulk: Option<Bulk<T>>,
    /// Whether user's code puts in what a stage of its own makes.
    pub(super) is_users: bool,
    /// Between whose stages it is.
    pub(super) pipeline: PipelineId,
    /// Nonzero once the link was closed: for the receiver, who need not lock to know.
    looks_closed: AtomicUsize,
}

/// What goes through as one, and is many for whoever counts.
pub(crate) struct Bulk<T> {
    pub(crate) weigh: fn(&T) -> usize,
    /// Drops each of them for itself.
    pub(crate) discard: fn(T),
}

/// What the receiving side writes.
pub(super) struct Takes<T> {
    /// What takers share; not used by a [`Receiver`](super::Receiver).
    pub(super) front: BriefLock<Front<T>>,
    /// How many items were handed to the user's code, times two. Odd, where room is offered
    /// item by item, if a sender may be waiting for it: so the receiving side hears of that
    /// by counting, and meets the lock only then.
    handed: AtomicUsize,
    /// What that count was when room was offered last.
    offered: AtomicUsize,
    /// The weight of these. Written by the receiving side only, one at a time.
    handed_weight: AtomicUsize,
}

pub(super) struct State<T> {
    pub(super) queue: VecDeque<T>,
    /// For so many items more, that nobody has been promised.
    pub(super) room: usize,
    /// Of how many of the items handed out, since the beginning, the room is free.
    freed: usize,
    pub(super) senders: usize,
    pub(super) closed: bool,
    /// The receiver, where there is one and it waits.
    pub(super) reader: Option<Waker>,
    /// Whether to call an idle taker when an item comes.
    pub(super) call: bool,
    pub(super) writers: Waiting,
    /// The weight of what the receiving side has fetched, and of what it has not.
    fetched_weight: usize,
    left: usize,
    waited_for_items: Duration,
    waited_for_room: Duration,
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Items handed to whoever reads.
    pub(crate) taken: usize,
    /// The same by weight.
    pub(crate) taken_weight: usize,
    /// Items that were put in and nobody took, by weight.
    pub(crate) left: usize,
    pub(crate) waited_for_items: Duration,
    pub(crate) waited_for_room: Duration,
}

/// What a pipeline keeps of each of its channels, whatever goes through it.
pub(crate) trait AnyLink: std::marker::Send + Sync {
    /// The task that receives is about to wait: the room of what it has used is
    /// offered to those who wait for some.
    fn offer_room(&self);
    /// Which channel it is.
    #[cfg(not(loom))]
    fn address(&self) -> usize;
    /// While it is held open, what comes has no end, though every sender has gone.
    fn hold_open(&self);
    fn let_end(&self);
    /// Lets nothing more through. What is there stays until it is discarded.
    fn close(&self);
    /// Drops what nobody has taken, if it was closed.
    fn discard(&self);
    fn is_closed(&self) -> bool;
    fn counts(&self) -> Counts;
}

/// Whom to wake when the lock is gone: mostly nobody.
#[derive(Default)]
pub(super) struct Calls {
    wakers: Vec<Waker>,
}

impl Calls {
    pub(super) fn add(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// Wakes them, who wait at a channel of this pipeline's.
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

/// Drops items that nobody takes, each for itself: of two that panic in one drop of all, the
/// second would be the end of the process.
pub(crate) fn discard<T>(items: impl IntoIterator<Item = T>) {
    if std::mem::needs_drop::<T>() {
        for item in items {
            rt::undisturbed(|| drop(item));
        }
    }
}

/// How long a wait has taken. Not under a model: that may end before a thread which is left
/// to itself, and its clock with it.
pub(super) fn time_since(since: Option<Instant>) -> Duration {
    match since {
        Some(since) if !cfg!(loom) => rt::now().saturating_duration_since(since),
        _ => Duration::ZERO,
    }
}

/// Whether it is noted what room has been offered. In few models only: it doubles what others
/// have to go through.
fn notes_offers() -> bool {
    !cfg!(loom) || is_hurried()
}

impl<T> Link<T> {
    pub(super) fn new(capacity: usize, offers_each: bool, bulk: Option<Bulk<T>>) -> Self {
        // The models' channels are small, and as lazy as any.
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

    /// Counts an item that is handed out. Only one thread at a time does. True: somebody
    /// may be waiting for its room.
    #[inline]
    pub(super) fn hand_out(&self, item: &T) -> bool {
        // Relaxed loads: whoever writes is the only one who does, but for the announcement
        // of a sender. Release: partner of the Acquires in `make_room` and `reclaim`.
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

    /// Makes room, where there is none, of what has been handed out: for those first who wait.
    /// The receiving side will hear that somebody may be waiting.
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

    /// Whether a stage reads, whose report says for how long it has waited.
    pub(super) fn is_read_by_a_stage(&self) -> bool {
        !self.offers_each
    }

    /// Whether it was closed from outside.
    #[inline]
    pub(super) fn looks_closed(&self) -> bool {
        // Relaxed: what comes through the channel is ordered by its lock, and this only
        // says that nothing need come any more.
        self.looks_closed.load(Ordering::Relaxed) != 0
    }

    /// The receiving side fetches all that is there, into where there is nothing.
    pub(super) fn fetch(&self, state: &mut State<T>, batch: &mut VecDeque<T>) {
        // Invariant 5.
        if state.closed {
            return;
        }
        std::mem::swap(&mut state.queue, batch);
        state.fetched_weight += self.weight_of(batch);
    }

    /// Drops what nobody takes, and it one by one where it is many. That is the user's code: who
    /// has just been woken should not have to wait for it.
    pub(super) fn discard_all(&self, items: VecDeque<T>) {
        if items.is_empty() || !std::mem::needs_drop::<T>() {
            return;
        }
        rt::keep_no_more();
        match &self.bulk {
            Some(bulk) => items.into_iter().for_each(bulk.discard),
            None => discard(items),
        }
    }

    /// The same for one that was not put in.
    pub(super) fn discard_one(&self, item: T) {
        match &self.bulk {
            Some(bulk) => (bulk.discard)(item),
            None => discard([item]),
        }
    }

    /// What was there when it was closed goes: invariant 5.
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

    /// The room of items that have been handed out is free.
    fn reclaim(&self, state: &mut State<T>) {
        state.free(self.takes.handed.load(Ordering::Acquire) / 2);
    }

    /// The room of what has been handed out goes to whoever waits for some.
    pub(super) fn give_back(&self, state: &mut State<T>, calls: &mut Calls) {
        self.reclaim(state);
        // Relaxed: see `all_is_offered`.
        if notes_offers() {
            self.takes.offered.store(state.freed & (usize::MAX / 2), Ordering::Relaxed);
        }
        self.call_writers(state, calls);
        // Relaxed: who announces itself does so under this lock.
        if self.takes.handed.load(Ordering::Relaxed) & 1 != 0 && state.writers.is_empty() {
            self.takes.handed.fetch_and(!1, Ordering::Relaxed);
        }
    }

    /// The same, at once.
    pub(super) fn offer_room(&self) {
        let mut state = self.state.lock();
        let mut calls = Calls::default();
        self.give_back(&mut state, &mut calls);
        drop(state);
        calls.make(self.pipeline);
    }

    /// Whether nothing has been handed out since room was offered last.
    fn all_is_offered(&self) -> bool {
        // Relaxed: the count goes up only, and what the caller has handed out is in it. So
        // where both are the same, all of that has been offered, by this thread, or by another
        // that is at it and has the lock.
        notes_offers()
            && self.takes.handed.load(Ordering::Relaxed) / 2
                == self.takes.offered.load(Ordering::Relaxed)
    }

    /// Invariant 2. (The calls are not returned: to move them is to read in one what was just
    /// written in three, for which the processor waits, each time.)
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

    /// The last of them ends what comes.
    pub(super) fn let_end(&self) {
        let mut state = self.state.lock();
        state.senders -= 1;
        if state.senders > 0 || skip(Break::LastSenderSilent) {
            return;
        }
        let reader = state.reader.take();
        drop(state);
        probe::touches("closed", || std::ptr::from_ref(self) as *const () as usize);
        // No end is kept back.
        rt::wake_now(self.call_all().chain(reader));
    }

    /// Closes it. What is left is the caller's to discard, or another's.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        // Under this lock: whoever finds it closed finds them counted.
        if !state.closed && !skip(Break::LeftNotCounted) {
            state.left += self.weight_of(&state.queue);
        }
        (state.closed, state.room) = (true, 0);
        self.looks_closed.store(1, Ordering::Relaxed);
        let writers = state.writers.take_all().filter(|_| !skip(Break::CloseForgetsWriters));
        let reader = state.reader.take();
        drop(state);
        // At once, whoever ends it in whatever turn: no end is kept back.
        rt::wake_now(self.call_all().chain(writers).chain(reader));
    }
}

impl<T> State<T> {
    /// So many items have been handed out: their room is free.
    fn free(&mut self, handed: usize) {
        let more = self.not_freed(handed);
        if !self.closed {
            self.room += more;
        }
        self.freed = self.freed.wrapping_add(more);
    }

    /// Of how many of those that is not so yet. The count of those begins anew where it is as large
    /// as half a word can tell: on 32 bits that is after two thousand million items.
    fn not_freed(&self, handed: usize) -> usize {
        handed.wrapping_sub(self.freed) & (usize::MAX / 2)
    }

    /// Nothing is there and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        self.closed || self.senders == 0
    }

    pub(super) fn waited_for_items(&mut self, time: Duration) {
        self.waited_for_items += time;
    }

    pub(super) fn waited_for_room(&mut self, time: Duration) {
        self.waited_for_room += time;
    }
}

impl<T: std::marker::Send> AnyLink for Arc<Link<T>> {
    // Those of the link itself: by their bare names these here would call themselves.
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
        // What was fetched and not handed out nobody will get, wherever it is: a receiver
        // may outlive its stage.
        let left = state.left + (state.fetched_weight - taken_weight);
        let (waited_for_items, waited_for_room) = (state.waited_for_items, state.waited_for_room);
        drop(state);
        let waited_for_items = waited_for_items + self.takers_waited();
        Counts { taken, taken_weight, left, waited_for_items, waited_for_room }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_does_not_take_the_room_for_which_another_waits() {
        let (sender, mut receiver) = crate::channel::between(2);
        let mut cx = std::task::Context::from_waker(Waker::noop());
        let mut poll =
            |send: &mut crate::channel::Send<'_, u8>| std::pin::Pin::new(send).poll(&mut cx);
        let mut sends: Vec<_> = (0..2).map(|n| sender.send(n)).collect();
        assert!(sends.iter_mut().all(|send| poll(send).is_ready()));
        let mut first = sender.send(2);
        assert!(poll(&mut first).is_pending());
        let here = std::panic::Location::caller();
        // Its room is not offered yet, and there for whoever asks.
        assert!(
            receiver.poll_recv(&mut std::task::Context::from_waker(Waker::noop()), here).is_ready()
        );
        let mut newcomer = sender.send(3);
        assert!(poll(&mut newcomer).is_pending());
        assert!(poll(&mut first).is_ready());
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn who_is_kept_is_free_before_what_is_left_is_dropped() {
        struct Looks(Arc<Count>, Arc<AtomicUsize>);
        impl Drop for Looks {
            fn drop(&mut self) {
                self.1.store(self.0.woken(), Ordering::Relaxed);
            }
        }
        let runtime = rt::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let _there = runtime.enter();
        let (woken, count, seen) = (rt::Woken::here(), Arc::<Count>::default(), Arc::default());
        let (sender, receiver) = crate::channel::bounded(1);
        assert!(sender.put(Looks(Arc::clone(&count), Arc::clone(&seen))).is_ok());
        woken.hand().turn(|| {
            rt::keep_woken(true);
            rt::wake_at(woken.id(), [Waker::from(Arc::clone(&count))]);
            drop(receiver);
        });
        assert_eq!(seen.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_send_that_is_polled_once_too_often_takes_nobodys_room() {
        let here = std::panic::Location::caller();
        let (sender, mut receiver) = crate::channel::between(3);
        let count = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = std::task::Context::from_waker(&waker);
        let mut nobody = std::task::Context::from_waker(Waker::noop());
        let [mut first, mut second, mut third, mut fourth] = [0, 1, 2, 3].map(|n| sender.send(n));
        let poll = |send: &mut crate::channel::Send<'_, u8>, cx: &mut std::task::Context<'_>| {
            std::pin::Pin::new(send).poll(cx)
        };
        for send in [&mut first, &mut second, &mut third] {
            assert!(poll(send, &mut nobody).is_ready());
        }
        assert!(poll(&mut fourth, &mut cx).is_pending());
        // Their room is not offered yet.
        (0..2).for_each(|_| assert!(receiver.poll_recv(&mut nobody, here).is_ready()));
        let again = std::panic::AssertUnwindSafe(|| poll(&mut first, &mut nobody));
        assert!(std::panic::catch_unwind(again).is_err());
        // It offers it when it is about to wait.
        assert!(receiver.poll_recv(&mut nobody, here).is_ready());
        assert!(receiver.poll_recv(&mut nobody, here).is_pending());
        assert_eq!(count.woken(), 1, "the fourth has not heard of its room");
        assert!(poll(&mut fourth, &mut cx).is_ready());
    }

    #[test]
    fn the_count_of_what_was_handed_out_may_begin_anew() {
        let link = Link::new(4, false, None);
        let before_the_last = usize::MAX - 3;
        link.takes.handed.store(before_the_last & !1, Ordering::Relaxed);
        let mut state = link.state.lock();
        (state.freed, state.fetched_weight) = (before_the_last / 2, before_the_last / 2);
        state.queue.extend(0..4);
        state.room = 0;
        let mut batch = VecDeque::new();
        link.fetch(&mut state, &mut batch);
        for item in batch {
            let _somebody_waits = link.hand_out(&item);
        }
        assert!(link.takes.handed.load(Ordering::Relaxed) < before_the_last, "it did not");
        link.reclaim(&mut state);
        assert_eq!(state.room, 4);
        drop(state);
        let taken = Arc::new(link).counts().taken;
        assert_eq!(taken, before_the_last / 2 + 4, "the count of all has begun anew");
    }
}
