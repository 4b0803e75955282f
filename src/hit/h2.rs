//! A request and its response over HTTP/2, through hyper.
//!
//! # Invariants
//!
//! 1. The reason for a connection's failure is known before any request is told that it is canceled
//!    because of it: the driver records the reason, and drops the connection after that.
//! 2. A request on its way to a driver that ends is told so. One that was sent just as the driver
//!    dropped its end of their channel stays in the channel, unseen, for as long as there is a
//!    sender: so the sender is dropped once the driver has ended.
//! 3. hyper closes a connection when none of its streams has anything to send. A stream that was
//!    answered, and whose server takes no more of the request, is not reset and has something to
//!    send for ever. So a connection that is dropped in the middle of a request aborts the task
//!    that holds the socket: the first one that hyper spawns. One that is dropped after a request
//!    is left to close itself, so that what was sent arrives.

use super::ErrorKind;
use super::connect::Stream;
use super::h1::{Answer, Failure, Progress};
use super::job::Job;
use crate::rt;
use crate::sync::{Arc, Latch};
use ::h2::Reason;
use ::http::Request;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::iter::successors;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};
use tokio::sync::oneshot;

/// A connection, and the task that drives it, which ends with it.
pub(super) struct Connection {
    /// `None` once the driver has ended. Invariant 2.
    sender: Option<SendRequest<Upload>>,
    driver: rt::JoinHandle<()>,
    tasks: Tasks,
    /// Whether there is a request that has not ended. Invariant 3.
    in_request: bool,
    /// Why it is unusable, if something went wrong.
    failed: Arc<Latch<ErrorKind>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
        if let Some(socket) = self.tasks.0.get().filter(|_| self.in_request) {
            socket.abort();
        }
    }
}

impl Connection {
    pub(super) async fn open(stream: Stream) -> Result<Connection, ErrorKind> {
        let tasks = Tasks(Arc::new(Latch::new()));
        let agreed = Builder::new(tasks.clone()).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = agreed.map_err(|error| kind(&error))?;
        let failed = Arc::new(Latch::new());
        let leaves = Arc::clone(&failed);
        let driver = rt::spawn(async move {
            let mut connection = pin!(connection);
            if let Err(error) = connection.as_mut().await {
                // Invariant 1: the connection is dropped at the end of this block.
                let _ = leaves.set(kind(&error));
            }
        });
        Ok(Connection { sender: Some(sender), driver, tasks, in_request: false, failed })
    }

    pub(super) fn is_open(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    pub(super) async fn exchange(&mut self, job: &Job) -> Result<Answer, Failure> {
        let closed = Failure { kind: ErrorKind::Closed, taken: Progress::No };
        let sender = self.sender.as_mut().ok_or(closed)?;
        let parts = job.parts.as_deref().expect("asked for HTTP/2").clone();
        self.in_request = true;
        let (body, mut sent) = Upload::of(job.body.clone());
        let response = sender.send_request(Request::from_parts(parts, body));
        let response = self.answered(response).await.map_err(|error| {
            // Invariant 1: the reason for the failure says more than that the connection is gone.
            let why = if error.is_canceled() { self.failed.get().copied() } else { None };
            Failure { kind: why.unwrap_or_else(|| kind(&error)), taken: taken(&error) }
        });
        let (head, mut body) = response?.into_parts();
        let mut bytes = 0;
        while let Some(frame) = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
            let failed = |error| Failure { kind: kind(&error), taken: Progress::Yes };
            bytes += frame.map_err(failed)?.data_ref().map_or(0, |data| data.len() as u64);
        }
        // Hyper takes a stream that was reset without an error for one that has come to its end.
        if !body.is_end_stream() {
            return Err(Failure { kind: ErrorKind::Reset, taken: Progress::Yes });
        }
        // Nothing is ever sent over it; the drop of its other end is the answer. As over HTTP/1.1,
        // a server that takes the request takes all of it. If it refuses the request, a connection
        // that still has a part of it to send is not kept: streams like that would become more and
        // more, until there is room for none.
        let status = head.status.as_u16();
        let gone = if status < 400 {
            let _ = sent.await;
            true
        } else {
            sent.try_recv() != Err(oneshot::error::TryRecvError::Empty)
        };
        self.in_request = !gone;
        Ok(Answer { status, bytes, keep: gone })
    }

    /// Awaits the response, and drops the sender if the driver ends meanwhile.
    async fn answered<F: Future>(&mut self, response: F) -> F::Output {
        let mut response = pin!(response);
        poll_fn(|task| {
            let answer = response.as_mut().poll(task);
            if answer.is_pending()
                && self.sender.is_some()
                && Pin::new(&mut self.driver).poll(task).is_ready()
            {
                // Invariant 2. This wakes the task if its request was in the channel.
                self.sender = None;
            }
            answer
        })
        .await
    }
}

/// The kind of an error of hyper's.
fn kind(error: &hyper::Error) -> ErrorKind {
    let of_h2 = cause::<::h2::Error>(error);
    if let Some(error) = cause(error).or_else(|| of_h2?.get_io()) {
        return match error.kind() {
            // This is how hyper reports the end of a connection.
            io::ErrorKind::BrokenPipe => ErrorKind::Closed,
            _ => ErrorKind::of_io(error),
        };
    }
    match of_h2 {
        Some(error) if error.is_remote() && error.is_reset() => ErrorKind::Reset,
        // It sent `GOAWAY`.
        Some(error) if error.is_remote() => ErrorKind::Closed,
        None if error.is_canceled() || error.is_incomplete_message() => ErrorKind::Closed,
        _ => ErrorKind::Protocol,
    }
}

/// How far the server got with a request that nothing has come back for.
fn taken(error: &hyper::Error) -> Progress {
    if error.is_canceled() {
        return Progress::No;
    }
    match cause::<::h2::Error>(error) {
        // A `GOAWAY` fails only requests after the last one that the server takes.
        Some(error) if error.is_remote() && error.is_go_away() => Progress::No,
        Some(error) if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) => {
            Progress::No
        }
        Some(error) if error.is_reset() => Progress::Yes,
        _ => Progress::Perhaps,
    }
}

/// The first of its sources that is of this type.
fn cause<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    successors(error.source(), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// Spawns as the rest of the crate does, and keeps the first task. Invariant 3.
#[derive(Clone)]
struct Tasks(Arc<Latch<rt::JoinHandle<()>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // A task whose handle is not kept goes on all the same.
        let _ = self.0.set(rt::spawn(future));
    }
}

/// A body of one piece, or of none.
struct Upload(Option<Piece>);

/// What is to be sent. It is dropped when its last byte has been written, or when no more of it is
/// wanted; the other end of the channel learns of that.
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
    /// An empty body has no piece: there is nothing to wait for.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn the_sender_of_a_driver_that_has_gone_goes_while_a_request_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut connection = Connection::open(Stream::Plain(stream)).await.unwrap();
        drop(listener.accept().await.unwrap());
        let ends = async {
            while !connection.driver.is_finished() {
                rt::sleep(Duration::from_millis(1)).await;
            }
        };
        rt::timeout(Duration::from_secs(60), ends).await.expect("the driver to end");
        assert!(connection.sender.is_some());
        // Like a request that is in the channel, unseen.
        let mut waiting = Box::pin(connection.answered(std::future::pending::<()>()));
        let waits = poll_fn(|task| Poll::Ready(waiting.as_mut().poll(task).is_pending())).await;
        assert!(waits);
        drop(waiting);
        assert!(connection.sender.is_none());
    }
}
