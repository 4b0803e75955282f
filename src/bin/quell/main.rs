//! `quell check` runs the built-in scenarios under the checker; `quell list` names them.
//!
//! | exit status | means |
//! |---|---|
//! | 0 | clean; for all scenarios together: each is as expected, so known bugs were found |
//! | 1 | a scenario that was named has a violation, or one of them all is not as expected |
//! | 2 | the command could not be understood or carried out |

mod print;
mod scenarios;

use clap::{Arg, ArgAction, ArgMatches, Command};
use quell::check::{Checker, ReplayError};
use scenarios::{INJECTIONS, SCENARIOS, Scenario};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _};
use std::num::{IntErrorKind, ParseIntError};
use std::process::ExitCode;

/// The one part that is the whole.
const WHOLE: (u64, u64) = (1, 1);

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            print::must(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let done = match matches.subcommand() {
        Some(("list", _)) => {
            print::list(SCENARIOS);
            Ok(true)
        }
        Some(("check", matches)) => check(matches),
        // Without a subcommand, everything is checked.
        _ => check(
            &command().get_matches_from(["quell", "check"]).subcommand().expect("given").1.clone(),
        ),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(complaint) => {
            print::complain(format_args!("{complaint}"));
            ExitCode::from(2)
        }
    }
}

fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let schedules = |text: &str| match number(text)? {
        0 => Err("no schedule checks nothing; pass 1 or more".to_string()),
        n => Ok(n),
    };
    Command::new("quell")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Checks that pipelines, groups and contexts stop completely: runs the built-in scenarios.")
        .subcommand(
            Command::new("check")
                .about("Checks the built-in scenarios: all, or those named")
                .after_help(
                    "Exit status: 0 clean (of all together: each is as `quell list` says), \
                     1 violations, 2 usage.",
                )
                .arg(Arg::new("name").value_name("NAME").num_args(0..).help("A scenario"))
                .arg(
                    option(
                        "strategy",
                        "STRATEGY",
                        "Which schedules to run; usual: all within two delays, then some at random",
                    )
                    .value_parser(["usual", "exhaustive", "random", "pct"])
                    .default_value("usual"),
                )
                .arg(option("seed", "N", "For random and pct").value_parser(number))
                .arg(option("schedules", "N", "The most for each scenario").value_parser(schedules))
                .arg(option("shard", "I/N", "Part I of N of the schedules").value_parser(shard))
                .arg(
                    option("replay", "TOKEN", "Only the schedule of a token").conflicts_with_all([
                        "strategy",
                        "seed",
                        "schedules",
                        "shard",
                    ]),
                )
                .arg(option("html", "FILE", "Write what was found as a page"))
                .arg(
                    Arg::new("json")
                        .long("json")
                        .action(ArgAction::SetTrue)
                        .help("Print a line of JSON for each scenario instead of a table"),
                ),
        )
        .subcommand(Command::new("list").about("Names the built-in scenarios"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => format!("too many: the most is {}", u64::MAX),
        _ => "not a number".to_string(),
    })
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let (part, of) = text.split_once('/').ok_or("write it as I/N, such as 2/8")?;
    match (number(part)?, number(of)?) {
        (part, of) if part >= 1 && part <= of => Ok((part, of)),
        (part, of) => Err(format!("there is no part {part} of {of}: I/N wants 1 ≤ I ≤ N")),
    }
}

