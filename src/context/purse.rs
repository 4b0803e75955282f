//! Clones of one context, many and soon dropped: what workers give to closures.

use super::Context;
#[cfg(not(loom))]
use super::layer::Line;
#[cfg(not(loom))]
use crate::sync::Purse;

/// Where a worker has its contexts from.
#[cfg(not(loom))]
pub(crate) struct Contexts<'c>(Purse<'c, Line>);

#[cfg(not(loom))]
impl<'c> Contexts<'c> {
    /// Clones of `ctx`, which must be derived.
    pub(crate) fn of(ctx: &'c Context) -> Self {
        Contexts(Purse::new(ctx.link.as_ref().expect("a derived context")))
    }

    #[inline]
    pub(crate) fn give(&mut self) -> Context {
        Context { link: Some(self.0.give()) }
    }

    /// What is dropped while `f` runs comes back.
    #[inline]
    pub(crate) fn within<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let _open = self.0.open();
        f()
    }
}

/// Under a model, what they are in every other way.
#[cfg(loom)]
pub(crate) struct Contexts<'c>(&'c Context);

#[cfg(loom)]
impl<'c> Contexts<'c> {
    pub(crate) fn of(ctx: &'c Context) -> Self {
        Contexts(ctx)
    }

    pub(crate) fn give(&mut self) -> Context {
        self.0.clone()
    }

    pub(crate) fn within<R>(&mut self, f: impl FnOnce() -> R) -> R {
        f()
    }
}
