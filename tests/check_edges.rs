//! The checker at its borders: other checkers, other threads, the tasks of a runtime, and
//! what earlier schedules leave behind.
#![cfg(all(not(loom), feature = "check"))]

use futures::{FutureExt as _, StreamExt as _};
use quell::channel::bounded;
use quell::check::{self, Checker, Inject, Report, Violation, ViolationKind};
use quell::{Context, ContextError, Group, Pipeline, rt};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{pending, poll_fn};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::sync::{Barrier, mpsc, oneshot, watch};

mod library;

/// Each violation comes again when its token is replayed.
fn comes_again<F, Fut>(report: &Report, body: F)
where
    F: Fn(Context) -> Fut + Copy,
    Fut: Future,
{
    assert!(!report.is_clean());
    for violation in report.violations() {
        let again = Checker::try_replay(violation.replay(), body).unwrap();
        let same = &again.violations()[0];
        assert_eq!(same.kind(), violation.kind(), "{violation}\n{same}");
        assert_eq!(same.task(), violation.task());
        assert_eq!(same.waiting_at(), violation.waiting_at());
        assert_eq!(same.replay(), violation.replay());
    }
}

// ------------------------------------------------------------- looks that are counted

/// `after_func` is one look that is not only counted, among others that are.
async fn looks_for_ever(ctx: Context) {
    let _first = ctx.after_func(|| {});
    while !ctx.is_done() {}
}

async fn looks_for_ever_after_a_fault(ctx: Context) {
    let _ = (ctx.is_done(), ctx.is_done());
    let _ = std::panic::catch_unwind(|| check::fault("here"));
    while !ctx.is_done() {}
}

#[test]
fn who_looks_for_ever_is_the_same_again_whatever_came_between_its_looks() {
    comes_again(&Checker::new().inject(Inject::None).run(looks_for_ever), looks_for_ever);
    let report = Checker::new().inject(Inject::Panic).run(looks_for_ever_after_a_fault);
    comes_again(&report, looks_for_ever_after_a_fault);
}

/// Panics when it is polled, and looks at its context when it is dropped.
struct LooksAtItsEnd(Context);

impl Future for LooksAtItsEnd {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> Poll<()> {
        panic!("a panic of its own")
    }
}

impl Drop for LooksAtItsEnd {
    fn drop(&mut self) {
        let _ = (self.0.is_done(), self.0.is_done());
    }
}

#[test]
fn a_panic_is_the_same_again_though_what_is_thrown_away_looks_at_its_context() {
    async fn body(ctx: Context) {
        let _ = rt::spawn_named("panics", LooksAtItsEnd(ctx)).await;
    }
    comes_again(&Checker::new().inject([Inject::None, Inject::Drop]).run(body), body);
}

// ------------------------------------------------------------------------ what is told

#[test]
fn tasks_that_hang_in_one_line_under_two_injections_are_two() {
    async fn lingers() {
        rt::sleep(Duration::from_secs(10)).await;
    }
    async fn body(ctx: Context) {
        let cancelled = ctx.done().await == ContextError::Cancelled;
        drop(rt::spawn_named(if cancelled { "cancelled" } else { "too late" }, lingers()));
    }
    let report = Checker::new().inject([Inject::Cancel, Inject::Deadline]).run(body);
    let tasks: Vec<_> = report.violations().iter().map(|violation| violation.task()).collect();
    assert_eq!(tasks, [Some("cancelled"), Some("too late")], "{report}");
    comes_again(&report, body);
}

/// The line of this file that ends with `mark`.
fn line(mark: &str) -> u32 {
    let mark = format!("// <- {mark}");
    let at = include_str!("check_edges.rs").lines().position(|line| line.ends_with(&mark));
    at.expect("it is there") as u32 + 1
}

/// Kind and task of each violation.
fn found(report: &Report) -> Vec<(ViolationKind, Option<&str>)> {
    report.violations().iter().map(|one| (one.kind(), one.task())).collect()
}

/// The lines of the violations, with their counts.
fn lines(report: &Report) -> BTreeMap<u32, u64> {
    let line = |violation: &check::Violation| violation.waiting_at().map_or(0, |at| at.line());
    report.violations().iter().map(|one| (line(one), one.count())).collect()
}

/// Its two awaits are in another library and come after the same number of turns: only a stack
/// trace can tell them apart.
async fn hangs_here_or_there(ctx: Context, here: bool) {
    let (_send, mut receive) = mpsc::channel::<()>(1);
    let (_other, mut other) = mpsc::channel::<()>(1);
    let looks = ctx.clone();
    let worker = rt::spawn_named("worker", async move {
        if looks.is_done() {
            if here {
                receive.recv().await; // <- here
            }
        } else {
            other.recv().await; // <- there
        }
    });
    ctx.done().await;
    let _ = worker.await;
}

#[test]
fn two_lines_of_one_task_are_two_violations_each_with_its_count() {
    async fn both(ctx: Context) {
        hangs_here_or_there(ctx, true).await;
    }
    for checker in [Checker::new(), Checker::random(1, 400), Checker::pct(1, 3, 400)] {
        let alone = checker.run(|ctx| hangs_here_or_there(ctx, false));
        let times = alone.violations()[0].count();
        assert_eq!(lines(&alone), BTreeMap::from([(line("there"), times)]), "{alone}");
        let report = checker.run(both);
        let rest = report.schedules() - times;
        let expected = BTreeMap::from([(line("here"), rest), (line("there"), times)]);
        assert_eq!(lines(&report), expected, "{report}");
        comes_again(&report, both);
    }
}

/// How the worker below comes to be told one thing or the other.
#[derive(Clone, Copy, Debug)]
enum Told {
    Look,
    Choice,
    WhoeverIsFirst,
}

/// Hangs in one of two awaits, after the same number of its own turns, as others tell it.
async fn hangs_as_it_is_told(ctx: Context, told: Told, here: bool) {
    let (_send, mut receive) = mpsc::channel::<()>(1);
    let (_other, mut other) = mpsc::channel::<()>(1);
    let (tell, mut hear) = mpsc::unbounded_channel();
    let worker = rt::spawn_named("worker", async move {
        if hear.recv().await == Some(true) {
            if here {
                receive.recv().await; // <- told so
            }
        } else {
            other.recv().await; // <- told otherwise
        }
    });
    let looks = ctx.clone();
    for name in ["first", "second"] {
        let (tell, looks) = (tell.clone(), looks.clone());
        drop(rt::spawn_named(name, async move {
            for _ in 0..8 {
                rt::yield_now().await;
            }
            let first = name == "first";
            let tells = match told {
                Told::Look => first.then(|| looks.is_done()),
                Told::Choice => first.then(|| rt::choose(2) == 1),
                Told::WhoeverIsFirst => Some(first),
            };
            if let Some(so) = tells {
                let _ = tell.send(so);
            }
        }));
    }
    ctx.done().await;
    let _ = worker.await;
}

#[test]
fn two_lines_that_only_what_was_received_tells_apart_are_two_violations() {
    for told in [Told::Look, Told::Choice, Told::WhoeverIsFirst] {
        let checker = Checker::exhaustive().max_delays(1);
        let alone = checker.run(|ctx| hangs_as_it_is_told(ctx, told, false));
        let times = alone.violations()[0].count();
        let report = checker.run(|ctx| hangs_as_it_is_told(ctx, told, true));
        let rest = report.schedules() - times;
        let expected = [(line("told so"), rest), (line("told otherwise"), times)];
        assert_eq!(lines(&report), BTreeMap::from(expected), "{told:?}: {report}");
    }
}

#[test]
fn a_violation_is_told_by_a_simpler_schedule_only_if_that_shows_the_same() {
    // An earlier end makes it the other violation.
    async fn body(ctx: Context) {
        let (send, mut receive) = mpsc::channel(1);
        let (_other, mut other) = mpsc::channel::<()>(1);
        let looks = ctx.clone();
        let worker = rt::spawn_named("worker", async move {
            let mut items = 0;
            loop {
                if looks.is_done() && items >= 10 {
                    other.recv().await; // <- late
                }
                receive.recv().await; // <- early
                items += 1;
            }
        });
        for item in 0..20 {
            if ctx.run(send.send(item)).await.is_err() {
                break;
            }
        }
        ctx.done().await;
        let _ = worker.await;
    }
    for checker in [Checker::new(), Checker::exhaustive()] {
        let report = checker.run(body);
        let lines: Vec<_> = lines(&report).into_keys().collect();
        assert_eq!(lines, [line("late"), line("early")], "{report}");
        comes_again(&report, body);
    }
}

