//! What a pipeline does, through its public API: what comes out, how it ends, and
//! that nothing of it is left.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::executor::block_on;
use futures::future::FusedFuture;
use futures::stream::FusedStream;
use futures::{FutureExt, Stream, StreamExt, stream};
use kit::{AGES, Item, Running, Stock, background, every_stage, finish, in_time, one_thread};
use kit::{outcome, quiet, read, relay, settle, tasks, threads};
use quell::channel::{Receiver, SendError, Sender, TrySendError};
use quell::pipeline::StageEnd;
use quell::{OnCancel, Outcome, Pipeline, Rate, rt};
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

// ------------------------------------------------------------------- sources

#[tokio::test]
async fn an_iterator_a_stream_and_a_thread_are_sources() {
    let stock = Stock::new();
    let sources: [Pipeline<Item>; 3] = [
        Pipeline::from_iter(&background(), stock.items(500)),
        Pipeline::from_stream(&background(), stream::iter(stock.items(500))),
        Pipeline::from_blocking_iter(&background(), stock.items(500)),
    ];
    for (source, name) in
        sources.into_iter().zip(["from_iter", "from_stream", "from_blocking_iter"])
    {
        let mut results = source.run();
        for (n, item) in read(&mut results).await.iter().enumerate() {
            assert_eq!(*item, n as u64);
        }
        let report = finish(results).await;
        assert!(matches!(report.outcome(), Outcome::Completed), "{report}");
        let [stage] = report.stages() else { panic!("{report}") };
        assert_eq!((stage.name(), stage.received(), stage.delivered()), (name, 500, 500));
        assert_eq!(stage.ended(), Some(StageEnd::Completed));
    }
    assert_eq!((stock.made(), stock.left()), (1500, 0));
}

#[tokio::test]
async fn a_source_of_nothing_completes() {
    let mut results = every_stage(&background(), Stock::new().items(0)).run();
    assert!(results.next().await.is_none());
    let report = finish(results).await;
    assert!(matches!(report.outcome(), Outcome::Completed));
    assert!(
        report.stages().iter().all(|stage| stage.ended() == Some(StageEnd::Completed)),
        "{report}"
    );
}

#[tokio::test]
async fn endless_sources_of_every_kind_end_with_their_reader() {
    for _ in 0..20 {
        let mut one = Pipeline::from_iter(&background(), 0_u64..).run();
        let mut two = Pipeline::from_stream(&background(), stream::iter(0_u64..)).run();
        let mut three = Pipeline::from_blocking_iter(&background(), 0_u64..).run();
        for results in [&mut one, &mut two, &mut three] {
            for n in 0..100 {
                assert_eq!(results.next().await, Some(n));
            }
        }
        for results in [one, two, three] {
            let report = results.finish().await;
            assert!(report.conserved(), "{report}");
            assert!(matches!(report.outcome(), Outcome::ReaderStopped));
            assert_eq!(report.read(), 100);
        }
        quiet().await;
    }
}

#[tokio::test]
async fn a_source_that_never_pends_lets_others_have_their_turn() {
    let mut results = Pipeline::from_iter(&background(), 0_u64..).buffer(usize::MAX).run();
    let made = results.next().await;
    assert_eq!(made, Some(0));
    let other = rt::spawn(async { 7 });
    assert_eq!(other.await.unwrap(), 7, "it came to its turn");
    let report = finish(results).await;
    assert!(report.stages()[0].received() < 10_000, "{report}");
}

#[test]
fn a_blocking_iterator_blocks_a_thread_of_its_own_and_no_other() {
    in_time(|| {
        one_thread().block_on(async {
            let (tell, told) = mpsc::channel::<u64>();
            let (thread, whose) = mpsc::channel();
            let items = std::iter::from_fn(move || {
                thread.send(std::thread::current().name().map(String::from)).unwrap();
                told.recv().ok()
            });
            let mut results =
                Pipeline::from_blocking_iter(&background(), items).named("reads").run();
            for n in 0..10 {
                assert!(results.next().now_or_never().is_none(), "it blocks");
                assert_eq!(rt::spawn(async { 7 }).await.unwrap(), 7, "others go on");
                tell.send(n).unwrap();
                assert_eq!(results.next().await, Some(n));
            }
            assert_eq!(whose.recv().unwrap().as_deref(), Some("reads"));
            drop(tell);
            assert_eq!(results.next().await, None);
            let _ = finish(results).await.into_result().unwrap();
        });
    });
}

