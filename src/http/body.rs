//! The body of a response, which keeps what the request holds until the last byte.
//!
//! A body that is not polled to its end is not necessarily unfinished: a server stops when all
//! announced bytes are sent, when the body says that it is at its end, after trailers, and at once if
//! the response must not have a body.

use super::guard::Guard;
use super::limit::Places;
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

/// What ends a request's context when its response is finished, if the layer gave it one.
#[derive(Debug)]
pub(super) enum Hold {
    Nothing,
    Guard(Guard),
}

impl Hold {
    /// Runs the handler's code. If that panics, the guard knows.
    pub(super) fn during<R>(&mut self, handlers: impl FnOnce() -> R) -> R {
        match self {
            Hold::Guard(guard) => guard.during(handlers),
            Hold::Nothing => handlers(),
        }
    }

    fn complete(&mut self) {
        if let Hold::Guard(guard) = self {
            guard.complete();
        }
    }

    /// Lets go of everything: the response is finished.
    pub(super) fn finish(&mut self) {
        self.complete();
        *self = Hold::Nothing;
    }

    /// Moves into the body of the response; if there is none, the request is over.
    pub(super) fn passes_to_body<R: Body<Data = Bytes>, E>(
        &mut self,
        method: &Method,
        result: Result<Response<R>, E>,
    ) -> Result<Response<ContextBody<R>>, E> {
        match result {
            Ok(response) => {
                let left = announced(method, response.status(), response.headers());
                let hold = std::mem::replace(self, Hold::Nothing);
                Ok(response.map(|body| ContextBody::new(hold, body, left)))
            }
            Err(error) => {
                self.finish();
                Err(error)
            }
        }
    }
}

pin_project! {
    /// The body of a response that went through one of the layers of this module. When it has been
    /// read to its end or is dropped, the request's context ends, and its place becomes free.
    pub struct ContextBody<B> {
        // First, so that it is dropped first.
        hold: Hold,
        // Announced bytes that are still to come, if known.
        left: Option<u64>,
        text: Option<Bytes>,
        // `None` once it is at its end.
        #[pin]
        body: Option<B>,
        // Last, so that the place is free only when nothing of the request is left.
        places: Option<Places>,
    }
}

impl<B: Body> ContextBody<B> {
    fn new(mut hold: Hold, body: B, left: Option<u64>) -> Self {
        let left = left.or(body.size_hint().exact());
        if left == Some(0) || body.is_end_stream() {
            hold.complete();
        }
        ContextBody { hold, left, text: None, body: Some(body), places: None }
    }
}

impl<B> ContextBody<B> {
    /// The same body, which keeps the request's place.
    pub(super) fn keeping(self, places: Option<Places>) -> Self {
        ContextBody { places, ..self }
    }
}

/// The answer that a layer gives itself, in place of the handler's.
pub(super) fn unavailable<B>(method: &Method, why: String) -> Response<ContextBody<B>> {
    // To `HEAD` no body may be sent, and over HTTP/2 hyper does not leave it out.
    let (head_only, length) = (*method == Method::HEAD, why.len());
    let text = (!head_only).then(|| why.into());
    let body = ContextBody { hold: Hold::Nothing, left: None, text, body: None, places: None };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    if head_only {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// How many bytes the headers of a response announce; zero if it cannot have a body, whatever they
/// say.
fn announced(method: &Method, status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let no_body = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if *method == Method::HEAD || no_body {
        return Some(0);
    }
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<B: Body<Data = Bytes>> Body for ContextBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        if let Some(text) = this.text.take() {
            return Poll::Ready(Some(Ok(Frame::data(text))));
        }
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let (frame, at_end) =
            this.hold.during(|| (body.as_mut().poll_frame(task), body.is_end_stream()));
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (this.left.as_mut(), frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                if at_end || *this.left == Some(0) || frame.is_trailers() {
                    this.hold.complete();
                }
            }
            Some(Err(_)) | None => {
                this.hold.finish();
                this.body.set(None);
                *this.places = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_none() && self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.text, &self.body) {
            (Some(text), _) => SizeHint::with_exact(text.len() as u64),
            (None, Some(body)) => body.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for ContextBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBody")
            .field("holds", &self.hold)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}
