//! Where the injection lands, and which task is to blame for what it shows.
#![cfg(all(not(loom), feature = "check"))]

use futures::{FutureExt as _, select_biased};
use quell::check::{self, Checker, Inject, Report, Tracked, ViolationKind};
use quell::{Context, Group, Pipeline, rt};
use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn detach(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    drop(rt::spawn_named(name, task));
}

/// The kind and the task of each violation.
fn found(report: &Report) -> Vec<(ViolationKind, Option<&str>)> {
    report.violations().iter().map(|one| (one.kind(), one.task())).collect()
}

// ------------------------------------------------------------- looks, however they are made

/// Asks whether the end has come, and if not, waits to be told of it: waits for ever if the end
/// comes in between.
async fn looks_and_waits(ctx: Context, looks: impl AsyncFn(&Context) -> bool) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    ctx.after_func(move || stops.notify_waiters());
    if !looks(&ctx).await {
        stop.notified().await;
    }
}

#[test]
fn an_end_that_comes_right_after_a_look_is_tried_in_whatever_way_was_looked() {
    fn hangs<F: Future>(how: &str, body: impl Fn(Context) -> F + Copy) {
        let blocked = [(ViolationKind::BlockedStage, Some("body"))];
        let (usual, tokio) = (Checker::new().run(body), Checker::tokio().run(body));
        assert_eq!(found(&usual), blocked, "{how}: {usual}");
        assert_eq!(found(&tokio), blocked, "{how}: {tokio}");
    }
    hangs("is_done", |ctx| looks_and_waits(ctx, async |ctx| ctx.is_done()));
    hangs("select", |ctx| {
        looks_and_waits(ctx, async |ctx| {
            select_biased! { _ = ctx.done() => true, default => false }
        })
    });
    hangs("select of tokio's", |ctx| {
        looks_and_waits(ctx, async |ctx| {
            tokio::select! { biased; _ = ctx.done() => true, () = async {} => false }
        })
    });
    hangs("a poll", |ctx| {
        looks_and_waits(ctx, async |ctx| {
            let mut done = ctx.done();
            poll_fn(|cx| Poll::Ready(Pin::new(&mut done).poll(cx).is_ready())).await
        })
    });
    hangs("run", |ctx| {
        looks_and_waits(ctx, async |ctx| ctx.run(pending::<()>()).now_or_never().is_some())
    });
    hangs("stop", |ctx| {
        looks_and_waits(ctx, async |ctx| {
            let done = ctx.done();
            let function = ctx.after_func(|| {});
            drop(done);
            !function.stop()
        })
    });
}

#[test]
fn a_deadline_comes_right_after_the_question_how_long_it_is_to_it() {
    async fn asks_and_waits(ctx: Context) {
        looks_and_waits(ctx, async |ctx| ctx.remaining().is_some_and(|left| left.is_zero())).await;
    }
    for checker in [Checker::new(), Checker::tokio()] {
        let report = checker.inject(Inject::Deadline).run(asks_and_waits);
        assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("body"))], "{report}");
    }
}

/// When its lease expires, leaves its answer to the function at the end, unless the end has come.
async fn asks_as_its_lease_runs_out(ctx: Context, with_a_lock: bool) {
    let answers: Arc<Mutex<Vec<oneshot::Sender<()>>>> = Arc::default();
    let (at_end, later) = (answers.clone(), answers.clone());
    ctx.after_func(move || {
        let answers = std::mem::take(&mut *at_end.lock().unwrap());
        answers.into_iter().for_each(|answer| answer.send(()).unwrap_or_default());
    });
    let (lease, _canceller) = ctx.with_timeout(secs(1));
    let (answer, answered) = oneshot::channel();
    lease.after_func(move || {
        let lock = with_a_lock.then(|| later.lock().unwrap());
        if !ctx.is_done() {
            lock.unwrap_or_else(|| later.lock().unwrap()).push(answer);
        }
    });
    let _ = answered.await;
    drop(answers);
}

#[test]
fn an_end_comes_right_after_a_look_in_a_function_that_time_runs() {
    for checker in [Checker::new(), Checker::exhaustive().max_delays(0)] {
        let body = |ctx| asks_as_its_lease_runs_out(ctx, false);
        let report = checker.run(body);
        assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("body"))], "{report}");
        let again = Checker::replay(report.violations()[0].replay()).run(body);
        assert_eq!(found(&again), found(&report), "{again}");
    }
}

