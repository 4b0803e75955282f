//! The bridge to and from `tokio_util::sync::CancellationToken`.
#![cfg(all(feature = "tokio-util", not(loom)))]

use quell::{Context, ContextError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[test]
fn cancelling_the_token_ends_the_context_before_it_returns() {
    let token = CancellationToken::new();
    let (ctx, _canceller) = Context::background().with_value(7_u8).with_token(&token);
    let (child, _c) = ctx.with_cancel();
    assert!(!child.is_done());
    token.cancel();
    assert_eq!(child.err(), Some(ContextError::Cancelled));
    let cause = child.cause().unwrap();
    assert_eq!(cause.to_string(), "context canceled");
    assert!(cause.origin().is_none(), "a token does not know where it was cancelled");
    assert_eq!(child.value::<u8>(), Some(&7));
}

#[test]
fn a_token_that_is_cancelled_already_gives_a_context_that_is_done() {
    let token = CancellationToken::new();
    token.cancel();
    assert!(Context::background().with_token(&token).0.is_done());
}

#[test]
fn a_cancelled_parent_token_ends_the_context_too() {
    let parent = CancellationToken::new();
    let (ctx, _canceller) = Context::background().with_token(&parent.child_token());
    parent.cancel();
    assert!(ctx.is_done());
}

#[test]
fn ending_the_context_leaves_the_token_alone() {
    let token = CancellationToken::new();
    let (ctx, canceller) = Context::background().with_token(&token);
    canceller.cancel_with("mine");
    assert!(!token.is_cancelled());
    token.cancel();
    assert_eq!(ctx.cause().unwrap().to_string(), "mine");
}

#[test]
fn ending_the_context_cancels_its_token() {
    let (ctx, canceller) = Context::background().with_cancel();
    let token = ctx.with_value(1_u8).token();
    let child = token.child_token();
    assert!(!child.is_cancelled());
    canceller.cancel();
    assert!(child.is_cancelled());
    assert!(ctx.token().is_cancelled(), "and one that is asked for afterwards");
}

#[test]
fn the_token_of_a_context_that_cannot_end_is_never_cancelled() {
    let token = Context::background().token();
    assert!(!token.is_cancelled());
}

#[test]
fn a_deadline_cancels_the_token_without_a_runtime() {
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(2));
    let token = ctx.token();
    futures::executor::block_on(token.cancelled());
    assert_eq!(ctx.err(), Some(ContextError::DeadlineExceeded));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_cancels_the_token_by_the_paused_clock() {
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_secs(5));
    let start = tokio::time::Instant::now();
    ctx.token().cancelled().await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[test]
fn a_token_that_is_dropped_leaves_nothing_behind() {
    let (ctx, canceller) = Context::background().with_cancel();
    let kept = ctx.token();
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
    };
    let make = |many| (0..many).for_each(|_| drop(ctx.token()));
    make(10_000);
    let before = resident();
    make(200_000);
    let more = resident().saturating_sub(before);
    assert!(more < 4 << 20, "{more} bytes are left");
    // Cancelling one of the tokens ends nothing else.
    let other = ctx.token();
    other.cancel();
    assert!(!kept.is_cancelled() && !ctx.is_done());
    canceller.cancel();
    assert!(kept.is_cancelled());
}

#[test]
fn a_token_is_cancelled_before_any_function_at_the_end_runs() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (tell, told) = std::sync::mpsc::channel();
    let token = ctx.with_cancel().0.token();
    assert!(token.is_cancelled(), "its canceller was dropped");
    let token = ctx.token();
    ctx.after_func({
        let token = token.clone();
        move || tell.send(token.is_cancelled()).unwrap()
    });
    canceller.cancel();
    assert!(told.recv().unwrap());
}

/// A value that counts its drops: that many contexts are gone.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn neither_direction_leaves_a_task_or_keeps_a_context_alive() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let token = CancellationToken::new();
    for _ in 0..100 {
        let root = Context::background().with_value(Alive(Arc::clone(&dropped)));
        let (ctx, canceller) = root.with_token(&token);
        let (ctx, second) = ctx.with_timeout(Duration::from_secs(3600));
        let _out = ctx.token();
        canceller.detach();
        second.detach();
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 100);
    // The alarms' tasks were told to go; the runtime needs a few turns to drop them.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

/// A waker that cancels the token again from inside the wake.
struct CancelsAgain(CancellationToken);

impl Wake for CancelsAgain {
    fn wake(self: Arc<Self>) {
        self.0.cancel();
    }
}

