//! A server that protects itself: it limits how many requests run at once, how many
//! wait, and the time of each.
//!
//! `cargo run --features http --example limits`

use axum::{Router, routing::get};
use quell::Context;
use quell::http::{Client, LimitLayer, TimeoutLayer, serve};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[tokio::main]
async fn main() {
    let limit = LimitLayer::new(2, 1).retry_after(Duration::from_secs(3));
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = gate.clone();
        || async move {
            gate.acquire().await.expect("never closed").forget();
            "done"
        }
    };
    // The last layer is the outermost: the wait for a turn does not count towards the time limit.
    let app = Router::new()
        .route("/", get(handler))
        .layer(TimeoutLayer::from_millis(2000).answer_503())
        .layer(limit.clone());

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let (server, stop) = Context::background().with_cancel();
    let served = tokio::spawn(serve(&server, listener, app).into_future());

    let client = Client::new();
    let ask = |number: usize| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            let answer = client.get(&Context::background(), url).await.expect("an answer");
            let status = answer.status();
            let retry = answer.headers().get("retry-after").cloned();
            let text = answer.into_body().text(1000).await.expect("text");
            let retry =
                retry.map(|seconds| format!(" (retry after {} s)", seconds.to_str().unwrap()));
            println!("request {number}: {status}, {}{}", text.trim(), retry.unwrap_or_default());
        })
    };
    let inside = async |running, waiting| {
        while (limit.running(), limit.waiting()) != (running, waiting) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("{running} running, {waiting} waiting");
    };

    let one = ask(1);
    inside(1, 0).await;
    let two = ask(2);
    inside(2, 0).await;
    let three = ask(3);
    inside(2, 1).await;
    ask(4).await.expect("refused at once");
    // One of the running requests is let through. The other is too slow, and so is the one that
    // waited.
    gate.add_permits(1);
    for request in [one, two, three] {
        request.await.expect("answered");
    }
    inside(0, 0).await;
    stop.cancel();
    println!("{}", served.await.expect("a server that does not panic"));
}
