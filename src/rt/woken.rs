//! Whom a turn has woken, and when they come.
//!
//! What a task wakes last, tokio keeps for the thread of that task, however long it goes on.
//! So a task that has woken another, and goes on to what may take its time, leaves that to other
//! threads first: by a nudge, a task of nothing that takes its place in tokio's LIFO slot.
//!
//! That takes as long as several quick items do, and has a thread come that is in the way of
//! this one. So a task that has long been brisk keeps whom it wakes until its turn is over,
//! which is soon. Should it not be, the timer thread wakes them. It keeps those only who wait
//! at its own pipeline's channels: any other may be somebody for whom the user's code waits.
//!
//! # Invariants
//!
//! 1. Who is kept is woken when a turn of the pipeline's ends that has kept somebody, however
//!    it ends; or before: when that task keeps nobody any more, when the pipeline ends, or at the
//!    second look of the timer thread's at the latest. Nobody is kept where nobody looks.
//! 2. A task keeps others that has been brisk [`BRISK`] times in a row, or that the timer
//!    thread looks after anyway, and for [`TURNS`] turns at most before it has shown that again.
//!    Where one has hung nobody is kept for a while.
//! 3. Nobody is kept under a checker, nor where one thread runs all tasks. (Models have tasks
//!    of their own, see `by_thread`.)

use super::task::{Nudge, undisturbed, wake};
use super::{Turn, is_in_real_time, look_often, real_now};
use crate::sync::{Arc, BriefLock};
use std::cell::Cell;
use std::task::Waker;
use std::time::Instant;

/// After so many steps of the user's code the clock is looked at. What is brisk takes less than
/// [`Turn::TIME`] for them, waits included.
const STEPS: u32 = Turn::STEPS;

/// So often a task has to be brisk before it keeps anybody.
const BRISK: u32 = 16;

/// Who needs more turns for that has no long ones to shorten.
const TURNS: u32 = 2;

/// So many are not kept after somebody had to wait for two looks: to have kept these would have
/// saved about as much.
const UNKEPT: u32 = 20_000;

std::thread_local! {
    /// Whether a task has been woken that lies in this thread's LIFO slot, where no other thread
    /// finds it until this one gets on.
    static WOKE: Cell<bool> = const { Cell::new(false) };
    /// Whether that matters: it may be that there are other threads.
    static MATTERS: Cell<bool> = const { Cell::new(true) };
    /// The pipeline at whose channels those wait who are kept in this turn.
    static KEEPS: Cell<PipelineId> = const { Cell::new(PipelineId::NONE) };
    /// How many steps the user's code has made.
    static STEP: Cell<u32> = const { Cell::new(0) };
    /// What the task whose turn it is knows of itself.
    static TASK: Cell<Option<Box<Known>>> = const { Cell::new(None) };
}

/// Which pipeline a channel is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PipelineId(usize);

impl PipelineId {
    /// None.
    pub(crate) const NONE: PipelineId = PipelineId(0);

    fn of(shared: &Arc<Shared>) -> Self {
        PipelineId(Arc::as_ptr(shared).addr())
    }
}

/// Whom the tasks of a pipeline keep.
pub(crate) struct Woken {
    /// `None` where one thread runs them all: nobody.
    shared: Option<Arc<Shared>>,
    on_threads: bool,
}

struct Shared {
    nudge: Nudge,
    kept: BriefLock<Kept>,
}

struct Kept {
    wakers: Vec<Waker>,
    /// Whether anybody has been kept since the last look.
    used: bool,
    /// Whether that look found somebody who is there still.
    seen: bool,
    /// Whether there will be another.
    looked_after: bool,
    /// How many more are to be woken at once.
    unkept: u32,
}

/// What a task knows of itself from turn to turn; nothing, where there is but one thread.
pub(crate) struct Hand(Cell<Option<Box<Known>>>);

struct Known {
    shared: Arc<Shared>,
    keeps: bool,
    /// Whether it has kept anybody in this turn.
    has_kept: bool,
    /// How often it has been brisk, since when it may be so once more, and for how many turns
    /// and steps.
    brisk: u32,
    since: Option<Instant>,
    turns: u32,
    step: u32,
}

