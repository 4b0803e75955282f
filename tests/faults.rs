//! Faults outside of quell: panics in users' drops, displays and subscribers,
//! runtimes that are not driven, clocks that disagree. quell goes on.
#![cfg(all(feature = "tokio", not(loom)))]

use futures::FutureExt;
use quell::{Cause, Context, ContextError, OnCancel, Pipeline};
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const LONG: Duration = Duration::from_secs(20);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn one_thread(paused: bool) -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap()
}

/// A value whose drop panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb in a value");
        }
    }
}

#[test]
fn a_deadline_of_a_runtime_that_nobody_drives_rings_all_the_same() {
    let runtime = one_thread(false);
    let (ctx, _c) = runtime.block_on(async { Context::background().with_timeout(ms(5)) });
    let (tell, told) = mpsc::channel();
    ctx.after_func(move || tell.send(()).unwrap());
    assert_eq!(futures::executor::block_on(ctx.done()), ContextError::DeadlineExceeded);
    told.recv_timeout(LONG).unwrap();
    drop(runtime);
}

#[test]
fn a_deadline_by_a_clock_that_is_ahead_rings_in_time_when_its_runtime_is_gone() {
    let runtime = one_thread(true);
    let (ctx, _c) = runtime.block_on(async {
        tokio::time::advance(Duration::from_secs(3600)).await;
        tokio::time::resume();
        Context::background().with_timeout(ms(20))
    });
    let start = std::time::Instant::now();
    let done = ctx.done();
    drop(runtime);
    assert_eq!(futures::executor::block_on(done), ContextError::DeadlineExceeded);
    assert!(start.elapsed() < LONG, "it took {:?}", start.elapsed());
}

