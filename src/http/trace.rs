//! The warnings of the `tracing` feature.

use std::fmt::Display;

/// Reports a header from a peer that was invalid and was ignored.
pub(super) fn ignored(header: &str, why: &dyn Display) {
    #[cfg(feature = "tracing")]
    tracing::event!(
        target: "quell",
        tracing::Level::WARN,
        header,
        why = %why,
        "header ignored"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = (header, why);
}

/// Reports that the system could not accept a connection.
pub(super) fn not_accepted(error: &std::io::Error) {
    #[cfg(feature = "tracing")]
    tracing::event!(
        target: "quell",
        tracing::Level::WARN,
        error = %error,
        "no connection could be accepted; trying again in a moment"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}
