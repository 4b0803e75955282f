//! How to check: which schedules, which injections, how much of it.

use super::engine::Limits;
use super::exploration::{self, Plan};
use super::inject::{Inject, Injections};
use super::report::Report;
use super::strategy::{Both, Bytes, Exhaustive, Pct, Random, Share, Strategy};
use super::subject::{Code, Subject};
use super::token::{ReplayError, Token};
use crate::context::Context;
use std::panic::Location;
use std::time::Duration;

/// The default limits.
pub(super) const USUAL: Limits =
    Limits { steps: 10_000, points: 1_000, stop_within: 1_000_000_000, after_turns: false };

/// # Panics
///
/// When `number` is zero.
#[track_caller]
fn require_some(number: impl Into<u64>, what: &str) {
    assert!(number.into() > 0, "quell: zero {what}s check nothing; pass 1 or more");
}

const SEED: u64 = 0x5EED;
const SCHEDULES: u64 = 100_000;

/// Runs a body again and again, each time under another schedule, with the injection (a cancel,
/// unless [`inject`](Checker::inject) says otherwise) at another point.
///
/// ```
/// use quell::check::Checker;
/// use quell::{Context, rt};
/// use std::time::Duration;
///
/// async fn my_code(ctx: Context) {
///     let _ = ctx.run(rt::sleep(Duration::from_secs(5))).await;
/// }
///
/// Checker::new().run(my_code).assert_clean();
/// ```
#[derive(Clone, Debug)]
#[must_use = "a checker checks nothing until it is run"]
pub struct Checker {
    how: How,
    injections: Vec<Inject>,
    delays: u32,
    schedules: Option<u64>,
    pub(super) limits: Limits,
    stop_at_first: bool,
    must_be_complete: bool,
    shard: (u64, u64),
    patience: Duration,
}

#[derive(Clone, Debug)]
enum How {
    Usual,
    Exhaustive,
    Random {
        seed: u64,
        schedules: u64,
    },
    Pct {
        seed: u64,
        depth: u32,
        schedules: u64,
    },
    Bytes(Vec<u8>),
    Replay(Result<Token, ReplayError>),
    #[cfg(feature = "tokio")]
    Tokio,
}

impl Default for Checker {
    fn default() -> Self {
        Checker::new()
    }
}

/// Which schedules to run.
impl Checker {
    /// Creates a checker that tries every schedule within two delays, then some at random.
    pub fn new() -> Checker {
        Checker::of(How::Usual)
    }

    /// Creates a checker that tries every schedule within two delays, or as many as
    /// [`max_delays`](Checker::max_delays) says.
    pub fn exhaustive() -> Checker {
        Checker::of(How::Exhaustive)
    }

    /// Creates a checker that tries `schedules` random schedules: the same for the same seed.
    ///
    /// # Panics
    ///
    /// When `schedules` is zero.
    #[track_caller]
    pub fn random(seed: u64, schedules: u64) -> Checker {
        require_some(schedules, "schedule");
        Checker::of(How::Random { seed, schedules })
    }

    /// Creates a checker that tries `schedules` schedules by random priorities that change
    /// `depth - 1` times: good at bugs that need a few things in one order, among many tasks.
    /// `depth` is clamped to between 1 and 1,000.
    ///
    /// # Panics
    ///
    /// When `schedules` is zero.
    #[track_caller]
    pub fn pct(seed: u64, depth: u32, schedules: u64) -> Checker {
        require_some(schedules, "schedule");
        Checker::of(How::Pct { seed, depth, schedules })
    }

    /// Creates a checker for the one schedule that `bytes` describe, as a fuzzer needs it.
    pub fn bytes(bytes: &[u8]) -> Checker {
        Checker::of(How::Bytes(bytes.to_vec()))
    }

    /// Creates a checker for the one schedule of a violation's token. Running it panics if the
    /// token does not fit; [`try_replay`](Checker::try_replay) returns an error instead.
    pub fn replay(token: &str) -> Checker {
        Checker::of(How::Replay(Token::parse(token)))
    }

