//! The public handle: every derivation and every query.

use super::after::{AfterFunc, Whose};
use super::canceller::Canceller;
use super::cause::{BoxError, Cancelled, Cause, ContextError, Seen};
use super::done::Done;
use super::layer::{Branch, ContextFamily, Kind, Layer, nearest_branch};
use super::run::Run;
use super::scope::Deadline;
use super::ties::Ties;
use super::values::{self, Entry, Key, Name};
use super::wait;
use crate::rt::Clock;
use crate::sync::{Arc, Link, Ref};
use std::panic::Location;
use std::time::{Duration, Instant};

/// A place in a tree of cancellation, deadlines, causes and values.
///
/// A context is a cheap handle: clone it, send it, pass it as the first argument to every function
/// that works on behalf of the same task. Derive from it with the `with_…` methods; ending a
/// context ends everything derived from it, never its parent or siblings.
///
/// ```
/// use quell::Context;
///
/// let (parent, canceller) = Context::background().with_cancel();
/// let (child, _canceller) = parent.with_cancel();
/// canceller.cancel_with("the client went away");
/// assert!(child.is_done());
/// assert_eq!(child.cause().unwrap().to_string(), "the client went away");
/// ```
///
/// `Display` shows the path from the root, with the names of types and keys but never the values:
/// `background → cancel → timeout(2s, 1.3s left) → value(UserId)`.
#[derive(Clone, Default)]
#[must_use = "a context does nothing unless it is asked"]
pub struct Context {
    /// `None`: the background.
    pub(super) link: Option<Link<ContextFamily>>,
}

/// Deriving.
impl Context {
    /// The root of every tree: never done, no deadline, no values.
    ///
    /// It is also the [`Default`].
    pub fn background() -> Context {
        Context { link: None }
    }

    /// A root like [`background`](Context::background), for code where it is not yet clear which
    /// context to use. It displays as `todo`, so it can be found.
    #[track_caller]
    pub fn todo() -> Context {
        let made_at = Location::caller();
        Context::background().derive(false, |_| (Layer::Todo { made_at }, ()))
    }

    /// A child that its [`Canceller`] can end.
    #[doc(alias("child_token", "CancellationToken"))]
    #[track_caller]
    pub fn with_cancel(&self) -> (Context, Canceller) {
        self.with_cancel_at(Location::caller())
    }

    /// [`with_cancel`](Context::with_cancel), told as made at this line; as are the others below:
    /// for rooms above this one, whose own lines say nothing to their users.
    pub(crate) fn with_cancel_at(
        &self,
        made_at: &'static Location<'static>,
    ) -> (Context, Canceller) {
        self.branch_off(|parent| (Branch::new(made_at, Kind::Cancel, None, parent), ()))
    }

    /// The context of a pipeline, which was made at `made_at`.
    pub(crate) fn of_pipeline(&self, made_at: &'static Location<'static>) -> (Context, Canceller) {
        self.branch_off(|parent| (Branch::new(made_at, Kind::Pipeline, None, parent), ()))
    }

    /// A child that ends at `at`, unless it ends before.
    ///
    /// A child's deadline is never later than its parent's: a later `at` gives the parent's
    /// deadline. An `at` in the past gives a context that is done.
    ///
    /// The deadline follows the clock of the parent's deadline if there is one, else the ambient
    /// clock (see [`rt::now`](crate::rt::now)). It holds whether or not the runtime that owns the
    /// clock is being driven. A current-thread tokio runtime should be built with `enable_time`
    /// (with `panic = "abort"` it must be): tokio reports its absence once, in a panic that is
    /// caught here. Only a clock that was paused when its runtime was dropped stands still.
    #[track_caller]
    pub fn with_deadline(&self, at: impl Into<Instant>) -> (Context, Canceller) {
        self.bounded(Location::caller(), (Kind::Deadline, None), None, |_| Some(at.into()))
    }

    /// [`with_deadline`](Context::with_deadline) with a cause of its own. If the parent's deadline
    /// is earlier, it ends the child, with the parent's cause.
    #[track_caller]
    pub fn with_deadline_cause(
        &self,
        at: impl Into<Instant>,
        cause: impl Into<BoxError>,
    ) -> (Context, Canceller) {
        let cause = Some(cause.into());
        self.bounded(Location::caller(), (Kind::Deadline, None), cause, |_| Some(at.into()))
    }

