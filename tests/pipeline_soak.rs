//! Pipelines by the hundred thousand, on two threads, ended at random moments.
//!
//! After each hundred the runtime must have no task left and every item must have been
//! dropped; and once all is warm, no more may be allocated than before, within [`MORE`].
#![cfg(all(not(loom), feature = "tokio"))]
// What races with the pipelines stands outside of them.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod kit;

use futures::future::join_all;
use kit::{AGES, Rng, Stock, background, quiet, relay, threads};
use quell::{Canceller, OnCancel, Outcome, Pipeline, Rate, rt};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Both tests look at what the process has allocated.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// All rounds in an optimized build; a tenth of them otherwise.
const fn scaled(rounds: usize) -> usize {
    if cfg!(debug_assertions) { rounds / 10 } else { rounds }
}

/// The system's allocator, with a count of what is allocated.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many allocations there are, and their bytes.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        BYTES.fetch_add(layout.size(), SeqCst);
        // SAFETY: the caller promises what `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_sub(1, SeqCst);
        BYTES.fetch_sub(layout.size(), SeqCst);
        // SAFETY: `memory` came from `alloc` above, so from `System`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.fetch_add(size, SeqCst);
        BYTES.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as for `dealloc`, and the caller promises a size that `System` takes.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// How many more allocations, and bytes, there may be after one hundred than after another.
/// The threads that do quell's own work come and go: each is four allocations, and there are
/// eight or fewer. And queues keep their room.
const MORE: (usize, usize) = (64, 16 * 1024);

/// Fails if more is allocated after a round than after any before, once a quarter of the rounds
/// has made all warm. Looks after each hundred pipelines.
fn flat(rounds: usize, pipelines: usize, mut round: impl FnMut(usize)) {
    let mut least = (usize::MAX - MORE.0, usize::MAX - MORE.1);
    for n in 0..rounds {
        round(n);
        if n < rounds / 4 || (n + 1) * pipelines % 100 > 0 {
            continue;
        }
        // The timer thread knows of workers that took no time until its next look, and a thread
        // that is letting go of what it had in hand may have lost its turn.
        let began = Instant::now();
        loop {
            let now = (ALLOCATIONS.load(SeqCst), BYTES.load(SeqCst));
            least = (least.0.min(now.0), least.1.min(now.1));
            if now.0 <= least.0 + MORE.0 && now.1 <= least.1 + MORE.1 {
                break;
            }
            assert!(began.elapsed() < AGES, "round {n}: {now:?} are left, and once {least:?} were");
            std::thread::yield_now();
        }
    }
    println!("{least:?} allocations and bytes at the least");
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
        // By the reader below, or not at all.
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
    flat(scaled(100_000) / 100, 100, |round| {
        runtime.block_on(async {
            let seeds = (0..100).map(|n| (round * 100 + n) as u64);
            let hundred = join_all(seeds.map(|seed| tokio::spawn(one(stock.clone(), seed))));
            let hundred = tokio::time::timeout(Duration::from_secs(60), hundred).await;
            for ended in hundred.expect("it hangs") {
                ended.unwrap();
            }
            quiet().await;
        });
        // A grace that is over ends its pipeline on a thread of quell's own, which may still be
        // dropping the last items where nothing has waited for `finish`.
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
    flat(scaled(5_000), 1, |round| {
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
