//! What a checker has to say.

use super::exploration::Plan;
use super::inject::Inject;
use super::violation::Violation;
use std::fmt;
use std::time::Duration;

/// What was checked, and what was found.
#[derive(Clone, Debug)]
#[must_use = "a report does nothing by itself: call `assert_clean`"]
pub struct Report {
    pub(super) violations: Vec<Violation>,
    pub(super) schedules: u64,
    pub(super) points: u32,
    pub(super) complete: bool,
    pub(super) must_be_complete: bool,
    /// What each injection's schedules have covered.
    pub(super) covered: Vec<Covered>,
    pub(super) shard: (u64, u64),
    pub(super) took: Duration,
    /// Every condition that should hold in some schedule, and whether it did.
    pub(super) sometimes: Vec<(&'static str, bool)>,
    /// Whether a body has spawned tasks that this checker does not see, which has ended the check.
    pub(super) strays: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Covered {
    pub(super) kind: Inject,
    pub(super) points: u32,
    pub(super) schedules: u64,
    pub(super) how: String,
    pub(super) cut: bool,
    /// Why it ended early, if not by a maximum.
    pub(super) early: Option<Early>,
    /// Whether the injection has come at each point, and not only at some.
    pub(super) everywhere: bool,
}

/// Why not all schedules of an injection were run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Early {
    /// At the first violation, as asked.
    AtFirst,
    /// The body is not deterministic.
    Unsteady,
    /// One run has come to other points than another.
    #[cfg(feature = "tokio")]
    Missed,
}

impl Covered {
    /// Nothing covered so far.
    pub(super) fn nothing(kind: Inject) -> Covered {
        let how = String::new();
        Covered { kind, points: 0, schedules: 0, how, cut: false, early: None, everywhere: true }
    }

    /// The one schedule of a token.
    pub(super) fn of_a_token(kind: Inject, points: u32) -> Covered {
        let how = Covered::TOKEN.to_string();
        Covered { points, schedules: 1, how, everywhere: false, ..Covered::nothing(kind) }
    }

    const TOKEN: &str = "the schedule of a token";
}

impl Report {
    pub(super) fn new(plan: &Plan) -> Report {
        Report {
            violations: Vec::new(),
            schedules: 0,
            points: 0,
            complete: true,
            must_be_complete: plan.must_be_complete,
            covered: Vec::new(),
            shard: plan.shard,
            took: Duration::ZERO,
            sometimes: Vec::new(),
            strays: false,
        }
    }

