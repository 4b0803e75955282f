//! `hit`: requests to a server, and what was measured of them.
//!
//! It ends with 0 when it has sent what it was to send; with 1 if requests failed under
//! `--fail-on-error`, if the summary cannot be written, or if a thread panicked; with 2 if it
//! cannot do what it was asked for; and with 128 plus the number of the signal that interrupted it.

// | file | what it is |
// |---|---|
// | `args` | the command line |
// | `run` | threads that send, and one that waits for them |
// | `progress` | a line that a terminal shows meanwhile |
// | `text`, `json` | the summary, for people and for programs |

mod args;
mod json;
mod progress;
mod run;
mod text;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::Args::parse() {
        Ok(args) => args,
        Err(args::Exit::Help(help)) => {
            return if print(&help) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(args::Exit::Usage(problem)) => return usage(&problem),
    };
    let done = match run::run(&args) {
        Ok(done) => done,
        Err(problem) => return usage(&problem),
    };
    let printed = print(&if args.json { json::of(&args, &done) } else { text::of(&args, &done) });
    let failed = done.summary.successes() < done.summary.requests();
    // Not by returning: a name that is still being looked up must not hold this up.
    std::process::exit(match done.interrupted {
        Some(status) => status,
        None if args.fail_on_error && (failed || done.summary.requests() == 0) => 1,
        None if !printed => 1,
        None => 0,
    })
}

fn usage(problem: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "hit: {problem}");
    ExitCode::from(2)
}

/// Returns whether it was written. A reader that has gone is not an error.
fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "hit: cannot write to standard output: {error}");
            false
        }
        _ => true,
    }
}
