//! The `tracing` feature: an event when a context ends for a reason of its own.

use super::cause::Seen;

/// Whether anybody hears of it, for all that can be known without asking a subscriber.
#[inline]
pub(super) fn is_heard() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG;
    #[cfg(not(feature = "tracing"))]
    false
}

/// Reports the end of a context that was cancelled, or whose own deadline has
/// passed. Contexts that end with it are not reported: one event a cause.
#[inline]
pub(super) fn ended(cause: Seen<'_>) {
    #[cfg(feature = "tracing")]
    if is_heard() {
        let cause = cause.to_cause();
        let tell = move || {
            tracing::event!(
                target: "quell",
                tracing::Level::DEBUG,
                error = %cause.end(),
                cause = %cause,
                origin = cause.origin().map(tracing::field::display),
                "context ended"
            );
        };
        // Subscribers, and how a cause displays itself, are the user's.
        crate::rt::for_users(tell);
    }
    #[cfg(not(feature = "tracing"))]
    let _ = cause;
}
