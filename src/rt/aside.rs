//! Running what may block on a thread of its own.

#![allow(clippy::disallowed_methods, reason = "the right door")]

#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::task::{Context, Wake, Waker};

/// Runs a future that may block on a new thread of this name.
///
/// Where a checker or a model has taken the runtime's place it is a task like any other: no thread
/// runs beside it there.
///
/// # Panics
///
/// If no thread can be started.
#[track_caller]
pub(crate) fn block_aside(name: String, future: impl Future<Output = ()> + Send + 'static) {
    #[cfg(loom)]
    drop(super::spawn_named(name, future));
    #[cfg(not(loom))]
    {
        #[cfg(feature = "check")]
        if super::world::is_here() {
            drop(super::spawn_named(name, future));
            return;
        }
        // A thread's name cannot contain it.
        let name = name.replace('\0', " ");
        let started = std::thread::Builder::new().name(name).spawn(move || block_on(future));
        started.expect("a thread for what may block");
    }
}

#[cfg(not(loom))]
struct Parked(std::thread::Thread);

#[cfg(not(loom))]
impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(not(loom))]
fn block_on(future: impl Future<Output = ()>) {
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut future = std::pin::pin!(future);
    while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}
