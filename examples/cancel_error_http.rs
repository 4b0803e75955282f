//! Two loops that call a service; the first bad status ends both, and the cause says
//! which of them ended it, and why.
//!
//! `cargo run --features http --example cancel_error_http`
//!
//! It brings a server of its own; `--base http://httpbin.org` takes a real one, and
//! `--seed 7` makes a run that can be repeated.

#[path = "support/httpbin.rs"]
mod httpbin;

use axum::http::StatusCode;
use quell::http::Client;
use quell::{BoxError, Context};
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

/// Asks for a status, one of four of which is bad, once a second.
async fn statuses(ctx: &Context, url: &str, results: Sender<String>) -> Result<(), BoxError> {
    let client = Client::new();
    loop {
        let answer = client.get(ctx, url).await.map_err(|e| format!("in the status loop: {e}"))?;
        if answer.status() == StatusCode::INTERNAL_SERVER_ERROR {
            return Err("bad status".into());
        }
        ctx.run(results.send(format!("status {}", answer.status()))).await??;
        ctx.run(tokio::time::sleep(Duration::from_secs(1))).await?;
    }
}

/// Asks for an answer that takes a second, again and again.
async fn delays(ctx: &Context, url: &str, results: Sender<String>) -> Result<(), BoxError> {
    let client = Client::new();
    loop {
        let answer = client.get(ctx, url).await.map_err(|e| format!("in the delay loop: {e}"))?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let date = date.unwrap_or("undated").to_string();
        ctx.run(results.send(format!("delay, {date}"))).await??;
    }
}

#[tokio::main]
async fn main() {
    let base = httpbin::base().await;
    let (ctx, canceller) = Context::background().with_cancel();
    let (results, mut received) = mpsc::channel(1);

    // Whichever loop fails first says why; what the other says then is too late.
    let status = tokio::spawn({
        let (ctx, canceller, results) = (ctx.clone(), canceller.clone(), results.clone());
        let url = format!("{base}/status/200,200,200,500");
        async move {
            if let Err(error) = statuses(&ctx, &url, results).await {
                canceller.cancel_with(error);
            }
        }
    });
    let delay = tokio::spawn({
        let ctx = ctx.clone();
        let url = format!("{base}/delay/1");
        async move {
            if let Err(error) = delays(&ctx, &url, results).await {
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
    println!("main: cancelled with cause: {}", cancelled.cause());
    let _ = tokio::join!(status, delay);
    println!("cause: {}", ctx.cause().expect("it has ended"));
}
