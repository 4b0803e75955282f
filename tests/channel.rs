//! The channel between stages, polled by hand: what fits, which sender is next, which
//! task is woken, and that nothing is lost, whatever is dropped when.
#![cfg(all(not(loom), feature = "tokio"))]

mod kit;

use futures::executor::block_on;
use futures::future::FusedFuture;
use futures::stream::FusedStream;
use futures::{FutureExt, StreamExt};
use kit::{AGES, Item, Stock, Wakes, bad_waker, in_time, ms, poll, threads};
use proptest::prelude::*;
use quell::channel::{Receiver, Recv, Send as Sending, SendError, Sender, TrySendError, bounded};
use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

/// Sends as many items as fit right now. Returns how many.
fn fill(sender: &Sender<u64>, from: u64) -> u64 {
    (from..).take_while(|&n| sender.send(n).now_or_never().is_some()).count() as u64
}

const CAPACITIES: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 200];

// ----------------------------------------------------------------- what fits

#[test]
fn items_come_out_in_the_order_in_which_they_went_in() {
    for capacity in CAPACITIES {
        let (sender, mut receiver) = bounded(capacity);
        let sending = async {
            for n in 0..1000 {
                sender.send(n).await.unwrap();
            }
            drop(sender);
        };
        let receiving = async {
            for n in 0..1000 {
                assert_eq!(receiver.recv().await, Some(n));
            }
            assert_eq!(receiver.recv().await, None);
            assert_eq!(receiver.recv().await, None, "and so it stays");
        };
        block_on(async { futures::join!(sending, receiving) });
    }
}

#[test]
fn as_a_stream_a_receiver_gives_what_was_sent_in_order_and_then_its_end() {
    for capacity in CAPACITIES {
        let (sender, mut receiver) = bounded(capacity);
        let sending = async move {
            for n in 0..1000 {
                sender.send(n).await.unwrap();
            }
        };
        let receiving = async {
            assert!(!receiver.is_terminated());
            let all: Vec<u64> = receiver.by_ref().collect().await;
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
            assert!(receiver.is_terminated() && receiver.recv().is_terminated());
            assert_eq!(receiver.recv().await, None);
        };
        block_on(async { futures::join!(sending, receiving) });
    }
}

#[test]
fn a_select_takes_from_several_receivers_until_all_have_ended() {
    let (one, mut ones) = bounded(4);
    let (two, mut twos) = bounded(4);
    let sending = async move {
        for n in 0..100 {
            one.send(n).await.unwrap();
            two.send(2 * n).await.unwrap();
        }
    };
    let receiving = async {
        let mut sum = 0;
        loop {
            futures::select! {
                n = ones.select_next_some() => sum += n,
                n = twos.recv() => sum += n.unwrap_or(0),
                complete => break sum,
            }
        }
    };
    let ((), sum) = block_on(async { futures::join!(sending, receiving) });
    assert_eq!(sum, 3 * 4950);
}

#[test]
fn exactly_as_many_fit_as_was_said() {
    for capacity in CAPACITIES {
        let (sender, _receiver) = bounded(capacity);
        assert_eq!(fill(&sender, 0), capacity as u64);
    }
}

#[test]
fn what_the_receiver_has_fetched_and_not_handed_out_takes_up_room() {
    for capacity in CAPACITIES {
        let (sender, mut receiver) = bounded(capacity);
        let mut sent = fill(&sender, 0);
        for received in 1..=1000 {
            assert_eq!(block_on(receiver.recv()), Some(received - 1));
            sent += fill(&sender, sent);
            assert!(sent - received <= capacity as u64, "{capacity}: {sent} - {received}");
        }
    }
}

#[test]
fn what_has_been_handed_out_takes_up_no_room() {
    for capacity in CAPACITIES {
        let (sender, mut receiver) = bounded(capacity);
        let mut sent = fill(&sender, 0);
        for received in 1..=1000 {
            assert_eq!(block_on(receiver.recv()), Some(received - 1));
            sent += fill(&sender, sent);
            assert_eq!(sent - received, capacity as u64, "{capacity}: after {received}");
        }
    }
}

