//! The house rules, checked by reading the source.
//!
//! Which room may import which; locks and atomics through one door; `unsafe` in
//! one room only, with a proof for each use; no file too long to read; every file
//! says what it is about, and one that shares state between threads states its
//! invariants; and every test that a document names is there.
//!
//! The rules are functions from text to complaints. The last tests give each of
//! them a text that breaks it.

#![cfg(not(loom))]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each room, and the rooms it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("sync", &[]),
    ("rt", &["sync"]),
    ("context", &["sync", "rt"]),
    ("channel", &["sync", "rt"]),
    ("group", &["context", "rt", "sync"]),
    ("pipeline", &["group", "channel", "context", "rt", "sync"]),
    ("check", &["rt", "sync", "context"]),
    ("http", &["context", "rt", "sync"]),
    ("hit", &["pipeline", "http", "context", "rt", "sync"]),
    ("guide", &[]),
];

/// What one file of a room may import that the room may not: `check` makes
/// pipelines and groups for its strategies only.
const EXCEPTIONS: &[(&str, &[&str])] = &[("src/check/strategies.rs", &["pipeline", "group"])];

/// These rooms know of no runtime; only the bridge to tokio's tokens names tokio.
const NO_RUNTIME: &[&str] = &["sync", "context", "channel", "group", "pipeline"];
const BRIDGE: &str = "src/context/token.rs";

/// What a model must be able to see, and therefore comes through `crate::sync`.
const SEEN_BY_MODELS: &[&str] = &[
    "Arc", "Barrier", "Condvar", "LazyLock", "Mutex", "Once", "OnceLock", "RwLock", "Weak",
    "atomic", "mpsc",
];

/// Files that take some of it from `std`, and why that is right.
const FROM_STD: &[(&str, &str)] = &[
    ("src/context/values.rs", "a key is a constant, and its atomic is never used"),
    ("src/context/wait.rs", "a waker is made of std's Arc"),
    ("src/context/outside.rs", "no model has signals, nor tokio's tokens"),
    ("src/context/signal.rs", "no model has signals"),
    ("src/context/token.rs", "no model has tokio's tokens"),
    ("src/channel/sender.rs", "loom's Arc holds nothing without a size"),
    ("src/bin/quell/scenarios.rs", "it is checked, and uses what users use"),
    ("src/pipeline/engine.rs", "loom's Arc holds nothing without a size"),
    ("src/rt/aside.rs", "a waker is made of std's Arc, and no model has such threads"),
    ("src/rt/by_thread.rs", "a waker is made of std's Arc; what it shares is loom's"),
    ("src/rt/world.rs", "no model has a checker"),
    ("src/bin/hit/progress.rs", "a program has the public API only"),
    ("src/bin/hit/run.rs", "a program has the public API only"),
    ("src/hit/tls.rs", "rustls takes std's Arc"),
    ("src/http/client/transport.rs", "no model has sockets"),
    ("src/http/client/shared.rs", "loom's Arc holds nothing without a size"),
    ("src/http/context/layer.rs", "no model has sockets"),
    ("src/http/limit/places.rs", "tokio's owned permits are made of std's Arc"),
];

/// The standard locks and atomics under another name, with no state of its own.
const SHIM: &str = "src/sync/mod.rs";

const LONGEST: usize = 700;

// -------------------------------------------------------------------- tokens

#[derive(Debug, PartialEq)]
struct Token<'a> {
    text: &'a str,
    /// Counted from zero.
    line: usize,
}

/// Words and punctuation; comments, strings and characters are left out.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 0;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token { text: &rest[..length], line });
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(text: &str) -> Option<usize> {
    let quoted = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = quoted.len() - quoted.trim_start_matches('#').len();
    quoted[hashes..].strip_prefix('"')?;
    let begin = text.len() - quoted.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len()))
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// A character, or the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 1,
    }
}

// --------------------------------------------------------------------- rules