    /// A child that ends once `after` has elapsed, unless it ends before. With `Duration::MAX`, or
    /// any duration beyond the clock's range, the child gets no deadline of its own.
    ///
    /// ```
    /// use quell::{Context, ContextError};
    /// use std::time::Duration;
    ///
    /// let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(5));
    /// assert_eq!(ctx.wait(), ContextError::DeadlineExceeded);
    /// ```
    #[track_caller]
    pub fn with_timeout(&self, after: Duration) -> (Context, Canceller) {
        self.with_timeout_at(Location::caller(), after)
    }

    pub(crate) fn with_timeout_at(
        &self,
        made_at: &'static Location<'static>,
        after: Duration,
    ) -> (Context, Canceller) {
        let kind = (Kind::Timeout, Some(after));
        self.bounded(made_at, kind, None, |clock| clock.now().checked_add(after))
    }

    /// [`with_timeout`](Context::with_timeout) with a cause of its own.
    #[track_caller]
    pub fn with_timeout_cause(
        &self,
        after: Duration,
        cause: impl Into<BoxError>,
    ) -> (Context, Canceller) {
        self.with_timeout_cause_at(Location::caller(), after, cause)
    }

    pub(crate) fn with_timeout_cause_at(
        &self,
        made_at: &'static Location<'static>,
        after: Duration,
        cause: impl Into<BoxError>,
    ) -> (Context, Canceller) {
        let kind = (Kind::Timeout, Some(after));
        let cause = Some(cause.into());
        self.bounded(made_at, kind, cause, |clock| clock.now().checked_add(after))
    }

    /// A child whose deadline comes `keep` before its parent's: the caller has that time left to
    /// deal with what the child has not finished. If the parent has no deadline, neither has the
    /// child; if less than `keep` is left, the child is done at once.
    ///
    /// ```
    /// # use quell::Context;
    /// # use std::time::Duration;
    /// let (request, _c) = Context::background().with_timeout(Duration::from_secs(3));
    /// let (lookup, _c) = request.with_reserve(Duration::from_secs(1));
    /// assert!(lookup.remaining().unwrap() <= Duration::from_secs(2));
    /// ```
    #[track_caller]
    pub fn with_reserve(&self, keep: Duration) -> (Context, Canceller) {
        let parents = self.deadline();
        self.bounded(Location::caller(), (Kind::Reserve, Some(keep)), None, |clock| {
            // A time before the clock's range has passed long ago.
            parents.map(|at| at.checked_sub(keep).unwrap_or_else(|| clock.now().min(at)))
        })
    }

    /// A child that also ends when any of `others` does, with the error and cause of the first to
    /// end. Its deadline is the earliest of all; values come from `self` only. If several are done
    /// already, `self` takes precedence, then `others` in order.
    ///
    /// If the deadlines follow different clocks, this context's deadline is the earliest on the
    /// first of those clocks. The deadlines on other clocks end it when they ring; they are
    /// watched from this call on, whether or not anything waits.
    ///
    /// ```
    /// # use quell::Context;
    /// let (server, shutdown) = Context::background().with_cancel();
    /// let (request, _client) = Context::background().with_cancel();
    /// let (ctx, _canceller) = request.linked(&[&server]);
    /// shutdown.cancel_with("shutting down");
    /// assert_eq!(ctx.cause().unwrap().to_string(), "shutting down");
    /// ```
    #[track_caller]
    pub fn linked(&self, others: &[&Context]) -> (Context, Canceller) {
        self.linked_at(Location::caller(), others)
    }

    pub(crate) fn linked_at(
        &self,
        made_at: &'static Location<'static>,
        others: &[&Context],
    ) -> (Context, Canceller) {
        let all = || std::iter::once(&self).chain(others).filter_map(|ctx| ctx.branch());
        // Even the parent's deadline becomes this context's own, so that it counts here if one of
        // the others ends after it has passed. Only times of one clock can be compared; `tie`
        // handles the deadlines on other clocks.
        let deadlines = || all().filter_map(Branch::deadline);
        let earliest = deadlines().next().and_then(|first| {
            let by_that_clock = deadlines().filter(|deadline| deadline.clock.same(&first.clock));
            by_that_clock.min_by_key(|deadline| deadline.at).cloned()
        });
        let ended = all().find_map(Branch::look).map(Seen::to_cause);
        self.branch_off(|parent| {
            let mut branch = Branch::new(made_at, Kind::Linked, earliest, parent);
            #[cfg(all(feature = "check", not(loom)))]
            others.iter().filter_map(|other| other.branch()).for_each(|other| {
                branch.mark_as(other.mark());
            });
            let ties = match ended {
                Some(cause) => {
                    branch.end_at_once(cause);
                    Ties::to(Vec::new())
                }
                None => branch.tie(others.iter().map(|&other| other.clone()).collect()),
            };
            (branch, ties)
        })
    }

