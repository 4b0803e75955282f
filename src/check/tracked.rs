//! Items that must not be lost.

use crate::rt::world;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// An item that must be settled. Under a checker, dropping one unsettled while its schedule runs is
/// a [`LostItem`](crate::check::ViolationKind::LostItem), which names the line that made it.
/// Elsewhere it is just its value.
///
/// ```
/// use quell::check::Tracked;
///
/// let order = Tracked::new("two teas");
/// assert_eq!(order.len(), 8);
/// assert_eq!(order.settle(), "two teas");
/// ```
#[must_use = "an item that is dropped unsettled is lost"]
pub struct Tracked<T> {
    /// `None` once it is settled.
    value: Option<T>,
    made_at: &'static Location<'static>,
}

impl<T> Tracked<T> {
    /// Creates an item that is not settled.
    #[track_caller]
    pub fn new(value: T) -> Self {
        Tracked { value: Some(value), made_at: Location::caller() }
    }

    /// Settles the item, which has come to where it should, and returns its value.
    pub fn settle(mut self) -> T {
        self.value.take().expect(SETTLED)
    }
}

const SETTLED: &str = "only settling takes the value";

impl<T> Deref for Tracked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect(SETTLED)
    }
}

impl<T> DerefMut for Tracked<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect(SETTLED)
    }
}

impl<T> Drop for Tracked<T> {
    fn drop(&mut self) {
        if self.value.is_some() {
            world::tell(|onlooker| onlooker.lost(std::any::type_name::<T>(), self.made_at));
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Tracked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracked").field(&**self).finish()
    }
}