/// `context` of `src/context/handle.rs`, `lib` of `src/lib.rs`.
fn room(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// How many modules a file lies in: two for `src/context/handle.rs`, one for
/// `src/context/mod.rs`.
fn depth(path: &str) -> usize {
    path.strip_suffix("/mod.rs").unwrap_or(path).matches('/').count()
}

/// The first names of all paths that start at the crate's root, with their lines.
fn from_the_root<'a>(path: &str, tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut found = Vec::new();
    // For each open brace, whether it is a module's.
    let mut braces: Vec<bool> = Vec::new();
    let text = |at: usize| tokens.get(at).map_or("", |token: &Token<'a>| token.text);
    let mut at = 0;
    while at < tokens.len() {
        match text(at) {
            "{" => braces.push(at >= 2 && text(at - 2) == "mod"),
            "}" => drop(braces.pop()),
            "super" if at == 0 || text(at - 1) != "::" => {
                let mut end = at;
                let mut ups = 0;
                while text(end) == "super" && text(end + 1) == "::" {
                    (end, ups) = (end + 2, ups + 1);
                }
                let modules = depth(path) + braces.iter().filter(|&&module| module).count();
                if ups >= modules && ups > 0 {
                    heads(tokens, end, &mut found);
                }
                at = end.max(at + 1) - 1;
            }
            "crate" if text(at + 1) == "::" => heads(tokens, at + 2, &mut found),
            _ => {}
        }
        at += 1;
    }
    found
}

/// The name at `at`, or the first names of the list in braces there.
fn heads<'a>(tokens: &[Token<'a>], at: usize, found: &mut Vec<Token<'a>>) {
    let Some(first) = tokens.get(at) else { return };
    if first.text != "{" {
        found.push(Token { ..*first });
        return;
    }
    let (mut depth, mut expected) = (0, true);
    for token in &tokens[at..] {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            _ if depth == 1 && expected => {
                found.push(Token { ..*token });
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

fn imports(path: &str, source: &str) -> Vec<String> {
    let own = room(path);
    if own == "lib" {
        return Vec::new();
    }
    let may = MAY_IMPORT.iter().filter(|(room, _)| *room == own);
    let exceptions = EXCEPTIONS.iter().filter(|(file, _)| path.starts_with(file));
    let may: BTreeSet<_> = may.chain(exceptions).flat_map(|(_, rooms)| rooms.iter()).collect();
    let tokens = tokens(source);
    let mut complaints: Vec<_> = from_the_root(path, &tokens)
        .iter()
        .filter(|name| name.text != own && !may.contains(&name.text))
        .map(|name| {
            let line = name.line + 1;
            format!("{path}:{line}: `{own}` may not import `crate::{}`", name.text)
        })
        .collect();
    if NO_RUNTIME.contains(&own) && path != BRIDGE {
        let named = tokens.windows(2).filter(|pair| pair[1].text == "::");
        let named = named.filter(|pair| matches!(pair[0].text, "tokio" | "tokio_util"));
        complaints.extend(named.map(|pair| {
            let line = pair[0].line + 1;
            format!("{path}:{line}: `{own}` may not name `{}`", pair[0].text)
        }));
    }
    complaints
}

fn from_std(path: &str, source: &str) -> Vec<String> {
    if room(path) == "sync" || FROM_STD.iter().any(|(file, _)| *file == path) {
        return Vec::new();
    }
    named_of_std(path, source)
}

fn named_of_std(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut named = Vec::new();
    for at in 0..tokens.len() {
        let path = tokens[at..].iter().take(4).map(|token| token.text);
        if path.eq(["std", "::", "sync", "::"]) {
            heads(&tokens, at + 4, &mut named);
        }
    }
    let wrong = named.iter().filter(|name| SEEN_BY_MODELS.contains(&name.text));
    wrong
        .map(|name| {
            let line = name.line + 1;
            format!("{path}:{line}: `std::sync::{0}`, not `crate::sync::{0}`", name.text)
        })
        .collect()
}

fn unsafe_words(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let lines: Vec<&str> = source.lines().collect();
    let mut complaints = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "unsafe") {
        let place = format!("{path}:{}", token.line + 1);
        let after = |by: usize| tokens.get(at + by).map_or("", |token| token.text);
        let asked = match after(1) {
            // A function pointer type promises nothing yet.
            "fn" if after(2) == "(" => "",
            "fn" | "trait" => "# Safety",
            _ => "// SAFETY:",
        };
        if room(path) != "sync" {
            complaints.push(format!("{place}: `unsafe` outside of `src/sync`"));
        } else if !comment_above(&lines, token.line).contains(asked) {
            complaints.push(format!("{place}: `unsafe` without a `{asked}` above it"));
        }
    }
    complaints
}

/// The comment right above the statement that this line belongs to.
fn comment_above(lines: &[&str], line: usize) -> String {
    let is_comment = |line: &str| line.starts_with("//") || line.starts_with("#[");
    let mut above = lines[..line].iter().rev().map(|line| line.trim()).peekable();
    // The statement may have begun some lines before.
    let begins = |line: &str| line.is_empty() || line.ends_with([';', '{', '}', ',']);
    while above.next_if(|line| !is_comment(line) && !begins(line)).is_some() {}
    let mut comment: Vec<_> = above.take_while(|line| is_comment(line)).collect();
    comment.reverse();
    comment.join("\n")
}

/// Locks, atomics and latches that a type or a static of the file is made of:
/// named outside imports, not behind a reference, and not to call a function.
fn shared_state<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut importing = false;
    for (at, token) in tokens.iter().enumerate() {
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
        match token.text {
            "use" => importing = true,
            ";" => importing = false,
            _ => {}
        }
        let cell = matches!(token.text, "Mutex" | "RwLock" | "Condvar" | "Latch" | "OnceLock")
            || token.text.starts_with("Atomic");
        let behind = at > 0 && matches!(text(at - 1), "&" | "for" | "struct");
        if cell && !importing && !behind && !matches!(text(at + 1), "::" | "(" | "{") {
            found.push(token.text);
        }
    }
    found
}

