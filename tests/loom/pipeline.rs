//! The races of a pipeline's stages with its reader, its end and each other.
//!
//! Unless a model says otherwise, each stage has a thread of its own. Models with
//! more stages than loom has threads run them all on one, in turns
//! ([`on_one_thread`]), and let the reader or the end race with that.

use super::{Thing, Things, in_a_hurry, model, model_that_leaves_threads, model_within, poll_once};
use loom::future::block_on;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use quell::channel::{Receiver, SendError};
use quell::planted::{advance, finish, on_one_thread};
use quell::{Context, OnCancel, Outcome, Pipeline, Rate, Report, Results, rt};
use std::pin::pin;
use std::time::Duration;

const TEN: Duration = Duration::from_millis(10);

/// Reads all there is, and ends it. Returns the items' numbers and the report.
async fn read_all(mut results: Results<Thing>) -> (Vec<usize>, Report) {
    let mut numbers = Vec::new();
    while let Some(thing) = results.next().await {
        numbers.push(thing.number);
    }
    (numbers, results.finish().await)
}

/// Starts it, and runs all its stages on this thread while `reader` runs on another.
fn beside<R: 'static>(
    mut results: Results<Thing>,
    reader: impl FnOnce(Results<Thing>) -> R + 'static,
) -> R {
    let reader = on_one_thread(async move {
        // No stage has had its turn yet.
        assert!(poll_once(pin!(results.next())).is_pending());
        thread::spawn(move || reader(results))
    });
    reader.join().unwrap()
}

/// Starts it, with all its stages on this thread, and cancels it on another while
/// it is being read.
fn cancelled_on_its_way(
    mut results: Results<Thing>,
    cancel: impl FnOnce() + 'static,
) -> (Vec<usize>, Report) {
    let (read, other) = on_one_thread(async move {
        assert!(poll_once(pin!(results.next())).is_pending());
        let other = thread::spawn(cancel);
        (read_all(results).await, other)
    });
    other.join().unwrap();
    assert!(read.1.conserved(), "{}", read.1);
    read
}

/// Whether all was read before the end came; if not, it must have ended by that.
fn completed_or_stopped(report: &Report) -> bool {
    match report.outcome() {
        Outcome::Completed => true,
        Outcome::Cancelled(cause) => {
            assert_eq!(cause.to_string(), "stop");
            false
        }
        other => panic!("{other}"),
    }
}

/// Either its reader finished before the end came, or it ended by that.
fn finished_or_stopped(report: &Report) {
    assert!(report.conserved(), "{report}");
    match report.outcome() {
        Outcome::ReaderStopped => {}
        Outcome::Cancelled(cause) => assert_eq!(cause.to_string(), "stop"),
        outcome => panic!("{outcome}"),
    }
}

#[test]
fn a_producer_ends_when_its_reader_stops() {
    model(|| {
        let things = Things::default();
        let mut results = Pipeline::from_iter(&Context::background(), things.some(3)).run();
        block_on(async {
            assert_eq!(results.next().await.map(|thing| thing.number), Some(0));
            let report = results.finish().await;
            assert!(report.conserved(), "{report}");
            assert!(matches!(report.outcome(), Outcome::ReaderStopped));
        });
        things.are_gone();
    });
}

#[test]
fn what_is_read_to_its_end_completes() {
    model(|| {
        let things = Things::default();
        let results = Pipeline::from_iter(&Context::background(), things.some(2)).run();
        let (numbers, report) = block_on(read_all(results));
        assert_eq!(numbers, [0, 1]);
        assert!(report.conserved(), "{report}");
        assert!(matches!(report.outcome(), Outcome::Completed));
        things.are_gone();
    });
}

#[test]
fn what_a_stage_has_used_makes_room_whatever_it_waits_for() {
    in_a_hurry(|| {
        model_within(2, || {
            let things = Things::default();
            let (made, canceller) = Context::background().with_cancel();
            let source = things.some(3).inspect(move |thing| {
                if thing.number == 2 {
                    canceller.cancel();
                }
            });
            let results = Pipeline::from_iter(&Context::background(), source)
                .buffer(1)
                .stage("waits", |_, mut input: Receiver<Thing>, output| async move {
                    let first = input.recv().await;
                    // For what the source makes once there is room for the item before it.
                    made.done().await;
                    drop(first);
                    while let Some(thing) = input.recv().await {
                        output.send(thing).await?;
                    }
                    Ok::<_, SendError<Thing>>(())
                })
                .run();
            let (numbers, report) = block_on(read_all(results));
            assert_eq!(numbers, [1, 2]);
            assert!(matches!(report.outcome(), Outcome::Completed), "{report}");
            things.are_gone();
        });
    });
}

