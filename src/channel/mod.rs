//! The bounded channel between stages.
//!
//! It is quell's own for two reasons: a model has to see inside it, and the room
//! between two stages is where a pipeline spends its time. The receiving side
//! takes all that is there at once, so a lock is met once for many items. The bound
//! holds: whatever has not been handed out yet still counts towards it, what has been
//! does not, and where several take, the rest can be taken by any of them.
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
// | `link` | the state both sides share: items, room, who waits |
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
pub use sender::{Send, SendError, Sender};
pub(crate) use takers::Taker;

use crate::rt::PipelineId;
use crate::sync::Arc;
use link::Link;

/// A channel that holds at most `capacity` items, those included that the
/// receiver has fetched and not handed out.
///
/// # Panics
///
/// When `capacity` is zero.
#[track_caller]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "quell: a channel of capacity zero lets nothing through; pass 1 or more");
    pair(Link::new(capacity, true, None))
}

/// The channel behind a stage: behind the last, or between two, where the receiving task offers
/// room when it waits (see [`AnyLink::offer_room`]), and after as many items as the channel holds. And
/// whether what makes its items is the user's code, by itself, and which pipeline it is of.
pub(crate) fn of_stage<T>(
    capacity: usize,
    bulk: Option<Bulk<T>>,
    (is_last, is_users, pipeline): (bool, bool, PipelineId),
) -> (Sender<T>, Receiver<T>) {
    // Of the last one nobody knows when its reader waits.
    let mut link = Link::new(capacity, is_last, bulk);
    (link.is_users, link.pipeline) = (is_users, pipeline);
    pair(link)
}

/// The channel between two stages, of quell's own.
#[cfg(any(test, loom))]
pub(crate) fn between<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    of_stage(capacity, None, (false, false, PipelineId::NONE))
}

fn pair<T>(link: Link<T>) -> (Sender<T>, Receiver<T>) {
    let link = Arc::new(link);
    (Sender::new(Arc::clone(&link)), Receiver::new(link))
}
