//! The races of a context.

use super::model;
use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use quell::{Context, ContextError};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

fn cause(ctx: &Context) -> String {
    ctx.cause().expect("it has ended").to_string()
}

/// Polls `done` once with a waker that does nothing.
fn poll_once(done: &mut quell::Done) -> Poll<ContextError> {
    let mut cx = std::task::Context::from_waker(Waker::noop());
    Pin::new(done).poll(&mut cx)
}

#[test]
fn a_child_derived_while_its_parent_is_cancelled_is_cancelled_too() {
    model(|| {
        let (parent, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        let (child, _c) = parent.with_cancel();
        // Woken, or told at once; a lost wake-up is a deadlock here.
        assert_eq!(block_on(child.done()), ContextError::Cancelled);
        other.join().unwrap();
        assert_eq!(cause(&child), "stop");
    });
}

#[test]
fn a_waiter_is_woken_whenever_the_cancel_comes() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel());
        assert_eq!(block_on(ctx.done()), ContextError::Cancelled);
        other.join().unwrap();
    });
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let mut done = ctx.done();
        let _ = poll_once(&mut done);
        let other = thread::spawn(move || canceller.cancel());
        assert_eq!(block_on(done), ContextError::Cancelled);
        other.join().unwrap();
    });
}

#[test]
fn a_thread_that_waits_is_woken_whenever_the_cancel_comes() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel());
        assert_eq!(ctx.wait(), ContextError::Cancelled);
        other.join().unwrap();
    });
}

#[test]
fn a_context_that_is_cancelled_while_it_gets_its_first_child_takes_it_along() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel_with("stop"));
        let (child, _c) = ctx.with_cancel();
        other.join().unwrap();
        assert!(child.is_done());
        assert_eq!(cause(&child), "stop");
    });
}

#[test]
fn of_two_cancels_one_cause_wins_and_everybody_agrees() {
    model(|| {
        let (ctx, one) = Context::background().with_cancel();
        let (child, _c) = ctx.with_cancel();
        let two = one.clone();
        let seen = {
            let ctx = ctx.clone();
            thread::spawn(move || {
                two.cancel_with("two");
                assert!(ctx.is_done());
                cause(&ctx)
            })
        };
        let before = ctx.cause().map(|cause| cause.to_string());
        one.cancel_with("one");
        let here = cause(&ctx);
        assert_eq!(cause(&child), here);
        assert_eq!(seen.join().unwrap(), here);
        assert!(before.is_none_or(|before| before == here), "a cause changed after it was seen");
    });
}

#[test]
fn error_and_cause_are_always_seen_together() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let (child, _c) = ctx.with_cancel();
        let other = thread::spawn(move || canceller.cancel_with("why"));
        if child.err().is_some() {
            assert_eq!(cause(&child), "why");
        }
        if let Err(cancelled) = ctx.check() {
            assert_eq!(cancelled.cause().to_string(), "why");
        }
        other.join().unwrap();
    });
}

#[test]
fn a_cancel_that_lost_returns_only_when_everything_below_it_is_marked() {
    model(|| {
        let (top, top_canceller) = Context::background().with_cancel();
        let (middle, middle_canceller) = top.with_cancel();
        let (low, _c) = middle.with_cancel();
        let (leaf, _c) = low.with_cancel();
        let other = thread::spawn(move || top_canceller.cancel_with("top"));
        middle_canceller.cancel_with("middle");
        // Whichever won, this cancel has returned.
        assert!(leaf.is_done(), "a cancel returned before everything below it was marked");
        assert_eq!(cause(&leaf), cause(&middle));
        other.join().unwrap();
        assert_eq!(cause(&top), "top");
    });
}

#[test]
fn a_cause_once_seen_by_a_child_stays() {
    model(|| {
        let (parent, parents) = Context::background().with_cancel();
        let (child, childs) = parent.with_cancel();
        let other = thread::spawn(move || parents.cancel_with("parent"));
        let third = {
            let child = child.clone();
            thread::spawn(move || child.cause().map(|cause| cause.to_string()))
        };
        childs.cancel_with("child");
        let seen = cause(&child);
        if let Some(early) = third.join().unwrap() {
            assert_eq!(early, seen);
        }
        other.join().unwrap();
        assert_eq!(cause(&child), seen);
        assert_eq!(cause(&parent), "parent");
    });
}

