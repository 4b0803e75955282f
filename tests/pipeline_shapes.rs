//! Pipelines of random shapes, ended at random.
//!
//! Stages, buffers, workers, which closure fails or panics at which item, when and how
//! the reader stops, when the context ends and whether that is a drain: all of it is
//! drawn. The clock is paused, so that every run has its times to itself; and each
//! runs on a thread of its own, which is given up if it hangs, so that a hang shrinks
//! like any other failure.
//!
//! Whatever the shape, it must end in time, with no task left, every item dropped, and
//! a report in which items are conserved. No item may come twice, none may come that a
//! plain walk over the stages does not let through, and items come in order where order
//! is promised. Where nothing ends it early, what comes must be exactly what that walk
//! says.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::stream;
use kit::{Item, Stock, background, ms, quiet, relay, settle};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use quell::channel::{Receiver, Sender};
use quell::{OnCancel, Outcome, Pipeline, Rate, rt};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// Items of a branch are numbered from this times the branch's number.
const BRANCH: u64 = 1000;

#[derive(Clone, Debug)]
struct Shape {
    source: Source,
    stages: Vec<Stage>,
    reader: Reader,
    end: End,
    /// The grace in milliseconds; `None` aborts.
    drain: Option<u64>,
}

#[derive(Clone, Debug)]
struct Source {
    items: u64,
    /// Milliseconds before each item; `None` is an iterator.
    every: Option<u64>,
    buffer: Option<usize>,
}

