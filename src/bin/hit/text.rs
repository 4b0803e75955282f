//! The summary, for people.

use super::args::Args;
use super::run::Done;
use std::fmt::{self, Write};
use std::time::Duration;

const ROWS: usize = 10;
const WIDTH: usize = 40;
pub(crate) const PERCENTILES: [(f64, &str); 5] =
    [(50.0, "p50"), (90.0, "p90"), (95.0, "p95"), (99.0, "p99"), (99.9, "p99.9")];

pub(crate) fn of(args: &Args, done: &Done) -> String {
    let mut text = String::new();
    write_to(&mut text, args, done).expect("a string takes everything");
    text
}

fn write_to(text: &mut String, args: &Args, done: &Done) -> fmt::Result {
    let summary = &done.summary;
    if done.interrupted.is_some() {
        writeln!(text, "partial: interrupted before the end\n")?;
    }
    writeln!(text, "{} {}", args.request.method(), args.url)?;
    writeln!(text, "  requests   {:>12}", summary.requests())?;
    writeln!(text, "  success    {:>10.2} %", success(done))?;
    writeln!(text, "  duration   {:>12}", time(done.took))?;
    writeln!(text, "  rate       {:>10.1}/s", rate(done))?;
    writeln!(text, "  received   {:>12}", size(summary.bytes()))?;
    if summary.unfinished() > 0 {
        writeln!(text, "  unfinished {:>12}", summary.unfinished())?;
    }
    if summary.fastest().is_some() {
        writeln!(text, "\nlatency")?;
        let mut line = |name: &str, value: Option<Duration>| {
            writeln!(text, "  {name:<10} {:>12}", value.map(time).unwrap_or_default())
        };
        line("fastest", summary.fastest())?;
        line("mean", summary.mean())?;
        for (percent, name) in PERCENTILES {
            line(name, summary.percentile(percent))?;
        }
        line("slowest", summary.slowest())?;
        writeln!(text, "\nhistogram")?;
        let rows = summary.histogram(ROWS);
        let most = rows.iter().map(|row| row.2).max().unwrap_or(1).max(1);
        for (_, end, count) in rows {
            // Rounded up, so that every row that is not empty has a bar.
            let bar = (count * WIDTH as u64).div_ceil(most) as usize;
            let line = format!("  {:>10} {:<WIDTH$} {count}", time(end), "█".repeat(bar));
            writeln!(text, "{}", line.trim_end())?;
        }
    }
    if summary.statuses().next().is_some() {
        writeln!(text, "\nstatus")?;
        for (status, count) in summary.statuses() {
            writeln!(text, "  {status:<10} {count:>12}")?;
        }
    }
    if summary.errors().next().is_some() {
        writeln!(text, "\nerrors")?;
        for (error, count) in summary.errors() {
            writeln!(text, "  {:<10} {count:>12}  {error}", error.name())?;
        }
    }
    Ok(())
}

/// Successful requests, in per cent.
pub(crate) fn success(done: &Done) -> f64 {
    match done.summary.requests() {
        0 => 0.0,
        requests => done.summary.successes() as f64 * 100.0 / requests as f64,
    }
}

/// Requests per second.
pub(crate) fn rate(done: &Done) -> f64 {
    done.summary.requests() as f64 / done.took.as_secs_f64().max(1e-9)
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        1.0.. => format!("{seconds:.2} s"),
        1e-3.. => format!("{:.2} ms", seconds * 1e3),
        _ => format!("{:.1} µs", seconds * 1e6),
    }
}

fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            let digits = usize::from(unit != "B") * 2;
            return format!("{size:.digits$} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.2} TiB")
}
