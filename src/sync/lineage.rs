//! Counted links to a parent, with free pointers to elder links.
//!
//! A context is a link in a chain that ends at a root. This file exists for three things that a
//! chain of `Arc`s cannot do:
//!
//! * A link may point at *any* link above it, or at anything a link above it owns, without
//!   counting: its parent keeps all of that alive. So a value is found in constant time, and a
//!   query reaches the nearest scope in one step, at no cost when a link is made or dropped.
//! * The value of a link lies in the link's own allocation, whatever its type.
//! * A chain of any length is dropped in a loop, not by recursion, however many threads drop their
//!   links to it at once.
//!
//! # Invariants
//!
//! 1. `count` is the number of `Link`s to a head, plus those that a `Purse` has paid for; a purse
//!    borrows a link. Only the thread that counts off the last link destroys the head. (It may
//!    leave the count at one: nothing else can see it.)
//! 2. A head owns one `Link` to its parent until it is destroyed; layer and value are dropped
//!    before that link is given up. So everything that a layer may point at (its elders,
//!    invariant 3) outlives the layer.
//! 3. The builder of a layer gets its parent for a lifetime that it knows nothing about. So every
//!    reference in the layer is to something static or to something the parent keeps alive.
//! 4. Layer and value are never moved, and never lent out mutably, between construction and
//!    destruction.
//! 5. A head with a seat is in the roster from construction until the first step of its
//!    destruction. A thread that holds the roster's shard may read it.

#[cfg(not(loom))]
pub(crate) mod roster;

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
    /// The part that every link has. The elders live for `'a`.
    type Layer<'a>: Send + Sync;

    /// Shortens a layer's lifetime. That the body `layer` compiles proves that layers are covariant
    /// in their lifetime.
    fn shorten<'s, 'l: 's>(layer: &'s Self::Layer<'l>) -> &'s Self::Layer<'s>;

    /// Takes out the links that a value owns, so that they too are dropped in a loop, like the link
    /// to the parent.
    fn take_links<V: 'static>(value: &mut V, into: &mut Vec<Link<Self>>);

    /// The roster of this family's seated links.
    #[cfg(not(loom))]
    fn roster() -> &'static roster::Roster<Self>;
}

/// A counted link: a handle of one word.
pub(crate) struct Link<F: Family>(NonNull<Head<F>>);

/// A borrowed link, as layers use to point at their elders.
pub(crate) struct Ref<'a, F: Family>(NonNull<Head<F>>, PhantomData<&'a Head<F>>);

#[repr(C)]
struct Head<F: Family> {
    count: AtomicU32,
    #[cfg(not(loom))]
    seat: Option<roster::Seat>,
    parent: Option<Link<F>>,
    shape: &'static Shape<F>,
    /// Its references live as long as the parent, which the type cannot say. The lifetime is
    /// `'static` here and is shortened wherever the layer is lent out.
    layer: ManuallyDrop<F::Layer<'static>>,
}

#[repr(C)]
struct Body<F: Family, V> {
    head: Head<F>,
    value: V,
}

/// The vtable of a body whose value type is erased.
struct Shape<F: Family> {
    destroy: Destroy<F>,
    /// Whether the value is of this type. The answer is in a register; a returned `TypeId` would be
    /// read back from the stack, which can take longer than all the rest.
    is: fn(TypeId) -> bool,
    type_name: fn() -> &'static str,
}

/// Drops the body and gives back the link to the parent. Everything else left to do goes into the
/// rest.
type Destroy<F> = unsafe fn(NonNull<Head<F>>, &mut Rest<F>) -> Option<Link<F>>;

