//! One derivation: what a context adds to its parent.
//!
//! # Invariants
//!
//! 1. A branch (a layer that can end by itself) without a scope has no
//!    children, no waiters and no functions. Whoever wants to give it one opens
//!    it first, and opening registers it with its parent's scope. So the scope
//!    above a branch is always registered, or has no parent.
//! 2. `fate` is written once: the branch ended while it was light, or it got a
//!    scope, which then says how it ended. So a light branch that is being
//!    cancelled and opened at once becomes one or the other.
//! 3. A question to a branch is answered by its own fate, then by the scope
//!    above, then by the clock of its nearest deadline. An answer other than
//!    "live" is written down before it is given, so it never changes.

use super::cause::Outcome;
use super::scope::{End, Scope};
use super::values::Entry;
use super::{Context, trace};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, Family, Latch, Link, Ref};
use std::panic::Location;
use std::time::Duration;

/// The family of links that contexts are.
pub(super) struct Line;

/// What every derivation has.
pub(super) struct Layer<'a> {
    /// The `with_…` call.
    pub(super) made_at: &'static Location<'static>,
    /// The topmost value layer above this one.
    pub(super) values: Option<Ref<'a, Line>>,
    pub(super) role: Role<'a>,
}

pub(super) enum Role<'a> {
    /// A root by another name.
    Todo,
    /// Cut off from what is above but for the values.
    Detached,
    Value {
        entry: Entry<'a>,
        /// The branch that answers for this layer.
        branch: Option<Ref<'a, Line>>,
    },
    Branch(Branch<'a>),
}

/// A layer that can end by itself.
pub(super) struct Branch<'a> {
    pub(super) kind: Kind,
    fate: Latch<Fate>,
    /// The nearest scope above, which is the parent branch's.
    up: Option<&'a Scope>,
    /// The scope above with the nearest deadline, if this branch has none of its own.
    bound: Option<&'a Arc<Scope>>,
    /// Further parents, of a linked context.
    ties: Option<Box<Ties>>,
    cancellers: AtomicUsize,
}

enum Fate {
    /// It ended while it was light.
    Ended(Outcome),
    Open(Arc<Scope>),
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Cancel,
    Timeout(Duration),
    Deadline,
    Reserve(Duration),
    Linked,
}

pub(super) struct Ties {
    /// Kept alive, as parents are.
    others: Vec<Context>,
    /// Their scopes, and this branch's key in each.
    seats: Vec<(Arc<Scope>, usize)>,
}

/// The bit in `cancellers` that says that dropping them does not cancel.
const DISARMED: usize = 1 << (usize::BITS - 1);

#[cfg(not(loom))]
static ROSTER: crate::sync::lineage::roster::Roster<Line> =
    crate::sync::lineage::roster::Roster::new();

impl Family for Line {
    type Layer<'a> = Layer<'a>;

    fn shorten<'s, 'l: 's>(layer: &'s Layer<'l>) -> &'s Layer<'s> {
        layer
    }

    fn take_links(layer: &mut Layer<'_>) -> Vec<Link<Line>> {
        match &mut layer.role {
            Role::Branch(Branch { ties: Some(ties), .. }) => {
                ties.others.drain(..).filter_map(Context::into_link).collect()
            }
            _ => Vec::new(),
        }
    }

    #[cfg(not(loom))]
    fn roster() -> &'static crate::sync::lineage::roster::Roster<Line> {
        &ROSTER
    }
}

impl<'a> Layer<'a> {
    pub(super) fn branch(&self) -> Option<&Branch<'a>> {
        match &self.role {
            Role::Branch(branch) => Some(branch),
            _ => None,
        }
    }
}

/// The branch that answers for `layer`: itself, or the nearest above.
#[inline]
pub(super) fn nearest_branch<'a>(layer: Ref<'a, Line>) -> Option<Ref<'a, Line>> {
    match &layer.layer().role {
        Role::Branch(_) => Some(layer),
        Role::Value { branch, .. } => *branch,
        Role::Todo | Role::Detached => None,
    }
}

impl<'a> Branch<'a> {
    /// A branch below `parent`, live and light, without a deadline of its own.
    pub(super) fn light(kind: Kind, parent: Option<&'a Branch<'a>>) -> Self {
        let (up, fate) = match parent.map(Branch::open) {
            None => (None, Latch::new()),
            Some(Ok(scope)) => (Some(&**scope), Latch::new()),
            Some(Err(outcome)) => (None, Latch::full(Fate::Ended(outcome.clone()))),
        };
        let bound = parent.and_then(Branch::bounding);
        Branch { kind, fate, up, bound, ties: None, cancellers: AtomicUsize::new(1) }
    }