#[test]
fn a_blocking_iterator_that_blocks_holds_nothing_up_and_its_thread_ends_with_its_item() {
    in_time(|| {
        one_thread().block_on(async {
            let (tell, told) = mpsc::channel();
            let (stock, held) = (Stock::new(), Running::new());
            let (here, source) = (held.enter(), stock.clone());
            let (ended, end) = mpsc::channel::<()>();
            let items = std::iter::from_fn(move || {
                // They are dropped in this order.
                let (told, _here, _ended) = (&told, &here, &ended);
                told.recv().ok().map(|n| source.item(n))
            });
            let mut results = Pipeline::from_blocking_iter(&background(), items).run();
            tell.send(0).unwrap();
            assert_eq!(results.next().await.unwrap(), 0);
            let report = finish(results).await;
            assert!(matches!(report.outcome(), Outcome::ReaderStopped));
            assert_eq!(held.now(), 1, "the thread still blocks");
            tell.send(1).unwrap();
            assert!(
                end.recv_timeout(AGES).is_err_and(|e| e == mpsc::RecvTimeoutError::Disconnected)
            );
            assert!(tell.send(2).is_err(), "it takes no further item");
            while stock.left() + held.now() > 0 {
                std::thread::yield_now();
            }
            assert_eq!(stock.made(), 2);
        });
    });
}

#[tokio::test]
async fn a_name_that_no_thread_can_have_is_no_reason_to_panic() {
    let mut results = Pipeline::from_blocking_iter(&background(), 0..3).named("a\0b").run();
    assert_eq!(read(&mut results).await, [0, 1, 2]);
    assert_eq!(finish(results).await.stages()[0].name(), "a\0b");
}

// -------------------------------------------------------------------- stages

