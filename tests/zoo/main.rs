//! Small broken bodies, one bug each, and beside each its repaired twin.
//!
//! The checker must find a bug with nothing but its injection configured: as the
//! right kind of violation, of the right task, at the line that bears its mark
//! (`// <- name`). Its twin must be clean under every schedule within two delays.
//!
//! `cargo test --release --features check --test zoo table -- --ignored --nocapture`
//! prints the table in docs/checker.md.
#![cfg(all(not(loom), feature = "check"))]
#![allow(missing_docs, missing_debug_implementations, unreachable_pub)]

mod channels;
mod locks;
mod tasks;
mod times;

use quell::check::{Checker, Inject, Report, ViolationKind};
use std::time::{Duration, Instant};

/// A bug and its repair.
pub struct Animal {
    pub name: &'static str,
    pub kind: ViolationKind,
    pub task: Option<&'static str>,
    pub inject: Inject,
    pub broken: fn(&Checker) -> Report,
    pub repaired: fn(&Checker) -> Report,
    pub source: &'static str,
}

/// `animal!(name, kind, task, injection)`: the functions `name` and `name_repaired`.
macro_rules! animal {
    ($name:ident, $repaired:ident, $kind:ident, $task:expr, $inject:ident) => {
        $crate::Animal {
            name: stringify!($name),
            kind: quell::check::ViolationKind::$kind,
            task: $task,
            inject: quell::check::Inject::$inject,
            broken: |checker| checker.run($name),
            repaired: |checker| checker.run($repaired),
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", file!())),
        }
    };
}
pub(crate) use animal;

fn all() -> Vec<Animal> {
    [channels::all(), locks::all(), tasks::all(), times::all()].into_iter().flatten().collect()
}

impl Animal {
    /// The line that bears the mark, if there is one.
    fn line(&self) -> Option<u32> {
        let mark = format!("// <- {}", self.name);
        let at = self.source.lines().position(|line| line.trim_end().ends_with(&mark));
        at.map(|at| at as u32 + 1)
    }

    /// What is wrong with the report, if anything.
    fn complaint(&self, report: &Report) -> Option<String> {
        let right = |violation: &&quell::check::Violation| {
            violation.kind() == self.kind
                && violation.task() == self.task
                && violation.waiting_at().map(quell::check::Place::line) == self.line()
        };
        if report.violations().iter().filter(right).count() == 1 && report.violations().len() == 1 {
            return None;
        }
        let found = report.violations().iter();
        let found: Vec<_> =
            found.map(|v| (v.kind(), v.task(), v.waiting_at().map(ToString::to_string))).collect();
        let wanted = format!("{} of {:?} at line {:?}", self.kind, self.task, self.line());
        Some(format!("{}: wanted {wanted}, found {found:#?}", self.name))
    }
}

#[test]
fn every_bug_is_found_and_named_by_the_usual_checker_within_two_seconds() {
    let mut complaints = Vec::new();
    for animal in all() {
        let report = (animal.broken)(&Checker::new().inject(animal.inject));
        complaints.extend(animal.complaint(&report));
        let began = Instant::now();
        let first = (animal.broken)(&Checker::new().inject(animal.inject).stop_at_first());
        if first.is_clean() || began.elapsed() > Duration::from_secs(2) {
            complaints.push(format!("{}: {:?} for the first", animal.name, began.elapsed()));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_repaired_twin_is_clean() {
    let mut complaints = Vec::new();
    for animal in all() {
        let report = (animal.repaired)(&Checker::new().inject(animal.inject));
        if !report.is_clean() {
            complaints.push(format!("{}: {report}", animal.name));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_bug_replays_from_its_token() {
    for animal in all().iter().filter(|animal| animal.kind != ViolationKind::Nondeterministic) {
        let found = (animal.broken)(&Checker::new().inject(animal.inject));
        for violation in found.violations() {
            let again = (animal.broken)(&Checker::replay(violation.replay()));
            assert_eq!(again.violations().len(), 1, "{}: {again}", animal.name);
            let same = &again.violations()[0];
            assert_eq!(same.kind(), violation.kind(), "{}", animal.name);
            assert_eq!(same.task(), violation.task(), "{}", animal.name);
            assert_eq!(same.waiting_at(), violation.waiting_at(), "{}", animal.name);
            assert_eq!(same.replay(), violation.replay(), "{}", animal.name);
        }
    }
}

#[test]
fn there_are_enough_of_them_and_each_has_a_name_of_its_own() {
    let mut names: Vec<_> = all().iter().map(|animal| animal.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all().len());
    assert!(names.len() >= 25, "{}", names.len());
}

/// Which strategy finds which bug, and after how many schedules.
#[test]
#[ignore = "prints a table"]
fn table() {
    println!("| bug | violation | exhaustive | random | pct |\n|---|---|---|---|---|");
    for animal in all() {
        let found = |checker: Checker| {
            let report = (animal.broken)(&checker.inject(animal.inject).stop_at_first());
            match report.schedules() {
                _ if report.is_clean() => "–".to_string(),
                // By chance this is the first schedule that counts, or one that only measures.
                0 | 1 if animal.kind == ViolationKind::Nondeterministic => "at once".to_string(),
                schedules => schedules.to_string(),
            }
        };
        println!(
            "| {} | {} | {} | {} | {} |",
            animal.name.replace('_', " "),
            animal.kind,
            found(Checker::exhaustive()),
            found(Checker::random(1, 10_000)),
            found(Checker::pct(1, 3, 10_000)),
        );
    }
}
