//! Calls that end with their context.

// | file | what it is |
// |---|---|
// | `call` | the client, and how a call is made |
// | `transport` | the connections of a client that was given no service |
// | `shared` | calls that wait for a connection that another call makes |
// | `body` | the body of an answer, which ends with the context as well |
// | `error` | why a call failed, or was given up |

mod body;
mod call;
mod error;
mod shared;
mod transport;

pub use body::CallBody;
pub use call::Client;
pub use error::CallError;
pub use transport::Transport;