#[test]
fn a_branch_that_has_lost_hides_no_line() {
    async fn body(ctx: Context) {
        let (_silent, mut nothing) = bounded::<()>(1);
        let [(one, _reads_one), (other, _reads_other)] = [(); 2].map(|()| bounded(1));
        let start = Arc::new(tokio::sync::Notify::new());
        let (started, looks) = (Arc::clone(&start), ctx.clone());
        let worker = rt::spawn_named("worker", async move {
            tokio::select! {
                biased;
                _ = nothing.recv() => {}
                () = started.notified() => {
                    if looks.is_done() {
                        let _ = one.send(1).await;
                        let _ = one.send(2).await; // <- after the end
                    } else {
                        let _ = other.send(1).await;
                        let _ = other.send(2).await; // <- before it
                    }
                }
            }
        });
        start.notify_one();
        rt::yield_now().await;
        ctx.done().await;
        let _ = worker.await;
    }
    let report = Checker::new().run(body);
    let lines: BTreeSet<_> = lines(&report).into_keys().collect();
    assert_eq!(lines, BTreeSet::from([line("after the end"), line("before it")]), "{report}");
    comes_again(&report, body);
}

#[test]
fn who_goes_on_past_times_that_have_come_is_busy_and_has_its_line() {
    async fn body(ctx: Context) {
        drop(rt::spawn_named("sleeper", async {
            loop {
                rt::sleep(Duration::ZERO).await; // <- sleeps for no time
            }
        }));
        ctx.done().await;
    }
    async fn deadline_gone_by(ctx: Context) {
        let until = rt::now();
        ctx.done().await;
        loop {
            rt::sleep_until(until).await; // <- until what has gone by
        }
    }
    async fn made_anew(ctx: Context) {
        ctx.done().await;
        loop {
            rt::interval(Duration::from_secs(1)).tick().await; // <- a first tick each time
        }
    }
    fn shows<F: Future>(body: impl Fn(Context) -> F + Copy, kinds: &[Inject], task: &str, at: u32) {
        for &kind in kinds {
            let report = Checker::exhaustive().max_steps(300).inject(kind).run(body);
            assert_eq!(lines(&report).into_keys().collect::<Vec<_>>(), [at], "{report}");
            let violation = &report.violations()[0];
            assert_eq!(violation.kind(), ViolationKind::LeakedTask, "{report}");
            assert_eq!(violation.task(), Some(task));
            assert!(violation.waiting_for().unwrap().contains("never lets others run"));
            comes_again(&report, body);
        }
    }
    let ends = [Inject::Cancel, Inject::Deadline];
    let all = [Inject::Cancel, Inject::Deadline, Inject::Drop, Inject::None];
    shows(body, &all, "sleeper", line("sleeps for no time"));
    shows(deadline_gone_by, &ends, "body", line("until what has gone by"));
    shows(made_anew, &ends, "body", line("a first tick each time"));
}

#[test]
fn ticks_that_were_missed_are_made_up_however_many_they_are() {
    let report = Checker::new().inject(Inject::Deadline).run(|ctx| async move {
        let mut ticks = rt::interval(Duration::from_millis(100));
        let mut late = ticks.tick().await;
        while late + Duration::from_secs(10) < rt::now() || !ctx.is_done() {
            late = ticks.tick().await;
        }
    });
    assert!(report.violations().is_empty(), "{report}");
}

#[test]
fn a_ticker_that_looks_for_its_end_after_each_tick_makes_up_those_it_missed() {
    for period in [100, 300] {
        let report = Checker::random(1, 20).inject(Inject::Deadline).run(move |ctx| async move {
            let mut ticks = rt::interval(Duration::from_millis(period));
            loop {
                tokio::select! {
                    biased;
                    _ = ticks.tick() => {}
                    _ = ctx.done() => break,
                }
            }
        });
        report.assert_clean();
    }
    // Each has its own looks.
    let report = Checker::random(1, 20).inject(Inject::Deadline).run(|ctx| async move {
        let mut ticks = rt::interval(Duration::from_millis(100));
        loop {
            let due = ticks.tick().await;
            if (ctx.is_done() || ctx.err().is_some()) && due + ticks.period() > rt::now() {
                break;
            }
        }
    });
    report.assert_clean();
}

#[test]
fn contexts_that_are_kept_are_told_by_the_lines_that_made_them() {
    async fn body(ctx: Context) {
        let (kept, _canceller) = match rt::choose(2) {
            0 => ctx.with_cancel(), // <- first
            _ => ctx.with_cancel(), // <- second
        };
        std::mem::forget(kept);
        ctx.done().await;
    }
    let report = Checker::new().run(body);
    let found = lines(&report);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [line("first"), line("second")]);
    assert_eq!(found.values().sum::<u64>(), report.schedules(), "{report}");
    comes_again(&report, body);
}

#[test]
fn who_is_ready_as_another_panics_waits_for_its_turn() {
    let report = Checker::new().inject(Inject::None).run(|_| async {
        let (_send, mut receive) = mpsc::channel::<()>(1);
        let waits = rt::spawn_named("waits", async move { receive.recv().await });
        rt::yield_now().await;
        drop(rt::spawn_named("panics", async { panic!("a panic of its own") }));
        drop(rt::spawn_named("ready", async {}));
        let _ = waits.await;
    });
    let story = report.violations()[0].to_string();
    assert!(story.contains("`ready`, for its turn\n"), "{story}");
    assert!(story.contains(", for tokio::sync::mpsc"), "{story}");
    assert!(!story.contains("left its waker nowhere"), "{story}");
}

#[test]
fn the_story_of_a_schedule_ends_where_the_schedule_does() {
    let report = Checker::new().run(|ctx| async move {
        let (_send, receive) = bounded::<()>(1);
        let _keeps = receive;
        ctx.done().await;
        pending::<()>().await;
    });
    let story = report.violations()[0].to_string();
    assert!(!story.contains("notifies its waiters"), "{story}");
}

#[test]
fn time_stands_still_only_where_it_does() {
    let told = |step: u64| {
        let report = Checker::new().stop_at_first().max_steps(200).run(move |ctx| async move {
            drop(rt::spawn_named("ticks", async move {
                loop {
                    match step {
                        0 => rt::yield_now().await,
                        _ => rt::sleep(Duration::from_nanos(step)).await,
                    }
                }
            }));
            ctx.done().await;
        });
        report.violations()[0].to_string()
    };
    assert!(
        told(1).contains("is busy, and has not ended within its steps (`max_steps`)\n"),
        "{}",
        told(1)
    );
    assert!(told(0).contains("is busy while time stands still, and has"), "{}", told(0));
}

/// Notices the end at once, and then takes `long` milliseconds to stop.
async fn takes(ctx: Context, long: u64) {
    let _ = ctx.run(rt::sleep(Duration::from_millis(950))).await;
    rt::sleep(Duration::from_millis(long)).await;
}

/// Takes 20 ms to stop, beside a task that is woken each second.
async fn takes_beside_a_heart(ctx: Context) {
    let inside = ctx.clone();
    let heart = rt::spawn_named("heart", async move {
        let mut beats = rt::interval(Duration::from_secs(1));
        while inside.run(beats.tick()).await.is_ok() {}
    });
    let _ = ctx.run(rt::sleep(Duration::from_secs(10))).await;
    rt::sleep(Duration::from_millis(20)).await;
    heart.await.unwrap();
}

#[test]
fn by_priorities_nobody_is_passed_over_for_ever_while_time_and_another_take_turns() {
    for inject in [Inject::Cancel, Inject::None] {
        let checker = Checker::pct(1, 2, 2_000).inject([inject]);
        let report = checker.run(|ctx| async move {
            let heart = rt::spawn_named("heart", async {
                let mut beats = rt::interval(Duration::from_millis(100));
                loop {
                    beats.tick().await;
                }
            });
            let _ = ctx.run(rt::sleep(Duration::from_secs(1))).await;
            heart.abort();
            let _ = heart.await;
        });
        report.assert_clean();
    }
}

#[test]
fn time_that_moves_though_tasks_are_ready_is_none_of_the_time_they_have_to_stop() {
    Checker::new().run(|ctx| takes(ctx, 100)).assert_clean();
    Checker::new().max_schedules(5_000).run(takes_beside_a_heart).assert_clean();
    let report = Checker::new().run(|ctx| takes(ctx, 1_001));
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask, "{report}");
}

