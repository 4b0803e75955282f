//! Alarms on a runtime whose clock may be paused: one task there, the keeper, rings them all.
//!
//! It is a task because only the runtime's own timers make a paused clock advance by itself. The
//! timer thread knows of each alarm as well, and comes a little later: the runtime may not be
//! driven, may be busy, or may have shut down.
//!
//! # Invariants
//!
//! 1. A bell hangs here from [`arm`] until it is taken: by the keeper or the timer thread, to ring
//!    it, or by its [`Hook`], to drop it.
//! 2. A runtime has at most one keeper, however many alarms come and go, driven or not. It is noted
//!    here from before it is spawned until it ends or is dropped with its runtime. It ends when it
//!    finds no bell.
//! 3. An awake keeper looks at the bells once more before it sleeps. An asleep one sleeps until the
//!    first of them is due at the latest: hanging an earlier one wakes it, and so does taking the
//!    last. It may wake too early, for a bell that has been taken since: waking it at each of those
//!    would cost more than that one turn. Where it is dropped with its runtime, the timer thread
//!    looks in its place if the clock has been moved since the bells were hung: it goes by the time
//!    that remained then.
//! 4. Bells ring and are dropped, and tasks are spawned and woken, without the lock: a runtime that
//!    has shut down drops a new task at once.

#![allow(clippy::disallowed_methods, reason = "the right door")]

use super::clock::{Alarm, Bell, Clock};
use super::timer;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use pin_project_lite::pin_project;
use std::collections::{BTreeMap, VecDeque};
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Id};

/// How long the timer thread waits for the runtime to ring.
const GRACE: Duration = Duration::from_millis(10);

/// How many bells ring before other tasks have their turn: user functions may run with them.
const TURN: usize = 8;

/// Anything farther away counts as never, because tokio cannot compute with the end of the clock.
pub(crate) const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Runtimes that have turned out to have no timers.
static WITHOUT_TIMERS: Mutex<WithoutTimers> = Mutex::new(WithoutTimers { latest: VecDeque::new() });
/// Nonzero once there is one: few programs have any, and the rest take no lock to know.
static ANY: AtomicUsize = AtomicUsize::new(0);

/// How many are remembered: nothing tells when a runtime is gone. One that is forgotten is tried
/// once more, and noted again.
const REMEMBERED: usize = 64;

struct WithoutTimers {
    latest: VecDeque<Id>,
}

impl WithoutTimers {
    fn note(&mut self, runtime: Id) {
        if self.latest.contains(&runtime) {
            return;
        }
        if self.latest.len() == REMEMBERED {
            self.latest.pop_front();
        }
        self.latest.push_back(runtime);
    }
}

pub(super) fn is_without_timers(runtime: Id) -> bool {
    // Relaxed: a thread that sees it late just tries, as the first one did.
    ANY.load(Ordering::Relaxed) != 0 && WITHOUT_TIMERS.lock().latest.contains(&runtime)
}

pub(super) fn note_without_timers(runtime: Id) {
    WITHOUT_TIMERS.lock().note(runtime);
    // Relaxed: see above.
    ANY.store(1, Ordering::Relaxed);
}

static DESK: Mutex<Desk> = Mutex::new(Desk::new());

struct Desk {
    /// Runtimes on which an alarm is armed or a keeper left: mostly one, or one a core.
    runtimes: Vec<Runtime>,
    next: u64,
}

struct Runtime {
    id: Id,
    bells: BTreeMap<Key, Bell>,
    keeper: KeeperIs,
}

/// When; then, for bells of the same instant, the order in which they came.
type Key = (Instant, u64);

enum KeeperIs {
    Nobody,
    Awake,
    Asleep { until: Instant, waker: Waker },
}

/// What has to be told of a new bell.
enum Concerns {
    /// Nothing: the keeper finds it by itself.
    Nobody,
    /// A new keeper, which is already noted.
    NewKeeper,
    Sleeper(Waker),
}

/// What a keeper has to do next.
enum Next {
    Ring(Bell),
    Sleep(Instant),
    End,
}

impl Desk {
    const fn new() -> Self {
        Desk { runtimes: Vec::new(), next: 0 }
    }

