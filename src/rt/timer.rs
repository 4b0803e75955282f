//! The one thread that rings where no runtime does.
//!
//! It is started when the first alarm is armed, and lives as long as the process: an idle thread
//! costs less than the care of ending it.
//!
//! # Invariants
//!
//! 1. A bell leaves the queue once: to ring, or because its [`Entry`] was dropped.
//! 2. The thread runs no user functions except wakers: the work that a bell returns goes to the
//!    `runner`, which runs it here only if no other thread can be had. No lock is held while a bell
//!    rings or is dropped.

use super::{Bell, Clock, contain_panic, runner};
use crate::sync::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

/// How soon to ask again a clock that stands still, or runs slower than the system's.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Such a clock is asked at least this often.
const LONGEST: Duration = Duration::from_secs(3600);

/// How often it looks at a task that may hang; tasks that wait for that one wait for two looks at
/// most. Looking ten times as often costs a quarter of what a worker gains by going alone.
const LOOK: Duration = Duration::from_millis(10);

static TIMER: Timer = Timer {
    queue: Mutex::new(Queue {
        due: BTreeMap::new(),
        moved: BTreeMap::new(),
        next: 0,
        started: false,
    }),
    sooner: Condvar::new(),
};

struct Timer {
    queue: Mutex<Queue>,
    /// Notified when a bell comes that is due before all others.
    sooner: Condvar,
}

struct Queue {
    due: BTreeMap<Key, Armed>,
    /// The current keys, by number, of bells that have moved in the queue: their clock lagged when
    /// they came due, or was moved.
    moved: BTreeMap<u64, Key>,
    next: u64,
    started: bool,
}

/// When, by the system's clock; then, for bells of the same instant, the order in which they came.
type Key = (Instant, u64);

struct Armed {
    clock: Clock,
    at: Instant,
    bell: Bell,
}

/// A bell in the queue; dropping this takes the bell out.
#[derive(Debug)]
pub(crate) struct Entry {
    key: Key,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let gone = TIMER.queue.lock().remove(self.key);
        drop(gone);
    }
}

impl Queue {
    fn remove(&mut self, key: Key) -> Option<Armed> {
        let key = self.moved.remove(&key.1).unwrap_or(key);
        self.due.remove(&key)
    }
}

/// Rings `bell` when `clock` reads `at`; for a clock that may jump, `late` after that, which leaves
/// others the time to ring it first.
///
/// # Panics
///
/// When the thread cannot be started. The next call tries again.
pub(crate) fn arm(clock: Clock, at: Instant, late: Duration, bell: Bell) -> Entry {
    try_arm(clock, at, late, bell).unwrap_or_else(|error| {
        panic!("quell could not start its timer thread, so no deadline can ring: {error}")
    })
}

/// Calls `look` on the timer thread every [`LOOK`], until it returns false. `look` must not block,
/// and may run no user code but wakers.
///
/// # Errors
///
/// If the thread cannot be started: then `look` is never called.
pub(crate) fn look_often(look: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
    again(Box::new(look))
}

fn again(mut look: Box<dyn FnMut() -> bool + Send>) -> io::Result<()> {
    let bell = Box::new(move || {
        if look() {
            // This is the timer thread, so it has been started.
            let _ = again(look);
        }
        None
    });
    let entry = try_arm(Clock::system(), Clock::system_now() + LOOK, Duration::ZERO, bell)?;
    // Nothing takes the bell out again.
    std::mem::forget(entry);
    Ok(())
}

/// Looks at once at every bell that goes by this clock, which has been moved: when to look at them
/// was computed before that.
#[cfg(feature = "tokio")]
pub(super) fn look_again(clock: &Clock) {
    let now = Clock::system_now();
    let mut queue = TIMER.queue.lock();
    let Queue { due, moved, .. } = &mut *queue;
    let all = due.iter().filter(|(_, armed)| armed.clock.same(clock));
    let all: Vec<_> = all.map(|(&key, _)| key).collect();
    for key in all {
        let armed = due.remove(&key).expect("it was there just now");
        let now = (now, key.1);
        due.insert(now, armed);
        moved.insert(key.1, now);
    }
    TIMER.sooner.notify_one();
}

fn try_arm(clock: Clock, at: Instant, late: Duration, bell: Bell) -> io::Result<Entry> {
    // By the system's clock, from which the other may be far away.
    let due = if clock.may_jump() {
        Clock::system_now() + at.saturating_duration_since(clock.now()).min(LONGEST) + late
    } else {
        at
    };
    let mut queue = TIMER.queue.lock();
    if !queue.started {
        let started = thread::Builder::new().name("quell-timer".into()).spawn(|| TIMER.run());
        started?;
        queue.started = true;
    }
    let id = queue.next;
    queue.next += 1;
    let key = (due, id);
    let first = queue.due.first_key_value().is_none_or(|(&first, _)| key < first);
    queue.due.insert(key, Armed { clock, at, bell });
    if first {
        TIMER.sooner.notify_one();
    }
    Ok(Entry { key })
}

impl Timer {
    fn run(&self) {
        runner::becomes_quells_own();
        let mut queue = self.queue.lock();
        loop {
            let Some((&(at, id), _)) = queue.due.first_key_value() else {
                queue = crate::sync::wait(&self.sooner, queue);
                continue;
            };
            let now = Clock::system_now();
            if now < at {
                queue = self
                    .sooner
                    .wait_timeout(queue, at - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            }
            let armed = queue.remove((at, id)).expect("the queue was not unlocked");
            let reads = armed.clock.now();
            if reads < armed.at {
                let again = now + (armed.at - reads).clamp(ASK_AGAIN, LONGEST);
                queue.due.insert((again, id), armed);
                queue.moved.insert(id, (again, id));
                continue;
            }
            drop(queue);
            let Armed { clock, bell, .. } = armed;
            // A waker may panic, and so may user code that goes with the last handle of a runtime:
            // that must not end the thread that all deadlines depend on.
            let work = contain_panic(bell).flatten();
            contain_panic(move || {
                let goes = clock;
                if let Some(work) = work {
                    runner::run(goes, work);
                }
            });
            queue = self.queue.lock();
        }
    }
}
