//! A report as one page: each violation as a timeline, with a lane for each task.
//!
//! The page has no scripts and fetches nothing: it can be kept as an artefact of CI and opened
//! years later.

use super::engine::NOBODY;
use super::log::{Note, What};
use super::report::Report;
use super::story::{Piece, Story, time};
use super::violation::Violation;
use std::fmt::Write as _;

/// The most columns that are drawn.
const COLUMNS: usize = 400;
/// The most rows that are drawn.
const LANES: usize = 60;
const STEP: usize = 26;
const LANE: usize = 34;
const LEFT: usize = 170;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2430; --faint: #6b7686; --paper: #fff; --rule: #e3e7ee;
  --run: #4c78c9; --wait: #c8d4ea; --bad: #c9372c; --strike: #d9822b; --end: #3f8f5f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --faint: #98a3b5; --paper: #14181f;
  --rule: #2a313d; --wait: #33435f; --run: #7fa5ea; --bad: #f0746a; --strike: #f0a860; --end: #70c795; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 78rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; } .faint { color: var(--faint); } code { font: .92em ui-monospace, monospace; }
table { border-collapse: collapse; margin: .6rem 0; } td { padding: .15rem .9rem .15rem 0;
  vertical-align: top; } td:first-child { color: var(--faint); white-space: nowrap; }
.line { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; margin: .8rem 0; }
svg text { font: 12px ui-monospace, monospace; fill: var(--ink); } svg .faint { fill: var(--faint); }
.kind { color: var(--bad); } .key span { display: inline-block; margin-right: 1.2rem; }
.key i { display: inline-block; width: .9em; height: .9em; border-radius: 2px; margin-right: .4em;
  vertical-align: -.1em; } details { margin: .5rem 0; } summary { cursor: pointer; }
ol.story { font: 13px/1.55 ui-monospace, monospace; padding-left: 3.2rem; }
ol.story li::marker { color: var(--faint); } .hit { color: var(--strike); font-weight: 600; }
";

pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    let verdict = match report.violations().len() {
        0 if report.has_run_nothing() => "Nothing was run".to_string(),
        0 if report.is_clean() => "Clean".to_string(),
        0 => "Not complete".to_string(),
        1 => "One violation".to_string(),
        n => format!("{n} violations"),
    };
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>quell: {verdict}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{verdict}</h1>\n"
    );
    for covered in &report.covered {
        let _ = writeln!(page, "<p class=\"faint\">{}</p>", escaped(&covered.to_string()));
    }
    let (part, of) = report.shard;
    if of > 1 {
        let _ = writeln!(page, "<p class=\"faint\">Part {part} of {of}</p>");
    }
    page.push_str(
        "<p class=\"faint\">A schedule is one order in which the tasks take turns; a delay lets \
         another go first; a point is a moment at which the injection may come.</p>\n",
    );
    if report.violations().is_empty() {
        let (when, but) = match (report.complete(), of) {
            (true, _) if !report.is_everywhere() => ("In every schedule tried", ""),
            (true, 1) => ("Whenever the end came", ""),
            (true, _) => ("Whenever the end came in this part of the schedules", ""),
            (false, _) => {
                ("In every schedule tried", " (but not all were tried that should have been)")
            }
        };
        let _ = writeln!(
            page,
            "<p>{when}, every task ended, nothing was left waiting, and nothing was lost{but}.</p>"
        );
    }
    for (nth, violation) in report.violations().iter().enumerate() {
        one(&mut page, nth + 1, violation);
    }
    page.push_str("</body></html>\n");
    page
}

fn one(page: &mut String, nth: usize, violation: &Violation) {
    let story = violation.story();
    let _ = writeln!(
        page,
        "<h2>{nth}. <span class=\"kind\">{}</span>: {}</h2>\n<table>",
        violation.kind(),
        escaped(&story.headline)
    );
    let code = |text: &str| format!("<code>{}</code>", escaped(text));
    for (name, fact) in story.facts(violation) {
        let fact = fact.iter().map(|piece| match piece {
            Piece::Words(text) => escaped(text),
            Piece::Name(name) => code(name),
            Piece::Line(place) => code(&place.to_string()),
            Piece::Token(token) => code(&format!("Checker::replay(\"{token}\")")),
        });
        let (name, fact) = (capitalised(name), fact.collect::<String>());
        let _ = writeln!(page, "<tr><td>{name}</td><td>{fact}</td></tr>");
    }
    page.push_str("</table>\n");
    if !story.notes.is_empty() {
        timeline(page, story);
        in_words(page, story);
    }
}

/// The notes that get a column of their own: what a person would tell.
fn columns(story: &Story) -> Vec<&Note> {
    let told = |note: &&Note| {
        matches!(
            note.what,
            What::Polled
                | What::Injected { .. }
                | What::Time
                | What::Panicked { .. }
                | What::Lost { .. }
        )
    };
    let all: Vec<_> = story.notes.iter().filter(told).collect();
    // The end is what matters most.
    let from = all.len().saturating_sub(COLUMNS);
    all[from..].to_vec()
}