#[test]
fn a_token_may_be_cancelled_again_from_a_waker_of_its_own_context() {
    let token = CancellationToken::new();
    let (ctx, _canceller) = Context::background().with_token(&token);
    let mut done = Box::pin(ctx.done());
    let waker = Waker::from(Arc::new(CancelsAgain(token.clone())));
    assert!(done.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    token.cancel();
    assert!(ctx.is_done());
}

#[test]
fn tokens_cancelled_on_one_thread_end_contexts_made_on_another() {
    for _ in 0..2000 {
        let token = CancellationToken::new();
        let cancels = token.clone();
        let other = std::thread::spawn(move || cancels.cancel());
        let (ctx, _canceller) = Context::background().with_token(&token);
        assert_eq!(ctx.wait(), ContextError::Cancelled);
        other.join().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_cancelled_after_a_deadline_above_finds_it_exceeded() {
    let token = CancellationToken::new();
    let (request, _c) = Context::background().with_timeout(Duration::from_secs(5));
    let (middle, _c) = request.with_cancel();
    let (ctx, _c) = middle.with_token(&token);
    let (child, _c) = ctx.with_cancel();
    // No task waits, so no timer acts on it.
    tokio::time::advance(Duration::from_secs(6)).await;
    token.cancel();
    for ctx in [&child, &ctx, &middle, &request] {
        assert_eq!(ctx.err(), Some(ContextError::DeadlineExceeded), "{ctx}");
    }
}

#[test]
fn a_token_that_is_cancelled_when_a_context_above_has_ended_changes_no_cause() {
    for _ in 0..20 {
        let token = CancellationToken::new();
        let (parent, canceller) = Context::background().with_cancel();
        // These keep the sweep from arriving at once.
        let before: Vec<_> = (0..2_000)
            .map(|_| {
                let (child, canceller) = parent.with_cancel();
                canceller.detach();
                child.after_func(|| {});
                child
            })
            .collect();
        let (ctx, _c) = parent.with_token(&token);
        std::thread::scope(|threads| {
            threads.spawn(|| canceller.cancel_with("the parent's"));
            while !parent.is_done() {
                std::hint::spin_loop();
            }
            token.cancel();
            assert_eq!(ctx.cause().unwrap().to_string(), "the parent's");
        });
        drop(before);
    }
}

#[test]
fn a_deadline_that_ends_a_context_by_way_of_a_token_runs_nothing_on_the_timers_thread() {
    let (ctx, _c) = Context::background().with_timeout(Duration::from_millis(2));
    let (other, _c) = Context::background().with_token(&ctx.token());
    let (tell, told) = std::sync::mpsc::channel();
    other.after_func(move || {
        tell.send(std::thread::current().name().unwrap_or_default().to_owned()).unwrap();
    });
    assert_eq!(told.recv().unwrap(), "quell-runner");
}

#[test]
fn a_function_that_a_token_runs_holds_up_no_pipeline() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (ctx, canceller) = Context::background().with_cancel();
    let (other, _c) = Context::background().with_token(&ctx.token());
    let (held, released) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let mut results = quell::Pipeline::from_iter(&ctx, 0..)
            .stage("stays", |_, mut input, output| async move {
                let _held = held;
                output.send(input.recv().await.unwrap_or(0)).await.unwrap();
                std::future::pending::<()>().await;
            })
            .run();
        assert_eq!(results.next().await, Some(0));
        let (tell, told) = std::sync::mpsc::channel();
        other.after_func(move || {
            // Checks that the stage is gone, and not that the wait has expired.
            let gone = released.recv_timeout(Duration::from_secs(10));
            tell.send(gone == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)).unwrap();
        });
        canceller.cancel();
        assert!(told.recv().unwrap(), "the pipeline had not been stopped");
        assert_eq!(results.next().await, None);
    });
}

#[tokio::test]
async fn a_function_that_was_stopped_keeps_no_token_of_a_context_that_is_gone() {
    let (parent, _p) = Context::background().with_timeout(Duration::from_secs(3600));
    let (ctx, canceller) = parent.with_cancel();
    canceller.detach();
    let _token = ctx.token();
    let function = ctx.after_func(|| ());
    assert!(function.stop());
    drop(ctx);
    // The alarm's task was told to go; the runtime needs a few turns to drop it.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    drop(function);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_cancelled_though_its_context_is_dropped_between_a_deadline_and_its_alarm() {
    for looks in [true, false] {
        let (parent, _p) = Context::background().with_timeout(Duration::from_secs(1));
        let (ctx, canceller) = parent.with_cancel();
        canceller.detach();
        let token = ctx.token();
        // Moves the clock, and no task has a turn.
        let moved = Box::pin(tokio::time::advance(Duration::from_secs(2)));
        let _ = futures::FutureExt::now_or_never(moved);
        assert!(!looks || ctx.check().is_err());
        drop(ctx);
        assert!(token.is_cancelled(), "looks: {looks}");
    }
}

#[test]
fn a_token_is_cancelled_though_its_context_is_dropped_while_the_cancel_above_is_under_way() {
    for _ in 0..5 {
        let (parent, canceller) = Context::background().with_cancel();
        // The cancel takes a while to get to the last of these.
        let many: Vec<_> = (0..20_000).map(|_| parent.with_cancel()).collect();
        many.iter().for_each(|(ctx, _)| drop(ctx.with_cancel().0));
        let last = parent.with_cancel();
        let token = last.0.token();
        let watches = std::thread::spawn(move || {
            while !last.0.is_done() {
                std::hint::spin_loop();
            }
            drop(last);
        });
        canceller.cancel();
        watches.join().unwrap();
        assert!(token.is_cancelled());
    }
}
