//! How much memory very many requests take, in a process of its own.

#![cfg(all(feature = "http", target_os = "linux", not(loom)))]

use quell::Context;
use quell::hit::{Hit, Options, Summary, send_n_with};
use std::time::Duration;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// One test, since two at once would measure each other.
#[test]
fn ten_million_results_take_no_more_memory_than_ten_thousand() {
    results_that_are_read_leave_nothing_behind();
    let mut summary = Summary::new();
    let mut random = 1_u64;
    let mut record = |summary: &mut Summary| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // From a nanosecond to half an hour.
        let nanos = (random >> 20) >> (random & 31);
        summary.record(&Hit::answered(
            200 + (random % 300) as u16,
            10,
            Duration::from_nanos(nanos),
        ));
    };
    (0..10_000).for_each(|_| record(&mut summary));
    let before = resident();
    (10_000..10_000_000).for_each(|_| record(&mut summary));
    let grown = resident().saturating_sub(before);
    assert_eq!(summary.requests(), 10_000_000);
    println!("{before} bytes resident, and {grown} more for ten million results");
    assert!(grown < 8 << 20, "{grown} bytes");
    assert!(before + grown < 64 << 20, "{} bytes", before + grown);
}

/// Measures results on their way from the sender to the reader.
#[tokio::main(flavor = "current_thread")]
async fn results_that_are_read_leave_nothing_behind() {
    const N: usize = 500_000;
    let send = |_, _| async { Hit::answered(200, 10, Duration::from_millis(1)) };
    let options = Options::new().concurrency(64);
    let mut results = send_n_with(&Context::background(), N, options, send).unwrap();
    let mut summary = Summary::new();
    let mut before = 0;
    while let Some(hit) = results.next().await {
        summary.record(&hit);
        if summary.requests() == 10_000 {
            before = resident();
        }
    }
    assert_eq!(summary.requests(), N as u64);
    let grown = resident().saturating_sub(before);
    println!("{before} bytes resident, and {grown} more for {N} requests");
    // A list would take twenty million bytes.
    assert!(grown < 8 << 20, "{grown} bytes");
}
