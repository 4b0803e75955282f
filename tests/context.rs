//! What a context does, independently of the clock.
//!
//! The first half covers what Go's contexts promise: which context ends which,
//! which cause every reader sees, what a value lookup finds, when an after-function
//! runs and what stopping it returns, and that all of it holds when many threads
//! end thousands of contexts at once. The second half covers what quell promises
//! beyond that: cancellers that cancel when they are dropped and say so, linked
//! contexts, reserves, user code that is never run under a lock, futures that leave
//! nothing behind, and chains of a million contexts on a small stack, which must not
//! overflow.
//!
//! Nothing here needs a runtime, and nothing waits for time to pass.
#![cfg(not(loom))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands outside: its clocks, locks and tasks are std's and tokio's own"
)]

mod kit;

use futures::future::FusedFuture;
use kit::{Wakes, poll};
use quell::{AfterFunc, BoxError, Cancelled, Canceller, Cause, Context, ContextError, Done, Key};
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Poll, Wake};
use std::thread;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);

/// A future that already waits for `ctx`.
fn waiting(ctx: &Context, wakes: &Arc<Wakes>) -> Done {
    let mut done = ctx.done();
    assert!(poll(&mut done, wakes).is_pending());
    done
}

#[derive(Debug, PartialEq)]
struct Broken(u32);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {}", self.0)
    }
}

impl Error for Broken {}

/// Every question answers that it is live.
#[track_caller]
fn assert_live(ctx: &Context) {
    assert!(!ctx.is_done(), "{ctx}");
    assert_eq!(ctx.err(), None, "{ctx}");
    assert!(ctx.cause().is_none(), "{ctx}");
    assert!(ctx.check().is_ok(), "{ctx}");
    assert!(poll(&mut ctx.done(), &Wakes::new()).is_pending(), "{ctx}");
}

/// Every question answers that it ended like this.
#[track_caller]
fn assert_ended(ctx: &Context, error: ContextError, cause: &str) {
    assert_eq!(ctx.err(), Some(error), "{ctx}");
    assert!(ctx.is_done(), "{ctx}");
    assert_eq!(ctx.cause().expect("with the error").to_string(), cause, "{ctx}");
    let told = ctx.check().expect_err("with the error");
    assert_eq!((told.error(), told.cause().to_string().as_str()), (error, cause), "{ctx}");
    assert_eq!(poll(&mut ctx.done(), &Wakes::new()), Poll::Ready(error), "{ctx}");
    assert_eq!(ctx.wait(), error, "{ctx}");
}

#[track_caller]
fn assert_cancelled(ctx: &Context, cause: &str) {
    assert_ended(ctx, ContextError::Cancelled, cause);
}

const PLAIN: &str = "context canceled";
const LATE: &str = "context deadline exceeded";

fn past() -> Instant {
    quell::rt::now() - Duration::from_millis(1)
}

/// Random enough, and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.roll(at + 1));
        }
    }
}

// ------------------------------------------------------------------- roots

#[test]
fn the_roots_never_end_and_carry_nothing() {
    for root in [Context::background(), Context::todo(), Context::default()] {
        assert_live(&root);
        assert_eq!(root.deadline(), None);
        assert_eq!(root.remaining(), None);
        assert_eq!(root.value::<u64>(), None);
        assert_eq!(root.wait_timeout(Duration::ZERO), None);
    }
    assert_eq!(Context::background().to_string(), "background");
    assert_eq!(Context::default().to_string(), "background");
    assert_eq!(Context::todo().to_string(), "todo");
}

#[test]
fn everything_may_go_to_any_thread() {
    fn goes<T: Send + Sync>() {}
    goes::<Context>();
    goes::<Canceller>();
    goes::<AfterFunc>();
    goes::<Cause>();
    goes::<Cancelled>();
    goes::<ContextError>();
    goes::<Key<Cell<u8>>>();
    fn moves<T: Send + Unpin>() {}
    moves::<Done>();
    moves::<quell::Run<std::future::Ready<()>>>();
}

// ------------------------------------------------------------ what ends what

#[test]
fn a_cancelled_context_answers_every_question_the_same() {
    let (ctx, canceller) = Context::background().with_cancel();
    assert_live(&ctx);
    let wakes = Wakes::new();
    let mut done = waiting(&ctx, &wakes);
    canceller.cancel();
    assert_eq!(wakes.count(), 1);
    assert_eq!(poll(&mut done, &wakes), Poll::Ready(ContextError::Cancelled));
    assert_cancelled(&ctx, PLAIN);
}

#[test]
fn cancelling_twice_changes_nothing_and_wakes_nobody_again() {
    let (ctx, canceller) = Context::background().with_cancel();
    let wakes = Wakes::new();
    let _done = waiting(&ctx, &wakes);
    canceller.cancel_with("first");
    canceller.cancel_with("second");
    canceller.cancel();
    canceller.clone().cancel();
    assert_eq!(wakes.count(), 1);
    assert_cancelled(&ctx, "first");
    drop(canceller);
    assert_cancelled(&ctx, "first");
}

#[test]
fn a_parent_that_ends_first_ends_everything_below_it_and_nothing_beside_it() {
    let (root, _root) = Context::background().with_cancel();
    let (parent, canceller) = root.with_cancel();
    let (sibling, _sibling) = root.with_cancel();
    let (child, _child) = parent.with_cancel();
    let valued = parent.with_value("below");
    let (timed, _timed) = valued.with_timeout(HOUR);
    let (grandchild, _grandchild) = timed.with_cancel();
    let wakes = Wakes::new();
    let below = [&parent, &child, &valued, &timed, &grandchild];
    let _waiting: Vec<_> = below.map(|ctx| waiting(ctx, &wakes)).into();
    canceller.cancel_with("from above");
    assert_eq!(wakes.count(), below.len());
    for ctx in below {
        assert_cancelled(ctx, "from above");
    }
    assert_live(&root);
    assert_live(&sibling);
}

#[test]
fn a_child_that_ends_first_leaves_parent_and_siblings_alone() {
    let (plain, _plain) = Context::background().with_cancel();
    let (timed, _timed) = Context::background().with_timeout(HOUR);
    for parent in [Context::background(), plain.clone(), timed, plain.with_value(1)] {
        let (child, canceller) = parent.with_cancel();
        let (sibling, _sibling) = parent.with_cancel();
        canceller.cancel();
        assert_cancelled(&child, PLAIN);
        assert_live(&parent);
        assert_live(&sibling);
    }
}

#[test]
fn a_child_that_ended_first_keeps_its_own_cause() {
    let (parent, parents) = Context::background().with_cancel();
    let (waited_for, first) = parent.with_cancel();
    let (unwatched, second) = parent.with_cancel();
    let (late, _late) = parent.with_deadline_cause(past(), "too slow");
    let _done = waiting(&waited_for, &Wakes::new());
    first.cancel_with("first");
    second.cancel_with("second");
    parents.cancel_with("parent's");
    assert_cancelled(&waited_for, "first");
    assert_cancelled(&unwatched, "second");
    assert_ended(&late, ContextError::DeadlineExceeded, "too slow");
    assert_cancelled(&parent, "parent's");
}

#[test]
fn what_is_derived_from_an_ended_context_has_ended_with_its_cause() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("over");
    let (cancel, own) = ctx.with_cancel();
    let (timeout, _c) = ctx.with_timeout_cause(HOUR, "never");
    let (late, _d) = ctx.with_deadline_cause(past(), "never");
    let (reserve, _e) = ctx.with_reserve(HOUR);
    let (linked, _f) = ctx.linked(&[&Context::background()]);
    let value = ctx.with_value(1);
    own.cancel_with("no");
    for derived in [cancel, timeout, late, reserve, linked, value] {
        assert_cancelled(&derived, "over");
        let (below, _canceller) = derived.with_cancel();
        assert_cancelled(&below, "over");
    }
}

#[test]
fn a_deadline_asked_for_is_told_even_where_the_parent_has_ended() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let at = quell::rt::now() + HOUR;
    let (child, _canceller) = ctx.with_deadline(at);
    assert_eq!(child.deadline(), Some(at));
    assert_cancelled(&child, PLAIN);
}

#[test]
fn a_clone_is_the_same_context() {
    let (ctx, canceller) = Context::background().with_value(3_u8).with_cancel();
    let clone = ctx.clone();
    drop(ctx);
    assert_eq!(clone.value::<u8>(), Some(&3));
    canceller.cancel_with("both");
    assert_cancelled(&clone, "both");
}

// ------------------------------------------------------------------- removal

#[test]
fn children_leave_their_parent_when_they_end_or_are_dropped() {
    let (parent, _canceller) = Context::background().with_cancel();
    type Derive = fn(&Context) -> (Context, Canceller);
    let ways: [Derive; 6] = [
        |parent| parent.with_cancel(),
        |parent| parent.with_timeout(HOUR),
        |parent| parent.with_deadline(quell::rt::now() + HOUR),
        |parent| parent.with_value(1).with_cancel(),
        |parent| parent.linked(&[&Context::todo()]),
        |parent| parent.with_reserve(HOUR),
    ];
    for derive in ways {
        assert!(parent.tree().is_empty());
        let (child, canceller) = derive(&parent);
        assert_eq!(parent.tree().len(), 1);
        let (_grandchild, _grandchildren) = child.with_cancel();
        assert_eq!(parent.tree().len(), 2);
        canceller.cancel();
        assert_eq!(parent.tree().len(), 0, "what has ended is not listed");

        let (child, canceller) = derive(&parent);
        canceller.detach();
        assert_eq!(parent.tree().len(), 1);
        drop(child);
        assert_eq!(parent.tree().len(), 0, "what was dropped is not listed");
    }
}

#[test]
fn ten_thousand_waited_for_children_that_are_dropped_leave_the_parent_as_it_was() {
    let (parent, canceller) = Context::background().with_cancel();
    let wakes = Wakes::new();
    let mut children: Vec<_> = (0..10_000)
        .map(|_| {
            let (child, canceller) = parent.with_cancel();
            canceller.detach();
            waiting(&child, &wakes)
        })
        .collect();
    assert_eq!(parent.tree().len(), 10_000);
    assert_eq!(Arc::strong_count(&wakes), 10_001);
    Dice(7).shuffle(&mut children);
    children.truncate(5_000);
    assert_eq!(parent.tree().len(), 5_000);
    drop(children);
    assert!(parent.tree().is_empty());
    assert_eq!(Arc::strong_count(&wakes), 1, "no waker is left behind");
    canceller.cancel();
    assert_eq!(wakes.count(), 0);
}

#[test]
fn a_parent_keeps_no_child_alive() {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let (parent, _parents) = Context::background().with_cancel();
    let gone = Arc::new(AtomicBool::new(false));
    let (child, canceller) = parent.with_value(Flag(Arc::clone(&gone))).with_cancel();
    canceller.detach();
    let done = waiting(&child, &Wakes::new());
    drop(child);
    assert!(!gone.load(SeqCst), "a `Done` keeps its context alive");
    drop(done);
    assert!(gone.load(SeqCst));
}

#[test]
fn a_pending_after_function_keeps_its_context_alive_and_registered_until_it_ran_or_was_stopped() {
    let (parent, parents) = Context::background().with_cancel();
    let ran = Wakes::new();
    let register = || {
        let (child, canceller) = parent.with_cancel();
        canceller.detach();
        let ran = Arc::clone(&ran);
        child.after_func(move || ran.wake())
    };
    let stopped = register();
    assert_eq!(parent.tree().len(), 1);
    assert!(stopped.stop());
    assert_eq!(parent.tree().len(), 0, "stopping it let the context go");
    drop(register());
    assert_eq!(parent.tree().len(), 1, "dropping the handle leaves it registered");
    parents.cancel();
    assert_eq!(ran.count(), 1);
    assert_eq!(Arc::strong_count(&ran), 1, "the functions are gone");
}

// -------------------------------------------------------------------- values

