//! Judges a schedule that is over.
//!
//! Everything that was alive when the injection came has had its time to stop. A task that has not
//! ended by then is *leaked* if it could still run (it is busy, or a timer that it waits for is
//! pending) and *blocked* if nothing will ever wake it. A task is busy if it keeps waking itself;
//! or, if none does, if it is ready.
//!
//! A schedule shows one violation, that of its root. A task that waits for the end of another that
//! is still alive is not to blame. Of the others a busy one comes first, then a leaked one, then a
//! blocked one; a task before the body; a task that does not wait for all tasks of a group before
//! one that does; and the first spawned before the rest. If all wait for one another, it is the
//! first of a ring.
//!
//! Where nothing cancels, a body that waits for the end of a context goes on for ever, and so may all
//! that is to end with it, be it a heart that beats. Then the wait for that end is the root, unless a
//! task keeps itself awake, or no time passes.

use super::engine::{BODY, Engine, JOIN, State, Task, Trouble};
use super::label;
use super::log::rank;
use super::place::Place;
use super::violation::ViolationKind;
use std::panic::Location;

/// What is told of a context that is left.
pub(super) const CONTEXT_LEFT: &str = "it is still alive, and nothing is left that could use it";
/// What is told of a timer that is left.
pub(super) const TIMER_LEFT: &str =
    "a timer is still pending, and nothing is left that waits for it";

/// How a schedule came to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// All tasks have ended.
    Quiet,
    /// Nothing can go on, or nothing may any more.
    Stuck,
    /// There is no end to it.
    Busy,
}

/// A violation, before it is told.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) kind: ViolationKind,
    /// The number of the task in its schedule.
    pub(super) task: Option<u32>,
    pub(super) label: Option<u32>,
    /// Where it waits, as far as that is known without a stack trace.
    pub(super) at: Option<&'static Location<'static>>,
    /// Where it went wrong, instead.
    pub(super) place: Option<Place>,
    pub(super) message: Option<String>,
    /// If the line is not sure: what tells the finding from others of its kind and task. Zero if
    /// the line is sure.
    pub(super) saw: u64,
    /// The step at which the task had its last turn.
    pub(super) last_turn: u32,
    pub(super) busy: bool,
    /// Whether time has not moved since the injection.
    pub(super) stands_still: bool,
}

/// What makes two findings the same, as far as that is known before they are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) rough: Rough,
    saw: u64,
}

/// Kind, task, line, and the message where there is no line.
pub(super) type Rough = (ViolationKind, Option<u32>, Option<(u32, u32, u32)>, Option<String>);

impl Key {
    /// Whether two findings with this key are the same for certain, wherever a stack trace leads.
    pub(super) fn is_exact(&self) -> bool {
        self.saw == 0
    }
}

impl Finding {
    pub(super) fn new(kind: ViolationKind) -> Self {
        Finding {
            kind,
            task: None,
            label: None,
            at: None,
            place: None,
            message: None,
            saw: 0,
            last_turn: 0,
            busy: false,
            stands_still: false,
        }
    }

    fn of(mut self, engine: &Engine, task: u32) -> Self {
        if let Some(known) = engine.tasks.get(task as usize) {
            self.task = Some(task);
            self.label = Some(known.label);
            self.last_turn = known.last_turn;
        }
        self
    }

    pub(super) fn key(&self) -> Key {
        let line = match (self.at, &self.place) {
            (Some(at), _) => Some((label::hash(at.file()), at.line(), at.column())),
            (None, Some(place)) => Some((label::hash(place.file()), place.line(), 0)),
            (None, None) => None,
        };
        let message = if line.is_none() { self.message.clone() } else { None };
        Key { rough: (self.kind, self.label, line, message), saw: self.saw }
    }
}

pub(super) fn judge(engine: &Engine, end: End) -> Option<Finding> {
    if let Some(trouble) = &engine.trouble {
        return Some(of_trouble(engine, trouble));
    }
    if end != End::Quiet {
        return Some(of_live_tasks(engine, end));
    }
    if let Some(lost) = &engine.lost {
        return Some(of_trouble(engine, lost));
    }
    if engine.contexts > 0 || !engine.clock.is_empty() {
        let mut finding = Finding::new(ViolationKind::LeakedContext);
        finding.message = Some(if engine.contexts > 0 {
            CONTEXT_LEFT.to_string()
        } else {
            TIMER_LEFT.to_string()
        });
        finding.saw = engine.made_at | 1;
        return Some(finding);
    }
    None
}

