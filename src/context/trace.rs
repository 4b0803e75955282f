//! The `tracing` feature: an event when a context ends for a reason of its own.

use super::cause::Outcome;

/// Reports the end of a context that was cancelled, or whose own deadline has
/// passed. Contexts that end with it are not reported: one event a cause.
#[inline]
pub(super) fn ended(outcome: &Outcome) {
    #[cfg(feature = "tracing")]
    tracing::event!(
        target: "quell",
        tracing::Level::DEBUG,
        error = %outcome.error,
        cause = %outcome.cause,
        origin = outcome.cause.origin().map(tracing::field::display),
        "context ended"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = outcome;
}
