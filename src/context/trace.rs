//! The `tracing` feature: an event when a context ends for a reason of its own.
//!
//! # Invariants
//!
//! 1. `is_draining` is true from the moment a cause is queued while no thread is telling, until the
//!    thread started for it finds the queue empty. So none is left, and two are never told at once.

use super::cause::Seen;

/// Whether a subscriber may hear of it, as far as can be known without asking one.
#[inline]
pub(super) fn is_heard() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG;
    #[cfg(not(feature = "tracing"))]
    false
}

/// Reports the end of a context that was cancelled, or whose own deadline has passed. Contexts that
/// end with it are not reported: one event per cause.
#[inline]
pub(super) fn ended(cause: Seen<'_>) {
    #[cfg(feature = "tracing")]
    if is_heard() {
        #[cfg(not(loom))]
        if crate::rt::is_quells_own() {
            return later::tell(cause.to_cause());
        }
        tell(&cause.to_cause());
    }
    #[cfg(not(feature = "tracing"))]
    let _ = cause;
}

/// Runs user code: subscribers, and the `Display` of a cause.
#[cfg(feature = "tracing")]
fn tell(cause: &super::cause::Cause) {
    crate::rt::contain_panic(|| {
        tracing::event!(
            target: "quell",
            tracing::Level::DEBUG,
            error = %cause.end(),
            cause = %cause,
            origin = cause.origin().map(tracing::field::display),
            "context ended"
        );
    });
}

/// Ends on quell's own threads that are not part of a harvest are reported on one other thread, in
/// their order.
#[cfg(all(feature = "tracing", not(loom)))]
mod later {
    use crate::context::Cause;
    use crate::rt::{self, Clock, Work};
    use crate::sync::Mutex;
    use std::collections::VecDeque;

    struct Untold {
        causes: VecDeque<Cause>,
        /// Whether a thread is telling, which goes on until the queue is empty.
        is_draining: bool,
    }

    static UNTOLD: Mutex<Untold> =
        Mutex::new(Untold { causes: VecDeque::new(), is_draining: false });

    pub(super) fn tell(cause: Cause) {
        let mut untold = UNTOLD.lock();
        untold.causes.push_back(cause);
        if !std::mem::replace(&mut untold.is_draining, true) {
            drop(untold);
            rt::leave_to_crew(Clock::system(), Work::users(tell_all));
        }
    }

    fn tell_all() {
        loop {
            let mut untold = UNTOLD.lock();
            let Some(cause) = untold.causes.pop_front() else {
                untold.is_draining = false;
                return;
            };
            drop(untold);
            super::tell(&cause);
            rt::contain_panic(|| drop(cause));
        }
    }
}
