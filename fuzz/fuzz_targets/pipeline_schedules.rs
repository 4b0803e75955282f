//! Bytes make a pipeline, a schedule and an injection; whatever they are, it stops, and
//! every item is accounted for.
//!
//! A crash goes, as it is, into `fuzz/corpus/pipeline_schedules`, where a test of the
//! crate runs it ever after.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shared/pipelines.rs"]
mod pipelines;

fuzz_target!(|bytes: &[u8]| pipelines::run(bytes));
