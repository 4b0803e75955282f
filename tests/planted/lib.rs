//! The test of the checker on the library itself: with one line of quell broken, it finds
//! a violation in a pipeline, a group or a context that is clean otherwise.
//!
//! Run with `cargo planted`. The switches exist under `--cfg quell_planted` only. Those that
//! no task can meet are listed at the end of this file, each with the reason; they are for the
//! models: `cargo loom planted`.
#![cfg(all(test, not(loom), quell_planted))]

use futures::{StreamExt, stream};
use quell::check::{Checker, Inject, Report};
use quell::planted::{Break, hurry, plant};
use quell::{Context, Group, Pipeline, Rate, rt};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);

/// Two senders that sometimes give up, and a reader that ends because they leave.
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

/// A reader that is busy with a result until the last stage has sent all the others.
async fn busy(ctx: Context) {
    let (put, mut told) = quell::channel::bounded(1);
    let mut results = Pipeline::from_iter(&ctx, 0..3)
        .stage("relay", |_ctx, mut input, output| async move {
            while let Some(n) = input.recv().await {
                if output.send(n).await.is_err() {
                    return;
                }
            }
            let _ = put.send(()).await;
        })
        .buffer(2)
        .run();
    let reading = async {
        results.next().await;
        told.recv().await;
    };
    let _ = ctx.run(reading).await;
    let _ = results.finish().await;
}

/// Senders that end because their reader leaves.
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
    let mut results = Pipeline::from_iter(&ctx, 0..12_u32).throttle(rate).buffer(1).run();
    let mut seen = 0;
    while results.next().await.is_some() {
        seen += 1;
        if seen == 2 {
            rt::sleep(200 * MILLI).await;
        }
    }
    let _ = results.finish().await;
    let took = rt::now() - began;
    // The pause has earned a burst, and not all that it has kept waiting.
    assert!(ctx.is_done() || took >= 250 * MILLI, "{took:?}");
}

/// A throttle that has long to wait.
async fn hourly(ctx: Context) {
    let rate = Rate::every(3_600_000 * MILLI);
    let mut results = Pipeline::from_iter(&ctx, 0..3_u32).throttle(rate).run();
    let _ = ctx.run(async { while results.next().await.is_some() {} }).await;
    drop(results);
}

/// A worker that needs another one to get on, after enough items to have let others go first.
async fn in_company(ctx: Context) {
    let (tell, told) = quell::channel::bounded(1);
    let told = std::sync::Mutex::new(Some(told));
    // The end of a source calls every worker: this one has no end.
    let items = stream::iter(0..100_u32).chain(stream::pending());
    let mut results = Pipeline::from_stream(&ctx, items)
        .buffer(100)
        .dispatch(2, move |_, n| {
            let (tell, told) = (tell.clone(), (n == 98).then(|| told.lock().unwrap().take()));
            async move {
                match told.flatten() {
                    Some(mut told) => drop(told.recv().await),
                    None if n == 99 => drop(tell.send(()).await),
                    None => {}
                }
            }
        })
        .run();
    let mut seen = 0;
    while seen < 100 && results.next().await.is_some() {
        seen += 1;
    }
    let _ = results.finish().await;
}

/// Workers that have nothing to do until the next item is due.
async fn idle_workers(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..4_u32)
        .throttle(Rate::every(10 * MILLI))
        .buffer(1)
        .dispatch(2, |_, n| async move { n })
        .run();
    while results.next().await.is_some() {}
    let _ = results.finish().await;
}

/// A reader that stops while much is under way: all of it is accounted for.
async fn left_behind(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..8_u32).buffer(4).map(|n| n).buffer(4).run();
    let _ = ctx.run(results.next()).await;
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
}

