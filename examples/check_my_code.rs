//! A test file to copy: checks that your own code stops, whenever it is told to.
//!
//! `cargo run --features check --example check_my_code`, or copy the body of `main`
//! into a `#[test]`.

use quell::check::{Checker, Inject};
use quell::{Context, rt};
use std::time::Duration;
use tokio::sync::mpsc;

/// The code to be checked: anything that takes a context and stops when that ends.
async fn service(ctx: Context) {
    let (jobs, mut queue) = mpsc::channel(2);
    let worker = ctx.clone();
    let worker = rt::spawn_named("worker", async move {
        // `run` ends the wait when the context ends. Remove it, and see what the checker says.
        while let Ok(Some(job)) = worker.run(queue.recv()).await {
            rt::sleep(Duration::from_millis(job)).await;
        }
    });
    for job in [10, 20, 30] {
        if ctx.run(jobs.send(job)).await.is_err() {
            break;
        }
    }
    drop(jobs);
    worker.await.unwrap();
}

fn main() {
    let report = Checker::new()
        // `None`: it comes to its end if it is left alone. Not for what runs until it is cancelled.
        .inject([Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None])
        .stop_within(Duration::from_secs(1))
        .run(service);
    println!("{report}");
    report.assert_clean();
}