#[test]
fn a_sender_that_waits_goes_on_when_an_item_is_handed_out_though_the_receiver_stops_there() {
    for capacity in CAPACITIES {
        let (sender, mut receiver) = bounded(capacity);
        fill(&sender, 0);
        let wakes = Wakes::new();
        let mut waiting = sender.send(9);
        assert!(poll(&mut waiting, &wakes).is_pending());
        assert_eq!(block_on(receiver.recv()), Some(0));
        assert_eq!(wakes.count(), 1, "{capacity}");
        assert_eq!(poll(&mut waiting, &wakes), Poll::Ready(Ok(())));
    }
}

#[test]
fn one_task_may_hold_both_ends_and_never_waits_while_there_is_room() {
    in_time(|| {
        block_on(async {
            let (sender, mut receiver) = bounded(64);
            for n in 0..64 {
                sender.send(n).await.unwrap();
            }
            for n in 64..1000 {
                assert_eq!(receiver.recv().await, Some(n - 64));
                sender.send(n).await.unwrap();
            }
        });
    });
}

#[test]
fn a_capacity_without_end_takes_no_memory_of_its_own() {
    let (sender, mut receiver) = bounded(usize::MAX);
    for n in 0..10_000 {
        sender.send(n).now_or_never().unwrap().unwrap();
    }
    drop(sender);
    for n in 0..10_000 {
        assert_eq!(block_on(receiver.recv()), Some(n));
    }
    assert_eq!(block_on(receiver.recv()), None);
}

#[test]
#[should_panic(expected = "pass 1 or more")]
fn a_capacity_of_zero_says_what_to_pass() {
    let _ = bounded::<u8>(0);
}

// --------------------------------------------------------------------- ends

#[test]
fn the_receiver_gets_what_is_left_when_the_last_sender_has_gone() {
    let (sender, mut receiver) = bounded(8);
    let other = sender.clone();
    let wakes = Wakes::new();
    assert!(poll(&mut receiver.recv(), &wakes).is_pending());
    sender.send(1).now_or_never().unwrap().unwrap();
    other.send(2).now_or_never().unwrap().unwrap();
    drop(sender);
    assert_eq!(poll(&mut receiver.recv(), &wakes), Poll::Ready(Some(1)));
    assert_eq!(poll(&mut receiver.recv(), &wakes), Poll::Ready(Some(2)));
    let before = wakes.count();
    assert!(poll(&mut receiver.recv(), &wakes).is_pending());
    assert_eq!(wakes.count(), before);
    drop(other);
    assert_eq!(wakes.count(), before + 1, "the last one wakes");
    assert_eq!(poll(&mut receiver.recv(), &wakes), Poll::Ready(None));
}

#[test]
fn a_send_gives_its_value_back_when_the_receiver_has_gone() {
    let (sender, receiver) = bounded::<String>(1);
    assert!(!sender.is_closed());
    drop(receiver);
    assert!(sender.is_closed());
    let error: SendError<String> = block_on(sender.send("back".into())).unwrap_err();
    assert_eq!(error.clone().into_inner(), "back");
    assert_eq!(format!("{error:?}"), "SendError(..)");
    assert!(error.to_string().contains("nobody receives"), "{error}");
}

#[test]
fn sends_that_wait_get_their_values_back_when_the_receiver_goes() {
    let stock = Stock::new();
    let (sender, receiver) = bounded(1);
    sender.send(stock.item(0)).now_or_never().unwrap().unwrap();
    let wakes = Wakes::new();
    let mut waiting: Vec<_> = (1..5).map(|n| sender.send(stock.item(n))).collect();
    for send in &mut waiting {
        assert!(poll(send, &wakes).is_pending());
    }
    drop(receiver);
    assert_eq!(wakes.count(), 4, "every one of them is woken");
    assert_eq!(stock.left(), 4, "what was in it is dropped at once");
    for (n, send) in (1..).zip(&mut waiting) {
        let Poll::Ready(Err(error)) = poll(send, &wakes) else { panic!("{n} still waits") };
        assert_eq!(error.into_inner(), n);
    }
    assert_eq!(stock.left(), 0);
}

#[test]
fn items_that_nobody_took_are_dropped_with_the_receiver_and_not_later() {
    for taken in 0..=10 {
        let stock = Stock::new();
        let (sender, mut receiver) = bounded(8);
        for item in stock.items(8) {
            sender.send(item).now_or_never().unwrap().unwrap();
        }
        for _ in 0..taken.min(8) {
            drop(block_on(receiver.recv()));
        }
        drop(receiver);
        assert_eq!(stock.left(), 0, "the sender does not keep them");
        assert!(sender.is_closed());
    }
}

