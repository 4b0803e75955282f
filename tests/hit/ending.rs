//! The end, however it comes: of the results, of the reader, of the context.

use super::rig::{OK, all, answering, get, heard, send, server, until};
use futures::StreamExt;
use futures::future::FusedFuture;
use futures::stream::FusedStream;
use quell::hit::{ErrorKind, Options, Summary, send_n};
use quell::{Context, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

/// A server that answers the first `some` requests and no others. Also returns how
/// many it has heard, and how many of its connections are open.
async fn answers_some(some: usize) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (asked, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, counts_open) = (asked.clone(), open.clone());
    let (url, _) = server(move |mut stream| {
        let (count, open) = (count.clone(), counts_open.clone());
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            while heard(&mut stream).await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) < some {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    (url, asked, open)
}

#[tokio::test]
async fn nothing_is_sent_before_the_results_are_polled() {
    let (url, connections) = answering(OK).await;
    let results = send(5, &url, Options::new());
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1, "the server's");
    assert_eq!(all(results).await.len(), 5);
    assert!(connections.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn dropping_the_results_ends_everything() {
    let (url, asked, open) = answers_some(3).await;
    let alone = Handle::current().metrics().num_alive_tasks();
    let mut results = send(1000, &url, Options::new().concurrency(4).timeout(None));
    for _ in 0..3 {
        assert!(results.next().await.unwrap().is_success());
    }
    until("the others to be under way", || asked.load(Ordering::SeqCst) == 7).await;
    drop(results);
    until("the connections to be closed", || open.load(Ordering::SeqCst) == 0).await;
    until("the tasks to end", || Handle::current().metrics().num_alive_tasks() == alone).await;
    assert_eq!(asked.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn a_select_takes_from_several_results_until_all_have_ended() {
    let (url, _) = answering(OK).await;
    let (mut one, mut two) = (send(3, &url, Options::new()), send(5, &url, Options::new()));
    let mut counts = [0, 0];
    loop {
        futures::select! {
            hit = one.select_next_some() => counts[0] += u32::from(hit.is_success()),
            hit = two.next() => counts[1] += u32::from(hit.is_some()),
            complete => break,
        }
    }
    assert_eq!(counts, [3, 5]);
    assert!(one.is_terminated() && two.next().is_terminated());
}

#[tokio::test]
async fn finishing_waits_for_the_end_and_says_that_the_reader_stopped() {
    let (url, _) = answering(OK).await;
    let mut results = send(1_000_000, &url, Options::new().concurrency(4));
    for _ in 0..3 {
        results.next().await.unwrap();
    }
    let report = results.finish().await;
    assert!(matches!(report.outcome(), Outcome::ReaderStopped), "{report:?}");
    assert!(report.conserved(), "{report:?}");
}

#[tokio::test]
async fn when_the_context_ends_every_finished_measurement_can_still_be_read() {
    let (url, asked, open) = answers_some(20).await;
    let (ctx, canceller) = Context::background().with_cancel();
    let options = Options::new().concurrency(4).timeout(None);
    let mut results = send_n(&ctx, 1000, get(&url), options).unwrap();
    let first = results.next().await.unwrap();
    // Nothing reads now; the workers go on until no answer comes.
    until("four to be under way for good", || asked.load(Ordering::SeqCst) == 24).await;
    canceller.cancel_with("enough");
    let mut hits = all(results).await;
    hits.push(first);
    let answered = hits.iter().filter(|hit| hit.is_success()).count();
    let stopped = hits.iter().filter(|hit| hit.error() == Some(ErrorKind::Stopped)).count();
    assert_eq!((answered, stopped, hits.len()), (20, 4, 24));
    until("the connections to be closed", || open.load(Ordering::SeqCst) == 0).await;
    let mut summary = Summary::new();
    summary.extend(&hits);
    assert_eq!((summary.requests(), summary.unfinished()), (20, 4));
}

#[tokio::test]
async fn a_context_that_has_ended_sends_nothing() {
    let (url, connections) = answering(OK).await;
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let results = send_n(&ctx, 10, get(&url), Options::new()).unwrap();
    assert_eq!(all(results).await, []);
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_slow_rate_does_not_hold_up_the_end() {
    let (url, _) = answering(OK).await;
    let (ctx, canceller) = Context::background().with_cancel();
    let mut results = send_n(&ctx, 10, get(&url), Options::new().rps(1)).unwrap();
    assert!(results.next().await.unwrap().is_success());
    let began = Instant::now();
    canceller.cancel();
    assert_eq!(all(results).await, []);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}
