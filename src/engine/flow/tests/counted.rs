//! What a meter makes of readings: which windows there are, and what each question about them comes to.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::meter::{Meter, Series};
use super::SECOND;
use crate::config::FlowRole::{self, Accepted, Sent, Waiting};
use crate::engine::message::{CountKey, Reading};
use crate::units::Moment;

/// A signal, what is counted of it, by which part, and how much.
pub(super) type Counted<'a> = (usize, FlowRole, &'a str, u64);

pub(super) fn reading(counts: &[Counted<'_>]) -> Reading {
    let mut reading = Reading::default();
    for (signal, role, part, value) in counts {
        let key = CountKey {
            signal: *signal,
            role: *role,
            part: (*part).to_owned(),
        };
        reading.add(key, *value);
    }
    reading
}

fn read(meter: &mut Meter, at: u64, counts: &[Counted<'_>]) {
    meter.read(Moment::from_millis(at), &reading(counts), 10 * SECOND);
}

/// Windows of ten seconds with so much in each.
fn windows(counts: &[u64]) -> Meter {
    let mut meter = Meter::default();
    let mut sum = 0;
    read(&mut meter, 0, &[(0, Accepted, "a", 0)]);
    for (at, count) in (1..).zip(counts) {
        sum += count;
        read(&mut meter, at * 10_000, &[(0, Accepted, "a", sum)]);
    }
    meter
}

const ALL: Series<'_> = Series {
    signal: 0,
    role: Accepted,
    parts: None,
};

/// All that it counted of a series, and in how many milliseconds.
fn all(meter: &Meter, series: Series<'_>) -> (u64, u64) {
    meter.latest(series, Duration::MAX)
}

#[test]
fn window_is_what_was_added_between_two_readings() {
    let mut meter = Meter::default();
    read(&mut meter, 0, &[(0, Accepted, "a", 100)]);
    assert_eq!((all(&meter, ALL), meter.span()), ((0, 0), Duration::ZERO));
    read(&mut meter, 10_000, &[(0, Accepted, "a", 107)]);
    assert_eq!((all(&meter, ALL), meter.span()), ((7, 10_000), 10 * SECOND));
    // Nothing came: time passed all the same.
    read(&mut meter, 15_000, &[(0, Accepted, "a", 107)]);
    assert_eq!(all(&meter, ALL), (7, 15_000));
    // A counter that is there for the first time began at nothing.
    let two: &[Counted<'_>] = &[(0, Accepted, "a", 107), (0, Accepted, "b", 3)];
    read(&mut meter, 20_000, two);
    assert_eq!(all(&meter, ALL), (10, 20_000));
}

#[test]
fn what_cannot_be_measured_makes_no_window_and_the_next_reading_does() {
    type Case<'a> = (&'a str, u64, &'a [Counted<'a>], bool);
    let cases: [Case<'_>; 8] = [
        (
            "at the same moment",
            10_000,
            &[(0, Accepted, "a", 50)],
            false,
        ),
        (
            "three times the interval",
            40_000,
            &[(0, Accepted, "a", 50)],
            true,
        ),
        ("longer", 40_001, &[(0, Accepted, "a", 50)], false),
        ("went back", 20_000, &[(0, Accepted, "a", 6)], false),
        ("stood still", 20_000, &[(0, Accepted, "a", 7)], true),
        (
            "another in its place",
            20_000,
            &[(0, Accepted, "b", 50)],
            false,
        ),
        ("nothing", 20_000, &[], false),
        (
            "another signal",
            20_000,
            &[(0, Accepted, "a", 8), (1, Accepted, "a", 9)],
            true,
        ),
    ];
    for (case, at, counts, measured) in cases {
        let mut meter = Meter::default();
        read(&mut meter, 0, &[(0, Accepted, "a", 0)]);
        read(&mut meter, 10_000, &[(0, Accepted, "a", 7)]);
        read(&mut meter, at, counts);
        let time = if measured { at } else { 10_000 };
        assert_eq!(meter.span(), Duration::from_millis(time), "{case}");
        // From there on it goes on.
        read(&mut meter, at + 5_000, counts);
        let end = Duration::from_millis(time + 5_000);
        assert_eq!(meter.span(), end, "{case}");
    }
}

