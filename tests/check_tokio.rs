//! Unmodified tokio programs under `Checker::tokio`.
#![cfg(all(not(loom), feature = "check", feature = "tokio"))]

use quell::check::{self, Checker, Inject, Place, ReplayError, Report, Violation, ViolationKind};
use quell::{Context, ContextError, Group, OnCancel, Pipeline, rt};
use std::cell::Cell;
use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time;

const ALL: [Inject; 4] = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None];

/// All of it is tokio's except the context.
async fn service(ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    let inside = ctx.clone();
    let producer = tokio::spawn(async move {
        let mut ticks = time::interval(Duration::from_millis(100));
        for n in 0..3 {
            tokio::select! {
                _ = inside.done() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                _ = inside.done() => return,
                sent = items.send(n) => if sent.is_err() { return },
            }
        }
    });
    let mut sum = 0;
    while let Ok(Some(n)) = ctx.run(read.recv()).await {
        sum += n;
    }
    drop(read);
    producer.await.unwrap();
    assert!(sum <= 3);
}

#[test]
fn a_service_that_stops_is_clean() {
    let report = Checker::tokio().inject(ALL).run(service);
    println!("{report}");
    report.assert_clean();
    assert!(report.points() > 5 && report.schedules() > 10);
}

#[test]
fn a_task_that_goes_on_is_counted() {
    let report = Checker::tokio().run(|ctx| async move {
        tokio::spawn(async {
            loop {
                time::sleep(Duration::from_secs(1)).await;
            }
        });
        let _ = ctx.run(time::sleep(Duration::from_secs(5))).await;
    });
    println!("{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask);
}

#[test]
fn a_task_that_is_left_is_one_violation_whether_or_not_an_injection_came() {
    let report = Checker::tokio().run(|ctx| async move {
        let _ = ctx.is_done();
        drop(tokio::spawn(std::future::pending::<()>()));
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].count(), report.schedules());
}

#[test]
fn a_task_that_is_always_busy_does_not_stop_the_count() {
    let report = Checker::tokio().run(|ctx| async move {
        ctx.is_done();
        tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask);
}

#[test]
fn what_is_chosen_is_the_same_in_each_run_or_no_run_would_come_to_the_points_of_another() {
    let report = Checker::tokio().run(|ctx| async move {
        for _ in 0..rt::choose(100) {
            ctx.is_done();
        }
        ctx.is_done();
    });
    assert!(report.complete(), "{report}");
    let chosen = Cell::new(None);
    let check = || {
        let same = Checker::tokio().run(|ctx| {
            let now = rt::choose(usize::MAX);
            assert_eq!(chosen.replace(Some(now)).unwrap_or(now), now);
            async move { ctx.check() }
        });
        same.assert_clean();
        rt::choose(usize::MAX)
    };
    // What is chosen after a check is left to chance again.
    assert_ne!(check(), check());
}

#[test]
fn a_body_that_waits_for_ever_is_blocked() {
    let report = Checker::tokio().run(|ctx| async move {
        let _ = ctx.run(time::sleep(Duration::from_secs(5))).await;
        let (_keep, mut read) = mpsc::channel::<()>(1);
        read.recv().await;
    });
    println!("{report}");
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::BlockedStage);
    assert_eq!(violation.task(), Some("body"));
    // The line of the second await, and what is called there.
    let place = violation.waiting_at().expect("its waker was cloned there");
    assert_eq!((place.file(), place.line()), ("tests/check_tokio.rs", line!() - 8));
    assert!(violation.waiting_for().unwrap().contains("tokio::sync::mpsc"), "{report}");
}

async fn forgets_a_task(ctx: Context) {
    let inside = ctx.clone();
    let first = tokio::spawn(async move { ctx.run(time::sleep(Duration::from_secs(1))).await });
    if inside.run(first).await.is_err() {
        drop(tokio::spawn(time::sleep(Duration::from_secs(60))));
    }
}

#[test]
fn a_violation_says_at_which_look_the_injection_came() {
    let report = Checker::tokio().run(forgets_a_task);
    let story = report.violations()[0].to_string();
    assert!(story.contains("injection    cancel at point "), "{story}");
    assert!(story.contains(", in the look at tests/check_tokio.rs:"), "{story}");
}

#[test]
fn a_token_of_a_tokio_program_shows_the_same_again() {
    let report = Checker::tokio().inject(ALL).run(forgets_a_task);
    assert!(!report.is_clean());
    for found in report.violations() {
        let again = Checker::try_replay(found.replay(), forgets_a_task).unwrap();
        assert_eq!(again.violations().len(), 1, "{again}");
        assert_eq!(again.schedules(), 1);
        let same = &again.violations()[0];
        assert_eq!((same.kind(), same.task()), (found.kind(), found.task()));
        assert_eq!(same.waiting_at(), found.waiting_at());
        assert_eq!(same.replay(), found.replay());
    }
    let token = report.violations()[0].replay();
    assert_eq!(Checker::try_replay(token, service).unwrap_err(), ReplayError::Body);
    let (head, _) = token.rsplit_once('-').unwrap();
    let far = format!("{head}-k900");
    assert_eq!(Checker::try_replay(&far, forgets_a_task).unwrap_err(), ReplayError::Diverged);
}

#[test]
fn a_body_that_waits_for_its_end_is_given_it() {
    Checker::tokio()
        .run(|ctx| async move {
            let _ = ctx.done().await;
        })
        .assert_clean();
}

#[test]
fn a_panic_in_a_task_is_told_with_its_line() {
    let line = line!() + 2;
    let report = Checker::tokio().run(|ctx| async move {
        let task = tokio::spawn(async move { assert!(!ctx.is_done(), "too late") });
        let _ = task.await;
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::Panicked);
    assert_eq!(violation.waiting_for(), Some("too late"));
    let place = violation.waiting_at().expect("it has a line");
    assert_eq!((place.file(), place.line()), (file!(), line));
}

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
fn what_panics_as_the_body_is_dropped_is_told() {
    let report = Checker::tokio().inject(Inject::Drop).run(|ctx| async move {
        let bomb = Bomb;
        let _ = ctx.run(time::sleep(Duration::from_secs(3))).await;
        std::mem::forget(bomb);
    });
    assert_eq!(panicked(&report).waiting_for(), Some("a bomb"));
    let report = Checker::tokio().run(|ctx| async move {
        let _bomb = Bomb;
        ctx.done().await;
        std::future::pending::<()>().await;
    });
    assert_eq!(panicked(&report).waiting_for(), Some("a bomb"));
}

#[test]
fn a_panic_that_goes_around_the_hook_is_told_and_so_is_that_of_a_function_at_the_end() {
    let report = Checker::tokio().run(|ctx| async move {
        ctx.done().await;
        resume_unwind(Box::new("boom"));
    });
    assert_eq!(panicked(&report).waiting_for(), Some("boom"));
    let report = Checker::tokio().run(|ctx| async move {
        let _function = ctx.after_func(|| panic!("at the end"));
        ctx.done().await;
    });
    let place = panicked(&report).waiting_at().expect("the hook has seen it");
    assert_eq!((place.file(), place.line()), ("tests/check_tokio.rs", line!() - 4));
}

#[test]
fn a_panic_on_a_thread_of_spawn_blocking_is_told_unless_the_program_catches_it() {
    let report = Checker::tokio().run(|ctx| async move {
        let blocks = tokio::task::spawn_blocking(|| panic!("on its thread"));
        let _: Result<(), _> = blocks.await;
        let _ = ctx.is_done();
    });
    assert_eq!(panicked(&report).waiting_for(), Some("on its thread"));
    let place = panicked(&report).waiting_at().expect("the hook has seen it");
    assert_eq!((place.file(), place.line()), ("tests/check_tokio.rs", line!() - 6));
    let report = Checker::tokio().run(|ctx| async move {
        let catches = || std::panic::catch_unwind(|| panic!("on purpose")).is_err();
        assert!(tokio::task::spawn_blocking(catches).await.unwrap());
        let _ = ctx.is_done();
    });
    report.assert_clean();
}

#[test]
fn a_panic_that_the_program_catches_is_its_own_affair() {
    let report = Checker::tokio().run(|ctx| async move {
        let caught = || std::panic::catch_unwind(|| panic!("on purpose"));
        assert!(caught().is_err());
        let task = tokio::spawn(async move { caught().is_err() });
        assert!(task.await.unwrap());
        ctx.done().await;
    });
    report.assert_clean();
}

#[test]
fn the_panic_of_a_task_is_told_whatever_is_injected_or_caught_after_it() {
    let report = Checker::tokio().inject(Inject::Panic).run(|ctx| async move {
        let task = tokio::spawn(async { panic!("its own") });
        let _: Result<(), _> = task.await;
        let _ = std::panic::catch_unwind(|| panic!("on purpose"));
        let _ = ctx.check();
        check::fault("late");
    });
    assert_eq!(panicked(&report).waiting_for(), Some("its own"));
}

#[test]
fn a_panic_in_a_group_is_told_though_the_group_hands_it_on() {
    async fn body(ctx: Context) {
        let group = Group::new(&ctx);
        let panics = |ctx: Context| async move {
            assert!(ctx.deadline().is_some(), "nothing there");
            Ok::<(), String>(())
        };
        let _ = group.spawn("panics", panics).await;
        let _ = group.wait().await;
    }
    assert_eq!(panicked(&Checker::tokio().run(body)).waiting_for(), Some("nothing there"));
    assert_eq!(panicked(&Checker::new().run(body)).waiting_for(), Some("nothing there"));
}

#[tokio::test]
#[should_panic(expected = "make the test a plain `#[test]`")]
async fn inside_a_runtime_it_says_what_to_do_instead() {
    let _ = Checker::tokio().run(service); // <- asks for it
}

#[test]
fn a_check_that_cannot_be_names_the_line_that_asked_for_it() {
    let (_, said) = in_a_process("inside_a_runtime_it_says_what_to_do_instead");
    let asks = |line: &str| line.ends_with("; // <- asks for it");
    let line = include_str!("check_tokio.rs").lines().position(asks).unwrap() + 1;
    assert!(said.contains(&format!("panicked at tests/check_tokio.rs:{line}:")), "{said}");
}

#[test]
fn inside_a_runtime_that_waits_for_nothing_it_runs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    Checker::tokio().run(service).assert_clean();
}

#[test]
#[ignore = "sets the panic hook of its process"]
fn sets_panic_hooks() {
    let panics = |_ctx: Context| async {
        let _ = tokio::spawn(async { panic!("a bug") }).await;
    };
    panicked(&Checker::tokio().run(panics));
    std::panic::set_hook(Box::new(|_| {}));
    panicked(&Checker::tokio().run(panics));
    let report = Checker::tokio().run(move |ctx| async move {
        std::panic::set_hook(Box::new(|_| {}));
        panics(ctx).await;
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous, "{report}");
    let why = report.violations()[0].waiting_for().unwrap();
    assert!(why.contains("another panic hook was set"), "{report}");
    // A thread that begins meanwhile leaves it as it is.
    let report = Checker::tokio().run(move |ctx| async move {
        std::panic::set_hook(Box::new(|_| {}));
        panics(ctx).await;
        let _ = tokio::task::spawn_blocking(|| ()).await;
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous, "{report}");
    // A check within the body, which sets a hook of its own, does not hide that panics were missed.
    let report = Checker::tokio().run(move |ctx| async move {
        std::panic::set_hook(Box::new(|_| {}));
        panics(ctx).await;
        let inner = Checker::random(1, 1).inject(Inject::None);
        inner.run(|ctx| async move { assert!(!ctx.is_done()) }).assert_clean();
    });
    let why = report.violations()[0].waiting_for().unwrap();
    assert!(why.contains("another panic hook was set"), "{report}");
    // The checker's own hook is of no use while user code keeps it for later.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    panicked(&Checker::tokio().run(panics));
    let report = Checker::random(1, 1).inject(Inject::Panic).run(|_ctx| async {
        let _lost = check::Tracked::new("by a fault");
        check::fault("here");
    });
    report.assert_clean();
    std::panic::set_hook(before);
    panicked(&Checker::tokio().run(panics));
    // One that passes on what it hears is no matter.
    let report = Checker::tokio().run(move |ctx| async move {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| before(info)));
        panics(ctx).await;
    });
    panicked(&report);
    // No hook of the user's is called unless the user's code panics.
    let report = Checker::tokio().run(move |ctx| async move {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            std::process::exit(3);
        }));
        let _ = ctx.run(tokio::task::yield_now()).await;
    });
    report.assert_clean();
}

