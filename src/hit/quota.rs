//! A number of requests that several may send of.
//!
//! # Invariants
//!
//! 1. One is taken for each request that is sent, when a worker sends it and no
//!    earlier: none is kept for a worker that is waiting for an answer.
//! 2. It does not fall below zero. So all who send of it send that many together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests are still to be sent, by all who send of them: see
/// [`send_shared`](super::send_shared).
#[derive(Clone, Debug)]
pub struct Quota(Arc<AtomicUsize>);

impl Quota {
    /// So many.
    #[must_use]
    pub fn new(n: usize) -> Quota {
        Quota(Arc::new(AtomicUsize::new(n)))
    }

    /// How many have not been sent yet.
    #[must_use]
    pub fn left(&self) -> usize {
        // Relaxed: it guards nothing, and may be less at once.
        self.0.load(Ordering::Relaxed)
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self) -> bool {
        // Relaxed: nothing else belongs to it. Invariant 2.
        let one_less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}
