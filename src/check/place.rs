//! A line of code, and how it is found in a stack trace.

use std::backtrace::Backtrace;
use std::fmt;
use std::panic::Location;
use std::path::Path;

/// What a wait for the end of a context is called.
pub(super) const END_OF_CONTEXT: &str = "the end of a context";

/// A line of code. Its `Display` reads `src/main.rs:12:32`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: String,
    line: u32,
    column: u32,
}

impl Place {
    /// The file, as the compiler was given it; if that was a full path below the current directory,
    /// relative to that.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The column, from 1; 0 where a stack trace does not say it.
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

/// The path relative to the current directory, if it is below that.
fn shortened(file: &str) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| Path::new(file).strip_prefix(here).ok());
    match below {
        Some(below) => below.to_string_lossy().into_owned(),
        None => file.strip_prefix("./").unwrap_or(file).to_string(),
    }
}

/// A user's file as the program names it: relative to where the compiler was run. A trace
/// has its full path, or one relative to the current directory; where the compiler was run is known
/// from the trace's path of the file that runs the check.
fn as_given(file: &str, frames: &[Frame], asked_at: &Location<'_>) -> String {
    let root = frames.iter().rev().find_map(|frame| {
        let asks = absolute(&Place::parse(frame.file.as_deref()?)?.file);
        let root = asks.strip_suffix(asked_at.file()).filter(|root| root.ends_with('/'))?;
        (frame.origin() == Origin::User).then(|| root.to_string())
    });
    let below = root.and_then(|root| Some(absolute(file).strip_prefix(&root)?.to_string()));
    below.unwrap_or_else(|| file.to_string())
}

/// The full path.
fn absolute(file: &str) -> String {
    std::env::current_dir()
        .map(|here| here.join(file.strip_prefix("./").unwrap_or(file)))
        .map_or_else(|_| file.to_string(), |path| path.display().to_string())
}

/// Where a task waits, by the stack at the moment its waker was cloned.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) place: Option<Place>,
    /// The library function that is called there.
    pub(super) called: Option<String>,
    /// Whether the trace has no lines at all.
    pub(super) no_lines: bool,
}

/// The innermost line of user code between the code that took the trace and the checker that polls
/// the task. What is outside of that runs the check. If there is none, the task is a library's
/// future from the beginning.
pub(super) fn user_line(trace: &Backtrace, asked_at: &Location<'_>) -> Seen {
    let mut seen = Seen { place: None, called: None, no_lines: true };
    let (mut called, mut began, mut for_an_end) = (None, false, false);
    let frames = frames(&trace.to_string());
    for frame in &frames {
        seen.no_lines &= frame.file.is_none();
        match frame.origin() {
            Origin::Checker if began => break,
            Origin::User => {
                seen.place = frame.file.as_deref().and_then(Place::parse);
                if let Some(place) = &mut seen.place {
                    place.file = as_given(&place.file, &frames, asked_at);
                }
                break;
            }
            origin => began |= origin == Origin::Library,
        }
        called = frame.named().or(called);
        for_an_end |= frame.waits_for_an_end();
    }
    if !seen.no_lines {
        let end = || for_an_end.then(|| END_OF_CONTEXT.to_string());
        seen.called = called.as_deref().and_then(function).or_else(end);
    }
    seen
}

/// Whether the panic of this trace, taken in the hook, ends a tokio task: no code between the two
/// catches it.
#[cfg(feature = "tokio")]
pub(super) fn tokio_catches(trace: &Backtrace) -> bool {
    is_caught_by_tokio(&frames(&trace.to_string()))
}

#[cfg(feature = "tokio")]
fn is_caught_by_tokio(frames: &[Frame]) -> bool {
    let panicking = |frame: &&Frame| !frame.symbol.contains("panic_with_hook");
    let inside = |frame: &&Frame| frame.origin() != Origin::Checker;
    let mut outwards = frames.iter().skip_while(panicking).take_while(inside);
    // `catch_unwind`, by what it calls, or by its own name if that has been merged away.
    let catches = |frame: &Frame| {
        let by_name = frame.origin() == Origin::Std && frame.symbol.contains("catch_unwind");
        by_name || frame.symbol.contains("do_call") || frame.symbol.contains("__rust_try")
    };
    if !outwards.any(catches) {
        return true;
    }
    let catches = outwards.find(|frame| frame.origin() != Origin::Std);
    let tokios = |name: String| name.trim_start_matches('<').starts_with("tokio::runtime::");
    catches.is_none_or(|frame| frame.named().is_some_and(tokios))
}

