//! Measures quell against its peers and says whether it is as fast as it should be.
//!
//! `cargo bench --bench targets` takes a minute or so. Both sides of a row are measured in turns,
//! and only the median of the ratios counts: a machine that is busy with something else slows both.
//! After `--`, a word runs only the rows with that word in their name, and `--strict` makes a miss
//! the exit code 1.
//!
//! If the target is a number of nanoseconds, the other side of the row is a yardstick: an
//! allocation with its free (25 ns where the target was set), or a lock with its unlock (14 ns).
//! The target is met in plain nanoseconds or, on a slower machine, by the ratio of the two.
//!
//! Go's column comes from the program in `benches/go`, if a `go` is on the PATH.

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    targets::main()
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
mod kit;

#[cfg(not(loom))]
mod targets {
    use crate::kit::{self, *};
    use quell::{Context, Key};
    use std::collections::HashMap;
    use std::future::ready;
    use std::hint::black_box;

    use std::process::{Command, ExitCode};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use std::time::{Duration, Instant};
    use tokio::runtime::Builder;

    /// Rounds of a row that takes milliseconds, and of one that takes a second.
    const QUICK: usize = 15;
    const SLOW: usize = 3;

    pub(super) fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if let Some(at) = args.iter().position(|arg| arg == "--memory") {
            report_memory(args[at + 1] == "quell", args[at + 2] == "waiting");
            return ExitCode::SUCCESS;
        }
        if !args.iter().any(|arg| arg == "--bench") {
            println!("measures only under `cargo bench`");
            return ExitCode::SUCCESS;
        }
        let words = args.iter().filter(|arg| !arg.starts_with("--"));
        let mut table = Table { go: ask_go(&[]), only: words.cloned().collect(), missed: 0 };
        yardsticks();
        table.head();
        asking(&mut table);
        deriving(&mut table);
        ending(&mut table);
        values(&mut table);
        deadlines(&mut table);
        running(&mut table);
        memory(&mut table);
        println!("\n{} missed", table.missed);
        let strict = args.iter().any(|arg| arg == "--strict");
        if strict && table.missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    // The table.

    struct Table {
        go: HashMap<String, f64>,
        only: Vec<String>,
        missed: usize,
    }

    #[derive(Clone, Copy)]
    enum Target {
        /// At most this fraction of the peer's time.
        Ratio(f64),
        /// At most this fraction of the peer's time, and less than Go's.
        RatioAndGo(f64),
        /// Nanoseconds, on a machine where the peer takes `peer` of them.
        Nanos { at_most: f64, peer: f64 },
        /// For information only.
        None,
    }

    impl Table {
        fn head(&self) {
            println!(
                "{:<44} {:>10} {:>10} {:<8} {:>7} {:>9} {:>9}",
                "operation", "quell ns", "peer ns", "peer", "ratio", "target", "Go ns"
            );
        }

        fn wants(&self, name: &str) -> bool {
            self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
        }

        /// Measures and judges one row; both sides return nanoseconds per operation.
        fn row(
            &mut self,
            name: &str,
            rounds: usize,
            target: Target,
            mut quell: impl FnMut() -> f64,
            (peer_name, mut peer): (&str, impl FnMut() -> f64),
        ) {
            if !self.wants(name) {
                return;
            }
            if rounds > SLOW {
                // The first run finds out how often to repeat; slow rows do not need that.
                quell();
                peer();
            }
            let rounds: Vec<(f64, f64)> = (0..rounds).map(|_| (quell(), peer())).collect();
            let nanos = median(rounds.iter().map(|round| round.0));
            let peers = median(rounds.iter().map(|round| round.1));
            let ratio = median(rounds.iter().map(|round| round.0 / round.1));
            let go = self.go.get(name).copied();
            let (target, met) = match target {
                Target::Ratio(most) => (format!("{most:.2}"), Some(ratio <= most)),
                Target::RatioAndGo(most) => {
                    let met = ratio <= most && go.is_none_or(|go| nanos < go);
                    (format!("{most:.2}, Go"), Some(met))
                }
                Target::Nanos { at_most, peer } => {
                    let met = nanos <= at_most || ratio <= at_most / peer;
                    (format!("{at_most:.0} ns"), Some(met))
                }
                Target::None => ("-".into(), None),
            };
            self.missed += usize::from(met == Some(false));
            println!(
                "{name:<44} {nanos:>10.2} {peers:>10.2} {peer_name:<8} {ratio:>7.3} {target:>9} \
                 {:>9} {}",
                go.map_or("-".into(), |go| format!("{go:.1}")),
                met.map_or("", |met| if met { "ok" } else { "MISSED" }),
            );
        }
    }

