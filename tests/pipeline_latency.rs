//! No item is held back, and no task kept waiting, by what happens to be next in line.
#![cfg(all(not(loom), feature = "tokio"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "what keeps a thread is the system's time"
)]

mod kit;

use futures::{FutureExt, StreamExt, stream};
use kit::{background, in_time, most_between_ticks, ms, relay, threads};
use quell::channel::{Receiver, SendError, Sender};
use quell::{Pipeline, Rate, Results, rt};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

/// Keeps a thread until an item has been read.
#[derive(Clone)]
struct Patient {
    read: Arc<Mutex<mpsc::Receiver<u64>>>,
    gave_up: Arc<AtomicU32>,
}

impl Patient {
    fn new() -> (mpsc::Sender<u64>, Patient) {
        let (tell, read) = mpsc::channel();
        let read = Arc::new(Mutex::new(read));
        (tell, Patient { read, gave_up: Arc::default() })
    }

    fn wait_for(&self, item: u64) {
        let read = self.read.lock().unwrap();
        loop {
            match read.recv_timeout(ms(1_000)) {
                Ok(read) if read >= item => return,
                Ok(_) => {}
                Err(_) => {
                    self.gave_up.fetch_add(1, Relaxed);
                    return;
                }
            }
        }
    }
}

/// Reads all of it in a task, which the thread that wakes it keeps for itself.
fn read_in_a_task(
    runtime: &tokio::runtime::Runtime,
    mut results: Results<u64>,
    tell: mpsc::Sender<u64>,
) {
    let reading = async move {
        while let Some(item) = results.next().await {
            let _ = tell.send(item);
        }
    };
    runtime.block_on(runtime.spawn(reading)).unwrap();
}

#[test]
fn a_result_of_a_stage_whose_items_took_no_time_does_not_wait_for_the_next_that_keeps_a_thread() {
    in_time(|| {
        // Two for those that wait, one for the reader they wait for.
        let runtime = threads(3);
        for workers in [2, 4] {
            for fast in [1_000, 1_001, 1_002, 1_030, 20_000, 1_000, 1_001, 1_002] {
                let (tell, patient) = Patient::new();
                let until_read = patient.clone();
                let results = Pipeline::from_iter(&background(), 0..fast + 100)
                    .dispatch(workers, move |_, n| {
                        // The first lets the reader come to the end of what there is.
                        if n == fast || n == fast + 1 {
                            until_read.wait_for(n - 1);
                        }
                        async move { n }
                    })
                    .run();
                read_in_a_task(&runtime, results, tell);
                let gave_up = patient.gave_up.load(Relaxed);
                assert_eq!(gave_up, 0, "item {fast} of {workers} workers was not read");
            }
        }
    });
}

#[test]
fn what_a_stage_or_a_source_has_made_does_not_wait_for_the_next_that_keeps_its_thread() {
    in_time(|| {
        let runtime = threads(2);
        let stages = ["from_iter", "map", "filter_map", "a custom one"];
        // Whether or not it has been brisk before.
        for (stage, quick) in stages.map(|stage| [(stage, 0), (stage, 20_001)]).concat() {
            let (tell, patient) = Patient::new();
            let until_read = patient.clone();
            let each = move |n: u64| {
                if n >= quick && n % 3 == 2 {
                    until_read.wait_for(n - 1);
                }
                n
            };
            let ctx = background();
            let results = match stage {
                "from_iter" => Pipeline::from_iter(&ctx, (0..quick + 60).map(each)).run(),
                "a custom one" => Pipeline::from_iter(&ctx, 0..quick + 60)
                    .stage("own", |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                        while let Some(n) = input.recv().await {
                            output.send(each(n)).await?;
                        }
                        Ok::<_, SendError<u64>>(())
                    })
                    .run(),
                "map" => Pipeline::from_iter(&ctx, 0..quick + 60).map(each).run(),
                _ => Pipeline::from_iter(&ctx, 0..quick + 60)
                    .filter_map(move |n| Some(each(n)))
                    .run(),
            };
            read_in_a_task(&runtime, results, tell);
            assert_eq!(
                patient.gave_up.load(Relaxed),
                0,
                "{stage} after {quick}: the item before was not read"
            );
        }
    });
}

