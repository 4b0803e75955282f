//! What the engine and the loop that drives it tell each other: what to do next, how it came out,
//! and what went wrong.

use super::engine::Future;
use std::panic::Location;
use std::task::Waker;

/// Where and when the injection came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Landed {
    /// The number of the point. `None`: it came by itself, because nothing else could happen or a
    /// maximum was reached.
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
    /// A task looks at a context again and again and lets no other run; or it keeps passing an
    /// await that never waits, which has a line.
    Spins {
        task: u32,
        at: Option<&'static Location<'static>>,
    },
    /// A thread other than the checker's has woken a task.
    Threads {
        task: u32,
    },
}

/// What the loop holds while the engine is released. It stays in place, so that `Step` and `Turned`
/// travel in registers.
pub(super) struct Hand {
    /// The future of the task whose turn it is, unless that is the body.
    pub(super) future: Option<Future>,
    pub(super) waker: Waker,
}

impl Hand {
    pub(super) fn empty() -> Hand {
        Hand { future: None, waker: Waker::noop().clone() }
    }
}

/// How the last step came out.
#[derive(Clone, Copy)]
pub(super) enum Turned {
    /// It was no task's, or has been recorded.
    Nobody,
    /// This task goes on.
    Waits(u32),
    Ended(u32),
}

/// What to do next.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Polls the task whose future is in the hand.
    Poll(u32),
    /// Drops it instead: the task was aborted.
    Drop(u32),
    Strike,
    Tick,
    /// Calls the functions at an end that came in the middle of a turn.
    Call,
    /// Everything has ended.
    Quiet,
    /// Nothing can go on.
    Stuck,
    /// There is no end to it.
    Busy,
}

/// The limits, which are the same in all schedules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) steps: u32,
    pub(super) points: u32,
    /// In nanoseconds.
    pub(super) stop_within: u64,
    /// Whether functions at an end that comes in the middle of a turn are called after it.
    pub(super) after_turns: bool,
}
