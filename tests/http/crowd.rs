//! Ten thousand requests with random cancels, and nothing left of them.

use super::rig::{Rig, soon, tasks, until};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures::{StreamExt, stream};
use proptest::prelude::RngCore;
use proptest::test_runner::{RngAlgorithm, TestRng};
use quell::Context;
use quell::http::{Client, Ctx, LimitLayer, PropagationLayer, TimeoutLayer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::task::yield_now;

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 64;

/// How many fetches of the store run, and what became of those that ended.
#[derive(Default)]
struct Store {
    running: AtomicUsize,
    finished: AtomicUsize,
    told: AtomicUsize,
}

impl Store {
    /// Fetches in a task of its own, which runs until it has finished or is told to
    /// give up.
    fn fetch(self: &Arc<Self>, ctx: &Context, steps: u64) -> tokio::task::JoinHandle<()> {
        let (store, ctx) = (self.clone(), ctx.clone());
        store.running.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            let work = async {
                for _ in 0..steps {
                    yield_now().await;
                }
                if steps % 3 == 0 {
                    std::future::pending::<()>().await;
                }
            };
            match ctx.run(work).await {
                Ok(()) => store.finished.fetch_add(1, SeqCst),
                Err(_) => store.told.fetch_add(1, SeqCst),
            };
            store.running.fetch_sub(1, SeqCst);
        })
    }
}

fn app(store: &Arc<Store>, limit: &LimitLayer) -> Router {
    let (whole, pieces) = (store.clone(), store.clone());
    let steps = |uri: &http::Uri| uri.query().unwrap().parse::<u64>().unwrap();
    Router::new()
        .route(
            "/whole",
            get(move |Ctx(ctx): Ctx, uri: http::Uri| async move {
                let _ = whole.fetch(&ctx, steps(&uri)).await;
                "whole\n"
            }),
        )
        .route(
            "/pieces",
            get(move |Ctx(ctx): Ctx, uri: http::Uri| async move {
                let fetch = pieces.fetch(&ctx, steps(&uri));
                let piece = Bytes::from_static(b"piece\n");
                let pieces = stream::repeat(piece).take(100).map(Ok::<_, Infallible>);
                Body::from_stream(pieces.chain(stream::once(async move {
                    let _ = fetch.await;
                    Ok(Bytes::from_static(b"end\n"))
                })))
            }),
        )
        .layer(TimeoutLayer::from_millis(200).answer_503())
        .layer(limit.clone())
        .layer(PropagationLayer::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_requests_with_random_cancels_nothing_is_left() {
    let before = tasks();
    let store = Arc::new(Store::default());
    let limit = LimitLayer::new(16, 64);
    let rig = Rig::new(app(&store, &limit)).await;
    let client = Client::new();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (client, base) = (client.clone(), rig.url(""));
            tokio::spawn(async move {
                let mut seed = [0; 32];
                seed[0] = number as u8;
                let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
                let mut below = move |limit: u64| random.next_u64() % limit;
                let mut ends = [0; 3];
                for _ in 0..REQUESTS.div_ceil(CLIENTS) {
                    let path = ["whole", "pieces"][below(2) as usize];
                    let url = format!("{base}/{path}?{}", below(200));
                    let (ctx, canceller) = match below(2) {
                        0 => Context::background().with_cancel(),
                        _ => Context::background().with_timeout(Duration::from_millis(below(20))),
                    };
                    let call = async {
                        let answer = client.get(&ctx, url).await?;
                        answer.into_body().text(10_000).await
                    };
                    let patience = below(400);
                    let impatient = async {
                        for _ in 0..patience {
                            yield_now().await;
                        }
                    };
                    // Cancelled, dropped in the middle, or waited for.
                    let end = match below(3) {
                        0 => {
                            let cancels = async {
                                impatient.await;
                                canceller.cancel_with("the client lost patience");
                            };
                            tokio::join!(call, cancels).0.is_err()
                        }
                        1 => tokio::select! {
                            result = call => result.is_err(),
                            () = impatient => true,
                        },
                        _ => call.await.is_err(),
                    };
                    ends[usize::from(end)] += 1;
                }
                ends
            })
        })
        .collect();
    let mut ends = [0; 2];
    for client in clients {
        let [answered, given_up, _] = soon("a client", client).await.unwrap();
        ends[0] += answered;
        ends[1] += given_up;
    }
    assert!(ends.iter().sum::<usize>() >= REQUESTS);
    // A run in which nothing was cancelled, or nothing answered, shows nothing.
    assert!(ends.iter().all(|&count| count > REQUESTS / 20), "{ends:?}");

    until("no fetch to run", || store.running.load(SeqCst) == 0).await;
    assert!(store.told.load(SeqCst) > 0 && store.finished.load(SeqCst) > 0);
    until("every place to be free", || (limit.running(), limit.waiting()) == (0, 0)).await;
    until("every request's context to be gone", || rig.ctx.tree().len() == 2).await;
    drop(client);
    until("every connection to be closed", || tasks() == before + 1).await;
    let ctx = rig.ctx.clone();
    let served = rig.end().await;
    assert_eq!((served.cancelled, served.dropped), (0, 0), "{served}");
    assert_eq!(ctx.tree().len(), 0);
    until("no task to be left", || tasks() == before).await;
}
