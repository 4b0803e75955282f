//! Every memory-level interleaving of two or three threads, one race a model.
//!
//! Run with `cargo loom`. Each model explores every schedule with at most
//! [`BOUND`] preemptions (`LOOM_MAX_PREEMPTIONS` sets another bound), and loom
//! itself adds: no deadlock, no leaked allocation, no unsynchronised access.
//!
//! `planted.rs` runs the same models with one line of quell broken, and fails
//! if a model does not notice.
#![cfg(loom)]

mod context;
mod loom_itself;
mod planted;

/// Preemptions in one schedule, where the environment does not say otherwise.
const BOUND: usize = 3;

fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    if let Ok(line) = std::env::var(planted::ENV) {
        planted::plant(&line);
    }
    builder.preemption_bound = builder.preemption_bound.or(Some(BOUND));
    // Each operation is two (see `src/sync/watched.rs`).
    builder.max_branches = 5_000;
    builder.check(body);
}