/// What destroying a head leaves behind.
struct Rest<F: Family> {
    /// Links that values owned; few values own any.
    links: Vec<Link<F>>,
    /// The first panic in a drop of user code.
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

/// More links than any program has, and far below where the count would wrap.
const MOST: u32 = i32::MAX as u32;

// SAFETY: a link shares its layer and value with every other link to the same head (both are
// `Sync`), and may be the one that drops them (both are `Send`).
unsafe impl<F: Family> Send for Link<F> {}
// SAFETY: as above.
unsafe impl<F: Family> Sync for Link<F> {}
// SAFETY: a `Ref` is a shared reference to what a `Link` shares.
unsafe impl<F: Family> Send for Ref<'_, F> {}
// SAFETY: as above.
unsafe impl<F: Family> Sync for Ref<'_, F> {}

// Layers are written once or under locks, so a panic elsewhere leaves them consistent.
impl<F: Family> UnwindSafe for Link<F> {}
impl<F: Family> RefUnwindSafe for Link<F> {}

impl<F: Family> Link<F> {
    /// A new link below `parent`, whose layer and value `build` makes. `seated` links are in the
    /// roster.
    pub(crate) fn new<V: Send + Sync + 'static>(
        parent: Option<Link<F>>,
        seated: bool,
        build: impl for<'p> FnOnce(Option<Ref<'p, F>>) -> (F::Layer<'p>, V),
    ) -> Self {
        let (layer, value) = build(parent.as_ref().map(Link::as_ref));
        // SAFETY: only the lifetime changes. By invariant 3 every reference in the layer is valid
        // for as long as the parent lives, and by invariant 2 the layer is dropped before that.
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
        // `into_raw` of the whole body, so that the pointer may reach the value as well.
        let head = Box::into_raw(body).cast::<Head<F>>();
        // SAFETY: a box is never null.
        let head = unsafe { NonNull::new_unchecked(head) };
        #[cfg(not(loom))]
        if seated {
            F::roster().join(head, |seat| {
                // SAFETY: no link has been handed out yet, and the roster does not have the head
                // yet, so no other thread can reach it.
                unsafe { (&raw mut (*head.as_ptr()).seat).write(Some(seat)) };
            });
        }
        Link(head)
    }

    /// Two links to one head. If this is the only one, as it is right after `new`, it is counted
    /// without a read-modify-write.
    pub(crate) fn twin(self) -> (Link<F>, Link<F>) {
        // Acquire: as in `count_off`, for the store below ends the release sequences of earlier
        // decrements. With a count of one, no other thread has a link to count on or off.
        if self.head().count.load(Ordering::Acquire) == 1 {
            self.head().count.store(2, Ordering::Relaxed);
            let other = Link(self.0);
            (self, other)
        } else {
            (self.clone(), self)
        }
    }

    /// Whether this is the only link to its head.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn is_only(&self) -> bool {
        // Acquire: partner of the Release in `count_off`, so that what the threads of other links
        // did is visible. With a count of one, no other thread can raise it.
        self.head().count.load(Ordering::Acquire) == 1
    }

    fn head(&self) -> &Head<F> {
        // SAFETY: this link is counted, so by invariant 1 the head has not been destroyed.
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
        // Relaxed: the caller has a link, so the count is above zero, and raising it publishes
        // nothing.
        let old = self.head().count.fetch_add(1, Ordering::Relaxed);
        if old > MOST {
            // Billions of forgotten clones: abort before the count wraps, as `Arc` does.
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
    /// Counts `n` links in advance.
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
        // Release: partner of the Acquire in `count_off`, so that what this thread did with the
        // links that came back happens before the destruction. This link is still counted, so the
        // count does not reach zero here.
        self.head().count.fetch_sub(n, Ordering::Release);
    }

    pub(super) fn address(&self) -> NonNull<()> {
        self.0.cast()
    }
}

