//! Spawning, joining, aborting: the same in every world.
//!
//! On tokio a task is tokio's. Under a model or a checker it is a boxed future
//! that leaves its result in a slot.
//!
//! # Invariants
//!
//! 1. A slot is filled once: by the result, by the panic, or, when the task is
//!    dropped before it has either, by "aborted".
//! 2. What a task holds has been dropped when its handle says that it has ended.
//! 3. Once a slot is filled there is no joiner in it.

#![allow(clippy::disallowed_methods, reason = "the right door")]

use super::probe::{self, Wait};
use crate::sync::Mutex;
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Has a task run on its own. Dropping the handle leaves it running.
///
/// # Panics
///
/// Where nobody runs tasks: outside a tokio runtime (and of every checker).
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_at(Cow::Borrowed(""), Location::caller(), future)
}

/// [`spawn`] with a name, which an error of the task's and a checker's report use.
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
    own(name, place, future, |_| nobody())
}

/// A runtime of several threads that keeps what a task wakes last for the thread
/// of that task, however long it goes on.
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

    /// Whether tasks are run by several threads, or by one that another may stand in for.
    pub(super) fn on_threads(&self) -> bool {
        #[cfg(feature = "tokio")]
        return self.runtime.is_some();
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Whether they are run by several at once.
    pub(super) fn is_needed(&self) -> bool {
        #[cfg(feature = "tokio")]
        return self.runtime.as_ref().is_some_and(|runtime| runtime.metrics().num_workers() > 1);
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Whatever this task has woken can be run by other threads from now on: a task
    /// of nothing takes its place.
    pub(super) fn nudge(&self) {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(async {}));
        }
    }
}

/// Whether somebody runs tasks here.
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
/// If nobody runs tasks here, as [`spawn`] does.
#[track_caller]
pub(crate) fn require() {
    #[cfg(not(loom))]
    if !runs_tasks() {
        nobody()
    }
}

#[cfg(not(loom))]
#[track_caller]
fn nobody() -> ! {
    panic!(
        "quell: nobody runs tasks on this thread; spawn from inside a tokio runtime \
         (feature `tokio`; `#[tokio::main]`, `Runtime::block_on`, `Handle::enter`) or under a checker"
    )
}

/// A task that can be waited for or aborted: ready with what it returned.
///
/// # Cancel safety
///
/// Dropping it leaves the task running.
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

// Nothing of the task's is seen through it but a result, which is there or is not.
impl<T> UnwindSafe for JoinHandle<T> {}
impl<T> RefUnwindSafe for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// Ends it where it awaits next. What it holds is dropped; awaiting the handle
    /// then says that it was aborted, unless it finished first.
    pub fn abort(&self) {
        match &self.task {
            #[cfg(all(feature = "tokio", not(loom)))]
            Task::Tokio(task) => task.abort(),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => task.abort(),
        }
    }

    /// Whether it has ended, in whatever way.
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
    /// For whoever aborts the task, if anything.
    pub(crate) fn into_abort(self) -> Abort {
        match self.task {
            #[cfg(all(feature = "tokio", not(loom)))]
            Task::Tokio(task) => Abort::Tokio(task.abort_handle()),
            #[cfg(any(loom, feature = "check", not(feature = "tokio")))]
            Task::Own(task) => Abort::Own(task),
        }
    }
}

/// What can abort a task, and do nothing else with it. It is smaller than a handle, and
/// quicker to let go of.
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

/// Why a task has no result: it panicked, or it was aborted (by its handle, or
/// with its runtime).
pub struct JoinError {
    name: Cow<'static, str>,
    place: &'static Location<'static>,
    how: Failure,
}

enum Failure {
    /// Behind a lock, because a payload cannot be shared, and an error should.
    Panicked(Mutex<Box<dyn Any + Send>>),
    Aborted,
}

impl Failure {
    fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Failure::Panicked(Mutex::new(payload))
    }
}

impl JoinError {
    /// Whether it panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.how, Failure::Panicked(_))
    }

    /// Whether it was aborted.
    pub fn is_aborted(&self) -> bool {
        matches!(self.how, Failure::Aborted)
    }

    /// What it panicked with, to go on with it: `resume_unwind(error.into_panic()?)`.
    ///
    /// # Errors
    ///
    /// Gives the error back where the task did not panic.
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

/// What a panic said, in a text of its own. Its payload is dropped, and may panic again
/// for that: once.
pub(crate) fn panic_words(payload: Box<dyn Any + Send>) -> String {
    let words = panic_message(&*payload).to_owned();
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // It could go on like this.
        std::mem::forget(again);
    }
    words
}

/// Runs the user's `f`, for which nobody here answers: a panic in it has been printed by the
/// panic hook, is noted by a checker, and goes no further.
pub(crate) fn undisturbed<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            probe::panicked(&*payload);
            drop(panic_words(payload));
            None
        }
    }
}

/// Wakes all of these: a waker that panics is the affair of whoever waits, and keeps nobody
/// else from being woken, nor the one who wakes from going on.
#[inline]
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        undisturbed(|| waker.wake());
    }
}

/// What a panic said, as far as a program can tell.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is no text")
}

#[cfg(all(feature = "check", not(loom)))]
pub(crate) use own::Stop;
#[cfg(any(loom, feature = "check"))]
pub(crate) use own::Unstarted;
#[cfg(any(loom, feature = "check", not(feature = "tokio")))]
use own::own;

