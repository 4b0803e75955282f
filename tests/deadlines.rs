//! A deadline holds, whatever polls.
//!
//! Under a paused clock every instant is exact: a context ends at its millisecond,
//! and never later than anything above it, in trees of any shape. Under real clocks
//! only order is asserted, and that nothing is missed: on tokio in both flavours,
//! under another executor, on plain threads, on a runtime without timers, on one
//! that is kept busy and on one that has been shut down.
//!
//! The clock can also be moved without giving the runtime a turn. Then no timer has
//! acted yet, as on a busy thread, and still every look, and every cancel that comes
//! too late, must know of the deadline.
#![cfg(not(loom))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands outside: its clocks, locks and tasks are std's and tokio's own"
)]

mod kit;

use kit::{AGES, Wakes, ms, poll};
use quell::{Cancelled, Canceller, Context, ContextError, Done};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
const LATE: ContextError = ContextError::DeadlineExceeded;

/// Waits for the end. An end that did not wake the waiting thread, and was only
/// found when the wait expired, does not count.
#[track_caller]
fn wait(ctx: &Context) -> ContextError {
    let start = Instant::now();
    let told = ctx.wait_timeout(AGES);
    assert!(start.elapsed() < AGES, "nobody woke the waiting thread: {told:?}");
    told.expect("it waits until it has ended")
}

#[track_caller]
fn assert_ended(ctx: &Context, error: ContextError, cause: &str) {
    assert_eq!(ctx.err(), Some(error), "{ctx}");
    assert_eq!(ctx.cause().unwrap().to_string(), cause, "{ctx}");
    assert!(ctx.is_done(), "{ctx}");
}

// ---------------------------------------------------------- without a runtime

#[test]
fn wait_returns_at_the_deadline_on_a_plain_thread() {
    let start = Instant::now();
    let (ctx, _canceller) = Context::background().with_timeout_cause(ms(5), "slow");
    let (below, _below) = ctx.with_value(1).with_cancel();
    assert_eq!(below.wait(), LATE);
    assert!(start.elapsed() >= ms(5));
    assert_ended(&below, LATE, "slow");
    assert_ended(&ctx, LATE, "slow");
}

#[test]
fn wait_timeout_gives_up_before_the_deadline_and_does_not_end_the_context() {
    let (ctx, canceller) = Context::background().with_timeout(HOUR);
    let start = Instant::now();
    assert_eq!(ctx.wait_timeout(ms(5)), None);
    assert!(start.elapsed() >= ms(5));
    assert!(!ctx.is_done());
    assert_eq!(ctx.wait_timeout(Duration::ZERO), None);
    let (short, _short) = ctx.with_timeout(ms(5));
    assert_eq!(wait(&short), LATE);
    canceller.cancel();
    assert_eq!(wait(&ctx), ContextError::Cancelled);
}

#[test]
fn wait_on_many_threads_is_ended_by_a_cancel_long_before_the_deadline() {
    let (ctx, canceller) = Context::background().with_timeout(HOUR);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| ctx.wait())).collect();
        canceller.cancel();
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), ContextError::Cancelled);
        }
    });
}

#[test]
fn done_and_run_end_at_the_deadline_under_another_executor() {
    let start = Instant::now();
    let (ctx, _canceller) = Context::background().with_timeout(ms(5));
    let told = futures::executor::block_on(ctx.run(std::future::pending::<()>()));
    assert_eq!(told.unwrap_err().error(), LATE);
    assert!(start.elapsed() >= ms(5));

    let (ctx, _canceller) = Context::background().with_timeout(ms(5));
    let (below, _below) = ctx.with_cancel();
    assert_eq!(futures::executor::block_on(below.done()), LATE);
    assert!(ctx.is_done());
}

#[test]
fn linked_contexts_end_at_the_deadline_of_whichever_is_first() {
    let (long, _long) = Context::background().with_timeout_cause(HOUR, "long");
    let (short, _short) = Context::background().with_timeout_cause(ms(20), "short");
    let none = Context::background();
    let (one, _one) = short.linked(&[&long]);
    let (two, _two) = long.linked(&[&short]);
    let (three, _three) = none.linked(&[&long, &short]);
    let (four, _four) = short.linked(&[&none]);
    thread::scope(|scope| {
        for ctx in [&one, &two, &three, &four] {
            scope.spawn(move || {
                let (below, _below) = ctx.with_cancel();
                assert_eq!(wait(&below), LATE, "{below}");
                assert_ended(ctx, LATE, "short");
            });
        }
    });
    assert!(!long.is_done());
}

#[test]
fn two_hundred_deadlines_armed_in_any_order_are_all_met_and_none_too_early() {
    let root = Context::background();
    let contexts: Vec<_> =
        (0..200_u64).map(|number| root.with_timeout(ms(1 + number * 37 % 41))).collect();
    let (cancelled, canceller) = root.with_timeout(ms(20));
    let mut cancelled = cancelled.done();
    assert!(poll(&mut cancelled, &Wakes::new()).is_pending());
    canceller.cancel();
    futures::executor::block_on(futures::future::join_all(contexts.iter().map(
        |(ctx, _canceller)| async {
            assert_eq!(ctx.done().await, LATE);
            assert!(quell::rt::now() >= ctx.deadline().unwrap());
        },
    )));
}

#[test]
fn an_after_function_of_a_deadline_runs_on_a_thread_that_is_not_the_timers() {
    let (ctx, _canceller) = Context::background().with_timeout(ms(5));
    let (tell, told) = mpsc::channel();
    ctx.after_func(move || tell.send(thread::current().name().map(str::to_string)).unwrap());
    assert_ne!(told.recv_timeout(AGES).unwrap().as_deref(), Some("quell-timer"));
    assert!(ctx.is_done());
}

#[test]
fn an_after_function_that_blocks_delays_no_other_deadline() {
    let root = Context::background();
    let (release, released) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let (first, _first) = root.with_timeout(ms(2));
    let (second, _second) = root.with_timeout(ms(10));
    let blocked = first.after_func(move || {
        // Blocks until the later one has run.
        released.recv_timeout(AGES).unwrap();
        tell.send(()).unwrap();
    });
    second.after_func(move || release.send(()).unwrap());
    assert_eq!(second.wait(), LATE);
    told.recv_timeout(AGES).unwrap();
    assert!(!blocked.stop_and_wait());
}

