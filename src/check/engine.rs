//! The state of the schedule that is running on this thread.
//!
//! One thread runs a body and all its tasks, so the state needs no lock: see `current`.
//!
//! # Invariants
//!
//! 1. No user code runs while the engine is borrowed: futures, wakers, bells, contexts and names
//!    that go are moved out first and dropped afterwards.
//! 2. A task is in `ready` once if it is `Queued`, else not at all.
//! 3. A decision depends on the decisions before it and on nothing else: no address, no system
//!    time, no order of a hash table. So the same deviations give the same schedule.
//! 4. Decisions are numbered by `at`, whatever the strategy answers.
//! 5. Tasks that come into line between two decisions line up by number, because some libraries
//!    wake in random order. (tokio's `watch` draws one of eight lists for each waiter.)

mod injection;
mod looks;

use super::clock::{Armed, Clock};
pub(super) use super::current::{enter, here, leave, try_with, with};
use super::inject::Inject;
use super::label::Labels;
use super::log::{Log, What, rank};
use super::pulse::Pulse;
use super::signal;
pub(super) use super::step::{Hand, Landed, Limits, Step, Trouble, Turned};
use super::strategy::{Deviation, Length, Strategy, Turn};
use super::task::mixed;
pub(super) use super::task::{Future, State, Task};
use crate::context::Canceller;
use crate::rt::Work;
use crate::rt::probe::Wait;
use crate::rt::world::{self, Look};
use crate::sync::Arc;
use std::collections::VecDeque;

/// What a wait for the end of a task is called.
pub(super) const JOIN: &str = "the end of a task";
/// The body is a task like the others, the first.
pub(super) const BODY: u32 = 0;
/// No task is being polled.
pub(super) const NOBODY: u32 = u32::MAX;

pub(super) struct Engine {
    /// The engine of the checker in whose body this one's checker runs.
    pub(super) around: Option<Box<Engine>>,
    /// No other engine has it. Its own world finds it by this, also from a body inside.
    pub(super) number: usize,
    pub(super) run: usize,
    /// `run`, for other threads.
    running: signal::Running,
    /// The mark of its watched contexts.
    pub(super) mark: u16,
    pub(super) kind: Inject,
    pub(super) limits: Limits,
    pub(super) strategy: Box<dyn Strategy>,
    pub(super) tasks: Vec<Task>,
    pub(super) labels: Labels,
    /// How many tasks have not ended, the body included.
    pub(super) alive: u32,
    /// The most that were alive at once.
    most_alive: u32,
    ready: VecDeque<u32>,
    /// How many were in line at the last decision.
    in_line: usize,
    pub(super) current: u32,
    pub(super) clock: Clock,
    /// The time beyond which the clock does not move.
    pub(super) until: Option<u64>,
    pub(super) canceller: Option<Canceller>,
    /// The canceller of a root that nothing kept, laid aside for the next schedule.
    pub(super) root: Option<Canceller>,
    at: u32,
    pub(super) hash: u64,
    pub(super) points: u32,
    turns: u32,
    pub(super) steps: u32,
    steps_left: u32,
    /// How many steps there had been when time last moved because no task was ready.
    idle_at: Option<u32>,
    /// How many looks this turn has left; an await that did not have to wait counts as one.
    looks_left: u32,
    /// Looks of this turn that are not in the hash yet.
    looks: u32,
    pub(super) looked: bool,
    /// Whether anything since the last point would have gone otherwise had the context already
    /// ended.
    pub(super) stirred: bool,
    /// Whether functions run when a context ends: they may do anything.
    funcs: bool,
    /// Whether a task has waited for the end of a context, and may be woken by it.
    waited: bool,
    pub(super) body_ended: bool,
    pub(super) landed: Option<Landed>,
    /// Whether the injection came because a maximum was reached.
    pub(super) cut: bool,
    pub(super) taken: Vec<Deviation>,
    pub(super) contexts: i64,
    /// A hash of the lines that made those.
    pub(super) made_at: u64,
    pub(super) trouble: Option<Trouble>,
    /// The first item that was lost. The schedule goes on.
    pub(super) lost: Option<Trouble>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) sometimes: Vec<(&'static str, bool)>,
    /// What to call once this turn is over.
    pub(super) later: Vec<Work>,
    /// Whether the schedule is over and what is left of it is being dropped.
    pub(super) closing: bool,
    pub(super) log: Option<Box<Log>>,
}

