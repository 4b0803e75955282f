//! An unmodified tokio program, on a current-thread tokio runtime whose clock is paused.
//!
//! There is one schedule, tokio's; what varies is the point of the injection: each look at the
//! context, each poll of the body's own future. What is left is what the runtime counts as alive. A
//! run that goes wrong is run once more with stack traces: of the look at which the injection
//! comes, and of where the body waits.

// | file | what it is |
// |---|---|
// | `drive` | one run, from the first poll of the body to the end of what it has left |
// | `watcher` | what is noted meanwhile: points, contexts, items, panics, where it waits |

mod drive;
mod watcher;

use self::drive::{BODY, Body, Left, Rest, Run};
use self::watcher::{Abroad, Landed, Point, Watcher};
use super::exploration::Plan;
use super::inject::Inject;
use super::label::{self, Labels};
use super::place::Place;
use super::pulse::{self, Pulse};
use super::quiet;
use super::report::{Covered, Early, Report, grouped};
use super::story::{Story, time};
use super::subject::Subject;
use super::token::{ReplayError, Token};
use super::vacuous::{nowhere, of_the_whole, unheard};
use super::verdict::{CONTEXT_LEFT, TIMER_LEFT};
use super::violation::{Violation, ViolationKind};
use crate::rt::world::{self, Onlooker};
use crate::rt::{Clock, SameChoices};
use crate::sync::Arc;
use std::panic::{Location, catch_unwind};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Runs `f` outside any tokio budget. In a tokio task, where a checker may well run, channels give
/// a poll only so many answers, and a whole check is one poll.
pub(super) fn without_a_budget<R>(f: impl FnOnce() -> R) -> R {
    let once = pin!(tokio::task::unconstrained(async { f() }));
    match once.poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("it awaits nothing"),
    }
}

/// Checks that tokio will run a body here.
///
/// # Panics
///
/// In a task, or in anything else that a runtime waits for.
#[track_caller]
pub(super) fn require_a_free_thread() {
    let quiet = quiet::keep_quiet();
    let tried =
        catch_unwind(|| Builder::new_current_thread().build().map(|it| it.block_on(async {})));
    drop(quiet);
    assert!(
        tried.is_ok(),
        "quell: `Checker::tokio` has a runtime of its own, and tokio does not let one run inside \
         of another: make the test a plain `#[test]`, without `#[tokio::test]` and `async`, or \
         run the checker on a thread of its own (`std::thread::spawn`)"
    );
}

