//! What a summary computes.

use quell::hit::{ErrorKind, Hit, Summary};
use std::time::Duration;

#[test]
fn percentiles_are_right_to_a_thousandth() {
    let mut summary = Summary::new();
    for micros in (1..=100_000).rev() {
        summary.record(&Hit::answered(200, 1, Duration::from_micros(micros)));
    }
    for (percent, micros) in [(50.0, 50_000), (90.0, 90_000), (99.0, 99_000), (99.9, 99_900)] {
        let found = summary.percentile(percent).unwrap().as_secs_f64() * 1e6;
        let off = (found / f64::from(micros) - 1.0).abs();
        assert!(off < 1e-3, "p{percent}: {found} µs");
    }
    assert_eq!(summary.fastest(), Some(Duration::from_micros(1)));
    assert_eq!(summary.slowest(), Some(Duration::from_millis(100)));
    assert_eq!(summary.mean(), Some(Duration::from_nanos(50_000_500)));
    assert_eq!(summary.percentile(100.0), summary.slowest());
    let rows = summary.histogram(10);
    assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 100_000);
}

#[test]
fn what_takes_hours_is_exact_in_the_mean_and_the_slowest_and_73_minutes_in_a_percentile() {
    let (mut summary, hour) = (Summary::new(), Duration::from_secs(3600));
    (1..=9).for_each(|hours| summary.record(&Hit::answered(200, 1, hour * hours)));
    assert_eq!((summary.mean(), summary.slowest()), (Some(5 * hour), Some(9 * hour)));
    assert_eq!(summary.percentile(50.0).unwrap().as_secs() / 60, 73);
    assert_eq!(summary.percentile(1.0).unwrap().as_secs() / 60, 60);
}

#[test]
fn one_outlier_in_a_thousand_is_not_within_the_other_999() {
    let (quick, slow) = (Duration::from_millis(1), Duration::from_secs(10));
    for n in [1000, 2000, 10_000, 100_000] {
        let mut summary = Summary::new();
        for k in 0..n {
            let took = if k % 1000 == 0 { slow } else { quick };
            summary.record(&Hit::answered(200, 0, took));
        }
        let found = summary.percentile(99.9).unwrap();
        assert!(found < 2 * quick, "of {n}: {found:?}");
        assert_eq!(summary.percentile(99.900_001), summary.slowest(), "of {n}");
    }
}

#[test]
fn a_histogram_ends_with_a_row_that_holds_something() {
    for n in 1..=50_u64 {
        let mut summary = Summary::new();
        for k in 1..=n {
            summary.record(&Hit::answered(200, 0, Duration::from_nanos(k * k * 1_234_567)));
        }
        let rows = summary.histogram(10);
        assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), n);
        assert_eq!(rows.last().map(|row| row.1), summary.slowest());
        assert!(rows.last().unwrap().2 > 0, "of {n}: {rows:?}");
        assert!(rows.windows(2).all(|pair| pair[0].1 < pair[1].1), "of {n}: {rows:?}");
        // The last row holds exactly what is slower than the 95th percentile.
        let slower = n - (n * 95).div_ceil(100);
        if slower > 0 {
            assert_eq!(rows.last().unwrap().2, slower, "of {n}: {rows:?}");
        }
    }
}

#[test]
fn of_nothing_there_is_nothing_to_say() {
    let summary = Summary::new();
    assert_eq!((summary.requests(), summary.bytes(), summary.unfinished()), (0, 0, 0));
    assert_eq!((summary.mean(), summary.percentile(50.0), summary.fastest()), (None, None, None));
    assert_eq!(summary.histogram(10), []);
}

#[test]
fn two_summaries_make_one() {
    let (mut all, mut one, mut two) = (Summary::new(), Summary::new(), Summary::new());
    for k in 0..1000_u64 {
        let took = Duration::from_micros(k * k);
        let hit = match k % 5 {
            0 => Hit::failed(ErrorKind::Reset, took),
            1 => Hit::failed(ErrorKind::Stopped, took),
            _ => Hit::answered(200 + (k % 300) as u16, k, took),
        };
        all.record(&hit);
        if k % 3 == 0 { one.record(&hit) } else { two.record(&hit) }
    }
    one.merge(&two);
    assert_eq!(format!("{one:?}"), format!("{all:?}"));
    assert_eq!(one.histogram(20), all.histogram(20));
    assert_eq!(one.mean(), all.mean());
}