#[derive(Debug, PartialEq)]
struct UserId(u64);
#[derive(Debug, PartialEq)]
struct Tenant(&'static str);

static RED: Key<u64> = Key::new("red");
static BLUE: Key<u64> = Key::new("blue");
static NAME: Key<String> = Key::new("name");

#[test]
fn the_nearest_value_of_a_type_is_found_and_elder_ones_stay_as_they_are() {
    let root = Context::background();
    let one = root.with_value(UserId(1));
    let two = one.with_value(Tenant("acme"));
    let three = two.with_value(UserId(3));
    assert_eq!(root.value::<UserId>(), None);
    assert_eq!(one.value::<UserId>(), Some(&UserId(1)));
    assert_eq!(one.value::<Tenant>(), None);
    assert_eq!(two.value::<UserId>(), Some(&UserId(1)));
    assert_eq!(two.value::<Tenant>(), Some(&Tenant("acme")));
    assert_eq!(three.value::<UserId>(), Some(&UserId(3)));
    assert_eq!(three.value::<Tenant>(), Some(&Tenant("acme")));
    assert_eq!(three.value::<u64>(), None, "the newtype is the key, not what is in it");
    assert_eq!(two.value::<UserId>(), Some(&UserId(1)));
}

#[test]
fn two_keys_with_one_type_live_side_by_side_and_apart_from_the_type_itself() {
    let ctx = Context::background().with_entry(&RED, 1).with_entry(&BLUE, 2).with_value(3_u64);
    assert_eq!(ctx.entry(&RED), Some(&1));
    assert_eq!(ctx.entry(&BLUE), Some(&2));
    assert_eq!(ctx.value::<u64>(), Some(&3));
    assert_eq!(ctx.entry(&NAME), None);
    let covered = ctx.with_entry(&RED, 4);
    assert_eq!(covered.entry(&RED), Some(&4));
    assert_eq!(covered.entry(&BLUE), Some(&2));
    assert_eq!(ctx.entry(&RED), Some(&1));
    assert_eq!(Context::background().with_value(5_u64).entry(&RED), None);
    assert_eq!(Context::background().with_entry(&RED, 5).value::<u64>(), None);
}

#[test]
fn two_keys_of_one_name_are_two_keys() {
    static ONE: Key<u8> = Key::new("same");
    static OTHER: Key<u8> = Key::new("same");
    let ctx = Context::background().with_entry(&ONE, 1);
    assert_eq!(ctx.entry(&ONE), Some(&1));
    assert_eq!(ctx.entry(&OTHER), None);
}

#[test]
fn a_timeout_shows_what_was_asked_for_whatever_its_cause_is_and_whatever_its_parent_was_asked_for()
{
    let (ended, canceller) = Context::background().with_cancel();
    canceller.cancel_with("of another line");
    let cause = ended.cause().unwrap();
    let (given, _given) = Context::background().with_timeout_cause(HOUR, cause);
    assert!(given.to_string().contains("timeout(3600s, "), "{given}");
    // One line makes both; the second has the deadline of the first, which had ended.
    let within = |ctx: &Context, time| ctx.with_timeout(time);
    let (first, canceller) = within(&Context::background(), HOUR);
    canceller.cancel();
    let (second, _second) = within(&first, 2 * HOUR);
    assert_eq!(second.to_string().matches("3600s").count(), 1, "{second}");
}

#[test]
fn values_are_seen_through_every_kind_of_context() {
    let root = Context::background().with_value(UserId(9)).with_entry(&RED, 8);
    let (cancel, _a) = root.with_cancel();
    let (timeout, _b) = cancel.with_timeout(HOUR);
    let (reserve, _c) = timeout.with_reserve(Duration::from_secs(1));
    let (linked, canceller) = reserve.linked(&[&Context::background().with_value(UserId(1))]);
    let detached = linked.without_cancel();
    canceller.cancel();
    for ctx in [&cancel, &timeout, &reserve, &linked, &detached] {
        assert_eq!(ctx.value::<UserId>(), Some(&UserId(9)), "{ctx}");
        assert_eq!(ctx.entry(&RED), Some(&8), "{ctx}");
    }
}

#[test]
fn zero_sized_large_and_aligned_values_come_back_as_they_went_in() {
    #[derive(Debug, PartialEq)]
    struct Nothing;
    #[derive(Debug, PartialEq)]
    #[repr(align(256))]
    struct Aligned(u8);
    let ctx = Context::background()
        .with_value(Nothing)
        .with_value([7_u64; 4096])
        .with_value(Aligned(5))
        .with_value(String::from("text"));
    assert_eq!(ctx.value::<Nothing>(), Some(&Nothing));
    assert_eq!(ctx.value::<[u64; 4096]>(), Some(&[7; 4096]));
    let aligned = ctx.value::<Aligned>().unwrap();
    assert_eq!((aligned, std::ptr::from_ref(aligned).addr() % 256), (&Aligned(5), 0));
    assert_eq!(ctx.value::<String>().unwrap(), "text");
}

#[test]
fn a_thousand_keys_are_told_apart_in_any_order_and_covered_at_any_depth() {
    static KEYS: [Key<usize>; 1000] = [const { Key::new("one of many") }; 1000];
    let mut dice = Dice(42);
    let mut expected = vec![None; KEYS.len()];
    let mut ctx = Context::background();
    let mut snapshots = Vec::new();
    for round in 0..3000 {
        let at = dice.roll(KEYS.len());
        ctx = ctx.with_entry(&KEYS[at], round);
        expected[at] = Some(round);
        if round % 500 == 0 {
            snapshots.push((ctx.clone(), expected.clone()));
        }
    }
    snapshots.push((ctx, expected));
    for (ctx, expected) in snapshots {
        for (key, expected) in KEYS.iter().zip(expected) {
            assert_eq!(ctx.entry(key).copied(), expected);
        }
    }
}

// -------------------------------------------------------------- many threads

#[test]
fn thousands_of_contexts_that_are_all_cancelled_at_once_all_end_and_wake_everybody_once() {
    const THREADS: usize = 8;
    const CONTEXTS: usize = 4096;
    let (root, roots) = Context::background().with_cancel();
    let mut contexts = vec![root];
    let mut cancellers = vec![roots];
    for at in 1..CONTEXTS {
        let (ctx, canceller) = contexts[(at - 1) / 2].with_cancel();
        contexts.push(ctx);
        cancellers.push(canceller);
    }
    let wakes: Vec<_> = contexts.iter().map(|_| Wakes::new()).collect();
    let _waiting: Vec<_> = contexts.iter().zip(&wakes).map(|(ctx, w)| waiting(ctx, w)).collect();
    Dice(1).shuffle(&mut cancellers);
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for share in cancellers.chunks(CONTEXTS / THREADS) {
            scope.spawn(|| {
                barrier.wait();
                share.iter().for_each(Canceller::cancel);
            });
        }
    });
    for (ctx, wakes) in contexts.iter().zip(&wakes) {
        assert_cancelled(ctx, PLAIN);
        assert_eq!(wakes.count(), 1);
    }
}

#[test]
fn cancels_that_wait_for_one_another_across_threads_all_come_through() {
    for _ in 0..200 {
        let (parent, parents) = Context::background().with_cancel();
        let (child, children) = parent.with_cancel();
        let (other, others) = child.linked(&[&parent]);
        // The child's function ends the parent, and the parent's ends the child.
        let again = parents.clone();
        child.after_func(move || again.cancel());
        let again = children.clone();
        parent.after_func(move || again.cancel());
        let start = Barrier::new(4);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                parents.cancel();
            });
            scope.spawn(|| {
                start.wait();
                children.cancel();
            });
            scope.spawn(|| {
                start.wait();
                child.wait();
                others.cancel();
            });
            start.wait();
            assert_eq!(parent.wait(), ContextError::Cancelled);
            assert_eq!(other.wait(), ContextError::Cancelled);
        });
        assert!(child.is_done());
    }
}

#[test]
fn whoever_sees_the_error_sees_the_cause_that_won_and_never_another() {
    const THREADS: usize = 4;
    for _ in 0..200 {
        let (ctx, canceller) = Context::background().with_cancel();
        let (child, _child) = ctx.with_cancel();
        let barrier = Barrier::new(2 * THREADS);
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (barrier, canceller) = (&barrier, &canceller);
                let (ctx, child, seen) = (&ctx, &child, &seen);
                scope.spawn(move || {
                    barrier.wait();
                    canceller.cancel_with(format!("by {number}"));
                    // The loser of the race also finds everything marked.
                    assert!(ctx.is_done() && child.is_done());
                });
                scope.spawn(move || {
                    barrier.wait();
                    while child.err().is_none() {
                        thread::yield_now();
                    }
                    let causes = [child, ctx].map(|ctx| ctx.cause().unwrap().to_string());
                    seen.lock().unwrap().extend(causes);
                });
            }
        });
        let winner = ctx.cause().unwrap().to_string();
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 2 * THREADS);
        assert!(seen.iter().all(|cause| *cause == winner), "{winner}: {seen:?}");
    }
}

#[test]
fn a_done_that_is_ready_and_an_error_that_is_there_are_one_event() {
    for _ in 0..500 {
        let (ctx, canceller) = Context::background().with_cancel();
        let (child, _child) = ctx.with_cancel();
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                canceller.cancel();
            });
            scope.spawn(|| {
                barrier.wait();
                let error = futures::executor::block_on(child.done());
                assert_eq!((child.err(), child.is_done()), (Some(error), true));
            });
            barrier.wait();
            while !child.is_done() {
                thread::yield_now();
            }
            assert_eq!(
                poll(&mut child.done(), &Wakes::new()),
                Poll::Ready(ContextError::Cancelled)
            );
        });
    }
}

#[test]
fn children_derived_while_the_parent_is_being_cancelled_all_end() {
    for _ in 0..100 {
        let (parent, canceller) = Context::background().with_cancel();
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..50 {
                        let (child, _canceller) = parent.with_value(1).with_cancel();
                        let (grandchild, _canceller) = child.with_timeout(HOUR);
                        futures::executor::block_on(async {
                            if parent.is_done() {
                                grandchild.done().await;
                            }
                        });
                    }
                    let (last, _canceller) = parent.with_cancel();
                    assert_eq!(last.wait(), ContextError::Cancelled);
                });
            }
            barrier.wait();
            canceller.cancel();
        });
    }
}

#[test]
fn random_layers_keep_their_values_and_end_together_whatever_is_above() {
    static KEYS: [Key<usize>; 20] = [const { Key::new("layer") }; 20];
    for seed in 1..=50 {
        let mut dice = Dice(seed);
        let mut ctx = Context::background();
        let mut expected = [None; KEYS.len()];
        let mut branches = Vec::new();
        for layer in 0..200 {
            match dice.roll(5) {
                0 | 1 => {
                    let at = dice.roll(KEYS.len());
                    ctx = ctx.with_entry(&KEYS[at], layer);
                    expected[at] = Some(layer);
                    continue;
                }
                2 => branches.push(ctx.with_timeout(HOUR)),
                3 => branches.push(ctx.linked(&[&Context::todo()])),
                _ => branches.push(ctx.with_cancel()),
            }
            ctx = branches.last().unwrap().0.clone();
        }
        let values = || {
            let values = KEYS.iter().zip(expected);
            values.for_each(|(key, value)| assert_eq!(ctx.entry(key).copied(), value, "{seed}"));
        };
        assert_live(&ctx);
        values();
        let cut = dice.roll(branches.len());
        branches[cut].1.cancel_with("cut here");
        for (at, (branch, _)) in branches.iter().enumerate() {
            if at < cut { assert_live(branch) } else { assert_cancelled(branch, "cut here") }
        }
        values();
    }
}

#[test]
fn a_context_is_used_by_many_threads_in_every_way_at_once() {
    let (root, roots) = Context::background().with_value(UserId(1)).with_cancel();
    let barrier = Barrier::new(5);
    thread::scope(|scope| {
        for seed in 1..=4 {
            let (root, barrier) = (&root, &barrier);
            scope.spawn(move || {
                let mut dice = Dice(seed * 1_000_003);
                let mut held: Vec<(Context, Option<Canceller>)> = vec![(root.clone(), None)];
                let wakes = Wakes::new();
                barrier.wait();
                for _ in 0..3_000 {
                    let at = dice.roll(held.len());
                    let ctx = held[at].0.clone();
                    match dice.roll(9) {
                        0 => held.push((ctx.with_value(Tenant("x")), None)),
                        1 => {
                            let (ctx, canceller) = ctx.with_cancel();
                            held.push((ctx, Some(canceller)));
                        }
                        2 => {
                            let other = held[dice.roll(held.len())].0.clone();
                            let (ctx, canceller) = ctx.linked(&[&other, root]);
                            held.push((ctx, Some(canceller)));
                        }
                        3 => drop(poll(&mut ctx.done(), &wakes)),
                        4 => drop(ctx.after_func(|| ())),
                        5 => drop(ctx.after_func(|| ()).stop_and_wait()),
                        6 => held[at].1.iter().for_each(Canceller::cancel),
                        7 if at > 0 => drop(held.swap_remove(at)),
                        _ => assert_eq!(ctx.value::<UserId>(), Some(&UserId(1))),
                    }
                }
            });
        }
        barrier.wait();
        for _ in 0..20 {
            let _ = root.tree().to_string();
        }
    });
    assert_live(&root);
    roots.cancel();
    assert!(root.tree().is_empty());
}

// -------------------------------------------------------------------- causes