#[derive(Clone, Debug)]
struct Stage {
    kind: Kind,
    buffer: Option<usize>,
    /// The item of the first branch at which its closure fails or panics.
    trips: Option<(u64, Trip)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trip {
    Fails,
    Panics,
}

#[derive(Clone, Debug)]
enum Kind {
    Map,
    /// Leaves out one in this many.
    Filter(u64),
    Dispatch {
        workers: usize,
        takes: Takes,
    },
    Ordered {
        workers: usize,
        takes: Takes,
    },
    Try {
        workers: usize,
        takes: Takes,
    },
    Chunks {
        max: usize,
        within: u64,
    },
    Throttle {
        a_second: u32,
        burst: u32,
    },
    Relay,
    Take(u64),
    Merge(Source),
}

/// How long the work on an item takes.
#[derive(Clone, Copy, Debug)]
enum Takes {
    Nothing,
    Yields(u64),
    Millis(u64),
}

#[derive(Clone, Debug)]
struct Reader {
    stops_after: Option<usize>,
    /// Milliseconds between two reads.
    pause: u64,
    finishes: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Never,
    Cancel(u64),
    Deadline(u64),
}

fn source() -> impl Strategy<Value = Source> {
    (0..80_u64, prop::option::of(0..5_u64), prop::option::of(1..5_usize))
        .prop_map(|(items, every, buffer)| Source { items, every, buffer })
}

fn takes() -> impl Strategy<Value = Takes> {
    prop_oneof![
        Just(Takes::Nothing),
        (1..4_u64).prop_map(Takes::Yields),
        (1..20_u64).prop_map(Takes::Millis),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    let workers = || prop_oneof![Just(1), 2..5_usize, Just(64)];
    prop_oneof![
        2 => Just(Kind::Map),
        2 => (1..5_u64).prop_map(Kind::Filter),
        3 => (workers(), takes()).prop_map(|(workers, takes)| Kind::Dispatch { workers, takes }),
        3 => (workers(), takes()).prop_map(|(workers, takes)| Kind::Ordered { workers, takes }),
        3 => (workers(), takes()).prop_map(|(workers, takes)| Kind::Try { workers, takes }),
        2 => (1..9_usize, 0..30_u64).prop_map(|(max, within)| Kind::Chunks { max, within }),
        2 => (20..5000_u32, 1..9_u32).prop_map(|(a_second, burst)| Kind::Throttle { a_second, burst }),
        2 => Just(Kind::Relay),
        1 => (1..60_u64).prop_map(Kind::Take),
        1 => source().prop_map(Kind::Merge),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let trip = (0..80_u64, prop_oneof![Just(Trip::Fails), Just(Trip::Panics)]);
    let stage = (kind(), prop::option::of(1..6_usize), prop::option::weighted(0.08, trip))
        .prop_map(|(kind, buffer, trips)| Stage { kind, buffer, trips });
    let reader = (prop::option::weighted(0.3, 0..60_usize), 0..4_u64, any::<bool>())
        .prop_map(|(stops_after, pause, finishes)| Reader { stops_after, pause, finishes });
    let end = prop_oneof![
        3 => Just(End::Never),
        2 => (0..300_u64).prop_map(End::Cancel),
        1 => (0..300_u64).prop_map(End::Deadline),
    ];
    let drain = prop::option::weighted(0.4, 0..200_u64);
    (source(), prop::collection::vec(stage, 0..7), reader, end, drain).prop_map(
        |(source, stages, reader, end, drain)| Shape { source, stages, reader, end, drain },
    )
}

// ------------------------------------------------------------------- building

/// An item, and the stages whose closures it has gone through.
struct Passed {
    item: Item,
    by: Vec<usize>,
}

impl Passed {
    fn new(item: Item) -> Self {
        Passed { item, by: Vec::new() }
    }

    fn through(mut self, index: usize) -> Self {
        self.by.push(index);
        self
    }
}

fn begin(ctx: &quell::Context, source: &Source, stock: &Stock, branch: u64) -> Pipeline<Passed> {
    let from = branch * BRANCH;
    let stock = stock.clone();
    let pipeline = match source.every {
        None => {
            let items = (from..from + source.items).map(move |n| Passed::new(stock.item(n)));
            Pipeline::from_iter(ctx, items)
        }
        Some(every) => {
            let end = from + source.items;
            let items = stream::unfold((from, stock), move |(n, stock)| async move {
                rt::sleep(ms(every)).await;
                (n < end).then(|| (Passed::new(stock.item(n)), (n + 1, stock)))
            });
            Pipeline::from_stream(ctx, items)
        }
    };
    match source.buffer {
        None => pipeline,
        Some(n) => pipeline.buffer(n),
    }
}

async fn work(passed: Passed, takes: Takes) -> Passed {
    match takes {
        Takes::Nothing => {}
        Takes::Yields(n) => {
            for _ in 0..n + passed.item.n % 3 {
                rt::yield_now().await;
            }
        }
        Takes::Millis(n) => rt::sleep(ms(n + passed.item.n % 5)).await,
    }
    passed
}

fn name(index: usize) -> String {
    format!("stage {index}")
}

fn build(ctx: &quell::Context, shape: &Shape, stock: &Stock) -> Pipeline<Passed> {
    let mut pipeline = begin(ctx, &shape.source, stock, 0);
    for (index, stage) in shape.stages.iter().enumerate() {
        let trips = stage.trips;
        let check = move |passed: &Passed| {
            let hit = trips.filter(|&(at, _)| at == passed.item.n);
            assert!(hit.is_none_or(|(_, trip)| trip == Trip::Fails), "it panics");
            hit.is_some()
        };
        pipeline = match stage.kind.clone() {
            Kind::Map => pipeline.map(move |item| {
                assert!(!check(&item), "it fails");
                item.through(index)
            }),
            Kind::Filter(every) => pipeline.filter_map(move |item| {
                assert!(!check(&item), "it fails");
                (item.item.n % every != 1).then(|| item.through(index))
            }),
            Kind::Dispatch { workers, takes } => {
                pipeline.dispatch(workers, move |_, item| async move {
                    let item = work(item, takes).await;
                    assert!(!check(&item), "it fails");
                    item.through(index)
                })
            }
            Kind::Ordered { workers, takes } => {
                pipeline.dispatch_ordered(workers, move |_, item| async move {
                    let item = work(item, takes).await;
                    assert!(!check(&item), "it fails");
                    item.through(index)
                })
            }
            Kind::Try { workers, takes } => {
                pipeline.try_dispatch(workers, move |_, item| async move {
                    let item = work(item, takes).await;
                    if check(&item) { Err("it fails") } else { Ok(item.through(index)) }
                })
            }
            Kind::Chunks { max, within } => pipeline.chunks(max, ms(within)).stage(
                "flat",
                |_, mut input: Receiver<Vec<Passed>>, output: Sender<Passed>| async move {
                    while let Some(chunk) = input.recv().await {
                        for item in chunk {
                            if output.send(item).await.is_err() {
                                return;
                            }
                        }
                    }
                },
            ),
            Kind::Throttle { a_second, burst } => {
                pipeline.throttle(Rate::per_second(a_second).burst(burst))
            }
            Kind::Relay => pipeline.stage("relay", relay),
            Kind::Take(n) => pipeline.stage(
                "take",
                move |_, mut input: Receiver<Passed>, output: Sender<Passed>| async move {
                    for _ in 0..n {
                        let Some(item) = input.recv().await else { return };
                        if output.send(item).await.is_err() {
                            return;
                        }
                    }
                },
            ),
            Kind::Merge(source) => pipeline.merge(begin(ctx, &source, stock, index as u64 + 1)),
        }
        .named(name(index));
        if let Some(n) = stage.buffer {
            pipeline = pipeline.buffer(n);
        }
    }
    match shape.drain {
        None => pipeline,
        Some(grace) => pipeline.on_cancel(OnCancel::Drain { grace: ms(grace) }),
    }
}

// ------------------------------------------------------------------- the model

/// What comes out if nothing ends it early.
struct Plain {
    /// Sorted. `None` if a `Take` leaves it to chance.
    items: Option<Vec<u64>>,
    /// What may come, however it ends, and the stages whose closures it has gone through: not
    /// what was left out or tripped, nor what certainly comes too late for a `Take`.
    paths: HashMap<u64, Vec<usize>>,
    /// Whether each branch keeps its order.
    ordered: bool,
    /// Which stage trips; `Err` if it is left to chance.
    tripped: Result<Option<(usize, Trip)>, ()>,
}

fn walk(shape: &Shape) -> Plain {
    let mut items: Vec<u64> = (0..shape.source.items).collect();
    let mut paths: HashMap<u64, Vec<usize>> = items.iter().map(|&n| (n, Vec::new())).collect();
    let (mut ordered, mut sure) = (true, true);
    let mut trips: Vec<(usize, Trip)> = Vec::new();
    for (index, stage) in shape.stages.iter().enumerate() {
        let user = matches!(
            stage.kind,
            Kind::Map
                | Kind::Filter(_)
                | Kind::Dispatch { .. }
                | Kind::Ordered { .. }
                | Kind::Try { .. }
        );
        if let Some((at, trip)) = stage.trips.filter(|_| user) {
            if items.contains(&at) {
                let fails = trip == Trip::Fails && matches!(stage.kind, Kind::Try { .. });
                trips.push((index, if fails { Trip::Fails } else { Trip::Panics }));
            }
            paths.remove(&at);
        }
        if user {
            paths.values_mut().for_each(|path| path.push(index));
        }
        match &stage.kind {
            Kind::Filter(every) => {
                items.retain(|n| n % every != 1);
                paths.retain(|n, _| n % every != 1);
            }
            Kind::Dispatch { workers, .. } | Kind::Try { workers, .. } => ordered &= *workers == 1,
            Kind::Take(n) if (*n as usize) < items.len() => {
                // Which items it takes, and whether those before trip, is a race.
                let merged = items.iter().any(|&n| n >= BRANCH);
                let before = &shape.stages[..index];
                let may_trip = before.iter().any(|stage| stage.trips.is_some());
                sure &= ordered && !merged && !may_trip;
                items.truncate(*n as usize);
                if sure {
                    paths.retain(|n, _| items.contains(n));
                }
            }
            Kind::Merge(source) => {
                let from = (index as u64 + 1) * BRANCH;
                items.extend(from..from + source.items);
                paths.extend((from..from + source.items).map(|n| (n, Vec::new())));
            }
            _ => {}
        }
    }
    let tripped = match trips[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(()),
    };
    items.sort_unstable();
    let (items, tripped) = if sure { (Some(items), tripped) } else { (None, Err(())) };
    Plain { items, paths, ordered, tripped }
}

// ------------------------------------------------------------------- a run

/// Checks what must hold whatever happens; panics where it does not.
async fn run(shape: &Shape) {
    let (parent, canceller) = background().with_cancel();
    let (ctx, _guard) = match shape.end {
        End::Deadline(at) => parent.with_timeout(ms(at)),
        _ => parent.with_cancel(),
    };
    let (stock, plain) = (Stock::new(), walk(shape));
    let mut results = build(&ctx, shape, &stock).run();
    let began = rt::now();
    let ends_at = match shape.end {
        End::Never => None,
        End::Cancel(at) | End::Deadline(at) => Some(ms(at)),
    };
    if let End::Cancel(at) = shape.end {
        // A thread of the system's would race; a task would be counted.
        let canceller = canceller.clone();
        let (alarm, set) = background().with_timeout(ms(at));
        set.detach();
        alarm.after_func(move || canceller.cancel_with("the end"));
    }
    let mut had: Vec<Passed> = Vec::new();
    let mut stopped = false;
    // Far more than 80 items can take in all stages.
    let hour = rt::sleep(Duration::from_secs(3600));
    let mut hour = std::pin::pin!(hour);
    loop {
        if shape.reader.stops_after == Some(had.len()) {
            stopped = true;
            break;
        }
        let next = {
            let next = results.next();
            match futures::future::select(next, hour.as_mut()).await {
                futures::future::Either::Left((next, _)) => next,
                _ => panic!("an hour has passed"),
            }
        };
        let Some(item) = next else { break };
        had.push(item);
        if shape.reader.pause > 0 {
            rt::sleep(ms(shape.reader.pause)).await;
        }
    }
    let ended = rt::now() - began;
    if let Some(at) = ends_at {
        let last = at + ms(shape.drain.unwrap_or(0)) + ms(shape.reader.pause);
        assert!(stopped || ended <= last, "it ended at {ended:?}, and should by {last:?}");
    }

    // Nothing twice, nothing invented, everything in order.
    let mut last: HashMap<u64, u64> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for Passed { item, by } in &had {
        assert!(seen.insert(item.n), "{} came twice", item.n);
        let path = plain.paths.get(&item.n);
        assert_eq!(path, Some(by), "{} must not come, or not by these stages", item.n);
        if plain.ordered {
            let before = last.insert(item.n / BRANCH, item.n);
            assert!(before.is_none_or(|before| before < item.n), "{before:?} before {}", item.n);
        }
    }

    // How it ended.
    if !shape.reader.finishes {
        drop(results);
        // A yield lets the runtime run some sixty tasks, and a pipeline may have more.
        settle().await;
        assert_eq!(rt::now() - began, ended, "ending takes no time");
    } else {
        let report = results.finish().await;
        assert_eq!(rt::now() - began, ended, "finishing takes no time");
        assert!(report.conserved(), "{report}");
        assert_eq!(report.read(), had.len());
        let all: usize = report
            .stages()
            .iter()
            .filter(|s| s.name().starts_with("from"))
            .map(|s| s.received())
            .sum();
        assert_eq!(all, stock.made(), "{report}");
        let was_cut = ends_at.is_some_and(|at| at <= ended);
        // A drain that was done within its grace has lost nothing: what a source had in its hand
        // has been delivered too.
        let takes = shape.stages.iter().any(|s| matches!(s.kind, Kind::Take(_)));
        if let (Outcome::Cancelled(_), Some(grace), Some(at)) =
            (report.outcome(), shape.drain, ends_at)
        {
            let in_time = ended < at + ms(grace);
            let trips = shape.stages.iter().any(|stage| stage.trips.is_some());
            if in_time && !stopped && !takes && !trips {
                assert!(report.stages().iter().all(|stage| stage.discarded() == 0), "{report}");
            }
        }
        match report.outcome() {
            Outcome::Completed => {
                assert!(!stopped, "{report}");
                if !was_cut {
                    if let (Some(items), Ok(None)) = (&plain.items, plain.tripped) {
                        let mut had: Vec<u64> = had.iter().map(|passed| passed.item.n).collect();
                        had.sort_unstable();
                        assert_eq!(&had, items, "{report}");
                    }
                    assert!(!matches!(plain.tripped, Ok(Some(_))), "{report}");
                }
            }
            Outcome::ReaderStopped => assert!(stopped, "{report}"),
            Outcome::Cancelled(cause) => {
                assert!(was_cut, "{report}");
                let said = cause.to_string();
                assert!(said == "the end" || said == "context deadline exceeded", "{said}");
            }
            Outcome::Failed { stage, cause } => {
                assert_eq!(cause.to_string(), "it fails");
                if let Ok(tripped) = plain.tripped {
                    let (index, trip) = tripped.expect("nothing fails");
                    assert_eq!((&name(index), trip), (stage, Trip::Fails));
                }
            }
            Outcome::Panicked { stage, .. } => {
                if let Ok(tripped) = plain.tripped {
                    let (index, trip) = tripped.expect("nothing panics");
                    assert_eq!((&name(index), trip), (stage, Trip::Panics));
                }
            }
        }
    }
    drop(had);
    assert_eq!(stock.left(), 0, "items are left");
    // The alarm of the end may be pending on this runtime; it is not a task of the pipeline's.
    canceller.cancel();
    rt::sleep(ms(400)).await;
    quiet().await;
    assert!(ctx.tree().is_empty(), "{}", ctx.tree());
}

/// Runs it on a thread and a runtime of its own. Returns what it failed with.
fn judge(shape: Shape) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let ran = catch_unwind(AssertUnwindSafe(|| kit::paused().block_on(run(&shape))));
        let _ = tell.send(ran.map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
        }));
    });
    told.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| Err("it hangs".into()))
}

#[test]
fn a_pipeline_of_any_shape_ends_in_time_conserves_its_items_and_leaves_nothing() {
    // Closures panic by the thousand, and their messages are of no use. Those of the test
    // itself come with the shape.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let cases = if cfg!(debug_assertions) { 3_000 } else { 30_000 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let tried =
        TestRunner::new(config).run(&shape(), |shape| judge(shape).map_err(TestCaseError::fail));
    std::panic::set_hook(before);
    match tried {
        Ok(()) => {}
        Err(TestError::Fail(why, shape)) => panic!("{why}\n{shape:#?}"),
        Err(other) => panic!("{other}"),
    }
}
