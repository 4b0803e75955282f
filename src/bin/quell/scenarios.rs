//! What `quell check` checks: programs with a bug that is known from books, their repaired twins,
//! and quell's own pipelines and groups.
//!
//! # Invariants
//!
//! 1. Only `close` closes a `Channel`, as in Go.

use quell::check::{Checker, Inject, ReplayError, Report, ViolationKind};
use quell::{Context, ContextError, Group, OnCancel, Pipeline, Rate, rt};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// One program to check.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) expect: Expectation,
    pub(crate) run: fn(&Checker) -> Report,
    pub(crate) replay: fn(&str) -> Result<Report, ReplayError>,
}

#[derive(Clone, Copy)]
pub(crate) enum Expectation {
    Clean,
    /// It has a bug that must be found.
    Finds(ViolationKind),
}

impl Scenario {
    pub(crate) fn is_as_expected(&self, report: &Report) -> bool {
        match self.expect {
            Expectation::Clean => report.is_clean(),
            Expectation::Finds(kind) => {
                report.violations().iter().any(|violation| violation.kind() == kind)
            }
        }
    }
}

/// What is injected into each of them.
pub(crate) const INJECTIONS: [Inject; 3] = [Inject::Cancel, Inject::Drop, Inject::Deadline];

macro_rules! scenario {
    ($body:ident, $name:expr, $expect:expr, $about:expr) => {
        Scenario {
            name: $name,
            about: $about,
            expect: $expect,
            run: |checker| checker.run($body),
            replay: |token| Checker::try_replay(token, $body),
        }
    };
}

use Expectation::{Clean, Finds};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        listing,
        "listing",
        Finds(ViolationKind::BlockedStage),
        "a pipeline in which only the producer looks at the context"
    ),
    scenario!(listing_repaired, "listing-repaired", Clean, "the same, in which every stage does"),
    scenario!(
        two_loops,
        "two-loops",
        Finds(ViolationKind::BlockedStage),
        "two loops that end each other with a cause, each with a bare send"
    ),
    scenario!(
        two_loops_repaired,
        "two-loops-repaired",
        Clean,
        "the same, with sends that can be ended"
    ),
    scenario!(nested_timers, "nested-timers", Clean, "a timeout of 3s inside one of 2s"),
    scenario!(slow_store, "slow-store", Clean, "a server that fetches from a store that is slow"),
    scenario!(workers, "pipeline-workers", Clean, "quell's pipeline: throttle, workers, a buffer"),
    scenario!(early_stop, "pipeline-early-stop", Clean, "its reader stops after two results"),
    scenario!(ordered, "pipeline-ordered", Clean, "results in the order of their items, in chunks"),
    scenario!(merged, "pipeline-merged", Clean, "two sources, a custom stage, an error"),
    scenario!(drained, "pipeline-drained", Clean, "on cancel, what is under way is finished"),
    scenario!(limited_group, "group-limited", Clean, "a group that runs two tasks at a time"),
    scenario!(group_shutdown, "group-failing", Clean, "a group one of whose tasks fails"),
    scenario!(
        context_forms,
        "contexts",
        Clean,
        "contexts linked, with deadlines, values, functions"
    ),
];

// --------------------------------------------------- the listing, as it is printed

/// A channel as in Go: dropping a handle does not close it, only `close` does.
struct Channel<T> {
    send: mpsc::Sender<Option<T>>,
    read: Arc<Mutex<mpsc::Receiver<Option<T>>>>,
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        Channel { send: self.send.clone(), read: self.read.clone() }
    }
}

impl<T> Channel<T> {
    fn new() -> Self {
        let (send, read) = mpsc::channel(1);
        Channel { send, read: Arc::new(Mutex::new(read)) }
    }

    async fn close(&self) {
        let _ = self.send.send(None).await;
    }
}