#[test]
fn a_child_dropped_while_its_parent_is_cancelled_is_gone_for_good() {
    model(|| {
        let (parent, canceller) = Context::background().with_cancel();
        let (child, child_canceller) = parent.with_cancel();
        let (grandchild, _c) = child.with_cancel();
        let mut done = grandchild.done();
        let _ = poll_once(&mut done);
        let other = thread::spawn(move || canceller.cancel());
        drop((done, grandchild, _c, child_canceller, child));
        other.join().unwrap();
        assert!(parent.is_done());
    });
}

#[test]
fn the_last_of_two_threads_to_let_go_takes_the_whole_chain_down() {
    model(|| {
        let (parent, _c) = Context::background().with_value(7_u8).with_cancel();
        let (child, canceller) = parent.with_cancel();
        let twin = child.clone();
        drop(parent);
        let other = thread::spawn(move || {
            twin.is_done();
            drop(twin);
        });
        child.is_done();
        drop((child, canceller));
        other.join().unwrap();
    });
}

#[test]
fn a_dropped_child_leaves_its_parent_at_once() {
    model(|| {
        let (parent, canceller) = Context::background().with_cancel();
        let (child, child_canceller) = parent.with_cancel();
        let mut done = child.done();
        let _ = poll_once(&mut done);
        let other = thread::spawn(move || drop((done, child, child_canceller)));
        let (sibling, _c) = parent.with_cancel();
        let mut waits = sibling.done();
        let _ = poll_once(&mut waits);
        other.join().unwrap();
        assert_eq!(quell::planted::children(&parent), 1, "a parent remembers a dead child");
        canceller.cancel();
        assert!(sibling.is_done());
    });
}

#[test]
fn a_function_runs_once_or_stop_said_true() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let runs = Arc::new(AtomicUsize::new(0));
        let func = {
            let runs = Arc::clone(&runs);
            ctx.after_func(move || {
                runs.fetch_add(1, Ordering::SeqCst);
            })
        };
        let other = thread::spawn(move || canceller.cancel());
        let stopped = func.stop();
        other.join().unwrap();
        let ran = runs.load(Ordering::SeqCst);
        assert_eq!(ran, usize::from(!stopped), "ran {ran} times, and stop said {stopped}");
    });
}

#[test]
fn stop_and_wait_returns_after_the_function() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let runs = Arc::new(AtomicUsize::new(0));
        let func = {
            let runs = Arc::clone(&runs);
            ctx.after_func(move || {
                runs.fetch_add(1, Ordering::SeqCst);
            })
        };
        let other = thread::spawn(move || canceller.cancel());
        let stopped = func.stop_and_wait();
        assert_eq!(runs.load(Ordering::SeqCst), usize::from(!stopped));
        other.join().unwrap();
    });
}

#[test]
fn a_function_registered_while_its_context_ends_runs_once() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = thread::spawn(move || canceller.cancel());
        let runs = Arc::new(AtomicUsize::new(0));
        {
            let runs = Arc::clone(&runs);
            ctx.after_func(move || {
                runs.fetch_add(1, Ordering::SeqCst);
            });
        }
        other.join().unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn the_last_canceller_to_go_ends_the_context_and_no_other() {
    model(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let clone = canceller.clone();
        let other = {
            let ctx = ctx.clone();
            thread::spawn(move || {
                assert!(!ctx.is_done(), "ended while a canceller was alive");
                let third = clone.clone();
                drop(clone);
                assert!(!ctx.is_done(), "ended while a canceller was alive");
                drop(third);
            })
        };
        drop(canceller);
        other.join().unwrap();
        assert!(ctx.is_done(), "the last canceller was dropped");
        assert!(cause(&ctx).contains("dropped"));
    });
}

