//! The room `http`: real sockets on loopback, real clients, and clients that
//! misbehave.
//!
//! | file | what it is |
//! |---|---|
//! | `rig` | servers, raw clients, and waiting for the thing itself |
//! | `contexts` | when the context of a request ends, and why |
//! | `timeouts`, `limits` | the middlewares of that name |
//! | `propagation` | what goes from service to service |
//! | `calls` | calls that end with their context |
//! | `serving` | a server that ends with its context |
//! | `crowd` | ten thousand requests with random cancels |

#![cfg(all(feature = "http", not(loom)))]

mod calls;
mod contexts;
mod crowd;
mod limits;
mod propagation;
mod rig;
mod serving;
mod timeouts;
