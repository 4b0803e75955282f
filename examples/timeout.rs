//! A limit of 150 ms for work that takes 50, or with `--slow` much longer.
//!
//! `cargo run --example timeout`
//! `cargo run --example timeout -- --slow`

/// The loom build has no tokio.
#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
#[tokio::main(flavor = "current_thread")]
async fn main() {
    use quell::Context;
    use std::time::Duration;

    #[derive(Debug)]
    struct User {
        id: &'static str,
    }

    async fn look_up(takes: Duration) -> User {
        tokio::time::sleep(takes).await;
        User { id: "123" }
    }

    let slow = std::env::args().any(|argument| argument == "--slow");
    let takes = Duration::from_millis(if slow { 1500 } else { 50 });

    // Dropping `_canceller` also drops the timer.
    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_millis(150));
    match ctx.run(look_up(takes)).await {
        Ok(user) => println!("work complete: user {}", user.id),
        Err(cancelled) => println!("work cancelled: {cancelled}"),
    }
}
