//! The library's own pipelines, groups and contexts under the checker: clean under every
//! strategy, whatever is injected.
#![cfg(all(not(loom), feature = "check"))]

use quell::check::{self, Checker, Inject};
use quell::{Context, Group, Outcome, Pipeline, Rate, rt};
use std::time::Duration;

const ALL: [Inject; 5] =
    [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::Panic, Inject::None];

/// Checks it under every strategy, each with its own number of schedules.
fn clean<F, Fut>(name: &str, body: F)
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    clean_under(&ALL, name, body);
}

fn clean_under<F, Fut>(injections: &[Inject], name: &str, body: F)
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    for checker in
        [Checker::new().max_schedules(20_000), Checker::random(1, 2_000), Checker::pct(1, 3, 2_000)]
    {
        let report = checker.inject(injections).run(&body);
        println!("{name}: {report}\n  in {:?}", report.took());
        report.assert_clean();
    }
}

#[test]
fn a_pipeline_of_workers() {
    clean("workers", |ctx| async move {
        let mut results = Pipeline::from_iter(&ctx, 0..4)
            .dispatch(2, |ctx, n| async move {
                check::fault("in a worker");
                let _ = ctx.run(rt::sleep(Duration::from_millis(10))).await;
                n * 2
            })
            .run();
        let mut seen = 0;
        while results.next().await.is_some() {
            check::fault("in the reader");
            seen += 1;
        }
        let report = results.finish().await;
        assert!(report.conserved(), "{report}");
        check::sometimes("all", seen == 4);
    });
}

#[test]
fn a_reader_who_stops_early() {
    clean("stops early", |ctx| async move {
        let mut results = Pipeline::from_iter(&ctx, 0..10)
            .throttle(Rate::per_second(10))
            .map(|n| {
                check::fault("in a map");
                n + 1
            })
            .buffer(2)
            .run();
        while let Some(n) = results.next().await {
            if n == 2 {
                break;
            }
        }
        let report = results.finish().await;
        assert!(report.conserved(), "{report}");
        check::sometimes("stopped", matches!(report.outcome(), Outcome::ReaderStopped));
    });
}

#[test]
fn a_pipeline_that_is_dropped() {
    clean("dropped", |ctx| async move {
        let mut results = Pipeline::from_iter(&ctx, 0..10)
            .dispatch(3, |_, n| async move {
                rt::yield_now().await;
                check::fault("in a worker");
                n
            })
            .run();
        let _ = results.next().await;
        let _ = ctx.is_done();
    });
}

#[test]
fn chunks_and_merges_and_order() {
    clean("chunks", |ctx| async move {
        let evens = Pipeline::from_iter(&ctx, (0..4).map(|n| n * 2));
        let mut results = Pipeline::from_iter(&ctx, (0..4).map(|n| n * 2 + 1))
            .merge(evens)
            .dispatch_ordered(2, |_, n| async move {
                check::fault("in a worker");
                rt::yield_now().await;
                n
            })
            .chunks(3, Duration::from_millis(5))
            .run();
        while results.next().await.is_some() {}
        let report = results.finish().await;
        assert!(report.conserved(), "{report}");
    });
}

#[test]
fn a_group_with_a_limit() {
    clean("group", |ctx| async move {
        let group = Group::new(&ctx);
        group.limit(2);
        for n in 0..4_u64 {
            let spawned = group
                .spawn("member", move |ctx| async move {
                    check::fault("in a member");
                    let _ = ctx.run(rt::sleep(Duration::from_millis(n))).await;
                    Ok::<(), std::io::Error>(())
                })
                .await;
            if spawned.is_err() {
                break;
            }
        }
        let _ = group.wait().await;
    });
}

#[test]
fn a_group_that_is_shut_down() {
    // A group that is dropped only cancels; it is shutdown that aborts.
    let injections = [Inject::Cancel, Inject::Deadline, Inject::None];
    clean_under(&injections, "shutdown", |ctx| async move {
        let group = Group::new(&ctx);
        for _ in 0..2 {
            let _ = group.try_spawn("deaf", |_| async {
                rt::sleep(Duration::from_secs(3600)).await;
                Ok::<(), std::io::Error>(())
            });
        }
        let _ = ctx.run(rt::yield_now()).await;
        let report = group.shutdown(Duration::from_millis(50)).await;
        check::sometimes("aborted", !report.aborted().is_empty());
    });
}

#[test]
fn contexts_in_all_their_forms() {
    clean("contexts", |ctx| async move {
        let (server, _server) = Context::background().with_cancel();
        let (timed, _timed) = ctx.with_timeout(Duration::from_millis(20));
        let (linked, canceller) = timed.linked(&[&server]);
        let inner = linked.with_value(7_u8);
        let waits = rt::spawn_named("waits", async move { inner.done().await });
        let other = linked.clone();
        let cancels = rt::spawn_named("cancels", async move {
            check::fault("before the cancel");
            let _ = other.run(rt::sleep(Duration::from_millis(10))).await;
            canceller.cancel_with("enough");
        });
        let error = linked.done().await;
        check::sometimes("cancelled", error == quell::ContextError::Cancelled);
        let _ = waits.await;
        let _ = cancels.await;
        let (reserved, _canceller) = timed.with_reserve(Duration::from_millis(5));
        reserved.done().await;
    });
}

#[test]
fn wherever_a_built_in_stage_waits_it_is_told_by_the_line_that_made_it() {
    use futures::{StreamExt, stream};
    use std::future::pending;

    // Full behind every stage, since nobody reads on: each waits for room.
    let full = Checker::exhaustive().max_delays(0).inject(Inject::None).run(|ctx| async move {
        let items = |n: i32| Pipeline::from_stream(&ctx, stream::iter(n..)).buffer(1);
        let mut results = items(0)
            .merge(Pipeline::from_blocking_iter(&ctx, 0..).buffer(1).merge(items(1)))
            .buffer(1)
            .throttle(Rate::per_second(1_000))
            .map(|n| n + 1)
            .buffer(1)
            .filter_map(Some)
            .buffer(1)
            .dispatch(1, |_ctx, n| async move { n })
            .buffer(1)
            .dispatch_ordered(2, |_ctx, n| async move { n })
            .buffer(1)
            .chunks(2, Duration::from_secs(1))
            .buffer(1)
            .run();
        results.next().await;
        pending::<()>().await;
    });
    // And empty: each waits for items.
    let empty = Checker::exhaustive().max_delays(0).inject(Inject::None).run(|ctx| async move {
        let never =
            |ctx| Pipeline::from_stream(ctx, stream::once(async { 1 }).chain(stream::pending()));
        let mut results = never(&ctx)
            .merge(never(&ctx))
            .throttle(Rate::per_second(1_000))
            .map(|n| n + 1)
            .filter_map(Some)
            .dispatch(1, |_ctx, n| async move { n })
            .dispatch_ordered(2, |_ctx, n| async move { n })
            .chunks(2, Duration::from_secs(1))
            .run();
        while results.next().await.is_some() {}
    });
    for report in [full, empty] {
        let text = report.to_string();
        println!("{text}");
        assert!(!report.is_clean() && text.contains(" at tests/check_pipelines.rs:"));
        assert!(!text.contains(" at src/pipeline/"), "a line of quell's own");
    }
}