    fn hang(&mut self, id: Id, at: Instant, bell: Bell) -> (Key, Concerns) {
        let key = (at, self.next);
        self.next += 1;
        let here = self.find_or_add(id);
        here.bells.insert(key, bell);
        let concerns = match here.keeper {
            KeeperIs::Nobody => {
                here.keeper = KeeperIs::Awake;
                Concerns::NewKeeper
            }
            KeeperIs::Asleep { until, .. } if at < until => {
                here.wake().map_or(Concerns::Nobody, Concerns::Sleeper)
            }
            KeeperIs::Asleep { .. } | KeeperIs::Awake => Concerns::Nobody,
        };
        (key, concerns)
    }

    fn find(&self, id: Id) -> Option<usize> {
        self.runtimes.iter().position(|runtime| runtime.id == id)
    }

    fn find_or_add(&mut self, id: Id) -> &mut Runtime {
        let index = self.find(id).unwrap_or_else(|| {
            self.runtimes.push(Runtime { id, bells: BTreeMap::new(), keeper: KeeperIs::Nobody });
            self.runtimes.len() - 1
        });
        &mut self.runtimes[index]
    }

    /// Forgets a runtime of which nothing is left here.
    fn tidy(&mut self, index: usize) {
        let runtime = &self.runtimes[index];
        if runtime.bells.is_empty() && matches!(runtime.keeper, KeeperIs::Nobody) {
            self.runtimes.swap_remove(index);
        }
    }

    /// Takes the bell, if it still hangs; with it, the keeper's waker if that is to be woken.
    fn take(&mut self, id: Id, key: Key) -> Option<(Bell, Option<Waker>)> {
        let index = self.find(id)?;
        let runtime = &mut self.runtimes[index];
        let bell = runtime.bells.remove(&key)?;
        let waker = if runtime.bells.is_empty() { runtime.wake() } else { None };
        self.tidy(index);
        Some((bell, waker))
    }

    fn next(&mut self, id: Id, now: Instant) -> Next {
        let index = self.find(id).expect("it has a keeper");
        let runtime = &mut self.runtimes[index];
        match runtime.bells.first_entry() {
            Some(first) if first.key().0 <= now => Next::Ring(first.remove()),
            Some(first) => Next::Sleep(first.key().0),
            None => {
                self.leave(index);
                Next::End
            }
        }
    }

    /// Notes that the keeper sleeps until then. `Err`, with its waker: it has to look again.
    fn sleep(&mut self, id: Id, until: Instant, waker: Waker) -> Result<(), Waker> {
        let index = self.find(id).expect("it has a keeper");
        let runtime = &mut self.runtimes[index];
        match runtime.bells.first_key_value() {
            Some((&(first, _), _)) if until <= first => {
                runtime.keeper = KeeperIs::Asleep { until, waker };
                Ok(())
            }
            _ => Err(waker),
        }
    }

    /// Notes that the keeper has been dropped, whatever still hangs.
    fn leave_undone(&mut self, id: Id) {
        let index = self.find(id).expect("it has a keeper");
        self.leave(index);
    }

    /// Notes that the keeper is gone. Dropping its waker here does not drop its task: that is being
    /// polled, or dropped, right now.
    fn leave(&mut self, index: usize) {
        self.runtimes[index].keeper = KeeperIs::Nobody;
        self.tidy(index);
    }
}

impl Runtime {
    /// The keeper's waker, if the keeper is asleep: it counts as awake from here on.
    fn wake(&mut self) -> Option<Waker> {
        match std::mem::replace(&mut self.keeper, KeeperIs::Awake) {
            KeeperIs::Asleep { waker, .. } => Some(waker),
            as_it_was => {
                self.keeper = as_it_was;
                None
            }
        }
    }
}

/// Whether a task of this runtime keeps the time of alarms.
#[cfg(feature = "check")]
pub(crate) fn keeps_time_here() -> bool {
    let desk = DESK.lock();
    let here = desk.find(Handle::current().id()).map(|index| &desk.runtimes[index]);
    here.is_some_and(|runtime| !matches!(runtime.keeper, KeeperIs::Nobody))
}

/// The place of a hung bell; dropping this takes the bell down.
#[derive(Debug)]
pub(crate) struct Hook {
    runtime: Id,
    key: Key,
}

/// See [`Clock::arm`].
pub(super) fn arm(runtime: &Handle, clock: Clock, at: Instant, bell: Bell) -> Alarm {
    let id = runtime.id();
    if is_without_timers(id) {
        return Alarm::Timer { _entry: timer::arm(clock, at, Duration::ZERO, bell) };
    }
    let hook = Hook::hang(runtime, &clock, at, bell);
    let key = hook.key;
    let backup = Box::new(move || take(id, key).and_then(|bell| bell()));
    Alarm::Hook { _hook: hook, _backup: timer::arm(clock, at, GRACE, backup) }
}

