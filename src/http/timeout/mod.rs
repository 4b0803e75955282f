//! A time limit for requests.

// | file | what it is |
// |---|---|
// | `layer` | the layer, and what it may be asked to do |
// | `service` | gives each request a context with a limit |
// | `future` | answers 503 if the handler has not, where that is asked for |

mod future;
mod layer;
mod service;

pub use future::TimeoutFuture;
pub use layer::TimeoutLayer;
pub use service::TimeoutService;
