//! One derivation: what a context adds to its parent.
//!
//! # Invariants
//!
//! 1. A branch (a layer that can end by itself) without a scope has no children, no waiters and no
//!    functions. Adding one opens the branch first, and opening it registers its scope with the
//!    parent's scope. So the scope above a branch is always registered, or has no parent.
//! 2. `fate` is written once: either the branch ended while it was light, or it got a scope, which
//!    then says how it ended. So a light branch that is cancelled and opened concurrently becomes
//!    one or the other.
//! 3. A query to a branch is answered by its own fate, then by the scope above, then by the clock
//!    of its nearest deadline. How it ended is written down before it is reported, so the answer
//!    never changes.

mod watched;

use self::watched::Mark;
#[cfg(all(feature = "check", not(loom)))]
pub(super) use self::watched::tell_checker;
use super::cause::{Cause, ContextError, Seen};
use super::fate::{Became, Fate};
use super::scope::{Deadline, End, Scope};
use super::ties::Ties;
use super::trace;
use super::values::Entry;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::planted::{Break, skip};
use crate::sync::{Arc, Family, Lent, Link, Ref};
use std::any::Any;
use std::panic::Location;
use std::time::Duration;

/// The family of links that contexts are made of.
pub(super) struct ContextFamily;

/// What a derivation adds.
#[cfg_attr(loom, allow(dead_code))] // only `tree` reads where a cut or a root was made
pub(super) enum Layer<'a> {
    /// A root that displays as `todo`.
    Todo { made_at: Place },
    /// Cut off from everything above except the values.
    Detached { made_at: Place, values: Option<Ref<'a, ContextFamily>> },
    /// A value, which is stored in the link.
    Value {
        entry: Entry<'a>,
        /// The branch that answers for this layer.
        branch: Option<&'a Branch<'a>>,
    },
    /// A layer that can end by itself.
    Branch(Branch<'a>),
}

pub(super) type Place = &'static Location<'static>;

pub(super) struct Branch<'a> {
    /// The `with_…` call.
    pub(super) made_at: Place,
    /// The topmost value layer above.
    pub(super) values: Option<Ref<'a, ContextFamily>>,
    fate: Fate,
    /// The nearest scope above, which is the parent branch's.
    up: Option<&'a Scope>,
    pub(super) bound: Bound<'a>,
    #[cfg_attr(not(all(feature = "check", not(loom))), allow(dead_code))]
    mark: Mark,
}

/// The deadline that ends a branch. Two small fields of every branch lie in here, beside the tag,
/// where they save eight bytes per context.
pub(super) enum Bound<'a> {
    None {
        cancellers: AtomicU32,
        kind: Kind,
    },
    Own {
        cancellers: AtomicU32,
        kind: Kind,
        /// Whether it was not asked for here, but copied from a parent that had ended.
        is_parents: bool,
        own: Arc<Deadline>,
    },
    /// The deadline of a scope above.
    Above {
        cancellers: AtomicU32,
        kind: Kind,
        scope: Lent<'a, Scope>,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Cancel,
    Pipeline,
    Timeout,
    Deadline,
    Reserve,
    Linked,
}

/// The bit in `cancellers` that means that dropping them does not cancel.
const DISARMED: u32 = 1 << 31;

#[cfg(not(loom))]
static ROSTER: crate::sync::lineage::roster::Roster<ContextFamily> =
    crate::sync::lineage::roster::Roster::new();

impl Family for ContextFamily {
    type Layer<'a> = Layer<'a>;

    fn shorten<'s, 'l: 's>(layer: &'s Layer<'l>) -> &'s Layer<'s> {
        layer
    }

    fn take_links<V: 'static>(value: &mut V, into: &mut Vec<Link<ContextFamily>>) {
        if let Some(ties) = (value as &mut dyn Any).downcast_mut::<Ties>() {
            into.extend(ties.others.drain(..).filter_map(|other| other.link));
        }
    }

    #[cfg(not(loom))]
    fn roster() -> &'static crate::sync::lineage::roster::Roster<ContextFamily> {
        &ROSTER
    }
}

impl<'a> Layer<'a> {
    pub(super) fn branch(&self) -> Option<&Branch<'a>> {
        match self {
            Layer::Branch(branch) => Some(branch),
            _ => None,
        }
    }
}

