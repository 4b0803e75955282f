//! The threads that run users' functions for the timer thread, and for the one that hears
//! of signals.
//!
//! An after-function may block for as long as it likes; no deadline and no signal
//! waits for it. A thread is started when there is none idle and goes when it has been
//! idle for a while.
//!
//! # Invariants
//!
//! 1. A job that is queued is run: there is a thread for it, idle or just
//!    started, or all the threads there may be are busy and come back to the
//!    queue.
//! 2. No lock is held while a job runs.

use super::task::undisturbed;
use super::{Clock, Work};
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

/// More functions than this that block at the same time wait for one another.
const MOST_THREADS: usize = 512;
const IDLE: Duration = Duration::from_secs(5);

static RUNNER: Runner = Runner {
    crew: Mutex::new(Crew { jobs: VecDeque::new(), threads: 0, idle: 0 }),
    job: Condvar::new(),
};

struct Runner {
    crew: Mutex<Crew>,
    job: Condvar,
}

struct Crew {
    jobs: VecDeque<(Clock, Work)>,
    threads: usize,
    idle: usize,
}

/// Runs `work` on a thread of the crew, inside the runtime its clock is of.
pub(crate) fn run(clock: Clock, work: Work) {
    let mut crew = RUNNER.crew.lock();
    crew.jobs.push_back((clock, work));
    if crew.jobs.len() <= crew.idle || crew.threads == MOST_THREADS {
        RUNNER.job.notify_one();
        return;
    }
    crew.threads += 1;
    drop(crew);
    let hired = thread::Builder::new().name("quell-runner".into()).spawn(|| RUNNER.work());
    if hired.is_err() {
        // No thread to be had: what is queued waits for one that is busy, or, where
        // there is none at all, is run here rather than never.
        let mut crew = RUNNER.crew.lock();
        crew.threads -= 1;
        if crew.threads == 0 {
            let jobs = std::mem::take(&mut crew.jobs);
            drop(crew);
            jobs.into_iter().for_each(run_here);
        }
    }
}

/// Whatever comes out of it, the thread stays; and so it does if the last handle of a runtime
/// goes with the clock, and the user's code with that.
fn run_here((clock, work): (Clock, Work)) {
    undisturbed(|| clock.inside(work));
    undisturbed(move || {
        let _goes = clock;
    });
}

impl Runner {
    fn work(&self) {
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