#[test]
fn every_row_of_the_cause_table_reads_as_in_go() {
    use ContextError::{Cancelled, DeadlineExceeded};
    type Row =
        (&'static str, fn() -> (Context, Vec<Canceller>), Option<(ContextError, &'static str)>);
    fn both<const N: usize>(ctx: Context, cancellers: [Canceller; N]) -> (Context, Vec<Canceller>) {
        (ctx, cancellers.into())
    }
    let rows: &[Row] = &[
        ("the background", || both(Context::background(), []), None),
        ("todo", || both(Context::todo(), []), None),
        (
            "live",
            || {
                let (ctx, c) = Context::background().with_cancel();
                both(ctx, [c])
            },
            None,
        ),
        (
            "cancelled",
            || {
                let (ctx, c) = Context::background().with_cancel();
                c.cancel();
                both(ctx, [c])
            },
            Some((Cancelled, PLAIN)),
        ),
        (
            "cancelled with a cause",
            || {
                let (ctx, c) = Context::background().with_cancel();
                c.cancel_with("own");
                both(ctx, [c])
            },
            Some((Cancelled, "own")),
        ),
        (
            "cancelled with a cause after it was without",
            || {
                let (ctx, c) = Context::background().with_cancel();
                c.cancel();
                c.cancel_with("own");
                both(ctx, [c])
            },
            Some((Cancelled, PLAIN)),
        ),
        (
            "a value below what was cancelled with a cause",
            || {
                let (ctx, c) = Context::background().with_cancel();
                let valued = ctx.with_value(1);
                c.cancel_with("own");
                both(valued, [c])
            },
            Some((Cancelled, "own")),
        ),
        (
            "parent with a cause, then child with a cause: the child",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (child, c) = parent.with_cancel();
                p.cancel_with("parent's");
                c.cancel_with("child's");
                both(child, [p, c])
            },
            Some((Cancelled, "parent's")),
        ),
        (
            "child with a cause, then parent with a cause: the child",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (child, c) = parent.with_cancel();
                c.cancel_with("child's");
                p.cancel_with("parent's");
                both(child, [p, c])
            },
            Some((Cancelled, "child's")),
        ),
        (
            "child with a cause, then parent with a cause: the parent",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (_child, c) = parent.with_cancel();
                c.cancel_with("child's");
                p.cancel_with("parent's");
                both(parent, [p, c])
            },
            Some((Cancelled, "parent's")),
        ),
        (
            "parent without, then child with a cause: the child",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (child, c) = parent.with_cancel();
                p.cancel();
                c.cancel_with("child's");
                both(child, [p, c])
            },
            Some((Cancelled, PLAIN)),
        ),
        (
            "child without, then parent with a cause: the child",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (child, c) = parent.with_cancel();
                c.cancel();
                p.cancel_with("parent's");
                both(child, [p, c])
            },
            Some((Cancelled, PLAIN)),
        ),
        (
            "child with a cause, parent live: the parent",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (_child, c) = parent.with_cancel();
                c.cancel_with("child's");
                both(parent, [p, c])
            },
            None,
        ),
        (
            "a timeout of nothing",
            || {
                let (ctx, c) = Context::background().with_timeout(Duration::ZERO);
                both(ctx, [c])
            },
            Some((DeadlineExceeded, LATE)),
        ),
        (
            "a timeout with a cause, passed",
            || {
                let (ctx, c) = Context::background().with_timeout_cause(Duration::ZERO, "slow");
                both(ctx, [c])
            },
            Some((DeadlineExceeded, "slow")),
        ),
        (
            "a timeout with a cause, cancelled before",
            || {
                let (ctx, c) = Context::background().with_timeout_cause(HOUR, "slow");
                c.cancel();
                both(ctx, [c])
            },
            Some((Cancelled, PLAIN)),
        ),
        (
            "a timeout with a cause, cancelled with another before",
            || {
                let (ctx, c) = Context::background().with_timeout_cause(HOUR, "slow");
                c.cancel_with("own");
                both(ctx, [c])
            },
            Some((Cancelled, "own")),
        ),
        (
            "a timeout with a cause, cancelled after it passed",
            || {
                let (ctx, c) = Context::background().with_timeout_cause(Duration::ZERO, "slow");
                c.cancel_with("own");
                both(ctx, [c])
            },
            Some((DeadlineExceeded, "slow")),
        ),
        (
            "a timeout without, its parent cancelled with a cause",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (ctx, c) = parent.with_timeout(HOUR);
                p.cancel_with("parent's");
                both(ctx, [p, c])
            },
            Some((Cancelled, "parent's")),
        ),
        (
            "a timeout with a cause, its parent cancelled with another",
            || {
                let (parent, p) = Context::background().with_cancel();
                let (ctx, c) = parent.with_timeout_cause(HOUR, "slow");
                p.cancel_with("parent's");
                both(ctx, [p, c])
            },
            Some((Cancelled, "parent's")),
        ),
        (
            "a child's cause for a deadline later than its parent's",
            || {
                let (parent, p) = Context::background().with_deadline_cause(past(), "parent's");
                let (ctx, c) = parent.with_timeout_cause(HOUR, "never");
                both(ctx, [p, c])
            },
            Some((DeadlineExceeded, "parent's")),
        ),
        (
            "below a deadline that passed with a cause",
            || {
                let (parent, p) = Context::background().with_timeout_cause(Duration::ZERO, "slow");
                let (ctx, c) = parent.with_cancel();
                both(ctx, [p, c])
            },
            Some((DeadlineExceeded, "slow")),
        ),
        (
            "cut off from what was cancelled",
            || {
                let (parent, p) = Context::background().with_cancel();
                p.cancel_with("parent's");
                both(parent.without_cancel(), [p])
            },
            None,
        ),
        (
            "cut off, then cancelled above",
            || {
                let (parent, p) = Context::background().with_cancel();
                let cut = parent.without_cancel();
                p.cancel_with("parent's");
                both(cut, [p])
            },
            None,
        ),
        (
            "cut off, then ended by itself",
            || {
                let (parent, p) = Context::background().with_cancel();
                p.cancel_with("parent's");
                let (ctx, c) = parent.without_cancel().with_timeout_cause(Duration::ZERO, "slow");
                both(ctx, [p, c])
            },
            Some((DeadlineExceeded, "slow")),
        ),
    ];
    for (name, make, expected) in rows {
        let (ctx, _cancellers) = make();
        let told = ctx.err().zip(ctx.cause().map(|cause| cause.to_string()));
        let told = told.as_ref().map(|(error, cause)| (*error, cause.as_str()));
        assert_eq!(told, *expected, "{name}");
        match expected {
            None => assert_live(&ctx),
            Some((error, cause)) => assert_ended(&ctx, *error, cause),
        }
    }
}

#[test]
fn without_cancel_keeps_the_values_and_drops_everything_else() {
    let (parent, canceller) = Context::background().with_value(UserId(4)).with_timeout(HOUR);
    let cut = parent.without_cancel();
    assert_eq!(cut.deadline(), None);
    assert_eq!(cut.remaining(), None);
    canceller.cancel_with("parent's");
    assert_live(&cut);
    assert_eq!(cut.value::<UserId>(), Some(&UserId(4)));
    let (below, own) = cut.with_cancel();
    assert_live(&below);
    assert_eq!(parent.without_cancel().err(), None);
    own.cancel_with("own");
    assert_cancelled(&below, "own");
    assert_live(&cut);
}

#[test]
fn a_cause_can_be_taken_back_as_what_it_was() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with(Broken(7));
    let cause = ctx.cause().unwrap();
    assert_eq!(cause.downcast_ref::<Broken>(), Some(&Broken(7)));
    assert!(cause.downcast_ref::<std::io::Error>().is_none());
    assert_eq!(cause.to_string(), "broken 7");
    assert!(cause.source().is_none());

    let (plain, canceller) = Context::background().with_cancel();
    canceller.cancel();
    assert!(plain.cause().unwrap().downcast_ref::<Broken>().is_none());

    let (late, _c) = Context::background().with_timeout_cause(Duration::ZERO, Broken(8));
    assert_eq!(late.cause().unwrap().downcast_ref::<Broken>(), Some(&Broken(8)));
}

#[test]
fn a_cancelled_reads_as_the_error_and_its_source_is_the_cause() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with(Broken(1));
    let told: Cancelled = ctx.check().unwrap_err();
    assert_eq!(told.to_string(), PLAIN);
    assert_eq!(told.error(), ContextError::Cancelled);
    let source = told.source().expect("the cause");
    let cause = source.downcast_ref::<Cause>().expect("a `Cause`");
    assert_eq!(cause.downcast_ref::<Broken>(), Some(&Broken(1)));
    assert_eq!(source.to_string(), "broken 1");

    let (late, _c) = Context::background().with_timeout_cause(Duration::ZERO, "slow");
    let told = late.check().unwrap_err();
    assert_eq!((told.to_string().as_str(), told.cause().to_string().as_str()), (LATE, "slow"));
    let boxed: BoxError = told.into();
    assert_eq!(boxed.source().unwrap().to_string(), "slow");
}

#[test]
fn errors_read_as_in_go() {
    assert_eq!(ContextError::Cancelled.to_string(), PLAIN);
    assert_eq!(ContextError::DeadlineExceeded.to_string(), LATE);
    assert!(ContextError::Cancelled.source().is_none());
    let copied = ContextError::Cancelled;
    assert_eq!(copied, ContextError::Cancelled);
    assert_ne!(copied, ContextError::DeadlineExceeded);
}

fn origin(ctx: &Context) -> &'static Location<'static> {
    ctx.cause().expect("it has ended").origin().expect("from this crate")
}

#[track_caller]
fn assert_from(ctx: &Context, line: u32) {
    let origin = origin(ctx);
    assert_eq!((origin.file(), origin.line()), (file!(), line));
}

#[test]
fn the_origin_of_a_cancel_is_the_call_that_cancelled() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (below, _below) = ctx.with_timeout(HOUR);
    canceller.cancel();
    assert_from(&ctx, line!() - 1);
    assert_from(&below, line!() - 2);
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("why");
    assert_from(&ctx, line!() - 1);
}

#[test]
fn the_origin_of_a_deadline_is_the_call_that_set_it() {
    let now = quell::rt::now();
    let (ctx, _a) = Context::background().with_timeout(Duration::ZERO);
    assert_from(&ctx, line!() - 1);
    let (below, _b) = ctx.with_timeout_cause(HOUR, "never");
    assert_from(&below, line!() - 3);
    let (ctx, _c) = Context::background().with_timeout_cause(Duration::ZERO, "slow");
    assert_from(&ctx, line!() - 1);
    let (ctx, _d) = Context::background().with_deadline(past());
    assert_from(&ctx, line!() - 1);
    let (ctx, _e) = Context::background().with_deadline_cause(past(), "slow");
    assert_from(&ctx, line!() - 1);
    let (parent, _f) = Context::background().with_deadline(now + HOUR);
    let (ctx, _g) = parent.with_reserve(2 * HOUR);
    assert_from(&ctx, line!() - 1);
    let (late, _h) = Context::background().with_deadline(past());
    let (ctx, _i) = Context::background().linked(&[&late]);
    assert_from(&ctx, line!() - 2);
}

#[test]
fn the_origin_of_a_dropped_canceller_is_the_call_that_made_it() {
    let (ctx, canceller) = Context::background().with_cancel();
    let made = line!() - 1;
    drop(canceller);
    assert_from(&ctx, made);
    let (linked, canceller) = Context::background().linked(&[]);
    let made = line!() - 1;
    drop(canceller);
    assert_from(&linked, made);
}

#[test]
fn a_cause_that_is_passed_on_in_a_box_keeps_its_origin_and_its_error() {
    let (first, one) = Context::background().with_cancel();
    one.cancel_with(Broken(3));
    let from = origin(&first);
    let (second, two) = Context::background().with_cancel();
    let boxed: BoxError = Box::new(first.cause().unwrap());
    two.cancel_with(boxed);
    assert_eq!(origin(&second), from);
    assert_eq!(second.cause().unwrap().downcast_ref::<Broken>(), Some(&Broken(3)));
    // Unboxed it is an error like any other, and is boxed on the way.
    let (third, three) = Context::background().with_cancel();
    three.cancel_with(second.cause().unwrap());
    assert_eq!(origin(&third), from);
    assert_eq!(third.cause().unwrap().downcast_ref::<Broken>(), Some(&Broken(3)));

    // The same for causes without an error of their own.
    let (late, _late) = Context::background().with_timeout(Duration::ZERO);
    let (plain, canceller) = Context::background().with_cancel();
    canceller.cancel();
    for source in [late, plain] {
        let (ctx, canceller) = Context::background().with_cancel();
        canceller.cancel_with(source.cause().unwrap());
        assert_eq!(origin(&ctx), origin(&source));
        assert_cancelled(&ctx, &source.cause().unwrap().to_string());
    }
}

// -------------------------------------------------------------- drop-cancels

#[track_caller]
fn assert_dropped(ctx: &Context, line: u32) {
    assert_eq!(ctx.err(), Some(ContextError::Cancelled));
    let text = ctx.cause().unwrap().to_string();
    assert!(text.contains(PLAIN), "{text}");
    assert!(text.contains(&format!("{}:{line}:", file!())), "it names the line: {text}");
    assert!(text.contains("detach()"), "it says what to do: {text}");
    assert!(text.contains("bind it"), "it says what to do: {text}");
    assert_from(ctx, line);
}

#[test]
fn dropping_the_last_canceller_cancels_and_says_so_for_every_way_to_make_one() {
    let root = Context::background();
    let (timed, _timed) = root.with_timeout(HOUR);
    let line = line!();
    let made = [
        root.with_cancel(),
        root.with_timeout(HOUR),
        root.with_timeout_cause(HOUR, "slow"),
        root.with_deadline(quell::rt::now() + HOUR),
        root.with_deadline_cause(quell::rt::now() + HOUR, "slow"),
        timed.with_reserve(Duration::from_secs(1)),
        root.linked(&[&timed]),
    ];
    for ((ctx, canceller), line) in made.into_iter().zip(line + 2..) {
        let (below, _below) = ctx.with_cancel();
        let wakes = Wakes::new();
        let _done = waiting(&below, &wakes);
        assert_live(&ctx);
        drop(canceller);
        assert_dropped(&ctx, line);
        assert_dropped(&below, line);
        assert_eq!(wakes.count(), 1);
    }
}

