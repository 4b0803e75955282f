//! The world in which a body runs while it is checked, and the run of one schedule.
//!
//! # Invariants
//!
//! 1. The engine is borrowed for a decision and released before any user code runs: see `engine`.
//! 2. When a schedule is over, everything that it made has been dropped: tasks, bells, the body's
//!    future, the canceller. What is left is what user code keeps, and a root that is as good as
//!    new, which is laid aside for the next schedule.

use super::clock::{Key, Time};
use super::engine::{self, BODY, Engine, Hand, NOBODY, Step, Trouble, Turned, here};
use super::inject::Inject;
use super::label;
use super::log::What;
use super::quiet::{self, Panic};
use super::report::note_sometimes;
use super::signal;
use super::story;
use super::subject::{Running, Subject};
use super::verdict::{self, End, Finding};
use crate::context::Context;
use crate::rt::probe::Wait;
use crate::rt::world::{Armed, Look, Onlooker, WaitId, World};
use crate::rt::{Bell, Stop, Unstarted, contain_panic};
use crate::sync::Arc;
use std::any::Any;
use std::panic::Location;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The advice where there is no runtime.
const ON_TOKIO: &str = "; check it with `Checker::tokio()`, or use `quell::rt` (`spawn`, `sleep`, `timeout`), \
                        which needs no runtime";

/// Why nothing can be armed where no schedule runs.
const NO_TIME: &str = "quell: the deadline of this context goes by the time of a checker's schedule, which is over, or \
                       runs on another thread, and nothing would wake what waits for it here; wait in a task of \
                       the body (`rt::spawn`), or make a context where the waiting is done";

/// The world of a body under check. What changes is in the engine.
#[derive(Debug)]
pub(super) struct Explorer {
    /// The time at which every schedule begins.
    pub(super) began: Instant,
    /// The time since: a context goes by the time of its own check, whoever asks, on any thread.
    pub(super) time: Arc<Time>,
    /// The number of its engine, which rings.
    pub(super) engine: usize,
}

impl Explorer {
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

impl World for Explorer {
    fn spawn(&self, task: Unstarted) -> Stop {
        let Unstarted { name, place, address, future } = task;
        // Left where it is if there is no room: invariant 1 of `engine`.
        let mut future = Some(future);
        let spawned = here(|engine| {
            if engine.tasks.len() == signal::MOST_TASKS {
                return None;
            }
            let label = engine.labels.of(engine.tasks.len(), name, place);
            let task = engine.add(future.take(), label, address);
            Some(signal::stop(engine.run, task))
        });
        spawned.unwrap_or_else(|| {
            panic!("quell: a schedule has room for {} tasks, and no more", signal::MOST_TASKS)
        })
    }

    fn now(&self) -> Instant {
        self.began.checked_add(Duration::from_nanos(self.time.now())).unwrap_or(self.began)
    }

    fn arm(&self, at: Instant, bell: Bell) -> Box<dyn Armed> {
        let at = self.nanos(at);
        // Left where it is if there is no engine: invariant 1.
        let mut bell = Some(bell);
        let armed = engine::with(|engine| {
            let engine = engine.of_number(self.engine)?;
            let key = engine.clock.arm(at, engine.current, bell.take()?);
            Some(Box::new(Alarm { run: engine.run, key }))
        });
        armed.flatten().expect(NO_TIME)
    }

    fn choose(&self, n: usize) -> usize {
        here(|engine| engine.choose(n))
    }

    #[inline]
    fn waits(&self, wait: Wait, in_vain: bool) {
        here(|engine| engine.waits(&wait, in_vain));
    }

    fn passes(&self, wait: Option<Wait>) -> bool {
        engine::with(|engine| engine.passes(wait)).unwrap_or(false)
    }

