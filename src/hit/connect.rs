//! From an address to a stream.

use super::ErrorKind;
use super::options::{Error, Options};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

/// The way to the server.
pub(super) struct Way {
    host: String,
    port: u16,
    /// Asked for once.
    addresses: OnceCell<Vec<SocketAddr>>,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::Tls>,
}

impl Way {
    pub(super) fn new(
        host: String,
        port: u16,
        https: bool,
        options: &Options,
    ) -> Result<Way, Error> {
        #[cfg(feature = "tls")]
        let tls = https.then(|| super::tls::Tls::new(&host, options)).transpose()?;
        #[cfg(not(feature = "tls"))]
        if https {
            let _ = options.insecure;
            return Err(Error(super::options::Problem::NoTls));
        }
        let known = host.parse::<IpAddr>().map(|address| vec![SocketAddr::new(address, port)]);
        let addresses = OnceCell::new_with(known.ok());
        Ok(Way {
            host,
            port,
            addresses,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// A stream to the first address that takes one.
    pub(super) async fn connect(&self) -> Result<Stream, ErrorKind> {
        let tcp = self.connect_tcp().await?;
        // A request is one write: there is nothing to wait for.
        let _ = tcp.set_nodelay(true);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Stream::Tls(Box::new(tls.connect(tcp).await?)));
        }
        Ok(Stream::Plain(tcp))
    }

    async fn connect_tcp(&self) -> Result<TcpStream, ErrorKind> {
        let look_up = || async {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
            let found: Vec<_> = found.map_err(|_| ErrorKind::Resolve)?.collect();
            if found.is_empty() { Err(ErrorKind::Resolve) } else { Ok(found) }
        };
        let mut failed = ErrorKind::Resolve;
        for address in self.addresses.get_or_try_init(look_up).await? {
            match TcpStream::connect(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = ErrorKind::of_connecting(&error),
            }
        }
        Err(failed)
    }
}

/// What bytes go over.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether the other side has closed it, or has said something unasked, as far
    /// as is known here. That costs nothing where no news has come.
    pub(super) fn has_news(&self) -> bool {
        match self {
            Stream::Plain(tcp) => {
                let news = tcp.try_read(&mut [0]);
                !matches!(news, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // Tickets for later sessions come unasked.
            #[cfg(feature = "tls")]
            Stream::Tls(_) => false,
        }
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $do:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => $do,
            #[cfg(feature = "tls")]
            Stream::Tls($inner) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(task, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(task, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(task))
    }
}
