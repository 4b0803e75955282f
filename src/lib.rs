//! *quell* puts an end to things, quietly and completely.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

// The models reach the planted bugs; nobody else does.
#[cfg(loom)]
#[doc(hidden)]
pub mod planted {
    pub use crate::sync::planted::{Break, plant};

    /// How many children a context's scope lists.
    pub fn children(ctx: &crate::Context) -> usize {
        ctx.children()
    }
}

mod context;
pub mod rt;
mod sync;

#[cfg(not(loom))]
pub use context::Tree;
#[cfg(all(unix, not(loom)))]
pub use context::signal;
pub use context::{
    AfterFunc, BoxError, Cancelled, Canceller, Cause, Context, ContextError, Done, Key, Run,
};
