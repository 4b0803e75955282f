//! The watchdog: a thread that notices when a body keeps the checker's own thread.
//!
//! A task that blocks the thread, or loops without an await, cannot be stopped from outside. But it
//! can be named and the process ended, instead of hanging for ever. What was found before is told
//! first.
//!
//! # Invariants
//!
//! 1. `beat` changes with each poll and each drop of a future, and with each bell. If it has not
//!    changed for the whole of the patience while its exploration is in the list, something keeps
//!    the thread: user code, unless it is the checker itself ([`Pulse::own_time`]) or another
//!    checker in this one's body.
//! 2. No exploration runs under the list's lock, which it takes only to enter the list and to leave
//!    it. No waker is woken under it.
//! 3. A waker that is woken because nothing has moved for half of the patience finds `nudged` set.
//! 4. What is said before the process ends bypasses `eprintln`: a test captures what that prints,
//!    and would lose it.

use super::label::{Label, Labels};
use crate::rt::Clock;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex};
use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::marker::PhantomData;
use std::task::Waker;
use std::time::{Duration, Instant};

/// In place of a label: the checker itself has the thread.
const CHECKER: u32 = u32::MAX - 1;

/// What the watchdog sees of an exploration.
#[derive(Debug)]
pub(super) struct Pulse {
    beat: AtomicU64,
    label: AtomicU32,
    known: AtomicU32,
    /// Whether an end has come in the middle of a turn and its functions are being called.
    strikes: AtomicBool,
    /// The waker of a future that may be able to go on by itself when nothing else moves.
    waits: Mutex<Option<Waker>>,
    nudged: AtomicBool,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    labels: Vec<Label>,
    /// The violations that were found so far.
    stories: Vec<String>,
    /// The violation that is being told: trying a simpler schedule for it may end the process.
    at_hand: Option<String>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Pulse {
            beat: AtomicU64::new(0),
            label: AtomicU32::new(0),
            known: AtomicU32::new(0),
            strikes: AtomicBool::new(false),
            waits: Mutex::new(None),
            nudged: AtomicBool::new(false),
            told: Mutex::new(Told::default()),
        }
    }

    /// Notes that a task with this label is about to be polled or dropped.
    #[inline]
    pub(super) fn beats(&self, label: u32) {
        self.goes_on();
        self.label.store(label, Ordering::Relaxed);
    }

    /// Notes that time is about to ring a bell, which is no task's turn.
    #[inline]
    pub(super) fn goes_on(&self) {
        // Relaxed: the watchdog only samples it. One thread writes, so no swap.
        self.beat.store(self.beat.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Runs `f`, which handles stack traces and takes long, in the checker's time, not in a task's.
    pub(super) fn own_time<R>(&self, f: impl FnOnce() -> R) -> R {
        let label = self.takes_over(CHECKER);
        let done = f();
        self.takes_over(label);
        done
    }

    /// Sets which label has the thread, and returns the one that had it.
    fn takes_over(&self, label: u32) -> u32 {
        // Relaxed: see `beats`.
        let before = self.label.load(Ordering::Relaxed);
        self.beats(label);
        before
    }

    /// Sets whether an end has come in the middle of a turn and its functions are being called.
    pub(super) fn set_striking(&self, strikes: bool) {
        // Relaxed: see `beats`.
        self.strikes.store(strikes, Ordering::Relaxed);
    }

    /// Has `waker` woken, once, when nothing has moved for half of the patience.
    #[cfg(feature = "tokio")]
    pub(super) fn nudges(&self, waker: Option<Waker>) {
        let before = std::mem::replace(&mut *self.waits.lock(), waker);
        drop(before);
    }

    /// Whether it was woken for that, since this was last asked.
    #[cfg(feature = "tokio")]
    pub(super) fn was_nudged(&self) -> bool {
        // Relaxed: it is set before the wake that leads here.
        self.nudged.swap(false, Ordering::Relaxed)
    }

    /// Takes over the names that are new.
    #[inline]
    pub(super) fn learn(&self, labels: &Labels) {
        // Relaxed: the same thread stored it.
        if labels.len() as u32 != self.known.load(Ordering::Relaxed) {
            self.learn_new(labels);
        }
    }

    /// Forgets the labels, which are numbered anew.
    pub(super) fn forgets(&self) {
        self.told.lock().labels.clear();
        // Relaxed: see `learn`.
        self.known.store(0, Ordering::Relaxed);
    }

    #[cold]
    fn learn_new(&self, labels: &Labels) {
        let mut told = self.told.lock();
        let from = told.labels.len();
        told.labels.extend((from..labels.len()).map(|n| labels.get(n as u32).clone()));
        // Relaxed: see `learn`.
        self.known.store(labels.len() as u32, Ordering::Relaxed);
    }

    /// Sets what has been found, before it is told in full.
    pub(super) fn finds(&self, story: Option<String>) {
        self.told.lock().at_hand = story;
    }

    pub(super) fn found(&self, story: String) {
        self.told.lock().stories.push(story);
    }

    /// Says what has been found so far.
    fn tell(&self) {
        let told = self.told.lock();
        for story in told.stories.iter().chain(&told.at_hand) {
            say(format_args!("{story}\n"));
        }
    }

    fn complain(&self, patience: Duration) {
        self.tell();
        let told = self.told.lock();
        let label = self.label.load(Ordering::Relaxed);
        let who = match told.labels.get(label as usize) {
            Some(label) if label.name.is_empty() => {
                format!("the task spawned at {}", label.place)
            }
            Some(label) => format!("the task `{}`, spawned at {}", label.name, label.place),
            // Nothing more is known of a runtime's tasks.
            None => "a task or a thread of tokio's (it does not name them; `Checker::new` would \
                     name a task)"
                .to_string(),
        };
        if self.strikes.load(Ordering::Relaxed) {
            say(format_args!(
                "quell: the end came in the middle of the turn of {who}, at a look at its context, and a \
                 function at that end (`after_func`) has kept the thread for {patience:?}.\n\
                 If it takes a lock that the turn holds while it looks, that is not a bug in your code: a \
                 thread that cancels would wait for the turn, but a checker has one thread.\n\
                 `Checker::functions_after_turns` has such functions called after the turn."
            ));
            return;
        }
        say(format_args!(
            "quell: {who}, has kept the thread for {patience:?} without returning from its poll or its drop.\n\
             It blocks (on a lock, a channel of std's, a sleep of std's, the network), or loops \
             without an await, or its awaits never have to wait (as on a closed channel).\n\
             A checker has one thread, and cannot go on: await instead, or model what blocks.\n\
             Work that only takes long needs more: `Checker::patience`."
        ));
    }
}

/// Says something as the process is about to end (invariant 4).
pub(super) fn say(last_words: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{last_words}");
}

/// Says what all explorations of the process have found so far.
pub(super) fn tell_what_was_found() {
    DOG.watched.lock().all.iter().for_each(|one| one.pulse.tell());
}

/// The one thread that watches over all explorations of the process.
static DOG: Dog = Dog {
    watched: Mutex::new(Watched { all: Vec::new(), started: false }),
    change: Condvar::new(),
};

struct Dog {
    watched: Mutex<Watched>,
    change: Condvar,
}

struct Watched {
    all: Vec<One>,
    started: bool,
}

struct One {
    pulse: Arc<Pulse>,
    patience: Duration,
    beat: u64,
    /// When it was first seen at this beat.
    since: Instant,
}

thread_local! {
    /// The pulse of the innermost exploration in whose body this thread is.
    static HERE: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// Ends the watch when it is dropped, on the thread on which it began.
#[derive(Debug)]
pub(super) struct Watch {
    pulse: Arc<Pulse>,
    /// The pulse of the exploration in whose body this one is, and the label that had the thread
    /// there. Until this one is over, the checker has it.
    around: Option<(Arc<Pulse>, u32)>,
    _here: PhantomData<*const ()>,
}

/// Watches over an exploration until the returned guard is dropped.
pub(super) fn watch(pulse: &Arc<Pulse>, patience: Duration) -> Watch {
    let since = Clock::system_now();
    let one = One { pulse: Arc::clone(pulse), patience, beat: 0, since };
    let mut watched = DOG.watched.lock();
    watched.all.push(one);
    if !watched.started {
        // Without its thread there is no watchdog; the checks are as good.
        let thread = std::thread::Builder::new().name("quell-watchdog".into());
        watched.started = thread.spawn(|| DOG.watch()).is_ok();
    }
    if watched.all.len() == 1 {
        DOG.change.notify_all();
    }
    drop(watched);
    let around = HERE.replace(Some(Arc::clone(pulse)));
    let around = around.map(|around| {
        let label = around.takes_over(CHECKER);
        (around, label)
    });
    Watch { pulse: Arc::clone(pulse), around, _here: PhantomData }
}

impl Dog {
    fn watch(&self) {
        let mut watched = self.watched.lock();
        loop {
            let Some(shortest) = watched.all.iter().map(|one| one.patience).min() else {
                watched = crate::sync::wait(&self.change, watched);
                continue;
            };
            let nap = (shortest / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
            let waited = self.change.wait_timeout(watched, nap);
            watched = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            let now = Clock::system_now();
            let mut woken = Vec::new();
            for one in &mut watched.all {
                let beat = one.pulse.beat.load(Ordering::Relaxed);
                let is_own = one.pulse.label.load(Ordering::Relaxed) == CHECKER;
                if beat != one.beat || is_own {
                    (one.beat, one.since) = (beat, now);
                } else if now - one.since >= one.patience {
                    one.pulse.complain(one.patience);
                    std::process::exit(101);
                } else if now - one.since >= one.patience / 2 {
                    // Relaxed: see `was_nudged`.
                    one.pulse.nudged.store(true, Ordering::Relaxed);
                    woken.extend(one.pulse.waits.lock().take());
                }
            }
            // Invariant 2.
            drop(watched);
            woken.into_iter().for_each(Waker::wake);
            watched = self.watched.lock();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((around, label)) = &self.around {
            around.takes_over(*label);
        }
        HERE.set(self.around.take().map(|(around, _)| around));
        DOG.watched.lock().all.retain(|one| !Arc::ptr_eq(&one.pulse, &self.pulse));
    }
}
