//! A task's counts of its items.

use super::engine::{Engine, StageCounts};
use crate::context::Context;
use crate::sync::Arc;
use std::ops::Deref;
use std::panic::Location;

/// What one task of a stage has seen of its items; added to the stage's counts when dropped.
pub(super) struct Tally<E: Deref<Target = Engine> = Arc<Engine>> {
    engine: E,
    index: usize,
    counts: StageCounts,
    /// Items received that are neither passed on nor counted otherwise.
    in_hand: usize,
    /// Whether user code has the item in hand: if that panics, the item has failed.
    in_users_hand: bool,
}

impl<E: Deref<Target = Engine>> Tally<E> {
    pub(super) fn new(engine: E, index: usize) -> Self {
        Tally { engine, index, counts: StageCounts::default(), in_hand: 0, in_users_hand: false }
    }

    /// See [`Engine::end_of_sources`].
    pub(super) fn end_of_sources(&self) -> Option<Context> {
        self.engine.end_of_sources().cloned()
    }

    /// The stage's name.
    pub(super) fn name(&self) -> String {
        self.engine.stages[self.index].name.clone().into_owned()
    }

    /// Where the stage was described.
    pub(super) fn place(&self) -> &'static Location<'static> {
        self.engine.stages[self.index].place
    }

    #[inline]
    pub(super) fn receive(&mut self) {
        self.counts.received += 1;
        self.in_hand += 1;
    }

    #[inline]
    pub(super) fn give_to_user(&mut self) {
        self.in_users_hand = true;
    }

    #[inline]
    pub(super) fn take_from_user(&mut self) {
        self.in_users_hand = false;
    }

    /// Notes that so many have been put into the channel, which counts them from now on.
    #[inline]
    pub(super) fn pass_on(&mut self, items: usize) {
        self.in_hand -= items;
    }

    pub(super) fn filter(&mut self) {
        self.in_hand -= 1;
        self.counts.filtered += 1;
    }

    pub(super) fn fail(&mut self) {
        self.in_hand -= 1;
        self.counts.failed += 1;
    }
}

impl<E: Deref<Target = Engine>> Drop for Tally<E> {
    fn drop(&mut self) {
        if self.in_users_hand && self.in_hand > 0 {
            self.fail();
        }
        let mut counts = self.engine.stages[self.index].counts.lock();
        counts.received += self.counts.received;
        counts.filtered += self.counts.filtered;
        counts.failed += self.counts.failed;
        counts.discarded += self.in_hand;
    }
}
