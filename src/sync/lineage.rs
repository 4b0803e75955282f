//! Counted links to a parent, with free pointers to elder links.
//!
//! A context is a link in a chain that ends at a root. Three things a chain of
//! `Arc`s cannot do are done here, and are why this file exists:
//!
//! * A link may point at *any* link above it, or at anything a link above it
//!   owns, without counting: its parent keeps it all alive. That is how a value
//!   is found in constant time and a question reaches the nearest scope in one
//!   step, at no cost when a link is made or dropped.
//! * The value of a link lies in the link's own allocation, whatever its type.
//! * A chain of any length is dropped in a loop, not by recursion, however many
//!   threads let go of it at once.
//!
//! # Invariants
//!
//! 1. `count` is the number of `Link`s to a head, and of those that a `Purse` has
//!    paid for; a purse borrows a link. A head is destroyed by the
//!    thread that takes the count from one to zero, and by no other.
//! 2. A head owns one `Link` to its parent until it is destroyed; layer and
//!    value are dropped before that link is let go. So everything that a layer
//!    may point at (its elders, invariant 3) outlives the layer.
//! 3. The builder of a layer gets its parent for a lifetime it knows nothing
//!    about, so every reference in the layer is to something static or to
//!    something the parent keeps alive.
//! 4. Layer and value are never moved, and never lent out mutably, between
//!    construction and destruction.
//! 5. A head that has a seat is in the roster from construction until the first
//!    step of its destruction; whoever holds the roster's shard may read it.

use super::atomic::{AtomicU32, Ordering};
use super::planted::{Break, skip};
#[cfg(not(loom))]
use super::purse;
use std::any::{Any, TypeId};
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

/// What the links of one kind of chain carry.
pub(crate) trait Family: Sized + 'static {
    /// The part every link has. `'a` is how long the elders last.
    type Layer<'a>: Send + Sync;

    /// Shortens a layer's lifetime. That `layer` alone is a body the compiler
    /// takes is the proof that a layer for long is as good as one for short.
    fn shorten<'s, 'l: 's>(layer: &'s Self::Layer<'l>) -> &'s Self::Layer<'s>;

    /// Takes out the links that a value owns, so that they are let go in a loop
    /// too, like the one to the parent.
    fn take_links<V: 'static>(value: &mut V, into: &mut Vec<Link<Self>>);

    /// Where the seated links of this family sit.
    #[cfg(not(loom))]
    fn roster() -> &'static roster::Roster<Self>;
}

/// A counted link: a handle of one word.
pub(crate) struct Link<F: Family>(NonNull<Head<F>>);

/// A borrowed link: what elders are pointed at with.
pub(crate) struct Ref<'a, F: Family>(NonNull<Head<F>>, PhantomData<&'a Head<F>>);

#[repr(C)]
struct Head<F: Family> {
    count: AtomicU32,
    #[cfg(not(loom))]
    seat: Option<roster::Seat>,
    parent: Option<Link<F>>,
    shape: &'static Shape<F>,
    /// Lives as long as the parent does, which the type system is not told: the
    /// lifetime is `'static` here and shortened on every way out.
    layer: ManuallyDrop<F::Layer<'static>>,
}

#[repr(C)]
struct Body<F: Family, V> {
    head: Head<F>,
    value: V,
}

/// What is known of a body whose value type has been forgotten.
struct Shape<F: Family> {
    destroy: Destroy<F>,
    /// Whether the value is of this type. It is said in a register: a `TypeId` that is
    /// returned is read back from the stack, which can take longer than all the rest.
    is: fn(TypeId) -> bool,
    type_name: fn() -> &'static str,
}

/// Drops the body; gives back the link to the parent. What else there is to be done goes into
/// the rest.
type Destroy<F> = unsafe fn(NonNull<Head<F>>, &mut Rest<F>) -> Option<Link<F>>;

/// What destroying a head leaves behind.
struct Rest<F: Family> {
    /// Links that values owned, which few do.
    links: Vec<Link<F>>,
    /// The first panic in a drop of the user's.
    panic: Option<Box<dyn Any + Send>>,
}

trait Shaped<F: Family> {
    const SHAPE: Shape<F>;
}

impl<F: Family, V: Send + Sync + 'static> Shaped<F> for V {
    const SHAPE: Shape<F> = Shape {
        destroy: destroy::<F, V>,
        is: |id| id == TypeId::of::<V>(),
        type_name: std::any::type_name::<V>,
    };
}

