//! When the context of a request ends, and why.

use super::rig::{Reporter, Rig, call, reports, soon, tasks, text, until, why};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream;
use http::{Method, Request, StatusCode, header};
use http_body::Frame;
use quell::http::{
    Client, ContextLayer, Ctx, PeerAddress, PropagationLayer, RequestEnd, RequestExt, TimeoutLayer,
    serve,
};
use quell::{Context, ContextError};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tower_layer::Layer;

#[tokio::test]
async fn what_is_alive_and_why_it_ended_are_told_by_lines_of_the_program_and_not_of_quells() {
    let (server, stop) = Context::background().with_cancel();
    let tree = server.clone();
    let alive = move |Ctx(ctx): Ctx, _body: Body| async move {
        let tree = tree.tree().to_string();
        let why = ctx.run(std::future::pending::<()>()).await.unwrap_err();
        let origin = why.cause().origin().map_or("nowhere", |at| at.file());
        format!("{tree}\n{} because of {origin}", why.cause())
    };
    let app = |limit| {
        Router::new()
            .route("/", post(alive.clone()))
            .layer(TimeoutLayer::from_millis(limit))
            .layer(PropagationLayer::new())
    };
    // A context around it, so that the layer links the two; and a server.
    let layered = ContextLayer::new(&server).layer(ContextLayer::new(&server).layer(app(20)));
    let request = || Request::post("http://inside/").body(Body::from("a body")).unwrap();
    let answer = Client::over(layered).send(&Context::background(), request()).await.unwrap();
    let within = answer.into_body().text(10_000).await.unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let served = tokio::spawn(serve(&server, listener, app(60_000)).into_future());
    let request =
        Request::post(url).header("x-timeout-ms", "20").body(Body::from("a body")).unwrap();
    let answer = Client::new().send(&Context::background(), request).await.unwrap();
    let over_tcp = answer.into_body().text(10_000).await.unwrap();

    for told in [within, over_tcp] {
        assert!(told.contains("timeout") && told.ends_with("tests/http/contexts.rs"), "{told}");
        assert!(!told.contains("src/"), "{told}");
    }
    stop.cancel();
    soon("the server's end", served).await.unwrap();
}

