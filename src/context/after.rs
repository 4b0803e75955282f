//! Functions that run when a context ends.
//!
//! # Invariants
//!
//! 1. The user's function is in its [`Job`] until it is taken, to run it or to stop it. It is taken
//!    under the job's lock, so only one of the two happens.
//! 2. The function runs, and is dropped, outside of that lock.
//! 3. A registered [`Func`] holds its context: nothing else would keep the context alive, and the
//!    function registered, until the function has run. Not a `quiet` one, which has
//!    nothing to do once the context is gone.

use super::Context;
use super::scope::Scope;
use crate::rt::contain_panic;
#[cfg(all(feature = "check", not(loom)))]
use crate::rt::world::Look;
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, Condvar, Mutex, ThreadId, thread};
use std::fmt;

/// A function registered with [`Context::after_func`].
///
/// Dropping this leaves the function registered; [`stop`](AfterFunc::stop) takes it back.
pub struct AfterFunc {
    job: Arc<Job>,
    /// The scope and key of its registration; `None` if it was run at once or never will be.
    place: Option<(Arc<Scope>, usize)>,
    /// Whether a checker watches it. Quell's own functions are not watched: no user code depends on
    /// the answer to their `stop`.
    #[cfg(all(feature = "check", not(loom)))]
    watched: bool,
}

pub(super) struct Job {
    whose: Whose,
    state: Mutex<State>,
    finished: Condvar,
}

enum State {
    Waiting(Box<dyn FnOnce() + Send>),
    Running {
        by: ThreadId,
        /// Whether a thread waits for its end.
        awaited: bool,
    },
    /// It has run, or was stopped.
    Over,
}

/// What a scope keeps: the job, and its context (invariant 3).
pub(super) struct Func {
    job: Arc<Job>,
    context: Option<Context>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Quell's own: runs before all user functions, which may take as long as they like.
    Ours,
    Users,
}

impl AfterFunc {
    pub(super) fn register(context: &Context, whose: Whose, f: Box<dyn FnOnce() + Send>) -> Self {
        let job = Job::new(whose, f);
        #[cfg(all(feature = "check", not(loom)))]
        let is_watched = context.branch().is_some_and(|branch| branch.mark() != 0);
        let mut function = AfterFunc {
            job: Arc::clone(&job),
            place: None,
            #[cfg(all(feature = "check", not(loom)))]
            watched: whose == Whose::Users && is_watched,
        };
        let Some(branch) = context.branch() else {
            // This context cannot end: the function stays with this handle and never runs.
            return function;
        };
        let Ok(scope) = branch.open() else {
            job.run();
            return function;
        };
        branch.note_func();
        branch.watch();
        match scope.add_func(Func { job, context: Some(context.clone()) }) {
            Ok(key) => function.place = Some((scope.to_arc(), key)),
            Err(ended) => drop(ended.run()),
        }
        function
    }

    /// Takes the function back. Returns true if it had not started: then it never runs. Returns
    /// false if it has run, is running, or was stopped before.
    pub fn stop(&self) -> bool {
        let stopped = self.take_back();
        #[cfg(all(feature = "check", not(loom)))]
        if self.watched {
            super::layer::tell_checker(Look::Asked);
        }
        stopped
    }

    fn take_back(&self) -> bool {
        if skip(Break::StopTakesNothing) {
            return matches!(*self.job.state.lock(), State::Waiting(_));
        }
        let Some(f) = self.job.take() else { return false };
        if let Some((scope, key)) = &self.place {
            scope.remove(*key);
        }
        drop(f);
        true
    }

    /// Like [`stop`](AfterFunc::stop), but if the function is running, waits until it has returned.
    /// Called from inside the function itself, it returns false at once.
    ///
    /// This blocks the thread for as long as the function takes.
    pub fn stop_and_wait(&self) -> bool {
        if self.stop() {
            return true;
        }
        let mut state = self.job.state.lock();
        while let State::Running { by, awaited } = &mut *state {
            if *by == thread::current().id() || skip(Break::StopDoesNotWait) {
                break;
            }
            *awaited = true;
            state = crate::sync::wait(&self.job.finished, state);
        }
        false
    }
}

impl fmt::Debug for AfterFunc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match *self.job.state.lock() {
            State::Waiting(_) => "waiting",
            State::Running { .. } => "running",
            State::Over => "over",
        };
        f.debug_struct("AfterFunc").field("state", &format_args!("{state}")).finish()
    }
}

impl Job {
    pub(super) fn new(whose: Whose, f: Box<dyn FnOnce() + Send>) -> Arc<Self> {
        Arc::new(Job { whose, state: Mutex::new(State::Waiting(f)), finished: Condvar::new() })
    }

    /// Takes the function out, to be stopped.
    fn take(&self) -> Option<Box<dyn FnOnce() + Send>> {
        self.take_as(State::Over)
    }

    fn take_as(&self, next: State) -> Option<Box<dyn FnOnce() + Send>> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, next) {
            State::Waiting(f) => Some(f),
            as_it_was => {
                *state = as_it_was;
                None
            }
        }
    }

    fn run(&self) {
        let running = State::Running { by: thread::current().id(), awaited: false };
        let Some(f) = self.take_as(running) else { return };
        contain_panic(f);
        let ran = std::mem::replace(&mut *self.state.lock(), State::Over);
        // Notifying costs a system call even if no thread waits.
        if matches!(ran, State::Running { awaited: true, .. }) {
            self.finished.notify_all();
        }
    }
}

impl Func {
    /// One of quell's own, which does not keep its context alive.
    #[cfg(all(any(unix, feature = "tokio-util"), not(loom)))]
    pub(super) fn quiet(job: Arc<Job>) -> Self {
        Func { job, context: None }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.job.whose == Whose::Ours
    }

    /// Runs the function, and returns the context that it has kept alive: dropping the last handle
    /// drops user values.
    pub(super) fn run(mut self) -> Option<Context> {
        self.job.run();
        self.leave()
    }

    fn leave(&mut self) -> Option<Context> {
        let context = self.context.take();
        if let Some(branch) = context.as_ref().and_then(Context::branch) {
            branch.unwatch();
        }
        context
    }
}

impl Drop for Func {
    fn drop(&mut self) {
        self.leave();
    }
}
