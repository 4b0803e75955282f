//! How a pipeline ends, whatever ends it: the reader, the context, a failure, a panic,
//! the runtime, or nothing; and that nothing of it is left.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::executor::block_on;
use futures::{FutureExt, StreamExt, stream};
use kit::{AGES, Item, Running, Stock, background, bad_waker, every_stage, finish, in_time, ms};
use kit::{one_thread, outcome, paused, quiet, read, relay, settle, tasks, threads};
use quell::channel::{Receiver, SendError, Sender};
use quell::group::TaskPanicked;
use quell::pipeline::StageEnd;
use quell::{Context, ContextError, OnCancel, Outcome, Pipeline, Rate, Results, rt};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};

// ------------------------------------------------------- the reader, the context, a failure

#[tokio::test]
async fn breaking_out_ends_every_stage_and_what_was_under_way_is_discarded() {
    for taken in [0, 1, 10, 63, 64, 65, 200] {
        let stock = Stock::new();
        let mut results = every_stage(&background(), stock.items(u64::MAX)).run();
        for _ in 0..taken {
            assert!(results.next().await.is_some());
        }
        if taken == 0 {
            assert!(results.next().now_or_never().is_none());
        }
        let report = finish(results).await;
        assert!(matches!(report.outcome(), Outcome::ReaderStopped), "{report}");
        assert_eq!((report.read(), stock.left()), (taken, 0), "{report}");
        assert_eq!(report.stages()[0].received(), stock.made());
        let discarded: usize = report.stages().iter().map(|stage| stage.discarded()).sum();
        assert_eq!(discarded, stock.made() - taken, "{report}");
        let _ = report.into_result().expect("that the reader stopped is no error");
    }
}

#[tokio::test]
async fn dropping_the_results_ends_every_stage_at_once() {
    let (stock, held) = (Stock::new(), Running::new());
    let here = held.enter();
    let mut results = every_stage(&background(), stock.items(u64::MAX))
        .stage("holds", move |_, input, output| async move {
            let _here = here;
            let _ = relay(background(), input, output).await;
        })
        .run();
    assert!(results.next().await.is_some());
    drop(results);
    // Aborting takes one turn of the runtime, and is not a matter of luck.
    rt::yield_now().await;
    assert_eq!((tasks(), stock.left(), held.now()), (0, 0, 0));
}

#[tokio::test]
async fn a_stage_that_was_at_work_when_the_pipeline_ended_was_aborted_whatever_it_found_closed() {
    for sends in [true, false] {
        let (ctx, canceller) = background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, 0_u64..)
            .filter_map(move |n| {
                canceller.cancel();
                sends.then_some(n)
            })
            .run();
        assert_eq!(results.next().await, None);
        let report = finish(results).await;
        assert_eq!(report.stages()[1].ended(), Some(StageEnd::Aborted), "{report}");
    }
}

#[tokio::test]
async fn after_the_context_has_ended_nothing_more_is_delivered() {
    let (ctx, canceller) = background().with_cancel();
    let stock = Stock::new();
    let mut results = every_stage(&ctx, stock.items(u64::MAX)).run();
    assert!(results.next().await.is_some());
    settle().await;
    canceller.cancel_with("the client went away");
    for _ in 0..3 {
        assert!(results.next().now_or_never().expect("at once").is_none());
    }
    let report = finish(results).await;
    let Outcome::Cancelled(cause) = report.outcome() else { panic!("{report}") };
    assert_eq!(cause.to_string(), "the client went away");
    assert_eq!(stock.left(), 0);
    assert_eq!(report.into_result().unwrap_err().to_string().lines().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_a_context_that_ended_first_the_cause_is_the_outcome_whatever_comes_after() {
    // No task has had a turn to report the end: the clock moves while a task runs, and the end is
    // only seen by a look.
    fn until_the_end(ctx: &Context) {
        let _ = Box::pin(tokio::time::advance(ms(5))).now_or_never();
        assert!(ctx.is_done());
    }
    for on_cancel in [OnCancel::Abort, OnCancel::Drain { grace: ms(0) }] {
        for what in ["reader stops", "error", "panic"] {
            let (ctx, _canceller) = background().with_timeout_cause(ms(5), "too slow");
            let users = ctx.clone();
            let mut results = Pipeline::from_iter(&ctx, 0_u64..)
                .on_cancel(on_cancel)
                .try_dispatch(1, move |_, n| {
                    let ctx = users.clone();
                    async move {
                        if what != "reader stops" {
                            until_the_end(&ctx);
                        }
                        assert!(what != "panic", "in the end");
                        if what == "error" { Err("in the end") } else { Ok(n) }
                    }
                })
                .run();
            if what == "reader stops" {
                assert!(results.next().await.is_some());
                until_the_end(&ctx);
            } else {
                while results.next().await.is_some() {}
            }
            let report = finish(results).await;
            assert_eq!(outcome(&report), "cancelled: too slow", "{what}");
            assert_eq!(report.into_result().unwrap_err().cause().to_string(), "too slow");
        }
    }
}

#[test]
fn no_function_of_the_users_holds_up_the_end_of_a_pipeline() {
    in_time(|| {
        threads(2).block_on(async {
            let (ctx, canceller) = background().with_cancel();
            let (opens, gate) = mpsc::channel::<()>();
            ctx.after_func(move || gate.recv().unwrap_or_default());
            let mut results = Pipeline::from_iter(&ctx, 0_u64..)
                .stage("stays", |_, mut input: Receiver<u64>, output| async move {
                    output.send(input.recv().await.unwrap()).await.unwrap();
                    pending::<()>().await;
                })
                .run();
            assert_eq!(results.next().await, Some(0));
            let cancel = std::thread::spawn(move || canceller.cancel());
            assert_eq!(results.next().await, None);
            // The function is still at its gate.
            let _ = finish(results).await;
            drop(opens);
            cancel.join().unwrap();
        });
    });
}

#[test]
fn no_function_of_the_users_holds_up_the_end_that_a_stage_makes() {
    in_time(|| {
        for panics in [false, true] {
            threads(2).block_on(async {
                let (opens, gate) = mpsc::channel::<()>();
                let gate = Mutex::new(Some(gate));
                let mut results = Pipeline::from_iter(&background(), 0..9)
                    .try_dispatch(1, move |ctx, n| {
                        if let Some(gate) = gate.lock().unwrap().take() {
                            ctx.after_func(move || gate.recv().unwrap_or_default());
                        }
                        async move {
                            assert!(n != 3 || !panics, "three");
                            if n == 3 { Err("three") } else { Ok(n) }
                        }
                    })
                    .run();
                while results.next().await.is_some() {}
                // The function is still at its gate, on the thread of the task that has failed.
                let report = results.finish().await;
                assert!(outcome(&report).contains("three"), "{report}");
                drop(opens);
            });
        }
    });
}

#[test]
fn a_pipeline_may_be_dropped_or_finished_by_a_closure_of_its_own() {
    in_time(|| {
        for runtime in [one_thread(), threads(2)] {
            for stage in ["source", "map", "dispatch", "own", "finish"] {
                let (stock, place) = (Stock::new(), Arc::new(Mutex::new(None::<Results<Item>>)));
                // Its own results, once they are there.
                let mine = place.clone();
                let end = move |n: u64| {
                    if n == 5 {
                        drop(mine.lock().unwrap().take());
                    }
                };
                let (first, second, third, own) = (end.clone(), end.clone(), end.clone(), end);
                let (whose, finishes) = (stage, place.clone());
                let results = Pipeline::from_iter(
                    &background(),
                    stock.items(100).inspect(move |item| {
                        if whose == "source" {
                            first(item.n);
                        }
                    }),
                )
                .map(move |item| {
                    if whose == "map" {
                        second(item.n);
                    }
                    item
                })
                .dispatch(2, move |_, item: Item| {
                    if whose == "dispatch" {
                        third(item.n);
                    }
                    let mine = finishes.clone();
                    async move {
                        let found = match (whose, item.n) {
                            ("finish", 5) => mine.lock().unwrap().take(),
                            _ => None,
                        };
                        if let Some(results) = found {
                            let _ = results.finish().await;
                        }
                        item
                    }
                })
                .stage("own", move |_, mut input: Receiver<Item>, output| async move {
                    while let Some(item) = input.recv().await {
                        if whose == "own" {
                            own(item.n);
                        }
                        if output.send(item).await.is_err() {
                            break;
                        }
                    }
                })
                .run();
                *place.lock().unwrap() = Some(results);
                runtime.block_on(async {
                    // Until they are gone: not while they are polled, which would lock them.
                    let poll = |results: &mut Results<Item>| results.next().now_or_never();
                    while place.lock().unwrap().as_mut().map(poll).is_some() {
                        rt::yield_now().await;
                    }
                    quiet().await;
                });
                assert_eq!(stock.left(), 0, "{stage}");
            }
        }
    });
}

#[test]
fn a_pipeline_may_be_read_by_a_task_of_another_runtime_and_begun_on_one_that_is_over() {
    in_time(|| {
        let (runs, reads) = (threads(2), threads(2));
        let mut results = Pipeline::from_iter(&background(), 0..1_000_u64).map(|n| n + 1).run();
        let first = runs.block_on(results.next());
        let rest = reads.spawn(async move {
            let mut sum = first.unwrap();
            while let Some(n) = results.next().await {
                sum += n;
            }
            (sum, results.finish().await)
        });
        let (sum, report) = reads.block_on(rest).unwrap();
        assert_eq!((sum, report.read()), (500_500, 1_000), "{report}");

        let over = runs.handle().clone();
        drop(runs);
        let _there = over.enter();
        let mut results = Pipeline::from_iter(&background(), 0..10_u64).run();
        assert_eq!(block_on(results.next()), None);
        let report = block_on(results.finish());
        assert_eq!(outcome(&report), "cancelled: the runtime was shut down");
    });
}

#[test]
fn a_drain_that_one_deadline_has_begun_ends_with_its_grace_though_another_is_far_ahead() {
    in_time(|| {
        let within = |time| background().with_timeout(time);
        // By the system's clock, outside any runtime; and by a runtime's, from the same line.
        let (server, _server) = within(ms(50));
        one_thread().block_on(async {
            let (request, _request) = within(AGES);
            let (ctx, _ctx) = request.linked(&[&server]);
            let mut results = Pipeline::from_iter(&ctx, 0..)
                .dispatch(1, |_, _n: u64| pending::<()>())
                .on_cancel(OnCancel::Drain { grace: ms(50) })
                .run();
            let next = rt::timeout(ms(5_000), results.next()).await;
            assert!(matches!(next, Ok(None)), "{next:?}");
            let report = finish(results).await;
            assert_eq!(outcome(&report), "cancelled: context deadline exceeded");
        });
    });
}

#[test]
fn what_lies_before_busy_workers_is_dropped_with_the_results_whatever_function_comes_first() {
    in_time(|| {
        let (stock, runs) = (Stock::new(), threads(2));
        let (ctx, canceller) = background().with_cancel();
        let (go, gone) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        ctx.after_func(move || {
            tell.send(()).unwrap();
            gone.recv().unwrap();
        });
        runs.block_on(async {
            let mut results = Pipeline::from_iter(&ctx, stock.items(100))
                .buffer(16)
                .dispatch(2, |_, item: Item| async move { (pending::<()>().await, item).1 })
                .run();
            assert!(rt::timeout(ms(50), results.next()).await.is_err());
            assert!(stock.left() > 16, "they wait before the workers");
            let ends = std::thread::spawn(move || canceller.cancel());
            told.recv().unwrap();
            drop(results);
            while stock.left() > 0 || tasks() > 0 {
                rt::sleep(ms(1)).await;
            }
            go.send(()).unwrap();
            ends.join().unwrap();
        });
    });
}

#[tokio::test]
async fn two_items_of_one_task_that_panic_when_they_are_dropped_are_not_the_end_of_the_process() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a bomb");
        }
    }
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_iter(&ctx, vec![Bomb, Bomb, Bomb, Bomb]).buffer(1).run();
    std::mem::forget(results.next().await);
    // One is behind the source, one in its hand, and one still in the iterator.
    settle().await;
    canceller.cancel_with("enough");
    let report = results.finish().await;
    assert_eq!(outcome(&report), "cancelled: enough");
    quiet().await;
}

