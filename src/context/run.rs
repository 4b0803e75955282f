//! A future that a context can stop.

use super::{Cancelled, Context, done::Done};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::Poll;

pin_project! {
    /// The future of [`Context::run`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Run<F> {
        done: Done,
        // `None` once it has finished or was dropped.
        #[pin]
        future: Option<F>,
    }
}

impl<F> Run<F> {
    #[track_caller]
    pub(super) fn new(ctx: &Context, future: F) -> Self {
        Run { done: Done::new(ctx.clone()), future: Some(future) }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Result<F::Output, Cancelled>;

    /// # Panics
    ///
    /// If it is polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let output = {
            let Some(future) = this.future.as_mut().as_pin_mut() else {
                panic!("`Run` polled after it was ready");
            };
            match this.done.context().check() {
                Err(cancelled) => Err(cancelled),
                Ok(()) => match future.poll(cx) {
                    Poll::Ready(value) => Ok(value),
                    // The context may have ended while the future was polled: then nothing
                    // would wake this task for that.
                    Poll::Pending => match this.done.poll_with(cx.waker()) {
                        None => return Poll::Pending,
                        Some(_) => match this.done.context().check() {
                            Err(cancelled) => Err(cancelled),
                            Ok(()) => unreachable!("an end does not go away"),
                        },
                    },
                },
            }
        };
        this.done.leave();
        this.future.set(None);
        Poll::Ready(output)
    }
}

impl<F> fmt::Debug for Run<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("within", &self.done).finish_non_exhaustive()
    }
}