#[test]
fn a_canceller_bound_to_an_underscore_ends_the_context_at_once_and_the_cause_explains() {
    let (ctx, _) = Context::background().with_cancel();
    assert_dropped(&ctx, line!() - 1);
}

#[test]
fn only_the_last_clone_of_a_canceller_cancels_when_dropped() {
    let (ctx, one) = Context::background().with_cancel();
    let made = line!() - 1;
    let two = one.clone();
    let three = two.clone();
    drop(one);
    drop(three);
    assert_live(&ctx);
    drop(two);
    assert_dropped(&ctx, made);
}

#[test]
fn detach_disarms_all_clones_and_an_explicit_cancel_still_works() {
    let (ctx, one) = Context::background().with_cancel();
    let two = one.clone();
    let three = two.clone();
    one.detach();
    drop(two);
    assert_live(&ctx);
    let four = three.clone();
    drop(three);
    assert_live(&ctx);
    four.cancel_with("on purpose");
    assert_cancelled(&ctx, "on purpose");

    let (ctx, only) = Context::background().with_cancel();
    only.detach();
    assert_live(&ctx);
    let (parent, parents) = Context::background().with_cancel();
    let (child, canceller) = parent.with_cancel();
    canceller.detach();
    parents.cancel_with("parent's");
    assert_cancelled(&child, "parent's");
}

#[test]
fn a_canceller_works_when_every_handle_of_its_context_is_gone() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (below, _below) = ctx.with_cancel();
    drop(ctx);
    canceller.cancel_with("still here");
    assert_cancelled(&below, "still here");
    let (ctx, canceller) = Context::background().with_cancel();
    let (below, _below) = ctx.with_cancel();
    drop(ctx);
    drop(canceller);
    assert!(below.is_done());
}

#[test]
fn cancellers_cloned_and_dropped_by_many_threads_cancel_once_and_only_at_the_end() {
    for _ in 0..100 {
        let (ctx, canceller) = Context::background().with_cancel();
        let wakes = Wakes::new();
        let _done = waiting(&ctx, &wakes);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (canceller, ctx) = (canceller.clone(), &ctx);
                scope.spawn(move || {
                    for _ in 0..50 {
                        drop(canceller.clone());
                        assert!(!ctx.is_done());
                    }
                });
            }
            drop(canceller);
        });
        assert!(ctx.is_done());
        assert_eq!(wakes.count(), 1);
    }
}

// ------------------------------------------------------------ after-functions

/// Counts its runs.
fn counting(ran: &Arc<AtomicUsize>) -> impl FnOnce() + Send + 'static {
    let ran = Arc::clone(ran);
    move || {
        ran.fetch_add(1, SeqCst);
    }
}

#[test]
fn an_after_function_runs_once_on_the_thread_that_cancels_before_cancel_returns() {
    let (ctx, canceller) = Context::background().with_cancel();
    let ran = Arc::new(Mutex::new(Vec::new()));
    let (log, at_end) = (Arc::clone(&ran), ctx.clone());
    let function = ctx.after_func(move || {
        assert_cancelled(&at_end, "why");
        log.lock().unwrap().push(thread::current().id());
    });
    assert!(ran.lock().unwrap().is_empty());
    canceller.cancel_with("why");
    assert_eq!(*ran.lock().unwrap(), [thread::current().id()]);
    canceller.cancel();
    drop(canceller);
    assert!(!function.stop());
    assert!(!function.stop_and_wait());
    assert_eq!(ran.lock().unwrap().len(), 1);
}

#[test]
fn after_functions_run_for_an_end_from_above_below_values_and_for_a_dropped_canceller() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (parent, parents) = Context::background().with_cancel();
    let (child, _child) = parent.with_timeout(HOUR);
    let valued = child.with_value(1);
    for ctx in [&parent, &child, &valued] {
        ctx.after_func(counting(&ran));
        ctx.after_func(counting(&ran));
    }
    drop(parents);
    assert_eq!(ran.load(SeqCst), 6);
}

#[test]
fn an_after_function_of_a_child_that_ended_first_is_not_run_again_by_the_parent() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (parent, parents) = Context::background().with_cancel();
    let (child, children) = parent.with_cancel();
    child.after_func(counting(&ran));
    children.cancel();
    assert_eq!(ran.load(SeqCst), 1);
    parents.cancel();
    assert_eq!(ran.load(SeqCst), 1);
}

#[test]
fn a_stopped_after_function_never_runs_and_stop_says_which() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (ctx, canceller) = Context::background().with_cancel();
    let stopped = ctx.after_func(counting(&ran));
    let other = ctx.after_func(counting(&ran));
    assert!(stopped.stop());
    assert_eq!(Arc::strong_count(&ran), 2, "what it held is gone when stop returns");
    assert!(!stopped.stop(), "only the first stop stops it");
    assert!(!stopped.stop_and_wait());
    canceller.cancel();
    assert_eq!(ran.load(SeqCst), 1);
    assert!(!stopped.stop());
    assert!(!other.stop(), "it has run");
    assert!(!ctx.after_func(|| ()).stop_and_wait());
    let (live, _live) = Context::background().with_cancel();
    assert!(live.after_func(counting(&ran)).stop_and_wait());
    assert_eq!(ran.load(SeqCst), 1);
}

#[test]
fn an_after_function_of_what_has_ended_runs_here_and_now() {
    let (cancelled, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let (late, _late) = Context::background().with_deadline(past());
    for ctx in [&cancelled, &late, &late.with_value(1), &cancelled.with_timeout(HOUR).0] {
        let (tell, told) = mpsc::channel();
        let function = ctx.after_func(move || tell.send(thread::current().id()).unwrap());
        assert_eq!(told.try_recv(), Ok(thread::current().id()), "{ctx}");
        assert!(!function.stop());
    }
}

#[test]
fn an_after_function_of_what_cannot_end_never_runs() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (ctx, canceller) = Context::background().with_cancel();
    let roots = [Context::background(), Context::todo(), ctx.without_cancel()];
    let functions = roots.each_ref().map(|root| root.after_func(counting(&ran)));
    canceller.cancel();
    drop(roots);
    assert_eq!(ran.load(SeqCst), 0);
    let [first, second, third] = functions;
    assert!(first.stop());
    assert!(second.stop_and_wait());
    drop(third);
    assert_eq!(ran.load(SeqCst), 0);
    assert_eq!(Arc::strong_count(&ran), 1);
}

#[test]
fn stop_and_wait_waits_for_a_function_that_runs_on_another_thread() {
    for _ in 0..50 {
        let (ctx, canceller) = Context::background().with_cancel();
        let (started, has_started) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let returned = Arc::new(AtomicBool::new(false));
        let returns = Arc::clone(&returned);
        let function = ctx.after_func(move || {
            started.send(()).unwrap();
            released.recv().unwrap();
            returns.store(true, SeqCst);
        });
        thread::scope(|scope| {
            scope.spawn(|| canceller.cancel());
            has_started.recv().unwrap();
            assert!(!function.stop(), "it is running; and stop does not wait");
            assert!(!returned.load(SeqCst));
            // The marking does not wait for the function either.
            canceller.cancel();
            let waits = scope.spawn(|| {
                let stopped = function.stop_and_wait();
                (stopped, returned.load(SeqCst))
            });
            release.send(()).unwrap();
            assert_eq!(waits.join().unwrap(), (false, true));
        });
    }
}

#[test]
fn stop_and_wait_inside_its_own_function_returns_false_at_once() {
    let (ctx, canceller) = Context::background().with_cancel();
    let slot = Arc::new(Mutex::new(None::<Arc<AfterFunc>>));
    let (own, said) = (Arc::clone(&slot), Arc::new(Mutex::new(None)));
    let say = Arc::clone(&said);
    let function = ctx.after_func(move || {
        let own = own.lock().unwrap().clone().unwrap();
        *say.lock().unwrap() = Some((own.stop_and_wait(), own.stop()));
    });
    *slot.lock().unwrap() = Some(Arc::new(function));
    canceller.cancel();
    assert_eq!(*said.lock().unwrap(), Some((false, false)));
}

#[test]
fn stop_against_cancel_runs_it_or_stops_it_and_never_both_or_neither() {
    for _ in 0..1_000 {
        let ran = Arc::new(AtomicUsize::new(0));
        let (ctx, canceller) = Context::background().with_cancel();
        let function = ctx.after_func(counting(&ran));
        let barrier = Barrier::new(2);
        let stopped = thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                canceller.cancel();
            });
            barrier.wait();
            function.stop_and_wait()
        });
        assert_eq!(ran.load(SeqCst), usize::from(!stopped));
    }
}

#[test]
fn a_function_that_panics_is_caught_and_stops_no_other_function_and_no_waker() {
    /// Wakers are user code.
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }
    /// So is the payload of a panic.
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("a payload that panics when it is dropped");
            }
        }
    }
    let ran = Arc::new(AtomicUsize::new(0));
    let (ctx, canceller) = Context::background().with_cancel();
    let (child, _child) = ctx.with_cancel();
    let wakes = Wakes::new();
    let mut keep = Vec::new();
    let mut bombs = Vec::new();
    for ctx in [&ctx, &child] {
        keep.push(waiting(ctx, &wakes));
        let mut bomb = ctx.done();
        assert!(poll(&mut bomb, &Arc::new(Bomb)).is_pending());
        bombs.push(bomb);
        keep.push(waiting(ctx, &wakes));
        ctx.after_func(counting(&ran));
        ctx.after_func(|| panic!("a function that panics"));
        ctx.after_func(|| std::panic::panic_any(Payload));
        ctx.after_func(counting(&ran));
    }
    canceller.cancel();
    assert_eq!((wakes.count(), ran.load(SeqCst)), (4, 4));
    assert_cancelled(&child, PLAIN);
    // Run at once, as the context has ended: caught as well.
    let late = ctx.after_func(|| panic!("here and now"));
    assert!(!late.stop_and_wait(), "a function that panicked has run");
}

#[test]
fn a_function_may_use_its_own_context_in_every_way() {
    let (ctx, canceller) = Context::background().with_value(UserId(1)).with_cancel();
    let (sibling, _siblings) = ctx.with_cancel();
    let reached = Arc::new(AtomicBool::new(false));
    let later = ctx.after_func(|| panic!("it is stopped, or has run before"));
    let first = later;
    let reach = Arc::clone(&reached);
    let (within, again) = (ctx.clone(), canceller.clone());
    assert!(first.stop());
    ctx.after_func(move || {
        again.cancel_with("too late");
        assert_eq!(within.cause().unwrap().to_string(), "why");
        let (child, children) = within.with_value(Tenant("x")).with_timeout(HOUR);
        assert_cancelled(&child, "why");
        children.cancel();
        assert!(sibling.is_done(), "everything is marked before any function runs");
        assert!(within.tree().is_empty());
        assert!(within.to_string().ends_with("cancel"));
        let (linked, _linked) = Context::background().linked(&[&within, &sibling]);
        assert_cancelled(&linked, "why");
        let nested = Arc::new(AtomicBool::new(false));
        let nest = Arc::clone(&nested);
        within.after_func(move || nest.store(true, SeqCst));
        assert!(nested.load(SeqCst), "here and now");
        assert_eq!(within.wait(), ContextError::Cancelled);
        assert_eq!(within.wait_timeout(HOUR), Some(ContextError::Cancelled));
        assert!(futures::executor::block_on(within.run(async { 1 })).is_err());
        reach.store(true, SeqCst);
    });
    canceller.cancel_with("why");
    assert!(reached.load(SeqCst), "and nothing in it failed");
}

#[test]
fn a_waker_may_use_the_tree() {
    struct Meddling(Context, Canceller, AtomicUsize);
    impl Wake for Meddling {
        fn wake(self: Arc<Self>) {
            assert!(self.0.is_done());
            let (child, _child) = self.0.with_cancel();
            assert!(child.is_done());
            self.1.cancel();
            assert!(self.0.tree().is_empty());
            self.0.after_func(|| ());
            self.2.fetch_add(1, SeqCst);
        }
    }
    let (ctx, canceller) = Context::background().with_cancel();
    let waker = Arc::new(Meddling(ctx.clone(), canceller.clone(), AtomicUsize::new(0)));
    let mut done = ctx.done();
    assert!(poll(&mut done, &waker).is_pending());
    canceller.cancel();
    assert_eq!(waker.2.load(SeqCst), 1);
}

// -------------------------------------------------------------------- linked

#[test]
fn linked_ends_with_the_first_of_its_parents_with_its_error_and_cause() {
    for first in 0..4 {
        let (own, o) = Context::background().with_cancel();
        let (one, a) = Context::background().with_cancel();
        let (two, b) = Context::background().with_cancel();
        let (linked, l) = own.linked(&[&one, &two.with_value(1)]);
        let (below, _below) = linked.with_cancel();
        let wakes = Wakes::new();
        let _done = waiting(&below, &wakes);
        let cancellers = [&o, &a, &b, &l];
        cancellers[first].cancel_with(format!("by {first}"));
        assert_eq!(wakes.count(), 1);
        for later in (0..4).filter(|&later| later != first) {
            cancellers[later].cancel_with(format!("by {later}"));
        }
        assert_cancelled(&linked, &format!("by {first}"));
        assert_cancelled(&below, &format!("by {first}"));
        assert_eq!(wakes.count(), 1);
        assert_cancelled(&one, "by 1");
    }
}

