//! Limits on how many requests run at once, and on how many wait.

use super::rig::{Rig, call, reports, soon, text, until};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures::future::join_all;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use quell::Context;
use quell::http::{Client, ContextLayer, LimitLayer, RequestExt, TimeoutLayer, serve};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tower_layer::Layer;

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

type Answer = JoinHandle<Result<Response<Body>, Infallible>>;

/// A router behind a limit, whose handlers wait at a gate.
struct Gated {
    app: Router,
    limit: LimitLayer,
    gate: Arc<Semaphore>,
}

impl Gated {
    fn new(at_once: usize, waiting: usize) -> Gated {
        let limit = LimitLayer::new(at_once, waiting);
        let gate = Arc::new(Semaphore::new(0));
        let inside = gate.clone();
        let handler = || async move {
            inside.acquire().await.unwrap().forget();
            "through\n"
        };
        let app = Router::new().route("/", get(handler)).layer(limit.clone());
        Gated { app, limit, gate }
    }

    fn ask(&self, ctx: &Context) -> Answer {
        let (app, request) = (self.app.clone(), request().with_context(ctx));
        tokio::spawn(async move { call(&app, request).await })
    }

    async fn are(&self, running: usize, waiting: usize) {
        let what = format!("{running} running and {waiting} waiting");
        let limit = &self.limit;
        until(&what, || (limit.running(), limit.waiting()) == (running, waiting)).await;
    }
}

async fn status(answer: Answer) -> StatusCode {
    soon("an answer", answer).await.unwrap().unwrap().status()
}

