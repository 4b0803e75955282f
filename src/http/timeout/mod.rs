//! A limit to the time of a request.

// | file | what it is |
// |---|---|
// | `layer` | the layer, and what it may be asked to do |
// | `service` | gives each request a context with a limit |
// | `future` | answers 503 where the handler has not, if asked to |

mod future;
mod layer;
mod service;

pub use future::TimeoutFuture;
pub use layer::TimeoutLayer;
pub use service::TimeoutService;
