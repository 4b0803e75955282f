//! The list of everything that a scope notifies of its end.
//!
//! # Invariants
//!
//! 1. A member keeps its key until it is taken out.
//! 2. The first member is stored inline: one is the usual number, and takes no allocation. All
//!    others are behind one pointer.
//! 3. `children` and `behind` count among the others: `children` those that are children, `behind`
//!    those whose places are not in the first quarter of the memory.

use super::after::Func;
use super::scope::Scope;
use crate::sync::Arc;
use slab::Slab;
use std::task::Waker;

/// One entry of the list.
pub(super) enum Member {
    Child(Arc<Scope>),
    Waiter(Waker),
    Func(Func),
}

#[derive(Default)]
pub(super) struct Members {
    /// Has key zero; the key of any other member is its place plus one.
    first: Option<Member>,
    others: Option<Box<Others>>,
}

struct Others {
    list: Slab<Member>,
    children: u32,
    behind: u32,
}

impl Members {
    pub(super) fn add(&mut self, member: Member) -> usize {
        if self.first.is_none() {
            self.first = Some(member);
            return 0;
        }
        self.others.get_or_insert_with(Others::new).add(member) + 1
    }

    pub(super) fn take(&mut self, key: usize) -> Option<Member> {
        match key.checked_sub(1) {
            None => self.first.take(),
            Some(place) => self.others.as_mut()?.take(place),
        }
    }

    fn get(&self, key: usize) -> Option<&Member> {
        match key.checked_sub(1) {
            None => self.first.as_ref(),
            Some(place) => self.others.as_ref()?.list.get(place),
        }
    }

    /// The waker of the waiter with this key.
    pub(super) fn waker(&mut self, key: usize) -> &mut Waker {
        let member = match key.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.others.as_mut().and_then(|others| others.list.get_mut(place)),
        };
        match member {
            Some(Member::Waiter(waker)) => waker,
            _ => unreachable!("the key is a waiter's"),
        }
    }

    /// An exclusive upper bound of all keys.
    fn room(&self) -> usize {
        1 + self.others.as_ref().map_or(0, |others| others.list.capacity())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.as_ref().is_none_or(|others| others.list.is_empty())
    }

    pub(super) fn has_children(&self) -> bool {
        matches!(self.first, Some(Member::Child(_)))
            || self.others.as_ref().is_some_and(|others| others.children > 0)
    }

    /// Resets the list if it is empty, so that it gives out the same keys as a new one.
    #[cfg(all(feature = "check", not(loom)))]
    pub(super) fn reset_if_empty(&mut self) -> bool {
        let nobody = self.is_empty();
        match &mut self.others {
            Some(others) if nobody && others.list.capacity() <= 4 => others.list.clear(),
            others if nobody => *others = None,
            _ => {}
        }
        nobody
    }

    /// How many children are in the list, for the models.
    #[cfg(loom)]
    pub(super) fn children(&self) -> usize {
        let is_first = matches!(self.first, Some(Member::Child(_)));
        usize::from(is_first) + self.others.as_ref().map_or(0, |others| others.children as usize)
    }

    /// The first child whose key is not below `from`.
    pub(super) fn child(&self, from: usize) -> Option<(usize, &Arc<Scope>)> {
        (from..self.room()).find_map(|key| match self.get(key) {
            Some(Member::Child(child)) => Some((key, child)),
            _ => None,
        })
    }

    /// Takes out all members except the children.
    pub(super) fn take_all_but_children(&mut self, mut each: impl FnMut(Member)) {
        let is_told = |member: &Member| !matches!(member, Member::Child(_));
        self.first.take_if(|first| is_told(first)).into_iter().for_each(&mut each);
        let Some(others) = &mut self.others else { return };
        for place in 0..others.list.capacity() {
            if others.list.len() == others.children as usize {
                return;
            }
            if others.list.get(place).is_some_and(is_told) {
                others.take(place).into_iter().for_each(&mut each);
            }
        }
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = Member> {
        let others = self.others.into_iter().flat_map(|others| others.list);
        self.first.into_iter().chain(others.map(|(_, member)| member))
    }

    /// After a crowd has left, once no member is in the last three quarters of the memory, frees
    /// all behind the last member. No member changes places.
    #[inline]
    pub(super) fn give_memory_back(&mut self) {
        if let Some(others) = &mut self.others {
            if others.behind == 0 && others.list.capacity() > 64 {
                others.shrink();
            }
        }
    }
}

impl Others {
    #[cold]
    fn new() -> Box<Self> {
        // Takes half the time of letting an empty one grow.
        Box::new(Others { list: Slab::with_capacity(4), children: 0, behind: 0 })
    }

    fn add(&mut self, member: Member) -> usize {
        self.children += u32::from(matches!(member, Member::Child(_)));
        if self.list.len() == self.list.capacity() {
            self.list.reserve(self.list.capacity());
            // The places in front are all taken.
            self.behind = self.list.len().saturating_sub(self.list.capacity() / 4) as u32;
        }
        let place = self.list.insert(member);
        self.behind += self.is_behind(place);
        place
    }

    /// What a member in `place` adds to `behind`: one or zero.
    fn is_behind(&self, place: usize) -> u32 {
        u32::from(place >= self.list.capacity() / 4)
    }

    fn take(&mut self, place: usize) -> Option<Member> {
        let gone = self.list.try_remove(place)?;
        self.behind -= self.is_behind(place);
        self.children -= u32::from(matches!(gone, Member::Child(_)));
        Some(gone)
    }

    #[cold]
    fn shrink(&mut self) {
        self.list.shrink_to_fit();
        self.behind = self.list.iter().map(|(place, _)| self.is_behind(place)).sum();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn waits(members: &mut Members) -> usize {
        members.add(Member::Waiter(Waker::noop().clone()))
    }

    #[test]
    fn one_alone_takes_no_memory_of_its_own() {
        let mut members = Members::default();
        for _ in 0..10 {
            let key = waits(&mut members);
            assert_eq!(members.room(), 1);
            assert!(members.take(key).is_some() && members.is_empty());
        }
    }

    #[test]
    fn a_crowd_that_leaves_takes_its_memory_along_though_one_who_came_first_stays() {
        let mut members = Members::default();
        let stays = [waits(&mut members), waits(&mut members)];
        for _ in 0..3 {
            let mut crowd: Vec<_> = (0..100_000).map(|_| waits(&mut members)).collect();
            assert!(members.room() > 100_000);
            // In scattered order, so that each leaves beside some that have left already.
            crowd.sort_by_key(|key| key.wrapping_mul(0x9E37_79B9) % 100_003);
            for key in crowd {
                assert!(members.take(key).is_some());
                members.give_memory_back();
            }
            assert!(members.room() <= 65, "{} places are left", members.room());
        }
        assert!(stays.into_iter().all(|key| members.take(key).is_some()));
        assert!(members.is_empty());
    }

    #[test]
    fn a_list_does_not_grow_and_shrink_with_each_who_comes_and_goes() {
        let mut members = Members::default();
        let mut all: Vec<_> = (0..1_000).map(|_| waits(&mut members)).collect();
        all.extend((all.len()..members.room()).map(|_| waits(&mut members)));
        let full = members.room();
        all.push(waits(&mut members));
        let more = members.room();
        assert!(more > full);
        for _ in 0..full / 4 {
            assert!(members.take(all.pop().unwrap()).is_some());
            members.give_memory_back();
            assert_eq!(members.room(), more);
        }
    }
}
