//! The results that users read.
//!
//! # Invariants
//!
//! 1. Every request that has departed comes back as a result: a worker that sees the end of the
//!    context stops its request, and passes that on.
//! 2. So once the context has ended and as many have come back as have departed, nothing is left to
//!    read, whatever else waits for its turn to be sent.

use super::Hit;
use crate::context::{Context, Done};
use crate::pipeline::{self, Report};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use futures_core::future::FusedFuture;
use futures_core::stream::{FusedStream, Stream};
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

/// How many requests have departed.
#[derive(Clone)]
pub(super) struct Departures(Arc<AtomicUsize>);

impl Departures {
    pub(super) fn new() -> Departures {
        Departures(Arc::new(AtomicUsize::new(0)))
    }

    pub(super) fn one_more(&self) {
        // Relaxed: it guards nothing. A reader that does not see it yet merely does not wait for a
        // request that has only just begun.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        // Relaxed: see `one_more`.
        self.0.load(Ordering::Relaxed)
    }
}

/// What was measured of each request: a [`Stream`], with a plain [`next`](Results::next). It is
/// read once.
///
/// Nothing is sent before this is first polled. Dropping it ends everything.
/// [`finish`](Results::finish) does that too, waits until every task has ended, and reports what
/// became of every request.
#[must_use = "requests are sent when their results are polled, and end when they are dropped"]
pub struct Results {
    done: Done,
    hits: Hits,
    departures: Departures,
    came_back: usize,
}

enum Hits {
    Coming(pipeline::Results<Option<Hit>>),
    /// No more will come; what is left of the pipeline ends.
    Over(Pin<Box<dyn Future<Output = Report> + Send>>),
    /// Only in the middle of a change.
    Changing,
}

impl Hits {
    #[track_caller]
    fn end(&mut self) {
        if let Hits::Coming(hits) = std::mem::replace(self, Hits::Changing) {
            *self = Hits::Over(Box::pin(hits.finish()));
        }
    }
}

impl Results {
    #[track_caller]
    pub(super) fn new(
        ctx: &Context,
        hits: pipeline::Results<Option<Hit>>,
        departures: Departures,
    ) -> Results {
        Results { done: ctx.done(), hits: Hits::Coming(hits), departures, came_back: 0 }
    }

    /// Returns the next result, or `None` when there will be no more.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no result is lost.
    ///
    /// # Panics
    ///
    /// When it is first polled outside a runtime.
    #[allow(clippy::should_implement_trait, reason = "it is awaited, and needs no import")]
    pub fn next(&mut self) -> Next<'_> {
        Next { results: self }
    }

    /// Ends everything that is under way, waits until every task has ended, and reports what became
    /// of every request.
    ///
    /// # Cancel safety
    ///
    /// The call itself ends everything. If the future is dropped before it is ready, only the
    /// report is lost.
    #[track_caller]
    pub fn finish(self) -> impl Future<Output = Report> + Send {
        match self.hits {
            Hits::Coming(hits) => Box::pin(hits.finish()),
            Hits::Over(report) => report,
            Hits::Changing => unreachable!("only in the middle of a change"),
        }
    }

    fn poll(&mut self, task: &mut Task<'_>) -> Poll<Option<Hit>> {
        while let Hits::Coming(hits) = &mut self.hits {
            match Pin::new(hits).poll_next(task) {
                Poll::Ready(Some(Some(hit))) => {
                    self.came_back += 1;
                    return Poll::Ready(Some(hit));
                }
                // The request was not sent.
                Poll::Ready(Some(None)) => {}
                Poll::Ready(None) => self.hits.end(),
                Poll::Pending => {
                    if Pin::new(&mut self.done).poll(task).is_pending() {
                        return Poll::Pending;
                    }
                    // Invariant 2.
                    if self.came_back < self.departures.count() {
                        return Poll::Pending;
                    }
                    self.hits.end();
                }
            }
        }
        Poll::Ready(None)
    }
}

impl Stream for Results {
    type Item = Hit;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Hit>> {
        self.poll(task)
    }
}

impl FusedStream for Results {
    fn is_terminated(&self) -> bool {
        !matches!(self.hits, Hits::Coming(_))
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("over", &matches!(self.hits, Hits::Over(_)))
            .field("read", &self.came_back)
            .finish_non_exhaustive()
    }
}

/// The future of [`Results::next`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a> {
    results: &'a mut Results,
}

impl Future for Next<'_> {
    type Output = Option<Hit>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Hit>> {
        self.results.poll(task)
    }
}

impl FusedFuture for Next<'_> {
    fn is_terminated(&self) -> bool {
        self.results.is_terminated()
    }
}
