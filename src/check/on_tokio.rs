//! A tokio program, unmodified, on a current-thread runtime of tokio's own whose clock
//! is paused.
//!
//! There is one schedule, tokio's; what varies is the point of the injection: each
//! look at the context, each poll of the body's own future. What is left is what the
//! runtime counts as alive. A run that goes wrong is run once more with stack traces: of
//! the look at which the injection comes, and of where the body waits.
//!
//! # Invariants
//!
//! 1. The lock is let go before anybody's code runs: contexts are cancelled, and
//!    futures polled and dropped, without it.

use super::checker::USUAL;
use super::exploration::Plan;
use super::inject::Inject;
use super::label;
use super::place::{Place, users_line};
use super::pulse::{self, Pulse};
use super::quiet;
use super::report::{Covered, Report, grouped};
use super::story::{Story, time};
use super::token::{ReplayError, Token};
use super::violation::{Violation, ViolationKind};
use crate::context::{Canceller, Context};
use crate::rt::world::{self, Look, Onlooker};
use crate::rt::{Clock, panic_message};
use crate::sync::traced::{self, Traced};
use crate::sync::{Arc, Mutex};
use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};

/// Does something that no budget of tokio's ends. In a task of tokio's, where a checker
/// may well run, channels give a poll only so many answers; a whole check is one poll.
pub(super) fn without_a_budget<R>(f: impl FnOnce() -> R) -> R {
    let once = pin!(tokio::task::unconstrained(async { f() }));
    match once.poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("it awaits nothing"),
    }
}

/// Contexts of such checks carry this.
const MARK: u16 = u16::MAX;

/// A body that waits for longer than this, without an end in sight, waits for the
/// injection.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Into so many steps is the time divided that everything has to stop.
const STEPS: u32 = 64;
/// Each task has so many turns in a step.
const TURNS: u32 = 16;

#[derive(Debug)]
struct Watcher {
    state: Mutex<State>,
    /// In a run that is to be told.
    trail: Option<Arc<Trail>>,
}

#[derive(Debug)]
struct State {
    kind: Inject,
    /// Where the injection comes.
    target: Option<u32>,
    most: u32,
    points: u32,
    landed: Option<u32>,
    cut: bool,
    looked: bool,
    body_ended: bool,
    canceller: Option<Canceller>,
    contexts: Vec<&'static Location<'static>>,
    lost: Option<(String, Place)>,
    sometimes: Vec<(&'static str, bool)>,
}

impl State {
    fn point(&mut self) -> bool {
        if self.landed.is_some() || self.body_ended {
            return false;
        }
        let number = self.points;
        self.points += 1;
        let most = self.points >= self.most && self.kind.comes_by_itself();
        self.cut |= most && self.target != Some(number);
        if self.target == Some(number) || most {
            self.landed = Some(number);
            return true;
        }
        false
    }
}

impl Watcher {
    fn cancel(&self) {
        let canceller = self.state.lock().canceller.clone();
        if let Some(canceller) = canceller {
            canceller.cancel();
        }
    }
}

impl Onlooker for Watcher {
    fn looks(&self, _look: Look) -> bool {
        let mut state = self.state.lock();
        // Until the body is polled for the first time the looks are our own.
        if state.points == 0 && state.kind != Inject::Panic && state.kind != Inject::None {
            return false;
        }
        state.looked = true;
        let strikes = state.kind == Inject::Cancel && state.point();
        drop(state);
        if let (true, Some(trail)) = (strikes, &self.trail) {
            let place = users_line(&Backtrace::force_capture()).place;
            trail.0.lock().struck = place;
        }
        strikes
    }

    fn strikes(&self) {
        self.cancel();
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
        let strikes = state.kind == Inject::Panic && state.point();
        drop(state);
        if strikes {
            panic!("{}{name}`", quiet::INJECTED);
        }
    }

