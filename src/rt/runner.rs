//! The threads that run functions for the timer thread and for the thread that receives signals.
//!
//! An after-function may block for as long as it likes; no deadline and no signal waits for it. A
//! thread is started when none is idle, and ends when it has been idle for a while.
//!
//! There are two crews. Quell's own work has a crew on which no user function ever runs: so many of
//! those may block that no thread is left for another, and a pipeline whose deadline has passed
//! must stop all the same.
//!
//! # Invariants
//!
//! 1. Queued work is done: a thread, idle or just started, is there for it, or all the threads
//!    there may be are busy and will come back to the queue.
//! 2. No lock is held while work is done.
//! 3. Work begins with quell's own crew, if any part of it is quell's, and goes on with the users'
//!    crew. A thread of the first, or one for which it works ([`is_quells_own`]), leaves user
//!    functions to the second, also those of contexts that end by quell's own work or by a waker;
//!    and so it does with the drop of an error.

use super::{Clock, Work, contain_panic};
use crate::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

/// How many functions may block at the same time before further ones wait for them. The docs of
/// `Context::after_func` give this number.
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

/// Has the crews do `work`, inside the runtime of its clock.
pub(crate) fn run(clock: Clock, work: Work) {
    let first = if work.ours.is_some() { &OWN } else { &USERS };
    first.take((clock, work));
}

/// Runs user code: here, or on another thread if this one is [quell's own](is_quells_own).
pub(crate) fn for_users(job: impl FnOnce() + Send + 'static) {
    if is_quells_own() {
        run(Clock::ambient(), Work::users(job));
    } else {
        contain_panic(job);
    }
}

/// Whether this thread does quell's own work, and runs no user function.
pub(crate) fn is_quells_own() -> bool {
    IS_OWN.with(Cell::get)
}

/// Makes this thread one of quell's own, from now on.
pub(crate) fn becomes_quells_own() {
    IS_OWN.with(|is_own| is_own.set(true));
}

impl Crew {
    /// Queues a job. True: a further thread must be started for it, and is already counted.
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
            // No thread can be had: what is queued waits for a busy one, or, if there is none at
            // all, runs here rather than never.
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

/// Does the first part of the job. The thread survives a panic in it, and one in user code that
/// goes with the clock, if that holds the last handle of a runtime.
fn run_here((clock, mut work): (Clock, Work)) {
    if let Some(ours) = work.ours.take() {
        contain_panic(|| clock.inside(ours));
        if work.users.is_some() {
            return run(clock, work);
        }
    } else {
        contain_panic(|| clock.inside(|| work.run()));
    }
    contain_panic(move || {
        let _goes = clock;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_hires_for_whoever_finds_no_idle_thread_of_its_own() {
        let mut crew = Crew { jobs: VecDeque::new(), threads: 1, idle: 1 };
        let mut add = || crew.add((Clock::system(), Work::default()));
        // The idle thread has not taken the first job yet, so it is not there for the second.
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