#[test]
fn a_wait_ends_on_time_while_functions_of_the_same_deadline_block() {
    let (ctx, _canceller) = Context::background().with_timeout(ms(5));
    let (started, has_started) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let function = ctx.after_func(move || {
        started.send(()).unwrap();
        released.recv().unwrap_err();
    });
    assert_eq!(futures::executor::block_on(ctx.done()), LATE);
    has_started.recv_timeout(AGES).unwrap();
    drop(release);
    assert!(!function.stop_and_wait());
}

#[test]
fn a_done_that_is_dropped_before_the_deadline_leaves_no_waker_behind() {
    let (ctx, _canceller) = Context::background().with_timeout(ms(5));
    let wakes = Wakes::new();
    let mut done = ctx.done();
    assert!(poll(&mut done, &wakes).is_pending());
    drop(done);
    assert_eq!(Arc::strong_count(&wakes), 1);
    assert_eq!(ctx.wait(), LATE);
    assert_eq!(wakes.count(), 0);
}

#[test]
fn a_loop_that_checks_stops_at_its_deadline_on_a_plain_thread() {
    let (ctx, _canceller) = Context::background().with_timeout(ms(5));
    let work = || -> Result<(), Cancelled> {
        loop {
            ctx.check()?;
        }
    };
    assert_eq!(work().unwrap_err().error(), LATE);
    assert_eq!(ctx.remaining(), Some(Duration::ZERO));
}

// ------------------------------------------------------------------- on tokio

/// An error that runs this when it is dropped.
struct Goes(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Goes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Goes")
    }
}

impl std::fmt::Display for Goes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it goes")
    }
}

impl std::error::Error for Goes {}

impl Drop for Goes {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Makes a context that ends at `at` with such an error, or earlier. The waker that its end
/// wakes drops all that is left of it.
fn whoever_is_woken_lets_go_of(
    parent: &Context,
    at: Instant,
    goes: impl Fn() + Send + Sync + 'static,
) {
    struct LetsGo(Mutex<Option<(Context, Canceller, Done)>>);
    impl Wake for LetsGo {
        fn wake(self: Arc<Self>) {
            let held = self.0.lock().unwrap().take();
            drop(held);
        }
    }
    let (ctx, canceller) = parent.with_deadline_cause(at, Goes(Box::new(goes)));
    let (mut done, lets_go) = (ctx.done(), Arc::new(LetsGo(Mutex::new(None))));
    let waker = Waker::from(Arc::clone(&lets_go));
    // The waker waits for this lock.
    let mut held = lets_go.0.lock().unwrap();
    assert!(Pin::new(&mut done).poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    *held = Some((ctx, canceller, done));
}

#[test]
fn an_error_that_explodes_with_the_last_of_a_context_keeps_no_function_from_running() {
    for by_deadline in [false, true] {
        let at = Instant::now() + if by_deadline { ms(300) } else { HOUR };
        let (ctx, canceller) = Context::background().with_deadline(at);
        let (tell, told) = mpsc::channel();
        ctx.after_func(move || tell.send(()).unwrap());
        whoever_is_woken_lets_go_of(&ctx, at, || panic!("a bomb in an error"));
        if !by_deadline {
            canceller.cancel();
        }
        told.recv_timeout(AGES).unwrap();
    }
}

#[test]
fn an_error_that_takes_its_time_to_go_holds_up_no_deadline() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (tell, told) = mpsc::channel();
    let at = Instant::now() + ms(300);
    whoever_is_woken_lets_go_of(&Context::background(), at, move || {
        tell.send(thread::current().name().map(String::from)).unwrap();
        let _ = gate.lock().unwrap().recv();
    });
    assert_eq!(told.recv_timeout(AGES).unwrap().as_deref(), Some("quell-runner"));
    let (ctx, _c) = Context::background().with_timeout(ms(20));
    let (tell, told) = mpsc::channel();
    ctx.after_func(move || tell.send(()).unwrap());
    told.recv_timeout(AGES).unwrap();
    drop(open);
}

#[cfg(feature = "tokio")]
mod paused {
    use super::*;
    use proptest::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Poll;
    use tokio::runtime::{Builder, Handle, Runtime};
    use tokio::time::{advance, sleep};
    use tokio_test::{assert_pending, assert_ready_eq};

    fn clock() -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    /// Moves the clock without giving any task or timer a turn.
    fn jump(by: Duration) {
        let before = clock();
        let mut moving = Box::pin(advance(by));
        let _ = poll(&mut moving, &Wakes::new());
        assert_eq!(clock() - before, by);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_of_what_has_been_marked_goes_over_no_child_again() {
        let (ctx, canceller) = Context::background().with_timeout(ms(5));
        let children: Vec<_> = (0..100_000)
            .map(|_| {
                let (child, canceller) = ctx.with_cancel();
                // With one below it, it is listed; and as nothing waits, nothing is swept.
                (child.with_cancel(), child, canceller)
            })
            .collect();
        jump(ms(5));
        assert_eq!(ctx.err(), Some(LATE));
        let start = Instant::now();
        (0..20_000).for_each(|_| canceller.cancel());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "it took {took:?}");
        assert!(children.iter().all(|(below, ..)| below.0.err() == Some(LATE)));
    }

    /// Gives every task and every timer its turn.
    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_three_second_child_of_a_two_second_parent_ends_at_exactly_two_seconds() {
        let start = clock();
        let two = Duration::from_secs(2);
        let (parent, _p) = Context::background().with_timeout(two);
        let (child, _c) = parent.with_timeout_cause(Duration::from_secs(3), "never");
        assert_eq!(child.deadline(), Some((start + two).into_std()));
        assert_eq!(child.remaining(), Some(two));
        assert_eq!(child.done().await, LATE);
        assert_eq!(start.elapsed(), two);
        assert_ended(&child, LATE, "context deadline exceeded");
        assert_ended(&parent, LATE, "context deadline exceeded");
    }

