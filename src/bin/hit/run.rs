//! Threads that send, and one that waits for them.
//!
//! Each thread has a runtime of its own, its part of the requests and of the
//! connections, and a summary, so that none waits for another. A rate is kept by
//! one thread: it cannot be divided.
//!
//! # Invariants
//!
//! 1. Every result that a thread reads is in its summary before it reads the next,
//!    and every summary arrives, however the run ends.
//! 2. The counts are for the progress line only. Each has one writer.

use super::args::Args;
use super::progress::Progress;
use quell::hit::{Results, Summary, send_n};
use quell::{Context, signal};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How it went.
pub(crate) struct Done {
    pub(crate) summary: Summary,
    pub(crate) took: Duration,
    /// The status to end with.
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
    let (timed, _timer) = match args.duration {
        Some(duration) => ctx.with_timeout(duration),
        None => ctx.with_cancel(),
    };
    let shares: Vec<_> = shares(args)
        .map(|(n, concurrency)| {
            let options = args.options.clone().concurrency(concurrency);
            send_n(&timed, n, args.request.clone(), options).map_err(|error| error.to_string())
        })
        .collect::<Result<_, _>>()?;

    let began = Instant::now();
    let (sender, summaries) = mpsc::channel();
    let mut live = Vec::new();
    for (number, results) in shares.into_iter().enumerate() {
        let (sender, counts) = (sender.clone(), Arc::new(Live::default()));
        live.push(Arc::clone(&counts));
        std::thread::Builder::new()
            .name(format!("hit-{number}"))
            .spawn(move || send(results, &counts, &sender))
            .map_err(|error| format!("there is no thread to send from: {error}"))?;
    }
    drop(sender);

    let mut progress = Progress::new(args.n, args.duration, began, live);
    let mut summary = Summary::new();
    loop {
        match summaries.recv_timeout(Progress::EVERY) {
            Ok(part) => summary.merge(&part),
            Err(RecvTimeoutError::Timeout) => progress.show(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let took = began.elapsed();
    progress.clear();
    let cause = ctx.cause();
    let interrupted = cause.as_ref().and_then(|cause| cause.downcast_ref::<signal::Interrupted>());
    Ok(Done { summary, took, interrupted: interrupted.map(|signal| signal.exit_status()) })
}

/// How many requests and connections each thread has.
fn shares(args: &Args) -> impl Iterator<Item = (usize, usize)> + use<> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (n, concurrency) = (args.n.unwrap_or(usize::MAX), args.concurrency);
    let threads = if args.rps.is_some() { 1 } else { cores.min(concurrency) };
    let part = move |of: usize, number: usize| of / threads + usize::from(number < of % threads);
    (0..threads).map(move |number| (part(n, number), part(concurrency, number)))
}

fn send(mut results: Results, live: &Live, sender: &Sender<Summary>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
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
    // Before the runtime is dropped, which waits for names that are being looked up.
    let _ = sender.send(summary);
    runtime.shutdown_background();
}