fn timeline(page: &mut String, story: &Story) {
    let columns = columns(story);
    let is_drawn = |&lane: &usize| {
        !story.lanes[lane].ended || columns.iter().any(|note| note.task as usize == lane)
    };
    let mut lanes: Vec<usize> = (0..story.lanes.len()).filter(is_drawn).collect();
    let left_out = lanes.len().saturating_sub(LANES);
    if left_out > 0 {
        // The task to blame is always drawn.
        let root = story.root.map(|root| root as usize).filter(|root| lanes.contains(root));
        lanes.truncate(LANES);
        if let Some(root) = root.filter(|root| !lanes.contains(root)) {
            lanes[LANES - 1] = root;
        }
    }
    let row = |task: u32| lanes.iter().position(|&lane| lane == task as usize);
    let top = 44;
    let width = LEFT + columns.len() * STEP + 320;
    let height = top + lanes.len() * LANE + 14;
    page.push_str(
        "<p class=\"key\"><span><i style=\"background:var(--run)\"></i>runs</span>\
         <span><i style=\"background:var(--wait)\"></i>waits</span>\
         <span><i style=\"background:var(--end)\"></i>has ended</span>\
         <span><i style=\"background:var(--strike)\"></i>injection</span>\
         <span><i style=\"background:var(--bad)\"></i>still there at the end</span></p>\n\
         <p class=\"faint\">A row is a task, and a block one turn of it, in the order in which they \
         came; above is the virtual time. Point at a block to read what it is.</p>\n",
    );
    let _ = writeln!(
        page,
        "<div class=\"line\"><svg width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"timeline\">"
    );
    let middle = |lane: usize| top + lane * LANE + LANE / 2;
    let left = |column: usize| LEFT + column * STEP;
    for (at, &lane) in lanes.iter().enumerate() {
        let named = shortened(&story.lanes[lane].told_as, 20);
        let bad = !story.lanes[lane].ended;
        let _ = writeln!(
            page,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\"{}>{}</text>",
            LEFT - 12,
            middle(at) + 4,
            if bad { " style=\"fill:var(--bad)\"" } else { "" },
            escaped(&named)
        );
        bar(page, story, &columns, lane as u32, middle(at), &left);
    }
    let mut before = None;
    for (column, note) in columns.iter().enumerate() {
        let x = left(column);
        if before != Some(note.time) {
            before = Some(note.time);
            let _ = writeln!(
                page,
                "<text class=\"faint\" x=\"{x}\" y=\"16\">{}</text>",
                escaped(&time(note.time))
            );
        }
        match &note.what {
            What::Injected { kind, .. } => {
                let _ = writeln!(
                    page,
                    "<rect x=\"{x}\" y=\"24\" width=\"3\" height=\"{}\" fill=\"var(--strike)\"/>\
                     <text x=\"{}\" y=\"34\" style=\"fill:var(--strike)\">{kind}</text>",
                    height - 30,
                    x + 7
                );
            }
            _ => {
                let Some(lane) = row(note.task) else { continue };
                let bad = matches!(note.what, What::Panicked { .. } | What::Lost { .. });
                let fill = if bad { "--bad" } else { "--run" };
                let line = story.line(note).unwrap_or_default();
                let _ = writeln!(
                    page,
                    "<rect x=\"{x}\" y=\"{}\" width=\"{}\" height=\"18\" rx=\"3\" fill=\"var({fill})\">\
                     <title>{}</title></rect>",
                    middle(lane) - 9,
                    STEP - 4,
                    escaped(&format!("{} {line}", time(note.time)))
                );
            }
        }
    }
    for (at, &lane) in lanes.iter().enumerate() {
        let lane = &story.lanes[lane];
        if lane.ended {
            continue;
        }
        let place = lane.place.as_ref().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(
            page,
            "<text x=\"{}\" y=\"{}\" style=\"fill:var(--bad)\">{}</text>",
            left(columns.len()) + 8,
            middle(at) + 4,
            escaped(&place)
        );
    }
    page.push_str("</svg></div>\n");
    if left_out > 0 {
        let _ = writeln!(page, "<p class=\"faint\">{left_out} more are left out</p>");
    }
}

/// Draws the line behind a task's turns: from its first to its end, or to the edge.
fn bar(
    page: &mut String,
    story: &Story,
    columns: &[&Note],
    lane: u32,
    middle: usize,
    left: &impl Fn(usize) -> usize,
) {
    let own = |note: &&Note| note.task == lane;
    let first = columns.iter().position(own).unwrap_or(columns.len());
    let last = columns.iter().rposition(own).unwrap_or(first);
    let ended = story.lanes[lane as usize].ended;
    let end = if ended { left(last) + STEP } else { left(columns.len()) };
    let _ = writeln!(
        page,
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"6\" rx=\"3\" fill=\"var(--wait)\"/>",
        left(first),
        middle - 3,
        end.saturating_sub(left(first))
    );
    let (x, fill) = if ended { (end - 2, "--end") } else { (end - 4, "--bad") };
    let _ = writeln!(page, "<circle cx=\"{x}\" cy=\"{middle}\" r=\"5\" fill=\"var({fill})\"/>");
}

fn in_words(page: &mut String, story: &Story) {
    let _ = writeln!(page, "<details><summary>Step by step</summary><ol class=\"story\">");
    for note in &story.notes {
        let Some(line) = story.line(note) else { continue };
        let who = if note.task == NOBODY { "" } else { story.name(note.task) };
        let class = match note.what {
            What::Injected { .. } | What::Panicked { .. } => " class=\"hit\"",
            _ => "",
        };
        let text = format!("{:>9}  {who}  {line}", time(note.time));
        let _ = writeln!(page, "<li{class}>{}</li>", escaped(&text));
    }
    if story.left_out > 0 {
        let _ = writeln!(page, "<li>… and {} more</li>", story.left_out);
    }
    page.push_str("</ol></details>\n");
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
