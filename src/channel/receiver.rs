//! Taking items out, one receiver.
//!
//! # Invariants
//!
//! 1. `batch` holds what was fetched and not handed out.
//! 2. Before the receiver waits for an item, the room of all that it handed out has been offered to
//!    waiting senders.
//! 3. Where room is offered late (`quantum`), the task that polls the receiver must be one that
//!    offers it when it waits: the stage's own, see [`at_home`]. In any other task the room of each
//!    item is offered at once.

use super::link::{Calls, Link, PATIENCE, time_since};
use crate::rt::probe::{self, Wait};
use crate::sync::Arc;
use crate::sync::planted::{Break, skip};
use futures_core::future::FusedFuture;
use futures_core::stream::{FusedStream, Stream};
use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

#[cfg(not(loom))]
std::thread_local! {
    /// The input channel of the stage being polled on this thread.
    static HOME: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Polls a stage whose task offers the room of this channel when it waits.
#[cfg(not(loom))]
pub(crate) fn at_home<R>(address: usize, poll: impl FnOnce() -> R) -> R {
    struct Back(usize);
    impl Drop for Back {
        fn drop(&mut self) {
            HOME.set(self.0);
        }
    }
    let _back = Back(HOME.replace(address));
    poll()
}

/// The receiving end of a channel: a plain [`recv`](Receiver::recv), and a [`Stream`]. When it is
/// dropped, senders get their values back.
///
/// As a stream it may be the source of a pipeline:
///
/// ```
/// use quell::{Context, Pipeline, channel, rt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), quell::Cancelled> {
/// let (jobs, waiting) = channel::bounded(16);
/// let done = Pipeline::from_stream(&Context::background(), waiting)
///     .dispatch_ordered(4, |_ctx, job: u64| async move { job * job })
///     .run();
/// let others = rt::spawn(async move {
///     for job in 1..=3 {
///         jobs.send(job).await.unwrap();
///     }
/// });
/// assert_eq!(done.try_collect::<Vec<_>>().await?, [1, 4, 9]); // the last sender has gone
/// # others.await.unwrap();
/// # Ok(())
/// # }
/// ```
pub struct Receiver<T> {
    link: Arc<Link<T>>,
    /// The line that a stream says it waits at: it cannot know who polls it.
    made_at: &'static Location<'static>,
    /// Fetched, and not handed out.
    batch: VecDeque<T>,
    /// How many were handed out since this side last offered room by itself.
    unoffered: usize,
    /// Whether any task may poll it: it is in the hands of user code.
    roams: bool,
    /// When it began to wait, if the report is going to say for how long.
    since: Option<Instant>,
    /// How many more times it need not wait, and how many in a row: see [`PATIENCE`].
    patience: u32,
    at_once: u32,
    /// Whether its last fetch brought so little that it will have to wait next.
    expects_nothing: bool,
    /// Whether it has said that nothing more comes.
    ended: bool,
    /// Whether dropping it closes the link.
    closes: bool,
}

// Items in it are never pinned.
impl<T> Unpin for Receiver<T> {}

impl<T> Receiver<T> {
    pub(super) fn new(link: Arc<Link<T>>, made_at: &'static Location<'static>) -> Self {
        let at_once = if link.offers_each { PATIENCE } else { u32::MAX };
        Receiver {
            link,
            made_at,
            roams: false,
            batch: VecDeque::new(),
            unoffered: 0,
            since: None,
            patience: at_once,
            at_once,
            expects_nothing: false,
            ended: false,
            closes: true,
        }
    }

    /// The next item; `None` when all senders are gone and nothing is left.
    ///
    /// In a pipeline it also ends when the pipeline does.
    ///
    /// After 128 items that were already there it lets other tasks go first, once, even if there
    /// are more. It does the same after 128 answers that nothing more comes. So a `recv` that is
    /// polled only once, say by `now_or_never`, may find nothing while there is something.
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, nothing has been taken.
    #[track_caller]
    #[inline]
    pub fn recv(&mut self) -> Recv<'_, T> {
        self.recv_at(Location::caller())
    }

    /// [`recv`](Self::recv), told as waiting at this line: for stages, whose own lines say nothing
    /// to their users.
    #[inline]
    pub(crate) fn recv_at(&mut self, made_at: &'static Location<'static>) -> Recv<'_, T> {
        Recv { receiver: self, made_at }
    }

    #[inline(always)]
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        made_at: &'static Location<'static>,
    ) -> Poll<Option<T>> {
        if self.link.looks_closed() {
            self.leave_batch();
        }
        if self.patience > 0 {
            if let Some(item) = self.batch.pop_front() {
                return Poll::Ready(Some(self.hand_out(item)));
            }
        }
        self.look(cx, made_at)
    }

    /// Drops what was fetched, for the link was closed.
    #[cold]
    #[inline(never)]
    fn leave_batch(&mut self) {
        self.link.discard_all(std::mem::take(&mut self.batch));
    }

    #[inline(always)]
    fn hand_out(&mut self, item: T) -> T {
        let wanted = self.link.hand_out(&item);
        self.unoffered += 1;
        self.patience -= 1;
        // Invariant 3; what was fetched at home may be handed out elsewhere.
        #[cfg(not(loom))]
        let wanted = wanted || (self.roams && HOME.get() != self.address());
        if wanted || self.unoffered >= self.link.quantum {
            self.offer_room();
        }
        if self.roams {
            crate::rt::step();
        }
        item
    }

    #[inline(never)]
    fn offer_room(&mut self) {
        self.unoffered = 0;
        self.link.offer_room();
    }

    /// Slow path: nothing is at hand, or so many answers were that other tasks go first.
    #[inline(never)]
    fn look(
        &mut self,
        cx: &mut Context<'_>,
        made_at: &'static Location<'static>,
    ) -> Poll<Option<T>> {
        let nothing = self.batch.is_empty() && self.fetch(cx, made_at).is_pending();
        let rests = self.patience == 0 && !nothing;
        if nothing || rests {
            self.patience = self.at_once;
            if rests {
                crate::rt::go_behind(cx, crate::rt::real_now());
            }
            return Poll::Pending;
        }
        let Some(item) = self.batch.pop_front() else {
            self.ended = true;
            self.patience -= 1;
            if self.roams {
                crate::rt::stop_keeping();
            }
            return Poll::Ready(None);
        };
        Poll::Ready(Some(self.hand_out(item)))
    }

    /// Ready when something is at hand, or nothing more will come.
    fn fetch(&mut self, cx: &mut Context<'_>, made_at: &'static Location<'static>) -> Poll<()> {
        self.unoffered = 0;
        let mut waker = self.expects_nothing.then(|| cx.waker().clone());
        loop {
            let mut state = self.link.state.lock();
            let mut calls = Calls::default();
            self.link.give_back(&mut state, &mut calls);
            self.link.fetch(&mut state, &mut self.batch);
            let over = state.is_over();
            self.expects_nothing = self.batch.len() == 1;
            if !self.batch.is_empty() || over {
                if self.since.is_some() {
                    state.waited_for_items(time_since(self.since.take()));
                }
                let before = state.reader.take();
                drop(state);
                calls.make(self.link.pipeline);
                drop(before);
                return Poll::Ready(());
            }
            // Invariant 3 of the link: the waker is stored under the lock of the look that found
            // nothing. Cloning it is user code and takes a second look, unless finding nothing was
            // to be expected.
            if let Some(waker) = waker.take() {
                let before = state.reader.replace(waker);
                drop(state);
                calls.make(self.link.pipeline);
                drop(before);
                if self.link.is_read_by_a_stage() {
                    self.since.get_or_insert_with(crate::rt::now);
                }
                probe::waits(|| Wait { what: "an item", at: made_at, of: self.address() });
                return Poll::Pending;
            }
            drop(state);
            calls.make(self.link.pipeline);
            waker = Some(cx.waker().clone());
            if skip(Break::ReaderTrustsFirstLook) {
                self.link.state.lock().reader = waker;
                return Poll::Pending;
            }
        }
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.link) as *const () as usize
    }

    /// Closes the link: nothing more is to be received.
    pub(crate) fn close(&self) {
        self.link.close();
    }

    /// Marks it as given to user code, by the call at `place`.
    pub(crate) fn roaming(mut self, place: &'static Location<'static>) -> Self {
        (self.roams, self.made_at) = (true, place);
        (self.patience, self.at_once) = (PATIENCE, PATIENCE);
        self
    }

    /// The link, for takers to share; nothing has been received yet.
    pub(super) fn into_link(mut self) -> Arc<Link<T>> {
        debug_assert!(self.batch.is_empty());
        self.closes = false;
        Arc::clone(&self.link)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.closes {
            if self.since.is_some() {
                let waited = time_since(self.since);
                self.link.state.lock().waited_for_items(waited);
            }
            self.link.close();
            // User code goes on to something else.
            if self.roams {
                crate::rt::stop_keeping();
            }
            self.link.discard();
            self.link.discard_all(std::mem::take(&mut self.batch));
        }
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("fetched", &self.batch.len()).finish_non_exhaustive()
    }
}

impl<T> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let made_at = self.made_at;
        self.poll_recv(cx, made_at)
    }
}

impl<T> FusedStream for Receiver<T> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

/// The future of [`Receiver::recv`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Recv<'a, T> {
    receiver: &'a mut Receiver<T>,
    made_at: &'static Location<'static>,
}

impl<T> Future for Recv<'_, T> {
    type Output = Option<T>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let made_at = self.made_at;
        self.receiver.poll_recv(cx, made_at)
    }
}

impl<T> FusedFuture for Recv<'_, T> {
    fn is_terminated(&self) -> bool {
        self.receiver.ended
    }
}
