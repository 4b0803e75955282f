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
    // Of those that are kept, one that is cancelled ends nothing else.
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

/// A value whose drops are counted: how many contexts are still alive.
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
    // The alarms' tasks were told to go; the runtime needs a few turns to bury them.
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