#[test]
fn whoever_polls_for_the_end_again_and_again_lets_it_come() {
    let polls = |ctx: Context| async move { while ctx.done().now_or_never().is_none() {} };
    Checker::new().max_delays(0).run(polls).assert_clean();
}

// ------------------------------------------------------------ functions that come after turns

/// Holds a lock over two looks, made by `looks`, and a function at the end takes that lock.
async fn drains_with_a_lock(ctx: Context, looks: impl Fn(&Context) -> bool) {
    let queue = Arc::new(Mutex::new(vec![1, 2, 3]));
    let clears = queue.clone();
    ctx.after_func(move || clears.lock().unwrap().clear());
    {
        let mut queue = queue.lock().unwrap();
        for _ in 0..2 {
            if !looks(&ctx) {
                queue.pop();
            }
        }
    }
    ctx.done().await;
    rt::yield_now().await;
    assert!(queue.lock().unwrap().is_empty());
}

#[test]
fn a_lock_may_be_held_over_a_look_where_functions_come_after_turns() {
    for checker in [Checker::new(), Checker::tokio()] {
        for kind in [Inject::Cancel, Inject::Deadline] {
            let checker = checker.clone().inject(kind).functions_after_turns();
            checker.run(|ctx| drains_with_a_lock(ctx, Context::is_done)).assert_clean();
            let derives = |ctx: &Context| ctx.with_cancel().0.is_done();
            checker.run(|ctx| drains_with_a_lock(ctx, derives)).assert_clean();
            checker.run(|ctx| asks_as_its_lease_runs_out(ctx, true)).assert_clean();
        }
    }
}

/// Expects an end that it sees to have run its functions, which may come later.
async fn counts_on_a_function(ctx: Context) {
    let told = Arc::new(AtomicBool::new(false));
    let flag = told.clone();
    ctx.after_func(move || flag.store(true, Ordering::SeqCst));
    let goes_on = !ctx.is_done();
    if goes_on && ctx.is_done() {
        assert!(told.load(Ordering::SeqCst), "ended, and nobody was told");
    }
}

#[test]
fn a_function_after_the_turn_is_after_what_the_turn_has_seen_and_the_token_knows() {
    for checker in [Checker::new(), Checker::tokio()] {
        checker.run(counts_on_a_function).assert_clean();
        let report = checker.functions_after_turns().run(counts_on_a_function);
        assert_eq!(report.violations().len(), 1, "{report}");
        let violation = &report.violations()[0];
        assert_eq!(violation.waiting_for(), Some("ended, and nobody was told"), "{report}");
        let again = Checker::replay(violation.replay()).run(counts_on_a_function);
        assert_eq!(found(&again), found(&report), "{again}");
    }
}

