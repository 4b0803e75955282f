//! User functions that block are limited in number, and quell's own work is not held up by them.
//!
//! In a process of its own: it takes all the threads there are for such functions.
#![cfg(all(feature = "tokio", not(loom)))]

mod kit;

use kit::{AGES, in_time, ms, threads};
use quell::{Context, OnCancel, Outcome, Pipeline};
use std::sync::mpsc;
use std::time::Duration;

/// So many run at once, as the docs of `after_func` say.
const MOST: usize = 512;

#[test]
fn while_as_many_functions_block_as_may_run_a_pipeline_ends_by_its_deadline_all_the_same() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    let (tell, told) = mpsc::channel();
    let blocks = || {
        let (ctx, canceller) = Context::background().with_timeout(ms(100));
        canceller.detach();
        let (gate, tell) = (std::sync::Arc::clone(&gate), tell.clone());
        ctx.after_func(move || {
            tell.send(()).unwrap();
            // Until it is opened: nothing is ever sent.
            let _ = gate.lock().unwrap().recv();
        });
    };
    // Two more than can run: they wait for their turn.
    (0..MOST + 2).for_each(|_| blocks());
    (0..MOST).for_each(|_| told.recv_timeout(AGES).unwrap());
    in_time(|| {
        for drains in [false, true] {
            let report = threads(2).block_on(async {
                let (ctx, _c) = Context::background().with_timeout(ms(20));
                let pipeline = Pipeline::from_iter(&ctx, 0..10)
                    .dispatch(2, |_, _| std::future::pending::<u32>());
                let grace = Duration::from_millis(20);
                let how = if drains { OnCancel::Drain { grace } } else { OnCancel::Abort };
                let mut results = pipeline.on_cancel(how).run();
                assert!(results.next().await.is_none());
                results.finish().await
            });
            assert!(matches!(report.outcome(), Outcome::Cancelled(_)), "{report}");
        }
    });
    assert!(told.try_recv().is_err(), "a function more than there are threads for has run");
    drop(open);
    (0..2).for_each(|_| told.recv_timeout(AGES).unwrap());
}