/// One function of a stack trace.
#[derive(Debug)]
struct Frame {
    symbol: String,
    /// With line and column, where they are known.
    file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    User,
    Library,
    Std,
    Checker,
}

fn frames(trace: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in trace.lines().map(str::trim) {
        match (line.strip_prefix("at "), frames.last_mut()) {
            (Some(file), Some(frame)) => frame.file = Some(file.to_string()),
            _ => {
                let name = line.split_once(": ").filter(|(n, _)| n.parse::<u32>().is_ok());
                let symbol = name.map_or(line, |(_, name)| name).to_string();
                frames.push(Frame { symbol, file: None });
            }
        }
    }
    frames
}

impl Frame {
    fn origin(&self) -> Origin {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
        let symbol = self.symbol.trim_start_matches('<');
        // A library's macro has its code at the user's line, which is right. The start of a thread
        // or a program is not user code.
        let std = ["std::", "core::", "__rust"].iter().any(|std| symbol.starts_with(std));
        let Some(file) = &self.file else {
            return match symbol {
                _ if symbol.starts_with("quell::check::") => Origin::Checker,
                _ if std => Origin::Std,
                _ => Origin::Library,
            };
        };
        let absolute = absolute(file);
        match absolute.strip_prefix(own) {
            Some(file) if file.starts_with("check/") => Origin::Checker,
            Some(file) if !file.starts_with("bin/") => Origin::Library,
            _ if self.symbol.starts_with("quell::check::") => Origin::Checker,
            _ if is_std(&absolute) => Origin::Std,
            _ if std && !self.symbol.starts_with('<') => Origin::Std,
            _ if package(&absolute).is_some() => Origin::Library,
            _ => Origin::User,
        }
    }

    /// Whether it is `Context::done`, or a function into which that was inlined.
    fn waits_for_an_end(&self) -> bool {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/context/done.rs:");
        self.symbol.trim_start_matches('<').starts_with("quell::context::done::")
            || self.file.as_deref().is_some_and(|at| absolute(at).starts_with(file))
    }

    /// Its name, if that says what is waited for.
    fn named(&self) -> Option<String> {
        let macros = self.file.as_deref().filter(|file| file.contains("/src/macros/"));
        // Tokio's `select!` and `join!` poll their branches, one of which says more. Their code may
        // have the name of the function that uses them.
        if macros.and_then(module).is_some_and(|module| module.starts_with("tokio::macros::")) {
            return None;
        }
        if says_something(&self.symbol) {
            return (!says_how(&self.symbol)).then(|| self.symbol.clone());
        }
        // An inlined function has lost its path, and an async function its name too; the file tells
        // the module.
        let (name, _) = self.symbol.split_once('<').unwrap_or((&self.symbol, ""));
        let module = module(self.file.as_deref()?).filter(|_| !name.contains("::"))?;
        let named = if name.is_empty() || name.starts_with('{') {
            module
        } else {
            format!("{module}::{name}")
        };
        (!says_how(&named)).then_some(named)
    }
}

/// The package of a library's file, and the path within it. Cargo keeps libraries in folders whose
/// names have a hash, and `cargo vendor` leaves a file of checksums with each. Any other folder,
/// even `library` or `vendor`, may be the user's.
fn package(file: &str) -> Option<(&str, &str)> {
    let below = |folder: &str| {
        let (folder, rest) = file.split_once(folder)?.1.split_once('/')?;
        let (name, hash) = folder.rsplit_once('-')?;
        let hex = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then_some((name, rest))
    };
    if let Some((_index, path)) = below("/registry/src/") {
        return path.split_once('/');
    }
    if let Some((repository, path)) = below("/git/checkouts/") {
        let (_commit, path) = path.split_once('/')?;
        // The repository is a package, or has several.
        return Some(match path.split_once("/src/") {
            Some((folder, path)) => (folder.rsplit('/').next().unwrap_or(folder), path),
            None => (repository, path),
        });
    }
    let vendored = |folder: &&Path| folder.join(".cargo-checksum.json").exists();
    let folder = Path::new(file).ancestors().skip(1).find(vendored)?;
    let path = file.strip_prefix(folder.to_str()?)?;
    Some((folder.file_name()?.to_str()?, path.strip_prefix('/')?))
}