    /// A child with this context's values and nothing else of it: no cancellation, no deadline, no
    /// error, no cause. It is for work that must go on after the request that caused it has ended.
    #[track_caller]
    pub fn without_cancel(&self) -> Context {
        let made_at = Location::caller();
        self.derive(false, |parent| {
            (Layer::Detached { made_at, values: parent.and_then(values::top) }, ())
        })
    }

    /// A child that carries `value`. The type is the key: a type that is private to a module can be
    /// read or shadowed only there. Wrap foreign types: `String` is the same key for everyone.
    ///
    /// ```
    /// use quell::Context;
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct UserId(u64);
    ///
    /// let ctx = Context::background().with_value(UserId(7));
    /// assert_eq!(ctx.value::<UserId>(), Some(&UserId(7)));
    /// assert_eq!(ctx.value::<String>(), None);
    /// ```
    ///
    /// A value may hold a context whose value holds another, and so on. Such a nest is dropped
    /// recursively, as nested boxes are, so it must not be many thousands deep.
    ///
    /// Outside the module the type cannot be named:
    ///
    /// ```compile_fail,E0603
    /// mod auth {
    ///     struct Token(String);
    /// }
    /// let token = quell::Context::background().value::<auth::Token>();
    /// ```
    #[track_caller]
    pub fn with_value<V: Send + Sync + 'static>(&self, value: V) -> Context {
        self.with_named(None, value)
    }

    /// A child that carries `value` under a [`Key`].
    #[track_caller]
    pub fn with_entry<V: Send + Sync + 'static>(&self, key: &'static Key<V>, value: V) -> Context {
        self.with_named(Some(key.label()), value)
    }

    fn with_named<V: Send + Sync + 'static>(&self, name: Name, value: V) -> Context {
        self.derive(false, |parent| {
            let entry = Entry::new::<V>(name, parent.and_then(values::top));
            (Layer::Value { entry, branch: parent.and_then(nearest_branch) }, value)
        })
    }

    fn derive<V: Send + Sync + 'static>(
        &self,
        seated: bool,
        build: impl for<'p> FnOnce(Option<Ref<'p, ContextFamily>>) -> (Layer<'p>, V),
    ) -> Context {
        let child = Context { link: Some(Link::new(self.link.clone(), seated, build)) };
        child.note_look();
        child
    }

    fn branch_off<V: Send + Sync + 'static>(
        &self,
        build: impl for<'p> FnOnce(Option<Ref<'p, ContextFamily>>) -> (Branch<'p>, V),
    ) -> (Context, Canceller) {
        let child = self.derive(true, |parent| {
            let (branch, value) = build(parent);
            (Layer::Branch(branch), value)
        });
        if let Some(branch) = child.branch() {
            branch.have_time_noted();
        }
        let (one, two) = child.link.expect("derived contexts are links").twin();
        (Context { link: Some(one) }, Canceller::new(two))
    }

    fn bounded(
        &self,
        made_at: &'static Location<'static>,
        (kind, asked): (Kind, Option<Duration>),
        cause: Option<BoxError>,
        at: impl FnOnce(&Clock) -> Option<Instant>,
    ) -> (Context, Canceller) {
        let parents = self.branch().and_then(Branch::deadline);
        let clock = parents.map_or_else(Clock::ambient, |deadline| deadline.clock.clone());
        let at = at(&clock).filter(|&at| parents.is_none_or(|deadline| at <= deadline.at));
        let own = at.map(|at| {
            let cause = match cause {
                Some(error) => Cause::given(ContextError::DeadlineExceeded, error, Some(made_at)),
                None => Cause::deadline(made_at),
            };
            Arc::new(Deadline { at, asked, clock, cause })
        });
        self.branch_off(|parent| (Branch::new(made_at, kind, own, parent), ()))
    }
}

/// Asking.
impl Context {
    /// A future that is ready when this context ends. It owns what it needs, and keeps the context
    /// alive.
    ///
    /// Its waker is woken on the thread that ends the context; at a deadline, on the runtime that
    /// kept the time or on the one thread that keeps all other deadlines. A waker that blocks there
    /// delays them; those of executors do not block.
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, it leaves nothing behind.
    #[doc(alias = "cancelled")]
    #[track_caller]
    pub fn done(&self) -> Done {
        self.note_look();
        Done::new(self.clone())
    }

    /// Whether the context has ended.
    #[doc(alias = "is_cancelled")]
    #[inline]
    pub fn is_done(&self) -> bool {
        self.branch().is_some_and(|branch| {
            let done = branch.is_done();
            branch.note_look();
            done
        })
    }