#[test]
fn a_panic_is_found_whatever_hook_has_been_set_or_the_report_says_why_not() {
    let (code, said) = in_a_process("sets_panic_hooks");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_check_in_the_body_of_another_checker_has_a_world_of_its_own() {
    let inner = |ctx: Context| async move {
        let task = rt::spawn(async move { ctx.done().await });
        task.await.unwrap();
    };
    Checker::new()
        .inject(Inject::None)
        .run(|ctx| async move {
            assert!(!ctx.is_done());
            Checker::tokio().run(inner).assert_clean();
        })
        .assert_clean();
}

// --------------------------------------------------------------------- time and steps

#[test]
fn what_goes_wrong_in_a_run_that_went_another_way_is_told() {
    let runs = AtomicUsize::new(0);
    let report = Checker::tokio().inject(Inject::Cancel).run(|ctx| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            if run == 3 {
                panic!("a rare branch");
            }
            for _ in 0..5 {
                let _ = ctx.run(tokio::task::yield_now()).await;
            }
        }
    });
    assert!(!report.complete());
    assert!(
        report.violations().iter().any(|found| found.kind() == ViolationKind::Panicked),
        "{report}"
    );
}

#[test]
fn what_is_found_after_an_injection_that_landed_nowhere_is_told_beside_that() {
    let report = Checker::tokio().inject([Inject::Panic, Inject::Cancel]).run(|ctx| async move {
        for _ in 0..3 {
            if ctx.is_done() {
                panic!("it has ended");
            }
        }
    });
    let kinds: Vec<_> = report.violations().iter().map(Violation::kind).collect();
    assert_eq!(kinds, [ViolationKind::Vacuous, ViolationKind::Panicked], "{report}");
}

