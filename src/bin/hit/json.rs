//! The summary, for programs: `docs/hit.md` has the schema.

use super::args::Args;
use super::run::Done;
use super::text::{PERCENTILES, rate, success};
use std::fmt::Write;
use std::time::Duration;

const ROWS: usize = 10;

pub(crate) fn of(args: &Args, done: &Done) -> String {
    let summary = &done.summary;
    let mut latency = vec![
        ("fastest".to_string(), seconds(summary.fastest())),
        ("mean".into(), seconds(summary.mean())),
    ];
    latency.extend(
        PERCENTILES
            .map(|(percent, name)| (name.replace('.', "_"), seconds(summary.percentile(percent)))),
    );
    latency.push(("slowest".into(), seconds(summary.slowest())));
    let statuses =
        summary.statuses().map(|(status, count)| (status.to_string(), count.to_string()));
    let errors = summary.errors().map(|(error, count)| (error.name().into(), count.to_string()));
    let rows = summary.histogram(ROWS).into_iter().map(|(from, to, count)| {
        let row = [("from", seconds(Some(from))), ("to", seconds(Some(to)))];
        let row = row.into_iter().chain([("count", count.to_string())]);
        object(row.map(|(name, value)| (name.into(), value)))
    });
    let rows: Vec<_> = rows.collect();
    let fields = [
        ("schema", "1".into()),
        ("partial", done.interrupted.is_some().to_string()),
        ("url", string(&args.url)),
        ("method", string(args.request.method().as_str())),
        ("concurrency", args.concurrency.to_string()),
        ("requests", summary.requests().to_string()),
        ("successes", summary.successes().to_string()),
        ("success_percent", number(success(done))),
        ("unfinished", summary.unfinished().to_string()),
        ("bytes", summary.bytes().to_string()),
        ("duration", seconds(Some(done.took))),
        ("requests_per_second", number(rate(done))),
        ("latency", object(latency)),
        ("statuses", object(statuses)),
        ("errors", object(errors)),
        ("histogram", format!("[{}]", rows.join(","))),
    ];
    object(fields.map(|(name, value)| (name.into(), value))) + "\n"
}

fn object(fields: impl IntoIterator<Item = (String, String)>) -> String {
    let fields = fields.into_iter().map(|(name, value)| format!("{}:{value}", string(&name)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn seconds(time: Option<Duration>) -> String {
    match time {
        None => "null".into(),
        Some(time) => format!("{}.{:09}", time.as_secs(), time.subsec_nanos()),
    }
}

fn number(number: f64) -> String {
    format!("{number:.3}")
}
