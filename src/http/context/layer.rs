//! The layer that gives each request a context, and the tie to the server's.
//!
//! Requests are derived from one context that stands for all of them. It has the
//! server's values and deadline, and is cancelled when the server's context ends:
//! that is how the cause comes to say that it was the server.
//!
//! # Invariants
//!
//! 1. The tie is there as long as a layer, a service or a request that came through
//!    one is: a request that outlives its service hears of the server's end.
//! 2. When the last of them is gone, nothing is left behind in the server's context.

use super::ContextService;
use crate::context::{AfterFunc, Context};
use crate::http::RequestEnd;
use std::sync::Arc;
use std::time::Duration;
use tower_layer::Layer;

/// Gives each request a context, derived from the server's.
///
/// It ends when the client goes away, when the server's context ends, and when
/// the response is finished, whichever is first; its cause is a [`RequestEnd`] that
/// says which. Work that is to go on after the response needs
/// [`without_cancel`](Context::without_cancel).
///
/// Let it be the outermost layer, which in axum is the last one. Under
/// [`serve`](crate::http::serve()) it is there already. A request that has a context
/// keeps that one's values, and ends with either.
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
    requests: Context,
    tie: Option<ServerTie>,
}

/// What tells the requests of the server's end; dropping the last takes that back.
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
    /// For requests to the server that ends with this context.
    #[track_caller]
    pub fn new(server: &Context) -> Self {
        let values = server.without_cancel();
        let (requests, canceller) = match server.deadline() {
            Some(at) => values.with_deadline_cause(at, RequestEnd::ServerStopped(passed())),
            None => values.with_cancel(),
        };
        canceller.clone().detach();
        let ended = server.clone();
        let tell = server.at_end(move || {
            let why = ended.cause().expect("after-functions run when the context has ended");
            canceller.cancel_with(RequestEnd::ServerStopped(why));
        });
        ContextLayer { requests, tie: Some(ServerTie { _of_all: Arc::new(Tie(tell)) }) }
    }

    /// For requests that are derived from `requests` itself, by whoever sees to
    /// its end and cause.
    pub(in crate::http) fn below(requests: Context) -> Self {
        ContextLayer { requests, tie: None }
    }
}

/// What the cause of a context is whose deadline has passed.
fn passed() -> crate::context::Cause {
    let (ctx, _canceller) = Context::background().with_timeout(Duration::ZERO);
    ctx.cause().expect("no time at all has passed")
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService::new(inner, self.requests.clone(), self.tie.clone())
    }
}