impl Engine {
    pub(super) fn new(
        kind: Inject,
        limits: Limits,
        labels: Labels,
        strategy: Box<dyn Strategy>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Engine {
            around: None,
            number: signal::new_number(),
            run: 0,
            running: signal::Running::none(),
            mark: 0,
            kind,
            limits,
            strategy,
            tasks: Vec::new(),
            labels,
            alive: 0,
            most_alive: 0,
            ready: VecDeque::new(),
            in_line: 0,
            current: NOBODY,
            clock: Clock::new(),
            until: None,
            canceller: None,
            root: None,
            at: 0,
            hash: 0,
            points: 0,
            turns: 0,
            steps: 0,
            steps_left: 0,
            idle_at: None,
            looks_left: 0,
            looks: 0,
            looked: false,
            stirred: false,
            funcs: false,
            waited: false,
            body_ended: false,
            landed: None,
            cut: false,
            taken: Vec::new(),
            contexts: 0,
            made_at: 0,
            trouble: None,
            lost: None,
            pulse,
            sometimes: Vec::new(),
            later: Vec::new(),
            closing: false,
            log: None,
        }
    }

    /// Prepares for a new schedule. What the last one left has been taken out.
    pub(super) fn reset(&mut self, run: usize) {
        self.runs(run);
        self.mark = (run % usize::from(u16::MAX)) as u16 + 1;
        (self.alive, self.most_alive, self.in_line) = (0, 0, 0);
        self.ready.clear();
        self.current = NOBODY;
        self.until = None;
        (self.at, self.points, self.turns, self.steps) = (0, 0, 0, 0);
        self.hash = 0;
        (self.steps_left, self.idle_at) = (self.limits.steps, None);
        (self.looks_left, self.looks) = (self.limits.steps, 0);
        (self.stirred, self.funcs, self.waited, self.body_ended) = (true, false, false, false);
        (self.landed, self.cut, self.closing, self.looked) = (None, false, false, false);
        self.taken.clear();
        (self.contexts, self.made_at) = (0, 0);
        (self.trouble, self.lost) = (None, None);
    }

    /// Notes which schedule it runs; zero: from here on, marks and signals of the last mean nothing.
    pub(super) fn runs(&mut self, run: usize) {
        self.run = run;
        self.running.set(run);
    }

    /// The engine of that schedule: this one or one around it.
    #[inline]
    pub(super) fn of_run(&mut self, run: usize) -> Option<&mut Engine> {
        if run == self.run { Some(self) } else { self.around.as_mut()?.of_run(run) }
    }

    /// The engine of that number: this one or one around it.
    #[inline]
    pub(super) fn of_number(&mut self, number: usize) -> Option<&mut Engine> {
        if number == self.number { Some(self) } else { self.around.as_mut()?.of_number(number) }
    }

    /// The engine of the schedule whose contexts carry `mark`.
    #[inline]
    pub(super) fn of_mark(&mut self, mark: u16) -> Option<&mut Engine> {
        if mark == self.mark { Some(self) } else { self.around.as_mut()?.of_mark(mark) }
    }

    #[inline]
    pub(super) fn mix(&mut self, with: u64) {
        self.hash = mixed(self.hash, with);
    }

    #[inline]
    fn short_hash(&self) -> u32 {
        (self.hash >> 32) as u32
    }

    #[inline]
    pub(super) fn note(&mut self, task: u32, what: impl FnOnce() -> What) {
        if let Some(log) = self.log.as_mut().filter(|_| !self.closing) {
            log.add(self.clock.now(), task, what());
        }
    }

    /// Whether to give other threads time to wake a task: if nothing else is wrong, and the
    /// schedule is to be told in full.
    pub(super) fn waits_for_threads(&self) -> bool {
        self.trouble.is_none() && self.log.as_ref().is_some_and(|log| !log.brief)
    }

    // ------------------------------------------------------------------ tasks

