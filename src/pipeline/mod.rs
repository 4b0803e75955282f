//! Pipelines of concurrent stages that stop, all of them, when their context does.
//!
//! A [`Pipeline`] is described from its source on, and starts when its [`Results`] are first
//! polled. Whatever ends it ends every stage: the context, a reader that stops, a stage that fails
//! or panics. No stage has to look at its context for that, so none can forget to.
//!
//! ```
//! use quell::{Context, Pipeline, Rate};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut results = Pipeline::from_iter(&Context::background(), 1..)
//!     .throttle(Rate::per_second(10_000).burst(5))
//!     .dispatch(8, |_ctx, n: u64| async move { n * n })
//!     .run();
//!
//! let mut sum = 0;
//! while let Some(square) = results.next().await {
//!     sum += square;
//!     if sum > 100 {
//!         break;
//!     }
//! }
//! let report = results.finish().await; // every task has ended
//! assert!(report.conserved());
//! # }
//! ```

// | file | what it is |
// |---|---|
// | `plan` | `Pipeline`: what users describe |
// | `results` | `Results`: what they read |
// | `engine` | starting and ending, whatever the stages are |
// | `drain` | finishing what has begun |
// | `end` | how it ends |
// | `tally` | a task's counts of its items |
// | `source` | iterators, streams, threads |
// | `stages` | `map`, `filter_map`, `chunks`, `merge`, custom stages |
// | `dispatch` | workers |
// | `throttle` | `Rate`, and keeping to it |
// | `report` | where every item went |

mod dispatch;
mod drain;
mod end;
mod engine;
mod plan;
mod report;
mod results;
mod source;
mod stages;
mod tally;
mod throttle;

pub use end::Outcome;
pub use plan::{OnCancel, Pipeline};
pub use report::{Report, StageEnd, StageReport};
pub use results::{Next, Results, TryNext};
pub use stages::StageOutput;
pub use throttle::Rate;
