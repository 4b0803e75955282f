//! Spawning, joining, aborting: the same in every world.
//!
//! On tokio a task is tokio's. Under a model or a checker it is one of `own`'s.
//!
//! # Invariants
//!
//! 1. When a handle says that its task has ended, what the task held has been dropped.

#![allow(clippy::disallowed_methods, reason = "the right door")]

#[cfg(any(loom, feature = "check", not(feature = "tokio")))]
mod own;

#[cfg(all(feature = "check", not(loom)))]
pub(crate) use self::own::Stop;
#[cfg(any(loom, feature = "check"))]
pub(crate) use self::own::Unstarted;
#[cfg(any(loom, feature = "check", not(feature = "tokio")))]
use self::own::own;
use super::panics::panic_message;
use super::probe::{self, Wait};
use crate::sync::Mutex;
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Spawns a task. Dropping the handle leaves it running.
///
/// # Panics
///
/// If nothing runs tasks here: outside a tokio runtime, and outside every checker.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_at(Cow::Borrowed(""), Location::caller(), future)
}

/// [`spawn`] with a name, which appears in the task's error and in a checker's report.
///
/// # Panics
///
/// As [`spawn`] does.
#[track_caller]
pub fn spawn_named<F>(name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_at(name.into(), Location::caller(), future)
}

/// [`spawn_named`] on behalf of the line `place`.
#[track_caller]
#[inline(never)]
pub(crate) fn spawn_at<F>(
    name: Cow<'static, str>,
    place: &'static Location<'static>,
    future: F,
) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(loom)]
    return own(name, place, future, super::by_thread::spawn);
    #[cfg(all(feature = "check", not(loom)))]
    if super::world::is_here() {
        return own(name, place, future, |task| {
            super::world::ask(|world| world.spawn(task)).expect("it is here")
        });
    }
    #[cfg(all(feature = "tokio", not(loom)))]
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        return JoinHandle { name, place, task: Task::Tokio(runtime.spawn(future)) };
    }
    #[cfg(all(feature = "tokio", not(loom)))]
    {
        let _ = (name, place, future);
        nobody()
    }
    #[cfg(not(any(feature = "tokio", loom)))]
    {
        // Before the closure: the caller's line is lost in it.
        require();
        own(name, place, future, |_| nobody())
    }
}

/// The runtime to nudge: one of several threads, which keeps what a task wakes last for that task's
/// own thread, however long it goes on.
#[cfg(not(loom))]
pub(super) struct Nudge {
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Handle>,
}

#[cfg(not(loom))]
impl Nudge {
    /// For tasks of the runtime that is ambient here.
    pub(super) fn here() -> Self {
        Nudge {
            #[cfg(feature = "tokio")]
            runtime: tokio::runtime::Handle::try_current().ok().filter(|runtime| {
                runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
            }),
        }
    }

    /// Whether several threads run tasks, or one that another may stand in for.
    pub(super) fn on_threads(&self) -> bool {
        #[cfg(feature = "tokio")]
        return self.runtime.is_some();
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Whether several threads run tasks at once.
    pub(super) fn is_needed(&self) -> bool {
        #[cfg(feature = "tokio")]
        return self.runtime.as_ref().is_some_and(|runtime| runtime.metrics().num_workers() > 1);
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Lets other threads run what this task has woken: an empty task takes its place.
    pub(super) fn nudge(&self) {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(async {}));
        }
    }
}

/// Whether tasks can run here.
pub(crate) fn runs_tasks() -> bool {
    #[cfg(all(feature = "check", not(loom)))]
    if super::world::is_here() {
        return true;
    }
    #[cfg(all(feature = "tokio", not(loom)))]
    if tokio::runtime::Handle::try_current().is_ok() {
        return true;
    }
    cfg!(loom)
}

/// # Panics
///
/// If nothing runs tasks here, as [`spawn`] does.
#[track_caller]
pub(crate) fn require() {
    #[cfg(not(loom))]
    if !runs_tasks() {
        nobody()
    }
}

/// Where tasks can run, for messages.
pub(crate) const WHERE_TASKS_RUN: &str = "inside a tokio runtime (feature `tokio`; `#[tokio::main]`, `Runtime::block_on`, \
     `Handle::enter`) or under a checker";

#[cfg(not(loom))]
#[track_caller]
fn nobody() -> ! {
    panic!("quell: nobody runs tasks on this thread; spawn from {WHERE_TASKS_RUN}")
}

