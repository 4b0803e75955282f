//! Isolates a check from a tokio runtime in which it is run.
//!
//! No checker sees what a body spawns on that runtime, and the runtime runs none of it before the
//! check is over: the body would be called clean while its tasks pile up. So another runtime takes
//! its place during the check, one that is never driven and has no timers. Nothing else knows of
//! it, so every task on it is the body's.

use super::report::Report;
use tokio::runtime::{Builder, Handle, Runtime};

/// Runs `f` isolated from the runtime around it, if there is one.
///
/// # Panics
///
/// When there is one and another cannot be built.
pub(super) fn from_tokio<R>(f: impl FnOnce() -> R) -> R {
    if Handle::try_current().is_err() {
        return f();
    }
    let runtime = Builder::new_current_thread().build().expect("room for a runtime");
    let ours = Ours(Some(runtime));
    let _inside = ours.0.as_ref().expect("it is there until it is dropped").enter();
    f()
}

/// Inside another runtime, one must not be dropped as usual, which waits for its threads.
struct Ours(Option<Runtime>);

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether a body has spawned a task there.
#[inline]
pub(super) fn has_tasks() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_alive_tasks() > 0)
}

/// Checks that no body has spawned a task there.
///
/// # Panics
///
/// When one has, with what was found before.
#[track_caller]
pub(super) fn require_no_strays(report: &Report) {
    let found = match report.violations() {
        [] => String::new(),
        _ => format!("\n\nfound before that: {report}"),
    };
    assert!(
        !report.strays,
        "quell: the body has spawned a task by `tokio::spawn`, which this checker does not see; \
         spawn by `quell::rt`, or check it with `Checker::tokio()`{found}"
    );
}
