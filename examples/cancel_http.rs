//! Two loops that call a service. The first bad status ends both.
//!
//! `cargo run --features http --example cancel_http`
//!
//! It starts a server of its own; `--base http://httpbin.org` calls a real one, and
//! `--seed 7` makes the run repeatable.

#[path = "support/httpbin.rs"]
mod httpbin;

use axum::http::StatusCode;
use quell::http::{CallError, Client};
use quell::{Canceller, Context};
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

/// Returns the answer once its last byte has come, so that its connection is used again.
async fn ask(ctx: &Context, client: &Client, url: &str) -> Result<(StatusCode, String), CallError> {
    let (head, body) = client.get(ctx, url).await?.into_parts();
    body.bytes(64 * 1024).await?;
    let date = head.headers.get("date").and_then(|date| date.to_str().ok());
    Ok((head.status, date.unwrap_or("undated").to_string()))
}

/// Asks for a status once a second; one of the four possible ones is bad.
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

/// Asks again and again for an answer that takes a second.
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
                // The context has ended already: this has no effect.
                return canceller.cancel();
            }
        }
    }
}

/// Runs both loops at once, until one of them ends the other.
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
