//! What a group promises: how many tasks run, which one is next, what the first
//! failure was, and which tasks would not stop.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::FutureExt;
use futures::executor::block_on;
use kit::{
    AGES, Running, Wakes, bad_waker, in_time, ms, one_thread, poll, quiet, settle, tasks, threads,
};
use quell::group::{TaskPanicked, TrySpawnError};
use quell::{BoxError, Cancelled, Context, ContextError, Group, rt};
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

type Any = Result<(), Box<dyn Error + Send + Sync>>;

/// A task that ends well when the sender is used or dropped.
fn until(told: oneshot::Receiver<()>) -> impl FnOnce(Context) -> Until {
    move |_ctx| Until(told)
}

struct Until(oneshot::Receiver<()>);

impl Future for Until {
    type Output = Result<(), Cancelled>;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|_| Ok(()))
    }
}

/// A task that only ever returns what its context says.
async fn looks(ctx: Context) -> Result<(), Cancelled> {
    ctx.run(std::future::pending::<()>()).await
}

async fn deaf(_ctx: Context) -> Result<(), Cancelled> {
    std::future::pending().await
}

fn full<F>(result: Result<(), TrySpawnError<F>>) -> bool {
    matches!(result, Err(TrySpawnError::Full(_)))
}

// ---------------------------------------------------------------------- tasks

#[tokio::test]
async fn a_group_of_no_tasks_is_ok_at_once() {
    let group = Group::new(&Context::background());
    assert_eq!(group.running(), 0);
    group.wait().now_or_never().expect("at once").unwrap();
    assert!(group.shutdown(AGES).await.is_clean());
    group.wait().await.unwrap();
}

#[tokio::test]
async fn its_context_is_derived_from_its_parents_and_is_what_tasks_get() {
    let parent = Context::background().with_value("kept");
    let group = Group::new(&parent);
    let (tell, told) = oneshot::channel();
    group
        .spawn("look", |ctx| async move {
            tell.send((ctx.value::<&str>().copied(), ctx)).unwrap();
            Ok::<_, Cancelled>(())
        })
        .await
        .unwrap();
    let (value, ctx) = told.await.unwrap();
    assert_eq!(value, Some("kept"));
    group.wait().await.unwrap();
    assert!(!ctx.is_done(), "that all have ended ends nothing");
    drop(group);
    assert!(ctx.is_done() && !parent.is_done());
}

#[tokio::test]
async fn nothing_is_spawned_before_spawn_is_awaited() {
    let group = Group::new(&Context::background());
    let ran = Arc::new(AtomicBool::new(false));
    let seen = ran.clone();
    drop(group.spawn("never", move |_| async move {
        seen.store(true, SeqCst);
        Ok::<_, Cancelled>(())
    }));
    settle().await;
    assert!(!ran.load(SeqCst));
    assert_eq!(group.running(), 0);
}

#[tokio::test]
async fn wait_waits_for_tasks_that_are_spawned_meanwhile() {
    let group = Group::new(&Context::background());
    let (count, inner) = (Arc::new(AtomicUsize::new(0)), group.clone());
    let counted = count.clone();
    group
        .spawn("first", move |_| async move {
            for _ in 0..3 {
                rt::yield_now().await;
                let counted = counted.clone();
                let second = inner.spawn("second", |_| async move {
                    rt::yield_now().await;
                    counted.fetch_add(1, SeqCst);
                    Ok::<_, Cancelled>(())
                });
                second.await?;
            }
            Ok::<_, Cancelled>(())
        })
        .await
        .unwrap();
    group.wait().await.unwrap();
    assert_eq!(count.load(SeqCst), 3);
    assert_eq!((group.running(), tasks()), (0, 0));
}

#[tokio::test]
async fn an_error_that_panics_when_it_is_asked_where_it_comes_from_is_noted_all_the_same() {
    #[derive(Debug)]
    struct Sly;
    impl std::fmt::Display for Sly {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("sly")
        }
    }
    impl std::error::Error for Sly {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            panic!("asked")
        }
    }
    let (ctx, canceller) = Context::background().with_cancel();
    let group = Group::new(&ctx);
    group.limit(1);
    let sly = group.spawn("sly", |ctx| async move {
        ctx.done().await;
        Err(Sly)
    });
    sly.await.unwrap();
    settle().await;
    canceller.cancel();
    let failed = group.wait().await.unwrap_err();
    assert_eq!(failed.cause().to_string(), "sly");
    assert!(group.try_spawn("late", |_| async { Ok::<_, Sly>(()) }).is_err());
}

#[tokio::test]
async fn any_number_may_wait_and_one_that_stops_waiting_changes_nothing() {
    let group = Group::new(&Context::background());
    let (tell, told) = oneshot::channel();
    group.spawn("one", until(told)).await.unwrap();
    let wakes = Wakes::new();
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(group.wait())).collect();
    for wait in &mut waits {
        assert!(poll(wait, &wakes).is_pending());
    }
    waits.truncate(3);
    assert_eq!(Arc::strong_count(&wakes), 4, "the waker of the one that went has gone too");
    tell.send(()).unwrap();
    settle().await;
    assert_eq!(wakes.count(), 3);
    for wait in &mut waits {
        assert!(matches!(poll(wait, &wakes), Poll::Ready(Ok(()))));
    }
    group.wait().await.unwrap();
}