#[test]
fn the_end_of_a_linked_context_ends_none_of_its_parents() {
    let (own, _o) = Context::background().with_cancel();
    let (one, _a) = Context::background().with_cancel();
    let (linked, canceller) = own.linked(&[&one]);
    canceller.cancel();
    assert!(linked.is_done());
    assert_live(&own);
    assert_live(&one);
}

#[test]
fn of_several_that_have_ended_already_self_counts_first_then_the_others_in_order() {
    let ended = |cause: &'static str| {
        let (ctx, canceller) = Context::background().with_cancel();
        canceller.cancel_with(cause);
        ctx
    };
    let (own, one, two) = (ended("own"), ended("one"), ended("two"));
    let (late, _late) = Context::background().with_deadline_cause(past(), "late");
    let live = Context::background();
    let (open, _open) = Context::background().with_cancel();
    assert_cancelled(&own.linked(&[&one, &two]).0, "own");
    assert_cancelled(&live.linked(&[&one, &two]).0, "one");
    assert_cancelled(&live.linked(&[&two, &one]).0, "two");
    assert_cancelled(&live.linked(&[&open, &two, &one]).0, "two");
    assert_cancelled(&open.linked(&[&live, &one]).0, "one");
    assert_ended(&open.linked(&[&late, &one]).0, ContextError::DeadlineExceeded, "late");
    assert_cancelled(&open.linked(&[&one, &late]).0, "one");
    assert_cancelled(&own.linked(&[&late]).0, "own");
    assert_ended(&late.linked(&[&own]).0, ContextError::DeadlineExceeded, "late");
    // Ended while a task waits for it, which is another way to have ended.
    let (watched, canceller) = Context::background().with_cancel();
    let _done = waiting(&watched, &Wakes::new());
    canceller.cancel_with("watched");
    assert_cancelled(&open.linked(&[&watched, &one]).0, "watched");
    assert_cancelled(&open.linked(&[&one, &watched]).0, "one");
}

#[test]
fn a_linked_context_has_the_earliest_deadline_of_all() {
    let now = quell::rt::now();
    let with = |hours: u32| Context::background().with_deadline(now + hours * HOUR);
    let ((one, _a), (two, _b), (three, _c)) = (with(1), with(2), with(3));
    let none = Context::background();
    let deadline = |own: &Context, others: &[&Context]| own.linked(others).0.deadline();
    assert_eq!(deadline(&one, &[&two, &three]), Some(now + HOUR));
    assert_eq!(deadline(&three, &[&one, &two]), Some(now + HOUR));
    assert_eq!(deadline(&three, &[&two, &one]), Some(now + HOUR));
    assert_eq!(deadline(&none, &[&two, &three]), Some(now + 2 * HOUR));
    assert_eq!(deadline(&two, &[&none]), Some(now + 2 * HOUR));
    assert_eq!(deadline(&none, &[&none]), None);
    assert_eq!(deadline(&none, &[]), None);
    assert_eq!(deadline(&none, &[&none.linked(&[&two]).0]), Some(now + 2 * HOUR));
}

#[test]
fn the_values_of_a_linked_context_come_from_self_only() {
    let own = Context::background().with_value(UserId(1));
    let (other, _o) =
        Context::background().with_value(UserId(2)).with_value(Tenant("x")).with_cancel();
    let (linked, _l) = own.linked(&[&other]);
    assert_eq!(linked.value::<UserId>(), Some(&UserId(1)));
    assert_eq!(linked.value::<Tenant>(), None);
    let (linked, _l) = Context::background().linked(&[&other]);
    assert_eq!(linked.value::<UserId>(), None);
}

#[test]
fn linking_to_relatives_to_itself_and_to_the_same_twice_is_harmless() {
    let (root, roots) = Context::background().with_cancel();
    let (child, children) = root.with_cancel();
    let (twice, _a) = root.linked(&[&child, &child, &root]);
    let (to_above, _b) = child.linked(&[&root]);
    let (chain, _c) = twice.linked(&[&to_above, &twice]);
    assert_live(&chain);
    children.cancel_with("child's");
    assert_cancelled(&twice, "child's");
    assert_cancelled(&to_above, "child's");
    assert_cancelled(&chain, "child's");
    assert_live(&root);
    drop(chain);
    drop(twice);
    roots.cancel();
    assert_cancelled(&to_above, "child's");
}

#[test]
fn a_linked_context_that_is_dropped_leaves_all_its_parents() {
    let (own, _o) = Context::background().with_cancel();
    let (other, others) = Context::background().with_cancel();
    let wakes = Wakes::new();
    // Each look at a tree goes over all contexts of all tests.
    for _ in 0..20 {
        let (linked, canceller) = own.linked(&[&other, &own]);
        canceller.detach();
        let done = waiting(&linked, &wakes);
        assert_eq!(own.tree().len(), 1, "listed once, below self");
        assert_eq!(other.tree().len(), 0);
        drop(linked);
        drop(done);
    }
    assert!(own.tree().is_empty());
    assert_eq!(Arc::strong_count(&wakes), 1);
    others.cancel();
    assert_eq!(wakes.count(), 0);
}

#[test]
fn all_parents_of_a_linked_context_cancelled_at_once_end_it_once_with_one_cause() {
    for _ in 0..300 {
        let made: Vec<_> = (0..4).map(|_| Context::background().with_cancel()).collect();
        let others: Vec<_> = made[1..].iter().map(|(ctx, _)| ctx).collect();
        let (linked, _l) = made[0].0.linked(&others);
        let (below, _below) = linked.with_cancel();
        let (wakes, ran) = (Wakes::new(), Arc::new(AtomicUsize::new(0)));
        let _done = waiting(&below, &wakes);
        linked.after_func(counting(&ran));
        let barrier = Barrier::new(made.len());
        thread::scope(|scope| {
            for (number, (_, canceller)) in made.iter().enumerate() {
                let (barrier, linked, below) = (&barrier, &linked, &below);
                scope.spawn(move || {
                    barrier.wait();
                    canceller.cancel_with(format!("by {number}"));
                    assert!(linked.is_done() && below.is_done(), "marked when cancel returns");
                });
            }
        });
        assert_eq!((wakes.count(), ran.load(SeqCst)), (1, 1));
        let cause = linked.cause().unwrap();
        assert_cancelled(&below, &cause.to_string());
    }
}

// ---------------------------------------------- reserves and strange durations

#[test]
fn a_reserve_moves_the_deadline_forward_by_what_is_kept() {
    let at = quell::rt::now() + HOUR;
    let (parent, _p) = Context::background().with_deadline(at);
    let keep = Duration::from_secs(600);
    let (ctx, _c) = parent.with_reserve(keep);
    assert_eq!(ctx.deadline(), Some(at - keep));
    assert_live(&ctx);
    let (twice, _t) = ctx.with_reserve(keep);
    assert_eq!(twice.deadline(), Some(at - 2 * keep));
    assert_eq!(parent.with_reserve(Duration::ZERO).0.deadline(), Some(at));
}

#[test]
fn a_reserve_without_a_deadline_above_has_none() {
    let (ctx, canceller) = Context::background().with_reserve(HOUR);
    assert_eq!(ctx.deadline(), None);
    assert_live(&ctx);
    canceller.cancel();
    assert_cancelled(&ctx, PLAIN);
    assert_eq!(Context::background().with_reserve(Duration::MAX).0.deadline(), None);
}

#[test]
fn a_reserve_of_more_than_is_left_is_done_at_once_and_its_parent_is_not() {
    let (parent, _p) = Context::background().with_timeout_cause(HOUR, "slow");
    for keep in [HOUR, 2 * HOUR, Duration::MAX] {
        let (ctx, _c) = parent.with_reserve(keep);
        assert_ended(&ctx, ContextError::DeadlineExceeded, LATE);
    }
    assert_live(&parent);
}

#[test]
fn a_duration_without_end_is_no_deadline_and_never_a_panic() {
    let root = Context::background();
    for (ctx, canceller) in [
        root.with_timeout(Duration::MAX),
        root.with_timeout_cause(Duration::MAX, "never"),
        root.with_timeout(Duration::from_secs(u64::MAX)),
    ] {
        assert_eq!(ctx.deadline(), None);
        assert_eq!(ctx.remaining(), None);
        assert_live(&ctx);
        let _ = format!("{ctx} {ctx:?}");
        thread::scope(|scope| {
            let waits = scope.spawn(|| ctx.wait_timeout(Duration::MAX));
            canceller.cancel();
            assert_eq!(waits.join().unwrap(), Some(ContextError::Cancelled));
        });
    }
    let (parent, _p) = root.with_timeout(HOUR);
    assert_eq!(parent.with_timeout(Duration::MAX).0.deadline(), parent.deadline());
}

#[test]
fn instants_at_the_ends_of_the_clock_are_taken() {
    // As far away as this clock can represent.
    let mut step = Duration::from_secs(1 << 40);
    let (mut earliest, mut latest) = (Instant::now(), Instant::now());
    while !step.is_zero() {
        earliest = earliest.checked_sub(step).unwrap_or(earliest);
        latest = latest.checked_add(step).unwrap_or(latest);
        step /= 2;
    }
    let (ctx, _c) = Context::background().with_deadline_cause(earliest, "long ago");
    assert_ended(&ctx, ContextError::DeadlineExceeded, "long ago");
    assert_eq!(ctx.remaining(), Some(Duration::ZERO));
    assert_eq!(ctx.deadline(), Some(earliest));
    let (reserve, _c) = ctx.with_reserve(HOUR);
    assert!(reserve.is_done());
    let _ = format!("{reserve} {reserve:?}");

    let (ctx, canceller) = Context::background().with_deadline(latest);
    assert_live(&ctx);
    let done = waiting(&ctx, &Wakes::new());
    assert_eq!(ctx.wait_timeout(Duration::ZERO), None);
    assert_eq!(ctx.with_reserve(HOUR).0.deadline(), Some(latest - HOUR));
    let _ = format!("{ctx} {ctx:?}");
    canceller.cancel();
    assert_eq!(ctx.wait(), ContextError::Cancelled);
    drop(done);
}

#[test]
fn a_later_deadline_than_the_parents_is_the_parents() {
    let at = quell::rt::now() + HOUR;
    let (parent, _p) = Context::background().with_deadline(at);
    let (later, _l) = parent.with_deadline_cause(at + HOUR, "never");
    let (earlier, _e) = parent.with_deadline(at - Duration::from_secs(1));
    assert_eq!(later.deadline(), Some(at));
    assert_eq!(earlier.deadline(), Some(at - Duration::from_secs(1)));
    assert_eq!(later.with_value(1).with_cancel().0.deadline(), Some(at));
    assert!(later.remaining().unwrap() <= HOUR);
}

// --------------------------------------------------------------- run and done

/// Takes one step a poll.
struct Scripted<'a> {
    steps: Vec<Box<dyn FnOnce() -> Poll<u32> + 'a>>,
    polls: &'a Cell<usize>,
    dropped: &'a Cell<bool>,
}

impl Future for Scripted<'_> {
    type Output = u32;
    fn poll(mut self: Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> Poll<u32> {
        self.polls.set(self.polls.get() + 1);
        self.steps.remove(0)()
    }
}

impl Drop for Scripted<'_> {
    fn drop(&mut self) {
        self.dropped.set(true);
    }
}

#[test]
fn run_gives_what_the_future_gave_even_where_the_context_ended_in_the_same_poll() {
    let (polls, dropped) = (Cell::new(0), Cell::new(false));
    let (ctx, canceller) = Context::background().with_cancel();
    let future = Scripted {
        steps: vec![Box::new(|| {
            canceller.cancel();
            Poll::Ready(7)
        })],
        polls: &polls,
        dropped: &dropped,
    };
    let answer = poll(&mut pin!(ctx.run(future)), &Wakes::new());
    assert!(matches!(answer, Poll::Ready(Ok(7))), "{answer:?}");
    assert!(dropped.get());
    assert!(ctx.is_done());
}

#[test]
fn run_drops_the_future_unpolled_where_the_context_has_ended() {
    let (polls, dropped) = (Cell::new(0), Cell::new(false));
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("before");
    let future = Scripted { steps: vec![], polls: &polls, dropped: &dropped };
    let mut run = pin!(ctx.run(future));
    assert!(!dropped.get());
    match poll(&mut run, &Wakes::new()) {
        Poll::Ready(Err(told)) => assert_eq!(told.cause().to_string(), "before"),
        other => panic!("{other:?}"),
    }
    assert_eq!((polls.get(), dropped.get()), (0, true), "dropped before `Run` itself is");
}

