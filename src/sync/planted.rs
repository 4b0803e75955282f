//! Planted bugs: each breaks one line that a model guards, to show that the
//! model would notice. They exist under `--cfg loom` only; everywhere else
//! [`skip`] is a constant `false`, and the line stands as it is written.

/// A line that can be broken on purpose. The name says what is then wrong.
#[cfg_attr(not(loom), allow(unreachable_pub))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Break {
    /// That a value is there may be seen before the value.
    LatchAnnouncesUnordered,
    /// Letting go of a link publishes nothing to the thread that comes last.
    LinkDroppedUnordered,
    /// A scope that its parent refused goes on as if it were registered.
    RefusedScopeGoesOn,
    /// A waker is added without asking, under the lock, whether it is too late.
    WaiterNotChecked,
    /// The waker of the second poll does not replace that of the first.
    WakerNotReplaced,
    /// A cancel that lost returns before everything below it is marked.
    LoserReturnsAtOnce,
    /// A sweep takes waiters that another cancel has promised to have woken.
    SweepTakesOthersWaiters,
    /// A dropped context stays in its parent's list.
    DeadChildStays,
    /// `stop` says that it took the function back and leaves it there.
    StopTakesNothing,
    /// A clone of a canceller is not counted.
    CloneNotCounted,
    /// A waiter below a deadline that a look has found passed arms no alarm.
    WatchTrustsTheLook,
    /// A function is added without asking, under the lock, whether it is too late.
    FuncNotChecked,
    /// `stop_and_wait` does not wait.
    StopDoesNotWait,
    /// A thread that waits is woken but not told.
    SleeperNotTold,
    /// A light context that gets its first child while it is cancelled lives on.
    LightCancelGivesUp,
    /// How a context ended is said without being written down.
    LookNotWrittenDown,
    /// A linked context is adopted by a parent that has ended.
    AdoptedTooLate,
}

#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn skip(_line: Break) -> bool {
    false
}

#[cfg(loom)]
pub use on::plant;
#[cfg(loom)]
pub(crate) use on::skip;

#[cfg(loom)]
mod on {
    use super::Break;
    use std::cell::Cell;

    // A model runs all its threads on the thread that called it, so tests that run side
    // by side do not see each other's bugs.
    std::thread_local! {
        static PLANTED: Cell<Option<Break>> = const { Cell::new(None) };
    }

    /// Breaks this line for all models that this thread runs from now on.
    pub fn plant(line: Break) {
        PLANTED.set(Some(line));
    }

    pub(crate) fn skip(line: Break) -> bool {
        PLANTED.get() == Some(line)
    }
}
