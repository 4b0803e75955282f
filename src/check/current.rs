//! The engine of this thread, where wakers, timers and watched contexts find it.
//!
//! A thread without one is a thread that no checker can control.
//!
//! # Invariants
//!
//! 1. No user code runs while the engine is borrowed.

use super::engine::Engine;
use crate::rt::world;
use std::cell::RefCell;

thread_local! {
    static ENGINE: RefCell<Option<Box<Engine>>> = const { RefCell::new(None) };
}

/// Installs an engine. One that is there already, of a checker in whose body this one runs, is
/// around it until it leaves.
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

/// Removes the engine, and puts back the one around it.
pub(super) fn leave() -> Option<Box<Engine>> {
    let around = with(|engine| {
        engine.settle_looks();
        world::take_stirred();
        engine.around.take()
    });
    ENGINE.with(|current| current.replace(around.flatten()))
}

/// Runs `f` with the engine of this thread, if there is one. `f` runs no user code.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&mut Engine) -> R) -> Option<R> {
    ENGINE.try_with(|engine| engine.borrow_mut().as_deref_mut().map(f)).ok().flatten()
}

/// [`with`], for drops that may happen while the engine is borrowed: it then does nothing.
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
