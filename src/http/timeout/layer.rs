//! The layer that limits the time of each request.

use super::TimeoutService;
use std::panic::Location;
use std::time::Duration;
use tower_layer::Layer;

/// Gives each request a context that ends after this long, with
/// [`RequestEnd::TimeLimit`](crate::http::RequestEnd::TimeLimit) as its cause.
///
/// What the handler does then is up to it, unless [`answer_503`](TimeoutLayer::answer_503) is set.
/// The limit covers the whole request, including its response's body. It never extends a limit that
/// the request already has.
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
    pub(super) limit: Duration,
    pub(super) answers: bool,
    pub(super) made_at: &'static Location<'static>,
}

impl TimeoutLayer {
    /// Creates a layer with a limit in milliseconds. With zero, every request's context has ended
    /// before it begins.
    #[track_caller]
    pub fn from_millis(limit: u64) -> Self {
        TimeoutLayer::new(Duration::from_millis(limit))
    }

    /// Creates a layer with this limit. `Duration::MAX` means no limit.
    #[track_caller]
    pub fn new(limit: Duration) -> Self {
        TimeoutLayer { limit, answers: false, made_at: Location::caller() }
    }

    /// Drops a handler that has not answered when the time is over, and answers `503 Service
    /// Unavailable`. A response that has begun goes on.
    ///
    /// This applies to any deadline of the request's context, including the caller's if a
    /// [`PropagationLayer`](crate::http::PropagationLayer) outside has read one.
    #[must_use = "this returns the layer that answers"]
    pub fn answer_503(self) -> Self {
        TimeoutLayer { answers: true, ..self }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = TimeoutService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutService::new(inner, *self)
    }
}
