//! Bugs with time.

use crate::{Animal, animal};
use quell::check::Tracked;
use quell::{Context, rt};
use std::time::Duration;
use tokio::sync::mpsc;

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Animal> {
    vec![
        animal!(deaf_stage, deaf_stage_repaired, BlockedStage, Some("throttle"), Cancel),
        animal!(unchecked_timer, unchecked_timer_repaired, LeakedTask, Some("poll"), Cancel),
        animal!(swallowing_retry, swallowing_retry_repaired, LeakedTask, Some("retry"), Cancel),
        animal!(orphaned_interval, orphaned_interval_repaired, LeakedTask, Some("beat"), Cancel),
        animal!(late_result, late_result_repaired, LostItem, Some("body"), None),
        animal!(own_deadline, own_deadline_repaired, LeakedTask, Some("lookup"), Deadline),
        animal!(slow_goodbye, slow_goodbye_repaired, LeakedTask, Some("body"), Cancel),
    ]
}

/// A stage in the middle that never looks at its context: it waits for room that never
/// comes.
async fn deaf_stage(ctx: Context) {
    let (requests, mut read) = mpsc::channel(1);
    let (paced, mut out) = mpsc::channel(1);
    let produces = ctx.clone();
    let producer = rt::spawn_named("producer", async move {
        for n in 0..4 {
            if !matches!(produces.run(requests.send(n)).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    let throttle = rt::spawn_named("throttle", async move {
        let mut ticks = rt::interval(SECOND / 10);
        while let Some(request) = read.recv().await {
            ticks.tick().await;
            let _ = paced.send(request).await; // <- deaf_stage
        }
    });
    let _ = ctx.run(async { while out.recv().await.is_some() {} }).await;
    producer.await.unwrap();
    throttle.await.unwrap();
}

async fn deaf_stage_repaired(ctx: Context) {
    let (requests, mut read) = mpsc::channel(1);
    let (paced, mut out) = mpsc::channel(1);
    let produces = ctx.clone();
    let producer = rt::spawn_named("producer", async move {
        for n in 0..4 {
            if !matches!(produces.run(requests.send(n)).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    let throttles = ctx.clone();
    let throttle = rt::spawn_named("throttle", async move {
        let mut ticks = rt::interval(SECOND / 10);
        let _ = throttles
            .run(async {
                while let Some(request) = read.recv().await {
                    ticks.tick().await;
                    let _ = paced.send(request).await;
                }
            })
            .await;
    });
    let _ = ctx.run(async { while out.recv().await.is_some() {} }).await;
    producer.await.unwrap();
    throttle.await.unwrap();
}

/// A loop around a timer that never asks whether to go on.
async fn unchecked_timer(ctx: Context) {
    drop(rt::spawn_named("poll", async {
        loop {
            rt::sleep(SECOND / 2).await; // <- unchecked_timer
        }
    }));
    ctx.done().await;
}

async fn unchecked_timer_repaired(ctx: Context) {
    let polls = ctx.clone();
    drop(rt::spawn_named("poll", async move {
        while polls.run(rt::sleep(SECOND / 2)).await.is_ok() {}
    }));
    ctx.done().await;
}

/// Being told to stop is one more error to try again after.
async fn swallowing_retry(ctx: Context) {
    let tries = ctx.clone();
    let retry = rt::spawn_named("retry", async move {
        for _ in 0..100 {
            let answer = tries.run(async { Err::<(), _>("busy") }).await;
            if let Ok(Ok(())) = answer {
                return;
            }
            rt::sleep(SECOND).await; // <- swallowing_retry
        }
    });
    ctx.done().await;
    retry.await.unwrap();
}

async fn swallowing_retry_repaired(ctx: Context) {
    let tries = ctx.clone();
    let retry = rt::spawn_named("retry", async move {
        for _ in 0..100 {
            let answer = tries.run(async { Err::<(), _>("busy") }).await;
            match answer {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(_)) => {}
            }
            if tries.run(rt::sleep(SECOND)).await.is_err() {
                return;
            }
        }
    });
    ctx.done().await;
    retry.await.unwrap();
}

/// The owner of the beat is gone, and the beat goes on.
async fn orphaned_interval(ctx: Context) {
    struct Owner(#[allow(dead_code)] rt::JoinHandle<()>);
    let owner = Owner(rt::spawn_named("beat", async {
        let mut beat = rt::interval(SECOND);
        loop {
            beat.tick().await; // <- orphaned_interval
        }
    }));
    ctx.done().await;
    drop(owner);
}

async fn orphaned_interval_repaired(ctx: Context) {
    struct Owner(rt::JoinHandle<()>);
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let owner = Owner(rt::spawn_named("beat", async {
        let mut beat = rt::interval(SECOND);
        loop {
            beat.tick().await;
        }
    }));
    ctx.done().await;
    drop(owner);
}

/// The result and the timeout come at the same time, and the result is thrown away.
async fn late_result(_ctx: Context) {
    let (results, mut read) = mpsc::channel(1);
    let worker = rt::spawn_named("worker", async move {
        rt::sleep(SECOND).await;
        let _ = results.send(Tracked::new(7)).await; // <- late_result
    });
    let late = tokio::select! {
        biased;
        () = rt::sleep(SECOND) => None,
        result = read.recv() => result,
    };
    worker.await.unwrap();
    if let Some(result) = late {
        result.settle();
    }
}

async fn late_result_repaired(_ctx: Context) {
    let (results, mut read) = mpsc::channel(1);
    let worker = rt::spawn_named("worker", async move {
        rt::sleep(SECOND).await;
        let _ = results.send(Tracked::new(7)).await;
    });
    let _ = rt::timeout(SECOND, async { read.recv().await.unwrap().settle() }).await;
    worker.await.unwrap();
    if let Ok(result) = read.try_recv() {
        result.settle();
    }
}

/// Makes a deadline of its own, and knows nothing of its caller's.
async fn own_deadline(ctx: Context) {
    let lookup = rt::spawn_named("lookup", async move {
        let (own, _canceller) = Context::background().with_timeout(7200 * SECOND);
        own.done().await; // <- own_deadline
    });
    let _ = ctx.run(lookup).await;
}

async fn own_deadline_repaired(ctx: Context) {
    let inside = ctx.clone();
    let lookup = rt::spawn_named("lookup", async move {
        let (own, _canceller) = inside.with_timeout(7200 * SECOND);
        own.done().await;
    });
    let _ = ctx.run(lookup).await;
}

/// It does stop, but takes its time.
async fn slow_goodbye(ctx: Context) {
    ctx.done().await;
    rt::sleep(5 * SECOND).await; // <- slow_goodbye
}

async fn slow_goodbye_repaired(ctx: Context) {
    ctx.done().await;
    rt::sleep(SECOND / 2).await;
}
