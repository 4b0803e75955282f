//! A request and its response over HTTP/2, by hyper.
//!
//! # Invariants
//!
//! 1. Why a connection has failed is known before any request is told that it is
//!    canceled because of that: the driver leaves it, and drops the connection then.

#![allow(clippy::disallowed_types, reason = "no model has sockets")]

use super::ErrorKind;
use super::connect::Stream;
use super::h1::{Answer, Failure};
use super::job::Job;
use crate::rt;
use ::http::Request;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context as Task, Poll};
use tokio::sync::oneshot;

/// A connection, and the task that drives it, which ends with it.
pub(super) struct Connection {
    sender: SendRequest<Upload>,
    driver: rt::JoinHandle<()>,
    /// Why it is of no more use, if something went wrong.
    failed: Arc<OnceLock<ErrorKind>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(stream: Stream) -> Result<Connection, ErrorKind> {
        let agreed = Builder::new(Tasks).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = agreed.map_err(|error| kind(&error))?;
        let failed = Arc::new(OnceLock::new());
        let leaves = Arc::clone(&failed);
        let driver = rt::spawn(async move {
            let mut connection = pin!(connection);
            if let Err(error) = connection.as_mut().await {
                // Invariant 1: it is dropped at the end of this block.
                let _ = leaves.set(kind(&error));
            }
        });
        Ok(Connection { sender, driver, failed })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(super) async fn exchange(&mut self, job: &Job) -> Result<Answer, Failure> {
        let parts = job.parts.as_deref().expect("asked for HTTP/2").clone();
        let (body, sent) = Upload::of(job.body.clone());
        let failed = Arc::clone(&self.failed);
        let not_answered = |error: hyper::Error| {
            // As over HTTP/1.1: nothing of a response has come, and the connection is no more.
            let untouched = was_not_taken(&error) || !said(&error, "stream error");
            // Invariant 1: what became of the connection says more than that it is no more.
            let gone = error.is_canceled() || error.is_closed();
            let why = if gone { failed.get().copied() } else { None };
            Failure { kind: why.unwrap_or_else(|| kind(&error)), untouched }
        };
        self.sender.ready().await.map_err(&not_answered)?;
        let response = self.sender.send_request(Request::from_parts(parts, body)).await;
        let (head, mut body) = response.map_err(&not_answered)?.into_parts();
        let mut bytes = 0;
        while let Some(frame) = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
            let frame = frame.map_err(|error| Failure { kind: kind(&error), untouched: false })?;
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        // As over HTTP/1.1: a server that takes the request takes all of it. Nothing is ever
        // sent; that the other end is dropped is the answer.
        if head.status.as_u16() < 400 {
            let _ = sent.await;
        }
        Ok(Answer { status: head.status.as_u16(), bytes, keep: true })
    }
}

/// What an error of hyper's comes from.
fn kind(error: &hyper::Error) -> ErrorKind {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return ErrorKind::of_io(error);
        }
        cause = error.source();
    }
    let closed = error.is_closed() || error.is_canceled() || error.is_incomplete_message();
    if closed || said(error, GOODBYE) {
        ErrorKind::Closed
    } else if said(error, "stream error") {
        ErrorKind::Reset
    } else {
        ErrorKind::Protocol
    }
}

/// Whether the server has certainly not looked at the request: it was not sent, or was
/// refused, or came after the last that the server takes.
fn was_not_taken(error: &hyper::Error) -> bool {
    let unsent = error.is_canceled() || error.is_closed();
    unsent || said(error, REFUSED) || said(error, GOODBYE)
}

const REFUSED: &str = "stream error received: refused stream";
const GOODBYE: &str = "connection error received: not a result of an error";

/// Whether one of its sources says this.
fn said(error: &hyper::Error, words: &str) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.to_string().starts_with(words) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Spawns where everything else is spawned.
#[derive(Clone)]
struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(rt::spawn(future));
    }
}

/// A body of one piece, or of none.
struct Upload(Option<Piece>);

/// What is to be sent. It is dropped when its last byte has been written, or when nobody wants
/// more of it; that is heard by who holds the other end of the channel.
struct Piece {
    bytes: Bytes,
    _tells: oneshot::Sender<()>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Upload {
    /// Of nothing there is nothing to wait for.
    fn of(bytes: Bytes) -> (Upload, oneshot::Receiver<()>) {
        let (tells, told) = oneshot::channel();
        let piece = Piece { bytes, _tells: tells };
        (Upload(Some(piece).filter(|piece| piece.has_remaining())), told)
    }
}

impl Body for Upload {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        Poll::Ready(self.0.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |piece| piece.remaining() as u64))
    }
}