#[test]
fn run_looks_at_the_context_before_every_poll_and_is_woken_by_its_end() {
    let (polls, dropped) = (Cell::new(0), Cell::new(false));
    let (ctx, canceller) = Context::background().with_cancel();
    let future = Scripted {
        steps: vec![Box::new(|| Poll::Pending), Box::new(|| Poll::Pending)],
        polls: &polls,
        dropped: &dropped,
    };
    let wakes = Wakes::new();
    let mut run = pin!(ctx.run(future));
    assert!(poll(&mut run, &wakes).is_pending());
    assert!(poll(&mut run, &wakes).is_pending());
    assert_eq!(wakes.count(), 0);
    canceller.cancel_with("stop");
    assert_eq!((wakes.count(), polls.get(), dropped.get()), (1, 2, false));
    let answer = poll(&mut run, &wakes);
    assert!(matches!(&answer, Poll::Ready(Err(told)) if told.cause().to_string() == "stop"));
    assert_eq!((polls.get(), dropped.get()), (2, true));
    assert_eq!(Arc::strong_count(&wakes), 1, "no waker is left behind");
}

#[test]
fn run_ends_in_the_very_poll_in_which_the_future_ended_the_context_and_waits_on() {
    let (polls, dropped) = (Cell::new(0), Cell::new(false));
    let (ctx, canceller) = Context::background().with_cancel();
    let future = Scripted {
        steps: vec![Box::new(|| {
            canceller.cancel();
            Poll::Pending
        })],
        polls: &polls,
        dropped: &dropped,
    };
    assert!(matches!(poll(&mut pin!(ctx.run(future)), &Wakes::new()), Poll::Ready(Err(_))));
    assert!(dropped.get());
}

#[test]
fn run_that_finished_or_was_dropped_leaves_no_waker_behind() {
    let (ctx, canceller) = Context::background().with_cancel();
    let wakes = Wakes::new();
    let (send, receive) = futures::channel::oneshot::channel();
    let mut run = pin!(ctx.run(receive));
    assert!(poll(&mut run, &wakes).is_pending());
    send.send(5).unwrap();
    let woken = wakes.count();
    assert!(matches!(poll(&mut run, &wakes), Poll::Ready(Ok(Ok(5)))));
    let mut dropped = Box::pin(ctx.run(std::future::pending::<()>()));
    assert!(poll(&mut dropped, &wakes).is_pending());
    drop(dropped);
    canceller.cancel();
    assert_eq!(wakes.count(), woken);
}

#[test]
fn a_done_polled_again_answers_again_and_says_that_it_is_terminated() {
    let (ctx, canceller) = Context::background().with_cancel();
    let wakes = Wakes::new();
    let mut done = waiting(&ctx, &wakes);
    assert!(!done.is_terminated());
    canceller.cancel();
    assert!(!done.is_terminated(), "nobody has been told yet");
    for _ in 0..3 {
        assert_eq!(poll(&mut done, &wakes), Poll::Ready(ContextError::Cancelled));
        assert!(done.is_terminated());
    }
    assert_eq!(wakes.count(), 1);
    let mut never = Context::background().done();
    assert!(poll(&mut never, &wakes).is_pending());
    assert!(!never.is_terminated());
}

#[test]
fn a_waker_replaced_between_polls_is_the_one_that_is_woken() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (old, new) = (Wakes::new(), Wakes::new());
    let mut done = waiting(&ctx, &old);
    assert!(poll(&mut done, &old).is_pending());
    assert!(poll(&mut done, &new).is_pending());
    assert_eq!(Arc::strong_count(&old), 1, "the one replaced is gone");
    canceller.cancel();
    assert_eq!((old.count(), new.count()), (0, 1));
}

#[test]
fn dropping_a_done_takes_its_waker_back_and_leaves_all_others() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (mine, others) = (Wakes::new(), Wakes::new());
    let _before = waiting(&ctx, &others);
    let done = waiting(&ctx, &mine);
    let _after = waiting(&ctx, &others);
    assert_eq!(Arc::strong_count(&mine), 2);
    drop(done);
    assert_eq!(Arc::strong_count(&mine), 1);
    canceller.cancel();
    assert_eq!((mine.count(), others.count()), (0, 2));
    assert_eq!(Arc::strong_count(&others), 1, "and an end takes all of them");
}

#[test]
fn a_done_that_outlives_every_handle_still_ends_with_the_parent() {
    let (parent, parents) = Context::background().with_cancel();
    let (child, canceller) = parent.with_cancel();
    canceller.detach();
    let wakes = Wakes::new();
    let mut done = waiting(&child, &wakes);
    drop((child, parent));
    parents.cancel();
    assert_eq!(wakes.count(), 1);
    assert_eq!(poll(&mut done, &wakes), Poll::Ready(ContextError::Cancelled));
}

#[test]
fn done_works_in_a_select_of_another_library() {
    let (ctx, canceller) = Context::background().with_cancel();
    futures::executor::block_on(async {
        let mut done = ctx.done();
        let mut ready = futures::future::ready(1);
        let first = futures::select_biased! { _ = done => 0, one = ready => one };
        assert_eq!(first, 1);
        canceller.cancel();
        let second = futures::select_biased! { _ = done => 2, complete => 3 };
        assert_eq!(second, 2);
        let third = futures::select_biased! { _ = done => 2, complete => 3 };
        assert_eq!(third, 3);
    });
}

#[test]
fn check_stops_a_loop_with_a_question_mark() {
    let (ctx, canceller) = Context::background().with_cancel();
    let mut turns = 0;
    let mut work = || -> Result<(), BoxError> {
        loop {
            ctx.check()?;
            turns += 1;
            if turns == 10 {
                canceller.cancel_with(Broken(10));
            }
        }
    };
    let told = work().unwrap_err();
    assert_eq!(told.downcast_ref::<Cancelled>().unwrap().cause().to_string(), "broken 10");
    assert_eq!(turns, 10);
}

// --------------------------------------------------------------- no lock held

/// Uses a tree in every way when it is dropped: if quell held one of its locks
/// meanwhile, that would hang for ever.
struct Meddler {
    ctx: Context,
    canceller: Canceller,
    ran: Arc<AtomicUsize>,
}

impl Meddler {
    fn new(ctx: &Context, canceller: &Canceller, ran: &Arc<AtomicUsize>) -> Self {
        Meddler { ctx: ctx.clone(), canceller: canceller.clone(), ran: Arc::clone(ran) }
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let (child, children) = self.ctx.with_value(UserId(1)).with_cancel();
        let wakes = Wakes::new();
        let _ = poll(&mut child.done(), &wakes);
        child.after_func(|| ()).stop();
        children.cancel();
        assert!(child.is_done());
        let _ = (self.ctx.err(), self.ctx.cause(), self.ctx.tree().to_string());
        let (linked, _linked) = child.linked(&[&self.ctx]);
        assert!(linked.is_done());
        self.canceller.cancel();
        assert!(self.ctx.is_done());
        self.ran.fetch_add(1, SeqCst);
    }
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddler")
    }
}

impl fmt::Display for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("meddler")
    }
}

impl Error for Meddler {}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn values_are_dropped_where_they_may_use_the_tree() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (ctx, canceller) = Context::background().with_cancel();
    let (root, roots) = Context::background().with_cancel();
    // One of another tree, one of the tree it is in, and one deeper in that tree.
    let first = root.with_value(Meddler::new(&ctx, &canceller, &ran));
    let second = root.with_value(Meddler::new(&root, &roots, &ran));
    let (third, thirds) = root.with_cancel();
    thirds.detach();
    let third = third.with_value(Meddler::new(&root, &roots, &ran)).without_cancel();
    drop(first);
    assert_eq!((ran.load(SeqCst), ctx.is_done()), (1, true));
    drop(third);
    assert_eq!((ran.load(SeqCst), root.is_done()), (2, true));
    drop(second);
    assert_eq!(ran.load(SeqCst), 3);
}

#[test]
fn wakers_are_dropped_where_they_may_use_the_tree() {
    let ran = Arc::new(AtomicUsize::new(0));
    let make = || Context::background().with_cancel();
    // Replaced by another.
    let (ctx, canceller) = make();
    let mut done = ctx.done();
    assert!(poll(&mut done, &Arc::new(Meddler::new(&ctx, &canceller, &ran))).is_pending());
    let _ = poll(&mut done, &Wakes::new());
    assert_eq!((ran.load(SeqCst), ctx.is_done()), (1, true));
    // Taken back with the future.
    let (ctx, canceller) = make();
    let mut done = ctx.done();
    assert!(poll(&mut done, &Arc::new(Meddler::new(&ctx, &canceller, &ran))).is_pending());
    drop(done);
    assert_eq!((ran.load(SeqCst), ctx.is_done()), (2, true));
    // Woken by an end from above.
    let (parent, parents) = make();
    let (ctx, canceller) = parent.with_cancel();
    let mut done = ctx.done();
    assert!(poll(&mut done, &Arc::new(Meddler::new(&ctx, &canceller, &ran))).is_pending());
    parents.cancel();
    assert_eq!(ran.load(SeqCst), 3);
    // Refused, because it has ended.
    let waker = Arc::new(Meddler::new(&ctx, &canceller, &ran));
    assert!(poll(&mut ctx.done(), &waker).is_ready());
    drop(waker);
    assert_eq!(ran.load(SeqCst), 4);
}

#[test]
fn causes_are_dropped_where_they_may_use_the_tree() {
    let ran = Arc::new(AtomicUsize::new(0));
    // One that came too late, on a context that nothing watches and on one with waiters.
    let (ctx, canceller) = Context::background().with_cancel();
    let (watched, watchers) = ctx.with_cancel();
    let _done = waiting(&watched, &Wakes::new());
    watchers.cancel_with("first");
    watchers.cancel_with(Meddler::new(&ctx, &canceller, &ran));
    assert_eq!((ran.load(SeqCst), ctx.is_done()), (1, true));
    canceller.cancel_with(Meddler::new(&ctx, &canceller, &ran));
    assert_eq!(ran.load(SeqCst), 2);
    // One that won is dropped with the last context that ended with it. It holds other
    // contexts than those, since it would keep them alive.
    let (other, others) = Context::background().with_cancel();
    let (parent, parents) = Context::background().with_cancel();
    let (child, _child) = parent.with_cancel();
    let _done = waiting(&child, &Wakes::new());
    parents.cancel_with(Meddler::new(&other, &others, &ran));
    assert_eq!(child.cause().unwrap().to_string(), "meddler");
    assert_eq!(ran.load(SeqCst), 2);
    drop((child, parent, parents, _child, _done));
    assert_eq!((ran.load(SeqCst), other.is_done()), (3, true));
    // One of a deadline that never took effect: later than the parent's, or none at all.
    let (other, others) = Context::background().with_cancel();
    let (timed, _timed) = Context::background().with_timeout(HOUR);
    drop(timed.with_timeout_cause(2 * HOUR, Meddler::new(&other, &others, &ran)));
    assert_eq!(ran.load(SeqCst), 4);
    drop(timed.with_timeout_cause(Duration::MAX, Meddler::new(&other, &others, &ran)));
    assert_eq!(ran.load(SeqCst), 5);
    // One of a deadline that was cancelled.
    let (late, canceller) = timed.with_timeout_cause(HOUR / 2, Meddler::new(&other, &others, &ran));
    canceller.cancel();
    drop((late, canceller));
    assert_eq!(ran.load(SeqCst), 6);
}

#[test]
fn after_functions_are_dropped_where_they_may_use_the_tree() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (ctx, canceller) = Context::background().with_cancel();
    let (other, others) = Context::background().with_cancel();
    let meddler = Meddler::new(&ctx, &canceller, &ran);
    let stopped = ctx.after_func(move || drop(meddler));
    assert!(stopped.stop());
    assert_eq!((ran.load(SeqCst), ctx.is_done()), (1, true));
    let meddler = Meddler::new(&other, &others, &ran);
    other.after_func(move || drop(meddler));
    others.cancel();
    assert_eq!(ran.load(SeqCst), 2);
    let meddler = Meddler::new(&other, &others, &ran);
    drop(Context::background().after_func(move || drop(meddler)));
    assert_eq!(ran.load(SeqCst), 3);
}

#[test]
fn futures_are_dropped_where_they_may_use_the_tree() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (ctx, canceller) = Context::background().with_cancel();
    let meddler = Meddler::new(&ctx, &canceller, &ran);
    let mut run = Box::pin(ctx.run(async move {
        std::future::pending::<()>().await;
        drop(meddler);
    }));
    assert!(poll(&mut run, &Wakes::new()).is_pending());
    drop(run);
    assert_eq!((ran.load(SeqCst), ctx.is_done()), (1, true));
    let meddler = Meddler::new(&ctx, &canceller, &ran);
    let answer = futures::executor::block_on(ctx.run(async move { drop(meddler) }));
    assert!(answer.is_err());
    assert_eq!(ran.load(SeqCst), 2);
}

// -------------------------------------------------------- a million contexts

const MILLION: usize = 1_000_000;

/// Runs `work` on a thread whose stack is small for a recursion a million deep.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(2 << 20);
    thread.spawn(work).unwrap().join().unwrap();
}

