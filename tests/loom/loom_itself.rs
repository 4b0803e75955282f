//! What loom does not see by itself, and quell's models therefore make it see
//! (`src/sync/watched.rs`). If this test fails loom has learnt it, and
//! `watched.rs` can go.

use loom::sync::atomic::{AtomicU8, Ordering};
use loom::thread;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What the first thread can read while the second does `theirs`, by loom.
fn reads(theirs: fn(&AtomicU8)) -> BTreeSet<u8> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let all = Arc::clone(&seen);
    loom::model::Builder::new().check(move || {
        let here = Arc::new(AtomicU8::new(0));
        let there = Arc::clone(&here);
        let other = thread::spawn(move || theirs(&there));
        seen.lock().unwrap().insert(here.load(Ordering::Acquire));
        other.join().unwrap();
    });
    let all = all.lock().unwrap();
    all.clone()
}

#[test]
fn loom_tries_both_orders_of_a_read_and_a_write() {
    let seen = reads(|there| there.store(1, Ordering::Release));
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

#[test]
fn loom_misses_an_order_where_the_writer_has_read_before() {
    let seen = reads(|there| {
        there.load(Ordering::Acquire);
        there.store(1, Ordering::Release);
    });
    assert_eq!(seen, BTreeSet::from([0]), "loom has learnt it: `src/sync/watched.rs` can go");
}