// -------------------------------------------------------------------------- determinism

/// Tokio chooses which arm is tried first; that matters only where both are ready.
async fn unbiased(ctx: Context) {
    let (send, mut receive) = mpsc::channel::<u32>(1);
    let worker = rt::spawn_named("worker", async move {
        let _ = send.send(1).await;
    });
    tokio::select! {
        _ = ctx.done() => rt::sleep(Duration::from_millis(1)).await,
        _ = receive.recv() => {}
    }
    let _ = worker.await;
}

/// The same, where one arm leads to a hang.
async fn unbiased_and_hangs(ctx: Context) {
    let (send, mut receive) = mpsc::channel::<u32>(1);
    let worker = rt::spawn_named("worker", async move {
        let _ = send.send(1).await;
    });
    tokio::select! {
        _ = ctx.done() => {}
        _ = receive.recv() => {
            if ctx.is_done() {
                pending::<()>().await;
            }
        }
    }
    let _ = worker.await;
}

#[test]
fn a_select_that_is_not_biased_is_noticed_in_nearly_every_check() {
    let all =
        [Checker::new(), Checker::exhaustive(), Checker::random(1, 400), Checker::pct(1, 3, 400)];
    for checker in all {
        let noticed = |_: &u32| {
            let report = checker.run(unbiased);
            report.violations().iter().any(|one| one.kind() == ViolationKind::Nondeterministic)
        };
        let times = (0..30).filter(noticed).count();
        assert!(times >= 27, "{times} of 30 times by {checker:?}");
    }
}

#[test]
fn names_that_are_counted_on_from_schedule_to_schedule_are_told_as_what_differs() {
    static WORKERS: AtomicUsize = AtomicUsize::new(0);
    let report = Checker::new().run(|ctx| async move {
        let name = format!("worker-{}", WORKERS.fetch_add(1, Ordering::SeqCst));
        let worker = rt::spawn_named(name, async {});
        let _ = ctx.run(worker).await;
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::Nondeterministic, "{report}");
    let why = violation.waiting_for().unwrap();
    let spawned = format!("the task spawned at tests/check_edges.rs:{}:", line!() - 6);
    assert!(why.starts_with(&spawned), "{why}");
    assert!(why.contains("was once called `worker-") && why.contains("begin anew"), "{why}");
}

type Orders = Mutex<BTreeSet<Vec<usize>>>;

/// Tokio picks at random in which of eight lists each watcher waits, and wakes list by list.
async fn watched(ctx: Context, orders: &Orders) {
    let (tell, told) = watch::channel(false);
    let order = Arc::new(Mutex::new(Vec::new()));
    let watchers = [1, 2, 3].map(|nth| {
        let (mut told, order) = (told.clone(), Arc::clone(&order));
        rt::spawn(async move {
            // Also returns when the sender is dropped.
            let _ = told.wait_for(|is| *is).await;
            order.lock().unwrap().push(nth);
        })
    });
    let _ = ctx.run(rt::sleep(Duration::from_secs(5))).await;
    let _ = tell.send(true);
    for watcher in watchers {
        watcher.await.unwrap();
    }
    orders.lock().unwrap().insert(order.lock().unwrap().clone());
}

async fn at_a_barrier(ctx: Context) {
    let barrier = Arc::new(Barrier::new(3));
    let parties = [1, 2].map(|_| {
        let barrier = Arc::clone(&barrier);
        rt::spawn(async move {
            let _ = barrier.wait().await;
        })
    });
    barrier.wait().await;
    for party in parties {
        party.await.unwrap();
    }
    ctx.done().await;
}

#[test]
fn who_is_woken_in_an_order_of_chance_has_turns_in_one_of_the_checkers() {
    let orders = Orders::default();
    Checker::new()
        .inject([Inject::Cancel, Inject::Drop])
        .run(|ctx| watched(ctx, &orders))
        .assert_clean();
    assert_eq!(orders.lock().unwrap().len(), 6, "{orders:?}");
    Checker::new().run(at_a_barrier).assert_clean();
}

#[test]
fn who_is_woken_in_an_order_of_chance_is_told_in_the_same_words_each_time() {
    let body = |ctx: Context| async move {
        let orders = Orders::default();
        watched(ctx, &orders).await;
        pending::<()>().await;
    };
    let stories: BTreeSet<_> = (0..10)
        .map(|_| Checker::new().max_schedules(4).run(body).violations()[0].to_string())
        .collect();
    assert_eq!(stories.len(), 1, "{stories:?}");
}

#[test]
fn a_hang_that_comes_by_chance_is_not_told_as_one_that_always_comes() {
    let mut found = 0;
    for _ in 0..30 {
        let report = Checker::new().run(unbiased_and_hangs);
        for violation in report.violations() {
            assert_eq!(violation.kind(), ViolationKind::Nondeterministic, "{report}");
            found += 1;
        }
    }
    assert!(found > 0, "it hung in none of thirty checks");
}

#[test]
fn a_token_of_a_body_that_goes_by_chance_says_so() {
    // One time in five it does not hang, whatever the token.
    async fn body(ctx: Context) {
        thread_local! {
            static TURN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
        }
        ctx.done().await;
        if rt::choose(2) == 1 && TURN.replace(TURN.get() + 1) % 5 > 0 {
            pending::<()>().await;
        }
    }
    let steady = Checker::new().run(|ctx: Context| async move {
        ctx.done().await;
        if rt::choose(2) == 1 {
            pending::<()>().await;
        }
    });
    let deviations = steady.violations()[0].replay().splitn(3, '-').nth(2).unwrap().to_string();
    let own = Checker::new().inject(Inject::Cancel).run(body);
    let head = own.violations()[0].replay().splitn(3, '-').take(2).collect::<Vec<_>>().join("-");
    let again = Checker::try_replay(&format!("{head}-{deviations}"), body).unwrap();
    assert_eq!(again.violations()[0].kind(), ViolationKind::Nondeterministic, "{again}");
}

// --------------------------------------------------------------- points that are skipped

/// What the tasks of a small program have seen and told each other.
type Seen = Arc<Mutex<[Vec<u64>; 3]>>;

/// One of three tasks whose every step is drawn at random: it looks at its context, tells its
/// neighbour all that it knows, or hears what it was told and yields accordingly.
async fn gossips(ctx: Context, own: usize, mut chance: u64, seen: Seen, told: Seen) {
    let digest = |known: &[u64]| known.iter().fold(7, |all: u64, one| all.wrapping_mul(31) ^ one);
    for _ in 0..5 {
        chance = chance.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        match chance >> 61 {
            0 | 1 => seen.lock().unwrap()[own].push(ctx.is_done().into()),
            2 | 3 => {
                let all = digest(&seen.lock().unwrap()[own]);
                told.lock().unwrap()[(own + 1) % 3].push(all);
            }
            4 | 5 => {
                let heard = std::mem::take(&mut told.lock().unwrap()[own]);
                let turns = heard.iter().sum::<u64>() % 3;
                seen.lock().unwrap()[own].extend(heard);
                for _ in 0..turns {
                    rt::yield_now().await;
                }
            }
            6 => drop(ctx.with_cancel()),
            _ => rt::sleep(Duration::from_millis(1)).await,
        }
        rt::yield_now().await;
    }
}

#[test]
fn no_point_that_is_skipped_leads_to_what_the_others_do_not_whatever_tasks_tell_each_other() {
    // Every outcome of the program, and the number of schedules.
    let all = |program: u64, each_point: bool| {
        let outcomes = RefCell::new(BTreeSet::new());
        let outcomes = &outcomes;
        let report = Checker::exhaustive().run(|ctx| async move {
            if each_point {
                // A task has waited for an end, if not for this one: no point is skipped.
                let (other, _canceller) = Context::background().with_cancel();
                assert!(other.done().now_or_never().is_none());
            }
            let (seen, told) = (Seen::default(), Seen::default());
            let tasks = [0, 1, 2].map(|own| {
                let chance = program.wrapping_mul(3) + own as u64;
                rt::spawn(gossips(ctx.clone(), own, chance << 32, seen.clone(), told.clone()))
            });
            for task in tasks {
                task.await.unwrap();
            }
            let seen = seen.lock().unwrap().clone();
            outcomes.borrow_mut().insert(seen);
        });
        assert!(report.complete());
        (report.schedules(), outcomes.take())
    };
    let mut skipped = 0;
    for program in 0..12 {
        let (few, found) = all(program, false);
        let (many, expected) = all(program, true);
        assert_eq!(found, expected, "program {program}");
        skipped += many - few;
    }
    assert!(skipped > 1_000, "{skipped}");
}

// ------------------------------------------------------------------- far from the usual

#[test]
fn chance_has_the_injection_come_late_where_the_usual_way_is_short() {
    async fn body(ctx: Context) {
        if rt::choose(2) == 0 {
            let _ = ctx.is_done();
            return;
        }
        for round in 0..60 {
            if ctx.is_done() {
                if round > 40 {
                    rt::sleep(Duration::from_secs(10)).await;
                }
                return;
            }
            rt::yield_now().await;
        }
    }
    for checker in [Checker::random(1, 5_000), Checker::pct(1, 3, 5_000)] {
        let report = checker.run(body);
        assert_eq!(report.violations().len(), 1, "{report}");
        assert!(report.covered().contains("cancel at some of "), "{report}");
        comes_again(&report, body);
    }
    assert!(Checker::new().run(body).covered().contains("cancel at each of "));
}

#[test]
fn a_token_has_the_time_to_stop_to_the_nanosecond_and_for_ever() {
    async fn blocked(ctx: Context) {
        let _ = ctx.is_done();
        drop(rt::spawn_named("hangs", async {
            rt::sleep(Duration::from_nanos(1_400)).await;
            pending::<()>().await;
        }));
    }
    for time in [Duration::ZERO, Duration::from_nanos(1_500), Duration::from_secs(7), Duration::MAX]
    {
        comes_again(&Checker::new().stop_within(time).run(blocked), blocked);
    }
}

#[test]
fn a_waker_of_another_schedule_says_nothing_of_where_this_one_waits() {
    thread_local! {
        static KEPT: RefCell<VecDeque<Waker>> = const { RefCell::new(VecDeque::new()) };
    }
    // A token's schedule is run twelve times, and told in the last. The waker dropped here is the
    // one from twelve runs before: from the last run that was told.
    async fn body(_: Context) {
        poll_fn(|cx| {
            KEPT.with_borrow_mut(|kept| {
                kept.push_back(cx.waker().clone());
                let first = if kept.len() > 12 { kept.pop_front() } else { None };
                drop(first);
            });
            Poll::<()>::Pending
        })
        .await;
    }
    let report = Checker::new().stop_at_first().run(body);
    for _ in 0..4 {
        comes_again(&report, body);
    }
}

#[test]
#[should_panic(expected = "a patience of zero")]
fn a_patience_of_zero_is_refused() {
    let _ = Checker::new().patience(Duration::ZERO);
}

// --------------------------------------------------------------------------- panics

/// The only violation, which is a panic.
fn panicked(report: &Report) -> &Violation {
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Panicked, "{report}");
    &report.violations()[0]
}

