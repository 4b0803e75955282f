//! A line of code, and how it is found in a stack trace.

use std::backtrace::Backtrace;
use std::fmt;
use std::panic::Location;

/// A line of code. Reads `src/main.rs:12:32`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: String,
    line: u32,
    column: u32,
}

impl Place {
    /// The file, as the compiler was given it, or below the current directory.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The column, from 1.
    pub fn column(&self) -> u32 {
        self.column
    }

    fn parse(text: &str) -> Option<Place> {
        let (rest, last) = text.rsplit_once(':')?;
        let last: u32 = last.parse().ok()?;
        let (file, line, column) = match rest.rsplit_once(':') {
            Some((file, line)) if line.parse::<u32>().is_ok() => (file, line.parse().ok()?, last),
            _ => (rest, last, 0),
        };
        Some(Place { file: shortened(file), line, column })
    }
}

impl From<&Location<'_>> for Place {
    fn from(location: &Location<'_>) -> Self {
        Place { file: shortened(location.file()), line: location.line(), column: location.column() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Below the current directory, where it is.
fn shortened(file: &str) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| std::path::Path::new(file).strip_prefix(here).ok());
    match below {
        Some(below) => below.to_string_lossy().into_owned(),
        None => file.strip_prefix("./").unwrap_or(file).to_string(),
    }
}

/// Where a task waits, by the stack of the moment at which its waker was cloned.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) place: Option<Place>,
    /// The library function that it called there.
    pub(super) called: Option<String>,
    /// The trace has no lines at all.
    pub(super) no_lines: bool,
}

/// The innermost line of the user's.
pub(super) fn users_line(trace: &Backtrace) -> Seen {
    let text = trace.to_string();
    let mut seen = Seen { place: None, called: None, no_lines: true };
    let (mut symbol, mut before) = (String::new(), None);
    for line in text.lines().map(str::trim) {
        let Some(at) = line.strip_prefix("at ") else {
            let name = line.split_once(": ").filter(|(n, _)| n.parse::<u32>().is_ok());
            if says_something(&symbol) {
                before = Some(std::mem::take(&mut symbol));
            }
            symbol = name.map_or(line, |(_, name)| name).to_string();
            continue;
        };
        seen.no_lines = false;
        if is_users(at, &symbol) {
            seen.place = Place::parse(at);
            seen.called = before.as_deref().and_then(function);
            break;
        }
    }
    seen
}

/// Whether a frame says what is waited for: the nearest to the user's that is neither
/// the standard library's nor ours.
fn says_something(symbol: &str) -> bool {
    const SILENT: &[&str] =
        &["quell::", "core::", "std::", "alloc::", "<core::", "<alloc::", "<std::"];
    let inner = symbol.strip_prefix('<').unwrap_or(symbol);
    symbol.contains("::")
        && !symbol.starts_with('{')
        && !SILENT.iter().any(|silent| symbol.starts_with(silent) || inner.starts_with(silent))
        && !symbol.starts_with("<&mut ")
}

fn is_users(file: &str, symbol: &str) -> bool {
    const OTHERS: &[&str] = &["/.cargo/registry/", "/.cargo/git/", "/rustc/", "/library/"];
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    let in_own = |file: &str| file.starts_with(own) && !file[own.len()..].starts_with("bin/");
    let relative = file.strip_prefix("./").unwrap_or(file);
    let absolute = std::env::current_dir().map(|here| here.join(relative));
    let absolute = absolute.map_or_else(|_| file.to_string(), |path| path.display().to_string());
    !OTHERS.iter().any(|other| file.contains(other))
        && !in_own(&absolute)
        // The macros of libraries put their code at the user's line, which is right; the
        // start of a thread or a program is nobody's.
        && !symbol.starts_with("std::")
        && !symbol.starts_with("core::")
}

/// `tokio::sync::mpsc::bounded::Receiver<T>::recv`, without what the compiler adds.
fn function(symbol: &str) -> Option<String> {
    let name = symbol.replace("::{{closure}}", "");
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name.to_string(),
        _ => name,
    };
    // `<A as B>::poll` is A's.
    let name = match name.strip_prefix('<').and_then(|inner| inner.split_once(" as ")) {
        Some((inner, _)) => inner.to_string(),
        None => name,
    };
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_trace_is_read_with_and_without_its_column() {
        let place = Place::parse("/somewhere/main.rs:12:32").unwrap();
        assert_eq!((place.file(), place.line(), place.column()), ("/somewhere/main.rs", 12, 32));
        let place = Place::parse("./src/main.rs:7").unwrap();
        assert_eq!((place.file(), place.line(), place.column()), ("src/main.rs", 7, 0));
        assert_eq!(Place::parse("no line"), None);
    }

    #[test]
    fn a_function_is_called_by_its_name_alone() {
        let long = "tokio::sync::mpsc::bounded::Receiver<T>::recv::{{closure}}::h0123456789abcdef";
        assert_eq!(function(long).unwrap(), "tokio::sync::mpsc::bounded::Receiver<T>::recv");
        let long = "<tokio::sync::notify::Notified as core::future::future::Future>::poll";
        assert_eq!(function(long).unwrap(), "tokio::sync::notify::Notified");
    }
}