#[tokio::test]
async fn what_a_task_holds_has_been_dropped_when_wait_returns() {
    let (held, group) = (Running::new(), Group::new(&Context::background()));
    for _ in 0..10 {
        let here = held.enter();
        let task = group.spawn("holds", |_| async move {
            rt::yield_now().await;
            let _here = here;
            Ok::<_, Cancelled>(())
        });
        task.await.unwrap();
    }
    assert_eq!(held.now(), 10);
    group.wait().await.unwrap();
    assert_eq!(held.now(), 0);
}

#[test]
fn spawning_where_nobody_runs_tasks_says_where_and_what_to_do_and_takes_no_place() {
    let group = Group::new(&Context::background());
    group.limit(1);
    for _ in 0..3 {
        let spawning = std::panic::AssertUnwindSafe(|| block_on(group.spawn("never", looks)));
        let panic = std::panic::catch_unwind(spawning).unwrap_err();
        let said = panic.downcast_ref::<String>().expect("a text");
        let line = line!() - 3;
        assert!(said.contains(&format!("the spawn at tests/group.rs:{line}:")), "{said}");
        assert!(said.contains("inside a tokio runtime"), "{said}");
    }
    assert_eq!(group.running(), 0);
    kit::one_thread().block_on(async {
        group.try_spawn("now", |_| async { Ok::<_, Cancelled>(()) }).unwrap();
        group.wait().await.unwrap();
    });
}

#[tokio::test]
async fn a_task_that_can_spawn_no_more_since_the_group_has_ended_has_not_failed() {
    for shuts_down in [false, true] {
        let (parent, canceller) = Context::background().with_cancel();
        let group = Group::new(&parent);
        let inside = group.clone();
        let spawns = |ctx: Context| async move {
            ctx.done().await;
            inside.try_spawn("more", |_| async { Ok::<_, Cancelled>(()) })?;
            Ok::<_, BoxError>(())
        };
        group.spawn("spawns", spawns).await.unwrap();
        settle().await;
        if shuts_down {
            assert!(group.shutdown(AGES).await.is_clean());
            group.wait().await.expect("that was intended");
        } else {
            canceller.cancel_with("stop");
            let ended = group.wait().await.unwrap_err();
            assert_eq!(ended.cause().to_string(), "stop");
        }
    }
}

// ---------------------------------------------------------------------- limit

#[tokio::test]
#[should_panic(expected = "pass 1 or more")]
async fn a_limit_of_zero_says_what_to_pass() {
    Group::new(&Context::background()).limit(0);
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_than_the_limit_and_no_fewer_where_there_is_work() {
    for limit in [1, 2, 8, usize::MAX] {
        let (group, running) = (Group::new(&Context::background()), Running::new());
        group.limit(limit);
        let began = rt::now();
        for _ in 0..40 {
            let running = running.clone();
            let task = group.spawn("sleep", move |_| async move {
                let _here = running.enter();
                rt::sleep(ms(10)).await;
                Ok::<_, Cancelled>(())
            });
            task.await.unwrap();
        }
        group.wait().await.unwrap();
        assert_eq!(running.most(), limit.min(40));
        assert_eq!(rt::now() - began, ms(10) * 40_usize.div_ceil(limit) as u32);
    }
}

#[tokio::test]
async fn a_limit_that_is_lowered_lets_those_that_run_go_on_and_nobody_in_until_there_is_room() {
    let group = Group::new(&Context::background());
    let mut tells = Vec::new();
    for _ in 0..4 {
        let (tell, told) = oneshot::channel();
        tells.push(tell);
        group.spawn("old", until(told)).await.unwrap();
    }
    group.limit(2);
    assert_eq!(group.running(), 4);
    let (_tell, told) = oneshot::channel();
    let mut waiting = Box::pin(group.spawn("new", until(told)));
    let wakes = Wakes::new();
    for left in (2..=4).rev() {
        assert!(poll(&mut waiting, &wakes).is_pending(), "{left} of 2 run");
        tells.pop().unwrap().send(()).unwrap();
        settle().await;
        assert_eq!(wakes.count(), usize::from(left == 2));
    }
    assert!(poll(&mut waiting, &wakes).is_ready());
    assert_eq!(group.running(), 2);
}

#[tokio::test]
async fn a_limit_that_is_raised_lets_those_in_who_wait_in_their_order() {
    let group = Group::new(&Context::background());
    group.limit(1);
    group.spawn("old", deaf).await.unwrap();
    let wakes: Vec<_> = (0..4).map(|_| Wakes::new()).collect();
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(group.spawn("new", deaf))).collect();
    for (spawn, wakes) in waiting.iter_mut().zip(&wakes) {
        assert!(poll(spawn, wakes).is_pending());
    }
    group.limit(3);
    let woken: Vec<_> = wakes.iter().map(|wakes| wakes.count()).collect();
    assert_eq!(woken, [1, 1, 0, 0]);
    // Neither a newcomer nor a waiter that was not called takes a promised place.
    assert!(full(group.try_spawn("newcomer", deaf)));
    assert!(poll(&mut waiting[2], &wakes[2]).is_pending());
    assert!(poll(&mut waiting[0], &wakes[0]).is_ready());
    // It is lowered again before the second has come: the promise is kept.
    group.limit(1);
    assert!(poll(&mut waiting[1], &wakes[1]).is_ready());
    assert_eq!(group.running(), 3);
    group.limit(usize::MAX);
    assert!(poll(&mut waiting[3], &wakes[3]).is_ready());
    assert!(poll(&mut waiting[2], &wakes[2]).is_ready());
}

