//! What happens in a schedule, step by step: kept only while a schedule is run again to be told.

use super::engine::{self, Engine};
use super::inject::Inject;
use super::place::{self, Seen};
use super::signal;
use crate::rt::probe::Wait;
use crate::sync::Arc;
use crate::sync::traced::{self, Traced};
use std::backtrace::Backtrace;
use std::panic::Location;
use std::task::Waker;

/// The most notes that are kept.
const MOST: usize = 4_000;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Spawned {
        task: u32,
    },
    /// It has its turn.
    Polled,
    /// It waits for this.
    WaitsFor {
        what: &'static str,
        at: &'static Location<'static>,
    },
    /// It waits, and no future of quell's has said for what.
    Waits,
    Ended,
    Woken {
        by: u32,
    },
    Aborted {
        by: u32,
    },
    PassedOver,
    /// Time went first.
    TimeFirst,
    Chose {
        value: u32,
        of: u32,
    },
    Time,
    Looked,
    Touched {
        what: &'static str,
    },
    Injected {
        kind: Inject,
        point: Option<u32>,
    },
    Panicked {
        message: String,
    },
    Lost {
        what: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    pub(super) time: u64,
    /// `NOBODY` if it is no task's.
    pub(super) task: u32,
    pub(super) what: What,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) notes: Vec<Note>,
    pub(super) left_out: usize,
    /// By task: the waits of its last poll.
    hangs: Vec<Vec<Hang>>,
    clones: u64,
    /// Which thing was touched, by which task and how. The last is the latest.
    touches: Vec<(usize, u32, &'static str)>,
    /// Contexts that are alive, in the order in which they were made.
    pub(super) contexts: Vec<&'static Location<'static>>,
    /// What became of the tasks, once the schedule is over.
    pub(super) lanes: Vec<super::story::Lane>,
    pub(super) landed: Option<engine::Landed>,
    /// Whether only the task to blame will be told. What takes long is left out: the lines of the
    /// others, and giving other threads time.
    pub(super) brief: bool,
    /// The step of the turn in which that task came to hang, if known: the stack, which takes
    /// longest of all, is captured there only.
    pub(super) only_in: Option<u32>,
}

/// One wait of a poll.
#[derive(Debug)]
struct Hang {
    /// Which clone of the waker; zero if none is known.
    clone: u64,
    wait: Option<Wait>,
    trace: Option<Backtrace>,
    /// Whether that clone went after the turn: mostly to wake the task.
    over: bool,
}

/// Where a task hangs, and for what.
#[derive(Clone, Debug, Default)]
pub(super) struct Hung {
    pub(super) place: Option<super::Place>,
    pub(super) what: Option<String>,
    /// The task that touched it last, and how.
    pub(super) touched: Option<(u32, &'static str)>,
    pub(super) no_lines: bool,
}

impl Log {
    pub(super) fn brief(only_in: Option<u32>) -> Self {
        Log { brief: true, only_in, ..Log::default() }
    }

    pub(super) fn add(&mut self, time: u64, task: u32, what: What) {
        if self.notes.len() < MOST {
            let mut at = self.notes.len();
            if matches!(what, What::Woken { .. }) {
                // In the order in which they line up, since a library may wake in random order.
                let later = |note: &&Note| note.what == what && note.task > task;
                at -= self.notes.iter().rev().take_while(later).count();
            }
            self.notes.insert(at, Note { time, task, what });
        } else {
            self.left_out += 1;
        }
    }

    /// A waker for a poll of this task: a new one each time, so that futures clone it anew.
    pub(super) fn waker(&mut self, run: usize, task: u32) -> Waker {
        self.hangs(task).clear();
        traced::waker(Arc::new(Tracer { run, task, clone: 0 }))
    }

    fn hangs(&mut self, task: u32) -> &mut Vec<Hang> {
        let task = task as usize;
        if self.hangs.len() <= task {
            self.hangs.resize_with(task + 1, Vec::new);
        }
        &mut self.hangs[task]
    }

    /// `in_vain`: the last clone of the waker is not for this wait.
    pub(super) fn waits(&mut self, time: u64, task: u32, wait: Wait, in_vain: bool) {
        self.add(time, task, What::WaitsFor { what: wait.what, at: wait.at });
        let hangs = self.hangs(task);
        match hangs.last_mut() {
            Some(last) if last.wait.is_none() && !in_vain => last.wait = Some(wait),
            _ => hangs.push(Hang { clone: 0, wait: Some(wait), trace: None, over: false }),
        }
    }

    /// Ends a turn after which the task waits.
    pub(super) fn turn_is_over(&mut self, time: u64, task: u32) {
        if self.hangs(task).iter().all(|hang| hang.wait.is_none()) {
            self.add(time, task, What::Waits);
        }
    }

    pub(super) fn touched(&mut self, time: u64, task: u32, what: &'static str, of: usize) {
        self.add(time, task, What::Touched { what });
        self.touches.push((of, task, what));
    }

