//! The tasks of one owner: a group, or a pipeline.
//!
//! # Invariants
//!
//! 1. A task is listed from before it is spawned until after its future has been dropped and its
//!    ending told. So when the list is empty, nothing is left of any task, except what its ending
//!    sets off.
//! 2. Once all have been stopped, a task that is spawned is aborted at once, and written down as
//!    late. So is a task that is dropped before: nothing here aborted it, so its runtime is gone.
//! 3. User code runs without the lock: futures, their drops, wakers.

use super::report::StillRunning;
use crate::rt::probe::{self, Wait};
use crate::rt::{self, Abort, Waiting};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, BriefLock};
use slab::Slab;
use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, Location, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub(crate) struct Tasks {
    state: BriefLock<State>,
}

// No user code runs under the lock: a panic elsewhere leaves the list whole.
impl UnwindSafe for Tasks {}
impl RefUnwindSafe for Tasks {}

struct State {
    live: Slab<Entry>,
    /// Beside `live`, by the same keys, because all are aborted at once. A task has one from its
    /// spawn until it ends or all are stopped.
    aborts: Vec<Option<Abort>>,
    stopped: bool,
    /// Tasks that were written down because they did not end by themselves, or were not allowed to.
    late: Vec<StillRunning>,
    /// How much work is under way that is no task.
    busy: usize,
    /// Tasks that wait until all of this is over.
    waiting: Waiting,
    /// How many tasks there have been: each has a number of its own.
    count: usize,
}

struct Entry {
    /// Keys are used again; this is not.
    number: usize,
    name: Cow<'static, str>,
    place: &'static Location<'static>,
    /// Whether it is written down as late.
    is_late: bool,
}

impl Entry {
    fn still_running(&self) -> StillRunning {
        StillRunning::new(self.name.clone(), self.place)
    }
}

/// A task's future, behind a pointer: otherwise all that a task is made of would be compiled for
/// each user closure, which took half of the time of compiling a pipeline.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a task ended.
pub(crate) enum Ending<T> {
    Returned(T),
    /// With this message.
    Panicked(String),
    Aborted,
}

impl<T> Ending<T> {
    fn panicked(payload: Box<dyn Any + Send>) -> Self {
        probe::panicked(&*payload);
        Ending::Panicked(rt::panic_words(payload))
    }
}

/// What a task runs on behalf of.
pub(crate) trait Owner<T>: Send + 'static {
    /// Runs a turn of the task.
    #[inline]
    fn turn<R>(&self, poll: impl FnOnce() -> R) -> R {
        poll()
    }

    /// Is told once how the task ended, after its future was dropped; on any thread. Returns what
    /// is to be done when the task has left the list: nothing waits for that.
    fn ended(self, how: Ending<T>) -> Option<impl FnOnce()>;
}