    /// Creates a checker that runs the body on a real tokio runtime, with one thread and a paused
    /// clock. The body may use all of tokio. There is one schedule; the injection comes at each
    /// look at the context and at each poll of the body's own future. A leak is what the runtime
    /// still counts as alive. A violation names the injection's point and the line where the body
    /// waits; its token injects there again. See also its
    /// [limits](crate::guide::checker#on-a-real-tokio).
    ///
    /// Running it inside a runtime (`#[tokio::test]`) panics: tokio does not allow that.
    #[cfg(feature = "tokio")]
    pub fn tokio() -> Checker {
        Checker::of(How::Tokio)
    }

    fn of(how: How) -> Checker {
        Checker {
            how,
            injections: vec![Inject::Cancel],
            delays: 2,
            schedules: None,
            limits: USUAL,
            stop_at_first: false,
            must_be_complete: false,
            shard: (1, 1),
            patience: Duration::from_secs(10),
        }
    }
}

/// How much to check.
impl Checker {
    /// Sets what befalls the body: [`Inject::Cancel`] unless this is called. Each of several
    /// injections has its own schedules.
    ///
    /// # Panics
    ///
    /// When `injections` is empty.
    #[track_caller]
    pub fn inject(mut self, injections: impl Into<Injections>) -> Checker {
        self.injections = injections.into().0;
        assert!(
            !self.injections.is_empty(),
            "quell: `inject` of no injection checks nothing; pass `Inject::None` for schedules alone"
        );
        self
    }

    /// Sets how many delays a schedule may have in an exhaustive search, and in the first part of
    /// the usual one: two unless this is called.
    pub fn max_delays(mut self, delays: u32) -> Checker {
        self.delays = delays;
        self
    }

    /// Sets the maximum number of schedules, over all injections: 100,000 unless this is called, or
    /// as many as [`random`](Checker::random) and [`pct`](Checker::pct) were given.
    ///
    /// # Panics
    ///
    /// When `schedules` is zero.
    #[track_caller]
    pub fn max_schedules(mut self, schedules: u64) -> Checker {
        require_some(schedules, "schedule");
        self.schedules = Some(schedules);
        self
    }

    /// Sets the maximum number of polls in a schedule, counted anew after the injection: 10,000
    /// unless this is called.
    ///
    /// # Panics
    ///
    /// When `steps` is zero.
    #[track_caller]
    pub fn max_steps(mut self, steps: u32) -> Checker {
        require_some(steps, "step");
        self.limits.steps = steps;
        self
    }

    /// Sets at how many points the injection is tried at most: 1,000 unless this is called.
    ///
    /// # Panics
    ///
    /// When `points` is zero.
    #[track_caller]
    pub fn max_points(mut self, points: u32) -> Checker {
        require_some(points, "point");
        self.limits.points = points;
        self
    }