/// The tasks of models and checkers.
#[cfg(any(loom, feature = "check", not(feature = "tokio")))]
mod own {
    use super::{Cow, Failure, JoinHandle, Location, Task};
    use crate::rt::probe;
    use crate::sync::{Arc, BriefLock};
    use pin_project_lite::pin_project;
    use std::fmt;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    /// A task that nobody runs yet.
    #[cfg_attr(not(all(feature = "check", not(loom))), allow(dead_code))]
    pub(crate) struct Unstarted {
        pub(crate) name: Cow<'static, str>,
        pub(crate) place: &'static Location<'static>,
        /// Where its result will be: joining it is waiting for this address.
        pub(crate) address: usize,
        pub(crate) future: Pin<Box<dyn Future<Output = ()> + Send>>,
    }

    impl fmt::Debug for Unstarted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Unstarted").field("name", &self.name).finish_non_exhaustive()
        }
    }

    /// The way to end a task from outside: which one it is, and how that is done.
    #[cfg(not(loom))]
    #[cfg_attr(not(feature = "check"), allow(dead_code))]
    pub(crate) struct Stop {
        pub(crate) task: usize,
        pub(crate) stop: fn(usize),
    }

    #[cfg(not(loom))]
    impl Stop {
        fn stop(&self) {
            (self.stop)(self.task);
        }
    }

    /// Under a model it holds a count of what it stops.
    #[cfg(loom)]
    use crate::rt::by_thread::Stop;

    pub(crate) struct Handle<T> {
        slot: Arc<Slot<T>>,
        stop: Stop,
        /// Its result has been taken.
        joined: bool,
    }

    /// Nobody's code runs under its lock.
    struct Slot<T>(BriefLock<State<T>>);

    struct State<T> {
        result: Option<Result<T, Failure>>,
        ended: bool,
        joiner: Option<Waker>,
    }

    /// Makes a task and gives it to `start`.
    pub(crate) fn own<F>(
        name: Cow<'static, str>,
        place: &'static Location<'static>,
        future: F,
        start: impl FnOnce(Unstarted) -> Stop,
    ) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let state = State { result: None, ended: false, joiner: None };
        let slot = Arc::new(Slot(BriefLock::new(state)));
        let address = Arc::as_ptr(&slot) as *const () as usize;
        let future = Box::pin(Job { future: Some(future), slot: Arc::clone(&slot) });
        let stop = start(Unstarted { name: name.clone(), place, address, future });
        JoinHandle { name, place, task: Task::Own(Handle { slot, stop, joined: false }) }
    }

    impl<T> Slot<T> {
        fn fill(&self, result: Result<T, Failure>) {
            let mut state = self.0.lock();
            if state.ended {
                return;
            }
            state.ended = true;
            state.result = Some(result);
            let joiner = state.joiner.take();
            drop(state);
            probe::touches("ended", || std::ptr::from_ref(self) as *const () as usize);
            super::wake(joiner);
        }
    }

    impl<T> Handle<T> {
        pub(super) fn abort(&self) {
            self.stop.stop();
        }

        pub(super) fn is_finished(&self) -> bool {
            self.slot.0.lock().ended
        }

        pub(super) fn address(&self) -> usize {
            Arc::as_ptr(&self.slot) as *const () as usize
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Failure>> {
            // Cloning a waker and dropping one is the user's code: outside of the lock.
            let mut joiner = None;
            loop {
                let mut state = self.slot.0.lock();
                if state.ended {
                    let result = state.result.take();
                    drop(state);
                    self.joined = true;
                    let result = result.expect("a `JoinHandle` was polled after it was ready");
                    return Poll::Ready(result);
                }
                if state.joiner.as_ref().is_some_and(|joiner| joiner.will_wake(cx.waker())) {
                    return Poll::Pending;
                }
                if joiner.is_some() {
                    std::mem::swap(&mut state.joiner, &mut joiner);
                    return Poll::Pending;
                }
                drop(state);
                joiner = Some(cx.waker().clone());
            }
        }
    }

    impl<T> Drop for Handle<T> {
        fn drop(&mut self) {
            // Invariant 3.
            if !self.joined {
                let joiner = self.slot.0.lock().joiner.take();
                drop(joiner);
            }
        }
    }

    pin_project! {
        struct Job<F: Future> {
            // `None` once it has ended.
            #[pin]
            future: Option<F>,
            slot: Arc<Slot<F::Output>>,
        }

        impl<F: Future> PinnedDrop for Job<F> {
            fn drop(this: Pin<&mut Self>) {
                let mut this = this.project();
                if this.future.is_none() {
                    return;
                }
                // A panic in what is dropped must not keep the joiner waiting.
                let dropped = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
                this.slot.fill(Err(match dropped {
                    Ok(()) => Failure::Aborted,
                    Err(payload) => {
                        probe::panicked(&*payload);
                        Failure::panicked(payload)
                    }
                }));
            }
        }
    }

    impl<F: Future> Future for Job<F> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let mut this = self.project();
            let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
            let result = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(value)) => Ok(value),
                Err(payload) => {
                    probe::panicked(&*payload);
                    Err(Failure::panicked(payload))
                }
            };
            // Invariant 2.
            let dropped = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
            this.slot.fill(result.and_then(|value| match dropped {
                Ok(()) => Ok(value),
                Err(payload) => {
                    probe::panicked(&*payload);
                    Err(Failure::panicked(payload))
                }
            }));
            Poll::Ready(())
        }
    }
}
