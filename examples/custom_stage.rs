//! A custom stage: it joins the lines that are split across blocks of text.
//! It keeps state between items, produces none or many for one, has something to
//! do at the end, and may fail: what `map` and `dispatch` cannot do.
//!
//! `cargo run --example custom_stage`

#[cfg(not(loom))]
#[tokio::main]
async fn main() {
    use quell::channel::{Receiver, Sender};
    use quell::{BoxError, Context, Pipeline};

    async fn lines(
        ctx: Context,
        mut blocks: Receiver<&'static str>,
        lines: Sender<String>,
    ) -> Result<(), BoxError> {
        let mut line = String::new();
        while let Some(block) = blocks.recv().await {
            for c in block.chars() {
                if c != '\n' {
                    line.push(c);
                } else {
                    // `?`: if no reader is left, this stage is done, and has not failed.
                    lines.send(std::mem::take(&mut line)).await?;
                }
            }
            if line.len() > 20 {
                return Err(format!("line too long: {line}").into());
            }
        }
        // The input also ends with the pipeline. Half a line is then not the last one.
        ctx.check()?;
        if !line.is_empty() {
            lines.send(line).await?;
        }
        Ok(())
    }

    let ctx = Context::background();
    for blocks in [["one\ntw", "o\n", "\nthree"], ["one\ntwo", " and so on, and on", " and on"]] {
        let mut results = Pipeline::from_iter(&ctx, blocks).stage("lines", lines).run();
        while let Some(line) = results.next().await {
            println!("{line:?}");
        }
        println!("{}\n", results.finish().await);
    }
}

/// The loom build has no tokio.
#[cfg(loom)]
fn main() {}
