//! A pipeline over a stream: an endless listing that comes page by page, with four
//! entries looked up at a time, until there are enough.
//!
//! `cargo run --example pipeline_stream`

#[cfg(not(loom))]
#[tokio::main]
async fn main() {
    use futures::stream::{self, StreamExt};
    use quell::{Context, Pipeline, rt};
    use std::time::Duration;

    /// Any stream is a source; this one is asynchronous, lazy and endless.
    fn entries() -> impl futures::Stream<Item = u32> + Send {
        let pages = stream::unfold(0, |page| async move {
            rt::sleep(Duration::from_millis(5)).await;
            Some((stream::iter(page * 10..page * 10 + 10), page + 1))
        });
        pages.flatten()
    }

    async fn look_up(entry: u32) -> Option<String> {
        rt::sleep(Duration::from_millis(2)).await;
        (entry % 3 == 0).then(|| format!("entry {entry}"))
    }

    let (ctx, _canceller) = Context::background().with_timeout(Duration::from_secs(10));
    let mut found = Pipeline::from_stream(&ctx, entries())
        .named("listing")
        .dispatch(4, |_ctx, entry| look_up(entry))
        .named("look up")
        .filter_map(|found| found)
        .run();

    // The results are also a stream, with all that `StreamExt` can do.
    let mut first: Vec<String> = found.by_ref().take(5).collect().await;
    first.sort(); // they come as they are ready
    println!("the first to be found: {}", first.join(", "));

    // They can also be read one by one. To stop early, just stop reading.
    while let Some(entry) = found.next().await {
        if entry.len() > "entry 99".len() {
            println!("the first beyond 99: {entry}");
            break;
        }
    }

    let report = found.finish().await; // the stream and every task have ended
    println!("\n{report}");
    assert!(report.conserved());
}

/// The loom build has no tokio.
#[cfg(loom)]
fn main() {}