#[test]
fn an_unsent_item_and_one_still_in_the_iterator_that_panic_do_not_end_the_process() {
    struct Bomb(mpsc::Sender<()>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            let _ = self.0.send(());
            panic!("a bomb");
        }
    }
    in_time(|| {
        // With a blocking source, one item is read, one lies behind the source, two are on their
        // way to it, and its thread has one in hand. With the other source, one lies behind it, and
        // it has one in hand.
        for (blocking, made) in [(true, 5), (false, 2)] {
            let (tell, dropped) = mpsc::channel();
            let (makes, asked) = mpsc::channel();
            let bombs: Vec<_> = (0..=made).map(|_| Bomb(tell.clone())).collect();
            let bombs = bombs.into_iter().inspect(move |_| makes.send(()).unwrap());
            threads(2).block_on(async {
                if blocking {
                    let mut results =
                        Pipeline::from_blocking_iter(&background(), bombs).buffer(1).run();
                    std::mem::forget(results.next().await);
                    (0..made).for_each(|_| asked.recv().unwrap());
                    drop(results);
                    (0..made).for_each(|_| dropped.recv().unwrap());
                } else {
                    let results = Pipeline::from_iter(&background(), bombs).buffer(1).stage(
                        "leaves",
                        move |_, input: Receiver<Bomb>, output: Sender<u8>| async move {
                            (0..made).for_each(|_| asked.recv().unwrap());
                            drop(input);
                            pending::<()>().await;
                            drop(output);
                        },
                    );
                    let mut results = results.run();
                    assert!(results.next().await.is_none());
                    let report = finish(results).await;
                    assert_eq!(outcome(&report), "`from_iter` panicked: a bomb");
                }
            });
        }
    });
}

#[tokio::test]
async fn an_item_that_cannot_be_sent_and_panics_when_it_is_dropped_is_no_failure() {
    for stage in ["from_iter", "from_stream", "map", "merge", "dispatch", "ordered", "relay"] {
        let (ctx, stock) = (background(), Stock::new());
        let items = Pipeline::from_iter(&ctx, stock.items(9).map(Nasty));
        let items = match stage {
            "from_iter" => items,
            "from_stream" => Pipeline::from_stream(&ctx, stream::iter(stock.items(9).map(Nasty))),
            "map" => items.map(|item| item),
            "merge" => items.merge(Pipeline::from_iter(&ctx, [])),
            "dispatch" => items.dispatch(2, |_, item| async { item }),
            "ordered" => items.dispatch_ordered(2, |_, item| async { item }),
            _ => items.stage("relay", relay),
        };
        let leaves = |_, input: Receiver<Nasty>, output: Sender<u8>| async move {
            settle().await;
            drop(input);
            settle().await;
            output.send(1).await
        };
        let mut results = items.buffer(1).stage("leaves", leaves).run();
        assert_eq!(results.next().await, Some(1), "{stage}");
        assert_eq!(results.next().await, None, "{stage}");
        let report = results.finish().await;
        assert!(report.conserved(), "{stage}: {report}");
        assert_eq!(outcome(&report), "completed", "{stage}: {report}");
        assert_eq!(stock.left(), 0, "{stage}: {report}");
    }
}

#[test]
fn a_stage_that_ignores_that_nothing_comes_or_goes_any_more_is_aborted_all_the_same() {
    for sends in [true, false] {
        in_time(move || {
            let deaf = move |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                for n in 0.. {
                    if sends {
                        let _ = output.send(n).await;
                    } else if let Some(n) = input.recv().await {
                        output.send(n).await.unwrap();
                    }
                }
            };
            // It takes one, and no more.
            let first = |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                output.send(input.recv().await.unwrap()).await
            };
            one_thread().block_on(async {
                let mut results = Pipeline::from_iter(&background(), [0])
                    .stage("deaf", deaf)
                    .stage("first", first)
                    .run();
                assert_eq!(results.next().await, Some(0));
                assert_eq!(results.next().await, None);
                let report = finish(results).await;
                assert_eq!(outcome(&report), "completed");
                assert_eq!(report.stages()[1].ended(), Some(StageEnd::Aborted), "{report}");
            });
        });
    }
}

#[test]
fn a_pipeline_may_be_finished_by_a_function_at_its_contexts_end() {
    in_time(|| {
        threads(2).block_on(async {
            let (ctx, canceller) = background().with_cancel();
            let (tell, told) = mpsc::channel();
            let (give, given) = mpsc::channel::<Results<u64>>();
            ctx.after_func(move || {
                let report = block_on(given.recv().unwrap().finish());
                tell.send(outcome(&report)).unwrap();
            });
            let mut results = Pipeline::from_iter(&ctx, 0_u64..)
                .stage("stays", |_, mut input: Receiver<u64>, output| async move {
                    output.send(input.recv().await.unwrap()).await.unwrap();
                    pending::<()>().await;
                })
                .run();
            assert_eq!(results.next().await, Some(0));
            give.send(results).unwrap();
            std::thread::spawn(move || canceller.cancel_with("stop")).join().unwrap();
            assert_eq!(told.recv().unwrap(), "cancelled: stop");
        });
    });
}

