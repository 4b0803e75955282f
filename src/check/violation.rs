//! What was found: one way in which a body does not stop as it should.

use super::inject::Inject;
use super::place::{END_OF_CONTEXT, Place};
use super::story::Story;
use std::fmt;

/// The way in which a body does not stop as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A task goes on: it still gets polled, or waits for a timer.
    LeakedTask,
    /// A task waits for something that will never come.
    BlockedStage,
    /// A task or the body panicked, and that was not injected.
    Panicked,
    /// An item was dropped unsettled.
    LostItem,
    /// A context or a timer is still there after everything has ended.
    LeakedContext,
    /// The same choices led to another schedule.
    Nondeterministic,
    /// Nothing was checked: no injection landed, the body looked at the context in no schedule,
    /// or something that should be reached in some schedule was not.
    Vacuous,
}

impl ViolationKind {
    /// What usually helps.
    fn help(self) -> Option<&'static str> {
        match self {
            ViolationKind::LeakedTask => {
                Some("have it wait inside `ctx.run(…)`, or abort it where its owner ends")
            }
            ViolationKind::BlockedStage => {
                Some("drop the other end of what it waits for, or wait inside `ctx.run(…)`")
            }
            ViolationKind::LostItem => Some(
                "put `ctx.run(…)` around the `recv` alone, not around the work, and see that the channel \
                 loses nothing with a `recv` that is dropped",
            ),
            ViolationKind::LeakedContext => {
                Some("look for a cycle of `Arc`s that holds it, or a `mem::forget`")
            }
            ViolationKind::Nondeterministic => Some(
                "use `biased` in `select!`, `BTreeMap` instead of `HashMap`, `rt::now` for the time",
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

/// One violation, with its shortest witness. Its `Display` tells the whole story; its `Debug` does
/// not.
#[derive(Clone)]
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
    /// The kind of the violation.
    pub fn kind(&self) -> ViolationKind {
        self.kind
    }

    /// The name of the task to blame. A task without a name is called by its number in the order of
    /// spawning: `task 3`. The body is called `body`.
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// Where that task was spawned; for the body, where the checker was run.
    pub fn spawned_at(&self) -> Option<&Place> {
        self.spawned_at.as_ref()
    }

    /// The line of user code that awaits; for a future of quell's own, the line that made it. For a
    /// panic, the line that panicked; for a lost item or a leaked context, the line that made it.
    pub fn waiting_at(&self) -> Option<&Place> {
        self.waiting_at.as_ref()
    }

    /// What the task waits for, or what went wrong, in words.
    pub fn waiting_for(&self) -> Option<&str> {
        self.waiting_for.as_deref()
    }

    /// In how many schedules it was seen; zero if it is a violation of all of them together
    /// ([`Vacuous`](ViolationKind::Vacuous)).
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The token of its shortest witness, for
    /// [`Checker::replay`](crate::check::Checker::replay). Empty if it is a violation of all
    /// schedules together.
    pub fn replay(&self) -> &str {
        &self.replay
    }

    /// Whether both are the same: in kind, task and line. Which task held an item that is lost does
    /// not matter; nor does the event that shows that a body is not deterministic, which is chance.
    pub(super) fn is_same_as(&self, other: &Violation) -> bool {
        self.kind == other.kind
            && (self.task == other.task || self.kind == ViolationKind::LostItem)
            && self.waiting_at == other.waiting_at
            && (self.waiting_at.is_some()
                || self.kind == ViolationKind::Nondeterministic
                || self.waiting_for == other.waiting_for)
    }

    /// If a task waits for the end of a context and no end is injected, the headline says so, and
    /// the help is another; and so it is if the body `goes_on` as time moves, and has asked for that
    /// end.
    pub(super) fn note_missing_end(&mut self, kind: Inject, goes_on: bool) {
        let waits = self.waiting_for.as_deref() == Some(END_OF_CONTEXT);
        if (waits || goes_on) && !kind.comes_by_itself() {
            let why = format!(": nothing cancels under `Inject::{kind:?}`");
            self.story.headline.push_str(&why);
            self.story.misses_end = true;
        }
    }

    /// What usually helps.
    pub(super) fn help(&self) -> Option<&'static str> {
        if self.story.misses_end {
            return Some("end it in the body where nothing cancels, or leave this injection out");
        }
        self.kind.help()
    }

    /// A violation of which no task and no line is known.
    pub(super) fn of_no_task(kind: ViolationKind, what: String, story: Story) -> Violation {
        Violation {
            kind,
            task: None,
            spawned_at: None,
            waiting_at: None,
            waiting_for: Some(what),
            count: 1,
            replay: String::new(),
            story: Box::new(story),
        }
    }

    pub(super) fn story(&self) -> &Story {
        &self.story
    }
}

impl fmt::Debug for Violation {
    /// Without the story, which has every step of a schedule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Violation")
            .field("kind", &self.kind)
            .field("task", &self.task)
            .field("spawned_at", &self.spawned_at)
            .field("waiting_at", &self.waiting_at)
            .field("waiting_for", &self.waiting_for)
            .field("count", &self.count)
            .field("replay", &self.replay)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.story.tell(self, f)
    }
}
