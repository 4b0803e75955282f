//! From when latency counts, if it is corrected.
//!
//! Timers ring late, and what was due then is sent late: that is not the server's fault. So
//! requests are reckoned as if every timer were exact. Each begins when it is due, or when a worker
//! is free for it, and a worker is free for the next when its request has taken as long as it
//! really took. The time between due and begun is a wait for the server, and counts; any other
//! delay before a request is sent does not.
//!
//! # Invariants
//!
//! 1. A request under way has a place, and gives it back however it ends. So there is a place for
//!    each that begins: no more are under way than there are workers.
//! 2. By this reckoning no request ends later than it really did. So none is reckoned to begin in
//!    the future, nor before it was due.

use crate::rt;
use crate::sync::{Arc, Mutex};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

pub(super) struct Timetable {
    places: Mutex<Places>,
}

struct Places {
    unused: usize,
    /// Since when each of the others is free, the earliest first.
    free: BinaryHeap<Reverse<Instant>>,
}

impl Timetable {
    pub(super) fn new(workers: usize) -> Timetable {
        Timetable { places: Mutex::new(Places { unused: workers, free: BinaryHeap::new() }) }
    }

    /// A request that was due at `due` is sent now.
    pub(super) fn begin(self: &Arc<Self>, due: Instant) -> UnderWay {
        let sent = rt::now();
        let mut places = self.places.lock();
        let free = if places.unused > 0 {
            places.unused -= 1;
            None
        } else {
            places.free.pop()
        };
        drop(places);
        let reckoned = free.map_or(due, |Reverse(free)| free.max(due));
        UnderWay { timetable: Arc::clone(self), sent, waited: reckoned - due, reckoned }
    }
}

/// A request under way.
pub(super) struct UnderWay {
    timetable: Arc<Timetable>,
    sent: Instant,
    /// How long it waited for a worker.
    waited: Duration,
    reckoned: Instant,
}

impl UnderWay {
    /// The instant from which its latency counts. Invariant 2.
    pub(super) fn began(&self) -> Instant {
        self.sent.checked_sub(self.waited).unwrap_or(self.sent)
    }
}

impl Drop for UnderWay {
    /// Invariant 1.
    fn drop(&mut self) {
        let took = rt::now().saturating_duration_since(self.sent);
        self.timetable.places.lock().free.push(Reverse(self.reckoned + took));
    }
}