#[test]
fn level_may_fall_and_is_no_sum() {
    let mut meter = Meter::default();
    let waiting = Series {
        role: Waiting,
        ..ALL
    };
    assert_eq!((meter.level(waiting), meter.highest(waiting)), (0, 0));
    for (at, level) in (0..).zip([4, 9, 3, 0]) {
        let counts: &[Counted<'_>] = &[(0, Waiting, "a", level), (1, Waiting, "a", 100)];
        read(&mut meter, at * 10_000, counts);
        let wanted = [0, 9, 3, 0][usize::try_from(at).unwrap()];
        assert_eq!(meter.level(waiting), wanted);
    }
    assert_eq!(meter.highest(waiting), 9);
    assert_eq!(meter.span(), 30 * SECOND);
    // A queue that is gone is no other process.
    read(&mut meter, 40_000, &[]);
    assert_eq!(meter.span(), 40 * SECOND);
}

#[test]
fn pause_forgets_where_the_counters_stood_and_not_what_was_counted() {
    let mut meter = windows(&[5, 5]);
    meter.pause();
    read(&mut meter, 30_000, &[(0, Accepted, "a", 900)]);
    assert_eq!(all(&meter, ALL), (10, 20_000));
    read(&mut meter, 40_000, &[(0, Accepted, "a", 901)]);
    assert_eq!(all(&meter, ALL), (11, 30_000));
}

#[test]
fn series_are_told_apart_by_signal_role_and_part() {
    let mut meter = Meter::default();
    let counts: [Counted<'_>; 5] = [
        (0, Accepted, "a", 1),
        (0, Accepted, "b", 10),
        (0, Sent, "a", 100),
        (1, Accepted, "a", 1_000),
        (1, Accepted, "idle", 0),
    ];
    read(
        &mut meter,
        0,
        &counts.map(|(signal, role, part, _)| (signal, role, part, 0)),
    );
    read(&mut meter, 10_000, &counts);
    // What never moved is no part.
    let parts = |signal, role| {
        let parts = meter.parts(Series {
            signal,
            role,
            parts: None,
        });
        parts.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(parts(0, Accepted), "a b");
    assert_eq!(parts(0, Sent), "a");
    assert_eq!(parts(1, Accepted), "a");
    assert_eq!(parts(1, Sent), "");
    let some = BTreeSet::from(["b".to_owned(), "c".to_owned()]);
    let found = [
        ALL,
        Series {
            parts: Some(&some),
            ..ALL
        },
        Series { role: Sent, ..ALL },
        Series { signal: 1, ..ALL },
        Series { signal: 2, ..ALL },
    ];
    let found = found.map(|series| all(&meter, series).0);
    assert_eq!(found, [11, 10, 100, 1_000, 0]);
}

#[test]
fn latest_are_the_fewest_windows_that_last_long_enough() {
    let meter = windows(&[1, 20, 300]);
    for (millis, wanted) in [
        (0, (0, 0)),
        (1, (300, 10_000)),
        (10_000, (300, 10_000)),
        (10_001, (320, 20_000)),
        (20_000, (320, 20_000)),
        (90_000, (321, 30_000)),
    ] {
        let found = meter.latest(ALL, Duration::from_millis(millis));
        assert_eq!(found, wanted, "{millis} ms");
    }
}

#[test]
fn the_oldest_window_goes_when_there_are_more_than_a_hundred_and_twenty() {
    let mut counts = vec![1_000];
    counts.resize(120, 1);
    assert_eq!(all(&windows(&counts), ALL), (1_119, 1_200_000));
    counts.push(1);
    let meter = windows(&counts);
    assert_eq!(all(&meter, ALL), (120, 1_200_000));
    assert_eq!(meter.span(), 1_200 * SECOND);
}

#[test]
fn no_more_than_five_hundred_and_twelve_counters_are_told_apart() {
    let names: Vec<String> = (0..600).map(|number| format!("{number:03}")).collect();
    // Levels come and go: those of one reading, then those of another.
    let of = |range: std::ops::Range<usize>| -> Vec<Counted<'_>> {
        let names = names.get(range).unwrap().iter();
        names.map(|name| (0, Waiting, name.as_str(), 1)).collect()
    };
    let series = Series {
        role: Waiting,
        ..ALL
    };
    let mut meter = Meter::default();
    read(&mut meter, 0, &[]);
    read(&mut meter, 10_000, &of(0..600));
    assert_eq!((meter.level(series), meter.parts(series).len()), (512, 512));
    read(&mut meter, 20_000, &of(500..600));
    assert_eq!((meter.level(series), meter.parts(series).len()), (12, 512));
}

#[test]
fn floor_is_the_least_of_any_stretch_that_is_as_full_as_can_be() {
    // Of 60 s, stretches of 50 s count: five windows.
    let sixty = |counts: &[u64]| windows(counts).floor(ALL, None, 60 * SECOND);
    let twelve = [1, 2, 3, 4, 50, 60, 7, 8, 9, 10, 11, 12];
    assert_eq!(sixty(&twelve), Some(45.0), "7 to 11");
    assert_eq!(sixty(&twelve[..11]), None, "less than two of 60 s");
    let rising: Vec<u64> = (1..=12).collect();
    assert_eq!(
        sixty(&rising),
        Some(15.0),
        "the first five are as good as any"
    );
    let falling: Vec<u64> = (1..=12).rev().collect();
    assert_eq!(sixty(&falling), Some(15.0), "and so are the last");
    assert_eq!(sixty(&[7; 12]), Some(35.0));
    // Of 59 s, 49 s and a bit: four windows.
    let meter = windows(&[7; 12]);
    assert_eq!(meter.floor(ALL, None, 59 * SECOND), Some(28.0));
    assert_eq!(meter.floor(ALL, None, 12 * SECOND), Some(7.0), "one window");
    assert_eq!(meter.floor(ALL, None, 11 * SECOND), None, "none fits");
    assert_eq!(meter.floor(ALL, None, Duration::ZERO), None);
}

#[test]
fn floor_by_another_series_is_the_least_share_of_it() {
    let mut meter = Meter::default();
    let (mut came, mut went) = (0, 0);
    read(&mut meter, 0, &[(0, Accepted, "a", 0), (0, Sent, "b", 0)]);
    // Nothing comes for as long as a stretch: that says nothing.
    let steps = [
        (10, 8),
        (10, 9),
        (10, 10),
        (10, 5),
        (0, 0),
        (0, 0),
        (0, 0),
        (10, 10),
    ];
    for (at, (more, sent)) in (1..).zip(steps) {
        came += more;
        went += sent;
        let counts: &[Counted<'_>] = &[(0, Accepted, "a", came), (0, Sent, "b", went)];
        read(&mut meter, at * 10_000, counts);
    }
    let sent = Series { role: Sent, ..ALL };
    let by = |span| meter.floor(sent, Some(ALL), span);
    assert_eq!(
        by(24 * SECOND),
        Some(0.5),
        "5 of 10, nothing of nothing left out"
    );
    assert_eq!(by(12 * SECOND), Some(0.5));
    assert_eq!(by(36 * SECOND), Some(0.5), "5 of 10 and twice nothing");
    assert_eq!(by(40 * SECOND), Some(0.5));
    assert_eq!(by(41 * SECOND), None, "not twice as long");
    let none = Series { signal: 1, ..ALL };
    assert_eq!(meter.floor(sent, Some(none), 24 * SECOND), None);
}