/// Panics when it is dropped, unless its thread is already panicking.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

#[test]
fn a_result_that_nobody_waits_for_and_that_panics_as_it_is_dropped_is_told() {
    async fn body(ctx: Context, turns: u32) {
        let handle = rt::spawn_named("bombs", async { Bomb });
        for _ in 0..turns {
            rt::yield_now().await;
        }
        drop(handle);
        ctx.done().await;
    }
    for turns in [0, 2] {
        let report = Checker::new().run(|ctx| body(ctx, turns));
        assert!(!report.is_clean());
        for violation in report.violations() {
            assert_eq!(violation.kind(), ViolationKind::Panicked, "{report}");
            assert_eq!(violation.waiting_for(), Some("a bomb"));
        }
    }
    // The last handle may be dropped by the task or by the body.
    comes_again(&Checker::new().run(|ctx| body(ctx, 0)), |ctx| body(ctx, 0));
}

#[test]
fn an_item_that_panics_as_its_pipeline_is_stopped_is_told() {
    async fn body(ctx: Context) {
        let mut results = Pipeline::from_iter(&ctx, (0..1).map(|_| Bomb)).run();
        // This starts it, and the item waits behind its stage.
        assert!(!matches!(results.next().now_or_never(), Some(Some(_))));
        ctx.done().await;
        drop(results);
    }
    let report = Checker::new().run(body);
    assert_eq!(panicked(&report).waiting_for(), Some("a bomb"));
    comes_again(&report, body);
}

#[test]
fn a_panic_that_goes_around_the_hook_is_told() {
    let report = Checker::new().run(|ctx| async move {
        let task = rt::spawn_named("task", async { resume_unwind(Box::new("boom")) });
        let _: Result<(), _> = task.await;
        ctx.done().await;
    });
    assert_eq!(panicked(&report).waiting_for(), Some("boom"));
    assert_eq!(panicked(&report).task(), Some("task"));
    // Another panic, caught on purpose, has nothing to do with it.
    let report = Checker::new().run(|ctx| async move {
        let _ = std::panic::catch_unwind(|| panic!("on purpose"));
        ctx.done().await;
        resume_unwind(Box::new(String::from("boom")));
    });
    assert_eq!(panicked(&report).waiting_for(), Some("boom"));
    assert_eq!(panicked(&report).waiting_at(), None);
}