#[tokio::test]
async fn what_is_alive_in_a_server_that_stops_is_told_by_lines_of_the_program_too() {
    let (server, stop) = Context::background().with_cancel();
    let (reporter, mut reports) = reports();
    let slow = |tree: Context| async move {
        reporter.tell(());
        tree.done().await;
        until("the grace", || tree.tree().to_string().contains("timeout")).await;
        tree.tree().to_string()
    };
    let tree = server.clone();
    let app = Router::new().route("/", get(|| slow(tree)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let served = tokio::spawn(serve(&server, listener, app).into_future());
    let (client, ctx) = (Client::new(), Context::background());
    let stops = async {
        reports.next().await;
        stop.cancel();
    };
    let (answer, ()) = tokio::join!(client.get(&ctx, url), stops);
    let told = answer.unwrap().into_body().text(10_000).await.unwrap();
    assert!(!told.contains("src/"), "{told}");
    soon("the server's end", served).await.unwrap();
}

#[tokio::test]
async fn a_requests_end_began_where_its_server_was_stopped_or_out_of_sight_and_never_in_quell() {
    let (reporter, mut ends) = reports();
    let (begins, mut begun) = reports();
    let waits = move |Ctx(ctx): Ctx, _body: Body| async move {
        let ended = ctx.clone();
        ctx.after_func(move || {
            let origin = ended.cause().unwrap().origin();
            reporter.tell((why(&ended), origin.map(|at| (at.file(), at.line()))));
        });
        begins.tell(());
        if ctx.deadline().is_some() {
            std::future::pending().await
        }
    };
    // What has a limit waits for ever.
    let waits = Router::new().route("/", post(waits));
    let limit = TimeoutLayer::from_millis(60_000);
    let [ends_now, ends_later] = [waits.clone(), waits.layer(limit)];
    let request = |url: &str| Request::post(url).body(Body::from("a body")).unwrap();
    let ctx = Context::background();

    // The layer alone.
    let (server, stop) = Context::background().with_cancel();
    let ask = async |app: &Router| {
        let layered = ContextLayer::new(&server).layer(app.clone());
        Client::over(layered).send(&ctx, request("http://inside/")).await.map(drop)
    };
    ask(&ends_now).await.unwrap();
    assert_eq!(ends.next().await, ("finished".into(), None));
    let gives_up = async {
        begun.next().await;
        begun.next().await
    };
    tokio::select! { _ = ask(&ends_later) => unreachable!(), () = gives_up => {} }
    assert_eq!(ends.next().await, ("client gone".into(), None));
    let mut stopped = (file!(), 0);
    let stops = async {
        begun.next().await;
        (stopped.1, _) = (line!(), stop.cancel_with("stopped"));
    };
    tokio::select! { _ = ask(&ends_later) => unreachable!(), () = stops => {} }
    assert_eq!(ends.next().await, ("server stopped: stopped".into(), Some(stopped)));

    // And a server, which is stopped, or dropped.
    for drops in [false, true] {
        let (server, stop) = Context::background().with_cancel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (made, served) = (line!(), serve(&server, listener, ends_later.clone()));
        let served = tokio::spawn(served.grace(Duration::ZERO).into_future());
        let client = Client::new();
        let asked = tokio::spawn(async move {
            client.send(&Context::background(), request(&url)).await.map(drop)
        });
        begun.next().await;
        let (at, why) = if drops {
            served.abort();
            (made, "server stopped: the server was dropped")
        } else {
            stop.cancel_with("stopped");
            (line!() - 1, "server stopped: stopped")
        };
        assert_eq!(ends.next().await, (why.into(), Some((file!(), at))));
        asked.abort();
    }
}

/// Handlers that never answer, that answer in pieces, and that answer in many forms.
fn app(reporter: &Reporter<String>) -> Router {
    let watched = |name: &'static str| {
        let reporter = reporter.clone();
        move |Ctx(ctx): Ctx| {
            reporter.end_of(&ctx);
            reporter.tell(format!("{name} began"));
            ready(())
        }
    };
    use std::future::ready;
    let never = watched("never");
    let (quiet, busy, panics) = (watched("quiet"), watched("busy"), watched("panics"));
    let forms = ["whole", "empty", "gone", "counted", "chunked", "trailed", "broken"].map(watched);
    let [whole, empty, gone, counted, chunked, trailed, broken] = forms;
    Router::new()
        .route(
            "/never",
            get(|ctx: Ctx| async move {
                never(ctx).await;
                std::future::pending::<()>().await
            }),
        )
        .route(
            "/quiet",
            get(|ctx: Ctx| async move {
                quiet(ctx).await;
                pieces(1, true)
            }),
        )
        .route(
            "/busy",
            get(|ctx: Ctx| async move {
                busy(ctx).await;
                endless()
            }),
        )
        .route(
            "/panics",
            get(|ctx: Ctx| async move {
                panics(ctx).await;
                panic_now()
            }),
        )
        .route(
            "/whole",
            get(|ctx: Ctx| async move {
                whole(ctx).await;
                "hello"
            }),
        )
        .route(
            "/empty",
            get(|ctx: Ctx| async move {
                empty(ctx).await;
                ""
            }),
        )
        .route(
            "/gone",
            get(|ctx: Ctx| async move {
                gone(ctx).await;
                StatusCode::NO_CONTENT
            }),
        )
        .route(
            "/counted",
            get(|ctx: Ctx| async move {
                counted(ctx).await;
                ([("content-length", "12")], pieces(2, true)).into_response()
            }),
        )
        .route(
            "/chunked",
            get(|ctx: Ctx| async move {
                chunked(ctx).await;
                pieces(3, false)
            }),
        )
        .route(
            "/trailed",
            get(|ctx: Ctx| async move {
                trailed(ctx).await;
                Body::new(Trailed(["rows", "7"].into()))
            }),
        )
        .route(
            "/broken",
            get(|ctx: Ctx| async move {
                broken(ctx).await;
                Body::from_stream(stream::iter([Ok("part"), Err(std::io::Error::other("no more"))]))
            }),
        )
}

/// A body whose last frame is a trailer: nobody asks what comes after that.
struct Trailed(VecDeque<&'static str>);

impl http_body::Body for Trailed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let last = self.0.len() == 1;
        Poll::Ready(self.0.pop_front().map(|text| {
            Ok(if last {
                Frame::trailers([(header::ETAG, text.parse().unwrap())].into_iter().collect())
            } else {
                Frame::data(text.into())
            })
        }))
    }
}

