//! What was found: one way in which a body does not stop as it should.

use super::inject::Inject;
use super::place::{END_OF_CONTEXT, Place};
use super::story::Story;
use std::fmt;

/// In which way a body does not stop as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A task goes on: it still gets polled, or waits for a timer.
    LeakedTask,
    /// A task waits for what will never come.
    BlockedStage,
    /// A task or the body has panicked, and nobody had injected that.
    Panicked,
    /// An item was dropped that nobody had settled.
    LostItem,
    /// A context, or a timer, is still there when everything has ended.
    LeakedContext,
    /// The same choices led to another schedule.
    Nondeterministic,
    /// Nothing was checked: no injection landed, nobody ever looked at the context, or
    /// something that should be reached in some schedule was not.
    Vacuous,
}

impl ViolationKind {
    /// What usually helps.
    pub(super) fn help(self) -> Option<&'static str> {
        match self {
            ViolationKind::LeakedTask => {
                Some("have it wait inside `ctx.run(…)`, or abort it where its owner ends")
            }
            ViolationKind::BlockedStage => {
                Some("drop the other end of what it waits for, or wait inside `ctx.run(…)`")
            }
            ViolationKind::LostItem => {
                Some("put `ctx.run(…)` around the `recv` alone, not around the work")
            }
            ViolationKind::LeakedContext => {
                Some("look for a cycle of `Arc`s that holds it, or a `mem::forget`")
            }
            ViolationKind::Nondeterministic => Some(
                "`biased` in a `select!`, a `BTreeMap` for a `HashMap`, `rt::now` for the time",
            ),
            ViolationKind::Panicked | ViolationKind::Vacuous => None,
        }
    }
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One violation, with its shortest witness. `Display` tells the whole story.
#[derive(Clone, Debug)]
pub struct Violation {
    pub(super) kind: ViolationKind,
    pub(super) task: Option<String>,
    pub(super) spawned_at: Option<Place>,
    pub(super) waiting_at: Option<Place>,
    pub(super) waiting_for: Option<String>,
    pub(super) count: u64,
    pub(super) replay: String,
    pub(super) story: Box<Story>,
}

impl Violation {
    /// What kind it is.
    pub fn kind(&self) -> ViolationKind {
        self.kind
    }

    /// The task that is to blame, by its name. A task without one is called by its
    /// number in the order of spawning: `task 3`. The body's own is `body`.
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// Where that task was spawned; for the body, where the checker was run.
    pub fn spawned_at(&self) -> Option<&Place> {
        self.spawned_at.as_ref()
    }

    /// The line of user code that awaits, or, of quell's own futures, that has made what it
    /// awaits; of a panic, where it panicked; of a lost item or a leaked context, where it was
    /// made.
    pub fn waiting_at(&self) -> Option<&Place> {
        self.waiting_at.as_ref()
    }

    /// What it waits for, or what went wrong, in words.
    pub fn waiting_for(&self) -> Option<&str> {
        self.waiting_for.as_deref()
    }

    /// In how many schedules it was seen: in none, where it is said of all of them together
    /// ([`Vacuous`](ViolationKind::Vacuous)).
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The token of its shortest witness, for
    /// [`Checker::replay`](crate::check::Checker::replay).
    pub fn replay(&self) -> &str {
        &self.replay
    }

    /// Whether both tell of one thing: kind, task and line. Of an item that is lost the task is
    /// whoever happened to hold it; of a body that is not deterministic it is chance at which
    /// event that shows.
    pub(super) fn is_same_as(&self, other: &Violation) -> bool {
        self.kind == other.kind
            && (self.task == other.task || self.kind == ViolationKind::LostItem)
            && self.waiting_at == other.waiting_at
            && (self.waiting_at.is_some()
                || self.kind == ViolationKind::Nondeterministic
                || self.waiting_for == other.waiting_for)
    }

    /// Of what waits for the end of a context where none is injected, the headline says so.
    pub(super) fn says_that_nobody_cancels(&mut self, kind: Inject) {
        let waits = self.waiting_for.as_deref() == Some(END_OF_CONTEXT);
        if waits && self.kind == ViolationKind::BlockedStage && !kind.comes_by_itself() {
            let why = format!(": nobody cancels under `Inject::{kind:?}`");
            self.story.headline.push_str(&why);
        }
    }

    pub(super) fn story(&self) -> &Story {
        &self.story
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.story.tell(self, f)
    }
}
