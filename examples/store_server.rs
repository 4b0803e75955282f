//! A slow fetch from a store, which is told to give up when its result is no longer
//! wanted, and is not told if it finished first.
//!
//! `cargo run --features http --example store_server`
//!
//! `-- --listen 127.0.0.1:3000` serves for curl instead: `curl -m 0.05 127.0.0.1:3000`.

use axum::{Router, extract::State, routing::get};
use quell::http::{Client, Ctx, RequestExt, serve};
use quell::{Cancelled, Context, signal};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Something slow.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) takes: Duration,
    pub(crate) log: UnboundedSender<String>,
}

impl Store {
    pub(crate) async fn fetch(self, ctx: Context) -> Result<String, Cancelled> {
        let result = self.letters(&ctx).await;
        let _ = self.log.send(match &result {
            Ok(fetched) => format!("the store finished: {fetched}"),
            Err(cancelled) => format!("the store was told to give up: {}", cancelled.cause()),
        });
        result
    }

    /// What the store depends on is slow too, and gets the context too.
    async fn letters(&self, ctx: &Context) -> Result<String, Cancelled> {
        let mut fetched = String::new();
        for letter in "hello".chars() {
            ctx.run(tokio::time::sleep(self.takes / 5)).await?;
            fetched.push(letter);
        }
        Ok(fetched)
    }
}

/// The server does not cancel the store: it passes the context on, and the store does the
/// rest. The fetch is a task of its own, as a fetch might well be.
async fn handler(Ctx(ctx): Ctx, State(store): State<Store>) -> String {
    match tokio::spawn(store.fetch(ctx)).await.expect("a store that does not panic") {
        Ok(fetched) => fetched,
        Err(cancelled) => format!("nothing: {cancelled}"),
    }
}

/// A middleware that ends the request's context after 5 ms.
async fn in_a_hurry(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let (ctx, canceller) = request.context().with_cancel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        canceller.cancel_with("5 ms are over");
    });
    next.run(request.with_context(ctx)).await
}

/// Three addresses, and a store behind each of them.
pub(crate) fn app(log: &UnboundedSender<String>) -> Router {
    let store = |millis| Store { takes: Duration::from_millis(millis), log: log.clone() };
    let hurry = axum::middleware::from_fn(in_a_hurry);
    Router::new()
        .route("/", get(handler).with_state(store(100)))
        .route("/hurry", get(handler).with_state(store(60_000)).layer(hurry))
        .route("/slow", get(handler).with_state(store(60_000)))
}

/// Three clients, one after the other, and what the store says about each.
pub(crate) async fn clients(
    ctx: &Context,
    client: &Client,
    base: &str,
    said: &mut UnboundedReceiver<String>,
) -> Result<(), Cancelled> {
    for (who, path, patience) in [
        ("a patient client", "/", Duration::MAX),
        ("one that hangs up", "/slow", Duration::from_millis(50)),
        ("a request that is cancelled", "/hurry", Duration::MAX),
    ] {
        let (call, _canceller) = ctx.with_timeout(patience);
        let answer = async {
            client.get(&call, format!("{base}{path}")).await?.into_body().text(1000).await
        };
        match answer.await {
            Ok(text) => println!("{who} got: {text}"),
            Err(error) => println!("{who} got nothing: {}", error.cancelled().expect("its limit")),
        }
        println!("  {}", ctx.run(said.recv()).await?.expect("the store tells"));
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    let (log, mut said) = mpsc::unbounded_channel();
    let listen = std::env::args().skip_while(|argument| argument != "--listen").nth(1);
    let (server, stop) = signal::interrupt(&Context::background());
    let address = listen.as_deref().unwrap_or("127.0.0.1:0");
    let listener = TcpListener::bind(address).await.expect("an address that is free");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let served = tokio::spawn(serve(&server, listener, app(&log)).into_future());
    if listen.is_some() {
        println!("listening on {base}");
        while let Ok(Some(line)) = server.run(said.recv()).await {
            println!("{line}");
        }
    } else {
        let all = clients(&server, &Client::new(), &base, &mut said).await;
        stop.cancel_with("the example is over");
        all.unwrap_or_else(|cancelled| println!("{cancelled}"));
    }
    println!("{}", served.await.expect("a server that does not panic"));
}