#[test]
fn a_deadline_whose_clock_was_moved_meanwhile_rings_in_time_when_its_runtime_is_gone() {
    let hour = Duration::from_secs(3600);
    for forward in [2 * hour, hour - ms(20)] {
        let runtime = one_thread(false);
        let (ctx, _c) = runtime.block_on(async { Context::background().with_timeout(hour) });
        let (tell, told) = mpsc::channel();
        ctx.after_func(move || tell.send(()).unwrap());
        runtime.block_on(async {
            tokio::time::pause();
            // Its first poll moves the clock, and no task gets a turn.
            let moved = Box::pin(tokio::time::advance(forward));
            let _ = futures::FutureExt::now_or_never(moved);
            tokio::time::resume();
        });
        drop(runtime);
        told.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn a_linked_context_ends_with_deadlines_by_different_clocks() {
    let paused = one_thread(true);
    let (still, _s) = paused.block_on(async { Context::background().with_timeout(ms(5)) });
    for self_stands_still in [true, false] {
        let (moves, _m) = Context::background().with_timeout(ms(5));
        let (linked, _l) =
            if self_stands_still { still.linked(&[&moves]) } else { moves.linked(&[&still]) };
        assert_eq!(linked.wait_timeout(LONG), Some(ContextError::DeadlineExceeded));
        assert!(!still.is_done());
    }
}

#[test]
fn functions_after_one_whose_context_explodes_run_all_the_same() {
    let (root, canceller) = Context::background().with_cancel();
    let (tell, told) = mpsc::channel();
    for number in 0..3 {
        let (ctx, detached) = root.with_value(Bomb).with_cancel();
        detached.detach();
        let tell = tell.clone();
        // The function holds the last handle of the context, which goes when it has run.
        ctx.after_func(move || tell.send(number).unwrap());
    }
    canceller.cancel();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn of_several_values_that_explode_in_one_chain_each_does_and_nobody_else() {
    struct Always(mpsc::Sender<()>);
    impl Drop for Always {
        fn drop(&mut self) {
            let _ = self.0.send(());
            panic!("a bomb that goes off while another does");
        }
    }
    static KEY: quell::Key<Always> = quell::Key::new("bomb");
    let (tell, told) = mpsc::channel();
    let (root, canceller) = Context::background().with_cancel();
    let ctx = root.with_value(Always(tell.clone())).with_entry(&KEY, Always(tell));
    // The function holds the last handle.
    ctx.after_func(|| {});
    drop(ctx);
    canceller.cancel();
    assert_eq!(told.try_iter().count(), 2);
}

#[test]
fn two_errors_of_one_context_that_explode_do_not_end_the_process() {
    #[derive(Debug)]
    struct Always(mpsc::Sender<()>);
    impl fmt::Display for Always {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a bomb")
        }
    }
    impl Error for Always {}
    impl Drop for Always {
        fn drop(&mut self) {
            let _ = self.0.send(());
            panic!("a bomb that goes off while another does");
        }
    }
    let (tell, told) = mpsc::channel();
    let (ctx, canceller) = Context::background().with_timeout_cause(LONG, Always(tell.clone()));
    // The function holds the last handle.
    ctx.after_func(|| {});
    drop(ctx);
    canceller.cancel_with(Always(tell));
    let _exploded = std::panic::catch_unwind(|| drop(canceller));
    assert_eq!(told.try_iter().count(), 2);
}

/// What a runtime keeps and drops with its last handle, which quell's timer thread may hold.
struct Kept(mpsc::Sender<Option<ContextError>>);

impl Drop for Kept {
    fn drop(&mut self) {
        let (ctx, _c) = Context::background().with_timeout(ms(1));
        let _ = self.0.send(ctx.wait_timeout(ms(100)));
        panic!("in what goes with a runtime");
    }
}

#[test]
fn what_goes_with_the_last_handle_of_a_runtime_stops_no_deadline() {
    struct Lets(std::sync::Mutex<Option<Box<dyn std::any::Any + Send>>>);
    impl std::task::Wake for Lets {
        fn wake(self: std::sync::Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    for by_waker in [true, false] {
        let (tell, told) = mpsc::channel();
        let kept = std::sync::Mutex::new(Kept(tell));
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).enable_time();
        let runtime = builder.on_thread_start(move || drop(kept.lock())).build().unwrap();
        drop(builder);
        let (ctx, canceller) =
            runtime.block_on(async { Context::background().with_timeout(ms(50)) });
        if by_waker {
            let lets = std::sync::Arc::new(Lets(std::sync::Mutex::new(None)));
            let waker = std::task::Waker::from(lets.clone());
            let mut done = ctx.done();
            let poll = Pin::new(&mut done).poll(&mut std::task::Context::from_waker(&waker));
            assert!(poll.is_pending());
            *lets.0.lock().unwrap() = Some(Box::new((ctx, canceller, done)));
        } else {
            canceller.detach();
            ctx.after_func(|| {});
            drop(ctx);
        }
        drop(runtime);
        // The timer thread itself cannot wait for a deadline, but it does go on.
        told.recv_timeout(LONG).unwrap();
        let (ctx, _c) = Context::background().with_timeout(ms(1));
        let (tell, told) = mpsc::channel();
        ctx.after_func(move || tell.send(()).unwrap());
        told.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn what_goes_with_a_sleep_may_wait_for_time_itself() {
    /// Arms a deadline when it is dropped.
    struct Arms(mpsc::Sender<()>);
    impl Drop for Arms {
        fn drop(&mut self) {
            let (ctx, _c) = Context::background().with_timeout(LONG);
            ctx.after_func(|| {});
            let _ = self.0.send(());
        }
    }
    let (tell, told) = mpsc::channel();
    let arms = std::sync::Mutex::new(Arms(tell));
    let mut builder = Builder::new_current_thread();
    let runtime = builder.on_thread_start(move || drop(arms.lock())).build().unwrap();
    drop(builder);
    let mut sleep = Box::pin(quell::rt::sleep(LONG));
    {
        // It has no timers: the timer thread has the sleep, and with it its clock.
        let _inside = runtime.enter();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
    }
    drop(runtime);
    assert!(told.try_recv().is_err(), "the sleep has the last handle");
    std::thread::spawn(move || drop(sleep));
    told.recv_timeout(LONG).unwrap();
}

#[test]
fn more_explosions_than_there_are_threads_leave_deadlines_their_functions() {
    // Late enough for all to exist before, so that the functions hold the last handles.
    let at = quell::rt::now() + ms(500);
    for _ in 0..600 {
        let exploding = || {
            let (ctx, detached) = Context::background().with_value(Bomb).with_deadline(at);
            detached.detach();
            ctx.after_func(|| {});
        };
        // On a slower machine, the bomb goes off here.
        let _ = std::panic::catch_unwind(exploding);
    }
    let (ctx, _c) = Context::background().with_deadline(at + ms(1));
    let (tell, told) = mpsc::channel();
    ctx.after_func(move || tell.send(()).unwrap());
    told.recv_timeout(LONG).unwrap();
}

#[test]
fn a_context_that_outlives_its_thread_may_be_asked_to_the_last() {
    struct Last(Context, mpsc::Sender<bool>);
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.is_done() || self.0.err().is_some());
        }
    }
    thread_local!(static KEPT: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) });
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        // First in, last out: the thread's place in the runtime is dropped before it.
        KEPT.with(|kept| kept.borrow_mut().take());
        let runtime = one_thread(false);
        let (ctx, canceller) = runtime.block_on(async { Context::background().with_timeout(LONG) });
        canceller.detach();
        KEPT.with(|kept| *kept.borrow_mut() = Some(Last(ctx, tell)));
    })
    .join()
    .unwrap();
    assert!(!told.recv().unwrap());
}

