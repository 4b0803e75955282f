//! The server for the three examples with two loops: a small relative of httpbin.org, in
//! the same process, with two of its addresses.
//!
//! * `/status/200,200,200,500` answers with one of these at random.
//! * `/delay/1` answers after that many seconds, at most ten.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing::get};
use quell::Context;
use quell::http::{Ctx, serve};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The address to call: `--base URL` if given, else that of a server started here. With
/// `--seed N` that server gives the same answers in every run.
pub(crate) async fn base() -> String {
    if let Some(base) = argument("--base") {
        return base.trim_end_matches('/').to_string();
    }
    let seed = argument("--seed").and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(serve(&Context::background(), listener, app(seed)).into_future());
    base
}

/// The service itself.
pub(crate) fn app(seed: u64) -> Router {
    Router::new()
        .route("/status/{choices}", get(status))
        .route("/delay/{seconds}", get(delay))
        .with_state(Arc::new(AtomicU64::new(seed)))
}

async fn status(Path(choices): Path<String>, State(state): State<Arc<AtomicU64>>) -> StatusCode {
    let choices: Vec<_> = choices.split(',').collect();
    let mut number = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let choice = choices[((number >> 32) % choices.len() as u64) as usize];
    choice.parse().unwrap_or(StatusCode::BAD_REQUEST)
}

/// About as long as that of the real one.
const JSON: &str = r#"{
  "args": {}, "data": "", "files": {}, "form": {}, "headers": {"Accept": "*/*"},
  "origin": "127.0.0.1", "url": "http://127.0.0.1/delay/1"
}
"#;

async fn delay(Path(seconds): Path<f64>, Ctx(ctx): Ctx) -> impl IntoResponse {
    let delay = Duration::try_from_secs_f64(seconds.min(10.0)).unwrap_or_default();
    // When the caller hangs up, this ends too.
    let _ = ctx.run(tokio::time::sleep(delay)).await;
    ([(header::CONTENT_TYPE, "application/json")], JSON)
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
