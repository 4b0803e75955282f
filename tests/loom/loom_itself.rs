//! What loom does not see by itself. Some of it quell's models make it see
//! (`src/sync/watched.rs`): if that test fails, loom has learnt it, and
//! `watched.rs` can go. The rest is what a bound on preemptions means.

use loom::sync::atomic::{AtomicU8, Ordering};
use loom::thread;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What the first thread can read while the second runs `theirs`, according to loom.
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

/// What the first thread can read of the two others within `bound` preemptions.
fn reads_of_two(bound: usize) -> BTreeSet<(u8, u8)> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let all = Arc::clone(&seen);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.check(move || {
        let two = Arc::new([AtomicU8::new(0), AtomicU8::new(0)]);
        let others = [0, 1].map(|which| {
            let two = Arc::clone(&two);
            thread::spawn(move || two[which].store(1, Ordering::Release))
        });
        let first = two[0].load(Ordering::Acquire);
        let second = two[1].load(Ordering::Acquire);
        seen.lock().unwrap().insert((first, second));
        others.into_iter().for_each(|other| other.join().unwrap());
    });
    let all = all.lock().unwrap();
    all.clone()
}

#[test]
fn loom_is_complete_for_one_preemption_fewer_than_its_bound() {
    // One preemption is enough: the first thread gives way to one of the others, then to the last.
    assert!(!reads_of_two(1).contains(&(1, 1)), "loom has learnt it: the docs may say more");
    assert!(reads_of_two(2).contains(&(1, 1)));
}
