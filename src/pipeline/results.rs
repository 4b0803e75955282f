//! What users read.
//!
//! # Invariants
//!
//! 1. Nothing runs before the first poll.
//! 2. However reading ends, the engine's context is cancelled: by `finish`, or
//!    when the results are dropped.

use super::end::End;
use super::engine::Engine;
use super::plan::Pipeline;
use super::report::Report;
use crate::channel::Receiver;
use crate::context::{Cancelled, Cause};
use crate::rt::{self, probe};
use crate::sync::Arc;
use futures_core::future::FusedFuture;
use futures_core::stream::{FusedStream, Stream};
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The results of a pipeline: a [`Stream`], and a plain [`next`](Results::next).
///
/// The pipeline starts when this is first polled, on the runtime that polls it.
/// Dropping it ends the pipeline: every stage, at once.
/// [`finish`](Results::finish) does that too, waits until every task has ended,
/// and says what became of every item.
#[must_use = "a pipeline runs when its results are polled, and ends when they are dropped"]
pub struct Results<T> {
    state: State<T>,
    read: usize,
    /// The reader's line, for the cause if the reader ends the pipeline.
    made_at: &'static Location<'static>,
}

enum State<T> {
    Planned(Pipeline<T>),
    Running {
        engine: Arc<Engine>,
        receiver: Receiver<T>,
    },
    /// Nothing more comes.
    Over {
        engine: Arc<Engine>,
    },
}

// Items in it are never pinned.
impl<T> Unpin for Results<T> {}

impl<T: Send + 'static> Results<T> {
    pub(super) fn new(pipeline: Pipeline<T>, made_at: &'static Location<'static>) -> Self {
        Results { state: State::Planned(pipeline), read: 0, made_at }
    }

    /// Returns the next result, or `None` when there will be no more: either all have come, or the
    /// pipeline has ended before. [`try_next`](Results::try_next) tells which, and so does the
    /// report.
    ///
    /// After 128 results that were already there it lets other tasks go first, once, even if there
    /// are more. So a `next` that is polled only once, say by `now_or_never`, may find nothing
    /// while there is something.
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, nothing has been taken.
    ///
    /// # Panics
    ///
    /// When it is first polled, if nothing runs tasks here.
    #[track_caller]
    #[allow(clippy::should_implement_trait, reason = "it is awaited, and needs no import")]
    pub fn next(&mut self) -> Next<'_, T> {
        Next { results: self, made_at: Location::caller() }
    }

    /// Returns the next result, `Ok(None)` when all have come, or an error if the pipeline ended
    /// before that was known here.
    ///
    /// ```
    /// # use quell::{Context, Pipeline};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// async fn sum(ctx: &Context, words: &'static [&'static str]) -> Result<u32, quell::Cancelled> {
    ///     let mut numbers = Pipeline::from_iter(ctx, words)
    ///         .try_dispatch(4, |_ctx, word| async move { word.parse::<u32>() })
    ///         .run();
    ///     let mut sum = 0;
    ///     while let Some(n) = numbers.try_next().await? {
    ///         sum += n;
    ///     }
    ///     Ok(sum)
    /// }
    ///
    /// let ctx = Context::background();
    /// assert_eq!(sum(&ctx, &["1", "2", "3"]).await.unwrap(), 6);
    /// let error = sum(&ctx, &["1", "two", "3"]).await.unwrap_err();
    /// assert_eq!(error.cause().to_string(), "invalid digit found in string");
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, nothing has been taken.
    ///
    /// # Errors
    ///
    /// Those of [`Report::into_result`], again at each further call. A drain is such an end too,
    /// even if it has finished all it had begun: the [report](Results::finish) tells.
    ///
    /// The error prints as `context canceled`: log it with `{:#}`, or log its
    /// [`cause`](Cancelled::cause).
    ///
    /// # Panics
    ///
    /// As [`next`](Results::next) does.
    #[track_caller]
    pub fn try_next(&mut self) -> TryNext<'_, T> {
        TryNext { results: self, made_at: Location::caller() }
    }

    /// Reads all results, and waits until every task has ended.
    ///
    /// ```
    /// # use quell::{Context, Pipeline};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), quell::Cancelled> {
    /// let squares: Vec<u64> = Pipeline::from_iter(&Context::background(), 1..=4)
    ///     .dispatch_ordered(2, |_ctx, n: u64| async move { n * n })
    ///     .run()
    ///     .try_collect()
    ///     .await?;
    /// assert_eq!(squares, [1, 4, 9, 16]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, what has been read is lost, and the pipeline ends.
    ///
    /// # Errors
    ///
    /// Those of [`Report::into_result`]; what has been read until then is dropped.
    ///
    /// # Panics
    ///
    /// As [`next`](Results::next) does.
    #[doc(alias = "collect")]
    #[track_caller]
    pub fn try_collect<C: Default + Extend<T>>(
        mut self,
    ) -> impl Future<Output = Result<C, Cancelled>> + use<T, C> {
        let made_at = Location::caller();
        async move {
            let mut all = C::default();
            loop {
                match (TryNext { results: &mut self, made_at }).await {
                    Ok(Some(item)) => all.extend([item]),
                    end => {
                        let _report = self.finish_at(made_at).await;
                        return end.map(|_| all);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn poll_at(
        &mut self,
        cx: &mut Context<'_>,
        made_at: &'static Location<'static>,
    ) -> Poll<Option<T>> {
        loop {
            if let State::Running { engine, receiver } = &mut self.state {
                if !engine.is_over() {
                    match receiver.poll_recv(cx, made_at) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Some(item)) => {
                            self.read += 1;
                            return Poll::Ready(Some(item));
                        }
                        Poll::Ready(None) => {}
                    }
                }
            }
            if !self.goes_on() {
                return Poll::Ready(None);
            }
        }
    }

    /// No item has come: it has not begun, or is at its end. False: it is over.
    #[cold]
    #[inline(never)]
    fn goes_on(&mut self) -> bool {
        match &self.state {
            State::Planned(_) => self.start(),
            State::Running { .. } => self.complete(),
            State::Over { .. } => return false,
        }
        true
    }

    fn start(&mut self) {
        // Before anything is begun.
        let made_at = self.made_at;
        assert!(
            rt::runs_tasks(),
            "quell: the pipeline made at {made_at} was polled where nobody runs tasks; poll it {}",
            rt::WHERE_TASKS_RUN
        );
        if let (engine, State::Planned(pipeline)) = self.take_over() {
            match catch_unwind(AssertUnwindSafe(|| pipeline.start(&engine))) {
                Ok(Some(receiver)) => self.state = State::Running { engine, receiver },
                Ok(None) => {}
                Err(payload) => {
                    let error = "the pipeline could not be started".into();
                    engine.end(End::cancelled(Cause::failure(error, made_at)));
                    resume_unwind(payload);
                }
            }
        }
    }

    /// No more items come: ends it as completed.
    fn complete(&mut self) {
        let (engine, before) = self.take_over();
        // If it was stopped, how it ended is already known. If not, there may be a source waiting
        // for items that nothing will take.
        engine.end(End::completed(self.made_at));
        drop(before);
    }

    /// Ends the pipeline, waits until every task has ended, and says what became
    /// of every item.
    ///
    /// It does not wait for items still to come: where all is to be done, read until `None` first,
    /// even if the results say nothing.
    ///
    /// A closure that blocks its thread is waited for (so none of the pipeline's closures may block
    /// on this); one that awaits is dropped at its next await. The thread of a blocking source ends
    /// after its current item, and is not waited for.
    ///
    /// # Cancel safety
    ///
    /// The call itself ends the pipeline. If the future is dropped before it is ready, only the
    /// report is lost.
    #[track_caller]
    pub fn finish(self) -> impl Future<Output = Report> + Send + use<T> {
        self.finish_at(Location::caller())
    }

    fn finish_at(
        mut self,
        place: &'static Location<'static>,
    ) -> impl Future<Output = Report> + Send + use<T> {
        let engine = self.stop_reading(place);
        let read = self.read;
        async move {
            const WHAT: &str = "the end of all tasks of a pipeline";
            engine.tasks.over(WHAT, place).await;
            // The call that ended it may discard later, or just be doing so.
            engine.discard();
            engine.tasks.over(WHAT, place).await;
            let report = Report::of(&engine, read);
            if !report.conserved() {
                probe::lost("an item of a pipeline", place);
            }
            report
        }
    }
}

impl<T> Results<T> {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    /// Whether all have come, once no more do.
    fn end_of_all(&self) -> Result<(), Cancelled> {
        match &self.state {
            State::Over { engine } => engine.known_end().expect("it has ended").as_result(),
            State::Planned(_) | State::Running { .. } => unreachable!("more may come"),
        }
    }

    /// Marks it as over, and returns what was before for the caller to drop: that may run user
    /// code.
    fn take_over(&mut self) -> (Arc<Engine>, State<T>) {
        let engine = match &mut self.state {
            State::Planned(pipeline) => pipeline.engine(),
            State::Running { engine, .. } | State::Over { engine } => Arc::clone(engine),
        };
        let over = State::Over { engine: Arc::clone(&engine) };
        (engine, std::mem::replace(&mut self.state, over))
    }

    /// Ends it for the reader, unless it has ended before.
    fn stop_reading(&mut self, place: &'static Location<'static>) -> Arc<Engine> {
        let (engine, before) = self.take_over();
        engine.end(End::reader_stopped(place));
        rt::contain_panic(|| drop(before));
        engine
    }
}

impl<T> Drop for Results<T> {
    fn drop(&mut self) {
        if !matches!(self.state, State::Planned(_)) {
            // The call that ended it may discard later: a user function may come before.
            self.stop_reading(self.made_at).discard();
        }
    }
}

impl<T: Send + 'static> Stream for Results<T> {
    type Item = T;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let made_at = self.made_at;
        self.poll_at(cx, made_at)
    }
}