#[test]
fn what_had_to_be_waited_for_is_held_back_once_at_most_by_a_stream_that_keeps_its_thread_then() {
    in_time(|| {
        let runtime = threads(2);
        // At once, or after it was quick for a while.
        for quick in [0, 300, 30_000] {
            let (tell, patient) = Patient::new();
            let until_read = patient.clone();
            let items = stream::iter(0..quick + 60).then(move |n| {
                let until_read = until_read.clone();
                async move {
                    match n % 3 {
                        1 => tokio::task::yield_now().await,
                        2 if n > quick => until_read.wait_for(n - 1),
                        _ => {}
                    }
                    n
                }
            });
            read_in_a_task(&runtime, Pipeline::from_stream(&background(), items).run(), tell);
            let held_back = patient.gave_up.load(Relaxed);
            assert!(held_back <= 1, "{held_back} items were not read, after {quick}");
        }
    });
}

#[test]
fn a_source_has_the_room_of_what_a_map_takes_however_long_that_keeps_its_thread() {
    const ITEMS: u64 = 60;
    in_time(|| {
        let runtime = threads(2);
        for stage in ["map", "filter_map", "dispatch", "a custom one"] {
            let (tell, patient) = Patient::new();
            let until_made = patient.clone();
            // With item n in the stage's hand, n + 1 may be buffered, and n + 2 be in the source's.
            let each = move |n: u64| {
                if n + 2 < ITEMS {
                    until_made.wait_for(n + 2);
                }
                n
            };
            let items = (0..ITEMS).inspect(move |&n| tell.send(n).unwrap_or(()));
            let items = Pipeline::from_iter(&background(), items).buffer(1);
            let results = match stage {
                "map" => items.map(each).run(),
                "a custom one" => items
                    .stage("own", |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                        while let Some(n) = input.recv().await {
                            output.send(each(n)).await?;
                        }
                        Ok::<_, SendError<u64>>(())
                    })
                    .run(),
                "filter_map" => items.filter_map(move |n| Some(each(n))).run(),
                _ => items.dispatch(1, move |_, n| std::future::ready(each(n))).run(),
            };
            let (read, _nobody) = mpsc::channel();
            read_in_a_task(&runtime, results, read);
            assert_eq!(patient.gave_up.load(Relaxed), 0, "{stage}: the source did not get on");
        }
    });
}

#[test]
fn what_a_stage_of_ones_own_sent_last_does_not_wait_for_what_it_does_after_the_end_of_its_input() {
    in_time(|| {
        let runtime = threads(2);
        for items in [1, 2, 50] {
            let (tell, patient) = Patient::new();
            let until_read = patient.clone();
            let results = Pipeline::from_iter(&background(), 0..items)
                .stage("own", move |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                    while let Some(n) = input.recv().await {
                        output.send(n).await?;
                    }
                    until_read.wait_for(items - 1);
                    Ok::<_, SendError<u64>>(())
                })
                .run();
            read_in_a_task(&runtime, results, tell);
            assert_eq!(patient.gave_up.load(Relaxed), 0, "the last of {items} was not read");
        }
    });
}

/// Keeps the thread that drops it, until an item has been read.
struct Flushes(Patient, u64);

impl Drop for Flushes {
    fn drop(&mut self) {
        self.0.wait_for(self.1);
    }
}

#[test]
fn what_a_stage_has_made_last_does_not_wait_for_what_goes_with_its_closure_at_the_end() {
    in_time(|| {
        let runtime = threads(2);
        for items in [1, 2, 50, 20_001] {
            for stage in ["from_stream", "map", "filter_map", "dispatch"] {
                let (tell, patient) = Patient::new();
                let goes = Flushes(patient.clone(), items - 1);
                let from = |items| Pipeline::from_iter(&background(), items).buffer(64);
                let results = match stage {
                    // A stream that has to be waited for at each item.
                    "from_stream" => Pipeline::from_stream(
                        &background(),
                        Box::pin(stream::iter(0..items).then(move |n| {
                            let _goes_with_it = &goes;
                            tokio::task::yield_now().map(move |()| n)
                        })),
                    ),
                    "map" => from(0..items).map(move |n| (n, &goes).0),
                    "filter_map" => from(0..items).filter_map(move |n| Some((n, &goes).0)),
                    _ => from(0..items).dispatch(1, move |_, n| {
                        let _goes_with_it = &goes;
                        async move { n }
                    }),
                };
                read_in_a_task(&runtime, results.run(), tell);
                let gave_up = patient.gave_up.load(Relaxed);
                assert_eq!(gave_up, 0, "the last of {items} was not read: {stage}");
            }
        }
    });
}