    /// How it ended, if it has: cancelled, or its deadline exceeded.
    #[inline]
    pub fn err(&self) -> Option<ContextError> {
        Some(self.branch()?.answer()?.end())
    }

    /// Why it ended: `Some` exactly when [`err`](Context::err) is.
    pub fn cause(&self) -> Option<Cause> {
        Some(self.branch()?.answer()?.to_cause())
    }

    /// Returns `Err` once the context has ended. An occasional `ctx.check()?` makes a long loop
    /// stoppable, also at its deadline, even where no timer gets to run.
    ///
    /// ```
    /// use quell::{Cancelled, Context};
    ///
    /// fn sum(ctx: &Context, numbers: &[u64]) -> Result<u64, Cancelled> {
    ///     let mut sum = 0;
    ///     for chunk in numbers.chunks(1024) {
    ///         ctx.check()?;
    ///         sum += chunk.iter().sum::<u64>();
    ///     }
    ///     Ok(sum)
    /// }
    /// # assert_eq!(sum(&Context::background(), &[1, 2]).unwrap(), 3);
    /// ```
    ///
    /// # Errors
    ///
    /// If the context has ended, with its error and cause.
    #[inline]
    pub fn check(&self) -> Result<(), Cancelled> {
        match self.branch().and_then(Branch::answer) {
            None => Ok(()),
            Some(cause) => Err(Cancelled::new(cause.to_cause())),
        }
    }

    /// The deadline: when the context ends at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.branch()?.deadline()?.at)
    }

    /// The cause with which its deadline ends it.
    #[cfg(all(feature = "http", not(loom)))]
    pub(crate) fn cause_at_deadline(&self) -> Option<Cause> {
        Some(self.branch()?.deadline()?.cause.clone())
    }

    /// Its deadline, if that has ended it and is on `clock`.
    pub(crate) fn expired_by(&self, clock: &Clock) -> Option<Instant> {
        let branch = self.branch()?;
        let deadline = branch.deadline()?;
        let cause = branch.answer()?.to_cause();
        // The same line may have made a deadline on another clock. (A checker may let a deadline
        // pass before its clock has reached it.)
        let is_it =
            cause.is(&deadline.cause) && (deadline.has_passed() || branch.may_end_ahead_of_time());
        (is_it && deadline.clock.same(clock)).then_some(deadline.at)
    }

    /// The time left until its deadline; `None` if it has none. Zero once the deadline has passed,
    /// or the context has ended with [`DeadlineExceeded`](ContextError::DeadlineExceeded) on
    /// whichever clock.
    pub fn remaining(&self) -> Option<Duration> {
        let branch = self.branch()?;
        let remaining = branch.remaining();
        branch.note_look();
        remaining
    }

    /// The value of this type, from the nearest context that carries one.
    ///
    /// It is found in constant time, however deep the tree.
    #[inline]
    pub fn value<V: Send + Sync + 'static>(&self) -> Option<&V> {
        self.named(None)
    }

    /// The value under this key, from the nearest context that carries one.
    #[inline]
    pub fn entry<V: Send + Sync + 'static>(&self, key: &'static Key<V>) -> Option<&V> {
        self.named(Some(key.label()))
    }

    #[inline]
    fn named<V: 'static>(&self, name: Name) -> Option<&V> {
        values::find(self.link.as_ref()?.as_ref(), name)
    }

    /// Runs `future` until it finishes or this context ends, whichever is first. Every poll checks
    /// the context first: once it has ended, the future is dropped without another poll. An output
    /// that the future has produced is never thrown away.
    ///
    /// ```
    /// # use quell::Context;
    /// # futures::executor::block_on(async {
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// assert_eq!(ctx.run(async { 7 }).await.unwrap(), 7);
    /// canceller.cancel();
    /// assert!(ctx.run(async { 7 }).await.is_err());
    /// # });
    /// ```
    ///
    /// # Cancel safety
    ///
    /// When the context ends, `future` is dropped at the await it has reached, and work that it has
    /// half done stays half done. Put `run` around waits, such as a `recv` or a sleep; if work must
    /// be finished once begun, call [`check`](Context::check) between its steps instead.
    #[doc(alias("run_until_cancelled", "select"))]
    #[track_caller]
    pub fn run<F: Future>(&self, future: F) -> Run<F> {
        self.note_look();
        Run::new(self, future)
    }

    /// Blocks this thread until the context ends: for ever if it cannot, like the background. In a
    /// task, await [`done`](Context::done) instead: this would block the runtime's thread.
    ///
    /// It keeps its own time, so deadlines need no runtime here. If the deadline is on a paused
    /// clock, this returns when another thread moves that clock.
    ///
    /// # Panics
    ///
    /// Under a checker, which has one thread only.
    #[track_caller]
    pub fn wait(&self) -> ContextError {
        wait::until(self, None).expect("without a limit only an end returns")
    }

    /// Blocks this thread until the context ends, or returns `None` after `limit`. The limit is on
    /// the system's clock, whichever clock the deadline is on.
    ///
    /// # Panics
    ///
    /// As [`wait`](Context::wait) does.
    #[track_caller]
    pub fn wait_timeout(&self, limit: Duration) -> Option<ContextError> {
        // A limit beyond the clock's range is none.
        wait::until(self, Clock::system_now().checked_add(limit))
    }

    /// Registers `f` to run, once, when this context ends.
    ///
    /// | it ends by | `f` runs |
    /// |---|---|
    /// | a cancel, or the drop of the last [`Canceller`] | on that thread, before the call returns |
    /// | a deadline | on the runtime that kept the time, on a dedicated thread, or on the thread of a later cancel |
    /// | a signal, or a cancel by a waker that a deadline or a signal has woken | on a dedicated thread |
    /// | (it has ended already) | here, before this returns: hold no lock that `f` takes |
    ///
    /// On a dedicated thread `f` may block; it holds up no deadline, no pipeline and no signal.
    /// There are at most 512 such threads: while 512 functions block, the next ones wait.
    ///
    /// A panic in `f` is caught. `f` may do anything with any context. Until `f` has run or was
    /// stopped, it keeps this context alive. On a context that cannot end, it never runs.
    ///
    /// ```
    /// # use quell::Context;
    /// # use std::sync::mpsc;
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// let (tell, told) = mpsc::channel();
    /// ctx.after_func(move || tell.send("closed").unwrap());
    /// canceller.cancel();
    /// assert_eq!(told.recv().unwrap(), "closed");
    /// ```
    pub fn after_func(&self, f: impl FnOnce() + Send + 'static) -> AfterFunc {
        self.note_look();
        AfterFunc::register(self, Whose::Users, Box::new(f))
    }

    /// [`after_func`](Context::after_func) for quell's own functions: they run before all user
    /// functions, which therefore cannot hold them up.
    pub(crate) fn own_func_at_end(&self, f: impl FnOnce() + Send + 'static) -> AfterFunc {
        self.note_look();
        AfterFunc::register(self, Whose::Ours, Box::new(f))
    }

    /// The same for functions of quell's that run user code: they run among the user functions.
    pub(crate) fn users_func_at_end(&self, f: impl FnOnce() + Send + 'static) -> AfterFunc {
        AfterFunc::register(self, Whose::Users, Box::new(f))
    }

    /// A human-readable view of the live contexts below this one that can end by themselves: what
    /// made each, and where.
    ///
    /// It visits every context of the process, so it is for finding out what is still running, not
    /// for hot paths.
    #[cfg(not(loom))]
    #[must_use]
    pub fn tree(&self) -> super::Tree {
        let tree = super::Tree::of(self.link.as_ref().map(Link::as_ref));
        self.note_look();
        tree
    }
}