    /// Sets how much virtual time everything has to stop: one second unless this is called. It
    /// counts from the injection; for a panic, and where none comes, from the end of the body.
    pub fn stop_within(mut self, time: Duration) -> Checker {
        self.limits.stop_within = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// Stops at the first violation.
    pub fn stop_at_first(mut self) -> Checker {
        self.stop_at_first = true;
        self
    }

    /// Makes a report that a maximum has cut short not clean.
    pub fn require_complete(mut self) -> Checker {
        self.must_be_complete = true;
        self
    }

    /// Runs only one part of all the schedules: `part`, from 1 to `of`. The parts are disjoint and
    /// together are the whole: a single schedule is in the first. A part is never reported as
    /// vacuous. The schedule of a token is run whatever the part.
    ///
    /// # Panics
    ///
    /// When there is no such part.
    #[track_caller]
    pub fn shard(mut self, part: u64, of: u64) -> Checker {
        assert!(
            part >= 1 && part <= of,
            "quell: there is no part {part} of {of}; `shard(i, n)` wants 1 ≤ i ≤ n"
        );
        self.shard = (part, of);
        self
    }

    /// Calls the functions at the end of a context ([`after_func`](Context::after_func)) after the
    /// current turn, rather than within it, if the injection comes at a look in the middle of a
    /// turn. This is for a body that looks at its context while it holds a lock of `std` that such
    /// a function takes. In production the thread that cancels waits for that lock; a checker has
    /// one thread and would wait for ever.
    ///
    /// Do not use it otherwise: it hides a notification that such a function gives too soon,
    /// between a look and the wait after it.
    ///
    /// ```
    /// # use quell::{Context, check::Checker};
    /// # use std::sync::{Arc, Mutex};
    /// async fn drains(ctx: Context) {
    ///     let queue = Arc::new(Mutex::new(vec![1, 2, 3]));
    ///     let clears = queue.clone();
    ///     ctx.after_func(move || clears.lock().unwrap().clear());
    ///     let mut queue = queue.lock().unwrap();
    ///     while !ctx.is_done() && queue.pop().is_some() {}
    /// }
    ///
    /// Checker::new().functions_after_turns().run(drains).assert_clean();
    /// ```
    pub fn functions_after_turns(mut self) -> Checker {
        self.limits.after_turns = true;
        self
    }

    /// Sets how long one poll of a task may take, by the system's clock, before the process is
    /// ended with a message that names the task: ten seconds unless this is called. `Duration::MAX`
    /// sets no limit.
    ///
    /// # Panics
    ///
    /// When `patience` is zero.
    #[track_caller]
    pub fn patience(mut self, patience: Duration) -> Checker {
        assert!(
            !patience.is_zero(),
            "quell: a patience of zero would end the process at the first poll; pass how long one \
             may take, or `Duration::MAX`"
        );
        self.patience = patience;
        self
    }
}

/// Running the check.
impl Checker {
    /// Checks `body`: calls it for each schedule, with a context of its own, and runs the future
    /// that it returns.
    ///
    /// The body must make the same choices whenever it sees the same things. Its own future need
    /// not be `Send`.
    ///
    /// # Panics
    ///
    /// When a token to be replayed does not fit: see [`ReplayError`]. For [`Checker::tokio`], inside
    /// a runtime; for all others, inside a runtime on which the body spawns a task.
    #[track_caller]
    pub fn run<F, Fut>(&self, body: F) -> Report
    where
        F: Fn(Context) -> Fut,
        Fut: Future,
    {
        match self.attempt(&Code::new(&body), Location::caller()) {
            Ok(report) => report,
            Err(error) => panic!("quell: {error}"),
        }
    }

    /// Replays the schedule of a token with `body`.
    ///
    /// # Errors
    ///
    /// When `token` is malformed, is of another version, or does not fit this body.
    ///
    /// # Panics
    ///
    /// Inside a runtime, as [`run`](Checker::run) does.
    #[track_caller]
    pub fn try_replay<F, Fut>(token: &str, body: F) -> Result<Report, ReplayError>
    where
        F: Fn(Context) -> Fut,
        Fut: Future,
    {
        let checker = Checker::of(How::Replay(Ok(Token::parse(token)?)));
        checker.attempt(&Code::new(&body), Location::caller())
    }

    #[track_caller]
    fn attempt(
        &self,
        body: &dyn Subject,
        asked_at: &'static Location<'static>,
    ) -> Result<Report, ReplayError> {
        // Panics are raised here and not in a closure, so that they name the caller's line.
        #[cfg(feature = "tokio")]
        if self.is_on_tokio() {
            super::on_tokio::require_a_free_thread();
            return super::on_tokio::without_a_budget(|| self.go(body, asked_at));
        }
        #[cfg(feature = "tokio")]
        {
            let apart = || super::apart::from_tokio(|| self.go(body, asked_at));
            let report = super::on_tokio::without_a_budget(apart)?;
            super::apart::require_no_strays(&report);
            Ok(report)
        }
        #[cfg(not(feature = "tokio"))]
        self.go(body, asked_at)
    }

