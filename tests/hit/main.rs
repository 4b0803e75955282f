//! The load generator as a library, against real servers, misbehaving ones too.
//!
//! | file | what it is |
//! |---|---|
//! | `rig` | servers, and results read to the end |
//! | `sending` | what is sent, and what counts as an answer |
//! | `http2` | … over HTTP/2 |
//! | `failing` | servers that fail |
//! | `ending` | the end, however it comes |
//! | `rates` | rates, and what cannot be asked for |
//! | `summary` | what a summary makes of it all |

#![cfg(all(feature = "http", not(loom)))]

mod ending;
mod failing;
mod http2;
mod rates;
mod rig;
mod sending;
mod summary;
