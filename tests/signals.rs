//! Real signals to a real process: this test starts itself as a child, in one
//! of the roles below, and sends it what a user would.
#![cfg(all(unix, not(loom)))]

use quell::{Canceller, Context, Done, signal};
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

const ROLE: &str = "QUELL_SIGNAL_TEST_ROLE";

/// An error that panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl std::fmt::Display for Bomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb");
    }
}

/// A waker that drops all that is left of a context except what woke it.
struct LetsGo(Mutex<Option<(Context, Canceller, Done)>>);

impl Wake for LetsGo {
    fn wake(self: Arc<Self>) {
        let held = self.0.lock().unwrap().take();
        drop(held);
    }
}

/// What the child does. It prints a line at each step.
fn play(role: &str) {
    if role == "no file is to be had at first" {
        let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let failed = std::panic::catch_unwind(|| drop(signal::interrupt(&Context::background())));
        assert!(failed.is_err(), "there was one");
        drop(files);
        return play("waits");
    }
    let (ctx, canceller) = signal::interrupt(&Context::background());
    println!("ready");
    match role {
        "waits" => {
            ctx.wait();
            let cause = ctx.cause().unwrap();
            let interrupted = cause.downcast_ref::<signal::Interrupted>().unwrap();
            println!("{cause}, {}", interrupted.exit_status());
        }
        "hangs" => {
            ctx.wait();
            println!("hanging");
            Context::background().wait();
        }
        "has ended" => {
            canceller.cancel();
            println!("ended");
            Context::background().wait();
        }
        "is gone" => {
            let stopped = ctx.after_func(|| {});
            stopped.stop();
            canceller.detach();
            drop(ctx);
            println!("gone");
            // Not for ever, in case nothing ends it.
            Context::background().wait_timeout(Duration::from_secs(20));
        }
        "is there only for another" => {
            let (below, _canceller) = ctx.with_cancel();
            canceller.detach();
            drop(ctx);
            println!("waiting");
            println!("{:?}", below.wait_timeout(Duration::from_secs(10)));
        }
        "one of two has ended" => {
            let (other, _canceller) = signal::interrupt(&Context::background());
            canceller.cancel();
            println!("ended");
            other.wait();
            println!("{}", other.cause().unwrap());
        }
        "one waits for the other" => {
            let (other, _canceller) = signal::interrupt(&Context::background());
            let (tell, told) = mpsc::channel();
            ctx.after_func(move || tell.send(other.wait_timeout(Duration::from_secs(10))).unwrap());
            println!("waiting");
            println!("{:?}", told.recv().unwrap());
        }
        "a function waits for the second" => {
            let (tell, told) = mpsc::channel();
            ctx.after_func(move || {
                let (again, _canceller) = signal::interrupt(&Context::background());
                println!("hurry me");
                again.wait_timeout(Duration::from_secs(10));
                tell.send(again.cause()).unwrap();
            });
            println!("waiting");
            println!("{}", told.recv().unwrap().expect("the second signal came"));
        }
        "an error explodes" => {
            let (below, canceller) = ctx.with_timeout_cause(Duration::from_secs(3600), Bomb);
            let (mut done, lets_go) = (below.done(), Arc::new(LetsGo(Mutex::new(None))));
            let waker = Waker::from(lets_go.clone());
            let mut cx = std::task::Context::from_waker(&waker);
            assert!(Pin::new(&mut done).poll(&mut cx).is_pending());
            *lets_go.0.lock().unwrap() = Some((below, canceller, done));
            println!("waiting");
            ctx.wait();
            let (again, _canceller) = signal::interrupt(&Context::background());
            println!("once more");
            println!("{:?}", again.wait_timeout(Duration::from_secs(10)));
        }
        "no thread is to be had" => {
            canceller.cancel();
            // Until there is no room for the stack of another.
            let parked = || thread::Builder::new().spawn(thread::park).is_ok();
            while parked() {}
            let (timed, _timed) = Context::background().with_timeout(Duration::from_secs(3600));
            let failed = std::panic::catch_unwind(|| drop(signal::interrupt(&timed)));
            println!("{}", if failed.is_err() { "failed" } else { "there was one" });
            // Not for ever, in case nothing ends it.
            Context::background().wait_timeout(Duration::from_secs(20));
        }
        _ => unreachable!(),
    }
}

struct Played {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Played {
    fn start(role: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        Played::started(role, &mut Command::new(program))
    }

