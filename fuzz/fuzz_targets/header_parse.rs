//! Reads any bytes as the headers of a request: there is no panic, and what was read is written
//! again as the same time, or less.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shared/headers.rs"]
mod headers;

fuzz_target!(|bytes: &[u8]| headers::run(bytes));
