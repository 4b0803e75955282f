//! A tour in one screen: a server, two requests, and three ways to end.
//!
//! `cargo run --example tour`

#[cfg(not(loom))]
fn main() {
    use quell::{Cancelled, Context};
    use std::time::Duration;

    struct UserId(u32);

    /// Work that goes on for as long as it may: it checks the context now and then.
    fn work(ctx: &Context) -> Result<u64, Cancelled> {
        let mut steps = 0;
        while steps < 1_000_000_000_000 {
            ctx.check()?;
            steps += 1;
        }
        Ok(steps)
    }

    let (server, shutdown) = Context::background().with_cancel();

    // A user's request, with a limit, and work on its behalf.
    let (request, _request) = server.with_timeout(Duration::from_millis(50));
    let request = request.with_value(UserId(7));
    let (lookup, _lookup) = request.with_reserve(Duration::from_millis(20));
    let UserId(user) = lookup.value().unwrap();
    println!("{lookup}\n  on behalf of user {user}\n");

    // Another one, which waits for something that never comes.
    let (idle, _idle) = server.with_cancel();
    idle.after_func(|| println!("  the idle request cleans up"));

    println!("what is alive:\n{}\n", server.tree());

    let stopped = work(&lookup).unwrap_err();
    println!("the lookup stopped: {stopped}");
    println!("  its request goes on for {:.0?}\n", request.remaining().unwrap());

    shutdown.cancel_with("shutting down");
    println!("the idle request ended: {}", idle.cause().unwrap());
    println!("  because of {}", idle.cause().unwrap().origin().unwrap());

    // The usual mistake explains itself.
    let (ctx, _) = Context::background().with_cancel();
    println!("\na mistake: {}", ctx.cause().unwrap());
}

/// The loom build has no clock and no tree.
#[cfg(loom)]
fn main() {}
