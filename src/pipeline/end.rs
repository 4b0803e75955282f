//! How a pipeline ends.

use crate::context::{BoxError, Cancelled, Cause};
use crate::group::TaskPanicked;
use std::borrow::Cow;
use std::fmt;
use std::panic::Location;

/// How a pipeline ended: the first thing that ended it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The last stage ended, and all that it had put out was delivered: usually because the source
    /// ended. A custom stage that returns early does it as well.
    Completed,
    /// The reader stopped reading.
    ReaderStopped,
    /// The context ended, or the runtime was shut down.
    Cancelled(Cause),
    /// A stage returned an error.
    Failed {
        /// The stage's name.
        stage: String,
        /// The error.
        cause: Cause,
    },
    /// A closure or a stage panicked.
    Panicked {
        /// The stage's name.
        stage: String,
        /// What it panicked with.
        message: String,
    },
}

/// `{:#}` adds the sources of a cause.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Completed => f.write_str("completed"),
            Outcome::ReaderStopped => f.write_str("the reader stopped"),
            Outcome::Cancelled(cause) => {
                f.write_str("cancelled: ")?;
                cause.fmt(f)
            }
            Outcome::Failed { stage, cause } => {
                write!(f, "`{stage}` failed: ")?;
                cause.fmt(f)
            }
            Outcome::Panicked { stage, message } => write!(f, "`{stage}` panicked: {message}"),
        }
    }
}

/// How it ended, and the cause with which its context ends.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) cause: Cause,
}

type Place = &'static Location<'static>;

impl End {
    pub(super) fn completed(place: Place) -> End {
        let cause = Cause::failure("the pipeline completed".into(), place);
        End { outcome: Outcome::Completed, cause }
    }

    pub(super) fn reader_stopped(place: Place) -> End {
        let cause = Cause::failure("the reader stopped".into(), place);
        End { outcome: Outcome::ReaderStopped, cause }
    }

    pub(super) fn cancelled(cause: Cause) -> End {
        End { outcome: Outcome::Cancelled(cause.clone()), cause }
    }

    pub(super) fn failed(stage: Cow<'static, str>, error: BoxError, place: Place) -> End {
        let (stage, cause) = (stage.into_owned(), Cause::failure(error, place));
        End { outcome: Outcome::Failed { stage, cause: cause.clone() }, cause }
    }

    pub(super) fn panicked(stage: Cow<'static, str>, message: String, place: Place) -> End {
        let error = TaskPanicked::new(stage.clone(), message.clone());
        let outcome = Outcome::Panicked { stage: stage.into_owned(), message };
        End { outcome, cause: Cause::failure(Box::new(error), place) }
    }

    /// `Ok` if the end was intended; otherwise its cause.
    pub(super) fn as_result(&self) -> Result<(), Cancelled> {
        match self.outcome {
            Outcome::Completed | Outcome::ReaderStopped => Ok(()),
            Outcome::Cancelled(_) | Outcome::Failed { .. } | Outcome::Panicked { .. } => {
                Err(Cancelled::new(self.cause.clone()))
            }
        }
    }
}
