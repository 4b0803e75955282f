//! What a waiting task waits for.
//!
//! A leaf future that is about to return `Pending` says so here. In production that does nothing at
//! all. Under a checker it lets a violation name the line that awaits, and the tasks that could
//! have woken it, without a backtrace.

use std::any::Any;
use std::panic::Location;

/// One wait: what for, and where in user code.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "check"), allow(dead_code))]
pub(crate) struct Wait {
    /// In words: "an item", "room in a channel", "the end of a context".
    pub(crate) what: &'static str,
    /// The line that made the future.
    pub(crate) at: &'static Location<'static>,
    /// Which of the things of its kind: an address.
    pub(crate) of: usize,
}

impl Wait {
    /// Whether it is for the end of all tasks of a group or of a pipeline.
    pub(crate) fn is_for_all_tasks(&self) -> bool {
        self.what.starts_with("the end of all tasks")
    }
}

/// The task being polled is about to wait.
#[inline(always)]
pub(crate) fn waits(_wait: impl FnOnce() -> Wait) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::ask(|world| world.waits(_wait(), false));
}

/// The task being polled waits for something that never comes, and has left no waker for it.
#[inline(always)]
pub(crate) fn waits_in_vain(_wait: impl FnOnce() -> Wait) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::ask(|world| world.waits(_wait(), true));
}

/// The task being polled did not have to wait at an await, and another may come at once: a task
/// that goes from one to the next for ever never lets others run. `None`: they come to an end, and
/// so does what the task does between them.
#[inline(always)]
pub(crate) fn passes(_wait: impl FnOnce() -> Option<Wait>) {
    #[cfg(all(feature = "check", not(loom)))]
    if super::world::ask(|world| world.passes(_wait())) == Some(true) {
        super::world::inject();
    }
}

#[cfg_attr(not(feature = "check"), allow(dead_code))]
/// Something was done that may wake a task waiting for the thing at this address.
#[inline(always)]
pub(crate) fn touches(_what: &'static str, _of: impl FnOnce() -> usize) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::ask(|world| world.touches(_what, _of()));
}

/// The calling thread is about to block until another task does something: under a checker, which
/// has only one thread, that would be for ever.
///
/// # Panics
///
/// Under a checker, with `advice`.
#[inline(always)]
#[track_caller]
pub(crate) fn blocks(_what: &str, _advice: &str) {
    #[cfg(all(feature = "check", not(loom)))]
    assert!(
        super::world::ask(|_| ()).is_none(),
        "quell: {_what} blocks the only thread there is under a checker; {_advice}"
    );
}

/// User code has panicked, and quell has caught it.
#[cfg_attr(not(feature = "check"), allow(dead_code))]
#[inline(always)]
pub(crate) fn panicked(_payload: &(dyn Any + Send)) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::tell(|onlooker| onlooker.panicked(_payload));
}

/// An item that was made at this line is gone, and nothing has taken it: reported by a pipeline
/// whose books do not balance.
#[inline(always)]
pub(crate) fn lost(_what: &str, _made_at: &'static Location<'static>) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::tell(|onlooker| onlooker.lost(_what, _made_at));
}