#[test]
fn items_that_hold_the_sender_do_not_keep_the_channel_alive() {
    struct Knot(#[allow(dead_code)] Sender<Knot>, #[allow(dead_code)] Item);
    let stock = Stock::new();
    let (sender, mut receiver) = bounded(4);
    for item in stock.items(4) {
        sender.send(Knot(sender.clone(), item)).now_or_never().unwrap().unwrap();
    }
    drop(sender);
    assert!(block_on(receiver.recv()).is_some());
    drop(receiver);
    assert_eq!(stock.left(), 0);
}

// -------------------------------------------------------------- cancel safety

#[test]
fn a_recv_that_is_dropped_has_taken_nothing() {
    let (sender, mut receiver) = bounded(64);
    let wakes = Wakes::new();
    for n in 0..500 {
        let mut recv = receiver.recv();
        assert!(poll(&mut recv, &wakes).is_pending());
        sender.send(n).now_or_never().unwrap().unwrap();
        drop(recv);
        drop(receiver.recv());
        assert_eq!(block_on(receiver.recv()), Some(n));
    }
    assert_eq!(wakes.count(), 500);
}

#[test]
fn a_send_that_is_dropped_before_it_is_ready_has_not_sent() {
    let stock = Stock::new();
    let (sender, mut receiver) = bounded(1);
    drop(sender.send(stock.item(0)));
    assert!(sender.send(stock.item(1)).now_or_never().is_some());
    let mut waiting = sender.send(stock.item(2));
    assert!(poll(&mut waiting, &Wakes::new()).is_pending());
    drop(waiting);
    assert_eq!(stock.left(), 1, "dropped with the future");
    assert_eq!(block_on(receiver.recv()).unwrap(), 1);
    drop(sender);
    assert!(block_on(receiver.recv()).is_none());
}

#[test]
#[should_panic(expected = "polled after it was ready")]
fn a_send_that_is_polled_after_it_was_ready_says_so() {
    let (sender, _receiver) = bounded(2);
    let mut send = sender.send(1);
    assert!(poll(&mut send, &Wakes::new()).is_ready());
    let _ = poll(&mut send, &Wakes::new());
}

// ------------------------------------------------------------------- fairness

#[test]
fn senders_that_wait_get_room_in_their_order() {
    let (sender, mut receiver) = bounded(1);
    fill(&sender, 0);
    let wakes: Vec<_> = (0..5).map(|_| Wakes::new()).collect();
    let mut waiting: Vec<_> = (1..=5).map(|n| sender.send(n)).collect();
    for (send, wakes) in waiting.iter_mut().zip(&wakes) {
        assert!(poll(send, wakes).is_pending());
    }
    for next in 0..5 {
        assert_eq!(block_on(receiver.recv()), Some(next as u64));
        let counts: Vec<_> = wakes.iter().map(|wakes| wakes.count()).collect();
        let expected: Vec<_> = (0..5).map(|n| usize::from(n <= next)).collect();
        assert_eq!(counts, expected, "one is woken for one item");
        for (send, wakes) in waiting.iter_mut().zip(&wakes).skip(next + 1) {
            assert!(poll(send, wakes).is_pending(), "not out of turn");
        }
        assert!(poll(&mut waiting[next], &wakes[next]).is_ready());
    }
}

#[test]
fn a_newcomer_does_not_take_the_room_that_one_who_waits_was_promised() {
    let (sender, mut receiver) = bounded(1);
    fill(&sender, 0);
    let wakes = Wakes::new();
    let mut waiting = sender.send(1);
    assert!(poll(&mut waiting, &wakes).is_pending());
    assert_eq!(block_on(receiver.recv()), Some(0));
    assert!(sender.send(99).now_or_never().is_none(), "the room is promised");
    assert_eq!(poll(&mut waiting, &wakes), Poll::Ready(Ok(())));
    assert_eq!(block_on(receiver.recv()), Some(1));
}

#[test]
fn what_there_is_no_room_for_now_comes_back_at_once() {
    let (sender, mut receiver) = bounded(2);
    assert_eq!(sender.try_send(0), Ok(()));
    assert_eq!(sender.try_send(1), Ok(()));
    let full = sender.try_send(2).unwrap_err();
    assert_eq!(full, TrySendError::Full(2));
    assert_eq!(full.to_string(), "there is no room now: the channel is full");
    assert_eq!(block_on(receiver.recv()), Some(0));
    assert_eq!(sender.try_send(2), Ok(()), "what was handed out takes up no room");
    assert_eq!(block_on(receiver.recv()), Some(1));
    assert_eq!(block_on(receiver.recv()), Some(2));
    drop(receiver);
    let closed = sender.try_send(3).unwrap_err();
    assert!(closed.source().is_some_and(|why| why.is::<SendError<i32>>()), "{closed:?}");
    assert_eq!(closed.into_inner(), 3);
}

#[test]
fn who_only_tries_wakes_the_reader_and_never_takes_what_another_was_promised() {
    let (sender, mut receiver) = bounded(1);
    let reader = Wakes::new();
    {
        let mut recv = receiver.recv();
        assert!(poll(&mut recv, &reader).is_pending());
        assert_eq!(sender.try_send(0), Ok(()));
        assert_eq!(reader.count(), 1);
        assert_eq!(poll(&mut recv, &reader), Poll::Ready(Some(0)));
    }
    fill(&sender, 1);
    let wakes = Wakes::new();
    let mut waiting = sender.send(2);
    assert!(poll(&mut waiting, &wakes).is_pending());
    assert_eq!(block_on(receiver.recv()), Some(1));
    assert_eq!(sender.try_send(99), Err(TrySendError::Full(99)), "the room is promised");
    assert_eq!(poll(&mut waiting, &wakes), Poll::Ready(Ok(())));
    assert_eq!(block_on(receiver.recv()), Some(2));
    assert_eq!(sender.try_send(3), Ok(()), "nobody waits any more");
}

#[test]
fn a_sender_that_goes_away_passes_on_what_it_was_promised() {
    for gone in 0..3_usize {
        let (sender, mut receiver) = bounded(1);
        fill(&sender, 0);
        let wakes: Vec<_> = (0..3).map(|_| Wakes::new()).collect();
        let mut waiting: Vec<_> = (1..=3).map(|n| Some(sender.send(n))).collect();
        for (send, wakes) in waiting.iter_mut().zip(&wakes) {
            assert!(poll(send.as_mut().unwrap(), wakes).is_pending());
        }
        assert_eq!(block_on(receiver.recv()), Some(0));
        // The first has been promised the room. Now one of the three goes.
        waiting[gone] = None;
        let mut order = Vec::new();
        while order.len() < 2 {
            let next = (0..3).find(|&n| {
                let Some(send) = &mut waiting[n] else { return false };
                wakes[n].count() > 0 && poll(send, &wakes[n]).is_ready()
            });
            let next = next.expect("room is free, and somebody waits who was not woken");
            waiting[next] = None;
            order.push(next);
            assert_eq!(block_on(receiver.recv()), Some(next as u64 + 1));
        }
        let expected: Vec<_> = (0..3).filter(|&n| n != gone).collect();
        assert_eq!(order, expected);
    }
}

#[test]
fn many_senders_with_more_to_send_take_turns() {
    let (sender, mut receiver) = bounded(1);
    block_on(async {
        let senders = futures::future::join_all((0..8_usize).map(|who| {
            let sender = sender.clone();
            async move {
                for _ in 0..100 {
                    sender.send(who).await.unwrap();
                }
            }
        }));
        drop(sender);
        let reading = async {
            let mut had = [0; 8];
            while let Some(who) = receiver.recv().await {
                had[who] += 1;
                let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
                assert!(most - least <= 2, "{had:?}");
            }
            assert_eq!(had, [100; 8]);
        };
        futures::join!(senders, reading);
    });
}

// --------------------------------------------------------------------- wakers

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let (sender, mut receiver) = bounded(1);
    let (old, new) = (Wakes::new(), Wakes::new());
    let mut recv = receiver.recv();
    assert!(poll(&mut recv, &old).is_pending());
    assert!(poll(&mut recv, &new).is_pending());
    fill(&sender, 0);
    assert_eq!((old.count(), new.count()), (0, 1));
    drop(recv);
    let mut send = sender.send(1);
    assert!(poll(&mut send, &old).is_pending());
    assert!(poll(&mut send, &new).is_pending());
    assert_eq!(block_on(receiver.recv()), Some(0));
    assert_eq!((old.count(), new.count()), (0, 2));
    assert_eq!(Arc::strong_count(&old), 1, "and the older is not kept");
}

