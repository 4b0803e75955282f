//! The world in which a body runs while it is checked, and the run of one schedule.
//!
//! # Invariants
//!
//! 1. The engine is borrowed for a decision and let go before anybody's code runs:
//!    see `engine`.
//! 2. When a schedule is over, all that it made has been dropped: tasks, bells, the
//!    body's future, the canceller. What is left then is what the user's code keeps.

use super::clock::Key;
use super::engine::{self, BODY, Engine, Future, NOBODY, Step, Trouble, here};
use super::inject::Inject;
use super::log::What;
use super::quiet;
use super::signal;
use super::story;
use super::verdict::{self, End, Finding};
use crate::context::Context;
use crate::rt::probe::Wait;
use crate::rt::world::{Armed, Look, Onlooker, World};
use crate::rt::{Bell, Stop, Unstarted};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The world of a body that is being checked. What changes is in the engine.
#[derive(Debug)]
pub(super) struct Explorer {
    /// The time at which every schedule begins.
    pub(super) began: Instant,
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
        // Left where it is, if there is no room: invariant 1 of `engine`.
        let mut future = Some(future);
        let spawned = here(|engine| {
            if engine.tasks.len() == signal::MOST_TASKS {
                return None;
            }
            let label = engine.labels.of(engine.tasks.len(), name, place);
            let task = engine.add(future.take(), label, address);
            Some(signal::stop(engine.run, task))
        });
        spawned.expect("a schedule has no room for more tasks")
    }

    fn now(&self) -> Instant {
        let now = engine::with(|engine| engine.clock.now).unwrap_or(0);
        self.began.checked_add(Duration::from_nanos(now)).unwrap_or(self.began)
    }

    fn arm(&self, at: Instant, bell: Bell) -> Box<dyn Armed> {
        let at = self.nanos(at);
        here(|engine| {
            let key = engine.clock.arm(at, engine.current, bell);
            Box::new(Alarm { run: engine.run, key })
        })
    }

    fn choose(&self, n: usize) -> usize {
        here(|engine| engine.choose(n))
    }

    #[inline]
    fn waits(&self, wait: Wait) {
        here(|engine| engine.waits(wait));
    }

    #[inline]
    fn touches(&self, what: &'static str, of: usize) {
        here(|engine| {
            let (now, by) = (engine.clock.now, engine.current);
            if let Some(log) = &mut engine.log {
                log.touched(now, by, what, of);
            }
        });
    }

    fn panicked(&self) {
        note_panic();
    }
}

impl Onlooker for Explorer {
    #[inline]
    fn looks(&self, look: Look) -> bool {
        engine::with(|engine| engine.look(look)).unwrap_or(false)
    }

    fn strikes(&self) {
        if here(|engine| engine.trouble.is_some()) {
            std::panic::panic_any(quiet::Unwinding);
        }
        strike();
    }

    fn made(&self, mark: u16, made_at: &'static Location<'static>) {
        engine::with(|engine| {
            if engine.mark() == mark {
                engine.contexts += 1;
                engine.stir();
                if let Some(log) = &mut engine.log {
                    log.contexts.push(made_at);
                }
            }
        });
    }

