//! Threads share as much of a pipeline's work as there is, and no item waits behind work
//! that keeps its thread.
#![cfg(all(not(loom), feature = "tokio"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "how long a thread was busy is the system's time"
)]

mod kit;

use futures::FutureExt;
use kit::{AGES, background, in_time, ms, read, threads};
use quell::channel::{Receiver, Sender};
use quell::{OnCancel, Pipeline, Results};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// The tests measure: each has the machine to itself, as far as this file goes.
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

/// How long two bare threads take for 64 milliseconds of work, with nothing between them
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

/// When the first item that takes its time began: what came before is not measured.
type Began = Arc<OnceLock<Instant>>;

/// The work of one item.
fn keep(began: &Began, time: Duration) {
    began.get_or_init(Instant::now);
    spin(time);
}

/// The times of eight workers, and of two bare threads, as fractions of one worker's time.
struct Tries {
    runtime: tokio::runtime::Runtime,
    all: Vec<(f64, f64)>,
    _alone: MutexGuard<'static, ()>,
}

impl Tries {
    /// `None` where there are not two threads.
    fn new() -> Option<Tries> {
        let two = std::thread::available_parallelism().is_ok_and(|threads| threads.get() > 1);
        two.then(|| Tries { _alone: alone(), runtime: threads(2), all: Vec::new() })
    }

    fn again(&mut self, run: &impl Fn(usize, Began) -> Results<u64>) -> f64 {
        let time = |workers| {
            let began = Began::default();
            let mut results = run(workers, began.clone());
            let reading = async move { read(&mut results).await.len() };
            let count = self.runtime.block_on(self.runtime.spawn(reading)).unwrap();
            assert_eq!(count, 64);
            began.get().expect("64 items have taken their time").elapsed().as_secs_f64()
        };
        let (serial, parallel, bare) = (time(1), time(8), bare().as_secs_f64());
        self.all.push((parallel / serial, bare / serial));
        parallel / serial
    }

    /// The machine may be busy: only tries in which two bare threads did well count.
    fn fair(&self) -> Vec<f64> {
        self.all.iter().filter(|(_, bare)| *bare <= 0.55).map(|(took, _)| *took).collect()
    }
}

/// In one of a few tries, two threads must take at most 0.6 of the time of one.
fn assert_shared(run: impl Fn(usize, Began) -> Results<u64>) {
    let Some(mut tries) = Tries::new() else { return };
    for _ in 0..40 {
        if tries.again(&run) <= 0.6 {
            return;
        }
    }
    assert!(tries.fair().len() < 5, "of one thread's time: {:.2?}", tries.all);
}

/// Two threads must mostly take no more than that: by the median of five fair tries, or of more.
fn assert_mostly_shared(run: impl Fn(usize, Began) -> Results<u64>) {
    let Some(mut tries) = Tries::new() else { return };
    for _ in 0..40 {
        tries.again(&run);
        let mut fair = tries.fair();
        fair.sort_by(f64::total_cmp);
        if fair.len() % 2 == 1 && fair.len() >= 5 && fair[fair.len() / 2] <= 0.6 {
            return;
        }
    }
    assert!(tries.fair().len() < 9, "of one thread's time: {:.2?}", tries.all);
}

#[test]
fn two_threads_share_the_work_of_a_dispatch() {
    assert_shared(|workers, began| {
        Pipeline::from_iter(&background(), 0..64)
            .dispatch(workers, move |_, n| {
                let began = began.clone();
                async move {
                    keep(&began, ms(1));
                    n
                }
            })
            .run()
    });
}

#[test]
fn two_threads_share_the_work_of_a_dispatch_with_the_smallest_of_buffers() {
    for n in [1, 2] {
        assert_shared(|workers, began| {
            Pipeline::from_iter(&background(), 0..64)
                .buffer(n)
                .dispatch(workers, move |_, n| {
                    let began = began.clone();
                    async move {
                        keep(&began, ms(1));
                        n
                    }
                })
                .buffer(n)
                .run()
        });
    }
}

#[test]
fn two_threads_share_the_work_though_one_was_enough_for_what_came_before() {
    const BEFORE: u64 = 20_000;
    assert_mostly_shared(|workers, began| {
        Pipeline::from_iter(&background(), 0..BEFORE + 64)
            .dispatch(workers, move |_, n| {
                let began = began.clone();
                async move {
                    if n >= BEFORE {
                        keep(&began, ms(1));
                    }
                    n
                }
            })
            .filter_map(|n| (n >= BEFORE).then_some(n))
            .run()
    });
}

#[test]
fn two_threads_share_what_takes_long_and_then_waits_though_one_was_enough_before() {
    const BEFORE: u64 = 300;
    assert_mostly_shared(|workers, began| {
        Pipeline::from_iter(&background(), 0..BEFORE + 256)
            .dispatch(workers, move |_, n| {
                let began = began.clone();
                async move {
                    if n >= BEFORE {
                        keep(&began, Duration::from_micros(250));
                        quell::rt::yield_now().await;
                    }
                    n
                }
            })
            .filter_map(|n| (n >= BEFORE && n % 4 == 0).then_some(n))
            .run()
    });
}