impl<F: Family> Link<F> {
    /// Takes this link off the count. True if it was the last: then this thread must destroy the
    /// head. The link must not be used afterwards.
    #[inline]
    fn count_off(&self) -> bool {
        // Acquire on the load: with a count of one all other links are gone, and what their threads
        // did happens before the destruction. With more than one, Release publishes what this
        // thread did, and Acquire makes it visible to the thread that comes last. The load first
        // saves the last link its swap: 3 ns in the life of a context that is made, cancelled and
        // dropped.
        let count = &self.head().count;
        if skip(Break::LinkDroppedUnordered) {
            return count.fetch_sub(1, Ordering::Relaxed) == 1;
        }
        count.load(Ordering::Acquire) == 1 || count.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Destroys a head, and then every elder that has no other link, in a loop. A value that panics in
/// its drop does not keep the others from being dropped.
fn destroy_all<F: Family>(first: NonNull<Head<F>>) {
    let mut rest = Rest { links: Vec::new(), panic: None };
    let mut next = Some(first);
    while let Some(head) = next {
        // SAFETY: this thread has just counted off the last link to this head (in the caller or in
        // the last iteration), so by invariant 1 it destroys the head, and no other thread does.
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
/// `head` is the head of a `Body<F, V>` made by `Link::new::<V>`, this thread has counted off the
/// last link to it, and it is not used afterwards.
unsafe fn destroy<F: Family, V: 'static>(
    head: NonNull<Head<F>>,
    rest: &mut Rest<F>,
) -> Option<Link<F>> {
    #[cfg(not(loom))]
    {
        // SAFETY: the head is alive until the box made below is dropped.
        if let Some(seat) = unsafe { head.as_ref() }.seat {
            F::roster().leave(seat);
        }
    }
    // SAFETY: the pointer came from `Box::into_raw` of this very type, and is not used afterwards.
    let mut body = unsafe { Box::from_raw(head.cast::<Body<F, V>>().as_ptr()) };
    // Kept until layer and value are dropped: invariant 2.
    let parent = body.head.parent.take();
    F::take_links(&mut body.value, &mut rest.links);
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the layer is dropped once, here; `ManuallyDrop` keeps the box from dropping it.
        unsafe { ManuallyDrop::drop(&mut body.head.layer) };
        drop(body);
    }));
    if let Err(payload) = dropped {
        match rest.panic {
            None => rest.panic = Some(payload),
            // Dropping the payload is user code too, and might panic again.
            Some(_) => mem::forget(payload),
        }
    }
    parent
}

/// # Safety
///
/// The layer must be dropped while everything it refers to is alive, and never lent out for longer.
unsafe fn lengthen<F: Family>(layer: F::Layer<'_>) -> F::Layer<'static> {
    let layer = ManuallyDrop::new(layer);
    // SAFETY: lifetimes do not change a type's layout, and the original is never dropped.
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
        // SAFETY: a `Ref<'a>` is made from a `&'a Link`, or is in the layer of a link that is
        // borrowed for `'a`, whose elders live as long (invariants 2 and 3).
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn layer(self) -> &'a F::Layer<'a> {
        F::shorten(&self.head().layer)
    }

    pub(crate) fn parent(self) -> Option<Ref<'a, F>> {
        self.head().parent.as_ref().map(|parent| Ref(parent.0, PhantomData))
    }

    /// An address that no other live link has.
    #[cfg(not(loom))]
    pub(crate) fn address(self) -> usize {
        self.0.addr().get()
    }

    /// The value, if it is of this type.
    #[inline]
    pub(crate) fn value<V: 'static>(self) -> Option<&'a V> {
        (self.head().shape.is)(TypeId::of::<V>()).then(|| {
            // SAFETY: `shape` was made from the value's type, and says that it is `V`, so this is a
            // `Body<F, V>`. The pointer came from the whole body's box, and by invariant 4 the
            // value is not borrowed mutably.
            unsafe { &(*self.0.cast::<Body<F, V>>().as_ptr()).value }
        })
    }

    /// The name of the value's type.
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::roster::Roster;
    use super::{Family, Link, Ordering};
    use crate::sync::Purse;

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
            // In scattered order, so that each leaves beside some that have left already.
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

    #[test]
    fn a_purse_keeps_no_more_than_it_may_however_long_it_is_open() {
        let link = Link::<Bare>::new(None, false, |_| ((), ()));
        let mut purse = Purse::new(&link);
        let given = purse.give();
        let open = purse.open();
        for _ in 0..10_000 {
            drop(given.clone());
        }
        let counted = || link.head().count.load(Ordering::Relaxed);
        assert!(counted() < 1_000, "{} links are counted", counted());
        drop(given);
        drop(open);
        drop(purse);
        assert_eq!(counted(), 1);
    }
}
