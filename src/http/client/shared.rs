//! Calls that wait for a connection that another call is making, as HTTP/2 calls do.
//!
//! When that call is given up or fails, the pool gives up all calls that wait for it, and does not
//! say which it was. Nothing of theirs was sent. If the connecting call was given up, they try
//! again, for they had no part in that; if it failed, they fail with it.
//!
//! # Invariants
//!
//! 1. A body that is left has not been read from. The first reader takes it, and from then on the
//!    call is not tried again.
//! 2. No user code runs under the lock, except a body's own `size_hint` and `is_end_stream`.

use super::call::Body;
use crate::context::BoxError;
use crate::sync::{Arc, Mutex};
use ::http::uri::Authority;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

/// Sends a request by `send`, as often as that waits in vain for a call that was given up.
pub(super) async fn send<F>(
    request: Request<Body>,
    failures: &Failures,
    send: impl Fn(Request<Body>) -> F,
) -> Result<Response<Incoming>, BoxError>
where
    F: Future<Output = Result<Response<Incoming>, legacy::Error>>,
{
    let (parts, body) = request.into_parts();
    let before = failures.count();
    let left = Unread(Arc::new(Mutex::new(Some(body))));
    loop {
        let body = Body::new(LentBody { left: left.clone(), taken: None });
        match send(Request::from_parts(parts.clone(), body)).await {
            Err(error) if left.is_there() && waited_in_vain(&error) => {
                // If nothing listens there, all calls fail at once, not one after the other.
                if let Some(why) = failures.since(before, parts.uri.authority()) {
                    return Err(why.into());
                }
            }
            answer => return Ok(answer?),
        }
    }
}

/// The pool has no type for this error; a test notices if the message changes.
fn waited_in_vain(error: &legacy::Error) -> bool {
    error.is_connect()
        && error.source().is_some_and(|why| why.to_string() == "request was canceled")
}

/// The servers that could not be connected to, and why the last attempt failed.
#[derive(Clone)]
pub(super) struct Failures(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    /// How many failures there have been.
    count: u64,
    /// The last failure, with its number, of each server that has not been reached since.
    last: HashMap<Authority, (u64, NotConnected)>,
}

/// How many are kept. A call that waits for one that is forgotten tries once more.
const MAX_FAILURES: usize = 64;

impl Failures {
    /// No failures yet.
    pub(super) fn new() -> Self {
        Failures(Arc::new(Mutex::new(Noted::default())))
    }

    fn count(&self) -> u64 {
        self.0.lock().count
    }

    fn since(&self, before: u64, server: Option<&Authority>) -> Option<NotConnected> {
        let noted = self.0.lock();
        let (_, why) = noted.last.get(server?).filter(|(number, _)| *number > before)?;
        Some(why.clone())
    }

    /// Records the outcome of connecting.
    pub(super) fn note<T>(
        &self,
        server: Option<Authority>,
        outcome: Result<T, BoxError>,
    ) -> Result<T, BoxError> {
        let why = outcome.map_err(|error| NotConnected(error.into()));
        if let Some(server) = server {
            let mut noted = self.0.lock();
            let gone = match &why {
                Ok(_) => noted.last.remove(&server),
                Err(why) => {
                    if noted.last.len() >= MAX_FAILURES {
                        noted.last.clear();
                    }
                    noted.count += 1;
                    let number = noted.count;
                    noted.last.insert(server, (number, why.clone()))
                }
            };
            drop(noted);
            drop(gone);
        }
        Ok(why?)
    }
}

/// Why connecting failed, for all calls that waited.
#[derive(Clone, Debug)]
struct NotConnected(std::sync::Arc<dyn Error + Send + Sync>);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for NotConnected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// A body, until some of it is asked for.
#[derive(Clone)]
struct Unread(Arc<Mutex<Option<Body>>>);

impl Unread {
    fn is_there(&self) -> bool {
        self.look(|body| body.is_some())
    }

    fn look<R>(&self, look: impl FnOnce(&mut Option<Body>) -> R) -> R {
        look(&mut self.0.lock())
    }
}

struct LentBody {
    left: Unread,
    taken: Option<Body>,
}

impl http_body::Body for LentBody {
    type Data = Bytes;
    type Error = axum_core::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum_core::Error>>> {
        if self.taken.is_none() {
            self.taken = self.left.look(Option::take);
        }
        match &mut self.taken {
            Some(body) => Pin::new(body).poll_frame(task),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.taken {
            Some(body) => body.is_end_stream(),
            None => self.left.look(|left| left.as_ref().is_none_or(Body::is_end_stream)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.taken {
            Some(body) => body.size_hint(),
            None => {
                self.left.look(|left| left.as_ref().map_or_else(SizeHint::default, Body::size_hint))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn told(failures: &Failures, before: u64, server: &str) -> Option<io::ErrorKind> {
        let server = server.parse().expect("a server");
        let why = failures.since(before, Some(&server))?;
        why.0.downcast_ref::<io::Error>().map(io::Error::kind)
    }

    #[test]
    fn who_waits_is_told_of_what_failed_meanwhile_at_the_same_server_and_of_nothing_else() {
        let failures = Failures::new();
        let note = |server: &str, outcome: Result<(), io::ErrorKind>| {
            let outcome = outcome.map_err(|kind| io::Error::from(kind).into());
            drop(failures.note(server.parse().ok(), outcome));
        };
        note("one:80", Err(io::ErrorKind::ConnectionReset));
        let before = failures.count();
        assert_eq!(told(&failures, before, "one:80"), None, "that was before");
        note("one:80", Err(io::ErrorKind::ConnectionRefused));
        assert_eq!(told(&failures, before, "one:80"), Some(io::ErrorKind::ConnectionRefused));
        assert_eq!(told(&failures, before, "two:80"), None);
        note("one:80", Ok(()));
        assert_eq!(told(&failures, before, "one:80"), None, "it has been reached since");
        (0..1_000).for_each(|n| note(&format!("{n}:80"), Err(io::ErrorKind::TimedOut)));
        assert!(failures.0.lock().last.len() <= MAX_FAILURES);
        assert_eq!(told(&failures, before, "999:80"), Some(io::ErrorKind::TimedOut));
    }
}