    /// A branch with a scope from the start: for a deadline, or for ties.
    pub(super) fn with_scope(kind: Kind, parent: Option<&'a Branch<'a>>, scope: Scope) -> Self {
        let mut branch = Self::light(kind, parent);
        if branch.fate.get().is_some() {
            return branch;
        }
        let scope = Arc::new(scope);
        if let Some(up) = branch.up {
            // A child that its parent does not list must be able to tell, later, whether
            // its own deadline came before the parent's end.
            let listed = match &scope.deadline {
                Some(deadline) => !up.note_time_by(&deadline.clock),
                None => true,
            };
            if listed {
                up.register(&scope);
            }
        }
        branch.bound = None;
        branch.fate = Latch::full(Fate::Open(scope));
        branch
    }

    /// Ends with any of `others` too. Only for a branch made by `with_scope`.
    pub(super) fn tie(&mut self, others: Vec<Context>) {
        let Some(Fate::Open(scope)) = self.fate.get() else { return };
        let mut seats = Vec::new();
        for other in others.iter().filter_map(Context::branch) {
            match other.open() {
                Ok(up) => match up.adopt(scope) {
                    Some(key) => seats.push((Arc::clone(up), key)),
                    None => {
                        let end = up.end().expect("a scope refuses once it has ended");
                        scope.inherit(end);
                    }
                },
                Err(_) => {
                    if let Some(end) = other.scope_end() {
                        scope.inherit(end);
                    } else if let Some(outcome) = other.look() {
                        scope.inherit(&End::foreign(outcome.clone()));
                    }
                }
            }
        }
        self.ties = Some(Box::new(Ties { others, seats }));
    }

    fn scope_end(&self) -> Option<&End> {
        match self.fate.get() {
            Some(Fate::Open(scope)) => scope.end(),
            _ => None,
        }
    }

    /// How it ended, if it has: invariant 3. Tells nobody.
    #[inline]
    pub(super) fn look(&self) -> Option<&Outcome> {
        let scope = match self.fate.get() {
            Some(Fate::Ended(outcome)) => return Some(outcome),
            Some(Fate::Open(scope)) => {
                if let Some(end) = scope.end() {
                    return Some(&end.outcome);
                }
                Some(scope)
            }
            None => None,
        };
        if let Some(end) = self.up.and_then(|up| up.end()) {
            return Some(self.inherit(end));
        }
        match scope {
            Some(scope) if scope.deadline.is_some() => self.look_at_clock(scope),
            _ => self.bound.and_then(|bound| self.look_at_clock(bound)),
        }
    }

    /// Ends by the deadline of `bounding`, which is its own scope or one above,
    /// if it has passed.
    fn look_at_clock(&self, bounding: &Arc<Scope>) -> Option<&Outcome> {
        let deadline = bounding.deadline.as_ref().filter(|deadline| deadline.has_passed())?;
        let (end, ended_now) = bounding.settle_deadline(deadline);
        if ended_now {
            trace::ended(&end.outcome);
        }
        Some(self.inherit(end))
    }

    /// Ends with `parent`'s end (or its own scope's, which changes nothing),
    /// unless it has ended before.
    fn inherit(&self, parent: &End) -> &Outcome {
        match self.settle_light(parent.outcome.clone()) {
            Ok(outcome) => outcome,
            Err((scope, _)) => {
                let (end, ended_now) = scope.inherit(parent);
                if ended_now {
                    trace::ended(&end.outcome);
                }
                &end.outcome
            }
        }
    }

    /// Ends a light branch. `Err`: it has a scope, to which the outcome may be
    /// given instead.
    fn settle_light(&self, outcome: Outcome) -> Result<&Outcome, (&Arc<Scope>, Outcome)> {
        let refused = match self.fate.get() {
            None => match self.fate.set(Fate::Ended(outcome)) {
                Ok(Fate::Ended(outcome)) => return Ok(outcome),
                Err(Fate::Ended(refused)) => refused,
                _ => unreachable!("what goes into a latch comes out of it"),
            },
            Some(_) => outcome,
        };
        match self.fate.get() {
            Some(Fate::Ended(first)) => Ok(first),
            Some(Fate::Open(scope)) => Err((scope, refused)),
            None => unreachable!("a latch that refuses a value has one"),
        }
    }

