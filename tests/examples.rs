//! The examples, run as a user would run them, and what they print.

#![cfg(not(loom))]

mod common;

use common::examples;
use std::process::Command;
use std::time::{Duration, Instant};

fn command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(examples().join(name));
    command.args(arguments);
    command
}

/// Runs it. Returns what it printed and how long it took.
fn timed(name: &str, arguments: &[&str]) -> (String, Duration) {
    let mut command = command(name, arguments);
    let began = Instant::now();
    let output = command.output().expect("the example runs");
    let took = began.elapsed();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{name}: {}: {errors}", output.status);
    (String::from_utf8(output.stdout).expect("text"), took)
}

fn run(name: &str, arguments: &[&str]) -> String {
    timed(name, arguments).0
}

#[test]
fn tour_comes_to_its_end() {
    let printed = run("tour", &[]);
    assert!(printed.contains("shutting down") && printed.contains("detach()"), "{printed}");
}

#[test]
fn nested_timers_ends_with_the_parent_after_two_seconds() {
    let (printed, took) = timed("nested_timers", &[]);
    assert_eq!(printed, "2s: context deadline exceeded\n");
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

#[test]
fn timeout_lets_quick_work_finish_and_cancels_slow_work() {
    assert_eq!(run("timeout", &[]), "work complete: user 123\n");
    let (printed, took) = timed("timeout", &["--slow"]);
    assert_eq!(printed, "work cancelled: context deadline exceeded\n");
    assert!(took >= Duration::from_millis(150), "{took:?}");
}

#[test]
fn own_cancellation_gives_the_digits_it_has_and_says_why_there_are_no_more() {
    let printed = run("own_cancellation", &["--millis", "400", "--digits", "60"]);
    let lines: Vec<_> = printed.lines().collect();
    let iterations = lines[0].strip_prefix("stopped after ").unwrap();
    let iterations: f64 = iterations.strip_suffix(" iterations").unwrap().parse().unwrap();
    assert!(iterations > 100.0, "{printed}");
    assert_eq!(lines[1].len(), 2 + 60, "{printed}");
    // The series is off by about one part in the number of terms.
    let pi: f64 = lines[1].parse().unwrap();
    assert!((pi - std::f64::consts::PI).abs() < 2.0 / iterations, "{printed}");
    assert_eq!(lines[2], "context deadline exceeded: 400ms are enough");

    // With no time at all there is no term, and no digit.
    let printed = run("own_cancellation", &["--millis", "0", "--digits", "5"]);
    assert!(printed.starts_with("stopped after 0 iterations\n0.00000\n"), "{printed}");
}

#[test]
fn sum_until_ends_when_the_number_comes_or_the_time_is_over() {
    let printed = run("sum_until", &["--wanted", "0", "--below", "1"]);
    assert_eq!(printed, "sum: 0\niterations: 1\nreason: number reached: 0\n");

    // Below one hundred million, which is the default, and never the wanted number.
    let (printed, took) = timed("sum_until", &["--wanted", "100000000"]);
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    let lines: Vec<_> = printed.lines().collect();
    let mean = number(lines[0]) / number(lines[1]);
    assert!((49e6..51e6).contains(&mean), "{printed}");
    assert_eq!(lines[2], "reason: timeout: context deadline exceeded");
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

#[cfg(feature = "http")]
mod http {
    use super::{command, run, timed};
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    /// A process that does not outlive its test, however the test ends.
    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// With these seeds the first bad status comes first, second, and not in time.
    const AT_ONCE: [&str; 2] = ["--seed", "7"];
    const SECOND: [&str; 2] = ["--seed", "2"];
    const LATE: [&str; 2] = ["--seed", "5"];

    /// What was printed, with ports and dates replaced.
    fn plain(printed: &str) -> Vec<String> {
        let line = |line: &str| {
            let mut line = line.to_string();
            if let Some(at) = line.find("127.0.0.1:") {
                let end = line[at..].find('/').map_or(line.len(), |end| at + end);
                line.replace_range(at..end, "HOST");
            }
            match line.find("delay, ") {
                Some(at) if line.ends_with("GMT") => line[..at + 6].to_string() + " DATE",
                _ => line,
            }
        };
        printed.lines().map(line).collect()
    }

    #[track_caller]
    fn has(lines: &[String], wanted: &[&str]) {
        for wanted in wanted {
            assert!(lines.iter().any(|line| line == wanted), "{wanted:?} is not in {lines:#?}");
        }
    }

    #[test]
    fn cancel_http_ends_both_loops_at_the_first_bad_status() {
        let lines = plain(&run("cancel_http", &AT_ONCE));
        let end = [
            "status: a bad one, that is enough",
            "main: cancelled",
            "delay: GET http://HOST/delay/1: context canceled",
        ];
        has(&lines, &end);
        assert_eq!(lines.len(), 3, "{lines:#?}");

        let (printed, took) = timed("cancel_http", &SECOND);
        let lines = plain(&printed);
        has(&lines, &end);
        has(&lines, &["main: status 200 OK"]);
        assert!(took >= Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn cancel_http_takes_a_real_server_as_well() {
        // A server that is not there is an error of both loops.
        let printed = run("cancel_http", &["--base", "http://127.0.0.1:1/"]);
        assert!(printed.contains("http://127.0.0.1:1/status/200,200,200,500: "), "{printed}");
        assert!(printed.contains("main: cancelled"), "{printed}");
    }

    #[test]
    fn cancel_error_http_keeps_the_first_cause() {
        let lines = plain(&run("cancel_error_http", &AT_ONCE));
        has(
            &lines,
            &[
                "main: cancelled with cause: bad status",
                "delay: in the delay loop: GET http://HOST/delay/1: context canceled",
                "cause: bad status",
            ],
        );
        assert_eq!(lines.last().unwrap(), "cause: bad status", "the other's error is too late");
    }

    #[test]
    fn timeout_error_http_tells_a_bad_status_from_three_seconds() {
        let lines = plain(&run("timeout_error_http", &AT_ONCE));
        has(&lines, &["main: cancelled with cause: bad status; error: context canceled"]);
        assert_eq!(lines.last().unwrap(), "cause: bad status");

        let (printed, took) = timed("timeout_error_http", &LATE);
        let lines = plain(&printed);
        has(
            &lines,
            &[
                "main: status 200 OK",
                "main: delay, DATE",
                "main: cancelled with cause: context deadline exceeded; \
                 error: context deadline exceeded",
                "cause: context deadline exceeded",
            ],
        );
        assert!(took >= Duration::from_secs(3), "{took:?}");
    }

    #[test]
    fn timeout_middleware_limits_each_request_and_answers_for_one_that_does_not() {
        let limit = "the request took longer than its limit of 100ms";
        let printed = run("timeout_middleware", &[]);
        let (answers, served) = printed.trim_end().rsplit_once('\n').expect("several lines");
        assert_eq!(
            answers,
            format!(
                "/quick: 200 OK, quick enough\n\
                 /search: 200 OK, found something; {limit}\n\
                 /oblivious: 503 Service Unavailable, {limit}"
            )
        );
        // The client opens another connection where one is still on its way back to the pool.
        assert!(served.ends_with(" connections, all drained"), "{served}");
    }

    #[test]
    fn log_level_prints_what_the_level_of_the_request_lets_through() {
        assert_eq!(
            run("log_level", &[]),
            "GET /?log_level=debug\n  \
               Debug: looking for the answer\n  \
               Info: the answer was found\n\
             GET /?log_level=info\n  \
               Info: the answer was found\n\
             GET /?log_level=loud\n\
             GET /\n"
        );
    }

    #[test]
    fn user_identity_takes_the_user_from_the_cookie_and_lets_nobody_else_in() {
        assert_eq!(
            run("user_identity", &[]),
            "theme=dark; identity=ann: 200 OK, hello ann, about tea\n\
             theme=dark: 401 Unauthorized, unauthorized\n\
             no cookie: 401 Unauthorized, unauthorized\n\
             no middleware: 500 Internal Server Error\n"
        );
    }

    #[test]
    fn guid_tracker_has_one_id_in_both_services_given_or_made() {
        let printed = run("guid_tracker", &[]);
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "with order-66:",
                "GUID order-66: first service: processing tea",
                "GUID order-66: second service: query=tea",
                "200 OK",
                "with no id:",
            ]
        );
        let id = |line: &str, rest: &str| {
            let id = line.strip_prefix("GUID ").and_then(|line| line.strip_suffix(rest));
            id.unwrap_or_else(|| panic!("{printed}")).to_string()
        };
        let made = id(lines[5], ": first service: processing tea");
        assert_eq!(made, id(lines[6], ": second service: query=tea"));
        assert_eq!(made.len(), 36, "{printed}");
        // A refusal of the second service is an error of the first, and is logged with the id.
        assert_eq!(
            lines[7..],
            [
                "200 OK",
                "with order-67:",
                "GUID order-67: first service: processing coal",
                "GUID order-67: second service: query=coal",
                "GUID order-67: first service: unexpected status 404 Not Found",
                "502 Bad Gateway",
            ]
        );
    }

    #[test]
    fn store_server_tells_the_store_to_give_up_unless_it_finished_first() {
        let printed = run("store_server", &[]);
        assert_eq!(
            printed.lines().take(6).collect::<Vec<_>>(),
            [
                "a patient client got: hello",
                "  the store finished: hello",
                "one that hangs up got nothing: context deadline exceeded",
                "  the store was told to give up: the client went away",
                "a request that is cancelled got: nothing: context canceled",
                "  the store was told to give up: 5 ms are over",
            ]
        );
    }

    #[test]
    #[cfg(unix)]
    fn store_server_notices_that_curl_hangs_up_and_ends_when_it_is_interrupted() {
        if Command::new("curl").arg("--version").output().is_err() {
            println!("there is no curl here");
            return;
        }
        let mut server = command("store_server", &["--listen", "127.0.0.1:0"]);
        let server = server.stdout(Stdio::piped()).spawn().expect("the example runs");
        let mut server = Killed(server);
        let printed = server.0.stdout.take().unwrap();
        let mut lines = BufReader::new(printed).lines().map(Result::unwrap);
        let listens = lines.next().unwrap();
        let url = listens.strip_prefix("listening on ").unwrap();
        let curl = |arguments: &[&str]| {
            Command::new("curl").arg("-s").args(arguments).output().expect("curl runs")
        };
        assert_eq!(curl(&[url]).stdout, b"hello");
        assert_eq!(lines.next().unwrap(), "the store finished: hello");
        let gave_up = curl(&["-m", "0.05", &format!("{url}/slow")]);
        assert_eq!(gave_up.status.code(), Some(28), "curl says that its time is over");
        assert_eq!(lines.next().unwrap(), "the store was told to give up: the client went away");

        let pid = server.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert_eq!(lines.next().unwrap(), "2 connections, all drained");
        assert!(server.0.wait().unwrap().success());
    }

    #[test]
    fn hit_your_own_stops_after_the_third_result() {
        let line = "200: 10 bytes";
        let printed = run("hit_your_own", &[]);
        let wanted = format!(
            "n must be positive: got 0\n{line}\n{line}\n{line}\nReaderStopped\n\
             3 requests, 3 successes\n"
        );
        assert_eq!(printed, wanted);
    }

    #[test]
    fn limits_lets_two_run_and_one_wait_and_refuses_the_fourth() {
        let limit = "503 Service Unavailable, the request took longer than its limit of 2s";
        let printed = run("limits", &[]);
        for line in [
            "2 running, 1 waiting",
            "request 4: 503 Service Unavailable, too many requests are waiting (retry after 3 s)",
            &format!("request 3: {limit}"),
            "0 running, 0 waiting",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{line:?} not in {printed}");
        }
        // Which of the two is at the gate first is not determined.
        let (done, late) = ("200 OK, done".to_string(), limit.to_string());
        let of = |number: &str| printed.lines().find_map(|line| line.strip_prefix(number));
        let two = [of("request 1: ").unwrap(), of("request 2: ").unwrap()];
        assert!(two == [&done, &late] || two == [&late, &done], "{printed}");
    }
}
