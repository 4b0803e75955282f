//! *quell* puts an end to things, quietly and completely.
//!
//! A [`Context`] is what Go calls one: it carries cancellation, a deadline, the
//! reason for its end, and values, from whoever starts some work to whoever does
//! it. Contexts form a tree; ending one ends everything derived from it.
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
//! # Where to look
//!
//! | you want to | look at |
//! |---|---|
//! | derive a context | [`Context::with_cancel`], [`with_timeout`](Context::with_timeout), [`with_deadline`](Context::with_deadline), [`with_reserve`](Context::with_reserve), [`linked`](Context::linked), [`without_cancel`](Context::without_cancel) |
//! | end one, with a reason | [`Canceller`] |
//! | wait in a task | [`Context::run`], [`Context::done`] |
//! | wait on a thread | [`Context::wait`] |
//! | ask in a loop | [`Context::check`] |
//! | know why it ended | [`Context::cause`], [`Cause`] |
//! | carry values | [`Context::with_value`], [`Key`] |
//! | do something at the end | [`Context::after_func`] |
//! | see what is still alive | [`Context::tree`] |
//! | stop on Ctrl-C | [`signal::interrupt`] |
//! | come from Go | the guide `docs/from-go.md` |
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tokio` (default) | deadlines go by the clock of the tokio runtime they were made in, paused or not |
//! | `tokio-util` | [`Context::token`](Context#method.token) and [`Context::with_token`](Context#method.with_token), to and from `CancellationToken` |
//! | `tracing` | an event, target `quell`, level debug, when a context ends for a reason of its own |
//! | `full` | all of these |
//!
//! Without any of them contexts work on plain threads and under every executor.
//!
//! # The house
//!
//! | room | what lives there |
//! |---|---|
//! | `context` | the tree: everything above |
//! | [`rt`] | the runtime seam: whose clock it is, and who rings |
//! | `sync` | `std` or `loom`, and all the code that carries a proof because the compiler cannot check it |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod context;
pub mod rt;
mod sync;

#[cfg(not(loom))]
pub use context::Tree;
#[cfg(all(unix, not(loom)))]
pub use context::signal;
pub use context::{
    AfterFunc, BoxError, Cancelled, Canceller, Cause, Context, ContextError, Done, Key, Run,
};

/// The models reach the planted bugs; nobody else does.
#[cfg(loom)]
#[doc(hidden)]
pub mod planted {
    pub use crate::sync::planted::{Break, plant};

    /// Moves the models' clock by so many milliseconds, and rings what is due.
    pub fn advance(millis: usize) {
        crate::rt::by_hand::advance(millis);
    }

    /// Waits for what rings on a thread of its own: at the end of a model with a
    /// deadline.
    pub fn finish() {
        crate::rt::by_hand::finish();
    }

    /// How many children a context's scope lists.
    pub fn children(ctx: &crate::Context) -> usize {
        ctx.children()
    }
}

// The papers compile.
#[cfg(all(doctest, feature = "tokio"))]
mod papers {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/design.md")]
    struct Design;
    #[doc = include_str!("../docs/from-go.md")]
    struct FromGo;
}
