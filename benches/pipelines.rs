//! Measures quell's pipelines against pipelines wired by hand from its peers' channels, and says
//! whether they are as fast as they should be.
//!
//! `cargo bench --bench pipelines` takes two minutes or so. All contenders of a row run in turns;
//! the median of each counts, and the median of the ratios to the best peer of the same round.
//! After `--`, a word runs only the rows with that word in their name, and `--strict` makes a miss
//! the exit code 1.
//!
//! What the contenders do is written where they are: `kit/pipelines.rs`. A contender in brackets is
//! for information only. Go's figures come from the program in `benches/go`, if a `go` is on the
//! PATH.

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    pipelines::main()
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
#[path = "kit/pipelines.rs"]
mod contenders;
#[cfg(not(loom))]
mod kit;

#[cfg(not(loom))]
mod pipelines {
    use crate::contenders::*;
    use crate::kit::{ask_go, median};
    use futures::{Stream, StreamExt};
    use quell::{Context, Results};
    use std::collections::HashMap;
    use std::process::{Command, ExitCode};
    use std::time::{Duration, Instant};
    use tokio::runtime::Runtime;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    pub(super) fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if let Some(at) = args.iter().position(|arg| arg == "--memory") {
            println!("{}", memory_of_one(&args[at + 1]));
            return ExitCode::SUCCESS;
        }
        if !args.iter().any(|arg| arg == "--bench") {
            println!("measures only under `cargo bench`");
            return ExitCode::SUCCESS;
        }
        let words = args.iter().filter(|arg| !arg.starts_with("--"));
        let mut table =
            Table { go: ask_go(&["pipelines"]), only: words.cloned().collect(), missed: 0 };
        throughput(&mut table);
        latency(&mut table);
        ending(&mut table);
        memory(&mut table);
        println!("\n{} missed", table.missed);
        let strict = args.iter().any(|arg| arg == "--strict");
        if strict && table.missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    struct Table {
        go: HashMap<String, f64>,
        only: Vec<String>,
        missed: usize,
    }

    /// A name and how to measure it. A name in brackets is not compared against.
    type Contender<'a> = (&'a str, Box<dyn FnMut() -> f64 + 'a>);

