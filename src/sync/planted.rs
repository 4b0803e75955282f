//! Planted bugs: each breaks one line that a model guards, to show that the model would notice.
//! They exist under `--cfg loom`, and for the checker under `--cfg quell_planted`. In all other
//! builds [`skip`] is a constant `false`, and the line is as written.

/// A line that can be broken on purpose. The name says what goes wrong.
#[cfg_attr(not(any(loom, quell_planted)), allow(unreachable_pub))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Break {
    /// A latch may be seen to be set before its value is visible.
    LatchAnnouncesUnordered,
    /// A context's word may be seen before what it points at is visible.
    WordAnnouncesUnordered,
    /// Dropping a link publishes nothing to the thread that drops the last one.
    LinkDroppedUnordered,
    /// A scope that its parent refused goes on as if it were registered.
    RefusedScopeGoesOn,
    /// A waker is added without checking, under the lock, whether it is too late.
    WaiterNotChecked,
    /// The waker of the second poll does not replace that of the first.
    WakerNotReplaced,
    /// A cancel that lost returns before everything below it is marked.
    LoserReturnsAtOnce,
    /// A sweep takes waiters that another cancel has promised to wake.
    SweepTakesOthersWaiters,
    /// A dropped context stays in its parent's list.
    DeadChildStays,
    /// `stop` reports that it took the function back, but leaves it there.
    StopTakesNothing,
    /// A clone of a canceller is not counted.
    CloneNotCounted,
    /// If a look has found a deadline passed, a waiter below it arms no alarm.
    WatchTrustsTheLook,
    /// A function is added without checking, under the lock, whether it is too late.
    FuncNotChecked,
    /// `stop_and_wait` does not wait.
    StopDoesNotWait,
    /// A waiting thread's flag is set, but the thread is not notified.
    SleeperNotTold,
    /// A light context that gets its first child while it is cancelled lives on.
    LightCancelGivesUp,
    /// How a context ended is reported without being written down.
    LookNotWrittenDown,
    /// A linked context is adopted by a parent that has ended.
    AdoptedTooLate,
    /// Room that came back is not offered to a waiting sender.
    RoomNotOffered,
    /// A sender that waits for room does not announce itself.
    WaiterNotAnnounced,
    /// A send that is dropped keeps the room that was promised to it.
    PromiseNotPassedOn,
    /// An item is put in, but its reader is not woken.
    ReaderNotWoken,
    /// The last sender leaves without waking the reader.
    LastSenderSilent,
    /// Closing a channel does not wake the waiting senders.
    CloseForgetsWriters,
    /// A receiver does not look again before it waits.
    ReaderTrustsFirstLook,
    /// A taker that goes idle does not ask to be called.
    IdleTakerNotNoted,
    /// An error that a task returns because its group ended is taken for the first failure.
    EchoTakenForFailure,
    /// A task that ends does not offer its place.
    PlaceNotOffered,
    /// A spawn that is dropped does not pass on the place that was promised to it.
    PlaceNotPassedOn,
    /// A task is started as if the group could not be shut down meanwhile.
    StartNotAnnounced,
    /// A spawn that waits for room does not look at its group's context.
    SpawnIgnoresTheEnd,
    /// Tasks are written down as late, and stopped only when the lock was free in between.
    LateNotedTooSoon,
    /// A group that was shut down is taken to have ended for that, whatever ended it.
    OwnEndHidesParents,
    /// A pipeline that ends does not stop its tasks.
    StagesNotStopped,
    /// A reader may see the end of a stage before how it ended is known.
    EndBeforeEnding,
    /// A worker that passes its result on does not wake the holder of the next.
    TurnNotPassedOn,
    /// A pause of any length is made up for in full.
    PauseEarnsAll,
    /// A taker that goes alone waits for its item without calling the others.
    LoneTakerCallsNobody,
    /// A taker that leaves after it was called does not pass the call on.
    CallNotPassedOn,
    /// A taker that leaves keeps the room of the items it used.
    LeaverKeepsRoom,
    /// Items that a channel drops when it is closed are not counted.
    LeftNotCounted,
    /// A task that fails second ends the group for its own error.
    SecondFailureIsTheCause,
    /// A throttle does not look at its context.
    ThrottleNotStopped,
    /// A source's thread checks whether to ask for an item before it announces that it asks.
    SourceLooksTooSoon,
    /// Workers do not look at their context.
    WorkersNotStopped,
    /// A look that finds a deadline passed does not write it down.
    ExpiryNotWrittenDown,
}

#[cfg(not(any(loom, quell_planted)))]
#[inline(always)]
pub(crate) const fn skip(_line: Break) -> bool {
    false
}

#[cfg(not(any(loom, quell_planted)))]
#[inline(always)]
pub(crate) const fn is_hurried() -> bool {
    false
}

#[cfg(any(loom, quell_planted))]
pub use on::{hurry, plant};
#[cfg(any(loom, quell_planted))]
pub(crate) use on::{is_hurried, skip};

#[cfg(any(loom, quell_planted))]
mod on {
    use super::Break;
    use std::cell::Cell;

    // A model runs all its threads on the thread that called it, so concurrent tests do not see
    // each other's bugs.
    std::thread_local! {
        static PLANTED: Cell<Option<Break>> = const { Cell::new(None) };
        static HURRIED: Cell<bool> = const { Cell::new(false) };
    }

    /// Breaks this line for all models that this thread runs from now on.
    pub fn plant(line: Break) {
        PLANTED.set(Some(line));
    }

    /// Not a bug: sets whether items are taken to need no time, in stages that this thread makes
    /// from now on. Models and checkers measure no time, so otherwise that would never be the case.
    pub fn hurry(yes: bool) {
        HURRIED.set(yes);
    }

    pub(crate) fn is_hurried() -> bool {
        HURRIED.get()
    }

    pub(crate) fn skip(line: Break) -> bool {
        PLANTED.get() == Some(line)
    }
}
