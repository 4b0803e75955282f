//! Where items come from.
//!
//! # Invariants
//!
//! 1. The thread of a blocking source notes that it asks for an item before it checks whether it
//!    still should, and that it has made one before it passes that on. So once no more are to be
//!    made, and it asks, and all that it made has come, whatever else it makes is made after that.

use super::engine::StageResult;
use super::report::StageEnd;
use super::stages::{ends, poll_here, reader_gone};
use super::tally::Tally;
use crate::channel::Sender;
use crate::context::Context;
use crate::rt::{self, Turn};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, Mutex};
use futures_core::Stream;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{self, Poll, ready};

/// A task that puts in the items of an iterator, for which it never has to wait. (By way of
/// [`feed`] an item would take a twentieth longer.)
pub(super) async fn iterate<T: Send + 'static>(
    mut tally: Tally,
    mut items: impl Iterator<Item = T> + Send + 'static,
    sender: Sender<T>,
) -> StageResult {
    let until = tally.end_of_sources();
    let mut turn = Turn::begin();
    loop {
        rt::free_woken();
        if until.as_ref().is_some_and(Context::is_done) {
            return ends(StageEnd::Stopped);
        }
        let Some(item) = items.next() else { return ends(StageEnd::Completed) };
        tally.receive();
        if let Err(item) = sender.put(item) {
            let sent = sender.send_at(item, tally.place()).await;
            if sent.is_err() {
                return reader_gone((), sent);
            }
        }
        tally.pass_on(1);
        // A task that never has to wait must let others have their turn.
        if turn.is_over() {
            turn = turn.rest().await;
            rt::was_brisk(turn.is_brisk());
        }
    }
}

/// A task that puts in the items of a stream.
pub(super) async fn stream<T: Send + 'static>(
    tally: Tally,
    items: impl Stream<Item = T> + Send + 'static,
    sender: Sender<T>,
) -> StageResult {
    let mut items = pin!(items);
    let next = |cx: &mut task::Context<'_>, more| {
        if more { items.as_mut().poll_next(cx) } else { Poll::Ready(None) }
    };
    feed(tally, next, sender).await
}

/// A task that puts in the items of an iterator that may block, which a thread of its own runs.
/// Once the task has ended, that thread ends after the item it is at. A panic is its last item.
///
/// Under a checker or a model there are no further threads: then the iterator runs in a task.
pub(super) async fn from_thread<T: Send + 'static>(
    tally: Tally,
    items: impl Iterator<Item = T> + Send + 'static,
    sender: Sender<T>,
) -> StageResult {
    let (put, mut made) = crate::channel::bounded(1);
    // Where the pipeline cannot drain, how far the thread is does not matter.
    let progress = tally.end_of_sources().map(|until| Arc::new(Progress::new(until)));
    let (name, place) = (tally.name(), tally.place());
    rt::block_aside(name, on_a_thread(items, put, place, progress.clone()));

    let mut came = 0;
    let next = move |cx: &mut task::Context<'_>, more: bool| {
        if !more && progress.as_ref().is_some_and(|progress| progress.is_all(came)) {
            return Poll::Ready(None);
        }
        let item = ready!(made.poll_recv(cx, place));
        came += 1;
        Poll::Ready(item.map(|item| item.unwrap_or_else(|panic| resume_unwind(panic))))
    };
    feed(tally, next, sender).await
}

async fn on_a_thread<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
    put: Sender<std::thread::Result<T>>,
    place: &'static Location<'static>,
    progress: Option<Arc<Progress>>,
) {
    let mut items = Some(items);
    loop {
        if progress.as_ref().is_some_and(|progress| !progress.asks()) {
            return;
        }
        let next = catch_unwind(AssertUnwindSafe(|| {
            let next = items.as_mut().and_then(Iterator::next);
            // At its end the iterator is dropped here, because its drop may panic as well.
            if next.is_none() {
                items = None;
            }
            next
        }));
        let (item, last) = match next {
            Ok(None) => return,
            Ok(Some(item)) => (Ok(item), false),
            Err(payload) => (Err(payload), true),
        };
        if let Some(progress) = &progress {
            progress.has_made_one();
        }
        let sent = put.send_at(item, place).await;
        let is_over = sent.is_err() || last;
        // On its own: the rest of the iterator is dropped next, and both drops may panic.
        rt::contain_panic(|| drop(sent));
        if is_over {
            return;
        }
    }
}

/// How far the thread of a blocking source is. Invariant 1.
struct Progress {
    /// Items are made until this ends.
    until: Context,
    /// Whether it is asking for an item, and how many it has made.
    thread: Mutex<(bool, usize)>,
}

impl Progress {
    fn new(until: Context) -> Self {
        Progress { until, thread: Mutex::new((false, 0)) }
    }

    /// The thread is about to ask for an item. False: it should not.
    fn asks(&self) -> bool {
        let before = skip(Break::SourceLooksTooSoon) && !self.until.is_done();
        self.thread.lock().0 = true;
        before || !self.until.is_done()
    }

    fn has_made_one(&self) {
        let mut thread = self.thread.lock();
        thread.0 = false;
        thread.1 += 1;
    }

    /// Whether `came` items are all that had been made when no more were to be.
    fn is_all(&self, came: usize) -> bool {
        let (asks, made) = *self.thread.lock();
        asks && made == came
    }
}

/// Puts in what `next` returns. Its second argument says whether to make more: not while the
/// pipeline drains; what has been made already is put in.
async fn feed<T: Send + 'static>(
    mut tally: Tally,
    mut next: impl FnMut(&mut task::Context<'_>, bool) -> Poll<Option<T>> + Send,
    sender: Sender<T>,
) -> StageResult {
    let until = tally.end_of_sources();
    let mut told = until.as_ref().map(Context::done);
    let mut turn = Turn::begin();
    // Whether the last item had to be waited for, or the one before. Then the next usually has to
    // be too, and leaving this thread to the tasks woken for the last is quicker than a nudge. A
    // source that once was not that quick is not trusted again.
    let (mut waited, mut had_waited, mut is_quick) = (false, false, true);
    loop {
        let mut asked_at = None;
        if !((waited || had_waited) && is_quick) {
            rt::free_woken();
        } else if rt::has_woken() {
            asked_at = rt::real_now();
        }
        had_waited = std::mem::take(&mut waited);
        let item = poll_here(|cx| {
            loop {
                let stopped = until.as_ref().is_some_and(Context::is_done);
                let end = if stopped { StageEnd::Stopped } else { StageEnd::Completed };
                let item = next(cx, !stopped);
                is_quick &= asked_at.take().is_none_or(Turn::is_short_since);
                if let Poll::Ready(item) = item {
                    return Poll::Ready(item.ok_or(end));
                }
                waited = true;
                match &mut told {
                    Some(told) if !stopped => ready!(Pin::new(told).poll(cx)),
                    _ => return Poll::Pending,
                };
            }
        });
        let item = match item.await {
            Ok(item) => item,
            Err(end) => return ends(end),
        };
        tally.receive();
        if let Err(item) = sender.put(item) {
            let sent = sender.send_at(item, tally.place()).await;
            if sent.is_err() {
                // Together with the channel from a thread, if one makes them.
                return reader_gone(next, sent);
            }
        }
        tally.pass_on(1);
        // A task that never has to wait must let others have their turn.
        if turn.is_over() {
            turn = turn.rest().await;
            rt::was_brisk(turn.is_brisk());
        }
    }
}
