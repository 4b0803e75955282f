//! The runtime seam: whose clock tells the time, and who rings when it is time.
//!
//! Contexts need no runtime. Where there is one they keep its time; where there
//! is none they keep the system's. Nothing outside this room names tokio, a
//! clock or a timer.
//!
//! | file | what it is |
//! |---|---|
//! | `clock` | whose time it is, and alarms on it |
//! | `timer` | the one thread that rings where no runtime does |
//! | `by_hand` | the clock of the models |
//! | `runner` | the threads that run users' functions for it |

#[cfg(loom)]
pub(crate) mod by_hand;
mod clock;
#[cfg(not(loom))]
mod runner;
#[cfg(not(loom))]
mod timer;

#[cfg(not(loom))]
pub(crate) use clock::Bell;
pub(crate) use clock::{Alarm, Clock, Work};

use std::time::Instant;

/// The time, by the clock that is ambient here: that of the tokio runtime this
/// is called in (paused or not), else the system's.
///
/// Every [`Instant`] that quell takes or gives is one of these.
pub fn now() -> Instant {
    Clock::ambient_now()
}
