//! One connection, and what may be spawned for it.

use super::request::Arriving;
use super::stream::{Stream, Unread};
use crate::context::{BoxError, Canceller, Context, ContextError, Done};
use crate::http::ContextLayer;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tower_layer::Layer;
use tower_service::Service;

/// How many streams an HTTP/2 client may have at once.
const STREAMS: u32 = 200;

/// How much of a request's body may lie unread over HTTP/2.
const WINDOW: u32 = 256 * 1024;

/// The client's address: a value in the context of each request that came through
/// [`serve`](crate::http::serve()).
///
/// ```
/// use quell::http::{Ctx, PeerAddress};
///
/// async fn handler(Ctx(ctx): Ctx) -> String {
///     match ctx.value() {
///         Some(PeerAddress(peer)) => format!("you are {peer}\n"),
///         None => "this is another server\n".to_string(),
///     }
/// }
/// # let _: axum::routing::MethodRouter = axum::routing::get(handler);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// What all connections of a server have in common.
#[derive(Clone)]
pub(super) struct Shared {
    /// Ends when connections must not take another request.
    pub(super) stopping: Context,
    /// What the requests' contexts are derived from.
    pub(super) requests: Context,
    /// Ends when nothing of the server may be left.
    pub(super) over: Context,
    /// Every spawned task holds a clone.
    pub(super) alive: mpsc::Sender<Infallible>,
    pub(super) header_limit: Option<Duration>,
    pub(super) body_limit: Option<Duration>,
    pub(super) write_limit: Option<Duration>,
    /// The call that made the server: the line of every context in it.
    pub(super) made_at: &'static Location<'static>,
}

/// Serves one connection until it closes or the server is over. Returns whether it ended by itself.
pub(super) async fn serve<S, R>(
    shared: Shared,
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
) -> bool
where
    S: Service<Request<axum_core::body::Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    // Answers are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let requests = shared.requests.with_value(PeerAddress(peer));
    let (patience, greeted) = match shared.header_limit {
        Some(limit) => shared.over.with_timeout_at(shared.made_at, limit),
        None => shared.over.with_cancel_at(shared.made_at),
    };
    let unread = Unread::default();
    let arriving = Arriving::new(service, shared.body_limit, unread.clone(), shared.made_at);
    let service = ContextLayer::below(requests, shared.made_at).layer(arriving);
    let service = Greeted { service: TowerToHyperService::new(service), greeted };

    let stream = Stream::new(stream, shared.write_limit, unread);
    let mut builder = auto::Builder::new(StreamExecutor { shared: shared.clone() });
    builder.http1().timer(TokioTimer::new()).header_read_timeout(shared.header_limit);
    // A body that nobody reads yet, because its request waits for its turn, must not use up the
    // window of one that is being read: its handler would wait for the client, and the client for
    // the server.
    builder
        .http2()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(STREAMS * WINDOW);
    // An HTTP/2 client may be silent for as long as it likes, but it must answer pings.
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(shared.header_limit);
    if let Some(limit) = shared.header_limit {
        builder.http2().keep_alive_timeout(limit);
    }

    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    let mut stopping = Once(Some(shared.stopping.done()));
    // Hyper limits the time for the head of a request, but not for the bytes before it knows the
    // protocol.
    let mut patience = Once(Some(patience.done()));
    let served = poll_fn(|task| {
        if stopping.poll(task).is_some() {
            connection.as_mut().graceful_shutdown();
        }
        if patience.poll(task) == Some(ContextError::DeadlineExceeded) {
            return Poll::Ready(());
        }
        // The error of a connection that broke off is not needed; the request learns of it from its
        // context.
        connection.as_mut().poll(task).map(drop)
    });
    shared.over.run(served).await.is_ok()
}

/// Ends the wait for the first request as soon as one has come, even if the service is not ready
/// for it.
struct Greeted<S> {
    service: S,
    greeted: Canceller,
}

impl<R, S: hyper::service::Service<R>> hyper::service::Service<R> for Greeted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: R) -> S::Future {
        self.greeted.cancel();
        self.service.call(request)
    }
}

/// An end that is reported once.
struct Once(Option<Done>);

impl Once {
    fn poll(&mut self, task: &mut Task<'_>) -> Option<ContextError> {
        let done = self.0.as_mut()?;
        let Poll::Ready(end) = Pin::new(done).poll(task) else { return None };
        self.0 = None;
        Some(end)
    }
}

/// Spawns the streams of HTTP/2, which must not outlive the server.
#[derive(Clone)]
struct StreamExecutor {
    shared: Shared,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let alive = self.shared.alive.clone();
        let stream = self.shared.over.run(stream);
        #[allow(
            clippy::disallowed_methods,
            reason = "sockets are tokio's, and so are their tasks"
        )]
        tokio::spawn(async move {
            let _ = stream.await;
            drop(alive);
        });
    }
}

/// Returns when every sender is gone.
pub(super) async fn all_gone(mut alive: mpsc::Receiver<Infallible>) {
    poll_fn(|task| match alive.poll_recv(task) {
        Poll::Ready(None) => Poll::Ready(()),
        Poll::Ready(Some(never)) => match never {},
        Poll::Pending => Poll::Pending,
    })
    .await;
}
