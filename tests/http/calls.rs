//! Calls that end with their context.

use super::rig::{Rig, reports, soon, tasks, text, until};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures::{StreamExt, stream};
use http::{Request, StatusCode};
use quell::http::{CallBody, Client, Ctx, PeerAddress};
use quell::{Context, ContextError};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Handlers that report their end.
fn app(reporter: super::rig::Reporter<String>) -> Router {
    let (slow, streams, upload) = (reporter.clone(), reporter.clone(), reporter);
    Router::new()
        .route(
            "/slow",
            get(|Ctx(ctx): Ctx| async move {
                slow.end_of(&ctx);
                slow.tell("began".into());
                std::future::pending::<()>().await
            }),
        )
        .route(
            "/streams",
            get(|Ctx(ctx): Ctx| async move {
                streams.end_of(&ctx);
                streams.tell("began".into());
                let first = stream::iter([Ok::<_, Infallible>(Bytes::from("first\n"))]);
                Body::from_stream(first.chain(stream::pending()))
            }),
        )
        .route(
            "/upload",
            post(|Ctx(ctx): Ctx, body: Body| async move {
                upload.end_of(&ctx);
                upload.tell("began".into());
                let mut body = body.into_data_stream();
                while let Some(Ok(_)) = body.next().await {}
                ctx.done().await;
            }),
        )
        .route("/hello", get(|| async { "hello\n" }))
        .route("/teapot", get(|| async { StatusCode::IM_A_TEAPOT }))
        .route(
            "/whoami",
            get(|Ctx(ctx): Ctx| async move { format!("{:?}", ctx.value::<PeerAddress>()) }),
        )
}

#[tokio::test]
async fn a_call_that_is_given_up_closes_its_connection_before_the_answer() {
    for client in [Client::new(), Client::http2()] {
        let (reporter, mut reports) = reports();
        let rig = Rig::new(app(reporter)).await;
        let (ctx, canceller) = Context::background().with_cancel();
        let url = rig.url("/slow");
        let call = tokio::spawn(async move { client.get(&ctx, url).await.map(drop) });
        assert_eq!(reports.next().await, "began");
        canceller.cancel_with("bad status");
        let error = soon("the end of the call", call).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), format!("GET {}: context canceled", rig.url("/slow")));
        let cancelled = error.cancelled().unwrap();
        assert_eq!(cancelled.cause().to_string(), "bad status");
        assert_eq!(reports.next().await, "client gone");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_closes_its_connection_in_the_middle_of_the_body() {
    for client in [Client::new(), Client::http2()] {
        let (reporter, mut reports) = reports();
        let rig = Rig::new(app(reporter)).await;
        let (ctx, canceller) = Context::background().with_cancel();
        let answer = client.get(&ctx, rig.url("/streams")).await.unwrap();
        assert_eq!(reports.next().await, "began");
        let body = tokio::spawn(answer.into_body().text(1000));
        canceller.cancel_with("bad status");
        let error = soon("the end of the body", body).await.unwrap().unwrap_err();
        assert_eq!(error.cancelled().unwrap().cause().to_string(), "bad status");
        assert_eq!(reports.next().await, "client gone");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_body_on_its_way_ends_with_the_context() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(reporter)).await;
    let (ctx, canceller) = Context::background().with_cancel();
    let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let request = Request::post(rig.url("/upload")).body(body).unwrap();
    let call = tokio::spawn(async move { Client::new().send(&ctx, request).await.map(drop) });
    assert_eq!(reports.next().await, "began");
    canceller.cancel();
    let error = soon("the end of the call", call).await.unwrap().unwrap_err();
    assert!(error.cancelled().is_some());
    assert_eq!(reports.next().await, "client gone");
    rig.end().await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_says_so() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(reporter)).await;
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(20));
    let error = Client::new().get(&ctx, rig.url("/slow")).await.unwrap_err();
    assert!(error.to_string().ends_with("/slow: context deadline exceeded"), "{error}");
    assert_eq!(error.cancelled().unwrap().error(), ContextError::DeadlineExceeded);
    assert_eq!(reports.next().await, "began");
    assert_eq!(reports.next().await, "client gone");
    rig.end().await;
}

#[tokio::test]
async fn a_call_in_a_context_that_has_ended_is_not_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel();
    assert!(Client::new().get(&ctx, url).await.unwrap_err().cancelled().is_some());
    let accepted =
        std::future::poll_fn(|task| std::task::Poll::Ready(listener.poll_accept(task).is_ready()));
    assert!(!accepted.await, "somebody connected");
}