#[test]
fn a_cause_in_any_wrapping_is_passed_on_as_it_is() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("the true error");
    let cause = ctx.cause().unwrap();
    let cancelled = ctx.check().unwrap_err();
    let wrapped: [Box<dyn Error + Send + Sync>; 5] = [
        Box::new(cause.clone()),
        Box::new(Box::new(cause.clone())),
        Box::new(cancelled.clone()),
        Box::new(Box::new(cancelled.clone())),
        cancelled.into(),
    ];
    for error in wrapped {
        let (next, canceller) = Context::background().with_cancel();
        canceller.cancel_with(error);
        let passed_on = next.cause().unwrap();
        assert_eq!(passed_on.to_string(), "the true error");
        assert_eq!(passed_on.origin(), cause.origin());
    }
    let (next, canceller) = Context::background().with_cancel();
    canceller.cancel_with(Box::new(cause.clone()));
    assert_eq!(next.cause().unwrap().origin(), cause.origin());
}

#[test]
fn a_cause_handed_from_deadline_to_cancel_and_back_does_not_grow() {
    #[derive(Debug)]
    struct Mine;
    impl fmt::Display for Mine {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("mine")
        }
    }
    impl Error for Mine {}
    let round = |cause: Cause| {
        let (ctx, _c) = Context::background().with_timeout_cause(Duration::ZERO, cause);
        assert_eq!(ctx.err(), Some(ContextError::DeadlineExceeded));
        let (next, canceller) = Context::background().with_cancel();
        canceller.cancel_with(ctx.cause().unwrap());
        assert_eq!(next.err(), Some(ContextError::Cancelled));
        next.cause().unwrap()
    };
    let (given, canceller) = Context::background().with_cancel();
    canceller.cancel_with(Mine);
    let (plain, canceller) = Context::background().with_cancel();
    canceller.cancel();
    for ctx in [given, plain] {
        let first = ctx.cause().unwrap();
        let mut cause = first.clone();
        for _ in 0..200_000 {
            cause = round(cause);
        }
        assert_eq!(cause.to_string(), first.to_string());
        assert_eq!(cause.origin(), first.origin());
        assert_eq!(cause.downcast_ref::<Mine>().is_some(), first.downcast_ref::<Mine>().is_some());
    }
}