#[test]
fn a_deadline_comes_when_it_is_due_whatever_the_time_is_then() {
    Checker::tokio()
        .inject(Inject::Deadline)
        .run(|ctx| async move {
            let began = time::Instant::now();
            let _ = ctx.run(time::sleep(Duration::from_secs(30 * 60))).await;
            tokio::select! {
                biased;
                () = time::sleep(Duration::from_secs(40 * 60)) => {
                    panic!("{:?} later the deadline has not come", began.elapsed());
                }
                _ = ctx.done() => {}
            }
        })
        .assert_clean();
}

#[test]
fn the_grace_of_a_drain_is_whole_when_a_deadline_comes_late() {
    Checker::tokio()
        .inject(Inject::Deadline)
        .run(|ctx| async move {
            let _ = ctx.run(time::sleep(Duration::from_secs(5))).await;
            let grace = Duration::from_secs(3);
            let mut results = Pipeline::from_iter(&ctx, 0..5_u64)
                .dispatch(2, |_, n| async move {
                    time::sleep(Duration::from_millis(100)).await;
                    n
                })
                .on_cancel(OnCancel::Drain { grace })
                .run();
            while results.next().await.is_some() {}
            let report = results.finish().await;
            assert_eq!(report.discarded(), 0, "{report}");
        })
        .assert_clean();
}