#[test]
fn what_was_to_come_after_a_turn_that_went_wrong_is_dropped_and_not_called() {
    let (called, at_once) = (Arc::new(AtomicU32::new(0)), AtomicU32::new(0));
    let checker = Checker::exhaustive().inject(Inject::Cancel).functions_after_turns();
    let report = checker.run(|ctx| async {
        let ctx = ctx;
        if ctx.is_done() {
            return;
        }
        let (before, calls) = (called.load(Ordering::SeqCst), called.clone());
        let function = ctx.after_func(move || {
            calls.fetch_add(1, Ordering::SeqCst);
        });
        // Called at once, where the end came before the function.
        at_once.fetch_add(called.load(Ordering::SeqCst) - before, Ordering::SeqCst);
        let goes_on = !ctx.is_done();
        if goes_on && ctx.is_done() {
            panic!("on purpose");
        }
        function.stop();
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(called.load(Ordering::SeqCst), at_once.load(Ordering::SeqCst));
}

#[test]
fn a_pipeline_ends_as_well_where_functions_come_after_turns() {
    let checker = Checker::new().inject([Inject::Cancel, Inject::Deadline]).max_schedules(1_000);
    let report = checker.functions_after_turns().run(|ctx| async move {
        let pipeline = Pipeline::from_iter(&ctx, 0..4).dispatch(2, |ctx, n| async move {
            let _ = ctx.run(rt::yield_now()).await;
            n
        });
        let mut results = pipeline.run();
        while results.next().await.is_some() {}
        assert!(results.finish().await.conserved());
    });
    report.assert_clean();
}

// ---------------------------------------------------------------------- points that count

/// A request ends with the server, whose context is not watched here. The body takes that for
/// the only end there is.
async fn shut_down_meanwhile(ctx: Context) {
    let (server, shutdown) = Context::background().with_cancel();
    let (request, _canceller) = ctx.linked(&[&server]);
    let shuts_down = rt::spawn(async move { shutdown.cancel_with("shutting down") });
    shuts_down.await.unwrap();
    let why = request.cause().map(|cause| cause.to_string());
    if ctx.is_done() && why.as_deref() == Some("shutting down") {
        pending::<()>().await;
    }
}

#[test]
fn an_end_that_comes_from_outside_of_what_is_watched_counts_as_one_that_comes_from_within() {
    let report = Checker::exhaustive().max_delays(0).run(shut_down_meanwhile);
    assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("body"))], "{report}");
    let report = Checker::exhaustive().max_delays(0).run(|ctx| async move {
        let token = tokio_util::sync::CancellationToken::new();
        let (request, _canceller) = ctx.with_token(&token);
        rt::spawn(async move { token.cancel() }).await.unwrap();
        if ctx.is_done() && request.cause().is_some_and(|cause| cause.origin().is_none()) {
            pending::<()>().await;
        }
    });
    assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("body"))], "{report}");
}

#[test]
fn a_cancel_that_runs_a_function_comes_at_each_point() {
    // No task waits for a context, and none is looked at near the wait.
    let report = Checker::exhaustive().max_delays(0).run(|ctx| async move {
        let (stopped, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (flag, tell) = (stopped.clone(), stop.clone());
        ctx.after_func(move || {
            flag.store(true, Ordering::SeqCst);
            tell.notify_waiters();
        });
        for round in 0..20 {
            rt::yield_now().await;
            if round == 10 && !stopped.load(Ordering::SeqCst) {
                rt::yield_now().await;
                stop.notified().await;
            }
        }
    });
    assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("body"))], "{report}");
}

#[test]
fn an_end_may_come_while_all_sleep_before_time_moves() {
    Checker::exhaustive()
        .max_delays(0)
        .run(|ctx| async move {
            let sleeps = Arc::new(AtomicBool::new(false));
            let (asleep, began) = (sleeps.clone(), rt::now());
            ctx.after_func(move || {
                let asleep = asleep.load(Ordering::SeqCst);
                check::sometimes("it ends at once, as all sleep", asleep && rt::now() == began);
            });
            sleeps.store(true, Ordering::SeqCst);
            rt::sleep(secs(1)).await;
            sleeps.store(false, Ordering::SeqCst);
        })
        .assert_clean();
}

#[test]
fn a_search_ends_where_no_delay_leads_any_further() {
    let runs = Cell::new(0);
    let within = |delays| {
        Checker::exhaustive().max_delays(delays).run(|ctx| {
            runs.set(runs.get() + 1);
            async move {
                let _ = ctx.is_done();
                let other = rt::spawn(rt::yield_now());
                rt::yield_now().await;
                other.await.unwrap();
            }
        })
    };
    let report = within(300_000);
    assert!(report.complete() && report.covered().contains("within 300000 delays"), "{report}");
    assert!(runs.get() < 1_000, "{}", runs.get());
    assert_eq!(within(12).schedules(), report.schedules());
}

// ---------------------------------------------------------------------------------- faults

#[test]
fn a_fault_after_the_end_of_the_body_is_one_like_the_others() {
    async fn says_goodbye_alone(ctx: Context) {
        let (answer, answered) = oneshot::channel::<()>();
        let answer = std::mem::ManuallyDrop::new(answer);
        detach("goodbye", async move {
            ctx.done().await;
            check::fault("cleanup");
            let _ = std::mem::ManuallyDrop::into_inner(answer).send(());
        });
        detach("waits", async move {
            let _ = answered.await;
        });
    }
    let report = Checker::exhaustive().inject(Inject::Panic).run(says_goodbye_alone);
    assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("waits"))], "{report}");
    let report = Checker::tokio().inject(Inject::Panic).run(|ctx| async move {
        let (answer, answered) = oneshot::channel::<()>();
        let answer = std::mem::ManuallyDrop::new(answer);
        tokio::spawn(async move {
            ctx.done().await;
            check::fault("cleanup");
            let _ = std::mem::ManuallyDrop::into_inner(answer).send(());
        });
        tokio::spawn(async move {
            let _ = answered.await;
        });
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, None)], "{report}");
}