    #[tokio::test(start_paused = true)]
    async fn nested_deadlines_end_one_after_the_other_each_at_its_instant_with_its_cause() {
        let start = clock();
        let (outer, _a) = Context::background().with_timeout_cause(ms(300), "outer");
        let (middle, _b) = outer.with_value(1).with_timeout_cause(ms(200), "middle");
        let (inner, _c) = middle.with_timeout_cause(ms(100), "inner");
        let (below, _d) = inner.with_cancel();
        for (ctx, at, cause) in
            [(&below, 100, "inner"), (&inner, 100, "inner"), (&middle, 200, "middle")]
        {
            assert_eq!(ctx.done().await, LATE);
            assert_eq!(start.elapsed(), ms(at));
            assert_ended(ctx, LATE, cause);
        }
        assert!(!outer.is_done());
        assert_eq!(outer.done().await, LATE);
        assert_eq!(start.elapsed(), ms(300));
        assert_ended(&outer, LATE, "outer");
        assert_ended(&below, LATE, "inner");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_task_is_woken_at_the_deadline_and_not_a_millisecond_before() {
        let (ctx, _canceller) = Context::background().with_timeout(ms(2000));
        let mut done = tokio_test::task::spawn(ctx.done());
        assert_pending!(done.poll());
        advance(ms(1999)).await;
        settle().await;
        assert!(!done.is_woken() && !ctx.is_done());
        assert_eq!(ctx.remaining(), Some(ms(1)));
        advance(ms(1)).await;
        settle().await;
        assert!(done.is_woken());
        assert_ready_eq!(done.poll(), LATE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_deadlines_are_each_met_at_their_millisecond() {
        let start = clock();
        let (root, _root) = Context::background().with_cancel();
        let tasks: Vec<_> = (0..1000_u64)
            .map(|number| {
                let after = ms(number * 7919 % 1009);
                let (ctx, canceller) = root.with_timeout(after);
                tokio::spawn(async move {
                    assert_eq!(ctx.done().await, LATE);
                    assert_eq!(start.elapsed(), after);
                    drop(canceller);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn run_stops_a_future_at_the_deadline_and_lets_a_faster_one_finish() {
        let start = clock();
        let (ctx, _canceller) = Context::background().with_timeout_cause(ms(100), "slow");
        assert_eq!(ctx.run(async { sleep(ms(99)).await }).await.unwrap(), ());
        let told = ctx.run(sleep(HOUR)).await.unwrap_err();
        assert_eq!((told.error(), told.cause().to_string().as_str()), (LATE, "slow"));
        assert_eq!(start.elapsed(), ms(100));
    }

    #[tokio::test(start_paused = true)]
    async fn instants_of_the_runtime_and_of_quell_are_the_same() {
        assert_eq!(quell::rt::now(), clock().into_std());
        advance(HOUR).await;
        assert_eq!(quell::rt::now(), clock().into_std());
        let (ctx, _c) = Context::background().with_deadline(clock() + ms(10));
        assert_eq!(ctx.remaining(), Some(ms(10)));
        let (past, _c) = Context::background().with_deadline_cause(clock() - ms(10), "past");
        assert_ended(&past, LATE, "past");
        let (now, _c) = Context::background().with_deadline(clock());
        assert_eq!(now.err(), Some(LATE), "an instant that has come has passed");
    }

    #[tokio::test(start_paused = true)]
    async fn display_tells_what_is_left_by_the_contexts_own_clock() {
        struct UserId(#[allow(dead_code)] u64);
        let (cancel, _a) = Context::background().with_cancel();
        let (timed, _b) = cancel.with_timeout(Duration::from_secs(2));
        let ctx = timed.with_value(UserId(1));
        advance(ms(700)).await;
        let expected = "background → cancel → timeout(2s, 1.3s left) → value(UserId)";
        assert_eq!(ctx.to_string(), expected);
        let elsewhere = ctx.clone();
        let there = thread::spawn(move || elsewhere.to_string()).join().unwrap();
        assert_eq!(there, expected);
        assert!(cancel.tree().to_string().contains("timeout(2s, 1.3s left), made at "));
        advance(ms(1300)).await;
        assert_eq!(ctx.to_string(), "background → cancel → timeout(2s, passed) → value(UserId)");
        let (timed, canceller) = Context::background().with_timeout(Duration::from_secs(2));
        canceller.cancel();
        assert_eq!(timed.to_string(), "background → timeout(2s, cancelled)");
    }

    // ------------------------------------------------------------ random trees

    #[derive(Clone, Debug)]
    enum Kind {
        Cancel,
        Value,
        Timeout(u64),
        Deadline(u64),
        Reserve(u64),
        Linked(prop::sample::Index),
        WithoutCancel,
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            2 => Just(Kind::Cancel),
            1 => Just(Kind::Value),
            4 => (0..60_u64).prop_map(Kind::Timeout),
            2 => (0..60_u64).prop_map(Kind::Deadline),
            1 => (0..20_u64).prop_map(Kind::Reserve),
            2 => any::<prop::sample::Index>().prop_map(Kind::Linked),
            1 => Just(Kind::WithoutCancel),
        ]
    }

    /// How a tree is watched.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Watch {
        /// A task waits for every context.
        Tasks,
        /// Every context has an after-function.
        Functions,
        /// Every context is looked at, every millisecond.
        Looks,
    }

    /// Makes the tree. Returns each context with the millisecond at which it must end.
    fn grow(shape: &[(prop::sample::Index, Kind)]) -> Vec<(Context, Option<u64>)> {
        let start = clock();
        let mut nodes = vec![(Context::background(), None::<u64>)];
        for (parent, kind) in shape {
            let (parent, above) = nodes[parent.index(nodes.len())].clone();
            let earlier = |own: u64| Some(above.map_or(own, |above| above.min(own)));
            let (made, end) = match kind {
                Kind::Cancel => (parent.with_cancel(), above),
                Kind::Timeout(after) => (parent.with_timeout(ms(*after)), earlier(*after)),
                Kind::Deadline(at) => (parent.with_deadline(start + ms(*at)), earlier(*at)),
                Kind::Reserve(keep) => {
                    (parent.with_reserve(ms(*keep)), above.map(|at| at.saturating_sub(*keep)))
                }
                Kind::Linked(other) => {
                    let (other, its) = &nodes[other.index(nodes.len())];
                    let end = above.into_iter().chain(*its).min();
                    (parent.linked(&[other]), end)
                }
                Kind::Value => {
                    nodes.push((parent.with_value(1_u8), above));
                    continue;
                }
                Kind::WithoutCancel => {
                    nodes.push((parent.without_cancel(), None));
                    continue;
                }
            };
            let (ctx, canceller) = made;
            canceller.detach();
            nodes.push((ctx, end));
        }
        nodes
    }

    fn check(shape: &[(prop::sample::Index, Kind)], watch: Watch) -> Result<(), TestCaseError> {
        let runtime = runtime();
        runtime.block_on(async {
            let start = clock();
            let nodes = grow(shape);
            let since = move || u64::try_from(start.elapsed().as_millis()).unwrap();
            if watch == Watch::Looks {
                for now in 0..=61 {
                    for (ctx, end) in nodes.iter().rev() {
                        let due = end.is_some_and(|end| end <= now);
                        prop_assert_eq!(
                            ctx.is_done(),
                            due,
                            "at {} ms: {}, due {:?}",
                            now,
                            ctx,
                            end
                        );
                    }
                    jump(ms(1));
                }
                return Ok(());
            }
            let (tell, told) = mpsc::channel();
            for (number, (ctx, _)) in nodes.iter().enumerate() {
                let tell = tell.clone();
                if watch == Watch::Tasks {
                    let done = ctx.done();
                    drop(tokio::spawn(async move {
                        done.await;
                        tell.send((number, since())).unwrap();
                    }));
                } else {
                    ctx.after_func(move || tell.send((number, since())).unwrap());
                }
            }
            sleep(ms(100)).await;
            settle().await;
            let mut ended = vec![None; nodes.len()];
            for (number, at) in told.try_iter() {
                prop_assert_eq!(ended[number], None, "told twice: {}", nodes[number].0);
                ended[number] = Some(at);
            }
            for ((ctx, expected), ended) in nodes.iter().zip(ended) {
                prop_assert_eq!(ended, *expected, "{}", ctx);
                prop_assert_eq!(ctx.err(), expected.map(|_| LATE), "{}", ctx);
                let deadline = ctx.deadline().map(|at| at - start.into_std());
                prop_assert_eq!(deadline, expected.map(ms), "{}", ctx);
            }
            Ok(())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn in_any_tree_a_waiting_task_is_told_at_exactly_the_earliest_deadline_above(
            shape in prop::collection::vec((any::<prop::sample::Index>(), kinds()), 1..24),
        ) {
            check(&shape, Watch::Tasks)?;
        }

        #[test]
        fn in_any_tree_an_after_function_runs_at_exactly_the_earliest_deadline_above(
            shape in prop::collection::vec((any::<prop::sample::Index>(), kinds()), 1..24),
        ) {
            check(&shape, Watch::Functions)?;
        }

        #[test]
        fn in_any_tree_no_look_finds_a_context_alive_past_any_deadline_above(
            shape in prop::collection::vec((any::<prop::sample::Index>(), kinds()), 1..24),
        ) {
            check(&shape, Watch::Looks)?;
        }
    }

    // -------------------------------------------------- deadlines not acted on

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_it_and_leaves_functions_to_the_runtime() {
        let (ctx, canceller) = Context::background().with_timeout_cause(ms(10), "slow");
        let ran = Wakes::new();
        let count = Arc::clone(&ran);
        ctx.after_func(move || count.wake());
        let wakes = Wakes::new();
        let mut done = ctx.done();
        assert!(poll(&mut done, &wakes).is_pending());
        settle().await;
        jump(ms(20));
        assert_ended(&ctx, LATE, "slow");
        assert!(ctx.check().is_err());
        assert_eq!((ran.count(), wakes.count()), (0, 0), "nobody is told inside a look");
        canceller.cancel_with("too late");
        assert_ended(&ctx, LATE, "slow");
        settle().await;
        assert_eq!((ran.count(), wakes.count()), (1, 1));
        assert_eq!(poll(&mut done, &wakes), Poll::Ready(LATE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_that_comes_after_the_deadline_finds_it_exceeded() {
        // On the context itself, and on one that only inherits the deadline.
        for look in [false, true] {
            for waited_for in [false, true] {
                let (timed, own) = Context::background().with_timeout_cause(ms(10), "slow");
                let (below, belows) = timed.with_cancel();
                let wakes = Wakes::new();
                let mut waiting = [timed.done(), below.done()];
                if waited_for {
                    waiting.iter_mut().for_each(|it| assert!(poll(it, &wakes).is_pending()));
                    settle().await;
                }
                jump(ms(10));
                assert!(!look || below.is_done());
                belows.cancel_with("too late");
                own.cancel_with("too late");
                assert_ended(&below, LATE, "slow");
                assert_ended(&timed, LATE, "slow");
                settle().await;
                assert_eq!(wakes.count(), if waited_for { 2 } else { 0 });
            }
        }
    }

    #[test]
    fn a_cancel_that_comes_after_a_deadline_nobody_acted_on_has_told_everybody_when_it_returns() {
        let runtime = runtime();
        let (ctx, canceller) = runtime.block_on(async { Context::background().with_timeout(HOUR) });
        let (below, _below) = ctx.with_cancel();
        let (wakes, ran) = (Wakes::new(), Wakes::new());
        let mut waiting = [ctx.done(), below.done()];
        waiting.iter_mut().for_each(|done| assert!(poll(done, &wakes).is_pending()));
        for ctx in [&ctx, &below] {
            let count = Arc::clone(&ran);
            ctx.after_func(move || count.wake());
        }
        // No task of the runtime has had a turn, and none gets one.
        runtime.block_on(async { jump(2 * HOUR) });
        assert_eq!(ctx.err(), Some(LATE));
        assert_eq!((wakes.count(), ran.count()), (0, 0));
        canceller.cancel_with("too late");
        assert_eq!((wakes.count(), ran.count()), (2, 2));
        canceller.cancel();
        assert_eq!((wakes.count(), ran.count()), (2, 2));
        assert_ended(&below, LATE, "context deadline exceeded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_cancelled_after_a_childs_deadline_leaves_the_child_its_own_end() {
        // Waited for or not; first looked at itself, or through the context below it.
        for waited_for in [false, true] {
            for look_below_first in [false, true] {
                for levels_between in 0..3 {
                    let (root, roots) = Context::background().with_cancel();
                    let mut parent = root.clone();
                    let mut keep = Vec::new();
                    for _ in 0..levels_between {
                        let (next, canceller) = parent.with_value(1).with_cancel();
                        keep.push(canceller);
                        parent = next;
                    }
                    let (child, _c) = parent.with_timeout_cause(ms(10), "slow");
                    let (grandchild, _g) = child.with_value(1).with_cancel();
                    let (later, _l) = parent.with_timeout_cause(ms(30), "never");
                    let (wakes, ran) = (Wakes::new(), Wakes::new());
                    let mut waiting = [child.done(), grandchild.done(), later.done()];
                    if waited_for {
                        waiting.iter_mut().for_each(|it| assert!(poll(it, &wakes).is_pending()));
                        let count = Arc::clone(&ran);
                        child.after_func(move || count.wake());
                        settle().await;
                    }
                    jump(ms(20));
                    roots.cancel_with("late");
                    // Much later, when nothing has looked yet.
                    jump(ms(100));
                    let order = if look_below_first {
                        [&grandchild, &child]
                    } else {
                        [&child, &grandchild]
                    };
                    for ctx in order {
                        assert_ended(ctx, LATE, "slow");
                    }
                    assert_ended(&root, ContextError::Cancelled, "late");
                    assert_ended(&parent, ContextError::Cancelled, "late");
                    assert_ended(&later, ContextError::Cancelled, "late");
                    settle().await;
                    let expected = if waited_for { (3, 1) } else { (0, 0) };
                    assert_eq!((wakes.count(), ran.count()), expected);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_whose_deadline_was_ahead_when_its_parent_was_cancelled_stays_cancelled() {
        let (root, roots) = Context::background().with_cancel();
        let (child, _c) = root.with_timeout_cause(ms(100), "never");
        let (grandchild, _g) = child.with_timeout_cause(ms(50), "never");
        jump(ms(10));
        roots.cancel_with("early");
        jump(HOUR);
        assert_ended(&grandchild, ContextError::Cancelled, "early");
        assert_ended(&child, ContextError::Cancelled, "early");
    }

    #[tokio::test(start_paused = true)]
    async fn several_deadlines_missed_at_once_end_each_context_by_the_earliest_above_it() {
        for look_from_the_top in [false, true] {
            let (top, _a) = Context::background().with_timeout_cause(ms(30), "top");
            let (middle, _b) = top.with_timeout_cause(ms(20), "middle");
            let (bottom, _c) = middle.with_timeout_cause(ms(10), "bottom");
            let (beside, _d) = middle.with_cancel();
            jump(ms(100));
            let mut looks =
                [(&top, "top"), (&middle, "middle"), (&bottom, "bottom"), (&beside, "middle")];
            if !look_from_the_top {
                looks.reverse();
            }
            for (ctx, cause) in looks {
                assert_ended(ctx, LATE, cause);
            }
        }
    }

    /// Links a context without a deadline, one with a deadline, and a third, as `link`
    /// orders them; once that deadline has passed, cancels the two others.
    async fn cancel_others_late(
        link: impl Fn(&Context, &Context, &Context) -> (Context, quell::Canceller),
    ) {
        for waited_for in [false, true] {
            let (timed, _t) = Context::background().with_timeout_cause(ms(10), "slow");
            let (one, ones) = Context::background().with_cancel();
            let (other, others) = Context::background().with_cancel();
            let (linked, _l) = link(&one, &timed, &other);
            let (below, _b) = linked.with_cancel();
            let wakes = Wakes::new();
            let mut done = below.done();
            if waited_for {
                assert!(poll(&mut done, &wakes).is_pending());
                settle().await;
            }
            jump(ms(20));
            others.cancel_with("late");
            ones.cancel_with("late");
            jump(ms(20));
            assert_ended(&below, LATE, "slow");
            assert_ended(&linked, LATE, "slow");
            settle().await;
            assert_eq!(wakes.count(), usize::from(waited_for));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_linked_context_past_the_deadline_of_an_other_has_exceeded_it_whoever_cancels_late() {
        cancel_others_late(|one, timed, other| one.linked(&[timed, other])).await;
        cancel_others_late(|one, timed, other| one.linked(&[other, timed])).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_linked_context_past_the_deadline_of_self_has_exceeded_it_whoever_cancels_late() {
        cancel_others_late(|one, timed, other| timed.linked(&[one, other])).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_linked_context_past_a_deadline_of_its_own_has_exceeded_it_whoever_cancels_late() {
        // The deadline is that of a child of the linked context.
        cancel_others_late(|one, _, other| {
            let (linked, canceller) = one.linked(&[other]);
            canceller.detach();
            linked.with_timeout_cause(ms(10), "slow")
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_linked_context_whose_deadline_was_ahead_when_another_was_cancelled_stays_cancelled()
    {
        let (timed, _t) = Context::background().with_timeout_cause(ms(50), "never");
        let (other, others) = Context::background().with_cancel();
        let (linked, _l) = Context::background().linked(&[&timed, &other]);
        let (from_self, _s) = timed.linked(&[&other]);
        jump(ms(10));
        others.cancel_with("early");
        jump(HOUR);
        assert_ended(&linked, ContextError::Cancelled, "early");
        assert_ended(&from_self, ContextError::Cancelled, "early");
        assert_ended(&timed, LATE, "never");
    }

    #[test]
    fn children_by_different_clocks_each_end_by_their_own() {
        let (parent, parents) = Context::background().with_cancel();
        let (one, two) = (runtime(), runtime());
        let child = |runtime: &Runtime, after| {
            let _inside = runtime.enter();
            let (ctx, canceller) = parent.with_timeout_cause(after, "slow");
            canceller.detach();
            ctx
        };
        let late = [child(&one, ms(10)), child(&two, ms(10))];
        let ahead = [child(&one, HOUR), child(&two, HOUR)];
        one.block_on(advance(ms(20)));
        two.block_on(advance(ms(20)));
        parents.cancel_with("late");
        one.block_on(advance(2 * HOUR));
        two.block_on(advance(2 * HOUR));
        for ctx in &late {
            assert_ended(ctx, LATE, "slow");
        }
        for ctx in &ahead {
            assert_ended(ctx, ContextError::Cancelled, "late");
        }
    }

    // -------------------------------------------------- threads and the runtime

    #[tokio::test(start_paused = true)]
    async fn an_after_function_of_a_deadline_runs_on_the_runtimes_own_thread() {
        let (ctx, _canceller) = Context::background().with_timeout(ms(10));
        let (below, _below) = ctx.with_cancel();
        let (tell, told) = mpsc::channel();
        let here = Handle::current().id();
        below.after_func(move || {
            assert_eq!(Handle::current().id(), here);
            tell.send((thread::current().id(), clock())).unwrap();
        });
        let start = clock();
        sleep(ms(50)).await;
        assert_eq!(told.try_recv(), Ok((thread::current().id(), start + ms(10))));
    }

    #[test]
    fn a_deadline_is_read_from_its_own_clock_on_any_thread() {
        let runtime = runtime();
        let (ctx, _canceller) =
            runtime.block_on(async { Context::background().with_timeout_cause(ms(10), "slow") });
        // Neither this thread nor the other is in a runtime now.
        assert_eq!(ctx.remaining(), Some(ms(10)));
        let (child, _child) = ctx.with_timeout(ms(4));
        assert_eq!(child.remaining(), Some(ms(4)), "a bounded child uses its parent's clock");
        assert_eq!(ctx.with_reserve(ms(1)).0.remaining(), Some(ms(9)));
        runtime.block_on(advance(ms(4)));
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(child.is_done() && !ctx.is_done());
                assert_eq!(ctx.remaining(), Some(ms(6)));
            });
        });
        runtime.block_on(advance(ms(6)));
        assert_eq!(ctx.wait(), LATE);
        assert_ended(&ctx, LATE, "slow");
    }

    /// Another thread waits while `forward` moves the clock, by an hour or more.
    fn waiting_elsewhere(forward: impl FnOnce(&Runtime)) {
        let runtime = runtime();
        let (ctx, _canceller) =
            runtime.block_on(async { Context::background().with_timeout(HOUR) });
        thread::scope(|scope| {
            let waits = scope.spawn(|| wait(&ctx));
            // Once its alarm is a task of this runtime, it waits.
            while runtime.metrics().num_alive_tasks() == 0 {
                thread::yield_now();
            }
            forward(&runtime);
            assert_eq!(waits.join().unwrap(), LATE);
        });
    }

    #[test]
    fn a_wait_by_a_paused_clock_returns_when_another_thread_moves_it() {
        waiting_elsewhere(|runtime| runtime.block_on(advance(HOUR)));
    }

    #[test]
    fn a_wait_by_a_paused_clock_returns_when_the_clock_is_moved_for_a_timer_that_slept_already() {
        waiting_elsewhere(|runtime| {
            runtime.block_on(settle());
            runtime.block_on(advance(HOUR));
        });
    }

    #[test]
    fn a_wait_by_a_paused_clock_returns_when_the_clock_moves_by_itself() {
        waiting_elsewhere(|runtime| runtime.block_on(async { sleep(2 * HOUR).await }));
    }

    #[test]
    fn a_paused_clock_moves_for_each_of_many_threads_that_come_and_go() {
        let runtime = runtime();
        let handle = runtime.handle();
        let rounds = || {
            for round in 1..=100 {
                let (ctx, _canceller) = {
                    let _inside = handle.enter();
                    Context::background().with_timeout(HOUR * round)
                };
                // Armed, disarmed, and armed once more.
                ctx.wait_timeout(Duration::ZERO);
                assert_eq!(wait(&ctx), LATE);
            }
        };
        thread::scope(|scope| {
            let (over, is_over) = tokio::sync::oneshot::channel::<()>();
            let all: Vec<_> = (0..3).map(|_| scope.spawn(rounds)).collect();
            scope.spawn(move || {
                all.into_iter().for_each(|one| one.join().unwrap());
                drop(over);
            });
            runtime.block_on(is_over).unwrap_err();
        });
        // The alarms that were armed last are gone with their waiters.
        runtime.block_on(settle());
        assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    }

    #[test]
    fn a_paused_clock_that_stands_still_ends_nothing_and_is_no_reason_to_panic() {
        let runtime = runtime();
        let (ctx, canceller) =
            runtime.block_on(async { Context::background().with_timeout(ms(1)) });
        let wakes = Wakes::new();
        let mut done = ctx.done();
        assert!(poll(&mut done, &wakes).is_pending());
        assert_eq!(ctx.wait_timeout(ms(10)), None);
        assert_eq!(ctx.remaining(), Some(ms(1)));
        // After a shutdown it stands still for ever.
        drop(runtime);
        assert_eq!(ctx.wait_timeout(ms(10)), None);
        let (below, _below) = ctx.with_timeout(ms(1));
        assert_eq!(below.wait_timeout(ms(10)), None);
        assert_eq!(wakes.count(), 0);
        canceller.cancel();
        assert_eq!(wakes.count(), 1);
        assert_eq!(below.wait(), ContextError::Cancelled);
    }

    #[tokio::test(start_paused = true)]
    async fn alarms_that_come_and_go_around_one_that_sleeps_ring_at_their_own_instants() {
        let start = clock();
        let at = |when| async move {
            let (ctx, _canceller) = Context::background().with_timeout(when);
            assert_eq!(ctx.done().await, LATE);
            clock() - start
        };
        let late = tokio::spawn(at(ms(20)));
        settle().await;
        // One before the alarm that is slept for, and one after it.
        let early = tokio::spawn(at(ms(10)));
        let last = tokio::spawn(at(ms(30)));
        settle().await;
        // The earliest of all is dropped before its time: that makes the others no later.
        let gone = tokio::spawn(at(ms(5)));
        settle().await;
        gone.abort();
        assert_eq!(early.await.unwrap(), ms(10));
        // One that comes while the others still wait, for the same instant as one of them.
        let same = tokio::spawn(at(ms(10)));
        assert_eq!((late.await.unwrap(), same.await.unwrap()), (ms(20), ms(20)));
        assert_eq!(last.await.unwrap(), ms(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_deadlines_of_one_instant_leave_the_others_their_turns() {
        let turns = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let all: Vec<_> = (0..1000).map(|_| Context::background().with_timeout(ms(10))).collect();
        for (ctx, _) in &all {
            let (turns, seen) = (Arc::clone(&turns), Arc::clone(&seen));
            ctx.after_func(move || seen.lock().unwrap().push(turns.load(SeqCst)));
        }
        let other = tokio::spawn({
            let (turns, seen) = (Arc::clone(&turns), Arc::clone(&seen));
            async move {
                sleep(ms(10)).await;
                while seen.lock().unwrap().len() < 1000 {
                    turns.fetch_add(1, SeqCst);
                    // Behind every ready task; `yield_now` would go behind the timers too.
                    let mut woken = false;
                    std::future::poll_fn(|cx| {
                        cx.waker().wake_by_ref();
                        if std::mem::replace(&mut woken, true) {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    })
                    .await;
                }
            }
        });
        other.await.unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen[999] - seen[0] > 10, "the other had {} turns", seen[999] - seen[0]);
    }

    fn end_of_the_clock() -> Instant {
        let (mut latest, mut step) = (Instant::now(), Duration::from_secs(1 << 62));
        while !step.is_zero() {
            latest = latest.checked_add(step).unwrap_or(latest);
            step /= 2;
        }
        latest
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_does_not_run_after_a_deadline_at_its_end() {
        // Not at its end, but so far away that it counts as never.
        let (far, _far) = Context::background().with_timeout(Duration::MAX / 4);
        assert!(poll(&mut far.done(), &Wakes::new()).is_pending());
        let (ctx, canceller) = Context::background().with_deadline(end_of_the_clock());
        let began = quell::rt::now();
        let other = std::thread::spawn(move || {
            // Real time, in which a clock that ran would go far.
            std::thread::sleep(ms(20));
            canceller.cancel();
        });
        // No task on this runtime has anything else to do.
        assert_eq!(ctx.done().await, ContextError::Cancelled);
        assert_eq!(quell::rt::now(), began);
        other.join().unwrap();
        // A nearer deadline is kept all the same.
        let (far, _far) = Context::background().with_deadline(end_of_the_clock());
        let (near, _near) = far.with_timeout(ms(20));
        assert_eq!(near.done().await, ContextError::DeadlineExceeded);
        assert_eq!(quell::rt::now() - began, ms(20));
    }

    #[tokio::test]
    async fn a_deadline_at_the_end_of_the_clock_is_waited_for_and_stops_no_other() {
        let latest = end_of_the_clock();
        let (ctx, canceller) = Context::background().with_deadline(latest);
        let wakes = Wakes::new();
        let mut done = ctx.done();
        assert!(poll(&mut done, &wakes).is_pending());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 1, "who keeps the time");
        let sleeps = quell::rt::sleep_until(latest);
        assert!(quell::rt::timeout(ms(20), sleeps).await.is_err());
        canceller.cancel();
        assert_eq!(done.await, ContextError::Cancelled);
    }

    #[tokio::test(start_paused = true)]
    async fn no_task_stays_on_the_runtime_while_nothing_waits() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let mut made: Vec<_> = (0..100).map(|_| Context::background().with_timeout(HOUR)).collect();
        let (far, _far) = Context::background().with_timeout(Duration::MAX);
        assert!(!far.is_done());
        assert_eq!(tasks(), 0, "nobody waits yet");
        let wakes = Wakes::new();
        let wait_for = |(ctx, _): &(Context, _)| {
            let mut done = ctx.with_value(1).done();
            assert!(poll(&mut done, &wakes).is_pending());
            done
        };
        // Waiters that are dropped.
        let waiting: Vec<_> = made.iter().map(wait_for).collect();
        assert!(tasks() > 0);
        drop(waiting);
        settle().await;
        assert_eq!(tasks(), 0);
        // Functions that are stopped.
        let functions: Vec<_> = made.iter().map(|(ctx, _)| ctx.after_func(|| ())).collect();
        settle().await;
        assert!(tasks() > 0);
        assert!(functions.iter().all(quell::AfterFunc::stop));
        settle().await;
        assert_eq!(tasks(), 0);
        // Timeouts that are cancelled, whose waiters live on.
        let waiting: Vec<_> = made.iter().map(wait_for).collect();
        settle().await;
        made.iter().for_each(|(_, canceller)| canceller.cancel());
        settle().await;
        assert_eq!((tasks(), wakes.count()), (0, 100));
        drop(waiting);
        made.clear();
        // Deadlines that are met.
        let (ctx, _canceller) = Context::background().with_timeout(ms(1));
        ctx.done().await;
        settle().await;
        assert_eq!(tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_across_clocks_watches_the_others_for_as_long_as_it_lives_and_no_longer() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let elsewhere = || Context::background().with_timeout(HOUR);
        let (system, _system) = thread::spawn(elsewhere).join().unwrap();
        let (here, _here) = Context::background().with_timeout(HOUR);
        let (linked, canceller) = system.linked(&[&here]);
        settle().await;
        assert_eq!(tasks(), 1);
        drop((linked, canceller));
        settle().await;
        assert_eq!(tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_across_clocks_whose_error_explodes_watches_no_longer_than_it_lives() {
        let elsewhere = || Context::background().with_timeout(HOUR);
        let (system, _system) = thread::spawn(elsewhere).join().unwrap();
        let (here, _here) = Context::background().with_timeout(HOUR);
        let (linked, canceller) = system.linked(&[&here]);
        canceller.cancel_with(Goes(Box::new(|| panic!("a bomb in an error"))));
        let exploded = catch_unwind(AssertUnwindSafe(|| drop((linked, canceller))));
        assert!(exploded.is_err(), "it goes with the context");
        settle().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waker_that_explodes_when_it_is_taken_back_leaves_no_task_on_the_runtime() {
        struct Explodes;
        impl Wake for Explodes {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Explodes {
            fn drop(&mut self) {
                panic!("a bomb in a waker");
            }
        }
        let (ctx, _canceller) = Context::background().with_timeout(HOUR);
        let (waker, mut done) = (Waker::from(Arc::new(Explodes)), ctx.done());
        assert!(Pin::new(&mut done).poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        drop(waker);
        let exploded = catch_unwind(AssertUnwindSafe(|| drop(done)));
        assert!(exploded.is_err(), "the last clone of the waker goes with it");
        settle().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_over_keeps_no_task_on_the_runtime_while_its_future_is_still_there() {
        let (ctx, _canceller) = Context::background().with_timeout(HOUR);
        let mut run = std::pin::pin!(ctx.run(sleep(ms(1))));
        assert!(run.as_mut().await.is_ok());
        settle().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }
}

#[cfg(feature = "tokio")]
mod running {
    use super::*;
    use std::task::Poll;
    use tokio::runtime::{Builder, Handle, Runtime};

    fn one_thread() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    fn more_threads() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
    }

    fn without_time() -> [Runtime; 2] {
        [
            Builder::new_current_thread().build().unwrap(),
            Builder::new_multi_thread().worker_threads(2).build().unwrap(),
        ]
    }

    #[test]
    fn done_and_run_end_at_the_deadline_on_both_kinds_of_runtime() {
        for runtime in [one_thread(), more_threads()] {
            runtime.block_on(async {
                let start = Instant::now();
                let (ctx, _canceller) = Context::background().with_timeout_cause(ms(5), "slow");
                let (below, _below) = ctx.with_cancel();
                let spawned = tokio::spawn(async move { below.done().await });
                let told = ctx.run(std::future::pending::<()>()).await.unwrap_err();
                assert_eq!((told.error(), told.cause().to_string().as_str()), (LATE, "slow"));
                assert!(start.elapsed() >= ms(5));
                assert_eq!(spawned.await.unwrap(), LATE);
            });
        }
    }

    #[test]
    fn a_wait_on_a_plain_thread_ends_while_the_runtime_of_the_deadline_is_idle() {
        for runtime in [one_thread(), more_threads()] {
            let (ctx, _canceller) =
                runtime.block_on(async { Context::background().with_timeout(ms(5)) });
            assert_eq!(wait(&ctx), LATE);
            assert_eq!(futures::executor::block_on(ctx.done()), LATE);
        }
    }

    #[test]
    fn an_after_function_of_a_deadline_finds_its_runtime_and_not_the_timer_thread() {
        for runtime in [one_thread(), more_threads()] {
            runtime.block_on(async {
                let (ctx, _canceller) = Context::background().with_timeout(ms(5));
                let here = Handle::current().id();
                let (tell, told) = tokio::sync::oneshot::channel();
                ctx.after_func(move || {
                    assert_eq!(Handle::current().id(), here);
                    drop(tokio::spawn(async {}));
                    let name = thread::current().name().map(str::to_string);
                    tell.send(name).unwrap();
                });
                assert_ne!(told.await.unwrap().as_deref(), Some("quell-timer"));
            });
        }
    }

    #[test]
    fn a_busy_loop_that_checks_stops_at_its_deadline_on_a_runtime_of_one_thread() {
        one_thread().block_on(async {
            let (ctx, _canceller) = Context::background().with_timeout(ms(5));
            let (below, _below) = ctx.with_cancel();
            // A task waits that no timer can wake meanwhile.
            let waiting = tokio::spawn(ctx.done());
            tokio::task::yield_now().await;
            let busy = || -> Result<(), Cancelled> {
                loop {
                    below.check()?;
                }
            };
            assert_eq!(busy().unwrap_err().error(), LATE);
            assert!(Instant::now() >= ctx.deadline().unwrap());
            assert_eq!(waiting.await.unwrap(), LATE);
        });
    }

    #[test]
    fn a_deadline_outlives_the_runtime_that_was_to_keep_it() {
        for runtime in [one_thread(), more_threads()] {
            let wakes = Wakes::new();
            let (ctx, _canceller) = runtime.block_on(async {
                let (ctx, canceller) = Context::background().with_timeout(ms(50));
                tokio::task::yield_now().await;
                (ctx, canceller)
            });
            let mut done = ctx.done();
            assert!(poll(&mut done, &wakes).is_pending());
            runtime.block_on(tokio::task::yield_now());
            let (tell, told) = mpsc::channel();
            ctx.after_func(move || tell.send(()).unwrap());
            thread::scope(|scope| {
                let waits = scope.spawn(|| wait(&ctx));
                let polls = scope.spawn(|| futures::executor::block_on(ctx.done()));
                drop(runtime);
                assert_eq!(waits.join().unwrap(), LATE);
                assert_eq!(polls.join().unwrap(), LATE);
            });
            told.recv_timeout(AGES).unwrap();
            assert_eq!(wakes.count(), 1);
            assert_eq!(poll(&mut done, &wakes), Poll::Ready(LATE));
        }
    }

    #[test]
    fn a_runtime_that_has_shut_down_is_no_obstacle_to_new_waiters() {
        for runtime in [one_thread(), more_threads()] {
            let (ctx, _canceller) =
                runtime.block_on(async { Context::background().with_timeout(ms(20)) });
            drop(runtime);
            let (below, _below) = ctx.with_timeout(HOUR);
            let (tell, told) = mpsc::channel();
            below.after_func(move || tell.send(()).unwrap());
            assert_eq!(futures::executor::block_on(below.done()), LATE);
            told.recv_timeout(AGES).unwrap();
        }
    }

    #[test]
    fn a_runtime_without_timers_keeps_deadlines_all_the_same() {
        for runtime in without_time() {
            runtime.block_on(async {
                let (ctx, _canceller) = Context::background().with_timeout(ms(5));
                assert!(ctx.remaining().unwrap() <= ms(5));
                let (tell, told) = mpsc::channel();
                ctx.after_func(move || tell.send(()).unwrap());
                assert_eq!(ctx.done().await, LATE);
                told.recv_timeout(AGES).unwrap();
                let (ctx, _canceller) = Context::background().with_timeout(ms(5));
                assert_eq!(tokio::spawn(ctx.done()).await.unwrap(), LATE);
            });
        }
    }

    #[test]
    fn on_a_runtime_that_nobody_drives_one_task_stays_however_many_come_and_go() {
        let runtime = one_thread();
        let tasks = || runtime.metrics().num_alive_tasks();
        let timeout = |by| {
            let _inside = runtime.enter();
            Context::background().with_timeout(by)
        };
        let (ctx, _canceller) = timeout(HOUR);
        for _ in 0..100 {
            assert_eq!(ctx.wait_timeout(Duration::ZERO), None);
        }
        assert!(tasks() <= 1, "{} tasks of waiters that gave up", tasks());
        for _ in 0..100 {
            let (ctx, canceller) = timeout(HOUR);
            ctx.after_func(|| ());
            canceller.cancel();
        }
        assert!(tasks() <= 1, "{} tasks of timeouts that were cancelled", tasks());
        let met: Vec<_> = (0..100).map(|_| timeout(ms(1))).collect();
        let functions: Vec<_> = met.iter().map(|(ctx, _)| ctx.after_func(|| ())).collect();
        met.iter().for_each(|(ctx, _)| assert_eq!(wait(ctx), LATE));
        assert!(tasks() <= 1, "{} tasks of deadlines that were met", tasks());
        drop(functions);
        // Nothing is armed: the task's first turn is its last.
        runtime.block_on(async {
            // (What the timer thread has not come to is rung first, eight in a turn.)
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(tasks(), 0);
    }

    #[test]
    fn no_task_stays_on_a_runtime_of_several_threads_either() {
        let runtime = more_threads();
        let (ctx, canceller) = runtime.block_on(async { Context::background().with_timeout(HOUR) });
        let mut done = ctx.done();
        assert!(poll(&mut done, &Wakes::new()).is_pending());
        drop(done);
        canceller.cancel();
        // One that is on its way out may take a moment.
        while runtime.metrics().num_alive_tasks() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn deadlines_and_cancels_race_on_a_runtime_of_several_threads_and_nobody_is_forgotten() {
        more_threads().block_on(async {
            let tasks: Vec<_> = (0..500_u64)
                .map(|number| {
                    let (ctx, canceller) = Context::background().with_timeout(ms(1 + number % 5));
                    let (below, _below) = ctx.with_cancel();
                    _below.detach();
                    let waiting = tokio::spawn(below.done());
                    let (racing, _racing) = Context::background().with_timeout(ms(3));
                    tokio::spawn(async move {
                        racing.done().await;
                        canceller.cancel();
                        let told = waiting.await.unwrap();
                        assert_eq!((Some(told), below.err()), (ctx.err(), ctx.err()));
                        drop(_racing);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}