#[tokio::test]
async fn a_connection_whose_answer_was_read_is_used_again_and_a_broken_one_is_not() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(reporter)).await;
    let client = Client::new();
    let ctx = Context::background();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = client.get(&ctx, rig.url("/whoami")).await.unwrap();
        seen.push(answer.into_body().text(1000).await.unwrap());
    }
    assert!(seen.iter().all(|peer| *peer == seen[0]), "{seen:?}");
    let (given_up, canceller) = ctx.with_cancel();
    let answer = client.get(&given_up, rig.url("/streams")).await.unwrap();
    assert_eq!(reports.next().await, "began");
    canceller.cancel();
    assert!(answer.into_body().text(1000).await.is_err());
    assert_eq!(reports.next().await, "client gone");
    let answer = client.get(&ctx, rig.url("/whoami")).await.unwrap();
    let peer = answer.into_body().text(1000).await.unwrap();
    assert_ne!(peer, seen[0]);
    rig.end().await;
}

#[tokio::test]
async fn no_task_and_no_waiter_is_left_of_calls_that_were_given_up() {
    let before = tasks();
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(reporter)).await;
    let client = Client::new();
    let root = Context::background();
    for path in ["/slow", "/streams"] {
        let (ctx, canceller) = root.with_cancel();
        let call = client.get(&ctx, rig.url(path));
        let body = async { call.await?.into_body().text(1000).await };
        let ends = async {
            reports.next().await;
            canceller.cancel();
        };
        let (result, ()) = tokio::join!(body, ends);
        assert!(result.unwrap_err().cancelled().is_some());
        assert_eq!(reports.next().await, "client gone");
    }
    drop(client);
    until("only the server to be left", || tasks() == before + 1).await;
    rig.end().await;
    until("nothing to be left", || tasks() == before).await;
}

#[tokio::test]
async fn a_status_is_no_error_and_a_refused_connection_is_one() {
    let (reporter, _reports) = reports();
    let rig = Rig::new(app(reporter)).await;
    let ctx = Context::background();
    let answer = Client::new().get(&ctx, rig.url("/teapot")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::IM_A_TEAPOT);
    let url = rig.url("/hello");
    rig.end().await;
    let error = Client::new().get(&ctx, url).await.unwrap_err();
    assert!(error.cancelled().is_none());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn mistakes_in_an_address_are_explained_and_secrets_in_it_are_not_shown() {
    let ctx = Context::background();
    let client = Client::new();
    for (address, advice) in [
        ("https://localhost/", "Client::connecting"),
        ("/only/a/path", "http://host/path"),
        ("ftp://localhost/", "http://"),
        ("http://", "http://host/path"),
        ("localhost:3000/a/port", "http://host/path"),
        ("not an address", "http://host/path"),
        ("http://ann:password@localhost/", "set the header authorization"),
    ] {
        let error = client.get(&ctx, address).await.unwrap_err().to_string();
        assert!(error.starts_with("GET ") && error.contains(advice), "{error}");
        assert!(!error.contains("password"), "{error}");
    }
    let (ctx, canceller) = ctx.with_cancel();
    canceller.cancel();
    let secret = "http://ann:password@localhost/list?token=12345";
    let error = client.get(&ctx, secret).await.unwrap_err();
    assert_eq!(error.to_string(), "GET http://localhost/list: context canceled");
    assert!(!format!("{error:?}").contains("12345"), "{error:?}");
}

#[tokio::test]
async fn a_body_longer_than_allowed_is_refused_whether_or_not_it_says_so() {
    let chunked = || async {
        let piece = || Ok::<_, Infallible>(Bytes::from("12345"));
        Body::from_stream(stream::repeat_with(piece).take(3))
    };
    let app = Router::new()
        .route("/known", get(|| async { "123456789012345" }))
        .route("/chunked", get(chunked))
        .route("/bytes", get(|| async { vec![0xff_u8, 0xfe] }));
    let rig = Rig::new(app).await;
    let (ctx, client) = (Context::background(), Client::new());
    for path in ["/known", "/chunked"] {
        let body = client.get(&ctx, rig.url(path)).await.unwrap().into_body();
        assert_eq!(body.bytes(15).await.unwrap().len(), 15);
        let body = client.get(&ctx, rig.url(path)).await.unwrap().into_body();
        let error = body.bytes(14).await.unwrap_err().to_string();
        assert!(error.contains("longer than 14 bytes"), "{error}");
    }
    let body: CallBody = client.get(&ctx, rig.url("/bytes")).await.unwrap().into_body();
    let error = body.text(10).await.unwrap_err().to_string();
    assert!(error.contains("bytes()"), "{error}");
    rig.end().await;
}

#[tokio::test]
async fn streams_of_ones_own_carry_the_calls_and_are_kept_and_dropped_like_any_other() {
    let (reporter, mut reports) = reports();
    let rig = Rig::new(app(reporter)).await;
    let (at, connected) = (rig.at, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&connected);
    let client = Client::connecting(move |uri| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            match uri.host() {
                Some("inside") => TcpStream::connect(at).await,
                Some("never") => std::future::pending().await,
                _ => Err(io::Error::other("no such place")),
            }
        }
    });
    let root = Context::background();
    // What is behind the stream, TLS or not, is up to the closure.
    for url in ["http://inside/hello", "https://inside/hello", "https://inside/hello"] {
        let answer = client.get(&root, url).await.unwrap();
        assert_eq!(answer.into_body().text(100).await.unwrap(), "hello\n");
    }
    assert_eq!(connected.load(Ordering::Relaxed), 2, "one for each scheme, kept");

    let error = client.get(&root, "http://elsewhere/").await.unwrap_err().to_string();
    assert!(error.contains("no such place"), "{error}");
    for url in ["http://never/", "http://inside/slow"] {
        let (ctx, canceller) = root.with_cancel();
        let call = client.get(&ctx, url);
        let ends = async {
            if url.ends_with("slow") {
                reports.next().await;
            }
            canceller.cancel();
        };
        assert!(tokio::join!(call, ends).0.unwrap_err().cancelled().is_some(), "{url}");
    }
    assert_eq!(reports.next().await, "client gone");
    rig.end().await;
}

