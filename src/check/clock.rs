//! Virtual time: it stands still until somebody moves it.
//!
//! # Invariants
//!
//! 1. A bell is in the queue from its arming until it is rung or disarmed. Those of
//!    one moment ring in the order in which they were armed.

use crate::rt::Bell;
use std::collections::BTreeMap;
use std::fmt;

/// When, in nanoseconds since the schedule began; then, which was armed first.
pub(super) type Key = (u64, u64);

/// A bell, and the task that armed it.
pub(super) struct Armed {
    pub(super) bell: Bell,
    pub(super) owner: u32,
}

#[derive(Default)]
pub(super) struct Clock {
    pub(super) now: u64,
    due: BTreeMap<Key, Armed>,
    armed: u64,
}

impl Clock {
    pub(super) fn arm(&mut self, at: u64, owner: u32, bell: Bell) -> Key {
        let key = (at, self.armed);
        self.armed += 1;
        self.due.insert(key, Armed { bell, owner });
        key
    }

    /// The bell is the caller's to drop, with no engine borrowed.
    pub(super) fn disarm(&mut self, key: Key) -> Option<Armed> {
        self.due.remove(&key)
    }

    /// When the next bell is due.
    #[inline]
    pub(super) fn next(&self) -> Option<u64> {
        Some(self.due.first_key_value()?.0.0)
    }

    /// Takes out the next bell that is due at `until` or before, and moves to it.
    pub(super) fn ring(&mut self, until: u64) -> Option<Armed> {
        let first = self.due.first_entry()?;
        let at = first.key().0;
        if at > until {
            return None;
        }
        let armed = first.remove();
        self.now = self.now.max(at);
        Some(armed)
    }

    /// Whether a bell of this task's has still to ring.
    pub(super) fn has_one_of(&self, owner: u32) -> bool {
        self.due.values().any(|armed| armed.owner == owner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Back to the beginning. What was armed, if anything, is the caller's to drop.
    pub(super) fn reset(&mut self) -> Option<BTreeMap<Key, Armed>> {
        (self.now, self.armed) = (0, 0);
        (!self.due.is_empty()).then(|| std::mem::take(&mut self.due))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now).field("due", &self.due.len()).finish()
    }
}
