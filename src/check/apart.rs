//! Keeps a check apart from a runtime of tokio's inside of which it is run.
//!
//! What a body spawns there no checker sees, and no runtime would run before the check is
//! over: the body would be called clean while its tasks pile up. So another runtime takes its
//! place for the time of the check, which nobody drives and which has no timers; as nobody
//! else knows that one, whatever is on it is the body's.

use tokio::runtime::{Builder, Handle, Runtime};

/// Does `f` apart from the runtime around it, if there is one.
///
/// # Panics
///
/// When there is one, and there is no room for another.
pub(super) fn from_tokio<R>(f: impl FnOnce() -> R) -> R {
    if Handle::try_current().is_err() {
        return f();
    }
    let runtime = Builder::new_current_thread().build().expect("room for a runtime");
    let ours = Ours(Some(runtime));
    let _inside = ours.0.as_ref().expect("it is there until it is dropped").enter();
    f()
}

/// Inside of another runtime one may not be dropped as usual, which waits for its threads.
struct Ours(Option<Runtime>);

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sees that a body which is done has spawned nothing there.
///
/// # Panics
///
/// When it has.
#[inline]
pub(super) fn look_for_tasks() {
    let Ok(runtime) = Handle::try_current() else { return };
    assert!(
        runtime.metrics().num_alive_tasks() == 0,
        "quell: the body has spawned a task by `tokio::spawn`, which this checker does not see; \
         spawn by `quell::rt`, or check it with `Checker::tokio()`"
    );
}
