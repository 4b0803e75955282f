//! Bytes derive, cancel, drop and query contexts; a plain model says what must come out.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shared/orderings.rs"]
mod orderings;

fuzz_target!(|bytes: &[u8]| orderings::run(bytes));