#[test]
fn a_fault_comes_at_no_more_points_than_the_maximum() {
    let body = |panicked: Arc<Mutex<std::collections::BTreeSet<u32>>>| {
        move |_: Context| {
            let panicked = panicked.clone();
            async move {
                for nth in 0..10 {
                    if std::panic::catch_unwind(|| check::fault("here")).is_err() {
                        panicked.lock().unwrap().insert(nth);
                    }
                }
            }
        }
    };
    for checker in [Checker::exhaustive(), Checker::random(1, 500), Checker::pct(1, 3, 500)] {
        let panicked = Arc::default();
        let checker = checker.inject(Inject::Panic);
        let report = checker.clone().max_points(3).run(body(Arc::clone(&panicked)));
        assert_eq!(panicked.lock().unwrap().iter().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(report.points(), 3, "{report}");
        assert!(!report.complete() && report.is_clean(), "{report}");
        assert!(checker.max_points(10).run(body(Arc::default())).complete());
    }
}

/// Comes to a fault point when it is dropped.
struct CleansUp;

impl Drop for CleansUp {
    fn drop(&mut self) {
        check::fault("cleanup");
    }
}

#[test]
fn a_fault_point_reached_while_a_panic_unwinds_does_not_end_the_process() {
    async fn fails_and_recovers(_ctx: Context) {
        let failed = std::panic::catch_unwind(|| {
            let _cleans_up = CleansUp;
            check::fault("work");
            panic!("not done");
        });
        assert!(failed.is_err());
        drop(CleansUp);
    }
    let report = Checker::exhaustive().inject(Inject::Panic).run(fails_and_recovers);
    assert_eq!(report.points(), 2, "{report}");
    report.assert_clean();
    Checker::tokio().inject(Inject::Panic).run(fails_and_recovers).assert_clean();
}

// ------------------------------------------------------------------------------------ time

#[test]
fn a_timer_is_that_of_whoever_waits_for_it_last() {
    let moved = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        let mut sleep = Box::pin(rt::sleep(secs(10)));
        assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await.is_pending());
        detach("sleeper", sleep);
    });
    assert_eq!(found(&moved), [(ViolationKind::LeakedTask, Some("sleeper"))], "{moved}");
    assert_eq!(moved.violations()[0].waiting_for(), Some("a time"));
    let taken_over = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        let (late, canceller) = ctx.without_cancel().with_timeout(secs(10));
        canceller.detach();
        let mut done = late.done();
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut done).poll(cx))).await.is_pending());
        detach("waiter", async move {
            done.await;
        });
    });
    assert_eq!(found(&taken_over), [(ViolationKind::LeakedTask, Some("waiter"))], "{taken_over}");
}

#[test]
fn a_timer_that_several_wait_for_is_that_of_each() {
    let shared = Checker::new().run(|ctx| async move {
        let sleep = rt::sleep(secs(10)).shared();
        let (slept, polite) = (sleep.clone(), ctx.clone());
        let polite = rt::spawn_named("polite", async move {
            let _ = polite.run(slept).await;
        });
        let deaf = rt::spawn_named("deaf", sleep);
        polite.await.unwrap();
        let _ = ctx.run(deaf).await;
    });
    assert_eq!(found(&shared), [(ViolationKind::LeakedTask, Some("deaf"))], "{shared}");
}

#[test]
fn a_timer_that_a_task_has_given_away_does_not_make_it_go_on() {
    // `giver` would be told as a task that goes on, if the timer were still its own.
    let report = Checker::exhaustive().max_delays(0).run(|ctx| async move {
        let _ = ctx.is_done();
        let (give, given) = oneshot::channel();
        detach("giver", async move {
            let mut sleep = Box::pin(rt::sleep(secs(10)));
            assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await.is_pending());
            let _ = give.send(sleep);
            pending::<()>().await;
        });
        detach("taker", async move { given.await.unwrap().await });
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("taker"))], "{report}");
}

