//! What users hold.
//!
//! # Invariants
//!
//! 1. `places <= limit`, unless the limit was lowered since. A task has a place, and so has a
//!    waiting spawn that was called.
//! 2. Waiting spawns are called in their order, whenever there is room.
//! 3. `first` is set once. It is never an error that a task returns because the group ended.
//! 4. A task's failure is noted, and has ended the group, before the task counts as ended.
//! 5. A call that starts a task counts as a task while it checks whether the group has ended. So it
//!    sees the end, or is waited for if the group is ended and its tasks waited for.

use super::report::{GroupDropped, ShutdownReport, TaskPanicked};
use super::spawn::{Spawn, TrySpawnError};
use super::tasks::{Ending, Owner, Tasks};
use crate::context::{BoxError, Cancelled, Canceller, Cause, Context, is_an_end};
use crate::rt::{self, Waiting};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, Mutex};
use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::task::Waker;
use std::time::Duration;

/// The name of a wait for all tasks, in a checker's report.
const TASKS: &str = "the end of all tasks of a group";

/// An owner for tasks that work on one thing together.
///
/// The first task that fails or panics ends the group's context, and with it every other task that
/// looks at it; [`wait`](Group::wait) then returns that first failure. A clone is another handle of
/// the same group. Dropping the last handle cancels the group's context: tasks are told to end, not
/// aborted.
///
/// ```
/// use quell::{BoxError, Context, Group};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let group = Group::new(&Context::background());
/// group
///     .spawn("log", |ctx| async move {
///         ctx.done().await; // until another fails
///         Ok::<(), BoxError>(())
///     })
///     .await?;
/// group.spawn("disk", |_ctx| async { Err("the disk is full") }).await?;
///
/// let failed = group.wait().await.unwrap_err();
/// assert_eq!(format!("{failed:#}"), "context canceled: the disk is full");
/// # Ok(())
/// # }
/// ```
///
/// A task has no result but an error. What it makes goes through a channel, or is an item of a
/// [`Pipeline`](crate::Pipeline).
#[doc(alias("errgroup", "WaitGroup", "JoinSet", "TaskTracker"))]
#[derive(Clone)]
pub struct Group {
    handle: Arc<Handle>,
}

/// All handles together.
struct Handle {
    shared: Arc<Shared>,
    made_at: &'static Location<'static>,
}

/// What handles and tasks share.
pub(super) struct Shared {
    pub(super) ctx: Context,
    canceller: Canceller,
    tasks: Arc<Tasks>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    limit: usize,
    places: usize,
    pub(super) waiting: Waiting,
    first: Option<Cause>,
    /// Whether a task returned an error because the group had ended.
    echoed: bool,
    /// The cause of the group's own end, once it has been shut down or dropped. Its parent may have
    /// ended before.
    own_end: Option<Cause>,
}

impl Group {
    /// Creates a group whose context is derived from `parent`.
    #[track_caller]
    pub fn new(parent: &Context) -> Group {
        let (ctx, canceller) = parent.with_cancel();
        let state = State {
            limit: usize::MAX,
            places: 0,
            waiting: Waiting::default(),
            first: None,
            echoed: false,
            own_end: None,
        };
        let tasks = Tasks::new();
        let shared = Arc::new(Shared { ctx, canceller, tasks, state: Mutex::new(state) });
        Group { handle: Arc::new(Handle { shared, made_at: Location::caller() }) }
    }

    /// The context of the group's tasks.
    pub fn ctx(&self) -> &Context {
        &self.handle.shared.ctx
    }

    /// Limits the group to `n` tasks at once, from now on. Tasks that run already go on, and a
    /// waiting spawn that was promised a place still starts its task.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    #[track_caller]
    pub fn limit(&self, n: usize) {
        assert!(n > 0, "quell: a group with a limit of zero never runs a task; pass 1 or more");
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        state.limit = n;
        let called = state.call();
        drop(state);
        rt::wake(called);
    }

    /// How many tasks have not ended.
    pub fn running(&self) -> usize {
        self.handle.shared.tasks.live()
    }

    /// Runs a task, as soon as fewer run than the [`limit`](Group::limit).
    ///
    /// The task gets the group's context. If it returns an error or panics, that ends the group,
    /// with the error as its cause.
    ///
    /// A task that awaits this for its own group keeps its place meanwhile. If all running tasks do
    /// so at the limit, they wait for one another until the group ends. Such tasks should use
    /// [`try_spawn`](Group::try_spawn).
    ///
    /// # Errors
    ///
    /// When the group has ended, also while this waits: then `task` is not called.
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, no task runs, and the next in line takes the place.
    ///
    /// # Panics
    ///
    /// When it is polled, if nothing runs tasks there. The message has the line of this call.
    #[track_caller]
    pub fn spawn<F, Fut, E>(&self, name: impl Into<Cow<'static, str>>, task: F) -> Spawn<'_, F>
    where
        F: FnOnce(Context) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        Spawn::new(&self.handle.shared, name.into(), Location::caller(), task)
    }

