//! How fast the checker is, beside shuttle, in one run: `cargo bench --features check --bench
//! check`.
//!
//! Both run the same pipeline: a producer, workers that share a channel, results read until the
//! first, then a cancel. The channel is the same source for both, made of std's locks here and of
//! shuttle's there; each has its own tasks and contexts. What is counted is schedules a second.
//! Most of the difference is granularity: shuttle may switch at every access to a lock, a channel
//! or an atomic, with a stack for each task; here tasks switch where they await, and are polled.
//! Shuttle therefore sees more of what happens inside a poll, and nothing of time.

#![allow(missing_docs)]

use quell::check::{Checker, Inject};
use quell::rt;
use std::time::{Duration, Instant};

/// A channel with room for one, made of the locks in scope: std's for quell, which does not see
/// them, and shuttle's, which it instruments.
macro_rules! channel {
    () => {
        struct Link {
            items: VecDeque<u32>,
            senders: usize,
            receivers: usize,
            waiters: Vec<Waker>,
        }

        /// A channel with room for one.
        struct Channel(Arc<Mutex<Link>>, bool);

        impl Channel {
            fn pair() -> (Channel, Channel) {
                let items = VecDeque::new();
                let link = Link { items, senders: 1, receivers: 1, waiters: Vec::new() };
                let link = Arc::new(Mutex::new(link));
                (Channel(link.clone(), true), Channel(link, false))
            }

            fn change<R>(&self, f: impl FnOnce(&mut Link) -> R) -> R {
                let mut link = self.0.lock().unwrap();
                let changed = f(&mut link);
                let waiters = std::mem::take(&mut link.waiters);
                drop(link);
                waiters.into_iter().for_each(Waker::wake);
                changed
            }

            async fn wait<R>(&self, mut f: impl FnMut(&mut Link) -> Option<R>) -> R {
                poll_fn(|cx| {
                    let mut link = self.0.lock().unwrap();
                    let Some(done) = f(&mut link) else {
                        link.waiters.push(cx.waker().clone());
                        return Poll::Pending;
                    };
                    let waiters = std::mem::take(&mut link.waiters);
                    drop(link);
                    waiters.into_iter().for_each(Waker::wake);
                    Poll::Ready(done)
                })
                .await
            }

            async fn send(&self, item: u32) -> bool {
                self.wait(|link| {
                    if link.receivers == 0 {
                        return Some(false);
                    }
                    link.items.is_empty().then(|| {
                        link.items.push_back(item);
                        true
                    })
                })
                .await
            }

            async fn recv(&self) -> Option<u32> {
                self.wait(|link| match link.items.pop_front() {
                    None if link.senders > 0 => None,
                    item => Some(item),
                })
                .await
            }
        }

        impl Clone for Channel {
            fn clone(&self) -> Self {
                self.change(|link| if self.1 { link.senders += 1 } else { link.receivers += 1 });
                Channel(self.0.clone(), self.1)
            }
        }

        impl Drop for Channel {
            fn drop(&mut self) {
                self.change(|link| if self.1 { link.senders -= 1 } else { link.receivers -= 1 });
            }
        }
    };
}

/// The pipeline for quell.
mod in_quell {
    use quell::{Context, rt};
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};
    use std::task::{Poll, Waker};

    channel!();

    pub(crate) async fn pipeline(ctx: Context, items: u32, workers: usize) {
        let (ctx, canceller) = ctx.with_cancel();
        let (requests, read) = Channel::pair();
        let (results, out) = Channel::pair();
        let inside = ctx.clone();
        let producer = rt::spawn_named("producer", async move {
            for n in 0..items {
                if !matches!(inside.run(requests.send(n)).await, Ok(true)) {
                    return;
                }
            }
        });
        let mut all = vec![producer];
        for _ in 0..workers {
            let (ctx, read, results) = (ctx.clone(), read.clone(), results.clone());
            all.push(rt::spawn_named("worker", async move {
                let _ = ctx
                    .run(async {
                        while let Some(n) = read.recv().await {
                            if !results.send(n).await {
                                return;
                            }
                        }
                    })
                    .await;
            }));
        }
        drop(read);
        drop(results);
        if out.recv().await.is_some() {
            canceller.cancel();
        }
        drop(out);
        for task in all {
            task.await.unwrap();
        }
    }
}

/// The same for shuttle: tasks, and a context made of its locks, so that it sees into it. The
/// context is only a flag and its waiters.
mod in_shuttle {
    use shuttle::future;
    use shuttle::sync::{Arc, Mutex};
    use std::collections::VecDeque;
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::{Poll, Waker};

    #[derive(Default)]
    struct Ended {
        ended: bool,
        waiters: Vec<Waker>,
    }

    #[derive(Clone, Default)]
    struct Context(Arc<Mutex<Ended>>);