#[tokio::test]
async fn those_who_wait_at_the_limit_are_let_in_in_their_order() {
    let (group, order) = (Group::new(&Context::background()), Arc::new(Mutex::new(Vec::new())));
    group.limit(1);
    let (tell, told) = oneshot::channel();
    group.spawn("first", until(told)).await.unwrap();
    let spawns = futures::future::join_all((0..20).map(|n| {
        let order = order.clone();
        group.spawn("next", move |_| async move {
            order.lock().unwrap().push(n);
            Ok::<_, Cancelled>(())
        })
    }));
    tell.send(()).unwrap();
    for spawned in spawns.await {
        spawned.unwrap();
    }
    group.wait().await.unwrap();
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_who_stops_waiting_passes_its_place_on() {
    for gone in 0..3_usize {
        let group = Group::new(&Context::background());
        group.limit(1);
        let (tell, told) = oneshot::channel();
        group.spawn("old", until(told)).await.unwrap();
        let wakes: Vec<_> = (0..3).map(|_| Wakes::new()).collect();
        let mut waiting: Vec<_> =
            (0..3).map(|_| Some(Box::pin(group.spawn("new", looks)))).collect();
        for (spawn, wakes) in waiting.iter_mut().zip(&wakes) {
            assert!(poll(spawn.as_mut().unwrap(), wakes).is_pending());
        }
        tell.send(()).unwrap();
        settle().await;
        assert_eq!(wakes[0].count(), 1, "the first has been called");
        waiting[gone] = None;
        let next = usize::from(gone == 0);
        assert_eq!(wakes[next].count(), 1);
        assert!(poll(waiting[next].as_mut().unwrap(), &wakes[next]).is_ready());
        let last = if gone == 2 { 1 } else { 2 };
        assert!(poll(waiting[last].as_mut().unwrap(), &wakes[last]).is_pending());
        assert_eq!(wakes[last].count(), 0, "and no other");
    }
}

#[tokio::test]
async fn try_spawn_never_waits_and_gives_the_task_back() {
    let group = Group::new(&Context::background());
    group.limit(1);
    let (tell, told) = oneshot::channel();
    group.try_spawn("first", until(told)).unwrap();
    let ran = Arc::new(AtomicBool::new(false));
    let seen = ran.clone();
    let task = move |_ctx: Context| async move {
        seen.store(true, SeqCst);
        Ok::<_, Cancelled>(())
    };
    let refused = group.try_spawn("second", task).unwrap_err();
    assert_eq!(format!("{refused:?}"), "Full(..)");
    assert!(refused.to_string().contains("as many tasks as it may"), "{refused}");
    tell.send(()).unwrap();
    group.wait().await.unwrap();
    assert!(!ran.load(SeqCst));
    group.try_spawn("second", refused.into_inner()).unwrap();
    group.wait().await.unwrap();
    assert!(ran.load(SeqCst));
    assert!(group.shutdown(Duration::ZERO).await.is_clean());
    let refused = group.try_spawn("third", looks).unwrap_err();
    assert!(matches!(&refused, TrySpawnError::Ended(why, _)
        if why.cause().to_string() == "the group was shut down"));
    assert!(refused.to_string().contains("the group has ended"), "{refused}");
}

#[tokio::test]
async fn tasks_at_the_limit_may_spawn_into_their_own_group_without_waiting() {
    let group = Group::new(&Context::background());
    group.limit(1);
    let inner = group.clone();
    let parent = group.spawn("parent", |_| async move {
        let child = inner.try_spawn("child", deaf);
        if full(child) { Ok(()) } else { Err("there is one place, and it is taken") }
    });
    parent.await.unwrap();
    group.wait().await.unwrap();
}

#[tokio::test]
async fn one_that_waits_at_the_limit_is_told_when_a_panic_or_a_failure_ends_the_group() {
    // The end of the group comes first: then no task is let in, but none waits any
    // longer either.
    for how in 0..2 {
        let group = Group::new(&Context::background());
        group.limit(1);
        let (tell, told) = oneshot::channel::<()>();
        let task = group.spawn("first", move |_| async move {
            let _ = told.await;
            assert!(how > 0, "it panics");
            Err("it fails")
        });
        task.await.unwrap();
        let mut waiting = Box::pin(group.spawn("second", deaf));
        let wakes = Wakes::new();
        assert!(poll(&mut waiting, &wakes).is_pending());
        drop(tell);
        settle().await;
        assert!(wakes.count() > 0);
        let Poll::Ready(Err(why)) = poll(&mut waiting, &wakes) else { panic!("it waits") };
        let why = why.cause().to_string();
        assert!(why.contains(["it panics", "it fails"][how]), "{why}");
        assert!(group.wait().await.is_err());
    }
}

// -------------------------------------------------------------------- the end

#[tokio::test]
async fn once_ended_a_group_refuses_tasks_and_never_calls_them() {
    let ends: [fn(&Group, &quell::Canceller); 2] = [
        |_, canceller| canceller.cancel_with("parent"),
        |group, _| drop(group.shutdown(AGES).now_or_never()),
    ];
    for end in ends {
        let (parent, canceller) = Context::background().with_cancel();
        let group = Group::new(&parent);
        end(&group, &canceller);
        let ran = Arc::new(AtomicBool::new(false));
        let seen = ran.clone();
        let task = move |_: Context| {
            seen.store(true, SeqCst);
            async { Ok::<_, Cancelled>(()) }
        };
        let refused = group.spawn("late", task.clone()).await.unwrap_err();
        assert_eq!(refused.cause().to_string(), group.ctx().cause().unwrap().to_string());
        assert!(group.try_spawn("late", task).is_err());
        settle().await;
        assert!(!ran.load(SeqCst));
        assert_eq!(group.running(), 0);
    }
}

#[tokio::test]
async fn a_spawn_that_waits_at_the_limit_ends_when_the_group_ends() {
    let (parent, canceller) = Context::background().with_cancel();
    let group = Group::new(&parent);
    group.limit(1);
    group.spawn("deaf", deaf).await.unwrap();
    let wakes = Wakes::new();
    let held = Running::new();
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let here = held.enter();
            Box::pin(group.spawn("waits", move |_| async move {
                let _here = here;
                Ok::<_, Cancelled>(())
            }))
        })
        .collect();
    for spawn in &mut waiting {
        assert!(poll(spawn, &wakes).is_pending());
    }
    canceller.cancel_with("enough");
    assert_eq!(wakes.count(), 3);
    for spawn in &mut waiting {
        let Poll::Ready(Err(why)) = poll(spawn, &wakes) else { panic!("it waits") };
        assert_eq!(why.cause().to_string(), "enough");
    }
    assert_eq!(held.now(), 0, "tasks that will not run are dropped");
    drop(waiting);
    assert_eq!(Arc::strong_count(&wakes), 1, "no waker is left behind");
    assert_eq!(group.shutdown(Duration::ZERO).await.aborted().len(), 1);
}