    fn lost(&self, what: &str, made_at: &'static Location<'static>) {
        let mut state = self.state.lock();
        state.lost.get_or_insert_with(|| (what.to_string(), made_at.into()));
    }

    fn sometimes(&self, name: &'static str, reached: bool) {
        let mut state = self.state.lock();
        match state.sometimes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, before)) => *before |= reached,
            None => state.sometimes.push((name, reached)),
        }
    }
}

/// Where the injection came and where the body waits, by stack traces.
#[derive(Debug)]
struct Trail(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    struck: Option<Place>,
    /// The clones of the body's waker that are alive, each with its number.
    clones: Vec<(u64, Backtrace)>,
    cloned: u64,
}

impl Trail {
    /// The line that waits, and the library's function that it called.
    fn waits(&self) -> Option<(Place, Option<String>)> {
        let seen = self.0.lock();
        let mut lines = seen.clones.iter().rev().map(|(_, trace)| users_line(trace));
        lines.find_map(|line| Some((line.place?, line.called)))
    }
}

/// Stands behind the waker of a body that is to be told.
struct Tracer {
    waker: Waker,
    clone: u64,
    trail: Arc<Trail>,
}

impl Traced for Tracer {
    fn wake(&self) {
        self.waker.wake_by_ref();
    }

    fn cloned(&self) -> Arc<Self> {
        let trace = Backtrace::force_capture();
        let mut seen = self.trail.0.lock();
        seen.cloned += 1;
        let clone = seen.cloned;
        seen.clones.push((clone, trace));
        drop(seen);
        let (waker, trail) = (self.waker.clone(), Arc::clone(&self.trail));
        Arc::new(Tracer { waker, clone, trail })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.trail.0.lock().clones.retain(|(clone, _)| *clone != self.clone);
    }
}

/// How a run went.
struct Outcome {
    state: State,
    violation: Option<Violation>,
    /// It is known at which line the injection came.
    at_a_line: bool,
}

/// Runs the body once for each point.
pub(super) fn explore<F, Fut>(plan: &Plan, kinds: &[Inject], most: u64, body: &F) -> Report
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    let began = Clock::system_now();
    let pulse = Arc::new(Pulse::new());
    let _watch = pulse::watch(&pulse, plan.patience);
    let _quiet = quiet::keep_quiet();
    let mut report = Report::new(plan);
    let mut findings = Findings::default();
    let mut looked = false;
    for &kind in kinds {
        let mut landed = false;
        let mut covered = Covered {
            kind,
            points: 0,
            schedules: 0,
            how: "tokio's schedule".to_string(),
            cut: false,
            everywhere: true,
        };
        let mut target = None;
        loop {
            if target.is_some_and(|target| u64::from(target) >= most) {
                covered.cut = true;
                break;
            }
            let number = target.map_or(0, |target| u64::from(target) + 1);
            let part = number % plan.shard.1 == plan.shard.0 - 1;
            let outcome = run(plan, kind, target, body, &pulse, false);
            let state = outcome.state;
            report.merge(&state.sometimes);
            covered.points = covered.points.max(state.points);
            covered.cut |= state.cut;
            looked |= state.looked;
            landed |= state.landed.is_some();
            let over = target.is_some() && state.landed != target;
            if part && !over {
                covered.schedules += 1;
                if let Some(violation) = outcome.violation {
                    let again = || run(plan, kind, target, body, &pulse, true);
                    findings.add(violation, again, &pulse);
                }
            }
            let enough = plan.stop_at_first && !findings.violations.is_empty();
            if over || kind == Inject::None || enough {
                break;
            }
            target = Some(target.map_or(0, |target| target + 1));
        }
        if kind.strikes() && !landed {
            findings.violations.push(vacuous("no injection landed".to_string()));
        }
        report.covered.push(covered);
    }
    let asks = kinds.iter().any(|kind| matches!(kind, Inject::Cancel | Inject::Deadline));
    if asks && !looked && findings.violations.is_empty() {
        let why = "no schedule ever looked at the context";
        findings.violations.push(vacuous(why.to_string()));
    }
    report.finish(findings.violations);
    report.took = Clock::system_now() - began;
    report
}

