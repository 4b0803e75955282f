//! The throughput of a pipeline beside its peers', with criterion.
//!
//! `cargo bench --bench throughput` takes two minutes or so; `-- NAME` runs the groups with that
//! name. This bench is for a closer look and for comparing with an earlier run; the bench
//! `pipelines`, which runs all contenders in turns, judges whether the figures are good enough.

#[cfg(not(loom))]
fn main() {
    bench::main();
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
#[path = "kit/pipelines.rs"]
mod contenders;

#[cfg(not(loom))]
mod bench {
    use crate::contenders::*;
    use criterion::measurement::WallTime;
    use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
    use std::time::Duration;
    use tokio::runtime::Runtime;

    pub(super) fn main() {
        let mut criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(3))
            .configure_from_args();
        for (threads, name) in [(1, "1 thread"), (2, "2 threads")] {
            let runtime = &runtime(threads);
            beside_channels(&mut criterion, name, runtime);
            by_workers(&mut criterion, name, runtime);
            by_items(&mut criterion, name, runtime);
        }
        criterion.final_summary();
    }

    fn beside_channels(criterion: &mut Criterion, threads: &str, runtime: &Runtime) {
        let mut group = criterion.benchmark_group(format!("{ITEMS} items, {threads}"));
        each(&mut group, "quell", runtime, ITEMS, || quell_sum(ITEMS, 8));
        each(&mut group, "tokio", runtime, ITEMS, || sum::<Tokio, Fresh>(ITEMS, 8));
        each(&mut group, "flume", runtime, ITEMS, || sum::<Flume, Fresh>(ITEMS, 8));
        each(&mut group, "kanal", runtime, ITEMS, || sum::<Kanal, Fresh>(ITEMS, 8));
        each(&mut group, "kanal, kept", runtime, ITEMS, || sum::<Kanal, Kept>(ITEMS, 8));
        each(&mut group, "async-channel", runtime, ITEMS, || sum::<Async, Fresh>(ITEMS, 8));
        each(&mut group, "buffer_unordered", runtime, ITEMS, || buffer_unordered(ITEMS, 8));
        group.finish();
    }

    fn by_workers(criterion: &mut Criterion, threads: &str, runtime: &Runtime) {
        let mut group = criterion.benchmark_group(format!("quell by workers, {threads}"));
        for workers in [1, 8, 64] {
            let name = workers.to_string();
            each(&mut group, &name, runtime, ITEMS, || quell_sum(ITEMS, workers));
        }
        group.finish();
    }

    /// Making and ending a pipeline takes as long as a few hundred items, which all items share.
    fn by_items(criterion: &mut Criterion, threads: &str, runtime: &Runtime) {
        let mut group = criterion.benchmark_group(format!("quell by items, {threads}"));
        for items in [100, 1_000, 10_000, 100_000, 1_000_000] {
            each(&mut group, &items.to_string(), runtime, items, || quell_sum(items, 8));
        }
        group.finish();
    }

    /// Whole pipelines, from making one to the sum of its items.
    fn each<F>(
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        runtime: &Runtime,
        items: u64,
        pipeline: impl Fn() -> F,
    ) where
        F: Future<Output = u64> + Send + 'static,
    {
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(items));
        group.bench_function(name, |b| {
            b.iter_custom(|times| (0..times).map(|_| time(runtime, items, pipeline())).sum())
        });
    }
}
