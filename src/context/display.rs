//! How a context looks to a person: names, never values, which may be secrets.

use super::Context;
use super::layer::{Branch, Kind, Line, Role};
use super::values::Name;
use crate::sync::{Link, Ref};
use std::fmt;

/// More layers than this are counted, not shown.
const MOST_SHOWN: usize = 64;

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = Vec::new();
        let mut hidden = 0_usize;
        let mut root = "background";
        let mut next = self.link().map(Link::as_ref);
        while let Some(layer) = next {
            match layer.layer().role {
                Role::Todo => root = "todo",
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
pub(super) struct Shown<'a>(pub(super) Ref<'a, Line>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.layer().role {
            Role::Todo => f.write_str("todo"),
            Role::Detached => f.write_str("without_cancel"),
            Role::Value { entry, .. } => match entry.name {
                Name::Type(_) => write!(f, "value({})", short(self.0.value_type())),
                Name::Static(_, name) => write!(f, "value({name})"),
            },
            Role::Branch(branch) => match branch.kind {
                Kind::Cancel => f.write_str("cancel"),
                Kind::Linked => f.write_str("linked"),
                Kind::Timeout(after) => write!(f, "timeout({after:?}{})", Left(", ", branch)),
                Kind::Reserve(keep) => write!(f, "reserve({keep:?}{})", Left(", ", branch)),
                Kind::Deadline => write!(f, "deadline({})", Left("", branch)),
            },
        }
    }
}

/// What is left of a branch's time.
struct Left<'a>(&'static str, &'a Branch<'a>);

impl fmt::Display for Left<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Left(before, branch) = self;
        let Some(deadline) = branch.bounding().and_then(|scope| scope.deadline.as_ref()) else {
            return Ok(());
        };
        let left = deadline.at.saturating_duration_since(deadline.clock.now());
        if left.is_zero() {
            write!(f, "{before}passed")
        } else {
            write!(f, "{before}{left:.1?} left")
        }
    }
}

/// `alloc::vec::Vec<app::UserId>` as `Vec<UserId>`.
fn short(type_name: &str) -> String {
    let mut short = String::new();
    for piece in type_name.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
    {
        // The last character may be the one that was split at.
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
        assert_eq!(super::short("u64"), "u64");
    }
}