/// How a run went.
struct Outcome {
    /// The points it came to.
    way: Vec<Point>,
    landed: Option<Landed>,
    cut: bool,
    looked: bool,
    sometimes: Vec<(&'static str, bool)>,
    violation: Option<Violation>,
    /// Whether the line at which the injection came is known.
    at_a_line: bool,
    /// Whether another panic hook has been set, so that panics of tasks were not heard of.
    deaf: bool,
}

impl Outcome {
    /// Whether the injection was meant for a point, and did not come there.
    fn has_missed(&self, target: Option<u32>) -> bool {
        target.is_some_and(|point| self.landed != Some(Landed::At(point)))
    }
}

/// How many missed points are put up with: each may take as long as the watchdog has patience.
const MOST_MISSES: u32 = 8;

/// Runs the body once for each point of each injection, at most `most` times for each.
pub(super) fn explore(
    plan: &Plan,
    kinds: &[Inject],
    most: &dyn Fn(u64) -> u64,
    body: &dyn Subject,
) -> Report {
    let began = Clock::system_now();
    // A body of another checker may have asked for this.
    let _apart = world::leave();
    learn_of_tasks();
    let pulse = Arc::new(pulse(plan));
    let _watch = pulse::watch(&pulse, plan.patience);
    let _quiet = quiet::keep_quiet();
    let mut report = Report::new(plan);
    let mut findings = Findings::default();
    let (mut looked, mut deaf) = (false, false);
    // The first run is the one without an injection.
    let number = |target: Option<u32>| target.map_or(0, |target| u64::from(target) + 1);
    let in_part = |target: Option<u32>| number(target) % plan.shard.1 == plan.shard.0 - 1;
    for (nth, &kind) in kinds.iter().enumerate() {
        let most = most(nth as u64);
        let mut landed = false;
        let how = "tokio's schedule".to_string();
        let mut covered = Covered { how, ..Covered::nothing(kind) };
        let (mut target, mut misses) = (None, 0);
        // The fewest points of any run in which the injection came at none.
        let mut least = u32::MAX;
        // The points of the longest run. Another run may have as many, and other ones.
        let mut longest: Vec<Point> = Vec::new();
        loop {
            if number(target) >= most {
                if target.is_none_or(|target| target < covered.points) {
                    covered.cut = true;
                }
                break;
            }
            let outcome = run(plan, kind, target, body, &pulse, false);
            report.merge(&outcome.sometimes);
            let points = outcome.way.len() as u32;
            covered.points = covered.points.max(points);
            covered.cut |= outcome.cut;
            looked |= outcome.looked && kind.comes_at_a_look();
            deaf |= outcome.deaf;
            landed |= outcome.landed.is_some();
            let missed = outcome.has_missed(target);
            if (missed || target.is_none()) && !outcome.cut {
                least = least.min(points);
            }
            // A point that any run has come to exists. After too many misses the check gives up.
            let is_one = target.is_some_and(|target| target < covered.points);
            misses += u32::from(missed && is_one);
            let strays = longest.iter().zip(&outcome.way).any(|(one, other)| one != other);
            if outcome.way.len() > longest.len() {
                longest = outcome.way;
            }
            if least < covered.points || strays {
                (covered.early, covered.everywhere) = (Some(Early::Missed), false);
            }
            let over = missed && (!is_one || misses > MOST_MISSES);
            if in_part(target) && (!missed || is_one) {
                covered.schedules += u64::from(!missed);
                // Also of a run that missed its point: it went another way, and wrong.
                if let Some(violation) = outcome.violation {
                    let again = || run(plan, kind, target, body, &pulse, true);
                    findings.add(violation, again, &pulse);
                }
            }
            let enough = plan.stop_at_first && !findings.found.is_empty();
            if enough {
                (covered.early, covered.everywhere) = (Some(Early::AtFirst), false);
            }
            if over || kind == Inject::None || enough {
                break;
            }
            // A part takes its own points, and the schedule without an injection.
            let from = target.map_or(0, |target| target + 1);
            target = (from..).find(|&next| in_part(Some(next)));
        }
        if kind.is_any() && !landed && plan.shard.1 == 1 && covered.early.is_none() {
            findings.note(nowhere(&covered));
        }
        covered.everywhere &= !covered.cut;
        report.covered.push(covered);
        if plan.stop_at_first && !findings.found.is_empty() {
            break;
        }
    }
    if deaf {
        findings.note(unheard());
    }
    if plan.shard.1 == 1 {
        let looked = looked || !findings.found.is_empty();
        of_the_whole(&report, looked).into_iter().for_each(|it| findings.note(it));
    }
    report.finish(findings.found.into_iter().map(|found| found.violation).collect());
    report.took = Clock::system_now() - began;
    report
}

/// Runs the body once, with the injection where a token says.
pub(super) fn replay(
    plan: &Plan,
    token: &Token,
    target: Option<u32>,
    body: &dyn Subject,
) -> Result<Report, ReplayError> {
    if token.fingerprint != fingerprint(body) {
        return Err(ReplayError::Body);
    }
    let began = Clock::system_now();
    // A body of another checker may have asked for this.
    let _apart = world::leave();
    learn_of_tasks();
    let pulse = Arc::new(pulse(plan));
    let _watch = pulse::watch(&pulse, plan.patience);
    let _quiet = quiet::keep_quiet();
    let outcome = run(plan, token.kind, target, body, &pulse, true);
    if outcome.has_missed(target) {
        return Err(ReplayError::Diverged);
    }
    let mut report = Report::new(plan);
    report.merge(&outcome.sometimes);
    report.covered.push(Covered::of_a_token(token.kind, outcome.way.len() as u32));
    let unheard = outcome.deaf.then(unheard);
    report.finish(outcome.violation.into_iter().chain(unheard).collect());
    report.took = Clock::system_now() - began;
    Ok(report)
}

/// What is learned of tokio's tasks once in a process is learned here, so that the first run goes
/// as all that follow.
fn learn_of_tasks() {
    let runtime = Builder::new_current_thread().build().expect("a current-thread runtime");
    let _learned = runtime.block_on(runtime.spawn(crate::rt::learn_of_tasks()));
}

/// A pulse that knows the body; the tasks have no names.
fn pulse(plan: &Plan) -> Pulse {
    let pulse = Pulse::new();
    let mut labels = Labels::default();
    let body = labels.of(0, "body".into(), plan.asked_at);
    debug_assert_eq!(body, BODY);
    pulse.learn(&labels);
    pulse
}

/// A body is known by its type alone: there is one schedule, and it is tokio's.
fn fingerprint(body: &dyn Subject) -> u32 {
    label::hash(body.name())
}

/// What has been found so far. Equal violations are one, with a count.
#[derive(Default)]
struct Findings {
    found: Vec<Found>,
    traced: u32,
}

struct Found {
    violation: Violation,
    /// Whether its witness says at which line the injection came.
    at_a_line: bool,
}

impl Findings {
    /// `again`: the same run with stack traces.
    fn add(&mut self, violation: Violation, again: impl FnOnce() -> Outcome, pulse: &Pulse) {
        /// How many are traced, which takes long. After that, one of a known kind is only counted.
        const ENOUGH: u32 = 50;
        self.traced += 1;
        let kind = violation.kind;
        if self.traced > ENOUGH {
            let mut known = self.found.iter_mut().map(|found| &mut found.violation);
            let known = known.find(|known| match violation.waiting_at {
                Some(_) => known.is_same_as(&violation),
                None => known.kind == kind,
            });
            if let Some(known) = known {
                known.count += 1;
                return;
            }
        }
        let again = again();
        let told = again.violation.filter(|again| again.kind == kind).unwrap_or(violation);
        let at_a_line = again.at_a_line;
        let Some(known) = self.found.iter_mut().find(|known| known.violation.is_same_as(&told))
        else {
            pulse.found(told.to_string());
            self.found.push(Found { violation: told, at_a_line });
            return;
        };
        let count = known.violation.count + 1;
        // The first witness is the shortest; but one that names a line says more.
        if at_a_line && !known.at_a_line {
            *known = Found { violation: told, at_a_line };
        }
        known.violation.count = count;
    }

