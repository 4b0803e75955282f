//! The program `hit`, run as a user would run it.

#![cfg(all(feature = "cli", unix, not(loom)))]

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// What the server heard: which connection said what.
type Heard = Receiver<(usize, String)>;

/// A server that calls `answer` for the answer to each request, with the number of
/// the request.
fn server(answer: impl Fn(usize) -> Option<String> + Send + Sync + 'static) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (said, heard) = mpsc::channel();
    let shared = std::sync::Arc::new((answer, std::sync::atomic::AtomicUsize::new(0)));
    thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (mut stream, said, shared) = (stream.unwrap(), said.clone(), shared.clone());
            thread::spawn(move || {
                while let Some(request) = next(&mut stream) {
                    let number = shared.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let _ = said.send((connection, request));
                    let Some(answer) = shared.0(number) else { continue };
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, heard)
}

/// The next request on this connection.
fn next(stream: &mut TcpStream) -> Option<String> {
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&heard).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        match stream.read(&mut chunk) {
            Ok(more @ 1..) => heard.extend_from_slice(&chunk[..more]),
            _ => return None,
        }
    }
}

fn well() -> (String, Heard) {
    server(|_| Some(OK.into()))
}

fn hit(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hit"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    hit(arguments).output().expect("hit runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The output of `--json` of a run that ends with this status.
#[track_caller]
fn json(arguments: &[&str], status: i32) -> Value {
    let output = run(&[&["--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

// ------------------------------------------------------------------ the summary

#[test]
fn the_summary_says_all_there_is_to_know() {
    let (url, _) = server(|number| {
        Some(
            if number % 4 == 3 { "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n" } else { OK }
                .into(),
        )
    });
    let output = run(&["-n", "40", "-c", "4", &url]);
    let printed = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    for line in [
        &format!("GET {url}\n"),
        "  requests             40\n",
        "  success         75.00 %\n",
        "  received          150 B\n",
        "\nhistogram\n",
        "\nstatus\n  200                  30\n  500                  10\n",
    ] {
        assert!(printed.contains(line), "{line:?} is not in {printed}");
    }
    for name in
        ["duration", "rate", "fastest", "mean", "p50", "p90", "p95", "p99", "p99.9", "slowest"]
    {
        let mut lines = printed.lines().map(|line| line.split_whitespace().next());
        assert!(lines.any(|word| word == Some(name)), "{name} is not in {printed}");
    }
    assert!(printed.contains("████"), "{printed}");
    assert!(!printed.contains("partial"), "{printed}");
}

#[test]
fn json_has_the_fields_that_are_documented_and_no_others() {
    let (url, _) = well();
    let found = json(&["-n", "20", "-c", "2", "-m", "PUT", "-H", "a: b", &url], 0);
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut fields = [
        "schema",
        "partial",
        "url",
        "method",
        "concurrency",
        "requests",
        "successes",
        "success_percent",
        "unfinished",
        "bytes",
        "duration",
        "requests_per_second",
        "latency",
        "statuses",
        "errors",
        "histogram",
    ];
    fields.sort_unstable();
    assert_eq!(names(&found), fields);
    assert_eq!(found["schema"], 1);
    assert_eq!(found["partial"], false);
    assert_eq!(found["url"], url);
    assert_eq!(found["method"], "PUT");
    assert_eq!(found["concurrency"], 2);
    assert_eq!((&found["requests"], &found["successes"]), (&20.into(), &20.into()));
    assert_eq!(found["success_percent"], 100.0);
    assert_eq!((&found["unfinished"], &found["bytes"]), (&0.into(), &100.into()));
    assert_eq!(found["statuses"], serde_json::json!({ "200": 20 }));
    assert_eq!(found["errors"], serde_json::json!({}));
    assert!(found["duration"].as_f64().unwrap() > 0.0, "{found}");
    assert!(found["requests_per_second"].as_f64().unwrap() > 0.0, "{found}");
    let latency = &found["latency"];
    let order = ["fastest", "p50", "p90", "p95", "p99", "p99_9", "slowest"];
    let order: Vec<_> = order.iter().map(|name| latency[name].as_f64().unwrap()).collect();
    assert!(order.is_sorted() && order[0] > 0.0, "{latency}");
    assert!(latency["mean"].as_f64().unwrap() >= order[0], "{latency}");
    assert_eq!(latency.as_object().unwrap().len(), order.len() + 1);
    let rows = found["histogram"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["count"].as_u64().unwrap()).sum::<u64>(), 20);
    assert!(rows.iter().all(|row| names(row) == ["count", "from", "to"]), "{found}");
    // The docs name the same fields.
    let documents = include_str!("../docs/hit.md");
    for name in fields.iter().chain(&["fastest", "p99_9", "from", "to", "count"]) {
        assert!(documents.contains(&format!("`{name}`")), "docs/hit.md does not know {name}");
    }
}

#[test]
fn without_a_response_json_has_no_latency_and_says_what_went_wrong() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let found = json(&["-n", "7", &url], 0);
    assert_eq!(found["errors"], serde_json::json!({ "refused": 7 }));
    assert_eq!((&found["requests"], &found["successes"]), (&7.into(), &0.into()));
    assert_eq!(found["latency"]["p50"], Value::Null);
    assert_eq!(found["histogram"], serde_json::json!([]));
}

#[test]
fn errors_are_counted_by_kind() {
    let (closing, _) = server(|_| Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".into()));
    let arguments = ["-n", "4", "-c", "2", "-t", "100ms", &closing];
    assert_eq!(json(&arguments, 0)["errors"], serde_json::json!({ "timeout": 4 }));
    let printed = run(&arguments);
    assert!(text(&printed.stdout).contains("timeout               4"), "{printed:?}");
    let (other, _) = server(|_| Some("what?\r\n\r\n".into()));
    let found = json(&["-n", "4", &other], 0);
    assert_eq!(found["errors"], serde_json::json!({ "protocol": 4 }));
}

// ------------------------------------------------------------------ the options

#[test]
fn method_headers_and_body_arrive() {
    let (url, heard) = well();
    let path = format!("{url}a?b=c");
    json(&["-n", "1", "-m", "PATCH", "-H", "X-A: 1", "-H", "x-b:2", "-b", "body", &path], 0);
    let request = heard.recv().unwrap().1;
    assert!(request.starts_with("PATCH /a?b=c HTTP/1.1\r\n"), "{request}");
    json(&["-n", "1", "-b", "-5", &path], 0);
    assert!(heard.recv().unwrap().1.ends_with("\r\n\r\n-5"), "a body may be a number");
    for line in ["x-a: 1", "x-b: 2", "content-length: 4"] {
        assert!(request.contains(&format!("\r\n{line}\r\n")), "{request}");
    }
    assert!(request.ends_with("\r\n\r\nbody"), "{request}");
}

#[test]
fn a_user_in_the_url_is_sent_to_the_server_and_shown_to_nobody() {
    let (url, heard) = well();
    let secret = url.replace("http://", "http://ann:s3cret@");
    let output = run(&["-n", "1", &secret]);
    assert!(heard.recv().unwrap().1.contains("\r\nauthorization: Basic YW5uOnMzY3JldA==\r\n"));
    assert!(text(&output.stdout).starts_with(&format!("GET {url}\n")), "{output:?}");
    assert_eq!(json(&["-n", "1", &secret], 0)["url"], url);
    assert_eq!(json(&["-n", "1", &format!("{url}#s3cret")], 0)["url"], url);
    let wrong = ["http://ann:s3cret@", "ann:s3cret@host/", "ftp://ann:s3cret@host/"];
    for wrong in wrong.into_iter().chain([
        "http://ann:s3cret#x@host/",
        "http://ann:1#s3cret@host/",
        "http://us#er:s3cret@host/",
        "http://ann:1?s3cret#x@host/",
        "http://ann:s3cret#a/b@host/",
        "http://s3cret#a/b@host/",
        "http://ann:s3cret/1#x@host/",
        "http://ho st/#s3cret",
    ]) {
        let output = run(&[wrong]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!text(&output.stderr).contains("s3cret"), "{output:?}");
    }
}

#[test]
fn a_body_may_come_from_a_file_and_is_posted() {
    let file = std::env::temp_dir().join(format!("quell-hit-{}", std::process::id()));
    std::fs::write(&file, "from a file").unwrap();
    let (url, heard) = well();
    json(&["-n", "1", "--body", &format!("@{}", file.display()), &url], 0);
    let request = heard.recv().unwrap().1;
    std::fs::remove_file(&file).unwrap();
    assert!(
        request.starts_with("POST / ") && request.ends_with("\r\n\r\nfrom a file"),
        "{request}"
    );
}

#[test]
fn connections_are_kept_unless_they_are_not_to_be() {
    let (url, heard) = well();
    json(&["-n", "30", "-c", "3", &url], 0);
    let connections: std::collections::HashSet<_> =
        heard.try_iter().map(|(connection, _)| connection).collect();
    assert!(connections.len() <= 3, "{connections:?}");

    let (url, heard) = well();
    json(&["-n", "30", "-c", "3", "--no-keepalive", &url], 0);
    let connections: Vec<_> = heard.try_iter().collect();
    let different: std::collections::HashSet<_> = connections.iter().map(|heard| heard.0).collect();
    assert_eq!(different.len(), 30);
    assert!(connections[0].1.contains("connection: close\r\n"), "{connections:?}");
}

/// A server that answers nothing before it has heard `requests` requests.
fn patient(requests: usize) -> (String, Heard) {
    let (heard, all) = (Mutex::new(0), Condvar::new());
    server(move |_| {
        let mut heard = heard.lock().unwrap();
        *heard += 1;
        all.notify_all();
        drop(all.wait_while(heard, |heard| *heard < requests).unwrap());
        Some(OK.into())
    })
}

#[test]
fn as_many_are_under_way_as_were_to_be_at_once() {
    for c in [1, 2, 3, 5, 16] {
        let (url, _) = patient(c);
        let c = c.to_string();
        let found = json(&["-n", &c, "-c", &c, "-t", "20s", &url], 0);
        assert_eq!(found["errors"], serde_json::json!({}), "{c}: {found}");
    }
}

#[test]
fn a_connection_that_stands_still_holds_up_no_request_but_its_own() {
    let (heard, all) = (Mutex::new(0), Condvar::new());
    let (url, _) = server(move |number| {
        let mut heard = heard.lock().unwrap();
        *heard += 1;
        all.notify_all();
        if number == 0 {
            // Answered once all the others have been asked.
            drop(all.wait_while(heard, |heard| *heard < 400).unwrap());
        }
        Some(OK.into())
    });
    let found = json(&["-n", "400", "-c", "2", "-t", "20s", &url], 0);
    assert_eq!((&found["successes"], &found["errors"]), (&400.into(), &serde_json::json!({})));
}

#[test]
fn a_duration_ends_it_and_what_was_under_way_is_unfinished() {
    let (url, _) = server(|number| (number < 10).then(|| OK.into()));
    let found = json(&["-d", "300ms", "-c", "5", &url], 0);
    assert_eq!(found["partial"], false);
    assert_eq!((&found["requests"], &found["unfinished"]), (&10.into(), &5.into()));
    let duration = found["duration"].as_f64().unwrap();
    // The limit starts a moment before what is measured does.
    assert!((0.25..10.0).contains(&duration), "{found}");

    // The first limit to be reached ends it.
    let (url, _) = well();
    assert_eq!(json(&["-d", "1h", "-n", "20", &url], 0)["requests"], 20);
}

#[test]
fn a_rate_is_kept() {
    let (url, _) = well();
    let found = json(&["--rps", "100", "-n", "51", &url], 0);
    assert_eq!(found["requests"], 51);
    // Fifty periods of 10 ms between the first and the last.
    assert!(found["duration"].as_f64().unwrap() >= 0.499, "{found}");
}

#[test]
fn latency_correction_counts_from_when_requests_were_due() {
    let slow = || {
        server(|number| {
            if number == 0 {
                // A real sleep, as this test is about time.
                thread::sleep(Duration::from_millis(500));
            }
            Some(OK.into())
        })
    };
    let arguments = ["-n", "41", "-c", "1", "--rps", "100"];
    let (url, _) = slow();
    let found = json(&[&arguments[..], &["--latency-correction", &url]].concat(), 0);
    // A request due k periods after the first waits for the rest of the half second.
    assert!(found["latency"]["p50"].as_f64().unwrap() >= 0.28, "{found}");
    let (url, _) = slow();
    let found = json(&[&arguments[..], &[&url]].concat(), 0);
    assert!(found["latency"]["fastest"].as_f64().unwrap() < 0.28, "{found}");
    assert!(found["duration"].as_f64().unwrap() >= 0.85, "{found}");
}

#[test]
fn fail_on_error_says_so_in_the_status() {
    let (well, _) = well();
    json(&["-n", "5", "--fail-on-error", &well], 0);
    let (ill, _) = server(|_| Some("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".into()));
    json(&["-n", "5", &ill], 0);
    json(&["-n", "5", "--fail-on-error", &ill], 1);
    json(&["-n", "5", "--fail-on-error", "http://127.0.0.1:1/"], 1);
}

#[test]
#[cfg(target_os = "linux")]
fn a_summary_that_cannot_be_written_is_an_error_and_a_reader_who_has_gone_is_none() {
    let (url, _) = well();
    let hit = |out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hit"));
        command.args(["-n", "1", "--json", &url]).stdout(out).stderr(Stdio::piped());
        command.output().unwrap()
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = hit(full.into());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).starts_with("hit: cannot write to standard output: "),
        "{output:?}"
    );
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let output = hit(OwnedFd::from(writer).into());
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{output:?}");
}

#[test]
fn what_cannot_be_asked_for_is_one_line_and_ends_with_2() {
    let url = "http://127.0.0.1:1/";
    let cases: &[(&[&str], &str)] = &[
        (&["-n", "0", url], "n must be positive: got 0"),
        (&["-n", "-5", url], "n must be positive: got -5"),
        (&["-c", "0", url], "c must be positive: got 0"),
        (&["-c", "-1", url], "c must be positive: got -1"),
        (&["-n", "3", "-c", "4", url], "n must not be smaller than c: got 3 and 4"),
        (&["--rps", "0", url], "rps must be positive: got 0"),
        (&["--rps", "-7", url], "rps must be positive: got -7"),
        (&["--rps", "99999999999", url], "rps is too high"),
        (&["-d", "0s", url], "duration must be positive"),
        (&["-d", "-1s", url], "duration must be positive"),
        (&["-d", "soon", url], "duration is not a time: \"soon\""),
        (&["-t", "0", url], "timeout must be positive"),
        (&["-n", "many", url], "invalid value 'many' for '-n <COUNT>'"),
        (&["localhost:3000/"], "not a URL"),
        (&["localhost:3000"], "no scheme"),
        (&["/path"], "no scheme"),
        (&["http://"], "not a URL"),
        (&["http:///path"], "not a URL"),
        (&["ftp://host/"], "neither http nor https"),
        (&["http://host:99999/"], "no valid port"),
        (&["http://host:port/"], "no valid port"),
        (&["--what", url], "unexpected argument '--what'"),
        (&[url, url], "unexpected argument"),
        (&[], "the URL is missing"),
        (&["-m", "A B", url], "not a method"),
        (&["-H", "nothing", url], "not a header"),
        (&["-H", "a b: c", url], "not a header"),
        (&["-b", "@/does/not/exist", url], "the body cannot be read"),
        (&["-b", "@two\nlines", url], "the body cannot be read from \"two\\nlines\""),
        (&["--http2", "-H", "host: a b", url], "the header host is neither a host"),
        (&["-H", "content-length: 5", url], "content-length does not match the body"),
        (&["-H", "transfer-encoding: chunked", url], "transfer-encoding is for connections"),
        (&["--latency-correction", url], "needs a rate"),
    ];
    for (arguments, wanted) in cases {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        assert!(said.starts_with("hit: ") && said.contains(wanted), "{arguments:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn help_names_every_option() {
    let output = run(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let documents = include_str!("../docs/hit.md");
    for option in [
        "-n",
        "-c",
        "--rps",
        "-d",
        "--duration",
        "-t",
        "--timeout",
        "-m",
        "--method",
        "-H",
        "--header",
        "-b",
        "--body",
        "--http2",
        "--no-keepalive",
        "-k",
        "--insecure",
        "--json",
        "--latency-correction",
        "--fail-on-error",
    ] {
        assert!(text(&output.stdout).contains(option), "{option}: {output:?}");
        assert!(documents.contains(option), "docs/hit.md does not know {option}");
    }
}

#[test]
fn a_terminal_is_shown_progress_and_a_pipe_is_not() {
    let (url, _) = well();
    let piped = run(&["-d", "350ms", &url]);
    assert!(piped.stderr.is_empty(), "{piped:?}");

    let terminal = Command::new("script")
        .args(["-qec", &format!("{} -d 350ms {url}", env!("CARGO_BIN_EXE_hit")), "/dev/null"])
        .stdin(Stdio::null())
        .output();
    let Ok(terminal) = terminal else {
        println!("there is no `script` here to make a terminal");
        return;
    };
    let shown = text(&terminal.stdout);
    assert!(shown.contains("[#") && shown.contains("/s  0 errors"), "{shown}");
    // However narrow the terminal, it stays one line: its end is cut off, the next line is not.
    for line in shown.split("\r\x1b[K").filter(|line| line.contains("errors")) {
        assert!(line.starts_with("\x1b[?7l[") && line.ends_with("errors\x1b[?7h"), "{line:?}");
    }
    // It leaves nothing behind on its line.
    assert!(shown.rsplit_once("\r\x1b[K").unwrap().1.starts_with("GET http://"), "{shown}");
}

// ------------------------------------------------------------------- interrupts

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
}

/// Waits until a server has heard `requests` requests.
fn wait_for(heard: &Heard, requests: usize) {
    for _ in 0..requests {
        heard.recv_timeout(Duration::from_secs(60)).expect("a request");
    }
}

#[test]
fn an_interrupt_prints_what_was_measured_within_200_ms_as_partial() {
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        // Thirty answers, and then none: five requests are under way.
        let (url, heard) = server(|number| (number < 30).then(|| OK.into()));
        let child = hit(&["--json", "-n", "1000", "-c", "5", &url]);
        let mut child = { child }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&heard, 35);
        let began = Instant::now();
        signal(&child, name);
        let ended = child.wait().unwrap();
        let took = began.elapsed();
        let output = child.wait_with_output().unwrap();
        println!("{name}: {took:?}");
        assert!(took < Duration::from_millis(200), "{name}: {took:?}");
        assert_eq!(ended.code(), Some(status), "{output:?}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["partial"], true);
        assert_eq!((&found["requests"], &found["unfinished"]), (&30.into(), &5.into()), "{found}");
    }
}

#[test]
fn an_interrupt_at_a_slow_rate_does_not_wait_for_the_next_request() {
    let (url, heard) = well();
    let child = hit(&["-n", "1000", "--rps", "1", &url]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(&heard, 1);
    let began = Instant::now();
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stdout).starts_with("partial: interrupted"), "{output:?}");
}

#[test]
fn an_interrupt_under_load_loses_no_finished_measurement() {
    let (url, heard) = well();
    let child = hit(&["--json", "-d", "1h", "-c", "16", &url]);
    let child = { child }.stdout(Stdio::piped()).spawn().unwrap();
    wait_for(&heard, 2000);
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let arrived = 2000 + heard.try_iter().count() as u64;
    let requests = found["requests"].as_u64().unwrap();
    let unfinished = found["unfinished"].as_u64().unwrap();
    // Every request that the server heard of is one or the other; a few may have been
    // stopped before they were sent.
    assert_eq!(found["successes"], requests);
    assert!(unfinished <= 16, "{found}");
    assert!((arrived..=arrived + 16).contains(&(requests + unfinished)), "{arrived}: {found}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    // Nothing reads, and there is no room: the summary cannot be printed.
    let (_reader, mut full) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    for size in [4096, 1] {
        while full.write(&[0; 4096][..size]).is_ok() {}
    }
    full.set_nonblocking(false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut child = hit(&["-n", "1", &url]).stdout(OwnedFd::from(full)).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    next(&mut stream).expect("a request");
    signal(&child, "-INT");
    assert_eq!(next(&mut stream), None, "the first signal ends what is under way");
    let began = Instant::now();
    signal(&child, "-INT");
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(2), "{status:?}");
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}

// ------------------------------------------------------------------------ https

/// A server behind a certificate of its own, and the path of that certificate.
fn secure(protocol: &'static str) -> (String, std::path::PathBuf) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio_rustls::{TlsAcceptor, rustls};
    let names = vec!["127.0.0.1".to_string(), "localhost".to_string()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.key_pair.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![protocol.into()];
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let url = format!("https://{at}/");
    let file = std::env::temp_dir().join(format!("quell-hit-{}.pem", at.port()));
    std::fs::write(&file, made.cert.pem()).unwrap();
    let serve = async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let agreed = stream.get_ref().1.alpn_protocol() == Some(protocol.as_bytes());
                assert!(agreed, "no agreement on {protocol}");
                let service = hyper::service::service_fn(|_: hyper::Request<_>| async {
                    Ok::<_, std::convert::Infallible>(hyper::Response::new("hello".to_string()))
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(serve);
    });
    (url, file)
}

#[test]
fn https_takes_a_certificate_that_is_trusted_and_any_where_that_is_asked_for() {
    for (protocol, options) in [("http/1.1", &[][..]), ("h2", &["--http2"][..])] {
        let (url, certificate) = secure(protocol);
        let arguments = |more: &[&'static str]| {
            let mut all: Vec<String> = vec!["--json".into(), "-n".into(), "9".into()];
            all.extend(["-c", "3"].iter().chain(options).chain(more).map(ToString::to_string));
            all.push(url.clone());
            all
        };
        let find = |more: &[&'static str], trusted: &std::path::Path| -> Value {
            let output = hit(&[]).args(arguments(more)).env("SSL_CERT_FILE", trusted).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            serde_json::from_slice(&output.stdout).unwrap()
        };
        // Its own certificate is trusted.
        let found = find(&[], &certificate);
        assert_eq!((&found["successes"], &found["bytes"]), (&9.into(), &45.into()), "{found}");
        // Another server's is.
        let (_, other) = secure("other");
        let found = find(&[], &other);
        assert_eq!(found["errors"], serde_json::json!({ "tls": 9 }), "{found}");
        // With `-k`, any certificate is taken.
        for insecure in ["-k", "--insecure"] {
            assert_eq!(find(&[insecure], &other)["successes"], 9);
        }
        for file in [certificate, other] {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn https_with_a_server_that_speaks_no_http2_is_an_error_of_tls() {
    let (url, certificate) = secure("http/1.1");
    let found = json(&["-n", "3", "-k", "--http2", &url], 0);
    assert_eq!(found["errors"], serde_json::json!({ "tls": 3 }), "{found}");
    let _ = std::fs::remove_file(certificate);
}
