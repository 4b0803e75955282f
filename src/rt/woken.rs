//! Which tasks a turn has woken, and when they run.
//!
//! Tokio keeps the task woken last for the thread of the task that woke it (in that thread's LIFO
//! slot, where no other thread finds it), however long the latter's poll goes on. So a task that
//! has woken another, and goes on to something that may take its time, first frees it for other
//! threads by a nudge: an empty task, spawned to take its place in the slot.
//!
//! A nudge takes as long as several quick items, and brings in a second thread that gets in the way
//! of this one. So a task that has long been brisk does not wake others at once: it keeps their
//! wakers until its turn (its poll) is over, which is soon. Should it not be, the timer thread
//! calls them. Only wakers of tasks that wait at channels of the same pipeline are kept: user code
//! may itself be waiting for any other task.
//!
//! # Invariants
//!
//! 1. Every kept waker is woken by the end of the turn that kept it, however that turn ends; or
//!    before: when another turn of the pipeline that has kept one ends, when the task stops
//!    keeping, when the pipeline ends, or at the timer thread's second look at the latest. No waker
//!    is kept where the timer thread does not look.
//! 2. A task keeps wakers if it has been brisk [`BRISK`] times in a row, or if the timer thread
//!    watches it anyway; and for at most [`TURNS`] turns before it has to show that again. After a
//!    turn that hung, the next [`UNKEPT`] wakers are not kept.
//! 3. No waker is kept under a checker, nor where one thread runs all tasks. (Models have tasks of
//!    their own, see `by_thread`.)

use super::task::Nudge;
use super::{Turn, contain_panic, is_in_real_time, look_often, real_now, wake};
use crate::sync::{Arc, BriefLock};
use std::cell::Cell;
use std::task::Waker;
use std::time::Instant;

/// How many steps of user code there are between two looks at the clock. They are brisk if they
/// take less than [`Turn::TIME`], waits included.
const STEPS: u32 = Turn::STEPS;

/// How often in a row a task has to be brisk before it keeps wakers.
const BRISK: u32 = 16;

/// A task that needs more turns than this for [`STEPS`] steps has no long turns to shorten.
const TURNS: u32 = 2;

/// How many wakers are not kept after one had to wait for two looks: keeping these would have saved
/// about as much time as that cost.
const UNKEPT: u32 = 20_000;

std::thread_local! {
    /// Whether a woken task may lie in this thread's LIFO slot, where no other thread finds it
    /// until this poll ends.
    static IN_LIFO_SLOT: Cell<bool> = const { Cell::new(false) };
    /// Whether `IN_LIFO_SLOT` matters: not in a turn of a task whose runtime has only one thread.
    static HAS_OTHER_THREADS: Cell<bool> = const { Cell::new(true) };
    /// The pipeline whose channels' wakers this turn keeps.
    static KEEPS: Cell<PipelineId> = const { Cell::new(PipelineId::NONE) };
    /// How many of its [`STEPS`] steps the user code in this turn has made.
    static STEP: Cell<u32> = const { Cell::new(0) };
    /// The state of the task whose turn it is.
    static TASK: Cell<Option<Box<TaskState>>> = const { Cell::new(None) };
}

/// Which pipeline a channel belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PipelineId(usize);

impl PipelineId {
    /// No pipeline.
    pub(crate) const NONE: PipelineId = PipelineId(0);

    fn of(shared: &Arc<Shared>) -> Self {
        PipelineId(Arc::as_ptr(shared).addr())
    }
}

/// The wakers that the tasks of a pipeline keep.
pub(crate) struct KeptWakers {
    /// `None` where one thread runs all tasks: no waker is kept.
    shared: Option<Arc<Shared>>,
    on_threads: bool,
}

struct Shared {
    nudge: Nudge,
    kept: BriefLock<Kept>,
}

struct Kept {
    wakers: Vec<Waker>,
    /// Whether a waker has been kept since the last look.
    kept_since_look: bool,
    /// Whether the last look found kept wakers, and none has been sent since.
    kept_at_look: bool,
    /// Whether there will be another look.
    looked_after: bool,
    /// How many more wakers are to be woken at once.
    unkept: u32,
}

/// A task's state between its turns; empty where one thread runs all tasks.
pub(crate) struct Turns(Cell<Option<Box<TaskState>>>);

struct TaskState {
    shared: Arc<Shared>,
    keeps: bool,
    /// Whether it has kept a waker in this turn.
    has_kept: bool,
    /// How often in a row it has been brisk; then, of the current [`STEPS`] steps, when they began,
    /// how many turns they have taken, and how many have been made.
    brisk: u32,
    since: Option<Instant>,
    turns: u32,
    step: u32,
}

impl KeptWakers {
    /// For tasks of the runtime that is ambient here.
    pub(crate) fn here() -> Self {
        let nudge = Nudge::here();
        let on_threads = nudge.on_threads();
        let shared = nudge.is_needed().then(|| {
            let wakers = Vec::new();
            let kept = Kept {
                wakers,
                kept_since_look: false,
                kept_at_look: false,
                looked_after: false,
                unkept: 0,
            };
            Arc::new(Shared { nudge, kept: BriefLock::new(kept) })
        });
        KeptWakers { shared, on_threads }
    }