#[test]
fn results_dropped_in_flight_end_every_stage() {
    model_within(2, || {
        let things = Things::default();
        let results =
            Pipeline::from_iter(&Context::background(), things.some(2)).map(|thing| thing).run();
        beside(results, drop);
        things.are_gone();
    });
}

#[test]
fn results_dropped_at_once_end_every_stage_on_whatever_thread() {
    model_that_leaves_threads(2, |things| {
        let mut results =
            Pipeline::from_iter(&Context::background(), things.some(1)).map(|thing| thing).run();
        let _ = poll_once(pin!(results.next()));
        drop(results);
    });
}

#[test]
fn a_reader_may_finish_while_another_cancels() {
    model_within(1, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, things.some(2)).run();
        let _ = poll_once(pin!(results.next()));
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        let report = block_on(results.finish());
        other.join().unwrap();
        finished_or_stopped(&report);
        things.are_gone();
    });
}

#[test]
fn a_reader_among_the_stages_may_finish_while_another_cancels() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, things.some(2)).run();
        let (other, report) = on_one_thread(async move {
            let _ = poll_once(pin!(results.next()));
            let other = thread::spawn(move || canceller.cancel_with("stop"));
            (other, results.finish().await)
        });
        other.join().unwrap();
        finished_or_stopped(&report);
        things.are_gone();
    });
}

#[test]
fn results_may_be_dropped_on_one_thread_and_cancelled_on_another() {
    model_that_leaves_threads(1, |things| {
        let (ctx, canceller) = Context::background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, things.some(2)).run();
        let _ = poll_once(pin!(results.next()));
        let other = thread::spawn(move || drop(results));
        canceller.cancel_with("stop");
        other.join().unwrap();
    });
}

#[test]
fn results_may_be_dropped_while_they_are_cancelled_among_the_stages() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, things.some(2)).run();
        let other = on_one_thread(async move {
            let _ = poll_once(pin!(results.next()));
            let other = thread::spawn(move || drop(results));
            canceller.cancel_with("stop");
            other
        });
        other.join().unwrap();
        things.are_gone();
    });
}

#[test]
fn a_pipeline_that_starts_while_its_context_ends_ends_with_it() {
    model_within(1, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        let results = Pipeline::from_iter(&ctx, things.some(1)).run();
        let (numbers, report) = block_on(read_all(results));
        assert!(report.conserved(), "{report}");
        if completed_or_stopped(&report) {
            assert_eq!(numbers, [0]);
        }
        other.join().unwrap();
        things.are_gone();
    });
}

#[test]
fn two_workers_end_when_the_context_does() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let results = Pipeline::from_iter(&ctx, things.some(1))
            .dispatch(2, |_ctx, thing| async move { thing })
            .run();
        let (numbers, report) =
            cancelled_on_its_way(results, move || canceller.cancel_with("stop"));
        assert_eq!(numbers.len(), report.read());
        if completed_or_stopped(&report) {
            assert_eq!(numbers.len(), 1);
        }
        things.are_gone();
    });
}

#[test]
fn two_workers_on_threads_of_their_own_end_when_the_context_does() {
    model_within(1, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, things.some(2))
            .dispatch(2, |_ctx, thing| async move { thing })
            .run();
        let _ = poll_once(pin!(results.next()));
        canceller.cancel_with("stop");
        let (_, report) = block_on(read_all(results));
        assert!(report.conserved(), "{report}");
        things.are_gone();
    });
}

#[test]
fn a_worker_that_waits_for_ever_is_stopped_by_the_cancel() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let results = Pipeline::from_iter(&ctx, things.some(2))
            .dispatch(1, |_ctx, thing| async move {
                std::future::pending::<()>().await;
                thing
            })
            .run();
        let (numbers, report) =
            cancelled_on_its_way(results, move || canceller.cancel_with("stop"));
        assert!(numbers.is_empty());
        assert!(!completed_or_stopped(&report));
        things.are_gone();
    });
}

