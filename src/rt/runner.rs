//! The threads that run functions for the timer thread, and for the one that hears of
//! signals.
//!
//! An after-function may block for as long as it likes; no deadline and no signal
//! waits for it. A thread is started when there is none idle and goes when it has been
//! idle for a while.
//!
//! There are two crews. What quell does itself has one where no user's function ever runs: so
//! many of those may block that there is no thread left for another, and a pipeline whose
//! deadline has passed is stopped all the same.
//!
//! # Invariants
//!
//! 1. Work that is queued is done: there is a thread for it, idle or just
//!    started, or all the threads there may be are busy and come back to the
//!    queue.
//! 2. No lock is held while work is done.
//! 3. Work begins with the crew for quell's own, if there is any of that in it, and goes on with
//!    the crew for users'. On a thread of the first, or one of those for whom it works
//!    ([`is_quells_own`]), functions of the users' are left to the second, also those of contexts
//!    that quell's own work ends, or a waker; and so is the drop of an error.

use super::task::undisturbed;
use super::{Clock, Work};
use crate::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

/// More functions than this that block at the same time wait for one another. The docs of
/// `Context::after_func` say so.
const MOST_THREADS: usize = 512;
const IDLE: Duration = Duration::from_secs(5);

static OWN: Runner = Runner::new("quell-own");
static USERS: Runner = Runner::new("quell-runner");

thread_local! {
    static IS_OWN: Cell<bool> = const { Cell::new(false) };
}

struct Runner {
    name: &'static str,
    crew: Mutex<Crew>,
    job: Condvar,
}

struct Crew {
    jobs: VecDeque<(Clock, Work)>,
    threads: usize,
    idle: usize,
}

/// Has `work` done by the crews, inside the runtime its clock is of.
pub(crate) fn run(clock: Clock, work: Work) {
    let first = if work.ours.is_some() { &OWN } else { &USERS };
    first.take((clock, work));
}

/// Runs what is the users': here, or on another thread if this one is [quell's own](is_quells_own).
pub(crate) fn for_users(job: impl FnOnce() + Send + 'static) {
    if is_quells_own() {
        run(Clock::ambient(), Work::new(None, Some(Box::new(job))));
    } else {
        undisturbed(job);
    }
}

/// Whether this thread is for what quell does itself, and for nothing of the users'.
pub(crate) fn is_quells_own() -> bool {
    IS_OWN.with(Cell::get)
}

/// This thread is, from now on.
pub(crate) fn becomes_quells_own() {
    IS_OWN.with(|is_own| is_own.set(true));
}

impl Crew {
    /// Queues it; true if a further thread must be hired for it, which is counted already.
    fn add(&mut self, job: (Clock, Work)) -> bool {
        self.jobs.push_back(job);
        let hires = self.jobs.len() > self.idle && self.threads < MOST_THREADS;
        self.threads += usize::from(hires);
        hires
    }
}

impl Runner {
    const fn new(name: &'static str) -> Self {
        let crew = Crew { jobs: VecDeque::new(), threads: 0, idle: 0 };
        Runner { name, crew: Mutex::new(crew), job: Condvar::new() }
    }

    fn take(&'static self, job: (Clock, Work)) {
        if !self.crew.lock().add(job) {
            self.job.notify_one();
            return;
        }
        let hired = thread::Builder::new().name(self.name.into()).spawn(|| self.work());
        if hired.is_err() {
            // No thread to be had: what is queued waits for one that is busy, or, where
            // there is none at all, is run here rather than never.
            let mut crew = self.crew.lock();
            crew.threads -= 1;
            if crew.threads == 0 {
                let jobs = std::mem::take(&mut crew.jobs);
                drop(crew);
                jobs.into_iter().for_each(run_here);
            }
        }
    }

    fn work(&'static self) {
        if std::ptr::eq(self, &OWN) {
            becomes_quells_own();
        }
        let mut crew = self.crew.lock();
        loop {
            if let Some(job) = crew.jobs.pop_front() {
                drop(crew);
                run_here(job);
                crew = self.crew.lock();
                continue;
            }
            crew.idle += 1;
            let (back, waited) =
                self.job.wait_timeout(crew, IDLE).unwrap_or_else(PoisonError::into_inner);
            crew = back;
            crew.idle -= 1;
            if waited.timed_out() && crew.jobs.is_empty() {
                crew.threads -= 1;
                return;
            }
        }
    }
}

/// Does the first of it. Whatever comes out of it, the thread stays; and so it does if the last
/// handle of a runtime goes with the clock, and the user's code with that.
fn run_here((clock, mut work): (Clock, Work)) {
    let Some(ours) = work.ours.take() else {
        undisturbed(|| clock.inside(|| work.run()));
        undisturbed(move || {
            let _goes = clock;
        });
        return;
    };
    undisturbed(|| clock.inside(ours));
    if work.users.is_some() {
        run(clock, work);
    } else {
        undisturbed(move || {
            let _goes = clock;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_hires_for_whoever_finds_no_idle_thread_of_its_own() {
        let mut crew = Crew { jobs: VecDeque::new(), threads: 1, idle: 1 };
        let mut add = || crew.add((Clock::system(), Work::default()));
        // The idle one has not taken the first yet, and is not there for the second.
        assert_eq!([add(), add()], [false, true]);
        assert_eq!(crew.threads, 2);
    }

    #[test]
    fn a_crew_hires_no_more_than_there_may_be() {
        let mut crew = Crew { jobs: VecDeque::new(), threads: MOST_THREADS - 1, idle: 0 };
        let mut add = || crew.add((Clock::system(), Work::default()));
        assert_eq!([add(), add()], [true, false]);
        assert_eq!(crew.threads, MOST_THREADS);
    }
}
