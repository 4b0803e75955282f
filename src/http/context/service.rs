//! The service that gives each request its context.

use super::{ContextFuture, ContextLayer};
use crate::context::Context;
use crate::http::body::{ContextBody, Hold};
use crate::http::guard::Guard;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use std::task::{Context as Task, Poll};
use tower_service::Service;

/// The service of [`ContextLayer`].
#[derive(Clone, Debug)]
pub struct ContextService<S> {
    inner: S,
    layer: ContextLayer,
}

impl<S> ContextService<S> {
    pub(super) fn new(inner: S, layer: ContextLayer) -> Self {
        ContextService { inner, layer }
    }
}

impl<S, B, R> Service<Request<B>> for ContextService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<ContextBody<R>>;
    type Error = S::Error;
    type Future = ContextFuture<S::Future>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let ContextLayer { requests, tie, made_at } = &self.layer;
        let (ctx, canceller) = match request.extensions().get::<Context>() {
            Some(outer) => outer.linked_at(made_at, &[requests]),
            None => requests.with_cancel_at(made_at),
        };
        let mut hold = Hold::Guard(Guard::new(canceller, tie.clone()));
        let method = request.method().clone();
        request.extensions_mut().insert(ctx);
        let future = hold.during(|| self.inner.call(request));
        ContextFuture::new(hold, method, future)
    }
}
