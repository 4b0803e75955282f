//! Ending with any of several parents.

use super::Context;
use super::layer::{Bound, Branch};
use super::scope::{End, Scope};
use crate::sync::Arc;

/// The further parents of a linked context.
pub(super) struct Ties {
    /// Kept alive, as parents are.
    pub(super) others: Vec<Context>,
    /// Their scopes, and the linked context's key in each.
    seats: Vec<(Arc<Scope>, usize)>,
    /// The scopes whose deadlines are on another clock than the linked context's. They are watched
    /// for as long as it lives, because it cannot read their clocks.
    watched: Vec<Arc<Scope>>,
}

impl Ties {
    /// No ties yet.
    pub(super) fn to(others: Vec<Context>) -> Self {
        Ties { others, seats: Vec::new(), watched: Vec::new() }
    }
}

impl Drop for Ties {
    fn drop(&mut self) {
        self.watched.iter().for_each(|scope| scope.unwatch());
        // The last of these may drop the context's own scope, and with it a user's error.
        for (other, key) in &self.seats {
            other.remove(*key);
        }
    }
}

impl Branch<'_> {
    /// Makes a new branch end with any of `others` too.
    pub(super) fn tie(&self, others: Vec<Context>) -> Ties {
        // Made first: if arming an alarm panics, its drop unties what was tied so far.
        let mut ties = Ties::to(others);
        for other in ties.others.iter().filter_map(Context::branch) {
            // Asked again for each: it may have ended with the previous one.
            let Ok(scope) = self.open() else { break };
            let seat = other.open().map(|up| {
                // Before adoption, after which it can end with this context in its list.
                if let Bound::Own { own, .. } = &self.bound {
                    up.note_time_by(&own.clock);
                }
                (up, up.adopt(scope))
            });
            match seat {
                Ok((up, Some(key))) => {
                    ties.seats.push((up.to_arc(), key));
                    if let (Some(scope), Some(own)) = (other.bounding(), self.deadline()) {
                        let theirs = scope.deadline.as_ref();
                        if theirs.is_some_and(|theirs| !theirs.clock.same(&own.clock)) {
                            Scope::watch(scope);
                            ties.watched.push(scope.to_arc());
                        }
                    }
                }
                // The other parent has ended, just now or before.
                Ok((_, None)) | Err(_) => match (other.scope_end(), other.look()) {
                    (Some(end), _) => drop(scope.inherit(end)),
                    (None, Some(cause)) => drop(scope.inherit(&End::foreign(cause.to_cause()))),
                    (None, None) => unreachable!("a scope refuses once it has ended"),
                },
            }
        }
        ties
    }
}
