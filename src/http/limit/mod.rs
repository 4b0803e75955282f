//! A limit on how many requests run at once, and on how many wait.

// | file | what it is |
// |---|---|
// | `layer` | the layer, whose clones share one limit |
// | `places` | the seats and the waiting room |
// | `service` | finds each request a place, or none |
// | `future` | waits in the queue; answers 503 to requests that get no place |

mod future;
mod layer;
mod places;
mod service;

pub use future::LimitFuture;
pub use layer::LimitLayer;
pub(super) use places::Places;
pub use service::LimitService;