/// A chain of contexts, each derived from the one before.
fn chain(
    length: usize,
    derive: impl Fn(&Context) -> (Context, Canceller),
) -> (Vec<Context>, Vec<Canceller>) {
    let mut contexts: Vec<Context> = Vec::with_capacity(length);
    let mut cancellers = Vec::with_capacity(length);
    let root = Context::background();
    for _ in 0..length {
        let (ctx, canceller) = derive(contexts.last().unwrap_or(&root));
        contexts.push(ctx);
        cancellers.push(canceller);
    }
    (contexts, cancellers)
}

#[test]
fn a_chain_of_a_million_is_cancelled_from_its_root_and_dropped_root_first() {
    on_a_small_stack(|| {
        let (contexts, cancellers) = chain(MILLION, Context::with_cancel);
        let wakes = Wakes::new();
        let mut done = waiting(contexts.last().unwrap(), &wakes);
        cancellers[0].cancel_with("from the root");
        assert_eq!(wakes.count(), 1);
        assert_eq!(poll(&mut done, &wakes), Poll::Ready(ContextError::Cancelled));
        assert!(contexts.iter().all(Context::is_done));
        assert_eq!(contexts.last().unwrap().cause().unwrap().to_string(), "from the root");
        drop(done);
        // Both lists are dropped from the front.
        drop(cancellers);
        drop(contexts);
    });
}

#[test]
fn a_chain_of_a_million_is_dropped_leaf_first_or_all_at_once_without_having_ended() {
    on_a_small_stack(|| {
        let (mut contexts, mut cancellers) = chain(MILLION, Context::with_cancel);
        let root = contexts[0].clone();
        let wakes = Wakes::new();
        let done = waiting(contexts.last().unwrap(), &wakes);
        cancellers.drain(..).for_each(Canceller::detach);
        // Half of them one by one, leaf first.
        drop(done);
        for _ in 0..MILLION / 2 {
            contexts.pop();
        }
        assert_eq!(wakes.count(), 0);
        // Then only the leaf of the rest is held, and it holds all the others.
        let leaf = contexts.pop().unwrap();
        drop(contexts);
        assert_live(&leaf);
        drop(leaf);
        assert!(root.tree().is_empty());
    });
}

#[test]
fn a_chain_of_a_million_whose_cancellers_are_dropped_leaf_first_ends_from_the_leaf_up() {
    on_a_small_stack(|| {
        let (mut contexts, mut cancellers) = chain(MILLION, Context::with_cancel);
        let _done = waiting(contexts.last().unwrap(), &Wakes::new());
        while let Some(canceller) = cancellers.pop() {
            drop(canceller);
        }
        assert!(contexts.iter().all(Context::is_done));
        let mut dice = Dice(99);
        dice.shuffle(&mut contexts);
        drop(contexts);
    });
}

#[test]
fn a_chain_of_a_million_deadlines_ends_and_is_dropped() {
    on_a_small_stack(|| {
        let at = quell::rt::now() + 2 * HOUR;
        let made = Cell::new(0_u32);
        let (contexts, cancellers) = chain(MILLION, |parent| {
            made.set(made.get() + 1);
            // Slightly earlier than the one above, so that each has a deadline of its own.
            parent.with_deadline(at - Duration::from_nanos(made.get().into()))
        });
        let leaf = contexts.last().unwrap();
        assert_eq!(leaf.deadline(), Some(at - Duration::from_millis(1)));
        let wakes = Wakes::new();
        let _done = waiting(leaf, &wakes);
        cancellers[0].cancel();
        assert_eq!(wakes.count(), 1);
        assert_cancelled(leaf, PLAIN);
        drop(contexts);
        drop(cancellers);
    });
}

#[test]
fn a_chain_of_a_million_after_functions_all_run() {
    on_a_small_stack(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let (contexts, cancellers) = chain(MILLION, |parent| {
            let (ctx, canceller) = parent.with_cancel();
            ctx.after_func(counting(&ran));
            (ctx, canceller)
        });
        drop(contexts);
        cancellers[0].cancel();
        assert_eq!(ran.load(SeqCst), MILLION);
        assert_eq!(Arc::strong_count(&ran), 1);
        drop(cancellers);
    });
}

#[test]
fn a_million_functions_each_of_which_ends_the_next_context_all_run() {
    on_a_small_stack(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let (mut last, first) = Context::background().with_cancel();
        for _ in 0..MILLION {
            let (next, canceller) = Context::background().with_cancel();
            let count = counting(&ran);
            last.after_func(move || {
                canceller.cancel();
                count();
            });
            last = next;
        }
        first.cancel();
        assert!(last.is_done());
        assert_eq!(ran.load(SeqCst), MILLION);
        assert_eq!(Arc::strong_count(&ran), 1);
    });
}

#[test]
fn a_million_wakers_each_of_which_ends_the_next_context_are_all_woken() {
    struct Ends(Canceller, Arc<AtomicUsize>);
    impl Wake for Ends {
        fn wake(self: Arc<Self>) {
            self.0.cancel();
            self.1.fetch_add(1, SeqCst);
        }
    }
    on_a_small_stack(|| {
        let woken = Arc::new(AtomicUsize::new(0));
        let (mut last, first) = Context::background().with_cancel();
        let mut waiting = Vec::with_capacity(MILLION);
        for _ in 0..MILLION {
            let (next, canceller) = Context::background().with_cancel();
            let mut done = last.done();
            assert!(poll(&mut done, &Arc::new(Ends(canceller, Arc::clone(&woken)))).is_pending());
            waiting.push(done);
            last = next;
        }
        first.cancel();
        assert!(last.is_done());
        assert_eq!(woken.load(SeqCst), MILLION);
    });
}

#[test]
#[cfg(feature = "tokio-util")]
fn two_hundred_thousand_contexts_each_of_which_ends_the_next_by_a_token_all_end() {
    on_a_small_stack(|| {
        let (first, canceller) = Context::background().with_cancel();
        let mut all = vec![first];
        for _ in 0..MILLION / 5 {
            let (next, canceller) = Context::background().with_token(&all[all.len() - 1].token());
            canceller.detach();
            all.push(next);
        }
        canceller.cancel();
        assert!(all.iter().all(Context::is_done));
    });
}

/// Runs `work` inside `depth` functions, each of which ends the context of the next.
fn inside_functions(depth: usize, work: impl FnOnce() + Send + 'static) {
    let mut work: Box<dyn FnOnce() + Send> = Box::new(work);
    for _ in 0..depth {
        let (ctx, canceller) = Context::background().with_cancel();
        ctx.after_func(work);
        work = Box::new(move || canceller.cancel());
    }
    work();
}

#[test]
fn a_cancel_inside_a_few_functions_has_run_its_own_when_it_returns() {
    let ran = Arc::new(AtomicUsize::new(0));
    let count = counting(&ran);
    inside_functions(60, {
        let ran = Arc::clone(&ran);
        move || {
            let (ctx, canceller) = Context::background().with_cancel();
            ctx.after_func(count);
            canceller.cancel();
            assert_eq!(ran.fetch_add(1, SeqCst), 1);
        }
    });
    assert_eq!(ran.load(SeqCst), 2, "the assertion in the function did not hold");
}

#[test]
fn a_cancel_inside_very_many_functions_has_woken_whoever_waits_when_it_returns() {
    let all_is_well = Arc::new(AtomicBool::new(false));
    inside_functions(1000, {
        let all_is_well = Arc::clone(&all_is_well);
        move || {
            let (ctx, canceller) = Context::background().with_cancel();
            let wakes = Wakes::new();
            let _done = waiting(&ctx, &wakes);
            canceller.cancel();
            all_is_well.store(ctx.is_done() && wakes.count() == 1, SeqCst);
        }
    });
    assert!(all_is_well.load(SeqCst));
}

