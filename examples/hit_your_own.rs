//! Your own load generator: requests through a pipeline, read one by one, and all of it
//! stopped after the third.
//!
//! `cargo run --features http --example hit_your_own`

use axum::{Router, routing::get};
use http::Request;
use quell::Context;
use quell::hit::{Options, Summary, send_n};
use quell::http::serve;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let app = Router::new().route("/", get(|| async { "0123456789" }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let (server, stop) = Context::background().with_cancel();
    let served = tokio::spawn(serve(&server, listener, app).into_future());

    let request = Request::get(url).body("").expect("a request");
    let options = Options::new().concurrency(10).rps(100);
    let nothing = send_n(&Context::background(), 0, request.clone(), options.clone());
    println!("{}", nothing.expect_err("none is not enough"));

    let mut results =
        send_n(&Context::background(), 1_000_000, request, options).expect("a million is enough");
    let mut summary = Summary::new();
    while let Some(hit) = results.next().await {
        println!("{}: {} bytes", hit.status().expect("a response"), hit.bytes());
        summary.record(&hit);
        if summary.requests() == 3 {
            break;
        }
    }
    // Dropping the results would end everything as well. This also waits for it.
    println!("{:?}", results.finish().await.outcome());
    println!("{} requests, {} successes", summary.requests(), summary.successes());

    stop.cancel();
    served.await.expect("a server that does not panic");
}
