//! Bugs with tasks and their owners.

use crate::{Animal, animal};
use quell::{Context, rt};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

pub fn all() -> Vec<Animal> {
    vec![
        animal!(joins_its_joiner, joins_its_joiner_repaired, BlockedStage, Some("helper"), None),
        animal!(detached, detached_repaired, LeakedTask, Some("flush"), Cancel),
        animal!(kept_child, kept_child_repaired, LeakedContext, None, Cancel),
        animal!(dropped_handle, dropped_handle_repaired, LeakedTask, Some("download"), Cancel),
        animal!(joined_in_a_ring, joined_in_a_ring_repaired, BlockedStage, Some("one"), None),
        animal!(forgotten_waker, forgotten_waker_repaired, BlockedStage, Some("poller"), None),
        animal!(dropped_owner, dropped_owner_repaired, BlockedStage, Some("worker"), Drop),
        animal!(busy_wait, busy_wait_repaired, LeakedTask, Some("watcher"), Cancel),
    ]
}

/// A task waits for what its joiner only says once it has joined it.
async fn joins_its_joiner(_ctx: Context) {
    let (tell, told) = oneshot::channel::<()>();
    let helper = rt::spawn_named("helper", async move {
        let _ = told.await; // <- joins_its_joiner
    });
    helper.await.unwrap();
    let _ = tell.send(());
}

async fn joins_its_joiner_repaired(_ctx: Context) {
    let (tell, told) = oneshot::channel::<()>();
    let helper = rt::spawn_named("helper", async move {
        let _ = told.await;
    });
    let _ = tell.send(());
    helper.await.unwrap();
}

/// A task that nothing waits for.
async fn detached(ctx: Context) {
    drop(rt::spawn_named("flush", async {
        rt::sleep(Duration::from_secs(30)).await; // <- detached
    }));
    let _ = ctx.run(rt::yield_now()).await;
}

async fn detached_repaired(ctx: Context) {
    let inside = ctx.clone();
    let flush = rt::spawn_named("flush", async move {
        let _ = inside.run(rt::sleep(Duration::from_secs(30))).await;
    });
    let _ = ctx.run(rt::yield_now()).await;
    flush.abort();
    let _ = flush.await;
}

/// A parent keeps its children's contexts, and a child keeps its parent.
async fn kept_child(ctx: Context) {
    struct Parent {
        children: Mutex<Vec<(Arc<Parent>, Context)>>,
    }
    let parent = Arc::new(Parent { children: Mutex::new(Vec::new()) });
    let (child, canceller) = ctx.with_cancel(); // <- kept_child
    parent.children.lock().unwrap().push((parent.clone(), child.clone()));
    let _ = child.run(rt::yield_now()).await;
    canceller.cancel();
}

async fn kept_child_repaired(ctx: Context) {
    struct Parent {
        children: Mutex<Vec<(std::sync::Weak<Parent>, Context)>>,
    }
    let parent = Arc::new(Parent { children: Mutex::new(Vec::new()) });
    let (child, canceller) = ctx.with_cancel();
    parent.children.lock().unwrap().push((Arc::downgrade(&parent), child.clone()));
    let _ = child.run(rt::yield_now()).await;
    canceller.cancel();
}

/// Giving up the wait for a task does not stop the task.
async fn dropped_handle(ctx: Context) {
    let download = rt::spawn_named("download", async {
        rt::sleep(Duration::from_secs(60)).await; // <- dropped_handle
    });
    let _ = ctx.run(download).await;
}

async fn dropped_handle_repaired(ctx: Context) {
    let mut download = rt::spawn_named("download", async {
        rt::sleep(Duration::from_secs(60)).await;
    });
    if ctx.run(&mut download).await.is_err() {
        download.abort();
        let _ = download.await;
    }
}

/// Each of two tasks waits for the end of the other.
async fn joined_in_a_ring(_ctx: Context) {
    let (give, given) = oneshot::channel::<rt::JoinHandle<()>>();
    let one = rt::spawn_named("one", async move {
        let other = given.await.unwrap();
        other.await.unwrap(); // <- joined_in_a_ring
    });
    let two = rt::spawn_named("two", async move {
        one.await.unwrap();
    });
    let _ = give.send(two);
}

async fn joined_in_a_ring_repaired(_ctx: Context) {
    let one = rt::spawn_named("one", async {});
    let two = rt::spawn_named("two", async move {
        one.await.unwrap();
    });
    two.await.unwrap();
}

/// A future that returns `Pending` and keeps no waker. (There is no line: no trace of its
/// waiting is left anywhere.)
async fn forgotten_waker(_ctx: Context) {
    let ready = Arc::new(Mutex::new(false));
    let asks = ready.clone();
    let poller = rt::spawn_named("poller", async move {
        poll_fn(|_| if *asks.lock().unwrap() { Poll::Ready(()) } else { Poll::Pending }).await;
    });
    rt::yield_now().await;
    *ready.lock().unwrap() = true;
    poller.await.unwrap();
}

async fn forgotten_waker_repaired(_ctx: Context) {
    let ready = Arc::new((Mutex::new(false), Notify::new()));
    let asks = ready.clone();
    let poller = rt::spawn_named("poller", async move {
        while !*asks.0.lock().unwrap() {
            asks.1.notified().await;
        }
    });
    rt::yield_now().await;
    *ready.0.lock().unwrap() = true;
    ready.1.notify_one();
    poller.await.unwrap();
}

/// The last line stops the worker; a body that is dropped never reaches it.
async fn dropped_owner(_ctx: Context) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    let worker = rt::spawn_named("worker", async move {
        stops.notified().await; // <- dropped_owner
    });
    rt::yield_now().await;
    stop.notify_one();
    worker.await.unwrap();
}

async fn dropped_owner_repaired(ctx: Context) {
    let stop = Arc::new(Notify::new());
    let stops = stop.clone();
    let worker = rt::spawn_named("worker", async move {
        let _ = ctx.run(stops.notified()).await;
    });
    rt::yield_now().await;
    stop.notify_one();
    worker.await.unwrap();
}

/// Asks again and again, but never its context.
async fn busy_wait(ctx: Context) {
    let ready = Arc::new(Mutex::new(false));
    let asks = ready.clone();
    let watcher = rt::spawn_named("watcher", async move {
        while !*asks.lock().unwrap() {
            rt::yield_now().await; // <- busy_wait
        }
    });
    if ctx.run(rt::yield_now()).await.is_ok() {
        *ready.lock().unwrap() = true;
    }
    watcher.await.unwrap();
}

async fn busy_wait_repaired(ctx: Context) {
    let ready = Arc::new(Mutex::new(false));
    let asks = ready.clone();
    let watches = ctx.clone();
    let watcher = rt::spawn_named("watcher", async move {
        while !*asks.lock().unwrap() && !watches.is_done() {
            rt::yield_now().await;
        }
    });
    if ctx.run(rt::yield_now()).await.is_ok() {
        *ready.lock().unwrap() = true;
    }
    watcher.await.unwrap();
}
