//! What takers do for one another, a step at a time.
//!
//! # Invariants
//!
//! 1. Only the tests look whether a taker gets on: the timer thread would do so by the clock. So
//!    either it is marked as watched already, or no item is taken.

use super::*;
use crate::channel::Sender;
use crate::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

#[derive(Default)]
struct Calls(AtomicUsize);

impl Calls {
    /// How many there have been since the last call.
    fn fresh(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[track_caller]
fn take(taker: &mut Taker<usize>, waker: &Waker) -> Poll<Option<usize>> {
    taker.poll_take(&mut Context::from_waker(waker), Location::caller())
}

/// A taker that has no colleague yet.
fn first(at_most: usize) -> (Sender<usize>, Taker<usize>) {
    let (sender, receiver) = crate::channel::between(4);
    (sender, Taker::first(receiver, at_most, true))
}

/// Two takers of a brisk stage: the first goes alone, and is busy with item 1 of four. The `Calls`
/// count how often the other has been called since.
fn one_goes_alone() -> (Taker<usize>, Taker<usize>, Sender<usize>, Arc<Calls>) {
    let (sender, mut first) = first(2);
    let calls = Arc::new(Calls::default());
    let (nobody, other) = (Waker::noop(), Waker::from(calls.clone()));
    {
        let mut front = first.link.takes.front.lock();
        (front.pace, front.watched) = (Pace::brisk(), true);
    }
    sender.put(0).unwrap();
    assert_eq!(take(&mut first, nobody), Poll::Ready(Some(0)));
    let mut second = first.hire().expect("nobody is left to come for the next");
    assert_eq!(take(&mut second, &other), Poll::Pending);
    (1..4).for_each(|item| assert!(sender.put(item).is_ok()));
    // It was called for the first of them, and finds the other at work.
    assert_eq!(take(&mut first, nobody), Poll::Ready(Some(1)));
    assert!(first.is_alone());
    assert_eq!(take(&mut second, &other), Poll::Pending);
    assert_eq!(calls.fresh(), 1);
    (first, second, sender, calls)
}

#[test]
fn who_goes_alone_and_is_found_to_hang_is_helped() {
    let (first, mut second, _sender, calls) = one_goes_alone();
    let mut seen = 0;
    assert!(!first.link.gets_on(&mut seen), "it is not looked at any more");
    assert_eq!(calls.fresh(), 1);
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(2)));
    assert!(!second.is_alone(), "the next who hangs would go unseen");
    assert!(!second.link.takes.front.lock().pace.is_brisk(), "all have waited for it");
}

#[test]
fn who_goes_alone_and_gets_on_is_left_alone() {
    let (first, _second, _sender, calls) = one_goes_alone();
    let mut seen = 0;
    first.link.takes.front.lock().taken = GETS_ON;
    assert!(first.link.gets_on(&mut seen));
    assert_eq!(calls.fresh(), 0);
    assert!(!first.link.gets_on(&mut seen), "it has taken none since");
    assert_eq!(calls.fresh(), 1);
}

#[test]
fn who_waits_calls_another_though_it_goes_alone() {
    let (mut first, mut second, _sender, calls) = one_goes_alone();
    first.pauses();
    assert_eq!(calls.fresh(), 1);
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(2)));
}

#[test]
fn who_calls_another_before_it_may_have_to_wait_knows_of_it_if_it_need_not() {
    let (mut first, _second, _sender, _calls) = one_goes_alone();
    rt::free_woken();
    first.pauses();
    assert!(rt::has_woken());
}

#[test]
fn who_goes_alone_and_has_others_go_first_goes_alone_no_more_where_that_does_not_pay() {
    let (mut first, _second, _sender, calls) = one_goes_alone();
    first.rests();
    assert!(first.is_alone());
    assert_eq!(calls.fresh(), 0);
    first.link.takes.front.lock().pace.overdraw();
    first.rests();
    assert!(!first.is_alone());
    assert_eq!(calls.fresh(), 1);
}

