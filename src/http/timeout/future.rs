//! The future of a response with a time limit.

use crate::context::{Context, ContextError, Done};
use crate::http::body::{ContextBody, Hold, unavailable};
use ::http::{Method, Response};
use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

pin_project! {
    /// The future of [`TimeoutService`](crate::http::TimeoutService).
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the context that it gave to the request.
    #[must_use = "futures do nothing unless polled"]
    pub struct TimeoutFuture<F> {
        // First, so that it is dropped first.
        hold: Hold,
        method: Method,
        // `None` if a deadline is not, or no longer, answered here.
        limited: Option<Done>,
        // `None` once it has been dropped at a deadline.
        #[pin]
        future: Option<F>,
    }
}

impl<F> TimeoutFuture<F> {
    pub(super) fn new(hold: Hold, method: Method, limited: Option<Context>, future: F) -> Self {
        let limited = limited.map(|ctx| ctx.done());
        TimeoutFuture { hold, method, limited, future: Some(future) }
    }
}

impl<F, R, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ContextBody<R>>, E>;

    /// # Panics
    ///
    /// When polled again after it has answered `503`. After an answer of the handler's, what the
    /// handler's own future does then is done.
    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            panic!("`TimeoutFuture` polled after it was ready");
        };
        // The handler is polled first, so that an answer it already has is never thrown away.
        match this.hold.during(|| future.poll(task)) {
            Poll::Ready(result) => {
                *this.limited = None;
                return Poll::Ready(this.hold.passes_to_body(this.method, result));
            }
            Poll::Pending => {}
        }
        let Some(limited) = this.limited else { return Poll::Pending };
        let end = ready!(Pin::new(limited).poll(task));
        let limited = this.limited.take();
        if end != ContextError::DeadlineExceeded {
            // A cancelled request is not answered here: its handler goes on.
            return Poll::Pending;
        }
        this.future.set(None);
        this.hold.finish();
        let why = limited.and_then(|limited| limited.context().cause());
        let why = why.map_or_else(String::new, |cause| format!("{cause}\n"));
        Poll::Ready(Ok(unavailable(this.method, why)))
    }
}

impl<F> fmt::Debug for TimeoutFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutFuture").field("holds", &self.hold).finish_non_exhaustive()
    }
}
