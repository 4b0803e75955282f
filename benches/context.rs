//! Every operation of a context beside that of its peer, with criterion.
//!
//! `cargo bench --bench context` takes a few minutes; `-- NAME` runs the groups with that name.
//! Both sides of a group do the same work. This bench is for a closer look and for comparing with
//! an earlier run; the bench `targets`, which measures both sides in turns, judges whether the
//! figures are good enough.

#[cfg(not(loom))]
fn main() {
    bench::main();
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
mod kit;

#[cfg(not(loom))]
mod bench {
    use crate::kit::{self, *};
    use criterion::measurement::WallTime;
    use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
    use quell::Context;
    use std::future::ready;
    use std::hint::black_box;

    use std::time::{Duration, Instant};
    use tokio::runtime::Builder;

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

    fn each<R>(group: &mut Group<'_>, name: &str, mut op: impl FnMut() -> R) {
        group.bench_function(name, |b| b.iter(&mut op));
    }

    /// For slow operations: few samples, all of the same length.
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

    fn shared<T: Tree>(group: &mut Group<'_>) {
        let parent = T::root();
        group.bench_function(T::SIDE, |b| b.iter_custom(|times| derive_shared(&parent, times)));
    }

    fn cancel<T: Tree>(group: &mut Group<'_>, children: usize, waited_for: bool) {
        let once = |_| kit::cancel::<T>(children, waited_for);
        group.bench_function(T::SIDE, |b| b.iter_custom(|times| (0..times).map(once).sum()));
    }

    fn deriving(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("derive + cancel + drop");
        derive::<Quell>(&mut group);
        derive::<Token>(&mut group);
        group.finish();

        let mut group = criterion.benchmark_group("derive + cancel + drop, 2 threads");
        shared::<Quell>(&mut group);
        shared::<Token>(&mut group);
        group.finish();

        // A token has no deadline: its side derives a plain child.
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

    // Ending.

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
        each(&mut group, "quell", life::<Quell>);
        each(&mut group, "token", life::<Token>);
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
            let ctx = typed_chain(depth, 0);
            each(&mut group, &depth.to_string(), || black_box(&ctx).value::<Typed<0>>().unwrap().0);
        }
        group.finish();

        for count in [1, 16, 1024] {
            let ctx =
                (0..count).fold(Context::background(), |ctx, key| ctx.with_entry(&KEYS[key], 7));
            // In a scattered order.
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