fn of_trouble(engine: &Engine, trouble: &Trouble) -> Finding {
    match trouble {
        Trouble::Panicked { task, message, place } => {
            let mut finding = Finding::new(ViolationKind::Panicked).of(engine, *task);
            (finding.message, finding.place) = (Some(message.clone()), place.clone());
            finding
        }
        Trouble::Lost { task, what, made_at } => {
            let mut finding = Finding::new(ViolationKind::LostItem).of(engine, *task);
            finding.message = Some(what.clone());
            finding.place = Some((*made_at).into());
            finding
        }
        Trouble::Spins { task, at } => {
            let mut finding = Finding::new(ViolationKind::LeakedTask).of(engine, *task);
            finding.place = at.map(Place::from);
            finding.message = Some(
                match at {
                    Some(_) => {
                        "a time that has already come, again and again, and never lets others run"
                    }
                    None => "it looks at its context again and again, and never lets others run",
                }
                .to_string(),
            );
            (finding.busy, finding.stands_still) = (true, true);
            finding
        }
        Trouble::Threads { task } => {
            let mut finding = Finding::new(ViolationKind::Nondeterministic).of(engine, *task);
            finding.message = Some(
                "it was woken or aborted by another OS thread, whose timing a checker cannot control; \
                 make what that thread does a task"
                    .to_string(),
            );
            finding
        }
    }
}

fn of_live_tasks(engine: &Engine, end: End) -> Finding {
    let alive: Vec<u32> = (0..engine.tasks.len() as u32)
        .filter(|&task| engine.tasks[task as usize].state != State::Ended)
        .collect();
    let mut addresses: Vec<(usize, u32)> =
        alive.iter().map(|&task| (engine.tasks[task as usize].address, task)).collect();
    addresses.sort_unstable();
    let joined = |task: u32| {
        let wait = engine.tasks[task as usize].wait?;
        let is_join = wait.what == JOIN && wait.of != 0;
        let found = addresses.binary_search_by_key(&wait.of, |&(address, _)| address).ok()?;
        is_join.then(|| addresses[found].1)
    };
    let again = |task: u32| engine.tasks[task as usize].again;
    let most = alive.iter().map(|&task| again(task)).max().unwrap_or(0);
    // A task that keeps itself awake keeps others awake, which are then in line too. One that does
    // so half as often is no less to blame: chance gave another more turns.
    let keeps_awake = most > engine.limits.steps / 100;
    let busy = |task: u32| {
        let queued = engine.tasks[task as usize].state == State::Queued;
        end == End::Busy && if keeps_awake { again(task) > most / 2 } else { queued }
    };
    let owners = engine.clock.owners();
    let leaked = |task: u32| busy(task) || owners.contains(&task);
    let waits_for_all =
        |task: u32| engine.tasks[task as usize].wait.is_some_and(|wait| wait.is_for_all_tasks());
    // One that had a turn of late waits for something else as well, which comes.
    let for_an_end = |known: &Task| {
        let waits = known.wait.is_some_and(|wait| rank(&wait) == 0);
        waits && known.state == State::Idle && known.last_turn < engine.steps / 2
    };
    let stands_still = engine.clock.now() == engine.landed.map_or(0, |landed| landed.time);
    let goes_on = end == End::Busy && !keeps_awake && !stands_still && !engine.body_ended;
    let uncancelled = (goes_on && !engine.kind.comes_by_itself())
        .then(|| alive.iter().fold(BODY, |task, _| joined(task).unwrap_or(task)))
        .filter(|&task| for_an_end(&engine.tasks[task as usize]) && !leaked(task));
    let root = || {
        let roots = alive.iter().copied().filter(|&task| joined(task).is_none());
        let rank = |task| (!busy(task), !leaked(task), task == BODY, waits_for_all(task), task);
        roots.min_by_key(|&task| rank(task)).unwrap_or_else(|| first_of_a_ring(&alive, joined))
    };
    let root = uncancelled.unwrap_or_else(root);
    let kind = if leaked(root) { ViolationKind::LeakedTask } else { ViolationKind::BlockedStage };
    let mut finding = Finding::new(kind).of(engine, root);
    let task = &engine.tasks[root as usize];
    let wait = task.wait.filter(|wait| wait.what != JOIN);
    finding.at = wait.map(|wait| wait.at);
    // Beside a time and the end of a context, it may wait for a future that is not quell's, which
    // says more and whose line takes a stack trace. Which one that is may depend on what other
    // tasks told it, and so on what they saw.
    let sure = wait.is_some_and(|wait| rank(&wait) == 2) && !task.waits_twice;
    finding.saw = if sure { 0 } else { engine.seen_by_all() | 1 };
    finding.busy = end == End::Busy;
    finding.stands_still = stands_still;
    finding
}

/// The first of a ring in which each task waits for the end of another.
fn first_of_a_ring(alive: &[u32], joined: impl Fn(u32) -> Option<u32>) -> u32 {
    let next = |task| joined(task).unwrap_or(task);
    // As many steps as there are tasks lead into the ring from wherever they begin.
    let inside = alive.iter().fold(alive[0], |task, _| next(task));
    let ring = alive.iter().scan(inside, |task, _| {
        *task = next(*task);
        Some(*task)
    });
    ring.min().unwrap_or(inside)
}
