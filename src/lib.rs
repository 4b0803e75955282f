//! Go-style contexts, pipelines and groups of tasks that stop completely when their context ends,
//! and a checker that looks for code that does not.
//!
//! A [`Context`] is what Go calls a context: it carries cancellation, a deadline, the reason for
//! its end, and values from the code that starts some work to the code that does it. Contexts form
//! a tree; ending one ends everything derived from it.
//!
//! ```
//! use quell::Context;
//! use std::time::Duration;
//!
//! # futures::executor::block_on(async {
//! let (request, canceller) = Context::background().with_timeout(Duration::from_secs(2));
//! let (lookup, _canceller) = request.with_cancel();
//!
//! canceller.cancel_with("the client went away");
//!
//! let stopped = lookup.run(std::future::pending::<()>()).await.unwrap_err();
//! assert_eq!(stopped.to_string(), "context canceled");
//! assert_eq!(stopped.cause().to_string(), "the client went away");
//! # });
//! ```
//!
//! A [`Pipeline`] is a chain of stages made of tasks, from a source to the reader of the results.
//! Whatever ends the pipeline ends every stage, and its [`Report`] accounts for every item.
//! A [`Group`] owns tasks that each do something different.
//!
//! ```
//! use quell::{Context, Pipeline};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut squares = Pipeline::from_iter(&Context::background(), 1..)
//!     .dispatch_ordered(4, |_ctx, n: u64| async move { n * n })
//!     .run();
//! assert_eq!(squares.next().await, Some(1));
//! assert_eq!(squares.next().await, Some(4));
//!
//! let report = squares.finish().await; // no task is left of an endless source
//! assert_eq!(report.outcome().to_string(), "the reader stopped");
//! # }
//! ```
//!
//! # Where to look
//!
//! | you want to | look at |
//! |---|---|
//! | derive a context | [`Context::with_cancel`], [`with_timeout`](Context::with_timeout), [`with_deadline`](Context::with_deadline), [`with_reserve`](Context::with_reserve), [`linked`](Context::linked), [`without_cancel`](Context::without_cancel) |
//! | end one, with a reason | [`Canceller`] |
//! | wait in a task | [`Context::run`], [`Context::done`] |
//! | wait on a thread | [`Context::wait`] |
//! | check in a loop | [`Context::check`] |
//! | know why it ended | [`Context::cause`], [`Cause`] |
//! | carry values | [`Context::with_value`], [`Key`] |
//! | run a function at the end | [`Context::after_func`] |
//! | see what is still alive | [`Context::tree`] |
//! | stop on Ctrl-C | [`signal::interrupt`] |
//! | chain stages of tasks | [`Pipeline`], and [the guide](guide::pipelines) |
//! | limit the rate | [`Pipeline::throttle`], [`Rate`] |
//! | work on many items at once | [`dispatch`](Pipeline::dispatch), [`dispatch_ordered`](Pipeline::dispatch_ordered), [`try_dispatch`](Pipeline::try_dispatch) |
//! | write a stage | [`Pipeline::stage`], [`channel::Receiver`], [`channel::Sender`] |
//! | finish the items already begun | [`OnCancel::Drain`] |
//! | know whether all results have come | [`Results::try_next`], [`Results::try_collect`] |
//! | account for every item | [`Results::finish`], [`Report`] |
//! | work that finds more work | [the guide](guide::pipelines#work-that-makes-work), [`Group::try_spawn`] |
//! | own tasks, a few at a time | [`Group`] |
//! | spawn, sleep, set a timeout | [`rt`] |
//! | come from Go, or from tokio | [the guide from Go](guide::from_go), [the guide from tokio](guide::from_tokio) |
//!
//! # Checking that it stops
//!
//! With the feature `check`, `quell::check` runs an async body under every schedule within a bound,
//! cancels it at every point in turn, and shows which task does not stop, at which line, and how to
//! reproduce it. The body only has to take a context. See [the guide](guide::checker).
//!
#![cfg_attr(all(feature = "check", not(loom)), doc = "```")]
#![cfg_attr(not(all(feature = "check", not(loom))), doc = "```ignore")]
//! use quell::check::Checker;
//! use quell::{Context, rt};
//!
//! async fn my_code(ctx: Context) {
//!     let worker = ctx.clone();
//!     let worker = rt::spawn_named("worker", async move {
//!         let _ = worker.run(rt::sleep(std::time::Duration::from_secs(5))).await;
//!     });
//!     worker.await.unwrap();
//! }
//!
//! Checker::new().run(my_code).assert_clean();
//! ```
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tokio` (default) | groups and pipelines run their tasks on tokio; deadlines follow the clock of the tokio runtime they were made in, paused or not |
//! | `tokio-util` | [`Context::token`](Context#method.token) and [`Context::with_token`](Context#method.with_token), to and from `CancellationToken` |
//! | `tracing` | an event, target `quell`, level debug, when a context ends for a reason of its own; warnings of `http` |
//! | `check` | the checker |
//! | `proptest` | random pipelines and schedules for the checker |
//! | `http` | a context for each request, limits, a client, a server |
//! | `tls` | HTTPS for `hit` |
//! | `cli` | the programs `quell`, which runs the built-in checks, and `hit` |
//! | `full` | all of these |
//!
//! Without any of these features, contexts work on plain threads and under every executor.
//!
//! # The house
//!
//! | room | what lives there |
//! |---|---|
//! | `context` | the tree of contexts: everything that ends |
//! | [`pipeline`] | sources, stages, throttle, workers, results, reports |
//! | [`group`] | an owner for tasks |
//! | [`channel`] | the bounded channel between stages |
//! | [`rt`] | the runtime seam: what runs tasks, which clock applies, and what rings alarms |
//! | `check` | the checker: a schedule, the search through schedules, the findings (feature `check`) |
//! | `http` | contexts for HTTP: layers for tower and axum, a server, a client (feature `http`) |
//! | `hit` | a load generator: requests through a pipeline, and their measurements (feature `http`) |
//! | `sync` | `std` or `loom`, and all code the compiler cannot check, each piece with its proof |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod channel;
#[cfg(all(feature = "check", not(loom)))]
pub mod check;
mod context;
pub mod group;
#[cfg(all(feature = "http", not(loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod hit;
#[cfg(all(feature = "http", not(loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
pub mod pipeline;
pub mod rt;
mod sync;

pub use channel::{Receiver, SendError, Sender};
pub use group::{Group, ShutdownReport, StillRunning, TaskPanicked, TrySpawnError};
pub use pipeline::{OnCancel, Outcome, Pipeline, Rate, Report, Results, StageEnd, StageReport};

#[cfg(not(loom))]
pub use context::Tree;
pub use context::{
    AfterFunc, BoxError, Cancelled, Canceller, Cause, Context, ContextError, Done, Key, Run,
};

/// Ctrl-C: a context that ends when the process is asked to stop.
#[cfg(all(unix, not(loom)))]
pub mod signal {
    pub use crate::context::signal::{Interrupted, interrupt};
}

/// The planted bugs, for the checker's tests, in builds that have them.
#[cfg(all(quell_planted, not(loom)))]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod planted {
    pub use crate::sync::planted::{Break, hurry, plant};
}

/// The planted bugs and other internals, for the models only.
#[cfg(loom)]
#[doc(hidden)]
pub mod planted {
    pub use crate::sync::planted::{Break, hurry, plant};

    /// Advances the models' clock by this many milliseconds, and rings the alarms that are due.
    pub fn advance(millis: usize) {
        crate::rt::by_hand::advance(millis);
    }

    /// Runs a future, and all the tasks that it spawns, on this thread in turns; returns
    /// when all have ended.
    pub fn on_one_thread<F: Future>(future: F) -> F::Output {
        crate::rt::by_thread::on_one_thread(future)
    }

    /// Waits for the alarms that ring on a thread of their own. Models with a deadline end
    /// with this.
    pub fn finish() {
        crate::rt::by_hand::finish();
    }

    /// The channel between two stages, whose receiver offers room when it waits.
    pub fn between<T>(capacity: usize) -> (crate::channel::Sender<T>, crate::channel::Receiver<T>) {
        crate::channel::between(capacity)
    }

    /// One worker's end of a channel, without its stage.
    #[allow(missing_debug_implementations)]
    pub struct Taker<T>(crate::channel::Taker<T>);

    impl<T: Send + 'static> Taker<T> {
        /// The first of at most `at_most`.
        pub fn first(receiver: crate::channel::Receiver<T>, at_most: usize) -> Taker<T> {
            Taker(crate::channel::Taker::first(receiver, at_most, false))
        }

        /// The next item, and the takers hired for it.
        pub async fn take(&mut self) -> Option<(T, Vec<Taker<T>>)> {
            let here = std::panic::Location::caller();
            let item = std::future::poll_fn(|cx| self.0.poll_take(cx, here)).await?;
            Some((item, std::iter::from_fn(|| self.0.hire()).map(Taker).collect()))
        }

        /// Notes that this taker is about to wait while it holds an item.
        pub fn pauses(&mut self) {
            self.0.pauses();
        }
    }

    /// How many children a context's scope lists.
    pub fn children(ctx: &crate::Context) -> usize {
        ctx.children()
    }
}

// The guides compile, and so does the first screen of the README.
#[cfg(any(doc, all(doctest, feature = "tokio")))]
pub mod guide;
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
