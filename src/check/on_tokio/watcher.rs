//! The onlooker of a run: counts the points, and notes what becomes of contexts and items.
//!
//! # Invariants
//!
//! 1. The lock is released before any user code runs: contexts are cancelled, and wakers woken,
//!    without it.
//! 2. Points are those of the runtime's own thread alone, because their order is always the same.
//!    Other threads have an onlooker of their own, [`Abroad`], that never strikes.

use super::super::exploration::Plan;
use super::super::inject::Inject;
use super::super::place::{self, END_OF_CONTEXT, Place, tokio_catches, user_line};
use super::super::pulse::Pulse;
use super::super::quiet::{self, Panic};
use super::super::report::note_sometimes;
use crate::context::Canceller;
use crate::rt::Work;
use crate::rt::world::{Look, Onlooker};
use crate::sync::traced::Traced;
use crate::sync::{Arc, Mutex};
use std::any::Any;
use std::backtrace::Backtrace;
use std::fmt;
use std::panic::Location;
use std::task::Waker;

/// The mark of the contexts in such checks.
pub(super) const MARK: u16 = u16::MAX;

pub(super) struct Watcher {
    plan: Plan,
    pulse: Arc<Pulse>,
    pub(super) state: Mutex<State>,
    /// Present in a run that is to be told.
    pub(super) trail: Option<Arc<Trail>>,
}

/// What a point is; this tells one run's points from another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Point {
    /// A poll of the body.
    Poll,
    Look(Look),
    Fault(&'static str),
}

/// How the injection came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Landed {
    /// At this point.
    At(u32),
    /// At no point: nothing else could happen, or a maximum was reached.
    ByItself,
}