#[test]
fn a_receiver_that_has_found_128_items_without_waiting_lets_others_go_first() {
    for at_once in [1, 50, 512] {
        let (sender, mut receiver) = bounded(at_once);
        let wakes = Wakes::new();
        let mut sent = 0;
        for n in 0..512_u64 {
            if n == sent {
                sent += fill(&sender, sent);
            }
            if n > 0 && n % 128 == 0 {
                assert!(poll(&mut receiver.recv(), &wakes).is_pending());
                assert_eq!(wakes.count() as u64, n / 128, "its turn comes again");
            }
            assert_eq!(poll(&mut receiver.recv(), &wakes), Poll::Ready(Some(n)));
        }
    }
}

#[test]
fn after_128_answers_that_nothing_comes_or_goes_any_more_others_go_first() {
    let wakes = Wakes::new();
    let (sender, mut receiver) = bounded::<u64>(1);
    drop(sender);
    for n in 0..512 {
        if n > 0 && n % 128 == 0 {
            assert!(poll(&mut receiver.recv(), &wakes).is_pending());
            assert_eq!(wakes.count(), n / 128, "its turn comes again");
        }
        assert_eq!(poll(&mut receiver.recv(), &wakes), Poll::Ready(None));
    }
    let wakes = Wakes::new();
    let (sender, receiver) = bounded(1);
    drop(receiver);
    for n in 0..512 {
        let mut send = sender.send(n);
        if n > 0 && n % 128 == 0 {
            assert!(poll(&mut send, &wakes).is_pending());
            assert_eq!(wakes.count(), n / 128, "its turn comes again");
        }
        let Poll::Ready(Err(refused)) = poll(&mut send, &wakes) else { panic!("it waits") };
        assert_eq!(refused.into_inner(), n);
    }
}

