//! The stages of one task.

use super::engine::StageResult;
use super::report::StageEnd;
use super::tally::Tally;
use crate::channel::{Receiver, SendError, Sender, discard};
use crate::context::{BoxError, Context, comes_from};
use crate::rt::{self, Turn};
use std::error::Error;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// A task that runs a closure on each item.
pub(super) async fn filter_map<T: Send + 'static, U: Send + 'static>(
    mut tally: Tally,
    mut input: Receiver<T>,
    sender: Sender<U>,
    mut f: impl FnMut(T) -> Option<U> + Send + 'static,
) -> StageResult {
    let place = tally.place();
    let mut turn = Turn::begin();
    loop {
        let Some(item) = input.recv_at(place).await else { return ends(StageEnd::Completed) };
        tally.receive();
        rt::free_woken();
        tally.give_to_user();
        let made = f(item);
        tally.take_from_user();
        match made {
            None => tally.filter(),
            Some(made) => {
                // (In an async function of its own this would cost 3 ns more for each item.)
                if let Err(made) = sender.put(made) {
                    let sent = sender.send_at(made, place).await;
                    if sent.is_err() {
                        return reader_gone(input, sent);
                    }
                }
                tally.pass_on(1);
            }
        }
        // Resting offers the room of what it has used, however long the next item takes.
        if turn.is_over() {
            turn = turn.rest().await;
            rt::was_brisk(turn.is_brisk());
        }
    }
}

/// [`std::future::poll_fn`], but certain to be inlined: saves a tenth of the time of what each item
/// goes through.
pub(super) fn poll_here<T, F: FnMut(&mut std::task::Context<'_>) -> Poll<T>>(
    poll: F,
) -> PollHere<F> {
    PollHere(poll)
}

pub(super) struct PollHere<F>(F);

impl<F> Unpin for PollHere<F> {}

impl<T, F: FnMut(&mut std::task::Context<'_>) -> Poll<T>> Future for PollHere<F> {
    type Output = T;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<T> {
        (self.0)(cx)
    }
}

/// Ends a task that runs a closure of the user's.
pub(super) fn ends(end: StageEnd) -> StageResult {
    rt::stop_keeping();
    Ok(end)
}

/// Ends a task whose reader has gone. Senders to its input are told before what it could not send
/// is dropped: that drop is user code. A panic in it goes no further, as with an item in a channel:
/// if something else that the task holds panicked too, the process would end.
pub(super) fn reader_gone<I, S>(inputs: I, unsent: S) -> StageResult {
    drop(inputs);
    let ended = ends(StageEnd::ReaderGone);
    rt::contain_panic(|| drop(unsent));
    ended
}

/// A future's output, and whether it had to wait.
pub(super) async fn noting<F: Future + Unpin>(mut future: F) -> (F::Output, bool) {
    let mut waited = false;
    let output = poll_here(|cx| {
        let polled = Pin::new(&mut future).poll(cx);
        waited |= polled.is_pending();
        polled
    });
    (output.await, waited)
}

/// A task that puts items together in chunks.
pub(super) async fn chunks<T: Send + 'static>(
    mut tally: Tally,
    mut input: Receiver<T>,
    sender: Sender<Vec<T>>,
    max: usize,
    within: Duration,
) -> StageResult {
    let mut turn = Turn::begin();
    let place = tally.place();
    loop {
        let Some(first) = input.recv_at(place).await else { return Ok(StageEnd::Completed) };
        tally.receive();
        let mut chunk = Chunk(vec![first]);
        let mut over = false;
        let mut time = pin!(rt::Sleep::new(rt::now().checked_add(within), place));
        while chunk.0.len() < max {
            let next = poll_here(|cx| match input.poll_recv(cx, place) {
                Poll::Ready(item) => Poll::Ready(Some(item)),
                Poll::Pending => time.as_mut().poll(cx).map(|()| None),
            });
            match next.await {
                Some(Some(item)) => {
                    tally.receive();
                    chunk.0.push(item);
                }
                Some(None) => {
                    over = true;
                    break;
                }
                None => break,
            }
            if turn.is_over() {
                turn = turn.rest().await;
                // However many items there are to take, its time is up.
                if time.until().is_some_and(|until| rt::now() >= until) {
                    break;
                }
            }
        }
        let items = chunk.0.len();
        if let Err(error) = sender.send_at(std::mem::take(&mut chunk.0), place).await {
            return reader_gone(input, Chunk(error.into_inner()));
        }
        tally.pass_on(items);
        if over {
            return Ok(StageEnd::Completed);
        }
        if turn.is_over() {
            turn = turn.rest().await;
        }
    }
}

