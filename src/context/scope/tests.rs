//! What a list keeps of those who have left.

use super::*;

#[test]
fn a_crowd_that_leaves_takes_its_memory_along_though_one_who_came_first_stays() {
    let scope = Scope::new(None);
    let room = || scope.members.lock().all.capacity();
    let waits = || scope.wait(Waker::noop().clone()).unwrap();
    let stays = waits();
    for _ in 0..3 {
        let mut crowd: Vec<_> = (0..100_000).map(|_| waits()).collect();
        assert!(room() > 100_000);
        // In no order: each is next to some who have left.
        crowd.sort_by_key(|key| key.wrapping_mul(0x9E37_79B9) % 100_003);
        crowd.into_iter().for_each(|key| scope.unwait(key));
        assert!(room() <= 64, "{} places are left", room());
    }
    scope.unwait(stays);
    assert!(scope.members.lock().all.is_empty());
}

#[test]
fn a_list_does_not_grow_and_shrink_with_each_who_comes_and_goes() {
    let scope = Scope::new(None);
    let room = || scope.members.lock().all.capacity();
    let waits = || scope.wait(Waker::noop().clone()).unwrap();
    let mut members: Vec<_> = (0..1_000).map(|_| waits()).collect();
    members.extend((members.len()..room()).map(|_| waits()));
    let full = room();
    members.push(waits());
    let more = room();
    assert!(more > full);
    for _ in 0..full / 4 {
        scope.unwait(members.pop().unwrap());
        assert_eq!(room(), more);
    }
}
