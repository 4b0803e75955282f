//! Goes through the schedules of a body, and keeps what is found.
//!
//! A violation is told once for each kind, task and line, which costs nothing until something is
//! found.

use super::engine::{Limits, here};
use super::inject::Inject;
use super::pulse::{self, Pulse};
use super::report::{Covered, Early, Report};
use super::session::{Diverged, Outcome, Session, next};
use super::strategy::{Replay, Strategy};
use super::subject::Subject;
use super::token::{ReplayError, Token};
use super::vacuous::{nowhere, of_the_whole};
use super::verdict::{Key, Rough};
use super::violation::Violation;
use crate::rt::Clock;
use crate::sync::Arc;
use std::collections::HashMap;
use std::panic::Location;
use std::time::Duration;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) limits: Limits,
    pub(super) stop_at_first: bool,
    pub(super) must_be_complete: bool,
    pub(super) shard: (u64, u64),
    pub(super) patience: Duration,
    pub(super) asked_at: &'static Location<'static>,
    /// Whether there is only one schedule, which proves nothing about what never happens.
    pub(super) single: bool,
}

/// Each new key whose line takes a trace is traced until this many were aliases; then only some.
const MOST_ALIASES: u32 = 2_000;

/// Only what is new in kind, task or line is traced once the traced schedules have this many steps
/// together: each step may capture the stack.
const MOST_TRACED_STEPS: u64 = 200_000;

/// Whether the `nth` of many is worth a second look: all are at first, where most differ, then
/// fewer and fewer.
fn is_looked_at_twice(nth: u64) -> bool {
    nth <= 64 || nth.is_power_of_two() || nth % 512 == 0
}

/// What has been found so far.
#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
    /// Findings of this session whose violation is known. Their keys hold labels, which the next
    /// session numbers anew. This map and `latest` are only looked up in, never iterated.
    known: HashMap<Key, usize>,
    /// The latest of each kind, task and line.
    latest: HashMap<Rough, usize>,
    /// How many findings turned out to be a known violation.
    aliases: u32,
    /// How many findings had a line that takes a stack trace.
    unsure: u64,
    /// How many steps the schedules had that were traced for that.
    traced: u64,
}

impl Findings {
    fn add(&mut self, session: &Session<'_>, outcome: &Outcome) -> Result<(), Diverged> {
        let Some(key) = outcome.key() else { return Ok(()) };
        self.unsure += u64::from(!key.is_exact());
        if let Some(place) = self.place_of(&key) {
            self.violations[place].count += 1;
            return Ok(());
        }
        self.traced += u64::from(outcome.steps);
        let violation = session.shown_by(outcome)?;
        let place = match self.violations.iter().position(|known| known.is_same_as(&violation)) {
            Some(place) => {
                self.violations[place].count += 1;
                self.aliases += 1;
                place
            }
            None => {
                session.pulse.finds(Some(violation.to_string()));
                let told = session.tell(outcome, &violation);
                session.pulse.finds(None);
                self.add_told(told?, &session.pulse)
            }
        };
        self.latest.insert(key.rough.clone(), place);
        self.known.insert(key, place);
        Ok(())
    }

    /// The violation that a finding is, if that is known without another run.
    fn place_of(&self, key: &Key) -> Option<usize> {
        let known = self.known.get(key).copied();
        if key.is_exact() {
            return known;
        }
        // There is a limit to tracing.
        let latest = || self.latest.get(&key.rough).copied();
        if self.traced > MOST_TRACED_STEPS {
            return known.or_else(latest);
        }
        if is_looked_at_twice(self.unsure) {
            return None;
        }
        known.or_else(|| latest().filter(|_| self.aliases > MOST_ALIASES))
    }

    /// Adds a violation, or counts it with an equal one. Returns where that is.
    fn add_told(&mut self, violation: Violation, pulse: &Pulse) -> usize {
        if let Some(place) = self.violations.iter().position(|known| known.is_same_as(&violation)) {
            self.violations[place].count += violation.count;
            self.aliases += 1;
            return place;
        }
        pulse.found(violation.to_string());
        self.violations.push(violation);
        self.violations.len() - 1
    }
}

