//! Contexts for HTTP: every request has one, and every call ends with one.
//!
//! A server on [hyper](https://docs.rs/hyper), layers for [tower](https://docs.rs/tower) and so for
//! [axum](https://docs.rs/axum), and a client. Needs the feature `http`;
//! [`guide::http`](crate::guide::http) is the guide.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use quell::Context;
//! use quell::http::{Ctx, LimitLayer, TimeoutLayer, serve};
//! use std::time::Duration;
//!
//! async fn report(Ctx(ctx): Ctx) -> String {
//!     match ctx.run(slow_query()).await {
//!         Ok(rows) => format!("{rows} rows\n"),
//!         Err(cancelled) => format!("gave up: {}\n", cancelled.cause()),
//!     }
//! }
//! # async fn slow_query() -> usize { 7 }
//!
//! # #[tokio::main] async fn main() -> std::io::Result<()> {
//! let (server, _stop) = quell::signal::interrupt(&Context::background());
//! let app = Router::new()
//!     .route("/report", get(report))
//!     .layer(TimeoutLayer::from_millis(500).answer_503())
//!     .layer(LimitLayer::new(64, 256));
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! serve(&server, listener, app).grace(Duration::from_secs(10)).await;
//! # Ok(()) }
//! ```
//!
//! | you want | take |
//! |---|---|
//! | a server that drains when its context ends | [`serve`](serve()) |
//! | a context for each request, under any server | [`ContextLayer`] |
//! | the context of a request | [`RequestExt::context`], or [`Ctx`] in a handler |
//! | to pass another one on from a middleware | [`RequestExt::with_context`] |
//! | to know why it ended | [`RequestEnd`] |
//! | a time limit | [`TimeoutLayer`] |
//! | a limit on how many run, and how many wait | [`LimitLayer`] |
//! | the caller's deadline and tracking id | [`PropagationLayer`] |
//! | to call another service | [`Client`] |
//! | … with your own client | [`propagate`], and [`Context::run`](crate::Context::run) |

// | file | what it is |
// |---|---|
// | `end` | why a request's context ended |
// | `guard` | ends it, with the right cause, wherever it is dropped |
// | `body` | a response's body that carries the guard to its last byte |
// | `request` | the context of a request, in middleware and in handlers |
// | `context`, `timeout`, `limit` | the middlewares: `layer`, `service`, `future` each |
// | `propagation` | what is passed from service to service: headers, the tracking id, a layer |
// | `client` | calls that end with their context |
// | `serve` | a server that ends with its context |
// | `trace` | the warnings of the `tracing` feature |

mod body;
mod client;
mod context;
mod end;
mod guard;
mod limit;
mod propagation;
mod request;
mod serve;
mod timeout;
mod trace;

pub use body::ContextBody;
pub use client::{CallBody, CallError, Client, Transport};
pub use context::{ContextFuture, ContextLayer, ContextService};
pub use end::RequestEnd;
pub use limit::{LimitFuture, LimitLayer, LimitService};
pub use propagation::{
    GRPC_TIMEOUT, InvalidHeader, PropagationLayer, PropagationService, TIMEOUT_MILLIS, TRACKING_ID,
    TrackingId, propagate,
};
pub use request::{Ctx, RequestExt};
pub use serve::{PeerAddress, Serve, Served, Serving, serve};
pub use timeout::{TimeoutFuture, TimeoutLayer, TimeoutService};

/// The header parsers, for fuzzing: not part of the public API.
#[doc(hidden)]
pub mod parse {
    pub use super::propagation::parse::{
        format_grpc_timeout, format_millis, grpc_timeout, millis, tracking_id,
    };
}