#[test]
fn a_function_at_the_end_that_panics_is_told() {
    let report = Checker::new().run(|ctx| async move {
        let _function = ctx.after_func(|| panic!("at the end"));
        ctx.done().await;
    });
    assert_eq!(report.violations()[0].waiting_for(), Some("at the end"), "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Panicked, "{report}");
}

#[test]
fn a_panic_that_the_program_catches_is_its_own_affair() {
    let report = Checker::new().run(|ctx| async move {
        let _ = std::panic::catch_unwind(|| panic!("on purpose"));
        ctx.done().await;
    });
    report.assert_clean();
}

#[test]
fn who_needs_a_runtime_of_tokios_is_told_how_to_be_checked() {
    type Body = fn() -> Pin<Box<dyn Future<Output = ()>>>;
    let bodies: [Body; 2] = [
        || Box::pin(async { drop(tokio::task::JoinSet::new().spawn(async {})) }),
        || {
            Box::pin(async {
                drop(tokio::time::timeout(Duration::from_secs(1), pending::<()>()).await)
            })
        },
    ];
    let hears = |body: Body| {
        let report = Checker::new().run(|_ctx| body());
        let message = panicked(&report).waiting_for().unwrap();
        assert!(message.contains("; check it with `Checker::tokio()`, or use "), "{message}");
        assert!(!message.contains(".;"), "{message}");
    };
    bodies.into_iter().for_each(hears);
    // In a test that is tokio's the message is another, which ends in a full stop.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    hears(bodies[1]);
}

/// Its item goes with the injected panic; if `loses`, another one is lost without it.
async fn panics_with_an_item(ctx: Context, loses: bool) {
    let worker = rt::spawn_named("worker", async {
        let item = check::Tracked::new("an order");
        check::fault("here");
        item.settle();
    });
    let _ = worker.await;
    let other = check::Tracked::new(1_u8);
    if !loses {
        other.settle();
    }
    ctx.is_done();
}

#[test]
fn an_item_that_goes_with_an_injected_panic_is_not_lost() {
    let checkers = [
        Checker::new(),
        #[cfg(feature = "tokio")]
        Checker::tokio(),
    ];
    for checker in checkers {
        let checker = checker.inject(Inject::Panic);
        checker.run(|ctx| panics_with_an_item(ctx, false)).assert_clean();
        let report = checker.run(|ctx| panics_with_an_item(ctx, true));
        assert_eq!(report.violations()[0].kind(), ViolationKind::LostItem);
        assert_eq!(report.violations()[0].waiting_for(), Some("u8"), "{report}");
    }
}

#[test]
fn a_wait_that_blocks_the_only_thread_is_told_with_its_line() {
    let report = Checker::new().run(|ctx| async move {
        ctx.wait();
    });
    let place = panicked(&report).waiting_at().expect("it is known");
    assert_eq!((place.file(), place.line()), ("tests/check_edges.rs", line!() - 3));
    let report = Checker::new().run(|ctx| async move {
        ctx.wait_timeout(Duration::from_secs(1));
    });
    let place = panicked(&report).waiting_at().expect("it is known");
    assert_eq!((place.file(), place.line()), ("tests/check_edges.rs", line!() - 3));
}

// ---------------------------------------------------------------------------- lines

#[test]
fn a_folder_of_the_users_may_be_called_library() {
    let report = Checker::new().run(|ctx| async move {
        let (keep, items) = mpsc::channel(1);
        let reads = rt::spawn_named("reads", library::reads(items));
        ctx.done().await;
        let _ = reads.await;
        drop(keep);
    });
    let violation = &report.violations()[0];
    let place = violation.waiting_at().expect("its waker was cloned there");
    assert_eq!((place.file(), place.line()), ("tests/library/mod.rs", 5), "{report}");
    assert!(violation.waiting_for().unwrap().starts_with("tokio::sync::mpsc"), "{report}");
}

/// Where the one task that hangs was spawned and where it waits, and for what.
fn hangs(report: &Report) -> (u32, u32, String) {
    let violation = &report.violations()[0];
    let line = |place: Option<&check::Place>| place.expect("it is known").line();
    let what = violation.waiting_for().expect("it is known").to_string();
    (line(violation.spawned_at()), line(violation.waiting_at()), what)
}

#[test]
fn a_librarys_future_that_is_a_task_of_its_own_waits_where_it_was_spawned() {
    let report = Checker::new().run(|ctx| async move {
        let (keep, wait) = oneshot::channel::<u32>();
        let task = rt::spawn_named("waits", wait);
        ctx.done().await;
        let _ = task.await;
        drop(keep);
    });
    let (spawned, waits, what) = hangs(&report);
    assert_eq!((spawned, waits), (line!() - 6, line!() - 6), "{report}");
    assert!(what.starts_with("tokio::sync::oneshot"), "{report}");
    let report = Checker::new().run(|ctx| async move {
        let (keep, wait) = oneshot::channel::<u32>();
        let group = Group::new(&ctx);
        let _ = group.spawn("waits", |_| wait.map(|_| Ok::<(), String>(()))).await;
        ctx.done().await;
        let _ = group.wait().await;
        drop(keep);
    });
    let (spawned, waits, what) = hangs(&report);
    assert_eq!((spawned, waits), (line!() - 6, line!() - 6), "{report}");
    assert!(!what.contains("unconstrained"), "{report}");
    // A body as well.
    let report = Checker::new().run(|ctx| {
        let (keep, wait) = oneshot::channel::<u32>();
        ctx.done().then(|_| wait).map(move |_| drop(keep))
    });
    let (spawned, waits, what) = hangs(&report);
    assert_eq!((spawned, waits), (line!() - 5, line!() - 5), "{report}");
    assert!(!what.contains("unconstrained"), "{report}");
}

#[test]
fn a_reader_of_a_channel_as_a_stream_waits_at_the_users_line_that_made_it() {
    let report = Checker::new().run(|ctx| async move {
        let (keep, mut items) = bounded::<u32>(1);
        let task = rt::spawn(async move { while items.next().await.is_some() {} });
        ctx.done().await;
        let _ = task.await;
        drop(keep);
    });
    assert_eq!(hangs(&report), (line!() - 5, line!() - 6, "an item".to_string()), "{report}");
}

#[test]
fn who_waits_for_a_group_is_said_to_wait_for_its_tasks() {
    let report = Checker::new().run(|ctx| async move {
        let group = Group::new(&ctx);
        let own = group.clone();
        let waits = |_| async move { own.wait().await }; // <- group
        let _ = group.spawn("member", waits).await;
        drop(group);
        ctx.done().await;
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.task(), Some("member"), "{report}");
    assert_eq!(violation.waiting_for(), Some("the end of all tasks of a group"), "{report}");
    assert_eq!(violation.waiting_at().map(|at| at.line()), Some(line("group")));
}

#[test]
fn a_story_says_where_the_task_that_is_awaited_was_spawned() {
    let report = Checker::new().run(|_ctx| async {
        let worker = rt::spawn_named("worker", rt::yield_now()); // <- awaited
        worker.await.unwrap();
        pending::<()>().await;
    });
    let story = report.violations()[0].to_string();
    let told = "body    waits for the end of a task, spawned at tests/check_edges.rs";
    assert!(story.contains(&format!("{told}:{}:", line("awaited"))), "{story}");
}

#[test]
fn a_story_says_who_waits_for_what_is_another_librarys() {
    let report = Checker::new().run(|_ctx| async {
        let (send, receive) = oneshot::channel::<()>();
        let other = rt::spawn_named("other", async { drop(receive.await) });
        rt::yield_now().await;
        drop(send);
        other.await.unwrap();
        pending::<()>().await;
    });
    let story = report.violations()[0].to_string();
    assert!(story.contains("other  waits for something that is not quell's\n"), "{story}");
    assert_eq!(story.matches("not quell's").count(), 2, "once each, `other` and the body: {story}");
}

#[test]
fn a_select_of_another_librarys_futures_waits_for_one_of_them_and_not_for_itself() {
    let report = Checker::new().inject(Inject::None).run(|_ctx| async {
        let (_send, mut receive) = mpsc::channel::<()>(1);
        let (_give, mut given) = oneshot::channel::<()>();
        tokio::select! {
            biased;
            _ = receive.recv() => {}
            _ = &mut given => {}
        }
    });
    let (_, _, what) = hangs(&report);
    assert!(what.starts_with("tokio::sync::oneshot"), "{what}");
}

#[test]
fn a_wait_for_what_never_comes_hides_no_wait_beside_it() {
    let receives = async || {
        let (_send, mut receive) = mpsc::channel::<()>(1);
        receive.recv().await; // <- receives
    };
    let check = || Checker::new().inject(Inject::None);
    let reports = [
        check().run(|_| Context::background().run(receives())),
        check().run(|_| rt::timeout(Duration::MAX, receives())),
        check().run(|ctx| async move { ctx.without_cancel().run(receives()).await }),
    ];
    for report in reports {
        let (_, at, what) = hangs(&report);
        assert_eq!(at, line("receives"), "{report}");
        assert!(what.starts_with("tokio::sync::mpsc"), "{report}");
        assert!(!report.to_string().contains("nothing cancels"), "{report}");
    }
}

#[test]
fn who_waits_for_a_cancel_that_is_not_injected_is_told_that_nobody_cancels() {
    for kind in [Inject::Panic, Inject::None] {
        let checkers = [
            Checker::new(),
            #[cfg(feature = "tokio")]
            Checker::tokio(),
        ];
        for checker in checkers {
            let report = checker.inject(kind).run(|ctx| async move {
                let _ = std::panic::catch_unwind(|| check::fault("here"));
                ctx.done().await;
            });
            let violation = &report.violations()[0];
            assert_eq!(violation.kind(), ViolationKind::BlockedStage);
            assert_eq!(violation.waiting_for(), Some("the end of a context"), "{report}");
            let why = format!(": nothing cancels under `Inject::{kind:?}`\n");
            let text = violation.to_string();
            assert!(text.contains(&why), "{report}");
            assert!(
                text.contains("help         end it in the body where nothing cancels"),
                "{report}"
            );
        }
    }
}

/// A service that stops when it is told to, with a heart that beats until then.
async fn serves_with_a_heart(ctx: Context) {
    let inside = ctx.clone();
    let heart = rt::spawn_named("heart", async move {
        let mut beats = rt::interval(Duration::from_secs(1));
        while inside.run(beats.tick()).await.is_ok() {}
    });
    ctx.done().await; // <- serves
    heart.await.unwrap();
}

/// The same, where the heart hands its beats to another task.
async fn serves_with_a_pulse(ctx: Context) {
    let (beats, mut felt) = mpsc::channel(1);
    let feels = rt::spawn_named("feels", async move { while felt.recv().await.is_some() {} });
    let inside = ctx.clone();
    let heart = rt::spawn_named("heart", async move {
        while inside.run(rt::sleep(Duration::from_secs(1))).await.is_ok() {
            let _ = beats.send(()).await;
        }
    });
    let service = rt::spawn_named("service", async move { ctx.done().await }); // <- is served
    service.await.unwrap();
    heart.await.unwrap();
    feels.await.unwrap();
}

#[test]
fn a_service_that_nobody_cancels_is_told_so_however_its_heart_beats() {
    for checker in [Checker::random(1, 10), Checker::pct(1, 3, 10)] {
        let checker = checker.inject([Inject::Cancel, Inject::Drop]);
        checker.run(serves_with_a_heart).assert_clean();
        checker.run(serves_with_a_pulse).assert_clean();
    }
    for checker in [Checker::random(1, 10), Checker::pct(1, 3, 10)] {
        let checker = checker.max_steps(500).inject(Inject::None);
        let blocked = |task| [(ViolationKind::BlockedStage, Some(task))];
        let report = checker.run(serves_with_a_heart);
        assert_eq!(found(&report), blocked("body"), "{report}");
        assert_eq!(hangs(&report).1, line("serves"), "{report}");
        assert!(report.to_string().contains(": nothing cancels under `Inject::None`"), "{report}");
        comes_again(&report, serves_with_a_heart);
        // Whatever the body waits for.
        let report = checker.run(serves_with_a_pulse);
        assert_eq!(found(&report), blocked("service"), "{report}");
        assert_eq!(hangs(&report).1, line("is served"), "{report}");
        comes_again(&report, serves_with_a_pulse);
    }
}

/// A service that is handed something now and then.
async fn is_fed(ctx: Context) {
    let (fruit, mut eats) = mpsc::channel(1);
    let tree = rt::spawn_named("tree", async move {
        while fruit.send(()).await.is_ok() {
            rt::sleep(Duration::from_secs(1)).await;
        }
    });
    while let Ok(Some(())) = ctx.run(eats.recv()).await {}
    tree.abort();
    let _ = tree.await;
}

/// A service whose body only waits for what listens for its end.
async fn joins_its_heart(ctx: Context) {
    let heart = rt::spawn_named("heart", async move {
        let mut beats = rt::interval(Duration::from_secs(1));
        while ctx.run(beats.tick()).await.is_ok() {}
    });
    heart.await.unwrap();
}

/// A service that ends by itself, but later than its steps do.
async fn has_a_deadline(ctx: Context) {
    let (ctx, _canceller) = ctx.with_timeout(Duration::from_secs(3_600));
    serves_with_a_heart(ctx).await;
}

#[test]
fn who_goes_on_because_nobody_cancels_is_told_so_and_is_not_said_to_wait_for_what_never_comes() {
    let check = || Checker::random(1, 10).max_steps(500).inject(Inject::None);
    // In order, since time that moves though the heart is ready comes to the deadline at once.
    let in_order = Checker::exhaustive().max_delays(0).max_steps(500).inject(Inject::None);
    let late = in_order.run(has_a_deadline);
    for report in [check().run(is_fed), check().run(joins_its_heart), late] {
        assert!(!report.is_clean());
        for violation in report.violations() {
            assert_eq!(violation.kind(), ViolationKind::LeakedTask, "{violation}");
            let told = violation.to_string();
            assert!(told.contains(": nothing cancels under `Inject::None`\n"), "{told}");
        }
    }
    // Whoever lets no time pass is busy, whatever would have been cancelled.
    let report = check().run(|ctx| async move {
        while !ctx.is_done() {
            rt::yield_now().await;
        }
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("body"))], "{report}");
    assert!(!report.to_string().contains("nothing cancels"), "{report}");
    // Where the body has ended, no cancel would have helped.
    let report = check().run(|ctx| async move {
        let _ = ctx.is_done();
        drop(rt::spawn_named("spins", async {
            loop {
                rt::yield_now().await;
            }
        }));
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("spins"))], "{report}");
    assert!(!report.to_string().contains("nothing cancels"), "{report}");
}