/// Runs the body once, with the injection where a token says.
pub(super) fn replay<F, Fut>(
    plan: &Plan,
    token: &Token,
    target: Option<u32>,
    body: &F,
) -> Result<Report, ReplayError>
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    if token.fingerprint != fingerprint::<F>() {
        return Err(ReplayError::Body);
    }
    let began = Clock::system_now();
    let pulse = Arc::new(Pulse::new());
    let _watch = pulse::watch(&pulse, plan.patience);
    let _quiet = quiet::keep_quiet();
    let outcome = run(plan, token.kind, target, body, &pulse, true);
    if target.is_some() && outcome.state.landed != target {
        return Err(ReplayError::Diverged);
    }
    let mut report = Report::new(plan);
    report.merge(&outcome.state.sometimes);
    report.covered.push(Covered::of_a_token(token.kind, outcome.state.points));
    report.finish(outcome.violation.into_iter().collect());
    report.took = Clock::system_now() - began;
    Ok(report)
}

/// There is one schedule, and it is tokio's: a body is known by its type alone.
fn fingerprint<F>() -> u32 {
    label::hash(std::any::type_name::<F>())
}

/// What has been found so far: what is equal, once, with a count.
#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
    /// Of each, whether its witness says at which line the injection came.
    at_a_line: Vec<bool>,
    traced: u32,
}

impl Findings {
    /// `again`: the same run with stack traces.
    fn add(&mut self, violation: Violation, again: impl FnOnce() -> Outcome, pulse: &Pulse) {
        /// Traces take long; after so many the last lines that were seen have to do.
        const ENOUGH: u32 = 50;
        let alike = |known: &Violation, other: &Violation| {
            known.kind == other.kind
                && known.task == other.task
                && known.waiting_at == other.waiting_at
                && known.waiting_for == other.waiting_for
        };
        self.traced += 1;
        let kind = violation.kind;
        if self.traced > ENOUGH {
            if let Some(known) = self.violations.iter_mut().find(|known| known.kind == kind) {
                known.count += 1;
                return;
            }
        }
        let again = again();
        let told = again.violation.filter(|again| again.kind == kind).unwrap_or(violation);
        let Some(known) = self.violations.iter().position(|known| alike(known, &told)) else {
            pulse.found(told.to_string());
            self.violations.push(told);
            self.at_a_line.push(again.at_a_line);
            return;
        };
        let count = self.violations[known].count + 1;
        // The first witness is the shortest; but one that names a line says more.
        if again.at_a_line && !self.at_a_line[known] {
            self.violations[known] = told;
            self.at_a_line[known] = true;
        }
        self.violations[known].count = count;
    }
}

fn vacuous(why: String) -> Violation {
    told(ViolationKind::Vacuous, "this check has checked nothing".to_string(), why, None)
}

fn told(kind: ViolationKind, headline: String, what: String, place: Option<Place>) -> Violation {
    Violation {
        kind,
        task: None,
        spawned_at: None,
        waiting_at: place,
        waiting_for: Some(what),
        count: 1,
        replay: String::new(),
        story: Box::new(Story::without_a_schedule(headline, Inject::None)),
    }
}