/// The branch that answers for `layer`: the layer itself, or the nearest branch above.
#[inline]
pub(super) fn nearest_branch<'a>(layer: Ref<'a, ContextFamily>) -> Option<&'a Branch<'a>> {
    // The usual case first, so that it takes one comparison.
    if let Layer::Branch(branch) = layer.layer() {
        return Some(branch);
    }
    match layer.layer() {
        Layer::Value { branch, .. } => *branch,
        _ => None,
    }
}

impl<'a> Branch<'a> {
    /// A light branch below `parent`, with or without a deadline of its own.
    /// Inlined, so that it is built in place: see `Link::new`.
    #[inline(always)]
    pub(super) fn new(
        made_at: Place,
        kind: Kind,
        own: Option<Arc<Deadline>>,
        parent: Option<Ref<'a, ContextFamily>>,
    ) -> Self {
        let values = parent.and_then(super::values::top);
        let parent = parent.and_then(nearest_branch);
        let (up, fate) = match parent.map(Branch::open) {
            None => (None, Fate::new()),
            Some(Ok(scope)) => (Some(scope.get()), Fate::new()),
            Some(Err(cause)) => (None, Fate::ended(cause.to_cause())),
        };
        let cancellers = AtomicU32::new(1);
        let bound = match (own, parent) {
            (Some(own), _) => Bound::Own { cancellers, kind, is_parents: false, own },
            (None, None) => Bound::None { cancellers, kind },
            (None, Some(parent)) => match (parent.bounding(), parent.deadline()) {
                (Some(scope), _) => Bound::Above { cancellers, kind, scope },
                // The parent ended while it was light: there is no scope to point at.
                (None, Some(own)) => {
                    Bound::Own { cancellers, kind, is_parents: true, own: Arc::clone(own) }
                }
                (None, None) => Bound::None { cancellers, kind },
            },
        };
        let branch = Branch { made_at, values, fate, up, bound, mark: Mark::below(parent) };
        branch.note_made();
        branch
    }

    /// Makes sure that a new branch with a deadline of its own can later tell whether that came
    /// before the parent's end. Unless the branch is listed, the parent must note the time.
    #[inline]
    pub(super) fn have_time_noted(&self) {
        if let (Bound::Own { own, .. }, Some(up)) = (&self.bound, self.up) {
            if !up.note_time_by(&own.clock) {
                let _ = self.open();
            }
        }
    }

    /// Ends a branch that has not been shared yet.
    pub(super) fn end_at_once(&mut self, cause: Cause) {
        self.fate = Fate::ended(cause);
    }

    pub(super) fn scope_end(&self) -> Option<&End> {
        self.fate.scope().ok().flatten()?.get().end()
    }

