//! Virtual time: it stands still until it is moved.
//!
//! # Invariants
//!
//! 1. A bell is in the queue from its arming until it is rung or disarmed. Bells of one moment ring
//!    in the order in which they were armed.
//! 2. Only the thread of the schedule moves the time. Any thread may read it: a body may give a
//!    context whose deadline goes by it to a thread of its own.

use super::engine::NOBODY;
use crate::rt::Bell;
use crate::rt::world::WaitId;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// When a bell is due, in nanoseconds since the beginning; then its place in the order of arming.
pub(super) type Key = (u64, u64);

/// A bell, and the task that waits for it: the one that armed it, or the last to take it over.
pub(super) struct Armed {
    pub(super) bell: Bell,
    /// `NOBODY` if it is one of the others.
    owner: u32,
    /// Tasks that wait for it too, each wait by its own.
    others: BTreeMap<WaitId, u32>,
}

/// What time it is, in nanoseconds since the beginning.
#[derive(Debug)]
pub(super) struct Time(AtomicU64);

impl Time {
    #[inline]
    pub(super) fn now(&self) -> u64 {
        // Relaxed: a thread that has to see a move was spawned or told after it, and nothing else
        // goes with the time.
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, now: u64) {
        // Relaxed: see `now`.
        self.0.store(now, Ordering::Relaxed);
    }
}

pub(super) struct Clock {
    time: Arc<Time>,
    due: BTreeMap<Key, Armed>,
    /// How many have been armed.
    pub(super) armed: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Clock { time: Arc::new(Time(AtomicU64::new(0))), due: BTreeMap::new(), armed: 0 }
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.time.now()
    }

    /// The time, for whoever only asks for it.
    pub(super) fn time(&self) -> Arc<Time> {
        Arc::clone(&self.time)
    }

    /// Moves the time to `at`, unless it is later already.
    pub(super) fn move_to(&mut self, at: u64) {
        self.time.set(self.now().max(at));
    }

    pub(super) fn arm(&mut self, at: u64, owner: u32, bell: Bell) -> Key {
        let key = (at, self.armed);
        self.armed += 1;
        self.due.insert(key, Armed { bell, owner, others: BTreeMap::new() });
        key
    }

    /// Takes a bell out. The caller drops it, with no engine borrowed.
    pub(super) fn disarm(&mut self, key: Key) -> Option<Armed> {
        self.due.remove(&key)
    }

    /// When the next bell is due.
    #[inline]
    pub(super) fn next(&self) -> Option<u64> {
        Some(self.due.first_key_value()?.0.0)
    }

    /// Takes out the next bell that is due at `until` or before, and moves the time to it.
    pub(super) fn ring(&mut self, until: u64) -> Option<Armed> {
        let first = self.due.first_entry()?;
        let at = first.key().0;
        if at > until {
            return None;
        }
        let armed = first.remove();
        self.move_to(at);
        Some(armed)
    }

    /// Has `task` wait for the bell, in place of the tasks that did (`alone`) or beside them.
    pub(super) fn awaited(&mut self, key: Key, task: u32, alone: bool) {
        let Some(armed) = self.due.get_mut(&key) else { return };
        if alone {
            armed.owner = task;
            armed.others.clear();
        } else if armed.owner != task {
            armed.others.insert((0, task as usize), task);
        }
    }

    /// Has `task` wait for the bell by `wait`. `arms`: it has armed the bell for that.
    pub(super) fn joined(&mut self, key: Key, task: u32, wait: WaitId, arms: bool) {
        let Some(armed) = self.due.get_mut(&key) else { return };
        if arms {
            armed.owner = NOBODY;
        }
        armed.others.insert(wait, task);
    }

    /// Forgets a wait that is over.
    pub(super) fn left(&mut self, key: Key, wait: WaitId) {
        let Some(armed) = self.due.get_mut(&key) else { return };
        let task = armed.others.remove(&wait);
        // If it stays armed, it is for a function or the like, and that may wake the task.
        if let (NOBODY, true, Some(task)) = (armed.owner, armed.others.is_empty(), task) {
            armed.owner = task;
        }
    }

    /// The tasks for which a bell has still to ring.
    pub(super) fn owners(&self) -> BTreeSet<u32> {
        self.due
            .values()
            .flat_map(|armed| armed.others.values().copied().chain([armed.owner]))
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Returns to the beginning. The caller drops the bells that were still armed.
    pub(super) fn reset(&mut self) -> Option<BTreeMap<Key, Armed>> {
        self.time.set(0);
        self.armed = 0;
        (!self.due.is_empty()).then(|| std::mem::take(&mut self.due))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).field("due", &self.due.len()).finish()
    }
}
