//! A request as it comes in, and what becomes of its body.
//!
//! When hyper loses the client in the middle of a request's body, it stops reading but goes on with
//! the handler, without telling it. So the body ends the context.
//!
//! Over HTTP/2 hyper takes a stream that was reset without an error for one that has come to its end,
//! and so it does when it has closed the connection of a client that answered no ping. The body knows
//! better.

use super::stream::Unread;
use crate::context::{BoxError, Canceller};
use crate::http::{RequestEnd, RequestExt};
use crate::rt::{self, Sleep};
use ::http::{Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use std::error::Error;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;
use tower_service::Service;

/// Passes requests on, with their bodies watched.
#[derive(Clone)]
pub(super) struct Arriving<S> {
    inner: S,
    body_limit: Option<Duration>,
    unread: Unread,
    made_at: &'static Location<'static>,
}

impl<S> Arriving<S> {
    pub(super) fn new(
        inner: S,
        body_limit: Option<Duration>,
        unread: Unread,
        made_at: &'static Location<'static>,
    ) -> Self {
        Arriving { inner, body_limit, unread, made_at }
    }
}

impl<S, R> Service<Request<Incoming>> for Arriving<S>
where
    S: Service<Request<axum_core::body::Body>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (connection, is_connect) = (self.unread.clone(), request.method() == Method::CONNECT);
        // There is another request, so the body of the one before has come to its end.
        self.unread.note_read();
        if request.body().is_end_stream() {
            let future = self.inner.call(request.map(|_| axum_core::body::Body::empty()));
            return Answering { future, connection, is_connect };
        }
        let (ctx, client_gone) = request.context().with_cancel_at(self.made_at);
        // Detached: the context ends with the request, not when the body has been read.
        client_gone.clone().detach();
        // Over HTTP/2 such a stream is reset, and the connection goes on.
        let tells_its_end = request.version() == Version::HTTP_2;
        let unread = (!tells_its_end).then(|| self.unread.clone());
        let limit = self.body_limit;
        let watch = |body| {
            let (waits, failed) = (None, false);
            Watched { body, client_gone, limit, waits, unread, tells_its_end, failed }
        };
        let request = request.with_context(ctx);
        let future = self.inner.call(request.map(|body| axum_core::body::Body::new(watch(body))));
        Answering { future, connection, is_connect }
    }
}

pin_project! {
    /// The future of an answer, which notes whether that hands the connection over to the handler.
    pub(super) struct Answering<F> {
        #[pin]
        future: F,
        connection: Unread,
        is_connect: bool,
    }
}

impl<F, R, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.future.poll(task));
        let hands_over = |status: StatusCode| {
            status == StatusCode::SWITCHING_PROTOCOLS || (*this.is_connect && status.is_success())
        };
        if answer.as_ref().is_ok_and(|response| hands_over(response.status())) {
            this.connection.note_handed_over();
        }
        Poll::Ready(answer)
    }
}

/// The body of a request, which ends the request's context when it breaks off.
struct Watched {
    body: Incoming,
    client_gone: Canceller,
    /// How long the client may let the handler wait.
    limit: Option<Duration>,
    /// `Some` while the handler waits.
    waits: Option<Pin<Box<Sleep>>>,
    /// `None` once its end has come.
    unread: Option<Unread>,
    /// Whether the body knows if it is whole.
    tells_its_end: bool,
    /// Whether it has given an error. It is over then: a handler that skips errors would otherwise
    /// be given the same one again and again, and never wait.
    failed: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(unread) = self.unread.take().filter(|_| !self.body.is_end_stream()) {
            unread.note_dropped();
        }
    }
}

impl Watched {
    /// Whether the handler has waited for too long.
    fn is_over(&mut self, task: &mut Task<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        for _ in 0..2 {
            let waits = self.waits.get_or_insert_with(|| Box::pin(rt::sleep(limit)));
            if waits.as_mut().poll_out_of_budget(task).is_pending() {
                return false;
            }
            // A handler that polls this late was not waiting but busy: it gets the time once more.
            let late = waits.until().map(|until| rt::now().saturating_duration_since(until));
            if late.is_none_or(|late| late < (limit / 8).clamp(LATE, 10 * LATE)) {
                return true;
            }
            self.waits = None;
        }
        true
    }
}

/// A handler that waits is polled sooner than this, unless the machine is overloaded.
const LATE: Duration = Duration::from_millis(100);

/// Whether a body broke off because its client sent something that is not HTTP.
fn is_malformed(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(|error| {
        let kind = error.downcast_ref().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
    })
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let error: BoxError = match Pin::new(&mut self.body).poll_frame(task) {
            Poll::Ready(Some(Err(error))) => error.into(),
            Poll::Ready(None) if self.tells_its_end && !self.body.is_end_stream() => {
                io::Error::new(io::ErrorKind::UnexpectedEof, "the client has given up the request")
                    .into()
            }
            Poll::Pending if self.is_over(task) => {
                io::Error::new(io::ErrorKind::TimedOut, "the client has stopped sending the body")
                    .into()
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => {
                self.waits = None;
                // Whoever has read trailers need not ask what comes after them.
                if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                    self.unread = None;
                }
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        };
        self.failed = true;
        if !is_malformed(&*error) {
            RequestEnd::ClientGone.ends(&self.client_gone);
        }
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