/// Runs `$body` with each `$item` that is read, until the channel is closed.
macro_rules! range {
    ($item:ident in $channel:expr, $body:block) => {
        loop {
            let mut read = $channel.read.lock().await;
            let Some(Some($item)) = read.recv().await else {
                read.close();
                break;
            };
            drop(read);
            $body
        }
    };
}

const WORKERS: usize = 2;

async fn listing(ctx: Context) {
    let requests = Channel::new();
    let out = requests.clone();
    let produces = ctx.clone();
    drop(rt::spawn_named("produce", async move {
        for request in 0..5_u32 {
            if !matches!(produces.run(out.send.send(Some(request))).await, Ok(Ok(()))) {
                break;
            }
        }
        let _ = produces.run(out.close()).await;
    }));

    let paced = Channel::new();
    let out = paced.clone();
    drop(rt::spawn_named("throttle", async move {
        let mut ticks = rt::interval(Duration::from_millis(100));
        range!(request in requests, {
            ticks.tick().await;
            let _ = out.send.send(Some(request)).await;
        });
        out.close().await;
    }));

    let results = Channel::new();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (paced, out) = (paced.clone(), results.clone());
            rt::spawn_named("dispatch", async move {
                range!(request in paced, {
                    let _ = out.send.send(Some(fetch(request).await)).await;
                });
            })
        })
        .collect();
    let out = results.clone();
    drop(rt::spawn_named("wait and close", async move {
        for worker in workers {
            let _ = worker.await;
        }
        out.close().await;
    }));

    let _ = ctx.run(async { range!(_result in results, {}) }).await;
}

async fn fetch(request: u32) -> u32 {
    rt::sleep(Duration::from_millis(20)).await;
    request * 2
}

async fn listing_repaired(ctx: Context) {
    let requests = Channel::new();
    let (produces, out) = (ctx.clone(), requests.clone());
    drop(rt::spawn_named("produce", async move {
        for request in 0..5_u32 {
            if !matches!(produces.run(out.send.send(Some(request))).await, Ok(Ok(()))) {
                break;
            }
        }
        let _ = produces.run(out.close()).await;
    }));

    let paced = Channel::new();
    let (throttles, out) = (ctx.clone(), paced.clone());
    drop(rt::spawn_named("throttle", async move {
        let mut ticks = rt::interval(Duration::from_millis(100));
        let _ = throttles
            .run(async {
                range!(request in requests, {
                    ticks.tick().await;
                    let _ = out.send.send(Some(request)).await;
                });
                out.close().await;
            })
            .await;
    }));

    let results = Channel::new();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (ctx, paced, out) = (ctx.clone(), paced.clone(), results.clone());
            rt::spawn_named("dispatch", async move {
                let _ = ctx
                    .run(async {
                        range!(request in paced, {
                            let _ = out.send.send(Some(fetch(request).await)).await;
                        });
                    })
                    .await;
            })
        })
        .collect();
    let (closes, out) = (ctx.clone(), results.clone());
    drop(rt::spawn_named("wait and close", async move {
        for worker in workers {
            let _ = worker.await;
        }
        let _ = closes.run(out.close()).await;
    }));

    let _ = ctx.run(async { range!(_result in results, {}) }).await;
}

// ------------------------------------------- two loops that end each other with a cause

const SECOND: Duration = Duration::from_secs(1);

/// One answer in four is an error.
async fn status(ctx: &Context) -> Result<bool, quell::Cancelled> {
    ctx.run(rt::sleep(SECOND / 20)).await.map(|()| rt::choose(4) != 3)
}

