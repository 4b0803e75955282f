//! A stream that gives up on a client that does not read.

use crate::rt::{self, Sleep};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream on which no write may be blocked for longer than a limit.
pub(super) struct Stream<S> {
    io: TokioIo<S>,
    limit: Option<Duration>,
    /// `Some` since the last write found no room: until when it may.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    pub(super) fn new(stream: S, limit: Option<Duration>) -> Self {
        Stream { io: TokioIo::new(stream), limit, stalled: None }
    }

    fn io(&mut self) -> Pin<&mut TokioIo<S>> {
        Pin::new(&mut self.io)
    }

    /// The result of a write, or an error if there was no room for too long.
    fn written<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        task: &mut Task<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(rt::sleep(limit)));
        stalled.as_mut().poll_out_of_budget(task).map(|()| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the client has stopped reading"))
        })
    }
}

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
        let written = self.io().poll_write(task, bytes);
        self.written(written, task)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.io().poll_write_vectored(task, pieces);
        self.written(written, task)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_client_that_has_stopped_reading_is_given_up_in_a_task_that_has_always_more_to_do() {
        let (near, _far) = tokio::io::duplex(4);
        let mut stream = Stream::new(near, Some(Duration::from_millis(50)));
        let began = rt::now();
        let written = poll_fn(|task| {
            // As a reader that is always ready does.
            while std::pin::pin!(tokio::task::consume_budget()).poll(task).is_ready() {}
            match Pin::new(&mut stream).poll_write(task, b"more than fits") {
                Poll::Ready(Ok(_)) => Poll::Pending,
                _ if rt::now() - began > Duration::from_secs(10) => Poll::Ready(None),
                written => written.map(|written| written.err()),
            }
        });
        assert_eq!(written.await.map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_one_that_has_stopped_reading() {
        let (near, mut far) = tokio::io::duplex(4);
        let limit = Duration::from_secs(10);
        let mut stream = Stream::new(near, Some(limit));
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
}
