//! A worker that takes no more jobs once Ctrl-C is pressed, and finishes those that it
//! has begun; a second Ctrl-C ends it at once.
//!
//! `cargo run --example drain_on_ctrl_c`, and press Ctrl-C.

#[cfg(all(unix, not(loom)))]
#[tokio::main]
async fn main() {
    use quell::signal::{self, Interrupted};
    use quell::{Context, OnCancel, Outcome, Pipeline, Rate, rt};
    use std::time::Duration;

    let (ctx, _canceller) = signal::interrupt(&Context::background());
    let mut finished = Pipeline::from_iter(&ctx, 1..)
        .named("jobs")
        .buffer(1) // items behind the source when it stops are still done: keep them few
        .throttle(Rate::per_second(20))
        .buffer(1)
        .dispatch(4, |_ctx, job| async move {
            println!("job {job} begins");
            rt::sleep(Duration::from_millis(150)).await;
            job
        })
        .on_cancel(OnCancel::Drain { grace: Duration::from_secs(5) })
        .run();

    // After the signal, results come for as long as there is something to finish.
    while let Some(job) = finished.next().await {
        println!("job {job} is finished");
    }

    let report = finished.finish().await;
    println!("\n{report}");
    if let Outcome::Cancelled(cause) = report.outcome() {
        if let Some(interrupted) = cause.downcast_ref::<Interrupted>() {
            std::process::exit(interrupted.exit_status()); // 130
        }
    }
}

/// `quell::signal` exists on Unix only, and the loom build has no tokio.
#[cfg(not(all(unix, not(loom))))]
fn main() {}