impl Hook {
    fn hang(runtime: &Handle, clock: &Clock, at: Instant, bell: Bell) -> Hook {
        let id = runtime.id();
        let (key, concerns) = DESK.lock().hang(id, at, bell);
        let hook = Hook { runtime: id, key };
        match concerns {
            Concerns::NewKeeper => drop(runtime.spawn(Keeper::new(id, clock))),
            Concerns::Sleeper(waker) => super::wake([waker]),
            Concerns::Nobody => {}
        }
        hook
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        drop(take(self.runtime, self.key));
    }
}

fn take(runtime: Id, key: Key) -> Option<Bell> {
    let taken = DESK.lock().take(runtime, key);
    let (bell, waker) = taken?;
    super::wake(waker);
    Some(bell)
}

pin_project! {
    /// The task that rings.
    struct Keeper {
        runtime: Id,
        // Made when first needed: a runtime may have no timers.
        #[pin]
        sleep: Option<tokio::time::Sleep>,
        // Whether it is no longer noted here, and there may be another.
        left: bool,
        clock: Clock,
        // When it was made, by the system's clock and by its own.
        since: (Instant, Instant),
    }

    impl PinnedDrop for Keeper {
        fn drop(this: Pin<&mut Self>) {
            if this.left {
                return;
            }
            DESK.lock().leave_undone(this.runtime);
            let (began, by_clock) = this.since;
            let passed = this.clock.now().saturating_duration_since(by_clock);
            // The system's clock is read before and after the other, so only a move can make a
            // difference.
            if passed > Clock::system_now().saturating_duration_since(began) {
                timer::look_again(&this.clock);
            }
        }
    }
}

impl Keeper {
    fn new(runtime: Id, clock: &Clock) -> Self {
        let began = Clock::system_now();
        let since = (began, clock.now());
        Keeper { runtime, sleep: None, left: false, clock: clock.clone(), since }
    }
}

