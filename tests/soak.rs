//! True parallelism, and memory over time.
//!
//! Models see every order of a few steps; here threads make steps by the million.
//! What is counted must add up: nothing is left in the tree, memory is flat, every
//! waiter is woken, everything below a cancelled context is done, and a function
//! runs or was stopped, never both and never neither.
//!
//! The random numbers have fixed seeds; the threads are what differs from run
//! to run. A run that hangs is ended, and says which one it was.

#![cfg(not(loom))]
// Threads that race stand outside of the room of locks, and of loom.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use futures::executor::block_on;
use futures::future::{self, Either};
use quell::{AfterFunc, Canceller, Context, ContextError, Done};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

const THREADS: usize = 4;

/// All rounds in an optimized build; a tenth of them otherwise.
const fn scaled(rounds: usize) -> usize {
    if cfg!(debug_assertions) { rounds / 10 } else { rounds }
}

/// The tree of the background belongs to the process, and so does the memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `test` by itself; fails if it hangs.
fn alone(test: impl FnOnce() + Send + 'static) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match ended_within(Duration::from_secs(180), test) {
        None => panic!("it hangs: somebody was never woken"),
        // Its panic, if there was one, is passed on.
        Some(end) => end.unwrap_or_else(|panic| resume_unwind(panic)),
    }
}

fn ended_within(
    limit: Duration,
    test: impl FnOnce() + Send + 'static,
) -> Option<thread::Result<()>> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || drop(tell.send(catch_unwind(AssertUnwindSafe(test)))));
    told.recv_timeout(limit).ok()
}

/// Numbers that look random (xorshift).
struct Rng(u64);

impl Rng {
    fn new(seed: usize) -> Self {
        Rng((seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end + 1));
        }
    }
}

/// KiB of this process in memory, where that can be read.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn live() -> usize {
    Context::background().tree().len()
}

fn poll_once(done: &mut Done) -> Poll<ContextError> {
    Pin::new(done).poll(&mut std::task::Context::from_waker(Waker::noop()))
}

// ------------------------------------------------------------------ no leaks

/// A child, and what depends on it.
struct Child {
    ctx: Context,
    canceller: Canceller,
    below: Option<(Context, Canceller)>,
    waiting: Option<Done>,
    func: Option<AfterFunc>,
}

#[derive(Default)]
struct Funcs {
    registered: AtomicUsize,
    run: AtomicUsize,
    stopped: AtomicUsize,
}

impl Child {
    fn new(parent: &Context, funcs: &Arc<Funcs>, rng: &mut Rng) -> Self {
        let kind = rng.below(10);
        let (ctx, canceller) = match kind {
            6..=8 => parent.with_timeout(Duration::from_secs(3600 + rng.below(3600) as u64)),
            9 => parent.linked(&[&parent.with_value(1_u8)]),
            _ => parent.with_cancel(),
        };
        let mut child = Child { ctx, canceller, below: None, waiting: None, func: None };
        match kind {
            1 | 6 => {
                let mut done = child.ctx.done();
                assert!(poll_once(&mut done).is_pending());
                child.waiting = Some(done);
            }
            2 | 7 => {
                funcs.registered.fetch_add(1, Ordering::Relaxed);
                let count = Arc::clone(funcs);
                child.func = Some(child.ctx.after_func(move || {
                    count.run.fetch_add(1, Ordering::Relaxed);
                }));
            }
            3 => child.below = Some(child.ctx.with_cancel()),
            4 => child.below = Some(child.ctx.with_value(kind).with_timeout(Duration::MAX)),
            _ => {}
        }
        child
    }

    fn end(self, funcs: &Funcs, rng: &mut Rng) {
        let Child { ctx, canceller, below, waiting, func } = self;
        match rng.below(6) {
            0 => canceller.cancel(),
            1 => canceller.cancel_with("enough"),
            2 => {
                drop(waiting);
                drop(canceller);
                return;
            }
            3 => {
                drop(ctx);
                drop(below);
                drop(canceller);
                return;
            }
            4 => {
                // Only its function could keep it alive now.
                canceller.detach();
                if func.is_some_and(|func| func.stop()) {
                    funcs.stopped.fetch_add(1, Ordering::Relaxed);
                }
                drop((below, ctx));
                return;
            }
            _ => {
                if func.as_ref().is_some_and(AfterFunc::stop) {
                    funcs.stopped.fetch_add(1, Ordering::Relaxed);
                }
                drop(canceller);
            }
        }
        assert!(ctx.is_done());
        assert!(below.is_none_or(|(below, _)| below.is_done()));
        assert!(waiting.is_none_or(|mut done| poll_once(&mut done).is_ready()));
    }
}