#[tokio::test]
async fn everything_is_delivered_and_accounted_for() {
    let mut results = Pipeline::from_iter(&background(), 0..1000_u64)
        .map(|n| n * 2)
        .dispatch(8, |_ctx, n| async move { n + 1 })
        .filter_map(|n| (n % 3 != 0).then_some(n))
        .chunks(10, Duration::from_secs(1))
        .named("tens")
        .run();
    let chunks = read(&mut results).await;
    let report = results.finish().await;
    assert!(report.conserved() && matches!(report.outcome(), Outcome::Completed), "{report}");
    let all: Vec<u64> = (0..1000).map(|n| n * 2 + 1).filter(|n| n % 3 != 0).collect();
    let (last, full) = chunks.split_last().unwrap();
    assert!(full.iter().all(|chunk| chunk.len() == 10));
    assert_eq!(last.len(), (all.len() - 1) % 10 + 1);
    let mut had = chunks.concat();
    had.sort_unstable();
    assert_eq!(had, all);
    let rows: Vec<_> = report
        .stages()
        .iter()
        .map(|s| (s.name(), s.received(), s.delivered(), s.filtered(), s.failed(), s.discarded()))
        .collect();
    let kept = all.len();
    assert_eq!(
        rows,
        [
            ("from_iter", 1000, 1000, 0, 0, 0),
            ("map", 1000, 1000, 0, 0, 0),
            ("dispatch", 1000, 1000, 0, 0, 0),
            ("filter_map", 1000, kept, 1000 - kept, 0, 0),
            ("tens", kept, kept, 0, 0, 0),
        ]
    );
    assert_eq!(report.read(), chunks.len());
    let said = report.to_string();
    assert!(said.starts_with("completed; 67 read") && said.contains("tens"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_wherever_it_is_promised_on_two_threads() {
    let mut results = Pipeline::from_stream(&background(), stream::iter(0..5_000_u64))
        .map(|n| n)
        .throttle(Rate::every(Duration::from_nanos(1)).burst(u32::MAX))
        .buffer(3)
        .dispatch_ordered(8, |_, n| async move {
            for _ in 0..n % 7 {
                rt::yield_now().await;
            }
            n
        })
        .stage("relay", relay)
        .filter_map(Some)
        .chunks(7, AGES)
        .run();
    let all = read(&mut results).await.concat();
    assert!(all.iter().copied().eq(0..5_000));
    assert!(results.finish().await.conserved());
}

#[tokio::test]
async fn dispatch_runs_no_more_workers_than_it_was_told_and_starts_them_when_they_are_needed() {
    for (workers, items) in [(1, 20), (4, 20), (64, 10), (usize::MAX, 30)] {
        let (running, gate) = (Running::new(), Arc::new(tokio::sync::Semaphore::new(0)));
        let (here, open) = (running.clone(), gate.clone());
        let mut results = Pipeline::from_iter(&background(), 0..items)
            .dispatch(workers, move |_, n: usize| {
                let (here, open) = (here.clone(), open.clone());
                async move {
                    let _here = here.enter();
                    open.acquire().await.unwrap().forget();
                    n
                }
            })
            .run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        assert_eq!(running.now(), workers.min(items));
        gate.add_permits(items);
        let mut all = read(&mut results).await;
        all.sort_unstable();
        assert!(all.into_iter().eq(0..items));
        assert_eq!(running.most(), workers.min(items));
        let _ = finish(results).await;
    }
}

#[tokio::test]
async fn unordered_results_come_as_they_are_ready_and_ordered_ones_wait_for_their_turn() {
    let work = |_, n: u64| async move {
        for _ in 0..(10 - n) * 10 {
            rt::yield_now().await;
        }
        n
    };
    let mut results = Pipeline::from_iter(&background(), 0..10).dispatch(10, work).run();
    assert!(read(&mut results).await.into_iter().eq((0..10).rev()));
    let mut results = Pipeline::from_iter(&background(), 0..10).dispatch_ordered(10, work).run();
    assert!(read(&mut results).await.into_iter().eq(0..10));
}

#[tokio::test]
async fn merge_gives_the_items_of_both_and_of_nested_merges_in_their_own_order() {
    let numbers = |from: u64| Pipeline::from_iter(&background(), from..from + 1000).map(|n| n);
    let left = numbers(0).merge(numbers(10_000)).named("left");
    let right = numbers(20_000).merge(numbers(30_000)).merge(numbers(40_000));
    let mut results = left.merge(right).filter_map(|n| (n % 2 == 0).then_some(n)).run();
    let all = read(&mut results).await;
    for from in (0..5).map(|k| k * 10_000) {
        let own = all.iter().copied().filter(|n| (from..from + 10_000).contains(n));
        assert!(own.eq((from..from + 1000).step_by(2)));
    }
    assert_eq!(all.len(), 2500);
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    assert!(matches!(report.outcome(), Outcome::Completed));
    let merges: Vec<_> =
        report.stages().iter().filter(|s| s.name() != "map").map(|s| s.received()).collect();
    assert_eq!(merges, [1000, 1000, 2000, 1000, 1000, 2000, 1000, 3000, 5000, 5000], "{report}");
    quiet().await;
}

#[test]
fn thousands_may_be_merged_on_any_stack_and_run_or_be_dropped_without() {
    let many = || {
        let sources = (0..5000_u64).map(|n| {
            let items = (n % 100 == 0).then_some(n);
            Pipeline::from_iter(&background(), items)
        });
        sources.reduce(Pipeline::merge).expect("there are some")
    };
    drop(many());
    drop(many().run());
    one_thread().block_on(async {
        let mut results = many().run();
        assert_eq!(read(&mut results).await.into_iter().sum::<u64>(), 100 * (0..50).sum::<u64>());
        let report = results.finish().await;
        assert!(report.conserved() && matches!(report.outcome(), Outcome::Completed));
    });
}

#[tokio::test]
async fn merge_takes_turns_and_ends_when_both_have_ended() {
    let endless = Pipeline::from_iter(&background(), std::iter::repeat(0));
    let finite = Pipeline::from_iter(&background(), std::iter::repeat_n(1, 500));
    let mut results = endless.merge(finite).run();
    let mut had = [0; 2];
    while had[1] < 500 {
        had[results.next().await.unwrap()] += 1;
        assert!(had[0] < had[1] + 300, "{had:?}");
    }
    for _ in 0..1000 {
        assert_eq!(results.next().await, Some(0), "the other goes on");
    }
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    quiet().await;
}

#[tokio::test]
async fn a_merged_pipeline_ends_with_the_context_of_either() {
    for which in 0..3 {
        let three = [0, 1, 2].map(|_| background().with_cancel());
        let source = |k: usize| Pipeline::from_stream(&three[k].0, stream::pending::<u64>());
        let mut results = source(0).merge(source(1).merge(source(2))).run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        three[which].1.cancel_with("enough");
        assert_eq!(results.next().await, None);
        assert_eq!(outcome(&finish(results).await), "cancelled: enough");
    }
    quiet().await;
}

#[tokio::test]
async fn what_is_merged_has_the_values_of_the_first_and_stops_as_that_does() {
    let (other, canceller) = background().with_value("the other's").with_cancel();
    let ctx = background().with_value("the first one's");
    let mut results = Pipeline::from_iter(&ctx, 0..10)
        .merge(Pipeline::from_iter(&other, 10..20).on_cancel(OnCancel::Abort))
        .on_cancel(OnCancel::Drain { grace: AGES })
        .dispatch(1, |ctx, _: u64| async move { *ctx.value::<&str>().unwrap() })
        .run();
    assert_eq!(results.next().await, Some("the first one's"));
    settle().await;
    canceller.cancel_with("enough");
    // Whatever had been made comes: the merged pipeline drains.
    let rest = read(&mut results).await;
    assert!(rest.iter().all(|value| *value == "the first one's"));
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    assert_eq!((outcome(&report), report.discarded()), ("cancelled: enough".into(), 0), "{report}");
}

#[tokio::test]
async fn who_merges_pipelines_of_one_context_adds_none_to_it() {
    let (ctx, _canceller) = background().with_cancel();
    let named = ctx.with_value(7_u8);
    let source = |ctx: &quell::Context| Pipeline::from_iter(ctx, 0..10);
    let merged = source(&ctx).merge(source(&named)).merge(source(&background()));
    assert_eq!(ctx.tree().to_string().lines().count(), 1, "{}", ctx.tree());
    let mut results = merged.run();
    assert_eq!(read(&mut results).await.len(), 30);
}

#[tokio::test]
async fn a_failure_on_any_branch_of_a_merge_ends_all() {
    let (ctx, _canceller) = background().with_cancel();
    let endless = || Pipeline::from_stream(&ctx, stream::pending::<u64>());
    let failing = Pipeline::from_iter(&ctx, 0..)
        .try_dispatch(2, |_, n| async move { if n == 10 { Err("ten") } else { Ok(n) } });
    let mut results = endless().merge(endless().merge(failing)).run();
    read(&mut results).await;
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    assert_eq!(outcome(&report), "`try_dispatch` failed: ten");
    quiet().await;
}

// ------------------------------------------------------------------- custom stages

#[tokio::test]
async fn a_stage_of_ones_own_may_make_items_keep_them_and_change_their_type() {
    let mut results = Pipeline::from_iter(&background(), 1..=4_u64)
        .stage("twice", |_, mut input: Receiver<u64>, output| async move {
            while let Some(n) = input.recv().await {
                if n % 2 == 0 {
                    output.send(n.to_string()).await.unwrap();
                    output.send(format!("{n}!")).await.unwrap();
                }
            }
        })
        .run();
    assert_eq!(read(&mut results).await, ["2", "2!", "4", "4!"]);
    let report = finish(results).await;
    let stage = &report.stages()[1];
    assert_eq!((stage.name(), stage.received(), stage.delivered()), ("twice", 4, 4));
    assert_eq!(stage.ended(), Some(StageEnd::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_only_tries_to_send_keeps_pace_with_its_source_and_sheds_the_rest() {
    let (began, stock) = (rt::now(), Stock::new());
    let shed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&shed);
    let mut results = Pipeline::from_iter(&background(), stock.items(100))
        .throttle(Rate::per_second(100))
        .stage("shed", move |_, mut input: Receiver<Item>, output| async move {
            while let Some(item) = input.recv().await {
                if let Err(TrySendError::Full(_item)) = output.try_send(item) {
                    count.fetch_add(1, SeqCst);
                }
            }
        })
        .buffer(2)
        .dispatch(1, |_, item| async move {
            rt::sleep(Duration::from_millis(45)).await;
            item
        })
        .run();
    let items = read(&mut results).await;
    let took = rt::now() - began;
    assert!(took < Duration::from_millis(1_200), "a hundred a second, and not {took:?}");
    assert!((20..30).contains(&items.len()), "{} were worked on in a second", items.len());
    assert_eq!(items.len() + shed.load(SeqCst), 100);
    let report = finish(results).await;
    let counts = (report.stages()[2].received(), report.stages()[2].delivered());
    assert_eq!(counts, (100, items.len()), "{report}");
    drop(items);
    assert_eq!(stock.left(), 0);
}

#[tokio::test]
async fn a_stage_that_ends_early_completes_the_pipeline_and_stops_what_is_before_it() {
    let mut results = Pipeline::from_iter(&background(), 0_u64..)
        .map(|n| n)
        .stage("take", |_, mut input, output| {
            async move {
                for _ in 0..10 {
                    output.send(input.recv().await?).await.ok()?;
                }
                Some(())
            }
            .map(|_: Option<()>| ())
        })
        .run();
    assert!(results.next().now_or_never().is_none());
    // The stages before only notice when they send the next item.
    settle().await;
    assert!(read(&mut results).await.into_iter().eq(0..10));
    settle().await;
    assert_eq!(tasks(), 0, "all have ended, though nobody has finished it");
    let report = finish(results).await;
    assert!(matches!(report.outcome(), Outcome::Completed), "{report}");
    assert_eq!(report.stages()[1].ended(), Some(StageEnd::ReaderGone));
    assert_eq!(report.read(), 10);
}

#[tokio::test]
async fn a_stage_that_returns_an_error_ends_the_pipeline_and_the_error_is_the_cause() {
    let (ctx, _canceller) = background().with_cancel();
    let line = line!() + 2;
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .stage("reads", |_, mut input: Receiver<u64>, output| async move {
            while let Some(n) = input.recv().await {
                if n == 5 {
                    return Err(io::Error::other("disk full"));
                }
                let _ = output.send(n).await;
            }
            Ok(())
        })
        .stage("after", relay)
        .run();
    assert!(read(&mut results).await.len() <= 5);
    assert!(!ctx.is_done(), "its own context is not the parent's");
    let report = finish(results).await;
    let Outcome::Failed { stage, cause } = report.outcome() else { panic!("{report}") };
    assert_eq!(stage, "reads");
    assert!(cause.downcast_ref::<io::Error>().is_some());
    let origin = cause.origin().expect("it has one");
    assert_eq!((origin.file(), origin.line()), ("tests/pipeline.rs", line));
    assert_eq!(report.stages()[1].ended(), Some(StageEnd::Failed));
    assert_eq!(report.into_result().unwrap_err().cause().to_string(), "disk full");
}

/// The error of a custom stage, whose source is the error of a `send`.
#[derive(Debug)]
struct NotRelayed(SendError<u64>);

impl std::fmt::Display for NotRelayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not relayed")
    }
}

impl std::error::Error for NotRelayed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

async fn relay_or_say_so(
    _ctx: quell::Context,
    mut input: Receiver<u64>,
    output: Sender<u64>,
) -> Result<(), NotRelayed> {
    while let Some(n) = input.recv().await {
        output.send(n).await.map_err(NotRelayed)?;
    }
    Ok(())
}

/// Its error neither is that of the `send` nor has it as a source.
async fn relay_or_fail(
    _ctx: quell::Context,
    mut input: Receiver<u64>,
    output: Sender<u64>,
) -> io::Result<()> {
    while let Some(n) = input.recv().await {
        output.send(n).await.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Displays as the error of a `send` without having it as its source, as `anyhow` does.
#[derive(Debug)]
struct Whole(SendError<u64>);

impl std::fmt::Display for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Whole {}

async fn relay_wrapped_whole(
    _ctx: quell::Context,
    mut input: Receiver<u64>,
    output: Sender<u64>,
) -> Result<(), Whole> {
    while let Some(n) = input.recv().await {
        output.send(n).await.map_err(Whole)?;
    }
    Ok(())
}

/// Looks for room again and again.
async fn relay_by_trying(
    _ctx: quell::Context,
    mut input: Receiver<u64>,
    output: Sender<u64>,
) -> Result<(), TrySendError<u64>> {
    while let Some(n) = input.recv().await {
        while let Err(error) = output.try_send(n) {
            if !matches!(error, TrySendError::Full(_)) {
                return Err(error);
            }
            rt::yield_now().await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_send_error_that_a_stage_returns_is_no_failure_nor_is_one_that_comes_from_it() {
    let source = || Pipeline::from_iter(&background(), 0_u64..);
    let relayed = [
        source().stage("relay", relay),
        source().stage("relay", relay_or_say_so),
        source().stage("relay", relay_or_fail),
        source().stage("relay", relay_by_trying),
        source().stage("relay", relay_wrapped_whole),
    ];
    for relayed in relayed {
        let mut results = relayed
            .stage("first", |_, mut input: Receiver<u64>, output| async move {
                let _ = output.send(input.recv().await.unwrap()).await;
            })
            .run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        assert_eq!(read(&mut results).await, [0]);
        let report = finish(results).await;
        assert!(matches!(report.outcome(), Outcome::Completed), "{report}");
        assert_eq!(report.stages()[1].ended(), Some(StageEnd::ReaderGone));
    }
}

#[tokio::test]
async fn a_stage_that_finds_its_output_closed_when_it_has_ended_all_has_not_failed() {
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .stage("own", |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
            let n = input.recv().await.unwrap();
            canceller.cancel_with("enough");
            output.send(n).await.map_err(NotRelayed)
        })
        .run();
    assert_eq!(results.next().await, None);
    let report = finish(results).await;
    assert_eq!(outcome(&report), "cancelled: enough");
    assert!(report.stages()[1].failure().is_none(), "{report}");
}

#[tokio::test]
async fn the_tree_shows_a_pipeline_and_the_line_that_made_it() {
    for on_cancel in [OnCancel::Abort, OnCancel::Drain { grace: AGES }] {
        let (ctx, _canceller) = background().with_cancel();
        let line = line!() + 1;
        let mut results = Pipeline::from_iter(&ctx, 0_u64..).on_cancel(on_cancel).run();
        assert!(results.next().now_or_never().is_none());
        let (tree, wanted) =
            (ctx.tree().to_string(), format!("pipeline, made at {}:{line}:", file!()));
        assert!(tree.contains(&wanted), "{tree}");
        let _ = finish(results).await;
    }
}

#[tokio::test]
async fn a_send_error_of_another_channel_is_a_failure() {
    let mut results = Pipeline::from_iter(&background(), 0..10_u64)
        .stage("elsewhere", |_, mut input: Receiver<u64>, _output: Sender<u64>| async move {
            let (elsewhere, nobody) = quell::channel::bounded(1);
            drop(nobody);
            while let Some(n) = input.recv().await {
                elsewhere.send(n).await?;
            }
            Ok::<_, SendError<u64>>(())
        })
        .run();
    assert_eq!(results.next().await, None);
    let report = finish(results).await;
    assert!(matches!(report.outcome(), Outcome::Failed { .. }), "{report}");
}

#[tokio::test]
async fn a_stage_that_never_looks_at_its_context_and_waits_for_ever_ends_all_the_same() {
    for cancel in [true, false] {
        let (ctx, canceller) = background().with_cancel();
        let held = Running::new();
        let here = held.enter();
        let mut results = Pipeline::from_iter(&ctx, 0_u64..)
            .stage("deaf", |_, mut input: Receiver<u64>, output| async move {
                let _here = here;
                output.send(input.recv().await.unwrap()).await.unwrap();
                pending::<()>().await
            })
            .run();
        assert_eq!(results.next().await, Some(0));
        if cancel {
            canceller.cancel();
        }
        let report = finish(results).await;
        assert_eq!(held.now(), 0);
        assert_eq!(report.stages()[1].ended(), Some(StageEnd::Aborted));
    }
}

#[tokio::test]
async fn the_stage_behind_sees_the_end_when_a_stage_has_returned_and_not_when_it_lets_go_of_its_output()
 {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (first, second) = (order.clone(), order.clone());
    let mut results = Pipeline::from_iter(&background(), 0..3_u64)
        .stage("lets go", move |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
            drop(output);
            while input.recv().await.is_some() {}
            settle().await;
            first.lock().unwrap().push("returned");
        })
        .stage("sees", move |_, mut input: Receiver<u64>, _output: Sender<u64>| async move {
            assert!(input.recv().await.is_none());
            second.lock().unwrap().push("saw the end");
        })
        .run();
    assert!(results.next().await.is_none());
    assert_eq!(*order.lock().unwrap(), ["returned", "saw the end"]);
    assert_eq!(outcome(&finish(results).await), "completed");
}

#[tokio::test]
async fn once_the_pipeline_has_ended_a_stage_receives_nothing_more_and_gets_its_values_back() {
    let (ctx, canceller) = background().with_cancel();
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut results = Pipeline::from_iter(&ctx, 0..100_u64)
        .stage("ends it", |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
            settle().await; // 64 items wait.
            assert_eq!(input.recv().await, Some(0));
            canceller.cancel();
            let sent = output.send(7).now_or_never().expect("it does not wait");
            let received = input.recv().now_or_never().flatten();
            tell.send((sent.map_err(SendError::into_inner), received)).unwrap();
        })
        .run();
    assert!(results.next().await.is_none());
    let (sent, received) = told.await.unwrap();
    assert_eq!(sent, Err(7));
    assert_eq!(received, None, "recv ends when the pipeline does");
    let _ = finish(results).await;
}

#[tokio::test]
async fn ends_that_a_stage_gives_to_tasks_of_its_own_end_with_the_pipeline() {
    let (ctx, canceller) = background().with_cancel();
    let (done, ended) = tokio::sync::oneshot::channel();
    let stock = Stock::new();
    let mut results = Pipeline::from_iter(&ctx, stock.items(1000))
        .stage("smuggler", |_, mut input: Receiver<Item>, output| async move {
            tokio::spawn(async move {
                let mut received = 0;
                while let Some(item) = input.recv().await {
                    received += 1;
                    if output.send(item).await.is_err() {
                        break;
                    }
                }
                drop((input, output));
                done.send(received).unwrap();
            });
            pending::<()>().await
        })
        .run();
    assert!(results.next().await.is_some());
    canceller.cancel();
    assert!(results.next().await.is_none());
    let received = rt::timeout(AGES, ended).await.expect("its task ends").unwrap();
    let report = finish(results).await;
    assert_eq!(report.stages()[1].received(), received);
    assert_eq!(stock.left(), 0);
}

// -------------------------------------------------------------------- results

#[tokio::test]
async fn nothing_runs_before_the_first_poll() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (one, two, three) = (ran.clone(), ran.clone(), ran.clone());
    let items = std::iter::from_fn(move || Some(one.fetch_add(1, SeqCst)));
    let pipeline = Pipeline::from_blocking_iter(&background(), items)
        .map(move |n| two.fetch_add(n, SeqCst))
        .stage("own", move |_, input, output| {
            three.fetch_add(1, SeqCst);
            relay(background(), input, output)
        });
    let mut results = pipeline.run();
    let next = results.next();
    settle().await;
    assert_eq!((ran.load(SeqCst), tasks()), (0, 0));
    drop(next);
    assert!(format!("{results:?}").contains("not started"));
    assert!(results.next().await.is_some());
    assert!(ran.load(SeqCst) > 0 && tasks() > 0);
    let _ = finish(results).await;
}

#[tokio::test]
async fn results_that_nobody_polled_are_dropped_or_finished_without_anything_having_run() {
    let stock = Stock::new();
    let held = Running::new();
    let planned = || {
        let here = held.enter();
        every_stage(&background(), stock.items(10)).map(move |item| {
            let _here = &here;
            item
        })
    };
    drop(planned());
    drop(planned().run());
    let report = finish(planned().run()).await;
    assert!(matches!(report.outcome(), Outcome::ReaderStopped), "{report}");
    assert!(report.stages().iter().all(|stage| stage.ended().is_none()));
    assert_eq!((stock.made(), held.now()), (0, 0));
    assert!(report.to_string().contains("never ran"));
}

#[tokio::test]
async fn a_select_reads_several_results_until_all_have_ended() {
    let mut one = Pipeline::from_iter(&background(), 0..100_u64).run();
    let mut two = Pipeline::from_iter(&background(), 0..100_u64).run();
    let mut three = Pipeline::from_iter(&background(), 0..100_u64).run();
    assert!(!one.is_terminated(), "it has not begun");
    let mut sum = 0;
    loop {
        futures::select! {
            n = one.next() => sum += n.unwrap_or(0),
            n = two.try_next() => sum += n.unwrap().unwrap_or(0),
            n = three.select_next_some() => sum += n,
            complete => break,
        }
    }
    assert_eq!(sum, 3 * 4950);
    assert!(one.is_terminated() && one.next().is_terminated() && two.try_next().is_terminated());
    for results in [one, two, three] {
        assert!(matches!(finish(results).await.outcome(), Outcome::Completed));
    }
}

#[tokio::test]
async fn the_receiver_of_a_channel_is_a_source_and_its_senders_end_the_pipeline() {
    let (sender, receiver) = quell::channel::bounded(4);
    let mut results = Pipeline::from_stream(&background(), receiver).map(|n: u64| n + 1).run();
    let sending = rt::spawn(async move {
        for n in 0..1000 {
            sender.send(n).await.unwrap();
        }
    });
    assert_eq!(read(&mut results).await, (1..=1000).collect::<Vec<_>>());
    assert!(matches!(finish(results).await.outcome(), Outcome::Completed));
    sending.await.unwrap();
    // Senders learn that the pipeline has ended.
    let (sender, receiver) = quell::channel::bounded(4);
    let mut results = Pipeline::from_stream(&background(), receiver).run();
    sender.send(7_u64).await.unwrap();
    assert_eq!(results.next().await, Some(7));
    finish(results).await;
    assert!(sender.send(8).await.is_err() && sender.is_closed());
}

#[tokio::test]
async fn results_are_a_stream_and_may_be_read_either_way() {
    fn is_stream<T: Stream<Item = u64> + Unpin>(results: T) -> T {
        results
    }
    let mut results = is_stream(Pipeline::from_iter(&background(), 0..10_u64).run());
    assert_eq!(StreamExt::next(&mut results).await, Some(0));
    assert_eq!(results.next().await, Some(1));
    let all: Vec<u64> = results.by_ref().collect().await;
    assert!(all.into_iter().eq(2..10));
    for _ in 0..3 {
        assert_eq!(StreamExt::next(&mut results).await, None, "polled again it answers again");
    }
    assert_eq!(outcome(&finish(results).await), "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_may_be_read_by_one_task_after_another() {
    let mut results = Pipeline::from_iter(&background(), 0..1000_u64)
        .dispatch_ordered(4, |_, n| async move { n })
        .run();
    for round in 0..100 {
        // First a poll by this task, whose waker must not be the one that stays.
        if round % 3 == 0 {
            if let Some(item) = results.next().now_or_never() {
                assert_eq!(item, Some(round * 10));
                let _ = item;
                results = tokio::spawn(async move {
                    for n in 1..10 {
                        assert_eq!(results.next().await, Some(round * 10 + n));
                    }
                    results
                })
                .await
                .unwrap();
                continue;
            }
        }
        results = tokio::spawn(async move {
            for n in 0..10 {
                assert_eq!(results.next().await, Some(round * 10 + n));
            }
            results
        })
        .await
        .unwrap();
    }
    assert_eq!(results.next().await, None);
    let _ = finish(results).await;
}

#[test]
fn results_may_be_read_outside_the_runtime_once_they_have_begun() {
    in_time(|| {
        let runtime = threads(2);
        let mut results = Pipeline::from_iter(&background(), 0..1000_u64)
            .dispatch_ordered(4, |_, n| async move { n })
            .run();
        assert_eq!(runtime.block_on(results.next()), Some(0));
        for n in 1..1000 {
            assert_eq!(block_on(results.next()), Some(n));
        }
        assert_eq!(block_on(results.next()), None);
        let report = block_on(results.finish());
        assert!(report.conserved() && matches!(report.outcome(), Outcome::Completed));
    });
}

#[tokio::test]
async fn a_next_that_is_dropped_has_taken_nothing() {
    let (sender, items) = futures::channel::mpsc::unbounded::<u64>();
    let mut results = Pipeline::from_stream(&background(), items).map(|n| n).run();
    for n in 0..200 {
        assert!(results.next().now_or_never().is_none());
        sender.unbounded_send(n).unwrap();
        settle().await;
        drop(results.next());
        assert_eq!(results.next().await, Some(n));
    }
    drop(sender);
    assert_eq!(results.next().await, None);
    let _ = finish(results).await;
}

#[test]
fn polling_where_nobody_runs_tasks_says_what_to_do_and_leaves_nothing_behind() {
    let (ctx, _canceller) = background().with_cancel();
    let (stock, held) = (Stock::new(), Running::new());
    let here = held.enter();
    let line = line!() + 1;
    let mut results = every_stage(&ctx, stock.items(10)).run();
    let mut other = Pipeline::from_iter(&ctx, 0..1)
        .map(move |n| {
            let _here = &here;
            n
        })
        .run();
    for round in 0..2 {
        let polling = std::panic::AssertUnwindSafe(|| block_on(results.next()));
        let Err(panic) = std::panic::catch_unwind(polling) else {
            assert!(round > 0, "it says so");
            continue;
        };
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(said.contains("inside a tokio runtime"), "{round}: {said}");
        assert!(said.contains(&format!("made at {}:{}:", file!(), line)), "{round}: {said}");
    }
    drop(results);
    let polling = std::panic::AssertUnwindSafe(|| block_on(other.next()));
    assert!(std::panic::catch_unwind(polling).is_err());
    drop(other);
    assert_eq!((stock.left(), held.now()), (0, 0));
    assert!(ctx.tree().is_empty(), "{}", ctx.tree());
}
