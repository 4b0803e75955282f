//! The bodies of answers and of requests, both of which end with the context.

use super::CallError;
use super::error::CallName;
use crate::context::{BoxError, Cancelled, Context, Done};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll, ready};

pin_project! {
    /// The body of an answer. It ends with the context of the call: then reading it fails with a
    /// [`CallError`], and the connection is closed.
    ///
    /// The end of the context is noticed when this is polled or dropped. Read the body to its end
    /// so that the connection can be used again.
    pub struct CallBody<B = Incoming> {
        call: CallName,
        #[pin]
        body: CancelBody<B>,
    }
}

impl<B> CallBody<B> {
    /// `tells_its_end` says whether the body knows if it is whole.
    pub(super) fn new(call: CallName, ctx: &Context, body: B, tells_its_end: bool) -> Self
    where
        B: Body,
    {
        CallBody { call, body: CancelBody { tells_its_end, ..CancelBody::new(ctx, body) } }
    }
}

impl<B> CallBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Reads the whole body, of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When the context ends, reading fails, or the body is longer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; what was read is lost.
    pub async fn bytes(self, limit: usize) -> Result<Bytes, CallError> {
        use bytes::Buf;
        let call = self.call.clone();
        let mut body = pin!(self);
        if body.size_hint().lower() > limit as u64 {
            return Err(CallError::too_long(call, limit));
        }
        let mut all = BytesMut::new();
        while let Some(frame) = poll_fn(|task| body.as_mut().poll_frame(task)).await {
            let Ok(mut data) = frame?.into_data() else { continue };
            if data.remaining() > limit - all.len() {
                return Err(CallError::too_long(call, limit));
            }
            while data.has_remaining() {
                let chunk = data.chunk();
                all.extend_from_slice(chunk);
                let length = chunk.len();
                data.advance(length);
            }
        }
        Ok(all.freeze())
    }

    /// Reads the whole body as text, of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// As [`bytes`](CallBody::bytes), and when it is not UTF-8.
    ///
    /// # Cancel safety
    ///
    /// As [`bytes`](CallBody::bytes).
    pub async fn text(self, limit: usize) -> Result<String, CallError> {
        let call = self.call.clone();
        let bytes = self.bytes(limit).await?;
        String::from_utf8(bytes.into()).map_err(|_| CallError::not_text(call))
    }
}

impl<B> Body for CallBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = CallError;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, CallError>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(task));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| match error {
                Stopped::Cancelled(cancelled) => CallError::gave_up(this.call.clone(), cancelled),
                Stopped::Failed(error) => CallError::failed(this.call.clone(), error),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for CallBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBody").field("call", &self.call).finish_non_exhaustive()
    }
}

pin_project! {
    /// A body that ends with a context.
    pub(super) struct CancelBody<B> {
        // `None` once the end of the context no longer matters.
        told: Option<Done>,
        // Whether the body knows if it is whole. Over HTTP/2 hyper takes a stream that was reset
        // without an error for one that has come to its end.
        tells_its_end: bool,
        #[pin]
        body: Option<B>,
    }
}

const BROKE_OFF: &str = "the server has broken off the answer";

pub(super) enum Stopped {
    Cancelled(Cancelled),
    Failed(BoxError),
}

impl From<Stopped> for BoxError {
    fn from(stopped: Stopped) -> BoxError {
        match stopped {
            Stopped::Cancelled(cancelled) => cancelled.into(),
            Stopped::Failed(error) => error,
        }
    }
}

impl<B: Body> CancelBody<B> {
    pub(super) fn new(ctx: &Context, body: B) -> Self {
        let told = (!body.is_end_stream()).then(|| ctx.done());
        CancelBody { told, tells_its_end: false, body: Some(body) }
    }
}

impl<B> Body for CancelBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = Stopped;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Stopped>>> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let told = this.told.as_mut();
        let ended = told.as_ref().and_then(|told| told.context().check().err());
        let end = match ended {
            Some(cancelled) => Some(Err(Stopped::Cancelled(cancelled))),
            None => match body.as_mut().poll_frame(task) {
                Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
                Poll::Ready(Some(Err(error))) => Some(Err(Stopped::Failed(error.into()))),
                Poll::Ready(None) if *this.tells_its_end && !body.is_end_stream() => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, BROKE_OFF);
                    Some(Err(Stopped::Failed(error.into())))
                }
                Poll::Ready(None) => None,
                Poll::Pending => {
                    let Some(told) = told else { return Poll::Pending };
                    ready!(Pin::new(&mut *told).poll(task));
                    let ended = told.context().check();
                    Some(Err(Stopped::Cancelled(ended.expect_err("an end does not go away"))))
                }
            },
        };
        *this.told = None;
        this.body.set(None);
        Poll::Ready(end)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}
