//! Programs of tokio, as they are, under `Checker::tokio`.
#![cfg(all(not(loom), feature = "check", feature = "tokio"))]

use quell::Context;
use quell::check::{Checker, Inject, ReplayError, ViolationKind};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time;

const ALL: [Inject; 4] = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None];

/// All of it is tokio's but the context.
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
    let report = Checker::tokio().run(|ctx| async move {
        let task = tokio::spawn(async move { assert!(!ctx.is_done(), "too late") });
        let _ = task.await;
    });
    let violation = &report.violations()[0];
    assert_eq!(violation.kind(), ViolationKind::Panicked);
    assert_eq!(violation.waiting_for(), Some("too late"));
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
