//! Why a context ended.
//!
//! # Invariants
//!
//! 1. The error is part of the cause. They are one value, set by one store, so no reader sees one
//!    without the other.
//! 2. A cause is a tag and a pointer: to where it began or, only if the user gave an error, a
//!    counted pointer to that. Inheriting it allocates nothing.
//! 3. A given error that is itself a `Cause` is the cause of the other end: causes do not chain.

#[cfg(not(loom))]
use crate::rt;
use crate::rt::contain_panic;
use crate::sync::{Arc, Lent};
use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::panic::Location;

/// Any error that can be a cause. `&str`, `String` and every error type convert to it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How a context ended: cancelled, or by its deadline.
///
/// Displays as in Go: `context canceled`, `context deadline exceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContextError {
    /// It was cancelled, or a context above it was.
    Cancelled,
    /// Its deadline, or that of a context above it, has passed.
    DeadlineExceeded,
}

impl ContextError {
    const fn text(self) -> &'static str {
        match self {
            ContextError::Cancelled => "context canceled",
            ContextError::DeadlineExceeded => "context deadline exceeded",
        }
    }
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Error for ContextError {}

/// Why a context ended: the error that was given, or a default in its place.
///
/// A cause without an error of its own displays like the [`ContextError`]; if the last
/// [`Canceller`](crate::Canceller) was dropped, it also says what to do about that. Any other
/// displays like its error; `{:#}` adds that error's sources. A cause is itself an error: given to
/// [`cancel_with`](crate::Canceller::cancel_with), boxed or not, it is passed on unchanged, origin
/// included.
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
pub struct Cause(Reason<Arc<Given>>);

/// A borrowed cause, whatever the form it is kept in.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a>(pub(super) Reason<Lent<'a, Given>>);

/// A cause in parts; `G` is the pointer to what was given.
#[derive(Clone, Copy)]
pub(super) enum Reason<G> {
    Cancelled(Origin),
    DeadlineExceeded(Origin),
    /// The last `Canceller` of the context made here was dropped.
    Dropped(&'static Location<'static>),
    /// An error was given to a cancel, or for a deadline.
    Given(G),
}

type Origin = Option<&'static Location<'static>>;

// Aligned as `Tagged` asks.
#[repr(align(8))]
pub(super) struct Given {
    end: ContextError,
    error: UserError,
    origin: Origin,
}

/// An error that was given. Its drop is user code, which quell's own threads leave to others.
struct UserError(Option<BoxError>);

impl Deref for UserError {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().expect("it is there until it is dropped")
    }
}

#[cfg(not(loom))]
impl Drop for UserError {
    fn drop(&mut self) {
        let error = self.0.take();
        if rt::is_quells_own() {
            rt::for_users(move || drop(error));
        } else if std::thread::panicking() {
            // A context may have two errors, its deadline's and that of a cancel. A panic that
            // leaves the drop of one while that of the other unwinds would abort the process.
            contain_panic(move || drop(error));
        }
    }
}

impl<G: Deref<Target = Given>> Reason<G> {
    #[inline]
    fn end(&self) -> ContextError {
        match self {
            Reason::Cancelled(_) | Reason::Dropped(_) => ContextError::Cancelled,
            Reason::DeadlineExceeded(_) => ContextError::DeadlineExceeded,
            Reason::Given(given) => given.end,
        }
    }

    fn origin(&self) -> Origin {
        match self {
            Reason::Cancelled(origin) | Reason::DeadlineExceeded(origin) => *origin,
            Reason::Dropped(made_at) => Some(made_at),
            Reason::Given(given) => given.origin,
        }
    }

    fn map<H>(self, f: impl FnOnce(G) -> H) -> Reason<H> {
        match self {
            Reason::Cancelled(origin) => Reason::Cancelled(origin),
            Reason::DeadlineExceeded(origin) => Reason::DeadlineExceeded(origin),
            Reason::Dropped(made_at) => Reason::Dropped(made_at),
            Reason::Given(given) => Reason::Given(f(given)),
        }
    }
}

impl Given {
    /// The error as it was first given.
    fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        let of_the_other_end = self.error.downcast_ref::<Cause>();
        of_the_other_end.and_then(Cause::error).unwrap_or(&*self.error)
    }
}

impl Seen<'_> {
    /// The end that this is the cause of.
    #[inline]
    pub(super) fn end(&self) -> ContextError {
        self.0.end()
    }

    #[inline]
    pub(super) fn to_cause(self) -> Cause {
        Cause(self.0.map(Lent::to_arc))
    }
}

impl Cause {
    /// Its parts, to be kept in another form.
    #[inline]
    pub(super) fn into_reason(self) -> Reason<Arc<Given>> {
        self.0
    }

    #[inline]
    pub(super) fn from_reason(reason: Reason<Arc<Given>>) -> Self {
        Cause(reason)
    }

