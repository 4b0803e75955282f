//! The layer that limits how many requests run at once, and how many wait.

use super::LimitService;
use super::places::House;
use std::time::Duration;
use tower_layer::Layer;

/// At most so many requests at once, and so many waiting for their turn.
///
/// The next one is refused at once, with `503 Service Unavailable` and
/// `Retry-After`. Those that wait come first come, first served; one whose context
/// ends leaves the queue. A request has its place until its response is finished,
/// body included.
///
/// All clones count together, and all services made by them. In axum a layer
/// around a router is one limit for all of its routes.
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
/// Put it outside of a [`TimeoutLayer`](crate::http::TimeoutLayer) to let requests wait
/// for as long as their caller does, and inside to have the wait counted.
#[derive(Clone, Debug)]
pub struct LimitLayer {
    house: House,
    retry_after: u64,
}

impl LimitLayer {
    /// So many at once, and so many waiting. With no waiting at all, whoever cannot
    /// run at once is refused.
    ///
    /// # Panics
    ///
    /// When `at_once` is zero.
    #[track_caller]
    pub fn new(at_once: usize, waiting: usize) -> Self {
        assert!(
            at_once > 0,
            "a limit of 0 requests at once would let none through: pass 1 or more \
             (the second number, of those that wait, may be 0)"
        );
        LimitLayer { house: House::new(at_once, waiting), retry_after: 1 }
    }

    /// What `Retry-After` says to those that are refused: one second unless set
    /// here. In whole seconds, rounded up.
    #[must_use = "this returns the layer with the change"]
    pub fn retry_after(self, wait: Duration) -> Self {
        let up = u64::from(wait.subsec_nanos() > 0);
        LimitLayer { retry_after: wait.as_secs().saturating_add(up), ..self }
    }

    /// How many requests have a place now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.house.running()
    }

    /// How many wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.house.waiting()
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = LimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitService::new(inner, self.house.clone(), self.retry_after)
    }
}