    /// [`spawn`](Group::spawn) without waiting.
    ///
    /// A task that finds more work can hand it on in this way, or do it itself if no place is free:
    ///
    /// ```
    /// use quell::group::TrySpawnError;
    /// use quell::{Cancelled, Context, Group};
    /// use std::pin::Pin;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    ///
    /// static VISITED: AtomicUsize = AtomicUsize::new(0);
    ///
    /// type Visit = Pin<Box<dyn Future<Output = Result<(), Cancelled>> + Send>>;
    ///
    /// fn visit(group: Group, depth: u32) -> Visit {
    ///     Box::pin(async move {
    ///         VISITED.fetch_add(1, Ordering::Relaxed);
    ///         for _ in 0..if depth == 0 { 0 } else { 2 } {
    ///             let below = group.clone();
    ///             match group.try_spawn("visit", move |_ctx| visit(below, depth - 1)) {
    ///                 Ok(()) => {}
    ///                 Err(TrySpawnError::Full(task)) => task(group.ctx().clone()).await?,
    ///                 Err(_) => break, // it has ended
    ///             }
    ///         }
    ///         Ok(())
    ///     })
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Cancelled> {
    /// let group = Group::new(&Context::background());
    /// group.limit(3);
    /// let first = group.clone();
    /// group.spawn("visit", move |_ctx| visit(first, 7)).await?;
    /// group.wait().await?;
    /// assert_eq!(VISITED.load(Ordering::Relaxed), 255);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the group has ended, or runs as many tasks as it may. The error gives `task` back.
    ///
    /// # Panics
    ///
    /// If nothing runs tasks here.
    #[track_caller]
    pub fn try_spawn<F, Fut, E>(
        &self,
        name: impl Into<Cow<'static, str>>,
        task: F,
    ) -> Result<(), TrySpawnError<F>>
    where
        F: FnOnce(Context) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let shared = &self.handle.shared;
        let name = name.into();
        if let Err(cancelled) = shared.ctx.check() {
            return Err(TrySpawnError::Ended(cancelled, task));
        }
        rt::require();
        if !shared.state.lock().enter() {
            return Err(TrySpawnError::Full(task));
        }
        Shared::start(shared, name, Location::caller(), task)
            .map_err(|(cancelled, task)| TrySpawnError::Ended(cancelled, task))
    }

    /// Waits until every task has ended, including those spawned meanwhile.
    ///
    /// A task that fails counts as ended once it has ended the group and run the after-functions of
    /// its context: an after-function that blocks on this waits for itself, for ever.
    ///
    /// # Errors
    ///
    /// The first failure of a task: its error, its panic as a [`TaskPanicked`], or that the runtime
    /// was shut down under it. An error that a task returns because the group ended, or that reads
    /// like the group's cause, never takes its place. Otherwise, if the group's parent ended and a
    /// task returned an error for that, the parent's cause. The error prints as `context canceled`:
    /// log it with `{:#}`, or log its [`cause`](Cancelled::cause).
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    #[doc(alias("join_all", "join_next"))]
    #[track_caller]
    pub fn wait(&self) -> impl Future<Output = Result<(), Cancelled>> + Send + use<'_> {
        let place = Location::caller();
        async move {
            let shared = &self.handle.shared;
            shared.tasks.over(TASKS, place).await;
            let state = shared.state.lock();
            if let Some(cause) = &state.first {
                return Err(Cancelled::new(cause.clone()));
            }
            if !state.echoed {
                return Ok(());
            }
            let own_end = state.own_end.clone();
            drop(state);
            let is_own = |ended: &Cancelled| {
                own_end.is_some_and(|own| skip(Break::OwnEndHidesParents) || own.is(ended.cause()))
            };
            match shared.ctx.check() {
                Err(ended) if is_own(&ended) => Ok(()),
                ended => ended,
            }
        }
    }

    /// Ends the group: cancels its context, gives its tasks `grace` to end, and aborts those that
    /// have not. Returns when all have ended, and says which had to be aborted. Of two calls at
    /// once the shorter grace counts, and both report the aborted tasks.
    ///
    /// A task that blocks its thread cannot be aborted before its next await, nor one on a runtime
    /// of one thread while nobody drives that: this waits for both. With a grace of zero every task
    /// is aborted and reported, even one that would have ended at its next poll.
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, the group is cancelled, provided it was polled at all; tasks
    /// have been aborted if the grace was over.
    #[track_caller]
    pub fn shutdown(
        &self,
        grace: Duration,
    ) -> impl Future<Output = ShutdownReport> + Send + use<'_> {
        let place = Location::caller();
        async move {
            let shared = &self.handle.shared;
            // First: what runs at the end may have a runtime dropped, and its tasks with it.
            let (before, mut late) = shared.tasks.late();
            shared.end("the group was shut down".into(), place);
            let over = || shared.tasks.over(TASKS, place);
            // Without a grace no task has another turn; a timeout of zero might let it have one.
            if grace.is_zero() || rt::timeout(grace, over()).await.is_err() {
                shared.tasks.stop_late();
                over().await;
            }
            // Including those that another shutdown aborted, now or before: they did not end by
            // themselves.
            late.extend(shared.tasks.late_after(before));
            ShutdownReport::new(late)
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let dropped = GroupDropped { made_at: self.made_at };
        self.shared.end(Box::new(dropped), self.made_at);
    }
}