    #[inline]
    fn touches(&self, what: &'static str, of: usize) {
        here(|engine| {
            let (now, by) = (engine.clock.now(), engine.current);
            if let Some(log) = engine.log.as_mut().filter(|_| !engine.closing) {
                log.touched(now, by, what, of);
            }
        });
    }
}

impl Onlooker for Explorer {
    #[inline]
    fn looks(&self, look: Look) -> bool {
        engine::with(|engine| engine.look(look)).unwrap_or(false)
    }

    fn inject(&self) {
        if here(|engine| engine.trouble.is_some()) {
            std::panic::panic_any(quiet::Unwinding);
        }
        let later = here(|engine| {
            engine.pulse.set_striking(true);
            engine.limits.after_turns
        });
        strike(later);
        here(|engine| engine.pulse.set_striking(false));
    }

    fn made(&self, mark: u16, made_at: &'static Location<'static>) {
        engine::with(|engine| {
            if let Some(engine) = engine.of_mark(mark) {
                engine.contexts += 1;
                engine.made_at = engine.made_at.wrapping_add(label::hash_of_line(made_at));
                engine.stir();
                if let Some(log) = &mut engine.log {
                    log.contexts.push(made_at);
                }
            }
        });
    }

    fn gone(&self, mark: u16, made_at: &'static Location<'static>) {
        engine::with(|engine| {
            if let Some(engine) = engine.of_mark(mark) {
                engine.contexts -= 1;
                engine.made_at = engine.made_at.wrapping_sub(label::hash_of_line(made_at));
                engine.stir();
                if let Some(log) = &mut engine.log {
                    let place = log.contexts.iter().rposition(|at| std::ptr::eq(*at, made_at));
                    place.map(|place| log.contexts.remove(place));
                }
            }
        });
    }

    fn fault(&self, name: &'static str) {
        let strikes = engine::with(|engine| {
            engine.kind == Inject::Panic && !engine.closing && engine.point()
        });
        if strikes == Some(true) {
            here(Engine::lands);
            panic!("{}{name}`", quiet::INJECTED);
        }
    }

    fn lost(&self, what: &str, made_at: &'static Location<'static>) {
        engine::with(|engine| {
            // What is lost with an injected panic is excused, as the panic is.
            if !engine.closing && !quiet::injected_unwinds() {
                let task = engine.current;
                engine.note(task, || What::Lost { what: what.to_string() });
                let what = what.to_string();
                engine.lost.get_or_insert(Trouble::Lost { task, what, made_at });
            }
        });
    }

    fn sometimes(&self, name: &'static str, reached: bool) {
        engine::with(|engine| note_sometimes(&mut engine.sometimes, name, reached));
    }

    /// A violation, unless it was injected.
    fn panicked(&self, payload: &(dyn Any + Send)) {
        let panic = Panic::of(payload);
        if panic.was_injected() {
            return;
        }
        let Panic { mut message, place } = panic;
        engine::with(|engine| {
            if !engine.closing {
                let task = engine.current;
                engine.note(task, || What::Panicked { message: message.clone() });
                // All messages about a missing runtime, or a missing part of one, contain this.
                if message.contains("Tokio 1.x ") {
                    // Some of them end in a full stop.
                    message.truncate(message.trim_end_matches('.').len());
                    message.push_str(ON_TOKIO);
                }
                engine.goes_wrong(Trouble::Panicked { task, message, place });
            }
        });
    }

    /// Does nothing: the code that catches it reports it, or is the program's.
    fn panics(&self, _payload: &(dyn Any + Send)) {}
}

/// A bell armed in a schedule.
#[derive(Debug)]
struct Alarm {
    run: usize,
    key: Key,
}

impl Armed for Alarm {
    fn awaited(&self, alone: bool) {
        engine::with(|engine| {
            if let Some(engine) = engine.of_run(self.run) {
                engine.clock.awaited(self.key, engine.current, alone);
            }
        });
    }

    fn joined(&self, wait: WaitId, arms: bool) {
        engine::with(|engine| {
            if let Some(engine) = engine.of_run(self.run) {
                engine.clock.joined(self.key, engine.current, wait, arms);
            }
        });
    }