async fn two_loops(ctx: Context) {
    let (ctx, cancel) = ctx.with_cancel();
    let said = Channel::new();

    let (inside, cancels, say) = (ctx.clone(), cancel.clone(), said.clone());
    let first = rt::spawn_named("status", async move {
        for _ in 0..3 {
            match status(&inside).await {
                Err(stopped) => return cancels.cancel_with(format!("in status: {stopped}")),
                Ok(false) => return cancels.cancel_with("bad status"),
                Ok(true) => {}
            }
            let _ = say.send.send(Some("success from status")).await;
            rt::sleep(SECOND / 10).await;
        }
    });
    let (inside, cancels, say) = (ctx.clone(), cancel.clone(), said.clone());
    let second = rt::spawn_named("delay", async move {
        for _ in 0..3 {
            if let Err(stopped) = inside.run(rt::sleep(SECOND / 10)).await {
                return cancels.cancel_with(format!("in delay: {stopped}"));
            }
            let _ = say.send.send(Some("success from delay")).await;
        }
        cancels.cancel_with("enough");
    });

    let _ = ctx.run(async { range!(_text in said, {}) }).await;
    let _ = first.await;
    let _ = second.await;
    assert!(ctx.cause().is_some());
}

async fn two_loops_repaired(ctx: Context) {
    let (ctx, cancel) = ctx.with_cancel();
    let said = Channel::new();

    let (inside, cancels, say) = (ctx.clone(), cancel.clone(), said.clone());
    let first = rt::spawn_named("status", async move {
        for _ in 0..3 {
            match status(&inside).await {
                Err(stopped) => return cancels.cancel_with(format!("in status: {stopped}")),
                Ok(false) => return cancels.cancel_with("bad status"),
                Ok(true) => {}
            }
            let sent = inside.run(say.send.send(Some("success from status"))).await;
            if sent.is_err() || inside.run(rt::sleep(SECOND / 10)).await.is_err() {
                return;
            }
        }
    });
    let (inside, cancels, say) = (ctx.clone(), cancel.clone(), said.clone());
    let second = rt::spawn_named("delay", async move {
        for _ in 0..3 {
            if let Err(stopped) = inside.run(rt::sleep(SECOND / 10)).await {
                return cancels.cancel_with(format!("in delay: {stopped}"));
            }
            if inside.run(say.send.send(Some("success from delay"))).await.is_err() {
                return;
            }
        }
        cancels.cancel_with("enough");
    });

    let _ = ctx.run(async { range!(_text in said, {}) }).await;
    let _ = first.await;
    let _ = second.await;
    assert!(ctx.cause().is_some());
}

async fn nested_timers(ctx: Context) {
    let (parent, _cancel_parent) = ctx.with_timeout(2 * SECOND);
    let (child, _cancel_child) = parent.with_timeout(3 * SECOND);
    let began = rt::now();
    let error = child.done().await;
    let took = rt::now() - began;
    if error == ContextError::DeadlineExceeded && !ctx.is_done() {
        assert_eq!(took, 2 * SECOND);
    }
}

// ----------------------------------------------------------------------- a server