/// Goes through all the schedules that `strategy` makes for each injection.
pub(super) fn explore(
    plan: &Plan,
    kinds: &[Inject],
    strategy: &dyn Fn(Inject, u64) -> Box<dyn Strategy>,
    body: &dyn Subject,
) -> Report {
    let began = Clock::system_now();
    let pulse = Arc::new(Pulse::new());
    let _watch = pulse::watch(&pulse, plan.patience);
    let mut findings = Findings::default();
    let mut report = Report::new(plan);
    let mut looked = false;
    // What one part of several has not reached, another may.
    let whole = plan.shard.1 == 1 && !plan.single;
    for (nth, &kind) in kinds.iter().enumerate() {
        let strategy = strategy(kind, nth as u64);
        let mut session = Session::begin(plan, kind, strategy, body, Arc::clone(&pulse));
        findings.known.clear();
        findings.latest.clear();
        let mut covered = Covered::nothing(kind);
        let (mut seen, mut landed) = (false, false);
        match session.take_fingerprint() {
            _ if session.has_strays() => report.strays = true,
            Ok(outcome) => (seen, landed) = (outcome.looked, outcome.landed),
            Err(violation) => {
                covered.early = Some(Early::Unsteady);
                findings.add_told(*violation, &session.pulse);
            }
        }
        let (mut runs, mut deepest) = (0_u64, 0);
        let mut goes_on = if report.strays { None } else { here(next) };
        while let Some(counts) = goes_on {
            let outcome = session.schedule();
            if session.has_strays() {
                report.strays = true;
                break;
            }
            runs += 1;
            landed |= outcome.landed;
            seen |= outcome.looked;
            covered.points = covered.points.max(outcome.length.points);
            covered.cut |= outcome.cut;
            // With no more deviations than that there cannot be more delays.
            let delays = if outcome.taken.len() > deepest { outcome.delays() } else { 0 };
            let deeper = delays > deepest;
            deepest = deepest.max(delays);
            covered.schedules += u64::from(counts);
            let mut judged = if outcome.diverged {
                Err(Diverged(outcome.taken.clone()))
            } else if counts {
                findings.add(&session, &outcome)
            } else {
                Ok(())
            };
            if plan.stop_at_first && !findings.violations.is_empty() {
                covered.early.get_or_insert(Early::AtFirst);
                break;
            }
            if judged.is_ok() && (deeper || is_looked_at_twice(runs)) {
                let (again, _) = session.replay(&outcome.taken);
                if !again.same_as(&outcome) {
                    judged = Err(Diverged(outcome.taken.clone()));
                }
            }
            if !findings.violations.is_empty() {
                here(|engine| engine.strategy.has_found());
            }
            if let Err(Diverged(deviations)) = judged {
                covered.early = Some(Early::Unsteady);
                findings.add_told(session.diverged(&deviations), &session.pulse);
                break;
            }
            goes_on = outcome.then_next();
        }
        here(|engine| {
            covered.cut |= engine.strategy.was_cut();
            if covered.early.is_some() {
                engine.strategy.ends_early();
            }
            covered.how = engine.strategy.covered();
            covered.points = engine.strategy.points().unwrap_or(covered.points);
            covered.everywhere = engine.strategy.is_everywhere() && !covered.cut;
            report.merge(&engine.sometimes);
        });
        drop(session);
        // A look under an injection that ends no context says nothing.
        looked |= seen && kind.comes_at_a_look();
        if kind.is_any() && !landed && whole && covered.early.is_none() && !report.strays {
            findings.add_told(nowhere(&covered), &pulse);
        }
        report.covered.push(covered);
        if report.strays || (plan.stop_at_first && !findings.violations.is_empty()) {
            break;
        }
    }
    let whole = whole && !report.strays && !report.ended_early();
    if whole {
        for violation in of_the_whole(&report, looked || !findings.violations.is_empty()) {
            findings.add_told(violation, &pulse);
        }
    }
    report.finish(findings.violations);
    report.took = Clock::system_now() - began;
    report
}

/// Runs the schedule of a token.
pub(super) fn replay(
    plan: &Plan,
    token: &Token,
    body: &dyn Subject,
) -> Result<Report, ReplayError> {
    let began = Clock::system_now();
    let pulse = Arc::new(Pulse::new());
    let _watch = pulse::watch(&pulse, plan.patience);
    let idle = Box::new(Replay::new(Vec::new()));
    let mut session = Session::begin(plan, token.kind, idle, body, Arc::clone(&pulse));
    let mut findings = Findings::default();
    let base = session.take_fingerprint();
    let mut report = Report::new(plan);
    if session.has_strays() {
        report.strays = true;
        return Ok(report);
    }
    if session.fingerprint != token.fingerprint && base.is_ok() {
        return Err(ReplayError::Body);
    }
    let (outcome, all_came_up) = session.replay(&token.deviations);
    report.strays = session.has_strays();
    if report.strays {
        return Ok(report);
    }
    if base.is_err() {
        findings.add_told(session.diverged(&token.deviations), &pulse);
    } else if !all_came_up {
        return Err(ReplayError::Diverged);
    } else if !session.is_the_same_again(&token.deviations, &outcome) {
        findings.add_told(session.diverged(&token.deviations), &pulse);
    } else if outcome.finding.is_some() {
        findings.add_told(session.tell_as_it_is(&token.deviations, &outcome), &pulse);
    }
    here(|engine| report.merge(&engine.sometimes));
    drop(session);
    report.covered.push(Covered::of_a_token(token.kind, outcome.length.points));
    report.finish(findings.violations);
    report.took = Clock::system_now() - began;
    Ok(report)
}