    fn left(&self, wait: WaitId) {
        engine::with(|engine| {
            if let Some(engine) = engine.of_run(self.run) {
                engine.clock.left(self.key, wait);
            }
        });
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let armed = engine::with(|engine| {
            engine.of_run(self.run).and_then(|engine| engine.clock.disarm(self.key))
        });
        drop(armed);
    }
}

/// Has the injection come here and now. `later`: a turn is in progress, so the functions at an end
/// are left until it is over.
fn strike(later: bool) {
    let (kind, canceller, asked_at) = here(|engine| {
        engine.lands();
        let body = engine.labels.get(engine.tasks[BODY as usize].label);
        (engine.kind, engine.canceller.clone(), body.place)
    });
    match kind {
        Inject::Cancel => {
            if let Some(canceller) = &canceller {
                let work = canceller.end_at(asked_at, false, later);
                here(|engine| engine.later.extend(work));
            }
        }
        Inject::Deadline => {
            // Functions may arm themselves again for ever. After `max_steps` of that the rest of the
            // hour is over at once, and what is still due before its end rings late.
            let most = here(|engine| engine.clock.armed + u64::from(engine.limits.steps));
            while let Some(armed) = here(|engine| engine.ring(super::DEADLINE)) {
                if later {
                    let work = contain_panic(armed.bell).flatten();
                    here(|engine| engine.later.extend(work));
                } else {
                    ring(armed.bell);
                }
                here(|engine| {
                    if engine.clock.armed >= most {
                        engine.clock.move_to(super::DEADLINE);
                    }
                });
            }
            here(|engine| engine.clock.move_to(super::DEADLINE));
        }
        Inject::Drop | Inject::Panic | Inject::None => {}
    }
}

fn ring(bell: Bell) {
    contain_panic(|| {
        if let Some(work) = bell() {
            work.run();
        }
    });
}

/// Runs one schedule of `body` and judges it.
pub(super) fn schedule(
    body: &dyn Subject,
    label: u32,
    asked_at: &'static Location<'static>,
) -> Option<Box<Finding>> {
    let mut finding = None;
    body.run_once(&mut |body| {
        body.takes(begin(label, asked_at));
        finding = run(body);
    });
    finding
}

/// Begins a schedule and returns its root.
fn begin(label: u32, asked_at: &'static Location<'static>) -> Context {
    quiet::forget();
    let run = signal::new_number();
    let (root, mark, kind) = here(|engine| {
        engine.reset(run);
        (engine.root.take(), engine.mark, engine.kind)
    });
    let (ctx, canceller) = match root {
        Some(canceller) => (canceller.reuse(mark), canceller),
        None => {
            let after = (kind == Inject::Deadline).then_some(Duration::from_nanos(super::DEADLINE));
            Context::watched(mark, asked_at, after)
        }
    };
    here(|engine| {
        engine.canceller = Some(canceller);
        engine.add(None, label, 0);
    });
    ctx
}

/// Goes from step to step to the end.
fn run(body: &mut dyn Running) -> Option<Box<Finding>> {
    let mut hand = Hand::empty();
    let mut turn = Turned::Nobody;
    let end = loop {
        // One access to the engine for each step: it ends the last and decides on the next.
        turn = match here(|engine| engine.step(turn, &mut hand)) {
            Step::Poll(BODY) => {
                let mut cx = std::task::Context::from_waker(&hand.waker);
                if contain_panic(|| body.poll(&mut cx)) == Some(Poll::Pending) {
                    Turned::Waits(BODY)
                } else {
                    contain_panic(|| body.end());
                    end_body();
                    Turned::Nobody
                }
            }
            Step::Poll(task) => poll_task(task, &mut hand),
            Step::Drop(task) => {
                contain_panic(|| hand.future = None);
                Turned::Ended(task)
            }
            Step::Tick => {
                if let Some(due) = here(Engine::tick) {
                    while let Some(armed) = here(|engine| engine.ring(due)) {
                        ring(armed.bell);
                    }
                }
                Turned::Nobody
            }
            Step::Call => {
                let works = here(|engine| std::mem::take(&mut engine.later));
                for work in works {
                    contain_panic(|| work.run());
                }
                Turned::Nobody
            }
            Step::Strike => {
                strike(false);
                if here(Engine::drops_body) {
                    contain_panic(|| body.end());
                    end_body();
                }
                Turned::Nobody
            }
            Step::Quiet => break End::Quiet,
            Step::Stuck => {
                if let Some(run) = here(|engine| engine.waits_for_threads().then_some(engine.run)) {
                    signal::wait_for_other_threads(run, Duration::from_millis(50));
                    if here(Engine::note_threads) {
                        turn = Turned::Nobody;
                        continue;
                    }
                }
                break End::Stuck;
            }
            Step::Busy => break End::Busy,
        };
    };
    let finding = here(|engine| {
        let finding = verdict::judge(engine, end).map(Box::new);
        if engine.log.is_some() {
            let pulse = Arc::clone(&engine.pulse);
            pulse.own_time(|| story::keep(engine, finding.as_deref()));
        }
        engine.closing = true;
        engine.current = NOBODY;
        finding
    });
    close(body);
    finding
}

/// Polls a task. It catches its own panics; but its result, which it drops if nothing has asked for
/// it, may panic as well, and so may the waker of a task that waits for it.
#[inline]
fn poll_task(task: u32, hand: &mut Hand) -> Turned {
    let Hand { future, waker } = hand;
    let mut cx = std::task::Context::from_waker(waker);
    let polled = contain_panic(|| {
        let running = future.as_mut().expect("only the body is elsewhere");
        let polled = running.as_mut().poll(&mut cx);
        if polled.is_ready() {
            *future = None;
        }
        polled
    });
    if polled == Some(Poll::Pending) {
        return Turned::Waits(task);
    }
    if future.is_some() {
        // It panicked before it was dropped.
        contain_panic(|| *future = None);
    }
    Turned::Ended(task)
}

/// Ends the body: its canceller goes, and what it has left behind has `stop_within` to stop.
fn end_body() {
    let (canceller, is_deserted) = here(|engine| {
        engine.ended(BODY);
        engine.body_ended = true;
        let soon = engine.clock.now().saturating_add(engine.limits.stop_within);
        engine.until = Some(engine.until.unwrap_or(soon));
        (engine.canceller.take(), engine.is_deserted())
    });
    match canceller {
        Some(canceller) if is_deserted && canceller.try_recycle() => {
            here(|engine| engine.root = Some(canceller));
        }
        // If it is not alone, another thread may still wait.
        Some(canceller) if is_deserted && canceller.is_alone() => canceller.detach(),
        canceller => {
            contain_panic(|| drop(canceller));
        }
    }
}

/// Drops what is left of a schedule.
fn close(body: &mut dyn Running) {
    here(|engine| engine.beats(BODY));
    contain_panic(|| body.end());
    let (canceller, later) =
        here(|engine| (engine.canceller.take(), std::mem::take(&mut engine.later)));
    if canceller.is_some() {
        contain_panic(|| drop(canceller));
    }
    // Left by a turn that went wrong.
    if !later.is_empty() {
        contain_panic(|| drop(later));
    }
    // Drops may spawn: repeat until nothing is left.
    let mut next = 0;
    let left = |next: &mut usize| {
        here(|engine| {
            let task = engine.tasks[*next..].iter_mut().find_map(|task| {
                *next += 1;
                task.future.take()
            });
            if task.is_some() {
                engine.beats(*next as u32 - 1);
            }
            task
        })
    };
    while let Some(task) = left(&mut next) {
        contain_panic(|| drop(task));
    }
    let bells = here(|engine| {
        engine.runs(0);
        engine.tasks.clear();
        engine.clock.reset()
    });
    if bells.is_some() {
        contain_panic(|| drop(bells));
    }
}
