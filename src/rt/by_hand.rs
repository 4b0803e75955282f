//! The models' clock: it stands still until a model moves it, which makes time something that
//! threads race about, like anything else.
//!
//! # Invariants
//!
//! 1. The time changes, and a bell is added or taken, under the lock of the bells: a bell is
//!    already due when it is added, or is found when its time comes.
//! 2. Bells ring and are dropped without that lock.

#![allow(clippy::disallowed_methods, reason = "the right door")]

use super::clock::Bell;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, thread};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

struct Hand {
    beginning: Instant,
    /// Milliseconds since then.
    now: AtomicUsize,
    bells: Mutex<Bells>,
    ringing: Mutex<Vec<loom::thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Bells {
    armed: BTreeMap<usize, (Instant, Bell)>,
    /// How many bells there have been: each has its own number.
    count: usize,
}

// One for each execution of a model.
loom::lazy_static! {
    static ref HAND: Hand = Hand {
        beginning: Instant::now(),
        now: AtomicUsize::new(0),
        bells: Mutex::new(Bells::default()),
        ringing: Mutex::new(Vec::new()),
    };
}

pub(crate) fn now() -> Instant {
    HAND.beginning + Duration::from_millis(HAND.now.load(Ordering::SeqCst) as u64)
}

/// Moves the clock, and rings due bells on this thread.
pub(crate) fn advance(millis: usize) {
    let due = {
        let mut bells = HAND.bells.lock();
        HAND.now.fetch_add(millis, Ordering::SeqCst);
        let now = now();
        let due: Vec<_> =
            bells.armed.iter().filter(|(_, (at, _))| *at <= now).map(|(&id, _)| id).collect();
        due.into_iter().filter_map(|id| bells.armed.remove(&id)).collect::<Vec<_>>()
    };
    due.into_iter().for_each(|(_, bell)| ring(bell));
}

/// Waits for every bell that rings on a thread of its own. Ends a model: the clock goes with it.
pub(crate) fn finish() {
    loop {
        let Some(ringing) = HAND.ringing.lock().pop() else { return };
        ringing.join().unwrap();
    }
}

fn ring(bell: Bell) {
    if let Some(work) = bell() {
        work.run();
    }
}

/// An armed bell; dropping this disarms it.
#[derive(Debug)]
pub(crate) struct Entry(usize);

pub(crate) fn arm(at: Instant, bell: Bell) -> Entry {
    let mut bells = HAND.bells.lock();
    bells.count += 1;
    let id = bells.count;
    if at <= now() {
        drop(bells);
        // On another thread: no clock rings on the thread that arms.
        let ringing = thread::spawn(move || ring(bell));
        HAND.ringing.lock().push(ringing);
    } else {
        bells.armed.insert(id, (at, bell));
    }
    Entry(id)
}

impl Drop for Entry {
    fn drop(&mut self) {
        let gone = HAND.bells.lock().armed.remove(&self.0);
        drop(gone);
    }
}