#[test]
fn the_end_does_not_wait_for_the_drops_of_what_is_left() {
    struct Item(#[allow(dead_code)] Option<Flushes>);
    in_time(|| {
        let runtime = threads(2);
        for _ in 0..3 {
            let (tell, patient) = Patient::new();
            let (ctx, canceller) = background().with_cancel();
            let (last, made) = (patient.clone(), Arc::new(AtomicU32::new(0)));
            let makes = made.clone();
            let items = (0..10).map(move |n| {
                makes.fetch_add(1, Relaxed);
                Item((n == 9).then(|| Flushes(last.clone(), 1)))
            });
            let mut results = Pipeline::from_iter(&ctx, items)
                .buffer(10)
                .dispatch(1, |_, item| async move {
                    let _item = item;
                    std::future::pending::<()>().await;
                })
                .run();
            let reading = runtime.spawn(async move {
                assert!(results.next().await.is_none());
                tell.send(1).unwrap();
                results.finish().await
            });
            // In a task, so that the reader comes next on its own thread.
            let ends = runtime.spawn(async move {
                while made.load(Relaxed) < 10 {
                    tokio::time::sleep(ms(1)).await;
                }
                tokio::time::sleep(ms(5)).await;
                canceller.cancel();
            });
            runtime.block_on(ends).unwrap();
            let report = runtime.block_on(reading).unwrap();
            assert_eq!(patient.gave_up.load(Relaxed), 0, "{report}");
        }
    });
}

/// One that holds something takes long to drop, and then says that it is gone.
struct Item(Option<(Flushes, Arc<AtomicBool>)>);

impl Drop for Item {
    fn drop(&mut self) {
        if let Some((flushes, gone)) = self.0.take() {
            drop(flushes);
            gone.store(true, Relaxed);
        }
    }
}

/// Finishes a pipeline of items, once that one is gone.
async fn end<T: Send + 'static>(mut results: Results<T>, gone: Arc<AtomicBool>) -> quell::Report {
    assert!(futures::poll!(results.next()).is_pending());
    while !gone.load(Relaxed) {
        tokio::time::sleep(ms(1)).await;
    }
    results.finish().await
}

/// An endless source that tells when it is dropped, and how many it has made.
fn endless(
    tell: mpsc::Sender<u64>,
) -> (Arc<AtomicU32>, impl Iterator<Item = u64> + Send + 'static) {
    struct Tells(mpsc::Sender<u64>);
    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(1);
        }
    }
    let (made, tells) = (Arc::<AtomicU32>::default(), Tells(tell));
    let makes = made.clone();
    let items = (0..).inspect(move |_| {
        let _goes_with_it = &tells;
        makes.fetch_add(1, Relaxed);
    });
    (made, items)
}

/// A stage that takes nothing, and drops its input when all before it is full.
async fn takes_no_more(input: Receiver<Item>, output: Sender<()>, made: Arc<AtomicU32>) {
    until_made(&made, 4).await;
    drop(input);
    std::future::pending::<()>().await;
    drop(output);
}

/// Waits until `count` have been made, and the maker of the last waits for room.
async fn until_made(made: &AtomicU32, count: u32) {
    while made.load(Relaxed) < count {
        tokio::time::sleep(ms(1)).await;
    }
    tokio::time::sleep(ms(5)).await;
}

