//! A request and its response over HTTP/1.1.
//!
//! It takes one buffer, one write, and no more reads than the response needs. The body is counted
//! and not kept.

use super::ErrorKind;
use super::connect::Stream;
use super::parse::{Chunks, Length, Malformed, head};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
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

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) taken: Progress,
}

/// How far the server got with a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has certainly not looked at the request.
    No,
    /// Nothing of a response has come.
    Perhaps,
    Yes,
}

pub(super) struct Connection<S> {
    stream: S,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Connection<Stream> {
    /// Whether it can take a request, as far as is known here.
    pub(super) fn is_open(&mut self) -> bool {
        !self.stream.has_news()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Connection { stream, buffer: vec![0; BUFFER].into_boxed_slice(), filled: 0 }
    }

    /// Sends a request, and reads its response to the end. After a failure, or an answer without
    /// `keep`, the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        wire: &[u8],
        head_only: bool,
    ) -> Result<Answer, Failure> {
        let mut untouched = true;
        let answer = self.try_exchange(wire, head_only, &mut untouched).await;
        let taken = if untouched { Progress::Perhaps } else { Progress::Yes };
        answer.map_err(|kind| Failure { kind, taken })
    }

    async fn try_exchange(
        &mut self,
        wire: &[u8],
        head_only: bool,
        untouched: &mut bool,
    ) -> Result<Answer, ErrorKind> {
        self.filled = 0;
        let upload = &mut Upload { left: wire, flushed: false, failed: None };
        self.write(upload).await;
        // A server may answer and close before it has read everything: then its answer counts. Or
        // it answers while it reads: then it gets the rest.
        let found = self.read_head(head_only, untouched, upload).await;
        let head = match (&upload.failed, found) {
            (_, Ok(head)) => head,
            (Some(error), Err(_)) => return Err(ErrorKind::of_io(error)),
            (None, Err(kind)) => return Err(kind),
        };
        let bytes = match head.length {
            Length::Exact(length) => self.read_exactly(length, upload).await?,
            Length::Chunked => self.read_chunks(upload).await?,
            Length::UntilClose => self.read_to_the_end(upload).await?,
        };
        // A server that has answered and keeps the connection takes the rest of the request, and
        // only then is the exchange over. One that refuses it, or closes, is sent no more; its
        // answer counts.
        let takes_all = head.keep && head.length != Length::UntilClose && head.status < 400;
        if takes_all {
            self.write(upload).await;
        }
        // Bytes left over belong to no request.
        let whole = upload.flushed && self.filled == 0;
        let keep = head.keep && whole && head.length != Length::UntilClose;
        Ok(Answer { status: head.status, bytes, keep })
    }

