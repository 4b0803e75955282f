//! A server that ends with its context.

// | file | what it is |
// |---|---|
// | `server` | how it is asked for, accepts, and comes to its end |
// | `connection` | one connection, and what may be spawned for it |
// | `stream` | what it writes to, with a limit to the patience |
// | `request` | a request as it comes in, and what becomes of its body |

mod connection;
mod request;
mod server;
mod stream;

pub use connection::PeerAddress;
pub use server::{Serve, Served, Serving, serve};