    /// Whether it has ended. Writes nothing down: once true, it stays true, whichever end it turns
    /// out to be.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        match self.fate.scope() {
            Ok(None) => {}
            Ok(Some(scope)) if scope.end().is_none() => {}
            _ => return true,
        }
        self.up.is_some_and(|up| up.end().is_some())
            || self.deadline().is_some_and(|own| own.has_passed())
    }

    /// The deadline that ends it.
    #[inline]
    pub(super) fn deadline(&self) -> Option<&Arc<Deadline>> {
        match &self.bound {
            Bound::None { .. } => None,
            Bound::Own { own, .. } => Some(own),
            Bound::Above { scope, .. } => scope.get().deadline.as_ref(),
        }
    }

    /// How long until its deadline; zero if a deadline has ended it, whatever its clock says.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline()?;
        let by_clock = deadline.at.saturating_duration_since(deadline.clock.now());
        let end = match self.fate.scope() {
            Ok(scope) => {
                let own = scope.and_then(|scope| scope.get().end());
                own.or_else(|| self.up.and_then(Scope::end)).map(|end| end.cause.end())
            }
            Err(_) => self.light_end().map(|cause| cause.end()),
        };
        let exceeded = end == Some(ContextError::DeadlineExceeded);
        Some(if exceeded { Duration::ZERO } else { by_clock })
    }

    /// How much time was asked for here.
    pub(super) fn asked(&self) -> Option<Duration> {
        match &self.bound {
            Bound::Own { own, is_parents: false, .. } => own.asked,
            _ => None,
        }
    }

    /// How it was derived.
    pub(super) fn kind(&self) -> Kind {
        match self.bound {
            Bound::None { kind, .. } | Bound::Own { kind, .. } | Bound::Above { kind, .. } => kind,
        }
    }

    /// How many `Canceller`s there are.
    #[inline]
    fn cancellers(&self) -> &AtomicU32 {
        match &self.bound {
            Bound::None { cancellers, .. }
            | Bound::Own { cancellers, .. }
            | Bound::Above { cancellers, .. } => cancellers,
        }
    }

    /// How it ended, if it has (invariant 3). Notifies nothing.
    #[cold]
    pub(super) fn look(&self) -> Option<Seen<'_>> {
        match self.fate.scope() {
            Ok(None) => {}
            Ok(Some(scope)) => {
                if let Some(end) = scope.get().end() {
                    return Some(end.cause.seen());
                }
            }
            Err(_) => return self.light_end(),
        }
        if let Some(end) = self.up.and_then(Scope::end) {
            if skip(Break::LookNotWrittenDown) {
                return Some(end.cause.seen());
            }
            return Some(self.inherit(end));
        }
        if self.deadline()?.has_passed() { Some(self.expire()) } else { None }
    }

    /// How it ended, if it ended while it was light.
    fn light_end(&self) -> Option<Seen<'_>> {
        match self.fate.get()? {
            Became::Ended(cause) => Some(cause),
            Became::Open(_) => None,
        }
    }

    /// [`look`](Branch::look), for a caller that acts on the answer.
    #[inline]
    pub(super) fn answer(&self) -> Option<Seen<'_>> {
        // Most branches have not ended, and a `bool` is returned in a register.
        let cause = if self.is_done() { self.look() } else { None };
        self.note_look();
        cause
    }

    /// Ends by its deadline, which has passed, unless it has ended before.
    #[cold]
    fn expire(&self) -> Seen<'_> {
        let bounding = match (self.bounding(), &self.bound) {
            (Some(bounding), _) => bounding.get(),
            (None, Bound::Own { own, .. }) => match self.settle_light(own.cause.clone()) {
                Ok((cause, first)) => {
                    if first {
                        trace::ended(cause);
                    }
                    return cause;
                }
                Err((scope, _)) => scope.get(),
            },
            (None, _) => unreachable!("only for a branch with a deadline"),
        };
        let deadline = bounding.deadline.as_ref().expect("that is why it is bounding");
        if skip(Break::ExpiryNotWrittenDown) {
            return deadline.cause.seen();
        }
        let (end, first) = bounding.settle_deadline(deadline);
        if first {
            trace::ended(end.cause.seen());
        }
        self.inherit(end)
    }

    /// Ends as `parent` did, or by a deadline of its own that came first, unless it has ended
    /// before. (Given the end of its own scope, it changes nothing.)
    #[cold]
    fn inherit(&self, parent: &End) -> Seen<'_> {
        let came_after = match &self.bound {
            Bound::Own { own, .. } if parent.came_after(own) => Some(own),
            _ => None,
        };
        let cause = came_after.map_or(&parent.cause, |own| &own.cause);
        match self.settle_light(cause.clone()) {
            Ok((cause, first)) => {
                if first && came_after.is_some() {
                    trace::ended(cause);
                }
                cause
            }
            Err((scope, _)) => {
                let (end, expired) = scope.get().inherit(parent);
                if expired {
                    trace::ended(end.cause.seen());
                }
                end.cause.seen()
            }
        }
    }

    /// Ends a light branch, unless it has ended before. Returns how it ended, and whether this call
    /// ended it. `Err`: it has a scope, for which the cause is given back.
    #[inline]
    fn settle_light(&self, cause: Cause) -> Result<(Seen<'_>, bool), (Lent<'_, Scope>, Cause)> {
        let refused = match self.fate.get() {
            None => self.fate.end(cause).err(),
            Some(_) => Some(cause),
        };
        match (self.fate.get(), refused) {
            (Some(Became::Ended(cause)), refused) => Ok((cause, refused.is_none())),
            (Some(Became::Open(scope)), Some(refused)) => Err((scope, refused)),
            _ => unreachable!("it is set, and not to a scope by this"),
        }
    }

    /// Ends it for `cause`, unless it has ended before. Everything below it is marked when this
    /// returns; if this call ended it, all notifications have been made.
    #[inline]
    pub(super) fn cancel(&self, cause: Cause) {
        self.note_stir();
        // Usually `Err` when a canceller is dropped after it was used.
        if self.fate.scope().is_ok() {
            self.end(cause);
        }
    }

    fn end(&self, cause: Cause) {
        match self.fate.scope() {
            Ok(Some(scope)) => {
                self.look();
                return Branch::end_open(scope, cause);
            }
            Err(_) => return,
            // Nothing is below a light branch, and how it ended has not been asked yet.
            Ok(None) if self.is_done() => return,
            Ok(None) => {}
        }
        match self.settle_light(cause) {
            Ok((cause, true)) => trace::ended(cause),
            Ok((_, false)) => {}
            Err(_) if skip(Break::LightCancelGivesUp) => {}
            Err((scope, cause)) => Branch::end_open(scope, cause),
        }
    }

    fn end_open(scope: Lent<'_, Scope>, cause: Cause) {
        if let Some(mut harvest) = Scope::cancel(scope, cause) {
            harvest.run();
        }
    }

    /// Its scope, registered with the parent's; `Err` if it has ended.
    #[inline]
    pub(super) fn open(&self) -> Result<Lent<'_, Scope>, Seen<'_>> {
        if self.is_done() {
            if let Some(cause) = self.look() {
                return Err(cause);
            }
        }
        match self.fate.scope() {
            Ok(Some(scope)) if scope.is_listed() || self.up.is_none() => Ok(scope),
            _ => self.open_first(),
        }
    }

    /// Makes the scope, registers it, or both.
    fn open_first(&self) -> Result<Lent<'_, Scope>, Seen<'_>> {
        if self.fate.get().is_none() {
            let own = match &self.bound {
                Bound::Own { own, .. } => Some(Arc::clone(own)),
                Bound::None { .. } | Bound::Above { .. } => None,
            };
            // Another thread may be first: below, what is there counts.
            self.fate.open(Scope::new(own));
        }
        match self.fate.get() {
            Some(Became::Ended(cause)) => Err(cause),
            Some(Became::Open(scope)) => {
                if let Some(up) = self.up {
                    up.register(scope);
                    // Registration is refused if the parent has ended: then this has ended too.
                    if let Some(end) = up.end().filter(|_| !skip(Break::RefusedScopeGoesOn)) {
                        return Err(self.inherit(end));
                    }
                }
                Ok(scope)
            }
            None => unreachable!("set above"),
        }
    }

    /// The scope with the deadline that ends this branch. For a deadline of its own, that is its
    /// own scope, once it is open.
    pub(super) fn bounding(&self) -> Option<Lent<'_, Scope>> {
        match (&self.bound, self.fate.scope()) {
            (Bound::Own { .. }, Ok(Some(scope))) => Some(scope),
            (Bound::Above { scope, .. }, _) => Some(*scope),
            _ => None,
        }
    }

    /// Notes a waiter: from now on the deadline, if there is one, must ring. Returns whether this
    /// armed its alarm.
    pub(super) fn watch(&self) -> bool {
        self.bounding().is_some_and(Scope::watch)
    }

    /// The opposite of `watch`.
    pub(super) fn unwatch(&self) {
        if let Some(scope) = self.bounding() {
            scope.unwatch();
        }
    }

    /// Takes back a waker that was added with `Scope::wait`.
    pub(super) fn unwait(&self, key: usize) {
        if let Ok(Some(scope)) = self.fate.scope() {
            scope.unwait(key);
        }
    }

    /// Counts one more `Canceller`.
    pub(super) fn add_canceller(&self) {
        // Relaxed: the caller has a canceller, so the last one is not being dropped.
        if !skip(Break::CloneNotCounted) {
            self.cancellers().fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one `Canceller` less; true if it was the last and still armed.
    #[inline]
    pub(super) fn drop_canceller(&self) -> bool {
        // The last canceller must see what the threads of all others did before they dropped
        // theirs: the Release of `fetch_sub` pairs with both Acquires here. A count of exactly one
        // is this canceller alone, which cannot be cloned while it is being dropped.
        self.cancellers().load(Ordering::Acquire) == 1
            || self.cancellers().fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// From now on dropping cancellers does nothing.
    pub(super) fn disarm(&self) {
        // Release: see `drop_canceller`.
        self.cancellers().fetch_or(DISARMED, Ordering::Release);
    }
}

impl Drop for Branch<'_> {
    fn drop(&mut self) {
        self.note_gone();
        if let Ok(Some(scope)) = self.fate.scope() {
            if let Some(up) = self.up {
                // Waits for a sweep of the parent that is under way, which then empties it.
                up.dismiss(scope.get());
            }
            #[cfg(not(loom))]
            scope.empty(|| self.is_done());
        }
    }
}