fn papers(path: &str, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let length = source.lines().count();
    if length > LONGEST {
        complaints.push(format!("{path}: {length} lines; {LONGEST} are the most"));
    }
    if !source.starts_with("//! ") {
        complaints.push(format!("{path}: does not begin with a `//!` that says what it is"));
    }
    let state = shared_state(&tokens(source));
    let said = source.lines().any(|line| line.trim() == "//! # Invariants");
    if !state.is_empty() && !said && path != SHIM {
        let state: BTreeSet<_> = state.into_iter().collect();
        complaints.push(format!("{path}: holds {state:?}, but has no `//! # Invariants`"));
    }
    complaints
}

/// The tests that a document names, by whole names: `a_sentence_like_this_one`.
fn named_tests(document: &str) -> impl Iterator<Item = &str> {
    let is_name = |word: &&str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        word.bytes().all(plain) && word.matches('_').count() >= 4
    };
    document.split('`').filter(is_name)
}

// --------------------------------------------------------------------- tests

fn sources() -> Vec<(String, String)> {
    files(&["src"], "rs")
}

/// The files with that extension in these folders, and what they say.
fn files(folders: &[&str], extension: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy();
                let name = name.replace('\\', "/");
                sources.push((name, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    sources.sort();
    sources
}

fn hold(rule: fn(&str, &str) -> Vec<String>) {
    let sources = sources();
    assert!(sources.iter().any(|(path, _)| path == "src/lib.rs"), "the source was not found");
    let complaints: Vec<_> = sources.iter().flat_map(|(path, source)| rule(path, source)).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn no_room_imports_what_is_above_it() {
    hold(imports);
}

#[test]
fn locks_and_atomics_come_through_the_room_that_loom_can_see() {
    hold(from_std);
    let known = sources();
    for (file, why) in FROM_STD {
        let needs_it = |(path, source): &(String, String)| {
            path == file && !named_of_std(path, source).is_empty()
        };
        assert!(known.iter().any(needs_it), "{file} needs no exception ({why})");
    }
}

#[test]
fn unsafe_lives_in_one_room_and_carries_its_proof() {
    hold(unsafe_words);
}

#[test]
fn every_file_says_what_it_is_and_is_short_enough_to_read() {
    hold(papers);
}

#[test]
fn every_room_is_in_the_table() {
    let known: BTreeSet<_> = MAY_IMPORT.iter().map(|(room, _)| *room).collect();
    for (path, _) in sources() {
        let room = room(&path);
        assert!(known.contains(room) || matches!(room, "lib" | "bin"), "{path} is in no room");
    }
    for (room, may) in MAY_IMPORT {
        for other in *may {
            let (_, back) = MAY_IMPORT.iter().find(|(room, _)| room == other).expect("a room");
            assert!(!back.contains(room), "{room} and {other} may import each other");
        }
    }
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let code: String =
        files(&["src", "tests"], "rs").into_iter().map(|(_, source)| source).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = files(&["docs"], "md");
    for name in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root.join(name)).expect("a document");
        documents.push((name.to_string(), text));
    }
    let mut count = 0;
    for (path, text) in &documents {
        for name in named_tests(text) {
            // As a function, or as a row of the tests that a macro makes.
            let is_there = [format!("fn {name}("), format!("    {name}:")]
                .iter()
                .any(|declared| code.contains(declared));
            assert!(is_there, "{path} names `{name}`: no such test");
            count += 1;
        }
    }
    assert!(count > 100, "only {count} names were found");
}

#[test]
fn every_file_of_tests_is_in_the_table_of_what_to_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("CONTRIBUTING.md")).expect("a document");
    let run: BTreeSet<_> = table
        .split("--test ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        .collect();
    let mut count = 0;
    for (path, _) in files(&["tests"], "rs") {
        let name = path.strip_prefix("tests/").expect("below it").trim_end_matches(".rs");
        let name = name.trim_end_matches("/main");
        // The models have a command of their own.
        if !name.contains('/') && name != "loom" {
            assert!(run.contains(name), "no row of CONTRIBUTING.md runs `{path}`");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} files were found");
}

fn assert_complaints(complaints: &[String], parts: &[&str]) {
    assert_eq!(complaints.len(), parts.len(), "{complaints:#?}");
    for (complaint, part) in complaints.iter().zip(parts) {
        assert!(complaint.contains(part), "{complaint} does not say {part}");
    }
}

#[test]
fn a_forbidden_import_is_reported_however_it_is_written() {
    let source = r##"//! About crate::check, which may be named here.
use crate::{check, rt::{now, sleep}, sync::Arc};
use super::super::http::Layer;
use super::scope::Scope;
mod inner {
    use super::super::super::hit;
    use super::super::scope;
}
fn f() {
    let text = "crate::pipeline"; // crate::group
    let raw = r#"crate::channel""#;
    let quote = '"';
    crate::Context::background();
    tokio::spawn(async {});
}
"##;
    assert_complaints(
        &imports("src/context/handle.rs", source),
        &[
            "handle.rs:2: `context` may not import `crate::check`",
            "handle.rs:3: `context` may not import `crate::http`",
            "handle.rs:6: `context` may not import `crate::hit`",
            "handle.rs:13: `context` may not import `crate::Context`",
            "handle.rs:14: `context` may not name `tokio`",
        ],
    );
    assert_complaints(&imports("src/lib.rs", "pub use crate::check;"), &[]);
    assert_complaints(&imports("src/bin/hit.rs", "use crate::rt;"), &["`bin` may not import"]);
    assert_complaints(&imports("src/channel/mod.rs", "use super::context;"), &["`channel`"]);
    assert_complaints(&imports("src/check/strategies.rs", "use crate::pipeline;"), &[]);
    assert_complaints(&imports("src/check/report.rs", "use crate::pipeline;"), &["`check`"]);
}

#[test]
fn a_lock_or_an_atomic_of_std_is_reported() {
    let source = "//! On std::sync::Mutex.
use std::sync::{PoisonError, atomic::{AtomicBool, Ordering}};
fn f(lock: &std::sync::Mutex<u8>) { std::sync::mpsc::channel::<u8>(); }
";
    assert_complaints(
        &from_std("src/rt/a.rs", source),
        &["a.rs:2: `std::sync::atomic`", "a.rs:3: `std::sync::Mutex`", "a.rs:3: `std::sync::mpsc`"],
    );
    assert_complaints(&from_std("src/sync/a.rs", source), &[]);
}

#[test]
fn an_unsafe_word_in_the_wrong_room_or_without_its_proof_is_reported() {
    let source = "//! It is unsafe.
// SAFETY: for this one.
unsafe impl Send for A {}
unsafe impl Sync for A {}
const F: unsafe fn(u8) = f;
/// # Safety
///
/// Never call it.
unsafe fn f(_: u8) {}
fn g<'a>() {
    // SAFETY: called never.
    let a =
        unsafe { f(b'\\'') };
    let b = unsafe { f(1) };
}
";
    assert_complaints(
        &unsafe_words("src/sync/a.rs", source),
        &["a.rs:4: `unsafe` without", "a.rs:14: `unsafe` without"],
    );
    let everywhere = unsafe_words("src/rt/a.rs", source);
    assert_eq!(everywhere.len(), 6, "{everywhere:#?}");
    assert!(everywhere.iter().all(|complaint| complaint.contains("outside of `src/sync`")));
}

#[test]
fn a_file_that_is_too_long_or_says_too_little_is_reported() {
    let long = format!("//! Long.\n{}", "\n".repeat(LONGEST));
    assert_complaints(&papers("src/rt/a.rs", &long), &["701 lines"]);
    assert_complaints(&papers("src/rt/a.rs", "use std::fmt;\n"), &["does not begin"]);
    assert_complaints(&papers("src/rt/a.rs", "\n"), &["does not begin"]);
    let state = "//! A counter.\nuse crate::sync::AtomicUsize;\nstruct A(AtomicUsize);\n";
    assert_complaints(&papers("src/rt/a.rs", state), &["holds {\"AtomicUsize\"}"]);
    let said = state.replace(".\n", ".\n//!\n//! # Invariants\n//!\n//! 1. It grows.\n");
    assert_complaints(&papers("src/rt/a.rs", &said), &[]);
    let borrowed = "//! None.\nuse a::Mutex;\nfn f(lock: &Mutex<u8>) { Mutex::new(1); }\n";
    assert_complaints(&papers("src/rt/a.rs", borrowed), &[]);
}

#[test]
fn a_name_of_a_test_is_told_from_other_code() {
    let text = "(`a_test_that_is_named_so`, `Checker::new_in_a_b_c`, `a_b_c`, `A_B_C_D_E`, `a_b…`)";
    assert_eq!(named_tests(text).collect::<Vec<_>>(), ["a_test_that_is_named_so"]);
}
