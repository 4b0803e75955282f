//! A child never outlives its parent: it asks for three seconds, but its parent has
//! only two.
//!
//! `cargo run --example nested_timers`

use quell::{Context, rt};
use std::time::Duration;

fn main() {
    // The two seconds begin with the parent.
    let began = rt::now();
    let (parent, _parent) = Context::background().with_timeout(Duration::from_secs(2));
    let (child, _child) = parent.with_timeout(Duration::from_secs(3));

    let end = child.wait();
    println!("{}s: {end}", began.elapsed().as_secs());
}
