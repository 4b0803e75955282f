//! Two loops that call a service; the first bad status ends both.
//!
//! `cargo run --features http --example cancel_http`
//!
//! It brings a server of its own; `--base http://httpbin.org` takes a real one, and
//! `--seed 7` makes a run that can be repeated.

#[path = "support/httpbin.rs"]
mod httpbin;

use axum::http::StatusCode;
use quell::http::{CallError, Client};
use quell::{Canceller, Context};
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

/// What came, when it is there to its last byte: then its connection is used again.
async fn ask(ctx: &Context, client: &Client, url: &str) -> Result<(StatusCode, String), CallError> {
    let (head, body) = client.get(ctx, url).await?.into_parts();
    body.bytes(64 * 1024).await?;
    let date = head.headers.get("date").and_then(|date| date.to_str().ok());
    Ok((head.status, date.unwrap_or("undated").to_string()))
}

/// Asks for a status, one of four of which is bad, once a second.
async fn statuses(
    ctx: Context,
    canceller: Canceller,
    client: Client,
    url: String,
    results: Sender<String>,
) {
    loop {
        match ask(&ctx, &client, &url).await {
            Ok((StatusCode::INTERNAL_SERVER_ERROR, _)) => {
                println!("status: a bad one, that is enough");
                return canceller.cancel();
            }
            Ok((status, _)) => {
                let _ = ctx.run(results.send(format!("status {status}"))).await;
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
        match ask(&ctx, &client, &url).await {
            Ok((_, date)) => {
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