#[test]
fn a_source_hears_that_nobody_takes_more_before_the_drop_of_what_a_stage_could_not_send() {
    in_time(|| {
        let runtime = threads(2);
        for stage in ["map", "filter_map", "dispatch", "chunks", "merge", "throttle"] {
            let (tell, patient) = Patient::new();
            let (until_gone, gone) = (patient.clone(), Arc::<AtomicBool>::default());
            let goes = gone.clone();
            // The first is taken, the second in the channel, the third in the stage's hand.
            let item =
                move |n| Item((n == 2).then(|| (Flushes(until_gone.clone(), 1), goes.clone())));
            let (made, items) = endless(tell);
            let numbers = Pipeline::from_iter(&background(), items).buffer(1);

            macro_rules! and_no_more {
                ($pipeline:expr) => {
                    $pipeline
                        .buffer(1)
                        .stage("one", move |_, mut input, output: Sender<()>| async move {
                            drop(input.recv().await);
                            until_made(&made, 5).await;
                            drop(input);
                            std::future::pending::<()>().await;
                            drop(output);
                        })
                        .run()
                };
            }
            let results = match stage {
                "map" => and_no_more!(numbers.map(item)),
                "filter_map" => and_no_more!(numbers.filter_map(move |n| Some(item(n)))),
                "dispatch" => and_no_more!(numbers.dispatch(1, move |_, n| {
                    let item = item(n);
                    async { item }
                })),
                "chunks" => and_no_more!(numbers.map(item).buffer(1).chunks(1, ms(1_000))),
                "merge" => {
                    let none = Pipeline::from_iter(&background(), std::iter::empty());
                    and_no_more!(numbers.map(item).buffer(1).merge(none))
                }
                _ => and_no_more!(
                    numbers.map(item).buffer(1).throttle(Rate::every(Duration::from_nanos(1)))
                ),
            };
            let reading = runtime.spawn(end(results, gone));
            let report = runtime.block_on(reading).unwrap();
            assert_eq!(patient.gave_up.load(Relaxed), 0, "{stage}: {report}");
        }
    });
}

#[test]
fn a_source_that_is_merged_hears_of_the_end_before_the_drops_of_what_the_other_has_made() {
    in_time(|| {
        let runtime = threads(2);
        let (tell, patient) = Patient::new();
        let (until_gone, gone) = (patient.clone(), Arc::<AtomicBool>::default());
        let goes = gone.clone();
        let last = (0..4)
            .map(move |n| Item((n == 3).then(|| (Flushes(until_gone.clone(), 1), goes.clone()))));
        let (made, items) = endless(tell);
        let first = Pipeline::from_iter(&background(), last).buffer(4);
        let second = Pipeline::from_iter(&background(), items).map(|_| Item(None)).buffer(1);
        let results = first
            .merge(second)
            .buffer(1)
            .stage("none", move |_, input, output| takes_no_more(input, output, made))
            .run();
        let report = runtime.block_on(runtime.spawn(end(results, gone))).unwrap();
        assert_eq!(patient.gave_up.load(Relaxed), 0, "{report}");
    });
}

#[test]
fn a_blocking_source_hears_that_nobody_takes_more_before_the_drop_of_what_could_not_be_sent() {
    in_time(|| {
        let runtime = threads(2);
        let (tell, patient) = Patient::new();
        let (until_gone, gone) = (patient.clone(), Arc::<AtomicBool>::default());
        let goes = gone.clone();
        let (made, items) = endless(tell);
        // One is in the channel, one in the source's hand.
        let items = items
            .map(move |n| Item((n == 1).then(|| (Flushes(until_gone.clone(), 1), goes.clone()))));
        let results = Pipeline::from_blocking_iter(&background(), items)
            .buffer(1)
            .stage("none", move |_, input, output| takes_no_more(input, output, made))
            .run();
        let report = runtime.block_on(runtime.spawn(end(results, gone))).unwrap();
        assert_eq!(patient.gave_up.load(Relaxed), 0, "{report}");
    });
}

