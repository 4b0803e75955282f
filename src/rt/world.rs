//! How a checker takes the runtime's place.
//!
//! A thread enters a world and stays in it until the guard is dropped. Inside, every function of
//! this room asks the world instead of the runtime: it runs the tasks, keeps the time, and makes
//! every choice that could go either way.

use super::clock::Bell;
use super::probe::Wait;
use super::task::{Stop, Unstarted};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

/// Stands in for the runtime while a checker runs a body.
pub(crate) trait World: Send + Sync + fmt::Debug {
    /// Takes a task over, to be dropped as soon as it is aborted or finished.
    fn spawn(&self, task: Unstarted) -> Stop;

    /// The world's own time.
    fn now(&self) -> Instant;

    /// Rings `bell` when the world's time reaches `at`. Dropping the result disarms it.
    fn arm(&self, at: Instant, bell: Bell) -> Box<dyn Armed>;

    /// One of 0 to n - 1.
    fn choose(&self, n: usize) -> usize;

    /// The task being polled is about to wait. `in_vain`: it has left no waker for it.
    fn waits(&self, wait: Wait, in_vain: bool);

    /// The task being polled goes on past an await without having to wait; `None`: past one of
    /// those that come to an end. True: the onlooker intervenes here, as where a watched context is
    /// [looked at](Onlooker::looks).
    fn passes(&self, wait: Option<Wait>) -> bool;

    /// Something was done to the thing at this address that may end a wait for it.
    fn touches(&self, what: &'static str, of: usize);
}

/// Is told what happens to watched contexts: those that a checker made, and all derived from them.
/// The onlooker need not be the world.
pub(crate) trait Onlooker: Send + Sync + fmt::Debug {
    /// A watched context was asked, or derived from, or is to run a function at its end; not called
    /// for questions that are [only counted](only_count). True: the onlooker intervenes here, and
    /// [`inject`](Onlooker::inject) is called for that.
    fn looks(&self, look: Look) -> bool;

    /// Intervenes, which may run user code.
    fn inject(&self);

    /// A context has been made.
    fn made(&self, mark: u16, made_at: &'static Location<'static>);

    /// A context is gone.
    fn gone(&self, mark: u16, made_at: &'static Location<'static>);

    /// A point at which the program may be made to panic.
    fn fault(&self, name: &'static str);

    /// An item that was made at this line has been lost.
    fn lost(&self, what: &str, made_at: &'static Location<'static>);

    /// A body says whether it has reached what must be reached in some schedule.
    fn sometimes(&self, name: &'static str, reached: bool);

    /// A task has panicked, or a drop of what it held, and it was not the program that caught it.
    fn panicked(&self, payload: &(dyn Any + Send));

    /// A panic is under way and has not been caught yet.
    fn panics(&self, payload: &(dyn Any + Send));
}

/// How a context is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    /// By code that goes on according to the answer.
    Asked,
    /// To register a function to run at its end.
    AfterFunc,
    /// Not by the program, though it would notice whether the context had ended. No onlooker is
    /// told: see [`take_stirred`].
    Stirred,
}

/// A bell that rings unless this is dropped.
pub(crate) trait Armed: Send + Sync + fmt::Debug {
    /// The task being polled waits for it: alone, in place of any before, or beside them.
    fn awaited(&self, alone: bool);

    /// The task being polled waits for it by `wait`, beside others. `arms`: it was armed for that.
    fn joined(&self, wait: WaitId, arms: bool);

    /// That wait is over.
    fn left(&self, wait: WaitId);
}

/// Which of the waits for one bell: an address, and a number there.
pub(crate) type WaitId = (usize, usize);

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
    static ONLOOKER: RefCell<Option<Arc<dyn Onlooker>>> = const { RefCell::new(None) };
}

/// The world of this thread.
pub(crate) fn current() -> Option<Arc<dyn World>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Whether this thread is in a world.
#[inline]
pub(crate) fn is_here() -> bool {
    CURRENT.try_with(|current| current.borrow().is_some()).unwrap_or(false)
}

/// Asks the world of this thread. `f` must not run user code.
#[inline]
pub(crate) fn ask<R>(f: impl FnOnce(&dyn World) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.borrow().as_deref().map(f)).ok().flatten()
}

