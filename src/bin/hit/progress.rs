//! A line that a terminal shows while requests are being sent.

use super::run::Live;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WIDTH: usize = 30;

/// Between these, a terminal that is too narrow cuts the line off instead of breaking it: only a
/// single line can be cleared.
const CUT_OFF: &str = "\x1b[?7l";
const BREAK: &str = "\x1b[?7h";

pub(crate) struct Progress {
    n: Option<usize>,
    duration: Option<Duration>,
    began: Instant,
    live: Vec<Arc<Live>>,
    /// When it was shown last, and the number of requests then.
    last: (Instant, u64),
    terminal: bool,
}

impl Progress {
    /// How often it changes.
    pub(crate) const EVERY: Duration = Duration::from_millis(100);

    pub(crate) fn new(
        n: Option<usize>,
        duration: Option<Duration>,
        began: Instant,
        live: Vec<Arc<Live>>,
    ) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { n, duration, began, live, last: (began, 0), terminal }
    }

    pub(crate) fn show(&mut self) {
        if !self.terminal {
            return;
        }
        // Relaxed: they guard nothing.
        let requests: u64 =
            self.live.iter().map(|live| live.requests.load(Ordering::Relaxed)).sum();
        let errors: u64 = self.live.iter().map(|live| live.errors.load(Ordering::Relaxed)).sum();
        let now = Instant::now();
        let rate = (requests - self.last.1) as f64 / (now - self.last.0).as_secs_f64().max(1e-9);
        self.last = (now, requests);
        let by_count = self.n.map_or(0.0, |n| requests as f64 / n as f64);
        let elapsed = now - self.began;
        let by_time = self.duration.map_or(0.0, |all| elapsed.as_secs_f64() / all.as_secs_f64());
        let part = by_count.max(by_time).clamp(0.0, 1.0);
        let full = (part * WIDTH as f64) as usize;
        let (bar, rest) = ("#".repeat(full), "-".repeat(WIDTH - full));
        let line = format!(
            "\r\x1b[K{CUT_OFF}[{bar}{rest}] {:3.0} %  {requests} requests  {rate:.0}/s  {errors} errors{BREAK}",
            part * 100.0
        );
        self.write(&line);
    }

    /// Clears the line, for what is printed next.
    pub(crate) fn clear(&self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, line: &str) {
        let mut err = std::io::stderr();
        let _ = err.write_all(line.as_bytes());
        let _ = err.flush();
    }
}
