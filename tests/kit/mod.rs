//! What several test files need: counted items, counting wakers, and the number of
//! the runtime's tasks.
#![allow(dead_code, unreachable_pub, reason = "no file needs all of it, and each is a crate")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands outside: its clocks, locks and tasks are std's and tokio's own"
)]

use quell::channel::{Receiver, SendError, Sender};
use quell::{Pipeline, Rate, Report, rt};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};

/// Longer than any test takes that does not hang.
pub const AGES: Duration = Duration::from_secs(30);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// --------------------------------------------------------------------- items

/// Counts the items that it makes and those that have been dropped.
#[derive(Clone, Default)]
pub struct Stock(Arc<Numbers>);

#[derive(Default)]
struct Numbers {
    made: AtomicUsize,
    dropped: AtomicUsize,
    most: AtomicUsize,
}

/// An item; equal to its number.
pub struct Item {
    pub n: u64,
    stock: Stock,
}

impl Stock {
    pub fn new() -> Self {
        Stock::default()
    }

    pub fn item(&self, n: u64) -> Item {
        let made = self.0.made.fetch_add(1, SeqCst) + 1;
        self.0.most.fetch_max(made.saturating_sub(self.0.dropped.load(SeqCst)), SeqCst);
        Item { n, stock: self.clone() }
    }

    /// Items numbered from zero.
    pub fn items(&self, n: u64) -> impl Iterator<Item = Item> + Send + use<> {
        let stock = self.clone();
        (0..n).map(move |n| stock.item(n))
    }

    pub fn made(&self) -> usize {
        self.0.made.load(SeqCst)
    }

    /// How many have not been dropped.
    pub fn left(&self) -> usize {
        self.made() - self.0.dropped.load(SeqCst)
    }

    /// How many there were at once, at most.
    pub fn most(&self) -> usize {
        self.0.most.load(SeqCst)
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        self.stock.0.dropped.fetch_add(1, SeqCst);
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Item({})", self.n)
    }
}

impl PartialEq<u64> for Item {
    fn eq(&self, n: &u64) -> bool {
        self.n == *n
    }
}

/// Counts what runs: whatever runs holds a `Here`.
#[derive(Clone, Default)]
pub struct Running(Arc<(AtomicUsize, AtomicUsize)>);

pub struct Here(Running);

impl Running {
    pub fn new() -> Self {
        Running::default()
    }

    pub fn enter(&self) -> Here {
        let now = self.0.0.fetch_add(1, SeqCst) + 1;
        self.0.1.fetch_max(now, SeqCst);
        Here(self.clone())
    }

    pub fn now(&self) -> usize {
        self.0.0.load(SeqCst)
    }

    pub fn most(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, SeqCst);
    }
}

// -------------------------------------------------------------------- wakers

/// A waker that counts its wake-ups.
#[derive(Default)]
pub struct Wakes(AtomicUsize);

impl Wakes {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A waker that panics.
pub fn bad_waker() -> Waker {
    struct Bad;
    impl Wake for Bad {
        fn wake(self: Arc<Self>) {
            panic!("woken");
        }
    }
    Arc::new(Bad).into()
}

pub fn poll<F: Future + Unpin>(
    future: &mut F,
    wakes: &Arc<impl Wake + Send + Sync + 'static>,
) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(wakes));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

// ------------------------------------------------------------------- runtimes

pub fn threads(n: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(n).enable_all().build().unwrap()
}

pub fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Time stands still unless all tasks wait for it.
pub fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// How many tasks this runtime has.
pub fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until the runtime has no tasks: those that have reported their end may
/// still be on their last step, on another thread.
pub async fn quiet() {
    let began = Instant::now();
    while tasks() > 0 {
        assert!(began.elapsed() < AGES, "{} tasks are left", tasks());
        tokio::task::yield_now().await;
    }
}

/// Lets every task that is ready run until it waits.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// The largest number of steps between two ticks of a 1 ms timer, on a runtime of one thread.
/// `steps` gets a function to call at each step, which takes as long as `step`.
pub fn most_between_ticks<F>(
    step: Duration,
    steps: impl FnOnce(Arc<dyn Fn() + Send + Sync>) -> F,
) -> usize
where
    F: Future<Output = ()> + Send + 'static,
{
    let (count, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    one_thread().block_on(async {
        let (counted, at_most) = (count.clone(), most.clone());
        let ticks = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ms(1)).await;
                at_most.fetch_max(counted.swap(0, SeqCst), SeqCst);
            }
        });
        // Waits for the first tick before the steps begin.
        tokio::time::sleep(ms(5)).await;
        let counted = count.clone();
        let taking = steps(Arc::new(move || {
            let began = Instant::now();
            while began.elapsed() < step {
                std::hint::spin_loop();
            }
            counted.fetch_add(1, SeqCst);
        }));
        tokio::spawn(taking).await.unwrap();
        ticks.abort();
    });
    most.load(SeqCst).max(count.load(SeqCst))
}

/// Runs `test` on a thread of its own; fails if it hangs.
pub fn in_time(test: impl FnOnce() + Send + 'static) {
    let (tell, told) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        test();
        drop(tell);
    });
    match told.recv_timeout(AGES) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Numbers that look random (xorshift).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

// ------------------------------------------------------------------ pipelines

/// Ends a pipeline whose stages form one line, and checks its report: all of its
/// tasks have ended, and every item is accounted for.
pub async fn finish<T: Send + 'static>(results: quell::Results<T>) -> Report {
    let report = rt::timeout(AGES, results.finish()).await.expect("finish() hangs");
    assert!(report.conserved(), "{report}");
    for pair in report.stages().windows(2) {
        assert_eq!(pair[0].delivered(), pair[1].received(), "{report}");
    }
    let last = report.stages().last().expect("there is a source");
    assert_eq!(last.delivered(), report.read(), "{report}");
    quiet().await;
    report
}

/// Reads all items.
pub async fn read<T: Send + 'static>(results: &mut quell::Results<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(item) = results.next().await {
        all.push(item);
    }
    all
}

pub fn background() -> quell::Context {
    quell::Context::background()
}

/// A stage that passes on what it gets.
pub async fn relay<T>(
    _: quell::Context,
    mut input: Receiver<T>,
    output: Sender<T>,
) -> Result<(), SendError<T>> {
    while let Some(item) = input.recv().await {
        output.send(item).await?;
    }
    Ok(())
}

/// A pipeline with every kind of stage that keeps the number of items.
pub fn every_stage(
    ctx: &quell::Context,
    items: impl Iterator<Item = Item> + Send + 'static,
) -> Pipeline<Item> {
    Pipeline::from_iter(ctx, items)
        .map(|item| item)
        .throttle(Rate::per_second(u32::MAX))
        .dispatch(3, |_, item| async move {
            rt::yield_now().await;
            item
        })
        .dispatch_ordered(3, |_, item| async move {
            rt::yield_now().await;
            item
        })
        .try_dispatch(2, |_, item| async move { Ok::<_, std::io::Error>(item) })
        .stage("relay", relay)
        .filter_map(Some)
}

pub fn outcome(report: &Report) -> String {
    report.outcome().to_string()
}
