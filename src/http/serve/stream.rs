//! A stream that gives up on a client that does not read, and closes gently on one that still
//! sends.
//!
//! When a request is answered before its body has been read, hyper closes the connection. If more
//! of the body then comes, the system resets the connection, and the client loses the part of the
//! answer that it has not read yet. So the stream is closed in two steps: first for sending, which
//! tells the client that the answer is complete, and after a moment for receiving too. What comes
//! meanwhile is discarded.
//!
//! # Invariants
//!
//! 1. `Unread` orders nothing. It is for HTTP/1.1, where hyper polls the stream and the request in
//!    one task. If the body is dropped in another task, that may be seen too late; then the
//!    connection is closed at once. Hyper may have read the rest of a small body itself, which cannot
//!    be seen; then an idle connection that is stopped stays for that moment too.
//! 2. A stream that was handed over by an upgrade is not closed in two steps: half of it may be
//!    closed while the handler reads the other half. This is known before hyper hands it over.

use crate::rt::{self, Sleep};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

/// How long a client that still sends has to read its answer.
const LEAVE: Duration = Duration::from_secs(1);

/// Whether the latest request was answered before its body had been read to its end.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<AtomicUsize>);

/// Nothing of a body is left to read.
const READ: usize = 0;
/// The handler has dropped the body.
const DROPPED: usize = 1;
/// The connection is the handler's: invariant 2.
const HANDED_OVER: usize = 2;

impl Unread {
    /// Notes that there is nothing of a body left to read.
    pub(super) fn note_read(&self) {
        self.change(READ);
    }

    /// Notes that the handler has dropped the body.
    pub(super) fn note_dropped(&self) {
        self.change(DROPPED);
    }

    /// Notes that the connection is the handler's from here on.
    pub(super) fn note_handed_over(&self) {
        self.change(HANDED_OVER);
    }

    fn may_come(&self) -> bool {
        self.0.load(Ordering::Relaxed) == DROPPED
    }

    fn change(&self, to: usize) {
        // Relaxed, here and above: invariant 1.
        let next = |now| (now != HANDED_OVER).then_some(to);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// A stream on which no write may be blocked for longer than a limit.
pub(super) struct Stream<S> {
    io: TokioIo<S>,
    limit: Option<Duration>,
    unread: Unread,
    /// `Some` since it was closed for sending: until when it still receives.
    leaving: Option<Pin<Box<Sleep>>>,
    /// `Some` since the last write found no room: until when it may.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    pub(super) fn new(stream: S, limit: Option<Duration>, unread: Unread) -> Self {
        Stream { io: TokioIo::new(stream), limit, unread, leaving: None, stalled: None }
    }

    fn io(&mut self) -> Pin<&mut TokioIo<S>> {
        Pin::new(&mut self.io)
    }

    /// Writes, or gives an error if there was no room for too long.
    fn write<T>(
        &mut self,
        task: &mut Task<'_>,
        mut write: impl FnMut(Pin<&mut TokioIo<S>>, &mut Task<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut written = write(self.io(), task);
        if written.is_pending() && self.is_stalled(task) {
            // There may be room, and the task may only have used up its budget.
            let again = pin!(unconstrained(poll_fn(|task| write(self.io(), task))));
            written = again.poll(task);
            if written.is_pending() {
                let stopped = io::Error::new(io::ErrorKind::TimedOut, STOPPED);
                return Poll::Ready(Err(stopped));
            }
        }
        if written.is_ready() {
            self.stalled = None;
        }
        written
    }

    /// Whether writes have found no room for too long.
    fn is_stalled(&mut self, task: &mut Task<'_>) -> bool {
        let Some(limit) = self.limit else { return false };
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(rt::sleep(limit)));
        stalled.as_mut().poll_out_of_budget(task).is_ready()
    }
}

const STOPPED: &str = "the client has stopped reading";

impl<S: AsyncRead + AsyncWrite + Unpin> Read for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(task, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(task, |io, task| io.poll_write(task, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(task, |io, task| io.poll_write_vectored(task, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self;
        let leaving = match &mut stream.leaving {
            Some(leaving) => leaving,
            none => {
                ready!(Pin::new(&mut stream.io).poll_shutdown(task))?;
                if !stream.unread.may_come() {
                    return Poll::Ready(Ok(()));
                }
                none.insert(Box::pin(rt::sleep(LEAVE)))
            }
        };
        let mut room = [0; 8 * 1024];
        loop {
            if leaving.as_mut().poll_out_of_budget(task).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut came = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(stream.io.inner_mut()).poll_read(task, &mut came));
            if read.is_err() || came.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn in_a_task_that_always_has_more_to_do_only_a_client_that_does_not_read_is_given_up() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut stream = Stream::new(near, Some(Duration::from_millis(50)), Unread::default());
        let mut write = async || {
            poll_fn(|task| {
                // As a reader that is always ready does.
                while pin!(tokio::task::consume_budget()).poll(task).is_ready() {}
                Pin::new(&mut stream).poll_write(task, b"four")
            })
            .await
        };
        let began = rt::now();
        assert_eq!(write().await.expect("there is room"), 4);
        far.read_exact(&mut [0; 4]).await.expect("it is written");
        assert_eq!(write().await.expect("there is room again"), 4);
        let error = write().await.expect_err("nobody reads any more");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(rt::now() - began < Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_one_that_has_stopped_reading() {
        let (near, mut far) = tokio::io::duplex(4);
        let limit = Duration::from_secs(10);
        let mut stream = Stream::new(near, Some(limit), Unread::default());
        let mut write = async || {
            poll_fn(|task| Pin::new(&mut stream).poll_write(task, b"four")).await.map(drop)
        };
        let writes = async {
            for _ in 0..9 {
                write().await?;
            }
            Ok::<_, io::Error>(())
        };
        // All of it takes much longer than the limit, but no single write does.
        let reads = async {
            for _ in 0..8 {
                rt::sleep(limit * 9 / 10).await;
                far.read_exact(&mut [0; 4]).await.expect("it is written");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            written = writes => written.expect("a client that reads"),
            () = reads => unreachable!("it never ends"),
        }

        let began = rt::now();
        let error = write().await.expect_err("nobody reads any more");
        assert_eq!((error.kind(), rt::now() - began), (io::ErrorKind::TimedOut, limit));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_still_sends_is_given_a_moment_to_read_its_answer() {
        for (dropped, closes, took) in
            [(false, false, Duration::ZERO), (true, false, LEAVE), (true, true, Duration::ZERO)]
        {
            let (near, mut far) = tokio::io::duplex(4);
            let unread = Unread::default();
            if dropped {
                unread.note_dropped();
            }
            let mut stream = Stream::new(near, None, unread);
            let began = rt::now();
            let leaves = async {
                poll_fn(|task| Pin::new(&mut stream).poll_shutdown(task)).await.unwrap();
                let took = rt::now() - began;
                drop(stream);
                took
            };
            let sends = async {
                assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "nothing more comes");
                let sent = far.write_all(&[0; 100_000]).await;
                assert_eq!(sent.is_ok(), dropped);
                if closes {
                    far.shutdown().await.unwrap();
                }
                far
            };
            let (left, _far) = tokio::join!(leaves, sends);
            assert_eq!(left, took, "{dropped} {closes}");
        }
    }
}