#[test]
fn no_waker_is_left_behind() {
    let wakes = Wakes::new();
    let kept = || Arc::strong_count(&wakes) - 1;
    // A receive that was answered.
    let (sender, mut receiver) = bounded(1);
    assert!(poll(&mut receiver.recv(), &wakes).is_pending());
    fill(&sender, 0);
    assert_eq!(kept(), 0, "a reader that was woken");
    // A send that was dropped.
    let mut send = sender.send(1);
    assert!(poll(&mut send, &wakes).is_pending());
    assert_eq!(kept(), 1);
    drop(send);
    assert_eq!(kept(), 0, "a sender that went away");
    // A send whose receiver was dropped.
    let mut send = sender.send(1);
    assert!(poll(&mut send, &wakes).is_pending());
    drop(receiver);
    assert_eq!(kept(), 0, "a sender that was told of the end");
    drop(send);
    // A receiver that was dropped with a waker in it.
    let (sender, mut receiver) = bounded::<u8>(1);
    assert!(poll(&mut receiver.recv(), &wakes).is_pending());
    drop(receiver);
    assert_eq!(kept(), 0, "a receiver that went away");
    drop(sender);
    // A receive whose senders were dropped.
    let (sender, mut receiver) = bounded::<u8>(1);
    assert!(poll(&mut receiver.recv(), &wakes).is_pending());
    drop(sender);
    assert_eq!(kept(), 0, "a reader that was told of the end");
    // A receive that is polled again, with another waker.
    let (sender, mut receiver) = bounded(4);
    assert!(poll(&mut receiver.recv(), &wakes).is_pending());
    assert!(poll(&mut receiver.recv(), &Wakes::new()).is_pending());
    assert_eq!(kept(), 0, "a reader that came with another waker");
    drop(sender);
    assert_eq!(block_on(receiver.recv()), None::<u8>);
}

#[test]
fn a_waker_that_panics_keeps_nobody_else_from_being_woken() {
    let waits = |sender: &Sender<u64>| {
        let sending = sender.clone();
        let mut send = Box::pin(async move { sending.send(1).await });
        move |waker: &std::task::Waker| {
            let polled = send.as_mut().poll(&mut std::task::Context::from_waker(waker));
            assert!(polled.is_pending());
        }
    };
    let (sender, receiver) = bounded(1);
    fill(&sender, 0);
    let woken = Wakes::new();
    let (mut first, mut second) = (waits(&sender), waits(&sender));
    first(&bad_waker());
    second(&woken.clone().into());
    drop(receiver);
    assert_eq!(woken.count(), 1);
}

