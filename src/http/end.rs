//! Why the context of a request ended.

use crate::context::{Cause, Context};
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Why the context of a request ended: what its
/// [`cause`](crate::Context::cause) is, unless somebody's own cancel came first.
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
    /// Nobody waits for the response any more: the client has closed the
    /// connection or reset the stream, before or while it was answered.
    ///
    /// To be exact: whoever drove the response has dropped it. Under hyper
    /// that means the client. A middleware outside of the layer that gives up on a
    /// request looks the same, so let [`ContextLayer`](crate::http::ContextLayer)
    /// be the outermost.
    ClientGone,
    /// The server's context ended, for this reason. Under
    /// [`serve`](crate::http::serve()): and the grace is over.
    ServerStopped(Cause),
    /// The response is finished: its last byte is with the connection, or it
    /// failed by itself.
    ResponseFinished,
    /// The handler, or the body of its response, panicked.
    Panicked,
    /// It took longer than a [`TimeoutLayer`](crate::http::TimeoutLayer) allows.
    TimeLimit(Duration),
    /// The caller said, in a header, that it would not wait longer than this.
    PeersDeadline(Duration),
}

impl RequestEnd {
    /// Why the request that `ctx` belongs to ended. `None` while it has not, and
    /// where `ctx` ended for a reason of its own.
    #[must_use]
    pub fn of(ctx: &Context) -> Option<RequestEnd> {
        ctx.cause()?.downcast_ref().cloned()
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
                write!(f, "the request took longer than the {left:?} that its caller waits")
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