/// Makes and ends `children` of them, in random order, with `kept` alive at a time.
fn bring_up(parent: &Context, funcs: &Arc<Funcs>, children: usize, kept: usize, seed: usize) {
    let mut rng = Rng::new(seed);
    let mut nursery: Vec<Child> = Vec::with_capacity(kept);
    for _ in 0..children {
        let child = Child::new(parent, funcs, &mut rng);
        if nursery.len() < kept {
            nursery.push(child);
        } else {
            let place = rng.below(kept);
            std::mem::replace(&mut nursery[place], child).end(funcs, &mut rng);
        }
    }
    rng.shuffle(&mut nursery);
    for child in nursery {
        child.end(funcs, &mut rng);
    }
}

#[test]
fn a_million_children_made_and_ended_on_four_threads_leave_nothing_behind() {
    alone(|| {
        const ROUNDS: usize = 6;
        let before = live();
        let funcs = Arc::new(Funcs::default());
        let (parent, canceller) = Context::background().with_cancel();
        let mut memory = Vec::new();
        for round in 0..ROUNDS {
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (parent, funcs) = (&parent, &funcs);
                    let seed = round * THREADS + thread;
                    let children = scaled(1_000_000) / THREADS;
                    scope.spawn(move || bring_up(parent, funcs, children, 10_000, seed));
                }
            });
            assert!(parent.tree().is_empty(), "the parent remembers:\n{}", parent.tree());
            assert!(!parent.is_done());
            assert_eq!(live(), before + 1, "live contexts, the parent among them");
            memory.extend(resident());
        }
        let [registered, run, stopped] =
            [&funcs.registered, &funcs.run, &funcs.stopped].map(|n| n.load(Ordering::Relaxed));
        assert!(registered > 0 && run > 0 && stopped > 0);
        assert_eq!(registered, run + stopped, "functions registered, and run or stopped");
        assert_eq!(Arc::strong_count(&funcs), 1, "functions that were kept after their end");
        drop((parent, canceller));
        assert_eq!(live(), before);
        // How much memory the allocator has returned to the system by then is its own affair:
        // the growth is what the leanest late round has more than the fattest early one.
        let (early, late) = memory.split_at(memory.len() / 2);
        if let (Some(early), Some(late)) = (early.iter().max(), late.iter().min()) {
            assert!(*late < early + 8 * 1024, "memory after each round, in KiB: {memory:?}");
        }
    });
}

#[test]
fn what_counts_contexts_and_memory_notices_both() {
    alone(|| {
        let before = live();
        let (ctx, canceller) = Context::background().with_cancel();
        assert_eq!(live(), before + 1);
        canceller.detach();
        assert_eq!(live(), before + 1);
        drop(ctx);
        assert_eq!(live(), before);
        if let Some(before) = resident() {
            let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
            let more = resident().expect("it was there before");
            assert!(more > before + 32 * 1024, "{before} KiB, then {more} KiB");
            drop(memory);
        }
    });
}

// ------------------------------------------------------------ no lost wakeup

/// Waits in one of many ways.
fn wait_somehow(ctx: &Context, other: &Context, how: usize) -> ContextError {
    match how % 8 {
        0 => ctx.wait(),
        1 => block_on(ctx.done()),
        2 => ctx.with_value(how).wait(),
        3 => {
            let (child, _canceller) = ctx.with_cancel();
            block_on(child.done())
        }
        4 => {
            let (child, _canceller) = ctx.with_timeout(Duration::from_secs(3600));
            child.wait()
        }
        5 => {
            // The first waker does nothing; the second works.
            let mut done = ctx.done();
            let _ = poll_once(&mut done);
            block_on(done)
        }
        6 => {
            let run = block_on(ctx.run(future::pending::<()>()));
            run.expect_err("it has no other end").error()
        }
        _ => {
            let (linked, _canceller) = other.linked(&[ctx]);
            match block_on(future::select(linked.done(), other.done())) {
                Either::Left((error, _)) | Either::Right((error, _)) => error,
            }
        }
    }
}