#[test]
fn a_throttle_that_waits_for_its_time_is_stopped_by_the_cancel() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        // The clock stands still: the second item is never due.
        let results = Pipeline::from_iter(&ctx, things.some(2)).throttle(Rate::every(TEN)).run();
        let (numbers, report) =
            cancelled_on_its_way(results, move || canceller.cancel_with("stop"));
        assert!(numbers.len() < 2);
        assert!(!completed_or_stopped(&report));
        things.are_gone();
    });
}

#[test]
fn a_throttle_whose_time_comes_while_it_is_stopped_drops_its_item_once() {
    model_within(1, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let results = Pipeline::from_iter(&ctx, things.some(2)).throttle(Rate::every(TEN)).run();
        let _ = cancelled_on_its_way(results, move || {
            let clock = thread::spawn(|| advance(10));
            canceller.cancel_with("stop");
            clock.join().unwrap();
        });
        finish();
        things.are_gone();
    });
}

#[test]
fn an_error_is_known_before_its_reader_sees_the_end() {
    model(|| {
        let things = Things::default();
        let results = Pipeline::from_iter(&Context::background(), things.some(0))
            .stage("fails", |_ctx, _input, output| async move {
                drop(output);
                Err("the disk is full")
            })
            .run();
        let (numbers, report) = beside(results, |results| block_on(read_all(results)));
        assert!(numbers.is_empty());
        let Outcome::Failed { stage, cause } = report.outcome() else { panic!("{report}") };
        assert_eq!((&**stage, &*cause.to_string()), ("fails", "the disk is full"));
    });
}

/// Of two workers the one that gets `failing` fails. Returns how many things were read.
fn a_worker_fails_at(failing: usize) -> usize {
    let things = Things::default();
    let results = Pipeline::from_iter(&Context::background(), things.some(2))
        .try_dispatch(2, move |_ctx, thing| async move {
            if thing.number == failing { Err("broken") } else { Ok(thing) }
        })
        .run();
    let (numbers, report) = block_on(read_all(results));
    assert!(report.conserved(), "{report}");
    let Outcome::Failed { cause, .. } = report.outcome() else { panic!("{report}") };
    assert_eq!(cause.to_string(), "broken");
    things.are_gone();
    numbers.len()
}

#[test]
fn a_worker_that_fails_ends_one_that_finishes() {
    model_within(1, || assert!(a_worker_fails_at(0) < 2));
}

#[test]
fn a_worker_that_fails_is_known_of_when_the_other_has_seen_the_end_of_all_items() {
    model_within(1, || assert!(a_worker_fails_at(1) < 2));
}

#[test]
fn a_stage_that_fails_ends_a_source_that_finishes() {
    model_within(2, || {
        let things = Things::default();
        let results = Pipeline::from_iter(&Context::background(), things.some(1))
            .try_dispatch(1, |_ctx, _thing| async move { Err::<Thing, _>("broken") })
            .run();
        let (numbers, report) = block_on(read_all(results));
        assert!(numbers.is_empty());
        assert!(report.conserved(), "{report}");
        let Outcome::Failed { cause, .. } = report.outcome() else { panic!("{report}") };
        assert_eq!(cause.to_string(), "broken");
        things.are_gone();
    });
}

#[test]
fn a_stage_of_ones_own_that_waits_for_its_input_is_stopped() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let results = Pipeline::from_iter(&ctx, things.some(1))
            .stage("relay", |_ctx, mut input, output| async move {
                while let Some(thing) = input.recv().await {
                    output.send(thing).await?;
                }
                Ok::<_, SendError<Thing>>(())
            })
            .run();
        let (numbers, report) =
            cancelled_on_its_way(results, move || canceller.cancel_with("stop"));
        if completed_or_stopped(&report) {
            assert_eq!(numbers, [0]);
        }
        things.are_gone();
    });
}

/// Two items, of which the first is overtaken.
fn overtaken(ctx: &Context, things: &Things) -> Results<Thing> {
    Pipeline::from_iter(ctx, things.some(2))
        .dispatch_ordered(2, |_ctx, thing| async move {
            if thing.number == 0 {
                // Until the source, and then the other worker, have had their turns.
                for _ in 0..4 {
                    rt::yield_now().await;
                }
            }
            thing
        })
        .run()
}

#[test]
fn results_in_order_pass_their_turn_on() {
    model(|| {
        let things = Things::default();
        let results = overtaken(&Context::background(), &things);
        let (numbers, report) = beside(results, |results| block_on(read_all(results)));
        assert_eq!(numbers, [0, 1]);
        assert!(report.conserved(), "{report}");
        things.are_gone();
    });
}