    /// Nanoseconds of one `op`, repeated for a few milliseconds.
    fn each(op: impl FnMut()) -> impl FnMut() -> f64 {
        each_of(1, op)
    }

    /// The same for an `op` that does `many` things.
    fn each_of(many: usize, mut op: impl FnMut()) -> impl FnMut() -> f64 {
        let mut times = 1;
        move || loop {
            let took = time_of(times, &mut op);
            if took >= Duration::from_millis(8) {
                return nanos(took, times * many);
            }
            times *= 2;
        }
    }

    /// One function per `op`: otherwise the code around a loop of five instructions would decide
    /// how fast it is.
    #[inline(never)]
    fn time_of(times: usize, op: &mut impl FnMut()) -> Duration {
        let start = Instant::now();
        for _ in 0..times {
            op();
        }
        start.elapsed()
    }

    fn nanos(took: Duration, times: usize) -> f64 {
        took.as_nanos() as f64 / times as f64
    }

    fn allocation() -> impl FnMut() -> f64 {
        each(|| drop(black_box(Box::new(black_box([0_u64; 8])))))
    }

    fn lock() -> impl FnMut() -> f64 {
        let mutex = Mutex::new(0_u64);
        each(move || *black_box(&mutex).lock().unwrap() += 1)
    }

    fn clock() -> impl FnMut() -> f64 {
        each(|| {
            black_box(Instant::now());
        })
    }

    /// What the machine itself takes: no operation can be faster than its parts.
    fn yardsticks() {
        let counter = AtomicUsize::new(0);
        let count = each(|| {
            black_box(&counter).fetch_add(1, Ordering::AcqRel);
        });
        let usual = |mut measure: Box<dyn FnMut() -> f64 + '_>| median((0..5).map(|_| measure()));
        println!(
            "lock + unlock {:.1} ns, read-modify-write {:.1} ns, allocation + free {:.1} ns, \
             clock {:.1} ns\n",
            usual(Box::new(lock())),
            usual(Box::new(count)),
            usual(Box::new(allocation())),
            usual(Box::new(clock())),
        );
    }

    const fn allocations(at_most: f64) -> Target {
        Target::Nanos { at_most, peer: 25.0 }
    }

    const fn locks(at_most: f64) -> Target {
        Target::Nanos { at_most, peer: 14.0 }
    }

    // Asking.

    fn asking(table: &mut Table) {
        fn ask<T: Tree>(tree: T) -> impl FnMut() -> f64 {
            each(move || {
                black_box(black_box(&tree).is_done());
            })
        }
        fn grandchild<T: Tree>() -> (T, T, T) {
            let root = T::root();
            let child = root.child();
            let grandchild = child.child();
            (root, child, grandchild)
        }
        let tenth = Target::Ratio(0.1);
        table.row("is_done, live root", QUICK, tenth, ask(Quell::root()), {
            ("token", ask(Token::root()))
        });
        let (_root, _child, token) = grandchild::<Token>();
        let (_root, _child, quell) = grandchild::<Quell>();
        table.row("is_done, live child of a child", QUICK, tenth, ask(quell), {
            ("token", ask(token.clone()))
        });
        // It is live for as long as its canceller is kept.
        let (_root, _child, quell) = grandchild::<Quell>();
        let ctx = quell.ctx.clone();
        let err = each(|| {
            black_box(black_box(&ctx).err());
        });
        table.row("err, live", QUICK, tenth, err, ("token", ask(token.clone())));
        assert!(ctx.err().is_none() && !token.is_done(), "they were to be live");
        drop(quell);
        let clone = each(|| drop(black_box(black_box(&ctx).clone())));
        let tokens = each(|| drop(black_box(black_box(&token).clone())));
        table.row("clone + drop", QUICK, Target::Ratio(1.0 / 3.0), clone, ("token", tokens));
    }

    // Deriving.

    fn derive<T: Tree>() -> impl FnMut() -> f64 {
        let parent = T::root();
        each(move || black_box(black_box(&parent).child()).cancel())
    }