/// A handle to a task, to await its result or to abort it.
///
/// # Cancel safety
///
/// Dropping it leaves the task running.
///
/// # Panics
///
/// When polled again after it was ready.
#[must_use = "a task goes on without its handle: `drop` it to say so"]
pub struct JoinHandle<T> {
    name: Cow<'static, str>,
    /// Where it was spawned.
    place: &'static Location<'static>,
    task: Task<T>,
}

enum Task<T> {
    #[cfg(all(feature = "tokio", not(loom)))]
    Tokio(tokio::task::JoinHandle<T>),
    #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
    Own(own::Handle<T>),
}

// Only the task's result can be seen through it, and that is there or not.
impl<T> UnwindSafe for JoinHandle<T> {}
impl<T> RefUnwindSafe for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// Ends the task where it next awaits. What it holds is dropped; awaiting the handle then
    /// returns an error that says it was aborted, unless it finished first.
    pub fn abort(&self) {
        match &self.task {
            #[cfg(all(feature = "tokio", not(loom)))]
            Task::Tokio(task) => task.abort(),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => task.abort(),
        }
    }

    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        match &self.task {
            #[cfg(all(feature = "tokio", not(loom)))]
            Task::Tokio(task) => task.is_finished(),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => task.is_finished(),
        }
    }

    fn ended(&self, how: Failure) -> JoinError {
        JoinError { name: self.name.clone(), place: self.place, how }
    }
}

impl JoinHandle<()> {
    /// Keeps only the ability to abort the task.
    pub(crate) fn into_abort(self) -> Abort {
        match self.task {
            #[cfg(all(feature = "tokio", not(loom)))]
            Task::Tokio(task) => Abort::Tokio(task.abort_handle()),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => Abort::Own(task),
        }
    }
}

/// Can abort a task, and do nothing else with it. Smaller than a handle, and quicker to drop.
pub(crate) enum Abort {
    #[cfg(all(feature = "tokio", not(loom)))]
    Tokio(tokio::task::AbortHandle),
    #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
    Own(own::Handle<()>),
}

impl Abort {
    pub(crate) fn abort(self) {
        match self {
            #[cfg(all(feature = "tokio", not(loom)))]
            Abort::Tokio(task) => task.abort(),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Abort::Own(task) => task.abort(),
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.task {
            #[cfg(all(feature = "tokio", not(loom)))]
            Task::Tokio(task) => Pin::new(task).poll(cx).map_err(|error| {
                if error.is_panic() {
                    Failure::panicked(error.into_panic())
                } else {
                    Failure::Aborted
                }
            }),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => task.poll(cx),
        };
        if result.is_pending() {
            probe::waits(|| Wait { what: "the end of a task", at: self.place, of: self.address() });
        }
        result.map_err(|how| self.ended(how))
    }
}

impl<T> JoinHandle<T> {
    fn address(&self) -> usize {
        match &self.task {
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => task.address(),
            #[allow(unreachable_patterns)]
            _ => 0,
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("name", &self.name)
            .field("spawned_at", &format_args!("{}", self.place))
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a task has no result: it panicked, or it was aborted (by its handle, or with its runtime).
pub struct JoinError {
    name: Cow<'static, str>,
    place: &'static Location<'static>,
    how: Failure,
}

enum Failure {
    /// Behind a lock, because a payload cannot be shared between threads, and an error should be.
    Panicked(Mutex<Box<dyn Any + Send>>),
    Aborted,
}

impl Failure {
    fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Failure::Panicked(Mutex::new(payload))
    }
}

impl JoinError {
    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.how, Failure::Panicked(_))
    }

    /// Whether the task was aborted.
    pub fn is_aborted(&self) -> bool {
        matches!(self.how, Failure::Aborted)
    }

    /// The panic's payload, to resume the panic: `resume_unwind(error.into_panic()?)`.
    ///
    /// # Errors
    ///
    /// Returns the error itself if the task did not panic.
    pub fn into_panic(self) -> Result<Box<dyn Any + Send>, JoinError> {
        match self.how {
            Failure::Panicked(payload) => Ok(payload.into_inner()),
            how => Err(JoinError { how, ..self }),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name {
            "" => write!(f, "the task spawned at {}", self.place)?,
            name => write!(f, "the task `{name}`")?,
        }
        match &self.how {
            Failure::Aborted => f.write_str(" was aborted"),
            Failure::Panicked(payload) => {
                write!(f, " panicked: {}", panic_message(&**payload.lock()))
            }
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {}
