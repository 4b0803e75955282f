//! The syntax of the headers, as pure functions that panic on no input.

use std::fmt;
use std::time::Duration;

/// Why the value of a header was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidHeader {
    /// The value is empty, or nothing is in front of its unit.
    Empty,
    /// There is something other than a digit where only digits are allowed.
    NotANumber,
    /// The number has more digits, or the id more bytes, than is allowed.
    TooLong,
    /// A `grpc-timeout` does not end in one of `H M S m u n`.
    NoUnit,
    /// The id has a character other than visible ASCII: it is written to logs.
    NotVisible,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidHeader::Empty => "it is empty",
            InvalidHeader::NotANumber => "it is not a number",
            InvalidHeader::TooLong => "it is too long",
            InvalidHeader::NoUnit => "it does not end in one of the units H, M, S, m, u, n",
            InvalidHeader::NotVisible => "it has characters other than visible ASCII",
        })
    }
}

impl std::error::Error for InvalidHeader {}

/// The maximum number of digits in a `grpc-timeout`.
const GRPC_DIGITS: usize = 8;

/// The maximum length of a tracking id.
const LONGEST_ID: usize = 128;

fn number(digits: &[u8]) -> Result<u64, InvalidHeader> {
    if digits.is_empty() {
        return Err(InvalidHeader::Empty);
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = match digit {
            b'0'..=b'9' => u64::from(digit - b'0'),
            _ => return Err(InvalidHeader::NotANumber),
        };
        let number = number.checked_mul(10).and_then(|number| number.checked_add(digit));
        number.ok_or(InvalidHeader::TooLong)
    })
}

/// Reads `grpc-timeout`: one to eight digits and a unit.
///
/// # Errors
///
/// When it is anything else.
pub fn grpc_timeout(value: &[u8]) -> Result<Duration, InvalidHeader> {
    let (unit, digits) = value.split_last().ok_or(InvalidHeader::Empty)?;
    let of: fn(u64) -> Duration = match unit {
        b'H' => |hours| Duration::from_secs(hours * 3600),
        b'M' => |minutes| Duration::from_secs(minutes * 60),
        b'S' => Duration::from_secs,
        b'm' => Duration::from_millis,
        b'u' => Duration::from_micros,
        b'n' => Duration::from_nanos,
        _ => return Err(InvalidHeader::NoUnit),
    };
    // Eight digits of hours are far below `u64::MAX` seconds.
    if digits.len() > GRPC_DIGITS {
        return Err(InvalidHeader::TooLong);
    }
    number(digits).map(of)
}

/// Writes `grpc-timeout`: as exactly as eight digits allow, and never more than `left`. If nothing
/// is left it writes one nanosecond, because some servers take zero for no limit.
pub fn format_grpc_timeout(left: Duration) -> String {
    const MOST: u128 = 10_u128.pow(GRPC_DIGITS as u32) - 1;
    let nanos = left.as_nanos().max(1);
    let units = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let fits = units.iter().find(|(size, _)| nanos / size <= MOST);
    match fits {
        Some((size, unit)) => format!("{}{unit}", nanos / size),
        None => format!("{MOST}H"),
    }
}

/// Reads `x-timeout-ms`: a number of milliseconds.
///
/// # Errors
///
/// When it is anything else, or more than a `u64` holds.
pub fn millis(value: &[u8]) -> Result<Duration, InvalidHeader> {
    number(value).map(Duration::from_millis)
}

/// Writes `x-timeout-ms`, rounded up so that it never says less than the exact header beside it.
pub fn format_millis(left: Duration) -> String {
    left.as_nanos().div_ceil(1_000_000).min(u128::from(u64::MAX)).to_string()
}

/// Reads a tracking id.
///
/// # Errors
///
/// When it is empty, longer than 128 bytes, or has characters other than visible
/// ASCII: it is written to logs.
pub fn tracking_id(value: &[u8]) -> Result<&str, InvalidHeader> {
    match value {
        [] => Err(InvalidHeader::Empty),
        _ if value.len() > LONGEST_ID => Err(InvalidHeader::TooLong),
        _ if !value.iter().all(u8::is_ascii_graphic) => Err(InvalidHeader::NotVisible),
        _ => std::str::from_utf8(value).map_err(|_| InvalidHeader::NotVisible),
    }
}
