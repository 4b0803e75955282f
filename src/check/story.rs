//! A violation as a story: which task was spawned where, what happened in which order, and where
//! each task stands at the end.

use super::engine::{BODY, Engine, JOIN, Landed, NOBODY, State};
use super::inject::Inject;
use super::log::{Log, Note, What};
use super::place::Place;
use super::verdict::Finding;
use super::violation::{Violation, ViolationKind};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// The note for a stack trace without lines.
const NO_LINES: &str = "no line is known: build with `debug = \"line-tables-only\"` in the profile";

/// What became of one task.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) name: String,
    /// Its name in the story: with a number if several tasks have the same name.
    pub(super) told_as: String,
    pub(super) spawned_at: Place,
    pub(super) ended: bool,
    /// Where it hangs if it has not ended.
    pub(super) place: Option<Place>,
    pub(super) what: Option<String>,
    pub(super) touched: Option<(u32, &'static str)>,
    pub(super) no_lines: bool,
}

impl Lane {
    /// Where it hangs, and for what.
    fn stands(&self) -> String {
        let mut text = format!("`{}`", self.told_as);
        if let Some(place) = &self.place {
            let _ = write!(text, " at {place}");
        }
        if let Some(what) = &self.what {
            let _ = write!(text, ", for {what}");
        }
        text
    }
}

/// A schedule that went wrong, ready to be told.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) headline: String,
    /// Whether it is about a wait for an end that nothing brings.
    pub(super) misses_end: bool,
    pub(super) kind: Inject,
    pub(super) landed: Option<Landed>,
    /// How the injection came, if that is known in words only.
    pub(super) injected: Option<String>,
    pub(super) root: Option<u32>,
    pub(super) lanes: Vec<Lane>,
    pub(super) notes: Vec<Note>,
    pub(super) left_out: usize,
}

/// A piece of a fact. A page and a text show some pieces differently.
pub(super) enum Piece {
    Words(String),
    /// What a task is called.
    Name(String),
    Line(Place),
    /// What replays the schedule.
    Token(String),
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Piece::Words(text) | Piece::Token(text) => f.write_str(text),
            Piece::Name(name) => write!(f, "`{name}`"),
            Piece::Line(place) => place.fmt(f),
        }
    }
}

/// Records what became of every task, before everything is dropped.
pub(super) fn keep(engine: &mut Engine, finding: Option<&Finding>) {
    let Some(mut log) = engine.log.take() else { return };
    log.landed = engine.landed;
    let blamed = finding.and_then(|finding| finding.task);
    let asked_at = engine.labels.get(engine.tasks[BODY as usize].label).place;
    log.lanes = (0..engine.tasks.len() as u32)
        .map(|number| {
            let task = &engine.tasks[number as usize];
            let label = engine.labels.get(task.label);
            let ended = task.state == State::Ended;
            let tell = blamed == Some(number) || (!ended && !log.brief);
            let awake = task.state == State::Queued;
            let mut hung = super::log::Hung::default();
            if tell {
                hung = log.hung(number, awake, label.place, asked_at);
            }
            if awake {
                // It is awake, whatever it waited for.
                hung.what = Some("its turn".to_string());
            }
            Lane {
                name: name(number, &label.name),
                told_as: name(number, &label.name),
                spawned_at: label.place.into(),
                ended,
                place: hung.place,
                what: hung.what,
                touched: hung.touched,
                no_lines: hung.no_lines,
            }
        })
        .collect();
    tell_apart(&mut log.lanes);
    engine.log = Some(log);
}

/// The second `worker` of two is told as `worker#2`.
fn tell_apart(lanes: &mut [Lane]) {
    let mut seen: HashMap<String, (u32, u32)> = HashMap::new();
    for lane in &*lanes {
        seen.entry(lane.name.clone()).or_default().1 += 1;
    }
    for lane in lanes {
        let (nth, of) = seen.get_mut(&lane.name).expect("all are in it");
        *nth += 1;
        if *of > 1 {
            lane.told_as = format!("{}#{nth}", lane.name);
        }
    }
}

/// What a task is called.
pub(super) fn name(number: u32, label: &str) -> String {
    match (number, label) {
        (BODY, _) => "body".to_string(),
        (number, "") => format!("task {number}"),
        (_, label) => label.to_string(),
    }
}