    /// Takes over what the schedules of one injection have reached.
    pub(super) fn merge(&mut self, sometimes: &[(&'static str, bool)]) {
        for &(name, reached) in sometimes {
            note_sometimes(&mut self.sometimes, name, reached);
        }
    }

    /// Whether the check ended early or missed points. It then proves nothing about what was not
    /// reached.
    pub(super) fn ended_early(&self) -> bool {
        self.covered.iter().any(|covered| covered.early.is_some())
    }

    /// Whether an end was injected, and every injection came at each point there was.
    pub(super) fn is_everywhere(&self) -> bool {
        let everywhere = |one: &Covered| one.everywhere && one.schedules > 0;
        self.covered.iter().any(|one| one.kind.comes_by_itself() && everywhere(one))
            && self.covered.iter().all(|one| !one.kind.is_any() || everywhere(one))
    }

    /// Whether there was no schedule to run, as in one part of several.
    pub(super) fn has_run_nothing(&self) -> bool {
        self.schedules == 0 && self.violations.is_empty()
    }

    pub(super) fn finish(&mut self, violations: Vec<Violation>) {
        self.violations = violations;
        self.schedules = self.covered.iter().map(|covered| covered.schedules).sum();
        self.points = self.covered.iter().map(|covered| covered.points).max().unwrap_or(0);
        self.complete = !self.covered.iter().any(|covered| covered.cut) && !self.ended_early();
    }
}

impl Report {
    /// Whether nothing was found and, if completeness was required, nothing was cut. One part of
    /// several for which no schedule was left is clean too: see [`schedules`](Report::schedules).
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && (self.complete || !self.must_be_complete)
    }

    /// The violations: one for each kind, task and line.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many schedules were run.
    pub fn schedules(&self) -> u64 {
        self.schedules
    }

    /// At how many points the injection could come: the most of any schedule, over all injections.
    /// If some schedules were enumerated and others left to chance, only the former count.
    pub fn points(&self) -> u64 {
        u64::from(self.points)
    }

    /// Whether every schedule that was asked for was run: no maximum has cut anything, nothing that
    /// was found has ended the check early and, on tokio, each run has come to the same points as
    /// the others, as far as it went.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Makes this report not clean if anything was cut.
    pub fn require_complete(mut self) -> Report {
        self.must_be_complete = true;
        self
    }

    /// The names given to [`sometimes`](crate::check::sometimes) in any schedule, each with whether
    /// its condition ever held.
    pub fn sometimes(&self) -> &[(&'static str, bool)] {
        &self.sometimes
    }

    /// How long the check took, by the system's clock.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// What was covered, in one line.
    pub fn covered(&self) -> String {
        let lines: Vec<_> = self.covered.iter().map(Covered::to_string).collect();
        lines.join("; ")
    }

    /// Asserts that the report is [clean](Report::is_clean).
    ///
    /// # Panics
    ///
    /// When it is not, with the whole story.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "\n{self}");
    }

    /// One page that shows each violation as a timeline, with a lane for each task. It needs no
    /// network and no other file.
    pub fn to_html(&self) -> String {
        super::html::page(self)
    }
}

/// Notes whether the condition with this name has held. Once it has held, that stays noted.
pub(super) fn note_sometimes(
    known: &mut Vec<(&'static str, bool)>,
    name: &'static str,
    reached: bool,
) {
    match known.iter_mut().find(|(known, _)| *known == name) {
        Some((_, before)) => *before |= reached,
        None => known.push((name, reached)),
    }
}

impl fmt::Display for Covered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.how)?;
        if self.how == Covered::TOKEN {
            return Ok(());
        }
        match self.kind {
            Inject::None => {}
            kind => {
                let which = match self.everywhere {
                    _ if self.schedules == 0 => "none",
                    true => "each",
                    false => "some",
                };
                write!(f, ", {kind} at {which} of {}", many(self.points.into(), "point"))?;
            }
        }
        write!(f, ": {}", many(self.schedules, "schedule"))?;
        match self.early {
            Some(Early::AtFirst) => f.write_str(" (ended with the first violation)"),
            Some(Early::Unsteady) => f.write_str(" (ended where the body is not deterministic)"),
            #[cfg(feature = "tokio")]
            Some(Early::Missed) => f.write_str(
                " (two runs came to different points: the body is slow, or not deterministic)",
            ),
            None if self.cut => f.write_str(" (cut short by a maximum)"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.violations.len() {
            0 if self.has_run_nothing() => write!(f, "nothing was run: ")?,
            0 if self.is_clean() => write!(f, "clean: ")?,
            0 => write!(f, "not complete: ")?,
            1 => write!(f, "1 violation: ")?,
            n => write!(f, "{n} violations: ")?,
        }
        f.write_str(&self.covered())?;
        if self.shard.1 > 1 {
            write!(f, " (part {} of {})", self.shard.0, self.shard.1)?;
        }
        if self.covered.iter().any(|covered| covered.cut) && self.must_be_complete {
            f.write_str("\na maximum has cut it short, and `require_complete` was asked for")?;
        }
        for violation in &self.violations {
            write!(f, "\n\n{violation}")?;
        }
        Ok(())
    }
}

/// `1 schedule`, `18,201 schedules`.
pub(super) fn many(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// 18,201.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