/// A sender that is promised room, and leaves: the room goes to the one behind.
async fn promised_room(ctx: Context) {
    let (items, mut read) = quell::channel::bounded(1);
    let sends = items.clone();
    let leaves = rt::spawn_named("leaves", async move {
        for n in 0..3 {
            let _ = ctx.run(sends.send(n)).await;
        }
    });
    let stays = rt::spawn_named("stays", async move {
        for n in 0..3 {
            let _ = items.send(n).await;
        }
    });
    while read.recv().await.is_some() {}
    leaves.await.unwrap();
    stays.await.unwrap();
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

/// A spawn that is promised a place, and leaves: the place goes to the one behind.
async fn promised_places(ctx: Context) {
    async fn member(_: Context) -> io::Result<()> {
        rt::sleep(MILLI).await;
        Ok(())
    }
    let group = Group::new(&Context::background());
    group.limit(1);
    let leaving = group.clone();
    let leaves = rt::spawn_named("leaves", async move {
        for _ in 0..2 {
            let _ = ctx.run(leaving.spawn("member", member)).await;
        }
    });
    let staying = group.clone();
    let stays = rt::spawn_named("stays", async move {
        for _ in 0..2 {
            let _ = staying.spawn("member", member).await;
        }
    });
    leaves.await.unwrap();
    stays.await.unwrap();
    group.wait().await.unwrap();
}

/// No spawn gives up: one that waits for a place gets it when a task ends.
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

/// A spawn that waits for a place comes back when the context ends, though there is none.
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

/// The group ends because of its first failure, and not because of that failure's echo.
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

/// What a task returns because its group was shut down is no failure.
async fn groups_shut_down(_ctx: Context) {
    let group = Group::new(&Context::background());
    let _ = group.try_spawn("echoes", |ctx| async move {
        ctx.done().await;
        ctx.check()
    });
    rt::yield_now().await;
    let _ = group.shutdown(MILLI).await;
    let ended = group.wait().await;
    assert!(ended.is_ok(), "{ended:?}");
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
    let polled = std::future::poll_fn(|cx| Poll::Ready(done.as_mut().poll(cx))).await;
    if polled.is_ready() {
        return;
    }
    let second = rt::spawn_named("second", done);
    second.await.unwrap();
}

/// Polls it once, and no more.
async fn wait_once(done: &mut quell::Done) {
    std::future::poll_fn(|cx| {
        let _ = Pin::new(&mut *done).poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// A wait that is given up after the end, which has already taken it.
async fn given_up(ctx: Context) {
    let (child, canceller) = ctx.with_cancel();
    let mut done = child.done();
    wait_once(&mut done).await;
    canceller.cancel();
    drop(done);
}

/// How a context ended does not change: its deadline came before the cancel.
async fn too_late(ctx: Context) {
    let (child, canceller) = ctx.with_timeout(MILLI);
    // No task waits for the deadline any more when it comes.
    wait_once(&mut child.done()).await;
    rt::sleep(2 * MILLI).await;
    let ended = child.err();
    canceller.cancel();
    assert_eq!(child.err(), ended);
}

/// The first violation that any of the bodies shows.
fn found() -> Option<String> {
    let checker = Checker::new()
        .inject([Inject::Cancel, Inject::Drop, Inject::None])
        .max_schedules(20_000)
        .stop_at_first();
    let said = |report: Report| {
        let first = report.violations().first().map(|first| first.to_string());
        first.map(|first| first.lines().take(4).collect::<Vec<_>>().join(" "))
    };
    // A throttle makes up for what its own timer was late by, so nothing is late here.
    let in_time = Checker::exhaustive().max_delays(0).inject([Inject::Cancel, Inject::None]);
    let ends = checker.clone().inject([Inject::Cancel, Inject::Drop]);
    said(checker.run(channels))
        .or_else(|| said(checker.run(busy)))
        .or_else(|| said(checker.run(closed)))
        .or_else(|| said(checker.run(promised_room)))
        .or_else(|| said(checker.run(pipelines)))
        .or_else(|| said(ends.run(stopped)))
        .or_else(|| said(in_time.run(paced)))
        .or_else(|| said(ends.run(hourly)))
        .or_else(|| said(checker.run(idle_workers)))
        .or_else(|| said(checker.run(in_company)))
        .or_else(|| said(checker.run(left_behind)))
        .or_else(|| said(checker.run(groups)))
        .or_else(|| said(checker.run(patient_groups)))
        .or_else(|| said(checker.run(promised_places)))
        .or_else(|| said(checker.clone().inject(Inject::Cancel).run(full_groups)))
        .or_else(|| said(checker.clone().inject(Inject::None).run(failing_groups)))
        .or_else(|| said(checker.clone().inject(Inject::None).run(groups_shut_down)))
        .or_else(|| said(checker.run(contexts)))
        .or_else(|| said(ends.run(moved)))
        .or_else(|| said(checker.run(given_up)))
        .or_else(|| said(checker.run(too_late)))
}

/// What is found where one worker goes alone whenever it may.
fn found_in_a_hurry() -> Option<String> {
    hurry(true);
    let found = found();
    hurry(false);
    found
}

#[test]
fn with_nothing_broken_nothing_is_found() {
    assert_eq!(found(), None);
    assert_eq!(found_in_a_hurry(), None);
}

macro_rules! found {
    ($($line:ident)* ; $($unseen:ident $(| $too:ident)* : $why:literal)*) => {
        #[test]
        fn every_planted_bug_that_tasks_can_meet_is_found() {
            let missed: Vec<_> = [$((stringify!($line), Break::$line)),*]
                .into_iter()
                .filter(|&(name, line)| {
                    plant(line);
                    let found = found().or_else(found_in_a_hurry);
                    println!("{name}: {}", found.as_deref().unwrap_or("-"));
                    found.is_none()
                })
                .map(|(name, _)| name)
                .collect();
            assert!(missed.is_empty(), "{missed:?}");
        }

        /// Why tasks cannot meet it. A bug that is in neither list does not compile.
        fn why_nobody_meets(line: Break) -> Option<&'static str> {
            match line {
                $(Break::$line => None,)*
                $(Break::$unseen $(| Break::$too)* => Some($why),)*
            }
        }

        #[test]
        fn a_planted_bug_that_no_task_can_meet_is_not_found_and_says_why() {
            for (name, line) in
                [$((stringify!($unseen), Break::$unseen), $((stringify!($too), Break::$too),)*)*]
            {
                plant(line);
                assert_eq!(found(), None, "{name} can be met: it belongs to the others");
                println!("{name}: {}", why_nobody_meets(line).expect("it is one of those"));
            }
        }
    };
}

// A task runs alone until it awaits, and user code is called where nothing is half done: what
// takes two threads inside one poll is for the models alone.
found! {
    CloneNotCounted CloseForgetsWriters EchoTakenForFailure ExpiryNotWrittenDown FuncNotChecked
    IdleTakerNotNoted LastSenderSilent LeftNotCounted LoneTakerCallsNobody PauseEarnsAll
    PlaceNotOffered PlaceNotPassedOn PromiseNotPassedOn ReaderNotWoken RoomNotOffered
    SpawnIgnoresTheEnd StagesNotStopped StopTakesNothing ThrottleNotStopped
    TurnNotPassedOn WaiterNotAnnounced WakerNotReplaced WorkersNotStopped
    ;
    LatchAnnouncesUnordered | WordAnnouncesUnordered | LinkDroppedUnordered:
        "about the order in which one thread sees the writes of another"
    RefusedScopeGoesOn | WaiterNotChecked | AdoptedTooLate | WatchTrustsTheLook
    | ReaderTrustsFirstLook | LightCancelGivesUp:
        "between the look and the entry in the list, in one poll, another thread must come"
    LoserReturnsAtOnce | SweepTakesOthersWaiters | LookNotWrittenDown:
        "another thread must look, or cancel, in the middle of a sweep"
    EndBeforeEnding | LateNotedTooSoon | OwnEndHidesParents | SecondFailureIsTheCause
    | SourceLooksTooSoon | StartNotAnnounced:
        "two lines of one poll, between which another thread must come"
    StopDoesNotWait | SleeperNotTold:
        "about a thread that blocks, which a checker has none of"
    CallNotPassedOn | LeaverKeepsRoom:
        "a worker must leave while others of its stage stay; in a pipeline all leave together"
    DeadChildStays:
        "memory that is kept too long, and nothing that a task could see or wait for"
}