    /// Notes a violation of many runs together.
    fn note(&mut self, violation: Violation) {
        self.found.push(Found { violation, at_a_line: false });
    }
}

fn told(kind: ViolationKind, headline: String, what: String, place: Option<Place>) -> Violation {
    let story = Story::without_a_schedule(headline, Inject::None);
    Violation { waiting_at: place, ..Violation::of_no_task(kind, what, story) }
}

fn run(
    plan: &Plan,
    kind: Inject,
    target: Option<u32>,
    body: &dyn Subject,
    pulse: &Arc<Pulse>,
    traced: bool,
) -> Outcome {
    // Runs that chose otherwise would come to other points.
    let _choices = SameChoices::begin();
    let watcher = Arc::new(Watcher::new(plan, kind, target, pulse, traced));
    let rest = Arc::new(Rest::new(pulse));
    let _looking = world::look_on(Arc::clone(&watcher) as _);
    quiet::forget();
    let hook = quiet::Hook::latest();
    let runtime = runtime(&watcher, &rest);
    let stop_within = Duration::from_nanos(plan.limits.stop_within);
    let run = Run {
        kind,
        asked_at: plan.asked_at,
        stop_within,
        steps: plan.limits.steps,
        watcher: &watcher,
        rest: &rest,
        pulse,
    };
    let mut left = None;
    body.run_once(&mut |body| left = Some(runtime.block_on(run.go(body))));
    let left = left.expect("it has been run");
    drop(runtime);
    let deaf = !hook.is_some_and(|hook| hook.is_set());
    if deaf {
        drop(quiet::keep_quiet());
    }
    // These hold wakers that keep the runtime, and the runtime holds these: a cycle.
    rest.forgets();
    pulse.nudges(None);
    let driver = watcher.state.lock().driver.take();
    drop(driver);
    let (landed, cut) = {
        let state = watcher.state.lock();
        (state.landed, state.cut)
    };
    let struck = watcher.trail.as_ref().and_then(|trail| trail.seen.lock().struck.take());
    let at_a_line = struck.is_some();
    let injected = match (landed, struck) {
        (Some(Landed::ByItself), _) if cut => format!("{kind}, when a maximum was reached"),
        (Some(Landed::ByItself), _) => format!("{kind}, when nothing else could happen"),
        (Some(Landed::At(point)), Some(place)) => {
            format!("{kind} at point {point}, in the look at {place}")
        }
        (Some(Landed::At(point)), None) => format!("{kind} at point {point}"),
        (None, _) => "none".to_string(),
    };
    let mut violation = judge(&watcher, left, landed.is_some(), stop_within, plan.asked_at);
    if let Some(violation) = &mut violation {
        violation.note_missing_end(kind, false);
        violation.story.injected = Some(injected);
        let token = Token::new(kind, fingerprint(body), plan.limits, Vec::new());
        // If the injection came by itself, or not at all, no point brings it back.
        let target = match landed {
            Some(Landed::At(point)) => Some(point),
            Some(Landed::ByItself) | None => None,
        };
        violation.replay = token.on_tokio(target).to_string();
    }
    let mut state = watcher.state.lock();
    Outcome {
        way: std::mem::take(&mut state.way),
        landed: state.landed,
        cut: state.cut,
        looked: state.looked,
        sometimes: std::mem::take(&mut state.sometimes),
        violation,
        at_a_line,
        deaf,
    }
}

fn runtime(watcher: &Arc<Watcher>, rest: &Arc<Rest>) -> Runtime {
    let abroad: Arc<dyn Onlooker> = Arc::new(Abroad(Arc::clone(watcher)));
    let (begins, is_over) = (Arc::clone(rest), Arc::clone(rest));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        // For the threads of `spawn_blocking`, which end with the runtime.
        .on_thread_start(move || {
            std::mem::forget((world::look_on(Arc::clone(&abroad)), quiet::keep_thread_quiet()));
        })
        .on_thread_park(move || begins.begins())
        .on_thread_unpark(move || is_over.is_over())
        .build();
    runtime.expect("a current-thread runtime")
}

fn judge(
    watcher: &Watcher,
    left: Left,
    injected: bool,
    stop_within: Duration,
    asked_at: &'static Location<'static>,
) -> Option<Violation> {
    if let Some(panic) = watcher.state.lock().panicked.take() {
        let headline = "a task or the body has panicked".to_string();
        return Some(told(ViolationKind::Panicked, headline, panic.message, panic.place));
    }
    if left.body != Body::Ended {
        let within = time(stop_within.as_nanos() as u64);
        let (kind, headline, what) = match left.body {
            Body::Busy => (
                ViolationKind::LeakedTask,
                "the body is busy, and has not ended within its steps (`max_steps`)".to_string(),
                "it is polled again and again".to_string(),
            ),
            waits => (
                if waits == Body::GoesOn {
                    ViolationKind::LeakedTask
                } else {
                    ViolationKind::BlockedStage
                },
                if injected {
                    format!("the body has not ended {within} after the injection")
                } else {
                    "the body does not end".to_string()
                },
                left.waits.called.unwrap_or_else(|| {
                    let comes = if waits == Body::GoesOn { "comes later" } else { "will not come" };
                    format!("what {comes}")
                }),
            ),
        };
        return Some(Violation {
            task: Some("body".to_string()),
            spawned_at: Some(asked_at.into()),
            ..told(kind, headline, what, left.waits.place)
        });
    }
    if left.tasks > 0 {
        let who = match left.tasks {
            1 => "a task goes on".to_string(),
            n => format!("{} tasks go on", grouped(n as u64)),
        };
        let within = time(stop_within.as_nanos() as u64);
        let since = if injected { "the injection" } else { "the end" };
        let headline = format!("{who} {within} after {since}");
        // The same words whether or not an injection came: it is the same leak.
        let what = "the runtime still counts tasks that are alive, and does not name them; \
                    `Checker::new` would"
            .to_string();
        return Some(told(ViolationKind::LeakedTask, headline, what, None));
    }
    let mut state = watcher.state.lock();
    if let Some((what, place)) = state.lost.take() {
        let headline = "an item was dropped before it was settled".to_string();
        return Some(told(ViolationKind::LostItem, headline, what, Some(place)));
    }
    let context = state.contexts.last().map(|&at| Place::from(at));
    let (headline, what) = match context {
        Some(_) => ("a context is still alive", CONTEXT_LEFT),
        None if left.timer => ("a timer is still pending", TIMER_LEFT),
        None => return None,
    };
    let headline = format!("every task has ended, but {headline}");
    Some(told(ViolationKind::LeakedContext, headline, what.to_string(), context))
}
