//! How requests are sent, and why they cannot be.

use ::http::HeaderValue;
use std::fmt;
use std::time::Duration;

/// How requests are sent.
///
/// ```
/// use quell::hit::Options;
/// use std::time::Duration;
///
/// let options = Options::new().concurrency(8).rps(100).timeout(Duration::from_secs(2));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) concurrency: usize,
    pub(super) rps: Option<u32>,
    pub(super) timeout: Option<Duration>,
    pub(super) keepalive: bool,
    pub(super) http2: bool,
    pub(super) insecure: bool,
    pub(super) latency_correction: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            concurrency: 50,
            rps: None,
            timeout: Some(Duration::from_secs(30)),
            keepalive: true,
            http2: false,
            insecure: false,
            latency_correction: false,
        }
    }
}

impl Options {
    /// Fifty requests at once, at no fixed rate, thirty seconds for each; HTTP/1.1 over connections
    /// that are kept.
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    /// Sets how many requests are under way at once, each over a connection of its own.
    #[must_use]
    pub fn concurrency(self, concurrency: usize) -> Options {
        Options { concurrency, ..self }
    }

    /// Sends at most this many requests a second; without it, the next as soon as there is a
    /// response.
    #[must_use]
    pub fn rps(self, rps: u32) -> Options {
        Options { rps: Some(rps), ..self }
    }

    /// Sets how long one request may take, connecting included. `None` means no limit.
    #[must_use]
    pub fn timeout(self, timeout: impl Into<Option<Duration>>) -> Options {
        Options { timeout: timeout.into(), ..self }
    }

    /// Sets whether a connection is used for more than one request.
    #[must_use]
    pub fn keepalive(self, keepalive: bool) -> Options {
        Options { keepalive, ..self }
    }

    /// Sets whether requests go over HTTP/2, with TLS or without.
    #[must_use]
    pub fn http2(self, http2: bool) -> Options {
        Options { http2, ..self }
    }

    /// Sets whether any certificate is accepted. Only for your own servers.
    #[must_use]
    pub fn insecure(self, insecure: bool) -> Options {
        Options { insecure, ..self }
    }

    /// With [`rps`](Options::rps): the duration of a request includes how long it waited for a
    /// worker after it was due by the rate, and a request that could not be sent in time is sent as
    /// soon as possible. Timers that ring late do not count.
    ///
    /// A server that stands still for a second is then slow for all the requests of
    /// that second, and not only for those that were under way.
    #[must_use]
    pub fn latency_correction(self, latency_correction: bool) -> Options {
        Options { latency_correction, ..self }
    }

    pub(super) fn check(&self, n: usize) -> Result<(), Error> {
        let problem = if n == 0 {
            Problem::NotPositive("n")
        } else if self.concurrency == 0 {
            Problem::NotPositive("concurrency")
        } else if self.rps == Some(0) {
            Problem::NotPositive("rps")
        } else if self.latency_correction && self.rps.is_none() {
            Problem::NoRate
        } else {
            return Ok(());
        };
        Err(Error(problem))
    }
}

/// Why no request was sent at all.
#[derive(Debug)]
pub struct Error(pub(super) Problem);

#[derive(Debug)]
pub(super) enum Problem {
    NotPositive(&'static str),
    NoRate,
    NoScheme(String),
    OtherScheme(String),
    NoHost(String),
    NoPort(String),
    #[cfg(not(feature = "tls"))]
    NoTls,
    #[cfg(feature = "tls")]
    Certificates(String),
    Header(String),
    /// The value of the header.
    Host(HeaderValue),
    /// The length of the body.
    Length(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Problem::NotPositive(what) => write!(f, "{what} must be positive: got 0"),
            Problem::NoRate => f.write_str("latency correction needs a rate: set rps"),
            Problem::NoScheme(url) => {
                write!(f, "the URL has no scheme, http:// or https://: {url}")
            }
            Problem::OtherScheme(url) => {
                write!(f, "the URL's scheme is neither http nor https: {url}")
            }
            Problem::NoHost(url) => write!(f, "the URL has no host: {url}"),
            Problem::NoPort(url) => {
                write!(f, "the URL has no valid port (0 to 65535): {url}")
            }
            #[cfg(not(feature = "tls"))]
            Problem::NoTls => f.write_str("https needs the feature tls"),
            #[cfg(feature = "tls")]
            Problem::Certificates(why) => write!(f, "found no certificates to trust: {why}"),
            Problem::Header(name) => {
                write!(f, "the header {name} is for connections, not for requests")
            }
            Problem::Host(host) => {
                write!(f, "the header host is neither a host nor host:port: {host:?}")
            }
            Problem::Length(bytes) => write!(
                f,
                "the header content-length does not match the body, which has {bytes} bytes"
            ),
        }
    }
}

impl std::error::Error for Error {}
