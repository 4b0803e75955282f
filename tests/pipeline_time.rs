//! Pipelines on a paused clock, where every instant is exact: throttles, deadlines,
//! chunks, and the grace of a drain; and random lines of stages, against what is reckoned
//! item by item.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::{FutureExt, Stream, StreamExt, stream};
use kit::{
    AGES, Running, Stock, background, every_stage, finish, ms, outcome, read, relay, settle,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use quell::channel::{Receiver, Sender};
use quell::pipeline::StageEnd;
use quell::{Context, ContextError, OnCancel, Outcome, Pipeline, Rate, rt};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A stopwatch on the runtime's clock.
struct Watch(Instant);

impl Watch {
    fn start() -> Self {
        Watch(rt::now())
    }

    fn time(&self) -> Duration {
        rt::now() - self.0
    }
}

/// Rounds a time up to the next millisecond, as timers do.
fn tick(time: Duration) -> Duration {
    ms(time.as_nanos().div_ceil(1_000_000) as u64)
}

/// Items at these times, in milliseconds from now.
fn at_times(times: impl IntoIterator<Item = u64>) -> impl Stream<Item = u64> {
    let began = rt::now();
    let times: Vec<u64> = times.into_iter().collect();
    stream::unfold(times.into_iter(), move |mut times| async move {
        let at = times.next()?;
        rt::sleep_until(began + ms(at)).await;
        Some((at, times))
    })
}

async fn times<T: Send + 'static>(pipeline: Pipeline<T>) -> Vec<u64> {
    let watch = Watch::start();
    let mut results = pipeline.run();
    let mut times = Vec::new();
    while results.next().await.is_some() {
        times.push(watch.time().as_millis() as u64);
    }
    let _ = finish(results).await;
    times
}

// ------------------------------------------------------------------- dispatch

