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
            Ok(answer) => return Ok(answer),
            // The call that connected is told what those are told that waited for it.
            Err(error) => {
                let why =
                    error.source().and_then(|why| why.downcast_ref::<NotConnected>()).cloned();
                return Err(why.map_or_else(|| error.into(), Into::into));
            }
        }
    }
}

/// Whether a call failed with this because there was no connection to be had.
pub(super) fn is_connect(error: &(dyn Error + 'static)) -> bool {
    error.is::<NotConnected>()
        || error.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect)
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
            let mut all = HashMap::new();
            let gone = match &why {
                Ok(_) => noted.last.remove(&server),
                Err(why) => {
                    if noted.last.len() >= MAX_FAILURES && !noted.last.contains_key(&server) {
                        all = std::mem::take(&mut noted.last);
                    }
                    noted.count += 1;
                    let number = noted.count;
                    noted.last.insert(server, (number, why.clone()))
                }
            };
            drop(noted);
            drop((all, gone));
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
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpStream;

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

    /// A server where nothing listens, which it takes a while to find out.
    #[derive(Clone)]
    struct Nowhere {
        attempts: std::sync::Arc<AtomicUsize>,
        failures: Failures,
    }

    impl tower_service::Service<::http::Uri> for Nowhere {
        type Response = TokioIo<TcpStream>;
        type Error = BoxError;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

        fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, uri: ::http::Uri) -> Self::Future {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let failures = self.failures.clone();
            Box::pin(async move {
                crate::rt::sleep(std::time::Duration::from_millis(10)).await;
                let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
                failures.note(uri.authority().cloned(), Err(refused.into()))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_to_connect_is_made_for_all_calls_that_wait_for_it() {
        let failures = Failures::new();
        let nowhere = Nowhere { attempts: Default::default(), failures: failures.clone() };
        let attempts = nowhere.attempts.clone();
        let pool = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build(nowhere);
        let calls = (0..5).map(|_| {
            let request = Request::get("http://nowhere/").body(Body::empty()).expect("a request");
            send(request, &failures, |request| pool.request(request))
        });
        for answer in futures::future::join_all(calls).await {
            let error = answer.expect_err("nothing listens there");
            assert!(is_connect(&*error) && error.is::<NotConnected>(), "{error:?}");
        }
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_server_that_fails_again_lets_no_other_be_forgotten() {
        let failures = Failures::new();
        let fails = |server: &str| {
            let outcome: Result<(), BoxError> =
                Err(io::Error::from(io::ErrorKind::TimedOut).into());
            drop(failures.note(server.parse().ok(), outcome));
        };
        (0..MAX_FAILURES).for_each(|n| fails(&format!("{n}:80")));
        fails("0:80");
        assert_eq!(failures.0.lock().last.len(), MAX_FAILURES);
    }
}
