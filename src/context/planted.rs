//! Planted bugs: each breaks one line that a model guards, to show that the
//! model would notice. They exist under `--cfg loom` only; everywhere else
//! [`skip`] is a constant `false`.

/// A line that can be broken on purpose.
#[cfg_attr(not(loom), allow(unreachable_pub))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, clippy::enum_variant_names, dead_code)]
pub enum Break {
    WakerNotReplaced,
}

#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn skip(_which: Break) -> bool {
    false
}

#[cfg(loom)]
pub use on::plant;
#[cfg(loom)]
pub(crate) use on::skip;

#[cfg(loom)]
mod on {
    use super::Break;
    use std::sync::Mutex;

    static PLANTED: Mutex<Option<Break>> = Mutex::new(None);

    /// Breaks one line, or none, from now on in this process.
    pub fn plant(which: Option<Break>) {
        *PLANTED.lock().unwrap() = which;
    }

    pub(crate) fn skip(which: Break) -> bool {
        *PLANTED.lock().unwrap() == Some(which)
    }
}
