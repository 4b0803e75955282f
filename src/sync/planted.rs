//! Planted bugs: each breaks one line that a model guards, to show that the
//! model would notice. They exist under `--cfg loom`, and for the checker
//! under `--cfg quell_planted`; everywhere else [`skip`] is a constant `false`, and
//! the line stands as it is written.

/// A line that can be broken on purpose. The name says what is then wrong.
#[cfg_attr(not(any(loom, quell_planted)), allow(unreachable_pub))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Break {
    /// That a value is there may be seen before the value.
    LatchAnnouncesUnordered,
    /// What a context's word points at may be seen before it is there.
    WordAnnouncesUnordered,
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
    /// Room that came back is not offered to a sender that waits.
    RoomNotOffered,
    /// A sender that waits for room does not announce itself.
    WaiterNotAnnounced,
    /// A sender that goes away keeps the room that was promised to it.
    PromiseNotPassedOn,
    /// An item is put in and its reader is not woken.
    ReaderNotWoken,
    /// The last sender leaves without telling the reader.
    LastSenderSilent,
    /// Who closes a channel forgets those who wait to send.
    CloseForgetsWriters,
    /// A receiver does not look again before it waits.
    ReaderTrustsFirstLook,
    /// A taker that goes idle does not ask to be called.
    IdleTakerNotNoted,
    /// What a task returns because its group ended is taken for its first failure.
    EchoTakenForFailure,
    /// A task that ends gives its place to nobody.
    PlaceNotOffered,
    /// A spawn that goes away calls nobody for the place that was promised to it.
    PlaceNotPassedOn,
    /// A task is started as if nobody could shut the group down meanwhile.
    StartNotAnnounced,
    /// A spawn that waits for room does not look at its group's context.
    SpawnIgnoresTheEnd,
    /// A pipeline that ends leaves its tasks to themselves.
    StagesNotStopped,
    /// A reader may see the end of a stage before how it ended is known.
    EndBeforeEnding,
    /// Whoever passes a result on does not wake the holder of the next.
    TurnNotPassedOn,
    /// A pause of any length is made up in full.
    PauseEarnsAll,
    /// A taker that goes alone waits for its item, and calls nobody.
    LoneTakerCallsNobody,
    /// A taker that was called and goes away does not pass the call on.
    CallNotPassedOn,
    /// A taker that goes away keeps the room of what it used.
    LeaverKeepsRoom,
    /// What a channel drops when it is closed is not counted.
    LeftNotCounted,
    /// A task that fails second ends the group for its own error.
    SecondFailureIsTheCause,
    /// A throttle that does not look at its context.
    ThrottleNotStopped,
    /// The thread of a source looks whether it should ask for an item before it says that it does.
    SourceLooksTooSoon,
    /// Workers that do not look at theirs.
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

    // A model runs all its threads on the thread that called it, so tests that run side
    // by side do not see each other's bugs.
    std::thread_local! {
        static PLANTED: Cell<Option<Break>> = const { Cell::new(None) };
        static HURRIED: Cell<bool> = const { Cell::new(false) };
    }

    /// Breaks this line for all models that this thread runs from now on.
    pub fn plant(line: Break) {
        PLANTED.set(Some(line));
    }

    /// No bug: whether the items of stages that this thread makes from now on are taken to be
    /// ones that take no time. In models and under a checker, where no time is measured, they
    /// would never be.
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
