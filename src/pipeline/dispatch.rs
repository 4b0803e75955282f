//! Workers.
//!
//! # Invariants
//!
//! 1. A worker has at most one item, which it passes on before it takes another.
//! 2. A worker with no colleague left to come for the next item starts one before it begins its own
//!    (see `channel::takers`), up to the number asked for.
//! 3. In order: results go in by the numbers under which their items were taken. Putting one in
//!    wakes the worker that holds the next.

use super::engine::{Engine, StageResult};
use super::report::StageEnd;
use super::stages::{ends, poll_here, reader_gone};
use super::tally::Tally;
use crate::channel::{Receiver, Sender, Taker};
use crate::context::{BoxError, Context, Contexts};
use crate::rt::probe::{self, Wait};
use crate::rt::{self, PipelineId, Turn, Waiting};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, Mutex};
use std::panic::Location;
use std::pin::pin;
use std::task::Poll;

/// Starts the first of `workers`.
pub(super) fn start<T, U, F, Fut, R>(
    engine: &Arc<Engine>,
    index: usize,
    input: Receiver<T>,
    output: Sender<U>,
    (workers, ordered): (usize, bool),
    f: F,
    result: R,
) where
    T: Send + 'static,
    U: Send + 'static,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    R: Fn(Fut::Output) -> Result<U, BoxError> + Send + Sync + 'static,
{
    let order = ordered.then(|| Order(Mutex::new(Line::default())));
    let engine = Arc::clone(engine);
    let work = Work { engine, index, output, f, result, order, hire: hire::<T, U, F, Fut, R> };
    let on_threads = work.engine.woken.on_threads();
    hire(&Arc::new(work), Taker::first(input, workers, on_threads));
}

/// What the workers of a stage share.
struct Work<T, U, F, R> {
    engine: Arc<Engine>,
    index: usize,
    output: Sender<U>,
    f: F,
    result: R,
    /// `Some` if results go in by the numbers of their items.
    order: Option<Order>,
    /// Starts a colleague. A pointer, because a worker's future would contain itself otherwise.
    hire: fn(&Arc<Self>, Taker<T>),
}

fn hire<T, U, F, Fut, R>(work: &Arc<Work<T, U, F, R>>, taker: Taker<T>)
where
    T: Send + 'static,
    U: Send + 'static,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    R: Fn(Fut::Output) -> Result<U, BoxError> + Send + Sync + 'static,
{
    let task = worker(Arc::clone(work), taker);
    Engine::spawn(&work.engine, work.index, Box::pin(task));
}

async fn worker<T, U, F, Fut, R>(work: Arc<Work<T, U, F, R>>, mut taker: Taker<T>) -> StageResult
where
    T: Send + 'static,
    U: Send + 'static,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    R: Fn(Fut::Output) -> Result<U, BoxError> + Send + Sync + 'static,
{
    let mut tally = Tally::new(&*work.engine, work.index);
    let place = work.engine.stages[work.index].place;
    let mut turn = Turn::begin();
    let mut contexts = Contexts::of(&work.engine.ctx);
    let pipeline = work.engine.woken.id();
    let mut alone = false;
    loop {
        let next = poll_here(|cx| taker.poll_take(cx, place));
        let Some(item) = next.await else { return ends(StageEnd::Completed) };
        let number = taker.before();
        tally.receive();
        if let Some(colleague) = taker.hire() {
            (work.hire)(&work, colleague);
        }
        // A worker that goes alone keeps wakers: the timer thread watches it.
        if alone != taker.is_alone() {
            alone = !alone;
            rt::set_keeping(alone);
        }
        rt::free_woken();
        tally.give_to_user();
        let ctx = contexts.give();
        let mut making = pin!(Some(contexts.within(|| (work.f)(ctx, item))));
        let made = poll_here(|cx| {
            tally.give_to_user();
            let polled = contexts.within(|| {
                let future = making.as_mut().as_pin_mut().expect("not ready yet");
                let polled = future.poll(cx);
                if polled.is_ready() {
                    making.set(None);
                }
                polled
            });
            if polled.is_pending() {
                tally.take_from_user();
                taker.pauses();
            }
            polled
        })
        .await;
        // Converting an error is user code too.
        let made = (work.result)(made);
        tally.take_from_user();
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                tally.fail();
                rt::stop_keeping();
                return Err(error);
            }
        };
        if let Some(order) = work.order.as_ref().filter(|order| !order.has_come_to(number)) {
            taker.pauses();
            order.comes_to(number, place).await;
        }
        if let Err(made) = work.output.put(made) {
            // What it did until now counts; its wait for room does not.
            taker.rests();
            taker.pauses();
            let sent = work.output.send_at(made, place).await;
            if sent.is_err() {
                rt::stop_keeping();
                if let Some(order) = &work.order {
                    order.goes_on(pipeline);
                }
                // No colleague should have to find out by an item of its own, or wait for the drop
                // of what was not sent.
                taker.close();
                return reader_gone((), sent);
            }
        }
        tally.pass_on(1);
        if let Some(order) = &work.order {
            order.goes_on(pipeline);
        }
        if turn.is_over() {
            taker.rests();
            turn = turn.rest().await;
            // Again, because it lasts only a few turns.
            alone = taker.is_alone();
            rt::set_keeping(alone);
        }
    }
}

/// Keeps track of whose result goes in next.
struct Order(Mutex<Line>);

#[derive(Default)]
struct Line {
    next: usize,
    /// By the numbers of their items.
    waiting: Waiting,
}

impl Order {
    fn has_come_to(&self, number: usize) -> bool {
        self.0.lock().next == number
    }

    /// Waits until the result of this number goes in next.
    ///
    /// A worker that is dropped while it waits was aborted together with all others; its waker
    /// stays until they are gone.
    async fn comes_to(&self, number: usize, place: &'static Location<'static>) {
        poll_here(|cx| {
            if self.0.lock().next == number {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            let mut line = self.0.lock();
            if line.next == number {
                return Poll::Ready(());
            }
            let before = line.waiting.renew(number, waker);
            let before = before.map_err(|waker| line.waiting.join_as(number, waker)).ok();
            drop(line);
            drop(before);
            probe::waits(|| Wait { what: "its turn to pass on a result", at: place, of: 0 });
            Poll::Pending
        })
        .await;
    }

    /// The result whose turn it was is in, or never goes in.
    fn goes_on(&self, pipeline: PipelineId) {
        let mut line = self.0.lock();
        line.next += 1;
        let next = line.next;
        let waker = line.waiting.take(next);
        drop(line);
        rt::wake_at(pipeline, waker.filter(|_| !skip(Break::TurnNotPassedOn)));
    }
}
