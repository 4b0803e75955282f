//! Why a context ended.
//!
//! # Invariants
//!
//! 1. The error is part of the cause: one value, set by one store, so nobody
//!    ever sees one without the other.
//! 2. A cause is a tag and a pointer: to where it began or, only where the user
//!    gave an error, a counted one to that. Inheriting it allocates nothing.

use crate::sync::Arc;
use std::error::Error;
use std::fmt;
use std::panic::Location;

/// Any error that can be a cause: `&str`, `String` and every error type convert.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Which of the two ends a context came to.
///
/// Reads as in Go: `context canceled`, `context deadline exceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContextError {
    /// Somebody cancelled it, or a context above it.
    Cancelled,
    /// Its deadline, or that of a context above it, has passed.
    DeadlineExceeded,
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContextError::Cancelled => "context canceled",
            ContextError::DeadlineExceeded => "context deadline exceeded",
        })
    }
}

impl Error for ContextError {}

/// Why a context ended: the error that somebody gave, or what stands for it.
///
/// A cause without an error of its own reads like the [`ContextError`]. It is
/// an error itself: boxed and given to
/// [`cancel_with`](crate::Canceller::cancel_with) again, it is passed on as it
/// is, origin included.
///
/// ```
/// use quell::Context;
///
/// let (ctx, canceller) = Context::background().with_cancel();
/// canceller.cancel_with("bad status");
/// let cause = ctx.cause().unwrap();
/// assert_eq!(cause.to_string(), "bad status");
/// println!("cancelled at {}", cause.origin().unwrap());
/// ```
#[derive(Clone)]
pub struct Cause(Reason);

#[derive(Clone)]
enum Reason {
    Cancelled(Origin),
    DeadlineExceeded(Origin),
    /// The last `Canceller` of the context made here was dropped.
    Dropped(&'static Location<'static>),
    Given(Arc<Given>),
}

type Origin = Option<&'static Location<'static>>;

struct Given {
    /// How the context ended for which it was given.
    end: ContextError,
    error: BoxError,
    origin: Origin,
}

impl Cause {
    pub(super) fn cancelled(origin: Origin) -> Self {
        Cause(Reason::Cancelled(origin))
    }

    pub(super) fn deadline(origin: &'static Location<'static>) -> Self {
        Cause(Reason::DeadlineExceeded(Some(origin)))
    }

    pub(super) fn dropped(made_at: &'static Location<'static>) -> Self {
        Cause(Reason::Dropped(made_at))
    }

    /// The user's error as the cause of this end. A boxed `Cause` is passed on
    /// as it is; where it was that of another kind of end, it is looked through.
    pub(super) fn given(end: ContextError, error: BoxError, origin: Origin) -> Self {
        match error.downcast::<Cause>() {
            Ok(cause) if cause.end() == end => *cause,
            Ok(cause) => {
                let origin = cause.origin();
                Cause(Reason::Given(Arc::new(Given { end, error: cause, origin })))
            }
            Err(error) => Cause(Reason::Given(Arc::new(Given { end, error, origin }))),
        }
    }

    /// The end that it is the cause of.
    #[inline]
    pub(super) fn end(&self) -> ContextError {
        match &self.0 {
            Reason::Cancelled(_) | Reason::Dropped(_) => ContextError::Cancelled,
            Reason::DeadlineExceeded(_) => ContextError::DeadlineExceeded,
            Reason::Given(given) => given.end,
        }
    }

    /// The error that was given, if it is an `E`: what Go asks with `errors.Is` and
    /// `errors.As`. The errors below that one are reached by its own `source`.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match &self.0 {
            Reason::Given(given) => match given.error.downcast_ref::<Cause>() {
                Some(passed_on) => passed_on.downcast_ref(),
                None => given.error.downcast_ref(),
            },
            _ => None,
        }
    }

    /// Where it began: the call that cancelled; for a deadline or a dropped
    /// `Canceller`, the `with_…` call that made the context. `None` for what
    /// began outside this crate's sight.
    pub fn origin(&self) -> Option<&'static Location<'static>> {
        match &self.0 {
            Reason::Cancelled(origin) | Reason::DeadlineExceeded(origin) => *origin,
            Reason::Dropped(made_at) => Some(made_at),
            Reason::Given(given) => given.origin,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Cancelled(_) => ContextError::Cancelled.fmt(f),
            Reason::DeadlineExceeded(_) => ContextError::DeadlineExceeded.fmt(f),
            Reason::Dropped(made_at) => write!(
                f,
                "context canceled: the last Canceller of the context made at {made_at} was \
                 dropped (bind it to a name to keep the context alive, or detach() it)",
            ),
            Reason::Given(given) => given.error.fmt(f),
        }
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Cause");
        match &self.0 {
            Reason::Given(given) if !given.error.is::<Cause>() => {
                debug.field("error", &given.error)
            }
            _ => debug.field("error", &format_args!("{self}")),
        };
        debug.field("origin", &self.origin().map(ToString::to_string)).finish()
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Reason::Given(given) => given.error.source(),
            _ => None,
        }
    }
}

/// The context has ended: what `?` carries out of a function that was told to stop,
/// be it by a cancel or by a deadline; [`error`](Cancelled::error) says which.
///
/// It reads like the [`ContextError`]; its [`source`](Error::source) is the [`Cause`].
#[derive(Clone, Debug)]
pub struct Cancelled(Cause);

impl Cancelled {
    pub(super) fn new(cause: &Cause) -> Self {
        Cancelled(cause.clone())
    }

    /// Which end it came to.
    pub fn error(&self) -> ContextError {
        self.0.end()
    }

    /// Why it ended.
    pub fn cause(&self) -> &Cause {
        &self.0
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.end().fmt(f)
    }
}

impl Error for Cancelled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