    /// With four gigabytes of memory, of which a thread takes one.
    fn start_with_few_threads(role: &str) -> Self {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -v 4194304; exec \"$0\" \"$@\""]);
        limited.arg(std::env::current_exe().unwrap()).env("RUST_MIN_STACK", (1 << 30).to_string());
        Played::started(role, &mut limited)
    }

    /// With few files, some of which are needed to listen to signals.
    fn start_with_few_files(role: &str) -> Self {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""]);
        limited.arg(std::env::current_exe().unwrap());
        Played::started(role, &mut limited)
    }

    fn started(role: &str, program: &mut Command) -> Self {
        let mut child = program
            .args(["a_child_plays_its_role", "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut played = Played { child, lines };
        played.until("ready");
        played
    }

    /// Reads on until a line ends with `wanted`.
    fn until(&mut self, wanted: &str) {
        let found = self.lines.by_ref().any(|line| line.unwrap().ends_with(wanted));
        assert!(found, "the child ended without saying {wanted:?}");
    }

    fn send(&self, signal: &str) {
        let kill = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }

    fn end(mut self) -> ExitStatus {
        // To the end of its output, so that the child never waits for a reader.
        self.lines.by_ref().for_each(drop);
        self.child.wait().unwrap()
    }
}

#[test]
fn a_child_plays_its_role() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role);
    }
}

#[test]
fn the_first_sigint_ends_the_context_and_names_itself() {
    let mut child = Played::start("waits");
    child.send("-INT");
    child.until("interrupted by SIGINT, 130");
    assert!(child.end().success());
}

#[test]
fn the_first_sigterm_ends_the_context_and_names_itself() {
    let mut child = Played::start("waits");
    child.send("-TERM");
    child.until("interrupted by SIGTERM, 143");
    assert!(child.end().success());
}

#[test]
fn the_second_signal_ends_a_process_that_hangs() {
    for (signal, number) in [("-INT", 2), ("-TERM", 15)] {
        let mut child = Played::start("hangs");
        child.send("-INT");
        child.until("hanging");
        child.send(signal);
        assert_eq!(child.end().signal(), Some(number), "what a shell reports as 128 + {number}");
    }
}

#[test]
fn once_the_context_has_ended_otherwise_a_signal_acts_as_by_default() {
    let mut child = Played::start("has ended");
    child.until("ended");
    child.send("-TERM");
    assert_eq!(child.end().signal(), Some(15));
}

#[test]
fn once_the_context_is_gone_without_an_end_a_signal_acts_as_by_default() {
    let mut child = Played::start("is gone");
    child.until("gone");
    child.send("-TERM");
    assert_eq!(child.end().signal(), Some(15));
}

#[test]
fn a_context_that_is_there_only_for_one_below_it_hears_of_signals() {
    let mut child = Played::start("is there only for another");
    child.until("waiting");
    child.send("-INT");
    child.until("Some(Cancelled)");
    assert!(child.end().success());
}

#[test]
fn a_context_that_waits_for_a_signal_is_not_kept_alive_by_that() {
    let (parent, _canceller) = Context::background().with_timeout(Duration::from_secs(3600));
    let held = Arc::new(());
    for _ in 0..100 {
        let (ctx, canceller) = signal::interrupt(&parent.with_value(held.clone()));
        canceller.detach();
        assert!(!ctx.is_done());
    }
    assert!(parent.tree().is_empty(), "{}", parent.tree());
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn a_context_that_still_waits_is_not_left_to_the_default_by_one_that_has_ended() {
    let mut child = Played::start("one of two has ended");
    child.until("ended");
    child.send("-INT");
    child.until("interrupted by SIGINT");
    assert!(child.end().success());
}

#[test]
fn a_signal_ends_every_context_before_any_function_at_the_end_of_one_runs() {
    let mut child = Played::start("one waits for the other");
    child.until("waiting");
    child.send("-INT");
    child.until("Some(Cancelled)");
    assert!(child.end().success());
}

#[test]
fn a_function_at_the_end_of_one_context_may_wait_for_the_signal_that_ends_the_next() {
    let mut child = Played::start("a function waits for the second");
    child.until("waiting");
    child.send("-INT");
    child.until("hurry me");
    child.send("-TERM");
    child.until("interrupted by SIGTERM");
    assert!(child.end().success());
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_that_fails_half_way_leaves_signals_to_the_default() {
    let mut child = Played::start_with_few_threads("no thread is to be had");
    child.until("failed");
    child.send("-TERM");
    assert_eq!(child.end().signal(), Some(15));
}

#[test]
fn an_interrupt_that_failed_may_be_tried_again_and_its_first_signal_is_the_first() {
    let mut child = Played::start_with_few_files("no file is to be had at first");
    child.send("-INT");
    child.until("interrupted by SIGINT, 130");
    assert!(child.end().success());
}

#[test]
fn whatever_explodes_at_one_signal_the_next_is_heard() {
    let mut child = Played::start("an error explodes");
    child.until("waiting");
    child.send("-INT");
    child.until("once more");
    child.send("-INT");
    child.until("Some(Cancelled)");
    assert!(child.end().success());
}

#[test]
fn a_signal_came_from_the_line_that_asked_to_be_interrupted() {
    let (ctx, _canceller) = quell::signal::interrupt(&Context::background());
    let line = line!() - 1;
    let kill = Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(ctx.wait_timeout(Duration::from_secs(10)), Some(quell::ContextError::Cancelled));
    let origin = ctx.cause().unwrap().origin().expect("a line of this file");
    assert_eq!((origin.file(), origin.line()), (file!(), line));
}
