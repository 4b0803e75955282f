//! Panics while schedules run: kept, not printed.
//!
//! # Invariants
//!
//! 1. The hook is set once for the process and passes on what is not for it: panics
//!    on threads that run no schedule are printed as ever.
//! 2. A panic that nobody catches while schedules run is the checker's own, or a wrong use
//!    of it: it is printed after all.

use super::place::Place;
use crate::rt::{panic_message, world};
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
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// What a panic said and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panic {
    pub(super) message: String,
    pub(super) place: Option<Place>,
}

impl Panic {
    /// Of a payload that was caught. The hook knows the line, if the panic was the last that
    /// came by it: `resume_unwind` goes around the hook.
    pub(super) fn of(payload: &(dyn Any + Send)) -> Panic {
        let message = message(payload);
        let last = LAST.with_borrow(|last| {
            let last = last.as_ref().filter(|last| last.message == message)?;
            last.place.clone()
        });
        Panic { message, place: last }
    }

    /// Whether the checker has made somebody panic.
    pub(super) fn was_injected(&self) -> bool {
        self.message.contains(INJECTED)
    }
}

/// Until it is dropped, panics on this thread are kept and not printed.
#[derive(Debug)]
pub(super) struct Quiet {
    /// The thread was unwinding already when this was made.
    unwinding: bool,
}

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
    Quiet { unwinding: std::thread::panicking() }
}

fn hook(before: Hook) -> Hook {
    Box::new(move |info| {
        if QUIET.try_with(Cell::get).unwrap_or(0) == 0 {
            return before(info);
        }
        let message = message(info.payload());
        let place = info.location().map(Place::from);
        let _ = LAST.try_with(|last| last.replace(Some(Panic { message, place })));
        world::tell(|onlooker| onlooker.panics(info.payload()));
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    if payload.is::<Unwinding>() {
        // Not the user's.
        return INJECTED.to_string();
    }
    panic_message(payload).to_string()
}

/// What has panicked before is not asked for any more.
pub(super) fn forget() {
    LAST.with(|last| last.take());
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(QUIET.get() - 1);
        // Invariant 2.
        if QUIET.get() == 0 && std::thread::panicking() && !self.unwinding {
            if let Some(Panic { message, place }) = LAST.with(|last| last.take()) {
                let place = place.map_or(String::new(), |place| format!(" at {place}"));
                eprintln!("\nthe check has panicked{place}:\n{message}");
            }
        }
    }
}
