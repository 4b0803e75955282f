//! How a server is configured, accepts connections, and ends.

use super::connection::{self, Shared, all_gone};
use crate::context::{BoxError, Cancelled, Canceller, Cause, Context};
use crate::http::{RequestEnd, trace};
use crate::rt;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tower_service::Service;

/// How long to wait after the system could not accept a connection: most often there are no file
/// descriptors left, and some of them will be closed.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 and HTTP/2 on `listener` until `ctx` ends.
///
/// Each request has a context with the values of `ctx`, as through a
/// [`ContextLayer`](crate::http::ContextLayer), and a [`PeerAddress`](crate::http::PeerAddress)
/// among them. When `ctx` ends, the server
///
/// 1. stops accepting, closes idle connections, and lets the others go on for the
///    [`grace`](Serve::grace);
/// 2. ends the contexts of the requests that are left, with [`RequestEnd::ServerStopped`] as the
///    cause, and gives them a moment to [answer](Serve::last_words);
/// 3. drops what is then left, and returns when all of it is gone.
///
/// ```
/// use axum::{Router, routing::get};
/// use quell::Context;
/// use quell::http::serve;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let (server, stop) = Context::background().with_cancel();
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let app = Router::new().route("/", get(|| async { "hello\n" }));
/// # stop.cancel_with("shutting down");
/// let served = serve(&server, listener, app).grace(Duration::from_secs(5)).await;
/// println!("{served}"); // 12 connections, all drained
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// Dropping the future drops every connection; the requests' contexts end first, as if the server
/// had stopped without grace.
#[doc(alias("graceful_shutdown", "with_graceful_shutdown"))]
#[track_caller]
pub fn serve<S>(ctx: &Context, listener: TcpListener, service: S) -> Serve<S> {
    Serve {
        ctx: ctx.clone(),
        listener,
        service,
        grace: Duration::from_secs(10),
        last_words: Duration::from_secs(1),
        header_limit: Some(Duration::from_secs(30)),
        body_limit: Some(Duration::from_secs(30)),
        write_limit: Some(Duration::from_secs(30)),
        made_at: Location::caller(),
    }
}

/// A server made by [`serve`]; `.await` runs it.
#[must_use = "a server does nothing unless awaited"]
#[derive(Debug)]
pub struct Serve<S> {
    ctx: Context,
    listener: TcpListener,
    service: S,
    grace: Duration,
    last_words: Duration,
    header_limit: Option<Duration>,
    body_limit: Option<Duration>,
    write_limit: Option<Duration>,
    made_at: &'static Location<'static>,
}

/// Returns `None` for a limit that is longer than any connection lasts.
fn limited(limit: Duration) -> Option<Duration> {
    (limit < rt::A_CENTURY).then_some(limit)
}

impl<S> Serve<S> {
    /// Sets how long requests may go on after the context has ended. The default is ten seconds;
    /// `Duration::MAX` means no limit.
    pub fn grace(self, grace: Duration) -> Self {
        Serve { grace, ..self }
    }

    /// Sets how long a request may take to answer after its context was ended. The default is one
    /// second.
    pub fn last_words(self, last_words: Duration) -> Self {
        Serve { last_words, ..self }
    }

    /// Sets how long a client may take for its first request and, over HTTP/1.1, for the head of
    /// each, time between them included. Over HTTP/2, a client that has been silent for this long
    /// is pinged, and has as long to answer. The default is thirty seconds; `Duration::MAX` means
    /// no limit.
    pub fn header_timeout(self, limit: Duration) -> Self {
        Serve { header_limit: limited(limit), ..self }
    }

    /// Sets how long a client may let a handler wait for more of a request's body. Then the body
    /// ends with an error, and the request ends as if the client had gone. The default is thirty
    /// seconds; `Duration::MAX` means no limit, as for streaming clients that have nothing to send
    /// now and then. The time counts from when the handler finds that there is no more yet; one
    /// that does not read is not waiting.
    pub fn body_timeout(self, limit: Duration) -> Self {
        Serve { body_limit: limited(limit), ..self }
    }

    /// Sets how long a client may leave unread what is sent to it. Then the connection is closed,
    /// and its requests end as if the client had gone. The default is thirty seconds;
    /// `Duration::MAX` means no limit. Over HTTP/2 the limit is for the connection: a single stream
    /// whose window the client keeps shut is not noticed. An upgraded connection keeps this limit.
    pub fn write_timeout(self, limit: Duration) -> Self {
        Serve { write_limit: limited(limit), ..self }
    }
}

/// What became of a server's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// How many were accepted.
    pub connections: u64,
    /// How many were still there when the grace was over, and had their requests cancelled.
    pub cancelled: usize,
    /// How many of those did not end by themselves even then, and were dropped.
    pub dropped: usize,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, ", self.connections)?;
        match (self.cancelled, self.dropped) {
            (0, _) => f.write_str("all drained"),
            (cancelled, dropped) => write!(f, "{cancelled} cancelled, {dropped} dropped"),
        }
    }
}

