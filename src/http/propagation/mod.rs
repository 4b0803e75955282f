//! What is passed from service to service: how long the caller waits, and an id.
//!
//! | header | what it says |
//! |---|---|
//! | `grpc-timeout` | how long the caller waits, as gRPC writes it: `150m` |
//! | `x-timeout-ms` | the same in milliseconds, for callers without gRPC: `150` |
//! | `x-guid` | an id that all requests made on behalf of one have in common |

// | file | what it is |
// |---|---|
// | `parse` | the syntax of the headers: pure functions |
// | `headers` | from headers to a context's limit and back |
// | `tracking` | the tracking id |
// | `layer`, `service` | the middleware that reads them |

mod headers;
mod layer;
pub(in crate::http) mod parse;
mod service;
mod tracking;

pub(in crate::http) use headers::propagate_as;
pub use headers::{GRPC_TIMEOUT, TIMEOUT_MILLIS, TRACKING_ID, propagate};
pub use layer::PropagationLayer;
pub use parse::InvalidHeader;
pub use service::PropagationService;
pub use tracking::TrackingId;
