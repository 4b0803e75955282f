//! Measures quell against its peers and says whether it is as fast as it should be.
//!
//! `cargo bench --bench targets` takes a minute or so. Both sides of a row are
//! measured in turns, and only the median of the ratios counts: a machine that is
//! busy with something else slows both. After `--`, a word runs only the rows
//! with that word in their name, and `--strict` makes a miss the exit code 1.
//!
//! Where the target is a number of nanoseconds, the other side of the row is a
//! yardstick: an allocation with its free (25 ns where the target was set), or a
//! lock with its unlock (14 ns). The target is met in plain nanoseconds, or by
//! the ratio of the two on a machine that is slower.
//!
//! Go's column comes from the program in `benches/go`, if a `go` is on the PATH.

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    targets::main()
}

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
mod targets {
    use quell::{Canceller, Context, Done, Key};
    use std::collections::HashMap;
    use std::future::{poll_fn, ready};
    use std::hint::black_box;
    use std::pin::{Pin, pin};
    use std::process::{Command, ExitCode, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier, Mutex, mpsc};
    use std::task::{self, Poll, Waker};
    use std::time::{Duration, Instant};
    use tokio::runtime::{Builder, Runtime};
    use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

    const MILLION: usize = 1_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    /// Rounds of a row that is measured in milliseconds, and of one that takes a second.
    const QUICK: usize = 15;
    const SLOW: usize = 3;

    pub(super) fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if let Some(at) = args.iter().position(|arg| arg == "--memory") {
            report_memory(args[at + 1] == "quell", args[at + 2] == "waiting");
            return ExitCode::SUCCESS;
        }
        if !args.iter().any(|arg| arg == "--bench") {
            println!("nothing is measured but under `cargo bench`");
            return ExitCode::SUCCESS;
        }
        let words = args.iter().filter(|arg| !arg.starts_with("--"));
        let mut table = Table { go: ask_go(), only: words.cloned().collect(), missed: 0 };
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
        /// Of what the peer takes.
        Ratio(f64),
        /// Of what the peer takes, and less than Go takes.
        RatioAndGo(f64),
        /// In nanoseconds, where the peer takes `peer` of them.
        Nanos { at_most: f64, peer: f64 },
        /// Only to be looked at.
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

        /// Measures and judges one row; both sides give nanoseconds per operation.
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
                // The first time finds out how often to repeat; slow rows do not.
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

    fn median(of: impl Iterator<Item = f64>) -> f64 {
        let mut of: Vec<f64> = of.collect();
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    }

    /// What the Go program says: nanoseconds (for memory: bytes) by name.
    fn ask_go() -> HashMap<String, f64> {
        let run = Command::new("go")
            .args(["run", "."])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/go"))
            // Nothing but what is there.
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

    // Both sides do the same: what follows is written once.

    trait Tree: Sized + Send + Sync + 'static {
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

    impl Tree for CancellationToken {
        type Done = WaitForCancellationFutureOwned;
        fn root() -> Self {
            CancellationToken::new()
        }
        #[inline]
        fn child(&self) -> Self {
            self.child_token()
        }
        #[inline]
        fn cancel(&self) {
            CancellationToken::cancel(self);
        }
        #[inline]
        fn is_done(&self) -> bool {
            self.is_cancelled()
        }
        fn done(&self) -> WaitForCancellationFutureOwned {
            self.clone().cancelled_owned()
        }
    }

    type Token = CancellationToken;

    /// Nanoseconds of one `op`, from as many as take a few milliseconds.
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

    /// A function of its own for each `op`: what stands around a loop of five instructions
    /// would otherwise decide how fast it is.
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

    /// What the machine itself takes: no operation can be faster than what it is made of.
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

    /// Two threads at once, each as often; the time from the first's start to the last's end.
    fn derive_shared<T: Tree>() -> impl FnMut() -> f64 {
        const TIMES: usize = 30_000;
        let parent = T::root();
        move || {
            let barrier = Barrier::new(2);
            let work = || {
                barrier.wait();
                let start = Instant::now();
                for _ in 0..TIMES {
                    black_box(black_box(&parent).child()).cancel();
                }
                (start, Instant::now())
            };
            let (one, two) = std::thread::scope(|scope| {
                let other = scope.spawn(work);
                (work(), other.join().unwrap())
            });
            nanos(one.1.max(two.1) - one.0.min(two.0), TIMES)
        }
    }

    fn deriving(table: &mut Table) {
        let token = || ("token", derive::<Token>());
        let one = derive::<Quell>();
        table.row("derive + cancel + drop", QUICK, Target::Ratio(0.45), one, token());
        let (two, tokens) = (derive_shared::<Quell>(), derive_shared::<Token>());
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

    /// The time of `cancel` alone, per child.
    fn cancel<T: Tree>(children: usize, waited_for: bool) -> impl FnMut() -> f64 {
        let times = (100_000 / children).max(1);
        move || {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let root = T::root();
                let make = |_| {
                    let child = root.child();
                    let waiter = waited_for.then(|| waiting(child.done()));
                    (child, waiter)
                };
                let children: Vec<_> = (0..children).map(make).collect();
                let start = Instant::now();
                root.cancel();
                took += start.elapsed();
                drop(children);
            }
            nanos(took, times * children)
        }
    }

    /// Made, cancelled with their parent, each asked, dropped; per child.
    fn life<T: Tree>() -> f64 {
        let start = Instant::now();
        let root = T::root();
        let children: Vec<T> = (0..MILLION).map(|_| root.child()).collect();
        root.cancel();
        assert!(children.iter().all(|child| black_box(child).is_done()));
        drop(children);
        drop(root);
        nanos(start.elapsed(), MILLION)
    }

    /// From `cancel` until all tasks that wait have ended, per task.
    fn wake<T: Tree>(runtime: &Runtime, child_each: bool) -> f64 {
        const TASKS: usize = 100_000;
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
                    if std::mem::take(&mut first)
                        && asleep.fetch_add(1, Ordering::AcqRel) + 1 == TASKS
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
        nanos(start.elapsed(), TASKS)
    }

    fn ending(table: &mut Table) {
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
            let tokens = ("token", || wake::<Token>(&runtime, child_each));
            let quell = || wake::<Quell>(&runtime, child_each);
            table.row(name, 9, Target::Ratio(0.9), quell, tokens);
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

    /// The same by type.
    fn typed_chain(depth: usize, bottom: usize) -> Context {
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

    /// Each of the eight keys, asked where it lies at the bottom.
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

    /// One value under each of so many keys, and the keys in no order.
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
        // Not judged: how many of eight types are two steps away is the compiler's to say.
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

    /// Of this process; `None` where the system does not say.
    fn resident() -> Option<f64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
    }

    /// Prints by how much a million live children make this process bigger, per child.
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

    /// A process of its own for each figure: memory once used stays with a process.
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
