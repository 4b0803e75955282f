//! A server that ends with its context.

use super::rig::{Raw, Rig, reports, soon, tasks, until, why};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::get;
use futures::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use quell::Context;
use quell::http::{Client, Ctx, LimitLayer, serve};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Handlers: one waits at a gate, one waits for its context, one never ends, one
/// answers at once, and one sends more than is ever read.
fn app(reporter: super::rig::Reporter<String>, gate: Arc<Semaphore>) -> Router {
    let (gated, polite, stuck) = (reporter.clone(), reporter.clone(), reporter);
    Router::new()
        .route(
            "/gated",
            get(|Ctx(ctx): Ctx| async move {
                gated.tell("gated began".into());
                let _pass = gate.acquire().await.unwrap();
                format!("through, {}\n", ctx.is_done())
            }),
        )
        .route(
            "/polite",
            get(|Ctx(ctx): Ctx| async move {
                polite.tell("polite began".into());
                ctx.done().await;
                format!("sorry: {}\n", why(&ctx))
            }),
        )
        .route(
            "/stuck",
            get(|Ctx(ctx): Ctx| async move {
                stuck.end_of(&ctx);
                stuck.tell("stuck began".into());
                std::future::pending::<()>().await
            }),
        )
        .route("/hello", get(|| async { "hello\n" }))
        .route(
            "/endless",
            get(|| async {
                let piece = || Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024]));
                Body::from_stream(stream::repeat_with(piece))
            }),
        )
}

#[tokio::test]
async fn a_request_that_runs_is_answered_within_the_grace_and_no_new_one_is_accepted() {
    let (reporter, mut reports) = reports();
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::with(app(reporter, gate.clone()), |serve| serve.grace(Duration::MAX)).await;
    let mut client = rig.connect().await;
    client.get("/gated").await;
    assert_eq!(reports.next().await, "gated began");
    rig.stop.cancel_with("a new release");
    let at = rig.at;
    soon("connections to be refused", async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.add_permits(1);
    let heard = client.hear_all().await;
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("through, false"), "{heard}");
    assert!(heard.contains("connection: close"), "{heard}");
    let served = rig.end().await;
    assert_eq!((served.connections, served.cancelled, served.dropped), (1, 0, 0));
    assert_eq!(served.to_string(), "1 connections, all drained");
}

#[tokio::test]
async fn idle_connections_are_closed_at_once_whether_or_not_they_were_used() {
    let (reporter, _reports) = reports();
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::with(app(reporter, gate), |serve| serve.grace(Duration::MAX)).await;
    let unused = rig.connect().await;
    let mut used = rig.connect().await;
    used.get("/hello").await;
    used.hear("hello\n").await;
    let client = Client::http2();
    let ctx = Context::background();
    let answer = client.get(&ctx, rig.url("/hello")).await.unwrap();
    assert_eq!(answer.into_body().text(100).await.unwrap(), "hello\n");
    let served = rig.end().await;
    assert_eq!((served.connections, served.cancelled), (3, 0));
    assert_eq!(unused.hear_all().await, "");
    assert_eq!(used.hear_all().await, "");
}

#[tokio::test]
async fn a_connection_whose_last_body_was_read_to_its_trailers_is_idle() {
    let echo = |body: Body| async { body };
    let change = |serve: quell::http::Serve<Router>| serve.grace(Duration::from_millis(500));
    let rig = Rig::with(Router::new().route("/", axum::routing::post(echo)), change).await;
    let mut client = rig.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    client.say(&format!("{head}4\r\nrows\r\n0\r\netag: 7\r\n\r\n")).await;
    client.hear("rows\r\n0\r\n\r\n").await;
    // It keeps its side open, and the server does not wait for it.
    assert_eq!(rig.end().await.to_string(), "1 connections, all drained");
}