    #[inline]
    pub(super) fn seen(&self) -> Seen<'_> {
        Seen(match &self.0 {
            Reason::Cancelled(origin) => Reason::Cancelled(*origin),
            Reason::DeadlineExceeded(origin) => Reason::DeadlineExceeded(*origin),
            Reason::Dropped(made_at) => Reason::Dropped(made_at),
            Reason::Given(given) => Reason::Given(Lent::from(given)),
        })
    }

    pub(super) fn cancelled(origin: Origin) -> Self {
        Cause(Reason::Cancelled(origin))
    }

    pub(super) fn deadline(origin: &'static Location<'static>) -> Self {
        Cause(Reason::DeadlineExceeded(Some(origin)))
    }

    pub(super) fn dropped(made_at: &'static Location<'static>) -> Self {
        Cause(Reason::Dropped(made_at))
    }

    /// The user's error as the cause of this end. An error that is or carries a `Cause` is passed
    /// on with its own origin.
    pub(super) fn given(end: ContextError, error: BoxError, origin: Origin) -> Self {
        let (error, origin) = match Cause::carried(error) {
            Err(error) => (error, origin),
            Ok(cause) if cause.end() == end => return cause,
            Ok(cause) => match cause.of_the_other_end() {
                Some(first) => return first.clone(),
                // It displays as before, though the end is another.
                None => {
                    let origin = cause.origin();
                    (Box::new(cause) as BoxError, origin)
                }
            },
        };
        Cause(Reason::Given(Arc::new(Given { end, error: UserError(Some(error)), origin })))
    }

    /// The cause that this one was made from, if that was a cause of the other end.
    fn of_the_other_end(&self) -> Option<&Cause> {
        match &self.0 {
            Reason::Given(given) => given.error.downcast_ref(),
            _ => None,
        }
    }

    /// The cause of a cancel by a failed task.
    pub(crate) fn failure(error: BoxError, place: &'static Location<'static>) -> Self {
        Cause::given(ContextError::Cancelled, error, Some(place))
    }

    /// Takes the cause out of an error that is a `Cause` or a [`Cancelled`], boxed or not.
    fn carried(error: BoxError) -> Result<Cause, BoxError> {
        let error = match error.downcast::<Cause>() {
            Ok(cause) => return Ok(*cause),
            Err(error) => error,
        };
        let error = match error.downcast::<Box<Cause>>() {
            Ok(cause) => return Ok(**cause),
            Err(error) => error,
        };
        let error = match error.downcast::<Cancelled>() {
            Ok(cancelled) => return Ok(cancelled.0),
            Err(error) => error,
        };
        error.downcast::<Box<Cancelled>>().map(|cancelled| cancelled.0)
    }

    /// The end that this is the cause of.
    #[inline]
    pub(super) fn end(&self) -> ContextError {
        self.0.end()
    }

    fn error(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        match &self.0 {
            Reason::Given(given) => Some(given.error()),
            _ => None,
        }
    }

    /// The error that was given, if it is an `E`: the counterpart of Go's `errors.Is` and
    /// `errors.As`. Errors beneath the given one are reached through its own `source`.
    ///
    /// It finds nothing in an `anyhow::Error`, which becomes an error of a type of anyhow's own.
    /// Give its `reallocate_into_boxed_dyn_error_without_backtrace()` instead, and it is found.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.error()?.downcast_ref()
    }

    /// Where it began: the call that cancelled or, for a deadline or a dropped `Canceller`, the
    /// `with_…` call that made the context. `None` if it began where quell cannot see it, as in a
    /// `CancellationToken`, or with a client that went away.
    pub fn origin(&self) -> Option<&'static Location<'static>> {
        self.0.origin()
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
            Reason::Given(given) if f.alternate() => f.write_str(&with_sources(&*given.error)),
            Reason::Given(given) => fmt::Display::fmt(&*given.error, f),
        }
    }
}

/// An error and its sources. A source whose text is already there is left out: some errors display
/// their sources themselves.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut said = format!("{error:#}");
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !said.contains(&text) {
            said = said + ": " + &text;
        }
        next = source.source();
    }
    said
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Cause");
        match self.error().filter(|error| !error.is::<Cause>()) {
            Some(error) => debug.field("error", &error),
            None => debug.field("error", &format_args!("{self}")),
        };
        debug.field("origin", &self.origin().map(ToString::to_string)).finish()
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error()?.source()
    }
}

/// The error of a context that has ended, to be returned with `?` from a function that was told to
/// stop, by a cancel or by a deadline; [`error`](Cancelled::error) says which.
///
/// It displays like the [`ContextError`]; `{:#}` adds the cause and its sources. Its
/// [`source`](Error::source) is the [`Cause`].
#[derive(Clone, Debug)]
pub struct Cancelled(Cause);