#[tokio::test]
async fn so_many_run_so_many_wait_and_the_next_is_refused_at_once() {
    let gated = Gated::new(2, 1);
    let ctx = Context::background();
    let inside = [gated.ask(&ctx), gated.ask(&ctx), gated.ask(&ctx)];
    gated.are(2, 1).await;
    let refused = call(&gated.app, request()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(text(refused.into_body()).await, "too many requests are waiting\n");

    gated.gate.add_permits(3);
    for answer in inside {
        assert_eq!(status(answer).await, StatusCode::OK);
    }
    gated.are(0, 0).await;
    gated.gate.add_permits(1);
    assert_eq!(status(gated.ask(&ctx)).await, StatusCode::OK);
}

#[tokio::test]
async fn whoever_is_refused_and_asked_for_the_head_gets_no_more_over_http2_either() {
    let limit = LimitLayer::new(1, 0);
    let never = Router::new().route("/", get(std::future::pending::<()>));
    // Outside of the router, which leaves such bodies out.
    let app = limit.layer(never);
    let app = TimeoutLayer::from_millis(300).answer_503().layer(app);
    let (ctx, stop) = Context::background().with_cancel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let served = tokio::spawn(serve(&ctx, listener, app).into_future());
    let (client, ctx) = (Client::http2(), Context::background());
    let head = async || {
        let request = Request::head(&url).body(Body::empty()).unwrap();
        let answer = soon("an answer", client.send(&ctx, request)).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let length = answer.headers()["content-length"].clone();
        let body = soon("no body", answer.into_body().text(100)).await;
        (length, body.expect("no body"))
    };
    let refused = async {
        until("one to run", || limit.running() == 1).await;
        head().await
    };
    let (late, refused) = tokio::join!(head(), refused);
    assert_eq!(late, ("48".parse().unwrap(), String::new()));
    assert_eq!(refused, ("30".parse().unwrap(), String::new()));
    stop.cancel();
    soon("the server's end", served).await.unwrap();
}

#[tokio::test]
async fn without_a_queue_whoever_cannot_run_at_once_is_refused() {
    let gated = Gated::new(1, 0);
    let running = gated.ask(&Context::background());
    gated.are(1, 0).await;
    assert_eq!(status(gated.ask(&Context::background())).await, StatusCode::SERVICE_UNAVAILABLE);
    gated.gate.add_permits(1);
    assert_eq!(status(running).await, StatusCode::OK);
}

#[tokio::test]
async fn a_waiter_whose_context_ends_leaves_the_queue_and_is_told_so() {
    let gated = Gated::new(1, 1);
    let running = gated.ask(&Context::background());
    gated.are(1, 0).await;
    let (ctx, canceller) = Context::background().with_cancel();
    let waiter = gated.ask(&ctx);
    gated.are(1, 1).await;
    canceller.cancel_with("the user lost patience");
    let told = soon("an answer", waiter).await.unwrap().unwrap();
    assert_eq!(told.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(told.headers().contains_key("retry-after"));
    let said = text(told.into_body()).await;
    assert_eq!(said, "the request waited for its turn: the user lost patience\n");
    gated.are(1, 0).await;

    // Its place goes to another request.
    let next = gated.ask(&Context::background());
    gated.are(1, 1).await;
    gated.gate.add_permits(2);
    assert_eq!(status(running).await, StatusCode::OK);
    assert_eq!(status(next).await, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_the_queue() {
    let gated = Gated::new(1, 1);
    let rig = Rig::new(gated.app.clone()).await;
    let mut one = rig.connect().await;
    one.get("/").await;
    gated.are(1, 0).await;
    let mut two = rig.connect().await;
    two.get("/").await;
    gated.are(1, 1).await;
    drop(two);
    gated.are(1, 0).await;
    drop(one);
    gated.are(0, 0).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn inside_of_a_time_limit_the_wait_is_counted() {
    let gated = Gated::new(1, 5);
    let app = gated.app.clone().layer(TimeoutLayer::from_millis(100));
    let app = app.layer(ContextLayer::new(&Context::background()));
    let _running = gated.ask(&Context::background());
    gated.are(1, 0).await;
    let answer = call(&app, request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said = text(answer.into_body()).await;
    assert!(said.contains("longer than its limit of 100ms"), "{said}");
}

#[tokio::test]
async fn those_that_wait_come_in_the_order_in_which_they_came() {
    let limit = LimitLayer::new(1, 100);
    let gate = Arc::new(Semaphore::new(0));
    let (reporter, mut reports) = reports();
    let inside = gate.clone();
    let handler = |request: Request<Body>| async move {
        inside.acquire().await.unwrap().forget();
        reporter.tell(request.uri().path().to_string());
    };
    let app = Router::new().fallback(get(handler)).layer(limit.clone());
    let mut answers = Vec::new();
    for number in 0..50 {
        let (app, path) = (app.clone(), format!("/{number}"));
        let request = Request::get(path).body(Body::empty()).unwrap();
        answers.push(tokio::spawn(async move { call(&app, request).await.map(drop) }));
        until("the next in the queue", || limit.waiting() == number).await;
    }
    gate.add_permits(50);
    for number in 0..50 {
        assert_eq!(reports.next().await, format!("/{number}"));
    }
    soon("all answers", join_all(answers)).await;
}

#[tokio::test]
async fn an_upload_that_waits_in_the_queue_does_not_hold_up_the_one_that_runs() {
    const SIZE: usize = 64 << 20;
    let count = |body: Body| async move {
        let mut pieces = body.into_data_stream();
        let mut length = 0;
        while let Some(piece) = pieces.next().await {
            length += piece.expect("a client that sends").len();
        }
        length.to_string()
    };
    let limit = LimitLayer::new(1, 1);
    let rig = Rig::new(Router::new().route("/", post(count)).layer(limit.clone())).await;
    // Both go over one connection.
    let (client, ctx) = (Client::http2(), Context::background());
    let upload = || async {
        let piece = |_| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024]));
        let body = Body::from_stream(stream::iter(0..SIZE / (64 * 1024)).map(piece));
        let answer = client.send(&ctx, Request::post(rig.url("/")).body(body).unwrap()).await;
        answer.unwrap().into_body().text(100).await.unwrap()
    };
    let both = soon("both answers", join_all([upload(), upload()])).await;
    assert_eq!(both, [SIZE.to_string(), SIZE.to_string()]);
    rig.end().await;
}

#[tokio::test]
async fn a_place_is_held_until_the_last_byte() {
    let limit = LimitLayer::new(1, 0);
    let (sender, pieces) = futures::channel::mpsc::unbounded::<Result<Bytes, Infallible>>();
    let pieces = Arc::new(std::sync::Mutex::new(Some(pieces)));
    let handler = || async move { Body::from_stream(pieces.lock().unwrap().take().unwrap()) };
    let app = Router::new().route("/", get(handler)).layer(limit.clone());
    let answer = call(&app, request()).await.unwrap();
    assert_eq!(limit.running(), 1, "the body is still to come");
    sender.unbounded_send(Ok(Bytes::from("piece"))).unwrap();
    drop(sender);
    assert_eq!(text(answer.into_body()).await, "piece");
    assert_eq!(limit.running(), 0);

    let endless = || async { Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()) };
    let app = Router::new().route("/", get(endless)).layer(limit.clone());
    let answer = call(&app, request()).await.unwrap();
    assert_eq!(limit.running(), 1);
    drop(answer);
    assert_eq!(limit.running(), 0);
}

/// Notes how many run and how many wait when it is dropped.
struct Leaving(LimitLayer, Arc<std::sync::Mutex<Vec<(usize, usize)>>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.1.lock().unwrap().push((self.0.running(), self.0.waiting()));
    }
}

#[tokio::test]
async fn a_place_is_held_until_nothing_of_the_request_is_left() {
    let limit = LimitLayer::new(1, 1);
    let seen = Arc::<std::sync::Mutex<Vec<_>>>::default();
    let leaving = {
        let (limit, seen) = (limit.clone(), seen.clone());
        move || Leaving(limit.clone(), seen.clone())
    };
    let in_body = leaving.clone();
    let handler = || async move {
        let _leaving = leaving();
        std::future::pending::<()>().await;
    };
    // A body of which nothing ever comes, or one that ends at once.
    let body = |comes: bool| {
        let leaving = in_body.clone();
        move || async move {
            let leaving = leaving();
            Body::from_stream(stream::poll_fn(move |_| {
                let _leaving = &leaving;
                if comes { Poll::Ready(None::<Result<Bytes, Infallible>>) } else { Poll::Pending }
            }))
        }
    };
    let app = Router::new()
        .route("/handler", get(handler))
        .route("/body", get(body(false)))
        .route("/whole", get(body(true)))
        .layer(limit.clone());
    let ask = |path: &str| call(&app, Request::get(path).body(Body::empty()).unwrap());
    let mut first = Box::pin(ask("/handler"));
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(ask("/body"));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    drop(second.await.unwrap());
    assert_eq!(text(ask("/whole").await.unwrap().into_body()).await, "");
    assert_eq!(*seen.lock().unwrap(), [(1, 1), (1, 0), (1, 0)]);
    assert_eq!((limit.running(), limit.waiting()), (0, 0));
}

#[tokio::test]
async fn one_layer_is_one_limit_for_all_routes_it_is_laid_on() {
    let limit = LimitLayer::new(1, 0);
    let app = Router::new()
        .route("/a", get(std::future::pending::<()>))
        .route("/b", get(|| async {}))
        .layer(limit.clone());
    let first = app.clone();
    let first =
        tokio::spawn(
            async move { call(&first, Request::get("/a").body(Body::empty()).unwrap()).await },
        );
    until("the first", || limit.running() == 1).await;
    let second = call(&app, Request::get("/b").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    first.abort();
}

#[tokio::test]
async fn retry_after_is_in_whole_seconds_rounded_up() {
    for (wait, said) in [(0, "0"), (1, "1"), (1000, "1"), (1001, "2"), (90_000, "90")] {
        let limit = LimitLayer::new(1, 0).retry_after(Duration::from_millis(wait));
        let app = Router::new().route("/", get(std::future::pending::<()>)).layer(limit.clone());
        let first = app.clone();
        let first = tokio::spawn(async move { call(&first, request()).await });
        until("the first", || limit.running() == 1).await;
        let refused = call(&app, request()).await.unwrap();
        assert_eq!(refused.headers()["retry-after"], said);
        first.abort();
    }
}

#[test]
#[should_panic(expected = "pass 1 or more")]
fn a_limit_of_none_at_once_is_refused_with_advice() {
    let _ = LimitLayer::new(0, 10);
}

#[test]
fn the_largest_numbers_are_no_mistake() {
    let limit = LimitLayer::new(usize::MAX, usize::MAX);
    assert_eq!((limit.running(), limit.waiting()), (0, 0));
}

/// What happens to a request in a random run.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    Cancelled,
    Dropped,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_more_than_so_many_run_whatever_becomes_of_them(
        at_once in 1_usize..5,
        waiting in 0_usize..5,
        fates in prop::collection::vec(
            (prop_oneof![Just(Fate::Answered), Just(Fate::Cancelled), Just(Fate::Dropped)], 0_usize..6),
            1..60,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let limit = LimitLayer::new(at_once, waiting);
            let running = Arc::new(AtomicUsize::new(0));
            let inside = running.clone();
            struct Leaves(Arc<AtomicUsize>);
            impl Drop for Leaves {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, SeqCst);
                }
            }
            let handler = move || async move {
                let now = inside.fetch_add(1, SeqCst) + 1;
                let _leaves = Leaves(inside);
                assert!(now <= at_once, "{now} at once");
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            };
            let app = Router::new().route("/", get(handler)).layer(limit.clone());
            let (mut answers, mut dropped) = (Vec::new(), Vec::new());
            for (fate, pause) in fates {
                let (ctx, canceller) = Context::background().with_cancel();
                let (app, request) = (app.clone(), request().with_context(&ctx));
                let status = async move { call(&app, request).await.map(|answer| answer.status()) };
                let answer = tokio::spawn(status);
                for _ in 0..pause {
                    tokio::task::yield_now().await;
                    assert!(limit.running() <= at_once);
                    assert!(limit.waiting() <= waiting);
                }
                match fate {
                    Fate::Answered => {
                        canceller.detach();
                        answers.push(answer);
                    }
                    Fate::Cancelled => {
                        canceller.cancel();
                        answers.push(answer);
                    }
                    Fate::Dropped => {
                        answer.abort();
                        dropped.push(answer);
                    }
                }
            }
            for answer in answers {
                let status = answer.await.unwrap().unwrap();
                assert!(matches!(status.as_u16(), 200 | 503));
            }
            join_all(dropped).await;
            assert_eq!((limit.running(), limit.waiting()), (0, 0));
            assert_eq!(running.load(SeqCst), 0);
        });
    }
}