#[test]
fn a_task_that_a_function_at_a_deadline_will_wake_goes_on_though_it_waited_for_that_itself_before()
{
    let report = Checker::exhaustive().max_delays(0).run(|ctx: Context| async move {
        let (bounded, canceller) = Context::background().with_timeout(secs(3_600));
        canceller.detach();
        detach("first", async move {
            let mut done = bounded.done();
            assert!((&mut done).now_or_never().is_none());
            let (give, given) = oneshot::channel::<()>();
            std::mem::forget(bounded.after_func(move || drop(give)));
            drop(done);
            let _ = given.await;
        });
        let _ = ctx.run(rt::sleep(Duration::from_millis(5))).await;
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("first"))], "{report}");
}

#[test]
fn a_deadline_that_a_task_has_stopped_waiting_for_does_not_make_it_go_on() {
    // What each does with a deadline an hour away before it is blocked for good.
    async fn leaves(bounded: Context, how: u32) {
        match how {
            0 => drop(bounded.run(rt::sleep(Duration::from_millis(1))).await),
            1 => drop(bounded.done().now_or_never()),
            _ => {
                let (mut one, mut other) = (bounded.done(), bounded.done());
                assert!((&mut one).now_or_never().is_none());
                assert!((&mut other).now_or_never().is_none());
            }
        }
    }
    // What keeps it going on, for all that it does beside.
    async fn stays(bounded: Context, how: u32) -> Box<dyn Send> {
        let mut kept = Box::new(bounded.done());
        match how {
            0 => drop(bounded.run(rt::yield_now()).await),
            1 => {
                let (give, given) = oneshot::channel::<()>();
                std::mem::forget(bounded.after_func(move || drop(give)));
                drop(bounded.run(rt::yield_now()).await);
                return Box::new(given);
            }
            _ => {}
        }
        assert!((&mut *kept).now_or_never().is_none());
        let _ = bounded.done().now_or_never();
        kept
    }
    for how in 0..3 {
        let report = Checker::exhaustive().max_delays(0).run(move |ctx: Context| async move {
            let (bounded, canceller) = Context::background().with_timeout(secs(3_600));
            canceller.detach();
            let (first, second) = (bounded.clone(), bounded);
            detach("first", async move {
                leaves(first, how).await;
                pending::<()>().await;
            });
            detach("second", async move {
                let _ = second.done().await;
            });
            let _ = ctx.run(rt::sleep(Duration::from_millis(5))).await;
        });
        let second = [(ViolationKind::LeakedTask, Some("second"))];
        assert_eq!(found(&report), second, "{how}: {report}");

        let report = Checker::exhaustive().max_delays(0).run(move |ctx: Context| async move {
            let (bounded, canceller) = Context::background().with_timeout(secs(3_600));
            canceller.detach();
            detach("first", async move {
                let _kept = stays(bounded, how).await;
                pending::<()>().await;
            });
            let _ = ctx.run(rt::sleep(Duration::from_millis(5))).await;
        });
        assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("first"))], "{how}: {report}");
    }
}

#[test]
fn a_timer_that_is_kept_when_all_has_ended_is_told() {
    let report = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        let mut sleep = Box::pin(rt::sleep(secs(10)));
        assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await.is_pending());
        std::mem::forget(sleep);
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedContext, None)], "{report}");
    let what = report.violations()[0].waiting_for().unwrap();
    assert!(what.contains("a timer is still pending"), "{what}");
}

#[test]
fn the_time_to_stop_counts_from_the_injection_and_not_from_the_end_of_the_body() {
    async fn ends_late(ctx: Context, late: Duration) {
        let begins = ctx.clone();
        detach("late", async move {
            begins.done().await;
            rt::sleep(late).await;
        });
        ctx.done().await;
        rt::sleep(Duration::from_millis(600)).await;
    }
    // Without a delay: time that moves before the task's turn does not count.
    let checker = Checker::exhaustive().max_delays(0);
    checker.run(|ctx| ends_late(ctx, Duration::from_millis(900))).assert_clean();
    let report = checker.run(|ctx| ends_late(ctx, Duration::from_millis(1_500)));
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("late"))], "{report}");
}

