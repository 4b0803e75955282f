//! A connection that loses patience with a client that does not read.

use crate::context::{Canceller, Context, ContextError, Done};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// A stream on which nothing may stay unwritten for longer than a limit.
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    limit: Option<Duration>,
    /// What the limit's context is derived from.
    over: Context,
    /// There since the last write found no room.
    stalled: Option<(Done, Canceller)>,
}

impl Stream {
    pub(super) fn new(stream: TcpStream, limit: Option<Duration>, over: Context) -> Self {
        Stream { io: TokioIo::new(stream), limit, over, stalled: None }
    }

    fn io(&mut self) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.io)
    }

    /// What came of a write, or an error if there was no room for too long.
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
        let (done, _) = self.stalled.get_or_insert_with(|| {
            let (ctx, canceller) = self.over.with_timeout(limit);
            (ctx.done(), canceller)
        });
        match Pin::new(done).poll(task) {
            Poll::Ready(ContextError::DeadlineExceeded) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read",
            ))),
            _ => Poll::Pending,
        }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(task, buffer)
    }
}

impl Write for Stream {
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