impl<T: Send + 'static> FusedStream for Results<T> {
    fn is_terminated(&self) -> bool {
        self.is_over()
    }
}

impl<T> fmt::Debug for Results<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Planned(_) => "not started",
            State::Running { .. } => "running",
            State::Over { .. } => "over",
        };
        f.debug_struct("Results").field("state", &state).field("read", &self.read).finish()
    }
}

/// The future of [`Results::next`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a, T> {
    results: &'a mut Results<T>,
    made_at: &'static Location<'static>,
}

impl<T: Send + 'static> Future for Next<'_, T> {
    type Output = Option<T>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let made_at = self.made_at;
        self.results.poll_at(cx, made_at)
    }
}

impl<T: Send + 'static> FusedFuture for Next<'_, T> {
    fn is_terminated(&self) -> bool {
        self.results.is_over()
    }
}

/// The future of [`Results::try_next`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct TryNext<'a, T> {
    results: &'a mut Results<T>,
    made_at: &'static Location<'static>,
}

impl<T: Send + 'static> Future for TryNext<'_, T> {
    type Output = Result<Option<T>, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let made_at = self.made_at;
        Poll::Ready(match ready!(self.results.poll_at(cx, made_at)) {
            Some(item) => Ok(Some(item)),
            None => self.results.end_of_all().map(|()| None),
        })
    }
}

impl<T: Send + 'static> FusedFuture for TryNext<'_, T> {
    fn is_terminated(&self) -> bool {
        self.results.is_over()
    }
}