#[tokio::test]
async fn any_service_may_carry_the_calls_and_an_answer_may_be_passed_on() {
    // A router is a service: a call without any socket.
    let (reporter, mut reports) = reports();
    let client = Client::over(app(reporter));
    let ctx = Context::background();
    let answer = client.get(&ctx, "http://inside/hello").await.unwrap();
    assert_eq!(answer.into_body().text(100).await.unwrap(), "hello\n");
    let (given_up, canceller) = ctx.with_cancel();
    let call = client.get(&given_up, "http://inside/slow");
    let ends = async {
        reports.next().await;
        canceller.cancel();
    };
    assert!(tokio::join!(call, ends).0.unwrap_err().cancelled().is_some());

    let proxy = move |Ctx(ctx): Ctx| async move {
        client.get(&ctx, "http://inside/hello").await.unwrap().map(Body::new)
    };
    let rig = Rig::new(Router::new().route("/", get(proxy))).await;
    let answer = Client::new().get(&ctx, rig.url("/")).await.unwrap();
    assert_eq!(text(answer.into_body()).await, "hello\n");
    rig.end().await;
}

// ---------------------------------------------------------------- HTTP/2: one connects for all

#[tokio::test]
async fn a_call_over_http2_that_is_given_up_takes_no_other_with_it() {
    let rig = Rig::new(Router::new().route("/", post(|body: String| async move { body }))).await;
    let client = Client::http2();
    let (first, give_up) = Context::background().with_cancel();
    let post =
        |text: &'static str| Request::post(rig.url("/")).body(Body::from(text)).expect("a request");
    let forever = Context::background();
    let mut given_up = Box::pin(client.send(&first, post("given up")));
    assert!(futures::poll!(&mut given_up).is_pending());
    let mut others: Vec<_> =
        (0..3).map(|_| Box::pin(client.send(&forever, post("hello")))).collect();
    for other in &mut others {
        assert!(futures::poll!(other).is_pending());
    }
    give_up.cancel_with("its own client hung up");
    assert!(given_up.await.unwrap_err().cancelled().is_some());
    for other in others {
        let answer = soon("an answer", other).await.expect("a call that nobody gave up");
        assert_eq!(answer.into_body().text(100).await.unwrap(), "hello");
    }
    rig.end().await;
}

