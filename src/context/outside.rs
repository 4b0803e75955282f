//! Ending a context from outside of the tree, without keeping it alive.

use super::cause::Cause;
use super::harvest::Harvest;
use super::layer::Branch;
use super::scope::Scope;
use crate::sync::{Arc, Lent};
use std::sync::Weak;

fn weak(scope: Lent<'_, Scope>) -> Weak<Scope> {
    Arc::downgrade(&scope.to_arc())
}

/// A context that a token or a signal is to end, if it is still there.
pub(super) struct Target {
    scope: Weak<Scope>,
    /// The scope above, and the one with the deadline. If they have ended, that end came first.
    elders: [Option<Weak<Scope>>; 2],
}

impl Target {
    /// The context of this branch, which has this scope and was derived from `parent`.
    pub(super) fn new(
        branch: &Branch<'_>,
        scope: Lent<'_, Scope>,
        parent: Option<&Branch<'_>>,
    ) -> Self {
        let above = parent.and_then(|parent| parent.open().ok());
        let elders = [above, branch.bounding()].map(|elder| elder.map(weak));
        Target { scope: weak(scope), elders }
    }

    /// `None`: it is gone.
    pub(super) fn hold(&self) -> Option<Held> {
        let scope = self.scope.upgrade()?;
        let elders = self.elders.each_ref().map(|elder| elder.as_ref().and_then(Weak::upgrade));
        Some(Held { scope, elders })
    }
}

/// What is needed of a context to end it. Dropping this may drop an error of the user's.
pub(super) struct Held {
    scope: Arc<Scope>,
    elders: [Option<Arc<Scope>>; 2],
}

impl Held {
    /// Ends the context, unless it has ended before.
    pub(super) fn end(&self, cause: Cause) -> Option<Harvest> {
        self.elders.iter().flatten().for_each(|elder| self.scope.end_with(elder));
        Scope::cancel(Lent::from(&self.scope), cause)
    }
}

/// Watches the deadline of a context until this is dropped, without keeping the context alive.
pub(super) struct Vigil(Option<Weak<Scope>>);

impl Vigil {
    /// # Panics
    ///
    /// If no alarm can be armed.
    pub(super) fn begin(branch: &Branch<'_>) -> Self {
        branch.watch();
        Vigil(branch.bounding().map(weak))
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if let Some(scope) = self.0.as_ref().and_then(Weak::upgrade) {
            scope.unwatch();
        }
    }
}
