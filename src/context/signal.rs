//! Ctrl-C: a context that ends when the process is asked to stop.
//!
//! # Invariants
//!
//! 1. `by_default` is true exactly when no context is waiting for a signal: then a signal does what
//!    it would do without quell. The handler itself sets it, so a second signal ends the process
//!    however busy or stuck that is.
//! 2. A context is in the list from [`interrupt`] until it ends or is gone, or until that call
//!    fails. The list does not keep it alive.
//! 3. The thread that hears of signals runs no after-functions and drops nothing that a context
//!    holds: such user code may wait for the next signal.

#![allow(clippy::disallowed_types, reason = "made once, for no model to see")]

use super::after::{Func, Job, Whose};
use super::cause::Cause;
use super::harvest::Harvest;
use super::outside::{Target, Vigil};
use super::{Canceller, Context, ContextError};
use crate::rt::{self, Clock, contain_panic};
use crate::sync::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, iterator::Signals};
use slab::Slab;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The cause of a context that a signal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    signal: i32,
}

impl Interrupted {
    /// The number of the signal.
    pub fn signal(&self) -> i32 {
        self.signal
    }

    /// The exit status with which a shell reports a process that this signal ended: 130 for SIGINT,
    /// 143 for SIGTERM.
    pub fn exit_status(&self) -> i32 {
        128 + self.signal
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted by ")?;
        match signal_hook::low_level::signal_name(self.signal) {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.signal),
        }
    }
}

impl std::error::Error for Interrupted {}

/// Derives a child of `parent` that the first SIGINT or SIGTERM ends, with a cause that names the
/// signal (an [`Interrupted`]). The second signal ends the process as it does by default, so that a
/// shell sees 130 or 143.
///
/// If the context ends otherwise, or is dropped with all that is derived from it, and no other one
/// waits for a signal, signals again act as they do by default. Unix only.
///
/// When a signal ends the context, its after-functions run on a dedicated thread, outside of any
/// runtime; they may wait for a signal that ends another context. Wakers are woken on the thread
/// that hears of signals: a waker that blocks keeps the next signal from being heard.
///
/// ```no_run
/// use quell::{Context, signal};
///
/// let (ctx, _canceller) = signal::interrupt(&Context::background());
/// ctx.wait();
/// println!("stopping: {}", ctx.cause().unwrap()); // interrupted by SIGINT
/// ```
///
/// # Panics
///
/// If the system refuses to have signals watched.
#[doc(alias("ctrl_c", "SIGINT", "SIGTERM"))]
#[track_caller]
pub fn interrupt(parent: &Context) -> (Context, Canceller) {
    let made_at = Location::caller();
    let (ctx, canceller) = parent.with_cancel();
    let watch = Watch::get();
    ctx.note_look();
    if let Some((branch, Ok(scope))) = ctx.branch().map(|branch| (branch, branch.open())) {
        branch.note_func();
        let place = watch.enter(Target::new(branch, scope, parent.branch()), made_at);
        // If this panics because no alarm can be armed, the place is dropped.
        let vigil = Vigil::begin(branch);
        let leaves = Job::new(Whose::Ours, Box::new(move || drop((place, vigil))));
        let kept = scope.add_func(Func::quiet(leaves));
        drop(kept);
    }
    (ctx, canceller)
}

struct Waiting {
    target: Target,
    made_at: &'static Location<'static>,
}

/// A context's place in the list; dropping this removes the context.
struct Place {
    watch: &'static Watch,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.watch.waiting.lock();
        let gone = waiting.try_remove(self.key);
        if waiting.is_empty() {
            self.watch.by_default.store(true, Ordering::SeqCst);
        }
        drop(waiting);
        drop(gone);
    }
}

const REFUSED: &str = "quell could not have signals watched";

/// The flag of the handlers. They are registered once, even if starting the listener fails and is
/// retried: registered twice, they would take the first signal for the second.
fn handlers() -> Arc<AtomicBool> {
    static BY_DEFAULT: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let by_default = BY_DEFAULT.get_or_init(|| {
        let by_default = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down and raises it, the
            // second finds it up.
            flag::register_conditional_default(signal, Arc::clone(&by_default)).expect(REFUSED);
            flag::register(signal, Arc::clone(&by_default)).expect(REFUSED);
        }
        by_default
    });
    Arc::clone(by_default)
}

/// The one watch of the process.
struct Watch {
    by_default: Arc<AtomicBool>,
    waiting: Mutex<Slab<Arc<Waiting>>>,
}

impl Watch {
    fn get() -> &'static Watch {
        static WATCH: OnceLock<Watch> = OnceLock::new();
        WATCH.get_or_init(|| {
            let by_default = handlers();
            Watch::listen().unwrap_or_else(|error| panic!("{REFUSED}: {error}"));
            Watch { by_default, waiting: Mutex::new(Slab::new()) }
        })
    }

    /// Starts the thread that hears of signals.
    fn listen() -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        std::thread::Builder::new().name("quell-signals".into()).spawn(move || {
            rt::becomes_quells_own();
            for signal in signals.forever() {
                contain_panic(|| Watch::get().tell(Interrupted { signal }));
            }
        })?;
        Ok(())
    }

    fn enter(&'static self, target: Target, made_at: &'static Location<'static>) -> Place {
        let new = Arc::new(Waiting { target, made_at });
        let mut waiting = self.waiting.lock();
        // The ordering of the handler's own loads is signal-hook's. What matters here is that the
        // flag and the list change under one lock.
        self.by_default.store(false, Ordering::SeqCst);
        Place { watch: self, key: waiting.insert(new) }
    }

    /// Ends all waiting contexts, and only then notifies: no after-function of one context holds up
    /// the end of another, or the next signal.
    fn tell(&self, interrupted: Interrupted) {
        let all: Vec<_> = self.waiting.lock().iter().map(|(_, one)| Arc::clone(one)).collect();
        let all: Vec<_> =
            all.iter().filter_map(|one| Some((one.target.hold()?, one.made_at))).collect();
        let mut harvest = Harvest::default();
        for (held, made_at) in &all {
            let error = Box::new(interrupted);
            let cause = Cause::given(ContextError::Cancelled, error, Some(made_at));
            harvest.join(held.end(cause).unwrap_or_default());
        }
        let rest = harvest.wake_and_leave_the_rest().unwrap_or_default();
        // Invariant 3.
        let rest = rest.and_then(move || {
            for (held, _) in all {
                contain_panic(move || drop(held));
            }
        });
        rt::leave_to_crew(Clock::system(), rest);
    }
}
