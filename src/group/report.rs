//! What had to be aborted, and how a task panicked.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::panic::Location;

/// Tells what a [`Group::shutdown`](super::Group::shutdown) found.
#[derive(Clone, Debug)]
#[must_use = "it says which tasks would not stop"]
pub struct ShutdownReport {
    aborted: Vec<StillRunning>,
}

impl ShutdownReport {
    pub(super) fn new(aborted: Vec<StillRunning>) -> Self {
        ShutdownReport { aborted }
    }

    /// Whether every task ended by itself within the grace.
    pub fn is_clean(&self) -> bool {
        self.aborted.is_empty()
    }

    /// The tasks that had not ended when the grace was over and were aborted, and those that were
    /// aborted with their runtime before that.
    pub fn aborted(&self) -> &[StillRunning] {
        &self.aborted
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("every task ended by itself");
        }
        write!(f, "{} had to be aborted:", self.aborted.len())?;
        self.aborted.iter().try_for_each(|task| write!(f, "\n  {task}"))
    }
}

/// A task that did not end by itself.
#[derive(Clone, Debug)]
pub struct StillRunning {
    name: Cow<'static, str>,
    spawned_at: &'static Location<'static>,
}

impl StillRunning {
    pub(super) fn new(name: Cow<'static, str>, spawned_at: &'static Location<'static>) -> Self {
        StillRunning { name, spawned_at }
    }

    /// The name it was spawned with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it was spawned.
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.spawned_at
    }
}

impl fmt::Display for StillRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, spawned at {}", self.name, self.spawned_at)
    }
}

/// The cause of a group's or a pipeline's end when a task panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPanicked {
    task: Cow<'static, str>,
    message: String,
}

impl TaskPanicked {
    pub(crate) fn new(task: Cow<'static, str>, message: String) -> Self {
        TaskPanicked { task, message }
    }

    /// The name of the task, or of the stage.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The panic's message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for TaskPanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` panicked: {}", self.task, self.message)
    }
}

impl Error for TaskPanicked {}

/// Every handle of a group was dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupDropped {
    pub(super) made_at: &'static Location<'static>,
}

impl fmt::Display for GroupDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "every handle of the group made at {} was dropped", self.made_at)
    }
}

impl Error for GroupDropped {}
