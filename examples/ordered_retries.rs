//! Four calls at a time to a server that fails now and then. Each is retried after a
//! while, and the answers come in the order of the questions.
//!
//! `cargo run --example ordered_retries`

#[cfg(not(loom))]
#[tokio::main]
async fn main() {
    use quell::{BoxError, Context, Pipeline, rt};
    use std::time::Duration;

    /// A server that is busy twice for odd questions, has no 6, and hangs at 4.
    async fn ask(question: u32, attempt: u32) -> Result<u32, BoxError> {
        rt::sleep(Duration::from_millis(3)).await;
        match question {
            4 => std::future::pending().await,
            6 => Err("there is no 6".into()),
            _ if question % 2 == 1 && attempt < 3 => Err("busy".into()),
            _ => Ok(question * question),
        }
    }

    /// Asks at most four times, and waits twice as long each time.
    async fn ask_again(question: u32) -> Result<u32, BoxError> {
        let (mut attempt, mut backoff) = (1, Duration::from_millis(5));
        loop {
            match ask(question, attempt).await {
                Err(_) if attempt < 4 => rt::sleep(backoff).await,
                answer => return answer,
            }
            (attempt, backoff) = (attempt + 1, backoff * 2);
        }
    }

    /// All attempts, and the waits between them, share one deadline. The context is
    /// derived from the pipeline's, so it never outlives that, nor its deadline.
    async fn answer(ctx: Context, question: u32) -> Result<u32, BoxError> {
        let (ctx, _canceller) = ctx.with_timeout_cause(Duration::from_millis(300), "no answer");
        match ctx.run(ask_again(question)).await {
            Ok(answer) => answer,
            Err(ended) => Err(ended.cause().clone().into()),
        }
    }

    let mut answers = Pipeline::from_iter(&Context::background(), 1..=8)
        .dispatch_ordered(4, |ctx, question| async move { (question, answer(ctx, question).await) })
        .run();
    while let Some((question, answer)) = answers.next().await {
        match answer {
            Ok(answer) => println!("{question}: {answer}"),
            Err(error) => println!("{question}: {error}"),
        }
    }
    println!("\n{}", answers.finish().await);
}

/// The loom build has no tokio.
#[cfg(loom)]
fn main() {}
