//! The bounded channel between stages.
//!
//! It is quell's own for two reasons: a loom model has to see inside it, and a pipeline spends its
//! time between its stages. The receiving side fetches all that is there at once, so it takes the
//! lock once for many items. The bound holds: an item counts towards it until it has been handed
//! out. Where several workers take, any of them can take what one has fetched and not begun.
//!
//! ```
//! # futures::executor::block_on(async {
//! let (sender, mut receiver) = quell::channel::bounded(2);
//! sender.send("one").await.unwrap();
//! sender.send("two").await.unwrap();
//! drop(sender);
//! assert_eq!(receiver.recv().await, Some("one"));
//! assert_eq!(receiver.recv().await, Some("two"));
//! assert_eq!(receiver.recv().await, None);
//! # });
//! ```

// | file | what it is |
// |---|---|
// | `link` | the state both sides share: items, room, waiting tasks |
// | `sender` | putting items in |
// | `receiver` | taking them out, one receiver |
// | `takers` | taking them out, many workers |
// | `pace` | whether one of them is enough |

mod link;
mod pace;
mod receiver;
mod sender;
mod takers;

pub(crate) use link::{AnyLink, Bulk, Counts, discard};
#[cfg(not(loom))]
pub(crate) use receiver::at_home;
pub use receiver::{Receiver, Recv};
pub use sender::{Send, SendError, Sender, TrySendError};
pub(crate) use takers::Taker;

use crate::rt::PipelineId;
use crate::sync::Arc;
use link::Link;
use std::panic::Location;

/// Creates a channel that holds at most `capacity` items, including those that the receiver has
/// fetched and not handed out.
///
/// # Panics
///
/// When `capacity` is zero.
#[doc(alias = "mpsc")]
#[track_caller]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "quell: a channel of capacity zero lets nothing through; pass 1 or more");
    pair(Link::new(capacity, true, None))
}

/// The channel behind a stage. Between two stages the receiving task offers room when it waits (see
/// [`AnyLink::offer_room`]), and after as many items as the channel holds. `is_users`: whether user
/// code makes the items, by itself; `pipeline`: the one that it belongs to.
pub(crate) fn of_stage<T>(
    capacity: usize,
    bulk: Option<Bulk<T>>,
    (is_last, is_users, pipeline): (bool, bool, PipelineId),
) -> (Sender<T>, Receiver<T>) {
    // Nothing tells when the reader of the last one waits.
    let mut link = Link::new(capacity, is_last, bulk);
    (link.is_users, link.pipeline) = (is_users, pipeline);
    pair(link)
}

/// A channel between two stages of quell's own.
#[cfg(any(test, loom))]
pub(crate) fn between<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    of_stage(capacity, None, (false, false, PipelineId::NONE))
}

#[track_caller]
fn pair<T>(link: Link<T>) -> (Sender<T>, Receiver<T>) {
    let link = Arc::new(link);
    (Sender::new(Arc::clone(&link)), Receiver::new(link, Location::caller()))
}
