//! A load generator: sends requests through a pipeline, and measures them.
//!
//! [`send_n`] sends a request `n` times through `throttle → dispatch`, and returns [`Results`],
//! which are read once and whose drop ends everything. A [`Summary`] turns them into numbers. The
//! program `hit` (feature `cli`) is built from these; [`guide::hit`](crate::guide::hit) is on both.
//!
//! ```no_run
//! use http::Request;
//! use quell::Context;
//! use quell::hit::{Options, Summary, send_n};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let request = Request::get("http://localhost:3000/").body("")?;
//! let options = Options::new().concurrency(8).rps(500);
//! let mut results = send_n(&Context::background(), 1000, request, options)?;
//! let mut summary = Summary::new();
//! while let Some(hit) = results.next().await {
//!     summary.record(&hit);
//! }
//! println!("p99: {:?}", summary.percentile(99.0));
//! # Ok(()) }
//! ```

// | file | what it is |
// |---|---|
// | `options` | how requests are sent, and why they cannot be |
// | `measure` | what was measured of one request |
// | `summary`, `histogram` | … of all of them, in flat memory |
// | `send` | the pipeline |
// | `quota` | how many are left to be sent |
// | `timetable` | from when latency counts, if it is corrected |
// | `results` | the results that users read |
// | `job` | a request, checked and serialised once |
// | `user` | the user in a URL, as a header |
// | `seats` | connections, which workers take turns to use |
// | `connect`, `tls` | from an address to a stream |
// | `h1`, `parse` | a request and its response over HTTP/1.1 |
// | `h2` | … over HTTP/2 |

mod connect;
mod h1;
mod h2;
mod histogram;
mod job;
mod measure;
mod options;
mod parse;
mod quota;
mod results;
mod seats;
mod send;
mod summary;
mod timetable;
#[cfg(feature = "tls")]
mod tls;
mod user;

pub use measure::{ErrorKind, Hit};
pub use options::{Error, Options};
pub use quota::Quota;
pub use results::{Next, Results};
pub use send::{send_n, send_n_with, send_shared};
pub use summary::Summary;