#[test]
fn who_needs_the_whole_time_to_stop_is_clean() {
    let whole = Duration::from_secs(1);
    for joins in [true, false] {
        Checker::tokio()
            .stop_within(whole)
            .run(move |ctx| async move {
                let tasks = (0..100).map(|_| {
                    let ctx = ctx.clone();
                    tokio::spawn(async move {
                        ctx.done().await;
                        time::sleep(whole).await;
                        tokio::task::yield_now().await;
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    if joins {
                        task.await.unwrap();
                    }
                }
            })
            .assert_clean();
    }
}

#[test]
fn a_body_that_needs_the_whole_time_to_stop_has_its_turns_like_a_task() {
    let whole = Duration::from_secs(1);
    Checker::tokio()
        .stop_within(whole)
        .run(move |ctx| async move {
            ctx.done().await;
            time::sleep(whole).await;
            tokio::task::yield_now().await;
        })
        .assert_clean();
}

#[test]
fn a_task_whose_timer_rings_by_whole_milliseconds_has_the_whole_time_to_stop() {
    for (whole, moved) in [(1_500, 0), (1_000_000, 500)] {
        let whole = Duration::from_micros(whole);
        Checker::tokio()
            .stop_within(whole)
            .run(move |ctx| async move {
                time::advance(Duration::from_micros(moved)).await;
                tokio::spawn(async move {
                    ctx.done().await;
                    time::sleep(whole).await;
                });
            })
            .assert_clean();
    }
}

#[test]
fn a_timer_that_a_body_leaves_behind_is_no_task_of_its_own() {
    let report = Checker::tokio().inject(Inject::None).run(|_ctx| async {
        let (long, canceller) = Context::background().with_timeout(Duration::from_secs(60));
        canceller.detach();
        long.after_func(|| {});
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedContext, "{report}");
}

#[test]
fn panics_of_one_line_are_one_violation_and_those_of_another_line_another() {
    let runs = AtomicUsize::new(0);
    let report = Checker::tokio().inject(Inject::Cancel).run(|ctx| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            for _ in 0..100 {
                let _ = ctx.run(tokio::task::yield_now()).await;
            }
            assert!(run > 120, "early, in run {run}");
            assert!(run == 0, "late, in run {run}");
        }
    });
    assert_eq!(report.violations().len(), 2, "{report}");
    let lines: Vec<_> =
        report.violations().iter().map(|it| it.waiting_at().unwrap().line()).collect();
    assert_eq!(lines[1], lines[0] + 1, "{report}");
}

#[test]
fn a_clock_that_the_body_has_resumed_is_told() {
    let report = Checker::tokio().inject(Inject::Deadline).run(|ctx| async move {
        time::resume();
        let _ = ctx.run(pending::<()>()).await;
    });
    let violation = &report.violations()[0];
    assert!(violation.waiting_for().unwrap().contains("`tokio::time::resume`"), "{report}");
}

#[test]
fn what_is_never_reached_is_told() {
    let body = |ctx: Context| async move {
        check::sometimes("pigs fly", false);
        let _ = ctx.run(time::sleep(Duration::from_secs(3))).await;
    };
    let report = Checker::tokio().run(body);
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous, "{report}");
    assert!(report.to_string().contains("pigs fly"), "{report}");
    // Another part may reach it.
    Checker::tokio().shard(1, 2).run(body).assert_clean();
}

#[test]
fn each_part_of_a_check_runs_its_own_schedules_and_hardly_any_others() {
    let runs = AtomicU64::new(0);
    let body = |ctx: Context| {
        runs.fetch_add(1, Ordering::Relaxed);
        async move {
            for _ in 0..40 {
                if ctx.is_done() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    let checker = Checker::tokio().inject(Inject::Cancel);
    let all = checker.run(body).schedules();
    let alone = runs.swap(0, Ordering::Relaxed);
    let of_parts = (1..=4).map(|part| {
        let report = checker.clone().shard(part, 4).run(body);
        let runs = runs.swap(0, Ordering::Relaxed);
        assert!(runs <= alone / 4 + 3, "{runs} of {alone}: {report}");
        report.schedules()
    });
    assert_eq!(of_parts.sum::<u64>(), all);
}

#[test]
fn to_clean_up_takes_as_many_turns_as_a_schedule_has_steps() {
    async fn body(ctx: Context) {
        let inside = ctx.clone();
        tokio::spawn(async move {
            inside.done().await;
            for _ in 0..3_000 {
                tokio::task::yield_now().await;
            }
            // The yields take no time, which leaves the time for this.
            for _ in 0..90 {
                time::sleep(Duration::from_millis(10)).await;
            }
        });
        ctx.done().await;
    }
    Checker::tokio().run(body).assert_clean();
    let report = Checker::tokio().max_steps(1_000).run(body);
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask, "{report}");
}

#[test]
fn a_body_that_is_polled_for_ever_is_busy() {
    for kind in [Inject::Cancel, Inject::None] {
        let checker = Checker::tokio().inject(kind).max_points(5);
        let report = checker.run(|ctx| async move {
            while ctx.deadline().is_none() {
                tokio::task::yield_now().await;
            }
        });
        let violation = &report.violations()[0];
        assert_eq!(violation.kind(), ViolationKind::LeakedTask, "{report}");
        assert_eq!(violation.task(), Some("body"));
    }
}

/// The line of this file that ends with `mark`.
fn line(mark: &str) -> u32 {
    let mark = format!("// <- {mark}");
    let at = include_str!("check_tokio.rs").lines().position(|line| line.ends_with(&mark));
    at.expect("the mark is there") as u32 + 1
}

#[test]
fn a_body_that_is_polled_for_ever_has_the_line_that_is_its_turn() {
    async fn tokios(_: Context) {
        loop {
            tokio::task::yield_now().await; // <- tokio's turn
        }
    }
    async fn quells(_: Context) {
        loop {
            quell::rt::yield_now().await; // <- quell's turn
        }
    }
    /// Runs out of time before it runs out of turns.
    async fn now_and_then(_: Context) {
        loop {
            time::sleep(Duration::from_millis(1)).await;
            rt::yield_now().await; // <- a turn now and then
        }
    }
    fn shows<F: Future>(body: impl Fn(Context) -> F, at: u32) {
        let brief = Duration::from_millis(100);
        let report = Checker::tokio().max_points(5).max_steps(300).stop_within(brief).run(body);
        let violation = &report.violations()[0];
        assert_eq!(violation.kind(), ViolationKind::LeakedTask, "{report}");
        assert_eq!(violation.waiting_at().map(Place::line), Some(at), "{report}");
    }
    shows(tokios, line("tokio's turn"));
    shows(quells, line("quell's turn"));
    shows(now_and_then, line("a turn now and then"));
}

#[test]
fn a_body_may_take_days_if_nothing_is_injected_and_who_waits_for_ever_is_blocked() {
    let days = |ctx: Context| async move {
        time::sleep(Duration::from_secs(48 * 3600)).await;
        let _ = ctx.is_done();
        time::sleep(Duration::from_secs(480 * 3600)).await;
    };
    Checker::tokio().inject(Inject::None).run(days).assert_clean();
    let report = Checker::tokio().inject(Inject::None).run(|_| std::future::pending::<()>());
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::BlockedStage);
    assert!(!violation.to_string().contains("after the injection"), "{violation}");
}

#[test]
fn the_time_to_stop_counts_from_the_injection_and_not_from_the_end_of_the_body() {
    let body = |millis| {
        move |ctx: Context| async move {
            let inside = ctx.clone();
            tokio::spawn(async move {
                inside.done().await;
                time::sleep(Duration::from_millis(millis)).await;
            });
            ctx.done().await;
            time::sleep(Duration::from_millis(950)).await;
        }
    };
    Checker::tokio().run(body(1_000)).assert_clean();
    let report = Checker::tokio().run(body(1_900));
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask, "{report}");
}

#[test]
fn the_time_to_stop_counts_though_the_body_does_not_notice_the_injection() {
    let report = Checker::tokio().run(|ctx| async move {
        let task = tokio::spawn(async move {
            let _ = ctx.run(time::sleep(Duration::from_secs(5))).await;
            time::sleep(Duration::from_secs(60)).await;
        });
        task.await.unwrap();
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::LeakedTask, "{report}");
    assert_eq!(violation.task(), Some("body"));
}

/// Runs `how` after it is told to stop.
async fn lingers(ctx: Context, how: impl Future<Output = ()> + Send + 'static, in_a_task: bool) {
    ctx.done().await;
    if in_a_task {
        rt::spawn(how).await.unwrap();
    } else {
        how.await;
    }
}

#[test]
fn who_is_too_slow_is_leaked_and_who_waits_for_nobody_is_blocked_as_anywhere() {
    let days = || time::sleep(Duration::from_secs(48 * 3600));
    let ticks = || async {
        loop {
            time::sleep(Duration::from_secs(60)).await;
        }
    };
    let virtual_days = || rt::sleep(Duration::from_secs(48 * 3600));
    for in_a_task in [false, true] {
        let kind = |report: Report| report.violations()[0].kind();
        let blocked = kind(Checker::tokio().run(|ctx| lingers(ctx, pending(), in_a_task)));
        assert_eq!(blocked, ViolationKind::BlockedStage);
        let slow = kind(Checker::tokio().run(|ctx| lingers(ctx, days(), in_a_task)));
        assert_eq!(slow, ViolationKind::LeakedTask);
        let slow = kind(Checker::tokio().run(|ctx| lingers(ctx, ticks(), in_a_task)));
        assert_eq!(slow, ViolationKind::LeakedTask);
        // The explorer agrees.
        let blocked = kind(Checker::new().run(|ctx| lingers(ctx, pending(), in_a_task)));
        assert_eq!(blocked, ViolationKind::BlockedStage);
        let slow = kind(Checker::new().run(|ctx| lingers(ctx, virtual_days(), in_a_task)));
        assert_eq!(slow, ViolationKind::LeakedTask);
    }
}

#[test]
fn what_is_done_when_the_time_to_stop_is_over_counts_no_more() {
    let report = Checker::tokio().run(|ctx| async move {
        let task = tokio::spawn(async move {
            ctx.done().await;
            time::sleep(Duration::from_secs(60)).await;
            check::sometimes("a minute later", true);
            drop(check::Tracked::new(1));
            panic!("a minute later");
        });
        let _: Result<(), _> = task.await;
    });
    let kinds: Vec<_> = report.violations().iter().map(Violation::kind).collect();
    assert_eq!(kinds, [ViolationKind::LeakedTask], "{report}");
    assert_eq!(report.sometimes(), []);
}

/// Waits for a function at the end of its context, which may run before it waits.
async fn looks_too_soon(ctx: Context) {
    let ends = Arc::new(tokio::sync::Notify::new());
    let tells = Arc::clone(&ends);
    ctx.after_func(move || tells.notify_waiters());
    if !ctx.is_done() {
        ends.notified().await;
    }
}

#[test]
fn a_deadline_comes_at_each_look_as_a_cancel_does() {
    let looks = |ctx: Context| async move {
        for _ in 0..5 {
            let _ = ctx.is_done();
        }
    };
    let points = |kind| Checker::tokio().inject(kind).run(looks).points();
    assert_eq!(points(Inject::Deadline), points(Inject::Cancel));
    let report = Checker::tokio().inject(Inject::Deadline).run(looks_too_soon);
    assert_eq!(report.violations().len(), 1, "{report}");
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::BlockedStage, "{report}");
    assert!(violation.to_string().contains(", in the look at tests/check_tokio.rs:"), "{report}");
    let again = Checker::replay(violation.replay()).run(looks_too_soon);
    assert_eq!(again.violations()[0].waiting_at(), violation.waiting_at());
}

#[test]
fn where_a_deadline_comes_at_a_look_the_time_follows_whether_or_not_the_body_goes_on() {
    let half_an_hour = || time::sleep(Duration::from_secs(1_800));
    for goes_on in [false, true] {
        let report = Checker::tokio().inject(Inject::Deadline).run(|ctx| async move {
            let before = ctx.is_done();
            let task = tokio::spawn(half_an_hour());
            let ends_here = ctx.is_done();
            let since = time::Instant::now();
            if !ends_here && ctx.err() == Some(ContextError::DeadlineExceeded) {
                check::sometimes("it ends between two looks", true);
                if goes_on {
                    tokio::task::yield_now().await;
                    assert!(since.elapsed() >= Duration::from_secs(1_800));
                }
                // It has slept enough once time has caught up with it.
                drop(task);
            } else {
                check::sometimes("it ends between two looks", false);
                task.abort();
            }
            let _ = before;
        });
        report.assert_clean();
    }
}

#[test]
fn a_maximum_of_schedules_is_one_over_all_injections_and_in_all_parts() {
    let body = |ctx: Context| async move {
        for _ in 0..20 {
            let _ = ctx.is_done();
            tokio::task::yield_now().await;
        }
    };
    let kinds = [Inject::Cancel, Inject::Drop, Inject::Deadline];
    let checker = Checker::tokio().inject(kinds).max_schedules(8);
    let report = checker.run(body);
    assert_eq!(report.schedules(), 8, "{report}");
    assert!(report.is_clean() && !report.complete(), "{report}");
    assert!(!report.covered().contains("at each of"), "{report}");
    let parts = (1..=3).map(|part| checker.clone().shard(part, 3).run(body).schedules());
    assert_eq!(parts.sum::<u64>(), 8);
    // A maximum that is the number of schedules cuts nothing.
    let all = Checker::tokio().run(body).schedules();
    assert!(Checker::tokio().max_schedules(all).run(body).complete());
    assert!(!Checker::tokio().max_schedules(all - 1).run(body).complete());
    let one = Checker::tokio().max_schedules(1).run(body);
    assert_eq!((one.schedules(), one.violations()[0].kind()), (1, ViolationKind::Vacuous), "{one}");
    assert!(one.to_string().contains("raise it"), "{one}");
}

/// Leaves a task behind when it is dropped, if it has reached turn `from`.
struct Leaves {
    turns: u32,
    from: u32,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        if self.turns >= self.from {
            drop(tokio::spawn(time::sleep(Duration::from_secs(5))));
        }
    }
}

