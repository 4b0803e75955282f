//! A context for each request.

// | file | what it is |
// |---|---|
// | `layer` | the layer, and how the server's end reaches the requests |
// | `service` | gives each request its context |
// | `future` | ends it when the response is dropped or finished |

mod future;
mod layer;
mod service;

pub use future::ContextFuture;
pub use layer::ContextLayer;
pub(super) use layer::ServerTie;
pub use service::ContextService;
