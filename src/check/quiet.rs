//! Panics while schedules run: kept, not printed.
//!
//! # Invariants
//!
//! 1. The hook is set once for the process and passes on what is not for it: panics
//!    on threads that run no schedule are printed as ever.

use super::place::Place;
use crate::rt::panic_message;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic;

/// How the panic of a fault point begins.
pub(super) const INJECTED: &str = "a fault injected by the checker at `";

/// With what a task that spins is thrown out of its loop.
pub(super) struct Unwinding;

type Hook = Box<dyn Fn(&panic::PanicHookInfo<'_>) + Sync + Send>;

thread_local! {
    static QUIET: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<(String, Option<Place>)>> = const { RefCell::new(None) };
}

/// Until it is dropped, panics on this thread are kept and not printed.
#[derive(Debug)]
pub(super) struct Quiet(());

pub(super) fn keep_quiet() -> Quiet {
    static HOOK: crate::sync::Mutex<bool> = crate::sync::Mutex::new(false);
    let mut set = HOOK.lock();
    if !*set {
        *set = true;
        let before = panic::take_hook();
        panic::set_hook(hook(before));
    }
    drop(set);
    QUIET.set(QUIET.get() + 1);
    Quiet(())
}

fn hook(before: Hook) -> Hook {
    Box::new(move |info| {
        if QUIET.try_with(Cell::get).unwrap_or(0) == 0 {
            return before(info);
        }
        let message = message(info.payload());
        let place = info.location().map(Place::from);
        let _ = LAST.try_with(|last| last.replace(Some((message, place))));
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    if payload.is::<Unwinding>() {
        // Not the user's.
        return INJECTED.to_string();
    }
    panic_message(payload).to_string()
}

/// The last panic of this thread: what it said and where.
pub(super) fn last_panic() -> Option<(String, Option<Place>)> {
    LAST.with(|last| last.borrow_mut().take())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(QUIET.get() - 1);
    }
}