#[tokio::test]
async fn after_the_grace_a_request_is_cancelled_with_the_cause_and_may_still_say_so() {
    let (reporter, mut reports) = reports();
    let gate = Arc::new(Semaphore::new(0));
    let change = |serve: quell::http::Serve<Router>| {
        serve.grace(Duration::from_millis(20)).last_words(Duration::MAX)
    };
    let rig = Rig::with(app(reporter, gate), change).await;
    let mut client = rig.connect().await;
    client.get("/polite").await;
    assert_eq!(reports.next().await, "polite began");
    let served = rig.end().await;
    let heard = client.hear_all().await;
    assert!(heard.contains("sorry: server stopped: the test is over"), "{heard}");
    assert_eq!((served.cancelled, served.dropped), (1, 0));
    assert_eq!(served.to_string(), "1 connections, 1 cancelled, 0 dropped");
}

#[tokio::test]
async fn a_request_that_does_not_listen_is_dropped_after_its_last_words() {
    let before = tasks();
    for client in [None, Some(Client::http2())] {
        let (reporter, mut reports) = reports();
        let gate = Arc::new(Semaphore::new(0));
        let moment = Duration::from_millis(20);
        let rig =
            Rig::with(app(reporter, gate), |serve| serve.grace(moment).last_words(moment)).await;
        let url = rig.url("/stuck");
        let call = match client {
            Some(client) => tokio::spawn(async move {
                client.get(&Context::background(), url).await.map(drop).is_err()
            }),
            None => {
                let mut raw = rig.connect().await;
                raw.get("/stuck").await;
                tokio::spawn(async move { raw.hear_all().await.is_empty() })
            }
        };
        assert_eq!(reports.next().await, "stuck began");
        let ctx = rig.ctx.clone();
        let served = rig.end().await;
        assert_eq!((served.cancelled, served.dropped), (1, 1));
        assert_eq!(reports.next().await, "server stopped: the test is over");
        assert!(soon("the client to notice", call).await.unwrap());
        assert_eq!(ctx.tree().len(), 0);
    }
    until("nothing to be left", || tasks() == before).await;
}

#[tokio::test]
async fn a_server_that_is_dropped_ends_its_requests_first() {
    let before = tasks();
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(reporter, Arc::new(Semaphore::new(0)))).await;
    let mut client = rig.connect().await;
    client.get("/stuck").await;
    assert_eq!(reports.next().await, "stuck began");
    rig.served.abort();
    assert_eq!(reports.next().await, "server stopped: the server was dropped");
    assert_eq!(client.hear_all().await, "");
    until("nothing to be left", || tasks() == before).await;
}

#[tokio::test]
async fn a_server_whose_context_has_ended_accepts_nobody() {
    let (ctx, stop) = Context::background().with_cancel();
    stop.cancel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = soon("the end", serve(&ctx, listener, Router::new()).into_future()).await;
    assert_eq!((served.connections, served.dropped), (0, 0));
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_headers_is_sent_away() {
    let change =
        |serve: quell::http::Serve<Router>| serve.header_timeout(Duration::from_millis(30));
    let (reporter, _reports) = reports();
    let rig = Rig::with(app(reporter, Arc::new(Semaphore::new(0))), change).await;
    for beginning in ["", "GET /hel", "GET /hello HTTP/1.1\r\nhost: te"] {
        let mut client = rig.connect().await;
        client.say(beginning).await;
        let heard = client.hear_all().await;
        assert!(!heard.contains("hello"), "{heard}");
    }
    // A client that is quick enough is served as usual.
    let mut client = rig.connect().await;
    client.get("/hello").await;
    client.hear("hello\n").await;
    rig.end().await;
}

#[tokio::test]
async fn a_client_of_http2_that_is_gone_without_a_word_is_noticed_and_a_quiet_one_is_kept() {
    let gate = Arc::new(Semaphore::new(0));
    let (reporter, mut reports) = reports();
    let change =
        |serve: quell::http::Serve<Router>| serve.header_timeout(Duration::from_millis(300));
    let rig = Rig::with(app(reporter, gate.clone()), change).await;
    // One client waits, and answers the pings that ask whether it is there.
    let (client, url) = (Client::http2(), rig.url("/gated"));
    let quiet = tokio::spawn(async move {
        let answer = client.get(&Context::background(), url).await?;
        answer.into_body().text(100).await
    });
    assert_eq!(reports.next().await, "gated began");
    // One asks for `/stuck`, and is never heard of again.
    let mut gone = rig.connect().await;
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        &[0, 0, 13, 1, 5, 0, 0, 0, 1],
        &[0x82, 0x86, 0x41, 1, b't', 0x04, 6],
        b"/stuck",
    ];
    gone.0.write_all(&request.concat()).await.unwrap();
    assert_eq!(reports.next().await, "stuck began");
    assert_eq!(reports.next().await, "client gone");
    gate.add_permits(1);
    assert_eq!(soon("the quiet one", quiet).await.unwrap().unwrap(), "through, false\n");
    drop(gone);
    rig.end().await;
}