fn run<F, Fut>(
    plan: &Plan,
    kind: Inject,
    target: Option<u32>,
    body: &F,
    pulse: &Pulse,
    traced: bool,
) -> Outcome
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    let watcher = Arc::new(Watcher {
        state: Mutex::new(State {
            kind,
            target,
            most: plan.limits.points,
            points: 0,
            landed: None,
            cut: false,
            looked: false,
            body_ended: false,
            canceller: None,
            contexts: Vec::new(),
            lost: None,
            sometimes: Vec::new(),
        }),
        trail: traced.then(|| Arc::new(Trail(Mutex::new(Seen::default())))),
    });
    let _looking = world::look_on(Arc::clone(&watcher) as _);
    let _ = quiet::last_panic();
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a current-thread runtime");
    let stop_within = Duration::from_nanos(plan.limits.stop_within);
    let left = runtime.block_on(drive(&watcher, kind, body, plan.asked_at, stop_within, pulse));
    drop(runtime);
    let point = watcher.state.lock().landed;
    let struck = watcher.trail.as_ref().and_then(|trail| trail.0.lock().struck.take());
    let at_a_line = struck.is_some();
    let injected = match (point, struck) {
        (Some(u32::MAX), _) => format!("{kind}, when nothing else could happen"),
        (Some(point), Some(place)) => format!("{kind} at point {point}, in the look at {place}"),
        (Some(point), None) => format!("{kind} at point {point}"),
        (None, _) => "none".to_string(),
    };
    let mut violation = judge(&watcher, left, stop_within, plan.asked_at);
    if let Some(violation) = &mut violation {
        violation.story.injected = Some(injected);
        let token = Token::new(kind, fingerprint::<F>(), plan.limits, USUAL, Vec::new());
        // Where the injection came by itself, or not at all, no point brings it back.
        let target = point.filter(|&point| point != u32::MAX);
        violation.replay = token.on_tokio(target).to_string();
    }
    let mut state = watcher.state.lock();
    let empty = State {
        canceller: None,
        contexts: Vec::new(),
        lost: None,
        sometimes: std::mem::take(&mut state.sometimes),
        ..*state
    };
    Outcome { state: empty, violation, at_a_line }
}

fn judge(
    watcher: &Watcher,
    left: Left,
    stop_within: Duration,
    asked_at: &'static Location<'static>,
) -> Option<Violation> {
    if let Some((message, place)) = quiet::last_panic() {
        if !message.contains(quiet::INJECTED) {
            let headline = "somebody has panicked".to_string();
            return Some(told(ViolationKind::Panicked, headline, message, place));
        }
    }
    if left.body {
        let within = time(stop_within.as_nanos() as u64);
        let headline = format!("the body has not ended {within} after the injection");
        let (place, called) = left.waits.unzip();
        let what = called.flatten().unwrap_or_else(|| "what will not come".to_string());
        return Some(Violation {
            task: Some("body".to_string()),
            spawned_at: Some(asked_at.into()),
            ..told(ViolationKind::BlockedStage, headline, what, place)
        });
    }
    if left.tasks > 0 {
        let headline = match left.tasks {
            1 => "a task goes on".to_string(),
            n => format!("{} tasks go on", grouped(n as u64)),
        };
        let what = format!(
            "the runtime still counts tasks that are alive {} after the end; `Checker::new` would \
             name them",
            time(stop_within.as_nanos() as u64)
        );
        return Some(told(ViolationKind::LeakedTask, headline, what, None));
    }
    let mut state = watcher.state.lock();
    if let Some((what, place)) = state.lost.take() {
        let headline = "an item was dropped that nobody had settled".to_string();
        return Some(told(ViolationKind::LostItem, headline, what, Some(place)));
    }
    let context = state.contexts.last().map(|&at| Place::from(at))?;
    let headline = "everything has ended, but not everything is gone".to_string();
    let what = "nobody is left to use it, and it is still alive".to_string();
    Some(told(ViolationKind::LeakedContext, headline, what, Some(context)))
}

/// What is still there at the end.
struct Left {
    body: bool,
    tasks: usize,
    /// Where the body waits, in a run that is traced.
    waits: Option<(Place, Option<String>)>,
}

