//! Bugs with locks, permits and notifications.

use crate::{Animal, animal};
use futures::select_biased;
use quell::{Context, rt};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Barrier, Mutex, Notify, RwLock, Semaphore};

pub fn all() -> Vec<Animal> {
    vec![
        animal!(lost_notify, lost_notify_repaired, BlockedStage, Some("waiter"), None),
        animal!(held_guard, held_guard_repaired, BlockedStage, Some("worker"), Cancel),
        animal!(checked_too_soon, checked_too_soon_repaired, BlockedStage, Some("body"), Cancel),
        animal!(polled_too_soon, polled_too_soon_repaired, BlockedStage, Some("body"), Cancel),
        animal!(missed_relay, missed_relay_repaired, BlockedStage, Some("body"), Cancel),
        animal!(lost_permit, lost_permit_repaired, BlockedStage, Some("body"), Cancel),
        animal!(crossed_locks, crossed_locks_repaired, BlockedStage, Some("one"), None),
        animal!(absent_party, absent_party_repaired, BlockedStage, Some("second"), Cancel),
        animal!(full_group, full_group_repaired, BlockedStage, Some("parent"), None),
        animal!(skipped_close, skipped_close_repaired, BlockedStage, Some("body"), Panic),
        animal!(left_in_line, left_in_line_repaired, BlockedStage, Some("body"), None),
        animal!(reads_twice, reads_twice_repaired, BlockedStage, Some("reader"), Cancel),
    ]
}

/// A task that begins to wait after the notification waits for ever.
async fn lost_notify(_ctx: Context) {
    let ready = Arc::new(Notify::new());
    let waits = ready.clone();
    let waiter = rt::spawn_named("waiter", async move {
        waits.notified().await; // <- lost_notify
    });
    rt::yield_now().await;
    ready.notify_waiters();
    waiter.await.unwrap();
}

async fn lost_notify_repaired(_ctx: Context) {
    let ready = Arc::new(Notify::new());
    let waits = ready.clone();
    let waiter = rt::spawn_named("waiter", async move { waits.notified().await });
    rt::yield_now().await;
    ready.notify_one();
    waiter.await.unwrap();
}

/// Stopping the worker takes the lock that the worker keeps meanwhile.
async fn held_guard(ctx: Context) {
    let state = Arc::new(Mutex::new(0));
    let (work, canceller) = Context::background().with_cancel();
    let counts = state.clone();
    let worker = rt::spawn_named("worker", async move {
        let mut count = counts.lock().await;
        *count += 1;
        work.done().await; // <- held_guard
    });
    ctx.done().await;
    let count = state.lock().await;
    canceller.cancel_with(format!("after {count}"));
    drop(count);
    worker.await.unwrap();
}

async fn held_guard_repaired(ctx: Context) {
    let state = Arc::new(Mutex::new(0));
    let (work, canceller) = Context::background().with_cancel();
    let counts = state.clone();
    let worker = rt::spawn_named("worker", async move {
        *counts.lock().await += 1;
        work.done().await;
    });
    ctx.done().await;
    let count = state.lock().await;
    canceller.cancel_with(format!("after {count}"));
    drop(count);
    worker.await.unwrap();
}

/// The end comes after the check and before the wait.
async fn checked_too_soon(ctx: Context) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    ctx.after_func(move || stops.notify_waiters());
    if ctx.is_done() {
        return;
    }
    stop.notified().await; // <- checked_too_soon
}

async fn checked_too_soon_repaired(ctx: Context) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    ctx.after_func(move || stops.notify_waiters());
    let stopped = stop.notified();
    if ctx.is_done() {
        return;
    }
    stopped.await;
}

/// The same, where the check is a `select!` with a default.
async fn polled_too_soon(ctx: Context) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    ctx.after_func(move || stops.notify_waiters());
    select_biased! {
        _ = ctx.done() => return,
        default => {}
    }
    stop.notified().await; // <- polled_too_soon
}

