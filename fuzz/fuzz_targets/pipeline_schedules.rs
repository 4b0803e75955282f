//! Bytes make a pipeline, a schedule and an injection; whatever they are, the pipeline stops, and
//! every item is accounted for.
//!
//! Put the input of a crash, as it is, into `fuzz/corpus/pipeline_schedules`, where a test of the
//! crate runs it from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shared/pipelines.rs"]
mod pipelines;

fuzz_target!(|bytes: &[u8]| pipelines::run(bytes));
