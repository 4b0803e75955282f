//! The tasks of models and checkers: a boxed future that leaves its result in a slot.
//!
//! # Invariants
//!
//! 1. A slot is filled once: with the result, the panic, or, when the task is dropped before it has
//!    either, "aborted".
//! 2. When a slot is filled, what the task held has been dropped.
//! 3. A filled slot holds no joiner.

use super::{Cow, Failure, JoinHandle, Location, Task};
use crate::rt::{self, probe};
use crate::sync::{Arc, BriefLock};
use pin_project_lite::pin_project;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A task that is not running yet.
#[cfg_attr(not(all(feature = "check", not(loom))), allow(dead_code))]
pub(crate) struct Unstarted {
    pub(crate) name: Cow<'static, str>,
    pub(crate) place: &'static Location<'static>,
    /// Where its result will be: joining the task is waiting for this address.
    pub(crate) address: usize,
    pub(crate) future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Unstarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unstarted").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Ends a task from outside: which task, and how.
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

/// In a model, `Stop` holds a count of what it stops.
#[cfg(loom)]
use crate::rt::by_thread::Stop;

pub(crate) struct Handle<T> {
    slot: Arc<Slot<T>>,
    stop: Stop,
    /// Whether its result has been taken.
    joined: bool,
}

/// No user code runs under its lock.
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
        rt::wake(joiner);
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
        // Cloning and dropping a waker is user code: outside of the lock.
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
