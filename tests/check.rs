//! The checker itself: what it explores, what it reports, and that it can be relied on.
#![cfg(all(not(loom), feature = "check"))]

use quell::check::{self, Checker, Inject, ReplayError, Report, ViolationKind};
use quell::{Context, rt};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// A worker that ignores its context, blocked on a reader that has stopped.
async fn leaky(ctx: Context) {
    let (results, mut read) = mpsc::channel::<u32>(1);
    drop(rt::spawn_named("worker", async move {
        for n in 0..3 {
            if results.send(n).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }));
    let _ = ctx.run(async { while read.recv().await.is_some() {} }).await;
}

async fn clean(ctx: Context) {
    let (results, mut read) = mpsc::channel::<u32>(1);
    let worker = ctx.clone();
    let worker = rt::spawn_named("worker", async move {
        for n in 0..3 {
            let sent = worker.run(results.send(n)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    let _ = ctx.run(async { while read.recv().await.is_some() {} }).await;
    drop(read);
    worker.await.unwrap();
}

#[test]
fn a_worker_that_ignores_its_context_is_found() {
    let report = Checker::new().run(leaky);
    println!("{report}");
    assert_eq!(report.violations().len(), 1);
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::BlockedStage);
    assert_eq!(violation.task(), Some("worker"));
}

#[test]
fn its_repaired_twin_is_clean() {
    let all = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None];
    let report = Checker::exhaustive().inject(all).run(clean);
    println!("{report}\n{:?}", report.took());
    report.assert_clean();
    assert!(report.complete());
}

// ------------------------------------------------------------------- determinism

fn all_in_one(report: &Report) -> String {
    let violations: Vec<_> =
        report.violations().iter().map(|v| format!("{} {v}", v.count())).collect();
    format!("{} {} {}", report.schedules(), report.points(), violations.join("\n"))
}

#[test]
fn ten_runs_of_one_seed_say_the_same_to_the_letter() {
    let injections = [Inject::Cancel, Inject::Drop];
    for checker in [Checker::random(7, 300), Checker::pct(7, 3, 300), Checker::new()] {
        let checker = checker.inject(injections);
        let first = all_in_one(&checker.run(leaky));
        assert!(first.contains("BlockedStage"), "{first}");
        for _ in 1..10 {
            assert_eq!(all_in_one(&checker.run(leaky)), first);
        }
    }
}

/// Each task that waits for the root takes a place in a list of the root's, and tasks are woken in
/// the order of places; these give their places back in another order than they took them.
#[test]
fn what_one_schedule_has_done_to_its_root_no_other_can_see() {
    let body = |ctx: Context| async move {
        let all: Vec<_> = (1..=3)
            .map(|n| {
                let ctx = ctx.clone();
                rt::spawn(async move {
                    let _ = rt::timeout(Duration::from_millis(n), ctx.done()).await;
                })
            })
            .collect();
        for task in all {
            task.await.unwrap();
        }
    };
    // Where the injection lands at no point, the next schedule must find the root as good as new.
    Checker::random(1, 500).run(body).assert_clean();
}

#[test]
fn another_seed_gives_other_schedules() {
    use std::sync::{Arc, Mutex};
    let orders_of = |seed: u64| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let report = Checker::random(seed, 20).inject(Inject::None).run(move |_| {
            let seen = seen.clone();
            async move {
                for n in 0..4 {
                    let seen = seen.clone();
                    drop(rt::spawn(async move { seen.lock().unwrap().push(n) }));
                }
            }
        });
        report.assert_clean();
        kept.lock().unwrap().clone()
    };
    assert_ne!(orders_of(1), orders_of(2));
    assert_eq!(orders_of(1), orders_of(1));
}

#[test]
fn state_that_outlives_the_body_is_noticed() {
    let runs = std::cell::Cell::new(0);
    let report = Checker::new().run(|ctx| {
        runs.set(runs.get() + 1);
        let extra = runs.get() % 2 == 0;
        async move {
            if extra {
                rt::yield_now().await;
            }
            let _ = ctx.run(rt::yield_now()).await;
        }
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::Nondeterministic);
    let why = violation.waiting_for().unwrap();
    assert!(why.contains("event 3 differs: ") && why.contains("HashMap"), "{why}");
}

#[test]
fn the_order_of_a_hash_map_is_noticed() {
    let report = Checker::new().run(|ctx| async move {
        let tasks: std::collections::HashMap<u32, &str> =
            (0..8).map(|n| (n, ["a", "b", "c", "d"][n as usize % 4])).collect();
        for (_, name) in tasks {
            drop(rt::spawn_named(name, async {}));
        }
        let _ = ctx.run(rt::yield_now()).await;
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic, "{report}");
}

// -------------------------------------------------------------------- what it covers

/// Three tasks of two turns each. `note` records the order of the turns.
async fn three(ctx: Context, note: impl Fn(char) + Clone + Send + 'static) {
    let tasks = ['a', 'b', 'c'].map(|name| {
        let note = note.clone();
        rt::spawn(async move {
            note(name);
            rt::yield_now().await;
            note(name);
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let _ = ctx.is_done();
}

fn orders(checker: &Checker) -> (Report, Vec<String>) {
    use std::sync::{Arc, Mutex};
    let all = Arc::new(Mutex::new(Vec::new()));
    let seen = all.clone();
    let report = checker.run(move |ctx| {
        let order = Arc::new(Mutex::new(String::new()));
        let (kept, all) = (order.clone(), seen.clone());
        async move {
            three(ctx, move |name| order.lock().unwrap().push(name)).await;
            all.lock().unwrap().push(kept.lock().unwrap().clone());
        }
    });
    let mut all = all.lock().unwrap().clone();
    all.sort();
    all.dedup();
    (report, all)
}

#[test]
fn with_delays_enough_every_order_there_is_comes_up() {
    let (report, found) = orders(&Checker::exhaustive().max_delays(12).inject(Inject::None));
    report.assert_clean();
    assert!(report.complete());
    // Three pairs in any order: 6! / (2! 2! 2!).
    assert_eq!(found.len(), 90, "{found:?}");
    // Without a delay there is one order, and more delays find more.
    assert_eq!(orders(&Checker::exhaustive().max_delays(0).inject(Inject::None)).1, ["abcabc"]);
    let one = orders(&Checker::exhaustive().max_delays(1).inject(Inject::None)).1.len();
    let two = orders(&Checker::exhaustive().max_delays(2).inject(Inject::None)).1.len();
    assert!(1 < one && one < two && two < 90, "{one} {two}");
}

/// A relay turns the end into a flag and a notification. The body misses that if it comes
/// between its check and its wait, where it does not look at a context.
async fn relayed(ctx: Context) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (flag, notify) = (AtomicBool::new(false), tokio::sync::Notify::new());
    let state = std::sync::Arc::new((flag, notify));
    let tells = state.clone();
    let relay = rt::spawn_named("relay", async move {
        ctx.done().await;
        tells.0.store(true, Ordering::SeqCst);
        tells.1.notify_waiters();
    });
    for round in 0..20 {
        rt::yield_now().await;
        if round == 10 && !state.0.load(Ordering::SeqCst) {
            rt::yield_now().await;
            state.1.notified().await;
        }
    }
    relay.await.unwrap();
}

#[test]
fn a_look_at_the_tree_is_a_look() {
    let report = Checker::exhaustive().run(|ctx| async move {
        let (child, _canceller) = ctx.with_cancel();
        let has_ended = || child.tree().to_string().contains("context canceled");
        for turn in 0..20 {
            rt::yield_now().await;
            if turn == 10 && !has_ended() {
                rt::yield_now().await;
                rt::yield_now().await;
                if has_ended() {
                    std::future::pending::<()>().await;
                }
            }
        }
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::BlockedStage, "{report}");
}

#[test]
fn a_cancel_that_wakes_somebody_comes_at_each_point_and_costs_no_delay() {
    let report = Checker::exhaustive().max_delays(0).run(relayed);
    let violation = report.violations().first().expect("it hangs without a delay");
    assert_eq!(violation.kind(), ViolationKind::BlockedStage);
    assert_eq!(violation.task(), Some("body"));
}

#[test]
fn random_and_priorities_come_to_the_same_orders_in_time() {
    assert_eq!(orders(&Checker::random(1, 5_000).inject(Inject::None)).1.len(), 90);
    // Priorities that change twice cannot make every order, but most.
    assert!(orders(&Checker::pct(1, 3, 5_000).inject(Inject::None)).1.len() > 30);
}

/// How often each order came up in the counted schedules. An order is reported as the name of
/// a task that panics at the end.
fn counted(checker: &Checker) -> BTreeMap<String, u64> {
    use std::sync::{Arc, Mutex};
    let report = checker.run(|ctx| async move {
        let order = Arc::new(Mutex::new(String::new()));
        let (note, seen) = (order.clone(), ctx.clone());
        three(ctx, move |name| {
            let mut order = note.lock().unwrap();
            order.push(name);
            if seen.is_done() {
                order.push('!');
            }
        })
        .await;
        let order = order.lock().unwrap().clone();
        let _ = rt::spawn_named(order, async { panic!("this is how it went") }).await;
    });
    let name = |violation: &check::Violation| violation.task().unwrap().to_string();
    report.violations().iter().map(|violation| (name(violation), violation.count())).collect()
}

#[test]
fn a_match_of_the_five_injections_needs_no_arm_for_others() {
    let named = |injection| match injection {
        Inject::Cancel => "cancel",
        Inject::Drop => "drop",
        Inject::Deadline => "deadline",
        Inject::Panic => "panic",
        Inject::None => "nothing",
    };
    for injection in [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::Panic, Inject::None] {
        assert_eq!(named(injection), injection.to_string());
    }
}

#[test]
fn shards_are_disjoint_and_together_they_are_the_whole() {
    let whole = counted(&Checker::exhaustive().inject(Inject::None));
    // Within two delays, a schedule has an order of its own or shares it with few others.
    assert!(whole.len() > 15, "{whole:?}");
    for checker in [
        Checker::exhaustive().inject(Inject::None),
        Checker::exhaustive().max_delays(1).inject(Inject::Cancel),
        Checker::exhaustive().inject(Inject::None).max_schedules(30),
        Checker::random(3, 60).inject(Inject::None),
        Checker::pct(3, 3, 60).inject(Inject::Cancel),
    ] {
        let whole = counted(&checker);
        for of in [1, 2, 7] {
            let mut parts = BTreeMap::new();
            for part in 1..=of {
                for (order, count) in counted(&checker.clone().shard(part, of)) {
                    *parts.entry(order).or_insert(0) += count;
                }
            }
            assert_eq!(parts, whole, "{checker:?} in {of} parts");
        }
    }
}

#[test]
fn the_parts_of_each_strategy_have_as_many_schedules_as_the_whole() {
    let run = |checker: &Checker| {
        let report = checker.run(clean);
        report.assert_clean();
        report.schedules()
    };
    let injections = [Inject::Cancel, Inject::Drop, Inject::Deadline];
    for checker in [
        Checker::exhaustive().inject(injections),
        Checker::exhaustive().inject(injections).max_schedules(40),
        Checker::random(3, 100).inject(injections),
        Checker::pct(3, 3, 100).inject(injections),
        Checker::new().inject(injections),
    ] {
        let whole = run(&checker);
        for of in [1, 2, 3, 7] {
            let parts: Vec<_> =
                (1..=of).map(|part| run(&checker.clone().shard(part, of))).collect();
            assert_eq!(parts.iter().sum::<u64>(), whole, "{parts:?}");
        }
    }
}

#[test]
fn a_part_without_any_schedule_has_nothing_to_complain_of() {
    let report = Checker::random(1, 3).shard(7, 7).run(clean);
    assert_eq!(report.schedules(), 0);
    report.assert_clean();
}

#[test]
fn of_a_small_part_in_which_no_injection_landed_nothing_is_said() {
    async fn chooses(ctx: Context) {
        let _ = ctx.is_done();
        if rt::choose(2) == 0 {
            let _ = ctx.run(rt::yield_now()).await;
        }
    }
    let injections = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None];
    for checker in [
        Checker::random(1, 64),
        Checker::pct(1, 3, 64),
        Checker::new().max_schedules(7).inject(injections),
        Checker::exhaustive().max_schedules(7).inject(injections),
    ] {
        for of in [2, 3, 7, 64] {
            for part in 1..=of {
                checker.clone().shard(part, of).run(chooses).assert_clean();
            }
        }
    }
}

#[test]
fn what_one_finds_one_of_its_shards_finds_and_no_two_count_the_same() {
    let whole = Checker::exhaustive().run(leaky);
    let parts: Vec<_> =
        (1..=3).map(|part| Checker::exhaustive().shard(part, 3).run(leaky)).collect();
    let seen = |report: &Report| report.violations().iter().map(|v| v.count()).sum::<u64>();
    assert_eq!(parts.iter().map(seen).sum::<u64>(), seen(&whole));
    assert!(seen(&whole) > 0);
}

#[test]
fn a_maximum_that_cuts_is_told_and_can_be_made_a_failure() {
    let cut = Checker::exhaustive().max_schedules(5).run(clean);
    assert!(!cut.complete() && cut.is_clean());
    assert_eq!(cut.schedules(), 5);
    assert!(cut.to_string().contains("cut short"), "{cut}");
    assert!(!cut.require_complete().is_clean());
    let strict = Checker::exhaustive().max_schedules(5).require_complete().run(clean);
    assert!(!strict.is_clean());
    assert!(Checker::exhaustive().require_complete().run(clean).is_clean());
    assert!(!Checker::exhaustive().max_points(3).run(clean).complete());
}

#[test]
fn after_a_cut_a_quarter_of_the_schedules_is_left_to_chance() {
    let report = Checker::new().max_schedules(20).run(clean);
    assert_eq!(report.schedules(), 20, "{report}");
    assert!(report.covered().contains("then 5 schedules at random"), "{report}");
}

/// Many schedules within two delays, each of a thousand turns.
async fn takes_long_and_leaves_a_task(_ctx: Context) {
    let yields = || async {
        for _ in 0..500 {
            rt::yield_now().await;
        }
    };
    let other = rt::spawn_named("other", yields());
    yields().await;
    other.await.unwrap();
    drop(rt::spawn_named("left", std::future::pending::<()>()));
}

#[test]
fn once_something_is_found_fewer_steps_are_enough() {
    let report = Checker::new().inject(Inject::None).run(takes_long_and_leaves_a_task);
    assert_eq!(report.violations().len(), 1, "{report}");
    assert!(report.covered().contains("(stopped after 10,000,000 steps), then"), "{report}");
}

#[test]
fn the_points_at_each_of_which_it_came_are_those_that_were_gone_through_one_by_one() {
    async fn seldom_takes_long(ctx: Context) {
        let _ = ctx.is_done();
        if (0..4).map(|_| rt::choose(2)).sum::<usize>() == 4 {
            for _ in 0..100 {
                rt::yield_now().await;
            }
        }
    }
    let every = Checker::exhaustive().run(seldom_takes_long);
    let usual = Checker::new().run(seldom_takes_long);
    assert_eq!(usual.points(), every.points(), "{usual}");
    assert!(usual.covered().contains(&format!("at each of {} points", every.points())), "{usual}");
    // Four delays reach the long run.
    assert!(Checker::exhaustive().max_delays(4).run(seldom_takes_long).points() > 100);
}

#[test]
fn an_injection_that_a_maximum_has_brought_says_so() {
    let every = || Checker::exhaustive().max_delays(0);
    for (checker, looks) in [(every().max_points(5), 2), (every().max_steps(5), 5)] {
        let report = checker.run(|ctx| async move {
            for before in 0.. {
                if ctx.is_done() {
                    if before >= looks {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                rt::yield_now().await;
            }
        });
        let story = report.to_string();
        assert!(story.contains("cancel at 0ns, when a maximum was reached"), "{story}");
    }
}

#[test]
fn the_first_violation_may_be_the_last() {
    let report = Checker::new().stop_at_first().run(leaky);
    assert_eq!(report.violations().len(), 1);
    assert!(report.schedules() < 10);
}

/// Leaves a task behind, and its `sometimes` never holds.
async fn leaves_a_task(ctx: Context) {
    let _ = ctx.is_done();
    check::sometimes("never", false);
    drop(rt::spawn_named("left", rt::sleep(Duration::from_secs(5))));
}

#[test]
fn beside_the_first_violation_nothing_is_said_of_what_was_not_reached() {
    for injections in [&[Inject::Cancel][..], &[Inject::Cancel, Inject::Drop]] {
        let report = Checker::new().inject(injections).stop_at_first().run(leaves_a_task);
        assert_eq!(report.violations().len(), 1, "{report}");
        assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask);
    }
}

/// The task that holds the item when the end comes drops it.
async fn loses_one_item(ctx: Context) {
    let (send, mut receive) = mpsc::channel(1);
    let inside = ctx.clone();
    let reader = rt::spawn_named("reader", async move {
        if let Ok(Some(item)) = inside.run(receive.recv()).await {
            check::Tracked::settle(item);
        }
    });
    let item = check::Tracked::new(1);
    let _ = ctx.run(send.send(item)).await;
    reader.await.unwrap();
}

#[test]
fn an_item_is_lost_once_whoever_held_it() {
    let report = Checker::new().run(loses_one_item);
    let all: Vec<_> = report.violations().iter().map(|v| (v.kind(), v.task())).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::LostItem);
}

/// A body whose number of yields depends on how often it was run before.
fn never_twice_the_same() -> impl Fn(Context) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    let runs = std::rc::Rc::new(std::cell::Cell::new(0_u32));
    move |ctx| {
        let yields = runs.get() % 7;
        runs.set(runs.get() + 1);
        Box::pin(async move {
            check::sometimes("never", false);
            for _ in 0..yields {
                let _ = ctx.run(rt::yield_now()).await;
            }
        })
    }
}

#[test]
fn a_body_that_goes_its_own_ways_is_told_so_once_and_nothing_else() {
    for injections in [&[Inject::Cancel][..], &[Inject::Cancel, Inject::Drop, Inject::Deadline]] {
        let report = Checker::new().inject(injections).run(never_twice_the_same());
        assert_eq!(report.violations().len(), 1, "{report}");
        assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic);
    }
}

#[test]
fn one_in_so_many_schedules_is_run_twice_to_the_end() {
    let runs = Cell::new(0_u32);
    // Only late runs differ, past the last schedule whose number is a power of two.
    let report = Checker::random(1, 1_600).inject(Inject::None).run(|_| {
        let nth = runs.replace(runs.get() + 1);
        async move {
            if nth > 1_300 && nth % 2 == 0 {
                rt::yield_now().await;
            }
        }
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic);
}

#[test]
fn what_comes_to_more_delays_than_any_before_is_run_twice() {
    let times = Cell::new(0_u32);
    let report = Checker::exhaustive().inject(Inject::None).run(|_| {
        let times = &times;
        async move {
            let delays = (0..100).map(|_| rt::choose(2)).sum::<usize>();
            // The first of those with two, and no other.
            if delays == 2 && times.replace(times.get() + 1) == 0 {
                rt::yield_now().await;
            }
        }
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Nondeterministic);
}

#[test]
fn a_check_that_ended_early_is_not_complete_and_says_so() {
    for checker in [Checker::new(), Checker::exhaustive(), Checker::random(1, 100)] {
        let report = checker.stop_at_first().run(leaves_a_task);
        assert!(!report.complete(), "{report}");
        let covered = report.covered();
        assert!(covered.ends_with("(ended with the first violation)"), "{covered}");
        assert!(covered.contains("at some of"), "{covered}");
        assert!(!covered.contains("every schedule"), "{covered}");
        assert!(!report.to_string().contains("maximum"), "{report}");
    }
    let report = Checker::new().run(never_twice_the_same());
    assert!(!report.complete(), "{report}");
    let covered = report.covered();
    assert!(covered.ends_with("(ended where the body is not deterministic)"), "{covered}");
}

// ------------------------------------------------------------------- time and choices

#[test]
fn time_moves_by_itself_and_takes_no_time() {
    let report = Checker::new().inject(Inject::None).run(|_| async {
        let began = rt::now();
        rt::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(rt::now() - began, Duration::from_secs(86_400));
        assert!(rt::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.is_err());
    });
    report.assert_clean();
    assert!(report.took() < Duration::from_secs(5));
}

#[test]
fn every_choice_is_made_in_some_schedule() {
    let report = Checker::exhaustive().inject(Inject::None).run(|_| async {
        let (one, two) = (rt::choose(3), rt::choose(2));
        check::sometimes("the last of both", one == 2 && two == 1);
        check::sometimes("the first of both", one == 0 && two == 0);
    });
    report.assert_clean();
    assert_eq!(report.schedules(), 6);
    assert_eq!(report.sometimes(), [("the last of both", true), ("the first of both", true)]);
}

#[test]
fn a_deadline_comes_and_timers_before_it_ring_first() {
    let report = Checker::exhaustive().inject(Inject::Deadline).run(|ctx| async move {
        let deadline = ctx.deadline().expect("an hour away");
        let slept = ctx.run(rt::sleep(Duration::from_secs(60))).await;
        check::sometimes("slept", slept.is_ok());
        check::sometimes("cut off", slept.is_err());
        let error = ctx.done().await;
        assert_eq!(error, quell::ContextError::DeadlineExceeded);
        assert!(rt::now() >= deadline);
    });
    report.assert_clean();
}

// ---------------------------------------------------------------------- vacuity

#[test]
fn a_check_that_checks_nothing_fails() {
    let kind = |report: Report| report.violations().first().map(|v| v.kind());
    let vacuous = Some(ViolationKind::Vacuous);
    assert_eq!(kind(Checker::new().run(|_| rt::yield_now())), vacuous);
    assert_eq!(kind(Checker::new().inject(Inject::Panic).run(clean)), vacuous);
    let never = Checker::new().run(|ctx| async move {
        check::sometimes("pigs fly", false);
        let _ = ctx.run(rt::yield_now()).await;
    });
    assert!(!never.to_string().contains(';'), "more of it would not help: {never}");
    assert!(never.to_string().contains("pigs fly"), "{never}");
    let of_all = &never.violations()[0];
    assert_eq!((of_all.count(), of_all.replay()), (0, ""), "no one schedule shows it");
    assert_eq!(kind(never), vacuous);
    assert_eq!(kind(Checker::new().inject(Inject::None).run(|_| rt::yield_now())), None);
}

#[test]
fn a_look_in_the_schedules_of_another_injection_is_none() {
    let report = Checker::new().inject([Inject::Cancel, Inject::Panic]).run(|ctx| async move {
        if std::panic::catch_unwind(|| check::fault("here")).is_err() {
            let _ = ctx.is_done();
        }
        rt::sleep(Duration::from_millis(1)).await;
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous, "{report}");
}

#[test]
fn a_body_is_dropped_between_the_turns_of_others_too() {
    struct Guard(Arc<AtomicU32>);
    impl Drop for Guard {
        fn drop(&mut self) {
            let turns = self.0.load(Ordering::Relaxed);
            check::sometimes("dropped while the other is half way", turns == 2);
        }
    }
    let report = Checker::exhaustive().max_delays(0).inject(Inject::Drop).run(|_| async {
        let turns = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&turns);
        let other = rt::spawn_named("other", async move {
            for _ in 0..4 {
                counted.fetch_add(1, Ordering::Relaxed);
                rt::yield_now().await;
            }
        });
        let _guard = Guard(turns);
        other.await.unwrap();
    });
    report.assert_clean();
}

#[test]
fn at_random_time_moves_though_tasks_are_ready() {
    let report = Checker::random(1, 100).inject(Inject::None).run(|_| async {
        let sleeps = rt::spawn_named("sleeps", rt::sleep(Duration::from_millis(1)));
        rt::yield_now().await;
        rt::yield_now().await;
        check::sometimes("it has slept before the other waits", sleeps.is_finished());
        sleeps.await.unwrap();
    });
    report.assert_clean();
}

#[test]
fn a_depth_that_no_schedule_has_room_for_is_cut_down() {
    let report = Checker::pct(1, u32::MAX, 1).run(clean);
    report.assert_clean();
    assert!(report.covered().contains("depth 1000,"), "{report}");
}

#[test]
fn a_single_schedule_at_random_has_its_injection_whatever_the_seed() {
    for seed in 0..200 {
        Checker::random(seed, 1).run(clean).assert_clean();
    }
}

/// Its length depends on a choice.
async fn long_unless_told_otherwise(ctx: Context) {
    let turns = if rt::choose(4) == 0 { 20 } else { 0 };
    for _ in 0..turns {
        let _ = ctx.run(rt::yield_now()).await;
    }
    let _ = ctx.is_done();
}

#[test]
fn a_single_schedule_by_priorities_has_its_injection_however_short_it_is() {
    for seed in 0..200 {
        Checker::pct(seed, 3, 1).run(long_unless_told_otherwise).assert_clean();
    }
}

#[test]
fn outside_of_a_checker_its_marks_are_nothing() {
    check::fault("nowhere");
    check::sometimes("never", false);
    let item = check::Tracked::new(1);
    assert_eq!(format!("{item:?}"), "Tracked(1)");
    drop(item);
}

#[test]
fn debug_shows_what_a_violation_says_when_it_is_asked_and_not_every_step_that_led_there() {
    let report = Checker::exhaustive().max_delays(0).run(|ctx: Context| async move {
        for _ in 0..100 {
            rt::yield_now().await;
        }
        let _ = ctx.run(rt::sleep(Duration::from_secs(5))).await;
        std::future::pending::<()>().await;
    });
    let (debug, token) = (format!("{report:?}"), report.violations()[0].replay());
    assert!(debug.contains("BlockedStage") && debug.contains(token), "{debug}");
    assert!(debug.len() < 2_000, "{debug}");
}

// ----------------------------------------------------------------------- panics

#[test]
fn an_injected_panic_is_no_violation_and_another_one_is() {
    let report = Checker::new().inject(Inject::Panic).run(|_| async {
        let task = rt::spawn(async { check::fault("in a task") });
        check::sometimes("panicked", task.await.is_err_and(|error| error.is_panic()));
        check::fault("in the body");
    });
    report.assert_clean();
    assert_eq!(report.points(), 2);
    let report = Checker::new().run(|ctx| async move {
        assert!(!ctx.is_done(), "it has come too soon");
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::Panicked);
    assert_eq!(violation.waiting_for(), Some("it has come too soon"));
    assert_eq!(violation.waiting_at().unwrap().file(), "tests/check.rs");
}

// -------------------------------------------------------------------------- pages

#[test]
fn a_page_has_the_lane_of_whoever_is_to_blame_however_many_are_left() {
    let report = Checker::exhaustive().max_delays(0).run(|ctx| async move {
        let _ = ctx.is_done();
        for _ in 0..80 {
            drop(rt::spawn_named("blocked", std::future::pending::<()>()));
        }
        drop(rt::spawn_named("guilty", rt::sleep(Duration::from_secs(100))));
    });
    assert_eq!(report.violations()[0].task(), Some("guilty"), "{report}");
    let page = report.to_html();
    let drawn: String =
        page.split("<svg").skip(1).filter_map(|svg| svg.split("</svg>").next()).collect();
    assert!(drawn.contains(">guilty</text>"), "{drawn}");
    assert!(page.contains("22 more are left out"), "{page}");
}

#[test]
fn a_page_claims_no_more_than_was_checked() {
    let every = "Whenever the end came, every task ended";
    let whole = Checker::exhaustive().run(clean).to_html();
    assert!(whole.contains(every) && !whole.contains("Part "), "{whole}");
    let cut = Checker::exhaustive().max_schedules(5);
    for page in [cut.run(clean).to_html(), cut.require_complete().run(clean).to_html()] {
        assert!(!page.contains(every), "{page}");
        assert!(page.contains("(but not all were tried that should have been)"), "{page}");
    }
    let part = Checker::exhaustive().shard(2, 3).run(clean).to_html();
    assert!(part.contains("Part 2 of 3") && !part.contains(every), "{part}");
    // Schedules by chance do not cover every moment, and with `Inject::None` there is no end.
    let some = [Checker::random(1, 1), Checker::pct(1, 2, 2), Checker::bytes(&[0])];
    for checker in some.into_iter().chain([Checker::new().inject(Inject::None)]) {
        let page = checker.run(clean).to_html();
        assert!(page.contains("In every schedule tried, every task ended"), "{page}");
    }
}

#[test]
fn a_part_without_a_schedule_says_that_nothing_was_run() {
    let report = Checker::new().max_schedules(3).shard(7, 9).run(clean);
    assert_eq!(report.schedules(), 0);
    assert!(report.to_string().starts_with("nothing was run: "), "{report}");
    assert!(report.covered().contains("cancel at none of "), "{report}");
    assert!(report.to_html().contains("<h1>Nothing was run</h1>"));
}

#[test]
fn a_single_schedule_is_in_the_first_part_and_in_no_other() {
    let of_bytes = |part| Checker::bytes(&[0, 1, 2]).shard(part, 3).run(clean);
    assert_eq!((1..=3).map(|part| of_bytes(part).schedules()).collect::<Vec<_>>(), [1, 0, 0]);
    assert!(of_bytes(2).to_string().starts_with("nothing was run: "), "{}", of_bytes(2));
    of_bytes(2).assert_clean();
    // Whoever has a token wants just that.
    let report = Checker::replay(&token()).shard(2, 3).run(leaky);
    assert_eq!(report.violations().len(), 1, "{report}");
    assert!(!report.to_string().contains("part 2"), "{report}");
}

// ---------------------------------------------------------------------- replaying

fn token() -> String {
    Checker::new().run(leaky).violations()[0].replay().to_string()
}

#[test]
fn a_token_shows_the_same_again() {
    let token = token();
    let again = Checker::replay(&token).run(leaky);
    assert_eq!(again.schedules(), 1);
    let violation = &again.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::BlockedStage);
    assert_eq!(violation.replay(), token);
    let story = violation.to_string();
    assert_eq!(Checker::try_replay(&token, leaky).unwrap().violations()[0].to_string(), story);
}

#[test]
fn tasks_of_one_name_are_told_apart_and_are_called_what_they_are() {
    let report = Checker::new().run(|ctx| async move {
        let first = rt::spawn_named("twin", async {});
        drop(rt::spawn_named("twin", std::future::pending::<()>()));
        let _ = ctx.run(first).await;
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.task(), Some("twin"));
    let story = violation.to_string();
    assert!(story.contains("(`twin#2` below)") && story.contains("spawns `twin#1`"), "{story}");
    assert!(report.to_html().contains(">twin#2</text>"));
}

#[test]
fn a_token_that_does_not_fit_says_why() {
    let token = token();
    assert_eq!(Checker::try_replay(&token, clean).unwrap_err(), ReplayError::Body);
    let error = |token: &str| Checker::try_replay(token, leaky).unwrap_err();
    assert!(matches!(error("hello"), ReplayError::Malformed { .. }));
    assert!(matches!(error(&token[..6]), ReplayError::Malformed { .. }));
    let other = token.replacen("q1", "q7", 1);
    assert!(error(&other).to_string().contains("version `q7`"));
    let far = format!("{}-i900000", token.rsplit_once('-').unwrap().0);
    assert_eq!(error(&far), ReplayError::Diverged);
}

#[test]
fn a_token_with_a_choice_that_is_not_there_does_not_fit() {
    async fn chooses(ctx: Context) {
        let _ = ctx.is_done();
        if rt::choose(3) == 2 {
            std::future::pending::<()>().await;
        }
    }
    let report = Checker::exhaustive().inject(Inject::None).run(chooses);
    let token = report.violations()[0].replay();
    let (head, value) = token.rsplit_once('x').unwrap();
    assert_eq!(value, "2");
    let far = format!("{head}x3");
    assert_eq!(Checker::try_replay(&far, chooses).unwrap_err(), ReplayError::Diverged);
}

#[test]
#[should_panic(expected = "of another body")]
fn replaying_with_another_body_panics_with_the_reason() {
    let _ = Checker::replay(&token()).run(clean);
}

#[test]
fn a_token_brings_its_limits_along() {
    async fn slow(ctx: Context) {
        ctx.done().await;
        rt::sleep(Duration::from_millis(20)).await;
    }
    let strict = Checker::new().stop_within(Duration::from_millis(10)).run(slow);
    let token = strict.violations()[0].replay();
    assert_eq!(Checker::replay(token).run(slow).violations().len(), 1);
    Checker::new().run(slow).assert_clean();
}

#[test]
fn a_schedule_found_at_random_shrinks_to_one_with_little_in_it() {
    async fn inverted(_ctx: Context) {
        let locks = [(); 2].map(|()| std::sync::Arc::new(tokio::sync::Mutex::new(())));
        let [left, right] = locks;
        for (name, first, second) in [("one", left.clone(), right.clone()), ("two", right, left)] {
            drop(rt::spawn_named(name, async move {
                for _ in 0..10 {
                    let _first = first.lock().await;
                    rt::yield_now().await;
                    let _second = second.lock().await;
                }
            }));
        }
    }
    let report = Checker::random(5, 200).inject(Inject::None).run(inverted);
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::BlockedStage);
    assert!(violation.replay().len() < 30, "{}", violation.replay());
}

#[test]
fn bytes_make_a_schedule_whatever_they_are() {
    for bytes in [&[][..], &[0], &[0, 3, 1, 2, 3, 4, 5], &[255; 64]] {
        Checker::bytes(bytes).run(clean).assert_clean();
        Checker::bytes(bytes).inject([Inject::Cancel, Inject::Drop]).run(clean).assert_clean();
    }
    let found = (0..40_u8).any(|n| !Checker::bytes(&[0, n, 1, 2, 1, 2]).run(leaky).is_clean());
    assert!(found);
}

// ---------------------------------------------------------------------- bad input

#[test]
#[should_panic(expected = "there is no part 3 of 2")]
fn a_shard_that_is_not_there_is_refused() {
    let _ = Checker::new().shard(3, 2);
}

#[test]
#[should_panic(expected = "pass `Inject::None`")]
fn an_empty_list_of_injections_is_refused() {
    let _ = Checker::new().inject([]);
}

#[test]
fn no_schedule_no_step_and_no_point_at_all_is_refused() {
    let refused = |make: fn() -> Checker| {
        let said = std::panic::catch_unwind(make).expect_err("it is refused");
        said.downcast_ref::<String>().cloned().unwrap_or_default()
    };
    for make in [
        (|| Checker::random(1, 0)) as fn() -> Checker,
        || Checker::pct(1, 3, 0),
        || Checker::new().max_schedules(0),
        || Checker::new().max_steps(0),
        || Checker::new().max_points(0),
    ] {
        let said = refused(make);
        assert!(said.contains("check nothing; pass 1 or more"), "{said:?}");
    }
}

#[test]
fn a_body_that_waits_for_a_thread_is_told_that_it_does() {
    let report = Checker::new().stop_at_first().run(|ctx| async move {
        let (tell, mut told) = tokio::sync::oneshot::channel();
        let (ask, asked) = std::sync::mpsc::channel();
        let helper = std::thread::spawn(move || {
            let _ = asked.recv();
            let _ = tell.send(());
        });
        // It answers only once the body waits.
        let waited = std::future::poll_fn(|cx| {
            let polled = std::pin::Pin::new(&mut told).poll(cx);
            if polled.is_pending() {
                let _ = ask.send(());
            }
            polled
        });
        let _ = waited.await;
        helper.join().unwrap();
        let _ = ctx.is_done();
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::Nondeterministic, "{report}");
}

#[test]
fn a_thread_of_the_systems_is_no_place_to_spawn() {
    let report = Checker::new().run(|ctx| async move {
        let spawned = std::thread::spawn(|| drop(rt::spawn(async {}))).join();
        assert!(spawned.is_err());
        let _ = ctx.is_done();
    });
    report.assert_clean();
}

#[test]
fn to_look_and_look_and_never_let_go_ends() {
    let report = Checker::new().max_points(50).run(|ctx| async move {
        while !ctx.is_done() {}
        ctx.done().await;
    });
    // The end does come, at whichever look, and ends the loop.
    report.assert_clean();
    let report = Checker::new().max_points(5).run(|ctx| async move {
        let (child, _canceller) = ctx.with_cancel();
        loop {
            let _ = child.is_done();
        }
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::LeakedTask);
    assert!(violation.waiting_for().unwrap().contains("never lets others run"));
}

/// Runs one of the ignored tests here in its own process. Returns its exit code and stderr.
fn in_a_process(test: &str) -> (Option<i32>, String) {
    let itself = std::env::current_exe().unwrap();
    let run = std::process::Command::new(itself)
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
}

#[test]
#[ignore = "ends its process"]
fn blocks_its_thread() {
    let _ = Checker::new().patience(Duration::from_millis(300)).run(|ctx| async move {
        drop(rt::spawn_named("leak", rt::sleep(Duration::MAX)));
        if ctx.is_done() {
            drop(rt::spawn_named("blocker", async {
                let (_tell, told) = std::sync::mpsc::channel::<()>();
                std::thread::park_timeout(Duration::from_secs(30));
                let _ = told.try_recv();
            }));
        }
    });
}

/// Holds a lock over a look, and a function at the end takes that lock.
async fn looks_with_a_lock(ctx: Context) {
    let queue = Arc::new(Mutex::new(vec![1]));
    let clears = queue.clone();
    ctx.after_func(move || clears.lock().unwrap().clear());
    let mut queue = queue.lock().unwrap();
    while !ctx.is_done() && queue.pop().is_some() {}
}

#[test]
#[ignore = "ends its process"]
fn holds_a_lock_over_a_look() {
    let _ = Checker::new().patience(Duration::from_millis(300)).run(looks_with_a_lock);
}

#[test]
#[ignore = "reads stack traces for longer than its patience"]
fn has_little_patience() {
    let report = Checker::random(1, 1).patience(Duration::from_millis(300)).run(|ctx| async move {
        for _ in 0..2_000 {
            drop(rt::spawn_named("waits", async {
                tokio::sync::Notify::new().notified().await;
            }));
        }
        ctx.done().await;
    });
    assert_eq!(report.violations()[0].task(), Some("waits"), "{report}");
}

#[test]
#[ignore = "has less patience than the check in its body needs"]
fn has_a_check_inside_that_takes_longer() {
    let _ = Checker::random(1, 1).patience(Duration::from_millis(300)).run(|ctx| async move {
        let inner = Checker::random(1, 20).run(|ctx| async move {
            std::thread::park_timeout(Duration::from_millis(15));
            ctx.done().await;
        });
        inner.assert_clean();
        ctx.done().await;
    });
}

#[test]
#[ignore = "ends its process"]
fn never_comes_back() {
    let _ = Checker::new().patience(Duration::from_millis(300)).run(|_| async {
        let (items, mut read) = mpsc::channel::<()>(1);
        drop(items);
        // A closed channel is always ready.
        loop {
            if read.recv().await.is_some() {
                break;
            }
        }
    });
}

/// Blocks the thread when it is dropped.
struct Blocks;

impl Drop for Blocks {
    fn drop(&mut self) {
        std::thread::park_timeout(Duration::from_secs(30));
    }
}

fn impatient(kind: Inject) -> Checker {
    Checker::exhaustive().max_delays(0).inject(kind).patience(Duration::from_millis(300))
}

#[test]
#[ignore = "ends its process"]
fn blocks_as_the_body_is_dropped() {
    let _ = impatient(Inject::Drop).run(|_| async {
        drop(rt::spawn_named("innocent", async {
            loop {
                rt::sleep(Duration::from_secs(1)).await;
            }
        }));
        rt::sleep(Duration::from_secs(5)).await;
        let _blocks = Blocks;
        std::future::pending::<()>().await;
    });
}

#[test]
#[ignore = "ends its process"]
fn blocks_as_a_task_is_aborted() {
    let _ = impatient(Inject::None).run(|_| async {
        let guilty = rt::spawn_named("guilty", async {
            let _blocks = Blocks;
            std::future::pending::<()>().await;
        });
        rt::yield_now().await;
        guilty.abort();
        rt::spawn_named("innocent", async {}).await.unwrap();
    });
}

#[test]
#[ignore = "ends its process"]
fn blocks_as_what_is_left_is_thrown_away() {
    let _ = impatient(Inject::None).run(|_| async {
        drop(rt::spawn_named("guilty", async {
            let _blocks = Blocks;
            std::future::pending::<()>().await;
        }));
        drop(rt::spawn_named("innocent", async {}));
    });
}

#[test]
#[ignore = "ends its process"]
fn blocks_under_the_second_injection() {
    let _ =
        impatient(Inject::None).inject([Inject::Cancel, Inject::Deadline]).run(|ctx| async move {
            let second = ctx.deadline().is_some();
            let name = if second { "guilty" } else { "innocent" };
            let task = rt::spawn_named(name, async move {
                let _blocks = second.then(|| Blocks);
            });
            task.await.unwrap();
        });
}

#[test]
fn whoever_keeps_the_thread_in_its_drop_is_named() {
    for (test, name) in [
        ("blocks_as_the_body_is_dropped", "body"),
        ("blocks_as_a_task_is_aborted", "guilty"),
        ("blocks_as_what_is_left_is_thrown_away", "guilty"),
        // The names of tasks are numbered anew for each injection.
        ("blocks_under_the_second_injection", "guilty"),
    ] {
        let (code, said) = in_a_process(test);
        assert_eq!(code, Some(101), "{said}");
        assert!(said.contains(&format!("quell: the task `{name}`, spawned at ")), "{said}");
        assert!(said.contains("or its drop"), "{said}");
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the second");
    }
}

#[test]
#[ignore = "ends its process"]
fn panics_while_it_unwinds() {
    let _ = Checker::new().run(|ctx| async move {
        drop(rt::spawn_named("leak", rt::sleep(Duration::MAX)));
        if ctx.is_done() {
            let _bomb = Bomb;
            panic!("the first");
        }
    });
}

#[test]
fn a_panic_while_another_unwinds_is_told_with_both_lines_and_what_was_found_before() {
    let (code, said) = in_a_process("panics_while_it_unwinds");
    assert_ne!(code, Some(0), "{said}");
    let both = ["the first", "the second"].map(|mark| {
        let line = include_str!("check.rs")
            .lines()
            .position(|line| line.trim() == format!("panic!({mark:?});"));
        format!("at tests/check.rs:{}:", line.unwrap() + 1)
    });
    for part in ["the first", "the second", &both[0], &both[1], "BlockedStage: ", "`leak`"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[test]
fn what_is_said_before_the_process_ends_is_said_though_a_test_keeps_its_output() {
    for (test, part) in
        [("blocks_its_thread", "the task `blocker`"), ("panics_while_it_unwinds", "the second")]
    {
        let itself = std::env::current_exe().unwrap();
        let run = std::process::Command::new(itself).args([test, "--exact", "--ignored"]).output();
        let said = String::from_utf8_lossy(&run.unwrap().stderr).into_owned();
        assert!(said.contains(part), "{test}: {said}");
    }
}

#[test]
fn whoever_keeps_the_thread_is_named_and_ended() {
    let (code, said) = in_a_process("blocks_its_thread");
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("the task `blocker`, spawned at tests/check.rs:"), "{said}");
    assert!(said.contains("await instead"), "{said}");
    // What was found before is told too, though simpler schedules for it were still being tried.
    assert!(said.contains("BlockedStage: ") && said.contains("`leak`"), "{said}");
    let (code, said) = in_a_process("never_comes_back");
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("`body`"), "{said}");
}

#[test]
fn a_function_that_waits_for_the_turn_in_which_the_end_came_is_told_as_that() {
    let (code, said) = in_a_process("holds_a_lock_over_a_look");
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("in the middle of the turn of the task `body`"), "{said}");
    assert!(said.contains("`Checker::functions_after_turns`"), "{said}");
}

#[test]
fn the_time_that_the_checker_takes_itself_is_nobodys() {
    let (code, said) = in_a_process("has_little_patience");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = in_a_process("has_a_check_inside_that_takes_longer");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn where_all_there_are_have_been_run_no_more_are_asked_for() {
    let never = Checker::exhaustive().inject(Inject::None).run(|_| async {
        check::sometimes("never", false);
    });
    let why = never.violations()[0].waiting_for();
    assert_eq!(why, Some("in no schedule did this ever hold: `never`"));
    let nowhere = Checker::exhaustive().inject(Inject::Panic).run(|_| rt::yield_now());
    let why = nowhere.violations()[0].waiting_for();
    assert_eq!(why, Some("no injection landed: the body has come to no `check::fault` point"));
    let one = Checker::random(1, 1).inject(Inject::None).run(|_| async {
        check::sometimes("never", false);
    });
    let why = one.violations()[0].waiting_for().unwrap();
    assert!(why.ends_with("; one schedule shows little: run more"), "{why}");
}

#[test]
fn an_injection_that_a_maximum_has_cut_has_not_come_at_each_point() {
    // With a deadline there are more points than the maximum.
    let report = Checker::exhaustive()
        .inject([Inject::Cancel, Inject::Deadline])
        .max_points(20)
        .max_delays(0)
        .run(|ctx| async move {
            for _ in 0..if ctx.deadline().is_some() { 50 } else { 1 } {
                let _ = ctx.run(rt::yield_now()).await;
            }
        });
    let covered = report.covered();
    assert!(covered.contains("cancel at each of "), "{covered}");
    assert!(covered.contains("deadline at some of 20 points"), "{covered}");
    assert!(report.to_html().contains("In every schedule tried, every task ended"));
}

#[test]
fn a_checker_may_run_inside_the_body_of_another() {
    let report = Checker::exhaustive().run(|ctx| async move {
        Checker::exhaustive().run(clean).assert_clean();
        let _ = ctx.run(rt::yield_now()).await;
    });
    report.assert_clean();
}

#[test]
fn checkers_on_many_threads_do_not_disturb_each_other() {
    let expected = all_in_one(&Checker::random(1, 200).run(leaky));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(all_in_one(&Checker::random(1, 200).run(leaky)), expected);
            });
        }
    });
}

#[test]
fn every_task_of_ten_thousand_is_waited_for() {
    let report = Checker::random(1, 3).inject(Inject::Cancel).run(|ctx| async move {
        let tasks: Vec<_> = (0..10_000)
            .map(|_| {
                let ctx = ctx.clone();
                rt::spawn(async move {
                    let _ = ctx.run(rt::yield_now()).await;
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    report.assert_clean();
}
