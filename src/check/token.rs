//! A schedule as a word.
//!
//! `q1c-1f2e3d4c-s500.i17.20x2`: the version of the format and the injection (see
//! `Inject::letter`), the body's fingerprint, then everything that is not as usual: the limits (`s`
//! steps, `p` points, `w` microseconds to stop within, or `n` nanoseconds if those do not come out
//! even; `f`: functions are called after turns), where the injection comes (`i`, by the number of
//! the decision) and every other deviation (number `x` value). On a real tokio there is one
//! schedule: `k7` says that the injection comes at its point 7; `k`, that it comes by itself.

use super::checker::USUAL;
use super::engine::Limits;
use super::inject::Inject;
use super::strategy::{Deviation, STRIKE};
use std::fmt;

/// The version of the format, and of the order in which decisions are numbered.
const VERSION: &str = "q1";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Inject,
    pub(super) fingerprint: u32,
    /// This and the other limits: only if they are not as usual.
    pub(super) steps: Option<u32>,
    pub(super) points: Option<u32>,
    pub(super) nanos: Option<u64>,
    pub(super) after_turns: bool,
    pub(super) deviations: Vec<Deviation>,
    /// The token is of a real tokio: the injection comes at this point, or by itself.
    pub(super) tokio: Option<Option<u32>>,
}

/// Why a schedule was not replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// The text is not a token.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// The token was made by another version of quell.
    Version {
        /// The version with which the token begins.
        found: String,
    },
    /// The token is of another body, or of this one before it was changed.
    Body,
    /// The body no longer makes the decisions that the token is about.
    Diverged,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Malformed { why } => write!(
                f,
                "this is no replay token: {why}; copy the whole word that a violation shows \
                 after `replay`"
            ),
            ReplayError::Version { found } => write!(
                f,
                "this replay token is of version `{found}`, and this quell reads `{VERSION}`: run \
                 the check again for a new one"
            ),
            ReplayError::Body => f.write_str(
                "this replay token is of another body, or of this one before it was changed: run \
                 the check again for a new one",
            ),
            ReplayError::Diverged => f.write_str(
                "the body does not make the choices that this replay token is about: it has \
                 changed, or is not deterministic; run the check again",
            ),
        }
    }
}

impl std::error::Error for ReplayError {}

impl Token {
    pub(super) fn new(
        kind: Inject,
        fingerprint: u32,
        limits: Limits,
        deviations: Vec<Deviation>,
    ) -> Self {
        let differs = |one: u32, other: u32| (one != other).then_some(one);
        Token {
            kind,
            fingerprint,
            steps: differs(limits.steps, USUAL.steps),
            points: differs(limits.points, USUAL.points),
            nanos: (limits.stop_within != USUAL.stop_within).then_some(limits.stop_within),
            after_turns: limits.after_turns,
            deviations,
            tokio: None,
        }
    }

    /// The token of a run on a real tokio, with the injection at this point or by itself.
    #[cfg(feature = "tokio")]
    pub(super) fn on_tokio(self, target: Option<u32>) -> Self {
        Token { tokio: Some(target), ..self }
    }

