//! Many short-lived clones of one context, which workers give to closures.

use super::Context;
#[cfg(not(loom))]
use super::layer::ContextFamily;
#[cfg(not(loom))]
use crate::sync::Purse;

/// A worker's supply of contexts.
#[cfg(not(loom))]
pub(crate) struct Contexts<'c>(Purse<'c, ContextFamily>);

#[cfg(not(loom))]
impl<'c> Contexts<'c> {
    /// A supply of clones of `ctx`, which must be derived.
    pub(crate) fn of(ctx: &'c Context) -> Self {
        Contexts(Purse::new(ctx.link.as_ref().expect("a derived context")))
    }

    #[inline]
    pub(crate) fn give(&mut self) -> Context {
        Context { link: Some(self.0.give()) }
    }

    /// Runs `f`; clones that are dropped meanwhile are reused.
    #[inline]
    pub(crate) fn within<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let _open = self.0.open();
        f()
    }
}

/// In models, plain clones, which behave the same.
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
