//! Why a call failed, or was given up.

use super::shared::is_connect;
use crate::context::{BoxError, Cancelled};
use ::http::{Method, Uri};
use std::error::Error;
use std::fmt;
use std::iter::successors;

/// The error of a call to another service that failed or was given up.
///
/// It names the call, without what follows the path, which may be secret.
/// [`cancelled`](CallError::cancelled) tells a call that was given up from one that failed, and
/// [`is_connect`](CallError::is_connect) one for which there was no connection.
///
/// ```
/// use quell::Context;
/// use quell::http::Client;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (ctx, canceller) = Context::background().with_cancel();
/// canceller.cancel_with("bad status");
/// let error = Client::new().get(&ctx, "http://localhost/delay/1").await.unwrap_err();
/// assert_eq!(error.to_string(), "GET http://localhost/delay/1: context canceled");
/// assert_eq!(error.cancelled().unwrap().cause().to_string(), "bad status");
/// # }
/// ```
#[derive(Debug)]
pub struct CallError {
    call: CallName,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Cancelled(Cancelled),
    Failed(BoxError),
    TooLong(usize),
    NotText,
}

/// The method and the address of a call.
#[derive(Clone, Debug)]
pub(super) struct CallName {
    method: Method,
    place: Box<str>,
}

impl CallName {
    pub(super) fn new(method: &Method, uri: &Uri) -> Self {
        let mut place = String::new();
        if let Some(scheme) = uri.scheme_str() {
            place = place + scheme + "://";
        }
        if let Some(authority) = uri.authority() {
            // Without user and password.
            let whole = authority.as_str();
            place += whole.rsplit_once('@').map_or(whole, |(_, host)| host);
        }
        CallName { method: method.clone(), place: (place + uri.path()).into() }
    }

    /// For a call whose address could not be parsed.
    pub(super) fn unreadable(method: &Method) -> Self {
        CallName { method: method.clone(), place: "(not an address like http://host/path)".into() }
    }
}

impl CallError {
    pub(super) fn gave_up(call: CallName, cancelled: Cancelled) -> Self {
        CallError { call, why: Why::Cancelled(cancelled) }
    }

    pub(super) fn failed(call: CallName, error: impl Into<BoxError>) -> Self {
        let error = error.into();
        // An error of the request's body comes back wrapped.
        let outermost: &(dyn Error + 'static) = &*error;
        let mut all = successors(Some(outermost), |&error| error.source());
        match all.find_map(|error| error.downcast_ref::<Cancelled>()).cloned() {
            Some(cancelled) => CallError::gave_up(call, cancelled),
            None => CallError { call, why: Why::Failed(error) },
        }
    }

    pub(super) fn too_long(call: CallName, limit: usize) -> Self {
        CallError { call, why: Why::TooLong(limit) }
    }

    pub(super) fn not_text(call: CallName) -> Self {
        CallError { call, why: Why::NotText }
    }

    /// Returns the end of the context, if that is why the call ended.
    pub fn cancelled(&self) -> Option<&Cancelled> {
        match &self.why {
            Why::Cancelled(cancelled) => Some(cancelled),
            _ => None,
        }
    }

    /// Whether no connection could be made, so that nothing of the request was sent: it may be
    /// sent again whatever its method.
    pub fn is_connect(&self) -> bool {
        matches!(&self.why, Why::Failed(error) if is_connect(&**error))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.call.method, self.call.place)?;
        match &self.why {
            Why::Cancelled(cancelled) => cancelled.fmt(f),
            Why::Failed(error) => {
                error.fmt(f)?;
                // Hyper's outermost error does not say what went wrong.
                let mut sources = successors(error.source(), |&error| error.source());
                sources.try_for_each(|source| write!(f, ": {source}"))
            }
            Why::TooLong(limit) => write!(
                f,
                "the body is longer than {limit} bytes: allow more, or read it frame by frame"
            ),
            Why::NotText => f.write_str("the body is not UTF-8: use bytes()"),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.why {
            Why::Cancelled(cancelled) => Some(cancelled),
            Why::Failed(error) => Some(&**error),
            Why::TooLong(_) | Why::NotText => None,
        }
    }
}
