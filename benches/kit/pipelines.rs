//! The same pipeline from quell and, by hand, from its peers' channels.
//!
//! All contenders do the same work: a producer, a relay and eight workers that add one, each a
//! task, with room for 64 items between them, and a reader that sums up. By hand, each await races
//! a cancellation in a `select!`, as it is usually written ([`Fresh`]); [`Kept`] makes the future
//! of the cancellation once for each task instead of once for each await. [`buffer_unordered`] also
//! has the relay, and ends with a cancellation, made once; [`bare_buffer_unordered`] has neither.
#![allow(dead_code, unreachable_pub, reason = "no bench needs all of it, and each is a crate")]

use futures::{Stream, StreamExt};
use quell::channel::SendError;
use quell::{Context, Pipeline, Results};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{
    CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned,
};

pub const ROOM: usize = 64;
pub const ITEMS: u64 = 200_000;

pub fn runtime(threads: usize) -> Runtime {
    if threads == 1 {
        Builder::new_current_thread().enable_time().build().unwrap()
    } else {
        Builder::new_multi_thread().worker_threads(threads).enable_time().build().unwrap()
    }
}

/// How long a pipeline takes that runs as a task.
pub fn time<F>(runtime: &Runtime, items: u64, pipeline: F) -> Duration
where
    F: Future<Output = u64> + Send + 'static,
{
    let began = Instant::now();
    let sum = runtime.block_on(async { tokio::spawn(pipeline).await.unwrap() });
    let took = began.elapsed();
    assert_eq!(sum, items * (items + 1) / 2);
    took
}

// quell.

/// The three stages and their tasks.
pub fn quell<T, W, Fut>(
    ctx: &Context,
    source: impl Stream<Item = T> + Send + 'static,
    workers: usize,
    work: W,
) -> Results<T>
where
    T: Send + Sync + 'static,
    W: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    stages(Pipeline::from_stream(ctx, source), workers, work)
}

fn stages<T, W, Fut>(source: Pipeline<T>, workers: usize, work: W) -> Results<T>
where
    T: Send + Sync + 'static,
    W: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    source
        .buffer(ROOM)
        .stage("relay", |_ctx, mut input, output| async move {
            while let Some(n) = input.recv().await {
                output.send(n).await?;
            }
            Ok::<_, SendError<T>>(())
        })
        .buffer(ROOM)
        .dispatch(workers, move |_ctx, item| work(item))
        .buffer(ROOM)
        .run()
}

pub async fn add_one(n: u64) -> u64 {
    n + 1
}

pub async fn quell_sum(items: u64, workers: usize) -> u64 {
    let source = Pipeline::from_iter(&Context::background(), 0..items);
    let mut results = stages(source, workers, add_one);
    let mut sum = 0;
    while let Some(n) = results.next().await {
        sum += n;
    }
    sum
}

// By hand: the following is written once for all channels.

/// How an await races the cancellation.
pub trait Stop: Send + 'static {
    type Wait<'a>: Future<Output = ()> + Send
    where
        Self: 'a;
    fn new(token: &CancellationToken) -> Self;
    fn wait(&mut self) -> Self::Wait<'_>;
}

/// The usual way: `token.cancelled()` in each `select!`.
pub struct Fresh(CancellationToken);

impl Stop for Fresh {
    type Wait<'a> = WaitForCancellationFuture<'a>;
    fn new(token: &CancellationToken) -> Self {
        Fresh(token.clone())
    }
    fn wait(&mut self) -> WaitForCancellationFuture<'_> {
        self.0.cancelled()
    }
}

/// One future for all awaits of a task.
pub struct Kept(Pin<Box<WaitForCancellationFutureOwned>>);

impl Stop for Kept {
    type Wait<'a> = &'a mut Pin<Box<WaitForCancellationFutureOwned>>;
    fn new(token: &CancellationToken) -> Self {
        Kept(Box::pin(token.clone().cancelled_owned()))
    }
    fn wait(&mut self) -> &mut Pin<Box<WaitForCancellationFutureOwned>> {
        &mut self.0
    }
}

/// A kind of channel.
pub trait Channel: Send + 'static {
    type Sender<T: Send + 'static>: Clone + Send + Sync + 'static;
    type Receiver<T: Send + 'static>: Send + 'static;
    /// What workers share.
    type Shared<T: Send + 'static>: Clone + Send + Sync + 'static;
    fn channel<T: Send + 'static>() -> (Self::Sender<T>, Self::Receiver<T>);
    fn send<T: Send + 'static>(to: &Self::Sender<T>, item: T) -> impl Future<Output = bool> + Send;
    fn recv<T: Send + 'static>(
        from: &mut Self::Receiver<T>,
    ) -> impl Future<Output = Option<T>> + Send;
    fn share<T: Send + 'static>(receiver: Self::Receiver<T>) -> Self::Shared<T>;
    fn take<T: Send + 'static>(from: &Self::Shared<T>) -> impl Future<Output = Option<T>> + Send;
}

pub struct Tokio;

