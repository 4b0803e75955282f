//! A limit on the time of a request. The clock is paused: nothing here takes time.

use super::rig::{Rig, call, reports, text, why};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use axum::routing::get;
use futures::{StreamExt, stream};
use http::{Request, StatusCode};
use quell::Context;
use quell::http::{ContextLayer, Ctx, PropagationLayer, RequestEnd, RequestExt, TimeoutLayer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower_layer::Layer;
use tower_service::Service;

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_told_when_its_milliseconds_are_over_and_answers_itself() {
    let handler = |Ctx(ctx): Ctx| async move {
        ctx.done().await;
        why(&ctx)
    };
    let app = Router::new().route("/", get(handler)).layer(TimeoutLayer::from_millis(150));
    let began = Instant::now();
    let answer = call(&app, request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer.into_body()).await, "time limit 150ms");
    let took = began.elapsed();
    assert!((150..152).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_answer_is_dropped_and_answered_for() {
    let (reporter, mut reports) = reports();
    struct Dropped(super::rig::Reporter<String>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.tell("dropped".into());
        }
    }
    let handler = move || async move {
        let _dropped = Dropped(reporter);
        std::future::pending::<()>().await
    };
    let app = Router::new().route("/", get(handler));
    let mut app = TimeoutLayer::from_millis(150).answer_503().layer(app);
    let began = Instant::now();
    let mut future = Box::pin(app.call(request()));
    let answer = future.as_mut().await.unwrap();
    assert!((150..152).contains(&began.elapsed().as_millis()));
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reports.next().await, "dropped");
    drop(future); // The handler was dropped before it.
    let said = text(answer.into_body()).await;
    assert_eq!(said, "the request took longer than its limit of 150ms\n");
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_passed_on_and_one_at_the_last_moment_too() {
    for wait in [0, 149, 150] {
        let handler = move || async move {
            sleep(Duration::from_millis(wait)).await;
            (StatusCode::CREATED, "made")
        };
        let app = Router::new().route("/", get(handler));
        let app = app.layer(TimeoutLayer::from_millis(150).answer_503());
        let answer = call(&app, request()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "after {wait} ms");
        assert_eq!(text(answer.into_body()).await, "made");
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_for_the_body_too_and_does_not_cut_it_off() {
    let handler = |Ctx(ctx): Ctx| async move {
        let last = ctx.clone();
        let last = stream::once(async move {
            last.done().await;
            Ok::<_, Infallible>(Bytes::from(why(&last)))
        });
        Body::from_stream(stream::iter([Ok(Bytes::from("first, "))]).chain(last)).into_response()
    };
    let app = Router::new().route("/", get(handler));
    let app = app.layer(TimeoutLayer::from_millis(150).answer_503());
    let answer = call(&app, request()).await.unwrap();
    assert_eq!(text(answer.into_body()).await, "first, time limit 150ms");
}

#[tokio::test(start_paused = true)]
async fn a_limit_never_extends_the_one_that_a_request_has() {
    let handler = |Ctx(ctx): Ctx| async move {
        ctx.done().await;
        format!("{:?}", ctx.cause().map(|cause| cause.to_string()))
    };
    let app = Router::new().route("/", get(handler)).layer(TimeoutLayer::from_millis(500));
    let (ctx, _canceller) =
        Context::background().with_timeout_cause(Duration::from_millis(50), "the outer limit");
    let began = Instant::now();
    let answer = call(&app, request().with_context(&ctx)).await.unwrap();
    assert_eq!(text(answer.into_body()).await, "Some(\"the outer limit\")");
    assert!((50..52).contains(&began.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_is_answered_for_too_but_a_cancel_is_not() {
    let app = Router::new()
        .route("/", get(std::future::pending::<()>))
        .layer(TimeoutLayer::from_millis(5000).answer_503())
        .layer(PropagationLayer::new());
    let mut early = request();
    early.headers_mut().insert("grpc-timeout", "20m".parse().unwrap());
    let answer = call(&app, early).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let said = text(answer.into_body()).await;
    assert!(said.contains("20ms that its caller was going to wait"), "{said}");

    let (ctx, canceller) = Context::background().with_cancel();
    let waits = call(&app, request().with_context(&ctx));
    canceller.cancel();
    let waits = tokio::time::timeout(Duration::from_secs(10), waits);
    assert!(waits.await.is_err(), "who cancelled it sees to the rest");
}

#[tokio::test(start_paused = true)]
async fn no_time_at_all_is_over_before_it_begins_and_the_longest_never() {
    let handler = |Ctx(ctx): Ctx| async move { format!("{}", ctx.is_done()) };
    for (limit, done) in [(0, "true"), (u64::MAX, "false")] {
        let app = Router::new().route("/", get(handler)).layer(TimeoutLayer::from_millis(limit));
        let answer = call(&app, request()).await.unwrap();
        assert_eq!(text(answer.into_body()).await, done);
    }
}

#[tokio::test]
async fn the_limit_ends_with_the_response_and_its_cause_is_the_requests() {
    let (reporter, mut reports) = reports();
    let handler = move |Ctx(ctx): Ctx| async move {
        reporter.end_of(&ctx);
        "done"
    };
    let app = Router::new().route("/", get(handler)).layer(TimeoutLayer::from_millis(60_000));
    let rig = Rig::new(app).await;
    let mut client = rig.connect().await;
    client.get("/").await;
    client.hear("done").await;
    assert_eq!(reports.next().await, "finished");
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_is_the_cause_inside_of_a_limit_as_well() {
    let (reporter, mut reports) = reports();
    let handler = move |Ctx(ctx): Ctx| async move {
        reporter.end_of(&ctx);
        reporter.tell("began".into());
        std::future::pending::<()>().await
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(TimeoutLayer::from_millis(60_000).answer_503())
        .layer(PropagationLayer::new())
        .layer(ContextLayer::new(&Context::background()));
    let rig = Rig::new(app).await;
    let mut client = rig.connect().await;
    client.say("GET / HTTP/1.1\r\nhost: test\r\ngrpc-timeout: 1H\r\n\r\n").await;
    assert_eq!(reports.next().await, "began");
    drop(client);
    assert_eq!(reports.next().await, "client gone");
    rig.end().await;
}

#[test]
fn the_cause_of_a_limit_is_typed() {
    let (ctx, _canceller) = Context::background()
        .with_timeout_cause(Duration::ZERO, RequestEnd::TimeLimit(Duration::ZERO));
    assert!(matches!(RequestEnd::of(&ctx), Some(RequestEnd::TimeLimit(Duration::ZERO))));
}
