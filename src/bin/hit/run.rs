//! Threads that send, and one that waits for them.
//!
//! Each thread has a runtime of its own, its part of the connections, and a summary, so that none
//! waits for another. They take requests from one quota, each as soon as it can send. A rate is
//! kept by one thread: it cannot be divided.
//!
//! # Invariants
//!
//! 1. Every result that a thread reads is in its summary before it reads the next,
//!    and every summary arrives, however the run ends.
//! 2. The counts are for the progress line only. Each has one writer.

use super::args::Args;
use super::progress::Progress;
use quell::hit::{Quota, Results, Summary, send_shared};
use quell::{Context, signal};
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How it went.
pub(crate) struct Done {
    pub(crate) summary: Summary,
    pub(crate) took: Duration,
    /// The exit status, if the run was cut short.
    pub(crate) interrupted: Option<i32>,
}

/// What a thread has done so far.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
}

pub(crate) fn run(args: &Args) -> Result<Done, String> {
    let (ctx, _canceller) = signal::interrupt(&Context::background());
    let (timed, timer) = ctx.with_cancel();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = if args.rps.is_some() { 1 } else { cores.min(args.concurrency) };
    let quota = Quota::new(args.n.unwrap_or(usize::MAX));
    let shares: Vec<_> = (0..threads)
        .map(|number| {
            let more = usize::from(number < args.concurrency % threads);
            let options = args.options.clone().concurrency(args.concurrency / threads + more);
            let results = send_shared(&timed, &quota, args.request.clone(), options);
            // Before anything is sent: an error after that would lose measurements.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
            Ok((runtime, results.map_err(|error| error.to_string())?))
        })
        .collect::<Result<_, String>>()?;

    let began = Instant::now();
    // Not before: setting up TLS takes time.
    let (limit, _limit) = match args.duration {
        Some(duration) => ctx.with_timeout(duration),
        None => ctx.with_cancel(),
    };
    limit.after_func(move || timer.cancel());
    let (sender, summaries) = mpsc::channel();
    let mut live = Vec::new();
    for (number, (runtime, results)) in shares.into_iter().enumerate() {
        let (sender, counts) = (sender.clone(), Arc::new(Live::default()));
        live.push(Arc::clone(&counts));
        std::thread::Builder::new()
            .name(format!("hit-{number}"))
            .spawn(move || send(runtime, results, &counts, &sender))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
    }
    drop(sender);

    let mut progress = Progress::new(args.n, args.duration, began, live);
    let (mut summary, mut missing) = (Summary::new(), threads);
    loop {
        match summaries.recv_timeout(Progress::EVERY) {
            Ok(part) => {
                summary.merge(&part);
                missing -= 1;
            }
            Err(RecvTimeoutError::Timeout) => progress.show(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let took = began.elapsed();
    progress.clear();
    let cause = ctx.cause();
    let interrupted = cause.as_ref().and_then(|cause| cause.downcast_ref::<signal::Interrupted>());
    let mut interrupted = interrupted.map(|signal| signal.exit_status());
    if missing > 0 {
        // What the others measured is printed, even if this cannot be.
        let _ = writeln!(
            io::stderr(),
            "hit: {missing} of {threads} threads panicked, and what they measured is missing"
        );
        interrupted = interrupted.or(Some(1));
    }
    Ok(Done { summary, took, interrupted })
}

fn send(runtime: Runtime, mut results: Results, live: &Live, sender: &Sender<Summary>) {
    let mut summary = Summary::new();
    runtime.block_on(async {
        let mut errors = 0;
        while let Some(hit) = results.next().await {
            summary.record(&hit);
            errors += u64::from(!hit.is_success());
            // Relaxed: they guard nothing.
            live.requests.store(summary.requests(), Ordering::Relaxed);
            live.errors.store(errors, Ordering::Relaxed);
        }
    });
    let _ = sender.send(summary);
    // Dropping it would wait for names that are being looked up.
    runtime.shutdown_background();
}
