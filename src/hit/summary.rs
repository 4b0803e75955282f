//! What was measured of all requests.

use super::histogram::Histogram;
use super::{ErrorKind, Hit};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was measured of many requests, in memory that does not grow with them.
///
/// Durations are those of whole responses, kept to a tenth of a per cent. For percentiles and
/// histograms, those of more than 73 minutes count as that.
///
/// ```
/// use quell::hit::{ErrorKind, Hit, Summary};
/// use std::time::Duration;
///
/// let mut summary = Summary::new();
/// summary.record(&Hit::answered(200, 12, Duration::from_millis(3)));
/// summary.record(&Hit::failed(ErrorKind::Reset, Duration::from_millis(1)));
/// assert_eq!((summary.requests(), summary.successes()), (2, 1));
/// assert_eq!(summary.slowest(), Some(Duration::from_millis(3)));
/// ```
#[derive(Clone, Debug)]
pub struct Summary {
    requests: u64,
    successes: u64,
    bytes: u64,
    unfinished: u64,
    statuses: BTreeMap<u16, u64>,
    errors: [u64; ErrorKind::ALL.len()],
    durations: Histogram,
}

impl Default for Summary {
    fn default() -> Self {
        Summary::new()
    }
}

impl Summary {
    /// Creates a summary of no requests.
    #[must_use]
    pub fn new() -> Summary {
        Summary {
            requests: 0,
            successes: 0,
            bytes: 0,
            unfinished: 0,
            statuses: BTreeMap::new(),
            errors: [0; ErrorKind::ALL.len()],
            durations: Histogram::new(),
        }
    }

    /// Adds one request.
    pub fn record(&mut self, hit: &Hit) {
        if let Some(status) = hit.status() {
            *self.statuses.entry(status).or_default() += 1;
            self.bytes += hit.bytes();
            self.successes += u64::from(hit.is_success());
            self.durations.record(hit.duration());
        }
        match hit.error() {
            Some(ErrorKind::Stopped) => self.unfinished += 1,
            Some(error) => self.errors[error as usize] += 1,
            None => {}
        }
        self.requests += u64::from(hit.error() != Some(ErrorKind::Stopped));
    }

    /// Adds all requests of another summary.
    pub fn merge(&mut self, other: &Summary) {
        self.requests += other.requests;
        self.successes += other.successes;
        self.bytes += other.bytes;
        self.unfinished += other.unfinished;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (count, more) in self.errors.iter_mut().zip(other.errors) {
            *count += more;
        }
        self.durations.merge(&other.durations);
    }

    /// Returns how many requests have ended, with a response or an error.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Returns how many of them got a whole response with a status below 400.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.successes
    }

    /// Returns how many were under way when the context ended. They are counted nowhere else.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Returns the total bytes of the bodies of whole responses.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns each status, in order, with its number of whole responses.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.statuses.iter().map(|(status, count)| (*status, *count))
    }

    /// Returns each kind of error that occurred, with its number of requests.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        ErrorKind::ALL.into_iter().zip(self.errors).filter(|(_, count)| *count > 0)
    }

    /// Returns the shortest duration.
    #[must_use]
    pub fn fastest(&self) -> Option<Duration> {
        self.durations.fastest()
    }

    /// Returns the longest duration.
    #[must_use]
    pub fn slowest(&self) -> Option<Duration> {
        self.durations.slowest()
    }

    /// Returns the exact mean of the durations.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        self.durations.mean()
    }

    /// Returns the duration that `percent` per cent of all did not exceed: `99.9`, say.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        self.durations.percentile(percent)
    }

    /// Returns a histogram: at most `rows` rows (at least one) of the same width from the fastest to
    /// the 95th percentile, and one for what is slower. Each row is where it begins, where it ends,
    /// and its number of responses.
    #[must_use]
    pub fn histogram(&self, rows: usize) -> Vec<(Duration, Duration, u64)> {
        self.durations.rows(rows)
    }
}

impl<'a> Extend<&'a Hit> for Summary {
    fn extend<I: IntoIterator<Item = &'a Hit>>(&mut self, hits: I) {
        hits.into_iter().for_each(|hit| self.record(hit));
    }
}
