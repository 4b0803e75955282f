//! Whose time it is, and alarms on it.
//!
//! # Invariants
//!
//! 1. A [`Clock`] tells the same time on every thread, whatever runtime that
//!    thread is in.
//! 2. Only a current-thread tokio runtime can pause its clock. Every other
//!    clock is the system's, read without asking anybody.
//! 3. An armed bell is, until it has rung or its [`Alarm`] is dropped, in
//!    exactly one place: with a task on the runtime whose clock it goes by, or
//!    with the timer thread. A task that ends without ringing (its runtime was
//!    shut down, or has no time driver) hands its bell to the timer thread.

#![allow(clippy::disallowed_methods, reason = "the right door")]

#[cfg(not(loom))]
use super::timer;
use std::time::Instant;

#[cfg(all(feature = "tokio", not(loom)))]
use tokio::runtime::{Handle, RuntimeFlavor};

/// The clock of a tokio runtime, or the system's.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The runtime in which it was ambient: also where a deadline's
    /// after-functions may spawn.
    #[cfg(all(feature = "tokio", not(loom)))]
    runtime: Option<Handle>,
}

/// What to do when the time has come. Gives back what is the user's to run, for
/// a thread that may be kept busy.
#[cfg(not(loom))]
pub(crate) type Bell = Box<dyn FnOnce() -> Option<Work> + Send>;

/// The user's functions.
#[cfg(not(loom))]
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// An armed bell; dropping it disarms.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) enum Alarm {
    Timer {
        _entry: timer::Entry,
    },
    #[cfg(feature = "tokio")]
    Task {
        _task: on_tokio::Task,
    },
}

impl Clock {
    #[cfg(loom)]
    pub(crate) fn ambient() -> Self {
        Clock {}
    }

    /// The clock that is ambient on this thread now.
    #[cfg(not(loom))]
    pub(crate) fn ambient() -> Self {
        Clock {
            #[cfg(feature = "tokio")]
            runtime: Handle::try_current().ok(),
        }
    }

    /// The time by which a blocked thread waits, whatever runtime it is in.
    pub(crate) fn system_now() -> Instant {
        Instant::now()
    }

    /// What `Clock::ambient().now()` would say.
    pub(crate) fn ambient_now() -> Instant {
        #[cfg(all(feature = "tokio", not(loom)))]
        return tokio::time::Instant::now().into_std();
        #[cfg(not(all(feature = "tokio", not(loom))))]
        Self::system_now()
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
        #[cfg(all(feature = "tokio", not(loom)))]
        if let Some(runtime) = self.pausable() {
            let _inside = runtime.enter();
            return tokio::time::Instant::now().into_std();
        }
        Self::system_now()
    }

    /// Whether it may be stopped and moved by hand.
    pub(crate) fn may_jump(&self) -> bool {
        #[cfg(all(feature = "tokio", not(loom)))]
        return self.pausable().is_some();
        #[cfg(not(all(feature = "tokio", not(loom))))]
        false
    }

    /// Whether two clocks always tell the same time.
    pub(crate) fn same(&self, other: &Clock) -> bool {
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
    #[cfg(not(loom))]
    pub(crate) fn arm(&self, at: Instant, bell: Bell) -> Alarm {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = self.pausable() {
            return Alarm::Task { _task: on_tokio::Task::spawn(runtime, self.clone(), at, bell) };
        }
        Alarm::Timer { _entry: timer::arm(self.clone(), at, bell) }
    }

    /// Runs `f` where `tokio::spawn` and the like find the runtime.
    #[cfg(not(loom))]
    pub(crate) fn inside<R>(&self, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tokio")]
        let _inside = self.runtime.as_ref().map(Handle::enter);
        f()
    }
}

/// Alarms on a runtime whose clock may be paused: a task there, because only
/// the runtime's own timers make a paused clock move by itself.
#[cfg(all(feature = "tokio", not(loom)))]
mod on_tokio {
    use super::{Bell, Clock, timer};
    use crate::sync::{Arc, Mutex};
    use std::panic::catch_unwind;
    use std::time::Instant;
    use tokio::runtime::Handle;
    use tokio::task::AbortHandle;

    #[derive(Debug)]
    pub(crate) struct Task {
        hook: Arc<Hook>,
        task: AbortHandle,
    }

    /// Where the bell hangs (invariant 3).
    #[derive(Debug)]
    struct Hook {
        clock: Clock,
        at: Instant,
        bell: Mutex<Place>,
    }

    enum Place {
        WithTask(Bell),
        WithTimer { _entry: timer::Entry },
        Nowhere,
    }

    impl std::fmt::Debug for Place {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(match self {
                Place::WithTask(_) => "WithTask",
                Place::WithTimer { .. } => "WithTimer",
                Place::Nowhere => "Nowhere",
            })
        }
    }

    impl Task {
        pub(super) fn spawn(runtime: &Handle, clock: Clock, at: Instant, bell: Bell) -> Self {
            let hook = Arc::new(Hook { clock, at, bell: Mutex::new(Place::WithTask(bell)) });
            let on_runtime = OnRuntime(Arc::clone(&hook));
            let task = runtime.spawn(async move {
                if on_runtime.until_due().await {
                    if let Place::WithTask(bell) = on_runtime.0.take() {
                        if let Some(work) = bell() {
                            work();
                        }
                    }
                }
            });
            Task { hook, task: task.abort_handle() }
        }
    }

    impl Drop for Task {
        fn drop(&mut self) {
            drop(self.hook.take());
            self.task.abort();
        }
    }

    impl Hook {
        fn take(&self) -> Place {
            std::mem::replace(&mut *self.bell.lock(), Place::Nowhere)
        }
    }

    /// The task's end of the hook: dropped with the task, rung or not.
    struct OnRuntime(Arc<Hook>);

    impl OnRuntime {
        /// Comes back when it is due. False: this runtime has no timers (tokio has
        /// said so, and how to enable them).
        async fn until_due(&self) -> bool {
            while tokio::time::Instant::now().into_std() < self.0.at {
                let at = self.0.at.into();
                let Ok(sleep) = catch_unwind(|| tokio::time::sleep_until(at)) else {
                    return false;
                };
                sleep.await;
            }
            true
        }
    }

    impl Drop for OnRuntime {
        fn drop(&mut self) {
            let mut place = self.0.bell.lock();
            if let Place::WithTask(_) = &*place {
                if let Place::WithTask(bell) = std::mem::replace(&mut *place, Place::Nowhere) {
                    let entry = timer::arm(self.0.clock.clone(), self.0.at, bell);
                    *place = Place::WithTimer { _entry: entry };
                }
            }
        }
    }
}