#[tokio::test]
async fn a_reader_that_waits_is_told_of_the_end() {
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_stream(&ctx, stream::pending::<u8>()).map(|n| n).run();
    assert!(results.next().now_or_never().is_none());
    let ends = async {
        settle().await;
        canceller.cancel();
    };
    let (next, ()) = futures::join!(rt::timeout(AGES, results.next()), ends);
    assert_eq!(next, Ok(None));
    let _ = finish(results).await;
}

#[tokio::test]
async fn where_the_context_has_ended_already_nothing_runs() {
    let (ctx, canceller) = background().with_cancel();
    canceller.cancel_with("too late");
    let stock = Stock::new();
    let ends = [OnCancel::Abort, OnCancel::Drain { grace: AGES }];
    for end in ends {
        let mut results = every_stage(&ctx, stock.items(10)).on_cancel(end).run();
        assert!(results.next().now_or_never().expect("at once").is_none());
        assert_eq!(outcome(&finish(results).await), "cancelled: too late");
        let results = every_stage(&ctx, stock.items(10)).on_cancel(end).run();
        let report = finish(results).await;
        assert_eq!(outcome(&report), "cancelled: too late", "not even polled");
    }
    assert_eq!((stock.made(), tasks()), (0, 0));
}

#[tokio::test]
async fn closures_get_a_context_that_is_derived_from_the_pipelines_and_ends_with_it() {
    let ctx = background().with_value(7_u64);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (one, two) = (seen.clone(), seen.clone());
    let mut results = Pipeline::from_iter(&ctx, 0..3_u64)
        .dispatch(2, move |ctx, n| {
            one.lock().unwrap().push(ctx.clone());
            async move { n + ctx.value::<u64>().unwrap() }
        })
        .stage("own", move |ctx, input, output| {
            two.lock().unwrap().push(ctx);
            relay(background(), input, output)
        })
        .run();
    assert!(results.next().await.unwrap() >= 7);
    read(&mut results).await;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len(), 4);
    drop(results);
    assert!(seen.iter().all(Context::is_done));
    assert!(!ctx.is_done());
    assert_eq!(seen[0].cause().unwrap().to_string(), "the pipeline completed");
}

#[tokio::test]
async fn the_first_error_ends_everything_and_is_the_cause_that_the_others_see() {
    let (ctx, _canceller) = background().with_cancel();
    let causes = Arc::new(Mutex::new(Vec::new()));
    let seen = causes.clone();
    let mut results = Pipeline::from_iter(&ctx, 0..100_u64)
        .try_dispatch(4, move |ctx, n| {
            if n != 50 {
                let seen = seen.clone();
                ctx.after_func({
                    let ctx = ctx.clone();
                    move || seen.lock().unwrap().push(ctx.cause().unwrap().to_string())
                });
            }
            async move {
                rt::yield_now().await;
                if n == 50 { Err("fifty") } else { Ok(n) }
            }
        })
        .named("check")
        .run();
    let had = read(&mut results).await;
    assert!(had.len() <= 53, "{had:?}");
    let report = finish(results).await;
    let Outcome::Failed { stage, cause } = report.outcome() else { panic!("{report}") };
    assert_eq!((&**stage, &*cause.to_string()), ("check", "fifty"));
    assert_eq!(report.stages()[1].failed(), 1);
    assert_eq!(report.stages()[1].ended(), Some(StageEnd::Failed));
    assert!(causes.lock().unwrap().iter().all(|cause| cause == "fifty"));
    assert_eq!(report.into_result().unwrap_err().cause().to_string(), "fifty");
}

#[tokio::test]
async fn a_match_of_the_five_outcomes_needs_no_arm_for_others() {
    let told = |outcome: &Outcome| match outcome {
        Outcome::Completed => "all".to_string(),
        Outcome::ReaderStopped => "enough".to_string(),
        Outcome::Cancelled(cause) => cause.to_string(),
        Outcome::Failed { stage, cause } => format!("{stage}: {cause}"),
        Outcome::Panicked { stage, message } => format!("{stage}: {message}"),
    };
    let same = |on_cancel| match on_cancel {
        OnCancel::Abort => OnCancel::Abort,
        OnCancel::Drain { grace } => OnCancel::Drain { grace },
    };
    let mut results =
        Pipeline::from_iter(&background(), 0..3).on_cancel(same(OnCancel::Abort)).run();
    while results.next().await.is_some() {}
    assert_eq!(told(finish(results).await.outcome()), "all");
}