    /// Where a task that has not ended hangs; if it is `awake`, where it did before it was woken. For
    /// a library's future from the beginning, that is the line that spawned it.
    pub(super) fn hung(
        &self,
        task: u32,
        awake: bool,
        spawned_at: &'static Location<'static>,
        asked_at: &'static Location<'static>,
    ) -> Hung {
        let none = Vec::new();
        let hangs = self.hangs.get(task as usize).unwrap_or(&none);
        let hangs_over = hangs.iter().any(|hang| hang.over);
        let hangs = || hangs.iter().rev().filter(|hang| awake || !hang.over);
        let known = |how: u8| hangs().find(|hang| hang.wait.is_some_and(|wait| rank(&wait) == how));
        // The last one: those before it may be of a branch that has lost.
        let tells_most = |hang: &&Hang| hang.wait.is_none_or(|wait| rank(&wait) == 2);
        let most = hangs().find(tells_most);
        let hang = most.or_else(|| known(1)).or_else(|| known(0));
        let Some(hang) = hang else {
            if !awake && hangs_over {
                // Had it been woken, it would be awake, or have waited anew since.
                let gone = "nothing: whoever had its waker has dropped it, and has not woken it";
                let before = self.hung(task, true, spawned_at, asked_at);
                return Hung { what: Some(gone.to_string()), touched: None, ..before };
            }
            let nowhere = "nothing: it has left its waker nowhere, so nothing can wake it";
            return Hung { what: Some(nowhere.to_string()), ..Hung::default() };
        };
        let seen = hang.trace.as_ref().map(|trace| place::user_line(trace, asked_at));
        let Some(wait) = hang.wait else {
            let seen = seen.unwrap_or_default();
            let no_lines = seen.no_lines;
            let place = seen.place.or_else(|| (!no_lines).then(|| spawned_at.into()));
            return Hung { place, what: seen.called, touched: None, no_lines };
        };
        // A handle knows where its task was spawned, not where it is awaited.
        let place = match seen {
            Some(Seen { place: Some(place), .. }) if wait.what == engine::JOIN => place,
            _ => wait.at.into(),
        };
        let same = |(of, _, _): &&(usize, u32, &str)| wait.of != 0 && *of == wait.of;
        let touched = self.touches.iter().rev().find(same).map(|&(_, task, what)| (task, what));
        Hung { place: Some(place), what: Some(wait.what.to_string()), touched, no_lines: false }
    }

    fn cloned(&mut self, task: u32, trace: Backtrace) -> u64 {
        self.clones += 1;
        let clone = self.clones;
        self.hangs(task).push(Hang { clone, wait: None, trace: Some(trace), over: false });
        clone
    }

    /// A task gives its turn away by the waker of its poll, of which no clone tells the line. A wait
    /// that does tell it says more.
    fn woke_itself(&mut self, task: u32, trace: Backtrace) {
        self.hangs(task).push(Hang { clone: 0, wait: None, trace: Some(trace), over: false });
    }

    /// Whether nothing has told yet where a task is in its poll.
    fn is_nowhere(&self, task: u32) -> bool {
        let hangs = self.hangs.get(task as usize);
        let tells = |hang: &Hang| hang.wait.is_none_or(|wait| rank(&wait) == 2);
        !hangs.is_some_and(|hangs| hangs.iter().any(tells))
    }

    /// Nothing waits with this clone any more. In the task's own turn it is forgotten.
    fn dropped(&mut self, task: u32, clone: u64, own_turn: bool) {
        let hangs = self.hangs(task);
        if own_turn {
            hangs.retain(|hang| hang.clone != clone);
        } else if let Some(hang) = hangs.iter_mut().find(|hang| hang.clone == clone) {
            hang.over = true;
        }
    }
}

/// Stands behind the wakers of a schedule that is told.
struct Tracer {
    run: usize,
    task: u32,
    clone: u64,
}

impl Tracer {
    /// A trace of the code running now, if that is in a turn of this task and such a trace is wanted.
    fn trace(&self, wants: impl Fn(&Log) -> bool) -> Option<Backtrace> {
        let is_wanted = |engine: &mut Engine| {
            let own = engine.run == self.run && engine.current == self.task;
            let log = engine.log.as_ref()?;
            let here = log.only_in.is_none_or(|step| step == engine.steps);
            (own && here && wants(log)).then_some(())
        };
        engine::with(is_wanted).flatten().map(|()| Backtrace::force_capture())
    }
}

impl Traced for Tracer {
    fn wake(&self) {
        let nowhere = |log: &Log| self.clone == 0 && log.is_nowhere(self.task);
        if let Some(trace) = self.trace(nowhere) {
            engine::with(|engine| {
                if let Some(log) = &mut engine.log {
                    log.woke_itself(self.task, trace);
                }
            });
        }
        signal::wake(self.run, self.task);
    }

    fn cloned(&self) -> Arc<Self> {
        let cloned = |trace| {
            let log = |engine: &mut Engine| Some(engine.log.as_mut()?.cloned(self.task, trace));
            engine::with(log).flatten()
        };
        let clone = self.trace(|_| true).and_then(cloned);
        Arc::new(Tracer { run: self.run, task: self.task, clone: clone.unwrap_or(0) })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.clone != 0 {
            engine::try_with(|engine| {
                let own_turn = engine.current == self.task;
                // Clones are numbered anew in each schedule.
                if let (true, Some(log)) = (engine.run == self.run, &mut engine.log) {
                    log.dropped(self.task, self.clone, own_turn);
                }
            });
        }
    }
}

/// How much a wait says about why a task hangs. In a `select!`, the end of the context is what
/// every task waits for.
pub(super) fn rank(wait: &Wait) -> u8 {
    match wait.what {
        place::END_OF_CONTEXT => 0,
        "a time" => 1,
        _ => 2,
    }
}
