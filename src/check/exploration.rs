//! Goes through the schedules of a body, and tells what is found.
//!
//! A violation is told once for each kind, task and line. To tell it, its schedule is run again
//! with a log and stack traces, which say what it shows; made as simple as possible while it shows
//! that; and run a few times more to see that it is the same each time. None of this costs anything
//! until something is found.
//!
//! # Invariants
//!
//! 1. The engine is in its place on this thread from `Session::begin` to the drop of the session,
//!    between schedules too. An engine that was there before, of a checker in whose body this one
//!    runs, is around it until then, and still gets what is meant for it.

use super::checker::USUAL;
use super::engine::{self, BODY, Engine, Limits, here};
use super::explorer::{self, Explorer};
use super::inject::Inject;
use super::label::{self, Labels};
use super::log::{Log, What};
use super::place::Place;
use super::pulse::{self, Pulse};
use super::quiet;
use super::report::{Covered, Early, Report};
use super::shrink::{Shown, shrink};
use super::story::Story;
use super::strategy::{Deviation, Length, Next, Replay, STRIKE, Strategy};
use super::subject::Subject;
use super::token::{ReplayError, Token};
use super::vacuous::{nowhere, of_the_whole};
use super::verdict::{Finding, Key, Rough};
use super::violation::{Violation, ViolationKind};
use crate::rt::{Clock, world};
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

/// How many more times a schedule that is told has come out the same.
const AGAIN: u32 = 8;

/// How many of the simpler schedules are traced, to see what they show.
const TRACED: u32 = 40;

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

/// Prepares the next schedule and returns whether it counts; `None` if there is none.
fn next(engine: &mut Engine) -> Option<bool> {
    match engine.strategy.next() {
        Next::Run { counts } => Some(counts),
        Next::Over => None,
    }
}

/// A body in its world.
struct Session<'a> {
    body: &'a dyn Subject,
    plan: &'a Plan,
    kind: Inject,
    label: u32,
    fingerprint: u32,
    pulse: Arc<Pulse>,
    _inside: (world::Inside, world::Looking, quiet::Quiet),
}

/// The outcome of one schedule.
struct Outcome {
    finding: Option<Box<Finding>>,
    taken: Vec<Deviation>,
    hash: u64,
    landed: bool,
    looked: bool,
    cut: bool,
    steps: u32,
    length: Length,
    /// Whether the strategy had expected something else.
    diverged: bool,
}

impl Outcome {
    /// The outcome of the schedule that has just been run.
    fn of(finding: Option<Box<Finding>>) -> Self {
        here(|engine| {
            let length = engine.length();
            engine.strategy.over(length);
            Outcome {
                finding,
                taken: std::mem::take(&mut engine.taken),
                hash: engine.hash,
                landed: engine.landed.is_some(),
                looked: engine.looked,
                cut: engine.cut,
                steps: engine.steps,
                length,
                diverged: engine.strategy.has_diverged(),
            }
        })
    }

    /// Prepares the next schedule, reusing the memory of `taken`. Returns what `next` does.
    fn then_next(self) -> Option<bool> {
        here(|engine| {
            engine.taken = self.taken;
            next(engine)
        })
    }

    fn key(&self) -> Option<Key> {
        self.finding.as_deref().map(Finding::key)
    }

    fn rough(&self) -> Option<Rough> {
        self.key().map(|key| key.rough)
    }

    /// How many deviations there were, apart from the injection.
    fn delays(&self) -> usize {
        self.taken.iter().filter(|one| one.value != STRIKE).count()
    }

    fn shown(&self) -> Shown {
        Shown { deviations: self.taken.clone(), steps: self.steps }
    }

    fn same_as(&self, other: &Outcome) -> bool {
        self.hash == other.hash && self.key() == other.key()
    }
}

/// These deviations did not lead to the same outcome each time.
struct Diverged(Vec<Deviation>);

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let root = here(|engine| engine.root.take());
        drop(engine::leave());
        // It is released without an end: nothing is left that an end would reach.
        if let Some(root) = root {
            root.detach();
        }
    }
}