#[tokio::test]
async fn who_tries_to_read_is_told_why_no_more_comes_as_often_as_he_asks() {
    let source = |ctx: &Context| {
        Pipeline::from_iter(ctx, 0..10_u64).dispatch_ordered(2, |_, n| async move { n })
    };
    let mut results = source(&background()).run();
    for n in 0..10 {
        assert_eq!(results.try_next().await.unwrap(), Some(n));
    }
    for _ in 0..3 {
        assert_eq!(results.try_next().await.unwrap(), None);
    }

    let fails = |n: u64| async move { if n == 3 { Err("three") } else { Ok(n) } };
    let mut results = source(&background()).try_dispatch(1, move |_, n| fails(n)).run();
    let error = loop {
        match results.try_next().await {
            Ok(item) => assert!(item.is_some(), "all have come, it says"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.cause().to_string(), "three");
    assert_eq!(results.try_next().await.unwrap_err().cause().to_string(), "three");

    let panics = |n: u64| if n == 3 { panic!("at three") } else { n };
    let mut results = source(&background()).map(panics).named("picky").run();
    while let Ok(Some(_)) = results.try_next().await {}
    let error = results.try_next().await.unwrap_err();
    assert_eq!(format!("{error:#}"), "context canceled: `picky` panicked: at three");

    let (ctx, canceller) = background().with_cancel();
    let mut results = source(&ctx).run();
    assert_eq!(results.try_next().await.unwrap(), Some(0));
    canceller.cancel_with("enough");
    let error = results.try_next().await.unwrap_err();
    assert_eq!((error.error(), &*error.cause().to_string()), (ContextError::Cancelled, "enough"));
    let _ = finish(results).await;
    quiet().await;
}

#[tokio::test]
async fn who_tries_to_collect_has_all_or_the_cause_and_no_task_is_left() {
    let stock = Stock::new();
    let source = |ctx: &Context| Pipeline::from_iter(ctx, stock.items(100));
    let all: Vec<Item> = source(&background()).run().try_collect().await.unwrap();
    assert_eq!((all.len(), tasks()), (100, 0));
    drop(all);

    let slow = |_, item: Item| async move {
        if item == 50 { Err("fifty") } else { Ok((pending::<()>().await, item).1) }
    };
    let all = source(&background()).try_dispatch(100, slow).run();
    let error = all.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!((&*error.cause().to_string(), tasks(), stock.left()), ("fifty", 0, 0));

    let (ctx, canceller) = background().with_cancel();
    canceller.cancel_with("too late");
    let error = source(&ctx).run().try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.cause().to_string(), "too late");
    assert_eq!(stock.left(), 0);
}

#[tokio::test]
async fn only_the_first_of_many_errors_counts() {
    for _ in 0..50 {
        let mut results = Pipeline::from_iter(&background(), 0..100)
            .try_dispatch(
                8,
                |_, n| async move { if true { Err(format!("error {n}")) } else { Ok(n) } },
            )
            .run();
        assert!(read(&mut results).await.is_empty());
        let report = finish(results).await;
        let Outcome::Failed { cause, .. } = report.outcome() else { panic!("{report}") };
        let (first, failed) = (cause.to_string(), report.stages()[1].failed());
        assert!(first.starts_with("error ") && (1..=8).contains(&failed), "{report}");
        assert_eq!(report.into_result().unwrap_err().cause().to_string(), first);
    }
}

#[tokio::test]
async fn a_stage_that_fails_because_another_context_ended_has_failed() {
    let mut results = Pipeline::from_iter(&background(), 0..10_u64)
        .try_dispatch(1, |ctx, n| async move {
            let (own, canceller) = ctx.with_cancel();
            if n == 3 {
                canceller.cancel_with("its own");
            }
            own.check().map(|()| n)
        })
        .run();
    while results.next().await.is_some() {}
    let report = finish(results).await;
    assert_eq!(outcome(&report), "`try_dispatch` failed: its own");
    assert_eq!(report.stages()[1].ended(), Some(StageEnd::Failed), "{report}");
}

#[tokio::test]
async fn a_failure_after_the_end_changes_neither_outcome_nor_cause() {
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .stage("fails late", move |ctx, mut input: Receiver<u64>, output| async move {
            output.send(input.recv().await.unwrap()).await.unwrap();
            canceller.cancel_with("first");
            assert!(ctx.is_done());
            Err::<(), _>("second")
        })
        .run();
    let _ = read(&mut results).await;
    let report = finish(results).await;
    assert_eq!(outcome(&report), "cancelled: first");
}

// ---------------------------------------------------------------------- panics

/// A pipeline that panics at item 10 in the closure of this number; `None` if there is
/// no such closure.
fn panicking(which: usize, ctx: &Context, stock: &Stock) -> Option<(&'static str, Results<Item>)> {
    fn check(item: Item) -> Item {
        assert!(item.n != 10, "number {}", item.n);
        item
    }
    async fn later(item: Item) -> Item {
        rt::yield_now().await;
        check(item)
    }
    let source = || Pipeline::from_iter(ctx, stock.items(u64::MAX));
    let bad = || stock.items(u64::MAX).map(check);
    Some(match which {
        0 => ("from_iter", Pipeline::from_iter(ctx, bad()).run()),
        1 => ("from_stream", Pipeline::from_stream(ctx, stream::iter(bad())).run()),
        2 => ("from_blocking_iter", Pipeline::from_blocking_iter(ctx, bad()).run()),
        3 => ("map", source().map(check).run()),
        4 => ("filter_map", source().filter_map(|item| Some(check(item))).run()),
        5 => ("dispatch", source().dispatch(4, |_, item| later(item)).run()),
        6 => {
            let at_once = |_, item| {
                let item = check(item);
                async move { item }
            };
            ("dispatch", source().dispatch(4, at_once).run())
        }
        7 => ("dispatch_ordered", source().dispatch_ordered(4, |_, item| later(item)).run()),
        8 => {
            let tried = |_, item| async move { Ok::<_, String>(later(item).await) };
            ("try_dispatch", source().try_dispatch(4, tried).run())
        }
        9 => {
            let own = |_, mut input: Receiver<Item>, output: Sender<Item>| async move {
                while let Some(item) = input.recv().await {
                    let _ = output.send(check(item)).await;
                }
            };
            ("own", source().stage("own", own).run())
        }
        10 => ("called so", source().merge(source().map(check).named("called so")).run()),
        11 => {
            let at_once = |_, _, _| -> std::future::Ready<()> { panic!("number 10") };
            ("early", source().stage("early", at_once).run())
        }
        _ => return None,
    })
}

async fn panics_are_reported() {
    let mut which = 0;
    let (ctx, _canceller) = background().with_cancel();
    let stock = Stock::new();
    while let Some((name, mut results)) = panicking(which, &ctx, &stock) {
        // Other workers go on while the panic is being printed; then all is over.
        while results.next().await.is_some() {}
        let report = results.finish().await;
        assert!(report.conserved(), "{report}");
        let Outcome::Panicked { stage, message } = report.outcome() else { panic!("{report}") };
        assert_eq!((&**stage, &**message), (name, "number 10"));
        let failed: usize = report.stages().iter().map(|stage| stage.failed()).sum();
        assert_eq!(failed, usize::from((3..9).contains(&which) || which == 10), "{report}");
        assert!(report.stages().iter().any(|s| s.ended() == Some(StageEnd::Panicked)), "{report}");
        quiet().await;
        let error = report.into_result().unwrap_err();
        let panicked = error.cause().downcast_ref::<TaskPanicked>().expect("it is one");
        assert_eq!((panicked.task(), panicked.message()), (name, "number 10"));
        which += 1;
    }
    // The thread of the blocking source drops what it holds in its own time.
    while stock.left() > 0 {
        rt::yield_now().await;
    }
    assert!(!ctx.is_done());
    assert!(ctx.tree().is_empty(), "{}", ctx.tree());
}

#[tokio::test]
async fn a_panic_in_any_closure_ends_the_pipeline_and_is_reported_with_its_stages_name() {
    panics_are_reported().await;
}

#[tokio::test]
async fn a_panic_that_a_report_gives_as_an_error_names_its_stage_and_the_line_of_that() {
    let pipeline = Pipeline::from_iter(&background(), 0..9_u64);
    let mut results = pipeline.map(|n| 9 / (3 - n)).named("divides").run();
    let line = line!() - 1;
    while results.next().await.is_some() {}
    let failed = finish(results).await.into_result().unwrap_err();
    let panicked = failed.cause().downcast_ref::<TaskPanicked>().unwrap();
    assert_eq!(panicked.task(), "divides");
    let origin = failed.cause().origin().expect("a stage");
    assert_eq!((origin.file(), origin.line()), (file!(), line));
}

#[test]
fn a_panic_in_any_closure_kills_no_thread_of_the_runtime() {
    in_time(|| {
        let runtime = threads(2);
        for _ in 0..5 {
            runtime.block_on(panics_are_reported());
        }
        // Both threads are still there: two tasks that block can meet.
        let meet = Arc::new(Barrier::new(2));
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let meet = meet.clone();
                runtime.spawn(async move { meet.wait().is_leader() })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
    });
}

#[tokio::test]
async fn a_panic_whose_payload_panics_when_it_is_dropped_ends_the_pipeline_all_the_same() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("and again");
            }
        }
    }
    let mut results = Pipeline::from_iter(&background(), 0..100_u64)
        .map(|n| if n == 3 { std::panic::panic_any(Payload) } else { n })
        .run();
    assert!(rt::timeout(AGES, read(&mut results)).await.is_ok());
    let report = finish(results).await;
    assert!(matches!(report.outcome(), Outcome::Panicked { .. }), "{report}");
}

/// Panics when it is dropped, if it is armed and its thread is not already panicking.
struct Bomb(Item, bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.1 && !std::thread::panicking() {
            panic!("bomb {}", self.0.n);
        }
    }
}

#[tokio::test]
async fn an_item_whose_drop_panics_in_a_closure_is_a_panic_of_that_stage() {
    let stock = Stock::new();
    let mut results = Pipeline::from_iter(&background(), stock.items(100))
        .map(|item| Bomb(item, true))
        .filter_map(|mut bomb| {
            bomb.1 = bomb.0.n == 5;
            (bomb.0.n != 5).then_some(bomb)
        })
        .map(|mut bomb| {
            bomb.1 = false;
            bomb
        })
        .run();
    // Between the first two stages all are armed, so only as many are made as go through.
    let mut count = 0;
    while let Some(bomb) = results.next().await {
        assert!(!bomb.1);
        count += 1;
    }
    assert!(count <= 5);
    let report = rt::timeout(AGES, results.finish()).await.expect("it hangs");
    assert!(matches!(report.outcome(), Outcome::Panicked { stage, .. } if stage == "filter_map"));
    quiet().await;
}

#[tokio::test]
async fn an_item_whose_drop_panics_when_it_is_discarded_keeps_nothing_else_from_ending() {
    // One bomb, in each place where it can lie when the end comes: in the first
    // link, in a stage's hand, in the last link.
    for at in [0_u64, 1, 2, 10, 60, 100, 150, 199] {
        let (ctx, canceller) = background().with_cancel();
        let (stock, held) = (Stock::new(), Running::new());
        let here = held.enter();
        let mut results = Pipeline::from_iter(&ctx, stock.items(200))
            .map(move |item| Bomb(item, false))
            .map(move |bomb| {
                let armed = bomb.0.n == at;
                let mut bomb = bomb;
                bomb.1 = armed;
                bomb
            })
            .stage("relay", relay)
            .stage("holds", move |_, mut input: Receiver<Bomb>, output| async move {
                let _here = here;
                while let Some(bomb) = input.recv().await {
                    output.send(bomb).await.unwrap();
                }
            })
            .run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        canceller.cancel();
        assert!(rt::timeout(AGES, results.finish()).await.is_ok(), "bomb {at}: finish() hangs");
        quiet().await;
        assert_eq!((stock.left(), held.now()), (0, 0), "bomb {at}");
    }
}