    pub(super) fn add(&mut self, future: Option<Future>, label: u32, address: usize) -> u32 {
        self.pulse.learn(&self.labels);
        let task = self.tasks.len() as u32;
        self.tasks.push(Task::new(future, label, address));
        self.alive += 1;
        // A large crowd is not busy; one that never stops growing is. So are tasks that, after they
        // were told to stop, each begin another in their place.
        let grows = self.alive > self.most_alive;
        self.most_alive = self.most_alive.max(self.alive);
        if (500..100_000).contains(&task) && (grows || self.landed.is_none()) {
            self.steps_left = self.steps_left.saturating_add(20);
        }
        self.ready.push_back(task);
        self.mix(u64::from(self.labels.hash(label)));
        let by = self.current;
        self.note(by, || What::Spawned { task });
        task
    }

    /// Wakes a task: called by its waker.
    pub(super) fn wake(&mut self, task: u32) {
        if self.closing {
            return;
        }
        let by = self.current;
        let Some(woken) = self.tasks.get_mut(task as usize) else { return };
        // Two comparisons: a `match` would be a jump that the processor mostly mispredicts.
        if woken.state == State::Idle {
            woken.state = State::Queued;
            self.ready.push_back(task);
        } else if woken.state == State::Running(false) {
            woken.state = State::Running(true);
            woken.again += 1;
        } else {
            return;
        }
        woken.sees(u64::from(by) << 8 | 8);
        self.note(task, || What::Woken { by });
    }

    /// Has a task dropped when its turn comes: no runtime aborts at once.
    pub(super) fn abort(&mut self, task: u32) {
        if let Some(aborted) = self.tasks.get_mut(task as usize) {
            if aborted.state != State::Ended {
                aborted.aborted = true;
                let by = self.current;
                self.note(task, || What::Aborted { by });
                self.wake(task);
            }
        }
    }

    /// Ends the turn of a task that was polled and goes on.
    #[inline]
    fn pending(&mut self, task: u32, future: Option<Future>) {
        self.current = NOBODY;
        self.settle_looks();
        let polled = &mut self.tasks[task as usize];
        polled.future = future;
        let again = polled.state == State::Running(true) || polled.aborted;
        polled.state = if again { State::Queued } else { State::Idle };
        if again {
            self.ready.push_back(task);
        }
        if let Some(log) = self.log.as_mut().filter(|_| !self.closing && !again) {
            log.turn_is_over(self.clock.now(), task);
        }
    }

    /// Ends a task.
    pub(super) fn ended(&mut self, task: u32) {
        self.current = NOBODY;
        self.settle_looks();
        let before = std::mem::replace(&mut self.tasks[task as usize].state, State::Ended);
        if before == State::Queued {
            // The body was dropped. Any other task ends in its own turn, when it is not in line.
            self.line_up();
            self.ready.retain(|&queued| queued != task);
            self.in_line = self.ready.len();
        }
        self.alive -= 1;
        self.mix(u64::from(task) << 8 | 1);
        self.note(task, || What::Ended);
    }

    // -------------------------------------------------------------- decisions

    /// Ends the last step and decides on the next.
    pub(super) fn step(&mut self, turned: Turned, hand: &mut Hand) -> Step {
        if self.ready.len() > self.in_line + 1 {
            self.line_up();
        }
        match turned {
            Turned::Nobody => {}
            Turned::Waits(task) => self.pending(task, hand.future.take()),
            Turned::Ended(task) => self.ended(task),
        }
        if signal::is_any_elsewhere() {
            self.note_threads();
        }
        let step = self.next(hand);
        self.in_line = self.ready.len();
        step
    }

    /// Upholds invariant 5.
    fn line_up(&mut self) {
        if !self.ready.range(self.in_line..).is_sorted() {
            self.ready.make_contiguous()[self.in_line..].sort_unstable();
        }
    }

    /// Notes a wake from another thread, if there was one. True: it is the first thing to go wrong.
    #[cold]
    pub(super) fn note_threads(&mut self) -> bool {
        let Some(task) = signal::from_other_threads(self.run) else { return false };
        let first = self.trouble.is_none();
        if first {
            self.trouble = Some(Trouble::Threads { task });
        }
        first
    }

