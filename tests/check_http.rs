//! Four of the example programs under `Checker::tokio`: cancelled, dropped and past their
//! deadline at every point.
//!
//! The code under test is the programs' own, taken from their files: the store, its
//! handlers and its clients; the three programs with two loops, and the service they call.
//! Below it are quell's client with its pool of connections, hyper on both sides, and
//! [`ContextLayer`].
//!
//! Not under test are the sockets, and with them `serve`, which accepts from one. A paused
//! clock moves on whenever no task can run, and does not know that bytes are on their way in
//! the system. So connections are pipes inside the process, and the server's part of each
//! is a task. Real sockets are tested in `tests/examples.rs` and `tests/http`. The programs'
//! `main` makes an address and a client, and is left out.
#![cfg(all(not(loom), feature = "check", feature = "http"))]
#![allow(clippy::duplicate_mod, reason = "a program brings its server with it")]

use axum::{Router, extract::State, routing::get};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use quell::Context;
use quell::check::{Checker, Inject, Report, ViolationKind};
use quell::http::{Client, ContextLayer, Ctx};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::duplex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower_layer::Layer;

#[allow(dead_code, reason = "their `main` is not run here")]
#[path = "../examples/cancel_error_http.rs"]
mod cancel_error_http;
#[allow(dead_code, reason = "their `main` is not run here")]
#[path = "../examples/cancel_http.rs"]
mod cancel_http;
#[allow(dead_code, reason = "the address is not asked for here")]
#[path = "../examples/support/httpbin.rs"]
mod httpbin;
#[allow(dead_code, reason = "their `main` is not run here")]
#[path = "../examples/store_server.rs"]
mod store_server;
#[allow(dead_code, reason = "their `main` is not run here")]
#[path = "../examples/timeout_error_http.rs"]
mod timeout_error_http;

const ALL: [Inject; 4] = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None];

/// The address of the other end of a pipe.
const INSIDE: &str = "http://inside";

/// With this seed the service answers once as it should, and then with a bad status.
const SECOND: u64 = 2;

/// With this seed the fifth status is the first bad one.
const FIFTH: u64 = 10;

/// So small that a request takes several reads and writes, which are more points to end it at.
const PIPE: usize = 64;

/// A client whose connections all lead to this app. The contexts of its requests are
/// derived from `server`.
fn client_of(server: &Context, app: Router) -> Client {
    counted(server, app).0
}

/// Such a client, and how many connections it has made.
fn counted(server: &Context, app: Router) -> (Client, Arc<AtomicUsize>) {
    let app = ContextLayer::new(server).layer(app);
    let connections = Arc::new(AtomicUsize::new(0));
    let made = connections.clone();
    let client = Client::connecting(move |_| {
        made.fetch_add(1, Ordering::Relaxed);
        let (near, far) = duplex(PIPE);
        let service = TowerToHyperService::new(app.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        tokio::spawn(async { connection.await.is_ok() });
        async { Ok(near) }
    });
    (client, connections)
}

fn found(report: &Report, kind: ViolationKind) -> bool {
    println!("{report}");
    report.violations().iter().any(|violation| violation.kind() == kind)
}

#[test]
fn the_store_server_leaves_no_fetch_behind_wherever_it_is_ended() {
    let came_to_its_end = AtomicUsize::new(0);
    let report = Checker::tokio().inject(ALL).run(|ctx| {
        let came_to_its_end = &came_to_its_end;
        async move {
            let (log, mut said) = mpsc::unbounded_channel();
            let client = client_of(&ctx, store_server::app(&log));
            let all = store_server::clients(&ctx, &client, INSIDE, &mut said).await;
            came_to_its_end.fetch_add(usize::from(all.is_ok()), Ordering::Relaxed);
        }
    });
    println!("{report}");
    report.assert_clean();
    assert!(report.points() > 40, "every client, handler and fetch looks at its context");
    assert!(came_to_its_end.into_inner() > 0, "with nothing injected it tells of all clients");
}

/// Ends a program of two loops wherever it can be ended. Returns how long it runs if
/// nothing ends it.
fn two_loops(seed: u64, both: impl AsyncFn(&Context, Client)) -> Duration {
    let seen = Mutex::new((Duration::ZERO, 0));
    let report = Checker::tokio().inject(ALL).run(|ctx| {
        let (seen, both) = (&seen, &both);
        async move {
            let began = Instant::now();
            let (client, connections) = counted(&ctx, httpbin::app(seed));
            both(&ctx, client).await;
            let mut seen = seen.lock().unwrap();
            // The run that nothing ends comes last.
            seen.0 = began.elapsed();
            seen.1 = connections.load(Ordering::Relaxed).max(seen.1);
        }
    });
    println!("{report}");
    report.assert_clean();
    assert!(report.points() > 30, "both loops and both handlers look at their contexts");
    let (took, connections) = seen.into_inner().unwrap();
    // One more than there are loops: a call does not wait for a connection that is just on
    // its way back.
    assert!(connections <= 3, "an answer was not read to its end: {connections} connections");
    took
}

#[test]
fn the_two_loops_end_wherever_they_are_ended() {
    let both = async |ctx: &Context, client| cancel_http::both(ctx, client, INSIDE).await;
    assert_eq!(two_loops(FIFTH, both), Duration::from_secs(4), "the fifth status is bad");
}

#[test]
fn the_two_loops_with_a_cause_end_wherever_they_are_ended() {
    let both = async |ctx: &Context, client| cancel_error_http::both(ctx, client, INSIDE).await;
    assert_eq!(two_loops(FIFTH, both), Duration::from_secs(4), "the fifth status is bad");
}

#[test]
fn the_two_loops_with_a_limit_end_wherever_they_are_ended() {
    let both = async |ctx: &Context, client| timeout_error_http::both(ctx, client, INSIDE).await;
    assert_eq!(two_loops(FIFTH, both), Duration::from_secs(3), "the limit comes first");
}

/// The store server's handler with a mistake: its fetch does not hear of the end.
async fn deaf(Ctx(ctx): Ctx, State(store): State<store_server::Store>) -> String {
    let fetch = tokio::spawn(store.fetch(ctx.without_cancel()));
    fetch.await.unwrap().unwrap_or_else(|cancelled| cancelled.to_string())
}

#[test]
fn a_fetch_that_ignores_its_context_is_found() {
    let report = Checker::tokio().run(|ctx| async move {
        let (log, _said) = mpsc::unbounded_channel();
        let store = store_server::Store { takes: Duration::from_secs(60), log };
        let app = Router::new().route("/slow", get(deaf)).with_state(store);
        let client = client_of(&ctx, app);
        let (hangs_up, _canceller) = ctx.with_timeout(Duration::from_millis(50));
        let _ = client.get(&hangs_up, format!("{INSIDE}/slow")).await;
    });
    assert!(found(&report, ViolationKind::LeakedTask));
}

#[test]
fn a_loop_that_ignores_its_context_is_found() {
    let report = Checker::tokio().stop_at_first().run(|ctx| async move {
        let client = client_of(&Context::background(), httpbin::app(SECOND));
        let (results, mut received) = mpsc::channel(1);
        let (deaf, canceller) = ctx.without_cancel().with_cancel();
        let url = format!("{INSIDE}/delay/1");
        tokio::spawn(cancel_http::delays(deaf, canceller, client, url, results));
        while let Ok(Some(_)) = ctx.run(received.recv()).await {}
    });
    assert!(found(&report, ViolationKind::LeakedTask));
}
