//! What both sides of a channel share: the items, the room, and who waits.
//!
//! # Invariants
//!
//! 1. `queue.len() + out + reserved <= capacity`, where `out` is what the receiving
//!    side has fetched, less what was taken off since. What has been handed to the
//!    user's code is taken off by a sender who finds no room, before it waits, and by
//!    the receiving side, when it has handed out `quantum` items, or fetches, or is
//!    about to wait itself.
//! 2. Room that is given back goes to the senders that wait, in their order, as
//!    reservations; a newcomer gets what is left. A sender that goes away with a
//!    reservation passes it on. So room and a sender waiting for it never meet.
//! 3. A reader that waits has looked at the queue under the lock under which its
//!    waker was stored. Whoever puts an item in takes the waker under that lock.
//! 4. Where several take (`takers`): if `call` is false, nobody of them is idle,
//!    or one that has been woken is on its way and will look.
//! 5. Once closed nothing is put in, nobody waits to send, and what was in the
//!    queue is gone.
//! 6. Wakers are cloned, called and dropped, and items dropped, without a lock.

use super::takers::Front;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, BriefLock};
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

pub(super) struct Link<T> {
    pub(super) state: BriefLock<State<T>>,
    /// The takers' side; not used by a [`Receiver`](super::Receiver).
    pub(super) front: BriefLock<Front<T>>,
    pub(super) capacity: usize,
    /// After how many items that were handed out their room is offered to those who wait,
    /// at the latest.
    pub(super) quantum: usize,
    weigh: Option<fn(&T) -> usize>,
    /// Items handed to the user's code, by number and by weight. Written by the
    /// receiving side only, one at a time.
    handed: AtomicUsize,
    handed_weight: AtomicUsize,
    /// Nonzero once the link was closed: for the receiver, who need not lock to know.
    shut: AtomicUsize,
}

pub(super) struct State<T> {
    pub(super) queue: VecDeque<T>,
    /// Items that the receiving side has fetched, less those that were reclaimed.
    pub(super) out: usize,
    /// How many of the items handed out have been taken off `out`.
    reclaimed: usize,
    /// Room that is promised to senders which have been woken.
    pub(super) reserved: usize,
    pub(super) senders: usize,
    pub(super) closed: bool,
    /// The receiver, where there is one and it waits.
    pub(super) reader: Option<Waker>,
    /// Whether to call an idle taker when an item comes.
    pub(super) call: bool,
    writers: VecDeque<(usize, Waker)>,
    /// How many writers have waited: each gets a number.
    tickets: usize,
    counts: Counts,
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
pub(crate) trait Gauge: std::marker::Send + Sync {
    /// The task that receives is about to wait: the room of what it has used is
    /// offered to those who wait for some.
    fn settle(&self);
    /// Lets nothing more through, and drops what is there.
    fn close(&self);
    fn counts(&self) -> Counts;
}

/// Whom to wake when the lock is gone.
#[derive(Default)]
pub(super) struct Calls {
    wakers: Vec<Waker>,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    pub(super) fn add(&mut self, others: Calls) {
        self.wakers.extend(others.wakers);
    }