    fn gone(&self, mark: u16, made_at: &'static Location<'static>) {
        engine::with(|engine| {
            if engine.mark() == mark {
                engine.contexts -= 1;
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
            let by_panic = engine.kind == Inject::Panic && !engine.closing;
            by_panic && engine.point(true)
        });
        if strikes == Some(true) {
            here(Engine::lands);
            panic!("{}{name}`", quiet::INJECTED);
        }
    }

    fn lost(&self, what: &str, made_at: &'static Location<'static>) {
        engine::with(|engine| {
            if !engine.closing {
                let task = engine.current;
                engine.note(task, || What::Lost { what: what.to_string() });
                let what = what.to_string();
                engine.lost.get_or_insert(Trouble::Lost { task, what, made_at });
            }
        });
    }

    fn sometimes(&self, name: &'static str, reached: bool) {
        engine::with(|engine| {
            match engine.sometimes.iter_mut().find(|(known, _)| *known == name) {
                Some((_, before)) => *before |= reached,
                None => engine.sometimes.push((name, reached)),
            }
        });
    }
}

/// A bell that is armed in a schedule.
#[derive(Debug)]
struct Alarm {
    run: usize,
    key: Key,
}

impl Armed for Alarm {}

impl Drop for Alarm {
    fn drop(&mut self) {
        let armed =
            engine::with(
                |engine| {
                    if engine.run == self.run { engine.clock.disarm(self.key) } else { None }
                },
            );
        drop(armed);
    }
}

/// Somebody has panicked, and it was caught: a violation, unless it was asked for.
fn note_panic() {
    let Some((message, place)) = quiet::last_panic() else { return };
    if message.contains(quiet::INJECTED) {
        return;
    }
    engine::with(|engine| {
        if !engine.closing {
            let task = engine.current;
            engine.note(task, || What::Panicked { message: message.clone() });
            engine.trouble.get_or_insert(Trouble::Panicked { task, message, place });
        }
    });
}

/// The injection comes, here and now.
fn strike() {
    let (kind, canceller) = here(|engine| {
        engine.lands();
        (engine.kind, engine.canceller.clone())
    });
    match kind {
        Inject::Cancel => {
            if let Some(canceller) = &canceller {
                canceller.cancel();
            }
        }
        Inject::Deadline => {
            while let Some(armed) = here(|engine| engine.clock.ring(super::DEADLINE)) {
                ring(armed.bell);
            }
            here(|engine| engine.clock.now = engine.clock.now.max(super::DEADLINE));
        }
        Inject::Drop | Inject::Panic | Inject::None => {}
    }
}

fn ring(bell: Bell) {
    if let Some(work) = bell() {
        work();
    }
}

/// Runs one schedule of `body`, and judges it.
pub(super) fn schedule<F, Fut>(
    body: &F,
    label: u32,
    asked_at: &'static Location<'static>,
) -> Option<Finding>
where
    F: Fn(Context) -> Fut,
    Fut: std::future::Future,
{
    let run = signal::new_run();
    let (mark, kind) = here(|engine| {
        engine.reset(run);
        (engine.mark(), engine.kind)
    });
    let after = (kind == Inject::Deadline).then_some(Duration::from_nanos(super::DEADLINE));
    let (ctx, canceller) = Context::watched(mark, asked_at, after);
    here(|engine| {
        engine.canceller = Some(canceller);
        engine.add(None, label, 0);
    });
    let mut ctx = Some(ctx);
    let mut future = pin!(None::<Fut>);
    let end = loop {
        let step = here(Engine::next);
        match step {
            Step::Poll { task: BODY, waker, .. } => {
                if let Some(ctx) = ctx.take() {
                    match catch_unwind(AssertUnwindSafe(|| body(ctx))) {
                        Ok(made) => future.set(Some(made)),
                        Err(payload) => {
                            caught(payload);
                            end_body();
                            continue;
                        }
                    }
                }
                if poll_body(future.as_mut(), &waker) {
                    end_body();
                } else {
                    here(|engine| engine.pending(BODY, None));
                }
            }
            Step::Poll { task, future, waker } => {
                poll_task(task, future.expect("only the body is elsewhere"), waker);
            }
            Step::Drop(future) => {
                let task = here(|engine| engine.current);
                drop(future);
                here(|engine| engine.ended(task));
            }
            Step::Tick => {
                if let Some(due) = here(Engine::tick) {
                    while let Some(armed) = here(|engine| engine.clock.ring(due)) {
                        ring(armed.bell);
                    }
                }
            }
            Step::Strike => {
                strike();
                if kind == Inject::Drop {
                    here(|engine| engine.current = BODY);
                    drop_body(future.as_mut());
                    drop(ctx.take());
                    end_body();
                }
            }
            Step::Quiet => break End::Quiet,
            Step::Stuck => {
                if here(|engine| engine.log.is_some()) {
                    signal::wait_for_other_threads(run, Duration::from_millis(50));
                    if note_threads(run) {
                        continue;
                    }
                }
                break End::Stuck;
            }
            Step::Busy => break End::Busy,
        }
        note_threads(run);
    };
    let finding = here(|engine| {
        let finding = verdict::judge(engine, end);
        story::keep(engine, finding.as_ref());
        finding
    });
    close(future, ctx);
    finding
}

/// Whether another thread has woken a task, which then is what went wrong.
fn note_threads(run: usize) -> bool {
    let woken = signal::from_other_threads(run);
    let Some(&task) = woken.first() else { return false };
    here(|engine| {
        if engine.trouble.is_some() {
            return false;
        }
        engine.trouble = Some(Trouble::Threads { task });
        true
    })
}

/// True: it has ended.
fn poll_body<Fut: std::future::Future>(mut future: Pin<&mut Option<Fut>>, waker: &Waker) -> bool {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let future = future.as_mut().as_pin_mut().expect("the body has not ended");
        // What it returns is dropped here, in its own turn.
        future.poll(&mut std::task::Context::from_waker(waker)).map(drop)
    }));
    match polled {
        Ok(Poll::Pending) => return false,
        Ok(Poll::Ready(())) => {}
        Err(payload) => caught(payload),
    }
    drop_body(future);
    true
}

fn drop_body<Fut>(mut future: Pin<&mut Option<Fut>>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| future.set(None))) {
        caught(payload);
    }
}

fn caught(payload: Box<dyn std::any::Any + Send>) {
    note_panic();
    // A payload that panics when it is dropped has said enough.
    if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(worse);
    }
}

#[inline]
fn poll_task(task: u32, mut future: Future, waker: Waker) {
    match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
        Poll::Pending => here(|engine| engine.pending(task, Some(future))),
        Poll::Ready(()) => {
            drop(future);
            here(|engine| engine.ended(task));
        }
    }
}

/// The body has ended: its canceller goes, and what it has left behind has
/// `stop_within` to stop.
fn end_body() {
    let canceller = here(|engine| {
        engine.ended(BODY);
        engine.body_ended = true;
        let soon = engine.clock.now.saturating_add(engine.limits.stop_within);
        engine.until = Some(engine.until.unwrap_or(soon));
        engine.canceller.take()
    });
    drop(canceller);
}

/// Drops what is left of a schedule.
fn close<Fut>(mut future: Pin<&mut Option<Fut>>, ctx: Option<Context>) {
    here(|engine| {
        engine.closing = true;
        engine.current = NOBODY;
    });
    let quietly = |f: &mut dyn FnMut()| {
        let _ = catch_unwind(AssertUnwindSafe(f));
    };
    quietly(&mut || future.set(None));
    drop(ctx);
    let canceller = here(|engine| engine.canceller.take());
    quietly(&mut || drop(canceller.clone()));
    drop(canceller);
    // What is dropped may spawn: until nothing is left.
    let mut next = 0;
    while let Some(task) = here(|engine| {
        let task = engine.tasks.get_mut(next)?;
        next += 1;
        Some(task.future.take())
    }) {
        if let Some(task) = task {
            let mut task = Some(task);
            quietly(&mut || drop(task.take()));
        }
    }
    let bells = here(|engine| {
        // Marks and signals of this schedule mean nothing from here on.
        engine.run = 0;
        engine.tasks.clear();
        engine.clock.reset()
    });
    drop(bells);
}