#[tokio::test]
async fn without_a_grace_nobody_has_a_turn_though_the_caller_is_to_let_others_go_first() {
    let group = Group::new(&Context::background());
    let ends = |ctx: Context| async move {
        ctx.done().await;
        Ok::<_, io::Error>(())
    };
    group.spawn("ends", ends).await.unwrap();
    rt::yield_now().await;
    std::future::poll_fn(|cx| {
        while std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
        Poll::Ready(())
    })
    .await;
    assert_eq!(group.shutdown(Duration::ZERO).await.aborted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_spawn_that_waits_at_its_instant() {
    let (parent, _canceller) = Context::background().with_timeout(ms(70));
    let group = Group::new(&parent);
    group.limit(1);
    group.spawn("deaf", deaf).await.unwrap();
    let began = rt::now();
    let refused = group.spawn("waits", looks).await.unwrap_err();
    assert_eq!(rt::now() - began, ms(70));
    assert_eq!(refused.error(), ContextError::DeadlineExceeded);
}

#[tokio::test]
async fn the_first_error_ends_every_task_and_is_the_cause_of_all() {
    let group = Group::new(&Context::background());
    let ended = Arc::new(Mutex::new(Vec::new()));
    for n in 0..5 {
        let ended = ended.clone();
        let task = group.spawn("looks", move |ctx| async move {
            let why = looks(ctx).await.unwrap_err();
            ended.lock().unwrap().push((n, why.cause().to_string()));
            Err(why)
        });
        task.await.unwrap();
    }
    settle().await;
    group.spawn("fails", |_| async { Err(io::Error::other("first")) }).await.unwrap();
    let failed = group.wait().await.unwrap_err();
    assert_eq!(failed.cause().to_string(), "first");
    assert!(failed.cause().downcast_ref::<io::Error>().is_some());
    assert_eq!(failed.error(), ContextError::Cancelled);
    let ended = std::mem::take(&mut *ended.lock().unwrap());
    assert_eq!(ended.len(), 5);
    assert!(ended.iter().all(|(_, why)| why == "first"), "{ended:?}");
    assert_eq!(group.ctx().cause().unwrap().to_string(), "first");
}

#[tokio::test]
async fn the_cause_of_an_error_names_the_line_that_spawned_its_task() {
    let group = Group::new(&Context::background());
    let task = group.spawn("fails", |_| async { Err("failed") });
    let line = line!() - 1;
    task.await.unwrap();
    let failed = group.wait().await.unwrap_err();
    let origin = failed.cause().origin().expect("it has one");
    assert_eq!((origin.file(), origin.line()), ("tests/group.rs", line));
}

/// What a task may make of the end of its context.
fn echoes() -> Vec<fn(Cancelled) -> Box<dyn Error + Send + Sync>> {
    #[derive(Debug)]
    struct Wrapped(Cancelled);
    impl std::fmt::Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("could not fetch")
        }
    }
    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    /// An error that cannot be displayed.
    #[derive(Debug)]
    struct Mute(Cancelled);
    impl std::fmt::Display for Mute {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }
    impl Error for Mute {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    vec![
        |why| Mute(why).into(),
        |why| why.into(),
        |why| why.error().into(),
        |why| why.cause().clone().into(),
        |why| Wrapped(why).into(),
        |why| io::Error::other(why).into(),
        |why| io::Error::other(why.error()).into(),
        |why| io::Error::other(why.cause().clone()).into(),
        |why| io::Error::other(Wrapped(why)).into(),
    ]
}

#[tokio::test]
async fn what_tasks_return_because_the_group_ended_is_never_taken_for_the_first_failure() {
    for echo in echoes() {
        // The error comes last: the tasks that echo have returned before it.
        let (group, gate) = (Group::new(&Context::background()), Arc::new(Semaphore::new(0)));
        let open = gate.clone();
        let task = group.spawn("looks", move |ctx| async move {
            let why = looks(ctx).await.unwrap_err();
            open.add_permits(1);
            Err(echo(why))
        });
        task.await.unwrap();
        let waits = gate.clone();
        let last = group.spawn("fails", move |_| async move {
            let _ = waits.acquire().await;
            Err("the real one")
        });
        last.await.unwrap();
        settle().await;
        // They echo the group's own end: it is shut down, and the grace does not expire.
        let report = group.shutdown(AGES).await;
        assert!(report.is_clean());
        let failed = group.wait().await.unwrap_err();
        assert_eq!(failed.cause().to_string(), "the real one");
    }
}

#[tokio::test]
async fn the_second_error_changes_nothing() {
    let group = Group::new(&Context::background());
    for n in 0..5 {
        group.spawn("fails", move |_| async move { Err(format!("error {n}")) }).await.unwrap();
    }
    for _ in 0..2 {
        let failed = group.wait().await.unwrap_err();
        assert_eq!(failed.cause().to_string(), "error 0");
    }
}

#[tokio::test]
async fn a_task_that_fails_because_another_context_ended_has_failed() {
    let group = Group::new(&Context::background());
    let task = group.spawn("own", |ctx| async move {
        let (own, canceller) = ctx.with_cancel();
        canceller.cancel_with("its own");
        looks(own).await
    });
    task.await.unwrap();
    let failed = group.wait().await.unwrap_err();
    assert_eq!(failed.cause().to_string(), "its own");
    assert!(group.ctx().is_done());
}

#[tokio::test]
async fn a_panic_is_a_failure_that_names_its_task() {
    let group = Group::new(&Context::background());
    group.spawn("looks", looks).await.unwrap();
    group
        .spawn("fetch", |_| async {
            if true { panic!("no such host") } else { Ok::<(), Cancelled>(()) }
        })
        .await
        .unwrap();
    let failed = group.wait().await.unwrap_err();
    assert_eq!(failed.cause().to_string(), "`fetch` panicked: no such host");
    let panicked = failed.cause().downcast_ref::<TaskPanicked>().expect("it is one");
    assert_eq!((panicked.task(), panicked.message()), ("fetch", "no such host"));
    assert_eq!(tasks(), 0);
}

#[tokio::test]
async fn a_closure_that_panics_before_there_is_a_future_is_a_task_that_panicked() {
    let group = Group::new(&Context::background());
    let task =
        group.spawn("early", |_| -> std::future::Ready<Result<(), Cancelled>> { panic!("before") });
    task.await.unwrap();
    let failed = group.wait().await.unwrap_err();
    assert_eq!(failed.cause().to_string(), "`early` panicked: before");
}

#[tokio::test]
async fn a_panic_in_the_drop_of_what_a_task_holds_is_its_panic() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("bomb");
        }
    }
    let group = Group::new(&Context::background());
    let task = group.spawn("holds", |ctx| {
        let bomb = Bomb;
        async move {
            let _bomb = bomb;
            looks(ctx).await
        }
    });
    task.await.unwrap();
    settle().await;
    // On shutdown it returns by itself, and its drop panics.
    let report = group.shutdown(AGES).await;
    assert!(report.is_clean(), "{report}");
    let failed = group.wait().await.unwrap_err();
    assert_eq!(failed.cause().to_string(), "`holds` panicked: bomb");
    assert_eq!((group.running(), tasks()), (0, 0));
}