impl<'a> Session<'a> {
    fn begin(
        plan: &'a Plan,
        kind: Inject,
        strategy: Box<dyn Strategy>,
        body: &'a dyn Subject,
        pulse: Arc<Pulse>,
    ) -> Self {
        let mut labels = Labels::default();
        pulse.forgets();
        let label = labels.of(0, "body".into(), plan.asked_at);
        let engine = Engine::new(kind, plan.limits, labels, strategy, Arc::clone(&pulse));
        let explorer = Arc::new(Explorer {
            began: Clock::system_now(),
            time: engine.clock.time(),
            engine: engine.number,
        });
        engine::enter(Box::new(engine));
        let inside = world::enter(Arc::clone(&explorer) as _);
        let looking = world::look_on(explorer);
        let quiet = quiet::keep_quiet();
        Session {
            body,
            plan,
            kind,
            label,
            fingerprint: 0,
            pulse,
            _inside: (inside, looking, quiet),
        }
    }

    /// Runs the schedule that the strategy has prepared.
    fn schedule(&self) -> Outcome {
        Outcome::of(explorer::schedule(self.body, self.label, self.plan.asked_at))
    }

    /// Whether a schedule has spawned tasks that this checker does not see: from then on nothing
    /// that is found means anything.
    fn has_strays(&self) -> bool {
        #[cfg(feature = "tokio")]
        return super::apart::has_tasks();
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Runs the schedule of these deviations; also returns whether all of them came up.
    fn replay(&self, deviations: &[Deviation]) -> (Outcome, bool) {
        let replay = Box::new(Replay::new(deviations.to_vec()));
        let before = here(|engine| std::mem::replace(&mut engine.strategy, replay));
        let outcome = self.schedule();
        let replay = here(|engine| std::mem::replace(&mut engine.strategy, before));
        (outcome, !replay.has_diverged())
    }

    /// `brief`: of the story, only the task to blame.
    fn replay_with_log(&self, deviations: &[Deviation], brief: bool) -> (Outcome, Log) {
        self.replay_into(if brief { Log::brief(None) } else { Log::default() }, deviations)
    }

    fn replay_into(&self, log: Log, deviations: &[Deviation]) -> (Outcome, Log) {
        let log = Box::new(log);
        here(|engine| engine.log = Some(log));
        let (outcome, _) = self.replay(deviations);
        let log = here(|engine| engine.log.take());
        (outcome, *log.expect("put there above"))
    }

    /// Runs the body twice without any deviation, for its fingerprint. The two runs must be the
    /// same.
    fn take_fingerprint(&mut self) -> Result<Outcome, Box<Violation>> {
        let (first, _) = self.replay(&[]);
        let (second, _) = self.replay(&[]);
        let name = label::hash(self.body.name());
        self.fingerprint = name ^ (first.hash >> 32) as u32 ^ first.hash as u32;
        if first.same_as(&second) { Ok(first) } else { Err(Box::new(self.diverged(&[]))) }
    }

    fn token(&self, deviations: &[Deviation]) -> String {
        let limits = self.plan.limits;
        Token::new(self.kind, self.fingerprint, limits, USUAL, deviations.to_vec()).to_string()
    }

    /// Runs these deviations for what they show, without the story.
    fn shows(
        &self,
        deviations: &[Deviation],
        only_in: Option<u32>,
    ) -> Option<(Outcome, Violation)> {
        let (outcome, log) = self.replay_into(Log::brief(only_in), deviations);
        let violation = self.violation(outcome.finding.as_ref()?, &outcome, log);
        Some((outcome, violation))
    }

    /// What this schedule has shown, without the story.
    fn shown_by(&self, outcome: &Outcome) -> Result<Violation, Diverged> {
        let turn = outcome.finding.as_ref().map(|finding| finding.last_turn);
        match self.shows(&outcome.taken, turn) {
            Some((again, violation)) if again.same_as(outcome) => Ok(violation),
            _ => Err(Diverged(outcome.taken.clone())),
        }
    }

    /// The full violation that this schedule has shown, by the simplest schedule that shows it.
    fn tell(&self, outcome: &Outcome, violation: &Violation) -> Result<Violation, Diverged> {
        let rough = outcome.rough();
        let mut traced = 0;
        let best = shrink(
            outcome.shown(),
            self.kind.is_any(),
            |candidate| {
                let (tried, _) = self.replay(candidate);
                (tried.rough() == rough).then(|| tried.shown())
            },
            |simpler| {
                traced += 1;
                let shown = if traced <= TRACED { self.shows(simpler, None) } else { None };
                shown.is_some_and(|(_, shown)| shown.is_same_as(violation))
            },
        );
        let (told, log) = self.replay_with_log(&best, false);
        match &told.finding {
            // Other threads have had time to wake a task: that says more.
            Some(finding) if finding.kind == ViolationKind::Nondeterministic => {
                Ok(self.violation(finding, &told, log))
            }
            Some(finding) if self.is_the_same_again(&best, &told) => {
                Ok(self.violation(finding, &told, log))
            }
            _ => Err(Diverged(best)),
        }
    }

    /// Whether these deviations lead to the same outcome again and again.
    fn is_the_same_again(&self, deviations: &[Deviation], outcome: &Outcome) -> bool {
        (0..AGAIN).all(|_| self.replay(deviations).0.same_as(outcome))
    }

    fn violation(&self, finding: &Finding, outcome: &Outcome, log: Log) -> Violation {
        let root = finding.task.and_then(|task| log.lanes.get(task as usize)).cloned();
        // The last one that was made keeps those above it alive.
        let context = log.contexts.last().map(|&at| Place::from(at));
        let leaked = finding.kind == ViolationKind::LeakedContext;
        let place = match finding.kind {
            ViolationKind::LeakedContext => context,
            ViolationKind::LeakedTask | ViolationKind::BlockedStage => {
                let lanes = || root.as_ref().and_then(|lane| lane.place.clone());
                finding.place.clone().or_else(lanes)
            }
            _ => finding.place.clone(),
        };
        let what = match &finding.message {
            Some(message) => Some(message.clone()),
            None => root.as_ref().and_then(|lane| lane.what.clone()),
        };
        let task = root.as_ref().map(|lane| lane.name.clone()).filter(|_| !leaked);
        let story = Story::new(headline(finding, task.as_deref()), self.kind, finding, log);
        let mut violation = Violation {
            kind: finding.kind,
            spawned_at: root.filter(|_| !leaked).map(|lane| lane.spawned_at),
            task,
            waiting_at: place,
            waiting_for: what,
            count: 1,
            replay: self.token(&outcome.taken),
            story: Box::new(story),
        };
        violation.note_missing_end(self.kind);
        violation
    }

    /// The same choices have led elsewhere: finds out where, if it happens again.
    fn diverged(&self, deviations: &[Deviation]) -> Violation {
        const TRIES: usize = 20;
        let (outcome, first) = self.replay_with_log(deviations, false);
        let mut difference = None;
        for _ in 0..TRIES {
            let (_, other) = self.replay_with_log(deviations, true);
            difference = first_difference(&first, &other);
            if difference.is_some() {
                break;
            }
        }
        let difference =
            difference.unwrap_or_else(|| format!("{TRIES} more runs of it were all the same"));
        let mut finding = Finding::new(ViolationKind::Nondeterministic);
        finding.message = Some(format!(
            "{difference}; the usual causes: a `select!` that is not `biased` (or goes by \
             `rt::choose`), the order of a HashMap, the system's clock, random numbers, threads, \
             state that outlives the body"
        ));
        self.violation(&finding, &outcome, first)
    }
}

fn headline(finding: &Finding, task: Option<&str>) -> String {
    let who = match task {
        // Another task may have that name too.
        Some(_) if finding.task == Some(BODY) => "the body".to_string(),
        Some(task) => format!("the task `{task}`"),
        None => "a task".to_string(),
    };
    match finding.kind {
        ViolationKind::LeakedTask if finding.busy => {
            let time = if finding.stands_still { " while time stands still" } else { "" };
            format!("{who} is busy{time}, and has not ended within its steps (`max_steps`)")
        }
        ViolationKind::LeakedTask => format!("{who} goes on after it was told to stop"),
        ViolationKind::BlockedStage => format!("{who} waits for something that will never come"),
        ViolationKind::Panicked => format!("{who} has panicked"),
        ViolationKind::LostItem => "an item was dropped before it was settled".to_string(),
        ViolationKind::LeakedContext => {
            "every task has ended, but a context or a timer is still alive".to_string()
        }
        ViolationKind::Nondeterministic => "the same choices led to another schedule".to_string(),
        ViolationKind::Vacuous => "this check has checked nothing".to_string(),
    }
}

/// What two runs of one schedule did differently.
fn first_difference(one: &Log, other: &Log) -> Option<String> {
    let name = |log: &Log, task: u32| match log.lanes.get(task as usize) {
        Some(lane) => lane.name.clone(),
        None => "the checker".to_string(),
    };
    let story = |log: &Log, at: usize| {
        let Some(note) = log.notes.get(at) else { return "it was over".to_string() };
        let finding = Finding::new(ViolationKind::Nondeterministic);
        let mut shown = Log::default();
        shown.lanes = log.lanes.clone();
        let story = Story::new(String::new(), Inject::None, &finding, shown);
        let line = story.line(note).unwrap_or_else(|| "goes on later".to_string());
        format!("`{}` {line}", name(log, note.task))
    };
    let longest = one.notes.len().max(other.notes.len());
    let differs = |at: &usize| {
        one.notes.get(*at) != other.notes.get(*at) || spawned_otherwise(one, other, *at).is_some()
    };
    let at = (0..longest).find(differs)?;
    if one.notes.get(at) == other.notes.get(at) {
        return spawned_otherwise(one, other, at);
    }
    Some(format!(
        "event {} differs: {} in one run, {} in another",
        at + 1,
        story(one, at),
        story(other, at)
    ))
}

/// How a task that both runs spawned there differs in its name or its line, which no note holds.
fn spawned_otherwise(one: &Log, other: &Log, at: usize) -> Option<String> {
    let What::Spawned { task } = one.notes.get(at)?.what else { return None };
    let lane = |log: &Log| log.lanes.get(task as usize).cloned();
    let (one, other) = (lane(one)?, lane(other)?);
    if one.name != other.name {
        return Some(format!(
            "the task spawned at {} was once called `{}`, and another time `{}`: a task is known \
             by its name from one schedule to the next, so what numbers the names must begin anew \
             with each run of the body",
            one.spawned_at, one.name, other.name
        ));
    }
    (one.spawned_at != other.spawned_at).then(|| {
        format!(
            "the task `{}` was spawned at {} once, and at {} another time",
            one.name, one.spawned_at, other.spawned_at
        )
    })
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
        // If something was found, something was checked.
        let asks = kinds.iter().any(|kind| kind.comes_at_a_look());
        let looked = looked || !asks || !findings.violations.is_empty();
        for violation in of_the_whole(&report, looked) {
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
        let (told, log) = session.replay_with_log(&token.deviations, false);
        let violation = match &told.finding {
            Some(finding) if told.same_as(&outcome) => session.violation(finding, &told, log),
            _ => session.diverged(&token.deviations),
        };
        findings.add_told(violation, &pulse);
    }
    here(|engine| report.merge(&engine.sometimes));
    drop(session);
    report.covered.push(Covered::of_a_token(token.kind, outcome.length.points));
    report.finish(findings.violations);
    report.took = Clock::system_now() - began;
    Ok(report)
}