/// More links than anybody has. Far from where the count would wrap.
const MOST: u32 = i32::MAX as u32;

// SAFETY: a link shares its layer and value with every other link to the same head
// (both are `Sync`) and may be the one that drops them (both are `Send`).
unsafe impl<F: Family> Send for Link<F> {}
// SAFETY: as above.
unsafe impl<F: Family> Sync for Link<F> {}
// SAFETY: a `Ref` is a shared reference to what `Link` shares.
unsafe impl<F: Family> Send for Ref<'_, F> {}
// SAFETY: as above.
unsafe impl<F: Family> Sync for Ref<'_, F> {}

// Layers are written once or under locks: a panic elsewhere leaves them whole.
impl<F: Family> UnwindSafe for Link<F> {}
impl<F: Family> RefUnwindSafe for Link<F> {}

impl<F: Family> Link<F> {
    /// A new link below `parent`; `build` makes its layer and its value. `seated`
    /// links are found by the roster.
    pub(crate) fn new<V: Send + Sync + 'static>(
        parent: Option<Link<F>>,
        seated: bool,
        build: impl for<'p> FnOnce(Option<Ref<'p, F>>) -> (F::Layer<'p>, V),
    ) -> Self {
        let (layer, value) = build(parent.as_ref().map(Link::as_ref));
        // SAFETY: only the lifetime changes. By invariant 3 every reference in the layer
        // lasts as long as the parent, and by invariant 2 the layer is gone before that.
        let layer = unsafe { lengthen::<F>(layer) };
        #[cfg(loom)]
        let _ = seated;
        let body = Box::new(Body {
            head: Head {
                count: AtomicU32::new(1),
                #[cfg(not(loom))]
                seat: None,
                parent,
                shape: &<V as Shaped<F>>::SHAPE,
                layer: ManuallyDrop::new(layer),
            },
            value,
        });
        // `into_raw` of the whole body: the pointer may reach the value as well.
        let head = Box::into_raw(body).cast::<Head<F>>();
        // SAFETY: a box is never null.
        let head = unsafe { NonNull::new_unchecked(head) };
        #[cfg(not(loom))]
        if seated {
            F::roster().join(head, |seat| {
                // SAFETY: neither a link nor the sitter has been handed out yet.
                unsafe { (&raw mut (*head.as_ptr()).seat).write(Some(seat)) };
            });
        }
        Link(head)
    }

    /// Two links to one head, counted without a read-modify-write where this is
    /// the only one, as it is right after `new`.
    pub(crate) fn twin(self) -> (Link<F>, Link<F>) {
        // Acquire: as in `count_off`, for the store below is no part of what was released
        // to this count. With a count of one no other thread has a link to count on or off.
        if self.head().count.load(Ordering::Acquire) == 1 {
            self.head().count.store(2, Ordering::Relaxed);
            let other = Link(self.0);
            (self, other)
        } else {
            (self.clone(), self)
        }
    }

    /// Whether there is no other link to this head.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn is_only(&self) -> bool {
        // Acquire: what the threads of other links did came before their Release in
        // `count_off`. With a count of one nobody else can make it more.
        self.head().count.load(Ordering::Acquire) == 1
    }

    fn head(&self) -> &Head<F> {
        // SAFETY: invariant 1: this link is counted, so the head has not been destroyed.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn as_ref(&self) -> Ref<'_, F> {
        Ref(self.0, PhantomData)
    }

    #[inline]
    pub(crate) fn layer(&self) -> &F::Layer<'_> {
        F::shorten(&self.head().layer)
    }
}

impl<F: Family> Clone for Link<F> {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: whoever clones already has a link, so the count is above zero and
        // nothing is published by its going up.
        let old = self.head().count.fetch_add(1, Ordering::Relaxed);
        if old > MOST {
            // Billions of forgotten clones: stop before the count wraps, as `Arc` does.
            std::process::abort();
        }
        Link(self.0)
    }
}

impl<F: Family> Drop for Link<F> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(not(loom))]
        if purse::takes_back(self.0.cast()) {
            return;
        }
        if self.count_off() {
            destroy_all(self.0);
        }
    }
}

/// For [`Purse`](super::Purse).
#[cfg(not(loom))]
impl<F: Family> Link<F> {
    /// Counts `n` links that there are not yet.
    pub(super) fn prepay(&self, n: u32) {
        // Relaxed, and the check, as in `clone`.
        let old = self.head().count.fetch_add(n, Ordering::Relaxed);
        if old > MOST {
            std::process::abort();
        }
    }