impl Cancelled {
    pub(crate) fn new(cause: Cause) -> Self {
        Cancelled(cause)
    }

    /// How the context ended: cancelled, or by its deadline.
    pub fn error(&self) -> ContextError {
        self.0.end()
    }

    /// Why the context ended.
    pub fn cause(&self) -> &Cause {
        &self.0
    }
}

/// Go's text; with `{:#}`, the cause and its sources as well.
impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return self.0.end().fmt(f);
        }
        let (end, why) = (self.0.end().to_string(), format!("{:#}", self.0));
        if why.starts_with(&end) { f.write_str(&why) } else { write!(f, "{end}: {why}") }
    }
}

impl Error for Cancelled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// For code that returns `io::Result`. The kind is `TimedOut` for a deadline and `Other` for a
/// cancel, because `read_exact` and its like try again after `Interrupted`.
///
/// ```
/// use quell::{Cancelled, Context};
/// use std::io::{self, Read};
/// use std::time::Duration;
///
/// fn count(ctx: &Context, mut file: impl Read) -> io::Result<usize> {
///     let (mut buffer, mut count) = ([0; 1024], 0);
///     loop {
///         ctx.check()?;
///         match file.read(&mut buffer)? {
///             0 => return Ok(count),
///             n => count += n,
///         }
///     }
/// }
///
/// let (ctx, _canceller) = Context::background().with_timeout_cause(Duration::ZERO, "too slow");
/// let error = count(&ctx, io::repeat(1)).unwrap_err();
/// assert_eq!(error.kind(), io::ErrorKind::TimedOut);
/// let cancelled = error.get_ref().unwrap().downcast_ref::<Cancelled>().unwrap();
/// assert_eq!(cancelled.cause().to_string(), "too slow");
/// ```
impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> Self {
        let kind = match cancelled.error() {
            ContextError::DeadlineExceeded => io::ErrorKind::TimedOut,
            ContextError::Cancelled => io::ErrorKind::Other,
        };
        io::Error::new(kind, cancelled)
    }
}

impl Cause {
    /// Whether both are the same cause: of given errors, clones of one; of others, the same end
    /// and origin.
    pub(crate) fn is(&self, other: &Cause) -> bool {
        match (&self.0, &other.0) {
            (Reason::Given(one), Reason::Given(other)) => Arc::ptr_eq(one, other),
            (Reason::Given(_), _) | (_, Reason::Given(_)) => false,
            (one, other) => one.end() == other.end() && one.origin() == other.origin(),
        }
    }
}

/// Whether an error only says that a context has ended, or displays like `cause`.
pub(crate) fn is_an_end(error: &(dyn Error + 'static), cause: Option<&Cause>) -> bool {
    let is_end = |this: &(dyn Error + 'static)| {
        this.is::<Cancelled>() || this.is::<ContextError>() || this.is::<Cause>()
    };
    comes_from(error, is_end, |this| {
        let text = this.to_string();
        [ContextError::Cancelled, ContextError::DeadlineExceeded].iter().any(|e| e.text() == text)
            || cause.is_some_and(|cause| cause.to_string() == text)
    })
}

/// Whether an error or one of its sources satisfies `is_such`, or `reads_so` by its text.
///
/// A transparent wrapper neither is the error that it holds nor has it as its source: it only
/// displays like it. (`io::Error::other` is such a wrapper, but can be asked what it holds.)
/// `source` and `Display` are user code: an error that panics in them does not count.
pub(crate) fn comes_from(
    error: &(dyn Error + 'static),
    is_such: impl Fn(&(dyn Error + 'static)) -> bool,
    reads_so: impl Fn(&(dyn Error + 'static)) -> bool,
) -> bool {
    let any = |is_it: &dyn Fn(&(dyn Error + 'static)) -> bool| {
        let look = || {
            let mut next = Some(error);
            while let Some(this) = next {
                // Before this error is asked for its source.
                if is_it(this) {
                    return true;
                }
                next = held_by(this).or_else(|| this.source());
            }
            false
        };
        contain_panic(look).unwrap_or(false)
    };
    // An error whose content can be asked for is not judged by its text.
    any(&is_such) || any(&|this| held_by(this).is_none() && reads_so(this))
}

/// The error that an `io::Error` holds. `source` skips that and gives its source.
fn held_by<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let held = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Explodes;

    impl fmt::Display for Explodes {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("when it is displayed")
        }
    }

    impl Error for Explodes {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            panic!("when it is asked where it comes from")
        }
    }

    #[test]
    fn a_cause_is_known_for_what_it_is_before_its_error_is_asked_for_anything() {
        let cause = Cause::given(ContextError::Cancelled, Box::new(Explodes), None);
        assert!(is_an_end(&cause, None));
        assert!(is_an_end(&std::io::Error::other(cause), None), "held by another");
        assert!(!is_an_end(&Explodes, None));
    }
}
