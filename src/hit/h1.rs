//! A request and its response over HTTP/1.1.
//!
//! One buffer, one write, and no more reads than the response needs. The body is
//! counted and not kept.

use super::ErrorKind;
use super::connect::Stream;
use super::parse::{Chunks, Length, Malformed, head};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once, and how long a head may be.
const BUFFER: usize = 32 * 1024;

/// A response that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) bytes: u64,
    /// Whether another request may follow.
    pub(super) keep: bool,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    /// Whether nothing of a response had come; over HTTP/2: whether the server has
    /// certainly not looked at the request.
    pub(super) untouched: bool,
}

pub(super) struct Connection<S> {
    stream: S,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Connection<Stream> {
    /// Whether it is fit for a request, as far as is known here.
    pub(super) fn is_open(&self) -> bool {
        !self.stream.has_news()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Connection { stream, buffer: vec![0; BUFFER].into_boxed_slice(), filled: 0 }
    }

    /// Sends a request, and reads its response to the end. After a failure, or an
    /// answer that is the last one, the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        wire: &[u8],
        head_only: bool,
    ) -> Result<Answer, Failure> {
        let mut untouched = true;
        match self.try_exchange(wire, head_only, &mut untouched).await {
            Ok(answer) => Ok(answer),
            Err(kind) => Err(Failure { kind, untouched }),
        }
    }

    async fn try_exchange(
        &mut self,
        wire: &[u8],
        head_only: bool,
        untouched: &mut bool,
    ) -> Result<Answer, ErrorKind> {
        self.filled = 0;
        let sent = self.write(wire).await;
        // A server may answer before it has read all, and close: then what it says counts.
        let found = self.read_head(head_only, untouched).await;
        let head = match (&sent, found) {
            (_, Ok(head)) => head,
            (Err(error), Err(_)) => return Err(ErrorKind::of_io(error)),
            (Ok(_), Err(kind)) => return Err(kind),
        };
        let bytes = match head.length {
            Length::Exact(length) => self.read_exactly(length).await?,
            Length::Chunked => self.read_chunks().await?,
            Length::UntilClose => self.read_to_the_end().await?,
        };
        // What is left over belongs to no request.
        let whole = matches!(sent, Ok(Sent::All)) && self.filled == 0;
        let keep = head.keep && whole && head.length != Length::UntilClose;
        Ok(Answer { status: head.status, bytes, keep })
    }

    /// The head of the final response. What follows it is at the buffer's beginning.
    async fn read_head(
        &mut self,
        head_only: bool,
        untouched: &mut bool,
    ) -> Result<super::parse::Head, ErrorKind> {
        loop {
            *untouched &= self.filled == 0;
            let found = head(&self.buffer[..self.filled], head_only);
            if let Some(found) = found.map_err(|Malformed| ErrorKind::Protocol)? {
                self.consume(found.end);
                let interim = (100..200).contains(&found.status) && found.status != 101;
                if interim {
                    continue;
                }
                return Ok(found);
            }
            if self.filled == self.buffer.len() {
                return Err(ErrorKind::Protocol);
            }
            if self.read().await? == 0 {
                return Err(ErrorKind::Closed);
            }
        }
    }

    async fn read_exactly(&mut self, length: u64) -> Result<u64, ErrorKind> {
        let mut left = length;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled);
            self.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(length);
            }
            if self.read().await? == 0 {
                return Err(ErrorKind::Closed);
            }
        }
    }

    async fn read_chunks(&mut self) -> Result<u64, ErrorKind> {
        let mut chunks = Chunks::new();
        loop {
            let used = chunks.take(&self.buffer[..self.filled]);
            let used = used.map_err(|Malformed| ErrorKind::Protocol)?;
            self.consume(used);
            if chunks.are_over() {
                return Ok(chunks.bytes());
            }
            if self.read().await? == 0 {
                return Err(ErrorKind::Closed);
            }
        }
    }

    async fn read_to_the_end(&mut self) -> Result<u64, ErrorKind> {
        let mut bytes = 0;
        loop {
            bytes += self.filled as u64;
            self.filled = 0;
            if self.read().await? == 0 {
                return Ok(bytes);
            }
        }
    }

    fn consume(&mut self, used: usize) {
        if used < self.filled {
            self.buffer.copy_within(used..self.filled, 0);
        }
        self.filled -= used;
    }

    /// How many bytes have come; zero at the end.
    async fn read(&mut self) -> Result<usize, ErrorKind> {
        let (stream, free) = (&mut self.stream, &mut self.buffer[self.filled..]);
        let mut free = ReadBuf::new(free);
        let read = poll_fn(|task| Pin::new(&mut *stream).poll_read(task, &mut free)).await;
        let more = free.filled().len();
        self.filled += more;
        match read {
            Ok(()) => Ok(more),
            Err(error) => Err(ErrorKind::of_io(&error)),
        }
    }

    /// Sends all of it, or as much as the server takes before it answers.
    async fn write(&mut self, wire: &[u8]) -> io::Result<Sent> {
        let mut left = wire;
        while !left.is_empty() {
            let Connection { stream, buffer, filled } = self;
            let wrote = poll_fn(|task| {
                let wrote = Pin::new(&mut *stream).poll_write(task, left);
                if wrote.is_ready() || *filled == buffer.len() {
                    return wrote.map_ok(Some);
                }
                let mut free = ReadBuf::new(&mut buffer[*filled..]);
                let read = Pin::new(&mut *stream).poll_read(task, &mut free);
                *filled += free.filled().len();
                read.map_ok(|()| None)
            });
            match wrote.await? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(wrote) => left = &left[wrote..],
                None => return Ok(Sent::Part),
            }
        }
        let stream = &mut self.stream;
        poll_fn(|task| Pin::new(&mut *stream).poll_flush(task)).await?;
        Ok(Sent::All)
    }
}

/// How much of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    All,
    Part,
}