#[test]
fn a_timer_that_is_due_at_the_deadline_itself_rings_with_it() {
    let points = |time: Duration| {
        let checker = Checker::exhaustive().max_delays(0).inject(Inject::Deadline);
        let report = checker.run(|ctx| async move {
            let due = rt::now() + time;
            let _ = ctx.is_done();
            rt::sleep_until(if ctx.is_done() { rt::now() } else { due }).await;
            for _ in 0..5 {
                rt::yield_now().await;
            }
        });
        report.assert_clean();
        report.points()
    };
    // A sleep of this length ends once the injection has come.
    assert_eq!(points(secs(3_600)), points(secs(3_600) + Duration::from_nanos(1)));
    assert!(points(secs(3_600)) < points(secs(3_599)));
}

#[test]
fn timers_before_the_deadline_ring_each_at_its_time() {
    let times = Mutex::new(Vec::new());
    let report = Checker::exhaustive().inject(Inject::Deadline).run(|ctx| {
        let times = &times;
        async move {
            let (one, canceller) = Context::background().with_timeout(secs(1));
            canceller.detach();
            let (began, rang) = (rt::now(), Arc::new(Mutex::new(None)));
            let rings = rang.clone();
            let function = one.after_func(move || *rings.lock().unwrap() = Some(rt::now() - began));
            ctx.done().await;
            function.stop();
            times.lock().unwrap().push(*rang.lock().unwrap());
        }
    });
    report.assert_clean();
    let times = times.into_inner().unwrap();
    assert!(times.iter().flatten().all(|rang| *rang == secs(1)), "{times:?}");
    assert!(times.iter().any(Option::is_some), "{times:?}");
}

// ------------------------------------------------------------------ which task is to blame

#[test]
fn whoever_keeps_others_busy_is_to_blame_and_not_whoever_is_kept_busy() {
    let report = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        let (items, mut drained) = mpsc::channel(1);
        let drains =
            rt::spawn_named("drains", async move { while drained.recv().await.is_some() {} });
        let endless = rt::spawn_named("endless", async move {
            while items.send(()).await.is_ok() {
                rt::yield_now().await;
            }
        });
        drains.await.unwrap();
        endless.await.unwrap();
    });
    assert!(!report.is_clean());
    for violation in report.violations() {
        assert_eq!(violation.task(), Some("endless"), "{violation}");
    }
    let first = &report.violations()[0];
    assert!(first.count() > 1_000 && first.replay().len() < 30, "{first}");
}

#[test]
fn of_those_who_are_busy_alike_the_first_is_told_each_time() {
    let report = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        for name in ["one", "two"] {
            detach(name, async {
                loop {
                    rt::yield_now().await;
                }
            });
        }
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("one"))], "{report}");
}

#[test]
fn who_waits_for_all_tasks_of_a_group_is_not_to_blame_for_the_one_that_does_not_end() {
    let report = Checker::new().run(|ctx| async move {
        let manager = rt::spawn_named("manager", async move {
            let group = Group::new(&ctx);
            let deaf = |_| async {
                let (_kept, answer) = oneshot::channel::<()>();
                answer.await
            };
            let _ = group.spawn("worker", deaf).await;
            let _ = group.wait().await;
        });
        manager.await.unwrap();
    });
    assert_eq!(found(&report), [(ViolationKind::BlockedStage, Some("worker"))], "{report}");
}

#[test]
fn a_task_that_is_called_body_is_not_taken_for_the_body() {
    let report = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        detach("body", rt::sleep(secs(7)));
    });
    let (story, page) = (report.to_string(), report.to_html());
    assert!(story.contains("LeakedTask: the task `body` goes on"), "{story}");
    assert!(story.contains("`body`, spawned at "), "{story}");
    assert!(page.contains("<code>body</code>, spawned at "), "{page}");
}

#[test]
fn a_task_that_goes_on_comes_before_an_item_that_was_lost() {
    let report = Checker::new().run(|ctx| async move {
        let _ = ctx.is_done();
        drop(Tracked::new(1));
        detach("goes on", rt::sleep(secs(10)));
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("goes on"))], "{report}");
}
