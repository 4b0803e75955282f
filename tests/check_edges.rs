//! The checker where it meets what is not its own: other checkers, other threads, the tasks
//! of a runtime, and what the schedules before have left.
#![cfg(all(not(loom), feature = "check"))]

use quell::check::{self, Checker, Inject, Report, ViolationKind};
use quell::{Context, ContextError, rt};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::sync::mpsc;

/// Each of its violations comes again by its token.
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

/// The function at its end is one look that is not only counted, among others that are.
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

/// Panics, and looks at its context as it is thrown away.
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
    // The waker that goes is that of four schedules before: of the last that was told.
    async fn body(_: Context) {
        poll_fn(|cx| {
            KEPT.with_borrow_mut(|kept| {
                kept.push_back(cx.waker().clone());
                let first = if kept.len() > 4 { kept.pop_front() } else { None };
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
fn a_thread_that_waits_for_the_root_is_let_go_when_the_schedule_is_over() {
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    let report = Checker::random(1, 5).run(|ctx| async move {
        let _ = ctx.is_done();
        WAITING.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            ctx.wait();
            WAITING.fetch_sub(1, Ordering::SeqCst);
        });
    });
    assert_eq!(report.violations()[0].kind(), ViolationKind::LeakedContext, "{report}");
    while WAITING.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
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