    /// A clone that `prepay` has counted.
    #[inline]
    pub(super) fn paid_clone(&self) -> Link<F> {
        Link(self.0)
    }

    /// Counts off `n` links that were paid for, or have come back.
    pub(super) fn refund(&self, n: u32) {
        // Release: what this thread did with the links that came back comes before the
        // destruction, by the Acquire in `count_off`. This link is still counted.
        self.head().count.fetch_sub(n, Ordering::Release);
    }

    pub(super) fn address(&self) -> NonNull<()> {
        self.0.cast()
    }
}

impl<F: Family> Link<F> {
    /// Takes this link off the count; true if it was the last, and the head is
    /// now this thread's to destroy. The link must not be used afterwards.
    #[inline]
    fn count_off(&self) -> bool {
        // Acquire on the load: with a count of one all other links are gone, and what
        // their threads did comes before the destruction. With more than one, Release
        // publishes what this thread did, and Acquire, for the thread that comes last,
        // collects it. Looking first saves the last link its swap: 3 ns in the life of a
        // context that is made, cancelled and dropped.
        let count = &self.head().count;
        if skip(Break::LinkDroppedUnordered) {
            return count.fetch_sub(1, Ordering::Relaxed) == 1;
        }
        count.load(Ordering::Acquire) == 1 || count.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Destroys a head, and then every elder that nobody else holds, in a loop. A value that
/// panics in its drop keeps none of the others from theirs.
fn destroy_all<F: Family>(first: NonNull<Head<F>>) {
    let mut rest = Rest { links: Vec::new(), panic: None };
    let mut next = Some(first);
    while let Some(head) = next {
        // SAFETY: the count of this head has just been spent (by the caller or by the
        // last turn of the loop): by invariant 1 it is this thread's to destroy.
        let mut parent = unsafe { (head.as_ref().shape.destroy)(head, &mut rest) };
        next = None;
        while let Some(link) = parent.take().or_else(|| rest.links.pop()) {
            let link = ManuallyDrop::new(link);
            if link.count_off() {
                next = Some(link.0);
                break;
            }
        }
    }
    if let Some(payload) = rest.panic {
        resume_unwind(payload);
    }
}

/// # Safety
///
/// `head` is the head of a `Body<F, V>` made by `Link::new::<V>`, its count is
/// spent, and it is not used afterwards.
unsafe fn destroy<F: Family, V: 'static>(
    head: NonNull<Head<F>>,
    rest: &mut Rest<F>,
) -> Option<Link<F>> {
    #[cfg(not(loom))]
    {
        // SAFETY: the head is alive until the box below is dropped.
        if let Some(seat) = unsafe { head.as_ref() }.seat {
            F::roster().leave(seat);
        }
    }
    // SAFETY: the pointer came from `Box::into_raw` of this very type.
    let mut body = unsafe { Box::from_raw(head.cast::<Body<F, V>>().as_ptr()) };
    // Kept until layer and value are gone: invariant 2.
    let parent = body.head.parent.take();
    F::take_links(&mut body.value, &mut rest.links);
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: dropped once, here; `ManuallyDrop` keeps the box from doing it.
        unsafe { ManuallyDrop::drop(&mut body.head.layer) };
        drop(body);
    }));
    if let Err(payload) = dropped {
        match rest.panic {
            None => rest.panic = Some(payload),
            // It is the user's as well, and might panic again.
            Some(_) => mem::forget(payload),
        }
    }
    parent
}

/// # Safety
///
/// The layer must be dropped, and never lent out for longer, while everything
/// it refers to is alive.
unsafe fn lengthen<F: Family>(layer: F::Layer<'_>) -> F::Layer<'static> {
    let layer = ManuallyDrop::new(layer);
    // SAFETY: lifetimes do not change a type's layout, and the original is forgotten.
    unsafe { mem::transmute_copy(&layer) }
}

impl<F: Family> Clone for Ref<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Family> Copy for Ref<'_, F> {}

impl<'a, F: Family> Ref<'a, F> {
    fn head(self) -> &'a Head<F> {
        // SAFETY: a `Ref<'a>` is made from a `&'a Link`, or lies in the layer of a link
        // borrowed for `'a`, whose elders last as long (invariants 2 and 3).
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn layer(self) -> &'a F::Layer<'a> {
        F::shorten(&self.head().layer)
    }

    pub(crate) fn parent(self) -> Option<Ref<'a, F>> {
        self.head().parent.as_ref().map(|parent| Ref(parent.0, PhantomData))
    }

    /// Tells this link from every other that is alive.
    #[cfg(not(loom))]
    pub(crate) fn address(self) -> usize {
        self.0.addr().get()
    }

    /// The value, if it is of this type.
    #[inline]
    pub(crate) fn value<V: 'static>(self) -> Option<&'a V> {
        (self.head().shape.is)(TypeId::of::<V>()).then(|| {
            // SAFETY: `shape` was made from the value's type, which is `V`, so this is a
            // `Body<F, V>`; the pointer came from the whole body's box. Nobody has it
            // mutably (invariant 4).
            unsafe { &(*self.0.cast::<Body<F, V>>().as_ptr()).value }
        })
    }

    /// What the value's type is called.
    pub(crate) fn value_type(self) -> &'static str {
        (self.head().shape.type_name)()
    }
}

