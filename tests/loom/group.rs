//! The races of a group's tasks with each other and with its end.

use super::{Things, model, model_within, poll_once};
use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::thread;
use quell::planted::{advance, finish, on_one_thread};
use quell::{Cancelled, Context, Group};
use std::pin::pin;
use std::time::Duration;

const GRACE: Duration = Duration::from_millis(10);

/// The result of a task that has nothing to complain about.
const WELL: Result<(), &str> = Ok(());

#[test]
fn a_spawn_at_the_limit_hears_of_the_end() {
    model_within(2, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        on_one_thread(async {
            let group = Group::new(&ctx);
            group.limit(1);
            // It does not look at its context.
            let (opens, mut gate) = quell::channel::bounded::<()>(1);
            let stubborn = group.spawn("stubborn", |_ctx| async move {
                gate.recv().await;
                WELL
            });
            let began = stubborn.await.is_ok();
            let refused = group.spawn("late", |_ctx| async { WELL }).await.unwrap_err();
            assert_eq!(refused.cause().to_string(), "stop");
            assert!(group.running() <= usize::from(began));
            drop(opens);
            group.wait().await.unwrap();
        });
        other.join().unwrap();
    });
}

#[test]
fn a_task_that_is_started_while_the_group_is_shut_down_is_waited_for_or_never_runs() {
    model_within(2, || {
        let group = Group::new(&Context::background());
        let over = Arc::new(AtomicUsize::new(0));
        let (spawns, seen) = (group.clone(), over.clone());
        let other = thread::spawn(move || {
            let _ = spawns.try_spawn("late", move |_ctx| async move {
                assert_eq!(seen.load(SeqCst), 0, "it runs after the shutdown has returned");
                WELL
            });
        });
        let _report = block_on(group.shutdown(Duration::MAX));
        over.store(1, SeqCst);
        other.join().unwrap();
        block_on(group.wait()).unwrap();
    });
}

#[test]
fn a_task_that_is_started_while_the_others_are_aborted_is_aborted_and_reported() {
    // The spawn must be interrupted twice for it, and the shutdown once.
    model_within(3, || {
        let group = Group::new(&Context::background());
        let spawns = group.clone();
        let other = thread::spawn(move || {
            let stubborn = |_ctx| std::future::pending::<Result<(), &str>>();
            spawns.try_spawn("late", stubborn).is_ok()
        });
        let report = block_on(group.shutdown(Duration::ZERO));
        let began = other.join().unwrap();
        assert_eq!(report.aborted().len(), usize::from(began), "{report}");
    });
}

#[test]
fn a_shutdown_while_the_parent_ends_hides_no_cause() {
    model_within(2, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let group = Group::new(&ctx);
        group.try_spawn("waits", until_the_end).unwrap();
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        assert!(block_on(group.shutdown(Duration::MAX)).is_clean());
        let ended = block_on(group.wait());
        let cause = group.ctx().cause().expect("it was shut down").to_string();
        assert_eq!(ended.is_err(), cause == "stop", "it ended because: {cause}");
        other.join().unwrap();
    });
}

#[test]
fn a_place_that_comes_free_goes_to_the_spawn_that_waits() {
    model(|| {
        let things = Things::default();
        let group = Group::new(&Context::background());
        group.limit(1);
        for number in 0..2 {
            let thing = things.make(number);
            let spawn = group.spawn("task", |_ctx| async move {
                drop(thing);
                WELL
            });
            block_on(spawn).unwrap();
        }
        block_on(group.wait()).unwrap();
        things.are_gone();
    });
}

#[test]
fn a_place_that_is_promised_to_a_spawn_that_leaves_goes_to_the_next() {
    model(|| {
        let things = Things::default();
        let group = Group::new(&Context::background());
        group.limit(1);
        // On a thread of its own, so its place may come free at any time.
        block_on(group.spawn("first", |_ctx| async { WELL })).unwrap();
        on_one_thread(async {
            let [one, two] = [1, 2].map(|number| {
                let thing = things.make(number);
                group.spawn("next", |_ctx| async move {
                    drop(thing);
                    WELL
                })
            });
            let mut leaves = Box::pin(one);
            let mut next = pin!(two);
            let had_room = poll_once(leaves.as_mut()).is_ready();
            let waits = poll_once(next.as_mut()).is_pending();
            drop(leaves);
            if waits {
                next.await.unwrap();
            }
            assert!(waits || !had_room, "two tasks at once");
            group.wait().await.unwrap();
        });
        things.are_gone();
    });
}