impl Shared {
    /// Ends the group as shut down or dropped, unless it has ended before.
    fn end(&self, why: BoxError, place: &'static Location<'static>) {
        let cause = Cause::failure(why, place);
        // Two calls at once use the same cause, so it does not matter which of them ends the group.
        let cause = self.state.lock().own_end.get_or_insert(cause).clone();
        self.canceller.cancel_as(cause);
        // Spawns that wait for room see the end of the context by themselves.
    }

    /// Runs a task that already has its place, unless the group has ended: then gives back the
    /// place, and the task. Invariant 5.
    #[track_caller]
    pub(super) fn start<F, Fut, E>(
        this: &Arc<Self>,
        name: Cow<'static, str>,
        place: &'static Location<'static>,
        task: F,
    ) -> Result<(), (Cancelled, F)>
    where
        F: FnOnce(Context) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let _busy = (!skip(Break::StartNotAnnounced)).then(|| this.tasks.busy());
        if let Err(cancelled) = this.ctx.check() {
            this.leave();
            return Err((cancelled, task));
        }
        let ctx = this.ctx.clone();
        let member = Member { shared: Arc::clone(this), name: name.clone(), place };
        let future = Box::pin(async move { task(ctx).await.map_err(Into::into) });
        Tasks::spawn(&this.tasks, name, place, future, member);
        Ok(())
    }

    /// Invariants 3 and 4.
    fn failed(&self, error: BoxError, place: &'static Location<'static>) {
        let cause = self.ctx.cause();
        let echo = cause.is_some() && is_an_end(&*error, cause.as_ref());
        let failure = Cause::failure(error, place);
        // Two tasks that fail at once must not end the group for one error and report the other.
        let first = {
            let mut state = self.state.lock();
            if echo && !skip(Break::EchoTakenForFailure) {
                state.echoed = true;
                return;
            }
            state.first.get_or_insert_with(|| failure.clone()).clone()
        };
        let cause = if skip(Break::SecondFailureIsTheCause) { failure } else { first };
        self.canceller.cancel_as(cause);
    }

    /// Gives back the place of a task that has ended.
    fn leave(&self) {
        let mut state = self.state.lock();
        let called = state.give_back(Break::PlaceNotOffered);
        drop(state);
        rt::wake(called);
    }
}

/// The group that a task belongs to, and which task it is.
struct Member {
    shared: Arc<Shared>,
    name: Cow<'static, str>,
    place: &'static Location<'static>,
}

impl Owner<Result<(), BoxError>> for Member {
    fn ended(self, how: Ending<Result<(), BoxError>>) -> Option<impl FnOnce()> {
        let Member { shared, name, place } = self;
        match how {
            Ending::Returned(Err(error)) => shared.failed(error, place),
            Ending::Panicked(message) => {
                shared.failed(Box::new(TaskPanicked::new(name, message)), place);
            }
            // Nothing here aborted it, so its runtime is gone.
            Ending::Aborted if !shared.ctx.is_done() => {
                shared.failed("the runtime was shut down".into(), place);
            }
            Ending::Returned(Ok(())) | Ending::Aborted => {}
        }
        shared.leave();
        None::<fn()>
    }
}

impl State {
    /// Takes a place, if one is free.
    pub(super) fn enter(&mut self) -> bool {
        let room = self.places < self.limit;
        self.places += usize::from(room);
        room
    }

    /// Frees a place; returns the wakers of those that get it. (A model breaks the call.)
    pub(super) fn give_back(&mut self, broken: Break) -> Vec<Waker> {
        self.places -= 1;
        if skip(broken) { Vec::new() } else { self.call() }
    }

    /// Invariant 2.
    fn call(&mut self) -> Vec<Waker> {
        let mut called = Vec::new();
        while self.places < self.limit {
            let Some(waker) = self.waiting.take_first() else { break };
            self.places += 1;
            called.push(waker);
        }
        called
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("made_at", &format_args!("{}", self.handle.made_at))
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}
