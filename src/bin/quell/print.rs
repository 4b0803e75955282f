//! Output for people and programs.

use super::scenarios::{Expectation, Scenario};
use quell::check::{Report, Violation, ViolationKind};
use std::fmt;
use std::io::{self, ErrorKind, Write as _};

macro_rules! say {
    ($($text:tt)*) => {
        must(writeln!(io::stdout(), $($text)*))
    };
}

/// Ends the program if its output is lost, unless the reader has gone, which is no error of ours.
pub(crate) fn must(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(format_args!("could not write the output: {error}"));
            std::process::exit(2);
        }
        _ => {}
    }
}

/// Says what is wrong. If that cannot be printed either, the exit status still says so.
pub(crate) fn complain(complaint: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "quell: {complaint}");
}

pub(crate) fn list(scenarios: &[Scenario]) {
    for scenario in scenarios {
        let expects = match scenario.expect {
            Expectation::Clean => "clean",
            Expectation::Finds(_) => "finds",
        };
        say!("{:<20} {expects:<6} {}", scenario.name, scenario.about);
    }
}

pub(crate) fn head() {
    say!(
        "{:<20} {:<10} {:>9} {:>7} {:>8}  verdict",
        "scenario",
        "strategy",
        "schedules",
        "points",
        "time"
    );
}

pub(crate) fn row(scenario: &Scenario, strategy: &str, report: &Report, well: bool) {
    let took = format!("{:.2}s", report.took().as_secs_f64());
    say!(
        "{:<20} {strategy:<10} {:>9} {:>7} {took:>8}  {}",
        scenario.name,
        report.schedules(),
        report.points(),
        verdict(scenario, report, well)
    );
}

fn verdict(scenario: &Scenario, report: &Report, well: bool) -> String {
    // No expected bug is a violation that is for want of schedules.
    let is_told = |found: &&Violation| !well || found.kind() != ViolationKind::Vacuous;
    let found: Vec<_> = report
        .violations()
        .iter()
        .filter(is_told)
        .map(|found| match found.task() {
            Some(task) => format!("{} of `{task}`", found.kind()),
            None => found.kind().to_string(),
        })
        .take(3)
        .collect();
    match (well, found.is_empty(), scenario.expect) {
        (true, true, _) if report.schedules() == 0 => "nothing, in this part".to_string(),
        (true, true, Expectation::Finds(_)) => "clean, in this part".to_string(),
        (true, true, Expectation::Clean) if report.complete() => "clean".to_string(),
        (true, true, Expectation::Clean) => "clean, cut short".to_string(),
        (true, false, _) => format!("found, as it should be: {}", found.join(", ")),
        (false, true, Expectation::Finds(_)) => "NOT FOUND, though the bug is there".to_string(),
        (false, true, Expectation::Clean) => "NOT COMPLETE".to_string(),
        (false, false, _) => format!("VIOLATION: {}", found.join(", ")),
    }
}

/// Prints the story of one violation: one that should not be, else one that should.
pub(crate) fn foot(shown: Option<(&Scenario, &Report, bool)>, all_well: bool) {
    let Some((scenario, report, well)) = shown else { return };
    if well {
        say!("\nAn example of a violation, from `{}` ({}):\n", scenario.name, scenario.about);
    } else {
        say!("\n`{}`:\n", scenario.name);
    }
    // The one met most often is the one to know.
    match report.violations().iter().max_by_key(|violation| violation.count()) {
        Some(violation) => {
            say!("{violation}");
            // What no schedule shows has no token.
            if !violation.replay().is_empty() {
                say!("See it again: quell check {} --replay {}", scenario.name, violation.replay());
            }
        }
        None => {
            say!("{report}");
        }
    }
    if all_well {
        say!("\nAll is as it should be.");
    }
}

pub(crate) fn replayed(scenario: &Scenario, report: &Report) {
    say!("{}: {report}", scenario.name);
}

/// Joins the pages of several reports, each with its scenario and whether it is clean: the head of
/// the first, with a title for all, then the body of each, scenario by scenario.
pub(crate) fn one_page(pages: &[(&str, bool, String)]) -> String {
    const BODY: (&str, &str) = ("<body>\n", "</body>");
    const TITLE: (&str, &str) = ("<title>", "</title>");
    let mut whole = String::new();
    for (name, _, page) in pages {
        let (head, rest) = page.split_once(BODY.0).unwrap_or(("", page));
        let (inside, _) = rest.split_once(BODY.1).unwrap_or((rest, ""));
        if whole.is_empty() {
            whole = format!("{head}{}", BODY.0);
            if let [_, _, ..] = pages {
                let clean = pages.iter().filter(|(_, is_clean, _)| *is_clean).count();
                let (before, rest) = whole.split_once(TITLE.0).unwrap_or((&whole, ""));
                let (_, after) = rest.split_once(TITLE.1).unwrap_or(("", rest));
                let title = format!("quell: {clean} of {} scenarios clean", pages.len());
                whole = format!("{before}{}{title}{}{after}", TITLE.0, TITLE.1);
            }
        }
        whole.push_str(&inside.replacen("<h1>", &format!("<h1><code>{name}</code>: "), 1));
    }
    whole + BODY.1 + "</html>\n"
}

pub(crate) fn json(
    scenario: &Scenario,
    strategy: &str,
    (part, of): (u64, u64),
    report: &Report,
    well: bool,
) {
    let violations: Vec<_> = report
        .violations()
        .iter()
        .map(|found| {
            let place = |place: Option<&quell::check::Place>| {
                place.map_or("null".to_string(), |place| quoted(&place.to_string()))
            };
            format!(
                "{{\"kind\":{},\"task\":{},\"spawned_at\":{},\"waiting_at\":{},\"waiting_for\":{},\
                 \"count\":{},\"replay\":{}}}",
                quoted(&found.kind().to_string()),
                found.task().map_or("null".to_string(), quoted),
                place(found.spawned_at()),
                place(found.waiting_at()),
                found.waiting_for().map_or("null".to_string(), quoted),
                found.count(),
                quoted(found.replay()),
            )
        })
        .collect();
    say!(
        "{{\"scenario\":{},\"strategy\":{},\"shard\":\"{part}/{of}\",\"as_expected\":{well},\"clean\":{},\"complete\":{},\"schedules\":{},\
         \"points\":{},\"seconds\":{:.3},\"violations\":[{}]}}",
        quoted(scenario.name),
        quoted(strategy),
        if report.schedules() == 0 { "null".to_string() } else { report.is_clean().to_string() },
        report.complete(),
        report.schedules(),
        report.points(),
        report.took().as_secs_f64(),
        violations.join(",")
    );
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Only called on a terminal.
pub(crate) fn progress(done: usize, of: usize, name: &str) {
    const WIDTH: usize = 24;
    let full = done * WIDTH / of;
    let bar: String = (0..WIDTH).map(|at| if at < full { '#' } else { '.' }).collect();
    let _ = write!(io::stderr(), "\r\x1b[2K[{bar}] {done}/{of} {name}");
}

pub(crate) fn clear() {
    let _ = write!(io::stderr(), "\r\x1b[2K");
}
