//! The classifier against labelled cases: families of good and broken changes, each over rates, ways to reload and
//! lengths of baseline, each under several seeds. The table is printed (`cargo test --lib flow::tests --
//! --nocapture`), and what docs/flow.md shows of it is compared with it.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a model of a program counts in floats"
)]

mod cases;
mod counted;
mod held_out;
mod judged;
mod program;
mod shapes;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::judge::{Decision, Evidence, Verdict};
use super::meter::Meter;
use super::shape::Shape;
use crate::config::{Flow, FlowCheck, FlowMode};
use crate::units::Moment;
use cases::{Case, Truth, all};
use program::Program;

const SECOND: Duration = Duration::from_secs(1);
const PROBATION: u64 = 30;
/// Seeds of each case that the classifier was made with.
const KNOWN: std::ops::Range<u64> = 1..6;
/// Seeds that it was not, with wilder noise.
const HELD_OUT: std::ops::Range<u64> = 7_001..7_006;

fn check() -> FlowCheck {
    FlowCheck {
        mode: FlowMode::Rollback,
        interval: 10 * SECOND,
        min_baseline: 120 * SECOND,
        collapse_below_percent: 1,
        window: 60 * SECOND,
    }
}

/// What the classifier says of a case under a seed, and after how many seconds.
fn verdict(case: &Case, flow: &Flow, seed: u64, wild: bool) -> (Verdict, u64) {
    let check = FlowCheck {
        window: case.window,
        ..check()
    };
    let mut program = Program::new(seed, wild);
    let mut before = Meter::default();
    let mut now = 0;
    for at in 0..case.baseline {
        program.second(&case.before, at);
        now += 1;
        if case.crash == Some(at) {
            program.restarts();
        }
        if case
            .sleep
            .is_some_and(|(from, to)| (from..to).contains(&at))
        {
            continue;
        }
        if at % 10 == 0 {
            before.read(
                Moment::from_millis(now * 1_000),
                &program.reading(),
                check.interval,
            );
        }
    }
    before.pause();
    if case.restart {
        program.restarts();
    }
    // Proof takes a moment.
    program.second(&case.after, 0);
    let mut after = Meter::default();
    for at in 1..600 {
        program.second(&case.after, at);
        now += 1;
        let elapsed = at - 1;
        if elapsed % 5 != 0 {
            continue;
        }
        after.read(
            Moment::from_millis(now * 1_000),
            &program.reading(),
            check.interval,
        );
        let evidence = Evidence {
            before: &before,
            after: &after,
            old: &case.old,
            new: &case.new,
            flow,
            check: &check,
        };
        let over = elapsed >= PROBATION;
        if let Decision::Say(verdict) = evidence.decide(Duration::from_secs(elapsed), over) {
            return (verdict, elapsed);
        }
    }
    panic!("no decision in ten minutes: {}", case.name);
}

#[derive(Debug, Default, Clone)]
struct Row {
    cases: usize,
    runs: usize,
    collapsed: usize,
    unknown: usize,
    slowest: u64,
}

fn table(
    seeds: &std::ops::Range<u64>,
    wild: bool,
) -> (BTreeMap<(Truth, &'static str), Row>, Vec<String>) {
    let flow = shapes::otelcol();
    let mut rows: BTreeMap<_, Row> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (number, case) in all(wild).into_iter().enumerate() {
        let row = rows.entry((case.truth, case.family)).or_default();
        row.cases += 1;
        for seed in seeds.clone() {
            let seed = seed * 1_000 + number as u64;
            let (verdict, after) = verdict(&case, &flow, seed, wild);
            row.runs += 1;
            row.slowest = row.slowest.max(after);
            match &verdict {
                Verdict::Collapsed(_) => row.collapsed += 1,
                Verdict::Unknown(_) => row.unknown += 1,
                Verdict::Flows => {}
            }
            let is_wrong = match case.truth {
                Truth::Broken => !matches!(verdict, Verdict::Collapsed(_)),
                Truth::Good => matches!(verdict, Verdict::Collapsed(_)),
                Truth::Untold => !matches!(verdict, Verdict::Unknown(_)),
                Truth::Limit => false,
            };
            if is_wrong {
                wrong.push(format!(
                    "{} / {}, seed {seed}: {verdict:?}",
                    case.family, case.name
                ));
            }
        }
    }
    (rows, wrong)
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 * 100.0 / of.max(1) as f64
}

fn text(rows: &BTreeMap<(Truth, &'static str), Row>) -> String {
    let mut text = String::from(
        "| truth | family | cases | runs | rolled back | no verdict | decided within |\n|---|---|---|---|---|---|---|\n",
    );
    for ((truth, family), row) in rows {
        writeln!(
            text,
            "| {} | {family} | {} | {} | {:.1} % | {:.1} % | {} s |",
            truth.word(),
            row.cases,
            row.runs,
            share(row.collapsed, row.runs),
            share(row.unknown, row.runs),
            row.slowest
        )
        .unwrap();
    }
    text
}

/// Recall of broken configs and false rollbacks, percent.
fn rates(rows: &BTreeMap<(Truth, &'static str), Row>) -> (f64, f64) {
    let sum = |wanted: &[Truth]| {
        let of = rows.iter().filter(|((truth, _), _)| wanted.contains(truth));
        of.fold((0, 0), |(collapsed, runs), (_, row)| {
            (collapsed + row.collapsed, runs + row.runs)
        })
    };
    let (found, broken) = sum(&[Truth::Broken]);
    let (wrongly, good) = sum(&[Truth::Good, Truth::Untold]);
    (share(found, broken), share(wrongly, good))
}

#[test]
fn every_broken_config_is_found_and_good_ones_are_left_alone() {
    let (known, wrong) = table(&KNOWN, false);
    let (held_out, wilder) = table(&HELD_OUT, true);
    let labelled: usize = known.values().map(|row| row.cases).sum();
    let shown = text(&known);
    let (recall, false_rollbacks) = rates(&known);
    let (recall_out, false_out) = rates(&held_out);
    let summary = format!(
        "{labelled} labelled cases. Seeds {KNOWN:?}: {recall:.1} % of the broken found, {false_rollbacks:.2} % of the \
         others rolled back. Seeds {HELD_OUT:?}, wilder noise: {recall_out:.1} % and {false_out:.2} %.\n"
    );
    println!("{summary}\n{shown}\nheld out\n{}", text(&held_out));
    println!("{}", wrong.join("\n"));
    println!("held out\n{}", wilder.join("\n"));
    assert!(labelled >= 200, "{labelled} cases");
    assert!(recall >= 100.0, "{wrong:#?}");
    assert!(false_rollbacks <= 1.0, "{wrong:#?}");
    assert!(recall_out >= 100.0, "{wilder:#?}");
    assert!(false_out <= 1.0, "{wilder:#?}");
    let manual = include_str!("../../../docs/flow.md");
    let part = format!("<!-- begin classifier -->\n{summary}\n{shown}<!-- end classifier -->");
    assert!(
        manual.contains(&part),
        "docs/flow.md shows another table; it should be\n{part}"
    );
}

/// A shape of the config of a case.
fn shape(parts: &[(usize, usize, &str, u64)], shared: u64) -> Shape {
    Shape::made(3, parts, shared)
}