#[tokio::test]
async fn a_panic_whose_payload_panics_when_it_is_dropped_is_a_panic_all_the_same() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("and again");
            }
        }
    }
    let group = Group::new(&Context::background());
    let task = group.spawn("twice", |_| async {
        if true {
            std::panic::panic_any(Payload);
        }
        Ok::<_, Cancelled>(())
    });
    task.await.unwrap();
    let failed = group.wait().await.unwrap_err();
    assert!(failed.cause().downcast_ref::<TaskPanicked>().is_some(), "{failed}");
    assert_eq!(group.running(), 0);
}

#[tokio::test]
async fn a_waker_that_panics_keeps_no_other_from_hearing_that_all_have_ended() {
    let group = Group::new(&Context::background());
    let (tell, told) = oneshot::channel::<()>();
    group.spawn("ends", until(told)).await.unwrap();
    let (mut first, mut second) = (Box::pin(group.wait()), Box::pin(group.wait()));
    let wakes = Wakes::new();
    assert!(first.poll_unpin(&mut std::task::Context::from_waker(&bad_waker())).is_pending());
    assert!(poll(&mut second, &wakes).is_pending());
    drop(tell);
    settle().await;
    assert_eq!(wakes.count(), 1);
    assert!(second.now_or_never().expect("it was told").is_ok());
}

