//! The connections of a client that was given no service.

use super::call::Body;
use super::shared::{self, Failures};
use crate::context::BoxError;
use ::http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

/// How much may lie unread of all answers over one HTTP/2 connection. It is more than a caller
/// leaves unread: otherwise the answers still to be read would hold up the one that is being read.
/// The window of its stream limits how much of each answer may lie unread.
const WINDOW: u32 = 1 << 30;

/// A boxed future of a result.
type Coming<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Connections that are kept and used again: over plain TCP those of a
/// [`Client::new`](crate::http::Client::new), otherwise those that
/// [`Client::connecting`](crate::http::Client::connecting) was given.
#[derive(Clone)]
pub struct Transport {
    pool: Pool<Connector, Body>,
    /// Whether it can do plain TCP only.
    plain_tcp: bool,
    /// `Some` over HTTP/2, where one call connects for all.
    shared: Option<Failures>,
}

impl Transport {
    pub(super) fn new(only_http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let shared = only_http2.then(Failures::new);
        Transport::through(Connector::Tcp(connector, shared.clone()), shared)
    }

    pub(super) fn connecting<C, F, S>(connect: C) -> Self
    where
        C: Fn(Uri) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connect = move |uri| -> Coming<Stream> {
            let connecting = connect(uri);
            Box::pin(async { Ok(TokioIo::new(Wire::Given(Box::new(connecting.await?)))) })
        };
        Transport::through(Connector::Given(Arc::new(connect)), None)
    }

    fn through(connector: Connector, shared: Option<Failures>) -> Self {
        let plain_tcp = matches!(connector, Connector::Tcp(..));
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http2_only(shared.is_some())
            .http2_initial_connection_window_size(WINDOW)
            .build(connector);
        Transport { pool, plain_tcp, shared }
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Coming<Response<Incoming>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // A request that came in over HTTP/2 may be passed on; the pool decides what is spoken.
        if request.version() == Version::HTTP_2 {
            *request.version_mut() = Version::HTTP_11;
        }
        if let Err(why) = can_be_reached(request.uri(), self.plain_tcp) {
            return Box::pin(std::future::ready(Err(why.into())));
        }
        if let Some(failures) = self.shared.clone() {
            let pool = self.pool.clone();
            return Box::pin(async move {
                shared::send(request, &failures, |request| pool.request(request)).await
            });
        }
        let answer = self.pool.request(request);
        Box::pin(async move { Ok(answer.await?) })
    }
}

/// Where connections come from.
#[derive(Clone)]
enum Connector {
    /// Over HTTP/2, its failures are those of all calls that wait.
    Tcp(HttpConnector, Option<Failures>),
    Given(Arc<dyn Fn(Uri) -> Coming<Stream> + Send + Sync>),
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Coming<Stream>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Connector::Tcp(tcp, _) => tcp.poll_ready(task).map_err(Into::into),
            Connector::Given(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Coming<Stream> {
        match self {
            Connector::Tcp(tcp, failures) => {
                let (failures, server) = (failures.clone(), uri.authority().cloned());
                let connecting = tcp.call(uri);
                Box::pin(async move {
                    let mut connected = connecting.await.map_err(BoxError::from);
                    if let Some(failures) = failures {
                        connected = failures.note(server, connected);
                    }
                    Ok(TokioIo::new(Wire::Tcp(connected?.into_inner())))
                })
            }
            Connector::Given(connect) => connect(uri),
        }
    }
}

type Stream = TokioIo<Wire>;

/// What bytes go over.
enum Wire {
    Tcp(TcpStream),
    Given(Box<dyn BothWays>),
}

trait BothWays: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> BothWays for S {}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        match self {
            Wire::Tcp(tcp) => tcp.connected(),
            Wire::Given(_) => Connected::new(),
        }
    }
}

macro_rules! either {
    ($wire:expr, $inner:ident => $do:expr) => {
        match $wire.get_mut() {
            Wire::Tcp($inner) => $do,
            Wire::Given($inner) => $do,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(task, buffer))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(task, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(task, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Tcp(tcp) => tcp.is_write_vectored(),
            Wire::Given(given) => given.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(task))
    }
}

fn can_be_reached(uri: &Uri, plain_tcp: bool) -> Result<(), &'static str> {
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("a user in the URL is not sent: set the header authorization");
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(()),
        (Some("https"), Some(_)) if !plain_tcp => Ok(()),
        (Some("https"), _) => Err("this client speaks plain HTTP: for https make one with \
                                   Client::connecting, of streams that speak TLS"),
        (Some(_), Some(_)) => Err("a scheme other than http: write http://…"),
        _ => Err("an address without scheme or host: write http://host/path"),
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}
