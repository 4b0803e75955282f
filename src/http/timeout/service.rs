//! The service that limits the time of each request.

use super::{TimeoutFuture, TimeoutLayer};
use crate::http::body::{ContextBody, Hold};
use crate::http::guard::Guard;
use crate::http::{RequestEnd, RequestExt};
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use std::task::{Context as Task, Poll};
use tower_service::Service;

/// The service of [`TimeoutLayer`].
#[derive(Clone, Debug)]
pub struct TimeoutService<S> {
    inner: S,
    layer: TimeoutLayer,
}

impl<S> TimeoutService<S> {
    pub(super) fn new(inner: S, layer: TimeoutLayer) -> Self {
        TimeoutService { inner, layer }
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
        let TimeoutLayer { limit, answers, made_at } = self.layer;
        let why = RequestEnd::TimeLimit(limit);
        let (ctx, canceller) = request.context().with_timeout_cause_at(made_at, limit, why);
        let mut hold = Hold::Guard(Guard::new(canceller, None));
        let method = request.method().clone();
        let request = request.with_context(&ctx);
        let future = hold.during(|| self.inner.call(request));
        TimeoutFuture::new(hold, method, answers.then_some(ctx), future)
    }
}