#[cfg(feature = "tokio")]
#[test]
fn on_tokio_too_a_service_with_a_heart_is_told_that_nobody_cancels() {
    let report = Checker::tokio().inject(Inject::None).run(serves_with_a_heart);
    assert_eq!(hangs(&report).1, line("serves"), "{report}");
    assert!(report.to_string().contains(": nothing cancels under `Inject::None`"), "{report}");
}

async fn hears(ball: &mut mpsc::Receiver<()>) -> bool {
    ball.recv().await.is_some() // <- hears
}

/// Two tasks that keep each other awake, by another library's channels.
async fn plays(ctx: Context) {
    let (over, mut comes) = mpsc::channel(1);
    let (back, mut returns) = mpsc::channel(1);
    over.send(()).await.unwrap();
    drop(rt::spawn_named("ping", async move {
        while hears(&mut comes).await {
            let _ = back.try_send(());
        }
    }));
    drop(rt::spawn_named("pong", async move {
        while hears(&mut returns).await {
            let _ = over.try_send(());
        }
    }));
    ctx.done().await;
}

/// A task that wakes itself in each of its turns, of which only a stack trace knows the line.
async fn spins(ctx: Context) {
    drop(rt::spawn_named("spins", async {
        loop {
            tokio::task::yield_now().await; // <- spins
        }
    }));
    ctx.done().await;
}

#[test]
fn who_gives_its_turn_away_by_another_librarys_means_has_its_line() {
    let report = Checker::new().max_steps(500).max_schedules(200).run(spins);
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("spins"))], "{report}");
    assert_eq!(
        (hangs(&report).1, hangs(&report).2),
        (line("spins"), "its turn".into()),
        "{report}"
    );
    comes_again(&report, spins);
}

/// Two tasks poll one receiver, which keeps one waker only: the other's is dropped.
async fn polled_by_two(ctx: Context) {
    let (answer, answered) = oneshot::channel::<()>();
    let shared = Arc::new(Mutex::new(answered));
    let [first, second] = ["first", "second"].map(|name| {
        let shared = shared.clone();
        rt::spawn_named(name, async move {
            let answer = poll_fn(|cx| shared.lock().unwrap().poll_unpin(cx).map(drop));
            answer.await // <- polled by two
        })
    });
    ctx.done().await;
    drop(answer);
    second.await.unwrap();
    first.await.unwrap();
}

#[test]
fn whose_waker_was_dropped_by_another_is_told_so_with_the_line_where_it_waits() {
    let report = Checker::exhaustive().max_delays(0).run(polled_by_two);
    assert!(found(&report).contains(&(ViolationKind::BlockedStage, Some("first"))), "{report}");
    let dropped = "nothing: whoever had its waker has dropped it, and has not woken it";
    let first = report.violations().iter().find(|one| one.kind() == ViolationKind::BlockedStage);
    let first = first.expect("it is there, as above");
    assert_eq!(first.waiting_for(), Some(dropped), "{report}");
    let at = first.waiting_at().map(check::Place::line);
    assert!(at.is_some_and(|at| at.abs_diff(line("polled by two")) <= 1), "{report}");
    comes_again(&report, polled_by_two);
}

/// It never looks at its context, which nobody would cancel.
async fn beats_on(_: Context) {
    loop {
        rt::sleep(Duration::from_secs(1)).await; // <- beats on
    }
}

#[test]
fn who_was_awake_when_the_steps_ran_out_has_the_line_at_which_it_waited_before() {
    let check = Checker::new().max_steps(500).max_schedules(200);
    let report = check.inject([Inject::Cancel, Inject::None]).run(plays);
    assert!(!report.is_clean());
    for violation in report.violations() {
        let at = violation.waiting_at().map(check::Place::line);
        assert_eq!(violation.kind(), ViolationKind::LeakedTask, "{violation}");
        assert_eq!(at, Some(line("hears")), "{violation}");
    }
    comes_again(&report, plays);
    let report = Checker::random(1, 2).max_steps(500).inject(Inject::None).run(beats_on);
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("body"))], "{report}");
    assert_eq!(hangs(&report).1, line("beats on"), "{report}");
    comes_again(&report, beats_on);
}

#[test]
fn who_asks_why_it_was_cancelled_hears_of_the_line_of_the_check() {
    let checkers = [
        Checker::new(),
        #[cfg(feature = "tokio")]
        Checker::tokio(),
    ];
    for checker in checkers {
        let body = |ctx: Context| async move {
            ctx.done().await;
            let cause = ctx.cause().unwrap();
            let origin = cause.origin().unwrap();
            assert_eq!((origin.file(), origin.line()), (file!(), line("cancelled")));
        };
        checker.run(body).assert_clean(); // <- cancelled
    }
}

// ---------------------------------------------------------------------- other checkers

#[test]
fn what_a_checker_inside_a_body_wakes_of_that_body_is_awake() {
    let report = Checker::exhaustive().inject(Inject::None).run(|_| async {
        let (send, mut receive) = mpsc::unbounded_channel();
        let reader = rt::spawn_named("reader", async move { receive.recv().await });
        rt::yield_now().await;
        let inside = Checker::random(1, 3).inject(Inject::None);
        inside.run(|_| std::future::ready(send.send(1).is_ok())).assert_clean();
        let _ = reader.await;
        drop(send);
    });
    report.assert_clean();
}