async fn polled_too_soon_repaired(ctx: Context) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    ctx.after_func(move || stops.notify_waiters());
    let stopped = stop.notified();
    select_biased! {
        _ = ctx.done() => return,
        default => {}
    }
    stopped.await;
}

/// A task passes the end on, by a flag and a notification, which comes after the check of
/// the flag and before the wait. No context is looked at near that wait.
async fn missed_relay(ctx: Context) {
    let (stopped, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (flag, tell) = (stopped.clone(), stop.clone());
    let relay = rt::spawn_named("relay", async move {
        ctx.done().await;
        flag.store(true, Ordering::SeqCst);
        tell.notify_waiters();
    });
    for round in 0..20 {
        rt::yield_now().await;
        if round == 10 && !stopped.load(Ordering::SeqCst) {
            rt::yield_now().await;
            stop.notified().await; // <- missed_relay
        }
    }
    relay.await.unwrap();
}

async fn missed_relay_repaired(ctx: Context) {
    let (stopped, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (flag, tell) = (stopped.clone(), stop.clone());
    let relay = rt::spawn_named("relay", async move {
        ctx.done().await;
        flag.store(true, Ordering::SeqCst);
        tell.notify_waiters();
    });
    for round in 0..20 {
        rt::yield_now().await;
        let notified = stop.notified();
        if round == 10 && !stopped.load(Ordering::SeqCst) {
            rt::yield_now().await;
            notified.await;
        }
    }
    relay.await.unwrap();
}

/// A permit that is given back by hand is lost with the future that would do it.
async fn lost_permit(ctx: Context) {
    let permits = Arc::new(Semaphore::new(2));
    let work = async {
        permits.acquire().await.unwrap().forget();
        rt::yield_now().await;
        permits.add_permits(1);
    };
    let _ = ctx.run(work).await;
    let _all = permits.acquire_many(2).await.unwrap(); // <- lost_permit
}

async fn lost_permit_repaired(ctx: Context) {
    let permits = Arc::new(Semaphore::new(2));
    let work = async {
        let _permit = permits.acquire().await.unwrap();
        rt::yield_now().await;
    };
    let _ = ctx.run(work).await;
    let _all = permits.acquire_many(2).await.unwrap();
}

/// Two tasks take two locks, each in its own order.
async fn crossed_locks(_ctx: Context) {
    let (left, right) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
    let (first, second) = (left.clone(), right.clone());
    let one = rt::spawn_named("one", async move {
        let _first = first.lock().await;
        rt::yield_now().await;
        let _second = second.lock().await; // <- crossed_locks
    });
    let two = rt::spawn_named("two", async move {
        let _first = right.lock().await;
        let _second = left.lock().await;
    });
    one.await.unwrap();
    two.await.unwrap();
}

async fn crossed_locks_repaired(_ctx: Context) {
    let (left, right) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
    let (first, second) = (left.clone(), right.clone());
    let one = rt::spawn_named("one", async move {
        let _first = first.lock().await;
        rt::yield_now().await;
        let _second = second.lock().await;
    });
    let two = rt::spawn_named("two", async move {
        let _first = left.lock().await;
        let _second = right.lock().await;
    });
    one.await.unwrap();
    two.await.unwrap();
}

/// One of the two that are to meet has left.
async fn absent_party(ctx: Context) {
    let meeting = Arc::new(Barrier::new(2));
    let meets = meeting.clone();
    let first = ctx.clone();
    let first = rt::spawn_named("first", async move {
        let _ = first.run(meets.wait()).await;
    });
    let second = rt::spawn_named("second", async move {
        rt::yield_now().await;
        meeting.wait().await; // <- absent_party
    });
    first.await.unwrap();
    second.await.unwrap();
}

async fn absent_party_repaired(ctx: Context) {
    let meeting = Arc::new(Barrier::new(2));
    let parties = ["first", "second"].map(|name| {
        let (ctx, meeting) = (ctx.clone(), meeting.clone());
        rt::spawn_named(name, async move {
            rt::yield_now().await;
            let _ = ctx.run(meeting.wait()).await;
        })
    });
    for party in parties {
        party.await.unwrap();
    }
}

/// A task of a full group waits for room in it.
async fn full_group(_ctx: Context) {
    let room = Arc::new(Semaphore::new(1));
    let rooms = room.clone();
    let parent = rt::spawn_named("parent", async move {
        let _mine = rooms.acquire().await.unwrap();
        let _childs = rooms.acquire().await.unwrap(); // <- full_group
        rt::spawn_named("child", async {}).await.unwrap();
    });
    parent.await.unwrap();
}

async fn full_group_repaired(_ctx: Context) {
    let room = Arc::new(Semaphore::new(1));
    let rooms = room.clone();
    let parent = rt::spawn_named("parent", async move {
        drop(rooms.acquire().await.unwrap());
        let _childs = rooms.acquire().await.unwrap();
        rt::spawn_named("child", async {}).await.unwrap();
    });
    parent.await.unwrap();
}

/// The worker's last line ends the wait for it, and a panic skips that line.
async fn skipped_close(_ctx: Context) {
    let closed = Arc::new(Notify::new());
    let closes = closed.clone();
    drop(rt::spawn_named("worker", async move {
        quell::check::fault("in the middle of the work");
        closes.notify_one();
    }));
    closed.notified().await; // <- skipped_close
}

async fn skipped_close_repaired(_ctx: Context) {
    struct Closes(Arc<Notify>);
    impl Drop for Closes {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let closed = Arc::new(Notify::new());
    let closes = Closes(closed.clone());
    drop(rt::spawn_named("worker", async move {
        let _closes = closes;
        quell::check::fault("in the middle of the work");
    }));
    closed.notified().await;
}

/// A future that waits for the lock is set aside: it is the next in line, so it is handed the
/// lock, and nobody polls it.
async fn left_in_line(_ctx: Context) {
    let lock = Arc::new(Mutex::new(0));
    let holds = lock.clone();
    let holder = rt::spawn_named("holder", async move {
        let _guard = holds.lock().await;
        rt::sleep(Duration::from_secs(2)).await;
    });
    rt::yield_now().await;
    let mut first = pin!(async { *lock.lock().await += 1 });
    tokio::select! {
        biased;
        () = &mut first => {}
        () = rt::sleep(Duration::from_secs(1)) => {
            *lock.lock().await += 1; // <- left_in_line
        }
    }
    holder.await.unwrap();
}

async fn left_in_line_repaired(_ctx: Context) {
    let lock = Arc::new(Mutex::new(0));
    let holds = lock.clone();
    let holder = rt::spawn_named("holder", async move {
        let _guard = holds.lock().await;
        rt::sleep(Duration::from_secs(2)).await;
    });
    rt::yield_now().await;
    let first = async { *lock.lock().await += 1 };
    tokio::select! {
        biased;
        () = first => {}
        () = rt::sleep(Duration::from_secs(1)) => {
            *lock.lock().await += 1;
        }
    }
    holder.await.unwrap();
}

/// A reader reads again inside of its read, and between the two a writer has come into line.
async fn reads_twice(ctx: Context) {
    let state = Arc::new(RwLock::new(0));
    let reads = state.clone();
    let reader = rt::spawn_named("reader", async move {
        let _outer = reads.read().await;
        if ctx.run(rt::yield_now()).await.is_ok() {
            let _inner = reads.read().await; // <- reads_twice
        }
    });
    let writer = rt::spawn_named("writer", async move { *state.write().await += 1 });
    reader.await.unwrap();
    writer.await.unwrap();
}

async fn reads_twice_repaired(ctx: Context) {
    let state = Arc::new(RwLock::new(0));
    let reads = state.clone();
    let reader = rt::spawn_named("reader", async move {
        let outer = reads.read().await;
        if ctx.run(rt::yield_now()).await.is_ok() {
            drop(outer);
            let _inner = reads.read().await;
        }
    });
    let writer = rt::spawn_named("writer", async move { *state.write().await += 1 });
    reader.await.unwrap();
    writer.await.unwrap();
}