#[tokio::test]
async fn a_waker_that_panics_keeps_no_other_from_its_place() {
    for raised in [true, false] {
        let group = Group::new(&Context::background());
        group.limit(2);
        let (tell, told) = oneshot::channel::<()>();
        group.spawn("ends", until(told)).await.unwrap();
        group.spawn("deaf", deaf).await.unwrap();
        let (mut first, mut second) = (group.spawn("a", looks), group.spawn("b", looks));
        let wakes = Wakes::new();
        assert!(first.poll_unpin(&mut std::task::Context::from_waker(&bad_waker())).is_pending());
        assert!(poll(&mut second, &wakes).is_pending());
        if raised {
            group.limit(5);
        } else {
            tell.send(()).unwrap();
            settle().await;
            // What was promised to the first goes to the second.
            drop(first);
        }
        assert_eq!(wakes.count(), 1);
        assert!(second.now_or_never().expect("it has its place").is_ok());
        let _ = group.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn when_the_parent_ended_and_a_task_says_so_wait_gives_the_parents_cause() {
    for echo in echoes() {
        let (parent, canceller) = Context::background().with_cancel();
        let group = Group::new(&parent);
        let task = group
            .spawn("looks", move |ctx| async move { Err(echo(looks(ctx).await.unwrap_err())) });
        task.await.unwrap();
        settle().await;
        canceller.cancel_with("the client went away");
        let failed = group.wait().await.unwrap_err();
        assert_eq!(failed.cause().to_string(), "the client went away");
    }
    let (parent, _canceller) = Context::background().with_timeout(Duration::ZERO);
    let group = Group::new(&parent);
    group.wait().await.unwrap();
}

#[tokio::test]
async fn when_the_parent_ended_and_no_task_returned_an_error_wait_is_ok() {
    let (parent, canceller) = Context::background().with_cancel();
    let group = Group::new(&parent);
    let task = group.spawn("tidy", |ctx| async move {
        ctx.done().await;
        Ok::<_, Cancelled>(())
    });
    task.await.unwrap();
    settle().await;
    canceller.cancel();
    group.wait().await.unwrap();
    // Aborted tasks have returned nothing.
    let (parent, canceller) = Context::background().with_cancel();
    let group = Group::new(&parent);
    group.spawn("deaf", deaf).await.unwrap();
    canceller.cancel();
    let _ = group.shutdown(Duration::ZERO).await;
    group.wait().await.unwrap();
}

#[tokio::test]
async fn a_failure_before_the_parents_end_stays_the_first() {
    let (parent, canceller) = Context::background().with_cancel();
    let group = Group::new(&parent);
    group.spawn("looks", looks).await.unwrap();
    settle().await;
    group.spawn("fails", |_| async { Err("first") }).await.unwrap();
    settle().await;
    canceller.cancel_with("later");
    assert_eq!(group.wait().await.unwrap_err().cause().to_string(), "first");
}

// -------------------------------------------------------------------- shutdown

#[tokio::test(start_paused = true)]
async fn shutdown_comes_back_as_soon_as_all_have_ended() {
    let group = Group::new(&Context::background());
    for n in 1..=3 {
        let task = group.spawn("tidies", move |ctx| async move {
            ctx.done().await;
            rt::sleep(ms(10 * n)).await;
            ctx.check()
        });
        task.await.unwrap();
    }
    let began = rt::now();
    let report = group.shutdown(Duration::from_secs(5)).await;
    assert_eq!(rt::now() - began, ms(30));
    assert!(report.is_clean() && report.aborted().is_empty());
    assert_eq!(report.to_string(), "every task ended by itself");
    assert_eq!(tasks(), 0);
    group.wait().await.expect("that it was shut down is no failure");
}

#[tokio::test(start_paused = true)]
async fn shutdown_aborts_what_is_left_after_the_grace_and_says_what_it_was() {
    let (group, held) = (Group::new(&Context::background()), Running::new());
    group.spawn("looks", looks).await.unwrap();
    let here = held.enter();
    let task = group.spawn("deaf", |_| async move {
        let _here = here;
        std::future::pending::<Any>().await
    });
    let line = line!() - 4;
    task.await.unwrap();
    let began = rt::now();
    let report = group.shutdown(ms(250)).await;
    assert_eq!(rt::now() - began, ms(250));
    assert!(!report.is_clean());
    let [left] = report.aborted() else { panic!("{report}") };
    assert_eq!(left.name(), "deaf");
    assert_eq!((left.spawned_at().file(), left.spawned_at().line()), ("tests/group.rs", line));
    let said = report.to_string();
    assert!(said.contains(&format!("`deaf`, spawned at tests/group.rs:{line}")), "{said}");
    assert_eq!((held.now(), group.running(), tasks()), (0, 0, 0));
    group.wait().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_dropped_has_cancelled_and_aborts_nothing() {
    let group = Group::new(&Context::background());
    let task = group.spawn("slow", |ctx| async move {
        ctx.done().await;
        rt::sleep(ms(100)).await;
        Ok::<_, Cancelled>(())
    });
    task.await.unwrap();
    assert!(rt::timeout(ms(10), group.shutdown(ms(50))).await.is_err());
    assert!(group.ctx().is_done());
    rt::sleep(ms(60)).await;
    assert_eq!(group.running(), 1, "its grace has passed, but nobody holds to it");
    assert!(group.shutdown(Duration::MAX).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_spawned_while_the_others_are_aborted_is_aborted_too() {
    let group = Group::new(&Context::background());
    struct SpawnsWhenDropped(Group, tokio::runtime::Handle);
    impl Drop for SpawnsWhenDropped {
        fn drop(&mut self) {
            let _inside = self.1.enter();
            assert!(self.0.try_spawn("late", deaf).is_err(), "the group has ended");
        }
    }
    let spawns = SpawnsWhenDropped(group.clone(), tokio::runtime::Handle::current());
    let task = group.spawn("deaf", |_| async move {
        let _spawns = spawns;
        std::future::pending::<Any>().await
    });
    task.await.unwrap();
    assert_eq!(group.shutdown(ms(1)).await.aborted().len(), 1);
    assert_eq!((group.running(), tasks()), (0, 0));
    group.wait().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutting_down_twice_or_after_a_failure_is_fine() {
    let group = Group::new(&Context::background());
    group.spawn("fails", |_| async { Err("first") }).await.unwrap();
    group.spawn("deaf", deaf).await.unwrap();
    settle().await;
    let (one, two) = futures::join!(group.shutdown(ms(5)), group.shutdown(ms(5)));
    assert_eq!((one.aborted().len(), two.aborted().len()), (1, 1));
    assert!(group.shutdown(ms(5)).await.is_clean(), "nothing was left for this one");
    assert_eq!(group.wait().await.unwrap_err().cause().to_string(), "first");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_not_clean_if_another_one_aborts_a_task_meanwhile() {
    let group = Group::new(&Context::background());
    group.spawn("deaf", deaf).await.unwrap();
    let (patient, hasty) = futures::join!(group.shutdown(ms(100)), group.shutdown(ms(5)));
    for report in [patient, hasty] {
        let [left] = report.aborted() else { panic!("{report}") };
        assert_eq!(left.name(), "deaf");
    }
}

#[tokio::test]
async fn a_shutdown_is_not_clean_if_another_one_has_aborted_what_is_still_there() {
    let group = Group::new(&Context::background());
    group.spawn("deaf", deaf).await.unwrap();
    let (first, second) = futures::join!(group.shutdown(ms(0)), group.shutdown(ms(0)));
    for report in [first, second] {
        let [left] = report.aborted() else { panic!("{report}") };
        assert_eq!(left.name(), "deaf");
    }
    assert!(group.shutdown(ms(0)).await.is_clean(), "it is gone");
}

#[test]
fn a_shutdown_is_not_clean_if_a_task_is_aborted_with_its_runtime_meanwhile() {
    in_time(|| {
        for runtime in [one_thread(), threads(2)] {
            let group = Group::new(&Context::background());
            runtime.block_on(group.spawn("deaf", deaf)).unwrap();
            let mut shutdown = Box::pin(group.shutdown(AGES));
            assert!(shutdown.as_mut().now_or_never().is_none());
            drop(runtime);
            let report = block_on(shutdown);
            let [left] = report.aborted() else { panic!("{report}") };
            assert_eq!(left.name(), "deaf");
            assert!(block_on(group.shutdown(AGES)).is_clean(), "it is gone");
        }
    });
}

#[test]
fn a_shutdown_is_not_clean_if_its_own_cancel_has_the_runtime_of_a_task_dropped() {
    in_time(|| {
        for runtime in [one_thread(), threads(2)] {
            let group = Group::new(&Context::background());
            runtime.block_on(group.spawn("deaf", deaf)).unwrap();
            group.ctx().after_func(move || drop(runtime));
            let report = block_on(group.shutdown(AGES));
            let [left] = report.aborted() else { panic!("{report}") };
            assert_eq!(left.name(), "deaf");
        }
    });
}

// ------------------------------------------------------------------- dropping

#[tokio::test]
async fn dropping_the_last_handle_cancels_and_does_not_abort() {
    let group = Group::new(&Context::background());
    let line = line!() - 1;
    let other = group.clone();
    let (tell, told) = oneshot::channel();
    let task = group.spawn("tidies", |ctx| async move {
        ctx.done().await;
        for _ in 0..5 {
            rt::yield_now().await;
        }
        tell.send(ctx.cause().unwrap().to_string()).unwrap();
        Ok::<_, Cancelled>(())
    });
    task.await.unwrap();
    drop(group);
    settle().await;
    assert_eq!(other.running(), 1, "there is another handle");
    drop(other);
    let cause = told.await.expect("it ran to its end");
    assert!(cause.contains(&format!("tests/group.rs:{line}")), "{cause}");
    quiet().await;
}

#[tokio::test]
async fn a_group_whose_handle_a_task_holds_lives_as_long_as_that_task() {
    let group = Group::new(&Context::background());
    let (inner, ctx) = (group.clone(), group.ctx().clone());
    let (tell, told) = oneshot::channel::<()>();
    let task = group.spawn("holds", |_| async move {
        let _inner = inner;
        let _ = told.await;
        Ok::<_, Cancelled>(())
    });
    task.await.unwrap();
    drop(group);
    settle().await;
    assert!(!ctx.is_done());
    drop(tell);
    quiet().await;
    assert!(ctx.is_done());
}

/// A name whose conversion blocks until it is let go.
struct SlowName(mpsc::Receiver<()>, mpsc::Sender<()>);

impl From<SlowName> for std::borrow::Cow<'static, str> {
    fn from(name: SlowName) -> Self {
        name.1.send(()).unwrap();
        name.0.recv().unwrap();
        "slow".into()
    }
}

#[test]
fn nothing_is_spawned_once_a_shutdown_has_returned() {
    let runtime = threads(1);
    let group = Group::new(&Context::background());
    let (lets_go, gate) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let (here, spawns) = (runtime.handle().clone(), group.clone());
    let began = Arc::new(AtomicBool::new(false));
    let begins = began.clone();
    let other = std::thread::spawn(move || {
        let _inside = here.enter();
        let task = move |_| async move {
            begins.store(true, SeqCst);
            Ok::<_, Cancelled>(())
        };
        spawns.try_spawn(SlowName(gate, tell), task).is_ok()
    });
    told.recv().unwrap();
    let report = runtime.block_on(group.shutdown(Duration::ZERO));
    assert!(report.is_clean(), "{report}");
    lets_go.send(()).unwrap();
    assert!(!other.join().unwrap(), "spawned after the end");
    runtime.block_on(group.wait()).unwrap();
    assert!(!began.load(SeqCst));
}

#[test]
fn a_group_whose_runtime_is_gone_does_not_wait_for_ever_and_says_why_its_task_ended() {
    in_time(|| {
        let (held, group) = (Running::new(), Group::new(&Context::background()));
        let runtime = threads(2);
        let here = held.enter();
        runtime.block_on(async {
            let task = group.spawn("deaf", |_| async move {
                let _here = here;
                std::future::pending::<Any>().await
            });
            task.await.unwrap();
        });
        drop(runtime);
        let said = block_on(group.wait()).unwrap_err();
        assert_eq!(said.cause().to_string(), "the runtime was shut down");
        assert!(group.ctx().is_done());
        assert_eq!((held.now(), group.running()), (0, 0));
    });
}

#[tokio::test]
async fn nothing_of_a_group_stays_in_its_parent() {
    let (parent, _canceller) = Context::background().with_cancel();
    for _ in 0..100 {
        let group = Group::new(&parent);
        group.limit(1);
        group.spawn("looks", looks).await.unwrap();
        let mut waiting = Box::pin(group.spawn("waits", looks));
        assert!(poll(&mut waiting, &Wakes::new()).is_pending());
        drop(waiting);
        drop(group);
    }
    quiet().await;
    assert!(parent.tree().is_empty(), "{}", parent.tree());
}

// -------------------------------------------------------------------- threads

#[test]
fn on_many_threads_the_limit_holds_and_every_task_runs_once() {
    in_time(|| {
        let runtime = threads(3);
        for limit in [1, 3, 16] {
            let (group, running) = (Group::new(&Context::background()), Running::new());
            group.limit(limit);
            let ran = Arc::new(AtomicUsize::new(0));
            let spawners: Vec<_> = (0..4)
                .map(|_| {
                    let (group, running, ran) = (group.clone(), running.clone(), ran.clone());
                    runtime.spawn(async move {
                        for _ in 0..500 {
                            let (running, ran) = (running.clone(), ran.clone());
                            let task = group.spawn("work", move |_| async move {
                                let _here = running.enter();
                                rt::yield_now().await;
                                ran.fetch_add(1, SeqCst);
                                Ok::<_, Cancelled>(())
                            });
                            task.await.unwrap();
                        }
                    })
                })
                .collect();
            runtime.block_on(async {
                for spawner in spawners {
                    spawner.await.unwrap();
                }
                group.wait().await.unwrap();
            });
            assert_eq!(ran.load(SeqCst), 2_000);
            assert!(running.most() <= limit, "{} of {limit}", running.most());
        }
    });
}

#[test]
fn on_many_threads_a_failure_ends_all_and_all_see_the_same_first_one() {
    in_time(|| {
        let runtime = threads(3);
        for round in 0..300_u64 {
            let (parent, canceller) = Context::background().with_cancel();
            let group = Group::new(&parent);
            group.limit(4);
            let first = runtime.block_on(async {
                for n in 0..8_u64 {
                    let fails = n % 3 == round % 3;
                    let task = group.spawn("work", move |ctx| async move {
                        for _ in 0..(n + round) % 5 {
                            rt::yield_now().await;
                        }
                        if fails {
                            Err(format!("task {n}"))
                        } else {
                            looks(ctx).await.map_err(|why| why.to_string())
                        }
                    });
                    if task.await.is_err() {
                        break;
                    }
                }
                if round % 7 == 0 {
                    std::thread::spawn(move || canceller.cancel_with("task parent"));
                }
                group.wait().await.unwrap_err().cause().to_string()
            });
            assert!(first.starts_with("task "), "{first}");
            assert!(group.ctx().is_done());
            assert_eq!(group.running(), 0);
            assert!(runtime.block_on(group.spawn("late", looks)).is_err());
        }
        runtime.block_on(quiet());
    });
}

#[tokio::test]
async fn a_full_group_that_has_ended_has_ended() {
    let (ctx, canceller) = Context::background().with_cancel();
    let group = Group::new(&ctx);
    group.limit(1);
    group.try_spawn("deaf", deaf).unwrap();
    assert!(matches!(group.try_spawn("one more", deaf), Err(TrySpawnError::Full(_))));
    canceller.cancel();
    let refused = group.try_spawn("one more", deaf);
    assert!(matches!(refused, Err(TrySpawnError::Ended(..))), "{refused:?}");
    let _ = group.shutdown(Duration::ZERO).await;
}

#[test]
fn trying_to_spawn_where_nobody_runs_tasks_does_not_end_the_group() {
    let group = Group::new(&Context::background());
    let spawns = std::panic::AssertUnwindSafe(|| group.try_spawn("nobody", deaf));
    assert!(std::panic::catch_unwind(spawns).is_err());
    assert_eq!(group.ctx().cause().map(|cause| cause.to_string()), None);
    block_on(group.wait()).unwrap();
}

#[tokio::test]
async fn a_shutdown_after_the_end_of_the_parent_hides_no_cause() {
    let (ctx, canceller) = Context::background().with_cancel();
    let group = Group::new(&ctx);
    let looks = |ctx: Context| async move { ctx.run(std::future::pending::<()>()).await };
    group.spawn("looks", looks).await.unwrap();
    canceller.cancel_with("the parent");
    assert!(group.shutdown(AGES).await.is_clean());
    let failed = group.wait().await.expect_err("the parent ended and a task says so");
    assert_eq!(failed.cause().to_string(), "the parent");
}

#[tokio::test]
async fn who_is_refused_by_a_group_is_told_why_it_has_ended() {
    let (ctx, canceller) = Context::background().with_cancel();
    let group = Group::new(&ctx);
    canceller.cancel_with("bad status");
    let refused = group.try_spawn("late", deaf).unwrap_err();
    assert_eq!(refused.to_string(), "the group has ended: bad status");
}

#[test]
fn the_end_of_a_group_that_was_dropped_came_from_the_line_that_made_it() {
    let group = Group::new(&Context::background());
    let line = line!() - 1;
    let ctx = group.ctx().clone();
    drop(group);
    let origin = ctx.cause().unwrap().origin().expect("a line of this file");
    assert_eq!((origin.file(), origin.line()), (file!(), line));
}