/// `count` pieces of six bytes, and then the end, or nothing if it hangs.
fn pieces(count: usize, hangs: bool) -> Body {
    let pieces = stream::iter((0..count).map(|_| Ok::<_, Infallible>(Bytes::from("piece\n"))));
    match hangs {
        true => Body::from_stream(futures::StreamExt::chain(pieces, stream::pending())),
        false => Body::from_stream(pieces),
    }
}

fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 4096]))))
}

fn panic_now() -> Response {
    panic!("a handler that panics on purpose")
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_context_while_the_handler_runs() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(&reporter)).await;
    let mut client = rig.connect().await;
    client.get("/never").await;
    assert_eq!(reports.next().await, "never began");
    reports.none_yet();
    drop(client);
    assert_eq!(reports.next().await, "client gone");
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_context_while_a_body_is_streamed_busy_or_quiet() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(&reporter)).await;
    for (path, seen) in [("quiet", "piece"), ("busy", "xxxx")] {
        let mut client = rig.connect().await;
        client.get(&format!("/{path}")).await;
        assert_eq!(reports.next().await, format!("{path} began"));
        client.hear(seen).await;
        reports.none_yet();
        drop(client);
        assert_eq!(reports.next().await, "client gone");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_reset_stream_of_http2_ends_its_own_context_and_no_other() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(&reporter)).await;
    let stream = tokio::net::TcpStream::connect(rig.at).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut requests = Vec::new();
    for _ in 0..2 {
        let request = Request::get(rig.url("/never")).body(Body::empty()).unwrap();
        requests.push(tokio::spawn(sender.send_request(request)));
        assert_eq!(reports.next().await, "never began");
    }
    requests.remove(0).abort();
    assert_eq!(reports.next().await, "client gone");
    reports.none_yet();

    let request = Request::get(rig.url("/whole")).body(Body::empty()).unwrap();
    let whole = soon("an answer beside it", sender.send_request(request)).await.unwrap();
    assert_eq!(text(whole.into_body()).await, "hello");
    assert_eq!(reports.next().await, "whole began");
    assert_eq!(reports.next().await, "finished");
    requests.remove(0).abort();
    assert_eq!(reports.next().await, "client gone");
    drop(sender);
    soon("the connection to be closed", connection).await.unwrap().unwrap();
    rig.end().await;
}

