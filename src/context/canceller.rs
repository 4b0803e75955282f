//! The right to end a context.

#[cfg(all(feature = "check", not(loom)))]
use super::Context;
use super::ContextError;
use super::cause::{BoxError, Cause};
use super::layer::{Branch, ContextFamily};
use crate::sync::Link;
use std::fmt;
use std::panic::Location;

/// Ends the context it was made with, and everything derived from that context.
///
/// Dropping the last clone cancels too, like Go's `defer cancel()`: a context ends, at the latest,
/// with the scope that made it. The cause then names the line that made the context, because the
/// usual mistake is not to bind the canceller:
///
/// ```
/// use quell::Context;
///
/// // Wrong: `_` binds nothing, so the canceller is dropped at once.
/// let (ctx, _) = Context::background().with_cancel();
/// assert!(ctx.is_done());
/// println!("{}", ctx.cause().unwrap()); // … bind it to a name … or detach() it
///
/// // Right:
/// let (ctx, _canceller) = Context::background().with_cancel();
/// assert!(!ctx.is_done());
///
/// // Right, where the context is to live until its parent ends:
/// let (ctx, canceller) = Context::background().with_cancel();
/// canceller.detach();
/// assert!(!ctx.is_done());
/// ```
///
/// An unused canceller is a warning:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # fn canceller() -> quell::Canceller { quell::Context::background().with_cancel().1 }
/// canceller();
/// ```
#[doc(alias = "DropGuard")]
#[must_use = "dropping the last Canceller cancels its context at once; bind it, or detach() it"]
pub struct Canceller {
    link: Link<ContextFamily>,
}

impl Canceller {
    pub(super) fn new(link: Link<ContextFamily>) -> Self {
        Canceller { link }
    }

    fn branch(&self) -> &Branch<'_> {
        self.link.layer().branch().expect("cancellers are made for branches")
    }

    /// Ends the context. Does nothing if it has ended.
    ///
    /// When this returns, the context and everything derived from it are marked: each of them
    /// reports itself as done. If this call was the one that ended the context, all waiters have
    /// been woken and all after-functions have run, on this thread.
    ///
    /// From inside a waker or an after-function, only the marking is promised. If many such calls
    /// are nested, the rest is done before the outermost call returns. From a waker that a
    /// deadline or a signal has woken, after-functions run on another thread.
    #[track_caller]
    pub fn cancel(&self) {
        self.branch().cancel(Cause::cancelled(Some(Location::caller())));
    }

    /// Ends the context for a reason. The first end wins: once the context has ended, error and
    /// cause stay as they are. A [`Cause`] or a [`Cancelled`](crate::Cancelled) of another
    /// context is passed on with its own origin.
    ///
    /// ```
    /// # let (ctx, canceller) = quell::Context::background().with_cancel();
    /// canceller.cancel_with("bad status");
    /// canceller.cancel_with("too late");
    /// assert_eq!(ctx.cause().unwrap().to_string(), "bad status");
    /// assert_eq!(ctx.err().unwrap().to_string(), "context canceled");
    /// ```
    #[track_caller]
    pub fn cancel_with(&self, cause: impl Into<BoxError>) {
        self.cancel_from(Some(Location::caller()), cause);
    }

    /// [`cancel_with`](Canceller::cancel_with) for what began elsewhere: at `origin`, or where quell
    /// cannot see it.
    pub(crate) fn cancel_from(
        &self,
        origin: Option<&'static Location<'static>>,
        cause: impl Into<BoxError>,
    ) {
        self.branch().cancel(Cause::given(ContextError::Cancelled, cause.into(), origin));
    }

    /// Ends the context with `origin` as the origin: as a cancel does, or as a deadline would,
    /// though its clock is not there yet. With `later`, slow work is returned to the caller.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn end_at(
        &self,
        origin: &'static Location<'static>,
        deadline: bool,
        later: bool,
    ) -> Option<crate::rt::Work> {
        let cause = if deadline { Cause::deadline(origin) } else { Cause::cancelled(Some(origin)) };
        if later {
            return self.branch().cancel_and_leave_the_rest(cause);
        }
        self.branch().cancel(cause);
        None
    }

    /// Whether this is the only handle to the context, and nothing below it is alive.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn is_alone(&self) -> bool {
        self.link.is_only()
    }

    /// Lays the context aside for reuse, no longer watched and with its list begun anew, if it
    /// cannot be told from a new one. False if it can.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn try_recycle(&self) -> bool {
        let as_new = self.is_alone() && self.branch().reset_if_pristine();
        if as_new {
            self.branch().unmark();
        }
        as_new
    }

    /// The context that was laid aside, watched again like a new one.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn reuse(&self, mark: u16) -> Context {
        self.branch().mark_as(mark);
        Context { link: Some(self.link.clone()) }
    }

    /// Ends the context with the cause of another end or failure.
    pub(crate) fn cancel_as(&self, cause: Cause) {
        self.branch().cancel(cause);
    }

    /// Releases the context without cancelling it: from now on, no drop of this canceller or of any
    /// clone ends the context. It ends with its parent, by its deadline, or by an explicit
    /// [`cancel`](Canceller::cancel) of a clone.
    pub fn detach(self) {
        self.branch().disarm();
    }
}

impl Clone for Canceller {
    fn clone(&self) -> Self {
        self.branch().add_canceller();
        Canceller { link: self.link.clone() }
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        let branch = self.branch();
        if branch.drop_canceller() {
            branch.cancel(Cause::dropped(branch.made_at));
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("of", &format_args!("{}", self.branch().made_at)).finish()
    }
}