#[tokio::test]
async fn all_that_wait_for_a_connection_of_http2_are_told_why_there_is_none() {
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (client, ctx) = (Client::http2(), Context::background());
    let calls = (0..5).map(|_| client.get(&ctx, format!("http://{at}/")));
    let mut texts = BTreeSet::new();
    for answer in soon("answers", futures::future::join_all(calls)).await {
        let error = answer.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        texts.insert(error.to_string());
    }
    assert!(texts.len() == 1 && texts.first().unwrap().contains("refused"), "{texts:?}");
}

#[tokio::test]
async fn answers_over_http2_that_are_still_to_be_read_do_not_hold_up_the_one_that_is() {
    const SIZE: usize = 4 << 20;
    let piece = |_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; SIZE / 64]));
    let large = move || async move { Body::from_stream(stream::iter(0..64).map(piece)) };
    let rig = Rig::new(Router::new().route("/", get(large))).await;
    let (client, ctx) = (Client::http2(), Context::background());
    let calls = (0..5).map(|_| client.get(&ctx, rig.url("/")));
    for answer in soon("answers", futures::future::join_all(calls)).await {
        let body = answer.unwrap().into_body().bytes(SIZE);
        assert_eq!(soon("a body", body).await.unwrap().len(), SIZE);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_call_over_http2_whose_server_hangs_up_is_made_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let hangs_up = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let (client, ctx) = (Client::http2(), Context::background());
    let error = soon("an answer", client.get(&ctx, url)).await.unwrap_err();
    assert!(!error.is_connect(), "{error:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "{error:?}");
    hangs_up.abort();
}

#[tokio::test]
async fn an_answer_over_http2_that_breaks_off_is_not_taken_for_a_whole_one() {
    /// To each request it sends a head, then these frames.
    async fn server(frames: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 24]).await.unwrap();
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).await.is_ok() {
                let mut rest = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                stream.read_exact(&mut rest).await.unwrap();
                match head[3] {
                    1 => {
                        stream.write_all(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]).await.unwrap();
                        stream.write_all(frames).await.unwrap();
                    }
                    4 if head[4] == 0 => {
                        stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
                    }
                    _ => {}
                }
            }
        });
        url
    }
    let half = b"\0\0\x04\0\0\0\0\0\x01half\0\0\x04\x03\0\0\0\0\x01\0\0\0\0";
    let goodbye = b"\0\0\x04\0\0\0\0\0\x01half\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let whole = b"\0\0\x05\0\x01\0\0\0\x01whole\0\0\x04\x03\0\0\0\0\x01\0\0\0\0";
    let ctx = Context::background();
    let cases = [(&half[..], None), (&goodbye[..], None), (&whole[..], Some("whole"))];
    // A server may also answer before it has the whole request, and then take no more of it.
    for ((frames, wanted), all) in cases.into_iter().flat_map(|case| [(case, true), (case, false)])
    {
        let rest = if all { stream::empty().boxed() } else { stream::pending().boxed() };
        let body = stream::iter([Ok::<_, Infallible>("some")]).chain(rest);
        let request = Request::post(server(frames).await).body(Body::from_stream(body)).unwrap();
        let answer = soon("a head", Client::http2().send(&ctx, request)).await.unwrap();
        let text = soon("a body", answer.into_body().text(100)).await;
        assert_eq!(text.as_deref().ok(), wanted, "{text:?}, after all of it was sent: {all}");
    }
}

#[tokio::test]
async fn an_error_says_whether_there_was_a_connection() {
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (client, ctx) = (Client::new(), Context::background());
    let refused = soon("an answer", client.get(&ctx, format!("http://{at}/"))).await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let closes = async { drop(listener.accept().await) };
    let closed = soon("an answer", async { tokio::join!(client.get(&ctx, url), closes).0 }).await;
    assert!(!closed.as_ref().unwrap_err().is_connect(), "{closed:?}");
}

#[tokio::test]
async fn a_request_that_came_over_http2_may_be_passed_on_over_another() {
    let back = Rig::new(Router::new().route("/", get(|| async { "hello" }))).await;
    let url = back.url("/");
    let proxy = move |mut request: Request<Body>| async move {
        *request.uri_mut() = url.parse().expect("an address");
        let answer = Client::new().send(&Context::background(), request).await;
        answer.expect("an answer").map(Body::new)
    };
    let front = Rig::new(Router::new().route("/", get(proxy))).await;
    for client in [Client::new(), Client::http2()] {
        let answer = soon("an answer", client.get(&Context::background(), front.url("/"))).await;
        assert_eq!(answer.unwrap().into_body().text(100).await.unwrap(), "hello");
    }
    front.end().await;
    back.end().await;
}
