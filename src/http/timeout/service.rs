//! The service that limits the time of each request.

use super::TimeoutFuture;
use crate::http::body::{ContextBody, Hold};
use crate::http::guard::Guard;
use crate::http::{RequestEnd, RequestExt};
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tower_service::Service;

/// The service of [`TimeoutLayer`](crate::http::TimeoutLayer).
#[derive(Clone, Debug)]
pub struct TimeoutService<S> {
    inner: S,
    limit: Duration,
    answers: bool,
}

impl<S> TimeoutService<S> {
    pub(super) fn new(inner: S, limit: Duration, answers: bool) -> Self {
        TimeoutService { inner, limit, answers }
    }
}

impl<S, B, R> Service<Request<B>> for TimeoutService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<ContextBody<R>>;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = RequestEnd::TimeLimit(self.limit);
        let (ctx, canceller) = request.context().with_timeout_cause(self.limit, limit);
        let mut hold = Hold::Guard(Guard::new(canceller, None));
        let method = request.method().clone();
        let request = request.with_context(&ctx);
        let future = hold.during(|| self.inner.call(request));
        TimeoutFuture::new(hold, method, self.answers.then_some(ctx), future)
    }
}