impl Channel for Tokio {
    type Sender<T: Send + 'static> = mpsc::Sender<T>;
    type Receiver<T: Send + 'static> = mpsc::Receiver<T>;
    // It has a single consumer: workers share it behind a lock, as is usual.
    type Shared<T: Send + 'static> = Arc<tokio::sync::Mutex<mpsc::Receiver<T>>>;
    fn channel<T: Send + 'static>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
        mpsc::channel(ROOM)
    }
    async fn send<T: Send + 'static>(to: &mpsc::Sender<T>, item: T) -> bool {
        to.send(item).await.is_ok()
    }
    async fn recv<T: Send + 'static>(from: &mut mpsc::Receiver<T>) -> Option<T> {
        from.recv().await
    }
    fn share<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> Self::Shared<T> {
        Arc::new(tokio::sync::Mutex::new(receiver))
    }
    async fn take<T: Send + 'static>(from: &Self::Shared<T>) -> Option<T> {
        from.lock().await.recv().await
    }
}

macro_rules! channel {
    ($name:ident, $make:path, $sender:path, $receiver:path, $send:ident, $recv:ident) => {
        pub struct $name;
        impl Channel for $name {
            type Sender<T: Send + 'static> = $sender;
            type Receiver<T: Send + 'static> = $receiver;
            type Shared<T: Send + 'static> = $receiver;
            fn channel<T: Send + 'static>() -> ($sender, $receiver) {
                $make(ROOM)
            }
            async fn send<T: Send + 'static>(to: &$sender, item: T) -> bool {
                to.$send(item).await.is_ok()
            }
            async fn recv<T: Send + 'static>(from: &mut $receiver) -> Option<T> {
                from.$recv().await.ok()
            }
            fn share<T: Send + 'static>(receiver: $receiver) -> $receiver {
                receiver
            }
            async fn take<T: Send + 'static>(from: &$receiver) -> Option<T> {
                from.$recv().await.ok()
            }
        }
    };
}

channel!(Flume, flume::bounded, flume::Sender<T>, flume::Receiver<T>, send_async, recv_async);
channel!(Kanal, kanal::bounded_async, kanal::AsyncSender<T>, kanal::AsyncReceiver<T>, send, recv);
channel!(
    Async,
    async_channel::bounded,
    async_channel::Sender<T>,
    async_channel::Receiver<T>,
    send,
    recv
);

/// The three stages: their output, and their tasks.
pub fn by_hand<C, S, T, W, Fut>(
    token: &CancellationToken,
    source: impl Stream<Item = T> + Send + 'static,
    workers: usize,
    work: W,
) -> (C::Receiver<T>, Vec<JoinHandle<()>>)
where
    C: Channel,
    S: Stop,
    T: Send + 'static,
    W: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    let mut tasks = Vec::new();
    let (first, mut input) = C::channel();
    let mut stop = S::new(token);
    tasks.push(tokio::spawn(async move {
        let mut source = pin!(source);
        loop {
            let item = tokio::select! {
                () = stop.wait() => return,
                item = source.next() => match item { Some(item) => item, None => return },
            };
            tokio::select! {
                () = stop.wait() => return,
                sent = C::send(&first, item) => if !sent { return },
            }
        }
    }));
    let (second, shared) = C::channel();
    let mut stop = S::new(token);
    tasks.push(tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                () = stop.wait() => return,
                item = C::recv(&mut input) => match item { Some(item) => item, None => return },
            };
            tokio::select! {
                () = stop.wait() => return,
                sent = C::send(&second, item) => if !sent { return },
            }
        }
    }));
    let shared = C::share(shared);
    let (third, results) = C::channel();
    for _ in 0..workers {
        let (shared, third, work) = (shared.clone(), third.clone(), work.clone());
        let mut stop = S::new(token);
        tasks.push(tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    () = stop.wait() => return,
                    item = C::take(&shared) => match item { Some(item) => item, None => return },
                };
                let item = tokio::select! {
                    () = stop.wait() => return,
                    item = work(item) => item,
                };
                tokio::select! {
                    () = stop.wait() => return,
                    sent = C::send(&third, item) => if !sent { return },
                }
            }
        }));
    }
    (results, tasks)
}

pub async fn sum<C: Channel, S: Stop>(items: u64, workers: usize) -> u64 {
    let token = CancellationToken::new();
    let source = futures::stream::iter(0..items);
    let (mut results, _tasks) = by_hand::<C, S, _, _, _>(&token, source, workers, add_one);
    let mut sum = 0;
    while let Some(n) = C::recv(&mut results).await {
        sum += n;
    }
    sum
}

/// The three stages in one task, which ends with a cancellation.
pub async fn buffer_unordered(items: u64, workers: usize) -> u64 {
    let token = CancellationToken::new();
    let relayed = futures::stream::iter(0..items).then(async |n| n);
    let results = relayed.map(add_one).buffer_unordered(workers);
    sum_up(results.take_until(token.cancelled())).await
}

/// The last stage alone, with no way to end it.
pub async fn bare_buffer_unordered(items: u64, workers: usize) -> u64 {
    sum_up(futures::stream::iter(0..items).map(add_one).buffer_unordered(workers)).await
}

async fn sum_up(results: impl Stream<Item = u64>) -> u64 {
    let mut results = pin!(results);
    let mut sum = 0;
    while let Some(n) = results.next().await {
        sum += n;
    }
    sum
}