#[test]
fn what_a_checker_inside_a_body_drops_of_that_body_is_gone() {
    let report = Checker::exhaustive().inject(Inject::None).run(|ctx| async move {
        let mut sleep = Box::pin(rt::sleep(Duration::from_secs(5)));
        assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_pending())).await);
        let own = RefCell::new(Some((sleep, ctx.with_cancel())));
        let inside = Checker::random(1, 3).inject(Inject::None);
        inside.run(|_| std::future::ready(own.take().is_some())).assert_clean();
    });
    report.assert_clean();
}

#[test]
fn a_checker_inside_a_body_takes_no_point_from_it() {
    async fn body(ctx: Context, inside: bool) {
        let mut done = ctx.done();
        poll_fn(|cx| Poll::Ready(Pin::new(&mut done).poll(cx).is_ready())).await;
        if inside {
            let inside = Checker::random(1, 3).inject(Inject::Panic);
            inside.run(|_| async { check::fault("here") }).assert_clean();
        }
        rt::yield_now().await;
        rt::yield_now().await;
    }
    let without = Checker::exhaustive().run(|ctx| body(ctx, false));
    let with = Checker::exhaustive().run(|ctx| body(ctx, true));
    assert_eq!(with.schedules(), without.schedules(), "{with}\n{without}");
}

#[test]
fn a_context_goes_by_the_time_of_its_own_check_in_the_body_of_another() {
    const MILLI: Duration = Duration::from_millis(1);
    let report = Checker::exhaustive().inject(Inject::None).run(|_| async {
        let (bounded, _canceller) = Context::background().with_timeout(1_000 * MILLI);
        rt::sleep(600 * MILLI).await;
        let inside = Checker::random(1, 2).inject(Inject::None).run(|_| async {
            assert_eq!(bounded.remaining(), Some(400 * MILLI));
            rt::sleep(5_000 * MILLI).await;
            assert_eq!(bounded.remaining(), Some(400 * MILLI));
            assert!(!bounded.is_done());
        });
        inside.assert_clean();
        assert_eq!(bounded.done().await, ContextError::DeadlineExceeded);
        // Nothing in there moves its time.
        let (bounded, _canceller) = Context::background().with_timeout(1_000 * MILLI);
        let inside = Checker::random(1, 2).inject(Inject::None).run(|_| async {
            let _ = rt::timeout(5_000 * MILLI, bounded.done()).await;
            bounded.done().await;
        });
        assert_eq!(inside.violations()[0].kind(), ViolationKind::BlockedStage, "{inside}");
    });
    report.assert_clean();
}

// ----------------------------------------------------------------------- other threads

#[test]
fn a_task_that_another_thread_aborts_is_told_as_such() {
    async fn body(ctx: Context) {
        let task = Arc::new(rt::spawn_named("victim", pending::<()>()));
        let other = task.clone();
        std::thread::spawn(move || other.abort()).join().unwrap();
        ctx.done().await;
    }
    let report = Checker::new().run(body);
    assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic, "{report}");
    assert_eq!(report.violations()[0].task(), Some("victim"));
}

#[test]
fn a_task_that_a_check_on_another_thread_wakes_or_aborts_is_reported_as_nondeterministic() {
    /// Runs `wakes` once in a schedule of another check, on a thread of its own.
    fn elsewhere(wakes: impl FnOnce() + Send + 'static) {
        let other = std::thread::spawn(move || {
            let wakes = RefCell::new(Some(wakes));
            let _ = Checker::random(1, 1).inject(Inject::None).run(|_| {
                wakes.take().into_iter().for_each(|wakes| wakes());
                std::future::ready(())
            });
        });
        other.join().unwrap();
    }
    let woken = Checker::exhaustive().inject(Inject::None).run(|_| async {
        let mut wakes = false;
        let waits = poll_fn(move |cx| {
            if std::mem::replace(&mut wakes, true) {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            elsewhere(move || waker.wake());
            Poll::Pending
        });
        rt::spawn_named("woken", waits).await.unwrap();
    });
    let aborted = Checker::exhaustive().inject(Inject::None).run(|_| async {
        let task = Arc::new(rt::spawn_named("aborted", pending::<()>()));
        let aborts = task.clone();
        elsewhere(move || aborts.abort());
        rt::yield_now().await;
    });
    for (report, task) in [(woken, "woken"), (aborted, "aborted")] {
        assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic, "{report}");
        assert_eq!(report.violations()[0].task(), Some(task), "{report}");
    }
}

#[test]
fn another_thread_reads_a_deadline_by_the_time_of_the_schedule() {
    fn elsewhere(ctx: &Context) -> (Option<Duration>, Option<ContextError>) {
        let ctx = ctx.clone();
        std::thread::spawn(move || (ctx.remaining(), ctx.err())).join().unwrap()
    }
    let report = Checker::exhaustive().inject(Inject::None).run(|ctx| async move {
        let (soon, _canceller) = ctx.with_timeout(Duration::from_secs(60));
        assert_eq!(elsewhere(&soon), (Some(Duration::from_secs(60)), None));
        rt::sleep(Duration::from_secs(59)).await;
        assert_eq!(elsewhere(&soon), (Some(Duration::from_secs(1)), None));
        rt::sleep(Duration::from_secs(1)).await;
        let ended = Some(ContextError::DeadlineExceeded);
        assert_eq!(elsewhere(&soon), (Some(Duration::ZERO), ended));
    });
    report.assert_clean();
    // Time jumps to the root's deadline, too.
    let report = Checker::exhaustive().inject(Inject::Deadline).run(|ctx| async move {
        ctx.done().await;
        assert_eq!(elsewhere(&ctx), (Some(Duration::ZERO), Some(ContextError::DeadlineExceeded)));
    });
    report.assert_clean();
}

#[test]
fn a_thread_that_waits_for_the_root_is_let_go_when_the_schedule_is_over() {
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    let report = Checker::random(1, 5).run(|ctx| async move {
        let _ = ctx.is_done();
        WAITING.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            ctx.wait();
            // Forgotten, as a drop here would race with the schedule's for being the last.
            std::mem::forget(ctx);
            WAITING.fetch_sub(1, Ordering::SeqCst);
        });
    });
    // Whether it is let go in time to leave the context alone is up to the system.
    let kind = report.violations()[0].kind();
    assert!(
        matches!(kind, ViolationKind::LeakedContext | ViolationKind::Nondeterministic),
        "{report}"
    );
    while WAITING.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn who_waits_for_a_deadline_where_no_schedule_runs_is_told_whose_time_it_goes_by() {
    fn refused(bounded: &Context) -> String {
        let waits = std::panic::AssertUnwindSafe(|| bounded.wait());
        let panic = std::panic::catch_unwind(waits).expect_err("nothing moves its time");
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        text.or(panic.downcast_ref::<String>().cloned()).expect("it is a text")
    }
    let (said, kept) = (Mutex::new(None), Mutex::new(None));
    let (says, keeps) = (&said, &kept);
    let report = Checker::random(1, 1).run(|ctx: Context| async move {
        let _ = ctx.is_done();
        let bounded = Context::background().with_timeout(Duration::from_secs(5));
        let on_a_thread = bounded.0.clone();
        let refused = std::thread::spawn(move || refused(&on_a_thread)).join().unwrap();
        says.lock().unwrap().replace(refused);
        keeps.lock().unwrap().replace(bounded);
    });
    report.assert_clean();
    let (bounded, canceller) = kept.into_inner().unwrap().unwrap();
    for said in [said.into_inner().unwrap().unwrap(), refused(&bounded)] {
        assert!(said.contains("goes by the time of a checker's schedule"), "{said}");
        assert!(said.contains("is over, or runs on another thread"), "{said}");
    }
    // It is as whole as any.
    assert!(!bounded.is_done());
    drop(canceller);
    assert!(bounded.is_done());
    bounded.wait();
}

#[tokio::test]
async fn inside_a_task_of_tokios_a_check_has_no_budget() {
    let report = Checker::random(1, 20).run(|ctx| async move {
        let (send, mut receive) = mpsc::channel(1);
        let sender = rt::spawn(async move { while send.send(()).await.is_ok() {} });
        for _ in 0..50 {
            let _ = ctx.run(receive.recv()).await;
        }
        drop(receive);
        sender.await.unwrap();
    });
    report.assert_clean();
}

