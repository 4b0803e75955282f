//! The body under test, for those who need not know its type: so there is one checker in a
//! program, and not one more for each body, each of which would have to be compiled.
//!
//! # Invariants
//!
//! 1. What is the user's runs, and is dropped, in the three methods of [`Running`] only. Whoever
//!    calls them catches what they panic with.

use crate::context::Context;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::Poll;

/// What is asked to run, again and again.
pub(super) trait Subject {
    /// Has a new run of it used.
    fn run_once(&self, with: &mut dyn FnMut(&mut dyn Running));

    /// That of its type: by this it is known again.
    fn name(&self) -> &'static str;
}

/// One run of a body.
pub(super) trait Running {
    /// Its first poll will begin it, with this.
    fn takes(&mut self, ctx: Context);

    /// What it returns is dropped here, in its own turn.
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()>;

    /// Drops it where it is.
    fn end(&mut self);
}

/// The body, and what it returns.
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
    /// Until it begins.
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
