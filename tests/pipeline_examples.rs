//! The pipeline examples, each run as the process that a reader would run, and
//! checked for what it prints.
#![cfg(all(not(loom), feature = "tokio"))]

mod common;

use common::examples;
use std::path::PathBuf;
use std::process::{Command, Output};

fn binary(name: &str) -> PathBuf {
    examples().join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// All that an example prints.
fn output(name: &str) -> String {
    let Output { status, stdout, stderr } = Command::new(binary(name)).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{name} ended with {status}:\n{stderr}");
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_pipeline_over_an_endless_stream_ends_when_its_reader_has_enough() {
    let output = output("pipeline_stream");
    let mut lines = output.lines();
    let first = lines.next().unwrap().strip_prefix("the first to be found: ").unwrap();
    assert_eq!(first.matches("entry ").count(), 5, "{output}");
    assert!(lines.next().unwrap().starts_with("the first beyond 99: entry 1"), "{output}");
    assert!(output.contains("\nthe reader stopped; "), "{output}");
    assert!(output.contains("\nlook up"), "{output}");
}

#[test]
fn a_stage_of_ones_own_flushes_at_the_end_and_may_fail() {
    let output = output("custom_stage");
    let whole = "\"one\"\n\"two\"\n\"\"\n\"three\"\ncompleted; 4 read\n";
    assert!(output.starts_with(whole), "{output}");
    let failed = "`lines` failed: line too long: two and so on, and on; ";
    assert!(output.contains(failed), "{output}");
}

#[test]
fn answers_come_in_order_though_some_calls_are_tried_again_and_one_hangs() {
    let output = output("ordered_retries");
    let answers = "1: 1\n2: 4\n3: 9\n4: no answer\n5: 25\n6: there is no 6\n7: 49\n8: 64\n\n";
    assert!(output.starts_with(&format!("{answers}completed; 8 read\n")), "{output}");
}

#[cfg(unix)]
#[test]
fn after_ctrl_c_every_job_that_begins_is_finished_and_the_process_ends() {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let mut child = Command::new(binary("drain_on_ctrl_c")).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut read: Vec<String> = Vec::new();
    while read.last().is_none_or(|line| line != "job 5 begins") {
        read.push(lines.next().expect("an endless source"));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    read.extend(lines);

    let jobs = |end: &str| {
        let jobs = read.iter().filter_map(|line| line.strip_suffix(end));
        jobs.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(jobs(" begins"), jobs(" is finished"), "{read:#?}");
    let outcome = format!("cancelled: interrupted by SIGINT; {} read", jobs(" begins").len());
    assert!(read.contains(&outcome), "{read:#?}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
