//! Finishing what has begun, for as long as there is grace.
//!
//! # Invariants
//!
//! 1. `over_at` is set once, when the drain begins, unless its grace goes beyond the clock. It is
//!    set before the alarm is armed, so that it holds even if that fails.
//! 2. What `armed` holds keeps the pipeline alive, and is forgotten once the pipeline has stopped:
//!    by the call that stops it, or by the one that put it there and finds it stopped.

use crate::context::{AfterFunc, Context};
use crate::rt::{Alarm, Clock, Work};
use crate::sync::{Latch, Mutex};
use std::time::{Duration, Instant};

pub(super) struct Drain {
    grace: Duration,
    clock: Clock,
    /// When the grace is over, once the drain has begun.
    over_at: Latch<Instant>,
    /// What will begin it, and what will end it.
    armed: Mutex<(Option<AfterFunc>, Option<Alarm>)>,
}

impl Drain {
    pub(super) fn new(grace: Duration) -> Self {
        let (clock, armed) = (Clock::ambient(), Mutex::new((None, None)));
        Drain { grace, clock, over_at: Latch::new(), armed }
    }

    /// Notes the function that will begin it.
    pub(super) fn watch(&self, begins: AfterFunc) {
        self.armed.lock().0 = Some(begins);
    }

    /// Begins it, because `parent` has ended. After the grace `abort` is called.
    pub(super) fn begin(&self, parent: &Context, abort: impl FnOnce() + Send + 'static) {
        let Some(at) = self.over(parent).or_else(|| self.clock.now().checked_add(self.grace))
        else {
            return;
        };
        let _first = self.over_at.set(at);
        let alarm = self.clock.arm(at, Box::new(move || Some(Work::ours(abort))));
        let before = self.armed.lock().1.replace(alarm);
        drop(before);
    }

    /// When the grace is over, if `parent` has ended by a deadline: however late that is noticed.
    fn over(&self, parent: &Context) -> Option<Instant> {
        parent.expired_by(&self.clock).and_then(|at| at.checked_add(self.grace))
    }

    /// Whether the grace is over, even if no task has had a turn to say so, or perhaps to begin the
    /// drain.
    pub(super) fn is_over(&self, parent: &Context) -> bool {
        let at = self.over_at.get().copied().or_else(|| self.over(parent));
        at.is_some_and(|at| self.clock.now() >= at)
    }

    pub(super) fn forget(&self) {
        let (begins, alarm) = std::mem::take(&mut *self.armed.lock());
        if let Some(begins) = begins {
            begins.stop();
        }
        drop(alarm);
    }
}
