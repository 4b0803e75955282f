//! The races at a channel between two stages.

use super::{Thing, Things, in_a_hurry, model, model_within, poll_once};
use loom::future::block_on;
use loom::thread;
use quell::channel::{Receiver, Sender, bounded};
use quell::planted::{Taker, between};
use std::pin::pin;

/// The numbers of all items, up to the end.
fn numbers(receiver: &mut Receiver<Thing>) -> Vec<usize> {
    let mut numbers = Vec::new();
    while let Some(thing) = block_on(receiver.recv()) {
        numbers.push(thing.number);
    }
    numbers
}

#[test]
fn what_is_sent_arrives_whenever_its_reader_looks() {
    model(|| {
        let things = Things::default();
        let (sender, mut receiver) = bounded(1);
        let other = {
            let things = things.clone();
            thread::spawn(move || {
                block_on(sender.send(things.make(0))).unwrap();
                block_on(sender.send(things.make(1))).unwrap();
            })
        };
        assert_eq!(numbers(&mut receiver), [0, 1]);
        other.join().unwrap();
        drop(receiver);
        things.are_gone();
    });
}

#[test]
fn the_last_sender_to_go_ends_the_channel() {
    model(|| {
        let (sender, mut receiver) = bounded::<u8>(1);
        let twin = sender.clone();
        let others = [sender, twin].map(|sender| thread::spawn(move || drop(sender)));
        assert_eq!(block_on(receiver.recv()), None);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn a_reader_who_leaves_sends_everybody_home() {
    model(|| {
        let things = Things::default();
        let (sender, mut receiver) = bounded(1);
        let other = {
            let things = things.clone();
            thread::spawn(move || {
                let mut number = 0;
                while block_on(sender.send(things.make(number))).is_ok() {
                    number += 1;
                }
                assert!(sender.is_closed());
                number
            })
        };
        assert_eq!(block_on(receiver.recv()).map(|thing| thing.number), Some(0));
        drop(receiver);
        let sent = other.join().unwrap();
        assert!((1..=2).contains(&sent), "{sent} went into a channel of one");
        things.are_gone();
    });
}

#[test]
fn two_senders_at_a_full_channel_both_get_in() {
    model_within(2, || {
        let things = Things::default();
        let (sender, mut receiver) = bounded(1);
        block_on(sender.send(things.make(0))).unwrap();
        let others = [1, 2].map(|number| {
            let (sender, things) = (sender.clone(), things.clone());
            thread::spawn(move || block_on(sender.send(things.make(number))).unwrap())
        });
        drop(sender);
        let came = numbers(&mut receiver);
        assert!(came == [0, 1, 2] || came == [0, 2, 1], "{came:?}");
        others.into_iter().for_each(|other| other.join().unwrap());
        things.are_gone();
    });
}

#[test]
fn the_room_of_an_item_is_there_while_its_reader_is_busy_with_it() {
    model(|| {
        let things = Things::default();
        let (sender, mut receiver) = bounded(2);
        block_on(sender.send(things.make(0))).unwrap();
        block_on(sender.send(things.make(1))).unwrap();
        let other = {
            let things = things.clone();
            thread::spawn(move || block_on(sender.send(things.make(2))).unwrap())
        };
        assert_eq!(block_on(receiver.recv()).map(|thing| thing.number), Some(0));
        // The receiver is not polled again before that has been sent.
        other.join().unwrap();
        assert_eq!(numbers(&mut receiver), [1, 2]);
        things.are_gone();
    });
}

#[test]
fn room_that_is_promised_to_a_sender_who_leaves_goes_to_the_next() {
    model(|| {
        let things = Things::default();
        let (sender, mut receiver) = bounded(1);
        block_on(sender.send(things.make(0))).unwrap();
        let mut leaves = Box::pin(sender.send(things.make(1)));
        assert!(poll_once(leaves.as_mut()).is_pending());
        let reader = thread::spawn(move || numbers(&mut receiver));
        let next = {
            let (sender, things) = (sender.clone(), things.clone());
            thread::spawn(move || block_on(sender.send(things.make(2))).unwrap())
        };
        drop(leaves);
        drop(sender);
        next.join().unwrap();
        assert_eq!(reader.join().unwrap(), [0, 2]);
        things.are_gone();
    });
}

#[test]
fn a_sender_who_waits_is_woken_by_the_waker_of_its_last_poll() {
    model(|| {
        let (sender, mut receiver) = bounded(1);
        block_on(sender.send(0)).unwrap();
        let reader = thread::spawn(move || {
            assert_eq!(block_on(receiver.recv()), Some(0));
            assert_eq!(block_on(receiver.recv()), Some(1));
        });
        let mut waits = pin!(sender.send(1));
        let _ = poll_once(waits.as_mut()).is_pending() && {
            block_on(waits).unwrap();
            true
        };
        reader.join().unwrap();
    });
}

/// A channel of `capacity` with two takers: the first has taken an item, the
/// second has never looked.
fn two_takers(things: &Things, capacity: usize) -> (Sender<Thing>, Taker<Thing>, Taker<Thing>) {
    let (sender, receiver) = between(capacity);
    let mut first = Taker::first(receiver, 2);
    block_on(sender.send(things.make(0))).unwrap();
    let (thing, mut hired) = block_on(first.take()).unwrap();
    assert_eq!((thing.number, hired.len()), (0, 1));
    (sender, first, hired.remove(0))
}

#[test]
fn each_item_finds_a_taker_while_there_is_one() {
    each_item_finds_a_taker(2, 1, |_leaves| None);
}

#[test]
fn who_goes_alone_and_leaves_calls_another() {
    in_a_hurry(|| each_item_finds_a_taker(3, 3, |_leaves| None));
}

#[test]
fn who_goes_alone_calls_another_before_it_waits() {
    in_a_hurry(|| {
        each_item_finds_a_taker(3, 3, |mut taker| {
            taker.pauses();
            Some(taker)
        });
    });
}

/// Each of two takers takes one item, from a channel with room for `capacity`, and then leaves
/// or stays; within `bound` preemptions.
fn each_item_finds_a_taker(
    bound: usize,
    capacity: usize,
    and_then: fn(Taker<Thing>) -> Option<Taker<Thing>>,
) {
    model_within(bound, move || {
        let things = Things::default();
        let (sender, first, second) = two_takers(&things, capacity);
        let others = [first, second].map(|mut taker| {
            thread::spawn(move || {
                let (thing, _hired) = block_on(taker.take()).expect("its sender is alive");
                (thing.number, and_then(taker))
            })
        });
        block_on(sender.send(things.make(1))).unwrap();
        block_on(sender.send(things.make(2))).unwrap();
        // The sender is still there: its end calls no taker.
        let took = others.map(|other| other.join().unwrap());
        let mut numbers = [took[0].0, took[1].0];
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
        drop((sender, took));
        things.are_gone();
    });
}

#[test]
fn the_end_of_a_channel_reaches_every_taker() {
    the_end_reaches_every_taker();
}

#[test]
fn the_end_of_a_channel_reaches_every_taker_though_one_goes_alone() {
    in_a_hurry(the_end_reaches_every_taker);
}

fn the_end_reaches_every_taker() {
    model(|| {
        let things = Things::default();
        let (sender, first, second) = two_takers(&things, 2);
        let others = [first, second].map(|mut taker| {
            thread::spawn(move || {
                let mut count = 0;
                while let Some((_, hired)) = block_on(taker.take()) {
                    assert!(hired.is_empty());
                    count += 1;
                }
                count
            })
        });
        block_on(sender.send(things.make(1))).unwrap();
        drop(sender);
        let took: usize = others.into_iter().map(|other| other.join().unwrap()).sum();
        assert_eq!(took, 1);
        things.are_gone();
    });
}

#[test]
fn a_call_to_a_taker_who_leaves_goes_to_another() {
    model(|| {
        let things = Things::default();
        let (sender, mut first, mut second) = two_takers(&things, 2);
        let mut leaves = Box::pin(second.take());
        assert!(poll_once(leaves.as_mut()).is_pending());
        let other = thread::spawn(move || {
            for number in 1..=2 {
                let (thing, _hired) = block_on(first.take()).expect("its sender is alive");
                assert_eq!(thing.number, number);
            }
        });
        let puts = {
            let things = things.clone();
            thread::spawn(move || {
                block_on(sender.send(things.make(1))).unwrap();
                block_on(sender.send(things.make(2))).unwrap();
                sender
            })
        };
        drop(leaves);
        drop(second);
        other.join().unwrap();
        drop(puts.join().unwrap());
        things.are_gone();
    });
}
