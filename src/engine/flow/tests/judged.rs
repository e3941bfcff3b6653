//! What is said of one change, in words: one table of changes, one of moments.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::judge::{Decision, Evidence, Verdict};
use super::super::meter::Meter;
use super::counted::{Counted, reading};
use super::{SECOND, check, shape, shapes};
use crate::config::FlowCheck;
use crate::config::FlowRole::{Accepted, Failed, Refused, Sent, Waiting};
use crate::units::Moment;

/// A signal, a side, a part and what it says.
type Part = (usize, usize, &'static str, u64);
/// What is counted in each ten seconds; of what waits, how much does.
type Tens = Vec<Vec<Counted<'static>>>;

const LOGS: usize = 0;
const TRACES: usize = 2;
const IN: Part = (LOGS, 0, "otlp", 1);
const IN_CHANGED: Part = (LOGS, 0, "otlp", 2);
const OUT: Part = (LOGS, 1, "otlp_http", 1);
const OUT_CHANGED: Part = (LOGS, 1, "otlp_http", 2);
const SYSLOG: Part = (LOGS, 0, "syslog", 1);
const COMES: Counted<'_> = (LOGS, Accepted, "otlp", 100);
const GOES: Counted<'_> = (LOGS, Sent, "otlp_http", 100);
const FAILS: Counted<'_> = (LOGS, Failed, "otlp_http", 100);
const REFUSED: Counted<'_> = (LOGS, Refused, "otlp", 100);

const NOT_IN: &str =
    "logs do not come in any more: 0.00 a second in the last 30s, at least 6.67 before the change";
const NOT_OUT: &str =
    "logs do not go out any more: 0.00 a second in the last 30s, at least 10.00 before the change";
const SOURCE: &str =
    "no verdict, nothing comes in any more, and nothing that takes it in has changed";
const DESTINATION: &str =
    "no verdict, it is not taken where it goes, and nothing that sends it there has changed";
const TOO_LITTLE: &str = "no verdict, too little flows to tell";
const FLOWS: &str = "as before";

fn each(tens: usize, counts: &[Counted<'static>]) -> Tens {
    vec![counts.to_vec(); tens]
}

/// The same part over and over, with the next count each time.
fn cycle(tens: usize, (signal, role, part, _): Counted<'static>, counts: &[u64]) -> Tens {
    let counts = counts.iter().cycle().take(tens);
    counts
        .map(|count| vec![(signal, role, part, *count)])
        .collect()
}

fn both(one: Tens, other: Tens) -> Tens {
    one.into_iter()
        .zip(other)
        .map(|(one, other)| [one, other].concat())
        .collect()
}

fn meter(tens: &Tens) -> Meter {
    let mut sums: BTreeMap<_, u64> = BTreeMap::new();
    for (signal, role, part, _) in tens.iter().flatten() {
        sums.insert((*signal, *role, *part), 0);
    }
    let mut meter = Meter::default();
    let mut read = |at: u64, sums: &BTreeMap<_, u64>| {
        let counts = sums.iter();
        let counts: Vec<Counted<'_>> = counts
            .map(|((signal, role, part), value)| (*signal, *role, *part, *value))
            .collect();
        meter.read(Moment::from_millis(at), &reading(&counts), 10 * SECOND);
    };
    read(0, &sums);
    for (at, ten) in (1..).zip(tens) {
        for (signal, role, part, count) in ten {
            let sum = sums.get_mut(&(*signal, *role, *part)).unwrap();
            *sum = if *role == Waiting {
                *count
            } else {
                *sum + count
            };
        }
        read(at * 10_000, &sums);
    }
    meter
}

/// A change, and what was counted under the config before and the one after it.
struct Change {
    old: Vec<Part>,
    new: Vec<Part>,
    before: Tens,
    after: Tens,
    check: FlowCheck,
}

/// Logs come and go, for two minutes of baseline; a minute after the change they do as well.
fn change(new: &[Part]) -> Change {
    Change {
        old: vec![IN, OUT],
        new: new.to_vec(),
        before: each(12, &[COMES, GOES]),
        after: each(6, &[COMES, GOES]),
        check: check(),
    }
}

/// The same, and after the change this is counted instead.
fn counts(new: &[Part], after: &[Counted<'static>]) -> Change {
    Change {
        after: each(6, after),
        ..change(new)
    }
}

impl Change {
    fn says(&self, elapsed: Duration, over: bool) -> String {
        let evidence = Evidence {
            before: &meter(&self.before),
            after: &meter(&self.after),
            old: &shape(&self.old, 0),
            new: &shape(&self.new, 0),
            flow: &shapes::otelcol(),
            check: &self.check,
        };
        match evidence.decide(elapsed, over) {
            Decision::Wait => "wait".to_owned(),
            Decision::Look => "look".to_owned(),
            Decision::Say(Verdict::Flows) => FLOWS.to_owned(),
            Decision::Say(Verdict::Collapsed(collapse)) => collapse.to_string(),
            Decision::Say(Verdict::Unknown(why)) => format!("no verdict, {why}"),
        }
    }
}

/// Each with what is said when the window is over.
fn said(cases: Vec<(&str, Change, &str)>) {
    for (case, change, wanted) in cases {
        assert_eq!(change.says(60 * SECOND, true), wanted, "{case}");
    }
}

#[test]
fn what_comes_in_no_more_is_the_doing_of_what_takes_it_in() {
    let stuck = [REFUSED, FAILS];
    said(vec![
        ("as before", change(&[IN, OUT]), FLOWS),
        (
            "changed, as before",
            change(&[IN_CHANGED, OUT_CHANGED]),
            FLOWS,
        ),
        ("changed", counts(&[IN_CHANGED, OUT], &[]), NOT_IN),
        ("not changed", counts(&[IN, OUT], &[]), SOURCE),
        ("stuck, too", counts(&[IN, OUT], &[FAILS]), SOURCE),
        (
            "changed and stuck",
            counts(&[IN_CHANGED, OUT], &[FAILS]),
            NOT_IN,
        ),
        ("one more", counts(&[IN, SYSLOG, OUT], &[]), NOT_IN),
        ("turned away", counts(&[IN, OUT], &[REFUSED]), NOT_IN),
        (
            "full up to the door",
            counts(&[IN, OUT], &stuck),
            DESTINATION,
        ),
        (
            "by a changed exit",
            counts(&[IN, OUT_CHANGED], &stuck),
            NOT_IN,
        ),
        (
            "by a changed door",
            counts(&[IN_CHANGED, OUT], &stuck),
            NOT_IN,
        ),
        (
            "another kind in its place",
            counts(&[(LOGS, 0, "kafka", 1), OUT], &[GOES]),
            NOT_IN,
        ),
        (
            "at first it did",
            Change {
                after: [each(3, &[COMES, GOES]), each(3, &[])].concat(),
                ..change(&[IN_CHANGED, OUT])
            },
            NOT_IN,
        ),
        (
            "much",
            Change {
                before: each(12, &[(LOGS, Accepted, "otlp", 2_000)]),
                after: each(6, &[]),
                ..change(&[IN_CHANGED, OUT])
            },
            "logs do not come in any more: 0.00 a second in the last 30s, at least 133 before the change",
        ),
    ]);
}

#[test]
fn what_goes_out_no_more_is_compared_with_what_comes_in() {
    let level = |level| (LOGS, Waiting, "otlp_http", level);
    let waits = |new: &[Part], waiting| Change {
        before: each(12, &[COMES, GOES, level(50)]),
        ..counts(new, &[COMES, level(waiting)])
    };
    let gone: &[Part] = &[IN];
    said(vec![
        ("changed", counts(&[IN, OUT_CHANGED], &[COMES]), NOT_OUT),
        ("dropped inside", counts(&[IN, OUT], &[COMES]), NOT_OUT),
        ("it fails", counts(&[IN, OUT], &[COMES, FAILS]), DESTINATION),
        (
            "changed, it fails",
            counts(&[IN, OUT_CHANGED], &[COMES, FAILS]),
            NOT_OUT,
        ),
        ("removed, it fails", counts(gone, &[COMES, FAILS]), NOT_OUT),
        ("longer lines", waits(&[IN, OUT], 51), DESTINATION),
        ("lines as long as before", waits(&[IN, OUT], 50), NOT_OUT),
        (
            "changed, longer lines",
            waits(&[IN, OUT_CHANGED], 51),
            NOT_OUT,
        ),
        (
            "less comes in, less goes out",
            counts(
                &[IN, OUT_CHANGED],
                &[(LOGS, Accepted, "otlp", 10), (LOGS, Sent, "otlp_http", 10)],
            ),
            FLOWS,
        ),
        (
            "nothing counts what goes out",
            Change {
                before: each(12, &[COMES]),
                ..counts(&[IN_CHANGED, OUT], &[COMES])
            },
            FLOWS,
        ),
        (
            "nothing counts what comes in",
            Change {
                before: each(12, &[GOES]),
                ..counts(&[IN, OUT_CHANGED], &[])
            },
            "logs do not go out any more: 0.00 a second in the last 30s, at least 6.67 before the change",
        ),
    ]);
}

#[test]
fn part_that_is_another_and_carries_nothing_is_found_among_parts_that_carry() {
    const FILE_OUT: Part = (LOGS, 1, "file", 1);
    let syslog = (LOGS, Accepted, "syslog", 50);
    let to_file = (LOGS, Sent, "file", 100);
    let two = |new: &[Part], after: &[Counted<'static>]| Change {
        old: vec![IN, SYSLOG, OUT],
        before: each(12, &[COMES, syslog, GOES]),
        ..counts(new, after)
    };
    let exits = |new: &[Part], after: &[Counted<'static>]| Change {
        old: vec![IN, OUT, FILE_OUT],
        before: each(12, &[COMES, GOES, to_file]),
        ..counts(new, after)
    };
    let changed: Part = (LOGS, 0, "syslog", 2);
    let renamed: Part = (LOGS, 0, "syslog/b", 1);
    said(vec![
        (
            "changed",
            two(&[IN, changed, OUT], &[COMES, GOES]),
            "logs do not come in through syslog any more: 0.00 a second in the last 30s, at least 3.33 before the \
             change",
        ),
        (
            "renamed",
            two(&[IN, renamed, OUT], &[COMES, GOES]),
            "logs do not come in through syslog/b any more: 0.00 a second in the last 30s, at least 3.33 before the \
             change",
        ),
        (
            "renamed, and it flows",
            two(
                &[IN, renamed, OUT],
                &[COMES, (LOGS, Accepted, "syslog/b", 50), GOES],
            ),
            FLOWS,
        ),
        (
            "not changed",
            two(&[IN, SYSLOG, OUT], &[COMES, GOES]),
            FLOWS,
        ),
        ("removed", two(&[IN, OUT], &[COMES, GOES]), FLOWS),
        (
            "an exit changed",
            exits(&[IN, OUT_CHANGED, FILE_OUT], &[COMES, to_file]),
            "logs do not go out to otlp_http any more: 0.00 a second in the last 30s, at least 10.00 before the change",
        ),
        (
            "an exit not changed",
            exits(&[IN, OUT, FILE_OUT], &[COMES, to_file]),
            FLOWS,
        ),
        (
            "two renamed to one, another kind removed",
            Change {
                old: vec![
                    (LOGS, 0, "otlp/a", 1),
                    (LOGS, 0, "otlp/b", 1),
                    IN_FILE,
                    SYSLOG,
                    OUT,
                ],
                before: each(
                    12,
                    &[
                        (LOGS, Accepted, "otlp/a", 100),
                        (LOGS, Accepted, "otlp/b", 50),
                        (LOGS, Accepted, "file", 900),
                        syslog,
                        GOES,
                    ],
                ),
                ..counts(&[(LOGS, 0, "otlp/c", 1), SYSLOG, OUT], &[syslog, GOES])
            },
            "logs do not come in through otlp/c any more: 0.00 a second in the last 30s, at least 10.00 before the \
             change",
        ),
    ]);
}

const IN_FILE: Part = (LOGS, 0, "file", 1);

#[test]
fn what_was_removed_is_missed_only_where_nothing_else_flows() {
    let spans = [
        (TRACES, Accepted, "otlp", 100),
        (TRACES, Sent, "otlp_http", 100),
    ];
    let traces: [Part; 2] = [(TRACES, 0, "otlp", 1), (TRACES, 1, "otlp_http", 1)];
    let with_traces = |new: &[Part], after: &[Counted<'static>]| Change {
        old: [&[IN, OUT][..], &traces].concat(),
        before: each(12, &[&[COMES, GOES][..], &spans].concat()),
        ..counts(new, after)
    };
    let two = |before: [u64; 3], new: &[Part], after: &[Counted<'static>]| Change {
        old: vec![IN, SYSLOG, OUT],
        before: each(
            12,
            &[
                (LOGS, Accepted, "otlp", before[0]),
                (LOGS, Accepted, "syslog", before[1]),
                (LOGS, Sent, "otlp_http", before[2]),
            ],
        ),
        ..counts(new, after)
    };
    said(vec![
        ("a signal", with_traces(&traces, &spans), FLOWS),
        (
            "a signal, and the other stands still by itself",
            with_traces(&traces, &[]),
            SOURCE,
        ),
        (
            "a signal, and of the other there is too little to tell",
            Change {
                before: both(each(12, &[COMES, GOES]), cycle(12, spans[0], &[1, 0, 0])),
                after: cycle(6, spans[0], &[1, 0, 0]),
                ..with_traces(&traces, &[])
            },
            FLOWS,
        ),
        (
            "everything",
            Change {
                before: each(12, &[COMES, (LOGS, Sent, "otlp_http", 200)]),
                ..counts(&[], &[])
            },
            "logs do not come in any more: 0.00 a second in the last 1m, at least 20.00 before the change",
        ),
        (
            "what never carried enough",
            Change {
                before: cycle(12, COMES, &[1, 0, 0]),
                ..counts(&[OUT], &[])
            },
            TOO_LITTLE,
        ),
        (
            "nearly all of what came in",
            two(
                [10, 1_990, 2_000],
                &[IN, OUT],
                &[(LOGS, Accepted, "otlp", 10), (LOGS, Sent, "otlp_http", 10)],
            ),
            FLOWS,
        ),
        (
            "one, and the one that is left is deaf while lines go out",
            two([100, 50, 150], &[IN_CHANGED, OUT], &[GOES]),
            NOT_IN,
        ),
    ]);
}

#[test]
fn limits_are_where_they_are_said_to_be() {
    let in_thirty = |count| {
        let each_ten = [count, 0, 0].map(|count| {
            vec![
                (LOGS, Accepted, "otlp", count),
                (LOGS, Sent, "otlp_http", count),
            ]
        });
        Change {
            before: each(
                12,
                &[
                    (LOGS, Accepted, "otlp", 250),
                    (LOGS, Sent, "otlp_http", 250),
                ],
            ),
            after: [each_ten.to_vec(), each_ten.to_vec()].concat(),
            ..change(&[IN_CHANGED, OUT])
        }
    };
    let baseline = |tens| Change {
        before: each(tens, &[COMES, GOES]),
        ..change(&[IN, OUT])
    };
    let few = |before: &[u64]| Change {
        before: cycle(12, COMES, before),
        ..counts(&[IN_CHANGED, OUT], &[])
    };
    said(vec![
        ("one in a hundred", in_thirty(5), FLOWS),
        (
            "less",
            in_thirty(4),
            "logs do not come in any more: 0.13 a second in the last 30s, at least 16.67 before the change",
        ),
        (
            "five are enough",
            few(&[2, 3]),
            "logs do not come in any more: 0.00 a second in the last 30s, at least 0.17 before the change",
        ),
        (
            "where the second half has fewer than that, all of it counts",
            few(&[2]),
            "logs do not come in any more: 0.00 a second in the last 1m, at least 0.17 before the change",
        ),
        ("four are not", few(&[1, 1, 1, 1, 0]), TOO_LITTLE),
        ("two minutes", baseline(12), FLOWS),
        (
            "less",
            baseline(11),
            "no verdict, 110s of baseline, 2m wanted",
        ),
        (
            "nothing was read",
            Change {
                after: Tens::new(),
                ..change(&[IN, OUT])
            },
            "no verdict, no counters since the change",
        ),
    ]);
}

/// What is said inside the window and at its end, each before probation is over and then.
fn by_moment(change: &Change, inside: Duration) -> [String; 4] {
    let window = change.check.window;
    [
        (inside, false),
        (inside, true),
        (window, false),
        (window, true),
    ]
    .map(|(elapsed, over)| change.says(elapsed, over))
}

#[test]
fn only_what_may_be_a_collapse_is_looked_at_for_longer_and_only_that_is_said_early() {
    let inside = Duration::from_millis(59_999);
    let trickle = Change {
        after: both(each(6, &[COMES]), cycle(6, GOES, &[0, 0, 0, 0, 0, 1])),
        ..change(&[IN, OUT])
    };
    let trickles = "logs do not go out any more: 0.03 a second in the last 30s, at least 10.00 before the change";
    let stops = Change {
        after: [each(5, &[COMES, GOES]), each(1, &[COMES])].concat(),
        ..change(&[IN, OUT])
    };
    let stops_in = Change {
        after: [each(5, &[COMES, GOES]), each(1, &[GOES])].concat(),
        ..change(&[IN, OUT])
    };
    let quiet = Change {
        before: each(12, &[(LOGS, Accepted, "otlp", 0)]),
        ..counts(&[IN_CHANGED, OUT], &[])
    };
    for (case, change, wanted) in [
        ("flows", change(&[IN, OUT]), ["wait", FLOWS, "wait", FLOWS]),
        ("trickles", trickle, ["wait", "look", trickles, trickles]),
        ("has just stopped", stops, ["wait", "look", "wait", FLOWS]),
        (
            "has just stopped to come",
            stops_in,
            ["wait", "look", "wait", FLOWS],
        ),
        ("quiet", quiet, ["wait", TOO_LITTLE, "wait", TOO_LITTLE]),
        (
            "stands still by itself",
            counts(&[IN, OUT], &[]),
            ["wait", "look", "wait", SOURCE],
        ),
    ] {
        assert_eq!(by_moment(&change, inside), wanted, "{case}");
    }
}

#[test]
fn silence_is_looked_at_for_longer_where_the_window_would_tell_it_from_chance() {
    let thirty = 30 * SECOND;
    let after = |before: Tens, new: &[Part], after: Tens| Change {
        before,
        after,
        ..change(new)
    };
    let twos = || cycle(12, COMES, &[2]);
    let changed = &[IN_CHANGED, OUT];
    let ten_percent = |counts: &[u64]| Change {
        check: FlowCheck {
            collapse_below_percent: 10,
            ..check()
        },
        ..after(twos(), changed, cycle(3, COMES, counts))
    };
    let spans = (TRACES, Accepted, "otlp", 100);
    let traces: Part = (TRACES, 0, "otlp", 1);
    for (case, change, wanted) in [
        (
            "nothing of ten",
            after(twos(), changed, cycle(3, COMES, &[0])),
            "look",
        ),
        (
            "one of ten",
            after(twos(), changed, cycle(3, COMES, &[0, 0, 1])),
            TOO_LITTLE,
        ),
        ("nothing, below a tenth", ten_percent(&[0]), "look"),
        ("one, a tenth", ten_percent(&[0, 0, 1]), TOO_LITTLE),
        (
            "nothing of four",
            after(
                cycle(12, COMES, &[1, 1, 1, 1, 0]),
                changed,
                cycle(3, COMES, &[0]),
            ),
            TOO_LITTLE,
        ),
        (
            "nothing of ten, and another signal flows",
            Change {
                old: vec![IN, OUT, traces],
                ..after(
                    both(twos(), each(12, &[spans])),
                    &[IN_CHANGED, OUT, traces],
                    each(3, &[spans]),
                )
            },
            FLOWS,
        ),
        (
            "nothing of four, and what had more was removed",
            Change {
                old: vec![IN, SYSLOG, OUT],
                ..after(
                    both(
                        cycle(12, COMES, &[1, 1, 1, 1, 0]),
                        each(12, &[(LOGS, Accepted, "syslog", 100), GOES]),
                    ),
                    &[IN, OUT],
                    each(3, &[GOES]),
                )
            },
            TOO_LITTLE,
        ),
    ] {
        assert_eq!(change.says(thirty, true), wanted, "{case}");
    }
}
