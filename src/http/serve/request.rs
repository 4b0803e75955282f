//! A request as it comes in: that it came at all, and what becomes of its body.
//!
//! A server that has lost its client in the middle of a request's body stops reading;
//! it goes on with the handler, and would not tell it. So the body does.

use crate::context::{BoxError, Canceller};
use crate::http::{RequestEnd, RequestExt};
use ::http::Request;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use tower_service::Service;

/// Passes requests on, with their bodies watched.
#[derive(Clone)]
pub(super) struct Arriving<S> {
    inner: S,
    /// Cancelled by each request: nobody waits for the first one any more.
    greeted: Canceller,
}

impl<S> Arriving<S> {
    pub(super) fn new(inner: S, greeted: Canceller) -> Self {
        Arriving { inner, greeted }
    }
}

impl<S> Service<Request<Incoming>> for Arriving<S>
where
    S: Service<Request<axum_core::body::Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<Incoming>) -> S::Future {
        self.greeted.cancel();
        if request.body().is_end_stream() {
            return self.inner.call(request.map(|_| axum_core::body::Body::empty()));
        }
        let (ctx, client_gone) = request.context().with_cancel();
        // It ends with the request; dropping the body, once read, is no end.
        client_gone.clone().detach();
        let request = request.with_context(ctx);
        self.inner
            .call(request.map(|body| axum_core::body::Body::new(Watched { body, client_gone })))
    }
}

/// The body of a request, which tells its context when it breaks off.
struct Watched {
    body: Incoming,
    client_gone: Canceller,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(task).map_err(|error| {
            self.client_gone.cancel_with(RequestEnd::ClientGone);
            error.into()
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
