//! A body in its world: runs its schedules one by one, and tells what one of them has shown.
//!
//! To tell a violation, its schedule is run again with a log and stack traces, which say what it
//! shows; made as simple as possible while it shows that; and run a few times more to see that it
//! is the same each time.
//!
//! # Invariants
//!
//! 1. The engine is in its place on this thread from `Session::begin` to the drop of the session,
//!    between schedules too. An engine that was there before, of a checker in whose body this one
//!    runs, is around it until then, and still gets what is meant for it.

use super::engine::{self, BODY, Engine, here};
use super::exploration::Plan;
use super::explorer::{self, Explorer};
use super::inject::Inject;
use super::label::{self, Labels};
use super::log::{Log, What};
use super::place::Place;
use super::pulse::Pulse;
use super::quiet;
use super::shrink::{Shown, shrink};
use super::story::Story;
use super::strategy::{Deviation, Length, Next, Replay, STRIKE, Strategy};
use super::subject::Subject;
use super::token::Token;
use super::verdict::{Finding, Key, Rough};
use super::violation::{Violation, ViolationKind};
use crate::rt::{Clock, world};
use crate::sync::Arc;

/// How many more times a schedule that is told has come out the same.
const AGAIN: u32 = 8;

/// How many of the simpler schedules are traced, to see what they show.
const TRACED: u32 = 40;

/// Prepares the next schedule and returns whether it counts; `None` if there is none.
pub(super) fn next(engine: &mut Engine) -> Option<bool> {
    match engine.strategy.next() {
        Next::Run { counts } => Some(counts),
        Next::Over => None,
    }
}

/// A body in its world.
pub(super) struct Session<'a> {
    body: &'a dyn Subject,
    plan: &'a Plan,
    kind: Inject,
    label: u32,
    pub(super) fingerprint: u32,
    pub(super) pulse: Arc<Pulse>,
    _inside: (world::Inside, world::Looking, quiet::Quiet),
}

/// The outcome of one schedule.
pub(super) struct Outcome {
    pub(super) finding: Option<Box<Finding>>,
    pub(super) taken: Vec<Deviation>,
    hash: u64,
    pub(super) landed: bool,
    pub(super) looked: bool,
    pub(super) cut: bool,
    pub(super) steps: u32,
    pub(super) length: Length,
    /// Whether the strategy had expected something else.
    pub(super) diverged: bool,
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
    pub(super) fn then_next(self) -> Option<bool> {
        here(|engine| {
            engine.taken = self.taken;
            next(engine)
        })
    }

    pub(super) fn key(&self) -> Option<Key> {
        self.finding.as_deref().map(Finding::key)
    }

    fn rough(&self) -> Option<Rough> {
        self.key().map(|key| key.rough)
    }

    /// How many deviations there were, apart from the injection.
    pub(super) fn delays(&self) -> usize {
        self.taken.iter().filter(|one| one.value != STRIKE).count()
    }

    fn shown(&self) -> Shown {
        Shown { deviations: self.taken.clone(), steps: self.steps }
    }

    pub(super) fn same_as(&self, other: &Outcome) -> bool {
        self.hash == other.hash && self.key() == other.key()
    }
}

/// These deviations did not lead to the same outcome each time.
pub(super) struct Diverged(pub(super) Vec<Deviation>);

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
    pub(super) fn begin(
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
    pub(super) fn schedule(&self) -> Outcome {
        Outcome::of(explorer::schedule(self.body, self.label, self.plan.asked_at))
    }

    /// Whether a schedule has spawned tasks that this checker does not see: from then on nothing
    /// that is found means anything.
    pub(super) fn has_strays(&self) -> bool {
        #[cfg(feature = "tokio")]
        return super::apart::has_tasks();
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Runs the schedule of these deviations; also returns whether all of them came up.
    pub(super) fn replay(&self, deviations: &[Deviation]) -> (Outcome, bool) {
        let replay = Box::new(Replay::new(deviations.to_vec()));
        let before = here(|engine| std::mem::replace(&mut engine.strategy, replay));
        let outcome = self.schedule();
        let replay = here(|engine| std::mem::replace(&mut engine.strategy, before));
        (outcome, !replay.has_diverged())
    }

    /// The same, with what happens noted in `log`.
    fn replay_into(&self, log: Log, deviations: &[Deviation]) -> (Outcome, Log) {
        let log = Box::new(log);
        here(|engine| engine.log = Some(log));
        let (outcome, _) = self.replay(deviations);
        let log = here(|engine| engine.log.take());
        (outcome, *log.expect("put there above"))
    }

    /// Runs the body twice without any deviation, for its fingerprint. The two runs must be the
    /// same.
    pub(super) fn take_fingerprint(&mut self) -> Result<Outcome, Box<Violation>> {
        let (first, _) = self.replay(&[]);
        let (second, _) = self.replay(&[]);
        let name = label::hash(self.body.name());
        self.fingerprint = name ^ (first.hash >> 32) as u32 ^ first.hash as u32;
        if first.same_as(&second) { Ok(first) } else { Err(Box::new(self.diverged(&[]))) }
    }

    fn token(&self, deviations: &[Deviation]) -> String {
        let limits = self.plan.limits;
        Token::new(self.kind, self.fingerprint, limits, deviations.to_vec()).to_string()
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
    pub(super) fn shown_by(&self, outcome: &Outcome) -> Result<Violation, Diverged> {
        let turn = outcome.finding.as_ref().map(|finding| finding.last_turn);
        match self.shows(&outcome.taken, turn) {
            Some((again, violation)) if again.same_as(outcome) => Ok(violation),
            _ => Err(Diverged(outcome.taken.clone())),
        }
    }

    /// The full violation that this schedule has shown, by the simplest schedule that shows it.
    pub(super) fn tell(
        &self,
        outcome: &Outcome,
        violation: &Violation,
    ) -> Result<Violation, Diverged> {
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
        let (told, log) = self.replay_into(Log::default(), &best);
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

    /// The full violation that this schedule has shown, by no other schedule.
    pub(super) fn tell_as_it_is(&self, deviations: &[Deviation], outcome: &Outcome) -> Violation {
        let (told, log) = self.replay_into(Log::default(), deviations);
        match &told.finding {
            Some(finding) if told.same_as(outcome) => self.violation(finding, &told, log),
            _ => self.diverged(deviations),
        }
    }

    /// Whether these deviations lead to the same outcome again and again.
    pub(super) fn is_the_same_again(&self, deviations: &[Deviation], outcome: &Outcome) -> bool {
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
        let body_ended = log.lanes.first().is_none_or(|body| body.ended);
        let goes_on = finding.kind == ViolationKind::LeakedTask
            && (finding.busy && !finding.stands_still)
            && (outcome.looked && !body_ended);
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
        violation.note_missing_end(self.kind, goes_on);
        violation
    }

    /// The same choices have led elsewhere: finds out where, if it happens again.
    pub(super) fn diverged(&self, deviations: &[Deviation]) -> Violation {
        const TRIES: usize = 20;
        let (outcome, first) = self.replay_into(Log::default(), deviations);
        let mut difference = None;
        for _ in 0..TRIES {
            let (_, other) = self.replay_into(Log::brief(None), deviations);
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
