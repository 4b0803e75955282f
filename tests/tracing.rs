//! The `tracing` feature: one event for each end that has a reason of its own.
#![cfg(all(feature = "tracing", not(loom)))]

use quell::Context;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, mpsc};
use std::task::{self, Wake, Waker};
use std::thread;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes each of quell's events down as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "quell"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, "{field}={value:?}; ").unwrap();
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        // A subscriber is user code: it may use the tree, as no lock is held.
        let (ctx, canceller) = Context::background().with_cancel();
        drop(canceller.clone());
        assert!(!ctx.is_done());
        canceller.detach();
        self.0.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The lines that are written while `body` runs.
fn lines(body: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), body);
    let lines = lines.0.lock().unwrap();
    lines.clone()
}

/// Waits until its deadline has passed.
fn outlast(ctx: &Context) {
    let deadline = ctx.deadline().unwrap();
    while quell::rt::now() < deadline {}
}

#[test]
fn a_cancel_is_reported_with_its_cause_and_origin_once_for_the_whole_tree() {
    let line = line!() + 4;
    let lines = lines(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let below: Vec<_> = (0..3).map(|_| ctx.with_cancel()).collect();
        canceller.cancel_with("bad status");
        canceller.cancel();
        assert!(below.iter().all(|(child, _)| child.err().is_some()));
        drop(below);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("context ended"), "{lines:?}");
    assert!(lines[0].contains("error=context canceled; cause=bad status"), "{lines:?}");
    assert!(lines[0].contains(&format!("{}:{line}:", file!())), "{lines:?}");
}

#[test]
fn a_light_context_and_one_with_a_crowd_below_are_reported_alike() {
    for crowd in [0, 1, 100] {
        let lines = lines(|| {
            let (ctx, canceller) = Context::background().with_cancel();
            let below: Vec<_> = (0..crowd).map(|_| ctx.with_cancel()).collect();
            drop(canceller);
            drop(below);
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("was dropped"), "{lines:?}");
    }
}

#[test]
fn a_deadline_is_reported_once_however_many_look() {
    let lines = lines(|| {
        let (ctx, _canceller) =
            Context::background().with_timeout_cause(Duration::ZERO, "too slow");
        let (child, _c) = ctx.with_cancel();
        assert!(child.err().is_some());
        assert!(ctx.err().is_some());
        assert!(child.cause().is_some());
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let wanted = "error=context deadline exceeded; cause=too slow";
    assert!(lines[0].contains(wanted), "{lines:?}");
}

/// Reports the thread on which it is displayed.
#[derive(Debug)]
struct Slow(mpsc::Sender<Option<String>>);

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = self.0.send(thread::current().name().map(str::to_string));
        f.write_str("slow")
    }
}

impl std::error::Error for Slow {}

#[test]
fn a_deadlines_event_is_not_told_on_the_timer_thread_where_it_would_delay_the_others() {
    hear_every_thread();
    let (tell, told) = mpsc::channel();
    let (ctx, _canceller) =
        Context::background().with_timeout_cause(Duration::from_millis(1), Slow(tell));
    // A look from here would report it from here.
    ctx.after_func(|| ());
    let told = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_ne!(told.as_deref(), Some("quell-timer"));
}

/// Installed once for all; the other tests have subscribers of their own.
fn hear_every_thread() {
    static HEARS: Once = Once::new();
    HEARS.call_once(|| tracing::subscriber::set_global_default(Lines::default()).unwrap());
}

#[test]
fn what_a_waker_ends_on_the_timer_thread_is_told_on_another() {
    struct Ends(Mutex<Option<(quell::Canceller, mpsc::Sender<Option<String>>)>>);
    impl Wake for Ends {
        fn wake(self: Arc<Self>) {
            let (canceller, tell) = self.0.lock().unwrap().take().expect("woken once");
            canceller.cancel_with(Slow(tell));
        }
    }
    hear_every_thread();
    let (tell, told) = mpsc::channel();
    // No task waits for this one: its end is reported by what ends it.
    let (ended, canceller) = Context::background().with_cancel();
    let waker = Waker::from(Arc::new(Ends(Mutex::new(Some((canceller, tell))))));
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(500));
    let mut done = ctx.done();
    assert!(Pin::new(&mut done).poll(&mut task::Context::from_waker(&waker)).is_pending());
    let told = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(ended.is_done());
    assert_ne!(told.as_deref(), Some("quell-timer"));
}

#[test]
fn many_ends_on_the_timer_thread_are_told_in_their_order() {
    struct EndsAll(Mutex<Vec<(quell::Canceller, Numbered)>>);
    impl Wake for EndsAll {
        fn wake(self: Arc<Self>) {
            for (canceller, cause) in self.0.lock().unwrap().drain(..) {
                canceller.cancel_with(cause);
            }
        }
    }
    #[derive(Debug)]
    struct Numbered(usize, mpsc::Sender<usize>);
    impl std::fmt::Display for Numbered {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let _ = self.1.send(self.0);
            thread::sleep(Duration::from_millis(1));
            write!(f, "{}", self.0)
        }
    }
    impl std::error::Error for Numbered {}
    hear_every_thread();
    let (tell, told) = mpsc::channel();
    let ends: Vec<_> = (0..50).map(|_| Context::background().with_cancel()).collect();
    let all = ends.iter().enumerate().map(|(n, end)| (end.1.clone(), Numbered(n, tell.clone())));
    let waker = Waker::from(Arc::new(EndsAll(Mutex::new(all.collect()))));
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(500));
    let mut done = ctx.done();
    assert!(Pin::new(&mut done).poll(&mut task::Context::from_waker(&waker)).is_pending());
    for number in 0..50 {
        assert_eq!(told.recv_timeout(Duration::from_secs(30)).unwrap(), number);
    }
}