    /// Whether one thread may be kept busy while another runs tasks. (True of a single worker, too:
    /// where it blocks in `block_in_place`, another takes its place.)
    pub(crate) fn on_threads(&self) -> bool {
        self.on_threads
    }

    /// Wakes the kept wakers, on a thread that may go on to something else.
    pub(crate) fn send(&self) {
        if self.shared.as_ref().is_some_and(|shared| shared.send()) {
            IN_LIFO_SLOT.set(true);
        }
    }

    pub(crate) fn id(&self) -> PipelineId {
        self.shared.as_ref().map_or(PipelineId::NONE, PipelineId::of)
    }

    pub(crate) fn turns(&self) -> Turns {
        Turns(Cell::new(self.shared.as_ref().map(|shared| {
            Box::new(TaskState {
                shared: Arc::clone(shared),
                keeps: false,
                has_kept: false,
                brisk: 0,
                since: None,
                turns: 0,
                step: 0,
            })
        })))
    }
}

impl Turns {
    /// Runs a turn of the task.
    #[inline]
    pub(crate) fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        let _turn = HasTurn::begin(self);
        poll()
    }
}

/// A task's turn on this thread, until this is dropped.
struct HasTurn<'a> {
    turns: &'a Turns,
    before: Before,
}

/// The thread's state before this turn: user code in another turn may run a pipeline of its own.
struct Before {
    task: Option<Box<TaskState>>,
    keeps: PipelineId,
    has_other_threads: bool,
    in_lifo_slot: bool,
    step: u32,
}

impl<'a> HasTurn<'a> {
    #[inline]
    fn begin(turns: &'a Turns) -> Self {
        let mine = turns.0.take();
        let (in_lifo_slot, step) = (IN_LIFO_SLOT.replace(false), STEP.get());
        let has_other_threads = HAS_OTHER_THREADS.replace(mine.is_some());
        let keeps = KEEPS.replace(PipelineId::NONE);
        let mut task = None;
        if let Some(mut mine) = mine {
            mine.turns = mine.turns.saturating_add(1);
            if mine.keeps && mine.turns <= TURNS {
                KEEPS.set(PipelineId::of(&mine.shared));
            }
            STEP.set(mine.step);
            task = TASK.try_with(|task| task.replace(Some(mine))).ok().flatten();
        }
        HasTurn { turns, before: Before { task, keeps, has_other_threads, in_lifo_slot, step } }
    }
}

impl Drop for HasTurn<'_> {
    #[inline]
    fn drop(&mut self) {
        let keeps = KEEPS.replace(self.before.keeps);
        let step = STEP.replace(self.before.step);
        IN_LIFO_SLOT.set(self.before.in_lifo_slot);
        if !HAS_OTHER_THREADS.replace(self.before.has_other_threads) {
            return;
        }
        let before = self.before.task.take();
        let mine = TASK.try_with(|task| task.replace(before)).ok().flatten();
        let Some(mut mine) = mine else { return };
        (mine.keeps, mine.step) = (keeps != PipelineId::NONE, step);
        if std::mem::take(&mut mine.has_kept) {
            mine.shared.send();
        }
        self.turns.0.set(Some(mine));
    }
}

/// Calls `f` with the state of the task whose turn it is. `f` runs no user code.
fn in_turn<R>(f: impl FnOnce(&mut TaskState) -> R) -> Option<R> {
    let at_the_end_of_a_thread = TASK.try_with(|task| {
        let mut known = task.take()?;
        let result = f(&mut known);
        task.set(Some(known));
        Some(result)
    });
    at_the_end_of_a_thread.ok().flatten()
}

impl Shared {
    /// Keeps the waker, or gives it back. `Ok`: whether the timer thread looks already.
    fn keep(&self, waker: Waker) -> Result<bool, Waker> {
        let mut kept = self.kept.lock();
        if kept.unkept > 0 {
            kept.unkept -= 1;
            return Err(waker);
        }
        // Set before the next look: one that finds it unset, and no waker, is the last.
        kept.kept_since_look = true;
        kept.wakers.push(waker);
        Ok(std::mem::replace(&mut kept.looked_after, true))
    }

    /// Has the timer thread look, now that a waker is kept.
    #[cold]
    fn have_looked_after(this: &Arc<Self>) {
        let of = Arc::downgrade(this);
        let look = move || of.upgrade().is_some_and(|shared| shared.look());
        if look_often(look).is_err() {
            let mut kept = this.kept.lock();
            (kept.looked_after, kept.unkept) = (false, UNKEPT);
            drop(kept);
            this.send();
            IN_LIFO_SLOT.set(true);
        }
    }

    /// Wakes all kept wakers; returns whether there were any. The first one kept is woken last, so
    /// its task runs next on this thread: it waits for what this turn has made first.
    fn send(&self) -> bool {
        let mut sent = false;
        loop {
            let mut kept = self.kept.lock();
            kept.kept_at_look = false;
            let waker = kept.wakers.pop();
            let is_last = kept.wakers.is_empty();
            drop(kept);
            sent |= waker.is_some();
            wake(waker);
            if is_last {
                return sent;
            }
        }
    }

