//! The layer that gives each request a context, and its tie to the server's.
//!
//! The contexts of all requests are derived from a common one. It has the server's values and
//! deadline, and is cancelled when the server's context ends, with a cause that names the server.
//!
//! # Invariants
//!
//! 1. The tie exists as long as a layer, a service, or a request that came through one: a request
//!    that outlives its service is still cancelled by the server's end.
//! 2. When the last of them is gone, nothing is left behind in the server's context.

use super::ContextService;
use crate::context::{AfterFunc, Context};
use crate::http::RequestEnd;
use std::panic::Location;
use std::sync::Arc;
use tower_layer::Layer;

/// Gives each request a context, derived from the server's.
///
/// The context ends when the client goes away, when the server's context ends, or when the response
/// is finished, whichever comes first; its cause is a [`RequestEnd`] that says which. Work that
/// continues after the response needs [`without_cancel`](Context::without_cancel).
///
/// Make it the outermost layer, which in axum is the last one. [`serve`](crate::http::serve())
/// already includes it. A request that already has a context keeps the values of that context, and
/// ends with either.
///
/// ```
/// use axum::{Router, routing::get};
/// use quell::Context;
/// use quell::http::{ContextLayer, Ctx};
///
/// let (server, stop) = Context::background().with_cancel();
/// let app: Router = Router::new()
///     .route("/", get(|Ctx(ctx): Ctx| async move { ctx.to_string() }))
///     .layer(ContextLayer::new(&server));
/// # drop((app, stop));
/// ```
#[derive(Clone, Debug)]
pub struct ContextLayer {
    pub(super) requests: Context,
    pub(super) tie: Option<ServerTie>,
    pub(super) made_at: &'static Location<'static>,
}

/// Passes the server's end on to the requests; dropping the last clone undoes that.
#[derive(Clone, Debug)]
pub(in crate::http) struct ServerTie {
    _of_all: Arc<Tie>,
}

#[derive(Debug)]
struct Tie(AfterFunc);

impl Drop for Tie {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl ContextLayer {
    /// Creates a layer for requests to the server that ends with this context.
    #[track_caller]
    pub fn new(server: &Context) -> Self {
        let values = server.without_cancel();
        let made_at = Location::caller();
        let (requests, canceller) = match server.deadline().zip(server.cause_at_deadline()) {
            Some((at, why)) => values.with_deadline_cause(at, RequestEnd::ServerStopped(why)),
            None => values.with_cancel_at(made_at),
        };
        canceller.clone().detach();
        let ended = server.clone();
        let tell = server.own_func_at_end(move || {
            let why = ended.cause().expect("after-functions run when the context has ended");
            RequestEnd::ServerStopped(why).ends(&canceller);
        });
        ContextLayer { requests, tie: Some(ServerTie { _of_all: Arc::new(Tie(tell)) }), made_at }
    }

    /// For requests derived from `requests` itself, whose end and cause the caller sees to.
    pub(in crate::http) fn below(requests: Context, made_at: &'static Location<'static>) -> Self {
        ContextLayer { requests, tie: None, made_at }
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService::new(inner, self.clone())
    }
}
