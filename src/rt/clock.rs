//! Which clock applies, and alarms on it.
//!
//! # Invariants
//!
//! 1. A [`Clock`] tells the same time on every thread, whatever runtime that thread is in.
//! 2. Only a current-thread tokio runtime can pause its clock. Every other clock is the system's,
//!    and reading it asks no runtime. (A checker and a model have their own clocks, and ring by
//!    themselves.)
//! 3. An armed bell rings once, unless its [`Alarm`] is dropped before. The timer thread always
//!    knows of it, so it rings even if the runtime whose clock it goes by is not driven, is busy,
//!    has shut down, or has no timers.

#![allow(clippy::disallowed_methods, reason = "the right door")]

#[cfg(loom)]
use super::by_hand;
#[cfg(all(feature = "tokio", not(loom)))]
use super::on_tokio;
#[cfg(not(loom))]
use super::timer;
#[cfg(not(loom))]
use std::time::Duration;
use std::time::Instant;

#[cfg(all(feature = "check", not(loom)))]
use super::world::{self, Armed, WaitId, World};
#[cfg(all(feature = "check", not(loom)))]
use crate::sync::Arc;
#[cfg(all(feature = "tokio", not(loom)))]
use tokio::runtime::{Handle, RuntimeFlavor};

/// The clock of a tokio runtime, or the system's.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The runtime in which the clock was ambient: also where a deadline's after-functions may
    /// spawn.
    #[cfg(all(feature = "tokio", not(loom)))]
    runtime: Option<Handle>,
    /// The checker that keeps the time.
    #[cfg(all(feature = "check", not(loom)))]
    world: Option<Arc<dyn World>>,
}

/// What to do when the time has come. Returns the work that may take its time, for a thread that
/// may be kept busy.
pub(crate) type Bell = Box<dyn FnOnce() -> Option<Work> + Send>;

/// Work for a thread that can be kept busy.
#[derive(Default)]
pub(crate) struct Work {
    /// Quell's own part. It comes first, and never waits for user code.
    pub(super) ours: Option<Job>,
    /// The user's functions.
    pub(super) users: Option<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Work {
    pub(crate) fn ours(job: impl FnOnce() + Send + 'static) -> Self {
        Work { ours: Some(Box::new(job)), users: None }
    }

    pub(crate) fn users(job: impl FnOnce() + Send + 'static) -> Self {
        Work { ours: None, users: Some(Box::new(job)) }
    }

    /// Adds a job after the user's functions; it may be user code as well.
    pub(crate) fn and_then(self, job: impl FnOnce() + Send + 'static) -> Self {
        let Work { ours, users } = self;
        let Some(before) = users else { return Work { ours, users: Some(Box::new(job)) } };
        let both = move || {
            before();
            job();
        };
        Work { ours, users: Some(Box::new(both)) }
    }

    /// Does all of it on this thread.
    pub(crate) fn run(self) {
        [self.ours, self.users].into_iter().flatten().for_each(|job| job());
    }
}

/// An armed bell; dropping this disarms it.
#[derive(Debug)]
pub(crate) enum Alarm {
    #[cfg(loom)]
    ByHand { _entry: by_hand::Entry },
    #[cfg(not(loom))]
    Timer { _entry: timer::Entry },
    #[cfg(all(feature = "tokio", not(loom)))]
    Hook { _hook: on_tokio::Hook, _backup: timer::Entry },
    #[cfg(all(feature = "check", not(loom)))]
    World { armed: Box<dyn Armed> },
}

impl Clock {
    #[cfg(loom)]
    pub(crate) fn ambient() -> Self {
        Clock {}
    }

    /// The system's clock, whatever is ambient.
    #[cfg(not(loom))]
    pub(crate) fn system() -> Self {
        Clock {
            #[cfg(feature = "tokio")]
            runtime: None,
            #[cfg(feature = "check")]
            world: None,
        }
    }

    /// The clock that is ambient on this thread now.
    #[cfg(not(loom))]
    pub(crate) fn ambient() -> Self {
        Clock {
            #[cfg(feature = "tokio")]
            runtime: Handle::try_current().ok(),
            #[cfg(feature = "check")]
            world: world::current(),
        }
    }

    /// The time by which a blocked thread waits, whatever runtime it is in.
    pub(crate) fn system_now() -> Instant {
        #[cfg(loom)]
        return by_hand::now();
        #[cfg(not(loom))]
        Instant::now()
    }

    /// What `Clock::ambient().now()` would say.
    pub(crate) fn ambient_now() -> Instant {
        #[cfg(all(feature = "check", not(loom)))]
        if let Some(now) = world::ask(|world| world.now()) {
            return now;
        }
        // A task is in a runtime; asking for the handle would count it up and down.
        #[cfg(all(feature = "tokio", not(loom)))]
        if tokio::task::try_id().is_some() || Handle::try_current().is_ok() {
            return tokio::time::Instant::now().into_std();
        }
        Self::system_now()
    }

