//! Panics while schedules run: kept, not printed.
//!
//! # Invariants
//!
//! 1. The hook passes on what is not for it: panics on threads that run no schedule are printed as
//!    ever. It is dropped when user code sets another hook and does not keep this one to pass
//!    panics on to. A check that begins after that sets it again. If user code keeps it behind a
//!    hook of its own, a check sets a new one only if no other check is under way.
//! 2. A panic that is not caught while schedules run is the checker's own, or a wrong use of it,
//!    and is printed after all.
//! 3. A panic that must not unwind because another is unwinding ends the process. The hook prints
//!    both, and what was found before.

use super::place::Place;
use super::pulse;
use crate::rt::{panic_message, world};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic;

/// How the panic message of a fault point begins.
pub(super) const INJECTED: &str = "a fault injected by the checker at `";

/// The payload that throws a spinning task out of its loop.
pub(super) struct Unwinding;

type PanicHook = Box<dyn Fn(&panic::PanicHookInfo<'_>) + Sync + Send>;

thread_local! {
    static QUIET: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
    /// The panic before that.
    static BEFORE: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

static SETTING: Mutex<Setting> = Mutex::new(Setting { latest: None, address: 0, checks: 0 });

struct Setting {
    /// `None` before the first check.
    latest: Option<Hook>,
    /// The address of the latest one.
    address: usize,
    /// How many checks are under way.
    checks: usize,
}

impl Setting {
    fn is_set(&self) -> bool {
        self.latest.as_ref().is_some_and(Hook::is_set)
    }

    /// Sets a hook, unless the latest one is in its place.
    fn renew(&mut self) {
        let mut found = panic::take_hook();
        if !self.is_set() || address(&found) != self.address {
            let new = Hook(Arc::new(AtomicBool::new(true)));
            self.latest = Some(new.clone());
            found = hook(found, WithHook(new));
            self.address = address(&found);
        }
        panic::set_hook(found);
    }
}

fn address(hook: &PanicHook) -> usize {
    std::ptr::from_ref(&**hook).cast::<()>() as usize
}

/// Whether one hook is still set.
#[derive(Clone)]
pub(super) struct Hook(Arc<AtomicBool>);

// Relaxed throughout: a flag, and nothing is read because of it.
impl Hook {
    /// The one that was set last.
    #[cfg(feature = "tokio")]
    pub(super) fn latest() -> Option<Hook> {
        SETTING.lock().latest.clone()
    }

    /// Whether panics may still reach it: it has not been dropped for another hook.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes with the hook.
struct WithHook(Hook);

impl Drop for WithHook {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

/// What the standard library panics with where a panic must not unwind, after that panic's own
/// words: in a drop while another unwinds, and in a function of another language.
const ENDS: [&str; 2] =
    ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];

/// What a panic said and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panic {
    pub(super) message: String,
    pub(super) place: Option<Place>,
}

impl Panic {
    /// The panic of a caught payload. The hook knows the line if this was the last panic to pass
    /// it: `resume_unwind` bypasses the hook.
    pub(super) fn of(payload: &(dyn Any + Send)) -> Panic {
        let message = message(payload);
        let last = LAST.with_borrow(|last| {
            let last = last.as_ref().filter(|last| last.message == message)?;
            last.place.clone()
        });
        Panic { message, place: last }
    }

    /// Whether the checker injected it.
    pub(super) fn was_injected(&self) -> bool {
        self.message.contains(INJECTED)
    }
}

/// Whether this thread is unwinding from an injected panic.
pub(super) fn injected_unwinds() -> bool {
    let injected = |last: &Option<Panic>| last.as_ref().is_some_and(Panic::was_injected);
    std::thread::panicking() && LAST.with_borrow(injected)
}

/// Keeps panics on this thread from being printed until it is dropped.
#[derive(Debug)]
pub(super) struct Quiet {
    /// Whether the thread was unwinding already when this was made.
    unwinding: bool,
    /// Whether a check made it.
    is_check: bool,
}

pub(super) fn keep_quiet() -> Quiet {
    let mut setting = SETTING.lock();
    // To look at the hook is to take it out for a moment, so this does not look while another check
    // may need it. And a thread that unwinds must not set a hook.
    if (setting.checks == 0 || !setting.is_set()) && !std::thread::panicking() {
        setting.renew();
    }
    setting.checks += 1;
    drop(setting);
    let mut quiet = keep_thread_quiet();
    quiet.is_check = true;
    quiet
}

/// The same, leaving the hook as it is.
pub(super) fn keep_thread_quiet() -> Quiet {
    QUIET.set(QUIET.get() + 1);
    Quiet { unwinding: std::thread::panicking(), is_check: false }
}

fn hook(before: PanicHook, goes_with_it: WithHook) -> PanicHook {
    Box::new(move |info| {
        let _ = &goes_with_it;
        if QUIET.try_with(Cell::get).unwrap_or(0) == 0 {
            return before(info);
        }
        let message = message(info.payload());
        if ENDS.contains(&&*message) {
            return tell_the_end();
        }
        let place = info.location().map(Place::from);
        let last = LAST.try_with(|last| last.replace(Some(Panic { message, place })));
        let _ = BEFORE.try_with(|before| before.replace(last.ok().flatten()));
        world::tell(|onlooker| onlooker.panics(info.payload()));
    })
}

/// Upholds invariant 3.
fn tell_the_end() {
    pulse::tell_what_was_found();
    let take = |panic: &RefCell<Option<Panic>>| panic.take();
    let both = [BEFORE.try_with(take), LAST.try_with(take)];
    for Panic { message, place } in both.into_iter().filter_map(Result::ok).flatten() {
        let place = place.map_or(String::new(), |place| format!(" at {place}"));
        pulse::say(format_args!("quell: a panic{place}:\n{message}\n"));
    }
    pulse::say(format_args!(
        "quell: a panic while another was unwinding ends the process, and no checker can go on: \
         what is dropped by a panic must not panic."
    ));
}

fn message(payload: &(dyn Any + Send)) -> String {
    if payload.is::<Unwinding>() {
        // Not a panic of user code.
        return INJECTED.to_string();
    }
    panic_message(payload).to_string()
}

/// Forgets the panics so far.
pub(super) fn forget() {
    LAST.with(|last| last.take());
    BEFORE.with(|before| before.take());
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(QUIET.get() - 1);
        if self.is_check {
            SETTING.lock().checks -= 1;
        }
        // Invariant 2.
        if QUIET.get() == 0 && std::thread::panicking() && !self.unwinding {
            if let Some(Panic { message, place }) = LAST.with(|last| last.take()) {
                let place = place.map_or(String::new(), |place| format!(" at {place}"));
                eprintln!("\nthe check has panicked{place}:\n{message}");
            }
        }
    }
}