    // `next` and what it calls at each step have one caller each. As calls they take 2% of a
    // schedule's instructions.
    #[inline(always)]
    fn next(&mut self, hand: &mut Hand) -> Step {
        if self.trouble.is_some() {
            return Step::Stuck;
        }
        if !self.later.is_empty() {
            return Step::Call;
        }
        // A bell that was armed for a time already past, or that a jump has passed.
        if self.clock.next().is_some_and(|due| due <= self.clock.now()) {
            return Step::Tick;
        }
        if self.alive == 0 {
            return Step::Quiet;
        }
        if self.ready.is_empty() {
            return self.idle();
        }
        if self.steps_left == 0 {
            return self.out_of_steps();
        }
        if self.kind != Inject::Panic && self.point() {
            return Step::Strike;
        }
        let time = self.clock.next().is_some_and(|due| self.may_move_to(due));
        let mut passed_over = 0;
        if self.ready.len() > 1 || time {
            passed_over = self.turn(time);
            if passed_over == self.ready.len() {
                self.extend_until();
                return if self.jumps_next() { Step::Strike } else { Step::Tick };
            }
        }
        let task = self.take_after(passed_over);
        self.steps += 1;
        self.steps_left -= 1;
        self.looks_left = self.limits.steps;
        self.current = task;
        self.mix(u64::from(task) << 8 | 2);
        let landed = self.landed.is_some();
        let polled = &mut self.tasks[task as usize];
        // Invariant 2: it is no longer in line.
        polled.state = State::Running(false);
        hand.future = polled.future.take();
        self.pulse.beats(polled.label);
        if polled.aborted {
            return Step::Drop(task);
        }
        (polled.wait, polled.waits_twice, polled.last_turn) = (None, false, self.steps);
        polled.sees(u64::from(landed));
        self.only_count();
        hand.waker = match &mut self.log {
            None => signal::waker(self.run, task),
            Some(log) => {
                log.add(self.clock.now(), task, What::Polled);
                log.waker(self.run, task)
            }
        };
        Step::Poll(task)
    }

    /// Tells the watchdog which task has the thread now, to be polled or dropped.
    pub(super) fn beats(&self, task: u32) {
        self.pulse.beats(self.tasks[task as usize].label);
    }

    /// The task whose turn it is after this many are passed over. Those go to the end of the line.
    #[inline(always)]
    fn take_after(&mut self, mut passed_over: usize) -> u32 {
        // For a few, one by one is faster.
        if passed_over > 8 {
            self.ready.rotate_left(passed_over);
            passed_over = 0;
        }
        loop {
            let first = self.ready.pop_front().expect("not empty");
            if passed_over == 0 {
                return first;
            }
            passed_over -= 1;
            self.ready.push_back(first);
        }
    }

    /// Decides when no task is ready.
    fn idle(&mut self) -> Step {
        let Some(due) = self.clock.next() else {
            return if self.may_come_by_itself() { Step::Strike } else { Step::Stuck };
        };
        if self.until.is_some_and(|until| due > until) {
            return Step::Stuck;
        }
        if self.steps_left == 0 && self.idle_at == Some(self.steps) {
            // No task keeps another awake.
            self.tasks.iter_mut().for_each(|task| task.again = 0);
            return self.out_of_steps();
        }
        if self.jumps_next() || (self.kind != Inject::Panic && self.point()) {
            return Step::Strike;
        }
        // If time has only called functions since it last moved here, that costs a step: they may
        // arm themselves again for ever. If it has woken a task, the task's turn has cost one.
        if self.idle_at.replace(self.steps) == Some(self.steps) {
            self.steps_left -= 1;
        }
        Step::Tick
    }

    /// Nothing goes on after `max_steps`, unless the injection is still to come.
    fn out_of_steps(&mut self) -> Step {
        if self.may_come_by_itself() {
            self.cut = true;
            Step::Strike
        } else {
            Step::Busy
        }
    }

