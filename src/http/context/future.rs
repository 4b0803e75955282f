//! The future of a response, which ends the request's context with the right cause.

use crate::http::body::{ContextBody, Hold};
use ::http::{Method, Response};
use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

pin_project! {
    /// The future of [`ContextService`](crate::http::ContextService) and of
    /// [`PropagationService`](crate::http::PropagationService).
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the request's context, as if the client were gone.
    #[must_use = "futures do nothing unless polled"]
    pub struct ContextFuture<F> {
        // First, so that it is dropped first.
        hold: Hold,
        method: Method,
        #[pin]
        future: F,
    }
}

impl<F> ContextFuture<F> {
    pub(in crate::http) fn new(hold: Hold, method: Method, future: F) -> Self {
        ContextFuture { hold, method, future }
    }
}

impl<F, R, E> Future for ContextFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ContextBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.hold.during(|| this.future.poll(task)));
        Poll::Ready(this.hold.passes_to_body(this.method, result))
    }
}

impl<F> fmt::Debug for ContextFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextFuture").field("holds", &self.hold).finish_non_exhaustive()
    }
}