/// Returns `Ok(false)` if something is not as it should be.
fn check(matches: &ArgMatches) -> Result<bool, String> {
    let chosen = chosen(matches)?;
    let html = matches.get_one::<String>("html");
    if let Some(token) = matches.get_one::<String>("replay") {
        return replay(token, &chosen, html, matches.get_flag("json"));
    }
    let json = matches.get_flag("json");
    let named = matches.contains_id("name");
    let shard = matches.get_one("shard").copied().unwrap_or(WHOLE);
    let strategy = matches.get_one::<String>("strategy").expect("it has a default");
    if matches.contains_id("seed") && !["random", "pct"].contains(&strategy.as_str()) {
        return Err(format!(
            "`--seed` says which schedules `random` and `pct` take, and the strategy `{strategy}` \
             always takes the same: pass `--strategy random`, or leave out the seed"
        ));
    }
    let _page = html.map(|file| must_be_writable(file)).transpose()?;
    let progress = !json && std::io::stderr().is_terminal();
    let checker = checker(matches, strategy, shard);
    let mut all_well = true;
    let mut pages = Vec::new();
    let mut shown = None;
    if !json {
        print::head();
    }
    for (nth, scenario) in chosen.iter().enumerate() {
        if progress {
            print::progress(nth, chosen.len(), scenario.name);
        }
        let report = (scenario.run)(&checker);
        if progress {
            print::clear();
        }
        // One part of the schedules need not contain the bug.
        let well = scenario.is_as_expected(&report) || (shard != WHOLE && report.is_clean());
        all_well &= if named { report.is_clean() } else { well };
        if json {
            print::json(scenario, strategy, shard, &report, well);
        } else {
            print::row(scenario, strategy, &report, well);
        }
        if html.is_some() {
            pages.push((scenario.name, report.is_clean(), report.to_html()));
        }
        if !report.violations().is_empty() {
            if !well || shown.is_none() {
                shown = Some((scenario, report, well));
            }
        } else if !report.is_clean() && !well {
            shown = Some((scenario, report, well));
        }
    }
    if !json {
        print::foot(
            shown.as_ref().map(|(scenario, report, well)| (**scenario, report, *well)),
            all_well,
        );
    }
    // The results are printed before anything can still go wrong with the file.
    if let Some(file) = html {
        write(file, &print::one_page(&pages))?;
    }
    Ok(all_well)
}

fn chosen(matches: &ArgMatches) -> Result<Vec<&'static Scenario>, String> {
    let names: Vec<&String> = matches.get_many("name").into_iter().flatten().collect();
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    names
        .into_iter()
        .map(|name| {
            let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
            found.ok_or_else(|| format!("there is no scenario `{name}`; `quell list` names them"))
        })
        .collect()
}

fn checker(matches: &ArgMatches, strategy: &str, (part, of): (u64, u64)) -> Checker {
    let seed = matches.get_one("seed").copied().unwrap_or(1);
    let most = matches.get_one("schedules").copied().unwrap_or(20_000);
    let checker = match strategy {
        "exhaustive" => Checker::exhaustive().max_schedules(most),
        "random" => Checker::random(seed, most),
        "pct" => Checker::pct(seed, 3, most),
        _ => Checker::new().max_schedules(most),
    };
    checker.inject(INJECTIONS).shard(part, of)
}

fn replay(
    token: &str,
    chosen: &[&'static Scenario],
    html: Option<&String>,
    json: bool,
) -> Result<bool, String> {
    let _page = html.map(|file| must_be_writable(file)).transpose()?;
    for scenario in chosen {
        match (scenario.replay)(token) {
            Err(ReplayError::Body) => {}
            Err(error) => return Err(error.to_string()),
            Ok(report) => {
                if json {
                    let well = scenario.is_as_expected(&report);
                    print::json(scenario, "replay", WHOLE, &report, well);
                } else {
                    print::replayed(scenario, &report);
                }
                if let Some(file) = html {
                    write(file, &report.to_html())?;
                }
                return Ok(report.is_clean());
            }
        }
    }
    Err(ReplayError::Body.to_string())
}

fn write(file: &str, page: &str) -> Result<(), String> {
    std::fs::write(file, page).map_err(|error| could_not_write(file, &error))
}

/// Fails before a run, which may take long, if its page cannot be written. Writes nothing yet, and
/// leaves no file where there was none. A pipe is kept open, so that its reader does not leave.
fn must_be_writable(file: &str) -> Result<Option<File>, String> {
    match File::create_new(file) {
        Ok(_) => std::fs::remove_file(file).map(|()| None),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            File::options().append(true).create(true).open(file).map(Some)
        }
        Err(error) => Err(error),
    }
    .map_err(|error| could_not_write(file, &error))
}

fn could_not_write(file: &str, error: &io::Error) -> String {
    format!("could not write {file}: {error}")
}
