//! The client, and how a call is made.

use super::body::CancelBody;
use super::error::CallName;
use super::{CallBody, CallError, Transport};
use crate::context::{BoxError, Context};
use crate::http::propagation::{TRACKING_ID, propagate_as};
use ::http::{HeaderName, Method, Request, Response, Uri};
use bytes::Bytes;
use std::future::poll_fn;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

/// The body of a request as it is sent, of whatever kind it was.
pub(super) type Body = axum_core::body::Body;

/// Calls other services; each call ends with the context that it is given.
///
/// A request carries the time that is left, and the tracking id: see
/// [`propagate`](crate::http::propagate). A call that is given up is dropped where it is: waiting
/// for a connection, connecting, waiting for the answer, or in the middle of its body. An HTTP/1.1
/// connection is then closed, and an HTTP/2 stream reset.
///
/// ```no_run
/// use quell::Context;
/// use quell::http::{CallError, Client};
/// use std::time::Duration;
///
/// async fn weather(ctx: &Context, client: &Client) -> Result<String, CallError> {
///     let (ctx, _canceller) = ctx.with_timeout(Duration::from_secs(2));
///     let answer = client.get(&ctx, "http://weather.internal/today").await?;
///     answer.into_body().text(64 * 1024).await
/// }
/// ```
///
/// Clones share their connections. A call that is still connecting when a kept connection becomes
/// free takes that one; the new one is completed without the call, and kept for the next. Names are
/// looked up on a thread of tokio's blocking pool, which finishes even if the call is given up.
#[derive(Clone, Debug)]
pub struct Client<S = Transport> {
    service: S,
    id: HeaderName,
    /// Whether the bodies of all answers are hyper's, over HTTP/2.
    is_http2: bool,
}

impl Client {
    /// Creates a client over plain TCP, with connections that are kept and used again.
    #[must_use]
    pub fn new() -> Self {
        Client::over(Transport::new(false))
    }

    /// Creates a client over plain TCP for servers that are known to speak HTTP/2.
    #[must_use]
    pub fn http2() -> Self {
        Client { is_http2: true, ..Client::over(Transport::new(true)) }
    }

    /// Creates a client over streams of your own making, with HTTP/1.1 on each, kept and used
    /// again: through TLS, over a Unix socket, or inside a test. The closure is given the address
    /// that is called; giving up a call that is connecting drops the closure's future.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use quell::http::Client;
    /// use tokio::net::UnixStream;
    ///
    /// let client = Client::connecting(|_uri| UnixStream::connect("/run/docker.sock"));
    /// # drop(client);
    /// # }
    /// ```
    #[must_use]
    pub fn connecting<C, F, S>(connect: C) -> Self
    where
        C: Fn(Uri) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Client::over(Transport::connecting(connect))
    }
}

impl Default for Client {
    fn default() -> Self {
        Client::new()
    }
}

impl<S> Client<S> {
    /// Creates a client over any service that takes its requests: a client with TLS, or one with
    /// layers around it.
    pub fn over(service: S) -> Self {
        Client { service, id: TRACKING_ID, is_http2: false }
    }

    /// Uses another header than `X-GUID` for the tracking id.
    #[must_use = "this returns the client with the change"]
    pub fn tracking_header(self, name: HeaderName) -> Self {
        Client { id: name, ..self }
    }
}

impl<S, R> Client<S>
where
    S: Service<Request<axum_core::body::Body>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: http_body::Body,
{
    /// Sends a `GET` request to this address.
    ///
    /// # Errors
    ///
    /// When the context ends, and when the call fails. A status is not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the call.
    pub async fn get<U>(&self, ctx: &Context, uri: U) -> Result<Response<CallBody<R>>, CallError>
    where
        U: TryInto<Uri>,
        U::Error: Into<BoxError>,
    {
        let uri = uri
            .try_into()
            .map_err(|error| CallError::failed(CallName::unreadable(&Method::GET), error))?;
        let mut request = Request::new(axum_core::body::Body::empty());
        *request.uri_mut() = uri;
        self.send(ctx, request).await
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// When the context ends, and when the call fails. A status is not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the call.
    pub async fn send<B>(
        &self,
        ctx: &Context,
        request: Request<B>,
    ) -> Result<Response<CallBody<R>>, CallError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let call = CallName::new(request.method(), request.uri());
        let mut request =
            request.map(|body| axum_core::body::Body::new(CancelBody::new(ctx, body)));
        propagate_as(ctx, request.headers_mut(), &self.id);
        let mut service = self.service.clone();
        let answer = ctx.run(async move {
            poll_fn(|task| service.poll_ready(task)).await?;
            service.call(request).await
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer.map(|body| CallBody::new(call, ctx, body, self.is_http2))),
            Ok(Err(error)) => Err(CallError::failed(call, error)),
            Err(cancelled) => Err(CallError::gave_up(call, cancelled)),
        }
    }
}