#[test]
fn of_two_errors_the_first_is_the_cause_everywhere() {
    model_within(2, || {
        let group = Group::new(&Context::background());
        for error in ["one", "two"] {
            // The second may find that the first has ended the group.
            let _ = group.try_spawn("fails", move |_ctx| async move { Err(error) });
        }
        let first = block_on(group.wait()).unwrap_err().cause().to_string();
        assert!(first == "one" || first == "two", "{first}");
        let cause = group.ctx().cause().expect("a task failed").to_string();
        assert_eq!(cause, first, "the group ended for one error, and reports another");
    });
}

/// A task that lasts until its context ends, and returns that as its error.
async fn until_the_end(ctx: Context) -> Result<(), Cancelled> {
    ctx.done().await;
    ctx.check()
}

#[test]
fn an_error_is_not_masked_by_what_its_end_makes_others_return() {
    model_within(2, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = on_one_thread(async {
            let group = Group::new(&ctx);
            group.try_spawn("waits", until_the_end).unwrap();
            group.try_spawn("fails", |_ctx| async { Err("the disk is full") }).unwrap();
            let other = thread::spawn(move || canceller.cancel_with("stop"));
            let said = group.wait().await.unwrap_err().cause().to_string();
            assert_eq!(said, "the disk is full");
            other
        });
        other.join().unwrap();
    });
}

#[test]
fn that_the_context_has_ended_is_no_failure_of_a_task() {
    model_within(2, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        let group = Group::new(&ctx);
        let began = group.try_spawn("waits", until_the_end).is_ok();
        let ended = block_on(group.wait());
        assert_eq!(ended.is_err(), began);
        if let Err(ended) = ended {
            assert_eq!(ended.cause().to_string(), "stop");
        }
        other.join().unwrap();
    });
}

#[test]
fn wait_comes_back_when_nothing_of_any_task_is_left() {
    model(|| {
        let things = Things::default();
        let group = Group::new(&Context::background());
        for number in 0..2 {
            let thing = things.make(number);
            let task = |_ctx| async move {
                let _thing = thing;
                WELL
            };
            group.try_spawn("task", task).unwrap();
        }
        block_on(group.wait()).unwrap();
        things.are_gone();
        assert_eq!(group.running(), 0);
    });
}

#[test]
fn the_last_handle_to_go_ends_the_group() {
    model_within(2, || {
        let group = Group::new(&Context::background());
        let ctx = group.ctx().clone();
        let twin = group.clone();
        let other = thread::spawn(move || {
            assert!(!twin.ctx().is_done(), "ended while there was a handle");
            drop(twin);
        });
        drop(group);
        block_on(ctx.done());
        other.join().unwrap();
        assert!(ctx.cause().unwrap().to_string().contains("was dropped"));
    });
}

#[test]
fn a_shutdown_has_nothing_to_abort_where_all_end_by_themselves() {
    model_within(2, || {
        let things = Things::default();
        let group = Group::new(&Context::background());
        let thing = things.make(0);
        let task = |ctx: Context| async move {
            let _thing = thing;
            until_the_end(ctx).await
        };
        group.try_spawn("task", task).unwrap();
        let report = block_on(group.shutdown(GRACE));
        assert!(report.is_clean());
        things.are_gone();
        let failed = block_on(group.wait()).map_err(|error| error.cause().to_string());
        assert_eq!(failed, Ok(()), "nothing has failed");
    });
}

#[test]
fn a_shutdown_aborts_what_has_not_ended_when_the_grace_is_over() {
    model_within(2, || {
        let things = Things::default();
        let group = Group::new(&Context::background());
        let thing = things.make(0);
        let ends = |ctx: Context| async move {
            let _thing = thing;
            ctx.done().await;
            WELL
        };
        group.try_spawn("ends", ends).unwrap();
        let other = thread::spawn(|| advance(10));
        let report = block_on(group.shutdown(GRACE));
        assert!(report.aborted().iter().all(|task| task.name() == "ends"));
        assert_eq!(group.running(), 0);
        things.are_gone();
        other.join().unwrap();
        finish();
    });
}

#[test]
fn a_shutdown_aborts_a_task_that_does_not_look() {
    model(|| {
        let things = Things::default();
        let group = Group::new(&Context::background());
        let thing = things.make(0);
        let stubborn = |_ctx| async move {
            let _thing = thing;
            std::future::pending().await
        };
        group.try_spawn::<_, _, &str>("stubborn", stubborn).unwrap();
        let mut shutdown = Box::pin(group.shutdown(GRACE));
        assert!(poll_once(shutdown.as_mut()).is_pending());
        let other = thread::spawn(|| advance(10));
        let report = block_on(shutdown);
        let [aborted] = report.aborted() else { panic!("{report}") };
        assert_eq!(aborted.name(), "stubborn");
        things.are_gone();
        other.join().unwrap();
        finish();
    });
}
