//! The tasks of the models.
//!
//! A task has a thread of its own, so that loom interleaves it with all others step by step. For
//! models with too many tasks for that, [`on_one_thread`] runs a future and all that it spawns in
//! turns on the calling thread.
//!
//! # Invariants
//!
//! 1. A task is polled if it has been woken since its last poll began, and never after it was
//!    aborted.
//! 2. A thread with nothing to poll sleeps: a lost wake is a deadlock, which loom reports.
//! 3. Every waker holds a count of its carrier that loom sees: a waker left behind is a leak, which
//!    loom reports.

use super::task::Unstarted;
use crate::sync::{Arc, Condvar, Mutex, thread, wait};
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs some tasks on one thread.
struct Carrier {
    work: Mutex<Work>,
    change: Condvar,
    /// Whether what its tasks spawn runs here too.
    shares: bool,
}

#[derive(Default)]
struct Work {
    /// Tasks added since the last look.
    new: Vec<(usize, Job)>,
    /// Tasks to poll or, if aborted, to drop.
    ready: VecDeque<usize>,
    aborted: Vec<usize>,
    /// How many tasks there have been: each has a number. The future given to `run` is number zero.
    count: usize,
}

/// Wakes one task, or aborts it.
struct Seat {
    carrier: Arc<Carrier>,
    task: usize,
}

/// Aborts one task.
pub(crate) struct Stop(std::sync::Arc<Seat>);

loom::thread_local! {
    static CURRENT: std::cell::RefCell<Option<Arc<Carrier>>> = std::cell::RefCell::new(None);
}

pub(crate) fn spawn(task: Unstarted) -> Stop {
    let here = CURRENT.with(|current| current.borrow().clone());
    Stop(match here.filter(|carrier| carrier.shares) {
        Some(carrier) => Carrier::add(&carrier, task.future),
        None => {
            let carrier = Arc::new(Carrier::new(false));
            let seat = Carrier::add(&carrier, task.future);
            thread::spawn(move || Carrier::run(&carrier, std::future::ready(())));
            seat
        }
    })
}

/// Runs `future` and every task that it spawns, directly or not, on this thread; returns when all
/// of them have ended.
pub(crate) fn on_one_thread<F: Future>(future: F) -> F::Output {
    Carrier::run(&Arc::new(Carrier::new(true)), future)
}

impl Carrier {
    fn new(shares: bool) -> Self {
        Carrier { work: Mutex::new(Work::default()), change: Condvar::new(), shares }
    }

    fn add(this: &Arc<Self>, future: Job) -> std::sync::Arc<Seat> {
        let mut work = this.work.lock();
        work.count += 1;
        let task = work.count;
        work.new.push((task, future));
        work.ready.push_back(task);
        std::sync::Arc::new(Seat { carrier: Arc::clone(this), task })
    }

    fn run<F: Future>(this: &Arc<Self>, future: F) -> F::Output {
        let before = CURRENT.with(|current| current.replace(Some(Arc::clone(this))));
        let seat =
            |task| Waker::from(std::sync::Arc::new(Seat { carrier: Arc::clone(this), task }));
        let mut future = pin!(future);
        let mut output = None;
        let mut tasks = Vec::new();
        this.work.lock().ready.push_front(0);
        loop {
            let (task, aborted) = {
                let mut work = this.work.lock();
                loop {
                    tasks.append(&mut work.new);
                    if output.is_some() && tasks.is_empty() {
                        break;
                    }
                    if !work.ready.is_empty() {
                        break;
                    }
                    work = wait(&this.change, work);
                }
                let Some(task) = work.ready.pop_front() else { break };
                (task, work.aborted.contains(&task))
            };
            if task == 0 {
                if output.is_none() {
                    let waker = seat(0);
                    if let Poll::Ready(value) =
                        future.as_mut().poll(&mut Context::from_waker(&waker))
                    {
                        output = Some(value);
                    }
                }
                continue;
            }
            let Some(at) = tasks.iter().position(|(number, _)| *number == task) else { continue };
            let over = aborted || {
                let waker = seat(task);
                tasks[at].1.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            };
            if over {
                drop(tasks.swap_remove(at));
            }
        }
        CURRENT.with(|current| current.replace(before));
        output.expect("the loop ends with it")
    }
}

impl Seat {
    fn put(&self, aborted: bool) {
        let mut work = self.carrier.work.lock();
        if aborted {
            work.aborted.push(self.task);
        }
        if !work.ready.contains(&self.task) {
            work.ready.push_back(self.task);
        }
        drop(work);
        self.carrier.change.notify_one();
    }
}

impl Wake for Seat {
    fn wake(self: std::sync::Arc<Self>) {
        self.put(false);
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.put(false);
    }
}

impl Stop {
    pub(super) fn stop(&self) {
        self.0.put(true);
    }
}

/// Every task has a thread of its own, or shares one with all others: no waker is kept, and no
/// nudge needed.
pub(crate) struct KeptWakers;

pub(crate) struct Turns;

#[derive(Clone, Copy)]
pub(crate) struct PipelineId;

impl PipelineId {
    pub(crate) const NONE: PipelineId = PipelineId;
}

impl KeptWakers {
    pub(crate) fn here() -> Self {
        KeptWakers
    }

    pub(crate) fn on_threads(&self) -> bool {
        false
    }

    pub(crate) fn send(&self) {}

    pub(crate) fn id(&self) -> PipelineId {
        PipelineId
    }

    pub(crate) fn turns(&self) -> Turns {
        Turns
    }
}

impl Turns {
    pub(crate) fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        poll()
    }
}

pub(crate) fn wake_now(wakers: impl IntoIterator<Item = Waker>) {
    super::wake(wakers);
}

pub(crate) fn wake_at(_pipeline: PipelineId, wakers: impl IntoIterator<Item = Waker>) {
    super::wake(wakers);
}

pub(crate) fn note_woken() {}

pub(crate) fn has_woken() -> bool {
    false
}

pub(crate) fn free_woken() {}

pub(crate) fn step() {}

pub(crate) fn was_brisk(_is_brisk: bool) {}

pub(crate) fn set_keeping(_may: bool) {}

pub(crate) fn stop_keeping() {}
