//! Rates on a paused clock, without a server; and what cannot be asked for.

use super::rig::all;
use bytes::Bytes;
use http::Request;
use quell::Context;
use quell::hit::{Hit, Options, send_n, send_n_with};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_by_the_clock() {
    let began = tokio::time::Instant::now();
    let send = |_, _| async { Hit::answered(200, 0, Duration::ZERO) };
    let options = Options::new().rps(50);
    let hits = all(send_n_with(&Context::background(), 101, options, send).unwrap()).await;
    assert_eq!((hits.len(), began.elapsed().as_millis()), (101, 2000));
}

#[tokio::test(start_paused = true)]
async fn with_latency_correction_one_standstill_is_slow_for_all_that_were_due_in_it() {
    let run = async |options: Options| {
        let first = Arc::new(AtomicUsize::new(0));
        let send = move |_, due: Instant| {
            let first = first.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let now = tokio::time::Instant::now().into_std();
                Hit::answered(200, 0, now - due)
            }
        };
        let options = options.concurrency(1).rps(10);
        let hits = all(send_n_with(&Context::background(), 21, options, send).unwrap()).await;
        hits.iter().map(|hit| hit.duration().as_millis() as u64 / 10 * 10).collect::<Vec<_>>()
    };
    let corrected = run(Options::new().latency_correction(true)).await;
    let expected: Vec<u64> = (0..=10).map(|k| 1000 - 100 * k).chain([0; 10]).collect();
    assert_eq!(corrected, expected);
    let plain = run(Options::new()).await;
    assert_eq!(plain[0], 1000);
    assert!(plain[1..].iter().all(|duration| *duration == 0), "{plain:?}");
}

#[tokio::test(start_paused = true)]
async fn with_latency_correction_the_lateness_of_a_timer_is_nobodys_latency() {
    // Timers ring at whole milliseconds, and a period of 10/3 ms is not whole.
    let service = Duration::from_millis(3);
    for concurrency in [1, 10] {
        let send = move |_, began: Instant| async move {
            tokio::time::sleep(service).await;
            Hit::answered(200, 0, tokio::time::Instant::now().into_std() - began)
        };
        let options = Options::new().concurrency(concurrency).rps(300).latency_correction(true);
        let hits = all(send_n_with(&Context::background(), 100, options, send).unwrap()).await;
        let slowest = hits.iter().map(Hit::duration).max().unwrap();
        assert!(slowest < service + service / 100, "{concurrency} at once: {slowest:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_an_error_that_says_why() {
    let why = |n: usize, url: &str, options: Options| {
        let request = Request::builder().uri(url).body(Bytes::new()).unwrap();
        send_n(&Context::background(), n, request, options).unwrap_err().to_string()
    };
    let (url, options) = ("http://localhost/", Options::new());
    assert_eq!(why(0, url, options.clone()), "n must be positive: got 0");
    assert_eq!(why(1, url, options.clone().concurrency(0)), "concurrency must be positive: got 0");
    assert_eq!(why(1, url, options.clone().rps(0)), "rps must be positive: got 0");
    assert!(why(1, url, options.clone().latency_correction(true)).contains("needs a rate"));
    assert!(why(1, "/nowhere", options.clone()).contains("no scheme"));
    let send = |_, _| async { Hit::answered(200, 0, Duration::ZERO) };
    let none = send_n_with(&Context::background(), 0, options, send);
    assert_eq!(none.unwrap_err().to_string(), "n must be positive: got 0");
}
