//! Who may end a context.

#[cfg(all(feature = "check", not(loom)))]
use super::Context;
use super::ContextError;
use super::cause::{BoxError, Cause};
use super::layer::{Branch, Line};
use crate::sync::Link;
use std::fmt;
use std::panic::Location;

/// Ends the context it was made with, and everything derived from that.
///
/// Dropping the last clone cancels too, as Go's `defer cancel()` does: a
/// context ends, at the latest, with the scope that made it. The cause then
/// names the line that made it, because the usual mistake is not to bind it:
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
/// A canceller that is not used at all is a warning:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # fn canceller() -> quell::Canceller { quell::Context::background().with_cancel().1 }
/// canceller();
/// ```
#[doc(alias = "DropGuard")]
#[must_use = "dropping the last Canceller cancels its context at once; bind it, or detach() it"]
pub struct Canceller {
    link: Link<Line>,
}

impl Canceller {
    pub(super) fn new(link: Link<Line>) -> Self {
        Canceller { link }
    }

    fn branch(&self) -> &Branch<'_> {
        self.link.layer().branch().expect("cancellers are made for branches")
    }

    /// Ends the context. Once it has ended, does nothing.
    ///
    /// When this returns, the context and everything derived from it is marked:
    /// every question to any of them is answered "done". If this call was the
    /// one that ended it, everyone who waits has been woken and all
    /// after-functions have run, on this thread.
    ///
    /// Inside a waker or an after-function only the marking is promised: deep inside, where
    /// one ends the context of the next, and so on, the rest comes before the outermost call
    /// returns; and what a waker ends that quell's own timer thread has woken is told on another.
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel_at(Location::caller());
    }

    /// [`cancel`](Canceller::cancel) on behalf of the line `origin`.
    pub(crate) fn cancel_at(&self, origin: &'static Location<'static>) {
        self.branch().cancel(Cause::cancelled(Some(origin)));
    }

    /// Ends the context for a reason. The first end wins: once it has ended,
    /// error and cause stay as they are. A [`Cause`](crate::Cause) or a
    /// [`Cancelled`](crate::Cancelled) of another context is passed on with the
    /// origin it has.
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
        let origin = Some(Location::caller());
        self.branch().cancel(Cause::given(ContextError::Cancelled, cause.into(), origin));
    }

    /// Ends the context on behalf of the line `origin`: as a cancel does, or as a deadline would,
    /// though the clock is not there yet. `later`: what may take its time is left to the caller.
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

    /// Whether nobody else has a handle to the context, nor to anything below it.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn is_alone(&self) -> bool {
        self.link.is_only()
    }

    /// Lays aside a context that could be taken for one that has just been made, until it is
    /// taken up again: nobody watches it. Where it has had a list of others, that begins anew.
    /// False: it could not.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn lays_aside(&self) -> bool {
        let as_new = self.is_alone() && self.branch().is_as_new();
        if as_new {
            self.branch().unmark();
        }
        as_new
    }

    /// The context that was laid aside, watched as a new one is.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn takes_up(&self, mark: u16) -> Context {
        self.branch().mark_again_as(mark);
        Context { link: Some(self.link.clone()) }
    }

    /// Ends the context as something else has ended, or failed.
    pub(crate) fn cancel_as(&self, cause: Cause) {
        self.branch().cancel(cause);
    }

    /// Lets go without cancelling: from now on no drop of this canceller or of
    /// any of its clones ends the context. It ends with its parent, by its
    /// deadline, or by an explicit [`cancel`](Canceller::cancel) of a clone.
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