#[test]
fn everybody_who_waits_is_woken_however_the_end_and_the_wait_meet() {
    alone(|| {
        const WAITERS: usize = 6;
        let rounds = scaled(10_000);
        let (never, _canceller) = Context::background().with_cancel();
        let contest: Mutex<Option<(Context, Vec<Canceller>)>> = Mutex::new(None);
        let barrier = Barrier::new(WAITERS + 2);
        thread::scope(|scope| {
            for waiter in 0..WAITERS {
                let (contest, barrier, never) = (&contest, &barrier, &never);
                scope.spawn(move || {
                    let mut rng = Rng::new(waiter);
                    for _ in 0..rounds {
                        barrier.wait();
                        let ctx = contest.lock().unwrap().as_ref().unwrap().0.clone();
                        let error = wait_somehow(&ctx, never, rng.below(8));
                        assert_eq!(error, ContextError::Cancelled);
                        barrier.wait();
                    }
                });
            }
            scope.spawn(|| {
                let mut rng = Rng::new(100);
                for _ in 0..rounds {
                    barrier.wait();
                    let canceller = contest.lock().unwrap().as_mut().unwrap().1.pop();
                    (0..rng.below(2_000)).for_each(|_| std::hint::spin_loop());
                    canceller.expect("one each round").cancel();
                    barrier.wait();
                }
            });
            let mut rng = Rng::new(101);
            for _ in 0..rounds {
                let (parent, canceller) = Context::background().with_cancel();
                let (ctx, own) = parent.with_cancel();
                *contest.lock().unwrap() = Some((ctx, vec![own]));
                barrier.wait();
                (0..rng.below(2_000)).for_each(|_| std::hint::spin_loop());
                // Half of the time the canceller is dropped instead.
                if rng.below(2) == 0 {
                    canceller.cancel();
                }
                drop(canceller);
                barrier.wait();
            }
        });
    });
}

#[test]
fn a_wait_that_nobody_ends_is_noticed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (ctx, canceller) = Context::background().with_cancel();
    let waits = ctx.clone();
    let end = ended_within(Duration::from_millis(50), move || {
        let _ = waits.wait();
    });
    assert!(end.is_none(), "it returned, and nobody had cancelled");
    canceller.cancel();
    assert!(
        ended_within(Duration::from_secs(60), move || {
            let _ = ctx.wait();
        })
        .is_some()
    );
}

// -------------------------------------------------------------------- storms

/// A tree in layers: the contexts, and for each all that is below it.
struct Forest {
    contexts: Vec<Context>,
    cancellers: Vec<Mutex<Option<Canceller>>>,
    below: Vec<Vec<usize>>,
}

const LAYERS: usize = 7;
const WIDTH: usize = 24;

fn plant(rng: &mut Rng) -> Forest {
    let mut contexts: Vec<Context> = Vec::new();
    let mut cancellers = Vec::new();
    let mut above: Vec<Vec<usize>> = Vec::new();
    for at in 0..LAYERS * WIDTH {
        let layer = at / WIDTH;
        let mut elder = || (layer > 0).then(|| (layer - 1) * WIDTH + rng.below(WIDTH));
        let parents: Vec<usize> = [elder(), elder()].into_iter().flatten().collect();
        let parent = parents.first().map_or_else(Context::background, |&up| contexts[up].clone());
        let (made, linked) = match rng.below(8) {
            0 => (parent.with_timeout(Duration::from_secs(3600)), false),
            1 => (parent.with_value(at).with_cancel(), false),
            2 if layer > 0 => (parent.linked(&[&contexts[parents[1]]]), true),
            3 => {
                let made = parent.with_cancel();
                // A function, for the sweep to carry.
                made.0.after_func(|| {});
                (made, false)
            }
            _ => (parent.with_cancel(), false),
        };
        let direct = if linked { &parents[..] } else { &parents[..parents.len().min(1)] };
        let mut all: Vec<usize> = direct.iter().flat_map(|&up| above[up].clone()).collect();
        all.extend_from_slice(direct);
        all.sort_unstable();
        all.dedup();
        above.push(all);
        contexts.push(made.0);
        cancellers.push(Mutex::new(Some(made.1)));
    }
    let mut below = vec![Vec::new(); contexts.len()];
    for (at, above) in above.iter().enumerate() {
        above.iter().for_each(|&up| below[up].push(at));
    }
    Forest { contexts, cancellers, below }
}

