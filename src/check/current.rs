//! The engine of this thread, which wakers, timers and watched contexts find here.
//!
//! Whoever finds none is on another thread, which no checker can control.
//!
//! # Invariants
//!
//! 1. No code of the user's runs while the engine is borrowed.

use super::engine::Engine;
use crate::rt::world;
use std::cell::RefCell;

thread_local! {
    static ENGINE: RefCell<Option<Box<Engine>>> = const { RefCell::new(None) };
}

/// Puts an engine in its place. One that is there already, of a checker in whose body
/// this is, is around it until it goes.
pub(super) fn enter(mut engine: Box<Engine>) {
    with(|around| {
        around.settle_looks();
        around.stirred |= world::take_stirred();
    });
    ENGINE.with(|current| {
        let mut current = current.borrow_mut();
        engine.around = current.take();
        *current = Some(engine);
    });
}

/// Takes the engine out of its place, and puts the one around it there.
pub(super) fn leave() -> Option<Box<Engine>> {
    let around = with(|engine| {
        engine.settle_looks();
        world::take_stirred();
        engine.around.take()
    });
    ENGINE.with(|current| current.replace(around.flatten()))
}

/// The engine of this thread, if there is one. `f` runs no code of the user's.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&mut Engine) -> R) -> Option<R> {
    ENGINE.try_with(|engine| engine.borrow_mut().as_deref_mut().map(f)).ok().flatten()
}

/// [`with`], for what may be dropped while the engine is borrowed.
pub(super) fn try_with(f: impl FnOnce(&mut Engine)) {
    let _ = ENGINE.try_with(|engine| {
        if let Ok(mut engine) = engine.try_borrow_mut() {
            engine.as_deref_mut().map(f);
        }
    });
}

/// The engine of a thread that has one.
#[inline]
pub(super) fn here<R>(f: impl FnOnce(&mut Engine) -> R) -> R {
    // `LocalKey::with` is not inlined.
    with(f).expect("a schedule is running")
}
