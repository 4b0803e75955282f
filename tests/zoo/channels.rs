//! Bugs with channels.

use crate::{Animal, animal};
use quell::check::Tracked;
use quell::{Context, rt};
use std::pin::pin;
use tokio::sync::{mpsc, oneshot, watch};

pub fn all() -> Vec<Animal> {
    vec![
        animal!(stopped_reader, stopped_reader_repaired, BlockedStage, Some("producer"), Cancel),
        animal!(dropped_item, dropped_item_repaired, LostItem, Some("body"), Cancel),
        animal!(endless_drain, endless_drain_repaired, BlockedStage, Some("worker"), Cancel),
        animal!(own_sender, own_sender_repaired, BlockedStage, Some("body"), None),
        animal!(unanswered, unanswered_repaired, BlockedStage, Some("client"), Cancel),
        animal!(missed_change, missed_change_repaired, BlockedStage, Some("body"), None),
        animal!(unwrapped_send, unwrapped_send_repaired, Panicked, Some("producer"), Cancel),
        animal!(unbiased_select, unbiased_select_repaired, Nondeterministic, None, Cancel),
        animal!(handed_over, handed_over_repaired, LostItem, Some("body"), Cancel),
    ]
}

/// The reader stops reading, keeps the receiver, and waits for the producer.
async fn stopped_reader(ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    let producer = rt::spawn_named("producer", async move {
        for n in 0..5 {
            let _ = items.send(n).await; // <- stopped_reader
        }
    });
    let _ = ctx.run(async { while read.recv().await.is_some() {} }).await;
    producer.await.unwrap();
}

async fn stopped_reader_repaired(ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    let producer = rt::spawn_named("producer", async move {
        for n in 0..5 {
            let _ = items.send(n).await;
        }
    });
    let _ = ctx.run(async { while read.recv().await.is_some() {} }).await;
    drop(read);
    producer.await.unwrap();
}

/// A received item is still being worked on when the context ends, and is lost with the future.
async fn dropped_item(ctx: Context) {
    let (items, mut read) = mpsc::channel(4);
    for n in 0..2 {
        items.try_send(Tracked::new(n)).unwrap(); // <- dropped_item
    }
    drop(items);
    let _ = ctx
        .run(async {
            while let Some(item) = read.recv().await {
                rt::yield_now().await;
                item.settle();
            }
        })
        .await;
    while let Some(rest) = read.recv().await {
        rest.settle();
    }
}

async fn dropped_item_repaired(ctx: Context) {
    let (items, mut read) = mpsc::channel(4);
    for n in 0..2 {
        items.try_send(Tracked::new(n)).unwrap();
    }
    drop(items);
    while let Ok(Some(item)) = ctx.run(read.recv()).await {
        rt::yield_now().await;
        item.settle();
    }
    while let Some(rest) = read.recv().await {
        rest.settle();
    }
}

/// Reads until the channel is closed, to finish what is left, but holds a sender itself.
async fn endless_drain(ctx: Context) {
    let (items, mut read) = mpsc::channel(2);
    let again = items.clone();
    items.send(0).await.unwrap();
    drop(items);
    let worker = ctx.clone();
    let worker = rt::spawn_named("worker", async move {
        while let Ok(Some(n)) = worker.run(read.recv()).await {
            rt::yield_now().await;
            let _ = again.try_send(n + 1);
        }
        while read.recv().await.is_some() {} // <- endless_drain
    });
    ctx.done().await;
    worker.await.unwrap();
}

async fn endless_drain_repaired(ctx: Context) {
    let (items, mut read) = mpsc::channel(2);
    let again = items.clone();
    items.send(0).await.unwrap();
    drop(items);
    let worker = ctx.clone();
    let worker = rt::spawn_named("worker", async move {
        while let Ok(Some(n)) = worker.run(read.recv()).await {
            rt::yield_now().await;
            let _ = again.try_send(n + 1);
        }
        read.close();
        while read.recv().await.is_some() {}
    });
    ctx.done().await;
    worker.await.unwrap();
}

/// Waits for the last sender to go, which is its own.
async fn own_sender(_ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    for n in 0..2 {
        let items = items.clone();
        drop(rt::spawn_named("producer", async move { items.send(n).await.unwrap() }));
    }
    while read.recv().await.is_some() {} // <- own_sender
    drop(items);
}

async fn own_sender_repaired(_ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    for n in 0..2 {
        let items = items.clone();
        drop(rt::spawn_named("producer", async move { items.send(n).await.unwrap() }));
    }
    drop(items);
    while read.recv().await.is_some() {}
}