impl Story {
    pub(super) fn new(headline: String, kind: Inject, finding: &Finding, log: Log) -> Self {
        Story {
            headline,
            misses_end: false,
            kind,
            landed: log.landed,
            injected: None,
            root: finding.task,
            lanes: log.lanes,
            notes: log.notes,
            left_out: log.left_out,
        }
    }

    /// A story of something that no single schedule shows.
    pub(super) fn without_a_schedule(headline: String, kind: Inject) -> Self {
        Story {
            headline,
            misses_end: false,
            kind,
            landed: None,
            injected: None,
            root: None,
            lanes: Vec::new(),
            notes: Vec::new(),
            left_out: 0,
        }
    }

    pub(super) fn name(&self, task: u32) -> &str {
        match self.lanes.get(task as usize) {
            Some(lane) => &lane.told_as,
            None => "the checker",
        }
    }

    /// How the task to blame came to be. The body is recognised by its number, because another task
    /// may be called `body` too. Without a number, the only task with a name is the body.
    fn began(&self, task: &str) -> &'static str {
        if task == "body" && self.root.is_none_or(|root| root == BODY) { "run" } else { "spawned" }
    }

    /// When and how the injection came; `None` if there is no schedule.
    fn injection(&self) -> Option<String> {
        if self.lanes.is_empty() {
            return self.injected.clone();
        }
        let Some(landed) = self.landed else {
            return Some(match self.kind {
                Inject::None => "none".to_string(),
                kind => format!("{kind}, which had not come yet"),
            });
        };
        let when = time(landed.time);
        Some(match landed.point {
            Some(point) => format!("{} at point {point}, at {when}", self.kind),
            None if landed.at_maximum => {
                format!("{} at {when}, when a maximum was reached", self.kind)
            }
            None => format!("{} at {when}, when nothing else could happen", self.kind),
        })
    }

    /// The line that tells a note.
    pub(super) fn line(&self, note: &Note) -> Option<String> {
        let by = |by: u32| {
            if by == NOBODY { String::new() } else { format!(" by `{}`", self.name(by)) }
        };
        Some(match &note.what {
            What::Spawned { task } => format!("spawns `{}`", self.name(*task)),
            What::Polled => "runs".to_string(),
            // A handle knows where its task was spawned, not where it is awaited.
            What::WaitsFor { what, at } if *what == JOIN => {
                format!("waits for {what}, spawned at {}", Place::from(*at))
            }
            What::WaitsFor { what, at } => format!("waits for {what} at {}", Place::from(*at)),
            What::Waits => "waits for something that is not quell's".to_string(),
            What::Ended => "has ended".to_string(),
            What::Woken { by: who } => format!("is woken{}", by(*who)),
            What::Aborted { by: who } => format!("is aborted{}", by(*who)),
            What::PassedOver => "is passed over, though it is its turn (a delay)".to_string(),
            What::TimeFirst => "time moves, though tasks are ready (a delay)".to_string(),
            What::Chose { value, of } => format!("is told {value} by `choose({of})`"),
            What::Time => format!("time moves to {}", time(note.time)),
            What::Looked => "looks at its context".to_string(),
            What::Touched { what } => format!("notifies its waiters: {what}"),
            What::Injected { kind, .. } => format!("*** {kind} ***"),
            What::Panicked { message } => format!("panics: {message}"),
            What::Lost { what } => format!("drops an unsettled item: {what}"),
        })
    }

    /// What is told of a violation besides what happened: the name of each fact, and the fact.
    pub(super) fn facts(&self, violation: &Violation) -> Vec<(&'static str, Vec<Piece>)> {
        use Piece::{Line, Name, Token, Words};
        let words = |text: &str| vec![Words(text.to_string())];
        let root = self.root.and_then(|root| self.lanes.get(root as usize));
        let mut facts = Vec::new();
        if let Some(task) = &violation.task {
            let mut fact = vec![Name(task.clone())];
            if let Some(place) = &violation.spawned_at {
                let did = format!(", {} at ", self.began(task));
                fact.extend([Words(did), Line(place.clone())]);
            }
            if let Some(lane) = root.filter(|lane| lane.told_as != *task) {
                let below = Words(" below)".into());
                fact.extend([Words(" (".into()), Name(lane.told_as.clone()), below]);
            }
            facts.push(("task", fact));
        }
        if let Some(place) = &violation.waiting_at {
            facts.push(("at", vec![Line(place.clone())]));
        }
        if let Some(what) = &violation.waiting_for {
            facts.push((about(violation.kind), words(what)));
        }
        if let Some((who, what)) = root.and_then(|lane| lane.touched) {
            let who = Name(self.name(who).into());
            facts
                .push(("last touched", vec![Words("by ".into()), who, Words(format!(": {what}"))]));
        }
        if root.is_some_and(|lane| lane.no_lines) {
            facts.push(("", words(NO_LINES)));
        }
        if let Some(injection) = self.injection() {
            facts.push(("injection", words(&injection)));
        }
        for (first, lane) in self.others() {
            facts.push((if first { "left too" } else { "" }, words(&lane.stands())));
        }
        if violation.count > 1 {
            let seen = format!("in {} schedules", super::report::grouped(violation.count));
            facts.push(("seen", words(&seen)));
        }
        if let Some(help) = violation.help() {
            facts.push(("help", words(help)));
        }
        if !violation.replay.is_empty() {
            facts.push(("replay", vec![Token(violation.replay.clone())]));
        }
        facts
    }

    pub(super) fn tell(&self, violation: &Violation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", violation.kind, self.headline)?;
        for (name, fact) in self.facts(violation) {
            let fact: String = fact.iter().map(Piece::to_string).collect();
            writeln!(f, "  {name:<13}{fact}")?;
        }
        if self.notes.is_empty() {
            return Ok(());
        }
        self.tell_all(f)
    }

    /// The other tasks that are left, the first of them marked.
    fn others(&self) -> impl Iterator<Item = (bool, &Lane)> {
        let root = self.root;
        let left = self.lanes.iter().enumerate();
        let left = left.filter(move |(at, lane)| !lane.ended && Some(*at as u32) != root);
        left.take(20).enumerate().map(|(nth, (_, lane))| (nth == 0, lane))
    }

    fn tell_all(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The most lines that are shown; the rest are in the HTML page.
        const MOST: usize = 60;
        writeln!(f, "  what happened")?;
        let width = self.lanes.iter().map(|lane| lane.told_as.len()).max().unwrap_or(4).min(24);
        // Something that a task does again and again is one line.
        let mut lines: Vec<(&Note, _, usize)> = Vec::new();
        for (note, line) in self.notes.iter().filter_map(|note| Some((note, self.line(note)?))) {
            match lines.last_mut() {
                Some((last, same, times))
                    if (last.task, last.time) == (note.task, note.time) && *same == line =>
                {
                    *times += 1;
                }
                _ => lines.push((note, line, 1)),
            }
        }
        let skipped = lines.len().saturating_sub(MOST);
        for (at, (note, line, times)) in lines.iter().enumerate() {
            if skipped > 0 && at == MOST / 2 {
                writeln!(f, "    … {skipped} more …")?;
            }
            if skipped > 0 && at >= MOST / 2 && at < MOST / 2 + skipped {
                continue;
            }
            let who = if note.task == NOBODY { "" } else { self.name(note.task) };
            write!(f, "    {:>9}  {who:<width$}  {line}", time(note.time))?;
            if *times > 1 {
                write!(f, " (×{times})")?;
            }
            writeln!(f)?;
        }
        if self.left_out > 0 {
            writeln!(f, "    … and {} more", self.left_out)?;
        }
        Ok(())
    }
}

/// What `waiting_for` says of a violation of this kind.
fn about(kind: ViolationKind) -> &'static str {
    match kind {
        ViolationKind::LeakedTask | ViolationKind::BlockedStage => "for",
        ViolationKind::Panicked => "message",
        ViolationKind::LostItem => "item",
        ViolationKind::LeakedContext | ViolationKind::Nondeterministic | ViolationKind::Vacuous => {
            "why"
        }
    }
}

/// A time since the beginning, as `1.5s`.
pub(super) fn time(nanos: u64) -> String {
    format!("{:?}", Duration::from_nanos(nanos))
}
