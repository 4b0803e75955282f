//! What becomes of a branch, in one word: either it ended while it was light, or it got a scope,
//! which then says how it ended.
//!
//! # Invariants
//!
//! 1. A fate is set once, to one of the two.

use super::cause::{Cause, Given, Reason, Seen};
use super::scope::Scope;
use crate::sync::{Arc, Kept, Label, Lent, Tagged};
use std::panic::Location;

pub(super) struct Fate(Tagged<Scope, Given, Location<'static>>);

pub(super) enum Became<'a> {
    Ended(Seen<'a>),
    Open(Lent<'a, Scope>),
}

/// The branch ended while it was light.
pub(super) struct EndedLight;

impl Fate {
    pub(super) fn new() -> Self {
        Fate(Tagged::new())
    }

    /// The fate of a branch that has ended before it is made.
    pub(super) fn ended(cause: Cause) -> Self {
        Fate(Tagged::full(into_word(cause)))
    }

    #[inline(always)]
    pub(super) fn get(&self) -> Option<Became<'_>> {
        Some(match from_word(self.0.get()?) {
            Ok(reason) => Became::Ended(Seen(reason)),
            Err(scope) => Became::Open(scope),
        })
    }

    /// The branch's scope, if it has one. Most queries do not need to know how it ended.
    #[inline(always)]
    pub(super) fn scope(&self) -> Result<Option<Lent<'_, Scope>>, EndedLight> {
        self.0.first().map_err(|_| EndedLight)
    }

    /// Ends the light branch; gives the cause back if the fate is already set.
    #[inline]
    pub(super) fn end(&self, cause: Cause) -> Result<(), Cause> {
        self.0.set(into_word(cause)).map_err(|refused| match from_word(refused) {
            Ok(reason) => Cause::from_reason(reason),
            Err(_) => unreachable!("what it refuses is what it was given"),
        })
    }

    /// Gives the branch this scope, unless the fate is already set.
    pub(super) fn open(&self, scope: Scope) {
        let _late = self.0.set(Kept::First(Arc::new(scope)));
    }
}

#[inline(always)]
fn into_word(cause: Cause) -> Kept<Arc<Scope>, Arc<Given>, Location<'static>> {
    match cause.into_reason() {
        Reason::Cancelled(origin) => Kept::Static(Label::One, origin),
        Reason::DeadlineExceeded(origin) => Kept::Static(Label::Two, origin),
        Reason::Dropped(made_at) => Kept::Static(Label::Three, Some(made_at)),
        Reason::Given(given) => Kept::Second(given),
    }
}

/// How the branch ended, or its scope; either may be owned or lent.
#[inline(always)]
fn from_word<S, G>(word: Kept<S, G, Location<'static>>) -> Result<Reason<G>, S> {
    match word {
        Kept::First(scope) => Err(scope),
        Kept::Second(given) => Ok(Reason::Given(given)),
        Kept::Static(Label::One, origin) => Ok(Reason::Cancelled(origin)),
        Kept::Static(Label::Two, origin) => Ok(Reason::DeadlineExceeded(origin)),
        // `Dropped` always has an origin.
        Kept::Static(Label::Three, made_at) => {
            Ok(made_at.map_or(Reason::Cancelled(None), Reason::Dropped))
        }
    }
}
