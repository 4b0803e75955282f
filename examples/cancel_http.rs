//! Two loops that call a service; the first bad status ends both.
//!
//! `cargo run --features http --example cancel_http`
//!
//! It brings a server of its own; `--base http://httpbin.org` takes a real one, and
//! `--seed 7` makes a run that can be repeated.

#[path = "support/httpbin.rs"]
mod httpbin;

use axum::http::StatusCode;
use quell::http::Client;
use quell::{Canceller, Context};
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

/// Asks for a status, one of four of which is bad, once a second.
async fn statuses(
    ctx: Context,
    canceller: Canceller,
    client: Client,
    url: String,
    results: Sender<String>,
) {
    loop {
        match client.get(&ctx, url.as_str()).await {
            Ok(answer) if answer.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                println!("status: a bad one, that is enough");
                return canceller.cancel();
            }
            Ok(answer) => {
                let _ = ctx.run(results.send(format!("status {}", answer.status()))).await;
            }
            Err(error) => {
                println!("status: {error}");
                return canceller.cancel();
            }
        }
        let _ = ctx.run(tokio::time::sleep(Duration::from_secs(1))).await;
    }
}

/// Asks for an answer that takes a second, again and again.
pub(crate) async fn delays(
    ctx: Context,
    canceller: Canceller,
    client: Client,
    url: String,
    results: Sender<String>,
) {
    loop {
        match client.get(&ctx, url.as_str()).await {
            Ok(answer) => {
                let date = answer.headers().get("date").cloned();
                let date = date.as_ref().and_then(|date| date.to_str().ok()).unwrap_or("undated");
                let _ = ctx.run(results.send(format!("delay, {date}"))).await;
            }
            Err(error) => {
                println!("delay: {error}");
                // The context has ended already: this does nothing, and harms nobody.
                return canceller.cancel();
            }
        }
    }
}

/// Both at once, until one of them has had enough.
pub(crate) async fn both(parent: &Context, client: Client, base: &str) {
    let (ctx, canceller) = parent.with_cancel();
    let (results, mut received) = mpsc::channel(1);

    let url = format!("{base}/status/200,200,200,500");
    let status = statuses(ctx.clone(), canceller.clone(), client.clone(), url, results.clone());
    let url = format!("{base}/delay/1");
    let delay = delays(ctx.clone(), canceller, client, url, results);
    let (status, delay) = (tokio::spawn(status), tokio::spawn(delay));

    while let Ok(Some(result)) = ctx.run(received.recv()).await {
        println!("main: {result}");
    }
    println!("main: cancelled");
    let _ = tokio::join!(status, delay);
}

#[tokio::main]
async fn main() {
    let base = httpbin::base().await;
    both(&Context::background(), Client::new(), &base).await;
}
