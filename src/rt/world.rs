//! How a checker takes the runtime's place.
//!
//! A world is entered for a thread, and stays until its guard is dropped. Inside,
//! every function of this room asks it instead of the runtime: tasks are its to
//! run, the time is its own, and every choice that could go one way or the other
//! is its to make.

use super::clock::Bell;
use super::probe::Wait;
use super::task::{Stop, Unstarted};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

/// What stands behind the functions of `rt` while a checker runs a body.
pub(crate) trait World: Send + Sync + fmt::Debug {
    /// Takes a task over. It must be dropped as soon as it is aborted or finished.
    fn spawn(&self, task: Unstarted) -> Stop;

    /// Its own time.
    fn now(&self) -> Instant;

    /// Rings `bell` when its time has come to `at`. Dropping the answer disarms.
    fn arm(&self, at: Instant, bell: Bell) -> Box<dyn Armed>;

    /// One of `n`: 0 to n - 1.
    fn choose(&self, n: usize) -> usize;

    /// The task being polled is about to wait.
    fn waits(&self, wait: Wait);

    /// The task being polled goes on past an await without having to wait. True: something is
    /// to befall it here, as where a watched context is [looked at](Onlooker::looks).
    fn passes(&self, wait: Wait) -> bool;

    /// Something was done to the thing of this address that may end a wait for it.
    fn touches(&self, what: &'static str, of: usize);
}

/// Who is told what happens to contexts that are watched: those that a checker
/// made, and all that are derived from them. It need not be the one who runs the
/// tasks.
pub(crate) trait Onlooker: Send + Sync + fmt::Debug {
    /// A watched context was asked, or derived from, or is to run a function at its end; if
    /// it was not one of the questions that are [only counted](only_count). True: something is
    /// to befall it here, for which [`strikes`](Onlooker::strikes) is called.
    fn looks(&self, look: Look) -> bool;

    /// It befalls, and may run the user's code.
    fn strikes(&self);

    /// One has come into being.
    fn made(&self, mark: u16, made_at: &'static Location<'static>);

    /// One is no more.
    fn gone(&self, mark: u16, made_at: &'static Location<'static>);

    /// A point at which a program may be made to panic.
    fn fault(&self, name: &'static str);

    /// An item was lost; made at this line.
    fn lost(&self, what: &str, made_at: &'static Location<'static>);

    /// A body says whether it has come to what must be reached in some schedule.
    fn sometimes(&self, name: &'static str, reached: bool);

    /// A task has panicked, or what it held did when it was dropped, and it was not the
    /// program that has caught it.
    fn panicked(&self, payload: &(dyn Any + Send));

    /// Somebody is just panicking, and nobody has caught it yet.
    fn panics(&self, payload: &(dyn Any + Send));
}

/// In which way a context is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    /// By somebody who goes on by the answer.
    Asked,
    /// A function is to be run at its end.
    AfterFunc,
    /// Not by the program, but it would notice whether the context had ended. No onlooker is
    /// told: see [`take_stirred`].
    Stirred,
}

/// A bell that rings unless this is dropped.
pub(crate) trait Armed: Send + Sync + fmt::Debug {
    /// The task that is being polled waits for it: in place of whoever did, or beside them.
    fn awaited(&self, alone: bool);
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
    static ONLOOKER: RefCell<Option<Arc<dyn Onlooker>>> = const { RefCell::new(None) };
}

/// The world this thread is in.
pub(crate) fn current() -> Option<Arc<dyn World>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Whether this thread is in one.
#[inline]
pub(crate) fn is_here() -> bool {
    CURRENT.try_with(|current| current.borrow().is_some()).unwrap_or(false)
}

/// What the world of this thread says. `f` must not run the user's code.
#[inline]
pub(crate) fn ask<R>(f: impl FnOnce(&dyn World) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.borrow().as_deref().map(f)).ok().flatten()
}

/// Whether somebody looks on at watched contexts on this thread.
pub(super) fn is_looked_on() -> bool {
    ONLOOKER.try_with(|onlooker| onlooker.borrow().is_some()).unwrap_or(false)
}

/// Who looks on at watched contexts on this thread.
pub(crate) fn onlooker() -> Option<Arc<dyn Onlooker>> {
    ONLOOKER.try_with(|onlooker| onlooker.borrow().clone()).ok().flatten()
}

/// What a thread notes by itself of the looks at watched contexts, for an onlooker who
/// would do no more than count them.
struct Looks {
    /// So many questions are only counted from here on.
    free: Cell<u32>,
    /// How many were.
    asked: Cell<u32>,
    /// Whether a watched context was stirred.
    stirred: Cell<bool>,
}

thread_local! {
    static LOOKS: Looks =
        const { Looks { free: Cell::new(0), asked: Cell::new(0), stirred: Cell::new(false) } };
}

/// Of the next questions so many are nothing but counted.
#[inline]
pub(crate) fn only_count(questions: u32) {
    LOOKS.with(|looks| looks.free.set(questions));
}

/// How many were, since this was last asked.
#[inline]
pub(crate) fn take_asked() -> u32 {
    LOOKS.with(|looks| looks.asked.take())
}

/// Whether a watched context was stirred, since this was last asked.
#[inline]
pub(crate) fn take_stirred() -> bool {
    LOOKS.with(|looks| looks.stirred.take())
}

/// Whether something is to befall a watched context that is looked at.
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
    !noted && is_to_befall(look)
}

#[cold]
fn is_to_befall(look: Look) -> bool {
    ONLOOKER
        .try_with(|onlooker| onlooker.borrow().as_deref().is_some_and(|one| one.looks(look)))
        .unwrap_or(false)
}

/// What is to befall, here and now. Out of line: the one who looks on may end contexts, and run
/// the user's code.
#[cold]
pub(crate) fn befalls() {
    if let Some(onlooker) = onlooker() {
        onlooker.strikes();
    }
}

/// [`ask`], for the onlooker.
#[inline]
pub(crate) fn tell(f: impl FnOnce(&dyn Onlooker)) {
    let _ = ONLOOKER.try_with(|onlooker| onlooker.borrow().as_deref().map(f));
}

/// Has `onlooker` told of what happens on this thread until the guard is dropped.
pub(crate) fn look_on(onlooker: Arc<dyn Onlooker>) -> Looking {
    only_count(0);
    Looking { before: ONLOOKER.with(|current| current.replace(Some(onlooker))) }
}

/// Looks away when it is dropped.
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

/// Leaves the world when it is dropped.
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