    /// Ends it for `outcome`, unless it has ended before. Everything below it is
    /// marked when this returns; if this call ended it, everybody has been told.
    pub(super) fn cancel(&self, outcome: Outcome) {
        let light = !matches!(self.fate.get(), Some(Fate::Open(_)));
        if self.look().is_some() && light {
            return;
        }
        match self.settle_first(outcome) {
            None => {}
            Some((scope, outcome)) => Scope::cancel(scope, outcome).run(),
        }
    }

    fn settle_first(&self, outcome: Outcome) -> Option<(&Arc<Scope>, Outcome)> {
        if let Some(Fate::Open(scope)) = self.fate.get() {
            return Some((scope, outcome));
        }
        match self.fate.set(Fate::Ended(outcome)) {
            Ok(Fate::Ended(outcome)) => {
                trace::ended(outcome);
                None
            }
            Err(Fate::Ended(outcome)) => match self.fate.get() {
                Some(Fate::Open(scope)) => Some((scope, outcome)),
                _ => None,
            },
            _ => unreachable!("what goes into a latch comes out of it"),
        }
    }

    /// Its scope, registered with the parent's; or how it ended.
    pub(super) fn open(&self) -> Result<&Arc<Scope>, &Outcome> {
        if let Some(outcome) = self.look() {
            return Err(outcome);
        }
        if self.fate.get().is_none() {
            // Whoever comes first: the next line takes what is there.
            let _ = self.fate.set(Fate::Open(Arc::new(Scope::new(None))));
        }
        match self.fate.get() {
            Some(Fate::Ended(outcome)) => Err(outcome),
            Some(Fate::Open(scope)) => {
                if let Some(up) = self.up {
                    up.register(scope);
                    // Refused, if the parent has ended: then so has this.
                    if let Some(end) = up.end().filter(|_| !skip(Break::RefusedScopeGoesOn)) {
                        return Err(self.inherit(end));
                    }
                }
                Ok(scope)
            }
            None => unreachable!("set above"),
        }
    }

    /// The scope with the deadline that ends this branch.
    pub(super) fn bounding(&self) -> Option<&Arc<Scope>> {
        match self.fate.get() {
            Some(Fate::Open(scope)) if scope.deadline.is_some() => Some(scope),
            _ => self.bound,
        }
    }

    /// Somebody waits for this branch: its deadline, if there is one, must ring.
    pub(super) fn watch(&self) {
        if let Some(scope) = self.bounding() {
            Scope::watch(scope);
        }
    }

    /// The opposite of `watch`.
    pub(super) fn unwatch(&self) {
        if let Some(scope) = self.bounding() {
            scope.unwatch();
        }
    }

    /// Takes back a waker that was added with `Scope::wait`.
    pub(super) fn unwait(&self, key: usize) {
        if let Some(Fate::Open(scope)) = self.fate.get() {
            scope.unwait(key);
        }
    }

    /// One more `Canceller`.
    pub(super) fn add_canceller(&self) {
        // Relaxed: whoever adds one has one, so the last is not being dropped.
        if !skip(Break::CloneNotCounted) {
            self.cancellers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One `Canceller` less; true if it was the last and still armed.
    #[inline]
    pub(super) fn drop_canceller(&self) -> bool {
        // The last one sees what the threads of all others did before they let go:
        // Release and Acquire pair among these two lines. A count of exactly one is this
        // canceller's own, which nobody can clone meanwhile.
        self.cancellers.load(Ordering::Acquire) == 1
            || self.cancellers.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// From now on dropping cancellers does nothing.
    pub(super) fn disarm(&self) {
        // Release: see `drop_canceller`.
        self.cancellers.fetch_or(DISARMED, Ordering::Release);
    }

    /// Whether it has been written down how it ended.
    #[cfg(not(loom))]
    pub(super) fn has_ended(&self) -> bool {
        match self.fate.get() {
            Some(Fate::Ended(_)) => true,
            Some(Fate::Open(scope)) => scope.end().is_some(),
            None => self.up.is_some_and(|up| up.end().is_some()),
        }
    }
}

impl Drop for Branch<'_> {
    fn drop(&mut self) {
        if let Some(Fate::Open(scope)) = self.fate.get() {
            #[cfg(not(loom))]
            scope.disarm();
            if let Some(up) = self.up {
                up.dismiss(scope);
            }
            for (other, key) in self.ties.iter().flat_map(|ties| &ties.seats) {
                other.dismiss_key(*key);
            }
        }
    }
}
