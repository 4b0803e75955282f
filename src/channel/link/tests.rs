//! What is seen only from inside of a link, a step at a time.
//!
//! # Invariants
//!
//! 1. A [`Count`] guards nothing: a test looks at it on the thread that has counted.

use super::*;

#[test]
fn a_newcomer_does_not_take_the_room_for_which_another_waits() {
    let (sender, mut receiver) = crate::channel::between(2);
    let mut cx = std::task::Context::from_waker(Waker::noop());
    let mut poll = |send: &mut crate::channel::Send<'_, u8>| std::pin::Pin::new(send).poll(&mut cx);
    let mut sends: Vec<_> = (0..2).map(|n| sender.send(n)).collect();
    assert!(sends.iter_mut().all(|send| poll(send).is_ready()));
    let mut first = sender.send(2);
    assert!(poll(&mut first).is_pending());
    let here = std::panic::Location::caller();
    // Its room has not been offered yet, but any sender that asks finds it.
    assert!(
        receiver.poll_recv(&mut std::task::Context::from_waker(Waker::noop()), here).is_ready()
    );
    let mut newcomer = sender.send(3);
    assert!(poll(&mut newcomer).is_pending());
    assert!(poll(&mut first).is_ready());
}

#[derive(Default)]
struct Count(AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn woken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "tokio")]
#[test]
fn who_is_kept_is_free_before_what_is_left_is_dropped() {
    struct Looks(Arc<Count>, Arc<AtomicUsize>);
    impl Drop for Looks {
        fn drop(&mut self) {
            self.1.store(self.0.woken(), Ordering::Relaxed);
        }
    }
    let runtime = rt::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let _there = runtime.enter();
    let (woken, count, seen) = (rt::KeptWakers::here(), Arc::<Count>::default(), Arc::default());
    let (sender, receiver) = crate::channel::bounded(1);
    assert!(sender.put(Looks(Arc::clone(&count), Arc::clone(&seen))).is_ok());
    woken.turns().turn(|| {
        rt::set_keeping(true);
        rt::wake_at(woken.id(), [Waker::from(Arc::clone(&count))]);
        drop(receiver);
    });
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[test]
fn a_send_that_is_polled_once_too_often_takes_nobodys_room() {
    let here = std::panic::Location::caller();
    let (sender, mut receiver) = crate::channel::between(3);
    let count = Arc::<Count>::default();
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = std::task::Context::from_waker(&waker);
    let mut nobody = std::task::Context::from_waker(Waker::noop());
    let [mut first, mut second, mut third, mut fourth] = [0, 1, 2, 3].map(|n| sender.send(n));
    let poll = |send: &mut crate::channel::Send<'_, u8>, cx: &mut std::task::Context<'_>| {
        std::pin::Pin::new(send).poll(cx)
    };
    for send in [&mut first, &mut second, &mut third] {
        assert!(poll(send, &mut nobody).is_ready());
    }
    assert!(poll(&mut fourth, &mut cx).is_pending());
    // Their room has not been offered yet.
    (0..2).for_each(|_| assert!(receiver.poll_recv(&mut nobody, here).is_ready()));
    let again = std::panic::AssertUnwindSafe(|| poll(&mut first, &mut nobody));
    assert!(std::panic::catch_unwind(again).is_err());
    // The receiver offers it when it is about to wait.
    assert!(receiver.poll_recv(&mut nobody, here).is_ready());
    assert!(receiver.poll_recv(&mut nobody, here).is_pending());
    assert_eq!(count.woken(), 1, "the fourth has not heard of its room");
    assert!(poll(&mut fourth, &mut cx).is_ready());
}

#[test]
fn the_count_of_what_was_handed_out_may_begin_anew() {
    let link = Link::new(4, false, None);
    let before_the_last = usize::MAX - 3;
    link.takes.handed.store(before_the_last & !1, Ordering::Relaxed);
    let mut state = link.state.lock();
    (state.freed, state.fetched_weight) = (before_the_last / 2, before_the_last / 2);
    state.queue.extend(0..4);
    state.room = 0;
    let mut batch = VecDeque::new();
    link.fetch(&mut state, &mut batch);
    for item in batch {
        let _somebody_waits = link.hand_out(&item);
    }
    assert!(link.takes.handed.load(Ordering::Relaxed) < before_the_last, "it did not");
    link.reclaim(&mut state);
    assert_eq!(state.room, 4);
    drop(state);
    let taken = Arc::new(link).counts().taken;
    assert_eq!(taken, before_the_last / 2 + 4, "the count of all has begun anew");
}