/// Takes one item, lets go of its input, and then waits for the end of the pipeline.
async fn takes_one(ctx: Context, mut input: Receiver<Item>, output: Sender<Item>) {
    let first = input.recv().await.expect("there is one");
    output.send(first).await.expect("it is read");
    drop(input);
    ctx.done().await;
}

#[tokio::test(start_paused = true)]
async fn workers_stop_with_their_source_when_the_next_stage_takes_no_more() {
    for workers in [1, 2, 4] {
        for ordered in [false, true] {
            let (stock, begun) = (Stock::new(), Arc::new(AtomicUsize::new(0)));
            let count = begun.clone();
            let work = move |_, item| {
                count.fetch_add(1, SeqCst);
                async move {
                    rt::sleep(ms(1)).await;
                    item
                }
            };
            let source = Pipeline::from_iter(&background(), stock.items(u64::MAX)).buffer(4);
            let pipeline = if ordered {
                source.dispatch_ordered(workers, work)
            } else {
                source.dispatch(workers, work)
            };
            let mut results = pipeline.buffer(4).stage("takes one", takes_one).run();
            assert!(results.next().await.is_some());
            rt::sleep(ms(1000)).await;
            // In a second each worker could have begun a thousand.
            let begun = begun.load(SeqCst);
            assert!(begun <= 1 + 4 + 2 * workers, "{workers}, {ordered}: {begun} have been begun");
            assert_eq!(tasks(), 1, "{workers}, {ordered}: only the stage that waits is left");
            let report = finish(results).await;
            for stage in &report.stages()[..2] {
                assert_eq!(stage.ended(), Some(StageEnd::ReaderGone), "{report}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn workers_faster_than_their_source_stop_too_when_the_next_stage_takes_no_more() {
    let (stock, begun) = (Stock::new(), Arc::new(AtomicUsize::new(0)));
    let (items, count) = (stock.clone(), begun.clone());
    let source = stream::unfold(0, move |n| {
        let item = items.item(n);
        async move {
            rt::sleep(ms(1)).await;
            Some((item, n + 1))
        }
    });
    let mut results = Pipeline::from_stream(&background(), source)
        .dispatch(4, move |_, item| {
            count.fetch_add(1, SeqCst);
            async move {
                rt::sleep(ms(2)).await;
                item
            }
        })
        .stage("takes one", takes_one)
        .run();
    assert!(results.next().await.is_some());
    rt::sleep(ms(1000)).await;
    // Whenever a worker finds that its output is closed, an idle one takes its place.
    let begun = begun.load(SeqCst);
    assert!(begun < 20, "{begun} items have been begun, and nobody will read them");
    assert_eq!(tasks(), 1, "only the stage that waits is left");
    let _ = finish(results).await;
}

#[tokio::test]
async fn what_a_stage_has_fetched_and_holds_on_to_is_accounted_for() {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let mut results = Pipeline::from_iter(&background(), 0..10_u64)
        .stage("keeps its input", move |_, mut input: Receiver<u64>, output| async move {
            let first = input.recv().await.expect("there are ten");
            output.send(first).await.expect("it is read");
            *keep.lock().unwrap() = Some(input);
        })
        .run();
    assert_eq!(results.next().await, Some(0));
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    assert_eq!(report.stages()[0].discarded(), 9, "{report}");
    drop(kept);
}

#[tokio::test]
async fn an_error_that_panics_on_its_way_counts_as_a_failed_item() {
    struct Explodes;
    impl From<Explodes> for quell::BoxError {
        fn from(_: Explodes) -> Self {
            panic!("an error within an error");
        }
    }
    let mut results = Pipeline::from_iter(&background(), 0..10_u64)
        .try_dispatch(1, |_, n| async move { if n == 3 { Err(Explodes) } else { Ok(n) } })
        .run();
    while results.next().await.is_some() {}
    let report = finish(results).await;
    assert_eq!(report.stages()[1].failed(), 1, "{report}");
}

// ------------------------------------------------------------ from other threads

#[test]
fn a_drain_delivers_what_a_blocking_source_has_made_and_waits_for_no_more() {
    in_time(|| {
        let runtime = threads(2);
        for _ in 0..50 {
            let (ctx, canceller) = background().with_cancel();
            let ((asks, asked), (tell, told)) = (mpsc::channel(), mpsc::channel::<()>());
            let items = (0..6_u64).inspect(move |&n| {
                asks.send(n).unwrap();
                if n == 4 {
                    let _ = told.recv();
                }
            });
            let mut results = Pipeline::from_blocking_iter(&ctx, items)
                .buffer(1)
                .on_cancel(OnCancel::Drain { grace: AGES })
                .run();
            runtime.block_on(async {
                assert_eq!(results.next().await, Some(0));
                // One is behind the stage, one in its hand, and one comes from the thread, which
                // has been asked for another.
                while asked.recv().unwrap() < 4 {}
                canceller.cancel();
                assert_eq!(read(&mut results).await, [1, 2, 3]);
                let report = finish(results).await;
                assert_eq!(report.stages()[0].ended(), Some(StageEnd::Stopped));
            });
            drop(tell);
        }
    });
}

#[test]
fn a_drain_of_a_blocking_source_delivers_whatever_had_been_made() {
    in_time(|| {
        for runtime in [threads(2), one_thread()] {
            for round in 0..300 {
                let (stock, (ctx, canceller)) = (Stock::new(), background().with_cancel());
                let mut results = Pipeline::from_blocking_iter(&ctx, stock.items(u64::MAX))
                    .buffer(round % 3 + 1)
                    .on_cancel(OnCancel::Drain { grace: AGES })
                    .run();
                runtime.block_on(async {
                    for _ in 0..round % 40 {
                        assert!(results.next().await.is_some());
                    }
                    let _ = results.next().now_or_never();
                    let made = stock.made();
                    canceller.cancel();
                    while results.next().await.is_some() {}
                    let report = finish(results).await;
                    // The last of them may still have been in the making.
                    let delivered = report.read() + usize::from(report.read() + 1 == made);
                    assert!(delivered >= made, "{made} had been made: {report}");
                });
            }
        }
    });
}

#[test]
fn a_context_that_another_thread_ends_while_the_reader_finishes_loses_no_item() {
    in_time(|| {
        for (runtime, rounds) in [(threads(2), 400), (one_thread(), 400)] {
            for round in 0..rounds {
                let (ctx, canceller) = background().with_cancel();
                let stock = Stock::new();
                let mut results = every_stage(&ctx, stock.items(u64::MAX)).run();
                let thread = runtime.block_on(async {
                    for _ in 0..round % 100 {
                        assert!(results.next().await.is_some());
                    }
                    if round % 100 == 0 {
                        let _ = results.next().now_or_never();
                    }
                    let thread = std::thread::spawn(move || {
                        for _ in 0..round * 10 {
                            std::hint::spin_loop();
                        }
                        canceller.cancel_with("from outside");
                    });
                    for _ in 0..round % 7 {
                        let _ = results.next().await;
                    }
                    let report = finish(results).await;
                    assert!(
                        ["cancelled: from outside", "the reader stopped"]
                            .contains(&&*outcome(&report)),
                        "{report}"
                    );
                    thread
                });
                thread.join().unwrap();
                assert_eq!(stock.left(), 0);
            }
        }
    });
}

#[test]
fn when_finish_returns_every_item_has_been_dropped_whoever_drops_it() {
    /// Yields its thread while it is dropped.
    struct Slow(#[allow(dead_code)] Item);
    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::yield_now();
        }
    }
    in_time(|| {
        let runtime = threads(2);
        for round in 0..20 {
            let (ctx, canceller) = background().with_cancel();
            let stock = Stock::new();
            let mut results = Pipeline::from_iter(&ctx, stock.items(u64::MAX))
                .buffer(8)
                .map(Slow)
                .buffer(8)
                .stage("relay", relay)
                .buffer(8)
                .run();
            let thread = runtime.block_on(async {
                assert!(results.next().await.is_some());
                let thread = std::thread::spawn(move || canceller.cancel());
                if round % 2 == 0 {
                    while results.next().await.is_some() {}
                }
                let report = results.finish().await;
                assert_eq!(stock.left(), 0, "{report}");
                assert!(report.conserved(), "{report}");
                thread
            });
            thread.join().unwrap();
        }
    });
}

/// Blocks the thread that ends a context: of all items that share it, the first to be dropped
/// tells whose it is, and blocks until the gate has been opened.
struct Gate {
    tell: mpsc::Sender<usize>,
    opens: Mutex<Option<mpsc::Receiver<()>>>,
}

struct Kept(Arc<Gate>, usize);

impl Drop for Kept {
    fn drop(&mut self) {
        let opens = self.0.opens.lock().unwrap().take();
        if let Some(opens) = opens {
            self.0.tell.send(self.1).unwrap();
            let _ = opens.recv();
        }
    }
}

impl Gate {
    /// The gate; the index of the pipeline whose item is at it; and what opens it when dropped.
    fn new() -> (Arc<Self>, mpsc::Receiver<usize>, mpsc::Sender<()>) {
        let ((tell, told), (open, opens)) = (mpsc::channel(), mpsc::channel());
        (Arc::new(Gate { tell, opens: Mutex::new(Some(opens)) }), told, open)
    }

    /// A pipeline whose only item lies behind its source, which waits for another.
    async fn pipeline(self: &Arc<Self>, ctx: &Context, whose: usize) -> Results<Kept> {
        let items = stream::iter([Kept(self.clone(), whose)]).chain(stream::pending());
        let mut results = Pipeline::from_stream(ctx, items).run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        results
    }
}

#[test]
fn a_pipeline_is_not_over_while_another_thread_that_ends_it_drops_its_items() {
    in_time(|| {
        one_thread().block_on(async {
            let (ctx, canceller) = background().with_cancel();
            let (gate, told, open) = Gate::new();
            let results = gate.pipeline(&ctx, 0).await;
            let ends = std::thread::spawn(move || canceller.cancel());
            assert_eq!(told.recv(), Ok(0));
            settle().await;
            assert_eq!(tasks(), 0);
            let mut finishing = Box::pin(results.finish());
            assert!((&mut finishing).now_or_never().is_none());
            drop(open);
            assert!(finishing.await.conserved());
            assert_eq!(Arc::strong_count(&gate), 1);
            ends.join().unwrap();
        });
    });
}

#[test]
fn no_pipeline_waits_to_be_stopped_for_the_drops_of_anothers_items() {
    in_time(|| {
        one_thread().block_on(async {
            let (ctx, canceller) = background().with_cancel();
            let (gate, told, open) = Gate::new();
            // Whichever of them ends first.
            let mut all = Vec::new();
            for whose in 0..3 {
                all.push(gate.pipeline(&ctx, whose).await);
            }
            let ends = std::thread::spawn(move || canceller.cancel());
            let first = told.recv().unwrap();
            for (whose, results) in all.iter_mut().enumerate() {
                assert!(results.next().await.is_none(), "{whose}, while one of {first} is at it");
            }
            quiet().await;
            drop(open);
            for results in all {
                assert!(results.finish().await.conserved());
            }
            assert_eq!(Arc::strong_count(&gate), 1);
            ends.join().unwrap();
        });
    });
}

#[test]
fn a_reader_that_finishes_does_not_wait_for_what_ends_with_its_pipeline() {
    in_time(|| {
        one_thread().block_on(async {
            let (ctx, canceller) = background().with_cancel();
            let (gate, told, open) = Gate::new();
            let mut all = [gate.pipeline(&ctx, 0).await, gate.pipeline(&ctx, 1).await].map(Some);
            let ends = std::thread::spawn(move || canceller.cancel_with("both"));
            let first = told.recv().unwrap();
            // The function at the other's end has not had its turn.
            let other = all[1 - first].take().unwrap();
            assert_eq!(outcome(&finish(other).await), "cancelled: both");
            drop(open);
            assert_eq!(outcome(&finish(all[first].take().unwrap()).await), "cancelled: both");
            ends.join().unwrap();
        });
    });
}

#[test]
fn a_drain_that_begins_while_its_reader_goes_keeps_nothing_for_its_grace() {
    in_time(|| {
        one_thread().block_on(async {
            for round in 0..500 {
                let held = Running::new();
                let (ctx, canceller) = background().with_value(held.enter()).with_cancel();
                let mut results = Pipeline::from_iter(&ctx, 0_u64..)
                    .on_cancel(OnCancel::Drain { grace: AGES })
                    .run();
                assert_eq!(results.next().await, Some(0));
                let both = Arc::new(Barrier::new(2));
                let begin = both.clone();
                let cancels = std::thread::spawn(move || {
                    begin.wait();
                    canceller.cancel();
                });
                both.wait();
                for _ in 0..round % 50 * 10 {
                    std::hint::spin_loop();
                }
                drop(results);
                cancels.join().unwrap();
                settle().await;
                drop(ctx);
                assert_eq!(held.now(), 0, "round {round}");
            }
        });
    });
}

#[test]
fn items_may_do_what_they_like_when_they_are_dropped_even_finish_their_own_pipeline() {
    type Place = Arc<Mutex<Option<Results<Nosy>>>>;
    struct Nosy(Place, Context);
    impl Drop for Nosy {
        fn drop(&mut self) {
            let results = self.0.lock().unwrap().take();
            if let Some(results) = results {
                let _ = results.finish().now_or_never();
            }
            let _ = (self.1.is_done(), self.1.tree().len());
        }
    }
    in_time(|| {
        one_thread().block_on(async {
            let (ctx, canceller) = background().with_cancel();
            let place = Place::default();
            let (items, at) = (place.clone(), ctx.clone());
            let mut results =
                Pipeline::from_iter(&ctx, (0..3).map(move |_| Nosy(items.clone(), at.clone())))
                    .run();
            assert!(results.next().now_or_never().is_none());
            settle().await;
            assert_eq!(tasks(), 0, "all three wait for their reader");
            *place.lock().unwrap() = Some(results);
            canceller.cancel();
            assert!(place.lock().unwrap().is_none());
        });
    });
}

#[test]
fn the_last_items_come_though_one_worker_went_alone_for_all_before() {
    in_time(|| {
        one_thread().block_on(async {
            for buffer in [65, 100, 200] {
                let mut results = Pipeline::from_iter(&background(), 0..20_000_u64)
                    .stage("relay", relay)
                    .buffer(buffer)
                    .dispatch(8, |_, n| async move { n })
                    .run();
                assert_eq!(read(&mut results).await.len(), 20_000);
            }
        });
    });
}

// --------------------------------------------------------------------- runtimes

#[test]
fn a_runtime_that_is_dropped_ends_its_pipelines_and_the_reader_is_told() {
    in_time(|| {
        for workers in [0, 2] {
            let runtime = if workers == 0 { one_thread() } else { threads(workers) };
            let (ctx, _canceller) = background().with_cancel();
            let stock = Stock::new();
            let mut results = every_stage(&ctx, stock.items(u64::MAX)).run();
            assert!(runtime.block_on(results.next()).is_some());
            drop(runtime);
            while block_on(results.next()).is_some() {}
            let report = block_on(results.finish());
            assert!(report.conserved(), "{report}");
            assert_eq!(stock.left(), 0);
            assert!(
                !matches!(report.outcome(), Outcome::Completed),
                "an endless source has not completed: {report}"
            );
            assert!(ctx.tree().is_empty(), "{}", ctx.tree());
        }
    });
}

#[test]
fn a_reader_that_waits_elsewhere_is_told_when_the_runtime_is_dropped() {
    in_time(|| {
        let runtime = threads(1);
        let mut results =
            Pipeline::from_stream(&background(), stream::pending::<u8>()).map(|n| n).run();
        assert!(runtime.block_on(async { results.next().now_or_never() }).is_none());
        let (tell, told) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            tell.send(()).unwrap();
            assert!(block_on(results.next()).is_none());
            block_on(results.finish())
        });
        told.recv().unwrap();
        drop(runtime);
        let report = reader.join().unwrap();
        assert!(!matches!(report.outcome(), Outcome::Completed), "{report}");
    });
}

#[test]
fn a_runtime_may_be_dropped_from_under_a_pipeline_that_is_being_finished() {
    in_time(|| {
        let runtime = one_thread();
        let (held, mut results) = (Running::new(), None);
        runtime.block_on(async {
            let here = held.enter();
            let pipeline = Pipeline::from_iter(&background(), 0..10_u64).stage(
                "holds",
                |_, input: Receiver<u64>, _output: Sender<u64>| async move {
                    let _held = (here, input);
                    pending::<()>().await;
                },
            );
            let mut run = pipeline.run();
            assert!(run.next().now_or_never().is_none());
            settle().await;
            results = Some(run);
        });
        let finishing = results.unwrap().finish();
        drop(runtime);
        let report = block_on(finishing);
        assert!(report.conserved(), "{report}");
        assert_eq!(held.now(), 0);
    });
}

#[test]
fn a_pipeline_in_a_closure_of_another_ends_with_it() {
    in_time(|| {
        for runtime in [one_thread(), threads(2)] {
            runtime.block_on(async {
                let (ctx, canceller) = background().with_cancel();
                let stock = Stock::new();
                let inner = stock.clone();
                let mut results = Pipeline::from_iter(&ctx, 0..)
                    .dispatch(4, move |ctx, n: u64| {
                        let items = inner.items(u64::MAX);
                        async move {
                            let mut below = Pipeline::from_iter(&ctx, items)
                                .dispatch(2, |ctx, item| async move {
                                    let _clone = ctx.clone();
                                    item
                                })
                                .run();
                            for _ in 0..n {
                                below.next().await;
                            }
                            below.finish().await.read() as u64
                        }
                    })
                    .run();
                for _ in 0..20 {
                    assert!(results.next().await.is_some());
                }
                canceller.cancel();
                let _ = finish(results).await;
                assert_eq!(stock.left(), 0);
                assert!(ctx.tree().is_empty(), "{}", ctx.tree());
            });
        }
    });
}

#[tokio::test]
async fn nothing_of_a_pipeline_stays_in_its_parent() {
    let (ctx, _canceller) = background().with_cancel();
    for round in 0..100 {
        let grace = ms(1000);
        let end = if round % 2 == 0 { OnCancel::Abort } else { OnCancel::Drain { grace } };
        let mut results = every_stage(&ctx, Stock::new().items(round)).on_cancel(end).run();
        for _ in 0..round / 2 {
            results.next().await;
        }
        match round % 3 {
            0 => drop(results),
            1 => drop(finish(results).await),
            _ => {
                read(&mut results).await;
                drop(results);
            }
        }
    }
    quiet().await;
    assert!(ctx.tree().is_empty(), "{}", ctx.tree());
}

#[tokio::test]
async fn an_engine_without_a_reader_keeps_nothing_alive() {
    let kept = Arc::new(AtomicUsize::new(0));
    for taken in [0, 5, 20] {
        let inside = kept.clone();
        let mut results = Pipeline::from_iter(&background(), 0..10)
            .dispatch(3, move |_, n: usize| {
                let inside = inside.clone();
                async move {
                    inside.fetch_add(1, SeqCst);
                    n
                }
            })
            .run();
        for _ in 0..taken {
            results.next().await;
        }
        drop(results);
        quiet().await;
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}

#[test]
fn a_report_is_conserved_though_a_stage_gave_its_ends_to_a_task_of_its_own() {
    in_time(|| {
        let runtime = threads(2);
        for round in 0..500 {
            let stock = Stock::new();
            let source = Pipeline::from_iter(&background(), stock.items(u64::MAX));
            let stage = |ctx: Context, input: Receiver<Item>, output: Sender<Item>| async move {
                drop(rt::spawn(relay(background(), input, output)));
                ctx.done().await;
            };
            let mut results = source.stage("gives away", stage).run();
            runtime.block_on(async {
                for _ in 0..10 + round {
                    assert!(results.next().await.is_some());
                }
                let report = results.finish().await;
                assert!(report.conserved(), "round {round}: {report}");
                quiet().await;
            });
            assert_eq!(stock.left(), 0);
        }
    });
}

#[test]
fn an_item_whose_drop_panics_costs_nobody_the_report() {
    struct Nasty(u64);
    impl Drop for Nasty {
        fn drop(&mut self) {
            assert_ne!(self.0, 5, "nasty");
        }
    }
    let runtime = paused();
    runtime.block_on(async {
        let mut results = Pipeline::from_iter(&background(), (0..10).map(Nasty)).run();
        assert!(results.next().await.is_some());
        // What the reader has fetched is dropped with it.
        let report = results.finish().await;
        assert!(matches!(report.outcome(), Outcome::ReaderStopped), "{report}");
        assert_eq!(report.read(), 1);
    });
}

#[test]
fn a_failure_is_told_though_that_which_ended_all_was_in_a_stage_of_the_same_name() {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            panic!("the guard");
        }
    }
    paused().block_on(async {
        let mut results = Pipeline::from_iter(&background(), 0..2)
            .dispatch(2, |_, n| async move {
                if n == 1 {
                    let _guard = Guard;
                    pending::<()>().await;
                }
                n
            })
            .dispatch(1, |_, n| async move {
                rt::sleep(ms(5)).await;
                assert_ne!(n, 0, "the second");
                n
            })
            .run();
        assert!(results.next().await.is_none());
        let report = finish(results).await.to_string();
        assert!(report.contains("the guard"), "{report}");
        assert_eq!(report.matches("the second").count(), 1, "{report}");
    });
}