/// A server that stops keeps the questions it has not answered.
async fn unanswered(ctx: Context) {
    let (ask, mut asked) = mpsc::channel::<oneshot::Sender<u32>>(4);
    let client = rt::spawn_named("client", async move {
        let (answer, answered) = oneshot::channel();
        if ask.send(answer).await.is_ok() {
            let _ = answered.await; // <- unanswered
        }
    });
    let mut open = Vec::new();
    let _ = ctx
        .run(async {
            while let Some(question) = asked.recv().await {
                open.push(question);
                rt::yield_now().await;
                open.pop().unwrap().send(42).unwrap();
            }
        })
        .await;
    drop(asked);
    client.await.unwrap();
    drop(open);
}

async fn unanswered_repaired(ctx: Context) {
    let (ask, mut asked) = mpsc::channel::<oneshot::Sender<u32>>(4);
    let client = rt::spawn_named("client", async move {
        let (answer, answered) = oneshot::channel();
        if ask.send(answer).await.is_ok() {
            let _ = answered.await;
        }
    });
    let mut open = Vec::new();
    let _ = ctx
        .run(async {
            while let Some(question) = asked.recv().await {
                open.push(question);
                rt::yield_now().await;
                open.pop().unwrap().send(42).unwrap();
            }
        })
        .await;
    drop(asked);
    drop(open);
    client.await.unwrap();
}

/// Waits for a change, though the last one may have come already.
async fn missed_change(_ctx: Context) {
    let (state, read) = watch::channel(false);
    let writer = rt::spawn_named("writer", async move {
        state.send(true).unwrap();
        std::mem::forget(state);
    });
    rt::yield_now().await;
    let mut read = read.clone();
    read.mark_unchanged();
    if !*read.borrow() || read.has_changed().unwrap() {
        writer.await.unwrap();
        return;
    }
    let _ = read.changed().await; // <- missed_change
}

async fn missed_change_repaired(_ctx: Context) {
    let (state, read) = watch::channel(false);
    let writer = rt::spawn_named("writer", async move {
        state.send(true).unwrap();
        std::mem::forget(state);
    });
    rt::yield_now().await;
    let mut read = read.clone();
    let _ = read.wait_for(|ready| *ready).await;
    writer.await.unwrap();
}

/// A send that can fail when everything stops is unwrapped.
async fn unwrapped_send(ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    let producer = rt::spawn_named("producer", async move {
        for n in 0..3 {
            items.send(n).await.unwrap(); // <- unwrapped_send
        }
    });
    let _ = ctx.run(async { while read.recv().await.is_some() {} }).await;
    drop(read);
    let _ = producer.await;
}

async fn unwrapped_send_repaired(ctx: Context) {
    let (items, mut read) = mpsc::channel(1);
    let producer = rt::spawn_named("producer", async move {
        for n in 0..3 {
            if items.send(n).await.is_err() {
                return;
            }
        }
    });
    let _ = ctx.run(async { while read.recv().await.is_some() {} }).await;
    drop(read);
    let _ = producer.await;
}

/// Which branch goes first is left to chance, which no checker can replay.
async fn unbiased_select(ctx: Context) {
    let (items, mut read) = mpsc::channel(8);
    for n in 0..8 {
        items.send(n).await.unwrap();
    }
    loop {
        tokio::select! {
            Some(_) = read.recv() => rt::yield_now().await,
            _ = ctx.run(rt::yield_now()) => {}
        }
        if ctx.is_done() || read.is_empty() {
            return;
        }
    }
}

async fn unbiased_select_repaired(ctx: Context) {
    let (items, mut read) = mpsc::channel(8);
    for n in 0..8 {
        items.send(n).await.unwrap();
    }
    loop {
        tokio::select! {
            biased;
            Some(_) = read.recv() => rt::yield_now().await,
            _ = ctx.run(rt::yield_now()) => {}
        }
        if ctx.is_done() || read.is_empty() {
            return;
        }
    }
}

/// The channel has handed the item to a read, which is given up before its next turn. (Most
/// channels only wake a read, and keep the item until it comes for it.)
async fn handed_over(ctx: Context) {
    let (items, read) = kanal::bounded_async(1);
    let producer = rt::spawn_named("producer", async move {
        for n in 0..2 {
            items.send(Tracked::new(n)).await.unwrap(); // <- handed_over
        }
    });
    while let Ok(Ok(item)) = ctx.run(read.recv()).await {
        item.settle();
    }
    while let Ok(rest) = read.recv().await {
        rest.settle();
    }
    producer.await.unwrap();
}

async fn handed_over_repaired(ctx: Context) {
    let (items, read) = kanal::bounded_async(1);
    let producer = rt::spawn_named("producer", async move {
        for n in 0..2 {
            items.send(Tracked::new(n)).await.unwrap();
        }
    });
    loop {
        let mut next = pin!(read.recv());
        let item = match ctx.run(next.as_mut()).await {
            Ok(item) => item,
            Err(_) => next.await,
        };
        match item {
            Ok(item) => item.settle(),
            Err(_) => break,
        };
    }
    producer.await.unwrap();
}