    /// The head of the final response. What follows it is at the buffer's beginning.
    async fn read_head(
        &mut self,
        head_only: bool,
        untouched: &mut bool,
        upload: &mut Upload<'_>,
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
            if self.read(upload).await? == 0 {
                return Err(ErrorKind::Closed);
            }
        }
    }

    async fn read_exactly(
        &mut self,
        length: u64,
        upload: &mut Upload<'_>,
    ) -> Result<u64, ErrorKind> {
        let mut left = length;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled);
            self.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(length);
            }
            if self.read(upload).await? == 0 {
                return Err(ErrorKind::Closed);
            }
        }
    }

    async fn read_chunks(&mut self, upload: &mut Upload<'_>) -> Result<u64, ErrorKind> {
        let mut chunks = Chunks::new();
        loop {
            let used = chunks.take(&self.buffer[..self.filled]);
            let used = used.map_err(|Malformed| ErrorKind::Protocol)?;
            self.consume(used);
            if chunks.are_over() {
                return Ok(chunks.bytes());
            }
            if self.read(upload).await? == 0 {
                return Err(ErrorKind::Closed);
            }
        }
    }

    async fn read_to_the_end(&mut self, upload: &mut Upload<'_>) -> Result<u64, ErrorKind> {
        let mut bytes = 0;
        loop {
            bytes += self.filled as u64;
            self.filled = 0;
            if self.read(upload).await? == 0 {
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

    /// Returns how many bytes have come; zero at the end. Meanwhile the upload goes on.
    async fn read(&mut self, upload: &mut Upload<'_>) -> Result<usize, ErrorKind> {
        let (stream, free) = (&mut self.stream, &mut self.buffer[self.filled..]);
        let mut free = ReadBuf::new(free);
        let read = poll_fn(|task| {
            upload.go_on(stream, task);
            Pin::new(&mut *stream).poll_read(task, &mut free)
        })
        .await;
        let more = free.filled().len();
        self.filled += more;
        match read {
            Ok(()) => Ok(more),
            Err(error) => Err(ErrorKind::of_io(&error)),
        }
    }

    /// Sends all of it, or as much as the server takes before it answers or closes.
    async fn write(&mut self, upload: &mut Upload<'_>) {
        let Connection { stream, buffer, filled } = self;
        poll_fn(|task| {
            upload.go_on(stream, task);
            if upload.is_over() {
                return Poll::Ready(());
            }
            // While the server takes no more, it may be answering.
            let mut free = ReadBuf::new(&mut buffer[*filled..]);
            let read = Pin::new(&mut *stream).poll_read(task, &mut free);
            *filled += free.filled().len();
            read.map(|read| {
                if let Err(error) = read {
                    upload.failed = Some(error);
                }
            })
        })
        .await;
    }
}

/// A request on its way.
struct Upload<'a> {
    left: &'a [u8],
    /// Whether all of it is out.
    flushed: bool,
    /// Why no more of it can be sent.
    failed: Option<io::Error>,
}

impl Upload<'_> {
    fn is_over(&self) -> bool {
        self.flushed || self.failed.is_some()
    }

    /// Sends as much as is taken now. If that is not all, the task is woken for the rest.
    fn go_on<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, task: &mut Context<'_>) {
        while !self.is_over() {
            let sent = if self.left.is_empty() {
                Pin::new(&mut *stream).poll_flush(task).map_ok(|()| self.flushed = true)
            } else {
                Pin::new(&mut *stream).poll_write(task, self.left).map(|wrote| match wrote? {
                    0 => Err(io::ErrorKind::WriteZero.into()),
                    wrote => {
                        self.left = &self.left[wrote..];
                        Ok(())
                    }
                })
            };
            match sent {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.failed = Some(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const BODY: usize = 100_000;

    /// The answer to a request that is larger than the buffer on the way to the server.
    async fn asked<F: Future<Output = DuplexStream> + Send + 'static>(
        server: impl FnOnce(DuplexStream) -> F,
    ) -> Answer {
        let (here, mut there) = duplex(1024);
        let mut wire = format!("POST / HTTP/1.1\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
        let head = wire.len();
        wire.resize(head + BODY, b'x');
        let mut connection = Connection::new(here);
        let serves = crate::rt::spawn(async move {
            let mut skipped = vec![0; head];
            there.read_exact(&mut skipped).await.unwrap();
            there
        });
        let exchange = async {
            let answer = connection.exchange(&wire, false).await;
            answer.expect("it answers")
        };
        let serves = async { server(serves.await.unwrap()).await };
        let both = async { tokio::join!(exchange, serves) };
        let (answer, _there) =
            crate::rt::timeout(Duration::from_secs(60), both).await.expect("nobody waits for ever");
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_while_it_reads_gets_the_whole_request() {
        let answer = asked(|mut there| async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
            there.write_all(head.as_bytes()).await.unwrap();
            let mut piece = [0; 512];
            let mut left = BODY;
            while left > 0 {
                let came = there.read(&mut piece).await.unwrap();
                there.write_all(&piece[..came]).await.unwrap();
                left -= came;
            }
            there
        })
        .await;
        assert_eq!(answer, Answer { status: 200, bytes: BODY as u64, keep: true });
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_beforehand_does_not_end_a_request() {
        let answer = asked(|mut there| async move {
            there.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            there.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.unwrap();
            there.read_exact(&mut vec![0; BODY]).await.unwrap();
            there.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            there
        })
        .await;
        assert_eq!(answer, Answer { status: 204, bytes: 0, keep: true });
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_over_when_its_answer_is_and_it_has_gone_itself() {
        let answer = asked(|mut there| async move {
            there.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            there.read_exact(&mut vec![0; BODY]).await.expect("all of it");
            there
        })
        .await;
        assert_eq!(answer, Answer { status: 200, bytes: 0, keep: true });
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_answer_to_half_a_request_no_other_follows() {
        let answer = asked(|mut there| async move {
            there.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            there
        })
        .await;
        assert_eq!(answer, Answer { status: 413, bytes: 0, keep: false });
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_closes_after_its_answer_is_sent_no_more_though_it_takes_no_more() {
        let answer = asked(|mut there| async move {
            there.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            there.shutdown().await.unwrap();
            there
        })
        .await;
        assert_eq!(answer, Answer { status: 200, bytes: 0, keep: false });
    }
}