#[cfg(feature = "tracing")]
#[test]
fn a_cause_that_panics_when_it_is_shown_keeps_nobody_from_being_told() {
    use tracing::{Event, Metadata, Subscriber, field::Visit, span};

    #[derive(Debug)]
    struct Unspeakable;
    impl fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("not to be shown")
        }
    }
    impl Error for Unspeakable {}

    struct Shows;
    impl Subscriber for Shows {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "quell"
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            struct All;
            impl Visit for All {
                fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                    let _ = format!("{value:?}");
                }
            }
            event.record(&mut All);
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    tracing::subscriber::with_default(Shows, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let (tell, told) = mpsc::channel();
        ctx.after_func(move || tell.send(()).unwrap());
        canceller.cancel_with(Unspeakable);
        told.try_recv().unwrap();
        let (late, _l) = ctx.without_cancel().with_timeout_cause(Duration::ZERO, Unspeakable);
        assert_eq!(late.err(), Some(ContextError::DeadlineExceeded));
    });
}

/// Set in the environment of a process in which no thread can be started.
const NO_THREADS: &str = "QUELL_TEST_WITHOUT_THREADS";

/// Runs `test` in such a process, unless this is one.
#[cfg(target_os = "linux")]
fn is_without_threads(test: &str) -> bool {
    if std::env::var_os(NO_THREADS).is_none() {
        // No stack can be so large: the test runs on the first thread, as there can be no other.
        let stack = if usize::BITS == 64 { 1_u64 << 47 } else { 0xff00_0000 };
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(NO_THREADS, "1")
            .env("RUST_MIN_STACK", stack.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stderr);
        assert!(alone.status.success(), "{said}");
        return false;
    }
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    std::panic::set_hook(Box::new(|_| {}));
    true
}

#[test]
#[cfg(target_os = "linux")]
fn a_pipeline_that_no_timer_can_be_had_for_says_so_and_is_over() {
    if !is_without_threads("a_pipeline_that_no_timer_can_be_had_for_says_so_and_is_over") {
        return;
    }
    for how in [OnCancel::Abort, OnCancel::Drain { grace: LONG }] {
        let (ctx, _canceller) = Context::background().with_timeout(LONG);
        one_thread(false).block_on(async {
            let mut results = Pipeline::from_iter(&ctx, 0..10).on_cancel(how).run();
            let polled = std::panic::AssertUnwindSafe(|| results.next().now_or_never());
            let message = std::panic::catch_unwind(polled).unwrap_err();
            assert!(message.downcast_ref::<String>().unwrap().contains("timer thread"));
            assert_eq!(results.next().await, None);
            let error = results.try_next().await.unwrap_err();
            assert_eq!(error.cause().to_string(), "the pipeline could not be started");
            let report = results.finish().await;
            assert_eq!((report.read(), report.conserved()), (0, true), "{report}");
            report.into_result().expect_err("it has failed");
        });
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_link_that_fails_because_no_timer_can_be_had_leaves_nothing_with_its_parents() {
    let name = "a_link_that_fails_because_no_timer_can_be_had_leaves_nothing_with_its_parents";
    if !is_without_threads(name) {
        return;
    }
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let runtime = one_thread(false);
    let (here, _h) = runtime.block_on(async { Context::background().with_timeout(LONG) });
    let (system, _s) = Context::background().with_timeout(LONG);
    let (parent, _p) = Context::background().with_cancel();
    let fails = || {
        let link = || here.linked(&[&parent, &system]);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(link));
        let message = failed.map(drop).unwrap_err();
        assert!(message.downcast_ref::<String>().unwrap().contains("timer thread"));
    };
    (0..1_000).for_each(|_| fails());
    let before = resident();
    (0..50_000).for_each(|_| fails());
    let more = resident().saturating_sub(before);
    drop(std::panic::take_hook());
    assert!(more < 4 << 20, "{more} bytes are left");
}
