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
    let (mut symbol, mut file, mut before) = (String::new(), String::new(), None);
    for line in text.lines().map(str::trim) {
        let Some(at) = line.strip_prefix("at ") else {
            let name = line.split_once(": ").filter(|(n, _)| n.parse::<u32>().is_ok());
            before = named(&symbol, &file).or(before);
            file.clear();
            symbol = name.map_or(line, |(_, name)| name).to_string();
            continue;
        };
        seen.no_lines = false;
        if is_users(at, &symbol) {
            seen.place = Place::parse(at);
            seen.called = before.as_deref().and_then(function);
            break;
        }
        file = at.to_string();
    }
    seen
}

/// What a frame is called, if it says what is waited for.
fn named(symbol: &str, file: &str) -> Option<String> {
    if says_something(symbol) {
        return Some(symbol.to_string());
    }
    // What was inlined has lost its path, and an async function its name too; the file
    // tells the module.
    let (name, _) = symbol.split_once('<').unwrap_or((symbol, ""));
    let module = module(file).filter(|_| !name.contains("::"))?;
    Some(if name.is_empty() || name.starts_with('{') {
        module
    } else {
        format!("{module}::{name}")
    })
}

/// `…/registry/src/index/tokio-1.0.0/src/sync/mpsc/mod.rs:7:9`: `tokio::sync::mpsc`.
fn module(file: &str) -> Option<String> {
    let (_, path) = file.split_once("/.cargo/registry/src/")?;
    let mut parts = path.split('/').skip(1);
    let (name, _version) = parts.next()?.rsplit_once('-')?;
    let mut module = name.replace('-', "_");
    for part in parts.skip_while(|part| *part == "src") {
        match part.split_once(".rs").map_or(part, |(part, _)| part) {
            "mod" | "lib" => {}
            part => module = format!("{module}::{part}"),
        }
    }
    Some(module)
}

/// Whether a frame says what is waited for: the nearest to the user's that is neither
/// the standard library's nor ours.
fn says_something(symbol: &str) -> bool {
    const SILENT: &[&str] =
        &["quell::", "core::", "std::", "alloc::", "<core::", "<alloc::", "<std::"];
    let inner = symbol.strip_prefix('<').unwrap_or(symbol);
    let path = if inner == symbol { symbol.split('<').next().unwrap_or("") } else { symbol };
    path.contains("::")
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
    fn what_was_inlined_is_called_by_its_file() {
        let file =
            "/home/ann/.cargo/registry/src/index.crates.io-1/tokio-1.2.3/src/sync/mpsc/mod.rs:7:9";
        assert_eq!(named("poll_acquire", file).unwrap(), "tokio::sync::mpsc::poll_acquire");
        assert_eq!(named("{async_fn#0}<core::Option<u32>>", file).unwrap(), "tokio::sync::mpsc");
        assert_eq!(named("with<a::B, c::D>", file).unwrap(), "tokio::sync::mpsc::with");
        assert_eq!(named("with<a::B, c::D>", "./src/check/log.rs:1:1"), None);
        assert_eq!(named("tokio::time::sleep", file).unwrap(), "tokio::time::sleep");
    }

    #[test]
    fn a_function_is_called_by_its_name_alone() {
        let long = "tokio::sync::mpsc::bounded::Receiver<T>::recv::{{closure}}::h0123456789abcdef";
        assert_eq!(function(long).unwrap(), "tokio::sync::mpsc::bounded::Receiver<T>::recv");
        let long = "<tokio::sync::notify::Notified as core::future::future::Future>::poll";
        assert_eq!(function(long).unwrap(), "tokio::sync::notify::Notified");
    }
}
