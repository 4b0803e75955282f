//! The service that reads the caller's headers.

use super::{TrackingId, headers};
use crate::http::body::{ContextBody, Hold};
use crate::http::guard::Guard;
use crate::http::{ContextFuture, RequestEnd, RequestExt};
use ::http::{HeaderName, Request, Response};
use bytes::Bytes;
use http_body::Body;
use std::panic::Location;
use std::task::{Context as Task, Poll};
use tower_service::Service;

/// The service of [`PropagationLayer`](crate::http::PropagationLayer).
#[derive(Clone, Debug)]
pub struct PropagationService<S> {
    inner: S,
    id: HeaderName,
    made_at: &'static Location<'static>,
}

impl<S> PropagationService<S> {
    pub(super) fn new(inner: S, id: HeaderName, made_at: &'static Location<'static>) -> Self {
        PropagationService { inner, id, made_at }
    }
}

impl<S, B, R> Service<Request<B>> for PropagationService<S>
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ctx = request.context();
        let id = headers::peers_id(request.headers(), &self.id)
            .or_else(|| ctx.value().cloned())
            .unwrap_or_else(TrackingId::new);
        let mut ctx = ctx.with_value(id);
        let mut hold = Hold::Nothing;
        if let Some(limit) = headers::peers_limit(request.headers()) {
            let why = RequestEnd::PeersDeadline(limit);
            let (limited, canceller) = ctx.with_timeout_cause_at(self.made_at, limit, why);
            ctx = limited;
            hold = Hold::Guard(Guard::new(canceller, None));
        }
        let method = request.method().clone();
        let request = request.with_context(&ctx);
        let future = hold.during(|| self.inner.call(request));
        ContextFuture::new(hold, method, future)
    }
}
