//! The program `quell`: its output, its options, its exit status.
#![cfg(all(not(loom), feature = "cli"))]

use std::process::{Child, Command, Output, Stdio};

fn quell(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_quell")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

#[test]
fn with_nothing_more_it_checks_everything_and_all_is_as_it_should_be() {
    let (code, out, err) = quell(&["check", "--schedules", "1000"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("found, as it should be: BlockedStage"), "{out}");
    assert!(out.contains("All is as it should be."), "{out}");
    assert!(out.contains("--replay q1"), "{out}");
    // No progress bar where the output is not a terminal.
    assert_eq!(err, "");
    assert!(!out.contains('\x1b'), "{out}");
}

#[test]
fn a_bug_that_is_found_is_as_it_should_be_and_what_is_for_want_of_schedules_beside_it_is_not() {
    let (code, out, err) = quell(&["check", "listing", "--strategy", "random", "--schedules", "1"]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("found, as it should be: BlockedStage of `"), "{out}");
    assert!(!out.contains(", Vacuous"), "{out}");
}

#[test]
fn it_names_its_scenarios() {
    let (code, out, _) = quell(&["list"]);
    assert_eq!(code, 0);
    for name in ["listing", "listing-repaired", "two-loops", "nested-timers", "slow-store"] {
        assert!(out.lines().any(|line| line.starts_with(name)), "{out}");
    }
}

#[test]
fn the_violation_on_the_first_screen_of_the_readme_is_what_its_token_shows() {
    let readme = include_str!("../README.md");
    let (_, shown) = readme.split_once("```text\nBlockedStage").unwrap();
    let (shown, _) = shown.split_once("\n```").unwrap();
    let (_, token) = shown.rsplit_once(' ').unwrap();
    let (code, out, err) = quell(&["check", "--replay", token]);
    assert_eq!(code, 1, "{out}{err}");
    for line in shown.lines() {
        assert!(out.contains(line), "{line:?} is not in\n{out}");
    }
}

#[test]
fn a_token_it_prints_replays_and_is_a_violation() {
    let (_, out, _) = quell(&["check", "listing", "--schedules", "500", "--json"]);
    let line: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(line["scenario"], "listing");
    assert_eq!(line["as_expected"], true);
    let token = line["violations"][0]["replay"].as_str().unwrap();
    // With or without the scenario's name.
    for args in [&["check", "listing", "--replay", token][..], &["check", "--replay", token]] {
        let (code, out, err) = quell(args);
        assert_eq!(code, 1, "{out}{err}");
        assert!(out.starts_with("listing: 1 violation: the schedule of a token\n"), "{out}");
    }
    let (code, out, _) = quell(&["check", "--replay", token, "--json"]);
    assert_eq!(code, 1, "{out}");
    let line: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(line["strategy"], "replay");
    assert_eq!(line["violations"][0]["replay"], token);
    let (code, _, err) = quell(&["check", "slow-store", "--replay", token]);
    assert_eq!(code, 2);
    assert!(err.contains("of another body"), "{err}");
}

#[test]
fn a_line_of_json_says_which_part_it_is_of() {
    let args = ["check", "contexts", "--schedules", "100", "--json"];
    let shard = |more: &[&str]| {
        let (_, out, _) = quell(&[&args[..], more].concat());
        let line: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
        line["shard"].clone()
    };
    assert_eq!(shard(&["--shard", "2/3"]), "2/3");
    assert_eq!(shard(&[]), "1/1");
}

#[test]
fn its_page_needs_no_network() {
    let file = std::env::temp_dir().join(format!("quell-{}.html", std::process::id()));
    let name = file.to_str().unwrap();
    let (code, ..) = quell(&["check", "two-loops", "--schedules", "300", "--html", name]);
    assert_eq!(code, 1);
    let page = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.contains("<svg") && page.contains("BlockedStage"));
    for fetched in ["http://", "https://", "src=", "@import", "<script", "<link"] {
        assert!(!page.contains(fetched), "{fetched}");
    }
}

#[test]
fn a_page_of_several_scenarios_shows_each_and_is_one_page() {
    let file = std::env::temp_dir().join(format!("quell-all-{}.html", std::process::id()));
    let name = file.to_str().unwrap();
    let args = ["check", "contexts", "listing", "two-loops", "--schedules", "300", "--html", name];
    let (code, ..) = quell(&args);
    assert_eq!(code, 1);
    let page = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    for heading in ["contexts</code>: Clean", "listing</code>: ", "two-loops</code>: "] {
        assert!(page.contains(heading), "{heading}");
    }
    assert_eq!(page.matches("<body>").count(), 1);
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
}

#[test]
fn the_title_of_a_page_of_several_scenarios_tells_of_all() {
    let file = std::env::temp_dir().join(format!("quell-title-{}.html", std::process::id()));
    let title = |scenarios: &[&str]| {
        let args = ["--schedules", "300", "--html", file.to_str().unwrap()];
        let (code, ..) = quell(&[&["check"], scenarios, &args].concat());
        let page = std::fs::read_to_string(&file).unwrap();
        assert_eq!(page.matches("<title>quell").count(), 1);
        let (_, rest) = page.split_once("<title>").unwrap();
        (code, rest.split_once("</title>").unwrap().0.to_string())
    };
    assert_eq!(title(&["nested-timers", "listing"]), (1, "quell: 1 of 2 scenarios clean".into()));
    assert_eq!(title(&["contexts", "nested-timers"]), (0, "quell: 2 of 2 scenarios clean".into()));
    assert_eq!(title(&["nested-timers"]), (0, "quell: Clean".into()));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn the_one_part_that_is_the_whole_is_judged_as_the_whole() {
    let verdict = |more: &[&str]| {
        let (code, out, _) = quell(&[&["check", "--schedules", "6"], more].concat());
        (code, out.matches("NOT FOUND").count(), out.matches("VIOLATION").count())
    };
    let whole = verdict(&[]);
    assert_eq!(whole.0, 1, "six schedules are too few for some: {whole:?}");
    assert_eq!(verdict(&["--shard", "1/1"]), whole);
}

#[test]
fn a_scenario_that_is_named_and_has_a_violation_is_status_1() {
    let (code, out, _) = quell(&["check", "listing", "--schedules", "300"]);
    assert_eq!(code, 1, "{out}");
    // What it waits for is named by its path, not by what a compiler made of it.
    assert!(out.contains("for          tokio::sync::"), "{out}");
    let (code, out, _) = quell(&["check", "listing-repaired", "--schedules", "300"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.lines().nth(1).unwrap().contains(" usual "), "{out}");
}

#[test]
fn the_table_says_where_a_maximum_has_cut() {
    let verdict = |most: &str| {
        let args = ["check", "contexts", "--strategy", "exhaustive", "--schedules", most];
        let (code, out, _) = quell(&args);
        assert_eq!(code, 0, "{out}");
        out.lines().nth(1).unwrap().to_string()
    };
    assert!(verdict("100").ends_with("  clean, cut short"));
    assert!(verdict("1000000").ends_with("  clean"));
}

#[test]
fn a_part_without_any_schedule_or_without_the_bug_is_no_failure() {
    let args = ["check", "--schedules", "16", "--shard", "8/8", "--strategy", "random"];
    let (code, out, err) = quell(&args);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains("Vacuous"), "{out}");
}

#[test]
fn what_cannot_be_replayed_for_want_of_a_schedule_offers_no_token() {
    let (code, out, _) = quell(&["check", "contexts", "--schedules", "1"]);
    assert_eq!(code, 1);
    assert!(out.contains("Vacuous") && !out.contains("--replay"), "{out}");
}

#[test]
fn every_strategy_and_every_shard_can_be_asked_for() {
    for strategy in ["usual", "exhaustive", "random", "pct"] {
        for shard in ["1/2", "2/2"] {
            let args = ["check", "contexts", "--strategy", strategy, "--schedules", "200"];
            let seed: &[_] = match strategy {
                "random" | "pct" => &["--seed", "3"],
                _ => &[],
            };
            let (code, out, err) = quell(&[&args[..], seed, &["--shard", shard]].concat());
            assert_eq!(code, 0, "{strategy} {shard}: {out}{err}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_could_not_be_printed_is_status_2_unless_nobody_reads_it() {
    let start = |args: &[&str], out: Stdio| {
        let mut quell = Command::new(env!("CARGO_BIN_EXE_quell"));
        quell.args(args).stdout(out).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ends = |child: Child| {
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let check = ["check", "contexts", "--schedules", "50"];
    for args in [&check[..], &[&check[..], &["--json"]].concat(), &["list"], &["--help"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, err) = ends(start(args, full.into()));
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains("could not write the output"), "{args:?}: {err}");
        let mut unread = start(args, Stdio::piped());
        drop(unread.stdout.take());
        assert_eq!(ends(unread), (0, String::new()), "{args:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_complaint_that_could_not_be_printed_either_is_status_2() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&["check", "nope"][..], &["check", "--replay", "nope"], &["nope"], &["list"]] {
        let mut quell = Command::new(env!("CARGO_BIN_EXE_quell"));
        let status = quell.args(args).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_cannot_be_understood_is_status_2_and_says_why() {
    for (args, why) in [
        (&["check", "--shard", "3/2"][..], "there is no part 3 of 2"),
        (&["check", "--shard", "x"], "such as 2/8"),
        (&["check", "--strategy", "luck"], "possible values"),
        (&["check", "nothing"], "`quell list` names them"),
        (&["check", "--replay", "hello"], "no replay token"),
        (&["check", "--replay", "q9c-00000000-"], "version `q9`"),
        (&["check", "--seed", "many"], "not a number"),
        (&["check", "--schedules", "99999999999999999999"], "the most is 18446744073709551615"),
        (&["check", "--shard", "1/99999999999999999999"], "the most is 18446744073709551615"),
        (&["check", "--seed", "3"], "pass `--strategy random`"),
        (&["check", "--seed", "3", "--strategy", "exhaustive"], "pass `--strategy random`"),
        (&["check", "--schedules", "0"], "checks nothing"),
        (&["check", "--replay", "q1c-00000000-", "--shard", "1/2"], "cannot be used with"),
        (&["chekc"], "check"),
    ] {
        let (code, out, err) = quell(args);
        assert_eq!(code, 2, "{args:?}: {out}{err}");
        assert!(err.contains(why), "{args:?}: {err}");
    }
}

#[test]
fn a_page_that_has_nowhere_to_go_is_told_before_the_run_and_no_verdict_is_lost() {
    let nowhere = "/nonexistent/page.html";
    let (code, out, err) = quell(&["check", "contexts", "--schedules", "50", "--html", nowhere]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("could not write /nonexistent/page.html"), "{err}");
    let token = "q1c-00000000-";
    let (code, _, err) = quell(&["check", "--replay", token, "--html", nowhere]);
    assert_eq!(code, 2);
    assert!(err.contains("could not write /nonexistent/page.html"), "{err}");
    // Where the disk turns out to be full only at the end, the verdict is told all the same.
    if cfg!(target_os = "linux") {
        let args = ["check", "contexts", "--schedules", "50", "--html", "/dev/full"];
        let (code, out, err) = quell(&args);
        assert_eq!(code, 2);
        assert!(out.contains("clean") && err.contains("could not write /dev/full"), "{out}{err}");
    }
}

#[test]
fn a_page_is_not_touched_before_there_is_another() {
    let folder = std::env::temp_dir().join(format!("quell-pages-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let (old, new) = (folder.join("old.html"), folder.join("new.html"));
    std::fs::write(&old, "of yesterday").unwrap();
    for page in [&old, &new] {
        let page = page.to_str().unwrap();
        let (code, _, err) = quell(&["check", "--replay", "q1c-00000000-", "--html", page]);
        assert_eq!(code, 2);
        assert!(err.contains("of another body"), "{err}");
    }
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "of yesterday");
    assert!(!new.exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_violation_names_its_lines_alike_wherever_the_program_is_run() {
    let mut quell = Command::new(env!("CARGO_BIN_EXE_quell"));
    let args = ["check", "listing", "--schedules", "300"];
    let Output { stdout, .. } =
        quell.args(args).current_dir(std::env::temp_dir()).output().unwrap();
    let out = String::from_utf8(stdout).unwrap();
    let waits = out.lines().find(|line| line.trim_start().starts_with("at ")).unwrap();
    assert!(waits.contains("  src/bin/quell/scenarios.rs:"), "{out}");
    assert!(!out.contains("/src/bin/quell"), "{out}");
}

#[test]
fn what_is_for_want_of_schedules_says_so_and_is_seen_in_none_of_them() {
    for (strategy, advice) in [("usual", "raise it"), ("pct", "run more")] {
        let args = ["check", "contexts", "--schedules", "1", "--strategy", strategy];
        let (code, out, _) = quell(&args);
        assert_eq!(code, 1, "{out}");
        assert!(out.contains("Vacuous") && out.contains(advice), "{out}");
        assert!(!out.contains("  seen  "), "{out}");
    }
}