async fn slow_store(ctx: Context) {
    let (requests, mut incoming) = mpsc::channel::<u64>(2);
    let clients = ctx.clone();
    let client = rt::spawn_named("clients", async move {
        for request in 0..3 {
            if !matches!(clients.run(requests.send(request)).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    let group = Group::new(&ctx);
    group.limit(2);
    while let Ok(Some(request)) = ctx.run(incoming.recv()).await {
        let spawned = group
            .spawn("handler", move |ctx| async move {
                // The reserve is for an answer that says that it took too long.
                let (bounded, _canceller) = ctx.with_timeout(SECOND);
                let (lookup, _canceller) = bounded.with_reserve(SECOND / 10);
                let _ = lookup.run(rt::sleep(SECOND / 2 * request as u32)).await;
                Ok::<(), io::Error>(())
            })
            .await;
        if spawned.is_err() {
            break;
        }
    }
    drop(incoming);
    let _ = group.wait().await;
    let _ = client.await;
}

// -------------------------------------------------------- quell's pipelines and groups

async fn workers(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..6_u32)
        .throttle(Rate::per_second(50).burst(2))
        .dispatch(3, |ctx, request| async move {
            let _ = ctx.run(rt::sleep(SECOND / 50)).await;
            request
        })
        .buffer(2)
        .run();
    while results.next().await.is_some() {}
    assert!(results.finish().await.conserved());
}

async fn early_stop(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..)
        .dispatch(2, |_, n: u32| async move {
            rt::yield_now().await;
            n
        })
        .run();
    let mut seen = 0;
    while results.next().await.is_some() {
        seen += 1;
        if seen == 2 {
            break;
        }
    }
    assert!(results.finish().await.conserved());
}

async fn ordered(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..6_u32)
        .dispatch_ordered(2, |_, n| async move {
            rt::sleep(SECOND / (1 + n)).await;
            n
        })
        .chunks(2, SECOND / 2)
        .run();
    let mut last = None;
    while let Some(chunk) = results.next().await {
        for n in chunk {
            assert!(last < Some(n));
            last = Some(n);
        }
    }
    assert!(results.finish().await.conserved());
}

async fn merged(ctx: Context) {
    let other = Pipeline::from_iter(&ctx, 10..13_u32);
    let mut results = Pipeline::from_iter(&ctx, 0..3_u32)
        .merge(other)
        .stage("pairs", |_, mut input, output| async move {
            while let Some(one) = input.recv().await {
                let two = input.recv().await.unwrap_or(0);
                if output.send(one + two).await.is_err() {
                    return;
                }
            }
        })
        .try_dispatch(2, |_, n| async move {
            rt::yield_now().await;
            if n > 20 { Err(io::Error::other("too many")) } else { Ok(n) }
        })
        .run();
    while results.next().await.is_some() {}
    assert!(results.finish().await.conserved());
}

async fn drained(ctx: Context) {
    let mut results = Pipeline::from_iter(&ctx, 0..4_u32)
        .dispatch(2, |ctx, n| async move {
            let _ = ctx.run(rt::sleep(SECOND / 10)).await;
            n
        })
        .on_cancel(OnCancel::Drain { grace: SECOND / 2 })
        .run();
    while results.next().await.is_some() {}
    assert!(results.finish().await.conserved());
}

async fn limited_group(ctx: Context) {
    let group = Group::new(&ctx);
    group.limit(2);
    for n in 0..4_u32 {
        let spawned = group
            .spawn("member", move |ctx| async move {
                let _ = ctx.run(rt::sleep(SECOND / 10 * n)).await;
                Ok::<(), io::Error>(())
            })
            .await;
        if spawned.is_err() {
            break;
        }
    }
    let _ = group.wait().await;
}

async fn group_shutdown(ctx: Context) {
    let group = Group::new(&ctx);
    for n in 0..3_u32 {
        let _ = group.try_spawn("member", move |ctx| async move {
            let slept = ctx.run(rt::sleep(SECOND / 10 * n)).await;
            if n == 1 {
                Err(io::Error::other("one fails"))
            } else {
                slept.map_err(io::Error::other)
            }
        });
    }
    let failed = group.wait().await.is_err();
    assert!(failed || ctx.is_done());
    let _ = group.shutdown(SECOND / 10).await;
}

async fn context_forms(ctx: Context) {
    let (server, _server) = Context::background().with_cancel();
    let (timed, _timed) = ctx.with_timeout(SECOND / 5);
    let (linked, canceller) = timed.linked(&[&server]);
    let inner = linked.with_value("a value");
    let (tell, told) = tokio::sync::oneshot::channel();
    inner.after_func(move || tell.send(()).unwrap_or_default());
    let waits = rt::spawn_named("waits", async move { inner.done().await });
    let other = linked.clone();
    let cancels = rt::spawn_named("cancels", async move {
        let _ = other.run(rt::sleep(SECOND / 10)).await;
        canceller.cancel_with("enough");
    });
    let _ = waits.await;
    let _ = cancels.await;
    assert_eq!(told.await, Ok(()));
    assert!(linked.is_done());
}
