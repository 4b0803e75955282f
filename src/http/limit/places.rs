//! The seats and the waiting room.
//!
//! # Invariants
//!
//! 1. A request that runs or waits is in the room, which holds as many as may run and wait
//!    together. It enters at once or not at all.
//! 2. A request that runs also has a seat. Seats are given in the order in which they were asked
//!    for.
//! 3. Dropping a place leaves it, and dropping the wait leaves the queue. The room is left before
//!    the seat: whenever a seat is free, there is room for a request to take it.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone, Debug)]
pub(super) struct Limiter {
    room: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    at_once: usize,
    together: usize,
}

/// A place in the room, without a seat yet.
#[derive(Debug)]
pub(super) struct Waiting {
    room: OwnedSemaphorePermit,
}

/// A place in the room, with a seat.
#[derive(Debug)]
pub(in crate::http) struct Places {
    // Dropped in this order (invariant 3).
    _room: OwnedSemaphorePermit,
    _seat: OwnedSemaphorePermit,
}

impl Limiter {
    pub(super) fn new(at_once: usize, waiting: usize) -> Self {
        let at_once = at_once.min(Semaphore::MAX_PERMITS);
        let together = at_once.saturating_add(waiting).min(Semaphore::MAX_PERMITS);
        Limiter {
            room: Arc::new(Semaphore::new(together)),
            seats: Arc::new(Semaphore::new(at_once)),
            at_once,
            together,
        }
    }

    /// `None` if the room is full.
    pub(super) fn enter(&self) -> Option<Waiting> {
        let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some(Waiting { room })
    }

    pub(super) fn seat_at_once(&self, waiting: Waiting) -> Result<Places, Waiting> {
        match Arc::clone(&self.seats).try_acquire_owned() {
            Ok(seat) => Ok(Places { _room: waiting.room, _seat: seat }),
            Err(_) => Err(waiting),
        }
    }

    pub(super) fn seat(&self, waiting: Waiting) -> impl Future<Output = Places> + Send + use<> {
        let seats = Arc::clone(&self.seats);
        async move {
            let seat = seats.acquire_owned().await.expect("the seats are never closed");
            Places { _room: waiting.room, _seat: seat }
        }
    }

    pub(super) fn running(&self) -> usize {
        self.at_once - self.seats.available_permits()
    }

    pub(super) fn waiting(&self) -> usize {
        let inside = self.together - self.room.available_permits();
        inside.saturating_sub(self.running())
    }
}
