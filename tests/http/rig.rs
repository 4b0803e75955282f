//! Servers, raw clients, and waiting for the event itself.

use axum::Router;
use quell::http::{RequestEnd, Serve, Served, serve};
use quell::{Canceller, Context};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long anything may take before a test fails: what is waited for here
/// comes in milliseconds, or never.
const LONG: Duration = Duration::from_secs(30);

/// Waits for `future`, and fails if it is not ready in time.
#[track_caller]
pub(crate) fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let at = std::panic::Location::caller();
    let what = what.to_string();
    async move {
        match tokio::time::timeout(LONG, future).await {
            Ok(output) => output,
            Err(_) => panic!("waited in vain for: {what} ({at})"),
        }
    }
}

/// Looks again and again until `is_so` holds.
#[track_caller]
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    soon(what, async move {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// How many tasks this runtime has, besides the test itself.
pub(crate) fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A server on a port of its own.
pub(crate) struct Rig {
    pub(crate) at: SocketAddr,
    pub(crate) ctx: Context,
    pub(crate) stop: Canceller,
    pub(crate) served: JoinHandle<Served>,
}

impl Rig {
    pub(crate) async fn new(app: Router) -> Rig {
        Rig::with(app, |serve| serve).await
    }

    pub(crate) async fn with(
        app: Router,
        change: impl FnOnce(Serve<Router>) -> Serve<Router>,
    ) -> Rig {
        let (ctx, stop) = Context::background().with_cancel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = change(serve(&ctx, listener, app)).into_future();
        Rig { at, ctx, stop, served: tokio::spawn(serving) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.at).await.unwrap())
    }

    /// Stops it. Returns what became of it.
    pub(crate) async fn end(self) -> Served {
        self.stop.cancel_with("the test is over");
        soon("the server's end", self.served).await.unwrap()
    }
}

/// A connection on which any bytes may be sent.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) {
        self.say(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
    }

    /// Reads until it has seen `wanted`.
    pub(crate) async fn hear(&mut self, wanted: &str) -> String {
        let mut heard = String::new();
        let all = async {
            let mut chunk = [0; 1024];
            while !heard.contains(wanted) {
                let length = self.0.read(&mut chunk).await.unwrap();
                assert!(length > 0, "closed before {wanted:?} came: {heard:?}");
                heard.push_str(&String::from_utf8_lossy(&chunk[..length]));
            }
        };
        soon(wanted, all).await;
        heard
    }

    /// Reads until the other side closes, in whatever way.
    pub(crate) async fn hear_all(mut self) -> String {
        let mut heard = Vec::new();
        let all = async {
            let mut chunk = [0; 16 * 1024];
            while let Ok(length @ 1..) = self.0.read(&mut chunk).await {
                heard.extend_from_slice(&chunk[..length]);
            }
        };
        soon("the connection to be closed", all).await;
        String::from_utf8_lossy(&heard).into_owned()
    }
}

/// Receives what handlers report.
pub(crate) struct Reports<T>(mpsc::UnboundedReceiver<T>);

/// Through which handlers report.
#[derive(Debug)]
pub(crate) struct Reporter<T>(mpsc::UnboundedSender<T>);

impl<T> Clone for Reporter<T> {
    fn clone(&self) -> Self {
        Reporter(self.0.clone())
    }
}

pub(crate) fn reports<T>() -> (Reporter<T>, Reports<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Reporter(sender), Reports(receiver))
}

impl<T: Debug> Reports<T> {
    pub(crate) async fn next(&mut self) -> T {
        soon("a report", self.0.recv()).await.expect("somebody who reports")
    }

    pub(crate) fn none_yet(&mut self) {
        let next = self.0.try_recv();
        assert!(next.is_err(), "reported already: {next:?}");
    }
}

impl<T> Reporter<T> {
    pub(crate) fn tell(&self, report: T) {
        let _ = self.0.send(report);
    }
}

impl Reporter<String> {
    /// Reports why this context ended, once it has.
    pub(crate) fn end_of(&self, ctx: &Context) {
        let (ended, reporter) = (ctx.clone(), self.clone());
        ctx.after_func(move || reporter.tell(why(&ended)));
    }
}

/// Why it ended, in a few words.
pub(crate) fn why(ctx: &Context) -> String {
    match RequestEnd::of(ctx) {
        Some(RequestEnd::ClientGone) => "client gone".into(),
        Some(RequestEnd::ServerStopped(why)) => format!("server stopped: {why}"),
        Some(RequestEnd::ResponseFinished) => "finished".into(),
        Some(RequestEnd::Panicked) => "panicked".into(),
        Some(RequestEnd::TimeLimit(limit)) => format!("time limit {limit:?}"),
        Some(RequestEnd::PeersDeadline(limit)) => format!("peer's deadline {limit:?}"),
        Some(other) => panic!("unknown: {other:?}"),
        None => format!("{:?}", ctx.cause().map(|cause| cause.to_string())),
    }
}

/// One call of a service, without any socket.
pub(crate) async fn call<S, B>(
    service: &S,
    request: http::Request<B>,
) -> Result<S::Response, S::Error>
where
    S: tower_service::Service<http::Request<B>> + Clone,
{
    let mut service = service.clone();
    let answer = async move {
        std::future::poll_fn(|task| service.poll_ready(task)).await?;
        service.call(request).await
    };
    soon("an answer", answer).await
}

/// All of a body as text.
pub(crate) async fn text<B>(body: B) -> String
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<quell::BoxError>,
{
    let body = axum::body::Body::new(body);
    let bytes = soon("a body", axum::body::to_bytes(body, usize::MAX)).await.unwrap();
    String::from_utf8(bytes.into()).unwrap()
}
