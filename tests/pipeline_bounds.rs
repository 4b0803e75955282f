//! What a pipeline never takes more of than it was told: room, memory, workers; what
//! it refuses to be told; and that threads share its work.
#![cfg(all(not(loom), feature = "tokio"))]
#![allow(clippy::disallowed_methods, reason = "how long a thread was busy is the system's time")]

mod kit;

use futures::future::OptionFuture;
use futures::{FutureExt, StreamExt, stream};
use kit::{
    AGES, Item, Running, Stock, background, finish, in_time, ms, outcome, read, relay, settle,
    threads,
};
use quell::channel::{Receiver, Sender};
use quell::{Pipeline, Rate, Results, rt};
use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

// ---------------------------------------------------------- what it refuses

fn some() -> Pipeline<u8> {
    Pipeline::from_iter(&background(), 0..1)
}

fn refusal(make: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(make).expect_err("it must refuse");
    match panic.downcast::<&str>() {
        Ok(said) => (*said).to_owned(),
        Err(panic) => *panic.downcast::<String>().expect("a text"),
    }
}

#[test]
fn zero_of_anything_panics_at_the_call_and_says_what_to_pass() {
    let refusals = [
        refusal(|| _ = Rate::per_second(0)),
        refusal(|| _ = Rate::every(Duration::ZERO)),
        refusal(|| _ = Rate::per_second(1).burst(0)),
        refusal(|| drop(some().dispatch(0, |_, n| async move { n }))),
        refusal(|| drop(some().dispatch_ordered(0, |_, n| async move { n }))),
        refusal(|| drop(some().try_dispatch(0, |_, n| async move { Ok::<_, String>(n) }))),
        refusal(|| drop(some().buffer(0))),
        refusal(|| drop(some().chunks(0, AGES))),
    ];
    for said in refusals {
        assert!(said.starts_with("quell: ") && said.contains("; "), "{said}");
        assert!(
            said.contains("pass 1 or more") || said.contains("pass a period above zero"),
            "{said}"
        );
    }
}

#[test]
fn the_line_that_a_refusal_names_is_the_callers() {
    // A refused call, on one line: that line, and the one its refusal names.
    macro_rules! refused {
        ($call:expr) => {
            ((file!().to_owned(), line!()), named(|| _ = $call))
        };
    }
    // Other tests panic meanwhile, on threads of their own.
    thread_local! {
        static NAMED: RefCell<Vec<(String, u32)>> = const { RefCell::new(Vec::new()) };
    }
    fn named(call: impl FnOnce() + std::panic::UnwindSafe) -> Vec<(String, u32)> {
        refusal(call);
        NAMED.take()
    }
    let before = Arc::new(std::panic::take_hook());
    let others = before.clone();
    let this = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() != this {
            return others(panic);
        }
        let at = panic.location().expect("it has a place");
        NAMED.with_borrow_mut(|named| named.push((at.file().to_owned(), at.line())));
    }));
    let refusals = [
        refused!(Rate::per_second(0)),
        refused!(Rate::every(Duration::ZERO)),
        refused!(Rate::per_second(1).burst(0)),
        refused!(some().dispatch(0, |_, n| async move { n })),
        refused!(some().dispatch_ordered(0, |_, n| async move { n })),
        refused!(some().try_dispatch(0, |_, n| async move { Ok::<_, String>(n) })),
        refused!(some().buffer(0)),
        refused!(some().chunks(0, AGES)),
    ];
    std::panic::set_hook(Box::new(move |panic| before(panic)));
    for (line, named) in refusals {
        assert_eq!(named, [line]);
    }
}

