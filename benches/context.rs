//! Every operation of a context beside that of its peer, with criterion.
//!
//! `cargo bench --bench context` takes a few minutes; `-- NAME` runs the groups
//! with that name. Whether the figures are good enough is judged by the bench
//! `targets`, which measures both sides in turns; this one is for looking closer
//! and for comparing with an earlier run. Both sides of a group do the same work.

#[cfg(not(loom))]
fn main() {
    bench::main();
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
mod bench {
    use criterion::measurement::WallTime;
    use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
    use quell::{Canceller, Context, Done, Key};
    use std::future::{poll_fn, ready};
    use std::hint::black_box;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier, mpsc};
    use std::task::{self, Poll, Waker};
    use std::time::{Duration, Instant};
    use tokio::runtime::{Builder, Runtime};
    use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

    const MILLION: usize = 1_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    pub(super) fn main() {
        let mut criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .configure_from_args();
        asking(&mut criterion);
        deriving(&mut criterion);
        ending(&mut criterion);
        values(&mut criterion);
        deadlines(&mut criterion);
        running(&mut criterion);
        criterion.final_summary();
    }

    type Group<'a> = BenchmarkGroup<'a, WallTime>;

    // Both sides do the same: what follows is written once.

    trait Tree: Sized + Send + Sync + 'static {
        const SIDE: &'static str;
        type Done: Future + Send + 'static;
        /// Live, and can be cancelled.
        fn root() -> Self;
        fn child(&self) -> Self;
        fn cancel(&self);
        fn is_done(&self) -> bool;
        fn done(&self) -> Self::Done;
    }

    /// Both halves of what a derivation gives.
    struct Quell {
        ctx: Context,
        canceller: Canceller,
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

    type Token = CancellationToken;

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

    fn each<R>(group: &mut Group<'_>, name: &str, mut op: impl FnMut() -> R) {
        group.bench_function(name, |b| b.iter(&mut op));
    }

    /// For what takes long: few samples, each as long as the others.
    fn slow(group: &mut Group<'_>, elements: usize) {
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(elements as u64));
    }

    // Asking.

    fn asking(criterion: &mut Criterion) {
        let (quell, token) = (Quell::root(), Token::root());
        let mut group = criterion.benchmark_group("is_done, live root");
        each(&mut group, "quell", || black_box(&quell).is_done());
        each(&mut group, "token", || black_box(&token).is_done());
        group.finish();

        let (quell_child, token_child) = (quell.child(), token.child());
        let (quell, token) = (quell_child.child(), token_child.child());
        let mut group = criterion.benchmark_group("is_done, live child of a child");
        each(&mut group, "quell", || black_box(&quell).is_done());
        each(&mut group, "token", || black_box(&token).is_done());
        group.finish();

        let mut group = criterion.benchmark_group("err, live");
        each(&mut group, "quell", || black_box(&quell.ctx).err());
        each(&mut group, "token", || black_box(&token).is_cancelled());
        group.finish();

        let mut group = criterion.benchmark_group("clone + drop");
        each(&mut group, "quell", || drop(black_box(black_box(&quell.ctx).clone())));
        each(&mut group, "token", || drop(black_box(black_box(&token).clone())));
        group.finish();
    }

    // Deriving.

    fn derive<T: Tree>(group: &mut Group<'_>) {
        let parent = T::root();
        each(group, T::SIDE, || black_box(black_box(&parent).child()).cancel());
    }

    /// Two threads at once, each as often as criterion says; the time from the first's
    /// start to the last's end.
    fn derive_shared<T: Tree>(group: &mut Group<'_>) {
        let parent = T::root();
        let times = |times: u64| {
            let barrier = Barrier::new(2);
            let work = || {
                barrier.wait();
                let start = Instant::now();
                for _ in 0..times {
                    black_box(black_box(&parent).child()).cancel();
                }
                (start, Instant::now())
            };
            let (one, two) = std::thread::scope(|scope| {
                let other = scope.spawn(work);
                (work(), other.join().unwrap())
            });
            one.1.max(two.1) - one.0.min(two.0)
        };
        group.bench_function(T::SIDE, |b| b.iter_custom(times));
    }

    fn deriving(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("derive + cancel + drop");
        derive::<Quell>(&mut group);
        derive::<Token>(&mut group);
        group.finish();

        let mut group = criterion.benchmark_group("derive + cancel + drop, 2 threads");
        derive_shared::<Quell>(&mut group);
        derive_shared::<Token>(&mut group);
        group.finish();

        // A token has no deadline: its side is a plain child.
        let timeout = |group: &mut Group<'_>| {
            let parent = Quell::root();
            each(group, "quell", || {
                let (ctx, canceller) = black_box(&parent.ctx).with_timeout(HOUR);
                black_box(&canceller).cancel();
                drop((canceller, ctx));
            });
            derive::<Token>(group);
        };
        let mut group = criterion.benchmark_group("with_timeout + cancel + drop");
        timeout(&mut group);
        group.finish();
        let runtime = two_workers();
        let _inside = runtime.enter();
        let mut group = criterion.benchmark_group("with_timeout + cancel + drop, in tokio");
        timeout(&mut group);
        group.finish();
    }

    fn two_workers() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
    }

    // Ending.

    /// A future that has been polled and has left a waker.
    fn waiting<F: Future>(future: F) -> Pin<Box<F>> {
        let mut future = Box::pin(future);
        let poll = future.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
        assert!(poll.is_pending());
        future
    }

    /// The time of `cancel` alone.
    fn cancel<T: Tree>(group: &mut Group<'_>, children: usize, waited_for: bool) {
        let once = || {
            let root = T::root();
            let make = |_| {
                let child = root.child();
                let done = waited_for.then(|| waiting(child.done()));
                (child, done)
            };
            let children: Vec<_> = (0..children).map(make).collect();
            let start = Instant::now();
            root.cancel();
            let took = start.elapsed();
            drop(children);
            took
        };
        group.bench_function(T::SIDE, |b| b.iter_custom(|times| (0..times).map(|_| once()).sum()));
    }

    /// Made, cancelled with their parent, each asked, dropped.
    fn life<T: Tree>(group: &mut Group<'_>) {
        each(group, T::SIDE, || {
            let root = T::root();
            let children: Vec<T> = (0..MILLION).map(|_| root.child()).collect();
            root.cancel();
            assert!(children.iter().all(|child| black_box(child).is_done()));
        });
    }

    const TASKS: usize = 100_000;

    /// From `cancel` until all tasks that wait have ended.
    fn wake<T: Tree>(runtime: &Runtime, child_each: bool) -> Duration {
        let root = T::root();
        let (asleep, awake) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (tell, told) = mpsc::channel();
        for _ in 0..TASKS {
            let child = child_each.then(|| root.child());
            let done = child.as_ref().unwrap_or(&root).done();
            let (asleep, awake, tell) = (asleep.clone(), awake.clone(), tell.clone());
            let count = move |counter: &AtomicUsize| {
                if counter.fetch_add(1, Ordering::AcqRel) + 1 == TASKS {
                    tell.send(()).unwrap();
                }
            };
            runtime.spawn(async move {
                let mut done = pin!(done);
                let mut first = true;
                poll_fn(|cx| {
                    let poll = done.as_mut().poll(cx).map(drop);
                    if std::mem::take(&mut first) {
                        count(&asleep);
                    }
                    poll
                })
                .await;
                drop(child);
                count(&awake);
            });
        }
        told.recv().unwrap();
        let start = Instant::now();
        root.cancel();
        told.recv().unwrap();
        start.elapsed()
    }

    fn ending(criterion: &mut Criterion) {
        for children in [1_000, MILLION] {
            for (waited_for, kind) in [(false, "children"), (true, "waited-for children")] {
                let name = format!("cancel, {children} {kind}");
                let mut group = criterion.benchmark_group(name);
                slow(&mut group, children);
                cancel::<Quell>(&mut group, children, waited_for);
                cancel::<Token>(&mut group, children, waited_for);
                group.finish();
            }
        }

        let mut group = criterion.benchmark_group("life of 1000000 children");
        slow(&mut group, MILLION);
        life::<Quell>(&mut group);
        life::<Token>(&mut group);
        group.finish();

        let runtime = two_workers();
        for (child_each, name) in [
            (false, "cancel + wake 100000 tasks"),
            (true, "cancel + wake 100000 tasks, a child each"),
        ] {
            let mut group = criterion.benchmark_group(name);
            slow(&mut group, TASKS);
            group.bench_function("quell", |b| {
                b.iter_custom(|times| (0..times).map(|_| wake::<Quell>(&runtime, child_each)).sum())
            });
            group.bench_function("token", |b| {
                b.iter_custom(|times| (0..times).map(|_| wake::<Token>(&runtime, child_each)).sum())
            });
            group.finish();
        }
    }

    // Values.

    static KEYS: [Key<u64>; 1024] = [const { Key::new("key") }; 1024];
    static MISSING: Key<u64> = Key::new("missing");

    struct Typed<const N: usize>(u64);

    /// As many values under eight keys, this key's at the bottom and there only.
    fn chain(depth: usize, bottom: usize) -> Context {
        let root = Context::background().with_entry(&KEYS[bottom], 7);
        (1..depth).fold(root, |ctx, layer| {
            ctx.with_entry(&KEYS[(bottom + 1 + layer % 7) % 8], layer as u64)
        })
    }

    /// The same by type, for the first of eight.
    fn typed_chain(depth: usize) -> Context {
        let root = Context::background().with_value(Typed::<0>(7));
        (1..depth as u64).fold(root, |ctx, value| match value % 7 {
            0 => ctx.with_value(Typed::<1>(value)),
            1 => ctx.with_value(Typed::<2>(value)),
            2 => ctx.with_value(Typed::<3>(value)),
            3 => ctx.with_value(Typed::<4>(value)),
            4 => ctx.with_value(Typed::<5>(value)),
            5 => ctx.with_value(Typed::<6>(value)),
            _ => ctx.with_value(Typed::<7>(value)),
        })
    }

    fn values(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("value by depth, 8 keys (8 look-ups)");
        group.throughput(Throughput::Elements(8));
        for depth in [1, 64, 1024] {
            let chains: Vec<Context> = (0..8).map(|bottom| chain(depth, bottom)).collect();
            each(&mut group, &depth.to_string(), || {
                for (ctx, key) in black_box(&chains).iter().zip(&KEYS) {
                    black_box(ctx.entry(key).unwrap());
                }
            });
        }
        group.finish();

        let mut group = criterion.benchmark_group("value by depth, 8 types");
        for depth in [1, 64, 1024] {
            let ctx = typed_chain(depth);
            each(&mut group, &depth.to_string(), || black_box(&ctx).value::<Typed<0>>().unwrap().0);
        }
        group.finish();

        for count in [1, 16, 1024] {
            let ctx =
                (0..count).fold(Context::background(), |ctx, key| ctx.with_entry(&KEYS[key], 7));
            // In no order.
            let keys: Vec<_> = (0..count).map(|key| &KEYS[key * 421 % count]).collect();
            let mut keys = keys.into_iter().cycle();
            let mut group = criterion.benchmark_group(format!("value among {count} keys"));
            each(&mut group, "found", || *black_box(&ctx).entry(keys.next().unwrap()).unwrap());
            each(&mut group, "missing", || black_box(&ctx).entry(&MISSING).is_none());
            group.finish();

            let mut group = criterion.benchmark_group(format!("value on top of {count} keys"));
            each(&mut group, "with_value", || {
                drop(black_box(black_box(&ctx).with_value(Typed::<0>(7))));
            });
            each(&mut group, "with_entry, a key that is there", || {
                drop(black_box(black_box(&ctx).with_entry(keys.next().unwrap(), 8)));
            });
            group.finish();
        }
    }

    // Deadlines.

    fn deadlines(criterion: &mut Criterion) {
        fn against_clock(criterion: &mut Criterion, name: &str) {
            let (ctx, _canceller) = Context::background().with_timeout(HOUR);
            let mut group = criterion.benchmark_group(name);
            each(&mut group, "quell", || black_box(&ctx).err());
            each(&mut group, "clock", Instant::now);
            group.finish();
        }
        against_clock(criterion, "err with a deadline");
        let runtime = two_workers();
        {
            let _inside = runtime.enter();
            against_clock(criterion, "err with a deadline, in tokio");
        }
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            against_clock(criterion, "err with a deadline, in tokio, 1 thread")
        });
    }

    // Running a future.

    /// Pending at its first poll.
    struct Later(bool);

    impl Future for Later {
        type Output = u64;
        fn poll(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<u64> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(7) } else { Poll::Pending }
        }
    }

    fn finish<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let mut cx = task::Context::from_waker(Waker::noop());
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
        }
    }

    fn running(criterion: &mut Criterion) {
        let (quell, token) = (Quell::root(), Token::root());
        let ctx = &quell.ctx;
        let mut group = criterion.benchmark_group("run, ready at once");
        each(&mut group, "quell", || finish(black_box(ctx).run(ready(7))).is_ok());
        each(&mut group, "token", || {
            finish(black_box(&token).run_until_cancelled(ready(7))).is_some()
        });
        group.finish();

        let mut group = criterion.benchmark_group("run, pending once");
        each(&mut group, "quell", || finish(black_box(ctx).run(Later(false))).is_ok());
        each(&mut group, "token", || {
            finish(black_box(&token).run_until_cancelled(Later(false))).is_some()
        });
        group.finish();
    }
}