    pub(super) fn make(self) {
        self.wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Link<T> {
    /// `quantum`: see there; 1 keeps nobody waiting for a moment.
    pub(super) fn new(capacity: usize, quantum: usize, weigh: Option<fn(&T) -> usize>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            out: 0,
            reclaimed: 0,
            reserved: 0,
            senders: 1,
            closed: false,
            reader: None,
            call: false,
            writers: VecDeque::new(),
            tickets: 0,
            counts: Counts::default(),
        };
        Link {
            state: BriefLock::new(state),
            front: BriefLock::new(Front::new()),
            capacity,
            quantum,
            weigh,
            handed: AtomicUsize::new(0),
            handed_weight: AtomicUsize::new(0),
            shut: AtomicUsize::new(0),
        }
    }

    fn weight_of(&self, items: &VecDeque<T>) -> usize {
        self.weigh.map_or(items.len(), |weigh| items.iter().map(weigh).sum())
    }

    /// Counts an item that is handed out. Only one thread at a time does.
    #[inline]
    pub(super) fn hand_out(&self, item: &T) {
        // Relaxed loads: whoever writes is the only one who does. Release: partner of the
        // Acquire in `reclaim`.
        if let Some(weigh) = self.weigh {
            let weight = self.handed_weight.load(Ordering::Relaxed) + weigh(item);
            self.handed_weight.store(weight, Ordering::Release);
        }
        self.handed.store(self.handed.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Room for one more, if need be by taking off what has been handed out.
    pub(super) fn has_room(&self, state: &mut State<T>) -> bool {
        state.has_room(self.capacity) || {
            self.reclaim(state);
            state.has_room(self.capacity)
        }
    }

    /// Whether it was closed from outside.
    #[inline]
    pub(super) fn is_shut(&self) -> bool {
        // Relaxed: what comes through the channel is ordered by its lock, and this only
        // says that nothing need come any more.
        self.shut.load(Ordering::Relaxed) != 0
    }

    /// The receiving side leaves these where they are: nobody will take them.
    pub(super) fn leave(&self, held: VecDeque<T>) {
        let left = self.weight_of(&held);
        let mut state = self.state.lock();
        state.out -= held.len();
        state.counts.left += left;
        drop(state);
        drop(held);
    }

    /// Items that have been handed out no longer count.
    pub(super) fn reclaim(&self, state: &mut State<T>) {
        let handed = self.handed.load(Ordering::Acquire);
        state.out -= handed - state.reclaimed;
        state.reclaimed = handed;
    }

    /// Takes off what has been handed out; its room goes to whoever waits for it.
    pub(super) fn give_back(&self, state: &mut State<T>) -> Calls {
        self.reclaim(state);
        self.call_writers(state)
    }

    /// Invariant 2.
    pub(super) fn call_writers(&self, state: &mut State<T>) -> Calls {
        let mut calls = Calls::default();
        if state.writers.is_empty() || skip(Break::RoomNotOffered) {
            return calls;
        }
        while state.has_room(self.capacity) {
            let Some((_, writer)) = state.writers.pop_front() else { break };
            state.reserved += 1;
            calls.wakers.push(writer);
        }
        calls
    }

    /// The receiving side goes: what it holds is left behind, and so is what is
    /// still in the queue.
    pub(super) fn abandon(&self, held: VecDeque<T>) {
        let left = self.weight_of(&held);
        let mut state = self.state.lock();
        let calls = self.give_back(&mut state);
        state.out -= held.len();
        state.counts.left += left;
        drop(state);
        calls.make();
        self.shut();
        drop(held);
    }

    pub(super) fn shut(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.shut.store(1, Ordering::Relaxed);
        let queue = std::mem::take(&mut state.queue);
        // Under this lock: whoever finds the queue empty finds them counted.
        if !skip(Break::LeftNotCounted) {
            state.counts.left += self.weight_of(&queue);
        }
        let writers = if skip(Break::CloseForgetsWriters) {
            VecDeque::new()
        } else {
            std::mem::take(&mut state.writers)
        };
        let reader = state.reader.take();
        drop(state);
        writers.into_iter().for_each(|(_, writer)| writer.wake());
        if let Some(reader) = reader {
            reader.wake();
        }
        self.call_all();
        drop(queue);
    }
}

impl<T> State<T> {
    /// Room for one more, that nobody has been promised.
    #[inline]
    pub(super) fn has_room(&self, capacity: usize) -> bool {
        self.queue.len() + self.out + self.reserved < capacity
    }

    /// Nothing is there and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        self.closed || self.senders == 0
    }

    /// A writer waits; its ticket.
    pub(super) fn wait_to_write(&mut self, waker: Waker) -> usize {
        self.tickets += 1;
        self.writers.push_back((self.tickets, waker));
        self.tickets
    }

    /// The place of a writer that still waits. One that does not has a reservation
    /// (or the channel is closed).
    pub(super) fn writer(&mut self, ticket: usize) -> Option<&mut Waker> {
        let found = self.writers.iter_mut().find(|(number, _)| *number == ticket);
        found.map(|(_, waker)| waker)
    }

    pub(super) fn forget_writer(&mut self, ticket: usize) -> Option<Waker> {
        let at = self.writers.iter().position(|(number, _)| *number == ticket)?;
        self.writers.remove(at).map(|(_, waker)| waker)
    }

    pub(super) fn waited_for_items(&mut self, time: Duration) {
        self.counts.waited_for_items += time;
    }

    pub(super) fn waited_for_room(&mut self, time: Duration) {
        self.counts.waited_for_room += time;
    }
}

impl<T: std::marker::Send> Gauge for Arc<Link<T>> {
    fn close(&self) {
        self.shut();
    }

    fn settle(&self) {
        let mut state = self.state.lock();
        let calls = self.give_back(&mut state);
        drop(state);
        calls.make();
    }

    fn counts(&self) -> Counts {
        let state = self.state.lock();
        let taken = self.handed.load(Ordering::Acquire);
        let weight = self.weigh.map_or(taken, |_| self.handed_weight.load(Ordering::Acquire));
        let mut counts = Counts { taken, taken_weight: weight, ..state.counts };
        // What a receiver that lives on has fetched nobody will get.
        if self.weigh.is_none() {
            counts.left += state.out - (taken - state.reclaimed);
        }
        counts
    }
}
