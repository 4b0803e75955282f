//! Where items come from.

use super::engine::{StageResult, Tally};
use super::report::StageEnd;
use crate::channel::{Receiver, Sender};
use crate::rt::{self, Turn};
use futures_core::Stream;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// A task that puts in what an iterator gives.
pub(super) async fn iterate<T: Send + 'static>(
    tally: Tally,
    mut items: impl Iterator<Item = T> + Send + 'static,
    sender: Sender<T>,
) -> StageResult {
    feed(tally, |_| Poll::Ready(items.next()), sender).await
}

/// A task that puts in what a stream gives.
pub(super) async fn stream<T: Send + 'static>(
    tally: Tally,
    items: impl Stream<Item = T> + Send + 'static,
    sender: Sender<T>,
) -> StageResult {
    let mut items = pin!(items);
    feed(tally, |cx| items.as_mut().poll_next(cx), sender).await
}

/// A task that puts in what comes from a thread.
pub(super) async fn relay<T: Send + 'static>(
    tally: Tally,
    mut items: Receiver<std::thread::Result<T>>,
    sender: Sender<T>,
) -> StageResult {
    let place = tally.place();
    let next = |cx: &mut Context<'_>| {
        let item = items.poll_recv(cx, place);
        item.map(|item| item.map(|item| item.unwrap_or_else(|panic| resume_unwind(panic))))
    };
    feed(tally, next, sender).await
}

/// Puts in what `next` gives. While the pipeline drains, no more is asked for; what
/// there is already is put in.
async fn feed<T: Send + 'static>(
    mut tally: Tally,
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<T>> + Send,
    sender: Sender<T>,
) -> StageResult {
    let more = tally.more();
    let mut no_more = more.as_ref().map(crate::context::Context::done);
    let mut turn = Turn::begin();
    loop {
        let item = poll_fn(|cx| {
            if more.as_ref().is_some_and(crate::context::Context::is_done) {
                return Poll::Ready(Err(StageEnd::Stopped));
            }
            let item = next(cx).map(|item| item.ok_or(StageEnd::Completed));
            match &mut no_more {
                Some(no_more) if item.is_pending() => {
                    Pin::new(no_more).poll(cx).map(|_| Err(StageEnd::Stopped))
                }
                _ => item,
            }
        });
        let item = match item.await {
            Ok(item) => item,
            Err(end) => return Ok(end),
        };
        tally.receive();
        if sender.send(item).await.is_err() {
            return Ok(StageEnd::ReaderGone);
        }
        tally.pass_on(1);
        // What never has to wait must let others have their turn.
        if turn.is_over() {
            rt::yield_now().await;
            turn = Turn::begin();
        }
    }
}

/// Runs an iterator that may block on a thread of its own, which ends when its
/// receiver is dropped. A panic is its last item.
///
/// Where a checker has taken the runtime's place, or a model, there are no threads
/// beside it: then it runs in a task.
pub(super) fn on_a_thread<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
    name: String,
) -> Receiver<std::thread::Result<T>> {
    let (sender, receiver) = crate::channel::bounded(1);
    let mut items = items;
    rt::block_aside(name, async move {
        loop {
            let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| items.next()));
            let (item, last) = match next {
                Ok(None) => return,
                Ok(Some(item)) => (Ok(item), false),
                Err(payload) => (Err(payload), true),
            };
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    receiver
}
