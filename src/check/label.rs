//! Names of tasks, each kept once, however many schedules it is in.

use super::task::mixed;
use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::Location;

/// What a task is called and where it was spawned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label {
    pub(super) name: Cow<'static, str>,
    pub(super) place: &'static Location<'static>,
}

#[derive(Debug, Default)]
pub(super) struct Labels {
    all: Vec<(Label, u32)>,
    /// Only looked up in, never iterated: its order means nothing.
    known: HashMap<Label, u32>,
    /// By task number: the label that task had in the last schedule.
    last: Vec<u32>,
}

impl Labels {
    /// The number of a label. The same name and place have the same number.
    pub(super) fn of(
        &mut self,
        task: usize,
        name: Cow<'static, str>,
        place: &'static Location<'static>,
    ) -> u32 {
        if let Some(&last) = self.last.get(task) {
            let label = &self.all[last as usize].0;
            if std::ptr::eq(label.place, place) && label.name == name {
                return last;
            }
        }
        let label = Label { name, place };
        let number = match self.known.get(&label) {
            Some(&number) => number,
            None => {
                let number = self.all.len() as u32;
                self.all.push((label.clone(), hash(&label.name)));
                self.known.insert(label, number);
                number
            }
        };
        if self.last.len() == task {
            self.last.push(number);
        } else if let Some(last) = self.last.get_mut(task) {
            *last = number;
        }
        number
    }

    pub(super) fn get(&self, number: u32) -> &Label {
        &self.all[number as usize].0
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// A hash of the name alone: the same in every process, and after lines have moved.
    pub(super) fn hash(&self, number: u32) -> u32 {
        self.all[number as usize].1
    }
}

/// FNV-1a.
pub(super) fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A hash of a line: quick, and good enough to tell a few lines apart.
#[inline]
pub(super) fn hash_of_line(place: &Location<'_>) -> u64 {
    let line = u64::from(place.line()) << 32 | u64::from(place.column());
    mixed(mixed(place.file().len() as u64, line), line)
}