impl Future for Keeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let id = *this.runtime;
        let mut rung = 0;
        loop {
            let now = tokio::time::Instant::now().into_std();
            let next = DESK.lock().next(id, now);
            let at = match next {
                Next::Ring(bell) => {
                    ring(bell);
                    rung += 1;
                    if rung == TURN {
                        super::turn::go_last(cx);
                        return Poll::Pending;
                    }
                    continue;
                }
                Next::Sleep(at) => at,
                Next::End => {
                    *this.left = true;
                    return Poll::Ready(());
                }
            };
            if at.saturating_duration_since(now) > A_CENTURY {
                this.sleep.set(None);
                let waker = cx.waker().clone();
                let slept = DESK.lock().sleep(id, at, waker);
                if slept.is_ok() {
                    return Poll::Pending;
                }
                continue;
            }
            match this.sleep.as_mut().as_pin_mut() {
                Some(sleep) if sleep.deadline().into_std() == at => {}
                Some(sleep) => sleep.reset(at.into()),
                // The only way to find out whether there are timers is to try: tokio panics, and
                // says how to enable them.
                None => match catch_unwind(|| tokio::time::sleep_until(at.into())) {
                    Ok(sleep) => this.sleep.set(Some(sleep)),
                    Err(_without_timers) => {
                        note_without_timers(id);
                        return Poll::Ready(());
                    }
                },
            }
            let sleep = this.sleep.as_mut().as_pin_mut().expect("just made");
            if sleep.poll(cx).is_pending() {
                let waker = cx.waker().clone();
                let slept = DESK.lock().sleep(id, at, waker);
                if slept.is_ok() {
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Rings, and runs user code. Wakers and functions are guarded one by one. This guard is for what
/// is dropped with the bell: once its context is gone, that holds the last reference to a cause,
/// whose drop is user code and must not end the task that all deadlines of the runtime depend on.
fn ring(bell: Bell) {
    super::contain_panic(|| {
        if let Some(work) = bell() {
            work.run();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    /// A desk, a runtime's id, and instants.
    fn desk() -> (Desk, Id, impl Fn(u64) -> Instant) {
        let runtime = Builder::new_current_thread().build().unwrap();
        let start = Instant::now();
        (Desk::new(), runtime.handle().id(), move |ms| start + Duration::from_millis(ms))
    }

    fn bell() -> Bell {
        Box::new(|| None)
    }

    fn sleeps_until(next: Next) -> Option<Instant> {
        match next {
            Next::Sleep(until) => Some(until),
            Next::Ring(_) | Next::End => None,
        }
    }

    #[test]
    fn a_keeper_about_to_sleep_looks_again_where_an_earlier_bell_was_hung_meanwhile() {
        let (mut desk, id, at) = desk();
        assert!(matches!(desk.hang(id, at(20), bell()).1, Concerns::NewKeeper));
        assert_eq!(sleeps_until(desk.next(id, at(0))), Some(at(20)));
        // It is awake, so it is not told.
        assert!(matches!(desk.hang(id, at(10), bell()).1, Concerns::Nobody));
        let waker = desk.sleep(id, at(20), Waker::noop().clone()).unwrap_err();
        assert_eq!(sleeps_until(desk.next(id, at(0))), Some(at(10)));
        assert!(desk.sleep(id, at(10), waker).is_ok());
    }

    #[test]
    fn a_keeper_about_to_sleep_looks_again_where_the_last_bell_was_taken_meanwhile() {
        let (mut desk, id, at) = desk();
        let (key, _) = desk.hang(id, at(20), bell());
        assert_eq!(sleeps_until(desk.next(id, at(0))), Some(at(20)));
        let (_bell, sleeper) = desk.take(id, key).unwrap();
        assert!(sleeper.is_none());
        assert!(desk.sleep(id, at(20), Waker::noop().clone()).is_err());
        assert!(matches!(desk.next(id, at(0)), Next::End));
    }

    #[test]
    fn a_keeper_that_sleeps_is_woken_for_an_earlier_bell_and_for_the_last_that_goes() {
        let (mut desk, id, at) = desk();
        let (first, _) = desk.hang(id, at(20), bell());
        assert!(desk.sleep(id, at(20), Waker::noop().clone()).is_ok());
        assert!(matches!(desk.hang(id, at(30), bell()).1, Concerns::Nobody));
        let (earlier, concerns) = desk.hang(id, at(10), bell());
        assert!(matches!(concerns, Concerns::Sleeper(_)));
        assert!(desk.sleep(id, at(10), Waker::noop().clone()).is_ok());
        assert!(desk.take(id, earlier).unwrap().1.is_none());
        assert!(desk.take(id, first).unwrap().1.is_none());
        assert_eq!(sleeps_until(desk.next(id, at(0))), Some(at(30)));
        let Next::Ring(_) = desk.next(id, at(30)) else { panic!("it is time") };
        let (last, _) = desk.hang(id, at(40), bell());
        assert!(desk.sleep(id, at(40), Waker::noop().clone()).is_ok());
        assert!(desk.take(id, last).unwrap().1.is_some());
    }

    #[test]
    fn a_runtime_is_forgotten_when_its_keeper_and_its_bells_are_gone_whichever_is_last() {
        let (mut desk, id, at) = desk();
        let (key, _) = desk.hang(id, at(10), bell());
        // The keeper is dropped with its runtime: the bell still hangs, for the timer thread.
        desk.leave_undone(id);
        // Another may be armed there, and get a new keeper.
        let (other, concerns) = desk.hang(id, at(20), bell());
        assert!(matches!(concerns, Concerns::NewKeeper));
        desk.leave_undone(id);
        assert!(desk.take(id, key).is_some() && desk.take(id, key).is_none());
        assert_eq!(desk.runtimes.len(), 1);
        assert!(desk.take(id, other).is_some());
        assert!(desk.runtimes.is_empty());
        let (key, _) = desk.hang(id, at(10), bell());
        assert!(desk.take(id, key).is_some());
        assert_eq!(desk.runtimes.len(), 1, "it has a keeper");
        assert!(matches!(desk.next(id, at(0)), Next::End));
        assert!(desk.runtimes.is_empty());
    }

    #[test]
    fn the_latest_runtimes_without_timers_are_remembered_and_no_more() {
        let mut without = WithoutTimers { latest: VecDeque::new() };
        let (_, oldest, _) = desk();
        without.note(oldest);
        (1..REMEMBERED).for_each(|_| without.note(desk().1));
        without.note(oldest);
        assert!(without.latest.contains(&oldest));
        without.note(desk().1);
        assert!(!without.latest.contains(&oldest));
        assert_eq!(without.latest.len(), REMEMBERED);
    }
}