#[test]
fn an_injection_that_a_maximum_has_brought_says_so() {
    let report = Checker::tokio().inject(Inject::Drop).max_steps(20).run(|_| async {
        let mut leaves = Leaves { turns: 0, from: 20 };
        loop {
            leaves.turns += 1;
            tokio::task::yield_now().await;
        }
    });
    assert!(report.to_string().contains("drop, when a maximum was reached"), "{report}");
}

#[test]
fn a_look_in_the_schedules_of_another_injection_is_none() {
    let report = Checker::tokio().inject([Inject::Cancel, Inject::Panic]).run(|ctx| async move {
        if std::panic::catch_unwind(|| check::fault("here")).is_err() {
            let _ = ctx.is_done();
        }
        time::sleep(Duration::from_millis(1)).await;
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous, "{report}");
}

// -------------------------------------------------------------------------- watchdog

#[test]
fn a_thread_that_waits_for_the_end_is_waited_for() {
    let report = Checker::tokio().patience(Duration::from_secs(2)).run(|ctx| async move {
        let inside = ctx.clone();
        let waits = tokio::task::spawn_blocking(move || inside.wait());
        ctx.done().await;
        waits.await.unwrap();
    });
    report.assert_clean();
}

/// Runs a check in a thread of its own, so that a hang is a failure.
fn in_a_thread(body: impl Fn(&Checker) -> Report + Send + 'static) -> Report {
    let (tell, told) = std::sync::mpsc::channel();
    let checker = Checker::tokio().patience(Duration::from_millis(1_200));
    std::thread::spawn(move || tell.send(body(&checker)));
    told.recv_timeout(Duration::from_secs(30)).expect("it comes to an end")
}

#[test]
fn a_body_that_waits_beside_a_task_that_is_always_ready_is_given_its_injection() {
    let aborts = in_a_thread(|checker| {
        checker.run(|ctx| async move {
            let spins = tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            ctx.done().await;
            spins.abort();
        })
    });
    aborts.assert_clean();
    let tells = in_a_thread(|checker| {
        checker.run(|ctx| async move {
            let over = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&over);
            let spins = tokio::spawn(async move {
                while !seen.load(Ordering::Relaxed) {
                    tokio::task::yield_now().await;
                }
            });
            ctx.done().await;
            over.store(true, Ordering::Relaxed);
            spins.await.unwrap();
        })
    });
    tells.assert_clean();
    // The first poll, and the two looks in it: what the watchdog asks for is no point.
    assert_eq!((aborts.points(), tells.points()), (3, 3));
}