    /// Time is about to move although tasks are ready. They are not to blame for that, so it does
    /// not count as time that they have to stop.
    fn extend_until(&mut self) {
        let passes = self.clock.next().map_or(0, |due| due - self.clock.now());
        self.until = self.until.map(|until| until.saturating_add(passes));
    }

    fn may_move_to(&self, due: u64) -> bool {
        self.until.is_none_or(|until| due <= until)
    }

    /// How many of the ready tasks are passed over; all of them if time moves instead.
    #[inline(always)]
    fn turn(&mut self, time: bool) -> usize {
        let at = self.at;
        self.at += 1;
        self.turns += 1;
        let turn = Turn { at, hash: self.short_hash(), ready: &self.ready, time };
        let options = turn.options();
        let value = self.strategy.turn(&turn);
        if value == 0 || value >= options {
            return 0;
        }
        self.taken.push(Deviation { at, value });
        self.mix(u64::from(value) << 8 | 3);
        if self.log.is_some() {
            self.note_passed_over(value);
        }
        value as usize
    }

    fn note_passed_over(&mut self, value: u32) {
        if value as usize == self.ready.len() {
            return self.note(NOBODY, || What::TimeFirst);
        }
        let passed: Vec<_> = self.ready.iter().take(value as usize).copied().collect();
        for task in passed {
            self.note(task, || What::PassedOver);
        }
    }

    /// `rt::choose`.
    pub(super) fn choose(&mut self, of: usize) -> usize {
        if self.closing {
            return 0;
        }
        let of = u32::try_from(of).unwrap_or(u32::MAX - 1);
        let at = self.at;
        self.at += 1;
        let value = self.strategy.choose(at, self.short_hash(), of);
        let value = if value < of { value } else { 0 };
        if value > 0 {
            self.taken.push(Deviation { at, value });
        }
        self.mix(u64::from(value) << 8 | 4);
        let by = self.current;
        if let Some(task) = self.tasks.get_mut(by as usize) {
            task.sees(u64::from(value) << 8 | 4);
        }
        self.note(by, || What::Chose { value, of });
        value as usize
    }

    /// Whether the end of the root would reach nothing: no task is left, no context but the root,
    /// and no function was ever to run at an end.
    pub(super) fn is_deserted(&self) -> bool {
        self.alive == 0 && self.contexts == 1 && !self.funcs
    }

    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// Moves time to the next bell and returns when it is due; `None` if there is none. The caller
    /// rings the bells of that moment one by one, with the engine released in between.
    pub(super) fn tick(&mut self) -> Option<u64> {
        let due = self.clock.next()?;
        self.stirred = true;
        self.mix(due << 8 | 7);
        self.current = NOBODY;
        if self.log.is_some() {
            self.clock.move_to(due);
            self.note(NOBODY, || What::Time);
        }
        Some(due)
    }

    /// Takes out the next bell of a move of time to `until`: see [`Clock::ring`].
    pub(super) fn ring(&mut self, until: u64) -> Option<Armed> {
        self.pulse.goes_on();
        self.clock.ring(until)
    }

    pub(super) fn waits(&mut self, wait: &Wait, in_vain: bool) {
        let task = self.current;
        self.waited |= rank(wait) == 0;
        if task == NOBODY {
            return;
        }
        let waiting = &mut self.tasks[task as usize];
        if waiting.wait.is_none_or(|before| rank(&before) <= rank(wait)) {
            let as_telling = waiting.wait.filter(|before| rank(before) == rank(wait));
            waiting.waits_twice = as_telling
                .is_some_and(|before| waiting.waits_twice || !std::ptr::eq(before.at, wait.at));
            waiting.wait = Some(*wait);
        }
        if let Some(log) = &mut self.log {
            log.waits(self.clock.now(), task, *wait, in_vain);
        }
    }

    /// A hash of all that the tasks could act on, whatever the order of their turns.
    pub(super) fn seen_by_all(&self) -> u64 {
        let seen = |(task, saw): (u64, u64)| mixed(saw, task);
        (0..).zip(self.tasks.iter().map(|task| task.saw)).map(seen).fold(0, u64::wrapping_add)
    }

    pub(super) fn length(&self) -> Length {
        Length { points: self.points, turns: self.turns, steps: self.steps }
    }
}