impl Tasks {
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            live: Slab::new(),
            aborts: Vec::new(),
            stopped: false,
            late: Vec::new(),
            busy: 0,
            waiting: Waiting::default(),
            count: 0,
        };
        Arc::new(Tasks { state: BriefLock::new(state) })
    }

    /// Runs `future` as a task of its own, for `owner`.
    ///
    /// # Panics
    ///
    /// If nothing runs tasks here.
    #[track_caller]
    pub(crate) fn spawn<T: 'static, O: Owner<T>>(
        this: &Arc<Self>,
        name: Cow<'static, str>,
        place: &'static Location<'static>,
        future: Boxed<T>,
        owner: O,
    ) {
        let (number, key) = {
            let mut state = this.state.lock();
            state.count += 1;
            let number = state.count;
            // It is going to be aborted at once.
            let entry = Entry { number, name: name.clone(), place, is_late: state.stopped };
            if entry.is_late {
                state.late.push(entry.still_running());
            }
            (number, state.live.insert(entry))
        };
        // If nothing runs tasks here, this unwinds, and the entry goes with the future.
        let owned =
            Owned { future: Some(future), owner: Some(owner), tasks: Arc::clone(this), key };
        let abort = rt::spawn_at(name, place, owned).into_abort();
        let mut state = this.state.lock();
        if state.stopped {
            drop(state);
            return abort.abort();
        }
        // If it has ended already, another may have its key.
        if state.live.get(key).is_some_and(|entry| entry.number == number) {
            if state.aborts.len() <= key {
                state.aborts.resize_with(key + 1, || None);
            }
            state.aborts[key] = Some(abort);
        }
    }

    /// Aborts every task, including those still to come.
    pub(crate) fn stop(&self) {
        self.stop_after(|_| ());
    }

    /// The same, but writes down the tasks that have not ended, each once. It does both under one
    /// lock: a task that is spawned meanwhile is either among them or finds that all are stopped.
    pub(crate) fn stop_late(&self) {
        self.stop_after(State::note_late);
    }

    fn stop_after(&self, note: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        note(&mut state);
        if skip(Break::LateNotedTooSoon) {
            drop(state);
            state = self.state.lock();
        }
        state.stopped = true;
        let aborts = std::mem::take(&mut state.aborts);
        drop(state);
        if !aborts.is_empty() {
            rt::note_woken();
        }
        aborts.into_iter().flatten().for_each(Abort::abort);
    }

    /// How many tasks have not ended.
    pub(crate) fn live(&self) -> usize {
        self.state.lock().live.len()
    }

    /// How many tasks have been written down, and which of them have not ended yet.
    pub(super) fn late(&self) -> (usize, Vec<StillRunning>) {
        let state = self.state.lock();
        let alive = state.live.iter().filter(|(_, entry)| entry.is_late);
        (state.late.len(), alive.map(|(_, entry)| entry.still_running()).collect())
    }

    /// The tasks that were written down after the first `count`.
    pub(super) fn late_after(&self, count: usize) -> Vec<StillRunning> {
        self.state.lock().late[count..].to_vec()
    }

    /// Ready when all tasks have ended. A checker reports `what` it waits for, and the line `at`
    /// which it does.
    pub(crate) fn over(&self, what: &'static str, at: &'static Location<'static>) -> Over<'_> {
        let wait = Wait { what, at, of: 0 };
        debug_assert!(wait.is_for_all_tasks(), "a checker blames `{what}` last");
        Over { tasks: self, wait, ticket: None }
    }

    fn remove(&self, key: usize, was_dropped: bool) {
        let mut state = self.state.lock();
        let entry = state.live.remove(key);
        // Invariant 2.
        if was_dropped && !state.stopped {
            state.late.push(entry.still_running());
        }
        let abort = state.aborts.get_mut(key).and_then(Option::take);
        let waiting = state.waiting_for_this();
        drop(state);
        drop((entry, abort));
        rt::wake_now(waiting);
    }

    /// Work that is no task: it is not over until the guard is dropped.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.state.lock().busy += 1;
        Busy(self)
    }
}

/// The guard of work that is no task.
pub(crate) struct Busy<'a>(&'a Tasks);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.busy -= 1;
        let waiting = state.waiting_for_this();
        drop(state);
        rt::wake_now(waiting);
    }
}

impl State {
    fn note_late(&mut self) {
        for (_, entry) in self.live.iter_mut().filter(|(_, entry)| !entry.is_late) {
            entry.is_late = true;
            self.late.push(entry.still_running());
        }
    }

    fn is_over(&self) -> bool {
        self.live.is_empty() && self.busy == 0
    }

    /// The wakers to call, if it is over now.
    fn waiting_for_this(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.is_over().then(|| self.waiting.take_all()).into_iter().flatten()
    }
}

struct Owned<T, O: Owner<T>> {
    /// `None` once it has ended.
    future: Option<Boxed<T>>,
    owner: Option<O>,
    tasks: Arc<Tasks>,
    key: usize,
}

// Nothing of it is pinned except what is behind a pointer.
impl<T, O: Owner<T>> Unpin for Owned<T, O> {}

