//! The runtime seam: what runs tasks, which clock applies, and what rings when it is time.
//!
//! The same source runs in three worlds: on tokio, under loom, and under a checker that takes the
//! runtime's place. `context`, `channel`, `group` and `pipeline` name no runtime; code written with
//! the functions here runs in all three.
//!
//! Contexts need no runtime. They go by a runtime's clock where there is one, and by the system's
//! where there is none. So do [`sleep`](sleep()), [`timeout`] and [`interval`]. Only [`spawn`]
//! needs something that runs tasks.
//!
//! ```
//! use quell::rt;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let answer = rt::spawn_named("answer", async {
//!     rt::sleep(Duration::from_millis(1)).await;
//!     42
//! });
//! assert_eq!(answer.await.unwrap(), 42);
//! # }
//! ```
//!
//! Every future here is a named type that remembers the line that made it: a checker that finds a
//! task waiting for ever names that line.

// | file | what it is |
// |---|---|
// | `task` | spawning, joining, aborting (the tasks of models and checkers in a file apart) |
// | `panics` | panics of user code |
// | `aside` | running what may block on a thread of its own |
// | `sleep` | waiting for a time |
// | `turn` | letting others go first, and leaving a choice to others |
// | `woken` | which tasks a turn has woken, and when they run |
// | `waiting` | a line of waiting tasks |
// | `probe` | what a waiting task waits for |
// | `world` | how a checker takes the runtime's place |
// | `clock` | which clock applies, and alarms on it |
// | `on_tokio` | alarms on a runtime whose clock may be paused: one task there |
// | `timer` | the one thread that rings where no runtime does |
// | `runner` | the threads that run functions for `timer` and signals: quell's own and the users' |
// | `by_hand` | the clock of the models |
// | `by_thread` | the tasks of the models |

mod aside;
#[cfg(loom)]
pub(crate) mod by_hand;
#[cfg(loom)]
pub(crate) mod by_thread;
mod clock;
#[cfg(all(feature = "tokio", not(loom)))]
mod on_tokio;
mod panics;
pub(crate) mod probe;
#[cfg(not(loom))]
mod runner;
mod sleep;
mod task;
#[cfg(not(loom))]
mod timer;
mod turn;
mod waiting;
#[cfg(not(loom))]
mod woken;
#[cfg(all(feature = "check", not(loom)))]
pub(crate) mod world;

#[cfg(not(loom))]
pub(crate) use clock::Bell;
pub(crate) use clock::{Alarm, Clock, Work};
#[cfg(all(feature = "check", not(loom)))]
pub(crate) use task::{Stop, Unstarted};

pub(crate) use aside::block_aside;
#[cfg(loom)]
pub(crate) use by_thread::{
    KeptWakers, PipelineId, Turns, free_woken, has_woken, note_woken, set_keeping, step,
    stop_keeping, wake_at, wake_now, was_brisk,
};
#[cfg(all(feature = "http", not(loom)))]
pub(crate) use on_tokio::A_CENTURY;
#[cfg(all(feature = "check", feature = "tokio", not(loom)))]
pub(crate) use on_tokio::keeps_time_here;
#[cfg(all(feature = "check", not(loom)))]
pub(crate) use panics::panic_message;
pub(crate) use panics::{contain_panic, panic_words, wake};
#[cfg(all(unix, not(loom)))]
pub(crate) use runner::becomes_quells_own;
#[cfg(all(any(unix, feature = "tracing"), not(loom)))]
pub(crate) use runner::run as leave_to_crew;
#[cfg(not(loom))]
pub(crate) use runner::{for_users, is_quells_own};
pub use sleep::{Elapsed, Interval, Sleep, Tick, Timeout, interval, sleep, sleep_until, timeout};
pub(crate) use task::{Abort, WHERE_TASKS_RUN, require, runs_tasks, spawn_at};
pub use task::{JoinError, JoinHandle, spawn, spawn_named};
#[cfg(not(loom))]
pub(crate) use timer::look_often;
/// For the tests of rooms that name no runtime.
#[cfg(all(test, feature = "tokio", not(loom)))]
pub(crate) use tokio::runtime;
#[cfg(all(feature = "check", feature = "tokio", not(loom)))]
pub(crate) use turn::{SameChoices, learn_of_tasks};
pub(crate) use turn::{Turn, go_behind, is_in_real_time, real_now};
pub use turn::{YieldNow, choose, yield_now};
pub(crate) use waiting::Waiting;
#[cfg(not(loom))]
pub(crate) use woken::{
    KeptWakers, PipelineId, Turns, free_woken, has_woken, note_woken, set_keeping, step,
    stop_keeping, wake_at, wake_now, was_brisk,
};

use std::time::Instant;

/// A model has no threads of quell's own.
#[cfg(loom)]
pub(crate) fn for_users(job: impl FnOnce()) {
    contain_panic(job);
}

/// The time by the clock that is ambient here: the clock of the tokio runtime this is called in
/// (paused or not), else the system's. Under a checker, the checker's own.
///
/// Every [`Instant`] that quell takes or returns is by this clock.
pub fn now() -> Instant {
    Clock::ambient_now()
}