async fn drive<F, Fut>(
    watcher: &Watcher,
    kind: Inject,
    body: &F,
    asked_at: &'static Location<'static>,
    stop_within: Duration,
    pulse: &Pulse,
) -> Left
where
    F: Fn(Context) -> Fut,
    Fut: Future,
{
    let after = (kind == Inject::Deadline).then_some(Duration::from_nanos(super::DEADLINE));
    let (ctx, canceller) = Context::watched(MARK, asked_at, after);
    watcher.state.lock().canceller = Some(canceller);
    let mut ctx = Some(ctx);
    let mut future = pin!(None::<Fut>);
    let mut limit = pin!(tokio_sleep(LONG));
    let mut given = false;
    let mut jump: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
    let ended = std::future::poll_fn(|cx| {
        pulse.beats(0);
        if let Some(jumping) = &mut jump {
            if jumping.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            jump = None;
        }
        let counts = !matches!(kind, Inject::None | Inject::Panic);
        let strikes = counts && watcher.state.lock().point();
        let late = limit.as_mut().poll(cx).is_ready();
        let by_itself = late && !given && kind.comes_by_itself();
        if by_itself {
            watcher.state.lock().landed.get_or_insert(u32::MAX);
        } else if late {
            return Poll::Ready(false);
        }
        if strikes || by_itself {
            match kind {
                Inject::Cancel => watcher.cancel(),
                Inject::Drop => {
                    future.set(None);
                    ctx = None;
                    return Poll::Ready(true);
                }
                Inject::Deadline => {
                    let hour = Duration::from_nanos(super::DEADLINE);
                    let mut jumping = Box::pin(tokio::time::advance(hour));
                    if jumping.as_mut().poll(cx).is_pending() {
                        jump = Some(jumping);
                        return Poll::Pending;
                    }
                }
                Inject::Panic | Inject::None => {}
            }
        }
        if !given && watcher.state.lock().landed.is_some() && kind.comes_by_itself() {
            given = true;
            limit.as_mut().reset(tokio_now() + stop_within);
            let _ = limit.as_mut().poll(cx);
        }
        if let Some(ctx) = ctx.take() {
            match catch_unwind(AssertUnwindSafe(|| body(ctx))) {
                Ok(made) => future.set(Some(made)),
                Err(payload) => return Poll::Ready(drop_payload(payload)),
            }
        }
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let own = watcher.trail.as_ref().map(|trail| {
                let (waker, trail) = (cx.waker().clone(), Arc::clone(trail));
                traced::waker(Arc::new(Tracer { waker, clone: 0, trail }))
            });
            let mut cx = std::task::Context::from_waker(own.as_ref().unwrap_or(cx.waker()));
            future.as_mut().as_pin_mut().expect("it has not ended").poll(&mut cx).map(drop)
        }));
        match polled {
            Ok(polled) => polled.map(|()| true),
            Err(payload) => Poll::Ready(drop_payload(payload)),
        }
    })
    .await;
    let waits = watcher.trail.as_ref().filter(|_| !ended).and_then(|trail| trail.waits());
    future.set(None);
    let canceller = {
        let mut state = watcher.state.lock();
        state.body_ended = true;
        state.canceller.take()
    };
    drop(canceller);
    let alive = || Handle::current().metrics().num_alive_tasks();
    for _ in 0..STEPS {
        for _ in 0..TURNS {
            if alive() == 0 {
                return Left { body: !ended, tasks: 0, waits };
            }
            tokio::task::yield_now().await;
            pulse.beats(0);
        }
        tokio::time::advance(stop_within / STEPS).await;
    }
    Left { body: !ended, tasks: alive(), waits }
}

/// True: whoever panics has ended.
fn drop_payload(payload: Box<dyn std::any::Any + Send>) -> bool {
    let _ = panic_message(&*payload);
    if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(worse);
    }
    true
}

#[allow(clippy::disallowed_methods, reason = "the runtime is tokio's, whatever world this is in")]
fn tokio_sleep(time: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(time)
}

#[allow(clippy::disallowed_methods, reason = "the runtime is tokio's, whatever world this is in")]
fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