#[test]
fn a_waker_that_panics_is_not_the_senders_affair() {
    let (sender, mut receiver) = bounded(1);
    let polled = receiver.recv().poll_unpin(&mut std::task::Context::from_waker(&bad_waker()));
    assert!(polled.is_pending());
    assert_eq!(sender.send(1).now_or_never(), Some(Ok(())));
    assert_eq!(receiver.recv().now_or_never(), Some(Some(1)));
}

#[test]
fn items_that_nobody_takes_are_dropped_each_for_itself_though_their_drops_panic() {
    struct Bomb(#[allow(dead_code)] Item);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("bomb");
        }
    }
    let stock = Stock::new();
    let (sender, mut receiver) = bounded(6);
    let fill = || {
        for item in stock.items(3) {
            sender.send(Bomb(item)).now_or_never().expect("there is room").expect("and a reader");
        }
    };
    fill();
    // Two are fetched but not handed out, and three are not fetched.
    let first = receiver.recv().now_or_never().flatten().expect("there are three");
    fill();
    assert_eq!(stock.left(), 6);
    drop(receiver);
    assert_eq!(stock.left(), 1, "what was taken");
    std::mem::forget(first);
}

#[test]
fn a_value_that_nobody_receives_is_dropped_by_itself_whatever_its_send_waits_for() {
    struct Bomb(#[allow(dead_code)] Item);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("bomb");
        }
    }
    let (stock, wakes) = (Stock::new(), Wakes::new());
    let (sender, receiver) = bounded(1);
    let mut items = stock.items(131).map(Bomb);
    std::mem::forget(poll(&mut sender.send(items.next().unwrap()), &wakes));
    let mut waits_for_room = sender.send(items.next().unwrap());
    assert!(poll(&mut waits_for_room, &wakes).is_pending());
    drop((waits_for_room, receiver));
    for item in items.by_ref().take(128) {
        std::mem::forget(poll(&mut sender.send(item), &wakes));
    }
    let mut waits_for_its_turn = sender.send(items.next().unwrap());
    assert!(poll(&mut waits_for_its_turn, &wakes).is_pending());
    drop(waits_for_its_turn);
    assert_eq!(stock.left(), 128, "what was given back");
}

#[test]
fn a_waker_may_use_the_channel_that_wakes_it() {
    struct Nosy(std::sync::Mutex<Option<Sender<u64>>>, AtomicUsize);
    impl std::task::Wake for Nosy {
        fn wake(self: Arc<Self>) {
            let sender = self.0.lock().unwrap().clone().expect("it was put there");
            self.1.fetch_add(1, SeqCst);
            let _ = sender.send(7).now_or_never();
            assert!(!sender.is_closed());
        }
    }
    in_time(|| {
        let (sender, mut receiver) = bounded(4);
        let nosy = Arc::new(Nosy(Some(sender.clone()).into(), AtomicUsize::new(0)));
        let waker = nosy.clone().into();
        let mut recv = receiver.recv();
        let first = std::pin::Pin::new(&mut recv).poll(&mut std::task::Context::from_waker(&waker));
        assert!(first.is_pending());
        drop(recv);
        block_on(sender.send(1)).unwrap();
        assert_eq!(nosy.1.load(SeqCst), 1);
        assert_eq!(block_on(receiver.recv()), Some(1));
        assert_eq!(block_on(receiver.recv()), Some(7));
        *nosy.0.lock().unwrap() = None;
    });
}

// -------------------------------------------------------------------- threads

#[test]
fn ping_and_pong_never_wait_for_one_another_at_once() {
    in_time(|| {
        for capacity in [1, 2, 64] {
            let runtime = threads(2);
            let (ping, mut pinged) = bounded(capacity);
            let (pong, mut ponged) = bounded(capacity);
            runtime.spawn(async move {
                while let Some(n) = pinged.recv().await {
                    pong.send(n + 1).await.unwrap();
                }
            });
            let done = runtime.spawn(async move {
                let mut n = 0_u64;
                for _ in 0..5_000 {
                    ping.send(n).await.unwrap();
                    n = ponged.recv().await.unwrap();
                }
                n
            });
            assert_eq!(runtime.block_on(done).unwrap(), 5_000);
        }
    });
}

