//! The body under test behind a trait object, so that a program compiles one checker, and not one
//! more for each body.
//!
//! # Invariants
//!
//! 1. User code runs, and is dropped, in the three methods of [`Running`] only. The caller catches
//!    its panics.

use crate::context::Context;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::Poll;

/// A body that can be run again and again.
pub(super) trait Subject {
    /// Calls `with` with a new run of the body.
    fn run_once(&self, with: &mut dyn FnMut(&mut dyn Running));

    /// The name of its type, by which it is recognised.
    fn name(&self) -> &'static str;
}

/// One run of a body.
pub(super) trait Running {
    /// Sets the context with which the first poll begins the body.
    fn takes(&mut self, ctx: Context);

    /// Polls the body. Its result is dropped here, in its own turn.
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()>;

    /// Drops the body in place.
    fn end(&mut self);
}

/// A body: a function and the future that it returns.
pub(super) struct Code<'a, F, Fut> {
    make: &'a F,
    future: PhantomData<Fut>,
}

impl<'a, F, Fut> Code<'a, F, Fut> {
    pub(super) fn new(make: &'a F) -> Self {
        Code { make, future: PhantomData }
    }
}

impl<F, Fut> Subject for Code<'_, F, Fut>
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    fn run_once(&self, with: &mut dyn FnMut(&mut dyn Running)) {
        with(&mut Run { make: self.make, ctx: None, future: pin!(None) });
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }
}

struct Run<'a, F, Fut> {
    make: &'a F,
    /// `None` once the body has begun.
    ctx: Option<Context>,
    future: Pin<&'a mut Option<Fut>>,
}

impl<F, Fut> Running for Run<'_, F, Fut>
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    fn takes(&mut self, ctx: Context) {
        self.ctx = Some(ctx);
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        if let Some(ctx) = self.ctx.take() {
            let made = (self.make)(ctx);
            self.future.set(Some(made));
        }
        let future = self.future.as_mut().as_pin_mut().expect("the body has not ended");
        future.poll(cx).map(drop)
    }

    fn end(&mut self) {
        self.future.set(None);
        self.ctx = None;
    }
}