#[tokio::test]
async fn whatever_is_not_zero_is_accepted_and_works() {
    let all: Vec<u64> = (0..300).collect();
    let most = usize::MAX;
    let source = || Pipeline::from_iter(&background(), 0..300_u64);
    let rates = [
        Rate::per_second(u32::MAX),
        Rate::per_second(u32::MAX).burst(u32::MAX),
        Rate::every(Duration::from_nanos(1)),
        Rate::every(Duration::from_nanos(1)).burst(2),
    ];
    for rate in rates {
        assert_eq!(read(&mut source().throttle(rate).run()).await, all);
    }
    assert_eq!(read(&mut source().buffer(most).map(|n| n).buffer(1).run()).await, all);
    assert_eq!(
        read(&mut source().dispatch_ordered(most, |_, n| async move { n }).run()).await,
        all
    );
    for within in [Duration::ZERO, Duration::MAX] {
        assert_eq!(read(&mut source().chunks(most, within).run()).await.concat(), all);
    }
    let ones = read(&mut source().chunks(1, Duration::MAX).run()).await;
    assert_eq!(ones.len(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_rate_slower_than_time_lets_one_through_and_then_none() {
    for rate in [Rate::every(Duration::MAX), Rate::every(Duration::MAX).burst(u32::MAX)] {
        let mut results = Pipeline::from_iter(&background(), 0_u64..).throttle(rate).run();
        assert_eq!(results.next().await, Some(0));
        let year = Duration::from_secs(365 * 24 * 3600);
        assert!(rt::timeout(year, results.next()).await.is_err());
        let _ = finish(results).await;
    }
}

// ----------------------------------------------------------------------- room

#[tokio::test]
async fn a_buffer_is_never_exceeded_though_nobody_reads() {
    for n in [1, 2, 3, 4, 7, 63, 64, 65, 500] {
        let stock = Stock::new();
        let mut results = Pipeline::from_iter(&background(), stock.items(u64::MAX)).buffer(n).run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        // One is in the source's hand.
        assert_eq!(stock.made(), n + 1, "buffer({n})");
        for taken in 1..=3 * n {
            drop(results.next().await.unwrap());
            settle().await;
            assert!(stock.made() <= n + 1 + taken, "buffer({n}), {taken} taken: {}", stock.made());
        }
        let _ = finish(results).await;
        assert_eq!(stock.left(), 0);
    }
}

#[tokio::test]
async fn a_buffer_is_filled_up_again_as_soon_as_an_item_has_been_taken_from_it() {
    for n in [1, 2, 3, 4, 7, 63, 64, 65] {
        let stock = Stock::new();
        let mut results = Pipeline::from_iter(&background(), stock.items(u64::MAX)).buffer(n).run();
        for taken in 1..=3 * n {
            drop(results.next().await.unwrap());
            settle().await;
            assert_eq!(stock.made(), n + 1 + taken, "buffer({n}), {taken} taken");
        }
        let _ = finish(results).await;
    }
}

#[tokio::test]
async fn a_merge_that_waits_for_room_has_made_some_for_both_of_its_sources() {
    let (one, two) = (Stock::new(), Stock::new());
    let source =
        |stock: &Stock| Pipeline::from_iter(&background(), stock.items(u64::MAX)).buffer(4);
    let mut results = source(&one).merge(source(&two)).buffer(2).run();
    assert!(results.next().now_or_never().is_none());
    settle().await;
    // Three have been taken, from each in turn: two are behind the merge, one is in its hand. Each
    // source has one in its hand, and four in its buffer.
    assert_eq!(one.made() + two.made(), 3 + 2 * 5);
    assert!(one.made() > 5 && two.made() > 5, "{} and {}", one.made(), two.made());
    assert!(results.finish().await.conserved());
}

#[tokio::test]
async fn a_reader_may_wait_for_what_the_source_does_next() {
    // The reader holds one item, and knows that there is room for one more behind the source.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let items = (0..200_u64).inspect(move |&n| tell.send(n).unwrap());
    let mut results = Pipeline::from_iter(&background(), items).buffer(64).run();
    for taken in 0..100 {
        assert_eq!(results.next().await, Some(taken));
        let sees = async { while told.recv().await != Some(taken + 64) {} };
        rt::timeout(AGES / 10, sees).await.expect("there is room for it");
    }
    let _ = finish(results).await;
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_reads_in_a_task_of_its_own_makes_room_with_each_item() {
    for n in [1, 2, 3, 8] {
        let stock = Stock::new();
        let made = stock.clone();
        let mut results = Pipeline::from_iter(&background(), stock.items(u64::MAX))
            .buffer(n)
            .stage("reads elsewhere", move |_, mut input: Receiver<Item>, _output: Sender<()>| {
                let reads = rt::spawn(async move {
                    for taken in 1..=3 * n {
                        assert!(input.recv().await.is_some());
                        // One is in the source's hand, waiting for room.
                        let sees = async {
                            while made.made() < taken + n + 1 {
                                rt::sleep(Duration::from_millis(1)).await;
                            }
                        };
                        rt::timeout(AGES, sees).await.expect("there is room for the next");
                    }
                });
                async move { reads.await.unwrap() }
            })
            .run();
        assert_eq!(results.next().await, None);
        drop(results);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_at_home_makes_room_wherever_it_is_read() {
    for n in [2, 4, 9] {
        for returns in [false, true] {
            let stock = Stock::new();
            let made = stock.clone();
            let (tell, told) = tokio::sync::oneshot::channel();
            let mut results = Pipeline::from_iter(&background(), stock.items(u64::MAX))
                .buffer(n)
                .stage("goes away", move |_, mut input: Receiver<Item>, output: Sender<()>| {
                    async move {
                        // Fetches all that is there.
                        assert!(input.recv().await.is_some());
                        let reads = rt::spawn(async move {
                            let _output = output;
                            rt::sleep(ms(20)).await;
                            assert!(input.recv().await.is_some());
                            // Two that were received, and one in the source's hand.
                            while made.made() < 2 + n + 1 {
                                rt::sleep(ms(1)).await;
                            }
                            tell.send(()).unwrap();
                        });
                        if !returns {
                            reads.await.unwrap();
                        }
                    }
                })
                .run();
            let read = async { while results.next().await.is_some() {} };
            let both = async { tokio::join!(told, read) };
            let (seen, ()) = rt::timeout(AGES, both).await.expect("there is room for the next");
            seen.unwrap();
        }
    }
}

/// What a source has made, what of it the stage behind it has begun, and by how much the
/// source has been ahead of the stage at most.
#[derive(Clone)]
struct Ahead {
    stock: Stock,
    begun: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    allowed: usize,
}

impl Ahead {
    fn new(allowed: usize) -> Self {
        Ahead { stock: Stock::new(), begun: Arc::default(), most: Arc::default(), allowed }
    }

    fn begins(&self) {
        self.begun.fetch_add(1, SeqCst);
        self.look();
    }

    fn look(&self) {
        // In this order: what others begin meanwhile lowers the count rather than raising it.
        let made = self.stock.made();
        let ahead = made.saturating_sub(self.begun.load(SeqCst));
        self.most.fetch_max(ahead, SeqCst);
        assert!(ahead <= self.allowed, "{ahead} of {} ahead, {made} made", self.allowed);
    }

    /// Sends 400 items through a stage. The source looks when it has made one; the stage when it
    /// begins one, and after it has let others have their turns.
    fn through(&self, buffer: usize, stage: &str, yields: usize) -> Results<Item> {
        let this = self.clone();
        let items = self.stock.items(400).inspect(move |_| this.look());
        let source = Pipeline::from_iter(&background(), items).buffer(buffer);
        let this = self.clone();
        let begin = move |item: Item| {
            this.begins();
            item
        };
        let this = self.clone();
        let work = move |item: Item| {
            let this = this.clone();
            this.begins();
            async move {
                for _ in 0..yields {
                    rt::yield_now().await;
                    this.look();
                }
                item
            }
        };
        match stage {
            "map" => source.map(begin).run(),
            "filter_map" => source.filter_map(move |item| Some(begin(item))).run(),
            "dispatch" => source.dispatch(WORKERS, move |_, item| work(item)).run(),
            "dispatch_ordered" => source.dispatch_ordered(WORKERS, move |_, item| work(item)).run(),
            "try_dispatch" => {
                source.try_dispatch(WORKERS, move |_, item| work(item).map(Ok::<_, String>)).run()
            }
            "stage" => source
                .stage("works", move |_, mut input: Receiver<Item>, output| async move {
                    while let Some(item) = input.recv().await {
                        output.send(work(item).await).await.unwrap();
                    }
                })
                .run(),
            _ => unreachable!(),
        }
    }
}

/// Workers of each stage that has any.
const WORKERS: usize = 8;

/// All kinds of stages that can tell when they begin an item.
const KINDS: [&str; 6] =
    ["map", "filter_map", "dispatch", "dispatch_ordered", "try_dispatch", "stage"];

/// Reads it to its end. A stage that finds the source too far ahead panics.
async fn all_goes_through(mut results: Results<Item>, what: &str) {
    let came = read(&mut results).await.len();
    let report = finish(results).await;
    assert_eq!((&*outcome(&report), came), ("completed", 400), "{what}");
}

#[tokio::test]
async fn a_source_gets_as_far_ahead_of_what_was_begun_as_its_buffer_and_its_hand_and_no_further() {
    for n in [1, 2, 3, 8, 64] {
        for yields in 0..5 {
            for stage in KINDS {
                let ahead = Ahead::new(n + 1);
                let what = format!("{stage}, buffer({n}), {yields} yields");
                all_goes_through(ahead.through(n, stage, yields), &what).await;
                assert_eq!(ahead.most.load(SeqCst), n + 1, "{what}");
            }
        }
    }
}

#[test]
fn on_two_threads_a_source_is_further_ahead_by_what_each_worker_is_about_to_begin_at_the_most() {
    in_time(|| {
        let runtime = threads(2);
        for n in [1, 2, 8, 64] {
            for round in 0..20 {
                for stage in KINDS {
                    // Taken, with the closure not called yet.
                    let in_hand = if stage.contains("dispatch") { WORKERS } else { 1 };
                    let ahead = Ahead::new(n + 1 + in_hand);
                    let results = ahead.through(n, stage, round % 5);
                    runtime.block_on(all_goes_through(results, stage));
                }
            }
        }
    });
}

#[tokio::test]
async fn items_taken_and_not_begun_count_towards_the_buffer_of_a_dispatch() {
    for workers in [1, 2, 8] {
        for n in [1, 2, 3, 8, 64] {
            let (stock, begun) = (Stock::new(), Running::new());
            let gate = Arc::new(tokio::sync::Semaphore::new(0));
            let (here, open) = (begun.clone(), gate.clone());
            let mut results = Pipeline::from_iter(&background(), stock.items(u64::MAX))
                .buffer(n)
                .dispatch(workers, move |_, item| {
                    // Never dropped: it counts what has ever begun.
                    std::mem::forget(here.enter());
                    let open = open.clone();
                    async move {
                        open.acquire().await.unwrap().forget();
                        item
                    }
                })
                .run();
            assert!(results.next().now_or_never().is_none());
            for step in 0..200 {
                settle().await;
                let (made, begun) = (stock.made(), begun.now());
                // All workers are busy, the buffer is full, and one is in the source's hand.
                assert_eq!(begun, workers + step, "{workers} workers, buffer({n})");
                assert_eq!(made, begun + n + 1, "{workers} workers, buffer({n})");
                gate.add_permits(1);
                assert!(results.next().await.is_some());
            }
            let _ = finish(results).await;
            assert_eq!(stock.left(), 0);
        }
    }
}

#[test]
fn on_two_threads_no_buffer_is_exceeded_either() {
    in_time(|| {
        let runtime = threads(2);
        for n in [1, 2, 5, 64] {
            let stock = Stock::new();
            // `n` behind each of three stages, one in each stage's hand, and one in the reader's.
            let most = 3 * n + 3 + 1;
            runtime.block_on(async {
                let mut results = Pipeline::from_iter(&background(), stock.items(20_000))
                    .buffer(n)
                    .map(|item| item)
                    .buffer(n)
                    .dispatch(1, |_, item| async move { item })
                    .buffer(n)
                    .run();
                while results.next().await.is_some() {}
                let _ = finish(results).await;
            });
            assert_eq!((stock.made(), stock.left()), (20_000, 0));
            assert!(stock.most() <= most, "{} of {most} at once", stock.most());
        }
    });
}

#[tokio::test]
async fn an_endless_source_whose_reader_stops_reading_makes_a_bounded_number_of_items() {
    let stock = Stock::new();
    let endless = || stock.items(u64::MAX);
    let one =
        Pipeline::from_iter(&background(), endless()).dispatch(8, |_, item| async move { item });
    let two = Pipeline::from_stream(&background(), stream::iter(endless())).stage("relay", relay);
    let three = Pipeline::from_blocking_iter(&background(), endless()).chunks(10, AGES);
    let three = three.stage("flat", |_, mut input: Receiver<Vec<Item>>, output| async move {
        while let Some(chunk) = input.recv().await {
            for item in chunk {
                let _ = output.send(item).await;
            }
        }
    });
    let mut results = one.merge(two).merge(three).map(|item| item).run();
    assert!(results.next().await.is_some());
    let mut before = 0;
    loop {
        settle().await;
        // The thread of the blocking source needs a moment of its own.
        std::thread::yield_now();
        rt::sleep(ms(1)).await;
        if stock.made() == before {
            break;
        }
        before = stock.made();
    }
    assert!(before < 64 * 25, "{before} items");
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    while stock.left() > 0 {
        std::thread::yield_now();
    }
}

// -------------------------------------------------------------------- workers

/// After this many items that take no time, one worker is enough for those that follow.
const BRISK: u64 = 2_000;

/// Room for all results, lest that worker wait for room, and call the others because of it.
const ALL: usize = 10_000;

/// Sleeps, or is ready at once. It is small, so that items that do not sleep take no time.
fn nap(sleeps: bool, time: u64) -> OptionFuture<Pin<Box<rt::Sleep>>> {
    sleeps.then(|| Box::pin(rt::sleep(ms(time)))).into()
}

#[tokio::test(start_paused = true)]
async fn eight_workers_share_what_takes_long_though_one_was_enough_for_what_came_before() {
    for ordered in [false, true] {
        // Each item takes long, or each second one: a worker with another waits for its turn.
        for step in [1, 2] {
            let began = rt::now();
            // More items than fit at once: at the source's end every worker is called.
            let source = Pipeline::from_iter(&background(), 0..BRISK + 256);
            let work = move |_, n| nap(n >= BRISK && n % step == 0, 100);
            let stage =
                if ordered { source.dispatch_ordered(8, work) } else { source.dispatch(8, work) };
            assert_eq!(read(&mut stage.buffer(ALL).run()).await.len() as u64, BRISK + 256);
            let eights = if ordered { 32 } else { 32 / step };
            assert_eq!(rt::now() - began, ms(100 * eights), "ordered: {ordered}, each {step}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_comes_while_the_only_worker_that_was_needed_waits_goes_to_another() {
    let began = rt::now();
    let late = stream::once(nap(true, 500).map(|_| BRISK + 1));
    // Without an end, at which every worker would be called.
    let items = stream::iter(0..=BRISK).chain(late).chain(stream::pending());
    let mut results = Pipeline::from_stream(&background(), items)
        .dispatch(8, |_, n| nap(n == BRISK, 1000).map(move |_| n))
        .buffer(ALL)
        .run();
    for _ in 0..BRISK {
        assert!(results.next().await.unwrap() < BRISK);
    }
    assert_eq!((results.next().await, rt::now() - began), (Some(BRISK + 1), ms(500)));
    assert_eq!((results.next().await, rt::now() - began), (Some(BRISK), ms(1000)));
}

#[tokio::test(start_paused = true)]
async fn while_nobody_reads_every_worker_has_begun_an_item_though_one_was_enough_before() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let mut results = Pipeline::from_iter(&background(), 0_u64..)
        .dispatch(8, move |_, _| {
            count.fetch_add(1, SeqCst);
            async {}
        })
        .buffer(16)
        .run();
    for _ in 0..BRISK {
        assert!(results.next().await.is_some());
    }
    settle().await;
    assert_eq!(begun.load(SeqCst), BRISK as usize + 16 + 8);
}