/// Whether a file belongs to the standard library, or to its dependencies.
fn is_std(file: &str) -> bool {
    let toolchain = ["/rustc/", "/rustc-", "/rustlib/src/rust/"];
    file.starts_with("/rust/deps/")
        || (file.contains("/library/") && toolchain.iter().any(|folder| file.contains(folder)))
}

/// The module of `…/registry/src/…/tokio-1.0.0/src/sync/mpsc/mod.rs:7:9`: `tokio::sync::mpsc`.
fn module(file: &str) -> Option<String> {
    let (package, path) = package(file)?;
    let version = |at: &usize| package[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    let mut dashes = package.match_indices('-').map(|(at, _)| at);
    let name = &package[..dashes.rfind(version).unwrap_or(package.len())];
    let mut module = name.replace('-', "_");
    for part in path.split('/').skip_while(|part| *part == "src") {
        match part.split_once(".rs").map_or(part, |(part, _)| part) {
            "mod" | "lib" => {}
            part => module = format!("{module}::{part}"),
        }
    }
    Some(module)
}

/// Whether a symbol says what is waited for: those of the standard library and of quell do not.
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

/// Whether a symbol says how something is polled, and not what: tokio's wrappers around a budget.
fn says_how(symbol: &str) -> bool {
    let symbol = symbol.trim_start_matches('<');
    ["tokio::task::coop::", "tokio::task::unconstrained"].iter().any(|how| symbol.starts_with(how))
}

/// `tokio::sync::mpsc::bounded::Receiver<T>::recv`, without what the compiler adds.
fn function(symbol: &str) -> Option<String> {
    let name = symbol.replace("::{{closure}}", "");
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name.to_string(),
        _ => name,
    };
    // `<A as B>::poll` belongs to `A`.
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

    const TOKIO: &str = "registry/src/index.crates.io-0123456789abcdef/tokio-1.2.3/src";

    fn frame(symbol: &str, file: &str) -> Frame {
        Frame { symbol: symbol.to_string(), file: Some(file.to_string()) }
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn who_catches_a_panic_is_seen_however_much_was_inlined() {
        let std = "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/panic.rs:1:1";
        let tokio = format!("/home/ann/.cargo/{TOKIO}/runtime/task/harness.rs:1:1");
        let hook = frame("std::panicking::panic_with_hook", std);
        let users = frame("shop::order::{async_block#0}", "./src/order.rs:1:1");
        let tokios = [
            frame("std::panicking::catch_unwind::do_call<F, ()>", std),
            frame("std::panic::catch_unwind<F, ()>", std),
            frame("tokio::runtime::task::harness::poll_future<T, S>", &tokio),
        ];
        for by in ["std::panicking::catch_unwind::do_call<F, ()>", "__rust_try"] {
            let caught = [frame(by, std), frame("std::panic::catch_unwind<!, F>", std)];
            for merged in 0..=1 {
                let mut trace = vec![frame("core::panicking::panic_fmt", std)];
                trace.insert(0, frame(&hook.symbol, std));
                trace.extend(caught[merged..].iter().map(|by| frame(&by.symbol, std)));
                trace.push(frame(&users.symbol, "./src/order.rs:1:1"));
                trace
                    .extend(tokios.iter().map(|by| frame(&by.symbol, by.file.as_deref().unwrap())));
                assert!(!is_caught_by_tokio(&trace), "by the user: {trace:?}");
            }
        }
        let mut trace = vec![hook, users];
        trace.extend(tokios);
        assert!(is_caught_by_tokio(&trace), "{trace:?}");
    }

    #[test]
    fn what_was_inlined_is_called_by_its_file() {
        let named = |symbol: &str, file: &str| frame(symbol, file).named();
        let file = &format!("/home/ann/.cargo/{TOKIO}/sync/mpsc/mod.rs:7:9");
        assert_eq!(named("poll_acquire", file).unwrap(), "tokio::sync::mpsc::poll_acquire");
        assert_eq!(named("{async_fn#0}<core::Option<u32>>", file).unwrap(), "tokio::sync::mpsc");
        assert_eq!(named("with<a::B, c::D>", file).unwrap(), "tokio::sync::mpsc::with");
        assert_eq!(named("with<a::B, c::D>", "./src/check/log.rs:1:1"), None);
        assert_eq!(named("tokio::time::sleep", file).unwrap(), "tokio::time::sleep");
        for name in ["select", "join"] {
            let file = &format!("/home/ann/.cargo/{TOKIO}/macros/{name}.rs:7:9");
            assert_eq!(named("shop::order::{{closure}}", file), None);
            assert_eq!(named("{closure#0}", file), None);
        }
    }

    #[test]
    fn a_file_is_named_as_the_program_names_it_wherever_the_compiler_was_run() {
        let asked_at = Location::caller();
        let trace = [
            "/ann/shop/crates/cart/src/lib.rs:7:9".to_string(),
            format!("/ann/shop/{}:1:1", asked_at.file()),
            // Another file of that name.
            format!(
                "/home/ann/.cargo/registry/src/index-0123456789abcdef/one-1.0.0/{}:1:1",
                asked_at.file()
            ),
        ];
        let trace = trace.map(|file| frame("poll<u32>", &file));
        let named = |file: &str| as_given(file, &trace, asked_at);
        assert_eq!(named("/ann/shop/crates/cart/src/lib.rs"), "crates/cart/src/lib.rs");
        assert_eq!(named("/ann/other/src/lib.rs"), "/ann/other/src/lib.rs");
        assert_eq!(as_given("/ann/shop/src/lib.rs", &trace[2..], asked_at), "/ann/shop/src/lib.rs");
    }

    #[test]
    fn a_library_is_known_by_where_cargo_keeps_it_and_by_no_name_that_the_user_may_give() {
        let origin = |file: &str| frame("poll<u32>", file).origin();
        let git = "/cargo/git/checkouts/some-lib-0123456789abcdef/1a2b3c4";
        let libraries = [
            (format!("/home/ann/.cargo/{TOKIO}/sync/notify.rs:1:1"), "tokio::sync::notify"),
            (format!("/usr/local/cargo/{TOKIO}/lib.rs:1:1"), "tokio"),
            (format!("{git}/src/one.rs:1:1"), "some_lib::one"),
            (format!("{git}/crates/some-part/src/one.rs:1:1"), "some_part::one"),
        ];
        for (file, name) in libraries {
            assert_eq!(origin(&file), Origin::Library, "{file}");
            assert_eq!(module(&file).unwrap(), name);
        }
        for file in [
            "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/task/poll.rs:1:1",
            "/usr/src/rustc-1.85.0/library/std/src/panic.rs:1:1",
            "/home/ann/.rustup/toolchains/stable/lib/rustlib/src/rust/library/alloc/src/boxed.rs:1:1",
        ] {
            assert_eq!(origin(file), Origin::Std, "{file}");
        }
        for file in [
            "./tests/library/mod.rs:2:15",
            "/home/ann/library/core/src/lib.rs:1:1",
            "/home/ann/shop/src/vendor/invoice.rs:1:1",
            "/home/ann/crates/registry/src/store-1/lib.rs:1:1",
        ] {
            assert_eq!(origin(file), Origin::User, "{file}");
        }
    }

    #[test]
    fn what_cargo_vendor_has_copied_is_a_librarys() {
        let folder = std::env::temp_dir().join(format!("quell-vendor-{}", std::process::id()));
        let package = folder.join("some-lib");
        std::fs::create_dir_all(package.join("src")).unwrap();
        std::fs::write(package.join(".cargo-checksum.json"), "{}").unwrap();
        let file = format!("{}:1:1", package.join("src").join("one.rs").display());
        assert_eq!(frame("poll<u32>", &file).origin(), Origin::Library);
        assert_eq!(module(&file).unwrap(), "some_lib::one");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(frame("poll<u32>", &file).origin(), Origin::User);
    }

    #[test]
    fn a_function_is_called_by_its_name_alone() {
        let long = "tokio::sync::mpsc::bounded::Receiver<T>::recv::{{closure}}::h0123456789abcdef";
        assert_eq!(function(long).unwrap(), "tokio::sync::mpsc::bounded::Receiver<T>::recv");
        let long = "<tokio::sync::notify::Notified as core::future::future::Future>::poll";
        assert_eq!(function(long).unwrap(), "tokio::sync::notify::Notified");
    }
}