    impl Context {
        fn cancel(&self) {
            let mut ended = self.0.lock().unwrap();
            ended.ended = true;
            let waiters = std::mem::take(&mut ended.waiters);
            drop(ended);
            waiters.into_iter().for_each(Waker::wake);
        }

        async fn run<F: Future>(&self, future: F) -> Option<F::Output> {
            let mut future = pin!(future);
            poll_fn(|cx| {
                if self.0.lock().unwrap().ended {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Some(output));
                }
                let mut ended = self.0.lock().unwrap();
                if ended.ended {
                    return Poll::Ready(None);
                }
                ended.waiters.push(cx.waker().clone());
                Poll::Pending
            })
            .await
        }
    }

    channel!();

    pub(crate) fn pipeline(items: u32, workers: usize) {
        future::block_on(async move {
            let ctx = Context::default();
            let (requests, read) = Channel::pair();
            let (results, out) = Channel::pair();
            let inside = ctx.clone();
            let producer = future::spawn(async move {
                for n in 0..items {
                    if inside.run(requests.send(n)).await != Some(true) {
                        return;
                    }
                }
            });
            let mut all = vec![producer];
            for _ in 0..workers {
                let (ctx, read, results) = (ctx.clone(), read.clone(), results.clone());
                all.push(future::spawn(async move {
                    ctx.run(async {
                        while let Some(n) = read.recv().await {
                            if !results.send(n).await {
                                return;
                            }
                        }
                    })
                    .await;
                }));
            }
            drop(read);
            drop(results);
            if out.recv().await.is_some() {
                ctx.cancel();
            }
            drop(out);
            for task in all {
                task.await.unwrap();
            }
        });
    }
}

fn rate(schedules: u64, took: Duration) -> f64 {
    schedules as f64 / took.as_secs_f64()
}

fn main() {
    // `cargo test --benches` only checks that it runs.
    let quick = std::env::args().any(|arg| arg == "--test");
    let (rounds, ours, theirs) = if quick { (1, 200, 20) } else { (20, 10_000, 1_000) };
    println!(
        "schedules a second, the best of {rounds} rounds in turn, and how many times shuttle's\n"
    );
    for (items, workers) in [(10, 4), (2, 1)] {
        for name in ["random", "pct"] {
            let (mut own, mut their) = (0.0_f64, 0.0_f64);
            for round in 0..rounds {
                let seed = round as u64;
                let checker = match name {
                    "pct" => Checker::pct(seed, 3, ours),
                    _ => Checker::random(seed, ours),
                };
                let report =
                    checker.inject(Inject::None).run(|ctx| in_quell::pipeline(ctx, items, workers));
                report.assert_clean();
                own = own.max(rate(report.schedules(), report.took()));
                let began = Instant::now();
                let body = move || in_shuttle::pipeline(items, workers);
                match name {
                    "pct" => shuttle::check_pct(body, theirs, 3),
                    _ => shuttle::check_random(body, theirs),
                }
                their = their.max(rate(theirs as u64, began.elapsed()));
            }
            println!(
                "{items:>2} items, {workers} workers, {name:<6}  quell {own:>9.0}  shuttle {their:>8.0}  \
                 × {:.1}",
                own / their
            );
        }
    }
    println!("\none step, in a crowd of tasks that take turns");
    for tasks in [10, 100, 1_000] {
        let turns = if quick { 1 } else { 50 };
        let schedules = (if quick { 1_000 } else { 200_000 }) / tasks as u64;
        let began = Instant::now();
        let report = Checker::random(1, schedules).inject(Inject::None).max_steps(u32::MAX).run(
            |_| async move {
                let all: Vec<_> = (0..tasks)
                    .map(|_| {
                        rt::spawn(async move {
                            for _ in 0..turns {
                                rt::yield_now().await;
                            }
                        })
                    })
                    .collect();
                for task in all {
                    let _ = task.await;
                }
            },
        );
        report.assert_clean();
        let steps = schedules.max(1) * tasks as u64 * (turns + 2);
        let each = began.elapsed().as_nanos() as f64 / steps as f64;
        println!("{tasks:>6} tasks  {each:>7.1} ns  ({} schedules)", report.schedules());
    }
    println!("\na body of ten thousand tasks");
    let schedules = if quick { 1 } else { 100 };
    let began = Instant::now();
    let report = Checker::random(1, schedules).run(|ctx| async move {
        let all: Vec<_> = (0..10_000)
            .map(|_| {
                let ctx = ctx.clone();
                rt::spawn(async move {
                    let _ = ctx.run(rt::yield_now()).await;
                })
            })
            .collect();
        for task in all {
            let _ = task.await;
        }
    });
    report.assert_clean();
    println!("{schedules} schedules in {:?}, {}", began.elapsed(), peak());
}

/// The peak memory of this process.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.map_or("(memory is not known here)".to_string(), |line| {
        format!("at most {}", line.trim_start_matches("VmHWM:").trim())
    })
}
