//! Every memory-level interleaving of two or three threads, one race per model.
//!
//! Run with `cargo loom`. Each model explores schedules with at most [`BOUND`]
//! preemptions, or as many as it says itself (`LOOM_MAX_PREEMPTIONS` sets another
//! bound). Loom itself adds: no deadlock, no leaked allocation, no unsynchronised
//! access. With `-- --nocapture` each prints how many schedules there were.
//!
//! It is complete for one preemption fewer. Once a schedule has had all it may, loom makes
//! no more choices, not even where a thread waits and another has to go on.
//!
//! `planted.rs` runs the same models with one line of quell broken, and fails
//! if a model does not notice.
#![cfg(loom)]

mod channel;
mod context;
mod group;
mod loom_itself;
mod pipeline;
mod planted;

use loom::model::Builder;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// Preemptions in one schedule, where neither the model nor the environment sets
/// another bound.
const BOUND: usize = 3;

/// Runs a model within [`BOUND`].
fn model(body: impl Fn() + Send + Sync + 'static) {
    model_within(BOUND, body);
}

/// Runs a model of stages whose items take no time: takers go alone, and offered room is
/// noted.
fn in_a_hurry(model: impl FnOnce()) {
    quell::planted::hurry(true);
    model();
    quell::planted::hurry(false);
}

/// Runs a model with at most `bound` preemptions in a schedule; for one with too
/// many threads or steps for [`BOUND`].
fn model_within(bound: usize, body: impl Fn() + Send + Sync + 'static) {
    let body = Arc::new(body);
    let is_planted = std::env::var(planted::ENV).map(|line| planted::plant(&line)).is_ok();
    let asked = Builder::new();
    let most = asked.preemption_bound.unwrap_or(bound);
    // A planted bug mostly shows within one or two preemptions, in a moment. A bound that is
    // asked for, or a checkpoint to go on from, is obeyed exactly.
    let just_that = asked.preemption_bound.is_some() || asked.checkpoint_file.is_some();
    let fewest = if is_planted && !just_that { 1 } else { most };
    (fewest..=most).for_each(|bound| explore(bound, &body));
}

/// Runs a model that ends before its threads do. Loom runs those to their end before the next
/// schedule begins, so all things of the last one must be gone there.
fn model_that_leaves_threads(bound: usize, body: impl Fn(&Things) + Send + Sync + 'static) {
    let things = Things::default();
    let of_all = things.clone();
    model_within(bound, move || {
        of_all.are_gone();
        body(&of_all);
    });
    things.are_gone();
}

/// Runs it under every schedule with at most `bound` preemptions.
fn explore(bound: usize, body: &Arc<impl Fn() + Send + Sync + 'static>) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(bound);
    // Each operation is two (see `src/sync/watched.rs`).
    builder.max_branches = 5_000;
    let schedules = Arc::new(AtomicUsize::new(0));
    let (count, body) = (Arc::clone(&schedules), Arc::clone(body));
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        body();
    });
    println!("{} schedules of at most {bound} preemptions", schedules.load(Ordering::Relaxed));
}

/// Polls a future once, with a waker that does nothing.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Counted things: no schedule may drop one twice or leave one behind. The count
/// is not part of the model, so counting adds no schedules.
#[derive(Clone, Default)]
struct Things {
    made: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

/// One of them.
struct Thing {
    number: usize,
    of: Things,
}

impl Things {
    fn make(&self, number: usize) -> Thing {
        self.made.fetch_add(1, Ordering::Relaxed);
        Thing { number, of: self.clone() }
    }

    /// `n` of them, made as they are asked for.
    fn some(&self, n: usize) -> impl Iterator<Item = Thing> + Send + 'static {
        let of = self.clone();
        (0..n).map(move |number| of.make(number))
    }

    /// Asserts that each has been dropped, once.
    fn are_gone(&self) {
        let (made, dropped) =
            (self.made.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed));
        assert_eq!(made, dropped, "of {made} things {dropped} were dropped");
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        self.of.dropped.fetch_add(1, Ordering::Relaxed);
    }
}
