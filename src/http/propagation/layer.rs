//! The layer that reads the caller's headers.

use super::{PropagationService, TRACKING_ID};
use ::http::HeaderName;
use std::panic::Location;
use tower_layer::Layer;

/// Reads from the headers how long the caller waits, and its tracking id.
///
/// The request's context ends when the caller stops waiting, with
/// [`RequestEnd::PeersDeadline`](crate::http::RequestEnd::PeersDeadline) as its cause, unless its
/// own deadline is earlier. It carries a [`TrackingId`](crate::http::TrackingId): the caller's,
/// else the one that the context already has, else a new one.
///
/// A header that cannot be read is never an error: it is ignored with a warning (feature `tracing`,
/// target `quell`). A caller can only shorten a limit.
///
/// ```
/// use axum::{Router, routing::get};
/// use quell::Context;
/// use quell::http::{ContextLayer, Ctx, PropagationLayer, TrackingId};
///
/// async fn handler(Ctx(ctx): Ctx) -> String {
///     format!("{} has {:?} left\n", ctx.value::<TrackingId>().unwrap(), ctx.remaining())
/// }
/// # let server = Context::background();
/// let app: Router = Router::new()
///     .route("/", get(handler))
///     .layer(PropagationLayer::new())
///     .layer(ContextLayer::new(&server)); // the last is the outermost
/// # drop(app);
/// ```
#[derive(Clone, Debug)]
pub struct PropagationLayer {
    id: HeaderName,
    made_at: &'static Location<'static>,
}

impl PropagationLayer {
    /// Creates a layer that uses `X-GUID` for the tracking id.
    #[track_caller]
    pub fn new() -> Self {
        PropagationLayer { id: TRACKING_ID, made_at: Location::caller() }
    }

    /// Uses another header for the tracking id, such as `x-request-id`.
    #[must_use = "this returns the layer with the change"]
    pub fn tracking_header(self, name: HeaderName) -> Self {
        PropagationLayer { id: name, ..self }
    }
}

impl Default for PropagationLayer {
    #[track_caller]
    fn default() -> Self {
        PropagationLayer::new()
    }
}

impl<S> Layer<S> for PropagationLayer {
    type Service = PropagationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PropagationService::new(inner, self.id.clone(), self.made_at)
    }
}