impl<T, O: Owner<T>> Drop for Owned<T, O> {
    fn drop(&mut self) {
        self.finish(Ending::Aborted);
    }
}

impl<T, O: Owner<T>> Owned<T, O> {
    fn finish(&mut self, ending: Ending<T>) {
        let Some(owner) = self.owner.take() else { return };
        let was_dropped = matches!(ending, Ending::Aborted);
        let dropped = catch_unwind(AssertUnwindSafe(|| self.future = None));
        let ending = match dropped {
            Ok(()) => ending,
            Err(payload) => Ending::panicked(payload),
        };
        // A panic in it would be one in a drop, perhaps in the middle of another.
        let then = rt::contain_panic(|| owner.ended(ending)).flatten();
        self.tasks.remove(self.key, was_dropped);
        if let Some(then) = then {
            rt::contain_panic(then);
        }
    }
}

impl<T, O: Owner<T>> Future for Owned<T, O> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (Some(future), Some(owner)) = (&mut this.future, &this.owner) else {
            return Poll::Ready(());
        };
        let turn = AssertUnwindSafe(|| owner.turn(|| future.as_mut().poll(cx)));
        let ending = match catch_unwind(turn) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ending::Returned(value),
            Err(payload) => Ending::panicked(payload),
        };
        this.finish(ending);
        Poll::Ready(())
    }
}

/// The future of [`Tasks::over`].
pub(crate) struct Over<'a> {
    tasks: &'a Tasks,
    wait: Wait,
    ticket: Option<usize>,
}

impl Future for Over<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.tasks.state.lock();
        if state.is_over() {
            return Poll::Ready(());
        }
        let before = match self.ticket {
            Some(ticket) => state.waiting.renew(ticket, waker),
            None => Err(waker),
        };
        // A task that was called, and finds more to wait for, joins the line again.
        let before = before.map_err(|waker| self.ticket = Some(state.waiting.join(waker))).ok();
        drop(state);
        drop(before);
        probe::waits(|| self.wait);
        Poll::Pending
    }
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let mut state = self.tasks.state.lock();
        let waker = self.ticket.and_then(|ticket| state.waiting.take(ticket));
        drop(state);
        drop(waker);
    }
}

#[cfg(all(test, feature = "tokio", not(loom)))]
mod tests {
    use super::*;
    use crate::rt::runtime::{Builder, Handle, Runtime};
    use std::task::Wake;

    impl<F: FnOnce() + Send + 'static> Owner<()> for F {
        fn ended(self, _how: Ending<()>) -> Option<impl FnOnce()> {
            self();
            None::<fn()>
        }
    }

    /// A waker that spawns a task that never ends.
    struct Spawns(Arc<Tasks>, Handle);

    impl Wake for Spawns {
        fn wake(self: Arc<Self>) {
            let _there = self.1.enter();
            let here = Location::caller();
            Tasks::spawn(&self.0, "later".into(), here, Box::pin(std::future::pending()), || {});
        }
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn a_task_that_has_ended_before_it_is_spawned_leaves_the_one_in_its_place_to_be_aborted() {
        let (tasks, runs) = (Tasks::new(), runtime());
        let later = Waker::from(Arc::new(Spawns(Arc::clone(&tasks), runs.handle().clone())));
        let (waits, here) = (Arc::clone(&tasks), Location::caller());
        let ended = move || {
            let mut over = waits.over("the end of all tasks", here);
            assert!(Pin::new(&mut over).poll(&mut Context::from_waker(&later)).is_pending());
            // It still waits when its task is off the list.
            std::mem::forget(over);
        };
        // On a runtime that has shut down, a task has ended as soon as it is spawned.
        let over = runtime().handle().clone();
        let _there = over.enter();
        Tasks::spawn(&tasks, "first".into(), here, Box::pin(std::future::pending()), ended);
        assert_eq!(tasks.live(), 1, "the later one");
        tasks.stop();
        runs.block_on(rt::yield_now());
        assert_eq!(tasks.live(), 0);
    }
}