/// Whether this thread has an onlooker for watched contexts.
pub(super) fn is_looked_on() -> bool {
    ONLOOKER.try_with(|onlooker| onlooker.borrow().is_some()).unwrap_or(false)
}

/// The onlooker of this thread.
pub(crate) fn onlooker() -> Option<Arc<dyn Onlooker>> {
    ONLOOKER.try_with(|onlooker| onlooker.borrow().clone()).ok().flatten()
}

/// What a thread notes by itself of looks at watched contexts, where the onlooker would only count
/// them.
struct Looks {
    /// How many questions are only counted from here on.
    free: Cell<u32>,
    /// How many have been.
    asked: Cell<u32>,
    /// Whether a watched context was stirred.
    stirred: Cell<bool>,
}

thread_local! {
    static LOOKS: Looks =
        const { Looks { free: Cell::new(0), asked: Cell::new(0), stirred: Cell::new(false) } };
}

/// Has the next `questions` questions only counted.
#[inline]
pub(crate) fn only_count(questions: u32) {
    LOOKS.with(|looks| looks.free.set(questions));
}

/// How many have been counted since the last call.
#[inline]
pub(crate) fn take_asked() -> u32 {
    LOOKS.with(|looks| looks.asked.take())
}

/// Whether a watched context has been stirred since the last call.
#[inline]
pub(crate) fn take_stirred() -> bool {
    LOOKS.with(|looks| looks.stirred.take())
}

/// Notes a look at a watched context. True: the onlooker intervenes.
pub(crate) fn looked(look: Look) -> bool {
    let noted = LOOKS.with(|looks| match look {
        Look::Stirred => {
            looks.stirred.set(true);
            true
        }
        Look::Asked if looks.free.get() > 0 => {
            looks.free.set(looks.free.get() - 1);
            looks.asked.set(looks.asked.get() + 1);
            true
        }
        Look::Asked | Look::AfterFunc => false,
    });
    !noted && is_to_inject(look)
}

#[cold]
fn is_to_inject(look: Look) -> bool {
    ONLOOKER
        .try_with(|onlooker| onlooker.borrow().as_deref().is_some_and(|one| one.looks(look)))
        .unwrap_or(false)
}

/// Has the onlooker intervene, here and now. Out of line: it may end contexts and run user code.
#[cold]
pub(crate) fn inject() {
    if let Some(onlooker) = onlooker() {
        onlooker.inject();
    }
}

/// [`ask`] for the onlooker.
#[inline]
pub(crate) fn tell(f: impl FnOnce(&dyn Onlooker)) {
    let _ = ONLOOKER.try_with(|onlooker| onlooker.borrow().as_deref().map(f));
}

/// Has `onlooker` told what happens on this thread until the guard is dropped.
pub(crate) fn look_on(onlooker: Arc<dyn Onlooker>) -> Looking {
    only_count(0);
    Looking { before: ONLOOKER.with(|current| current.replace(Some(onlooker))) }
}

/// Restores the previous onlooker when dropped.
#[derive(Debug)]
pub(crate) struct Looking {
    before: Option<Arc<dyn Onlooker>>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        let before = self.before.take();
        let _ = ONLOOKER.try_with(|onlooker| onlooker.replace(before));
    }
}

/// Takes the runtime's place on this thread until the guard is dropped.
pub(crate) fn enter(world: Arc<dyn World>) -> Inside {
    Inside { before: CURRENT.with(|current| current.replace(Some(world))) }
}

/// Takes this thread out of its world, if it is in one, until the guard is dropped.
#[cfg(feature = "tokio")]
pub(crate) fn leave() -> Inside {
    Inside { before: CURRENT.with(|current| current.replace(None)) }
}

/// Puts the world before back when dropped.
#[derive(Debug)]
pub(crate) struct Inside {
    before: Option<Arc<dyn World>>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let before = self.before.take();
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}