#[test]
fn who_waits_for_a_context_does_not_wait_for_the_functions_at_its_end() {
    in_time(|| {
        let runtime = threads(2);
        for by_token in [false, cfg!(feature = "tokio-util")] {
            let (tell, patient) = Patient::new();
            let (ctx, canceller) = background().with_cancel();
            let waits = ctx.clone();
            let waiting = runtime.spawn(async move {
                #[cfg(feature = "tokio-util")]
                if by_token {
                    waits.token().cancelled().await;
                }
                waits.done().await;
                tell.send(1).unwrap();
            });
            let until_told = patient.clone();
            let _at_the_end = ctx.after_func(move || until_told.wait_for(1));
            // In a task, so that the one that waits comes next on its own thread.
            let ends = runtime.spawn(async move {
                tokio::time::sleep(ms(20)).await;
                canceller.cancel();
            });
            runtime.block_on(ends).unwrap();
            runtime.block_on(waiting).unwrap();
            assert_eq!(patient.gave_up.load(Relaxed), 0, "by a token: {by_token}");
        }
    });
}

#[test]
fn a_source_hears_that_nobody_takes_more_whatever_a_stage_of_ones_own_does_next() {
    in_time(|| {
        let runtime = threads(2);
        let (tell, patient) = Patient::new();
        let (until_gone, (made, items)) = (patient.clone(), endless(tell));
        let results = Pipeline::from_iter(&background(), items)
            .buffer(1)
            .stage("own", move |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                assert_eq!(input.recv().await, Some(0));
                until_made(&made, 3).await;
                drop(input);
                until_gone.wait_for(1);
                drop(output);
            })
            .run();
        read_in_a_task(&runtime, results, mpsc::channel().0);
        assert_eq!(patient.gave_up.load(Relaxed), 0);
    });
}

#[test]
fn whoever_hears_of_an_end_does_not_wait_for_the_functions_at_that_end() {
    in_time(|| {
        let runtime = threads(2);
        let (tell, patient) = Patient::new();
        let (ctx, canceller) = background().with_cancel();
        let mut results = Pipeline::from_stream(&ctx, stream::pending::<u64>()).run();
        let reading = runtime.spawn(async move {
            assert!(results.next().await.is_none());
            let report = results.finish().await;
            tell.send(1).unwrap();
            report
        });
        let until_over = patient.clone();
        let _at_the_end = ctx.after_func(move || until_over.wait_for(1));
        // In a task, so that the reader comes next on its own thread.
        let ends = runtime.spawn(async move {
            tokio::time::sleep(ms(20)).await;
            canceller.cancel();
        });
        runtime.block_on(ends).unwrap();
        let report = runtime.block_on(reading).unwrap();
        assert_eq!(patient.gave_up.load(Relaxed), 0, "{report}");
    });
}

#[test]
fn who_is_aborted_does_not_wait_for_the_functions_at_that_end() {
    in_time(|| {
        let runtime = threads(2);
        let (tell, patient) = Patient::new();
        let (ctx, canceller) = background().with_cancel();
        // No task waits at a channel then.
        let source = stream::once(async { 0 }).chain(stream::pending::<u64>());
        let mut results = Pipeline::from_stream(&ctx, Box::pin(source)).run();
        assert_eq!(runtime.block_on(results.next()), Some(0));
        let until_over = patient.clone();
        let (begin, begun) = mpsc::channel();
        let _at_the_end = ctx.after_func(move || {
            begin.send(()).unwrap();
            until_over.wait_for(1);
        });
        // In a task, so that those it aborts come next on its own thread.
        let ends = runtime.spawn(async move { canceller.cancel() });
        begun.recv().unwrap();
        let report = futures::executor::block_on(results.finish());
        tell.send(1).unwrap();
        runtime.block_on(ends).unwrap();
        assert_eq!(patient.gave_up.load(Relaxed), 0, "{report}");
    });
}

#[test]
fn timers_have_their_turn_beside_a_pipeline_of_items_that_take_their_time() {
    let most = most_between_ticks(ms(1), |step| async move {
        let items = (0..100).inspect(move |_| step());
        let mut results = Pipeline::from_iter(&background(), items).run();
        while results.next().await.is_some() {}
    });
    assert!(most <= 8, "{most} items of a millisecond");
}

#[test]
fn timers_have_their_turn_beside_who_finds_items_waiting() {
    const ITEMS: usize = 2_000;
    let most = most_between_ticks(Duration::from_micros(20), |step| async move {
        let (sender, mut receiver) = quell::channel::bounded(ITEMS);
        for n in 0..ITEMS {
            sender.send(n).await.unwrap();
        }
        drop(sender);
        while receiver.recv().await.is_some() {
            step();
        }
    });
    assert!(most <= 3 * 128, "{most} items, 128 a turn");
}

