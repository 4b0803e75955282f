//! Two loops that call a service. The first bad status ends both, and so does a limit of
//! three seconds. The cause says why, and the error says which kind of end it was.
//!
//! `cargo run --features http --example timeout_error_http`
//!
//! It starts a server of its own; `--base http://httpbin.org` calls a real one, and
//! `--seed 7` makes the run repeatable.

#[path = "support/httpbin.rs"]
mod httpbin;

use axum::http::StatusCode;
use quell::http::{CallError, Client};
use quell::{BoxError, Context};
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
    ctx: &Context,
    client: &Client,
    url: &str,
    results: Sender<String>,
) -> Result<(), BoxError> {
    loop {
        let answer = ask(ctx, client, url).await;
        let (status, _) = answer.map_err(|error| format!("in the status loop: {error}"))?;
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            return Err("bad status".into());
        }
        ctx.run(results.send(format!("status {status}"))).await??;
        ctx.run(tokio::time::sleep(Duration::from_secs(1))).await?;
    }
}

/// Asks again and again for an answer that takes a second.
async fn delays(
    ctx: &Context,
    client: &Client,
    url: &str,
    results: Sender<String>,
) -> Result<(), BoxError> {
    loop {
        let answer = ask(ctx, client, url).await;
        let (_, date) = answer.map_err(|error| format!("in the delay loop: {error}"))?;
        ctx.run(results.send(format!("delay, {date}"))).await??;
    }
}

/// Runs both loops at once, until one of them ends the other, or the time is over.
pub(crate) async fn both(parent: &Context, client: Client, base: &str) {
    // The canceller of a context with a limit takes a cause like any other.
    let (ctx, canceller) = parent.with_timeout(Duration::from_secs(3));
    let (results, mut received) = mpsc::channel(1);

    // Whichever loop fails first provides the cause; the later one has no effect.
    let status = tokio::spawn({
        let (ctx, canceller, results) = (ctx.clone(), canceller.clone(), results.clone());
        let client = client.clone();
        let url = format!("{base}/status/200,200,200,500");
        async move {
            if let Err(error) = statuses(&ctx, &client, &url, results).await {
                canceller.cancel_with(error);
            }
        }
    });
    let delay = tokio::spawn({
        let ctx = ctx.clone();
        let url = format!("{base}/delay/1");
        async move {
            if let Err(error) = delays(&ctx, &client, &url, results).await {
                println!("delay: {error}");
                canceller.cancel_with(error);
            }
        }
    });

    let cancelled = loop {
        match ctx.run(received.recv()).await {
            Ok(Some(result)) => println!("main: {result}"),
            Ok(None) => unreachable!("a loop that is over has cancelled the context"),
            Err(cancelled) => break cancelled,
        }
    };
    println!("main: cancelled with cause: {}; error: {}", cancelled.cause(), cancelled.error());
    let _ = tokio::join!(status, delay);
    println!("cause: {}", ctx.cause().expect("it has ended"));
}

#[tokio::main]
async fn main() {
    let base = httpbin::base().await;
    both(&Context::background(), Client::new(), &base).await;
}
