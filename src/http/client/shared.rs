//! Calls that wait for a connection which another call makes, as those of HTTP/2 do.
//!
//! Where that one is given up, or fails, the pool gives up all who wait as well, though they had no
//! part in it. Nothing of theirs was sent, so they try again.
//!
//! # Invariants
//!
//! 1. A body that is left has been asked for nothing, not even whether it has begun. Whoever asks
//!    takes it, and then the call is not tried again.
//! 2. Nobody's code runs under the lock but how long a body says it is.

use super::call::Body;
use crate::context::BoxError;
use crate::sync::{Arc, Mutex};
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;
use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

/// Sends a request by `send`, as often as that waits for another in vain.
pub(super) async fn send<F>(
    request: Request<Body>,
    send: impl Fn(Request<Body>) -> F,
) -> Result<Response<Incoming>, BoxError>
where
    F: Future<Output = Result<Response<Incoming>, Error>>,
{
    let (parts, body) = request.into_parts();
    let left = Left(Arc::new(Mutex::new(Some(body))));
    loop {
        let body = Body::new(Lent { left: left.clone(), taken: None });
        match send(Request::from_parts(parts.clone(), body)).await {
            Err(error) if left.is_there() && waited_in_vain(&error) => {}
            answer => return Ok(answer?),
        }
    }
}

/// The pool has no name for it; a test knows when it says so otherwise.
fn waited_in_vain(error: &Error) -> bool {
    error.is_connect()
        && error.source().is_some_and(|why| why.to_string() == "request was canceled")
}

/// A body, until somebody asks for some of it.
#[derive(Clone)]
struct Left(Arc<Mutex<Option<Body>>>);

impl Left {
    fn is_there(&self) -> bool {
        self.look(|body| body.is_some())
    }

    fn look<R>(&self, look: impl FnOnce(&mut Option<Body>) -> R) -> R {
        look(&mut self.0.lock())
    }
}

struct Lent {
    left: Left,
    taken: Option<Body>,
}

impl http_body::Body for Lent {
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