#[test]
fn who_calls_a_colleague_for_what_is_left_has_woken_somebody() {
    let (sender, mut first) = first(2);
    let nobody = Waker::noop();
    sender.put(0).unwrap();
    assert_eq!(take(&mut first, nobody), Poll::Ready(Some(0)));
    let mut second = first.hire().expect("nobody is left to come for the next");
    assert_eq!(take(&mut second, nobody), Poll::Pending);
    assert_eq!(take(&mut first, nobody), Poll::Pending);
    // One of them is called for the first of two items, and leaves the second.
    sender.put(1).unwrap();
    sender.put(2).unwrap();
    rt::free_woken();
    assert_eq!(take(&mut first, nobody), Poll::Ready(Some(1)));
    assert!(rt::has_woken());
    rt::free_woken();
    assert_eq!(take(&mut second, nobody), Poll::Ready(Some(2)));
    assert!(!rt::has_woken(), "nothing is left");
}

#[test]
fn who_gives_room_to_a_sender_has_woken_somebody() {
    let (sender, mut only) = first(1);
    (0..4).for_each(|item| assert!(sender.put(item).is_ok()));
    let mut waits = sender.send(4);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(std::pin::Pin::new(&mut waits).poll(&mut cx).is_pending());
    for item in 0..4 {
        rt::free_woken();
        assert_eq!(take(&mut only, Waker::noop()), Poll::Ready(Some(item)));
        assert_eq!(rt::has_woken(), item == 3, "room is given when as many were taken as fit");
    }
}

#[test]
fn while_one_waits_who_went_alone_another_is_called_for_what_comes() {
    let (mut first, mut second, sender, calls) = one_goes_alone();
    for item in [2, 3] {
        assert_eq!(take(&mut first, Waker::noop()), Poll::Ready(Some(item)));
    }
    first.pauses();
    assert_eq!(calls.fresh(), 0, "there is nothing for it");
    sender.put(4).unwrap();
    assert_eq!(calls.fresh(), 1);
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(4)));
}

#[test]
fn who_goes_alone_and_has_long_taken_too_long_calls_another() {
    let (mut first, mut second, _sender, calls) = one_goes_alone();
    let now = || crate::rt::real_now().expect("neither a model nor a checker");
    while !first.seat.stint.is_long() {
        first.seat.stint.take(&mut ClockOnce::default());
    }
    // More than has been saved.
    let began = now();
    while now() - began < Duration::from_micros(500) {}
    assert_eq!(take(&mut first, Waker::noop()), Poll::Ready(Some(2)));
    assert!(!first.is_alone());
    assert_eq!(calls.fresh(), 1);
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(3)));
}

#[test]
fn who_goes_alone_and_goes_away_leaves_the_rest_to_another() {
    let (first, mut second, _sender, calls) = one_goes_alone();
    drop(first);
    assert_eq!(calls.fresh(), 1);
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(2)));
}

#[test]
fn at_the_end_everybody_helps_who_goes_alone_and_nobody_takes_its_place() {
    let (first, mut second, sender, calls) = one_goes_alone();
    drop(sender);
    assert_eq!(calls.fresh(), 1);
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(2)));
    assert!(first.is_alone() && !second.is_alone());
}

#[test]
fn who_would_go_alone_unwatched_does_so_from_the_next_item_on() {
    let (sender, mut first) = first(2);
    (0..3).for_each(|item| assert!(sender.put(item).is_ok()));
    let link = Arc::clone(&first.link);
    let front = &mut *link.takes.front.lock();
    link.fetch(&mut link.state.lock(), &mut front.batch);
    front.pace = Pace::brisk();
    assert!(
        first.seat.goes_alone(front, &mut ClockOnce::default()),
        "that it is watched is to be arranged"
    );
    assert!(!first.seat.alone);
    assert!(!first.seat.goes_alone(front, &mut ClockOnce::default()), "it is arranged");
    assert!(first.seat.alone);
}

#[test]
fn who_goes_away_before_it_has_hired_leaves_that_to_the_next() {
    let (sender, mut first) = first(3);
    sender.put(0).unwrap();
    assert_eq!(take(&mut first, Waker::noop()), Poll::Ready(Some(0)));
    let mut second = first.hire().expect("nobody is left to come for the next");
    sender.put(1).unwrap();
    assert_eq!(take(&mut second, Waker::noop()), Poll::Ready(Some(1)));
    drop(second);
    sender.put(2).unwrap();
    assert_eq!(take(&mut first, Waker::noop()), Poll::Ready(Some(2)));
    assert!(first.hire().is_some(), "nobody is on the way");
}
