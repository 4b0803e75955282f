//! Finishing what has begun, for as long as there is grace.
//!
//! # Invariants
//!
//! 1. `over_at` is set once, when the drain begins, unless its grace is longer than the clock goes;
//!    before the alarm is armed, so that it holds though that fails.
//! 2. What is kept in `armed` keeps the pipeline alive, and is forgotten when that has stopped:
//!    by whoever stops it, or by whoever put it there and finds it stopped.

use crate::context::{AfterFunc, Context};
use crate::rt::{Alarm, Clock, Work};
use crate::sync::{Latch, Mutex};
use std::time::{Duration, Instant};

pub(super) struct Drain {
    grace: Duration,
    clock: Clock,
    /// When the grace of a drain that has begun is over.
    over_at: Latch<Instant>,
    /// What would begin it, and what will end it.
    armed: Mutex<(Option<AfterFunc>, Option<Alarm>)>,
}

impl Drain {
    pub(super) fn new(grace: Duration) -> Self {
        let (clock, armed) = (Clock::ambient(), Mutex::new((None, None)));
        Drain { grace, clock, over_at: Latch::new(), armed }
    }

    /// It begins by this function.
    pub(super) fn watch(&self, begins: AfterFunc) {
        self.armed.lock().0 = Some(begins);
    }

    /// It begins, for `parent` has ended; after the grace this function is called.
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

    /// When the grace is over, however late anybody hears that `parent` has ended by a deadline.
    fn over(&self, parent: &Context) -> Option<Instant> {
        parent.ran_out_by(&self.clock).and_then(|at| at.checked_add(self.grace))
    }

    /// Whether the grace is over, though nobody has had a turn to tell, nor perhaps to begin.
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