#[test]
fn a_result_does_not_wait_for_the_next_item_that_keeps_its_workers_thread() {
    let _alone = alone();
    in_time(|| {
        let runtime = threads(2);
        // Each third item keeps its thread until the result before it has been read.
        let (tell, told) = mpsc::channel();
        let told = Mutex::new(told);
        let mut results = Pipeline::from_iter(&background(), 0..60)
            .dispatch(1, move |_, n| {
                let is_read = n % 3 != 2 || told.lock().unwrap().recv_timeout(ms(300)).is_ok();
                async move { (n, is_read) }
            })
            .run();
        let reading = async move {
            let mut waited = Vec::new();
            while let Some((n, is_read)) = results.next().await {
                if n % 3 == 1 {
                    let _ = tell.send(());
                }
                if !is_read {
                    waited.push(n);
                }
            }
            waited
        };
        // A task, which the thread that wakes it keeps for itself.
        let waited = runtime.block_on(runtime.spawn(reading)).unwrap();
        assert!(waited.is_empty(), "the results before {waited:?} were not read");
    });
}

#[test]
fn others_have_a_turn_after_thirty_two_items_that_suddenly_take_long() {
    const OVER: usize = usize::MAX;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Wherever in a turn of sixty-four they begin.
    let starts = [1_000, 1_024, 1_030, 1_060];
    let stages = ["source", "map", "dispatch"];
    for (stage, start) in stages.iter().flat_map(|stage| starts.map(|start| (*stage, start))) {
        let since = Arc::new(AtomicUsize::new(0));
        let long = {
            let since = since.clone();
            move |n: u64| {
                if n >= start {
                    since.fetch_add(1, Relaxed);
                    spin(Duration::from_micros(200));
                }
                n
            }
        };
        let items = 0..1_200_u64;
        let ctx = background();
        let mut results = match stage {
            "source" => Pipeline::from_iter(&ctx, items.map(long)).buffer(300).run(),
            "map" => Pipeline::from_iter(&ctx, items).buffer(300).map(long).buffer(300).run(),
            _ => {
                let source = Pipeline::from_iter(&ctx, items).buffer(300);
                source.dispatch(1, move |_, n| std::future::ready(long(n))).buffer(300).run()
            }
        };
        let most = runtime.block_on(async {
            let seen = since.clone();
            let other = tokio::spawn(async move {
                let mut most = 0;
                while seen.load(Relaxed) != OVER {
                    most = most.max(seen.swap(0, Relaxed));
                    quell::rt::yield_now().await;
                }
                most
            });
            assert_eq!(read(&mut results).await.len(), 1_200);
            since.store(OVER, Relaxed);
            other.await.unwrap()
        });
        assert!(most <= 33, "{stage}: {most} items in one turn, from {start} on");
    }
}

/// Item `first` keeps its thread until the next has begun. Returns for how long.
fn meets(how: &str, first: u64, source: Pipeline<u64>) -> Duration {
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
                let began = Instant::now();
                let met =
                    told.is_none_or(|told| told.lock().unwrap().recv_timeout(ms(500)).is_ok());
                met.then(|| began.elapsed())
            }
        })
        .run();
    runtime.block_on(async {
        let waited: Option<Vec<_>> = read(&mut results).await.into_iter().collect();
        let waited = waited.and_then(|waited| waited.into_iter().max());
        waited.unwrap_or_else(|| panic!("{how}: item {} waited behind item {first}", first + 1))
    })
}

#[test]
fn an_item_does_not_wait_long_behind_one_that_suddenly_keeps_its_thread() {
    let _alone = alone();
    in_time(|| {
        for before in [100, 1_000, 10_000, 100_000] {
            let waited = || {
                let items = Pipeline::from_iter(&background(), 0..before + 1_000);
                meets("all before took no time", before, items)
            };
            // Two looks of the timer thread, if it waits at all; a busy machine may be late once.
            let mut all: Vec<_> = (0..9).map(|_| waited()).collect();
            all.sort();
            assert!(all[7] <= ms(25), "after {before}: {all:?}");
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
                    let (began, mut meets) = (Instant::now(), 0);
                    while began.elapsed() < ms(1) {
                        meets |= there.load(Relaxed);
                    }
                    seen.fetch_add(meets, Relaxed);
                    output.send(n).await.unwrap();
                }
            })
            .run();
        assert_eq!(runtime.block_on(async { read(&mut results).await.len() }), 64);
        if met.swap(0, Relaxed) >= 32 {
            return;
        }
    }
    panic!("they were hardly ever at work at once");
}

#[test]
fn values_go_on_no_thread_of_quells_own_when_a_grace_is_over() {
    struct Value(mpsc::Sender<Option<String>>);
    impl Drop for Value {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(String::from));
        }
    }
    let (tell, told) = mpsc::channel();
    let runtime = threads(2);
    for _ in 0..300 {
        runtime.block_on(async {
            let (ctx, canceller) =
                background().with_value(Mutex::new(Value(tell.clone()))).with_cancel();
            let mut results = Pipeline::from_iter(&ctx, 0_u64..)
                .on_cancel(OnCancel::Drain { grace: ms(1) })
                .dispatch(1, |_, _: u64| std::future::pending::<()>())
                .run();
            drop(ctx);
            assert!(results.next().now_or_never().is_none());
            let reader = tokio::spawn(async move { while results.next().await.is_some() {} });
            canceller.cancel();
            drop(canceller);
            reader.await.unwrap();
        });
        assert_ne!(told.recv_timeout(AGES).unwrap().as_deref(), Some("quell-own"));
    }
}
