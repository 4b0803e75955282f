//! A time limit in milliseconds for each request, as a middleware.
//!
//! `cargo run --features http --example timeout_middleware`

use axum::{Router, routing::get};
use quell::Context;
use quell::http::{Client, Ctx, TimeoutLayer, serve};
use std::time::Duration;
use tokio::net::TcpListener;

/// Watches its context, and answers with what it has found when that ends.
async fn search(Ctx(ctx): Ctx) -> String {
    let mut found = 0;
    while ctx.run(tokio::time::sleep(Duration::from_millis(20))).await.is_ok() {
        found += 1;
    }
    let why = ctx.cause().expect("it has ended");
    format!("found {}; {why}", if found > 0 { "something" } else { "nothing" })
}

/// Knows nothing of contexts.
async fn oblivious() -> &'static str {
    tokio::time::sleep(Duration::from_secs(60)).await;
    "at last"
}

async fn quick() -> &'static str {
    "quick enough"
}

#[tokio::main]
async fn main() {
    let limited = Router::new()
        .route("/search", get(search))
        .route("/quick", get(quick))
        .layer(TimeoutLayer::from_millis(100));
    let answered_for = Router::new()
        .route("/oblivious", get(oblivious))
        .layer(TimeoutLayer::from_millis(100).answer_503());
    let app = limited.merge(answered_for);

    let (server, stop) = Context::background().with_cancel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let served = tokio::spawn(serve(&server, listener, app).into_future());

    let (ctx, client) = (Context::background(), Client::new());
    for path in ["/quick", "/search", "/oblivious"] {
        let answer = client.get(&ctx, format!("{base}{path}")).await.expect("an answer");
        let status = answer.status();
        let text = answer.into_body().text(1000).await.expect("text");
        println!("{path}: {status}, {}", text.trim());
    }
    stop.cancel_with("the example is over");
    println!("{}", served.await.expect("a server that does not panic"));
}
