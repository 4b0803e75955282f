//! The connections of a client that was not given any.

use super::call::Body;
use crate::context::BoxError;
use ::http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use tower_service::Service;

/// Connections over plain TCP, kept and used again: what a
/// [`Client::new`](crate::http::Client::new) sends through.
#[derive(Clone)]
pub struct Transport {
    pool: Pool<HttpConnector, Body>,
}

impl Transport {
    pub(super) fn new(only_http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http2_only(only_http2)
            .build(connector);
        Transport { pool }
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Err(why) = can_be_reached(request.uri()) {
            return Box::pin(std::future::ready(Err(why.into())));
        }
        let answer = self.pool.request(request);
        Box::pin(async move { Ok(answer.await?) })
    }
}

fn can_be_reached(uri: &Uri) -> Result<(), &'static str> {
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(()),
        (Some("https"), _) => Err("this client speaks plain HTTP: for https make one with \
                                   Client::over, of a service that speaks TLS"),
        (Some(_), Some(_)) => Err("a scheme other than http: write http://…"),
        _ => Err("an address without scheme or host: write http://host/path"),
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}
