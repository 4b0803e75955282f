//! Putting items in.
//!
//! # Invariants
//!
//! 1. A [`Send`] that waits for room has a ticket. Dropping it gives back the ticket, and any room
//!    that was promised to it.

use super::link::{AnyLink, Calls, Link, State, time_since};
use crate::rt;
use crate::rt::probe::{self, Wait};
use crate::sync::Arc;
use crate::sync::BriefGuard;
use crate::sync::planted::{Break, skip};
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// The sending end of a channel. When the last clone has been dropped, the receiver gets what is
/// left and then `None`.
pub struct Sender<T> {
    link: Arc<Link<T>>,
}

impl<T> Sender<T> {
    pub(super) fn new(link: Arc<Link<T>>) -> Self {
        Sender { link }
    }

    /// Puts `value` in, as soon as there is room.
    ///
    /// In a pipeline it also ends, with an error, when the pipeline does.
    ///
    /// After 128 values that came back at once it lets other tasks go first, once, so that a task
    /// that ignores the error can still be aborted.
    ///
    /// # Errors
    ///
    /// [`SendError`] with the value, if nothing will ever receive it.
    ///
    /// # Cancel safety
    ///
    /// If dropped before it is ready, the value was not sent, and is dropped with it.
    #[track_caller]
    pub fn send(&self, value: T) -> Send<'_, T> {
        self.send_at(value, Location::caller())
    }

    /// [`send`](Self::send), told as waiting at this line: for stages, whose own lines say nothing
    /// to their users.
    pub(crate) fn send_at(&self, value: T, made_at: &'static Location<'static>) -> Send<'_, T> {
        Send { link: &self.link, value: Some(value), ticket: None, since: None, made_at }
    }

    /// Puts `value` in if there is room now. It never waits, so it is for what may be shed.
    ///
    /// Room that has been promised to a waiting [`send`](Self::send) does not count.
    ///
    /// ```
    /// use quell::channel::{TrySendError, bounded};
    ///
    /// let (sender, _receiver) = bounded(1);
    /// assert_eq!(sender.try_send("first"), Ok(()));
    /// assert_eq!(sender.try_send("second"), Err(TrySendError::Full("second")));
    /// ```
    ///
    /// # Errors
    ///
    /// [`TrySendError`] with the value: there is no room now, or nothing will ever receive it.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.link.state.lock();
        let mut calls = Calls::default();
        if state.room == 0 {
            self.link.reclaim(&mut state);
            self.link.call_writers(&mut state, &mut calls);
        }
        if state.room > 0 {
            self.link.put(state, value);
            calls.make(self.link.pipeline);
            return Ok(());
        }
        let closed = state.closed;
        drop(state);
        calls.make(self.link.pipeline);
        // A step of user code, as a value that is put in is.
        if self.link.is_users {
            rt::step();
        }
        Err(if closed { TrySendError::Closed(SendError(value)) } else { TrySendError::Full(value) })
    }

    /// Does what [`send`](Sender::send) does if it need not wait, without the future. Gives the
    /// value back if it would have to wait, or if nothing receives.
    #[inline(always)]
    pub(crate) fn put(&self, value: T) -> Result<(), T> {
        let state = self.link.state.lock();
        if state.room == 0 {
            drop(state);
            return Err(value);
        }
        self.link.put(state, value);
        Ok(())
    }

    /// Whether nothing will ever receive what is sent.
    pub fn is_closed(&self) -> bool {
        self.link.state.lock().closed
    }
}

