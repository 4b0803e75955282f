//! A latch of one word, for one of three kinds of pointer.
//!
//! Every branch has one, and most are empty for most of their lives. An enum in a
//! [`Latch`](super::Latch) would take three words, and a context is nine. This is set by one swap,
//! with no state in between.
//!
//! # Invariants
//!
//! 1. The word is null, or one of these. Its three lowest bits tell them apart; to free the bits,
//!    `A` and `B` are aligned to eight bytes and `S` to four:
//!
//!    | bits | what |
//!    |---|---|
//!    | `000` | the pointer of an `Arc<A>` that this owns |
//!    | `100` | the pointer of an `Arc<B>` that this owns, plus four |
//!    | `x01`, `x10`, `x11` | a `&'static S` or null, plus its label |
//! 2. The word changes once, from null to one of these, and stays so until the latch is dropped.

use super::atomic::{AtomicPtr, Ordering};
use super::planted::{Break, skip};
use super::{Arc, Lent};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// What a latch keeps, or lends.
pub(crate) enum Kept<A, B, S: 'static> {
    First(A),
    Second(B),
    Static(Label, Option<&'static S>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    One = 1,
    Two = 2,
    Three = 3,
}

type Owned<A, B, S> = Kept<Arc<A>, Arc<B>, S>;
type Lends<'a, A, B, S> = Kept<Lent<'a, A>, Lent<'a, B>, S>;

pub(crate) struct Tagged<A, B, S: 'static> {
    word: AtomicPtr<()>,
    keeps: PhantomData<Kept<Arc<A>, Arc<B>, S>>,
}

/// The error of [`Tagged::first`]: the value is of another kind.
pub(crate) struct Another;

/// The bits of a label, and the bit of the second kind.
const LABEL: usize = 0b011;
const SECOND: usize = 0b100;

impl<A, B, S: 'static> Tagged<A, B, S> {
    #[inline]
    pub(crate) fn new() -> Self {
        Tagged { word: AtomicPtr::new(ptr::null_mut()), keeps: PhantomData }
    }

    pub(crate) fn full(kept: Owned<A, B, S>) -> Self {
        Tagged { word: AtomicPtr::new(into_word(kept).as_ptr()), keeps: PhantomData }
    }

    /// The value, if it has been set.
    #[inline]
    pub(crate) fn get(&self) -> Option<Lends<'_, A, B, S>> {
        // Acquire: partner of the Release in `set`, so that the pointee is visible.
        let word = NonNull::new(self.word.load(Ordering::Acquire))?;
        // SAFETY: by invariant 1 `into_word` made the word, and by invariant 2 `self` owns what it
        // points at for as long as `self` is borrowed.
        Some(unsafe { lend(word) })
    }

    /// The same if only the first kind matters; `Err` if the value is of another kind.
    #[inline(always)]
    pub(crate) fn first(&self) -> Result<Option<Lent<'_, A>>, Another> {
        // Acquire: as in `get`.
        let Some(word) = NonNull::new(self.word.load(Ordering::Acquire)) else { return Ok(None) };
        if word.addr().get() & (LABEL | SECOND) != 0 {
            return Err(Another);
        }
        // SAFETY: by invariant 1 the word is the pointer of an `Arc<A>`, and by invariant 2 `self`
        // owns that `Arc` for as long as `self` is borrowed.
        Ok(Some(unsafe { Lent::new(word.cast()) }))
    }

    /// Sets the value; gives back one that came too late. Either way it is set when this returns.
    #[inline]
    pub(crate) fn set(&self, kept: Owned<A, B, S>) -> Result<(), Owned<A, B, S>> {
        let word = into_word(kept);
        // Release: partner of every Acquire here. Acquire on failure: the caller goes on to read
        // what another thread has set.
        let order =
            if skip(Break::WordAnnouncesUnordered) { Ordering::Relaxed } else { Ordering::Release };
        match self.word.compare_exchange(ptr::null_mut(), word.as_ptr(), order, Ordering::Acquire) {
            Ok(_) => Ok(()),
            // SAFETY: `into_word` made the word above, and it was not stored anywhere.
            Err(_) => Err(unsafe { from_word(word) }),
        }
    }
}

impl<A, B, S: 'static> Drop for Tagged<A, B, S> {
    fn drop(&mut self) {
        // `&mut self` proves that all other threads are done with it; loom checks that.
        #[cfg(not(loom))]
        let word = *self.word.get_mut();
        #[cfg(loom)]
        let word = self.word.taken();
        if let Some(word) = NonNull::new(word) {
            // SAFETY: invariant 1; and by `&mut self` nothing borrows from it, or uses it later.
            drop(unsafe { from_word::<A, B, S>(word) });
        }
    }
}

#[inline]
fn into_word<A, B, S>(kept: Owned<A, B, S>) -> NonNull<()> {
    const { assert!(align_of::<A>() >= 8 && align_of::<B>() >= 8 && align_of::<S>() >= 4) }
    let word = match kept {
        Kept::First(a) => Arc::into_raw(a).cast::<()>(),
        Kept::Second(b) => Arc::into_raw(b).cast::<()>().map_addr(|addr| addr | SECOND),
        Kept::Static(label, s) => {
            s.map_or(ptr::null(), ptr::from_ref).cast::<()>().map_addr(|addr| addr | label as usize)
        }
    };
    NonNull::new(word.cast_mut()).expect("no value is at null, and no label is zero")
}

/// # Safety
///
/// `into_word` made the word, and what it points at is kept alive for `'a`.
#[inline]
unsafe fn lend<'a, A, B, S>(word: NonNull<()>) -> Lends<'a, A, B, S> {
    let word = word.as_ptr();
    let label = match word.addr() & LABEL {
        0 => {
            let value = word.map_addr(|addr| addr & !SECOND);
            // SAFETY: there is no label, so this is the pointer of an `Arc`, which is not null; the
            // bit says of which kind. The caller promises that it is kept for `'a`.
            return unsafe {
                if word.addr() & SECOND == 0 {
                    Kept::First(Lent::new(NonNull::new_unchecked(value.cast())))
                } else {
                    Kept::Second(Lent::new(NonNull::new_unchecked(value.cast())))
                }
            };
        }
        1 => Label::One,
        2 => Label::Two,
        _ => Label::Three,
    };
    // SAFETY: with a label, the rest of the word is a `&'static S` or null.
    Kept::Static(label, unsafe { word.map_addr(|addr| addr & !LABEL).cast::<S>().as_ref() })
}

/// # Safety
///
/// `into_word` made the word, which is not used afterwards.
unsafe fn from_word<A, B, S>(word: NonNull<()>) -> Owned<A, B, S> {
    // SAFETY: an `Arc` is the one that `into_word` took apart; its count is taken over once.
    unsafe {
        match lend::<A, B, S>(word) {
            Kept::First(a) => Kept::First(a.assume_owned()),
            Kept::Second(b) => Kept::Second(b.assume_owned()),
            Kept::Static(label, s) => Kept::Static(label, s),
        }
    }
}
