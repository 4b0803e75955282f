//! Letting items through at a rate.
//!
//! # Invariants
//!
//! 1. Item `k` of a run is due `k` periods after its beginning, computed anew for each `k`: no
//!    rounding adds up.
//! 2. Lateness is the throttle's own (its timer rang late) or was earned in a pause (no input, or
//!    no room). The first is made up in full, the second up to `burst - 1` periods: then a new run
//!    begins. Waits too brief to be a pause are made up too, until all of them since it was last in
//!    time come to one.
//! 3. Nothing goes through before it is due.

use super::engine::StageResult;
use super::report::StageEnd;
use super::stages::{noting, reader_gone};
use super::tally::Tally;
use crate::channel::{Receiver, Sender};
use crate::rt::{self, Turn};
use crate::sync::planted::{Break, skip};
use std::time::{Duration, Instant};

/// A wait shorter than a timer can tell is no pause by itself: tasks wait for each other's turns.
const RESOLUTION: Duration = Duration::from_millis(1);

/// How many items may go through in which time, and how many at once after a pause.
///
/// ```
/// use quell::Rate;
/// use std::time::Duration;
///
/// let steady = Rate::per_second(50);
/// assert_eq!(steady, Rate::every(Duration::from_millis(20)));
/// let bursty = steady.burst(5);
/// # let _ = bursty;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// So many items in so much time.
    items: u32,
    time: Duration,
    burst: u32,
}

impl Rate {
    /// Allows `n` items a second.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    #[track_caller]
    pub const fn per_second(n: u32) -> Rate {
        assert!(n > 0, "quell: at a rate of zero nothing goes through; pass 1 or more a second");
        Rate { items: n, time: Duration::from_secs(1), burst: 1 }
    }

    /// Allows one item in every `period`.
    ///
    /// # Panics
    ///
    /// When `period` is zero.
    #[track_caller]
    pub const fn every(period: Duration) -> Rate {
        assert!(
            !period.is_zero(),
            "quell: a period of zero is no limit; leave the throttle out, or pass a period above zero"
        );
        Rate { items: 1, time: period, burst: 1 }
    }

    /// Allows up to `n` items at once after a pause; the default is 1.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    #[must_use = "this returns the rate with the change"]
    #[track_caller]
    pub const fn burst(self, n: u32) -> Rate {
        assert!(n > 0, "quell: a burst of zero lets nothing through; pass 1 or more");
        Rate { burst: n, ..self }
    }

    /// How long `k` periods are. `None`: longer than the clock can tell.
    fn periods(&self, k: u64) -> Option<Duration> {
        let nanos = self.time.as_nanos().checked_mul(u128::from(k))? / u128::from(self.items);
        let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
        Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
    }

    /// How many whole periods fit in a timer's millisecond.
    pub(super) fn per_millisecond(&self) -> usize {
        let items = u128::from(self.items) * RESOLUTION.as_nanos() / self.time.as_nanos();
        usize::try_from(items).unwrap_or(usize::MAX)
    }

    /// The task of a throttle.
    pub(super) fn throttle<T: Send + 'static>(
        self,
        mut tally: Tally,
        mut input: Receiver<T>,
        sender: Sender<T>,
    ) -> impl Future<Output = StageResult> + Send + use<T> {
        let place = tally.place();
        async move {
            let mut schedule: Option<Schedule> = None;
            let mut turn = Turn::begin();
            loop {
                let before = rt::now();
                // Time that passes without a wait is the throttle's own.
                let (item, waited_for_item) = noting(input.recv_at(place)).await;
                let Some(item) = item else { return Ok(StageEnd::Completed) };
                tally.receive();
                let now = rt::now();
                let schedule = schedule.get_or_insert_with(|| Schedule::new(self, now));
                if waited_for_item {
                    schedule.paused(before, now);
                }
                let sleeps = !schedule.is_due(now);
                if sleeps {
                    rt::Sleep::new(schedule.due(), place).await;
                }
                let before = rt::now();
                let (sent, waited_for_room) = noting(sender.send_at(item, place)).await;
                if sent.is_err() {
                    return reader_gone(input, sent);
                }
                tally.pass_on(1);
                if waited_for_room {
                    // It waited for room: this item is the first of what the pause has earned.
                    schedule.paused(before, rt::now());
                }
                schedule.gone();
                // Others had their turn while it waited: a rest would only make it late.
                if waited_for_item || sleeps || waited_for_room {
                    turn = Turn::begin();
                } else if turn.is_over() {
                    turn = turn.rest().await;
                }
            }
        }
    }
}

