//! Threads share a pipeline's work: as much of it as there is, and nobody waits behind
//! work that keeps its thread.
#![cfg(all(not(loom), feature = "tokio"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "how long a thread was busy is the system's time"
)]

mod kit;

use kit::{AGES, background, in_time, ms, read, threads};
use quell::channel::{Receiver, Sender};
use quell::{Pipeline, Results};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// They measure: each has the machine to itself, as far as this file goes.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::black_box(());
    }
}

/// What two bare threads need for 64 milliseconds of work, with nothing between them
/// but a counter.
fn bare() -> Duration {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while next.fetch_add(1, Relaxed) < 64 {
                    spin(ms(1));
                }
            });
        }
    });
    began.elapsed()
}

/// It must take two threads 0.6 of what it takes one. Others use the machine too: so it
/// is tried a few times, and a try in which two bare threads fare no better is none.
fn assert_shared(run: impl Fn(usize) -> Results<u64>) {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    let _alone = alone();
    let runtime = threads(2);
    let time = |workers| {
        let mut results = run(workers);
        let began = Instant::now();
        let count = runtime.block_on(async { read(&mut results).await.len() });
        assert_eq!(count, 64);
        began.elapsed().as_secs_f64()
    };
    let mut tries = Vec::new();
    for _ in 0..40 {
        let (serial, parallel, bare) = (time(1), time(8), bare().as_secs_f64());
        tries.push((parallel / serial, bare / serial));
        if parallel / serial <= 0.6 {
            return;
        }
    }
    let fair = tries.iter().filter(|(_, bare)| *bare <= 0.55).count();
    assert!(fair < 5, "of the serial time it takes, and two bare threads take: {tries:.2?}");
}

#[test]
fn two_threads_share_the_work_of_a_dispatch() {
    assert_shared(|workers| {
        Pipeline::from_iter(&background(), 0..64)
            .dispatch(workers, |_, n| async move {
                spin(ms(1));
                n
            })
            .run()
    });
}

#[test]
fn two_threads_share_the_work_of_a_dispatch_with_the_smallest_of_buffers() {
    for n in [1, 2] {
        assert_shared(|workers| {
            Pipeline::from_iter(&background(), 0..64)
                .buffer(n)
                .dispatch(workers, |_, n| async move {
                    spin(ms(1));
                    n
                })
                .buffer(n)
                .run()
        });
    }
}

#[test]
fn two_threads_share_the_work_though_one_was_enough_for_what_came_before() {
    const BEFORE: u64 = 20_000;
    assert_shared(|workers| {
        Pipeline::from_iter(&background(), 0..BEFORE + 64)
            .dispatch(workers, |_, n| async move {
                if n >= BEFORE {
                    spin(ms(1));
                }
                n
            })
            .filter_map(|n| (n >= BEFORE).then_some(n))
            .run()
    });
}

/// Item `first` keeps its thread until the next has begun.
fn meets(how: &str, first: u64, source: Pipeline<u64>) {
    let runtime = threads(3);
    let (tell, told) = mpsc::channel();
    let (tell, told) = (Mutex::new(tell), Arc::new(Mutex::new(told)));
    let mut results = source
        .dispatch(4, move |_, n| {
            if n == first + 1 {
                tell.lock().unwrap().send(()).unwrap();
            }
            let told = (n == first).then(|| told.clone());
            async move {
                told.is_none_or(|told| {
                    told.lock().unwrap().recv_timeout(Duration::from_secs(3)).is_ok()
                })
            }
        })
        .run();
    runtime.block_on(async {
        let met = read(&mut results).await.into_iter().all(|met| met);
        assert!(met, "{how}: item {} waited behind item {first}", first + 1);
    });
}

#[test]
fn an_item_does_not_wait_long_behind_one_that_suddenly_keeps_its_thread() {
    let _alone = alone();
    in_time(|| {
        for before in [100, 1_000, 10_000, 100_000] {
            let items = Pipeline::from_iter(&background(), 0..before + 1_000);
            meets("all before took no time", before, items);
        }
    });
}

#[test]
fn an_item_does_not_wait_behind_anothers_work_that_keeps_its_thread() {
    let _alone = alone();
    in_time(|| {
        for _ in 0..20 {
            meets("both are there", 0, Pipeline::from_iter(&background(), 0..2));
            meets("behind a map", 0, Pipeline::from_iter(&background(), 0..2).map(|n| n));
            meets("buffer(1)", 0, Pipeline::from_iter(&background(), 0..2).buffer(1));
        }
    });
}

#[test]
fn an_item_that_comes_later_does_not_wait_behind_anothers_work_either() {
    let _alone = alone();
    in_time(|| {
        for _ in 0..20 {
            // The second is made by a thread, once the first has been taken.
            let (tell, told) = mpsc::channel();
            let items = (0..2).inspect(move |n| {
                if *n == 1 {
                    told.recv_timeout(AGES).unwrap();
                }
            });
            let source = Pipeline::from_blocking_iter(&background(), items).map(move |n| {
                let _ = tell.send(());
                n
            });
            meets("the second comes later", 0, source);
        }
    });
}

#[test]
fn stages_run_beside_one_another_on_two_threads() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return;
    }
    let _alone = alone();
    let runtime = threads(2);
    let (busy, met) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..100 {
        let (here, there, seen) = (busy.clone(), busy.clone(), met.clone());
        let mut results = Pipeline::from_iter(&background(), 0..64_u64)
            .map(move |n| {
                here.fetch_add(1, Relaxed);
                spin(ms(1));
                here.fetch_sub(1, Relaxed);
                n
            })
            .stage("second", |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                while let Some(n) = input.recv().await {
                    let began = Instant::now();
                    while began.elapsed() < ms(1) {
                        seen.fetch_add(there.load(Relaxed), Relaxed);
                    }
                    output.send(n).await.unwrap();
                }
            })
            .run();
        assert_eq!(runtime.block_on(async { read(&mut results).await.len() }), 64);
        if met.load(Relaxed) > 0 {
            return;
        }
    }
    panic!("neither of them was ever at work while the other was");
}
