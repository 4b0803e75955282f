//! A number of requests that several senders share.
//!
//! # Invariants
//!
//! 1. One is taken for each request that is sent, when a worker sends it and no earlier: none is
//!    kept for a worker that is waiting for an answer.
//! 2. A worker that finds nothing left takes the count below zero, and sends nothing. So all
//!    senders together send that many.
//! 3. A pipeline whose worker has found nothing left makes no more tickets, so the count falls
//!    below zero by only a few. Its source does not read the count, which all threads write to.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// How many requests are still to be sent, by all senders that share them: see
/// [`send_shared`](super::send_shared).
#[derive(Clone, Debug)]
pub struct Quota(Arc<AtomicIsize>);

impl Quota {
    /// Creates a quota of `n` requests; more than [`isize::MAX`] count as that many.
    #[must_use]
    pub fn new(n: usize) -> Quota {
        Quota(Arc::new(AtomicIsize::new(isize::try_from(n).unwrap_or(isize::MAX))))
    }

    /// Returns how many have not been sent yet.
    #[must_use]
    pub fn left(&self) -> usize {
        // Relaxed: it guards nothing, and may already be less. Invariant 2.
        usize::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// One pipeline's view of a quota.
#[derive(Clone)]
pub(super) struct Share {
    quota: Quota,
    over: Arc<AtomicBool>,
}

impl Share {
    pub(super) fn of(quota: &Quota) -> Share {
        Share { quota: quota.clone(), over: Arc::new(AtomicBool::new(false)) }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self) -> bool {
        // Relaxed, here and below: no other data depends on it. Invariant 2.
        let taken = self.quota.0.fetch_sub(1, Ordering::Relaxed) > 0;
        if !taken {
            self.over.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Invariant 3.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
