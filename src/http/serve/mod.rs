//! A server that ends with its context.

// | file | what it is |
// |---|---|
// | `server` | how it is configured, accepts connections, and ends |
// | `connection` | one connection, and what may be spawned for it |
// | `stream` | the stream it writes to, with a time limit, and how it is closed |
// | `request` | a request as it comes in, and what becomes of its body |

mod connection;
mod request;
mod server;
mod stream;

pub use connection::PeerAddress;
pub use server::{Serve, Served, Serving, serve};
