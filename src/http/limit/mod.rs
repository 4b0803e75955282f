//! A limit to how many requests run at once, and to how many wait.

// | file | what it is |
// |---|---|
// | `layer` | the layer, shared by all that it is laid on |
// | `places` | the seats and the waiting room |
// | `service` | finds each request a place, or none |
// | `future` | waits in the queue; answers 503 for those that get no place |

mod future;
mod layer;
mod places;
mod service;

pub use future::LimitFuture;
pub use layer::LimitLayer;
pub(super) use places::Places;
pub use service::LimitService;