    #[cfg(feature = "tokio")]
    fn is_on_tokio(&self) -> bool {
        match &self.how {
            How::Tokio => true,
            How::Replay(Ok(token)) => token.tokio.is_some(),
            _ => false,
        }
    }

    fn go(
        &self,
        body: &dyn Subject,
        asked_at: &'static Location<'static>,
    ) -> Result<Report, ReplayError> {
        let mut plan = Plan {
            limits: self.limits,
            stop_at_first: self.stop_at_first,
            must_be_complete: self.must_be_complete,
            shard: self.shard,
            patience: self.patience,
            asked_at,
            single: false,
        };
        match &self.how {
            #[cfg(feature = "tokio")]
            How::Tokio => {
                let most = |nth: u64| self.share_of(self.schedules.unwrap_or(SCHEDULES), nth);
                Ok(super::on_tokio::explore(&plan, &self.injections, &most, body))
            }
            How::Replay(Err(error)) => Err(error.clone()),
            How::Replay(Ok(token)) => {
                (plan.limits, plan.shard) = (token.limits(self.limits), (1, 1));
                #[cfg(feature = "tokio")]
                if let Some(target) = token.tokio {
                    return super::on_tokio::replay(&plan, token, target, body);
                }
                #[cfg(not(feature = "tokio"))]
                if token.tokio.is_some() {
                    let why =
                        "it is of `Checker::tokio`, and the feature `tokio` is off".to_string();
                    return Err(ReplayError::Malformed { why });
                }
                exploration::replay(&plan, token, body)
            }
            How::Bytes(bytes) => {
                plan.single = true;
                let kinds = &self.injections;
                // There is one schedule: with several injections, the first byte says which.
                let (kind, bytes) = match (kinds.len(), bytes.split_first()) {
                    (1, _) | (_, None) => (kinds[0], &bytes[..]),
                    (n, Some((first, rest))) => (kinds[usize::from(*first) % n], rest),
                };
                let is_first = self.shard.0 == 1;
                let strategy = |_, _| Box::new(Bytes::new(bytes, is_first)) as Box<dyn Strategy>;
                Ok(exploration::explore(&plan, &[kind], &strategy, body))
            }
            how => {
                let strategy = |kind: Inject, nth: u64| self.strategy(how, kind, nth);
                Ok(exploration::explore(&plan, &self.injections, &strategy, body))
            }
        }
    }

    /// The `nth` injection's share of all schedules.
    fn share_of(&self, all: u64, nth: u64) -> u64 {
        let several = self.injections.len() as u64;
        all / several + u64::from(nth < all % several)
    }

    /// The strategy for the `nth` injection's share of the schedules.
    fn strategy(&self, how: &How, kind: Inject, nth: u64) -> Box<dyn Strategy> {
        let (part, of) = (self.shard.0 - 1, self.shard.1);
        let share = |limit: u64| Share { part, of, limit: self.share_of(limit, nth) };
        let all = share(self.schedules.unwrap_or(SCHEDULES));
        let most = self.schedules.unwrap_or(u64::MAX);
        let farthest = self.limits.points;
        match *how {
            How::Random { seed, schedules } => {
                let share = share(schedules.min(most));
                Box::new(Random::new(seed, share, farthest, most < schedules))
            }
            How::Pct { seed, depth, schedules } => {
                let share = share(schedules.min(most));
                Box::new(Pct::new(seed, depth, share, farthest, most < schedules))
            }
            How::Exhaustive => Box::new(Exhaustive::new(self.delays, kind.is_any(), all)),
            _ => Box::new(Both::new(self.delays, kind.is_any(), SEED, all, farthest)),
        }
    }
}
