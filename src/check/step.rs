//! What the engine and the loop that drives it tell each other: what is to be done next,
//! how it has come out, and what went wrong.

use super::engine::Future;
use std::panic::Location;
use std::task::Waker;

/// How far an injection has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Landed {
    /// Which point it was; `None`: it came by itself, because nothing else could or a maximum
    /// was reached.
    pub(super) point: Option<u32>,
    pub(super) at_maximum: bool,
    pub(super) time: u64,
}

/// What went wrong while a schedule ran, before it was over.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    Panicked {
        task: u32,
        message: String,
        place: Option<super::place::Place>,
    },
    Lost {
        task: u32,
        what: String,
        made_at: &'static Location<'static>,
    },
    /// Somebody looks at a context again and again and lets nobody else run; or goes on and on
    /// past an await that never waits, which has a line.
    Spins {
        task: u32,
        at: Option<&'static Location<'static>>,
    },
    /// A thread that is not the checker's has woken a task.
    Threads {
        task: u32,
    },
}

/// What the loop has in its hands while the engine is let go. It stays where it is: what
/// the two tell each other goes by registers.
pub(super) struct Hand {
    /// Of the task whose turn it is, unless that is the body.
    pub(super) future: Option<Future>,
    pub(super) waker: Waker,
}

impl Hand {
    pub(super) fn empty() -> Hand {
        Hand { future: None, waker: Waker::noop().clone() }
    }
}

/// How the last step has come out.
#[derive(Clone, Copy)]
pub(super) enum Turned {
    /// It was nobody's, or has been written down.
    Nobody,
    /// This task goes on.
    Waits(u32),
    Ended(u32),
}

/// What there is to do next.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// The task in the hand.
    Poll(u32),
    /// The same: it was aborted.
    Drop(u32),
    Strike,
    Tick,
    /// The functions at an end that came in the middle of a turn.
    Call,
    /// Everything has ended.
    Quiet,
    /// Nothing can go on.
    Stuck,
    /// It goes on and on.
    Busy,
}

/// What does not change from schedule to schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) steps: u32,
    pub(super) points: u32,
    /// In nanoseconds.
    pub(super) stop_within: u64,
    /// Functions at an end that comes in the middle of a turn are called after it.
    pub(super) after_turns: bool,
}