    /// Invariant 1, on the timer thread. Returns whether to look again.
    fn look(&self) -> bool {
        let mut kept = self.kept.lock();
        let kept_since_look = std::mem::take(&mut kept.kept_since_look);
        if !kept.kept_at_look {
            kept.kept_at_look = !kept.wakers.is_empty();
            kept.looked_after = kept_since_look || kept.kept_at_look;
            return kept.looked_after;
        }
        (kept.kept_at_look, kept.looked_after, kept.unkept) = (false, false, UNKEPT);
        let wakers = std::mem::take(&mut kept.wakers);
        drop(kept);
        wake(wakers);
        false
    }
}

/// Wakes at once; the last task woken runs next on this thread.
#[inline]
pub(crate) fn wake_now(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        note_woken();
        contain_panic(|| waker.wake());
    }
}

/// The same for wakers that wait at a channel of this pipeline: at once, or when this turn is over.
#[inline]
pub(crate) fn wake_at(pipeline: PipelineId, wakers: impl IntoIterator<Item = Waker>) {
    let keeps = pipeline != PipelineId::NONE && KEEPS.get() == pipeline;
    for waker in wakers {
        wake_now(if keeps { keep(waker) } else { Some(waker) });
    }
}

/// Keeps the waker, or gives it back.
#[inline(never)]
fn keep(waker: Waker) -> Option<Waker> {
    let mut waker = Some(waker);
    let unwatched = in_turn(|task| match task.shared.keep(waker.take()?) {
        Ok(is_watched) => {
            task.has_kept = true;
            (!is_watched).then(|| Arc::clone(&task.shared))
        }
        Err(back) => {
            waker = Some(back);
            None
        }
    });
    if let Some(shared) = unwatched.flatten() {
        Shared::have_looked_after(&shared);
    }
    waker
}

/// Notes that a task has been woken, spawned or aborted, and runs next on this thread.
pub(crate) fn note_woken() {
    IN_LIFO_SLOT.set(true);
}

/// Whether a task has been woken in this turn and not been [freed](free_woken) since.
pub(crate) fn has_woken() -> bool {
    IN_LIFO_SLOT.get() && HAS_OTHER_THREADS.get()
}

/// Frees woken tasks for other threads: what comes now may keep this one busy.
#[inline]
pub(crate) fn free_woken() {
    if IN_LIFO_SLOT.replace(false) && HAS_OTHER_THREADS.get() {
        nudge();
    }
}

#[inline(never)]
fn nudge() {
    let shared = in_turn(|task| Arc::clone(&task.shared));
    // Spawning may run user code as well.
    contain_panic(|| match shared {
        Some(shared) => shared.nudge.nudge(),
        // Not in a turn: perhaps in a task of the user's.
        None => {
            let nudge = Nudge::here();
            if nudge.is_needed() {
                nudge.nudge();
            }
        }
    });
}

/// Counts a step of user code: a use of its end of a channel.
#[inline]
pub(crate) fn step() {
    if !HAS_OTHER_THREADS.get() {
        return;
    }
    STEP.set(STEP.get() + 1);
    if STEP.get() == STEPS {
        steps();
    }
    // Also those that `steps` has just woken, if the task keeps no more.
    free_woken();
}

#[inline(never)]
fn steps() {
    STEP.set(0);
    let now = real_now();
    let before = in_turn(|task| std::mem::replace(&mut task.since, now)).flatten();
    was_brisk(now.zip(before).is_some_and(|(now, before)| now - before < Turn::TIME));
}

/// Notes whether the task's latest steps were brisk.
pub(crate) fn was_brisk(is_brisk: bool) {
    if !HAS_OTHER_THREADS.get() {
        return;
    }
    let brisk = in_turn(|task| {
        let is_brisk = is_brisk && task.turns <= TURNS;
        task.brisk = if is_brisk { (task.brisk + 1).min(BRISK) } else { 0 };
        task.brisk
    });
    set_keeping(brisk == Some(BRISK));
}

/// Ends keeping, and frees what has been woken: no further item comes from where the task asked,
/// and what it does or drops now may take its time.
pub(crate) fn stop_keeping() {
    if !HAS_OTHER_THREADS.get() {
        return;
    }
    in_turn(|task| task.brisk = 0);
    set_keeping(false);
    free_woken();
}

/// Sets whether this task keeps wakers from now on.
pub(crate) fn set_keeping(may: bool) {
    if !HAS_OTHER_THREADS.get() {
        return;
    }
    let keeps = may && is_in_real_time();
    let kept = in_turn(|task| {
        task.turns = 0;
        KEEPS.set(if keeps { PipelineId::of(&task.shared) } else { PipelineId::NONE });
        let sends = !keeps && std::mem::take(&mut task.has_kept);
        sends.then(|| Arc::clone(&task.shared))
    });
    if let Some(shared) = kept.flatten() {
        shared.send();
        IN_LIFO_SLOT.set(true);
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests;