#[test]
fn a_function_that_waits_inside_very_many_is_stopped_by_whoever_waits_for_its_end() {
    // At any depth, it has run or never will.
    for depth in [10, 63, 64, 65, 100, 1000] {
        let (ran, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = counting(&ran);
        inside_functions(depth, {
            let stopped = Arc::clone(&stopped);
            move || {
                let (ctx, canceller) = Context::background().with_cancel();
                let function = ctx.after_func(count);
                canceller.cancel();
                stopped.fetch_add(function.stop_and_wait().into(), SeqCst);
            }
        });
        assert_eq!(ran.load(SeqCst) + stopped.load(SeqCst), 1, "{depth} deep");
    }
}

#[test]
fn a_panic_inside_very_many_functions_stops_no_other() {
    let ran = Arc::new(AtomicUsize::new(0));
    let counts: Vec<_> = (0..3).map(|_| counting(&ran)).collect();
    inside_functions(1000, move || {
        for count in counts {
            let (ctx, canceller) = Context::background().with_cancel();
            ctx.after_func(|| panic!("in the midst of it"));
            ctx.after_func(count);
            canceller.cancel();
        }
        panic!("in the last");
    });
    assert_eq!(ran.load(SeqCst), 3);
}

#[test]
fn functions_inside_very_many_run_in_the_last_moments_of_a_thread() {
    struct Last(Canceller);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    thread_local!(static KEPT: Cell<Option<Last>> = const { Cell::new(None) });
    let ran = Arc::new(AtomicUsize::new(0));
    let count = counting(&ran);
    thread::spawn(move || {
        let (ctx, canceller) = Context::background().with_cancel();
        ctx.after_func(move || inside_functions(1000, count));
        KEPT.set(Some(Last(canceller)));
    })
    .join()
    .unwrap();
    assert_eq!(ran.load(SeqCst), 1);
}

#[test]
fn a_chain_of_a_million_values_is_looked_through_and_dropped() {
    on_a_small_stack(|| {
        let (root, canceller) = Context::background().with_entry(&RED, 1).with_cancel();
        let mut contexts = vec![root];
        for number in 0..MILLION {
            let ctx = contexts.last().unwrap().with_value(UserId(number as u64));
            contexts.push(ctx);
        }
        let leaf = contexts.last().unwrap().clone();
        assert_eq!(leaf.value::<UserId>(), Some(&UserId(MILLION as u64 - 1)));
        assert_eq!(leaf.entry(&RED), Some(&1));
        assert_eq!(leaf.entry(&BLUE), None);
        assert_live(&leaf);
        canceller.cancel();
        assert_cancelled(&leaf, PLAIN);
        drop(contexts);
        drop(leaf);
    });
}

#[test]
fn a_chain_of_a_million_linked_contexts_ends_and_is_dropped_however_they_are_linked() {
    on_a_small_stack(|| {
        // Each is an `other` of the next, whose `self` is the background.
        for root_first in [true, false] {
            let root = Context::background();
            let (mut contexts, mut cancellers) = chain(MILLION, |before| root.linked(&[before]));
            let wakes = Wakes::new();
            let leaf = contexts.last().unwrap().clone();
            let done = waiting(&leaf, &wakes);
            if root_first {
                cancellers[0].cancel_with("sideways");
                assert_eq!(wakes.count(), 1);
                assert_cancelled(&leaf, "sideways");
                drop(cancellers);
                drop((leaf, done));
                drop(contexts);
            } else {
                cancellers.drain(..).for_each(Canceller::detach);
                drop((leaf, done));
                contexts.reverse();
                drop(contexts);
            }
        }
    });
}

#[test]
fn a_chain_of_linked_contexts_that_only_its_leaf_holds_is_dropped_at_once() {
    on_a_small_stack(|| {
        // Here each context is alternately `self` and an `other` of the next.
        let (root, _root) = Context::background().with_cancel();
        let turn = Cell::new(false);
        let (mut contexts, cancellers) = chain(MILLION, |before| {
            turn.set(!turn.get());
            if turn.get() { before.linked(&[&root]) } else { root.linked(&[before, before]) }
        });
        cancellers.into_iter().for_each(Canceller::detach);
        let leaf = contexts.pop().unwrap();
        drop(contexts);
        assert_live(&leaf);
        assert_eq!(root.tree().len(), MILLION - 1, "all but the first, whose self is no root");
        drop(leaf);
        assert!(root.tree().is_empty());
    });
}

#[test]
fn a_chain_of_a_million_can_be_shown_and_drawn() {
    on_a_small_stack(|| {
        let (contexts, _cancellers) = chain(MILLION, Context::with_cancel);
        let shown = contexts.last().unwrap().to_string();
        assert!(shown.starts_with("background → "), "{shown}");
        assert!(shown.len() < 10_000, "for people to read: {}", shown.len());
        let drawn = contexts[0].tree();
        assert_eq!(drawn.len(), MILLION - 1);
        assert!(drawn.to_string().len() < 100_000);
        let _ = format!("{:?}", contexts.last().unwrap());
    });
}

#[test]
fn a_chain_of_a_million_is_let_go_of_by_many_threads_at_once() {
    on_a_small_stack(|| {
        let (mut contexts, cancellers) = chain(MILLION, Context::with_cancel);
        cancellers.into_iter().for_each(Canceller::detach);
        let root = contexts[0].clone();
        Dice(5).shuffle(&mut contexts);
        let mut shares = Vec::new();
        while !contexts.is_empty() {
            shares.push(contexts.split_off(contexts.len() - MILLION / 4));
        }
        let barrier = Arc::new(Barrier::new(shares.len()));
        let threads: Vec<_> = shares
            .into_iter()
            .map(|share| {
                let barrier = Arc::clone(&barrier);
                let small = thread::Builder::new().stack_size(1 << 20);
                small.spawn(move || drop((barrier.wait(), share))).unwrap()
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(root.tree().is_empty());
    });
}

// ------------------------------------------------------------- how it looks

#[test]
fn display_shows_the_chain_with_names_and_never_a_value() {
    #[allow(dead_code)]
    struct Secret<T>(T);
    let (cancel, _a) = Context::background().with_cancel();
    let valued = cancel.with_value(UserId(1234567)).with_entry(&NAME, "hunter2".into());
    let nested = valued.with_value(Secret(vec![UserId(1234567)]));
    let (linked, _b) = nested.linked(&[&Context::todo()]);
    let cut = linked.without_cancel();
    assert_eq!(
        cut.to_string(),
        "background → cancel → value(UserId) → value(name) → value(Secret<Vec<UserId>>) → linked \
         → without_cancel"
    );
    let debug = format!("{cut:?} {:?}", cancel.done());
    assert!(!debug.contains("1234567") && !debug.contains("hunter2"), "{debug}");
    assert_eq!(Context::todo().with_value(1_u8).to_string(), "todo → value(u8)");
    assert_eq!(NAME.name(), "name");
}

#[test]
fn display_shows_deadlines_and_what_is_left_of_them() {
    let (timed, _a) = Context::background().with_timeout(HOUR);
    let text = timed.to_string();
    assert!(text.starts_with("background → timeout(3600s, 3"), "{text}");
    assert!(text.ends_with("s left)"), "{text}");
    let (late, _b) = Context::background().with_deadline(past());
    assert!(!late.to_string().contains("left"), "{late}");
    assert!(late.to_string().starts_with("background → deadline("), "{late}");
    let (forever, _c) = Context::background().with_timeout(Duration::MAX);
    assert!(forever.to_string().starts_with("background → timeout("), "{forever}");
    assert!(!forever.to_string().contains("left"), "{forever}");
    let (reserve, _d) = timed.with_reserve(Duration::from_secs(1));
    assert!(reserve.to_string().contains(" → reserve(1s, 35"), "{reserve}");
    // A child of an ended parent shows what it was asked for itself, not what the parent was.
    let (ended, canceller) = Context::background().with_timeout(HOUR);
    canceller.cancel();
    let (later, _e) = ended.with_timeout(2 * HOUR);
    assert_eq!(later.to_string().matches("3600s").count(), 1, "{later}");
}

#[test]
fn debug_of_everything_says_something_and_asks_no_locks_of_its_user() {
    let (ctx, canceller) = Context::background().with_cancel();
    let function = ctx.after_func(|| ());
    assert!(format!("{function:?}").contains("waiting"));
    assert!(format!("{canceller:?}").contains("tests/context.rs") || cfg!(windows));
    canceller.cancel_with("why");
    assert!(format!("{ctx:?}").contains("Cancelled"), "{ctx:?}");
    assert!(format!("{:?}", ctx.cause().unwrap()).contains("why"));
    assert!(format!("{:?}", ctx.check().unwrap_err()).contains("why"));
    assert!(!format!("{function:?}").contains("waiting"));
    assert!(format!("{:?}", ctx.run(async {})).contains("Run"));
    assert!(format!("{RED:?}").contains("red"));
}

#[test]
fn the_tree_draws_the_live_subtree_with_the_lines_that_made_it() {
    let here = |line: u32| format!("made at {}:{line}:", file!());
    let (root, _a) = Context::background().with_cancel();
    let root_line = line!() - 1;
    let (first, _b) = root.with_value(UserId(1)).with_cancel();
    let first_line = line!() - 1;
    let (_below, _c) = first.with_timeout(HOUR);
    let below_line = line!() - 1;
    let crowd: Vec<_> = (0..8).map(|_| root.with_cancel()).collect();
    let crowd_line = line!() - 1;
    let (ended, canceller) = root.with_cancel();
    canceller.cancel();

    let tree = root.tree();
    assert_eq!((tree.len(), tree.is_empty()), (10, false));
    let text = tree.to_string();
    let lines: Vec<_> = text.lines().collect();
    let expected = [
        ("cancel, ", root_line, ""),
        ("├─ cancel, ", first_line, ""),
        ("│  └─ timeout(3600s, ", below_line, ""),
        ("└─ cancel, ", crowd_line, " (×8)"),
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, (start, made, end)) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{start}: {text}");
        assert!(line.contains(&here(made)), "{made}: {text}");
        assert!(line.ends_with(end), "{end}: {text}");
    }
    drop(crowd);
    assert_eq!(root.tree().len(), 2);
    assert_eq!(first.tree().len(), 1);
    assert!(ended.tree().is_empty());
    assert!(ended.tree().to_string().contains(PLAIN), "{}", ended.tree());
}

#[test]
fn the_tree_of_a_value_shows_what_is_below_the_value_and_the_context_that_it_is_of() {
    let (_elsewhere, _e) = Context::background().with_cancel();
    let of_the_background = Context::background().with_value(UserId(1));
    assert!(of_the_background.tree().is_empty(), "{}", of_the_background.tree());
    assert_eq!(of_the_background.tree().to_string(), "background");

    let (root, _r) = Context::background().with_cancel();
    let (one, two) = (root.with_value(UserId(1)), root.with_value(UserId(2)));
    let (_beside, _b) = root.with_cancel();
    let (below, _c) = two.with_value(1_u8).with_cancel();
    let (_further, _d) = below.with_cancel();
    assert!(one.tree().is_empty(), "{}", one.tree());
    assert_eq!((two.tree().len(), root.tree().len()), (2, 3));
    assert!(two.tree().to_string().starts_with(root.tree().to_string().lines().next().unwrap()));
    // A value below one that is cut off, and a context below both.
    let cut = two.without_cancel().with_value(2_u8);
    let (_goes_on, _g) = cut.with_value(3_u8).with_cancel();
    assert_eq!(cut.tree().len(), 1);
    assert!(!cut.tree().to_string().contains("without_cancel →"), "{}", cut.tree());
    assert_eq!(two.tree().len(), 3);
    assert!(two.tree().to_string().contains("without_cancel → cancel"), "{}", two.tree());
}

#[test]
fn a_hundred_thousand_values_above_as_many_contexts_are_looked_through_once() {
    let (root, _r) = Context::background().with_cancel();
    let valued = (0..100_000).fold(root.clone(), |ctx, _| ctx.with_value(UserId(1)));
    let below: Vec<_> = (0..100_000).map(|_| valued.with_cancel()).collect();
    let start = Instant::now();
    assert_eq!(root.tree().len(), below.len());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "it took {took:?}");
}

#[test]
fn the_tree_draws_a_bar_beside_whatever_has_a_sibling_to_come() {
    let (root, _a) = Context::background().with_cancel();
    let below = |ctx: &Context, many: usize| -> Vec<_> {
        (0..many).map(|_| ctx.with_timeout(HOUR)).collect()
    };
    let level_1 = below(&root, 2);
    let level_2: Vec<_> = level_1.iter().flat_map(|(ctx, _)| below(ctx, 2)).collect();
    let level_3: Vec<_> = level_2.iter().flat_map(|(ctx, _)| below(ctx, 1)).collect();
    let text = root.tree().to_string();
    let bars: Vec<_> = text.lines().map(|line| line.split(char::is_alphabetic).next()).collect();
    let branch = ["├─ ", "│  ├─ ", "│  │  └─ ", "│  └─ ", "│     └─ "];
    let last = ["└─ ", "   ├─ ", "   │  └─ ", "   └─ ", "      └─ "];
    let expected: Vec<_> = [""].into_iter().chain(branch).chain(last).map(Some).collect();
    assert_eq!(bars, expected, "{text}");
    drop(level_3);
}

#[test]
fn the_tree_lists_what_can_end_and_only_while_it_has_not() {
    let (root, roots) = Context::background().with_cancel();
    let valued = root.with_value(1);
    assert!(root.tree().is_empty(), "values are not listed");
    let cut = valued.without_cancel();
    assert!(root.tree().is_empty(), "nor is what cannot end");
    let (late, _d) = root.with_deadline(past());
    assert_eq!(late.err(), Some(ContextError::DeadlineExceeded));
    assert!(root.tree().is_empty(), "a deadline that passed has ended it");
    let (_one, _e) = root.with_cancel();
    assert_eq!(root.tree().len(), 1);
    // Below the cut-off context; whether `root` shows it too is not asserted here.
    let (below_cut, _c) = cut.with_cancel();
    assert_eq!(cut.tree().len(), 1);
    roots.cancel();
    assert_eq!(cut.tree().len(), 1, "what was cut off goes on");
    assert!(!below_cut.is_done());
    drop((below_cut, _c));
    assert!(root.tree().is_empty() && cut.tree().is_empty());
}

#[test]
fn what_is_carried_out_of_a_function_says_why_where_it_is_asked_to() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("closing time");
    let cancelled = ctx.check().unwrap_err();
    assert_eq!(format!("{cancelled}"), "context canceled");
    assert_eq!(format!("{cancelled:#}"), "context canceled: closing time");
    let (ctx, canceller) = Context::background().with_cancel();
    drop(canceller);
    let dropped = format!("{:#}", ctx.check().unwrap_err());
    assert!(dropped.starts_with("context canceled: the last Canceller"), "{dropped}");
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel();
    assert_eq!(format!("{:#}", ctx.check().unwrap_err()), "context canceled");
}

#[test]
fn the_end_of_a_context_converts_into_an_io_error_that_nobody_retries() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("closing time");
    let cancelled = std::io::Error::from(ctx.check().unwrap_err());
    assert_eq!(cancelled.kind(), std::io::ErrorKind::Other);
    assert_eq!(cancelled.to_string(), "context canceled");
    let (late, _canceller) = Context::background().with_timeout(Duration::ZERO);
    let late = std::io::Error::from(late.check().unwrap_err());
    assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
    // The original error can be recovered.
    let held = late.get_ref().and_then(|held| held.downcast_ref::<quell::Cancelled>());
    assert_eq!(held.unwrap().error(), ContextError::DeadlineExceeded);
}

/// An error with a text and, beneath it, another.
#[derive(Debug)]
struct Beneath(&'static str, Option<Box<Beneath>>);

impl std::fmt::Display for Beneath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Beneath {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|beneath| beneath as _)
    }
}

#[test]
fn the_alternate_form_of_a_cause_adds_its_sources_and_repeats_nothing() {
    let ends = |error: Beneath| {
        let (ctx, canceller) = Context::background().with_cancel();
        canceller.cancel_with(error);
        ctx.check().unwrap_err()
    };
    let disk = || Some(Box::new(Beneath("no space left", None)));
    let cancelled = ends(Beneath("saving", Some(Box::new(Beneath("writing", disk())))));
    assert_eq!(format!("{cancelled}"), "context canceled");
    assert_eq!(format!("{cancelled:#}"), "context canceled: saving: writing: no space left");
    assert_eq!(format!("{}", cancelled.cause()), "saving");
    assert_eq!(format!("{:#}", cancelled.cause()), "saving: writing: no space left");
    // Some errors display their sources themselves.
    let tells = ends(Beneath("writing: no space left", disk()));
    assert_eq!(format!("{tells:#}"), "context canceled: writing: no space left");
    // A cause that is handed on to the other end is told as before.
    let (late, _canceller) = Context::background()
        .with_timeout_cause(Duration::ZERO, ends(Beneath("saving", disk())).cause().clone());
    let late = late.check().unwrap_err();
    assert_eq!(format!("{late:#}"), "context deadline exceeded: saving: no space left");
    // In a pipeline's outcome, too.
    let failed = quell::Outcome::Failed {
        stage: "save".to_string(),
        cause: ends(Beneath("saving", disk())).cause().clone(),
    };
    assert_eq!(format!("{failed}"), "`save` failed: saving");
    assert_eq!(format!("{failed:#}"), "`save` failed: saving: no space left");
}

#[test]
fn a_cause_passed_on_to_the_other_end_can_be_taken_back_as_what_it_was() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with(std::io::Error::other("disk full"));
    let (late, _canceller) =
        Context::background().with_timeout_cause(Duration::ZERO, ctx.cause().unwrap());
    assert_eq!(late.err(), Some(ContextError::DeadlineExceeded));
    let cause = late.cause().unwrap();
    assert!(cause.downcast_ref::<std::io::Error>().is_some(), "{cause:?}");
}

#[test]
fn a_chain_too_long_to_be_shown_still_begins_with_its_root() {
    let ctx = (0..65).fold(Context::todo(), |ctx, _| ctx.with_value(1_u8));
    let shown = ctx.to_string();
    assert!(shown.starts_with("todo → … 1 more … → value(u8)"), "{shown}");
}

#[test]
fn those_too_deep_to_be_drawn_are_counted_each() {
    let mut chain = vec![Context::background().with_cancel()];
    (0..66).for_each(|_| chain.push(chain.last().unwrap().0.with_cancel()));
    let leaves: Vec<_> = (0..5).map(|_| chain.last().unwrap().0.with_cancel()).collect();
    let tree = chain[0].0.tree();
    assert_eq!(tree.len(), 66 + leaves.len());
    assert!(tree.to_string().ends_with("\n… and 7 deeper"), "{tree}");
}
