//! What was measured of one request.

use std::fmt;
use std::time::Duration;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    status: u16,
    error: Option<ErrorKind>,
    bytes: u64,
    duration: Duration,
}

impl Hit {
    /// A whole response: its status, the bytes of its body, and how long it took from when the
    /// request was sent, or was due.
    #[must_use]
    pub fn answered(status: u16, bytes: u64, duration: Duration) -> Hit {
        Hit { status, error: None, bytes, duration }
    }

    /// A request that got no whole response.
    #[must_use]
    pub fn failed(error: ErrorKind, duration: Duration) -> Hit {
        Hit { status: 0, error: Some(error), bytes: 0, duration }
    }

    /// Returns the status of the response; `None` if there is no whole one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.error.is_none().then_some(self.status)
    }

    /// Returns the length of the response's body as it came over the wire: nothing is decompressed.
    /// Zero if there is no whole one.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the time from sending to the last byte of the response, or to the error. Connecting
    /// is part of the first request of a connection.
    ///
    /// With [`latency_correction`](super::Options::latency_correction), it includes the wait for a
    /// worker after the request was due.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns why there is no whole response.
    #[must_use]
    pub fn error(&self) -> Option<ErrorKind> {
        self.error
    }

    /// Returns whether there is a whole response with a status below 400.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.error.is_none() && self.status < 400
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            None => write!(f, "{}, {} bytes in {:?}", self.status, self.bytes, self.duration),
            Some(error) => write!(f, "{error} after {:?}", self.duration),
        }
    }
}

/// Why a request got no whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host's name has no address.
    Resolve,
    /// Nothing listens there.
    Refused,
    /// Connecting failed for another reason.
    Connect,
    /// There was no agreement on TLS: a certificate is not trusted, or the server does not speak
    /// the protocol.
    Tls,
    /// The request took longer than [`timeout`](super::Options::timeout) allows, or the system
    /// gave up waiting.
    Timeout,
    /// The server reset the connection or stream, or broke off an HTTP/2 response without error.
    Reset,
    /// The server closed the connection before the end of the response.
    Closed,
    /// What came is not HTTP.
    Protocol,
    /// Another error of reading or writing.
    Io,
    /// The request was under way when the context ended.
    Stopped,
}

impl ErrorKind {
    /// All of them, in order.
    pub(super) const ALL: [ErrorKind; 10] = [
        ErrorKind::Resolve,
        ErrorKind::Refused,
        ErrorKind::Connect,
        ErrorKind::Tls,
        ErrorKind::Timeout,
        ErrorKind::Reset,
        ErrorKind::Closed,
        ErrorKind::Protocol,
        ErrorKind::Io,
        ErrorKind::Stopped,
    ];

    /// Returns one word for it, which will not change.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Resolve => "resolve",
            ErrorKind::Refused => "refused",
            ErrorKind::Connect => "connect",
            ErrorKind::Tls => "tls",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Reset => "reset",
            ErrorKind::Closed => "closed",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Io => "io",
            ErrorKind::Stopped => "stopped",
        }
    }

    /// The kind of an error of connecting.
    pub(super) fn of_connecting(error: &std::io::Error) -> ErrorKind {
        match ErrorKind::of_io(error) {
            ErrorKind::Io | ErrorKind::Closed => ErrorKind::Connect,
            kind => kind,
        }
    }

    /// The kind of an error of reading or writing.
    pub(super) fn of_io(error: &std::io::Error) -> ErrorKind {
        use std::io::ErrorKind::*;
        match error.kind() {
            ConnectionRefused => ErrorKind::Refused,
            ConnectionReset | ConnectionAborted | BrokenPipe => ErrorKind::Reset,
            UnexpectedEof => ErrorKind::Closed,
            TimedOut => ErrorKind::Timeout,
            _ => ErrorKind::Io,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::Resolve => "the host has no address",
            ErrorKind::Refused => "connection refused",
            ErrorKind::Connect => "could not connect",
            ErrorKind::Tls => "TLS handshake failed",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Reset => "connection reset",
            ErrorKind::Closed => "closed before the end of the response",
            ErrorKind::Protocol => "not HTTP",
            ErrorKind::Io => "reading or writing failed",
            ErrorKind::Stopped => "stopped",
        })
    }
}