#[test]
fn of_two_linked_parents_one_gives_the_cause_and_has_told_everybody() {
    model(|| {
        let (one, ends_one) = Context::background().with_cancel();
        let (two, ends_two) = Context::background().with_cancel();
        let (linked, _c) = one.linked(&[&two]);
        let runs = Arc::new(AtomicUsize::new(0));
        {
            let runs = Arc::clone(&runs);
            linked.after_func(move || {
                runs.fetch_add(1, Ordering::SeqCst);
            });
        }
        let other = {
            let (linked, runs) = (linked.clone(), Arc::clone(&runs));
            thread::spawn(move || {
                ends_one.cancel_with("one");
                assert!(linked.is_done());
                if cause(&linked) == "one" {
                    assert_eq!(runs.load(Ordering::SeqCst), 1, "the winner returned too early");
                }
            })
        };
        ends_two.cancel_with("two");
        assert!(linked.is_done());
        let here = cause(&linked);
        if here == "two" {
            assert_eq!(runs.load(Ordering::SeqCst), 1, "the winner returned too early");
        }
        other.join().unwrap();
        assert_eq!(cause(&linked), here);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_context_linked_to_one_that_is_ending_ends() {
    model(|| {
        let (one, _c) = Context::background().with_cancel();
        let (two, ends_two) = Context::background().with_cancel();
        let other = thread::spawn(move || ends_two.cancel_with("two"));
        let (linked, _c) = one.linked(&[&two]);
        assert_eq!(block_on(linked.done()), ContextError::Cancelled);
        assert_eq!(cause(&linked), "two");
        other.join().unwrap();
    });
}

/// A value whose drop must come after every look at it; loom checks that it does.
struct Watched(AtomicUsize);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.with_mut(|value| *value = 0);
    }
}

#[test]
fn a_value_is_seen_by_whoever_gets_the_context() {
    model(|| {
        let value = Watched(AtomicUsize::new(7));
        let (ctx, canceller) = Context::background().with_value(value).with_cancel();
        let deep = ctx.with_value(1_u8);
        let other = thread::spawn(move || {
            deep.value::<Watched>().map(|value| value.0.load(Ordering::Relaxed))
        });
        canceller.cancel();
        drop((ctx, canceller));
        assert_eq!(other.join().unwrap(), Some(7));
    });
}

/// A context with a deadline in ten milliseconds of the models' clock.
fn timed() -> (Context, quell::Canceller) {
    Context::background().with_timeout(Duration::from_millis(10))
}

#[test]
fn a_waiter_below_a_deadline_is_woken_whenever_the_time_comes() {
    model(|| {
        let (parent, _c) = timed();
        let (child, _c) = parent.with_cancel();
        let other = thread::spawn(|| quell::planted::advance(10));
        assert_eq!(block_on(child.done()), ContextError::DeadlineExceeded);
        other.join().unwrap();
        quell::planted::finish();
    });
}

#[test]
fn a_waiter_below_a_deadline_is_woken_though_a_look_found_it_passed_before() {
    model(|| {
        let (parent, _c) = timed();
        let (child, _c) = parent.with_cancel();
        let other = {
            let parent = parent.clone();
            thread::spawn(move || {
                quell::planted::advance(10);
                assert_eq!(parent.err(), Some(ContextError::DeadlineExceeded));
            })
        };
        assert_eq!(block_on(child.done()), ContextError::DeadlineExceeded);
        other.join().unwrap();
        quell::planted::finish();
    });
}

#[test]
fn a_function_below_a_deadline_runs_once_though_a_look_found_it_passed_before() {
    model(|| {
        let (parent, _c) = timed();
        let (child, _c) = parent.with_cancel();
        let runs = Arc::new(AtomicUsize::new(0));
        let other = {
            let parent = parent.clone();
            thread::spawn(move || {
                quell::planted::advance(10);
                parent.is_done();
                parent.err()
            })
        };
        let func = {
            let runs = Arc::clone(&runs);
            child.after_func(move || {
                runs.fetch_add(1, Ordering::SeqCst);
            })
        };
        other.join().unwrap();
        quell::planted::finish();
        assert!(!func.stop(), "it waits for an alarm that nobody has armed");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn of_a_cancel_and_a_deadline_one_wins_and_everybody_agrees() {
    model(|| {
        let (ctx, canceller) = timed();
        let (child, _c) = ctx.with_cancel();
        let other = thread::spawn(|| quell::planted::advance(10));
        let seen = child.err();
        canceller.cancel_with("stop");
        other.join().unwrap();
        let error = ctx.err().unwrap();
        assert!(seen.is_none_or(|seen| seen == error), "an error changed after it was seen");
        assert_eq!(child.err(), Some(error));
        assert_eq!(cause(&child), cause(&ctx));
    });
}
