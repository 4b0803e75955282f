//! How a pipeline ended, and where every item went.

use super::end::{End, Outcome};
use super::engine::{Engine, StageCounts};
use crate::channel::Counts;
use crate::context::{Cancelled, Cause};
use std::fmt;
use std::time::Duration;

/// How a stage ended; of its tasks, the one that fared worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StageEnd {
    /// Its input ended, and it passed on all that it had; one of your own has returned, whether
    /// its input had ended or not.
    Completed,
    /// A source that was told to make no more, for the pipeline to drain.
    Stopped,
    /// The next stage took no more.
    ReaderGone,
    /// It was aborted with the pipeline.
    Aborted,
    /// It returned an error, or a closure of it did.
    Failed,
    /// It panicked.
    Panicked,
}

/// What became of a pipeline: the answer of [`Results::finish`](super::Results::finish).
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
    /// That of a pipeline whose tasks have all ended; its reader took so many.
    pub(super) fn of(engine: &Engine, read: usize) -> Report {
        // Each asked once: a stage of the user's may have given its ends to others, who may
        // be at work still.
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

    /// Its stages, the source first.
    pub fn stages(&self) -> &[StageReport] {
        &self.stages
    }

    /// How many results the reader took.
    pub fn read(&self) -> usize {
        self.read
    }

    /// How many items came to nothing, in all stages together: none, where a drain has finished
    /// what had begun.
    pub fn discarded(&self) -> usize {
        self.stages.iter().map(StageReport::discarded).sum()
    }

    /// Whether every item is accounted for. If not, that is a bug, and one of quell's unless an
    /// end of a channel has outlived the stage of your own that it was given to.
    ///
    /// What a stage delivered is what the next one received, counted on both
    /// sides; and each of quell's own stages has delivered, filtered out, failed
    /// or discarded what it received. Stages of one's own may make items and keep
    /// them, so only what goes in and out is held against them.
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

    /// `Ok` where it completed or its reader stopped it.
    ///
    /// # Errors
    ///
    /// With the cause, where the context ended, or a stage failed, or one panicked: then the
    /// cause is a [`TaskPanicked`](crate::group::TaskPanicked). It prints as `context canceled`: log
    /// it with `{:#}`, or log its [`cause`](Cancelled::cause).
    pub fn into_result(self) -> Result<Report, Cancelled> {
        self.end.as_result()?;
        Ok(self)
    }
}

impl StageReport {
    /// Its name: what it is called by [`named`](super::Pipeline::named), or what it does.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Items it took from the stage before; of a source, items it made.
    pub fn received(&self) -> usize {
        if self.custom { self.input.taken } else { self.counts.received }
    }

    /// Items that the next stage, or the reader, took from it. Of a stage that
    /// makes chunks, the items in them.
    pub fn delivered(&self) -> usize {
        self.output.taken_weight
    }

    /// Items that a `filter_map` left out.
    pub fn filtered(&self) -> usize {
        self.counts.filtered
    }

    /// Items for which a closure returned an error or panicked.
    pub fn failed(&self) -> usize {
        self.counts.failed
    }

    /// Items that were dropped because the pipeline ended: in hand, or behind this
    /// stage where nobody took them.
    pub fn discarded(&self) -> usize {
        self.counts.discarded + self.output.left
    }

    /// How long it waited for input. Where many workers wait, each counts.
    pub fn waited_for_input(&self) -> Duration {
        self.input.waited_for_items
    }

    /// How long it waited for room behind it. Where many workers wait, each counts.
    pub fn waited_for_output(&self) -> Duration {
        self.output.waited_for_room
    }

    /// How it ended; `None` if it never ran.
    pub fn ended(&self) -> Option<StageEnd> {
        self.counts.ended
    }

    /// Why it failed or panicked, if it did; the first time. The [outcome](Report::outcome) need
    /// not tell, for the pipeline may have ended, or been draining, before.
    pub fn failure(&self) -> Option<&Cause> {
        self.failure.as_ref()
    }
}

impl fmt::Display for Report {
    /// A table: one line a stage.
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
            // That which is the outcome has been told.
            let failure = stage.failure.as_ref();
            if let Some(failure) = failure.filter(|failure| !failure.is(&self.end.cause)) {
                write!(f, ": {failure}")?;
            }
        }
        Ok(())
    }
}
