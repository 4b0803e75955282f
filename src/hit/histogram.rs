//! A histogram that takes the same memory for ten requests and for ten billion.
//!
//! Durations up to [`EXACT`] nanoseconds have a bucket each; above that every doubling is divided
//! into [`HALF`] buckets of the same width. So a duration that is read back is off by less than one
//! part in `HALF`, up to [`LONGEST`].

use std::fmt;
use std::time::Duration;

const BITS: u32 = 11;
const EXACT: u64 = 1 << BITS;
const HALF: usize = 1 << (BITS - 1);
/// 2^42 ns, which is more than an hour; longer durations count as that.
const LONGEST: u64 = (1 << 42) - 1;
const BUCKETS: usize = index(LONGEST) + 1;

/// Which bucket a number of nanoseconds falls into.
const fn index(nanos: u64) -> usize {
    if nanos < EXACT {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - (BITS - 1);
    shift as usize * HALF + (nanos >> shift) as usize
}

/// The least number of nanoseconds that falls into a bucket.
const fn least(index: usize) -> u64 {
    if index < EXACT as usize {
        return index as u64;
    }
    let shift = index / HALF - 1;
    ((index - shift * HALF) as u64) << shift
}

/// How often each duration was seen.
#[derive(Clone)]
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u128,
    fastest: u64,
    slowest: u64,
}

impl Histogram {
    pub(super) fn new() -> Histogram {
        let buckets = vec![0; BUCKETS].into_boxed_slice();
        Histogram { buckets, count: 0, sum: 0, fastest: u64::MAX, slowest: 0 }
    }

    pub(super) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[index(nanos.min(LONGEST))] += 1;
        self.count += 1;
        self.sum += u128::from(nanos);
        self.fastest = self.fastest.min(nanos);
        self.slowest = self.slowest.max(nanos);
    }

    pub(super) fn merge(&mut self, other: &Histogram) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.fastest = self.fastest.min(other.fastest);
        self.slowest = self.slowest.max(other.slowest);
    }

    pub(super) fn fastest(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.fastest))
    }

    pub(super) fn slowest(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.slowest))
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        let mean = self.sum.checked_div(u128::from(self.count))?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// The duration that `percent` per cent of all did not exceed.
    ///
    /// The rank is computed in whole billionths of a per cent: 99.9 % of 1000 is 999, but floating
    /// point makes it a little more, which rounds up to all of them.
    pub(super) fn percentile(&self, percent: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let billionths = (percent.clamp(0.0, 100.0) * 1e9).round() as u128;
        let wanted = (billionths * u128::from(self.count)).div_ceil(100_000_000_000).max(1);
        if wanted >= u128::from(self.count) {
            return self.slowest();
        }
        let mut seen = 0;
        for (at, &count) in self.buckets.iter().enumerate() {
            seen += u128::from(count);
            if seen >= wanted && count > 0 {
                // The middle of the bucket, but within what was seen.
                let middle = least(at) + (least(at + 1) - least(at)) / 2;
                return Some(Duration::from_nanos(middle.clamp(self.fastest, self.slowest)));
            }
        }
        self.slowest()
    }

    /// `rows` rows of the same width from the fastest to the 95th percentile, and one for all that
    /// is slower: where each begins and ends, and how many durations are in it.
    pub(super) fn rows(&self, rows: usize) -> Vec<(Duration, Duration, u64)> {
        let (Some(fastest), Some(high)) = (self.fastest(), self.percentile(95.0)) else {
            return Vec::new();
        };
        let (low, high) = (fastest.as_nanos() as u64, high.as_nanos() as u64);
        let last = rows.max(1);
        let width = (high - low).div_ceil(last as u64).max(1);
        let mut counts = vec![0_u64; last + 1];
        for (at, &count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let row = usize::try_from(least(at).saturating_sub(low) / width).unwrap_or(last);
            // What is not slower than the percentile belongs to the rows before the last.
            let row = if least(at) > high { last } else { row.min(last - 1) };
            counts[row] += count;
        }
        let edge = |row: usize| Duration::from_nanos((low + width * row as u64).min(self.slowest));
        let rows = counts.into_iter().enumerate().map(|(row, count)| {
            let end = if row == last { Duration::from_nanos(self.slowest) } else { edge(row + 1) };
            (edge(row), end, count)
        });
        let mut rows: Vec<_> =
            rows.filter(|(begin, end, count)| begin < end || *count > 0).collect();
        // The percentile is the middle of a bucket, and the slowest may be in its upper half.
        while rows.len() > 1 && rows.last().is_some_and(|row| row.2 == 0) {
            rows.pop();
            rows.last_mut().expect("another one").1 = Duration::from_nanos(self.slowest);
        }
        rows
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_a_bucket_that_begins_less_than_a_thousandth_below_it() {
        let mut nanos = 0_u64;
        let mut before = 0;
        while nanos <= LONGEST {
            let at = index(nanos);
            assert!(at >= before && at < BUCKETS, "{nanos} in {at}");
            assert!(least(at) <= nanos && nanos < least(at + 1), "{nanos} in {at}");
            assert!((nanos - least(at)) * HALF as u64 <= nanos, "{nanos} in {at}");
            before = at;
            nanos += 1 + nanos / 997;
        }
    }

    #[test]
    fn every_bucket_begins_where_it_says() {
        for at in 0..BUCKETS {
            assert_eq!(index(least(at)), at);
        }
    }

    #[test]
    fn rows_hold_everything_and_do_not_overlap() {
        let mut histogram = Histogram::new();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        histogram.record(Duration::from_secs(7200));
        let rows = histogram.rows(10);
        assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 1001);
        assert!(rows.windows(2).all(|pair| pair[0].1 == pair[1].0), "{rows:?}");
        assert_eq!(rows.last().unwrap().1, Duration::from_secs(7200));
    }

    #[test]
    fn the_last_row_holds_something_though_the_slowest_shares_its_bucket_with_a_percentile() {
        let mut histogram = Histogram::new();
        for step in 0..100 {
            histogram.record(Duration::from_nanos(8_388_608 + 80 * step));
        }
        for rows in [1, 3, 10] {
            let rows = histogram.rows(rows);
            let last = rows.last().unwrap();
            assert!(last.2 > 0 && Some(last.1) == histogram.slowest(), "{rows:?}");
            assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 100);
        }
    }

    #[test]
    fn one_duration_is_one_row() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::from_micros(5));
        let five = Duration::from_micros(5);
        assert_eq!(histogram.rows(10), [(five, five, 1)]);
    }
}
