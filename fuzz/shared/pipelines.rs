// What the target `pipeline_schedules` does with its bytes; a test does the same with the corpus.

use quell::check::{Checker, Inject};
use quell::{Context, OnCancel, Pipeline, Rate, rt};
use std::time::Duration;

pub fn run(bytes: &[u8]) {
    // Four bytes for the shape; the rest is the schedule.
    let (shape, schedule) = bytes.split_at(bytes.len().min(4));
    let shape: Vec<u8> = shape.iter().copied().chain([0; 4]).take(4).collect();
    let injections = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::None];
    let inject = injections[usize::from(shape[0] >> 6)];
    let report = Checker::bytes(schedule)
        .inject(inject)
        .stop_within(Duration::from_secs(5))
        .run(|ctx| body(ctx, shape.clone()));
    assert!(report.is_clean(), "{report}");
}

async fn body(ctx: Context, shape: Vec<u8>) {
    let items = u32::from(shape[0] & 7);
    let mut pipeline = Pipeline::from_iter(&ctx, 0..items);
    // Two bits for each of three stages, one byte for how many and how long.
    for stage in 0..3 {
        let (workers, millis) = (usize::from(shape[2] & 3) + 1, u64::from(shape[2] >> 4));
        let work = move |_: Context, n: u32| async move {
            match millis {
                0 => rt::yield_now().await,
                millis => rt::sleep(Duration::from_millis(millis)).await,
            }
            n
        };
        pipeline = match (shape[1] >> (2 * stage)) & 3 {
            0 => pipeline.map(|n| n + 1),
            1 => pipeline.dispatch(workers, work),
            2 => pipeline.dispatch_ordered(workers, work),
            _ => pipeline.throttle(Rate::per_second(100).burst(2)),
        };
        pipeline = pipeline.buffer(usize::from((shape[3] >> (2 * stage)) & 3) + 1);
    }
    if shape[1] & 64 != 0 {
        pipeline = pipeline.on_cancel(OnCancel::Drain { grace: Duration::from_millis(100) });
    }
    let mut results = pipeline.run();
    let mut seen = 0;
    while results.next().await.is_some() {
        seen += 1;
        if shape[1] & 128 != 0 && seen == 2 {
            break;
        }
    }
    let report = results.finish().await;
    assert!(report.conserved(), "{report}");
}