/// For the rest of the crate.
impl Context {
    /// Whether it surely has ended when `other` has: `other` never ends, or one branch answers for
    /// both.
    pub(crate) fn ends_with(&self, other: &Context) -> bool {
        match (self.branch(), other.branch()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(this), Some(other)) => std::ptr::eq(this, other),
        }
    }

    /// A root that a checker watches, together with everything derived from it.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn watched(
        mark: u16,
        made_at: &'static Location<'static>,
        after: Option<Duration>,
    ) -> (Context, Canceller) {
        let kind = if after.is_some() { Kind::Timeout } else { Kind::Cancel };
        let at = |clock: &Clock| clock.now().checked_add(after?);
        let (root, canceller) = Context::background().bounded(made_at, (kind, after), None, at);
        root.branch().into_iter().for_each(|branch| branch.mark_as(mark));
        (root, canceller)
    }

    /// Notes that it has been asked: see [`Branch::note_look`].
    #[inline(always)]
    pub(super) fn note_look(&self) {
        #[cfg(all(feature = "check", not(loom)))]
        if let Some(branch) = self.branch() {
            branch.note_look();
        }
    }

    /// The branch that answers for this context; `None` if it cannot end.
    #[inline]
    pub(super) fn branch(&self) -> Option<&Branch<'_>> {
        nearest_branch(self.link.as_ref()?.as_ref())
    }

    /// How many children its scope lists, for the models.
    #[cfg(loom)]
    pub(crate) fn children(&self) -> usize {
        self.branch().and_then(|branch| branch.open().ok()).map_or(0, |scope| scope.children())
    }
}