#[tokio::test]
async fn a_body_over_http2_that_breaks_off_is_not_taken_for_a_whole_one() {
    let (reporter, mut reports) = reports();
    let upload = axum::routing::post(move |Ctx(ctx): Ctx, body: Body| async move {
        reporter.end_of(&ctx);
        let read = axum::body::to_bytes(body, 100).await;
        reporter.tell(read.map_or("broken off".into(), |all| format!("{} bytes", all.len())));
        std::future::pending::<()>().await
    });
    let moment = Duration::from_millis(100);
    let change = move |serve: quell::http::Serve<Router>| {
        serve.header_timeout(moment).body_timeout(Duration::MAX)
    };
    let rig = Rig::with(Router::new().route("/upload", upload), change).await;
    let half = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        &[0, 0, 14, 1, 4, 0, 0, 0, 1],
        &[0x83, 0x86, 0x41, 1, b't', 0x04, 7],
        b"/upload",
        &[0, 0, 4, 0, 0, 0, 0, 0, 1],
        b"half",
    ];
    // A proxy whose own client has gone may say that nothing is wrong.
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    // The other is never heard of again.
    for end in [&reset[..], &[]] {
        let mut client = rig.connect().await;
        client.0.write_all(&half.concat()).await.unwrap();
        client.0.write_all(end).await.unwrap();
        let said = BTreeSet::from([reports.next().await, reports.next().await]);
        assert_eq!(said, BTreeSet::from(["broken off".into(), "client gone".into()]));
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_keep_the_server() {
    let (reporter, _reports) = reports();
    let moment = Duration::from_millis(20);
    let change = move |serve: quell::http::Serve<Router>| serve.grace(moment).last_words(moment);
    let rig = Rig::with(app(reporter, Arc::new(Semaphore::new(0))), change).await;
    let mut client = rig.connect().await;
    client.get("/endless").await;
    client.hear("xxxx").await; // And no more.
    let served = rig.end().await;
    assert_eq!((served.connections, served.cancelled, served.dropped), (1, 1, 1));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_given_up() {
    let (reporter, mut reports) = reports();
    let handler = move |Ctx(ctx): Ctx| async move {
        reporter.end_of(&ctx);
        let piece = || Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024]));
        Body::from_stream(stream::repeat_with(piece))
    };
    let app = Router::new().route("/", get(handler));
    let rig = Rig::with(app, |serve| serve.write_timeout(Duration::from_millis(50))).await;
    let mut client = rig.connect().await;
    client.get("/").await;
    client.hear("xxxx").await; // And no more.
    assert_eq!(reports.next().await, "client gone");
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_limit_when_the_server_has_ended() {
    let (reporter, mut reports) = reports();
    let server_ended = Arc::new(Semaphore::new(0));
    let gate = server_ended.clone();
    let handler = move |request: axum::extract::Request| async move {
        tokio::spawn(async move {
            let mut upgraded = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            reporter.tell("upgraded".to_string());
            let _pass = gate.acquire().await.unwrap();
            let sent = loop {
                if let Err(error) = upgraded.write_all(&[b'x'; 64 * 1024]).await {
                    break error;
                }
            };
            reporter.tell(format!("{:?}", sent.kind()));
        });
        let headers = [("connection", "upgrade"), ("upgrade", "x")];
        (StatusCode::SWITCHING_PROTOCOLS, headers)
    };
    let app = Router::new().route("/", get(handler));
    let rig = Rig::with(app, |serve| serve.write_timeout(Duration::from_millis(50))).await;
    let mut client = rig.connect().await;
    client.say("GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    client.hear("101").await; // And no more.
    assert_eq!(reports.next().await, "upgraded");
    rig.end().await;
    server_ended.add_permits(1);
    assert_eq!(reports.next().await, "TimedOut");
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_under_load_answers_whole_or_not_at_all() {
    let before = tasks();
    let (reporter, _reports) = reports();
    let rig = Rig::new(app(reporter, Arc::new(Semaphore::new(0)))).await;
    let answered = Arc::new(Semaphore::new(0));
    let clients: Vec<_> = (0..32)
        .map(|number| {
            let (at, answered, url) = (rig.at, answered.clone(), rig.url("/hello"));
            tokio::spawn(async move {
                if number % 2 == 0 {
                    let (client, ctx) = (Client::new(), Context::background());
                    while let Ok(answer) = client.get(&ctx, url.as_str()).await {
                        assert_eq!(answer.into_body().text(100).await.unwrap(), "hello\n");
                        answered.add_permits(1);
                    }
                } else {
                    while let Ok(stream) = TcpStream::connect(at).await {
                        let mut raw = Raw(stream);
                        let get = b"GET /hello HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
                        if tokio::io::AsyncWriteExt::write_all(&mut raw.0, get).await.is_err() {
                            break;
                        }
                        let heard = raw.hear_all().await;
                        assert!(heard.is_empty() || heard.ends_with("hello\n"), "{heard}");
                        answered.add_permits(1);
                    }
                }
            })
        })
        .collect();
    until("a thousand answers", || answered.available_permits() >= 1000).await;
    let ctx = rig.ctx.clone();
    let served = rig.end().await;
    assert_eq!((served.cancelled, served.dropped), (0, 0), "{served}");
    assert_eq!(ctx.tree().len(), 0);
    for client in clients {
        soon("a client to notice", client).await.unwrap();
    }
    until("nothing to be left", || tasks() == before).await;
}

/// A service that is not ready before this instant, as one with a limit may be.
#[derive(Clone)]
struct Busy(tokio::time::Instant);

impl tower_service::Service<http::Request<Body>> for Busy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, task: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.0 <= tokio::time::Instant::now() {
            return Poll::Ready(Ok(()));
        }
        let (until, waker) = (self.0, task.waker().clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            waker.wake();
        });
        Poll::Pending
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::ready(Ok(http::Response::new(Body::from("hello"))))
    }
}

