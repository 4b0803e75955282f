//! The service that finds each request a place, or none.

use super::LimitFuture;
use super::places::Limiter;
use crate::http::RequestExt;
use crate::http::body::ContextBody;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use std::task::{Context as Task, Poll};
use tower_service::Service;

/// The service of [`LimitLayer`](crate::http::LimitLayer).
#[derive(Clone, Debug)]
pub struct LimitService<S> {
    inner: S,
    limiter: Limiter,
    retry_after: u64,
}

impl<S> LimitService<S> {
    pub(super) fn new(inner: S, limiter: Limiter, retry_after: u64) -> Self {
        LimitService { inner, limiter, retry_after }
    }
}

impl<S, B, R> Service<Request<B>> for LimitService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes>,
{
    type Response = Response<ContextBody<R>>;
    type Error = S::Error;
    type Future = LimitFuture<S, B>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(waiting) = self.limiter.enter() else {
            return LimitFuture::refused(request.method().clone(), self.retry_after);
        };
        match self.limiter.seat_at_once(waiting) {
            Ok(places) => {
                let method = request.method().clone();
                LimitFuture::running(places, method, self.inner.call(request), self.retry_after)
            }
            Err(waiting) => {
                let seat = request.context().run(self.limiter.seat(waiting));
                // The service that is ready waits with the request; a clone takes its place here.
                let clone = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, clone);
                LimitFuture::waiting(Box::pin(seat), inner, request, self.retry_after)
            }
        }
    }
}
