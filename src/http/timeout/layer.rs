//! The layer that limits the time of each request.

use super::TimeoutService;
use std::time::Duration;
use tower_layer::Layer;

/// Gives each request a context that ends after this long, with
/// [`RequestEnd::TimeLimit`](crate::http::RequestEnd::TimeLimit) as its cause.
///
/// What the handler does then is its own business, unless
/// [`answer_503`](TimeoutLayer::answer_503) is asked for. The limit is for the whole of the
/// request, its response's body included. It never extends the one that a request
/// has already.
///
/// ```
/// use axum::{Router, routing::get};
/// use quell::http::{Ctx, TimeoutLayer};
///
/// async fn handler(Ctx(ctx): Ctx) -> String {
///     match ctx.run(std::future::pending::<String>()).await {
///         Ok(found) => found,
///         Err(cancelled) => format!("{}\n", cancelled.cause()),
///     }
/// }
/// let app: Router = Router::new().route("/", get(handler)).layer(TimeoutLayer::from_millis(150));
/// # drop(app);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    limit: Duration,
    answers: bool,
}

impl TimeoutLayer {
    /// A limit of so many milliseconds. With none at all every request has ended
    /// before it begins.
    pub fn from_millis(limit: u64) -> Self {
        TimeoutLayer::new(Duration::from_millis(limit))
    }

    /// A limit of this long. `Duration::MAX` is none.
    pub fn new(limit: Duration) -> Self {
        TimeoutLayer { limit, answers: false }
    }

    /// Where the handler has not answered when the time is over, drops it and
    /// answers `503 Service Unavailable`. A response that has begun goes on.
    ///
    /// This holds for any deadline of the request's context: that of its caller as
    /// well, where a [`PropagationLayer`](crate::http::PropagationLayer) outside has
    /// read one.
    #[must_use = "this returns the layer that answers"]
    pub fn answer_503(self) -> Self {
        TimeoutLayer { answers: true, ..self }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = TimeoutService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutService::new(inner, self.limit, self.answers)
    }
}