#[tokio::test]
async fn a_request_that_has_come_in_time_may_wait_for_its_service() {
    let asks = [Client::new(), Client::http2()].map(|client| async move {
        let (ctx, _stop) = Context::background().with_cancel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let busy = Busy(tokio::time::Instant::now() + Duration::from_millis(2500));
        let limited = serve(&ctx, listener, busy).header_timeout(Duration::from_secs(1));
        tokio::spawn(limited.into_future());
        let answer = soon("an answer", client.get(&Context::background(), url)).await;
        assert_eq!(answer.unwrap().into_body().text(100).await.unwrap(), "hello");
    });
    futures::future::join_all(asks).await;
}

#[tokio::test]
async fn a_client_that_does_not_send_its_body_keeps_no_place() {
    let limit = LimitLayer::new(1, 0);
    let (tell, mut told) = reports();
    let post = axum::routing::post(|Ctx(ctx): Ctx, body: Body| async move {
        tell.end_of(&ctx);
        let body = axum::body::to_bytes(body, 100).await;
        body.map_or_else(|error| error.to_string(), |_| "all of it".into())
    });
    let app = Router::new().route("/", post).layer(limit.clone());
    let rig = Rig::with(app, |serve| serve.body_timeout(Duration::from_millis(100))).await;
    let mut raw = rig.connect().await;
    raw.say("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nabc").await;
    assert_eq!(told.next().await, "client gone");
    until("the place to be free", || limit.running() == 0).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_still_sending_gets_the_answer_that_refuses_it() {
    let half = axum::routing::post(|body: Body| async move {
        let first = body.into_data_stream().next().await;
        (StatusCode::PAYLOAD_TOO_LARGE, format!("{}", first.is_some()))
    });
    let none = axum::routing::post(|| async { (StatusCode::PAYLOAD_TOO_LARGE, "true") });
    let rig = Rig::new(Router::new().route("/half", half).route("/none", none)).await;
    let ctx = Context::background();
    for path in ["/half", "/none"].repeat(20) {
        // A client of its own: a kept connection may be about to be closed.
        let client = Client::new();
        let upload = vec![b'x'; 4 << 20];
        let request = http::Request::post(rig.url(path)).body(Body::from(upload)).unwrap();
        let answer = soon("an answer", client.send(&ctx, request)).await.expect(path);
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.into_body().text(100).await.expect(path), "true");
    }
    rig.end().await;
}

