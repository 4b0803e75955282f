//! The layer that limits how many requests run at once, and how many wait.

use super::LimitService;
use super::places::Limiter;
use std::time::Duration;
use tower_layer::Layer;

/// Limits how many requests run at once, and how many wait for their turn.
///
/// A request beyond both limits is refused at once, with `503 Service Unavailable` and
/// `Retry-After`. Waiting requests are served in the order in which they came; one whose context
/// ends leaves the queue. A request keeps its place until its response is finished, body included.
///
/// All clones, and all services made by them, count together. In axum a layer around a router is
/// one limit for all of its routes.
///
/// ```
/// use axum::{Router, routing::get};
/// use quell::http::LimitLayer;
///
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello\n" }))
///     .layer(LimitLayer::new(64, 256));
/// # drop(app);
/// ```
///
/// Put it outside a [`TimeoutLayer`](crate::http::TimeoutLayer) to let requests wait for as long as
/// their caller does, or inside to make the wait count towards the time limit.
#[derive(Clone, Debug)]
pub struct LimitLayer {
    limiter: Limiter,
    retry_after: u64,
}

impl LimitLayer {
    /// Lets `at_once` requests run, and `waiting` more wait. If `waiting` is zero, a request that
    /// cannot run at once is refused.
    ///
    /// # Panics
    ///
    /// When `at_once` is zero.
    #[track_caller]
    pub fn new(at_once: usize, waiting: usize) -> Self {
        assert!(
            at_once > 0,
            "quell: a limit of 0 requests at once lets none through; pass 1 or more (the second \
             number, how many may wait, may be 0)"
        );
        LimitLayer { limiter: Limiter::new(at_once, waiting), retry_after: 1 }
    }

    /// Sets the `Retry-After` of refused requests, in whole seconds, rounded up. The default is one
    /// second.
    #[must_use = "this returns the layer with the change"]
    pub fn retry_after(self, wait: Duration) -> Self {
        let up = u64::from(wait.subsec_nanos() > 0);
        LimitLayer { retry_after: wait.as_secs().saturating_add(up), ..self }
    }

    /// Returns how many requests have a place now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.limiter.running()
    }

    /// Returns how many requests wait for a place.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.limiter.waiting()
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = LimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitService::new(inner, self.limiter.clone(), self.retry_after)
    }
}