#[test]
fn many_threads_send_and_nothing_is_lost_doubled_or_out_of_its_senders_order() {
    in_time(|| {
        for capacity in [1, 3, 64] {
            let stock = Stock::new();
            let runtime = threads(3);
            let (sender, mut receiver) = bounded(capacity);
            for who in 0..4 {
                let (sender, stock) = (sender.clone(), stock.clone());
                runtime.spawn(async move {
                    for n in 0..2_000 {
                        sender.send((who, stock.item(n))).await.unwrap();
                    }
                });
            }
            drop(sender);
            let mut next = [0; 4];
            while let Some((who, item)) = block_on(receiver.recv()) {
                assert_eq!(item, next[who]);
                next[who] += 1;
            }
            assert_eq!(next, [2_000; 4]);
            assert_eq!(stock.left(), 0);
            // Beyond the capacity: one in each sender's hand, and one in the reader's.
            assert!(stock.most() <= capacity + 5, "{} at once", stock.most());
        }
    });
}

#[test]
fn a_receiver_that_goes_while_threads_send_leaves_nobody_waiting() {
    in_time(|| {
        let runtime = threads(3);
        for round in 0..300 {
            let stock = Stock::new();
            let (sender, mut receiver) = bounded(1 + round % 5);
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let (sender, stock) = (sender.clone(), stock.clone());
                    runtime.spawn(async move {
                        let mut n = 0;
                        while sender.send(stock.item(n)).await.is_ok() {
                            n += 1;
                        }
                    })
                })
                .collect();
            drop(sender);
            for _ in 0..round {
                drop(block_on(receiver.recv()));
            }
            drop(receiver);
            for task in tasks {
                runtime
                    .block_on(async { tokio::time::timeout(AGES, task).await.unwrap().unwrap() });
            }
            assert_eq!(stock.left(), 0);
        }
    });
}

#[test]
fn a_thread_that_receives_with_a_timeout_loses_nothing() {
    in_time(|| {
        let runtime = threads(2);
        let (sender, mut receiver) = bounded(2);
        runtime.spawn(async move {
            for n in 0..200 {
                if n % 10 == 0 {
                    tokio::time::sleep(ms(1)).await;
                }
                sender.send(n).await.unwrap();
            }
        });
        runtime.block_on(async {
            let mut next = 0;
            loop {
                match quell::rt::timeout(std::time::Duration::from_micros(50), receiver.recv())
                    .await
                {
                    Err(_) => {}
                    Ok(None) => break,
                    Ok(Some(n)) => {
                        assert_eq!(n, next);
                        next += 1;
                    }
                }
            }
            assert_eq!(next, 200);
        });
    });
}

// ------------------------------------------------------------ random operations

/// The numbers pick one of the sends that wait.
#[derive(Clone, Debug)]
enum Op {
    Send,
    TrySend,
    /// Polls a waiting send, whether or not it was woken.
    Nudge(u8),
    DropSend(u8),
    Recv,
    /// Drops a `recv`, polled first if the channel is empty.
    Peek,
    CloneSender,
    DropSender,
}

fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Send),
        3 => Just(Op::TrySend),
        2 => any::<u8>().prop_map(Op::Nudge),
        2 => any::<u8>().prop_map(Op::DropSend),
        6 => Just(Op::Recv),
        1 => Just(Op::Peek),
        1 => Just(Op::CloneSender),
        1 => Just(Op::DropSender),
    ]
}

/// A waiting send, and how often it had been woken when it was last polled.
struct Waiting<'a> {
    n: u64,
    send: Sending<'a, Item>,
    wakes: Arc<Wakes>,
    seen: usize,
}

impl Waiting<'_> {
    fn poll(&mut self) -> bool {
        self.seen = self.wakes.count();
        match poll(&mut self.send, &self.wakes) {
            Poll::Pending => false,
            Poll::Ready(result) => {
                result.expect("the receiver is there");
                true
            }
        }
    }
}