#[test]
fn results_in_order_come_in_order_from_threads_of_their_own() {
    model_within(1, || {
        let things = Things::default();
        let (numbers, report) = block_on(read_all(overtaken(&Context::background(), &things)));
        assert_eq!(numbers, [0, 1]);
        assert!(report.conserved(), "{report}");
        things.are_gone();
    });
}

#[test]
fn a_result_that_waits_for_its_turn_is_dropped_once() {
    model_within(2, || {
        let things = Things::default();
        beside(overtaken(&Context::background(), &things), drop);
        things.are_gone();
    });
}

#[test]
fn a_result_that_waits_for_its_turn_is_dropped_once_though_its_context_ends() {
    model_within(1, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let (numbers, report) = cancelled_on_its_way(overtaken(&ctx, &things), move || {
            canceller.cancel_with("stop");
        });
        assert!(numbers.iter().copied().eq(0..numbers.len()));
        if completed_or_stopped(&report) {
            assert_eq!(numbers, [0, 1]);
        }
        things.are_gone();
    });
}

#[test]
fn what_a_source_has_made_is_delivered_though_it_is_drained() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let results = Pipeline::from_iter(&ctx, things.some(2))
            .dispatch(1, |_ctx, thing| async move {
                rt::yield_now().await;
                thing
            })
            .on_cancel(OnCancel::Drain { grace: TEN })
            .run();
        let (numbers, report) =
            cancelled_on_its_way(results, move || canceller.cancel_with("stop"));
        let [source, workers] = report.stages() else { panic!("{report}") };
        assert_eq!(source.delivered(), workers.received());
        assert_eq!(workers.received(), numbers.len(), "not all was delivered: {report}");
        if completed_or_stopped(&report) {
            assert_eq!(numbers, [0, 1]);
        }
        things.are_gone();
    });
}

#[test]
fn what_is_not_drained_when_the_grace_is_over_is_stopped() {
    model_within(2, || {
        let things = Things::default();
        let (ctx, canceller) = Context::background().with_cancel();
        let results = Pipeline::from_iter(&ctx, things.some(1))
            .dispatch(1, |_ctx, thing| async move {
                std::future::pending::<()>().await;
                thing
            })
            .on_cancel(OnCancel::Drain { grace: TEN })
            .run();
        let (numbers, report) = cancelled_on_its_way(results, move || {
            canceller.cancel_with("stop");
            advance(10);
        });
        assert!(numbers.is_empty());
        let _ = completed_or_stopped(&report);
        finish();
        things.are_gone();
    });
}

#[test]
fn a_blocking_source_ends_with_its_pipeline() {
    model_that_leaves_threads(2, |things| {
        let mut results =
            Pipeline::from_blocking_iter(&Context::background(), things.some(2)).run();
        block_on(async {
            assert_eq!(results.next().await.map(|thing| thing.number), Some(0));
            let report = results.finish().await;
            assert!(report.conserved(), "{report}");
        });
    });
}

#[test]
fn a_drain_does_not_wait_for_a_source_that_blocks() {
    // Within two it takes a minute and a half.
    model_within(1, || {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let blocks = Arc::clone(&gate);
        let items = std::iter::from_fn(move || {
            let mut open = blocks.0.lock().unwrap();
            while !*open {
                open = blocks.1.wait(open).unwrap();
            }
            None::<Thing>
        });
        let (ctx, canceller) = Context::background().with_cancel();
        let mut results = Pipeline::from_blocking_iter(&ctx, items)
            .on_cancel(OnCancel::Drain { grace: TEN })
            .run();
        block_on(async {
            let mut next = pin!(results.next());
            assert!(poll_once(next.as_mut()).is_pending());
            canceller.cancel_with("stop");
            assert!(next.await.is_none());
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
            let report = results.finish().await;
            assert!(matches!(report.outcome(), Outcome::Cancelled(_)), "{report}");
        });
        finish();
    });
}

#[test]
fn what_is_merged_comes_once_from_either_side() {
    model_within(1, || {
        let things = Things::default();
        let ctx = Context::background();
        let results = Pipeline::from_iter(&ctx, things.some(1))
            .merge(Pipeline::from_iter(&ctx, things.some(1)))
            .run();
        let (numbers, report) = block_on(read_all(results));
        assert_eq!(numbers, [0, 0]);
        assert!(report.conserved(), "{report}");
        things.are_gone();
    });
}
