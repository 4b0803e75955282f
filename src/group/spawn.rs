//! Waiting at the limit.
//!
//! # Invariants
//!
//! 1. A waiting [`Spawn`] has a ticket, and the group's end wakes it as well.
//! 2. A place that was promised to it is used, or passed on when it is dropped.

use super::handle::Shared;
use crate::context::{BoxError, Cancelled, Context, Done};
use crate::rt;
use crate::rt::probe::{self, Wait};
use crate::sync::Arc;
use crate::sync::planted::{Break, skip};
use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::Poll;

/// The future of [`Group::spawn`](super::Group::spawn).
#[must_use = "a task is not spawned until this is awaited"]
pub struct Spawn<'a, F> {
    shared: &'a Arc<Shared>,
    name: Cow<'static, str>,
    place: &'static Location<'static>,
    /// `None` once it has been spawned or refused.
    task: Option<F>,
    ticket: Option<usize>,
    end: Option<Done>,
}

// The task is moved into its own future; nothing of it is pinned here.
impl<F> Unpin for Spawn<'_, F> {}

impl<'a, F> Spawn<'a, F> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        name: Cow<'static, str>,
        place: &'static Location<'static>,
        task: F,
    ) -> Self {
        Spawn { shared, name, place, task: Some(task), ticket: None, end: None }
    }

    /// Leaves the line, and passes on a place that was promised.
    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut state = self.shared.state.lock();
        let waker = state.waiting.take(ticket);
        let called = match waker {
            Some(_) => Vec::new(),
            None => state.give_back(Break::PlaceNotPassedOn),
        };
        drop(state);
        drop(waker);
        rt::wake(called);
    }
}

impl<F, Fut, E> Future for Spawn<'_, F>
where
    F: FnOnce(Context) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    type Output = Result<(), Cancelled>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(this.task.is_some(), "`Spawn` polled after it was ready");
        loop {
            if let Err(cancelled) = this.shared.ctx.check() {
                this.end = None;
                this.leave();
                this.task = None;
                return Poll::Ready(Err(cancelled));
            }
            // Before it takes a place.
            let place = this.place;
            assert!(
                rt::runs_tasks(),
                "quell: the spawn at {place} was awaited where nobody runs tasks; await it {}",
                rt::WHERE_TASKS_RUN
            );
            let waker = cx.waker().clone();
            let mut state = this.shared.state.lock();
            let before = match this.ticket {
                None if state.enter() => Err(waker),
                None => {
                    this.ticket = Some(state.waiting.join(waker));
                    Ok(None)
                }
                // It is no longer in line, so it was called, and has a place.
                Some(ticket) => state.waiting.renew(ticket, waker).map(Some),
            };
            drop(state);
            if before.is_err() {
                this.ticket = None;
                this.end = None;
                let task = this.task.take().expect("asserted above");
                let started = Shared::start(this.shared, this.name.clone(), this.place, task);
                return Poll::Ready(started.map_err(|(cancelled, _task)| cancelled));
            }
            let end = this.end.get_or_insert_with(|| this.shared.ctx.done());
            if skip(Break::SpawnIgnoresTheEnd) || Pin::new(end).poll(cx).is_pending() {
                let of = Arc::as_ptr(this.shared) as *const () as usize;
                probe::waits(|| Wait { what: "room in a group", at: this.place, of });
                return Poll::Pending;
            }
        }
    }
}

impl<F> Drop for Spawn<'_, F> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<F> fmt::Debug for Spawn<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawn").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why [`Group::try_spawn`](super::Group::try_spawn) spawned nothing, with the task that it did not
/// spawn.
#[non_exhaustive]
pub enum TrySpawnError<F> {
    /// As many tasks run as may.
    Full(F),
    /// The group has ended.
    Ended(Cancelled, F),
}

impl<F> TrySpawnError<F> {
    /// The task that was not spawned.
    pub fn into_inner(self) -> F {
        match self {
            TrySpawnError::Full(task) | TrySpawnError::Ended(_, task) => task,
        }
    }
}

impl<F> fmt::Debug for TrySpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySpawnError::Full(_) => "Full(..)",
            TrySpawnError::Ended(..) => "Ended(..)",
        })
    }
}

impl<F> fmt::Display for TrySpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySpawnError::Full(_) => {
                f.write_str("the group runs as many tasks as it may; `spawn` waits for room")
            }
            TrySpawnError::Ended(cancelled, _) => {
                write!(f, "the group has ended: {}", cancelled.cause())
            }
        }
    }
}

impl<F> std::error::Error for TrySpawnError<F> {
    /// The group's end: a task that returns this error because of it has not failed by itself.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TrySpawnError::Full(_) => None,
            TrySpawnError::Ended(cancelled, _) => Some(cancelled),
        }
    }
}