/// Polls it until it is ready or its poll does not wake it: a busy receiver may be
/// asked to let others go first.
fn recv(receiver: &mut Receiver<Item>) -> Poll<Option<Item>> {
    let mut recv: Recv<'_, Item> = receiver.recv();
    loop {
        let wakes = Wakes::new();
        match poll(&mut recv, &wakes) {
            Poll::Pending if wakes.count() > 0 => {}
            polled => return polled,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_in_whatever_order_it_is_a_queue_with_a_bound(
        capacity in 1_usize..6,
        operations in prop::collection::vec(operation(), 1..80),
    ) {
        let stock = Stock::new();
        let (sender, mut receiver) = bounded(capacity);
        let senders: Vec<Sender<Item>> = vec![sender; 1];
        // Sends borrow their sender; this one outlives them.
        let anchor = senders[0].clone();
        let mut senders = senders;
        let mut waiting: VecDeque<Waiting<'_>> = VecDeque::new();
        let mut inside: VecDeque<u64> = VecDeque::new();
        let mut next = 0;
        for operation in operations {
            match operation {
                Op::Send => {
                    let (n, wakes) = (next, Wakes::new());
                    next += 1;
                    let mut send = Waiting { n, send: anchor.send(stock.item(n)), wakes, seen: 0 };
                    let sent = send.poll();
                    let all_woken = waiting.iter().all(|send| send.wakes.count() > 0);
                    prop_assert!(!sent || all_woken, "{n} went before those who wait");
                    if sent { inside.push_back(n) } else { waiting.push_back(send) }
                }
                Op::TrySend => {
                    let n = next;
                    next += 1;
                    let promised = waiting.iter().filter(|send| send.wakes.count() > 0).count();
                    let is_full = inside.len() + promised == capacity;
                    match anchor.try_send(stock.item(n)) {
                        Ok(()) => prop_assert!(!is_full, "it went where there was no room"),
                        Err(TrySendError::Full(item)) => prop_assert!(is_full && item.n == n),
                        Err(TrySendError::Closed(_)) => prop_assert!(false, "the receiver is there"),
                    }
                    if !is_full {
                        inside.push_back(n);
                    }
                }
                Op::Nudge(k) if !waiting.is_empty() => {
                    let k = k as usize % waiting.len();
                    if waiting[k].poll() {
                        prop_assert_eq!(waiting[k].seen, 1, "it was ready, and nobody had said so");
                        inside.push_back(waiting.remove(k).unwrap().n);
                    }
                }
                Op::DropSend(k) if !waiting.is_empty() => {
                    let k = k as usize % waiting.len();
                    waiting.remove(k);
                }
                Op::Recv => match recv(&mut receiver) {
                    Poll::Pending => prop_assert!(inside.is_empty()),
                    Poll::Ready(item) => {
                        prop_assert_eq!(item.map(|item| item.n), inside.pop_front());
                    }
                },
                Op::Peek => {
                    let mut peek = receiver.recv();
                    // Only where it can take nothing.
                    if inside.is_empty() {
                        prop_assert!(poll(&mut peek, &Wakes::new()).is_pending());
                    }
                }
                Op::CloneSender => senders.push(anchor.clone()),
                Op::DropSender => drop(senders.pop()),
                Op::Nudge(_) | Op::DropSend(_) => {}
            }
            prop_assert!(inside.len() <= capacity, "{} of {capacity}", inside.len());
            // Free room and an unwoken send never coexist: either all room is promised to
            // woken sends, or no send waits unwoken.
            let woken = waiting.iter().filter(|send| send.wakes.count() > 0).count();
            if woken < waiting.len() {
                prop_assert_eq!(inside.len() + woken, capacity, "room, and one who waits");
            }
        }
        // Drains the channel: only sends that were woken are polled.
        loop {
            let ready = waiting.iter().position(|send| send.wakes.count() > send.seen);
            if let Some(k) = ready {
                if waiting[k].poll() {
                    inside.push_back(waiting.remove(k).unwrap().n);
                }
                continue;
            }
            match recv(&mut receiver) {
                Poll::Ready(item) => prop_assert_eq!(item.map(|item| item.n), inside.pop_front()),
                Poll::Pending => break,
            }
        }
        prop_assert!(waiting.is_empty(), "{} wait for ever", waiting.len());
        prop_assert!(inside.is_empty());
        drop((waiting, senders));
        drop(anchor);
        prop_assert!(matches!(recv(&mut receiver), Poll::Ready(None)));
        prop_assert_eq!(stock.left(), 0);
    }
}