#[tokio::test]
async fn what_comes_after_an_upgraded_connection_was_closed_for_sending_is_not_thrown_away() {
    // The body of the request is not read, and goes before the upgrade or after it.
    for goes_late in [false, true] {
        let (reporter, mut reports) = reports();
        let upgrade = axum::routing::post(move |request: http::Request<Body>| async move {
            let (head, body) = request.into_parts();
            let body = Some(body).filter(|_| goes_late);
            tokio::spawn(async move {
                let upgrade = hyper::upgrade::on(http::Request::from_parts(head, ()));
                let mut upgraded = TokioIo::new(upgrade.await.unwrap());
                drop(body);
                upgraded.write_all(b"ask").await.unwrap();
                upgraded.shutdown().await.unwrap();
                let mut said = String::new();
                upgraded.read_to_string(&mut said).await.unwrap();
                reporter.tell(said);
            });
            (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "x")])
        });
        let rig = Rig::new(Router::new().route("/", upgrade)).await;
        let mut client = rig.connect().await;
        let head = "POST / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: x\r\n";
        client.say(&format!("{head}content-length: 4\r\n\r\nbody")).await;
        client.hear("ask").await;
        client.say("the answer").await;
        client.0.shutdown().await.unwrap();
        assert_eq!(reports.next().await, "the answer", "{goes_late}");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_client_that_sends_no_body_is_given_up_by_a_handler_that_is_always_busy() {
    let (reporter, mut reports) = reports();
    let post = axum::routing::post(|body: Body| async move {
        let mut body = body.into_data_stream();
        let next = poll_fn(|task| {
            // As a channel that is always ready does.
            while pin!(tokio::task::consume_budget()).poll(task).is_ready() {}
            body.poll_next_unpin(task)
        });
        let next = next.await.expect("more, or an error");
        reporter.tell(if next.is_err() { "an error" } else { "more" }.to_string());
    });
    let app = Router::new().route("/", post);
    let rig = Rig::with(app, |serve| serve.body_timeout(Duration::from_millis(100))).await;
    let mut raw = rig.connect().await;
    raw.say("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(reports.next().await, "an error");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_still_sending_gets_the_answer_of_the_request_that_stops_the_server() {
    for _ in 0..20 {
        let stop = Arc::new(std::sync::OnceLock::<quell::Canceller>::new());
        let stops = stop.clone();
        let quit = axum::routing::post(move || async move {
            stops.get().unwrap().cancel_with("quit");
            "good bye"
        });
        let rig = Rig::new(Router::new().route("/quit", quit)).await;
        stop.set(rig.stop.clone()).unwrap();
        let upload = Body::from(vec![b'x'; 4 << 20]);
        let request = http::Request::post(rig.url("/quit")).body(upload).unwrap();
        let ctx = Context::background();
        let answer = soon("an answer", Client::new().send(&ctx, request)).await.unwrap();
        assert_eq!(answer.into_body().text(100).await.unwrap(), "good bye");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_handler_that_was_busy_has_not_waited_for_the_body() {
    let post = axum::routing::post(|body: Body| async move {
        let mut body = body.into_data_stream();
        let first = body.next().await.unwrap().unwrap();
        // It polls, works for long, and polls again.
        assert!(futures::poll!(body.next()).is_pending());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let rest = body.next().await.unwrap().expect("it was not waited for");
        format!("{}+{}", first.len(), rest.len())
    });
    let app = Router::new().route("/", post);
    let rig = Rig::with(app, |serve| serve.body_timeout(Duration::from_secs(1))).await;
    let mut raw = rig.connect().await;
    raw.say("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nabc").await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    raw.say("de").await;
    raw.hear("3+2").await;
    rig.end().await;
}

#[tokio::test]
async fn a_client_whose_body_is_no_http_has_not_gone() {
    let post = axum::routing::post(|Ctx(ctx): Ctx, body: Body| async move {
        let error = axum::body::to_bytes(body, 100).await.is_err();
        format!("an error: {error}, an end: {}", ctx.is_done())
    });
    let rig = Rig::new(Router::new().route("/", post)).await;
    let mut raw = rig.connect().await;
    raw.say("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").await;
    raw.hear("an error: true, an end: false").await;
    rig.end().await;
}

#[tokio::test]
async fn a_handler_that_looks_again_late_does_not_wait_for_ever() {
    let (reporter, mut reports) = reports();
    let handler = axum::routing::post(|body: Body| async move {
        let mut body = body.into_data_stream();
        assert!(futures::poll!(body.next()).is_pending());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = body.next().await.unwrap();
        reporter.tell(if next.is_err() { "an error" } else { "more" }.to_string());
    });
    let app = Router::new().route("/", handler);
    let rig = Rig::with(app, |serve| serve.body_timeout(Duration::from_millis(300))).await;
    let mut client = rig.connect().await;
    client.say("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(reports.next().await, "an error");
    rig.end().await;
}

#[tokio::test]
async fn a_handler_that_goes_on_after_an_error_comes_to_the_end_of_the_body() {
    let (reporter, mut reports) = reports();
    let post = axum::routing::post(|body: Body| async move {
        let (mut body, mut errors) = (body.into_data_stream(), 0);
        while let Some(next) = body.next().await {
            errors += u32::from(next.is_err());
            assert!(errors < 1000, "it has no end");
        }
        reporter.tell(errors);
    });
    let app = Router::new().route("/", post);
    let rig = Rig::with(app, |serve| serve.body_timeout(Duration::from_millis(300))).await;
    // One stops sending, and one gives up.
    let mut silent = rig.connect().await;
    silent.say("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(reports.next().await, 1);
    let half = stream::iter([Ok::<_, Infallible>("half")]).chain(stream::pending());
    let request = http::Request::post(rig.url("/")).body(Body::from_stream(half)).unwrap();
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(100));
    let given_up = Client::http2().send(&ctx, request).await;
    assert!(given_up.unwrap_err().cancelled().is_some());
    assert_eq!(reports.next().await, 1);
    rig.end().await;
}

#[tokio::test]
async fn limits_longer_than_any_connection_are_none() {
    let limit = Duration::from_secs(u64::MAX);
    let app = Router::new().route("/", get(|| async { "hello" }));
    let rig = Rig::with(app, |serve| {
        serve.header_timeout(limit).body_timeout(limit).write_timeout(limit).grace(limit)
    });
    let rig = rig.await;
    let answer = soon("an answer", Client::new().get(&Context::background(), rig.url("/"))).await;
    assert_eq!(answer.unwrap().into_body().text(100).await.unwrap(), "hello");
    rig.end().await;
}