/// The future of a server, made by awaiting [`Serve`].
#[must_use = "futures do nothing unless polled"]
pub struct Serving(Pin<Box<dyn Future<Output = Served> + Send>>);

impl Future for Serving {
    type Output = Served;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Served> {
        self.0.as_mut().poll(task)
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl<S, R> IntoFuture for Serve<S>
where
    S: Service<Request<axum_core::body::Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Served;
    type IntoFuture = Serving;

    fn into_future(self) -> Serving {
        Serving(Box::pin(run(self)))
    }
}

async fn run<S, R>(serve: Serve<S>) -> Served
where
    S: Service<Request<axum_core::body::Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let Serve { ctx, listener, service, grace, last_words, .. } = serve;
    let Serve { header_limit, body_limit, write_limit, made_at, .. } = serve;
    // Neither inherits the server's deadline: the grace comes after it.
    let (over, end_all) = ctx.without_cancel().with_cancel_at(made_at);
    let (requests, end_requests) = over.with_cancel_at(made_at);
    let (alive, gone) = mpsc::channel(1);
    let stopping = ctx.clone();
    let shared =
        Shared { stopping, requests, over, alive, header_limit, body_limit, write_limit, made_at };

    let mut connections = Connections { tasks: JoinSet::new(), dropped: 0, made_at };
    // If this future is dropped midway, the requests end before their connections.
    let end = End { end_requests, ctx: ctx.clone(), made_at };
    let mut accepted = 0;
    while let Ok((stream, peer)) = next(&ctx, &listener, &mut connections).await {
        accepted += 1;
        let connection = connection::serve(shared.clone(), stream, peer, service.clone());
        connections.tasks.spawn(connection);
    }
    drop((listener, service));

    connections.end_within(&ctx, grace).await;
    let cancelled = connections.tasks.len();
    end.requests();
    connections.end_within(&ctx, last_words).await;
    end_all.cancel();
    while connections.ended().await {}
    drop(shared);
    all_gone(gone).await;
    Served { connections: accepted, cancelled, dropped: connections.dropped }
}

/// Returns the next connection, or an error when the context has ended.
async fn next(
    ctx: &Context,
    listener: &TcpListener,
    connections: &mut Connections,
) -> Result<(TcpStream, SocketAddr), Cancelled> {
    loop {
        let accepted = ctx.run(poll_fn(|task| {
            connections.reap(task);
            listener.poll_accept(task)
        }));
        match accepted.await? {
            Ok(accepted) => return Ok(accepted),
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                trace::not_accepted(&error);
                let (breath, _canceller) = ctx.with_timeout_at(connections.made_at, ACCEPT_RETRY);
                breath.done().await;
            }
        }
    }
}

/// Whether the error concerns only the connection that would have been accepted.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Ends the requests, at the latest when it is dropped.
struct End {
    end_requests: Canceller,
    ctx: Context,
    made_at: &'static Location<'static>,
}

impl End {
    fn requests(&self) {
        let dropped = || Cause::failure("the server was dropped".into(), self.made_at);
        let why = self.ctx.cause().unwrap_or_else(dropped);
        RequestEnd::ServerStopped(why).ends(&self.end_requests);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.requests();
    }
}

/// The tasks of the connections.
struct Connections {
    tasks: JoinSet<bool>,
    dropped: usize,
    /// The call that made the server.
    made_at: &'static Location<'static>,
}

impl Connections {
    fn note(&mut self, ended: Result<bool, tokio::task::JoinError>) {
        // A panic in a handler has ended its connection, and the panic hook has reported it.
        self.dropped += usize::from(matches!(ended, Ok(false)));
    }

    /// Removes the tasks that have ended, and registers `task` to be woken by the next.
    fn reap(&mut self, task: &mut Task<'_>) {
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(task) {
            self.note(ended);
        }
    }

    /// Waits for one to end; false if there is none.
    async fn ended(&mut self) -> bool {
        match self.tasks.join_next().await {
            Some(ended) => {
                self.note(ended);
                true
            }
            None => false,
        }
    }

    /// Waits until all have ended, but no longer than `limit`.
    async fn end_within(&mut self, ctx: &Context, limit: Duration) {
        let (limit, _canceller) = ctx.without_cancel().with_timeout_at(self.made_at, limit);
        let _ = limit.run(async { while self.ended().await {} }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_that_have_ended_are_not_kept_until_the_server_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let made_at = Location::caller();
        let mut connections = Connections { tasks: JoinSet::new(), dropped: 0, made_at };
        let ended =
            [true, false, true].map(|by_itself| connections.tasks.spawn(async move { by_itself }));
        while !ended.iter().all(tokio::task::AbortHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        let waits = connections.tasks.spawn(std::future::pending());
        let ctx = Context::background();
        let client = TcpStream::connect(at);
        let (client, accepted) = tokio::join!(client, next(&ctx, &listener, &mut connections));
        assert!(client.is_ok() && accepted.is_ok());
        assert_eq!((connections.tasks.len(), connections.dropped), (1, 1));
        assert!(!waits.is_finished());
    }
}