    fn deriving(table: &mut Table) {
        let token = || ("token", derive::<Token>());
        let one = derive::<Quell>();
        table.row("derive + cancel + drop", QUICK, Target::Ratio(0.45), one, token());
        fn shared<T: Tree>() -> impl FnMut() -> f64 {
            const TIMES: u64 = 30_000;
            let parent = T::root();
            move || nanos(derive_shared(&parent, TIMES), TIMES as usize)
        }
        let (two, tokens) = (shared::<Quell>(), shared::<Token>());
        let third = Target::Ratio(1.0 / 3.0);
        table.row("derive + cancel + drop, 2 threads", QUICK, third, two, ("token", tokens));
        let timeout = || {
            let parent = Quell::root();
            each(move || {
                let (ctx, canceller) = black_box(&parent.ctx).with_timeout(HOUR);
                black_box(&canceller).cancel();
                drop((canceller, ctx));
            })
        };
        let target = Target::Ratio(0.73);
        table.row("with_timeout + cancel + drop", QUICK, target, timeout(), token());
        let runtime = two_workers();
        let _inside = runtime.enter();
        table.row("with_timeout + cancel + drop, in tokio", QUICK, target, timeout(), token());
    }

    // Ending.

    fn ending(table: &mut Table) {
        fn cancel<T: Tree>(children: usize, waited_for: bool) -> impl FnMut() -> f64 {
            let times = (100_000 / children).max(1);
            move || {
                let took = (0..times).map(|_| kit::cancel::<T>(children, waited_for)).sum();
                nanos(took, times * children)
            }
        }
        fn life<T: Tree>() -> f64 {
            let start = Instant::now();
            kit::life::<T>();
            nanos(start.elapsed(), MILLION)
        }
        for children in [1_000, MILLION] {
            let rounds = if children == MILLION { SLOW } else { QUICK };
            for (waited_for, kind) in [(false, "children"), (true, "waited-for children")] {
                let name = format!("cancel, {children} {kind}");
                let tokens = ("token", cancel::<Token>(children, waited_for));
                let quell = cancel::<Quell>(children, waited_for);
                table.row(&name, rounds, Target::Ratio(0.4), quell, tokens);
            }
        }
        let half = Target::Ratio(0.5);
        let tokens = ("token", life::<Token>);
        table.row("life of 1000000 children", SLOW + 2, half, life::<Quell>, tokens);
        let runtime = two_workers();
        for (child_each, name) in [
            (false, "cancel + wake 100000 tasks"),
            (true, "cancel + wake 100000 tasks, a child each"),
        ] {
            let tokens = ("token", || nanos(wake::<Token>(&runtime, child_each), TASKS));
            let quell = || nanos(wake::<Quell>(&runtime, child_each), TASKS);
            table.row(name, 9, Target::Ratio(0.9), quell, tokens);
        }
    }

    // Values.

    /// Looks up each of the eight keys in a chain that has it at the bottom.
    fn look_up(depth: usize) -> impl FnMut() -> f64 {
        let chains: Vec<Context> = (0..8).map(|bottom| chain(depth, bottom)).collect();
        each_of(8, move || {
            for (ctx, key) in black_box(&chains).iter().zip(&KEYS) {
                black_box(ctx.entry(key).unwrap());
            }
        })
    }

    fn look_up_typed(depth: usize) -> impl FnMut() -> f64 {
        let chains: [Context; 8] = std::array::from_fn(|bottom| typed_chain(depth, bottom));
        fn look<const N: usize>(chains: &[Context; 8]) {
            black_box(black_box(&chains[N]).value::<Typed<N>>().unwrap().0);
        }
        each_of(8, move || {
            look::<0>(&chains);
            look::<1>(&chains);
            look::<2>(&chains);
            look::<3>(&chains);
            look::<4>(&chains);
            look::<5>(&chains);
            look::<6>(&chains);
            look::<7>(&chains);
        })
    }

    /// One value under each of `count` keys, and the keys in a scattered order.
    fn keys(count: usize) -> (Context, Vec<&'static Key<u64>>) {
        let ctx = (0..count).fold(Context::background(), |ctx, key| ctx.with_entry(&KEYS[key], 7));
        (ctx, (0..count).map(|key| &KEYS[key * 421 % count]).collect())
    }