/// Notes, when it is displayed, whether the receiver is gone.
#[cfg(feature = "tokio")]
#[derive(Debug)]
struct Looks(quell::channel::Sender<u8>, mpsc::Sender<bool>);

#[cfg(feature = "tokio")]
impl std::fmt::Display for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = self.1.send(self.0.is_closed());
        f.write_str("enough")
    }
}

#[cfg(feature = "tokio")]
impl std::error::Error for Looks {}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn no_pipeline_goes_on_until_somebody_has_written_down_why_it_ends() {
    use quell::{OnCancel, Pipeline};
    let (ctx, canceller) = Context::background().with_cancel();
    let (give, given) = mpsc::channel();
    let source = Pipeline::from_stream(&ctx, futures::stream::pending::<u8>());
    let mut results = source
        .stage("own", move |_, input, output: quell::channel::Sender<u8>| async move {
            give.send(output).unwrap();
            std::future::pending::<()>().await;
            drop(input);
        })
        .run();
    // Another pipeline, which only begins to drain.
    let grace = OnCancel::Drain { grace: Duration::MAX };
    let mut drains = Pipeline::from_iter(&ctx, 0..).on_cancel(grace).run();
    assert_eq!(drains.next().await, Some(0));
    assert!(futures::poll!(results.next()).is_pending());
    quell::rt::yield_now().await;
    let (tell, told) = mpsc::channel();
    let cause = Looks(given.try_recv().unwrap(), tell);
    let lines = lines(|| canceller.cancel_with(cause));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(told.try_recv(), Ok(true));
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("it does");
    }
}

impl std::fmt::Display for Bomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

#[test]
fn a_cause_that_panics_when_its_event_was_its_last_keeps_no_function_from_running() {
    use std::future::Future;
    use std::task::{Context as Polls, Wake, Waker};
    struct Drops(Mutex<Vec<(Context, quell::Canceller)>>);
    impl Wake for Drops {
        fn wake(self: Arc<Self>) {
            let kept = std::mem::take(&mut *self.0.lock().unwrap());
            drop(kept);
        }
    }
    let (ctx, canceller) = Context::background().with_cancel();
    let slow = ctx.with_timeout_cause(Duration::from_millis(1), Bomb);
    let deadline = slow.0.deadline().unwrap();
    // With one below it, it is in its parent's list.
    let below = slow.0.with_cancel();
    let kept = Arc::new(Drops(Mutex::new(vec![below, slow])));
    while quell::rt::now() < deadline {}
    let waker = Waker::from(kept);
    let mut done = std::pin::pin!(ctx.done());
    assert!(done.as_mut().poll(&mut Polls::from_waker(&waker)).is_pending());
    drop(waker);
    let (tell, told) = mpsc::channel();
    let _at_the_end = ctx.after_func(move || tell.send(()).unwrap());
    let lines = lines(|| canceller.cancel());
    assert_eq!(told.try_recv(), Ok(()), "{lines:?}");
}

#[cfg(feature = "tokio-util")]
#[test]
fn a_token_that_ends_after_a_context_of_it_has_gone_is_reported_by_nobody() {
    let lines = lines(|| {
        let token = tokio_util::sync::CancellationToken::new();
        let (ctx, canceller) = Context::background().with_token(&token);
        canceller.detach();
        let stopped = ctx.after_func(|| ());
        assert!(stopped.stop());
        drop(ctx);
        token.cancel();
        drop(stopped);
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_deadline_of_a_context_with_others_below_is_reported_by_whoever_looks() {
    let lines = lines(|| {
        let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(1));
        let _below = ctx.with_cancel();
        outlast(&ctx);
        assert!(ctx.err().is_some());
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_deadline_before_that_of_the_parent_is_reported_though_the_parent_was_asked_first() {
    let lines = lines(|| {
        let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(2));
        let (child, _c) = ctx.with_timeout(Duration::from_millis(1));
        let _below = child.with_cancel();
        outlast(&ctx);
        assert!(ctx.err().is_some() && child.err().is_some());
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn a_deadline_that_passed_before_the_parent_was_cancelled_is_reported_beside_the_cancel() {
    let lines = lines(|| {
        let (ctx, canceller) = Context::background().with_cancel();
        let (child, _c) = ctx.with_timeout(Duration::from_millis(1));
        let _below = child.with_cancel();
        outlast(&child);
        canceller.cancel();
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[cfg(feature = "tokio-util")]
#[test]
fn a_deadline_that_a_token_finds_passed_is_reported() {
    let lines = lines(|| {
        let token = tokio_util::sync::CancellationToken::new();
        let (above, _canceller) = Context::background().with_timeout(Duration::from_millis(1));
        let (ctx, _c) = above.with_token(&token);
        outlast(&above);
        token.cancel();
        assert!(ctx.is_done());
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
}
