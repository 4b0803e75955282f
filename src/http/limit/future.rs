//! The future of a request that needs a place.

use super::places::Places;
use crate::context::Cancelled;
use crate::http::body::{ContextBody, Hold, unavailable};
use ::http::{Method, Request, Response, header};
use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use tower_service::Service;

pin_project! {
    /// The future of [`LimitService`](crate::http::LimitService).
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place, or leaves the queue.
    #[must_use = "futures do nothing unless polled"]
    pub struct LimitFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        // `Over` once it has answered.
        #[pin]
        state: State<S, S::Future, B>,
        retry_after: u64,
    }
}

type Seat = Pin<Box<dyn Future<Output = Result<Places, Cancelled>> + Send>>;

pin_project! {
    #[project = StateNow]
    enum State<S, F, B> {
        Refused { method: Method },
        Waiting { seat: Seat, turn: Option<(S, Request<B>)> },
        // The place comes last, so that it is free only when nothing of the request is left.
        Running { #[pin] future: F, method: Method, places: Option<Places> },
        Over,
    }
}

impl<S: Service<Request<B>>, B> LimitFuture<S, B> {
    pub(super) fn refused(method: Method, retry_after: u64) -> Self {
        LimitFuture { state: State::Refused { method }, retry_after }
    }

    pub(super) fn waiting(seat: Seat, inner: S, request: Request<B>, retry_after: u64) -> Self {
        LimitFuture { state: State::Waiting { seat, turn: Some((inner, request)) }, retry_after }
    }

    pub(super) fn running(
        places: Places,
        method: Method,
        future: S::Future,
        retry_after: u64,
    ) -> Self {
        let places = Some(places);
        LimitFuture { state: State::Running { future, method, places }, retry_after }
    }
}

impl<S, B, R> Future for LimitFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ContextBody<R>>, S::Error>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            match this.state.as_mut().project() {
                StateNow::Refused { method } => {
                    let why = "too many requests are waiting".into();
                    break Ok(refuse(method, why, *this.retry_after));
                }
                StateNow::Waiting { seat, turn } => {
                    let places = ready!(seat.as_mut().poll(task));
                    let (mut inner, request) = turn.take().expect("nobody has taken its turn");
                    let method = request.method().clone();
                    match places {
                        Ok(places) => {
                            let future = inner.call(request);
                            let places = Some(places);
                            this.state.set(State::Running { future, method, places });
                        }
                        Err(cancelled) => {
                            let why = cancelled.cause();
                            let why = format!("the request waited for its turn: {why}");
                            break Ok(refuse(&method, why, *this.retry_after));
                        }
                    }
                }
                StateNow::Running { future, method, places } => {
                    let answer = Hold::Nothing.passes_to_body(method, ready!(future.poll(task)));
                    break answer.map(|response| response.map(|body| body.keeping(places.take())));
                }
                StateNow::Over => panic!("`LimitFuture` polled after it was ready"),
            }
        };
        this.state.set(State::Over);
        Poll::Ready(result)
    }
}

fn refuse<R>(method: &Method, why: String, retry_after: u64) -> Response<ContextBody<R>> {
    let mut response = unavailable(method, why + "\n");
    response.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
    response
}

impl<S: Service<Request<B>>, B> fmt::Debug for LimitFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused { .. } => "refused",
            State::Waiting { .. } => "waiting",
            State::Running { .. } => "running",
            State::Over => "over",
        };
        f.debug_struct("LimitFuture").field("state", &format_args!("{state}")).finish()
    }
}