pub(super) struct State {
    kind: Inject,
    /// The point at which the injection is to come.
    target: Option<u32>,
    most: u32,
    /// The points that were reached.
    pub(super) way: Vec<Point>,
    pub(super) landed: Option<Landed>,
    pub(super) cut: bool,
    pub(super) looked: bool,
    pub(super) body_ended: bool,
    /// Whether the current poll of the body is the watchdog's.
    pub(super) asked_for: bool,
    /// Whether anything done from here on is too late to count.
    pub(super) over: bool,
    pub(super) canceller: Option<Canceller>,
    /// What to call once this turn is over.
    pub(super) later: Vec<Work>,
    /// The waker of the future that polls the body, woken at once when the injection has come.
    pub(super) driver: Option<Waker>,
    pub(super) contexts: Vec<&'static Location<'static>>,
    pub(super) lost: Option<(String, Place)>,
    pub(super) panicked: Option<Panic>,
    pub(super) sometimes: Vec<(&'static str, bool)>,
}

impl State {
    /// Passes a point: whether the injection comes here.
    pub(super) fn point(&mut self, point: Point) -> bool {
        // What the body has left behind may yet reach a fault point.
        let is_late = self.body_ended && self.kind != Inject::Panic;
        if self.landed.is_some() || is_late || self.over {
            return false;
        }
        let number = self.way.len() as u32;
        self.way.push(point);
        let most = number + 1 >= self.most && self.kind.comes_by_itself();
        self.cut |= most && self.target != Some(number);
        if self.target == Some(number) || most {
            self.landed = Some(Landed::At(number));
            return true;
        }
        false
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Watcher {
    pub(super) fn new(
        plan: &Plan,
        kind: Inject,
        target: Option<u32>,
        pulse: &Arc<Pulse>,
        traced: bool,
    ) -> Watcher {
        let asked_at = plan.asked_at;
        let state = State {
            kind,
            target,
            most: plan.limits.points,
            way: Vec::new(),
            landed: None,
            cut: false,
            looked: false,
            body_ended: false,
            asked_for: false,
            over: false,
            canceller: None,
            later: Vec::new(),
            driver: None,
            contexts: Vec::new(),
            lost: None,
            panicked: None,
            sometimes: Vec::new(),
        };
        let trail = traced.then(|| Arc::new(Trail { asked_at, seen: Mutex::new(Seen::default()) }));
        let (plan, pulse) = (*plan, Arc::clone(pulse));
        Watcher { plan, pulse, state: Mutex::new(state), trail }
    }

    /// Ends the root, as a cancel or as its deadline would. `later`: a turn is in progress, so the
    /// functions at the end are left until it is over.
    pub(super) fn ends_root(&self, later: bool) {
        let (canceller, kind) = {
            let state = self.state.lock();
            (state.canceller.clone(), state.kind)
        };
        if let Some(canceller) = canceller {
            let deadline = kind == Inject::Deadline;
            let work = canceller.end_at(self.plan.asked_at, deadline, later);
            self.state.lock().later.extend(work);
        }
    }

    /// Takes what was left until the turn is over.
    pub(super) fn takes_later(&self) -> Vec<Work> {
        std::mem::take(&mut self.state.lock().later)
    }

    /// Records a panic that was caught.
    pub(super) fn note_panic(&self, payload: &(dyn Any + Send)) {
        let panic = Panic::of(payload);
        if !panic.was_injected() {
            self.state.lock().panicked.get_or_insert(panic);
        }
    }
}

impl Onlooker for Watcher {
    fn looks(&self, look: Look) -> bool {
        let mut state = self.state.lock();
        if state.over {
            return false;
        }
        // Until the body is polled for the first time, the looks are the checker's own.
        if state.way.is_empty() && state.kind != Inject::Panic && state.kind != Inject::None {
            return false;
        }
        state.looked = true;
        let strikes =
            state.kind.comes_at_a_look() && !state.asked_for && state.point(Point::Look(look));
        drop(state);
        if let (true, Some(trail)) = (strikes, &self.trail) {
            let line = || user_line(&Backtrace::force_capture(), trail.asked_at).place;
            let place = self.pulse.own_time(line);
            trail.seen.lock().struck = place;
        }
        strikes
    }

    fn inject(&self) {
        self.pulse.set_striking(true);
        self.ends_root(self.plan.limits.after_turns);
        self.pulse.set_striking(false);
        let driver = self.state.lock().driver.clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn made(&self, mark: u16, made_at: &'static Location<'static>) {
        if mark == MARK {
            self.state.lock().contexts.push(made_at);
        }
    }

    fn gone(&self, mark: u16, made_at: &'static Location<'static>) {
        if mark == MARK {
            let mut state = self.state.lock();
            let place = state.contexts.iter().rposition(|at| std::ptr::eq(*at, made_at));
            place.map(|place| state.contexts.remove(place));
        }
    }

    fn fault(&self, name: &'static str) {
        let mut state = self.state.lock();
        let strikes = state.kind == Inject::Panic && state.point(Point::Fault(name));
        drop(state);
        if strikes {
            panic!("{}{name}`", quiet::INJECTED);
        }
    }

    fn lost(&self, what: &str, made_at: &'static Location<'static>) {
        let mut state = self.state.lock();
        if !state.over && !quiet::injected_unwinds() {
            state.lost.get_or_insert_with(|| (what.to_string(), made_at.into()));
        }
    }

    fn sometimes(&self, name: &'static str, reached: bool) {
        let mut state = self.state.lock();
        if !state.over {
            note_sometimes(&mut state.sometimes, name, reached);
        }
    }

    fn panicked(&self, payload: &(dyn Any + Send)) {
        if !self.state.lock().over {
            self.note_panic(payload);
        }
    }

    /// A panic that ends a tokio task is caught by tokio, which tells only a task that joins it.
    fn panics(&self, payload: &(dyn Any + Send)) {
        if !Panic::of(payload).was_injected() && tokio_catches(&Backtrace::force_capture()) {
            self.panicked(payload);
        }
    }
}

/// The onlooker of the threads of `spawn_blocking` (invariant 2).
#[derive(Debug)]
pub(super) struct Abroad(pub(super) Arc<Watcher>);

impl Onlooker for Abroad {
    fn looks(&self, _look: Look) -> bool {
        self.0.state.lock().looked = true;
        false
    }

    fn inject(&self) {}

    fn made(&self, mark: u16, made_at: &'static Location<'static>) {
        self.0.made(mark, made_at);
    }

    fn gone(&self, mark: u16, made_at: &'static Location<'static>) {
        self.0.gone(mark, made_at);
    }

    fn fault(&self, _name: &'static str) {}

    fn lost(&self, what: &str, made_at: &'static Location<'static>) {
        self.0.lost(what, made_at);
    }

    fn sometimes(&self, name: &'static str, reached: bool) {
        self.0.sometimes(name, reached);
    }

    fn panicked(&self, payload: &(dyn Any + Send)) {
        self.0.panicked(payload);
    }

    fn panics(&self, payload: &(dyn Any + Send)) {
        self.0.panics(payload);
    }
}

/// Where the injection came and where the body waits, by stack traces.
#[derive(Debug)]
pub(super) struct Trail {
    asked_at: &'static Location<'static>,
    pub(super) seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) struck: Option<Place>,
    /// The clones of the body's waker that are alive, each with its number.
    clones: Vec<(u64, Backtrace)>,
    cloned: u64,
    /// Whether traces of dropped clones stay, for a body that wakes itself instead of waiting.
    stays: bool,
}

impl Trail {
    /// Sets whether this is the last poll of a body that comes to no end.
    pub(super) fn stays(&self, stays: bool) {
        self.seen.lock().stays = stays;
    }

    /// Where the body waits; for a library's future from the beginning, where the check is run.
    pub(super) fn waits(&self) -> place::Seen {
        let seen = self.seen.lock();
        let line = |(_, trace): &(u64, Backtrace)| user_line(trace, self.asked_at);
        let lines: Vec<_> = seen.clones.iter().rev().map(line).collect();
        let says_more = |line: &&place::Seen| line.called.as_deref() != Some(END_OF_CONTEXT);
        let known = || lines.iter().filter(|line| line.place.is_some());
        let line = known().find(says_more).or_else(|| known().next());
        let Some(line) = line.or(lines.iter().find(|line| !line.no_lines)) else {
            return place::Seen::default();
        };
        let place = line.place.clone().or_else(|| Some(self.asked_at.into()));
        place::Seen { place, ..line.clone() }
    }
}

/// Stands behind the waker of a body that is to be told.
pub(super) struct Tracer {
    pub(super) waker: Waker,
    pub(super) clone: u64,
    pub(super) trail: Arc<Trail>,
}

impl Tracer {
    /// Notes the line that does something with the waker. Returns its number.
    fn note(&self) -> u64 {
        let trace = Backtrace::force_capture();
        let mut seen = self.trail.seen.lock();
        seen.cloned += 1;
        let clone = seen.cloned;
        seen.clones.push((clone, trace));
        clone
    }
}

impl Traced for Tracer {
    fn wake(&self) {
        // The code that polls the body holds the first waker, so this wake comes within that poll.
        if self.clone == 0 && self.trail.seen.lock().stays {
            self.note();
        }
        self.waker.wake_by_ref();
    }

    fn cloned(&self) -> Arc<Self> {
        let clone = self.note();
        let (waker, trail) = (self.waker.clone(), Arc::clone(&self.trail));
        Arc::new(Tracer { waker, clone, trail })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let mut seen = self.trail.seen.lock();
        if !seen.stays {
            seen.clones.retain(|(clone, _)| *clone != self.clone);
        }
    }
}