impl<'a, F: Family> Deref for Ref<'a, F> {
    type Target = F::Layer<'a>;
    fn deref(&self) -> &Self::Target {
        self.layer()
    }
}

/// Who is there: every seated link of a family, for a look at the whole tree.
///
/// Nothing that a context promises depends on it. A thread joins in a shard of
/// its own, so joining and leaving meet no other thread as a rule. Who finds its
/// shard full (with 67 million) is not seen.
#[cfg(not(loom))]
pub(crate) mod roster {
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

    /// Places of one word each: a sitter, or (odd, so not a pointer) twice the
    /// number of the next free place plus one.
    struct Places<F: Family> {
        all: Vec<*mut Head<F>>,
        /// The first free place; past the end if there is none.
        free: usize,
        /// How many sit in the second half of the places, and where that begins.
        behind: usize,
        half: usize,
    }

    // SAFETY: a sitter is a shared reference to a head (which is `Sync`), valid while
    // its shard is held.
    unsafe impl<F: Family> Send for Places<F> {}

    /// One more than the place, times `SHARDS`, plus the shard.
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

    /// The shard of this thread: the next free number, wrapped, at its first use.
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

        /// Seats `sitter`, having told it where, if there is a place.
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

        /// Shows every seated link to `see`, a shard at a time; it must not make or drop
        /// links.
        pub(crate) fn visit(
            &self,
            mut see: impl for<'a> FnMut(&mut dyn Iterator<Item = Ref<'a, F>>),
        ) {
            for shard in &self.0 {
                let places = shard.lock();
                let sitters = places.all.iter().filter(|place| place.addr() % 2 == 0);
                // Alive while the shard is held: invariant 5.
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
                    // There was no free one: all are taken.
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

        /// A crowd has gone: the memory behind those who stay goes too, half of it or more.
        /// Nobody changes places.
        #[cold]
        fn give_memory_back(&mut self) {
            let is_taken = |place: &*mut Head<F>| place.addr() % 2 == 0;
            let stay = self.all.iter().rposition(is_taken).map_or(0, |last| last + 1);
            self.all.truncate(stay);
            self.all.shrink_to_fit();
            // Those in front are the first to be taken again.
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
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::roster::Roster;
    use super::{Family, Link};

    /// Links with nothing in them.
    struct Bare;

    static BARE: Roster<Bare> = Roster::new();

    impl Family for Bare {
        type Layer<'a> = ();

        fn shorten<'s, 'l: 's>(layer: &'s Self::Layer<'l>) -> &'s Self::Layer<'s> {
            layer
        }

        fn take_links<V: 'static>(_: &mut V, _: &mut Vec<Link<Bare>>) {}

        fn roster() -> &'static Roster<Bare> {
            &BARE
        }
    }

    #[test]
    fn a_crowd_that_is_dropped_takes_its_places_along_though_one_that_came_first_stays() {
        let bare = || Link::<Bare>::new(None, true, |_| ((), ()));
        let stays = bare();
        for _ in 0..3 {
            let mut crowd: Vec<_> = (0..100_000).map(|_| bare()).collect();
            assert!(BARE.places() > 100_000);
            // In no order: each is next to some that have gone.
            for place in 0..crowd.len() {
                crowd.swap(place, place.wrapping_mul(0x9E37_79B9) % 100_000);
            }
            crowd.truncate(10);
            assert!(BARE.sitters() == 11);
            drop(crowd);
            assert!(BARE.places() <= 1024, "{} places are left", BARE.places());
        }
        drop(stays);
        assert_eq!(BARE.sitters(), 0);
    }
}
