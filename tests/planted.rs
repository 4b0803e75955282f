//! The test of the checker on the library itself: with one line of quell broken, it finds
//! a violation in a pipeline, a group or a context that is clean otherwise.
//!
//! `cargo planted`. The switches exist under `--cfg quell_planted` only. Those that need
//! two threads inside of one poll are for the models: `cargo loom planted`.
#![cfg(all(not(loom), feature = "check", quell_planted))]

use quell::check::{Checker, Inject, Report};
use quell::planted::{Break, plant};
use quell::{Context, Group, Pipeline, Rate, rt};
use std::io;
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);

/// Two senders, who sometimes give up, and a reader who ends because they leave.
async fn channels(ctx: Context) {
    let (items, mut read) = quell::channel::bounded(1);
    let senders = [(ctx.clone(), items.clone()), (ctx.clone(), items)].map(|(ctx, items)| {
        rt::spawn_named("sender", async move {
            for n in 0..3 {
                let patience = if rt::choose(2) == 0 { 100 * MILLI } else { MILLI };
                let sent = rt::timeout(patience, items.send(n));
                if !matches!(ctx.run(sent).await, Ok(Ok(Ok(())) | Err(_))) {
                    return;
                }
            }
        })
    });
    let mut seen = 0;
    while read.recv().await.is_some() {
        seen += 1;
        if seen == 3 {
            rt::sleep(2 * MILLI).await;
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
}

/// Senders who end because their reader leaves.
async fn closed(ctx: Context) {
    let (items, mut read) = quell::channel::bounded(1);
    let senders = [items.clone(), items].map(|items| {
        rt::spawn_named("sender", async move { while items.send(0).await.is_ok() {} })
    });
    let few = async {
        for _ in 0..3 {
            read.recv().await;
            rt::yield_now().await;
        }
    };
    let _ = ctx.run(few).await;
    drop(read);
    for sender in senders {
        sender.await.unwrap();
    }
}

async fn pipelines(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..6_u32)
        .dispatch(2, |_, n| async move {
            match n % 2 {
                0 => rt::yield_now().await,
                _ => rt::sleep(MILLI).await,
            }
            n
        })
        .dispatch_ordered(3, |_, n| async move {
            rt::sleep(MILLI * (n % 3)).await;
            n
        })
        .run();
    let mut seen = 0;
    while results.next().await.is_some() {
        seen += 1;
    }
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
    assert!(ctx.is_done() || seen == 6, "{seen}");
}

async fn stopped(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..)
        .dispatch(2, |_, n: u32| async move {
            rt::sleep(3_600_000 * MILLI).await;
            n
        })
        .run();
    let _ = ctx.run(results.next()).await;
    drop(results);
}

async fn paced(ctx: Context) {
    let began = rt::now();
    let rate = Rate::every(10 * MILLI).burst(2);
    let mut results = Pipeline::from_iter(&ctx, 0..6_u32).throttle(rate).run();
    let mut seen = 0;
    while results.next().await.is_some() {
        seen += 1;
        if seen == 2 {
            rt::sleep(200 * MILLI).await;
        }
    }
    let _ = results.finish().await;
    let took = rt::now() - began;
    assert!(ctx.is_done() || took >= 205 * MILLI, "{took:?}");
}

async fn groups(ctx: Context) {
    let group = Group::new(&ctx);
    group.limit(1);
    let spawners = [(); 3].map(|()| {
        let group = group.clone();
        rt::spawn_named("spawner", async move {
            let spawn = group.spawn("member", |ctx| async move {
                let _ = ctx.run(rt::sleep(MILLI)).await;
                ctx.check().map_err(io::Error::other)
            });
            let patience = if rt::choose(2) == 0 { 10 * MILLI } else { MILLI / 2 };
            let _ = rt::timeout(patience, spawn).await;
        })
    });
    for spawner in spawners {
        spawner.await.unwrap();
    }
    let ended = group.wait().await;
    assert!(ended.is_ok() || ctx.is_done(), "{ended:?}");
}

/// Nobody gives up: whoever waits for room gets it when one ends.
async fn patient_groups(ctx: Context) {
    let group = Group::new(&ctx);
    group.limit(1);
    for _ in 0..3 {
        let member = |ctx: Context| async move {
            let _ = ctx.run(rt::sleep(MILLI)).await;
            Ok::<(), io::Error>(())
        };
        if group.spawn("member", member).await.is_err() {
            break;
        }
    }
    let _ = group.wait().await;
}

