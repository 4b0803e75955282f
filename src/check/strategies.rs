//! Random pipelines under random schedules, for proptest. Shapes and schedules shrink
//! independently.
//!
//! ```
//! use proptest::prelude::*;
//! use quell::check::strategies::{schedules, shapes};
//!
//! proptest!(ProptestConfig::with_cases(16), |(shape in shapes(), schedule in schedules())| {
//!     let report = schedule.checker().run(|ctx| {
//!         let shape = shape.clone();
//!         async move {
//!             let mut results = shape.pipeline(&ctx).run();
//!             while results.next().await.is_some() {}
//!             // What a body returns is dropped; a panic is a violation.
//!             assert!(results.finish().await.conserved());
//!         }
//!     });
//!     prop_assert!(report.is_clean(), "{}", report);
//! });
//! ```

use super::{Checker, Inject};
use crate::context::Context;
use crate::pipeline::{Pipeline, Rate};
use crate::rt;
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt;
use std::time::Duration;

/// The shape of a pipeline: how many items, and through which stages they go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shape {
    /// How many items the source has.
    pub items: u32,
    /// The stages, in the order from source to reader.
    pub stages: Vec<Stage>,
}

/// One stage of a [`Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Changes each item.
    Map,
    /// Lets every other item through.
    Filter,
    /// Handles items on `workers` workers, each of which sleeps for `millis` milliseconds, or
    /// yields if that is 0.
    Dispatch {
        /// The number of workers.
        workers: usize,
        /// How many milliseconds one item takes.
        millis: u8,
    },
    /// The same as `Dispatch`, with the results in order.
    Ordered {
        /// The number of workers.
        workers: usize,
        /// How many milliseconds one item takes.
        millis: u8,
    },
    /// Lets this many items through a second.
    Throttle(u32),
    /// Merges with a source of this many items.
    Merge(u32),
    /// Sets the room behind the stage before to this many items.
    Buffer(usize),
}

impl Shape {
    /// Builds the pipeline of this shape, below `ctx`.
    ///
    /// # Panics
    ///
    /// When a stage has zero workers, a rate of zero, or no room. None that is generated has.
    #[track_caller]
    pub fn pipeline(&self, ctx: &Context) -> Pipeline<u64> {
        let source = Pipeline::from_iter(ctx, (0..self.items).map(u64::from));
        self.stages.iter().fold(source, |pipeline, stage| match *stage {
            Stage::Map => pipeline.map(|n| n + 1),
            Stage::Filter => pipeline.filter_map(|n| (n % 2 == 0).then_some(n)),
            Stage::Dispatch { workers, millis } => {
                pipeline.dispatch(workers, move |_, n| work(n, millis))
            }
            Stage::Ordered { workers, millis } => {
                pipeline.dispatch_ordered(workers, move |_, n| work(n, millis))
            }
            Stage::Throttle(rate) => pipeline.throttle(Rate::per_second(rate)),
            Stage::Merge(items) => {
                pipeline.merge(Pipeline::from_iter(ctx, (0..items).map(u64::from)))
            }
            Stage::Buffer(room) => pipeline.buffer(room),
        })
    }
}

async fn work(n: u64, millis: u8) -> u64 {
    match millis {
        0 => rt::yield_now().await,
        millis => rt::sleep(Duration::from_millis(u64::from(millis))).await,
    }
    n
}

/// Generates pipelines of up to seven items and four stages.
pub fn shapes() -> impl Strategy<Value = Shape> {
    let workers = || (1..4_usize, 0..20_u8);
    let stage = prop_oneof![
        Just(Stage::Map),
        Just(Stage::Filter),
        workers().prop_map(|(workers, millis)| Stage::Dispatch { workers, millis }),
        workers().prop_map(|(workers, millis)| Stage::Ordered { workers, millis }),
        (1..100_u32).prop_map(Stage::Throttle),
        (0..4_u32).prop_map(Stage::Merge),
        (1..5_usize).prop_map(Stage::Buffer),
    ];
    (0..8_u32, vec(stage, 0..5)).prop_map(|(items, stages)| Shape { items, stages })
}

/// A schedule, and where the injection comes: see [`Checker::bytes`].
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    point: u16,
    choices: Vec<u8>,
    inject: Inject,
}

impl Schedule {
    /// Creates the checker that runs this schedule.
    pub fn checker(&self) -> Checker {
        let mut bytes = self.point.to_be_bytes().to_vec();
        bytes.extend(&self.choices);
        Checker::bytes(&bytes).inject(self.inject)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at point {}, choices {:?}", self.inject, self.point, self.choices)
    }
}

/// Generates schedules with an injection of any kind among the first hundred points. They shrink
/// towards what a plain executor would do, and an early cancel.
pub fn schedules() -> impl Strategy<Value = Schedule> {
    let inject = prop_oneof![
        Just(Inject::Cancel),
        Just(Inject::Drop),
        Just(Inject::Deadline),
        Just(Inject::Panic),
        Just(Inject::None),
    ];
    (0..100_u16, vec(0..6_u8, 0..64), inject).prop_map(|(point, choices, inject)| Schedule {
        point,
        choices,
        inject,
    })
}