/// Panics whenever it is dropped.
struct Nasty(#[allow(dead_code)] Item);

impl Drop for Nasty {
    fn drop(&mut self) {
        panic!("nasty {}", self.0.n);
    }
}

#[test]
fn items_whose_drops_panic_are_dropped_all_the_same_wherever_they_lie() {
    for cancelled in [true, false] {
        let (ctx, canceller) = background().with_cancel();
        let stock = Stock::new();
        paused().block_on(async {
            let taken = AtomicUsize::new(0);
            let mut results = Pipeline::from_iter(&ctx, stock.items(10))
                .map(Nasty)
                .stage("relay", relay)
                // It takes one, lets it through, and waits with the next: eight are fetched.
                .dispatch(1, move |_, item| {
                    let waits = taken.fetch_add(1, SeqCst) > 0;
                    async move {
                        if waits {
                            std::future::pending::<()>().await;
                        }
                        item
                    }
                })
                .run();
            std::mem::forget(results.next().await);
            settle().await;
            if cancelled {
                canceller.cancel();
                for _ in 0..3 {
                    assert!(results.next().await.is_none());
                }
            }
            let report = finish(results).await;
            assert_eq!(report.read(), 1);
            assert_eq!(stock.left(), 1, "what was read: {report}");
        });
    }
}

#[test]
fn items_whose_drops_panic_are_dropped_one_by_one_where_they_have_been_put_together() {
    for (place, max, buffer) in [("in hand", 10, 64), ("behind", 2, 64), ("on the way", 2, 1)] {
        let (ctx, canceller) = background().with_cancel();
        let stock = Stock::new();
        paused().block_on(async {
            let items = stream::iter(stock.items(9)).map(Nasty).chain(stream::pending());
            let chunks = Pipeline::from_stream(&ctx, items).chunks(max, AGES).buffer(buffer);
            let mut results = chunks.map(std::mem::forget).buffer(1).run();
            assert!(results.next().now_or_never().is_none());
            settle().await;
            canceller.cancel();
            let report = rt::timeout(AGES, results.finish()).await.expect("it hangs");
            assert!(report.conserved(), "{place}: {report}");
            let taken = report.stages()[2].received() * 2;
            assert_eq!((stock.made(), stock.left()), (9, taken), "{place}: {report}");
        });
    }
}

#[tokio::test]
async fn a_closure_whose_drop_panics_when_it_is_never_run_costs_nobody_the_report() {
    struct Unrun(Running);
    impl Iterator for Unrun {
        type Item = u64;
        fn next(&mut self) -> Option<u64> {
            unreachable!("the context has ended")
        }
    }
    impl Drop for Unrun {
        fn drop(&mut self) {
            let _here = self.0.enter();
            panic!("unrun");
        }
    }
    for polled in [true, false] {
        let (ctx, canceller) = background().with_cancel();
        canceller.cancel();
        let dropped = Running::new();
        let mut results = Pipeline::from_iter(&ctx, Unrun(dropped.clone())).run();
        if polled {
            // The reader drops it.
            let first = std::panic::AssertUnwindSafe(results.next()).catch_unwind().await;
            assert!(first.is_err());
            assert_eq!(results.next().await, None);
        }
        let report = finish(results).await;
        assert!(matches!(report.outcome(), Outcome::Cancelled(_)), "{report}");
        assert_eq!(dropped.most(), 1);
    }
}

#[tokio::test]
async fn a_waker_that_panics_is_its_readers_affair() {
    for stage in ["from_iter", "map", "dispatch", "dispatch_ordered", "throttle", "merge", "stage"]
    {
        let ctx = background();
        let items = Pipeline::from_iter(&ctx, 0..10_u64);
        let mut results = match stage {
            "from_iter" => items.run(),
            "map" => items.map(|n| n).run(),
            "dispatch" => items.dispatch(2, |_, n| async move { n }).run(),
            "dispatch_ordered" => items.dispatch_ordered(2, |_, n| async move { n }).run(),
            "throttle" => items.throttle(Rate::per_second(1_000_000)).run(),
            "merge" => items.merge(Pipeline::from_iter(&ctx, 10..12)).run(),
            _ => items.stage("relay", relay).run(),
        };
        let waker = bad_waker();
        let polled = results.next().poll_unpin(&mut std::task::Context::from_waker(&waker));
        assert!(polled.is_pending());
        settle().await;
        assert!(results.next().await.is_some(), "{stage}");
        let report = results.finish().await;
        assert!(report.conserved(), "{stage}: {report}");
        assert_eq!(outcome(&report), "the reader stopped", "{stage}: {report}");
    }
}

#[tokio::test]
async fn an_iterator_that_panics_when_it_is_dropped_is_reported_on_whatever_thread_it_was() {
    struct Three(u64);
    impl Iterator for Three {
        type Item = u64;
        fn next(&mut self) -> Option<u64> {
            self.0 += 1;
            (self.0 <= 3).then_some(self.0)
        }
    }
    impl Drop for Three {
        fn drop(&mut self) {
            panic!("let go of");
        }
    }
    for blocking in [false, true] {
        let mut results = if blocking {
            Pipeline::from_blocking_iter(&background(), Three(0)).run()
        } else {
            Pipeline::from_iter(&background(), Three(0)).run()
        };
        while results.next().await.is_some() {}
        let report = finish(results).await;
        assert!(matches!(report.outcome(), Outcome::Panicked { .. }), "{blocking}: {report}");
    }
}

#[test]
fn what_fails_while_the_pipeline_drains_is_in_the_report() {
    let runtime = paused();
    runtime.block_on(async {
        let (ctx, canceller) = background().with_cancel();
        let mut results = Pipeline::from_iter(&ctx, 0..10)
            .try_dispatch(2, |_, n| async move {
                rt::sleep(ms(10)).await;
                if n == 3 { Err("disk full") } else { Ok(n) }
            })
            .on_cancel(OnCancel::Drain { grace: ms(1_000) })
            .run();
        results.next().await;
        canceller.cancel_with("ctrl-c");
        while results.next().await.is_some() {}
        let report = results.finish().await;
        assert!(matches!(report.outcome(), Outcome::Cancelled(_)), "{report}");
        let failure = report.stages()[1].failure().expect("it failed");
        assert_eq!(failure.to_string(), "disk full");
        assert!(report.to_string().contains("failed: disk full"), "{report}");
    });
}

/// A stage that lets everything through, and then keeps its sender alive in `kept`.
async fn keeps_its_end(
    mut input: Receiver<Item>,
    output: Sender<Item>,
    kept: Arc<Mutex<Option<Sender<Item>>>>,
) {
    while let Some(item) = input.recv().await {
        let _nobody_takes_more = output.send(item).await;
    }
    *kept.lock().unwrap() = Some(output);
}

#[tokio::test]
async fn what_workers_had_fetched_is_dropped_at_the_end_though_a_sender_is_there_still() {
    for ends_by in ["a cancel", "its reader"] {
        let (ctx, canceller) = background().with_cancel();
        let (stock, kept) = (Stock::new(), Arc::new(Mutex::new(None)));
        let keeps = kept.clone();
        let mut results = Pipeline::from_iter(&ctx, stock.items(10))
            .buffer(10)
            .stage("own", move |_, input, output| keeps_its_end(input, output, keeps))
            .buffer(10)
            // It has one of the ten in its hand.
            .dispatch(1, |_, item| async move {
                let _item = item;
                std::future::pending::<()>().await;
            })
            .run();
        assert!(results.next().now_or_never().is_none());
        settle().await;
        assert!(kept.lock().unwrap().is_some());
        if ends_by == "a cancel" {
            canceller.cancel();
        }
        let report = finish(results).await;
        assert_eq!((stock.made(), stock.left()), (10, 0), "{ends_by}: {report}");
    }
}

#[tokio::test]
async fn what_workers_had_fetched_is_dropped_when_their_reader_goes_though_the_pipeline_goes_on() {
    let (stock, kept) = (Stock::new(), Arc::new(Mutex::new(None)));
    let keeps = kept.clone();
    let mut results = Pipeline::from_iter(&background(), stock.items(10))
        .buffer(10)
        .stage("own", move |_, input, output| keeps_its_end(input, output, keeps))
        .buffer(10)
        .dispatch(1, |_, item| async move { item })
        .buffer(1)
        .stage("stops", |_, mut input, output| async move {
            let first = input.recv().await.unwrap();
            // Until the worker has no room, and ten are fetched.
            settle().await;
            drop((first, input));
            output.send(()).await.unwrap();
            std::future::pending::<()>().await;
        })
        .run();
    assert_eq!(results.next().await, Some(()));
    settle().await;
    assert!(kept.lock().unwrap().is_some());
    assert_eq!((stock.made(), stock.left()), (10, 0));
    let report = finish(results).await;
    assert_eq!(report.stages()[2].ended(), Some(StageEnd::ReaderGone), "{report}");
}

#[tokio::test]
async fn what_fails_in_the_very_turn_in_which_all_ends_has_failed_all_the_same() {
    let (ctx, canceller) = background().with_cancel();
    let fails = |_ctx, _input: Receiver<u64>, _output: Sender<u64>| async move {
        canceller.cancel();
        Err::<(), _>("disk full")
    };
    let mut results = Pipeline::from_iter(&ctx, 0_u64..).stage("writes", fails).run();
    assert_eq!(results.next().await, None);
    let report = finish(results).await;
    let stage = &report.stages()[1];
    assert_eq!(stage.ended(), Some(StageEnd::Failed), "{report}");
    assert_eq!(stage.failure().map(|why| why.to_string()).as_deref(), Some("disk full"));
}

#[tokio::test]
async fn a_pipeline_that_was_to_drain_leaves_its_context_when_it_has_ended() {
    let root = background().with_cancel();
    let held = Arc::new(());
    for completes in [true, false] {
        let ctx = root.0.with_value(held.clone());
        let drain = OnCancel::Drain { grace: AGES };
        let mut results = Pipeline::from_iter(&ctx, 0_u64..3).on_cancel(drain).run();
        assert_eq!(results.next().await, Some(0));
        while completes && results.next().await.is_some() {}
        let _ = finish(results).await;
        drop(ctx);
        assert_eq!(Arc::strong_count(&held), 1, "completes: {completes}");
    }
}

#[tokio::test]
async fn a_stage_that_cannot_send_to_another_channel_has_failed_though_the_next_stage_has_gone_too()
{
    let wraps: [fn(SendError<String>) -> quell::BoxError; 2] =
        [Into::into, |error| std::io::Error::other(error).into()];
    for wrap in wraps {
        let (side, gone) = quell::channel::bounded::<String>(1);
        drop(gone);
        let mut results = Pipeline::from_iter(&background(), 0_u64..)
            .stage("two ways", move |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                while let Some(n) = input.recv().await {
                    if output.send(n).await.is_err() {
                        side.send("the reader has gone".to_string()).await.map_err(wrap)?;
                    }
                }
                Ok::<(), quell::BoxError>(())
            })
            .stage("first", |_, mut input: Receiver<u64>, output: Sender<u64>| async move {
                let _ = output.send(input.recv().await.unwrap()).await;
                drop(input);
                rt::sleep(ms(50)).await;
            })
            .run();
        while results.next().await.is_some() {}
        let report = finish(results).await;
        assert_eq!(report.stages()[1].ended(), Some(StageEnd::Failed), "{report}");
    }
}

#[tokio::test]
async fn a_stage_that_returns_the_cause_held_whole_by_another_error_was_aborted() {
    let (ctx, canceller) = background().with_cancel();
    let mut results = Pipeline::from_iter(&ctx, 0_u64..)
        .stage("echo", move |ctx: Context, _in: Receiver<u64>, _out: Sender<u64>| async move {
            canceller.cancel_with("enough");
            let ended = ctx.run(pending::<()>()).await;
            ended.map_err(|why| std::io::Error::other(Whole(why.cause().to_string())))
        })
        .run();
    assert_eq!(results.next().await, None);
    let report = finish(results).await;
    assert_eq!(outcome(&report), "cancelled: enough");
    assert_eq!(report.stages()[1].ended(), Some(StageEnd::Aborted), "{report}");
}

/// Displays as another error without having it as its source, as `anyhow` does.
#[derive(Debug)]
struct Whole(String);

impl std::fmt::Display for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Whole {}