impl Woken {
    /// For tasks of the runtime that is ambient here.
    pub(crate) fn here() -> Self {
        let nudge = Nudge::here();
        let on_threads = nudge.on_threads();
        let shared = nudge.is_needed().then(|| {
            let wakers = Vec::new();
            let kept = Kept { wakers, used: false, seen: false, looked_after: false, unkept: 0 };
            Arc::new(Shared { nudge, kept: BriefLock::new(kept) })
        });
        Woken { shared, on_threads }
    }

    /// Whether one thread may be kept while another runs tasks. (Of a single worker that is so,
    /// too: where it blocks by `block_in_place`, another takes its place.)
    pub(crate) fn on_threads(&self) -> bool {
        self.on_threads
    }

    /// Wakes those who are kept, on a thread that may go on to something else.
    pub(crate) fn send(&self) {
        if self.shared.as_ref().is_some_and(|shared| shared.send()) {
            WOKE.set(true);
        }
    }

    pub(crate) fn id(&self) -> PipelineId {
        self.shared.as_ref().map_or(PipelineId::NONE, PipelineId::of)
    }

    pub(crate) fn hand(&self) -> Hand {
        Hand(Cell::new(self.shared.as_ref().map(|shared| {
            Box::new(Known {
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

impl Hand {
    /// Runs a turn of the task.
    #[inline]
    pub(crate) fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        let _turn = HasTurn::begin(self);
        poll()
    }
}

/// Until it is dropped, a task has its turn on this thread.
struct HasTurn<'a> {
    hand: &'a Hand,
    before: Before,
}

/// The turn in which this one is had, if there is one: the user's code may run another pipeline.
struct Before {
    task: Option<Box<Known>>,
    keeps: PipelineId,
    matters: bool,
    woke: bool,
    step: u32,
}

impl<'a> HasTurn<'a> {
    #[inline]
    fn begin(hand: &'a Hand) -> Self {
        let mine = hand.0.take();
        let (woke, step) = (WOKE.replace(false), STEP.get());
        let matters = MATTERS.replace(mine.is_some());
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
        HasTurn { hand, before: Before { task, keeps, matters, woke, step } }
    }
}

impl Drop for HasTurn<'_> {
    #[inline]
    fn drop(&mut self) {
        let keeps = KEEPS.replace(self.before.keeps);
        let step = STEP.replace(self.before.step);
        WOKE.set(self.before.woke);
        if !MATTERS.replace(self.before.matters) {
            return;
        }
        let before = self.before.task.take();
        let mine = TASK.try_with(|task| task.replace(before)).ok().flatten();
        let Some(mut mine) = mine else { return };
        (mine.keeps, mine.step) = (keeps != PipelineId::NONE, step);
        if std::mem::take(&mut mine.has_kept) {
            mine.shared.send();
        }
        self.hand.0.set(Some(mine));
    }
}

/// Looks at the task whose turn it is. Nobody's code runs meanwhile.
fn in_turn<R>(f: impl FnOnce(&mut Known) -> R) -> Option<R> {
    let at_the_end_of_a_thread = TASK.try_with(|task| {
        let mut known = task.take()?;
        let result = f(&mut known);
        task.set(Some(known));
        Some(result)
    });
    at_the_end_of_a_thread.ok().flatten()
}

impl Shared {
    /// Keeps it, or gives it back. Whether somebody looks already.
    fn keep(&self, waker: Waker) -> Result<bool, Waker> {
        let mut kept = self.kept.lock();
        if kept.unkept > 0 {
            kept.unkept -= 1;
            return Err(waker);
        }
        // Before anybody looks: who finds nobody does not come again.
        kept.used = true;
        kept.wakers.push(waker);
        Ok(std::mem::replace(&mut kept.looked_after, true))
    }

    /// Somebody is kept, so the timer thread has to look.
    #[cold]
    fn have_looked_after(this: &Arc<Self>) {
        let of = Arc::downgrade(this);
        let look = move || of.upgrade().is_some_and(|shared| shared.look());
        if look_often(look).is_err() {
            let mut kept = this.kept.lock();
            (kept.looked_after, kept.unkept) = (false, UNKEPT);
            drop(kept);
            this.send();
            WOKE.set(true);
        }
    }

    /// Wakes all who are kept; whether there were any. The first of them comes next on this
    /// thread: it waits for what this turn has made first.
    fn send(&self) -> bool {
        let mut sent = false;
        loop {
            let mut kept = self.kept.lock();
            kept.seen = false;
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

    /// Invariant 1, on the timer thread. Whether it has to look again.
    fn look(&self) -> bool {
        let mut kept = self.kept.lock();
        let used = std::mem::take(&mut kept.used);
        if !kept.seen {
            kept.seen = !kept.wakers.is_empty();
            kept.looked_after = used || kept.seen;
            return kept.looked_after;
        }
        (kept.seen, kept.looked_after, kept.unkept) = (false, false, UNKEPT);
        let wakers = std::mem::take(&mut kept.wakers);
        drop(kept);
        wake(wakers);
        false
    }
}

/// Wakes them, whose turn comes next on this thread.
#[inline]
pub(crate) fn wake_now(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        note_woken();
        undisturbed(|| waker.wake());
    }
}

/// The same, for those who wait at a channel of this pipeline: now, or when this turn is over.
#[inline]
pub(crate) fn wake_at(pipeline: PipelineId, wakers: impl IntoIterator<Item = Waker>) {
    let keeps = pipeline != PipelineId::NONE && KEEPS.get() == pipeline;
    for waker in wakers {
        wake_now(if keeps { keep(waker) } else { Some(waker) });
    }
}

/// Keeps it, or gives it back.
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

/// Somebody comes next: woken, spawned, or aborted.
pub(crate) fn note_woken() {
    WOKE.set(true);
}

/// Whether somebody has been woken in this turn who has not been [freed](free_woken) since.
pub(crate) fn has_woken() -> bool {
    WOKE.get() && MATTERS.get()
}

/// Whoever has been woken is free to come on another thread: what comes now may keep this one.
#[inline]
pub(crate) fn free_woken() {
    if WOKE.replace(false) && MATTERS.get() {
        nudge();
    }
}

#[inline(never)]
fn nudge() {
    let shared = in_turn(|task| Arc::clone(&task.shared));
    // It spawns, which may be the user's code as well.
    undisturbed(|| match shared {
        Some(shared) => shared.nudge.nudge(),
        // Not in a turn: it may be in a task of the user's.
        None => {
            let nudge = Nudge::here();
            if nudge.is_needed() {
                nudge.nudge();
            }
        }
    });
}

/// The user's code gets on, by an end of a channel in its hands.
#[inline]
pub(crate) fn step() {
    if !MATTERS.get() {
        return;
    }
    STEP.set(STEP.get() + 1);
    if STEP.get() == STEPS {
        steps();
    }
    // Those too who have just been kept for the last time.
    free_woken();
}

#[inline(never)]
fn steps() {
    STEP.set(0);
    let now = real_now();
    let before = in_turn(|task| std::mem::replace(&mut task.since, now)).flatten();
    was_brisk(now.zip(before).is_some_and(|(now, before)| now - before < Turn::TIME));
}

/// Whether the latest steps of this task were brisk.
pub(crate) fn was_brisk(is_brisk: bool) {
    if !MATTERS.get() {
        return;
    }
    let brisk = in_turn(|task| {
        let is_brisk = is_brisk && task.turns <= TURNS;
        task.brisk = if is_brisk { (task.brisk + 1).min(BRISK) } else { 0 };
        task.brisk
    });
    keep_woken(brisk == Some(BRISK));
}

/// No further item comes to this task, from where it asked. What it does now, and what goes with
/// it, may take its time.
pub(crate) fn keep_no_more() {
    if !MATTERS.get() {
        return;
    }
    in_turn(|task| task.brisk = 0);
    keep_woken(false);
    free_woken();
}

/// Whether this task keeps those whom it wakes from now on.
pub(crate) fn keep_woken(may: bool) {
    if !MATTERS.get() {
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
        WOKE.set(true);
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests;
