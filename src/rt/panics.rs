//! Panics of user code that quell runs.

use super::probe;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// The panic's message, as a string of its own. Drops the payload, which may panic again: once.
pub(crate) fn panic_words(payload: Box<dyn Any + Send>) -> String {
    let words = panic_message(&*payload).to_owned();
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Dropping this one might panic as well, and so on.
        std::mem::forget(again);
    }
    words
}

/// Runs user code whose panic concerns nothing here: the panic hook has printed it, a checker notes
/// it, and it goes no further.
pub(crate) fn contain_panic<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            probe::panicked(&*payload);
            drop(panic_words(payload));
            None
        }
    }
}

/// Wakes all of these. A panic in a waker concerns only the task that waits: the other wakers are
/// woken, and the caller goes on.
#[inline]
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain_panic(|| waker.wake());
    }
}

/// A panic's message, as far as a program can tell.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with a value that is no text")
}
