//! How a context displays: with names, but never values, which may be secrets.

use super::Context;
use super::layer::{Branch, ContextFamily, Kind, Layer};
use crate::sync::{Link, Ref};
use std::fmt;
use std::time::Duration;

/// Layers beyond this number are counted, not shown.
const MOST_SHOWN: usize = 64;

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = Vec::new();
        let mut hidden = 0_usize;
        let mut root = "background";
        let mut next = self.link.as_ref().map(Link::as_ref);
        while let Some(layer) = next {
            match layer.layer() {
                Layer::Todo { .. } => root = "todo",
                _ if shown.len() == MOST_SHOWN => hidden += 1,
                _ => shown.push(layer),
            }
            next = layer.parent();
        }
        f.write_str(root)?;
        if hidden > 0 {
            write!(f, " → … {hidden} more …")?;
        }
        for layer in shown.into_iter().rev() {
            write!(f, " → {}", Shown(layer))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Context");
        debug.field("chain", &format_args!("{self}"));
        if let Some(error) = self.err() {
            debug.field("err", &error);
        }
        debug.finish()
    }
}

/// One layer.
pub(super) struct Shown<'a>(pub(super) Ref<'a, ContextFamily>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.layer() {
            Layer::Todo { .. } => f.write_str("todo"),
            Layer::Detached { .. } => f.write_str("without_cancel"),
            Layer::Value { entry, .. } => match entry.name {
                None => write!(f, "value({})", short(self.0.value_type())),
                Some(label) => write!(f, "value({})", label.name()),
            },
            Layer::Branch(branch) => match branch.kind() {
                Kind::Cancel => f.write_str("cancel"),
                Kind::Pipeline => f.write_str("pipeline"),
                Kind::Linked => f.write_str("linked"),
                Kind::Timeout => write!(f, "timeout({})", Limits(branch)),
                Kind::Reserve => write!(f, "reserve({})", Limits(branch)),
                Kind::Deadline => write!(f, "deadline({})", Limits(branch)),
            },
        }
    }
}

/// The time that was asked for, and what is left of it.
struct Limits<'a>(&'a Branch<'a>);

impl fmt::Display for Limits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits(branch) = self;
        let is_done = branch.is_done();
        let Some(left) = branch.remaining() else { return f.write_str("no limit") };
        if let Some(asked) = branch.asked() {
            write!(f, "{asked:?}, ")?;
        }
        match left {
            Duration::ZERO => f.write_str("passed"),
            // Its deadline has not passed, so that is not what ended it.
            _ if is_done => f.write_str("cancelled"),
            _ => write!(f, "{left:.1?} left"),
        }
    }
}

/// `alloc::vec::Vec<app::UserId>` as `Vec<UserId>`.
fn short(type_name: &str) -> String {
    let mut short = String::new();
    for piece in type_name.split_inclusive(|c: char| !(c.is_alphanumeric() || "_:{}".contains(c))) {
        // A piece may end with the character that it was split at.
        let path_end = piece.rfind("::").map_or(0, |at| at + 2);
        short.push_str(&piece[path_end..]);
    }
    short
}

#[cfg(test)]
mod tests {
    #[test]
    fn type_names_lose_their_paths_and_nothing_else() {
        assert_eq!(super::short("alloc::vec::Vec<app::UserId>"), "Vec<UserId>");
        assert_eq!(super::short("(u8, &'static core::ffi::CStr)"), "(u8, &'static CStr)");
        assert_eq!(super::short("[app::x::Y<a::B, c::D>; 3]"), "[Y<B, D>; 3]");
        assert_eq!(super::short("app::main::{{closure}}::Local"), "Local");
        assert_eq!(super::short("u64"), "u64");
    }
}
