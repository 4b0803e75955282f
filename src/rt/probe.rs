//! What a task that is waiting waits for.
//!
//! A leaf future that is about to return `Pending` says so here. In production
//! that is nothing at all. Under a checker it is how a violation names the line
//! that awaits, and who could have woken it, without a backtrace.

use std::any::Any;
use std::panic::Location;

/// One wait: what for, and where in the user's code.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "check"), allow(dead_code))]
pub(crate) struct Wait {
    /// In words: "an item", "room in a channel", "the end of a context".
    pub(crate) what: &'static str,
    /// The line that made the future.
    pub(crate) at: &'static Location<'static>,
    /// Which thing, of those of its kind: an address.
    pub(crate) of: usize,
}

/// The task that is being polled is about to wait.
#[inline(always)]
pub(crate) fn waits(_wait: impl FnOnce() -> Wait) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::ask(|world| world.waits(_wait()));
}

/// An await of the task that is being polled had not to wait, and another may come at once: who
/// goes from one to the next for ever never lets others run. `None`: there is an end to it.
#[inline(always)]
pub(crate) fn passes(_wait: impl FnOnce() -> Option<Wait>) {
    #[cfg(all(feature = "check", not(loom)))]
    if super::world::ask(|world| _wait().is_some_and(|wait| world.passes(wait))) == Some(true) {
        super::world::befalls();
    }
}

#[cfg_attr(not(feature = "check"), allow(dead_code))]
/// Something was done that may wake whoever waits for the thing of this address.
#[inline(always)]
pub(crate) fn touches(_what: &'static str, _of: impl FnOnce() -> usize) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::ask(|world| world.touches(_what, _of()));
}

/// The calling thread is about to block for somebody else's sake: under a checker,
/// which has one thread, that would be for ever.
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

/// Code of the user's has panicked, and quell has caught it.
#[cfg_attr(not(feature = "check"), allow(dead_code))]
#[inline(always)]
pub(crate) fn panicked(_payload: &(dyn Any + Send)) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::tell(|onlooker| onlooker.panicked(_payload));
}

/// An item is gone that nobody has taken, made at this line: a pipeline whose books
/// do not balance says so.
#[inline(always)]
pub(crate) fn lost(_what: &str, _made_at: &'static Location<'static>) {
    #[cfg(all(feature = "check", not(loom)))]
    super::world::tell(|onlooker| onlooker.lost(_what, _made_at));
}
