//! How a pipeline ended, and where every item went.

use super::end::{End, Outcome};
use super::engine::{Engine, StageCounts};
use crate::channel::Counts;
use crate::context::{Cancelled, Cause};
use std::fmt;
use std::time::Duration;

/// How a stage ended: the worst of the ends of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StageEnd {
    /// Its input ended, and it passed on all that it had; or, for a custom stage, it returned,
    /// whether its input had ended or not.
    Completed,
    /// A source was told to make no more, so that the pipeline drains.
    Stopped,
    /// The next stage took no more.
    ReaderGone,
    /// It was aborted with the pipeline.
    Aborted,
    /// It, or one of its closures, returned an error.
    Failed,
    /// It panicked.
    Panicked,
}

/// What became of a pipeline: the result of [`Results::finish`](super::Results::finish).
#[derive(Clone, Debug)]
pub struct Report {
    end: End,
    stages: Vec<StageReport>,
    read: usize,
}

/// What became of one stage's items.
#[derive(Clone, Debug)]
pub struct StageReport {
    name: String,
    inputs: Vec<usize>,
    custom: bool,
    counts: StageCounts,
    failure: Option<Cause>,
    input: Counts,
    output: Counts,
}

impl Report {
    /// The report of a pipeline whose tasks have all ended; `read` items were read.
    pub(super) fn of(engine: &Engine, read: usize) -> Report {
        // Each is asked once: a custom stage may have given its channel ends to other tasks,
        // which may still be at work.
        let outputs = engine.stages.iter().map(|stage| {
            let output = stage.output_link.lock();
            output.as_ref().map_or_else(Counts::default, |output| output.counts())
        });
        let outputs: Vec<_> = outputs.collect();
        let stages = engine.stages.iter().enumerate().map(|(index, stage)| {
            let mut input = Counts::default();
            for &before in &stage.inputs {
                let counts = outputs[before];
                input.taken += counts.taken;
                input.waited_for_items += counts.waited_for_items;
            }
            StageReport {
                name: stage.name.clone().into_owned(),
                inputs: stage.inputs.clone(),
                custom: stage.custom,
                counts: *stage.counts.lock(),
                failure: stage.failure.get().cloned(),
                input,
                output: outputs[index],
            }
        });
        let end = engine.known_end().expect("it has ended");
        Report { end, stages: stages.collect(), read }
    }

    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.end.outcome
    }

    /// The stages, the source first.
    pub fn stages(&self) -> &[StageReport] {
        &self.stages
    }

    /// How many results the reader took.
    pub fn read(&self) -> usize {
        self.read
    }

    /// How many items came to nothing, in all stages together: none, if a drain has finished what
    /// had begun.
    pub fn discarded(&self) -> usize {
        self.stages.iter().map(StageReport::discarded).sum()
    }

    /// Whether every item is accounted for. If not, that is a bug, and one of quell's unless a
    /// channel end has outlived the custom stage that it was given to.
    ///
    /// What a stage delivered is what the next one received, counted on both sides; and each of
    /// quell's own stages has delivered, filtered out, failed or discarded what it received. Custom
    /// stages may make items and keep them, so only what passes between stages is checked for
    /// them.
    pub fn conserved(&self) -> bool {
        let own = self.stages.iter().all(|stage| {
            let gone = stage.delivered() + stage.filtered() + stage.discarded() + stage.failed();
            stage.custom || stage.received() == gone
        });
        let between = self.stages.iter().all(|stage| {
            let before: usize = stage.inputs.iter().map(|&k| self.stages[k].output.taken).sum();
            stage.inputs.is_empty() || before == stage.received()
        });
        let last = self.stages.last().map_or(0, |stage| stage.output.taken);
        own && between && last == self.read
    }

    /// `Ok` if the pipeline completed or its reader stopped it.
    ///
    /// # Errors
    ///
    /// The cause, if the context ended, or a stage failed or panicked: after a panic the cause is a
    /// [`TaskPanicked`](crate::group::TaskPanicked). The error prints as `context canceled`: log it
    /// with `{:#}`, or log its [`cause`](Cancelled::cause).
    pub fn into_result(self) -> Result<Report, Cancelled> {
        self.end.as_result()?;
        Ok(self)
    }
}

impl StageReport {
    /// The stage's name: the one set by [`named`](super::Pipeline::named), or what it does.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Items it took from the stage before; for a source, items it made.
    pub fn received(&self) -> usize {
        if self.custom { self.input.taken } else { self.counts.received }
    }

    /// Items that the next stage, or the reader, took from it. For a stage that makes chunks, the
    /// items in them.
    pub fn delivered(&self) -> usize {
        self.output.taken_weight
    }

    /// Items left out by a `filter_map`.
    pub fn filtered(&self) -> usize {
        self.counts.filtered
    }

    /// Items for which a closure returned an error or panicked.
    pub fn failed(&self) -> usize {
        self.counts.failed
    }

    /// Items that were dropped because the pipeline ended: in hand, or untaken behind this stage.
    pub fn discarded(&self) -> usize {
        self.counts.discarded + self.output.left
    }

    /// How long it waited for input. Where several workers wait, each counts.
    pub fn waited_for_input(&self) -> Duration {
        self.input.waited_for_items
    }

    /// How long it waited for room behind it. Where several workers wait, each counts.
    pub fn waited_for_output(&self) -> Duration {
        self.output.waited_for_room
    }

    /// How it ended; `None` if it never ran.
    pub fn ended(&self) -> Option<StageEnd> {
        self.counts.ended
    }

    /// Why it failed or panicked, if it did; the first time. The [outcome](Report::outcome) may be
    /// another: the pipeline may have ended, or been draining, before.
    pub fn failure(&self) -> Option<&Cause> {
        self.failure.as_ref()
    }
}

impl fmt::Display for Report {
    /// A table with one line for each stage.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; {} read", self.end.outcome, self.read)?;
        let width = self.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0);
        write!(
            f,
            "{:<width$} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>10} {:>10}  ended",
            "stage",
            "received",
            "delivered",
            "filtered",
            "failed",
            "discarded",
            "input wait",
            "room wait",
            width = width.max(5)
        )?;
        for stage in &self.stages {
            let ended = match stage.ended() {
                None => "never ran",
                Some(StageEnd::Completed) => "completed",
                Some(StageEnd::Stopped) => "stopped",
                Some(StageEnd::ReaderGone) => "reader gone",
                Some(StageEnd::Aborted) => "aborted",
                Some(StageEnd::Failed) => "failed",
                Some(StageEnd::Panicked) => "panicked",
            };
            write!(
                f,
                "\n{:<width$} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>10} {:>10}  {ended}",
                stage.name,
                stage.received(),
                stage.delivered(),
                stage.filtered(),
                stage.failed(),
                stage.discarded(),
                format!("{:.1?}", stage.waited_for_input()),
                format!("{:.1?}", stage.waited_for_output()),
                width = width.max(5)
            )?;
            // The failure that is the outcome is already in the first line.
            let failure = stage.failure.as_ref();
            if let Some(failure) = failure.filter(|failure| !failure.is(&self.end.cause)) {
                write!(f, ": {failure}")?;
            }
        }
        Ok(())
    }
}
