//! Any bytes as the headers that requests carry: no panic, and what is read is written
//! again as the same, or as less time.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shared/headers.rs"]
mod headers;

fuzz_target!(|bytes: &[u8]| headers::run(bytes));