    impl Table {
        /// One row: quell first, then its peers. With `at_most` zero, the row is for information
        /// only.
        fn row(&mut self, name: &str, rounds: usize, at_most: f64, mut all: Vec<Contender<'_>>) {
            if !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word.as_str())) {
                return;
            }
            if rounds > 1 {
                all.iter_mut().for_each(|(_, run)| {
                    run();
                });
            }
            let rounds: Vec<Vec<f64>> =
                (0..rounds).map(|_| all.iter_mut().map(|(_, run)| run()).collect()).collect();
            let of = |k: usize| median(rounds.iter().map(|round| round[k]));
            let judged: Vec<usize> =
                (1..all.len()).filter(|&k| !all[k].0.starts_with('(')).collect();
            let best =
                |round: &Vec<f64>| judged.iter().map(|&k| round[k]).fold(f64::INFINITY, f64::min);
            let ratio = median(rounds.iter().map(|round| round[0] / best(round)));
            let met = ratio <= at_most;
            self.missed += usize::from(!met && at_most > 0.0);
            println!("{name}");
            for (k, (name, _)) in all.iter().enumerate() {
                print!("  {name} {:.0}", of(k));
            }
            if let Some(go) = self.go.get(name) {
                print!("  (Go {go:.0})");
            }
            print!("\n    ratio to the best {ratio:.3}");
            if at_most > 0.0 {
                print!(", at most {at_most:.3}: {}", if met { "ok" } else { "MISSED" });
            }
            println!();
        }
    }

    /// Nanoseconds per item of a future that runs as a task.
    fn per_item<F>(runtime: &Runtime, items: u64, pipeline: F) -> f64
    where
        F: Future<Output = u64> + Send + 'static,
    {
        time(runtime, items, pipeline).as_nanos() as f64 / items as f64
    }

    fn throughput(table: &mut Table) {
        let two = &runtime(2);
        let one = &runtime(1);
        for (runtime, name, at_most) in
            [(two, "an item, 2 threads", 1.0 / 8.0), (one, "an item, 1 thread", 1.0 / 4.0)]
        {
            table.row(
                name,
                7,
                at_most,
                vec![
                    ("quell", Box::new(|| per_item(runtime, ITEMS, quell_sum(ITEMS, 8)))),
                    ("tokio", Box::new(|| per_item(runtime, ITEMS, sum::<Tokio, Fresh>(ITEMS, 8)))),
                    ("flume", Box::new(|| per_item(runtime, ITEMS, sum::<Flume, Fresh>(ITEMS, 8)))),
                    ("kanal", Box::new(|| per_item(runtime, ITEMS, sum::<Kanal, Fresh>(ITEMS, 8)))),
                    (
                        "async-channel",
                        Box::new(|| per_item(runtime, ITEMS, sum::<Async, Fresh>(ITEMS, 8))),
                    ),
                    (
                        "(kanal, kept)",
                        Box::new(|| per_item(runtime, ITEMS, sum::<Kanal, Kept>(ITEMS, 8))),
                    ),
                ],
            );
        }
        table.row(
            "an item, 1 thread, beside buffer_unordered",
            7,
            1.0,
            vec![
                ("quell", Box::new(|| per_item(one, ITEMS, quell_sum(ITEMS, 8)))),
                ("buffer_unordered", Box::new(|| per_item(one, ITEMS, buffer_unordered(ITEMS, 8)))),
                (
                    "(without a relay or an end)",
                    Box::new(|| per_item(one, ITEMS, bare_buffer_unordered(ITEMS, 8))),
                ),
            ],
        );
        for (runtime, name) in
            [(two, "64 workers for 8, 2 threads"), (one, "64 workers for 8, 1 thread")]
        {
            table.row(
                name,
                7,
                1.5,
                vec![
                    ("64", Box::new(|| per_item(runtime, ITEMS, quell_sum(ITEMS, 64)))),
                    ("8", Box::new(|| per_item(runtime, ITEMS, quell_sum(ITEMS, 8)))),
                ],
            );
        }
        const FEW: u64 = 10_000;
        const MANY: u64 = 10_000_000;
        table.row(
            "10,000,000 items for 10,000, an item",
            3,
            1.2,
            vec![
                ("many", Box::new(|| per_item(one, MANY, quell_sum(MANY, 8)))),
                (
                    "few",
                    Box::new(|| median((0..50).map(|_| per_item(one, FEW, quell_sum(FEW, 8))))),
                ),
            ],
        );
    }

    /// A source that makes an item when it is told to.
    fn on_demand() -> (mpsc::UnboundedSender<()>, impl Stream<Item = Instant> + Send) {
        let (go, gone) = mpsc::unbounded_channel();
        let items = futures::stream::unfold(gone, |mut gone: mpsc::UnboundedReceiver<()>| async {
            gone.recv().await.map(|()| (Instant::now(), gone))
        });
        (go, items)
    }

    async fn same(made: Instant) -> Instant {
        made
    }

    const TURNS: u32 = 20_000;

    /// Nanoseconds from asking for an item to having it.
    macro_rules! ping_pong {
        ($runtime:expr, $items:ident => $make:expr, $next:expr) => {
            $runtime.block_on(async {
                tokio::spawn(async {
                    let (go, $items) = on_demand();
                    let mut results = $make;
                    let began = Instant::now();
                    for _ in 0..TURNS {
                        go.send(()).unwrap();
                        let _made: Instant = $next(&mut results).await.unwrap();
                    }
                    began.elapsed().as_nanos() as f64 / f64::from(TURNS)
                })
                .await
                .unwrap()
            })
        };
    }

    fn ping_pong<C: Channel>(runtime: &Runtime) -> f64 {
        ping_pong!(runtime, items => {
            by_hand::<C, Fresh, _, _, _>(&CancellationToken::new(), items, 8, same).0
        }, C::recv)
    }

    /// Nanoseconds from making an item to receiving it, with a source that makes one every
    /// millisecond.
    macro_rules! slow_source {
        ($runtime:expr, $items:ident => $make:expr, $next:expr) => {
            $runtime.block_on(async {
                tokio::spawn(async {
                    let (go, $items) = on_demand();
                    let mut results = $make;
                    let mut took = Vec::new();
                    for _ in 0..200 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        go.send(()).unwrap();
                        let made: Instant = $next(&mut results).await.unwrap();
                        took.push(made.elapsed().as_nanos() as f64);
                    }
                    median(took.into_iter())
                })
                .await
                .unwrap()
            })
        };
    }

    fn slow_source<C: Channel>(runtime: &Runtime) -> f64 {
        slow_source!(runtime, items => {
            by_hand::<C, Fresh, _, _, _>(&CancellationToken::new(), items, 8, same).0
        }, C::recv)
    }

    fn latency(table: &mut Table) {
        let two = &runtime(2);
        let one = &runtime(1);
        for (runtime, name) in [
            (two, "a reader that waits for each item, 2 threads"),
            (one, "a reader that waits for each item, 1 thread"),
        ] {
            table.row(
                name,
                7,
                1.0,
                vec![
                    (
                        "quell",
                        Box::new(|| {
                            ping_pong!(runtime, items => {
                    quell(&Context::background(), items, 8, same)
                }, Results::next)
                        }),
                    ),
                    ("tokio", Box::new(|| ping_pong::<Tokio>(runtime))),
                    ("flume", Box::new(|| ping_pong::<Flume>(runtime))),
                    ("kanal", Box::new(|| ping_pong::<Kanal>(runtime))),
                    ("async-channel", Box::new(|| ping_pong::<Async>(runtime))),
                ],
            );
        }
        table.row(
            "produce to receive, slow source, 2 threads",
            5,
            0.0,
            vec![
                (
                    "quell",
                    Box::new(|| {
                        slow_source!(two, items => {
                quell(&Context::background(), items, 8, same)
            }, Results::next)
                    }),
                ),
                ("tokio", Box::new(|| slow_source::<Tokio>(two))),
                ("flume", Box::new(|| slow_source::<Flume>(two))),
                ("kanal", Box::new(|| slow_source::<Kanal>(two))),
                ("async-channel", Box::new(|| slow_source::<Async>(two))),
            ],
        );
    }

    async fn never(_: u64) -> u64 {
        std::future::pending().await
    }

    /// Lets every task reach the point where it waits.
    async fn come_to_rest() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Nanoseconds from the cancel until every task has ended.
    fn end_quell(runtime: &Runtime, items: u64) -> f64 {
        runtime.block_on(async move {
            tokio::spawn(async move {
                let (ctx, canceller) = Context::background().with_cancel();
                let source = futures::stream::iter(0..items).chain(futures::stream::pending());
                let mut results = quell(&ctx, source, 64, never);
                assert!(futures::poll!(results.next()).is_pending());
                come_to_rest().await;
                let began = Instant::now();
                canceller.cancel();
                let _report = results.finish().await;
                began.elapsed().as_nanos() as f64
            })
            .await
            .unwrap()
        })
    }

    fn end_by_hand<C: Channel>(runtime: &Runtime, items: u64) -> f64 {
        runtime.block_on(async move {
            tokio::spawn(async move {
                let token = CancellationToken::new();
                let source = futures::stream::iter(0..items).chain(futures::stream::pending());
                let (mut results, tasks) = by_hand::<C, Fresh, _, _, _>(&token, source, 64, never);
                tokio::select! {
                    biased;
                    _ = C::recv(&mut results) => {}
                    () = std::future::ready(()) => {}
                }
                come_to_rest().await;
                let began = Instant::now();
                token.cancel();
                for task in tasks {
                    task.await.unwrap();
                }
                began.elapsed().as_nanos() as f64
            })
            .await
            .unwrap()
        })
    }

    fn ending(table: &mut Table) {
        let two = &runtime(2);
        for (items, name) in [
            (64, "cancel to all ended, 64 workers at work"),
            (0, "cancel to all ended, 64 workers without"),
        ] {
            table.row(
                name,
                31,
                1.0,
                vec![
                    ("quell", Box::new(move || end_quell(two, items))),
                    ("tokio", Box::new(move || end_by_hand::<Tokio>(two, items))),
                ],
            );
        }
    }

    /// Bytes of one idle pipeline; run in a process of its own.
    fn memory_of_one(whose: &str) -> f64 {
        const MANY: usize = 10_000;
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
            let pages = pages.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
            pages.unwrap_or(0_usize) * 4096
        };
        let quells = whose == "quell";
        let ctx = Context::background();
        let token = CancellationToken::new();
        runtime(1).block_on(async {
            let mut kept = (Vec::new(), Vec::new());
            let before = resident();
            for _ in 0..MANY {
                let source = futures::stream::pending();
                if quells {
                    let mut results = quell(&ctx, source, 8, add_one);
                    assert!(futures::poll!(results.next()).is_pending());
                    kept.0.push(results);
                } else {
                    kept.1.push(by_hand::<Tokio, Fresh, _, _, _>(&token, source, 8, add_one));
                }
                tokio::task::yield_now().await;
            }
            come_to_rest().await;
            (resident() - before) as f64 / MANY as f64
        })
    }

    fn memory(table: &mut Table) {
        let of = |whose: &'static str| {
            move || {
                let this = std::env::current_exe().unwrap();
                let output = Command::new(this).args(["--memory", whose]).output().unwrap();
                String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(f64::NAN)
            }
        };
        table.row(
            "memory of an idle pipeline (bytes)",
            1,
            1.0,
            vec![("quell", Box::new(of("quell"))), ("tokio", Box::new(of("tokio")))],
        );
    }
}