#[test]
fn whoever_is_slow_once_is_not_taken_for_one_who_never_rests() {
    let report = in_a_thread(|checker| {
        checker.run(|ctx| async move {
            // For more than half of the patience.
            std::thread::park_timeout(Duration::from_millis(1_000));
            let ends = ctx.run(time::sleep(Duration::from_millis(1))).await;
            check::sometimes("it ends by itself", ends.is_ok());
        })
    });
    report.assert_clean();
}

#[test]
fn no_time_remains_to_a_context_that_its_deadline_has_ended_at_a_look() {
    let report = Checker::tokio().inject(Inject::Deadline).run(|ctx| async move {
        let worker = tokio::spawn(async move {
            while ctx.err().is_none() {
                let _ = ctx.run(time::sleep(Duration::from_millis(10))).await;
            }
            assert_eq!(ctx.remaining(), Some(Duration::ZERO));
            assert_eq!(ctx.to_string(), "background → timeout(3600s, passed)");
        });
        let _ = worker.await;
    });
    report.assert_clean();
    let report = Checker::tokio().inject(Inject::Deadline).run(|ctx| async move {
        let value = ctx.with_value(7_u8);
        let (child, _canceller) = value.with_cancel();
        if ctx.is_done() {
            for below in [&value, &child, &child.with_value(8_u8)] {
                assert_eq!(below.remaining(), Some(Duration::ZERO), "{below}");
            }
        }
    });
    report.assert_clean();
}