    /// The clock that is ambient here, if a tokio timer would go by it, as far as is known of its
    /// runtime.
    #[cfg(all(feature = "tokio", not(loom)))]
    pub(crate) fn ambient_of_tokio() -> Option<Self> {
        #[cfg(feature = "check")]
        if world::ask(|_| ()).is_some() {
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        let has_timers = !on_tokio::is_without_timers(runtime.id());
        has_timers.then(|| Clock {
            runtime: Some(runtime),
            #[cfg(feature = "check")]
            world: None,
        })
    }

    /// Notes that a tokio timer was asked for here, and the runtime has none.
    #[cfg(all(feature = "tokio", not(loom)))]
    pub(crate) fn note_no_timers_here() {
        if let Ok(runtime) = Handle::try_current() {
            on_tokio::note_without_timers(runtime.id());
        }
    }

    /// The runtime that can pause this clock, if there is one.
    #[cfg(all(feature = "tokio", not(loom)))]
    #[inline]
    fn pausable(&self) -> Option<&Handle> {
        self.runtime
            .as_ref()
            .filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        #[cfg(all(feature = "check", not(loom)))]
        if let Some(world) = &self.world {
            return world.now();
        }
        #[cfg(all(feature = "tokio", not(loom)))]
        if let Some(runtime) = self.pausable() {
            match Handle::try_current() {
                Ok(here) if here.id() == runtime.id() => {
                    return tokio::time::Instant::now().into_std();
                }
                // At the end of a thread's life no runtime can be entered.
                Err(error) if error.is_thread_local_destroyed() => {}
                _ => {
                    let _inside = runtime.enter();
                    return tokio::time::Instant::now().into_std();
                }
            }
        }
        Self::system_now()
    }

    /// Whether the clock may be stopped and moved by hand.
    pub(crate) fn may_jump(&self) -> bool {
        #[cfg(all(feature = "check", not(loom)))]
        if self.world.is_some() {
            return true;
        }
        #[cfg(all(feature = "tokio", not(loom)))]
        return self.pausable().is_some();
        #[cfg(not(all(feature = "tokio", not(loom))))]
        false
    }

    /// Whether two clocks always tell the same time.
    pub(crate) fn same(&self, other: &Clock) -> bool {
        #[cfg(all(feature = "check", not(loom)))]
        match (&self.world, &other.world) {
            (Some(one), Some(two)) => return Arc::ptr_eq(one, two),
            (None, None) => {}
            _ => return false,
        }
        #[cfg(all(feature = "tokio", not(loom)))]
        return match (self.pausable(), other.pausable()) {
            (None, None) => true,
            (Some(one), Some(two)) => one.id() == two.id(),
            _ => false,
        };
        #[cfg(not(all(feature = "tokio", not(loom))))]
        {
            let _ = other;
            true
        }
    }

    /// Rings `bell` when this clock reads `at` or later, unless the alarm is
    /// dropped before. Never rings on the calling thread.
    pub(crate) fn arm(&self, at: Instant, bell: Bell) -> Alarm {
        #[cfg(all(feature = "check", not(loom)))]
        if let Some(world) = &self.world {
            return Alarm::World { armed: world.arm(at, bell) };
        }
        #[cfg(loom)]
        return Alarm::ByHand { _entry: by_hand::arm(at, bell) };
        #[cfg(all(feature = "tokio", not(loom)))]
        if let Some(runtime) = self.pausable() {
            return on_tokio::arm(runtime, self.clone(), at, bell);
        }
        #[cfg(not(loom))]
        Alarm::Timer { _entry: timer::arm(self.clone(), at, Duration::ZERO, bell) }
    }

    /// Runs `f` where `tokio::spawn` and the like find the runtime.
    #[cfg(not(loom))]
    pub(crate) fn inside<R>(&self, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tokio")]
        let _inside = self.runtime.as_ref().map(Handle::enter);
        f()
    }
}

impl Alarm {
    /// The task being polled waits for it: in place of any before (`alone`), or beside them. A
    /// checker wants to know.
    #[inline]
    pub(crate) fn awaited(&self, alone: bool) {
        #[cfg(all(feature = "check", not(loom)))]
        if let Alarm::World { armed } = self {
            armed.awaited(alone);
        }
        let _ = alone;
    }

    /// The task being polled waits for it by `wait`, beside others. `arms`: it was armed for that.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn joined(&self, wait: WaitId, arms: bool) {
        if let Alarm::World { armed } = self {
            armed.joined(wait, arms);
        }
    }

    /// That wait is over.
    #[cfg(all(feature = "check", not(loom)))]
    pub(crate) fn left(&self, wait: WaitId) {
        if let Alarm::World { armed } = self {
            armed.left(wait);
        }
    }
}