/// The items put together so far.
struct Chunk<T>(Vec<T>);

impl<T> Drop for Chunk<T> {
    fn drop(&mut self) {
        discard(std::mem::take(&mut self.0));
    }
}

/// A task that takes from two inputs, alternating where both have items.
pub(super) async fn merge<T: Send + 'static>(
    mut tally: Tally,
    inputs: [Receiver<T>; 2],
    sender: Sender<T>,
) -> StageResult {
    let mut inputs = inputs.map(Some);
    let mut first = 0;
    let place = tally.place();
    let mut turn = Turn::begin();
    loop {
        let next = poll_here(|cx| {
            for which in [first, 1 - first] {
                let Some(input) = &mut inputs[which] else { continue };
                match input.poll_recv(cx, place) {
                    Poll::Pending => {}
                    Poll::Ready(None) => inputs[which] = None,
                    Poll::Ready(Some(item)) => {
                        first = 1 - which;
                        return Poll::Ready(Some(item));
                    }
                }
            }
            if inputs.iter().all(Option::is_none) { Poll::Ready(None) } else { Poll::Pending }
        });
        let Some(item) = next.await else { return Ok(StageEnd::Completed) };
        tally.receive();
        let sent = sender.send_at(item, place).await;
        if sent.is_err() {
            // Neither input should wait for the drops of what the other has made.
            inputs.iter().flatten().for_each(Receiver::close);
            return reader_gone(inputs, sent);
        }
        tally.pass_on(1);
        if turn.is_over() {
            turn = turn.rest().await;
        }
    }
}

/// A task that runs a custom stage.
pub(super) async fn custom<T, U, F, Fut>(
    ctx: Context,
    input: Receiver<T>,
    sender: Sender<U>,
    f: F,
) -> StageResult
where
    T: Send + 'static,
    U: Send + 'static,
    F: FnOnce(Context, Receiver<T>, Sender<U>) -> Fut + Send + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: StageOutput,
{
    let output = sender.any_link();
    match f(ctx, input, sender).await.into_result() {
        Ok(()) => Ok(StageEnd::Completed),
        Err(error) => {
            let is_sends = |this: &(dyn Error + 'static)| this.is::<SendError<U>>();
            // That the next stage takes no more is not a failure of this one.
            if output.is_closed() && comes_from(&*error, is_sends, SendError::<U>::is_held_whole) {
                rt::contain_panic(|| drop(error));
                return Ok(StageEnd::ReaderGone);
            }
            Err(error)
        }
    }
}

/// What a custom stage may return: `()`, or `Result<(), E>` with any error.
///
/// ```compile_fail,E0277
/// use quell::channel::{Receiver, Sender};
/// use quell::{Context, Pipeline};
///
/// // It returns the count instead of sending it to its output.
/// let counts = |_ctx, mut input: Receiver<u8>, _output: Sender<usize>| async move {
///     let mut count = 0;
///     while input.recv().await.is_some() {
///         count += 1;
///     }
///     count
/// };
/// let _ = Pipeline::from_iter(&Context::background(), [1, 2, 3]).stage("count", counts);
/// ```
#[diagnostic::on_unimplemented(
    message = "a stage cannot return `{Self}`",
    note = "a stage returns `()` or `Result<(), E>`, with an error that converts into a `BoxError`",
    note = "what a stage makes goes into its output: `output.send(item).await?`"
)]
pub trait StageOutput: sealed::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), BoxError>;
}

impl StageOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> StageOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<E> Sealed for Result<(), E> {}
}
