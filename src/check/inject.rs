//! What befalls a body while it runs.

use std::fmt;

/// An injection: what befalls a body, once in each schedule, at every point in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inject {
    /// The body's context is cancelled.
    Cancel,
    /// The body's future is dropped, and then the canceller of its context.
    Drop,
    /// The body's context has a deadline, one virtual hour away, and time jumps there.
    Deadline,
    /// A [`fault`](crate::check::fault) point panics.
    Panic,
    /// Nothing: only the order of tasks varies.
    None,
}

impl Inject {
    /// The letter in a token.
    pub(super) fn letter(self) -> char {
        match self {
            Inject::Cancel => 'c',
            Inject::Drop => 'd',
            Inject::Deadline => 't',
            Inject::Panic => 'p',
            Inject::None => 'n',
        }
    }

    pub(super) fn of_letter(letter: &str) -> Option<Inject> {
        let all = [Inject::Cancel, Inject::Drop, Inject::Deadline, Inject::Panic, Inject::None];
        all.into_iter().find(|kind| letter.chars().eq([kind.letter()]))
    }

    /// Whether it comes by itself once a body can go no further without it.
    pub(super) fn comes_by_itself(self) -> bool {
        matches!(self, Inject::Cancel | Inject::Drop | Inject::Deadline)
    }

    /// Whether it comes at a look at a context, within a turn. A future cannot be dropped while it
    /// is being polled, and a panic has points of its own.
    pub(super) fn comes_at_a_look(self) -> bool {
        matches!(self, Inject::Cancel | Inject::Deadline)
    }

    /// Whether it comes at any point at all.
    pub(super) fn is_any(self) -> bool {
        self != Inject::None
    }
}

impl fmt::Display for Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Inject::Cancel => "cancel",
            Inject::Drop => "drop",
            Inject::Deadline => "deadline",
            Inject::Panic => "panic",
            Inject::None => "nothing",
        })
    }
}

/// One injection or several, as [`Checker::inject`](crate::check::Checker::inject) takes them.
#[derive(Clone, Debug)]
pub struct Injections(pub(super) Vec<Inject>);

impl From<Inject> for Injections {
    fn from(one: Inject) -> Self {
        Injections(vec![one])
    }
}

impl<const N: usize> From<[Inject; N]> for Injections {
    fn from(several: [Inject; N]) -> Self {
        Injections(several.to_vec())
    }
}

impl From<&[Inject]> for Injections {
    fn from(several: &[Inject]) -> Self {
        Injections(several.to_vec())
    }
}

impl From<Vec<Inject>> for Injections {
    fn from(several: Vec<Inject>) -> Self {
        Injections(several)
    }
}