impl<T: std::marker::Send + 'static> Sender<T> {
    /// The pipeline's view of this channel.
    pub(crate) fn any_link(&self) -> std::sync::Arc<dyn AnyLink> {
        std::sync::Arc::new(Arc::clone(&self.link))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.link.hold_open();
        Sender { link: Arc::clone(&self.link) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.link.let_end();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

/// The future of [`Sender::send`].
#[must_use = "futures do nothing unless polled"]
pub struct Send<'a, T> {
    link: &'a Link<T>,
    /// `None` once it has been sent or given back.
    value: Option<T>,
    ticket: Option<usize>,
    /// When it began to wait.
    since: Option<Instant>,
    made_at: &'static Location<'static>,
}

// Nothing in it is ever pinned.
impl<T> Unpin for Send<'_, T> {}

impl<T> Future for Send<'_, T> {
    type Output = Result<(), SendError<T>>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.ticket.is_none() {
            let state = this.link.state.lock();
            if state.room > 0 {
                this.put(state);
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_slowly(cx)
    }
}

impl<T> Send<'_, T> {
    fn address(&self) -> usize {
        std::ptr::from_ref(self.link) as *const () as usize
    }

    #[inline(always)]
    fn take(&mut self) -> T {
        self.value.take().unwrap_or_else(|| Self::polled_again())
    }

    #[cold]
    fn polled_again() -> ! {
        panic!("`Send` polled after it was ready")
    }

    /// Puts the value in; there is room for it.
    #[inline(always)]
    fn put(&mut self, state: BriefGuard<'_, State<T>>) {
        self.link.put(state, self.take());
    }

    /// Slow path: there was no room, or there is a ticket.
    #[inline(never)]
    fn poll_slowly(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<T>>> {
        // Before it promises room to another, or joins the line.
        if self.value.is_none() {
            Self::polled_again();
        }
        let waker = cx.waker().clone();
        let mut state = self.link.state.lock();
        if state.closed {
            state.waited_for_room(time_since(self.since.take()));
            let at_once = state.refuses_at_once();
            drop(state);
            self.ticket = None;
            if self.link.is_users {
                rt::step();
            }
            if !at_once {
                rt::go_behind(cx, rt::real_now());
                return Poll::Pending;
            }
            return Poll::Ready(Err(SendError(self.take())));
        }
        let mut calls = Calls::default();
        let before = match self.ticket {
            None => {
                self.link.make_room(&mut state, &mut calls);
                if state.room > 0 {
                    self.put(state);
                    calls.make(self.link.pipeline);
                    return Poll::Ready(Ok(()));
                }
                self.ticket = Some(state.writers.join(waker));
                None
            }
            Some(ticket) => match state.writers.renew(ticket, waker) {
                Ok(before) => Some(before),
                // It is no longer in line, so it was called: it uses the room promised to it.
                Err(_waker) => {
                    self.ticket = None;
                    state.room += 1;
                    state.waited_for_room(time_since(self.since.take()));
                    self.put(state);
                    return Poll::Ready(Ok(()));
                }
            },
        };
        drop(state);
        drop(before);
        calls.make(self.link.pipeline);
        if self.since.is_none() {
            self.since = Some(crate::rt::now());
        }
        probe::waits(|| Wait { what: "room in a channel", at: self.made_at, of: self.address() });
        Poll::Pending
    }
}

impl<T> Drop for Send<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.link.leave_line(ticket, self.since);
        }
        // Also without a ticket: it may not have been polled, or wait to be given its value back.
        if let Some(value) = self.value.take() {
            self.link.discard_one(value);
        }
    }
}

impl<T> Link<T> {
    /// Puts a value in; there is room for it.
    #[inline(always)]
    fn put(&self, mut state: BriefGuard<'_, State<T>>, value: T) {
        state.room -= 1;
        state.queue.push_back(value);
        if state.reader.is_none() && !state.call {
            drop(state);
            if self.is_users {
                rt::step();
            }
            return;
        }
        self.tell(state);
    }

    /// An item has come that a reader or a taker waits for.
    #[inline(never)]
    fn tell(&self, mut state: BriefGuard<'_, State<T>>) {
        let reader = state.reader.take();
        let call = std::mem::take(&mut state.call);
        drop(state);
        // First frees the tasks that the item before has woken.
        if self.is_users {
            rt::step();
        }
        if let Some(reader) = reader {
            probe::touches("sent", || std::ptr::from_ref(self) as *const () as usize);
            if !skip(Break::ReaderNotWoken) {
                rt::wake_at(self.pipeline, [reader]);
            }
        }
        if call {
            self.call_one();
        }
    }

    /// Removes a waiting sender; room that was promised to it goes to another.
    fn leave_line(&self, ticket: usize, since: Option<Instant>) {
        let waited = time_since(since);
        let mut state = self.state.lock();
        state.waited_for_room(waited);
        let waker = state.writers.take(ticket);
        let mut calls = Calls::default();
        if waker.is_none() && !state.closed && !skip(Break::PromiseNotPassedOn) {
            state.room += 1;
            self.call_writers(&mut state, &mut calls);
        }
        drop(state);
        calls.make(self.pipeline);
        drop(waker);
    }
}

impl<T> fmt::Debug for Send<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Send").field("waits", &self.ticket.is_some()).finish_non_exhaustive()
    }
}

/// The error of a send: nothing will ever receive the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(T);

impl<T> SendError<T> {
    const DEBUG: &str = "SendError(..)";
    const TEXT: &str = "nobody receives any more: the receiver or its pipeline has ended";

    /// Whether this error reads like one of these and is none itself, whatever the type of the
    /// items: `Debug` prints all of these alike.
    pub(crate) fn is_held_whole(this: &(dyn std::error::Error + 'static)) -> bool {
        this.to_string() == Self::TEXT && format!("{this:?}") != Self::DEBUG
    }

    /// The value that was not sent.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::DEBUG)
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::TEXT)
    }
}

impl<T> std::error::Error for SendError<T> {}

/// Why [`Sender::try_send`] has not put a value in, and the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// There is no room now.
    Full(T),
    /// Nothing will ever receive it.
    Closed(SendError<T>),
}

impl<T> TrySendError<T> {
    /// Returns the value that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            TrySendError::Full(value) => value,
            TrySendError::Closed(error) => error.into_inner(),
        }
    }
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySendError::Full(_) => f.write_str("Full(..)"),
            TrySendError::Closed(error) => f.debug_tuple("Closed").field(error).finish(),
        }
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySendError::Full(_) => f.write_str("there is no room now: the channel is full"),
            TrySendError::Closed(error) => error.fmt(f),
        }
    }
}

impl<T: 'static> std::error::Error for TrySendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TrySendError::Full(_) => None,
            TrySendError::Closed(error) => Some(error),
        }
    }
}