#[test]
fn without_a_fault_a_panic_lands_nowhere_and_the_report_says_why() {
    let report = Checker::tokio().inject(Inject::Panic).run(|_| tokio::task::yield_now());
    let why = report.violations()[0].waiting_for();
    assert_eq!(why, Some("no injection landed: the body has come to no `check::fault` point"));
}

#[test]
fn what_never_looks_is_not_checked_though_it_is_another_each_time() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let report = Checker::tokio().run(|_| async {
        for _ in 0..5 - RUNS.fetch_add(1, Ordering::SeqCst) % 5 {
            tokio::task::yield_now().await;
        }
    });
    assert!(!report.complete(), "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous, "{report}");
}

#[test]
fn another_executor_inside_of_a_body_lets_others_go_first_and_gets_on() {
    for kind in [Inject::None, Inject::Cancel] {
        let report = Checker::tokio().inject(kind).run(|ctx| async move {
            let task = tokio::spawn(async { futures::executor::block_on(rt::yield_now()) });
            futures::executor::block_on(rt::yield_now());
            let _ = ctx.run(task).await;
        });
        report.assert_clean();
    }
}

#[test]
fn what_was_never_so_where_a_maximum_has_cut_says_that() {
    let report = Checker::tokio().max_schedules(5).run(|ctx| async move {
        for n in 0..20 {
            if ctx.is_done() {
                check::sometimes("late", n > 15);
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    let why = report.violations()[0].waiting_for().unwrap();
    let advice =
        "in no schedule did this ever hold: `late`; a maximum has cut this check short: raise it";
    assert_eq!(why, advice);
    assert!(report.covered().contains("cancel at some of "), "{}", report.covered());
}

/// Runs one of the tests here in its own process. Returns its exit code and stderr.
fn in_a_process(test: &str) -> (Option<i32>, String) {
    let itself = std::env::current_exe().unwrap();
    let run = std::process::Command::new(itself)
        .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
}

#[test]
#[ignore = "counts what its process has open"]
fn opens_nothing_for_good() {
    let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let check = || {
        let report = Checker::tokio().run(|ctx| async move {
            let _ = ctx.run(time::sleep(Duration::from_millis(5))).await;
        });
        report.assert_clean();
    };
    check();
    let before = open();
    (0..20).for_each(|_| check());
    assert_eq!(open(), before);
}

#[test]
fn a_check_leaves_nothing_open() {
    let (code, said) = in_a_process("opens_nothing_for_good");
    assert_eq!(code, Some(0), "{said}");
}

/// Forgets a task if it is cancelled in the last of its waits.
async fn forgets_its_flush(ctx: Context) {
    if ctx.is_done() {
        return;
    }
    let flush = tokio::spawn(time::sleep(Duration::from_secs(5)));
    if ctx.run(time::sleep(Duration::from_millis(20))).await.is_ok() {
        flush.abort();
    }
}

/// Looks `looks` times before anything else.
async fn looks_and_forgets_its_flush(ctx: Context, looks: u64) {
    for _ in 0..looks {
        if ctx.is_done() {
            return;
        }
    }
    forgets_its_flush(ctx).await;
}

#[test]
fn a_point_that_one_run_does_not_come_to_does_not_end_the_others() {
    let runs = Cell::new(0);
    let report = Checker::tokio().run(|ctx| {
        let nth = runs.replace(runs.get() + 1);
        looks_and_forgets_its_flush(ctx, 1 + nth * 11 % 30)
    });
    assert!(!report.complete(), "{report}");
    assert!(report.schedules() > 8, "{report}");
}

#[test]
fn as_many_points_as_in_another_run_are_not_the_same_points() {
    let points = Checker::tokio().run(|ctx| looks_and_forgets_its_flush(ctx, 1)).points();
    let runs = Cell::new(0);
    let report = Checker::tokio().run(|ctx| {
        let nth = runs.replace(runs.get() + 1);
        // Each run with an injection makes so many looks that it lands at one of them.
        looks_and_forgets_its_flush(ctx, if (1..=points).contains(&nth) { 30 } else { 1 })
    });
    assert!(report.violations().is_empty() && !report.complete(), "{report}");
    assert!(report.covered().contains("at some of"), "{report}");
}

#[test]
fn a_body_that_is_slow_is_not_called_clean_at_each_point() {
    let report = Checker::tokio().patience(Duration::from_millis(1_200)).run(|ctx| async move {
        let slow = || std::thread::sleep(Duration::from_millis(700));
        tokio::task::spawn_blocking(slow).await.unwrap();
        forgets_its_flush(ctx).await;
    });
    assert!(!report.violations().is_empty() || !report.complete(), "{report}");
}

#[test]
#[ignore = "ends its process"]
fn blocks_its_thread() {
    let _ = Checker::tokio().patience(Duration::from_millis(300)).run(|ctx| async move {
        ctx.done().await;
        std::thread::park_timeout(Duration::from_secs(30));
    });
}

#[test]
#[ignore = "ends its process"]
fn has_a_task_that_blocks_its_thread() {
    let _ = Checker::tokio().patience(Duration::from_millis(300)).run(|ctx| async move {
        let blocks = async { std::thread::park_timeout(Duration::from_secs(30)) };
        let _ = tokio::spawn(blocks).await;
        ctx.done().await;
    });
}

#[test]
#[ignore = "ends its process"]
fn waits_for_a_thread_that_never_comes_back() {
    let _ = Checker::tokio().patience(Duration::from_millis(300)).run(|ctx| async move {
        let blocks = || std::thread::park_timeout(Duration::from_secs(30));
        let _ = tokio::task::spawn_blocking(blocks).await;
        ctx.done().await;
    });
}

#[test]
#[ignore = "ends its process"]
fn waits_for_a_timer_beside_a_task_that_is_always_ready() {
    let _ = Checker::tokio().patience(Duration::from_millis(300)).run(|_| async {
        tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        time::sleep(Duration::from_secs(1)).await;
    });
}

#[test]
fn whoever_keeps_the_thread_is_named_as_far_as_a_runtime_knows() {
    let (code, said) = in_a_process("blocks_its_thread");
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("the task `body`, spawned at tests/check_tokio.rs:"), "{said}");
    for test in [
        "has_a_task_that_blocks_its_thread",
        "waits_for_a_thread_that_never_comes_back",
        "waits_for_a_timer_beside_a_task_that_is_always_ready",
    ] {
        let (code, said) = in_a_process(test);
        assert_eq!(code, Some(101), "{said}");
        assert!(said.contains("a task or a thread of tokio's"), "{said}");
    }
}

// --------------------------------------------------------------------- what is left

#[test]
fn a_timeout_waits_for_the_same_as_a_sleep_however_it_is_polled() {
    let waits_for = |report: Report| report.violations()[0].waiting_for().map(str::to_string);
    let slept = waits_for(Checker::tokio().run(|ctx| async move {
        ctx.done().await;
        rt::sleep(Duration::from_secs(5)).await;
    }));
    let timed = waits_for(Checker::tokio().run(|ctx| async move {
        ctx.done().await;
        let _ = rt::timeout(Duration::from_secs(5), std::future::pending::<()>()).await;
    }));
    assert_eq!(timed, slept);
    let received = waits_for(Checker::tokio().run(|ctx| async move {
        ctx.done().await;
        let (_send, mut receive) = tokio::sync::mpsc::channel::<()>(1);
        tokio::task::unconstrained(receive.recv()).await;
    }));
    assert!(
        received.as_ref().is_some_and(|it| it.starts_with("tokio::sync::mpsc")),
        "{received:?}"
    );
}

#[test]
fn a_body_that_is_a_librarys_future_waits_at_the_line_of_the_check() {
    use futures::FutureExt as _;
    let report = Checker::tokio().run(|ctx| {
        let (keep, wait) = tokio::sync::oneshot::channel::<()>();
        ctx.done().then(|_| wait).map(move |_| drop(keep))
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.waiting_at().map(|place| place.line()), Some(line!() - 5), "{report}");
    assert!(!violation.waiting_for().unwrap().contains("unconstrained"), "{report}");
}

#[test]
fn a_context_that_is_kept_and_an_item_that_is_lost_are_told() {
    let report = Checker::tokio().inject(Inject::None).run(|ctx| async move {
        std::mem::forget(ctx.with_cancel());
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedContext);
    let report = Checker::tokio().inject(Inject::None).run(|_| async move {
        drop(quell::check::Tracked::new(1));
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::LostItem);
}

#[test]
fn what_never_looks_at_its_context_is_not_checked() {
    let report = Checker::tokio().run(|_| time::sleep(Duration::from_millis(1)));
    assert_eq!(report.violations()[0].kind(), ViolationKind::Vacuous);
}

#[test]
fn beside_the_first_violation_nothing_is_said_of_what_was_not_reached() {
    let checker = Checker::tokio().inject([Inject::Cancel, Inject::Drop]).stop_at_first();
    let report = checker.run(|ctx| async move {
        let _ = ctx.is_done();
        check::sometimes("never", false);
        drop(tokio::spawn(time::sleep(Duration::from_secs(5))));
    });
    assert_eq!(report.violations().len(), 1, "{report}");
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedTask);
    assert!(!report.complete() && report.covered().ends_with("(ended with the first violation)"));
}

#[test]
fn of_a_part_nobody_says_that_nothing_was_checked() {
    for part in [1, 2] {
        let checker = Checker::tokio().shard(part, 2);
        checker.run(|_| time::sleep(Duration::from_secs(1))).assert_clean();
    }
}

#[test]
fn a_drain_that_begins_at_an_injected_deadline_has_its_grace_though_the_clock_follows_later() {
    let drains = |ctx: Context| async move {
        let mut results = Pipeline::from_iter(&ctx, 0_u64..)
            .on_cancel(OnCancel::Drain { grace: Duration::from_secs(60) })
            .buffer(1)
            .dispatch(2, |_, n| async move {
                rt::sleep(Duration::from_millis(100)).await;
                n
            })
            .buffer(1)
            .run();
        while results.next().await.is_some() {}
        let report = results.finish().await;
        assert_eq!(report.discarded(), 0, "{report}");
    };
    for inject in [Inject::Cancel, Inject::Deadline] {
        let checker = Checker::tokio().max_points(60).stop_within(Duration::from_secs(200));
        checker.inject([inject]).run(drains).assert_clean();
    }
}