#[tokio::test]
#[should_panic(expected = "the body has spawned a task by `tokio::spawn`")]
async fn inside_a_task_of_tokios_a_body_spawns_nothing_on_its_runtime() {
    async fn body(ctx: Context) {
        drop(tokio::spawn(pending::<()>()));
        ctx.done().await;
    }
    let _ = Checker::new().run(body); // <- asks for it
}

#[tokio::test]
async fn what_was_found_before_a_body_spawned_on_tokio_is_told_all_the_same() {
    let check = || {
        let _ = Checker::new().run(|ctx| async move {
            if ctx.is_done() {
                drop(tokio::spawn(pending::<()>()));
            } else {
                pending::<()>().await;
            }
        });
    };
    let said = std::panic::catch_unwind(check).expect_err("it says so");
    let said = said.downcast_ref::<String>().expect("in words");
    assert!(said.contains("by `tokio::spawn`") && said.contains("BlockedStage: "), "{said}");
}

#[test]
fn a_check_that_cannot_be_names_the_line_that_asked_for_it() {
    // The test above, in a process of its own.
    let itself = std::env::current_exe().unwrap();
    let test = "inside_a_task_of_tokios_a_body_spawns_nothing_on_its_runtime";
    let run = std::process::Command::new(itself).args([test, "--exact", "--nocapture"]).output();
    let said = String::from_utf8_lossy(&run.unwrap().stderr).into_owned();
    let place = format!("panicked at tests/check_edges.rs:{}:", line("asks for it"));
    assert!(said.contains(&place), "{said}");
}

#[tokio::test]
async fn inside_a_task_of_tokios_the_runtime_is_there_again_after_a_check() {
    let report = Checker::new().stop_at_first().run(|ctx| async move {
        let _ = ctx.run(tokio::time::sleep(Duration::from_secs(1))).await;
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::Panicked, "{report}");
    assert_eq!(tokio::spawn(async { 7 }).await.unwrap(), 7);
    tokio::time::sleep(Duration::from_millis(1)).await;
}

// ----------------------------------------------------- what goes on, and what is to blame

/// Each task spawns the next, and ends.
fn begins_anew(before: u32) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        assert!(before < 50_000, "it goes on and on");
        drop(rt::spawn_named("again", begins_anew(before + 1)));
    })
}

#[test]
fn a_task_that_spawns_the_next_for_ever_is_busy_and_no_crowd() {
    let report = Checker::new().max_schedules(10).run(|ctx: Context| async move {
        begins_anew(0).await;
        ctx.done().await;
    });
    let violation = &report.violations()[0];
    assert_eq!((violation.kind(), violation.task()), (ViolationKind::LeakedTask, Some("again")));
}

/// Has a crowd of tasks clean up when it is told to stop.
async fn cleans_up_with_a_crowd(ctx: Context) {
    ctx.done().await;
    let crowd: Vec<_> = (0..5_000).map(|_| rt::spawn(rt::yield_now())).collect();
    for one in crowd {
        one.await.unwrap();
    }
}

#[test]
fn a_crowd_that_comes_after_the_injection_is_not_busy_either() {
    Checker::new().max_schedules(10).run(cleans_up_with_a_crowd).assert_clean();
}

#[test]
fn what_is_traced_over_many_steps_is_traced_a_few_times() {
    let runs = AtomicUsize::new(0);
    let report = Checker::new().inject(Inject::None).max_schedules(400).run(|_ctx| async {
        runs.fetch_add(1, Ordering::SeqCst);
        let ticks = rt::spawn_named("ticks", async {
            let mut ticks = rt::interval(Duration::from_millis(1));
            loop {
                ticks.tick().await;
            }
        });
        let _ = ticks.await;
    });
    assert_eq!(report.violations()[0].count(), 400, "{report}");
    // Each once, the first 64 twice, a few with traces; and some more to tell one violation.
    let runs = runs.into_inner();
    assert!(runs < 400 + 66 + 50, "{runs}");
}

/// Two tasks that wait for each other, and a body that waits for one of them.
async fn waits_for_a_ring(_ctx: Context) {
    let (give, given) = oneshot::channel::<rt::JoinHandle<()>>();
    let one = rt::spawn_named("one", async move { given.await.unwrap().await.unwrap() });
    let one = one.map(drop).boxed().shared();
    let _ = give.send(rt::spawn_named("two", one.clone()));
    one.await;
}

#[test]
fn who_waits_for_a_ring_of_others_is_not_to_blame_for_it() {
    let report = Checker::new().run(waits_for_a_ring);
    assert_eq!(report.violations()[0].task(), Some("one"), "{report}");
}

// ------------------------------------------------------------- functions that go on for ever

/// Arms itself again each time it has been called.
/// Three tasks that try a lock, and let others run before they try again.
async fn try_in_turns(ctx: Context) {
    let lock = Arc::new(tokio::sync::Mutex::new(0));
    let tries = [false, false, true].map(|tokios| {
        let (ctx, lock) = (ctx.clone(), lock.clone());
        rt::spawn(async move {
            while !ctx.is_done() {
                if let Ok(mut count) = lock.try_lock() {
                    *count += 1;
                    rt::yield_now().await;
                    return;
                }
                if tokios { tokio::task::yield_now().await } else { rt::yield_now().await }
            }
        })
    });
    for task in tries {
        task.await.unwrap();
    }
}

#[test]
fn by_priorities_whoever_gives_its_turn_away_lets_others_have_theirs() {
    let checker = Checker::pct(1, 3, 1_000).inject([Inject::Cancel, Inject::None]);
    checker.run(try_in_turns).assert_clean();
    // Who waits for nobody is found all the same.
    let report = Checker::pct(1, 3, 20).max_steps(500).run(|ctx| async move {
        let ends = rt::spawn_named("ends", async move { ctx.done().await });
        drop(rt::spawn_named("spins", async {
            loop {
                rt::yield_now().await;
            }
        }));
        ends.await.unwrap();
    });
    assert_eq!(found(&report), [(ViolationKind::LeakedTask, Some("spins"))], "{report}");
}

fn beats<const MILLIS: u64>() {
    let (heart, canceller) = Context::background().with_timeout(Duration::from_millis(MILLIS));
    canceller.detach();
    heart.after_func(beats::<MILLIS>);
}

async fn beats_and_waits<const MILLIS: u64>(ctx: Context) {
    beats::<MILLIS>();
    ctx.done().await;
}

#[test]
fn time_that_moves_for_ever_and_wakes_no_task_comes_to_an_end() {
    let report = Checker::random(1, 2).inject(Inject::None).run(beats_and_waits::<1_000>);
    let [violation] = report.violations() else { panic!("{report}") };
    assert_eq!(violation.kind(), ViolationKind::BlockedStage, "{report}");
    assert_eq!(violation.waiting_for(), Some("the end of a context"), "{report}");
    comes_again(&report, beats_and_waits::<1_000>);

    async fn sleeps(_: Context) {
        beats::<1>();
        rt::sleep(Duration::from_secs(3_600)).await;
    }
    let report = Checker::random(1, 2).inject(Inject::None).run(sleeps);
    let said = report.to_string();
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask, "{report}");
    assert!(said.contains("the body is busy, and has not ended within its steps"), "{report}");
}

#[test]
fn a_jump_to_the_deadline_calls_no_function_for_ever() {
    for checker in [Checker::random(1, 2), Checker::random(1, 2).functions_after_turns()] {
        let report = checker.inject(Inject::Deadline).run(beats_and_waits::<1>);
        assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedContext, "{report}");
    }
    // One that ends with the root is called late, and is no violation.
    fn beats_until_the_end(ctx: Context) {
        let (heart, canceller) = Context::background().with_timeout(Duration::from_millis(1));
        canceller.detach();
        heart.after_func(move || {
            if !ctx.is_done() {
                beats_until_the_end(ctx);
            }
        });
    }
    let report = Checker::random(1, 2).inject(Inject::Deadline).run(|ctx: Context| async move {
        beats_until_the_end(ctx.clone());
        ctx.done().await;
        rt::sleep(Duration::from_millis(10)).await;
    });
    report.assert_clean();
}

#[test]
fn a_task_that_sleeps_as_often_as_it_may_is_not_to_blame_for_time_that_moves() {
    let report = Checker::random(1, 2).inject(Inject::None).run(|_| async {
        for _ in 0..9_990 {
            rt::sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(report.violations().is_empty(), "{report}");
}
