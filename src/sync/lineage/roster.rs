//! The list of every seated link of a family, for a look at the whole tree.
//!
//! No promise of a context depends on it. A thread joins in a shard of its own, so threads rarely
//! meet when they join or leave. A link that finds its shard full (with 67 million) is not listed.
//!
//! # Invariants
//!
//! 1. A sitter is alive while its shard is held: invariant 5 of `lineage`.
//! 2. A place holds a sitter or, if it is odd and so no pointer, twice the number of the next free
//!    place plus one.

use super::{Family, Head, Ref};
use crate::sync::{BriefLock, OwnLines};
use std::cell::Cell;
use std::marker::PhantomData;
use std::num::NonZero;
use std::ptr::{NonNull, without_provenance_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 64;

pub(crate) struct Roster<F: Family>([Shard<F>; SHARDS]);

type Shard<F> = OwnLines<BriefLock<Places<F>>>;

/// Places of one word each: invariant 2.
struct Places<F: Family> {
    all: Vec<*mut Head<F>>,
    /// The first free place; past the end if there is none.
    free: usize,
    /// The number of sitters from `half` on.
    behind: usize,
    /// Where the second half of the places begins.
    half: usize,
}

// SAFETY: a sitter is a shared reference to a head (which is `Sync`), valid while its shard is
// held.
unsafe impl<F: Family> Send for Places<F> {}

/// The place plus one, times `SHARDS`, plus the shard.
#[derive(Clone, Copy)]
pub(super) struct Seat(NonZero<u32>);

impl Seat {
    /// `None` past the 67 millionth place of a shard.
    fn new(shard: u32, place: usize) -> Option<Seat> {
        let number = u32::try_from(place).ok()?.checked_add(1)?.checked_mul(SHARDS as u32)?;
        NonZero::new(number + shard).map(Seat)
    }

    fn shard(self) -> usize {
        self.0.get() as usize % SHARDS
    }

    fn place(self) -> usize {
        self.0.get() as usize / SHARDS - 1
    }
}

thread_local! {
    static OWN_SHARD: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// The shard of this thread, assigned round robin at its first use.
fn own_shard() -> u32 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    OWN_SHARD.with(|own| {
        if own.get() == u32::MAX {
            // Relaxed: only the number matters.
            own.set((NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS) as u32);
        }
        own.get()
    })
}

impl<F: Family> Roster<F> {
    pub(crate) const fn new() -> Self {
        Roster([const { OwnLines(BriefLock::new(Places::NONE)) }; SHARDS])
    }

    /// Seats `sitter` if there is a place, after calling `tell` with its seat.
    #[inline]
    pub(super) fn join(&self, sitter: NonNull<Head<F>>, tell: impl FnOnce(Seat)) {
        let shard = own_shard();
        let mut places = self.0[shard as usize].lock();
        if let Some(seat) = Seat::new(shard, places.free) {
            tell(seat);
            places.take(sitter);
        }
    }

    pub(super) fn leave(&self, seat: Seat) {
        self.0[seat.shard()].lock().leave(seat.place());
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().all.capacity()).sum()
    }

    #[cfg(test)]
    pub(super) fn sitters(&self) -> usize {
        let mut sitters = 0;
        self.visit(|all| sitters += all.count());
        sitters
    }

    /// Shows every seated link to `see`, one shard at a time. `see` must not make or drop
    /// links.
    pub(crate) fn visit(&self, mut see: impl for<'a> FnMut(&mut dyn Iterator<Item = Ref<'a, F>>)) {
        for shard in &self.0 {
            let places = shard.lock();
            let sitters = places.all.iter().filter(|place| place.addr() % 2 == 0);
            // By invariant 1 sitters are alive while the shard is held.
            see(&mut sitters.map(|&place| {
                Ref(NonNull::new(place).expect("sitters are not null"), PhantomData)
            }));
        }
    }
}

impl<F: Family> Places<F> {
    const NONE: Self = Places { all: Vec::new(), free: 0, behind: 0, half: 0 };

    fn take(&mut self, sitter: NonNull<Head<F>>) {
        let place = self.free;
        match self.all.get_mut(place) {
            Some(free) => {
                self.free = free.addr() / 2;
                self.behind += usize::from(place >= self.half);
                *free = sitter.as_ptr();
            }
            None => {
                self.all.push(sitter.as_ptr());
                self.free = self.all.len();
                // No place was free, so all are taken.
                self.half = self.all.len() / 2;
                self.behind = self.all.len() - self.half;
            }
        }
    }

    fn leave(&mut self, place: usize) {
        self.all[place] = without_provenance_mut(2 * self.free + 1);
        self.free = place;
        if place >= self.half {
            self.behind -= 1;
            if self.behind == 0 && self.all.len() > 1024 {
                self.give_memory_back();
            }
        }
    }

    /// After a crowd has left, frees the memory behind the last sitter, half of it or more. No
    /// sitter changes places.
    #[cold]
    fn give_memory_back(&mut self) {
        let is_taken = |place: &*mut Head<F>| place.addr() % 2 == 0;
        let stay = self.all.iter().rposition(is_taken).map_or(0, |last| last + 1);
        self.all.truncate(stay);
        self.all.shrink_to_fit();
        // The free places in front are the first to be taken again.
        self.free = stay;
        for place in (0..stay).rev() {
            if !is_taken(&self.all[place]) {
                self.all[place] = without_provenance_mut(2 * self.free + 1);
                self.free = place;
            }
        }
        self.half = stay / 2;
        self.behind = self.all[self.half..].iter().filter(|place| is_taken(place)).count();
    }
}
