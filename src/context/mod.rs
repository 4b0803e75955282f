//! The context tree.

// | file | its one idea |
// |---|---|
// | `handle` | `Context`, the public handle: every `with_…` and every query |
// | `canceller` | `Canceller`: the right to end a context |
// | `layer` | what one derivation adds; how a query is answered (what a checker is told of it in a file apart) |
// | `ties` | ending with any of several parents |
// | `fate` | what becomes of a branch, in one word |
// | `scope` | what a parent knows of its children; how an end spreads |
// | `members` | the list of what a scope notifies of its end |
// | `harvest` | the notifications of an end, made after all locks are released |
// | `nested` | ends inside ends, on a bounded stack |
// | `cause` | error and cause |
// | `values` | values in constant time |
// | `after` | functions that run at the end |
// | `done`, `run`, `wait` | three ways to wait for the end |
// | `display`, `tree` | human-readable output |
// | `signal`, `token` | ends that come from outside |
// | `outside` | what those keep of a context |
// | `purse` | clones for workers |
// | `trace` | the event of the `tracing` feature |

mod after;
mod canceller;
mod cause;
mod display;
mod done;
mod fate;
mod handle;
mod harvest;
mod layer;
mod members;
#[cfg(not(loom))]
mod nested;
#[cfg(all(any(unix, feature = "tokio-util"), not(loom)))]
mod outside;
mod purse;
mod run;
mod scope;
#[cfg(all(unix, not(loom)))]
pub(crate) mod signal;
mod ties;
#[cfg(all(feature = "tokio-util", not(loom)))]
mod token;
mod trace;
#[cfg(not(loom))]
mod tree;
mod values;
mod wait;

pub use after::AfterFunc;
pub use canceller::Canceller;
pub use cause::{BoxError, Cancelled, Cause, ContextError};
pub(crate) use cause::{comes_from, is_an_end};
pub use done::Done;
pub use handle::Context;
pub(crate) use purse::Contexts;
pub use run::Run;
#[cfg(not(loom))]
pub use tree::Tree;
pub use values::Key;
