//! Pipelines by the hundred thousand, on two threads, ended at random moments.
//!
//! After each hundred the runtime must have no task left and every item must have
//! been dropped; at the end memory must be what it was when all was warm.
#![cfg(all(not(loom), feature = "tokio"))]
// What races with the pipelines is on the outside.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod kit;

use futures::future::join_all;
use kit::{AGES, Rng, Stock, background, quiet, relay, threads};
use quell::{Canceller, OnCancel, Outcome, Pipeline, Rate, rt};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Both look at the memory of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// As many in an optimized build; a tenth of it otherwise.
const fn scaled(rounds: usize) -> usize {
    if cfg!(debug_assertions) { rounds / 10 } else { rounds }
}

/// KiB of this process in memory, where that can be read.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split_whitespace().nth(1)?.parse::<usize>().ok()? * 4)
}

/// Fails if it grows by more than this many KiB between the first quarter and the end.
fn flat(rounds: usize, most: usize, mut round: impl FnMut(usize)) {
    let mut warm = None;
    for n in 0..rounds {
        round(n);
        if n == rounds / 4 {
            warm = resident();
        }
    }
    if let (Some(warm), Some(now)) = (warm, resident()) {
        assert!(now < warm + most, "{warm} KiB when warm, {now} KiB after {rounds} rounds");
    }
}

/// One pipeline, ended in one of many ways.
async fn one(stock: Stock, seed: u64) {
    let mut rng = Rng::new(seed);
    let (ctx, canceller) = background().with_cancel();
    let items = if rng.below(2) == 0 { rng.below(30) } else { u64::MAX };
    let mut pipeline = Pipeline::from_iter(&ctx, stock.items(items));
    for _ in 0..rng.below(3) + 1 {
        let pause = rng.below(4);
        pipeline = match rng.below(7) {
            0 => pipeline.map(|item| item),
            1 => pipeline.dispatch(rng.below(8) as usize + 1, move |_, item| async move {
                for _ in 0..pause {
                    rt::yield_now().await;
                }
                item
            }),
            2 => pipeline.dispatch_ordered(3, move |ctx, item| async move {
                if pause == 0 {
                    let _ = ctx.run(rt::yield_now()).await;
                }
                item
            }),
            3 => pipeline.throttle(Rate::per_second(1_000_000).burst(10)),
            4 => pipeline.stage("relay", relay),
            5 => pipeline.try_dispatch(2, move |_, item| async move {
                if pause == 0 && item.n == 20 { Err("twenty") } else { Ok(item) }
            }),
            _ => pipeline.merge(Pipeline::from_iter(&ctx, stock.items(5))),
        };
        if rng.below(3) == 0 {
            pipeline = pipeline.buffer(rng.below(5) as usize + 1);
        }
    }
    if rng.below(4) == 0 {
        let grace = Duration::from_micros(rng.below(500));
        pipeline = pipeline.on_cancel(OnCancel::Drain { grace });
    }
    let mut results = pipeline.run();
    let reads = rng.below(50);
    let canceller: Option<Canceller> = match rng.below(4) {
        // By another task, at some moment.
        0 => {
            let yields = rng.below(20);
            tokio::spawn(async move {
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
                canceller.cancel();
            });
            None
        }
        // By the deadline below it, or not at all.
        _ => Some(canceller),
    };
    for k in 0..reads {
        if k == reads / 2 && rng.below(3) == 0 {
            if let Some(canceller) = &canceller {
                canceller.cancel();
            }
        }
        if results.next().await.is_none() {
            break;
        }
    }
    if rng.below(3) == 0 {
        drop(results);
    } else {
        let report = results.finish().await;
        assert!(report.conserved(), "seed {seed}: {report}");
        assert!(!matches!(report.outcome(), Outcome::Panicked { .. }), "{report}");
    }
}

#[test]
fn a_hundred_thousand_pipelines_ended_at_random_leave_no_task_no_item_and_no_memory() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let runtime = threads(2);
    let stock = Stock::new();
    let began = Instant::now();
    flat(scaled(100_000) / 100, 4 * 1024, |round| {
        runtime.block_on(async {
            let seeds = (0..100).map(|n| (round * 100 + n) as u64);
            let hundred = join_all(seeds.map(|seed| tokio::spawn(one(stock.clone(), seed))));
            let hundred = tokio::time::timeout(Duration::from_secs(60), hundred).await;
            for ended in hundred.expect("it hangs") {
                ended.unwrap();
            }
            quiet().await;
        });
        // A grace that is over ends its pipeline on a thread of quell's own, and that may be
        // dropping the last items still where nobody has waited for `finish`.
        let began = Instant::now();
        while stock.left() > 0 {
            assert!(began.elapsed() < AGES, "round {round}: {} items are left", stock.left());
            std::thread::yield_now();
        }
    });
    let ended = Instant::now();
    while !background().tree().is_empty() {
        assert!(ended.elapsed() < AGES, "{}", background().tree());
        std::thread::yield_now();
    }
    println!("{} items, {:?}", stock.made(), began.elapsed());
}

#[test]
fn results_that_are_dropped_from_under_their_workers_leave_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let runtime = threads(2);
    let stock = Stock::new();
    flat(scaled(5_000), 4 * 1024, |round| {
        let mut results = Pipeline::from_iter(&background(), stock.items(u64::MAX))
            .dispatch(8, |_, item| async move { item })
            .run();
        runtime.block_on(async {
            for _ in 0..round % 100 {
                assert!(results.next().await.is_some());
            }
            drop(results);
            quiet().await;
        });
        assert_eq!(stock.left(), 0, "round {round}");
    });
}