impl PartialEq for Rate {
    /// Whether both let the same through.
    fn eq(&self, other: &Rate) -> bool {
        let per = |rate: &Rate, other: &Rate| rate.time.as_nanos() * u128::from(other.items);
        per(self, other) == per(other, self) && self.burst == other.burst
    }
}

impl Eq for Rate {}

/// When the next item is due.
struct Schedule {
    rate: Rate,
    /// When the first item of this run was due, and how many have gone since.
    began: Instant,
    gone: u64,
    /// How much of its lateness comes from waits too brief to be a pause.
    brief: Duration,
}

impl Schedule {
    fn new(rate: Rate, now: Instant) -> Self {
        Schedule { rate, began: now, gone: 0, brief: Duration::ZERO }
    }

    fn due(&self) -> Option<Instant> {
        self.began.checked_add(self.rate.periods(self.gone)?)
    }

    /// Whether the next item may go now. If not, it will not be late.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if !is_due {
            self.in_time();
        }
        is_due
    }

    fn gone(&mut self) {
        self.gone += 1;
    }

    /// It is not late.
    fn in_time(&mut self) {
        self.brief = Duration::ZERO;
    }

    /// Between these two times nothing could be done, and the next item has not gone: invariant 2.
    fn paused(&mut self, from: Instant, to: Instant) {
        let Some(due) = self.due() else { return };
        if to <= due {
            return self.in_time();
        }
        self.brief += to - from.max(due);
        if to - from < RESOLUTION && self.brief < RESOLUTION {
            return;
        }
        let late = to - due;
        let own = late.saturating_sub(std::mem::take(&mut self.brief));
        let earned = self.rate.periods(u64::from(self.rate.burst - 1)).unwrap_or(Duration::MAX);
        let keep = own.max(late.min(earned));
        if keep < late && !skip(Break::PauseEarnsAll) {
            self.began = to.checked_sub(keep).unwrap_or(to);
            self.gone = 0;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// One item in ten milliseconds: the first has gone, at this time.
    fn every_ten() -> (Schedule, Instant) {
        let began = rt::now();
        let mut schedule = Schedule::new(Rate::every(Duration::from_millis(10)), began);
        assert!(schedule.is_due(began));
        schedule.gone();
        (schedule, began)
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn as_many_fit_behind_a_throttle_as_its_rate_has_in_a_millisecond() {
        let rates = [Rate::per_second(7), Rate::per_second(999), Rate::per_second(20_000)];
        assert_eq!(rates.map(|rate| rate.per_millisecond()), [0, 0, 20]);
        assert_eq!(Rate::every(Duration::from_nanos(1)).per_millisecond(), 1_000_000);
        assert_eq!(Rate::every(Duration::MAX).per_millisecond(), 0);
    }

    #[test]
    fn brief_waits_that_come_to_a_pause_are_one() {
        let (mut schedule, began) = every_ten();
        schedule.paused(began + micros(10_000), began + micros(10_600));
        assert_eq!(schedule.due(), Some(began + micros(10_000)), "this one alone is none");
        schedule.gone();
        schedule.paused(began + micros(20_000), began + micros(20_600));
        assert_eq!(schedule.due(), Some(began + micros(20_600)), "1.2 ms in all");
    }

    #[test]
    fn brief_waits_are_forgotten_when_an_item_is_in_time() {
        for sleeps in [true, false] {
            let (mut schedule, began) = every_ten();
            schedule.paused(began + micros(10_000), began + micros(10_600));
            schedule.gone();
            if sleeps {
                assert!(!schedule.is_due(began + micros(15_000)));
            } else {
                // The wait is over before the item is due.
                schedule.paused(began + micros(12_000), began + micros(15_000));
            }
            schedule.paused(began + micros(20_000), began + micros(20_600));
            assert_eq!(schedule.due(), Some(began + micros(20_000)), "sleeps: {sleeps}");
        }
    }

    #[test]
    fn of_a_brief_wait_only_what_made_the_item_late_counts() {
        let (mut schedule, began) = every_ten();
        for item in 1..=3 {
            let due = began + micros(10_000 * item);
            schedule.paused(due - micros(500), due + micros(300));
            assert_eq!(schedule.due(), Some(due), "0.3 ms each, and not 0.8");
            schedule.gone();
        }
    }

    #[test]
    fn of_a_pause_so_much_is_made_up_as_may_go_at_once() {
        let began = rt::now();
        let mut schedule = Schedule::new(Rate::every(Duration::from_millis(10)).burst(3), began);
        schedule.gone();
        let to = began + micros(100_000);
        schedule.paused(began, to);
        assert_eq!(schedule.due(), Some(to - micros(20_000)), "this one and two more");
    }
}