    fn values(table: &mut Table) {
        let ten = locks(10.0);
        for depth in [1, 64, 1024] {
            let lock = || ("lock", lock());
            table.row(&format!("value, depth {depth}"), QUICK, ten, look_up(depth), lock());
            let name = format!("value by type, depth {depth}");
            table.row(&name, QUICK, ten, look_up_typed(depth), lock());
        }
        let target = Target::Ratio(1.5);
        let peer = ("depth 1", look_up(1));
        table.row("value, depth 1024 : depth 1", QUICK, target, look_up(1024), peer);
        let peer = ("depth 1", look_up_typed(1));
        // Not judged: how many of eight types are two steps away is up to the compiler.
        let name = "value by type, depth 1024 : depth 1";
        table.row(name, QUICK, Target::None, look_up_typed(1024), peer);

        for count in [1, 16, 1024] {
            let (ctx, keys) = keys(count);
            let found = each_of(count, || {
                for key in black_box(&keys) {
                    black_box(ctx.entry(key).unwrap());
                }
            });
            let name = format!("value among {count} keys");
            table.row(&name, QUICK, locks(40.0), found, ("lock", lock()));
            let missing = each(|| assert!(black_box(&ctx).entry(black_box(&MISSING)).is_none()));
            let name = format!("value missing among {count} keys");
            table.row(&name, QUICK, locks(40.0), missing, ("lock", lock()));
        }

        for (count, most) in [(1, 65.0), (16, 100.0), (1024, 200.0)] {
            let (ctx, keys) = keys(count);
            let on_top = each(|| drop(black_box(black_box(&ctx).with_value(Typed::<0>(7)))));
            let name = format!("with_value on top of {count} keys");
            table.row(&name, QUICK, allocations(most), on_top, ("alloc", allocation()));
            let again = each_of(count, || {
                for key in black_box(&keys) {
                    drop(black_box(ctx.with_entry(key, 8)));
                }
            });
            let name = format!("with_entry over one of {count} keys");
            table.row(&name, QUICK, allocations(most), again, ("alloc", allocation()));
        }
    }

    // Deadlines.

    fn deadlines(table: &mut Table) {
        fn row(table: &mut Table, name: &str) {
            let (ctx, _canceller) = Context::background().with_timeout(HOUR);
            let err = each(|| {
                black_box(black_box(&ctx).err());
            });
            table.row(name, QUICK, Target::Ratio(1.5), err, ("clock", clock()));
        }
        row(table, "err with a deadline");
        let runtime = two_workers();
        {
            let _inside = runtime.enter();
            row(table, "err with a deadline, in tokio");
        }
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { row(table, "err with a deadline, in tokio, 1 thread") });
    }

    // Running a future.

    fn running(table: &mut Table) {
        let (quell, token) = (Quell::root(), Token::root());
        let (ctx, token) = (&quell.ctx, &token);
        let run = each(|| assert!(finish(black_box(ctx).run(ready(7))).is_ok()));
        let tokens =
            each(|| assert!(finish(black_box(token).run_until_cancelled(ready(7))).is_some()));
        table.row("run, ready at once", QUICK, Target::None, run, ("token", tokens));
        let run = each(|| assert!(finish(black_box(ctx).run(Later(false))).is_ok()));
        let tokens =
            each(|| assert!(finish(black_box(token).run_until_cancelled(Later(false))).is_some()));
        table.row("run, pending once", QUICK, Target::None, run, ("token", tokens));
    }

    // Memory.

    /// Prints by how much a million live children grow this process, per child.
    fn report_memory(quell: bool, waited_for: bool) {
        fn grown<T: Tree>(waited_for: bool) -> Option<f64> {
            let root = T::root();
            let mut children = Vec::with_capacity(MILLION);
            let mut waiters = Vec::with_capacity(if waited_for { MILLION } else { 0 });
            let before = resident()?;
            for _ in 0..MILLION {
                let child = root.child();
                if waited_for {
                    waiters.push(waiting(child.done()));
                }
                children.push(child);
            }
            let grown = resident()? - before;
            black_box((&children, &waiters));
            Some(grown / MILLION as f64)
        }
        let grown = if quell { grown::<Quell>(waited_for) } else { grown::<Token>(waited_for) };
        println!("{}", grown.map_or("unknown".into(), |bytes| format!("{bytes:.1}")));
    }

    /// Each figure has a process of its own: a process keeps memory that it has used.
    fn memory(table: &mut Table) {
        let bytes = |side: &str, kind: &str| -> Option<f64> {
            let exe = std::env::current_exe().ok()?;
            let output = Command::new(exe).args(["--memory", side, kind]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        for (kind, name) in [
            ("plain", "memory per live child (bytes)"),
            ("waiting", "memory per waited-for child (bytes)"),
        ] {
            if !table.wants(name) {
                continue;
            }
            let (Some(quell), Some(token)) = (bytes("quell", kind), bytes("token", kind)) else {
                println!("{name}: this system does not say");
                continue;
            };
            table.row(name, 1, Target::RatioAndGo(1.0), || quell, ("token", || token));
        }
    }
}