#[tokio::test]
async fn a_finished_response_ends_the_context_whatever_its_form() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(&reporter)).await;
    let mut client = rig.connect().await;
    // The last bytes of each answer; the connection stays open.
    for (method, path, last) in [
        ("GET", "whole", "hello"),
        ("HEAD", "whole", "\r\n\r\n"),
        ("GET", "empty", "\r\n\r\n"),
        ("GET", "gone", "\r\n\r\n"),
        // Its body would go on, but all that was announced has been sent.
        ("GET", "counted", "piece\npiece\n"),
        ("GET", "chunked", "0\r\n\r\n"),
        ("HEAD", "chunked", "\r\n\r\n"),
        ("GET", "trailed", "0\r\n\r\n"),
    ] {
        client.say(&format!("{method} /{path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        client.hear(last).await;
        assert_eq!(reports.next().await, format!("{path} began"), "{method} /{path}");
        assert_eq!(reports.next().await, "finished", "{method} /{path}");
    }
    client.get("/broken").await;
    client.hear_all().await;
    assert_eq!(reports.next().await, "broken began");
    assert_eq!(reports.next().await, "finished");
    let (ctx, client) = (Context::background(), Client::http2());
    for (path, said) in [("whole", "hello"), ("trailed", "rows")] {
        let answer = client.get(&ctx, rig.url(&format!("/{path}"))).await.unwrap();
        assert_eq!(text(answer.into_body()).await, said);
        assert_eq!(reports.next().await, format!("{path} began"));
        assert_eq!(reports.next().await, "finished", "/{path} over HTTP/2");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_handler_that_panics_is_not_taken_for_a_client_that_left() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(&reporter)).await;
    let mut client = rig.connect().await;
    client.get("/panics").await;
    assert_eq!(client.hear_all().await, "");
    assert_eq!(reports.next().await, "panics began");
    assert_eq!(reports.next().await, "panicked");
    let mut client = rig.connect().await;
    client.get("/whole").await;
    client.hear("hello").await; // The server goes on.
    rig.end().await;
}

#[tokio::test]
async fn under_another_server_the_layer_tells_all_three_ends_apart() {
    let (reporter, mut reports) = reports();
    let (server, stop) = Context::background().with_cancel();
    let app = app(&reporter).layer(ContextLayer::new(&server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let done = server.done();
    let served = tokio::spawn(
        axum::serve(listener, app)
            .with_graceful_shutdown(async move { _ = done.await })
            .into_future(),
    );
    let connect = || async { super::rig::Raw(tokio::net::TcpStream::connect(at).await.unwrap()) };

    let mut client = connect().await;
    client.get("/never").await;
    assert_eq!(reports.next().await, "never began");
    drop(client);
    assert_eq!(reports.next().await, "client gone");

    let mut client = connect().await;
    client.get("/whole").await;
    assert_eq!(reports.next().await, "whole began");
    assert_eq!(reports.next().await, "finished");

    client.get("/never").await;
    assert_eq!(reports.next().await, "never began");
    stop.cancel_with("the machine goes down");
    assert_eq!(reports.next().await, "server stopped: the machine goes down");
    drop(client);
    soon("the server's end", served).await.unwrap().unwrap();
}

#[tokio::test]
async fn when_the_servers_cancel_returns_every_request_is_marked() {
    let (server, stop) = Context::background().with_cancel();
    let layer = ContextLayer::new(&server);
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let service = layer.layer(Router::new().fallback(get(move |Ctx(ctx): Ctx| async move {
        seen.send(ctx).unwrap();
        std::future::pending::<()>().await
    })));
    let running: Vec<_> = (0..3)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { call(&service, Request::new(Body::empty())).await })
        })
        .collect();
    let mut contexts = Vec::new();
    for _ in &running {
        contexts.push(soon("a request", requests.recv()).await.unwrap());
    }
    stop.cancel_with("shutting down");
    for ctx in &contexts {
        assert_eq!(ctx.err(), Some(ContextError::Cancelled));
        assert_eq!(why(ctx), "server stopped: shutting down");
    }
    running.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn a_request_sees_the_servers_values_and_deadline_and_who_is_calling() {
    struct Release(&'static str);
    let (server, _stop) = Context::background().with_timeout(Duration::from_secs(3600));
    let server = server.with_value(Release("7.1"));
    let handler = |Ctx(ctx): Ctx| async move {
        let Release(release) = ctx.value().unwrap();
        format!("{release} {}", ctx.remaining().is_some())
    };
    let app = Router::new().route("/", get(handler)).layer(ContextLayer::new(&server));
    let answer = call(&app, Request::new(Body::empty())).await.unwrap();
    assert_eq!(text(answer.into_body()).await, "7.1 true");

    let whoami = |Ctx(ctx): Ctx| async move {
        let PeerAddress(peer) = ctx.value().unwrap();
        peer.to_string()
    };
    let rig = Rig::new(Router::new().route("/", get(whoami))).await;
    let mut client = rig.connect().await;
    client.get("/").await;
    client.hear(&client.0.local_addr().unwrap().to_string()).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_servers_deadline_is_the_end_of_the_server() {
    let (server, _stop) = Context::background().with_timeout(Duration::from_secs(5));
    let (reporter, mut reports) = reports();
    let service = ContextLayer::new(&server).layer(app(&reporter));
    let request = Request::get("/never").body(Body::empty()).unwrap();
    let running = tokio::spawn(async move { call(&service, request).await });
    assert_eq!(reports.next().await, "never began");
    assert_eq!(reports.next().await, "server stopped: context deadline exceeded");
    running.abort();
}

#[tokio::test]
async fn a_request_that_has_a_context_keeps_its_values_and_ends_with_either() {
    struct Outer;
    let (server, stop) = Context::background().with_cancel();
    for from_outside in [true, false] {
        let (outer, end_outer) = Context::background().with_value(Outer).with_cancel();
        let (reporter, mut reports) = reports();
        let handler = move |Ctx(ctx): Ctx| async move {
            assert!(ctx.value::<Outer>().is_some());
            reporter.end_of(&ctx);
            reporter.tell("began".into());
            std::future::pending::<()>().await
        };
        let app = Router::new().route("/", get(handler)).layer(ContextLayer::new(&server));
        let request = Request::new(Body::empty()).with_context(outer);
        let running = tokio::spawn(async move { call(&app, request).await });
        assert_eq!(reports.next().await, "began");
        if from_outside {
            end_outer.cancel_with("from outside");
            assert_eq!(reports.next().await, "Some(\"from outside\")");
        } else {
            stop.cancel_with("shutting down");
            assert_eq!(reports.next().await, "server stopped: shutting down");
        }
        running.abort();
    }
}

#[tokio::test]
async fn a_layer_that_is_gone_leaves_nothing_in_the_servers_context() {
    let (server, _stop) = Context::background().with_cancel();
    let layer = ContextLayer::new(&server);
    let service = layer.layer(Router::<()>::new());
    drop(layer);
    assert_eq!(server.tree().len(), 1, "the service still hears of the end");
    drop(service);
    assert_eq!(server.tree().len(), 0);
}

/// Answers with this status, and a body that never ends.
#[derive(Clone)]
struct Answers(StatusCode, Reporter<String>);

impl tower_service::Service<Request<Body>> for Answers {
    type Response = Response;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.1.end_of(&request.context());
        std::future::ready(Ok((self.0, endless()).into_response()))
    }
}

#[tokio::test]
async fn a_body_that_must_not_be_sent_is_finished_when_it_is_dropped() {
    let server = Context::background();
    for (method, status, end) in [
        (Method::GET, StatusCode::OK, "client gone"),
        (Method::HEAD, StatusCode::OK, "finished"),
        (Method::GET, StatusCode::NO_CONTENT, "finished"),
        (Method::GET, StatusCode::NOT_MODIFIED, "finished"),
    ] {
        let (reporter, mut reports) = reports();
        let service = ContextLayer::new(&server).layer(Answers(status, reporter));
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method.clone();
        let answer = call(&service, request).await.unwrap();
        reports.none_yet();
        drop(answer);
        assert_eq!(reports.next().await, end, "{method} {status}");
    }
}

#[tokio::test]
async fn a_request_that_outlives_its_service_hears_of_the_servers_end() {
    let (server, stop) = Context::background().with_cancel();
    let (reporter, mut reports) = reports();
    let service = ContextLayer::new(&server).layer(app(&reporter));
    let request = Request::get("/quiet").body(Body::empty()).unwrap();
    let answer = call(&service, request).await.unwrap();
    drop(service);
    assert_eq!(reports.next().await, "quiet began");
    stop.cancel_with("shutting down");
    assert_eq!(reports.next().await, "server stopped: shutting down");
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_ends_by_its_servers_deadline_is_told_why_the_server_has_one() {
    let minute = Duration::from_secs(60);
    let (server, _stop) = Context::background().with_timeout_cause(minute, "closing time");
    let (reporter, mut reports) = reports();
    let service = ContextLayer::new(&server).layer(Answers(StatusCode::OK, reporter));
    let answer = call(&service, Request::new(Body::empty())).await.unwrap();
    reports.none_yet();
    tokio::time::sleep(minute).await;
    assert_eq!(reports.next().await, "server stopped: closing time");
    drop(answer);
}

#[tokio::test]
async fn the_context_has_ended_before_anything_of_the_handler_is_dropped() {
    struct Asks(Context, Reporter<String>);
    impl Drop for Asks {
        fn drop(&mut self) {
            self.1.tell(why(&self.0));
        }
    }
    let (reporter, mut reports) = reports();
    let told = reporter.clone();
    let app = Router::new().route(
        "/",
        get(move |Ctx(ctx): Ctx| async move {
            let _asks = Asks(ctx, told.clone());
            told.tell("began".into());
            std::future::pending::<()>().await
        }),
    );
    let rig = Rig::new(app).await;
    let mut client = rig.connect().await;
    client.get("/").await;
    assert_eq!(reports.next().await, "began");
    drop(client);
    assert_eq!(reports.next().await, "client gone");
    rig.end().await;
}

#[tokio::test]
async fn no_context_and_no_task_is_left_of_requests_that_ended() {
    let before = tasks();
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(&reporter)).await;
    for path in ["whole", "never", "quiet", "chunked", "panics"] {
        let mut client = rig.connect().await;
        client.get(&format!("/{path}")).await;
        assert_eq!(reports.next().await, format!("{path} began"));
        drop(client);
        reports.next().await;
    }
    until("only the server to be left", || tasks() == before + 1).await;
    // The context that serves, and the one that requests are derived from.
    until("its own two contexts", || rig.ctx.tree().len() == 2).await;
    let ctx = rig.ctx.clone();
    rig.end().await;
    assert_eq!(ctx.tree().len(), 0);
    until("no task to be left", || tasks() == before).await;
}

#[test]
fn a_request_without_a_context_has_one_that_says_so() {
    let request = Request::new(());
    assert_eq!(request.context().to_string(), "todo");
    let (mut parts, ()) = request.into_parts();
    assert_eq!(parts.context().to_string(), "todo");
    let (ctx, canceller) = Context::background().with_cancel();
    parts = parts.with_context(&ctx);
    canceller.cancel();
    assert!(parts.context().is_done());
}

#[test]
fn every_end_reads_as_a_sentence_and_only_the_servers_has_a_source() {
    use std::error::Error;
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("shutting down");
    let ends = [
        (RequestEnd::ClientGone, "the client went away"),
        (RequestEnd::ServerStopped(ctx.cause().unwrap()), "the server stopped: shutting down"),
        (RequestEnd::ResponseFinished, "the response is finished"),
        (RequestEnd::Panicked, "the handler panicked"),
        (
            RequestEnd::TimeLimit(Duration::from_millis(50)),
            "the request took longer than its limit of 50ms",
        ),
        (
            RequestEnd::PeersDeadline(Duration::from_millis(50)),
            "the request took longer than the 50ms that its caller was going to wait",
        ),
    ];
    for (end, text) in ends {
        assert_eq!(end.to_string(), text);
        assert_eq!(end.source().is_some(), matches!(end, RequestEnd::ServerStopped(_)));
    }
    assert!(RequestEnd::of(&ctx).is_none());
    assert!(RequestEnd::of(&Context::background()).is_none());
}