#[tokio::test(start_paused = true)]
async fn eight_workers_take_an_eighth_of_the_time_to_the_millisecond() {
    for ordered in [false, true] {
        for buffer in [1, 2, 7, 8, 64] {
            let watch = Watch::start();
            let source = Pipeline::from_iter(&background(), 0..64).buffer(buffer);
            let work = |_, n| async move {
                rt::sleep(ms(100)).await;
                n
            };
            let stage =
                if ordered { source.dispatch_ordered(8, work) } else { source.dispatch(8, work) };
            let mut results = stage.run();
            assert_eq!(read(&mut results).await.len(), 64);
            assert_eq!(watch.time(), ms(800), "buffer({buffer})");
            let _ = finish(results).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_goes_to_a_worker_that_is_idle_whatever_the_others_are_at() {
    // One in eight takes a second; the others do not wait behind it.
    let watch = Watch::start();
    let mut results = Pipeline::from_iter(&background(), 0..64_u64)
        .dispatch(8, |_, n| async move {
            rt::sleep(if n == 0 { SECOND } else { ms(10) }).await;
            n
        })
        .run();
    for _ in 0..63 {
        assert!(results.next().await.unwrap() > 0);
    }
    assert_eq!(watch.time(), ms(90));
    assert_eq!(results.next().await, Some(0));
    assert_eq!(watch.time(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_item_is_not_held_back_while_its_reader_is_idle() {
    let watch = Watch::start();
    let pipeline = Pipeline::from_stream(&background(), at_times((1..50).map(|k| k * 10)))
        .map(|n| n)
        .dispatch(4, |_, n| async move { n })
        .dispatch_ordered(4, |_, n| async move { n })
        .stage("relay", relay)
        .throttle(Rate::every(ms(10)));
    let mut results = pipeline.run();
    while let Some(at) = results.next().await {
        assert_eq!(watch.time(), ms(at));
    }
}

// ------------------------------------------------------------------- throttle

#[tokio::test(start_paused = true)]
async fn a_throttle_keeps_its_rate_to_the_timers_millisecond_over_ten_thousand_items() {
    for rate in [7, 50, 1000, 20_000] {
        for burst in [1, 5, 1000] {
            for buffer in [1, 64] {
                let mut results = Pipeline::from_iter(&background(), 0..10_000_u32)
                    .throttle(Rate::per_second(rate).burst(burst))
                    .buffer(buffer)
                    .run();
                let watch = Watch::start();
                while let Some(k) = results.next().await {
                    let due = SECOND * k / rate;
                    assert_eq!(watch.time(), tick(due), "{rate}/s, burst {burst}: item {k}");
                }
                assert_eq!(results.finish().await.read(), 10_000);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_among_ten_thousand_items_earns_a_burst_to_the_timers_millisecond() {
    const BEFORE: u32 = 5_000;
    for rate in [7, 50, 1000, 20_000] {
        for burst in [1, 5, 1000] {
            for buffer in [1, 64] {
                let watch = Watch::start();
                // Ten seconds after the last of the first half has gone through.
                let over = tick(SECOND * (BEFORE - 1) / rate) + 10 * SECOND;
                let resumes = watch.0 + over;
                let items = stream::iter(0..2 * BEFORE).then(move |k| async move {
                    if k == BEFORE {
                        rt::sleep_until(resumes).await;
                    }
                    k
                });
                let mut results = Pipeline::from_stream(&background(), items)
                    .throttle(Rate::per_second(rate).burst(burst))
                    .buffer(buffer)
                    .run();
                // The first of the rest is late by this much, and a burst makes up for `earned` of
                // it. Where it makes up for all, it is as if there had been no pause.
                let late = over - SECOND * BEFORE / rate;
                let earned = SECOND * (burst - 1) / rate;
                while let Some(k) = results.next().await {
                    let due = match k.checked_sub(BEFORE) {
                        Some(j) if earned < late => (over + SECOND * j / rate - earned).max(over),
                        Some(_) => (SECOND * k / rate).max(over),
                        None => SECOND * k / rate,
                    };
                    assert_eq!(watch.time(), tick(due), "{rate}/s, burst {burst}: item {k}");
                }
                assert_eq!(results.finish().await.read(), 2 * BEFORE as usize);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_is_no_whole_number_of_milliseconds_does_not_drift() {
    let period = Duration::from_nanos(1_234_567);
    let mut results =
        Pipeline::from_iter(&background(), 0..10_000_u32).throttle(Rate::every(period)).run();
    let watch = Watch::start();
    while let Some(k) = results.next().await {
        assert_eq!(watch.time(), tick(period * k), "item {k}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_source_earns_at_most_a_burst() {
    for burst in [1, 2, 5] {
        // Ten items, a pause of ten periods, and twenty more.
        let items = at_times(std::iter::repeat_n(0, 10).chain(std::iter::repeat_n(2000, 20)));
        let rate = Rate::every(ms(100)).burst(burst);
        let came = times(Pipeline::from_stream(&background(), items).throttle(rate)).await;
        let before = (0..10).map(|k| k * 100);
        let after = (0..20_u64).map(|k| 2000 + (k + 1).saturating_sub(u64::from(burst)) * 100);
        assert!(came.iter().copied().eq(before.chain(after)), "burst {burst}: {came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_of_the_source_earns_what_was_missed_and_no_more() {
    // At 350 it is late for items 1, 2 and 3 of the run that began at 0.
    let items = at_times([0].into_iter().chain(std::iter::repeat_n(350, 9)));
    let rate = Rate::every(ms(100)).burst(10);
    let came = times(Pipeline::from_stream(&background(), items).throttle(rate)).await;
    assert_eq!(came, [0, 350, 350, 350, 400, 500, 600, 700, 800, 900]);
    // Nothing is earned before the first item.
    let items = at_times(std::iter::repeat_n(5000, 3));
    let came = times(Pipeline::from_stream(&background(), items).throttle(rate)).await;
    assert_eq!(came, [5000, 5100, 5200]);
}

#[tokio::test(start_paused = true)]
async fn waits_that_are_no_pause_by_themselves_earn_no_more_than_a_burst_together() {
    // A thousand items 900 µs apart, nine times as slow as the throttle; then two thousand
    // at once. Also where the source keeps the thread so long that every turn is over.
    for (burst, keeps_thread) in [(1, false), (20, false), (1, true)] {
        let items = stream::iter(0..3000_u64).then(move |n| async move {
            if n < 1000 {
                let began = Instant::now();
                while keeps_thread && began.elapsed() < Duration::from_micros(150) {}
                tokio::time::advance(Duration::from_micros(900)).await;
            }
            n
        });
        let rate = Rate::per_second(10_000).burst(burst);
        let came = times(Pipeline::from_stream(&background(), items).throttle(rate)).await;
        let rest = came[1000..].iter().filter(|&&at| at <= came[999] + 10).count();
        // Ten a millisecond, for 10 ms that may be 11 (times are whole milliseconds); what the
        // burst earned; and waits of less than 1 ms, which are no pause.
        assert!((100..=120 + burst as usize).contains(&rest), "burst {burst}: {rest} in 10 ms");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_throttle_was_late_by_itself_is_made_up_though_its_source_pauses_then() {
    let items = at_times([0, 0].into_iter().chain(std::iter::repeat_n(360, 4)));
    let mut results =
        Pipeline::from_stream(&background(), items).throttle(Rate::every(ms(100))).run();
    let watch = Watch::start();
    assert_eq!(results.next().await, Some(0));
    settle().await;
    // Its timer, due at 100, rings at 350: of the time until 360, not all is a pause.
    tokio::time::advance(ms(350)).await;
    let mut came = Vec::new();
    while results.next().await.is_some() {
        came.push(watch.time().as_millis());
    }
    assert_eq!(came, [350, 360, 360, 410, 510]);
}

/// The times in milliseconds at which items go through a throttle whose reader takes `first`,
/// pauses, and takes `rest` more.
async fn through(rate: Rate, first: usize, pause: Duration, rest: usize) -> Vec<u64> {
    let (watch, times) = (Watch::start(), Arc::new(Mutex::new(Vec::new())));
    let seen = times.clone();
    // There is room for one behind a throttle, and this stage takes it at once: it sees an item
    // when that goes through.
    let mut results = Pipeline::from_iter(&background(), 0_u64..)
        .throttle(rate)
        .stage("sees", |_, mut input: Receiver<u64>, output| async move {
            while let Some(n) = input.recv().await {
                seen.lock().unwrap().push(watch.time().as_millis() as u64);
                output.send(n).await.unwrap();
            }
        })
        .buffer(1)
        .run();
    for _ in 0..first {
        results.next().await;
    }
    rt::sleep(pause).await;
    for _ in 0..rest {
        results.next().await;
    }
    let _ = finish(results).await;
    times.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_reader_earns_at_most_a_burst() {
    for burst in [1_usize, 2, 5] {
        let rate = Rate::every(ms(100)).burst(burst as u32);
        let times = through(rate, 10, 3 * SECOND, 20).await;
        // Whenever it resumes, in the period that follows no more go through than a burst,
        // plus one that had gone through before and lay in the buffer.
        let resumed = 900 + 3000;
        let at_once = times.iter().filter(|&&at| at >= resumed && at < resumed + 100).count();
        assert!(at_once <= burst + 1, "burst {burst}: {at_once} at once: {times:?}");
        let steady: Vec<_> = times.iter().filter(|&&at| at >= resumed + 100).collect();
        assert!(steady.windows(2).all(|pair| pair[1] - pair[0] == 100), "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn however_long_the_reader_pauses_no_more_than_a_burst_follow_each_other() {
    for burst in [1_usize, 2, 5] {
        for pause in 100..=900 {
            let rate = Rate::every(ms(100)).burst(burst as u32);
            let times = through(rate, 10, ms(pause), 20).await;
            // Apart from the one that had gone through before and lay in the buffer.
            let resumed = times.iter().position(|&at| at >= 900 + pause).unwrap();
            for from in resumed + 1..times.len() - burst {
                let together = times[from + burst] - times[from];
                assert!(together >= 100, "burst {burst}, a pause of {pause}: {times:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn workers_that_have_all_been_busy_begin_no_more_than_a_burst_at_once() {
    for burst in [1, 5] {
        let (watch, begun) = (Watch::start(), Arc::new(Mutex::new(Vec::new())));
        let notes = begun.clone();
        let rate = Rate::every(ms(20)).burst(burst);
        let mut results = Pipeline::from_iter(&background(), 0_u64..)
            .throttle(rate)
            .dispatch(8, move |_, n| {
                notes.lock().unwrap().push(watch.time());
                // All of the first eight are busy until the first two seconds are over.
                rt::sleep_until(rt::now() + (2 * SECOND).saturating_sub(watch.time()))
                    .map(move |()| n)
            })
            .run();
        let _ = rt::timeout(3 * SECOND, async { while results.next().await.is_some() {} }).await;
        let _ = finish(results).await;
        let begun = begun.lock().unwrap();
        let at_once = begun.iter().filter(|&&at| at >= 2 * SECOND && at < 2 * SECOND + ms(20));
        // Plus the one that had gone through before.
        assert!(at_once.count() <= burst as usize + 1, "burst {burst}: {begun:?}");
        assert!(begun.len() > 50, "{begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_slower_than_the_throttle_sets_the_pace() {
    let mut results =
        Pipeline::from_iter(&background(), 0..100_u64).throttle(Rate::every(ms(10))).run();
    let watch = Watch::start();
    for n in 0..100 {
        assert_eq!(results.next().await, Some(n));
        assert_eq!(watch.time(), ms(30 * n));
        rt::sleep(ms(30)).await;
    }
    assert_eq!(results.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_waits_ends_with_its_pipeline_at_once() {
    let (ctx, canceller) = background().with_cancel();
    let mut results =
        Pipeline::from_iter(&ctx, 0_u64..).throttle(Rate::every(3600 * SECOND)).map(|n| n).run();
    assert_eq!(results.next().await, Some(0));
    let watch = Watch::start();
    canceller.cancel();
    assert_eq!(results.next().await, None);
    let _ = finish(results).await;
    assert_eq!(watch.time(), Duration::ZERO);
}

/// On a running clock: how late the items of the last tenth were at least. The throttle's
/// own lateness comes and goes with its timer; drift stays.
#[test]
fn a_throttle_on_a_real_clock_does_not_drift() {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let least = kit::one_thread().block_on(async {
            let mut results = Pipeline::from_iter(&background(), 0..10_000_u32)
                .throttle(Rate::per_second(20_000))
                .run();
            assert_eq!(results.next().await, Some(0));
            let watch = Watch::start();
            let mut least = Duration::MAX;
            while let Some(k) = results.next().await {
                if k >= 9_000 {
                    least = least.min(watch.time().saturating_sub(SECOND * k / 20_000));
                }
            }
            least
        });
        best = best.min(least);
        if best < ms(1) {
            return;
        }
    }
    panic!("after 10,000 items it is {best:?} behind");
}

// --------------------------------------------------------------------- chunks

#[tokio::test(start_paused = true)]
async fn a_chunk_goes_when_it_is_full_when_its_time_is_up_and_at_the_end() {
    let items = at_times([0, 10, 20, 30, 500, 510, 700, 2000, 2001, 2002, 2003, 2050]);
    let watch = Watch::start();
    let mut results = Pipeline::from_stream(&background(), items).chunks(4, ms(100)).run();
    let mut had = Vec::new();
    while let Some(chunk) = results.next().await {
        had.push((watch.time().as_millis(), chunk));
    }
    assert_eq!(
        had,
        [
            (30, vec![0, 10, 20, 30]),
            (600, vec![500, 510]),
            (800, vec![700]),
            (2003, vec![2000, 2001, 2002, 2003]),
            (2050, vec![2050]),
        ]
    );
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    let stage = &report.stages()[1];
    assert_eq!((stage.received(), stage.delivered(), report.read()), (12, 12, 5));
}

#[tokio::test(start_paused = true)]
async fn chunks_of_items_that_are_there_are_full_and_take_no_time() {
    for (max, within) in [(7, Duration::ZERO), (7, ms(1)), (64, AGES), (1000, Duration::MAX)] {
        let watch = Watch::start();
        let mut results = Pipeline::from_iter(&background(), 0..5000_u64).chunks(max, within).run();
        let chunks = read(&mut results).await;
        assert_eq!(watch.time(), Duration::ZERO);
        assert!(chunks.concat().into_iter().eq(0..5000));
        if within > Duration::ZERO {
            assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == max));
        }
        let report = results.finish().await;
        assert!(report.conserved(), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn items_in_a_chunk_that_is_never_filled_are_counted_and_dropped() {
    let stock = Stock::new();
    let items = stock.clone();
    let endless = stream::unfold(0, move |n| {
        let item = items.item(n);
        async move {
            rt::sleep(ms(10)).await;
            Some((item, n + 1))
        }
    });
    let mut results = Pipeline::from_stream(&background(), endless).chunks(100, AGES).run();
    assert!(rt::timeout(ms(255), results.next()).await.is_err());
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    assert_eq!(report.stages()[1].discarded(), 25);
    assert_eq!(stock.left(), 0);
}

// ------------------------------------------------------------------ deadlines

#[tokio::test(start_paused = true)]
async fn a_deadline_cuts_a_pipeline_at_its_very_instant() {
    for at in [1, 5, 99, 1000] {
        let (ctx, _canceller) = background().with_timeout(ms(at));
        let stock = Stock::new();
        let watch = Watch::start();
        let mut results = every_stage(&ctx, stock.items(u64::MAX))
            .throttle(Rate::every(ms(2)))
            .stage("deaf", |_, mut input, output: Sender<_>| async move {
                output.send(input.recv().await.unwrap()).await.unwrap();
                pending::<()>().await
            })
            .run();
        assert!(results.next().await.is_some());
        assert!(results.next().await.is_none());
        assert_eq!(watch.time(), ms(at));
        let report = finish(results).await;
        assert_eq!(watch.time(), ms(at));
        let Outcome::Cancelled(_) = report.outcome() else { panic!("{report}") };
        let error = report.into_result().unwrap_err();
        assert_eq!(error.error(), ContextError::DeadlineExceeded);
        assert_eq!(stock.left(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn closures_see_the_deadline_of_their_pipelines_context() {
    let (ctx, _canceller) = background().with_timeout(SECOND);
    let deadline = ctx.deadline();
    let mut results =
        Pipeline::from_iter(&ctx, 0..3).dispatch(1, |ctx, _| async move { ctx.deadline() }).run();
    assert_eq!(results.next().await, Some(deadline));
    let _ = finish(results).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_never_gave_the_runtime_a_turn_gets_nothing_after_the_deadline() {
    let (ctx, _canceller) = background().with_timeout(ms(10));
    let mut results = Pipeline::from_iter(&ctx, 0_u64..).run();
    assert_eq!(results.next().await, Some(0));
    settle().await;
    // Time moves while the reader is busy: no timer has had its turn.
    let _ = Box::pin(tokio::time::advance(ms(10))).now_or_never();
    assert!(ctx.is_done());
    assert_eq!(results.next().now_or_never(), Some(None));
    let _ = finish(results).await;
}

// ---------------------------------------------------------------------- drain

fn drain(grace: Duration) -> OnCancel {
    OnCancel::Drain { grace }
}

#[tokio::test(start_paused = true)]
async fn a_drain_stops_the_source_and_delivers_what_it_has_made() {
    for cancel_at in [0, 5, 50, 95] {
        let (ctx, canceller) = background().with_cancel();
        let stock = Stock::new();
        let mut results = every_stage(&ctx, stock.items(u64::MAX))
            .dispatch(4, |ctx, item| async move {
                rt::sleep(ms(10)).await;
                assert!(!ctx.is_done(), "closures may finish");
                item
            })
            .on_cancel(drain(AGES))
            .run();
        let reading = async { read(&mut results).await };
        let cancelling = async {
            rt::sleep(ms(cancel_at)).await;
            canceller.cancel_with("enough");
            stock.made()
        };
        let (all, made) = futures::join!(reading, cancelling);
        let report = finish(results).await;
        let source = &report.stages()[0];
        // What the source had in its hand, for lack of room, is delivered as well.
        assert_eq!(source.discarded(), 0, "{report}");
        assert_eq!(all.len(), made, "{report}");
        assert!(all.iter().enumerate().all(|(n, item)| item.n <= n as u64 + 10));
        assert_eq!(outcome(&report), "cancelled: enough");
        assert_eq!((source.ended(), report.discarded()), (Some(StageEnd::Stopped), 0));
        assert!(report.stages()[1..].iter().all(|s| s.ended() == Some(StageEnd::Completed)));
        drop(all);
        assert_eq!(stock.left(), 0);
        let why = report.into_result().unwrap_err();
        assert_eq!(why.cause().to_string(), "enough");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_the_end_of_its_grace_to_the_instant() {
    for (grace, work) in [(0, 10), (25, 10), (100, 99), (99, 100), (100, 1000)] {
        let (ctx, canceller) = background().with_cancel();
        let (stock, held) = (Stock::new(), Running::new());
        let inside = held.clone();
        let mut results = Pipeline::from_iter(&ctx, stock.items(u64::MAX))
            .dispatch(2, move |_, item| {
                let here = inside.enter();
                async move {
                    let _here = here;
                    rt::sleep(ms(work)).await;
                    item
                }
            })
            .on_cancel(drain(ms(grace)))
            .run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        let watch = Watch::start();
        canceller.cancel();
        let mut count = 0;
        while results.next().await.is_some() {
            count += 1;
        }
        assert_eq!(watch.time(), ms(grace), "64 items at two in {work} ms are not done by then");
        if grace % work > 0 {
            assert_eq!(count, 2 * (grace / work), "grace {grace}, work {work}");
        }
        let report = finish(results).await;
        assert_eq!(watch.time(), ms(grace));
        assert_eq!((stock.left(), held.now()), (0, 0));
        assert!(matches!(report.outcome(), Outcome::Cancelled(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_never_gave_the_runtime_a_turn_gets_nothing_after_the_grace() {
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..).on_cancel(drain(ms(10))).run();
    assert_eq!(results.next().await, Some(0));
    settle().await;
    canceller.cancel_with("enough");
    let _ = Box::pin(tokio::time::advance(ms(9))).now_or_never();
    assert!(matches!(results.next().now_or_never(), Some(Some(_))));
    let _ = Box::pin(tokio::time::advance(ms(1))).now_or_never();
    assert_eq!(results.next().now_or_never(), Some(None));
    let report = finish(results).await;
    assert_eq!(outcome(&report), "cancelled: enough");
}

#[tokio::test(start_paused = true)]
async fn a_grace_is_reckoned_from_the_deadline_though_nobody_had_a_turn_to_begin_the_drain() {
    for (moved, there) in [(19, true), (20, false)] {
        let (ctx, _canceller) = background().with_timeout(ms(10));
        let mut results = Pipeline::from_iter(&ctx, 0_u64..).on_cancel(drain(ms(10))).run();
        assert_eq!(results.next().await, Some(0));
        settle().await;
        let _ = Box::pin(tokio::time::advance(ms(moved))).now_or_never();
        let next = results.next().now_or_never().expect("no wait");
        assert_eq!(next.is_some(), there, "after {moved} ms");
        let report = finish(results).await;
        assert_eq!(outcome(&report), "cancelled: context deadline exceeded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grace_may_be_for_ever() {
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .buffer(4)
        .dispatch(1, |_, n| rt::sleep(AGES).map(move |()| n))
        .on_cancel(drain(Duration::MAX))
        .run();
    assert!(results.next().now_or_never().is_none());
    settle().await;
    canceller.cancel();
    let all = read(&mut results).await;
    let report = finish(results).await;
    assert_eq!(all.len(), report.stages()[0].received(), "{report}");
    assert!(all.len() >= 4, "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_comes_at_the_very_deadline_is_not_delivered() {
    let (ctx, _canceller) = background().with_timeout(ms(10));
    let rate = Rate::every(ms(2));
    let mut results = Pipeline::from_iter(&ctx, 0_u64..).throttle(rate).run();
    assert_eq!(read(&mut results).await, [0, 1, 2, 3, 4]);
    let _ = finish(results).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_closures_see_values_no_end_and_at_last_the_parents_cause() {
    let (parent, canceller) = background().with_value(7_u8).with_cancel();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (told, watch) = (seen.clone(), Watch::start());
    let mut results = Pipeline::from_iter(&parent, 0_u64..)
        .dispatch(1, move |ctx: Context, n| {
            let (told, at) = (told.clone(), watch.0);
            assert_eq!(ctx.value::<u8>(), Some(&7));
            let ends = ctx.clone();
            ctx.after_func(move || {
                let cause = ends.cause().unwrap().to_string();
                told.lock().unwrap().push((rt::now() - at, cause));
            });
            async move {
                rt::sleep(ms(30)).await;
                assert!(!ctx.is_done());
                n
            }
        })
        .on_cancel(drain(ms(100)))
        .run();
    assert_eq!(results.next().await, Some(0));
    canceller.cancel_with("the parent's");
    assert!(parent.is_done());
    for n in 1..=3 {
        assert_eq!(results.next().await, Some(n));
    }
    assert_eq!(results.next().await, None);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|seen| *seen == (ms(130), "the parent's".into())), "{seen:?}");
    let _ = finish(results).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_begins_a_drain_at_its_instant() {
    let (ctx, _canceller) = background().with_timeout(ms(50));
    let watch = Watch::start();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .stage("deaf", |_, mut input: Receiver<u64>, output| async move {
            output.send(input.recv().await.unwrap()).await.unwrap();
            pending::<()>().await
        })
        .on_cancel(drain(ms(70)))
        .run();
    assert_eq!(read(&mut results).await, [0]);
    assert_eq!(watch.time(), ms(120));
    let report = finish(results).await;
    let why = report.into_result().unwrap_err();
    assert_eq!(why.error(), ContextError::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn dropping_or_finishing_aborts_a_drain() {
    for how in 0..3 {
        let (ctx, canceller) = background().with_cancel();
        let (stock, held) = (Stock::new(), Running::new());
        let inside = held.clone();
        let mut results = Pipeline::from_iter(&ctx, stock.items(u64::MAX))
            .dispatch(3, move |_, item| {
                let here = inside.enter();
                async move {
                    let _here = here;
                    rt::sleep(SECOND).await;
                    item
                }
            })
            .on_cancel(drain(AGES))
            .run();
        assert!(results.next().await.is_some());
        let watch = Watch::start();
        canceller.cancel_with("enough");
        match how {
            0 => drop(results),
            1 => assert_eq!(outcome(&finish(results).await), "cancelled: enough"),
            _ => drop(results.finish()),
        }
        rt::yield_now().await;
        assert_eq!((stock.left(), held.now()), (0, 0));
        kit::quiet().await;
        assert_eq!(watch.time(), Duration::ZERO);
        assert!(ctx.tree().is_empty(), "{}", ctx.tree());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_flushes_the_chunk_that_is_being_filled_and_the_throttle_keeps_its_rate() {
    let (ctx, canceller) = background().with_cancel();
    let watch = Watch::start();
    let mut results = Pipeline::from_iter(&ctx, 0..u64::MAX)
        .buffer(5)
        .throttle(Rate::every(ms(100)))
        .chunks(100, AGES)
        .on_cancel(drain(AGES))
        .run();
    assert!(rt::timeout(ms(250), results.next()).await.is_err());
    canceller.cancel();
    // 0, 1 and 2 have gone through; 3 is in the throttle's hand, and five wait for it.
    let chunk = results.next().await.unwrap();
    assert!(chunk.iter().copied().eq(0..chunk.len() as u64), "{chunk:?}");
    assert_eq!(watch.time(), ms(100) * (chunk.len() as u32 - 1));
    assert_eq!(results.next().await, None);
    assert!(results.finish().await.conserved());
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_a_drain_ends_it() {
    let (ctx, canceller) = background().with_cancel();
    let watch = Watch::start();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .try_dispatch(1, |_, n| async move {
            rt::sleep(ms(10)).await;
            if n == 5 { Err("five") } else { Ok(n) }
        })
        .on_cancel(drain(AGES))
        .run();
    assert_eq!(results.next().await, Some(0));
    canceller.cancel_with("first");
    assert_eq!(read(&mut results).await, [1, 2, 3, 4]);
    assert_eq!(watch.time(), ms(60));
    let report = finish(results).await;
    assert_eq!(outcome(&report), "cancelled: first", "the first thing that ended it");
    assert_eq!(report.stages()[1].failed(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_a_blocking_source_does_not_wait_for_its_thread() {
    let (ctx, canceller) = background().with_cancel();
    let (tell, told) = std::sync::mpsc::channel::<u64>();
    let mut results = Pipeline::from_blocking_iter(&ctx, told.into_iter())
        .map(|n| n)
        .on_cancel(drain(AGES))
        .run();
    tell.send(1).unwrap();
    assert_eq!(results.next().await, Some(1));
    canceller.cancel();
    assert_eq!(results.next().await, None);
    let _ = finish(results).await;
    drop(tell);
}

#[tokio::test(start_paused = true)]
async fn a_report_tells_how_long_a_stage_waited_for_room_however_that_ended() {
    for gives_room in [true, false] {
        let mut results = Pipeline::from_iter(&background(), 0_u64..3)
            .buffer(1)
            .stage("slow", move |_, mut input, output| async move {
                output.send(input.recv().await.unwrap()).await.unwrap();
                rt::sleep(ms(100)).await;
                while gives_room && input.recv().await.is_some() {}
            })
            .run();
        while results.next().await.is_some() {}
        let report = finish(results).await;
        assert_eq!(report.stages()[0].waited_for_output(), ms(100), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_workers_that_wait_for_room_each_counts() {
    for workers in [1, 2, 3] {
        let items = Pipeline::from_iter(&background(), 0_u64..10);
        let mut results = items
            .dispatch(workers, |_, n| async move {
                rt::sleep(ms(1)).await;
                n
            })
            .buffer(1)
            .run();
        assert!(results.next().await.is_some());
        rt::sleep(ms(1_000)).await;
        while results.next().await.is_some() {}
        let report = finish(results).await;
        let waited = report.stages()[1].waited_for_output();
        let all = ms(1_000) * workers as u32;
        assert!(waited <= all && waited + ms(10) * workers as u32 >= all, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_tells_how_long_a_stage_waited_for_items_however_that_ended() {
    for stage in ["map", "stage", "dispatch"] {
        for (ends_after, waited) in [(ms(1_000), ms(300)), (ms(250), ms(250))] {
            let (ctx, _canceller) = background().with_timeout(ends_after);
            let from = Pipeline::from_stream(&ctx, Box::pin(at_times([100, 200, 300])));
            let mut results = match stage {
                "map" => from.map(|n| n),
                "stage" => from.stage(stage, |_, mut input, output| async move {
                    while let Some(n) = input.recv().await {
                        output.send(n).await.unwrap();
                    }
                }),
                _ => from.dispatch(1, |_, n| async move { n }),
            }
            .run();
            while results.next().await.is_some() {}
            let report = finish(results).await;
            assert_eq!(report.stages()[1].waited_for_input(), waited, "{stage}: {report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_grace_is_reckoned_from_the_deadline_however_late_the_drain_begins() {
    let (ctx, _canceller) = background().with_timeout(ms(10));
    let drains = drain(ms(10));
    let mut results = Pipeline::from_iter(&ctx, 0_u64..).on_cancel(drains).run();
    assert_eq!(results.next().await, Some(0));
    settle().await;
    for (moved, there) in [(15, true), (5, false)] {
        let _ = Box::pin(tokio::time::advance(ms(moved))).now_or_never();
        let next = results.next().now_or_never().expect("no wait");
        assert_eq!(next.is_some(), there, "after {moved} ms more");
        // The drain begins.
        settle().await;
    }
    let _ = finish(results).await;
}

#[test]
fn a_grace_goes_by_the_pipelines_clock_though_its_contexts_deadline_goes_by_another() {
    let (here, there) = (kit::paused(), kit::paused());
    let hour = 3600 * SECOND;
    let (ctx, _canceller) = there.block_on(async { background().with_timeout(hour) });
    let drains = drain(ms(10));
    let mut results = Pipeline::from_iter(&ctx, 0_u64..).on_cancel(drains).run();
    assert_eq!(here.block_on(results.next()), Some(0));
    there.block_on(async {
        tokio::time::advance(hour).await;
        settle().await;
    });
    assert!(ctx.is_done());
    here.block_on(async move {
        assert!(results.next().await.is_some(), "it drains");
        tokio::time::advance(ms(20)).await;
        assert_eq!(results.next().await, None, "its grace is over");
        let _ = finish(results).await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_printed_report_has_each_wait_in_its_own_column() {
    let slow = stream::unfold((), |()| rt::sleep(ms(1_500)).map(|()| Some(((), ()))));
    let mut results = Pipeline::from_stream(&background(), slow.take(2)).map(|it| it).run();
    while results.next().await.is_some() {}
    let report = finish(results).await;
    assert_eq!(report.stages()[1].waited_for_input(), ms(3_000), "{report}");
    let text = report.to_string();
    let row = text.lines().last().unwrap();
    let waits: Vec<_> = row.split_whitespace().skip(6).collect();
    assert_eq!(waits, ["3.0s", "0.0ns", "completed"], "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_merge_has_waited_for_both_that_it_takes_from() {
    for slow_first in [true, false] {
        let slow = stream::once(rt::sleep(ms(3_000)));
        let slow = Pipeline::from_stream(&background(), slow);
        let none = Pipeline::from_iter(&background(), []);
        let merged = if slow_first { slow.merge(none) } else { none.merge(slow) };
        let mut results = merged.run();
        while results.next().await.is_some() {}
        let report = results.finish().await;
        let waited = report.stages()[2].waited_for_input();
        assert!(waited >= ms(3_000), "{waited:?}, {report}");
    }
}

#[test]
fn rates_of_different_bursts_are_different() {
    assert_eq!(Rate::per_second(2), Rate::every(ms(500)));
    assert_ne!(Rate::per_second(2), Rate::per_second(2).burst(2));
}

// ------------------------------------------------------------------- any line of stages

/// A line of stages. The second of each is how many items fit behind it.
#[derive(Clone, Debug)]
struct Line {
    items: u64,
    /// How long each takes to make; `None` is an iterator.
    every: Option<u64>,
    buffer: usize,
    stages: Vec<(Kind, usize)>,
    /// How many workers a last stage has that keeps no order, and how long they take.
    last: Option<(usize, Takes, usize)>,
    /// How long the reader waits after each item.
    pause: u64,
    /// When a drain begins.
    ends_at: Option<u64>,
}

#[derive(Clone, Debug)]
enum Kind {
    Map,
    Relay,
    Ordered(usize, Takes),
    /// The period, and the burst.
    Throttle(u64, u32),
}

/// How long the work on an item takes: at least so long, and so much longer at most.
#[derive(Clone, Copy, Debug)]
struct Takes(u64, u64);

impl Takes {
    fn of(self, item: u64) -> u64 {
        self.0 + (item * 7 + item * item) % (self.1 + 1)
    }

    async fn work(self, item: u64) -> u64 {
        rt::sleep(ms(self.of(item))).await;
        item
    }
}

fn lines() -> impl Strategy<Value = Line> {
    let buffer = || prop_oneof![Just(1), 2..6_usize, Just(64), Just(1_000)];
    let workers = || prop_oneof![Just(1), 2..6_usize, Just(64)];
    let takes = || (0..9_u64, 0..30_u64).prop_map(|(least, more)| Takes(least, more));
    let kind = prop_oneof![
        1 => Just(Kind::Map),
        1 => Just(Kind::Relay),
        4 => (workers(), takes()).prop_map(|(workers, takes)| Kind::Ordered(workers, takes)),
        2 => (1..20_u64, 1..6_u32).prop_map(|(period, burst)| Kind::Throttle(period, burst)),
    ];
    let source = (1..200_u64, prop::option::of(0..6_u64), buffer());
    let stages = prop::collection::vec((kind, buffer()), 0..5);
    let last = prop::option::of((workers(), takes(), buffer()));
    let reader = (prop_oneof![Just(0), 1..8_u64], prop::option::of(0..400_u64));
    (source, stages, last, reader).prop_map(
        |((items, every, buffer), stages, last, (pause, ends_at))| Line {
            items,
            every,
            buffer,
            stages,
            last,
            pause,
            ends_at,
        },
    )
}

/// What each stage does when, reckoned item by item, without tasks or channels.
#[derive(Default)]
struct Reckoned {
    /// When each item was made.
    made: Vec<u64>,
    /// When the reader takes each.
    read: Vec<u64>,
}

/// Each item is taken as soon as it is there and the one before has been taken and a worker is
/// free; and is passed on as soon as it is done and the one before has been passed on and there is
/// room. There is room for the `k`th behind a buffer of `b` once the one `b` before it is taken.
fn reckon(line: &Line, items: usize) -> Reckoned {
    // For each stage, the source first: when it takes each item, and when it passes that on.
    let count = line.stages.len() + 1;
    let mut taken: Vec<Vec<u64>> = vec![Vec::new(); count + 1];
    let mut passed: Vec<Vec<u64>> = vec![Vec::new(); count];
    // For each: when the last item was due, if it is a throttle.
    let mut due: Vec<Option<u64>> = vec![None; count];
    let before = |times: &[u64], back: usize| match times.len().checked_sub(back) {
        Some(index) => times[index],
        None => 0,
    };
    let mut reckoned = Reckoned::default();
    // What the workers of the last stage are at, and when they passed on what they have done.
    let (mut busy, mut left) = (BinaryHeap::new(), Vec::new());
    let leave = |busy: &mut BinaryHeap<Reverse<u64>>, left: &mut Vec<u64>, read: &mut Vec<u64>| {
        let (_, _, buffer) = line.last.expect("its workers leave");
        let Reverse(done) = busy.pop().expect("one is busy");
        left.push(done.max(before(left, 1)).max(before(read, buffer)));
        let paused = if read.is_empty() { 0 } else { before(read, 1) + line.pause };
        read.push(before(left, 1).max(paused));
    };
    for item in 0..items {
        let mut there = 0;
        for stage in 0..count {
            let (workers, buffer) = match stage.checked_sub(1).map(|index| &line.stages[index]) {
                None => (1, line.buffer),
                Some((Kind::Ordered(workers, _), buffer)) => (*workers, *buffer),
                Some((_, buffer)) => (1, *buffer),
            };
            let free = before(&passed[stage], workers);
            let takes = there.max(before(&taken[stage], 1)).max(free);
            taken[stage].push(takes);
            let done = match stage.checked_sub(1).map(|index| &line.stages[index].0) {
                None => {
                    reckoned.made.push(takes + line.every.unwrap_or(0));
                    takes + line.every.unwrap_or(0)
                }
                Some(Kind::Map | Kind::Relay) => takes,
                Some(Kind::Ordered(_, long)) => takes + long.of(item as u64),
                Some(Kind::Throttle(period, burst)) => {
                    // However late it is, no more than the burst is earned by that.
                    let earned = period * u64::from(burst - 1);
                    let late = |at: u64| at.saturating_sub(earned);
                    let now = match due[stage] {
                        None => takes,
                        Some(due) => {
                            (due.max(late(before(&passed[stage], 1))) + period).max(late(takes))
                        }
                    };
                    due[stage] = Some(now);
                    takes.max(now)
                }
            };
            let room = before(&taken[stage + 1], buffer);
            there = done.max(before(&passed[stage], 1)).max(room);
            passed[stage].push(there);
        }
        let takes = match line.last {
            None => {
                let paused = if item == 0 { 0 } else { before(&reckoned.read, 1) + line.pause };
                reckoned.read.push(there.max(paused));
                before(&reckoned.read, 1)
            }
            Some((workers, long, _)) => {
                if item >= workers {
                    leave(&mut busy, &mut left, &mut reckoned.read);
                }
                let free = if item >= workers { before(&left, 1) } else { 0 };
                let takes = there.max(before(&taken[count], 1)).max(free);
                busy.push(Reverse(takes + long.of(item as u64)));
                takes
            }
        };
        taken[count].push(takes);
    }
    while !busy.is_empty() {
        leave(&mut busy, &mut left, &mut reckoned.read);
    }
    reckoned
}

async fn holds_to_what_is_reckoned(line: &Line) {
    let watch = Watch::start();
    let ctx = background();
    let (ctx, _canceller) = match line.ends_at {
        None => ctx.with_cancel(),
        Some(at) => ctx.with_timeout(ms(at)),
    };
    let items = line.items;
    let source = match line.every {
        None => Pipeline::from_iter(&ctx, 0..items),
        Some(every) => {
            let slow = stream::iter(0..items);
            Pipeline::from_stream(&ctx, slow.then(move |item| Takes(every, 0).work(item)))
        }
    };
    let mut pipeline = source.buffer(line.buffer);
    for (kind, buffer) in &line.stages {
        pipeline = match *kind {
            Kind::Map => pipeline.map(|item| item),
            Kind::Relay => pipeline.stage("relay", relay),
            Kind::Ordered(workers, takes) => {
                pipeline.dispatch_ordered(workers, move |_, item| takes.work(item))
            }
            Kind::Throttle(period, burst) => {
                pipeline.throttle(Rate::every(ms(period)).burst(burst))
            }
        };
        pipeline = pipeline.buffer(*buffer);
    }
    if let Some((workers, takes, buffer)) = line.last {
        pipeline = pipeline.dispatch(workers, move |_, item| takes.work(item)).buffer(buffer);
    }
    let mut results = pipeline.on_cancel(drain(Duration::MAX)).run();
    let mut read = Vec::new();
    while results.next().await.is_some() {
        read.push(watch.time().as_millis() as u64);
        if line.pause > 0 {
            rt::sleep(ms(line.pause)).await;
        }
    }
    let report = finish(results).await;
    assert_eq!(report.discarded(), 0, "{report}");
    // What is made at the very instant at which the drain begins may come or not.
    let made = reckon(line, items as usize).made;
    let (least, most) = match line.ends_at {
        None => (made.len(), made.len()),
        Some(at) => (
            made.iter().filter(|&&made| made < at).count(),
            made.iter().filter(|&&made| made <= at).count(),
        ),
    };
    assert!((least..=most).contains(&read.len()), "{} of {least} to {most}: {report}", read.len());
    assert_eq!(read, reckon(line, read.len()).read, "{report}");
}

#[test]
fn whatever_the_stages_each_item_comes_at_the_instant_that_is_reckoned_without_tasks() {
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let tried = TestRunner::new(config).run(&lines(), |line| {
        kit::paused().block_on(holds_to_what_is_reckoned(&line));
        Ok(())
    });
    match tried {
        Ok(()) => {}
        Err(TestError::Fail(why, line)) => panic!("{why}\n{line:#?}"),
        Err(other) => panic!("{other}"),
    }
}
