//! What several benches measure: a tree of contexts beside a tree of tokens, both by the same code,
//! with the figures of the machine and of Go beside them.
#![allow(dead_code, unreachable_pub, reason = "no bench needs all of it, and each is a crate")]

use quell::{Canceller, Context, Done, Key};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{self, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub const MILLION: usize = 1_000_000;
pub const HOUR: Duration = Duration::from_secs(3600);

pub trait Tree: Sized + Send + Sync + 'static {
    const SIDE: &'static str;
    type Done: Future + Send + 'static;
    /// Live, and can be cancelled.
    fn root() -> Self;
    fn child(&self) -> Self;
    fn cancel(&self);
    fn is_done(&self) -> bool;
    fn done(&self) -> Self::Done;
}

/// A context and its canceller.
pub struct Quell {
    pub ctx: Context,
    pub canceller: Canceller,
}

impl Tree for Quell {
    const SIDE: &'static str = "quell";
    type Done = Done;
    fn root() -> Self {
        let (ctx, canceller) = Context::background().with_cancel();
        Quell { ctx, canceller }
    }
    #[inline]
    fn child(&self) -> Self {
        let (ctx, canceller) = self.ctx.with_cancel();
        Quell { ctx, canceller }
    }
    #[inline]
    fn cancel(&self) {
        self.canceller.cancel();
    }
    #[inline]
    fn is_done(&self) -> bool {
        self.ctx.is_done()
    }
    fn done(&self) -> Done {
        self.ctx.done()
    }
}

pub type Token = CancellationToken;

impl Tree for Token {
    const SIDE: &'static str = "token";
    type Done = WaitForCancellationFutureOwned;
    fn root() -> Self {
        Token::new()
    }
    #[inline]
    fn child(&self) -> Self {
        self.child_token()
    }
    #[inline]
    fn cancel(&self) {
        Token::cancel(self);
    }
    #[inline]
    fn is_done(&self) -> bool {
        self.is_cancelled()
    }
    fn done(&self) -> WaitForCancellationFutureOwned {
        self.clone().cancelled_owned()
    }
}

pub fn two_workers() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

// Deriving and ending.

/// Two threads at once derive `times` times each. Returns the time from first start to last end.
pub fn derive_shared<T: Tree>(parent: &T, times: u64) -> Duration {
    let barrier = Barrier::new(2);
    let work = || {
        barrier.wait();
        let start = Instant::now();
        for _ in 0..times {
            black_box(black_box(parent).child()).cancel();
        }
        (start, Instant::now())
    };
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        (work(), other.join().unwrap())
    });
    one.1.max(two.1) - one.0.min(two.0)
}

/// A future that has been polled and has left a waker.
pub fn waiting<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    let poll = future.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
    assert!(poll.is_pending());
    future
}

/// The time of `cancel` alone.
pub fn cancel<T: Tree>(children: usize, waited_for: bool) -> Duration {
    let root = T::root();
    let make = |_| {
        let child = root.child();
        let waiter = waited_for.then(|| waiting(child.done()));
        (child, waiter)
    };
    let children: Vec<_> = (0..children).map(make).collect();
    let start = Instant::now();
    root.cancel();
    let took = start.elapsed();
    drop(children);
    took
}

/// A million children: made, cancelled with their parent, each checked, dropped.
pub fn life<T: Tree>() {
    let root = T::root();
    let children: Vec<T> = (0..MILLION).map(|_| root.child()).collect();
    root.cancel();
    assert!(children.iter().all(|child| black_box(child).is_done()));
}

pub const TASKS: usize = 100_000;

/// From `cancel` until all tasks that wait have ended.
pub fn wake<T: Tree>(runtime: &Runtime, child_each: bool) -> Duration {
    let root = T::root();
    let (asleep, awake) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (tell, told) = mpsc::channel();
    for _ in 0..TASKS {
        let child = child_each.then(|| root.child());
        let done = child.as_ref().unwrap_or(&root).done();
        let (asleep, awake, tell) = (asleep.clone(), awake.clone(), tell.clone());
        runtime.spawn(async move {
            let mut done = pin!(done);
            let mut first = true;
            poll_fn(|cx| {
                let poll = done.as_mut().poll(cx).map(drop);
                if std::mem::take(&mut first) && asleep.fetch_add(1, Ordering::AcqRel) + 1 == TASKS
                {
                    tell.send(()).unwrap();
                }
                poll
            })
            .await;
            drop(child);
            if awake.fetch_add(1, Ordering::AcqRel) + 1 == TASKS {
                tell.send(()).unwrap();
            }
        });
    }
    told.recv().unwrap();
    let start = Instant::now();
    root.cancel();
    told.recv().unwrap();
    start.elapsed()
}

// Values.

pub static KEYS: [Key<u64>; 1024] = [const { Key::new("key") }; 1024];
pub static MISSING: Key<u64> = Key::new("missing");

pub struct Typed<const N: usize>(pub u64);

/// `depth` values under eight keys; the key `bottom` is at the bottom and there only.
pub fn chain(depth: usize, bottom: usize) -> Context {
    let root = Context::background().with_entry(&KEYS[bottom], 7);
    (1..depth)
        .fold(root, |ctx, layer| ctx.with_entry(&KEYS[(bottom + 1 + layer % 7) % 8], layer as u64))
}

/// The same, with types as keys.
pub fn typed_chain(depth: usize, bottom: usize) -> Context {
    fn put(ctx: &Context, key: usize, value: u64) -> Context {
        match key {
            0 => ctx.with_value(Typed::<0>(value)),
            1 => ctx.with_value(Typed::<1>(value)),
            2 => ctx.with_value(Typed::<2>(value)),
            3 => ctx.with_value(Typed::<3>(value)),
            4 => ctx.with_value(Typed::<4>(value)),
            5 => ctx.with_value(Typed::<5>(value)),
            6 => ctx.with_value(Typed::<6>(value)),
            _ => ctx.with_value(Typed::<7>(value)),
        }
    }
    let root = put(&Context::background(), bottom, 7);
    (1..depth).fold(root, |ctx, layer| put(&ctx, (bottom + 1 + layer % 7) % 8, layer as u64))
}

// Running a future.

/// Pending at its first poll.
pub struct Later(pub bool);

impl Future for Later {
    type Output = u64;
    fn poll(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<u64> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(7) } else { Poll::Pending }
    }
}

pub fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        let mut cx = task::Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

// Figures.

pub fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut of: Vec<f64> = of.collect();
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// The resident bytes of this process; `None` if the system does not say.
pub fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

/// The figures of the Go program, if there is a `go`: nanoseconds (for memory: bytes) by name.
pub fn ask_go(words: &[&str]) -> HashMap<String, f64> {
    let run = Command::new("go")
        .args(["run", "."])
        .args(words)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/go"))
        // Downloads nothing.
        .envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOWORK", "off")])
        .stderr(Stdio::inherit())
        .output();
    match run {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(name, figure)| Some((name.to_owned(), figure.parse().ok()?)))
            .collect(),
        Ok(output) => {
            println!("the Go program failed ({}): its column is absent", output.status);
            HashMap::new()
        }
        Err(error) => {
            println!("no `go` could be run ({error}): its column is absent");
            HashMap::new()
        }
    }
}