/// Whoever waits for room comes back when the context ends, though there is none.
async fn full_groups(ctx: Context) {
    let full = Group::new(&ctx);
    full.limit(1);
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let _ = full.try_spawn("keeps its place", |_| async move {
        let _ = left.await;
        Ok::<(), io::Error>(())
    });
    let spawned = full.spawn("waits", |_| async { Ok::<(), io::Error>(()) }).await;
    assert!(spawned.is_err(), "there is no room");
    drop(leave);
    let _ = full.wait().await;
}

/// The first failure of a group is what its tasks are ended for, and not its echo.
async fn failing_groups(_ctx: Context) {
    let group = Group::new(&Context::background());
    let _ = group.try_spawn("echoes", |ctx| async move {
        ctx.done().await;
        Err(io::Error::other("the echo"))
    });
    let _ = group.try_spawn("fails", |_| async move { Err(io::Error::other("the first")) });
    let failed = group.wait().await.unwrap_err();
    assert!(failed.cause().to_string().contains("the first"), "{}", failed.cause());
}

async fn contexts(ctx: Context) {
    let (child, canceller) = ctx.with_cancel();
    let other = canceller.clone();
    let another = canceller.clone();
    drop((other, another));
    let (tell, told) = tokio::sync::oneshot::channel();
    let func = child.after_func(move || {
        let _ = tell.send(());
    });
    rt::yield_now().await;
    assert!(!child.is_done() || ctx.is_done(), "a clone has ended it");
    if rt::choose(2) == 1 && func.stop() {
        canceller.cancel();
        assert!(told.await.is_err(), "it ran, and stop said that it would not");
        return;
    }
    let (linked, _linked) = Context::background().linked(&[&child]);
    let waits = rt::spawn_named("waits", async move { linked.done().await });
    canceller.cancel_with("enough");
    assert!(child.is_done());
    waits.await.unwrap();
    assert_eq!(told.await, Ok(()));
}

/// A wait that moves from one task to another.
async fn moved(ctx: Context) {
    let mut done = Box::pin(ctx.done());
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(done.as_mut().poll(cx))).await;
    if polled.is_ready() {
        return;
    }
    let second = rt::spawn_named("second", done);
    second.await.unwrap();
}

/// The first violation that any of them shows.
fn found() -> Option<String> {
    let checker = Checker::new()
        .inject([Inject::Cancel, Inject::Drop, Inject::None])
        .max_schedules(20_000)
        .stop_at_first();
    let said = |report: Report| {
        let first = report.violations().first().map(|first| first.to_string());
        first.map(|first| first.lines().take(4).collect::<Vec<_>>().join(" "))
    };
    let ends = checker.clone().inject([Inject::Cancel, Inject::Drop]);
    said(checker.run(channels))
        .or_else(|| said(checker.run(closed)))
        .or_else(|| said(checker.run(pipelines)))
        .or_else(|| said(ends.run(stopped)))
        .or_else(|| said(checker.run(paced)))
        .or_else(|| said(checker.run(groups)))
        .or_else(|| said(checker.run(patient_groups)))
        .or_else(|| said(checker.clone().inject(Inject::Cancel).run(full_groups)))
        .or_else(|| said(checker.clone().inject(Inject::None).run(failing_groups)))
        .or_else(|| said(checker.run(contexts)))
        .or_else(|| said(ends.run(moved)))
}

#[test]
fn with_nothing_broken_nothing_is_found() {
    assert_eq!(found(), None);
}

macro_rules! found {
    ($($line:ident)*) => {
        #[test]
        fn every_planted_bug_that_tasks_can_meet_is_found() {
            let missed: Vec<_> = [$((stringify!($line), Break::$line)),*]
                .into_iter()
                .filter(|&(name, line)| {
                    plant(line);
                    let found = found();
                    println!("{name}: {}", found.as_deref().unwrap_or("-"));
                    found.is_none()
                })
                .map(|(name, _)| name)
                .collect();
            assert!(missed.is_empty(), "{missed:?}");
        }
    };
}

// Not here: what needs two threads inside of one poll, or is about the order of writes.
found! {
    CloneNotCounted CloseForgetsWriters FuncNotChecked LastSenderSilent LightCancelGivesUp
    PlaceNotOffered ReaderNotWoken RoomNotOffered SpawnIgnoresTheEnd StagesNotStopped
    StopTakesNothing TurnNotPassedOn WakerNotReplaced
}
