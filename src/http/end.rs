//! Why the context of a request ended.

use crate::context::{Canceller, Cause, Context};
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Why the context of a request ended: its [`cause`](crate::Context::cause), unless other code
/// cancelled it first.
///
/// ```
/// use quell::Context;
/// use quell::http::RequestEnd;
///
/// # fn log(_: &str) {}
/// fn note(ctx: &Context) {
///     match RequestEnd::of(ctx) {
///         Some(RequestEnd::ClientGone) => log("nobody is waiting for this any more"),
///         Some(RequestEnd::ServerStopped(why)) => log(&format!("stopped: {why}")),
///         _ => {}
///     }
/// }
/// # note(&Context::background());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RequestEnd {
    /// The client no longer waits for the response: it closed the connection or reset the stream,
    /// before or during the answer.
    ///
    /// To be exact: the code that drove the response dropped it. Under hyper this means that the
    /// client is gone. A middleware outside the layer that gives up on a request looks the same, so
    /// make [`ContextLayer`](crate::http::ContextLayer) the outermost.
    ClientGone,
    /// The server's context ended, for this reason; under [`serve`](crate::http::serve()), the grace
    /// is over as well, or the future of `serve` was dropped.
    ServerStopped(Cause),
    /// The response is finished: its last byte was handed to the connection, or the handler or the
    /// body failed with an error.
    ResponseFinished,
    /// The handler, or the body of its response, panicked.
    Panicked,
    /// The request took longer than a [`TimeoutLayer`](crate::http::TimeoutLayer) allows.
    TimeLimit(Duration),
    /// The request took longer than its caller said, in a header, that it would wait.
    PeersDeadline(Duration),
}

impl RequestEnd {
    /// Returns why the request that `ctx` belongs to ended. `None` while it has not ended, and if
    /// `ctx` ended for a reason of its own.
    #[must_use]
    pub fn of(ctx: &Context) -> Option<RequestEnd> {
        ctx.cause()?.downcast_ref().cloned()
    }

    /// Ends a request's context for this. It began where the server was stopped, or out of sight.
    pub(super) fn ends(self, request: &Canceller) {
        let origin = match &self {
            RequestEnd::ServerStopped(why) => why.origin(),
            _ => None,
        };
        request.cancel_from(origin, self);
    }
}

impl fmt::Display for RequestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestEnd::ClientGone => f.write_str("the client went away"),
            RequestEnd::ServerStopped(why) => write!(f, "the server stopped: {why}"),
            RequestEnd::ResponseFinished => f.write_str("the response is finished"),
            RequestEnd::Panicked => f.write_str("the handler panicked"),
            RequestEnd::TimeLimit(limit) => {
                write!(f, "the request took longer than its limit of {limit:?}")
            }
            RequestEnd::PeersDeadline(left) => {
                write!(
                    f,
                    "the request took longer than the {left:?} that its caller was going to wait"
                )
            }
        }
    }
}

impl Error for RequestEnd {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RequestEnd::ServerStopped(why) => Some(why),
            _ => None,
        }
    }
}