/// Takes all items first, and then sends them all at once.
async fn all_at_once(mut input: Receiver<u64>, output: Sender<u64>, begun: Arc<AtomicBool>) {
    let mut all = Vec::new();
    while let Some(item) = input.recv().await {
        all.push(item);
    }
    begun.store(true, Relaxed);
    for item in all {
        if output.send(item).await.is_err() {
            return;
        }
    }
}

fn ready_items(count: usize, begun: &Arc<AtomicBool>) -> Pipeline<u64> {
    let begun = begun.clone();
    Pipeline::from_iter(&background(), 0..count as u64)
        .stage("all at once", |_, input, output| all_at_once(input, output, begun))
        .buffer(count)
}

/// Yields behind ready tasks only: tokio looks at timers and sockets once in 61 turns.
async fn behind_who_is_ready() {
    let mut yielded = false;
    let turn = std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    turn.await;
}

#[test]
fn however_much_there_is_to_take_every_stage_lets_others_have_their_turn() {
    const ITEMS: usize = 20_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let own = ["map", "throttle", "merge", "chunks", "chunks of one", "dispatch"];
    for stage in own.into_iter().chain(["the reader", "a custom one"]) {
        let begun = Arc::default();
        let items = ready_items(ITEMS, &begun);
        let results = match stage {
            "map" => items.map(|n| n),
            "throttle" => items.throttle(Rate::per_second(u32::MAX)),
            "merge" => items.merge(Pipeline::from_iter(&background(), 0..1)),
            "chunks" => items.chunks(ITEMS, ms(60_000)).map(|chunk| chunk.len() as u64),
            // All chunks are there, so that no stage waits for one.
            "chunks of one" => {
                items.chunks(1, ms(60_000)).buffer(ITEMS).map(|chunk| chunk.len() as u64)
            }
            "the reader" => items,
            "a custom one" => items.stage("relay", relay),
            _ => items.dispatch(4, |_, n| async move { n }),
        };
        let mut results = results.buffer(ITEMS).run();
        let reading = runtime.spawn(async move { while results.next().await.is_some() {} });
        let counting = runtime.spawn(async move {
            let mut turns = 0;
            while !reading.is_finished() {
                turns += usize::from(begun.load(Relaxed));
                behind_who_is_ready().await;
            }
            turns
        });
        let turns = runtime.block_on(counting).unwrap();
        // At most this many items a turn, for each of the tasks.
        let at_once = match stage {
            "dispatch" => 4 * 64,
            "the reader" | "a custom one" => 128,
            _ => 64,
        };
        assert!(turns >= ITEMS / at_once, "{stage}: {turns} turns for {ITEMS} items");
    }
}

#[test]
fn a_chunk_is_not_held_back_for_longer_than_asked_however_much_there_is_to_take() {
    const ITEMS: usize = 500_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut chunks =
        ready_items(ITEMS, &Arc::default()).chunks(usize::MAX, Duration::from_millis(1)).run();
    let first = runtime.block_on(chunks.next()).expect("there are items");
    assert!(first.len() < ITEMS, "it took them all in a millisecond?");
}

#[test]
fn what_a_stage_of_ones_own_has_sent_does_not_wait_for_what_it_does_after_the_next() {
    in_time(|| {
        let (runtime, (tell, patient)) = (threads(2), Patient::new());
        let until_read = patient.clone();
        let stage = |_ctx, _input: Receiver<u64>, output: Sender<u64>| async move {
            // The reader waits by now.
            rt::sleep(ms(20)).await;
            for n in [0, 1] {
                output.send(n).await.unwrap();
            }
            until_read.wait_for(1);
        };
        let _there = runtime.enter();
        let results = Pipeline::from_iter(&background(), [0]).stage("own", stage).run();
        read_in_a_task(&runtime, results, tell);
        assert_eq!(patient.gave_up.load(Relaxed), 0, "it was not read");
    });
}
