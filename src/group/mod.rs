//! An owner for tasks: each is told to end when its owner does, and can be waited for.
//!
//! A [`Group`] runs tasks on behalf of a context. It limits how many run at once, tells all of them
//! to end when one fails, and keeps the first failure. Its shutdown aborts those that do not end,
//! and says which.
//!
//! ```
//! use quell::{Context, Group};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let group = Group::new(&Context::background());
//! group.limit(8);
//! for shard in 0..100 {
//!     let checked = group.spawn("check", move |_ctx| async move {
//!         if shard == 42 { Err("shard 42 is broken") } else { Ok(()) }
//!     });
//!     // At the limit this waits; once a task has failed, there is no point in more.
//!     if checked.await.is_err() {
//!         break;
//!     }
//! }
//! let failed = group.wait().await.unwrap_err();
//! assert_eq!(failed.cause().to_string(), "shard 42 is broken");
//! # }
//! ```

// | file | what it is |
// |---|---|
// | `handle` | `Group`: what users hold |
// | `spawn` | waiting at the limit |
// | `report` | what had to be aborted, and how a task panicked |
// | `tasks` | the tasks themselves, for any owner |

mod handle;
mod report;
mod spawn;
mod tasks;

pub use handle::Group;
pub use report::{ShutdownReport, StillRunning, TaskPanicked};
pub use spawn::{Spawn, TrySpawnError};
pub(crate) use tasks::{Boxed, Ending, Owner, Tasks};