/// Cancels everything, checks everything below, and returns the causes it saw.
fn storm(forest: &Forest, thread: usize, round: usize) -> HashMap<usize, String> {
    let mut rng = Rng::new(round * THREADS + thread);
    let mut order: Vec<usize> = (0..forest.contexts.len()).collect();
    rng.shuffle(&mut order);
    if round % 4 > 0 {
        // Usually from the leaves up, or all would be over at once.
        order.sort_by_key(|&at| Reverse(at / WIDTH));
    }
    let mut seen = HashMap::new();
    for at in order {
        let canceller = forest.cancellers[at].lock().unwrap().clone();
        let Some(canceller) = canceller else { continue };
        match rng.below(3) {
            0 => canceller.cancel(),
            1 => canceller.cancel_with(format!("{thread} at {at}")),
            _ => {
                // Every thread lets go of it: only the last drop cancels.
                drop(forest.cancellers[at].lock().unwrap().take());
                continue;
            }
        }
        for &at in forest.below[at].iter().chain([&at]) {
            let ctx = &forest.contexts[at];
            assert!(ctx.is_done(), "{ctx} is not done");
            let cause = ctx.cause().expect("done").to_string();
            let first = seen.entry(at).or_insert_with(|| cause.clone());
            assert_eq!(*first, cause, "the cause of {ctx} changed");
        }
    }
    seen
}

#[test]
fn when_a_cancel_returns_in_a_storm_of_cancels_all_below_it_is_done() {
    alone(|| {
        let before = live();
        for round in 0..scaled(600) {
            let forest = plant(&mut Rng::new(round));
            let barrier = Barrier::new(THREADS);
            let seen: Vec<_> = thread::scope(|scope| {
                let begin = |thread| {
                    let (forest, barrier) = (&forest, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        storm(forest, thread, round)
                    })
                };
                let threads: Vec<_> = (0..THREADS).map(begin).collect();
                threads.into_iter().map(|thread| thread.join().expect("a storm")).collect()
            });
            for (at, ctx) in forest.contexts.iter().enumerate() {
                let cause = ctx.cause().expect("all were cancelled or let go").to_string();
                assert_eq!(ctx.err(), Some(ContextError::Cancelled));
                for seen in &seen {
                    assert!(seen.get(&at).is_none_or(|first| *first == cause));
                }
            }
        }
        assert_eq!(live(), before);
    });
}

// --------------------------------------------------------- stop against cancel

#[test]
fn against_a_cancel_a_function_runs_once_or_stop_said_that_it_would_not() {
    alone(|| {
        const BATCH: usize = 256;
        let mut rng = Rng::new(7);
        let (mut ran, mut stops) = (0, 0);
        for batch in 0..scaled(1_000) {
            let (parent, parents) = Context::background().with_cancel();
            let runs: Vec<_> = (0..BATCH).map(|_| Arc::new(AtomicUsize::new(0))).collect();
            let (cancellers, funcs): (Vec<_>, Vec<_>) = runs
                .iter()
                .map(|runs| {
                    let (ctx, canceller) = parent.with_cancel();
                    let runs = Arc::clone(runs);
                    let func = ctx.after_func(move || {
                        runs.fetch_add(1, Ordering::Relaxed);
                    });
                    (canceller, func)
                })
                .unzip();
            let lead = rng.below(32);
            let barrier = Barrier::new(2);
            let stopped = thread::scope(|scope| {
                let stopper = scope.spawn(|| {
                    barrier.wait();
                    let mut stopped = vec![false; BATCH];
                    // Starting a little ahead makes the two meet somewhere.
                    for at in (0..BATCH).map(|at| (at + lead) % BATCH) {
                        stopped[at] = if at % 2 == 0 {
                            funcs[at].stop()
                        } else {
                            let stopped = funcs[at].stop_and_wait();
                            let runs = runs[at].load(Ordering::Relaxed);
                            assert_eq!(runs, usize::from(!stopped), "after stop_and_wait");
                            stopped
                        };
                    }
                    stopped
                });
                barrier.wait();
                match batch % 4 {
                    0 => parents.cancel(),
                    1 => cancellers.into_iter().for_each(drop),
                    _ => cancellers.iter().for_each(Canceller::cancel),
                }
                stopper.join().expect("the stopper")
            });
            drop((parent, parents));
            for (runs, stopped) in runs.iter().zip(stopped) {
                let runs = runs.load(Ordering::Relaxed);
                assert_eq!(runs + usize::from(stopped), 1, "ran {runs} times, stopped: {stopped}");
                ran += runs;
                stops += usize::from(stopped);
            }
        }
        assert!(ran > 0 && stops > 0, "they never met: {ran} ran, {stops} were stopped");
    });
}