    pub(super) fn limits(&self, usual: Limits) -> Limits {
        Limits {
            steps: self.steps.unwrap_or(usual.steps),
            points: self.points.unwrap_or(usual.points),
            stop_within: self.nanos.unwrap_or(usual.stop_within),
            after_turns: self.after_turns || usual.after_turns,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Token, ReplayError> {
        let malformed = |why: &str| ReplayError::Malformed { why: why.to_string() };
        let text = text.trim();
        let mut parts = text.split('-');
        let head = parts.next().unwrap_or("");
        let Some((version, letter)) = head.char_indices().last().map(|(at, _)| head.split_at(at))
        else {
            return Err(malformed("it is empty"));
        };
        if version != VERSION {
            let is_version = version.strip_prefix('q').is_some_and(|n| n.parse::<u32>().is_ok());
            return Err(if is_version {
                ReplayError::Version { found: version.to_string() }
            } else {
                malformed("it does not begin with a version")
            });
        }
        let kind = Inject::of_letter(letter).ok_or_else(|| malformed("no such injection"))?;
        let fingerprint = parts.next().filter(|hex| hex.len() == 8);
        let fingerprint = fingerprint.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let fingerprint = fingerprint.ok_or_else(|| malformed("it has no fingerprint"))?;
        let rest = parts.next().ok_or_else(|| malformed("it is cut off"))?;
        if parts.next().is_some() {
            return Err(malformed("it goes on after its end"));
        }
        let mut token = Token {
            kind,
            fingerprint,
            steps: None,
            points: None,
            nanos: None,
            after_turns: false,
            deviations: Vec::new(),
            tokio: None,
        };
        for word in rest.split('.').filter(|word| !word.is_empty()) {
            token.add(word).ok_or_else(|| malformed(&format!("`{word}` says nothing")))?;
        }
        if token.tokio.is_some() && !token.deviations.is_empty() {
            return Err(malformed("tokio's schedule has no other decisions"));
        }
        let in_order = token.deviations.windows(2).all(|pair| pair[0].at < pair[1].at);
        if !in_order {
            return Err(malformed("its decisions are not in order"));
        }
        // A schedule has one spelling: no sign, no number twice, each in its place.
        if token.to_string() != text {
            return Err(malformed("it is not written in quell's own way"));
        }
        Ok(token)
    }

    fn add(&mut self, word: &str) -> Option<()> {
        if let Some((at, value)) = word.split_once('x') {
            let (at, value) = (at.parse().ok()?, value.parse().ok()?);
            self.deviations.push(Deviation { at, value });
            return (value > 0 && value != STRIKE).then_some(());
        }
        let (letter, number) = word.split_at_checked(1)?;
        match letter {
            "s" => self.steps = Some(number.parse().ok().filter(|&steps| steps > 0)?),
            "p" => self.points = Some(number.parse().ok().filter(|&points| points > 0)?),
            "w" => self.nanos = Some(number.parse::<u64>().ok()?.checked_mul(1_000)?),
            "n" => self.nanos = Some(number.parse().ok()?),
            "f" if number.is_empty() => self.after_turns = true,
            "i" => self.deviations.push(Deviation { at: number.parse().ok()?, value: STRIKE }),
            "k" if number.is_empty() => self.tokio = Some(None),
            "k" => self.tokio = Some(Some(number.parse().ok()?)),
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}{}-{:08x}-", self.kind.letter(), self.fingerprint)?;
        let limits = [
            self.steps.map(|n| format!("s{n}")),
            self.points.map(|n| format!("p{n}")),
            self.nanos.map(|n| match n % 1_000 {
                0 => format!("w{}", n / 1_000),
                _ => format!("n{n}"),
            }),
            self.after_turns.then(|| "f".to_string()),
        ];
        let deviations = self.deviations.iter().map(|deviation| match deviation.value {
            STRIKE => format!("i{}", deviation.at),
            value => format!("{}x{value}", deviation.at),
        });
        let tokio = self.tokio.map(|target| match target {
            Some(point) => format!("k{point}"),
            None => "k".to_string(),
        });
        let words: Vec<_> = limits.into_iter().flatten().chain(tokio).chain(deviations).collect();
        f.write_str(&words.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        let deviations = vec![Deviation { at: 3, value: 2 }, Deviation { at: 17, value: STRIKE }];
        let after_turns = true;
        let limits = |stop_within| Limits { steps: 7, points: 8, stop_within, after_turns };
        for limits in [USUAL, limits(9_000), limits(1_500), limits(0), limits(u64::MAX)] {
            let token = Token::new(Inject::Cancel, 0xBEEF, limits, deviations.clone());
            let back = Token::parse(&token.to_string()).unwrap();
            assert_eq!(back, token);
            assert_eq!(back.limits(USUAL).steps, limits.steps);
            assert_eq!(back.limits(USUAL).after_turns, limits.after_turns);
            assert_eq!(back.limits(USUAL).stop_within, limits.stop_within);
        }
        let plain = Token::new(Inject::None, 1, USUAL, Vec::new());
        assert_eq!(Token::parse(&plain.to_string()).unwrap(), plain);
        for target in [None, Some(7)] {
            let tokio = Token { tokio: Some(target), ..plain.clone() };
            assert_eq!(Token::parse(&tokio.to_string()).unwrap(), tokio);
        }
    }

    #[test]
    fn what_is_no_token_says_why() {
        let why = |text: &str| Token::parse(text).unwrap_err().to_string();
        assert!(why("").contains("empty"));
        assert!(why("hello").contains("version"));
        assert!(why("q9c-00000001-").contains("`q9`"));
        assert!(why("q1z-00000001-").contains("injection"));
        assert!(why("q1c-1-").contains("fingerprint"));
        assert!(why("q1c-00000001").contains("cut off"));
        assert!(why("q1c-00000001-5x").contains("says nothing"));
        assert!(why("q1c-00000001-5x0").contains("says nothing"));
        assert!(why("q1c-00000001-i7.5x1").contains("order"));
        assert!(why("q1c-00000001-i7-").contains("after its end"));
        assert!(why("q1c-00000001-k7.i7").contains("no other decisions"));
        // A schedule has one spelling.
        for other in [
            "q1c-+0000001-i7",
            "q1c-0000000A-i7",
            "q1c-00000001-s1.s2",
            "q1c-00000001-w1.n1",
            "q1c-00000001-i+7",
            "q1c-00000001-i07",
            "q1c-00000001-i7.s5",
            "q1c-00000001-.i7",
        ] {
            assert!(why(other).contains("quell's own way"), "{other}: {}", why(other));
        }
        assert!(why("q1c-00000001-s0").contains("`s0` says nothing"));
        assert!(why("q1c-00000001-p0").contains("`p0` says nothing"));
    }
}
