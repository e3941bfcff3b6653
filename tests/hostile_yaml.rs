//! Given YAML made to hurt, as settings and as an offered file,
//! when it is read,
//! then it is refused with the budget's own words, before the memory it asks for exists.
//!
//! Peak memory is the kernel's: each case runs in a process of its own (this binary, executed again), which
//! writes how far its high-water mark rose over the reading. One process per case, because the mark never
//! falls.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fmt::Write as _;
use std::process::Command;

use adjutant::yaml::{Limits, from_str, parse};

/// Growth allowed for a text refused at its first excess, in KiB. The text itself is there before the
/// measurement starts.
const REFUSED_KIB_MAX: u64 = 2 * 1024;
/// Growth allowed where a budget is used up to its end: twice the bytes of an offered file, and 100 000 nodes.
const FULL_KIB_MAX: u64 = 24 * 1024;

const CASE: &str = "ADJUTANT_HOSTILE_CASE";

#[derive(serde::Deserialize)]
struct Anything {
    #[serde(default)]
    #[expect(dead_code, reason = "the target of a read that must fail")]
    a: Option<String>,
}

struct Case {
    name: &'static str,
    text: fn() -> String,
    /// What the error must say at each door: (as settings, as an offered file).
    wanted: (&'static str, &'static str),
    kib_max: u64,
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth))
}

fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let below = level - 1;
        let row = vec![format!("*a{below}"); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{row}]").unwrap();
    }
    text
}

fn wide_bomb() -> String {
    let mut text = format!("a: &a {}\nb:\n", "x".repeat(500_000));
    for _ in 0..2_000 {
        text.push_str("  - *a\n");
    }
    text
}

fn flat(keys: usize) -> String {
    let mut text = String::new();
    for i in 0..keys {
        writeln!(text, "k{i}: 1").unwrap();
    }
    text
}

const DEEP: &str = "nested deeper than 64 levels";
const MANY: (&str, &str) = (
    "more than 20000 values, repeated ones counted",
    "more than 100000 values, repeated ones counted",
);
const LARGE: (&str, &str) = ("bytes; the limit is 1048576", "bytes; the limit is 4194304");

fn cases() -> Vec<Case> {
    let refused = |name, text, wanted| Case {
        name,
        text,
        wanted,
        kib_max: REFUSED_KIB_MAX,
    };
    let full = |name, text, wanted| Case {
        name,
        text,
        wanted,
        kib_max: FULL_KIB_MAX,
    };
    vec![
        refused("flow maps 3 200 deep", || nested(3_200), (DEEP, DEEP)),
        refused("flow maps 12 800 deep", || nested(12_800), (DEEP, DEEP)),
        refused("flow maps 100 000 deep", || nested(100_000), (DEEP, DEEP)),
        refused("400 000 brackets", || "[".repeat(400_000), (DEEP, DEEP)),
        refused(
            "block lists 2 000 deep",
            || "- ".repeat(2_000) + "x\n",
            (DEEP, DEEP),
        ),
        full("alias bomb of nine to the ninth", bomb, MANY),
        full(
            "one long value repeated 2 000 times",
            wide_bomb,
            (
                "aliases repeat more than 1048576 bytes",
                "aliases repeat more than 4194304 bytes",
            ),
        ),
        refused(
            "a duplicate key",
            || "a: 1\nb: 2\na: 3\n".to_owned(),
            (
                "3:1: the key \"a\" occurs twice, first at 1:1",
                "3:1: the key \"a\" occurs twice, first at 1:1",
            ),
        ),
        refused(
            "an unknown tag",
            || "a: !exec {b: 1}\n".to_owned(),
            (
                "the tag \"!exec\" is not supported",
                "the tag \"!exec\" is not supported",
            ),
        ),
        full("200 000 flat keys", || flat(200_000), (LARGE.0, MANY.1)),
        full("60 000 flat keys", || flat(60_000), MANY),
        refused(
            "a second document",
            || "a: 1\n---\na: 2\n".to_owned(),
            ("2:1: a second document", "2:1: a second document"),
        ),
        refused(
            "a NUL byte",
            || "a: 1\nb: \0\n".to_owned(),
            ("2:4: a NUL byte", "2:4: a NUL byte"),
        ),
        refused("eight megabytes", || "#".repeat(8 * 1024 * 1024), LARGE),
        refused(
            "half a megabyte of open quote",
            || format!("a: \"{}", "x".repeat(500_000)),
            ("unclosed quote", "unclosed quote"),
        ),
    ]
}

/// The high-water mark of this process in KiB.
fn high_water_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs one case when this binary was executed for it; passes as an empty test otherwise, and the next test
/// checks that the child really answered.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let (door, index) = case.split_once(' ').unwrap();
    let case = cases().swap_remove(index.parse().unwrap());
    let text = (case.text)();
    let before = high_water_kib();
    let error = match door {
        "settings" => from_str::<Anything>("f", &text).map(|_| ()),
        _ => parse("f", &text, Limits::OFFERED).map(|_| ()),
    }
    .expect_err("the text must be refused");
    let grown = high_water_kib() - before;
    println!("\ngrown={grown}\nerror={error}");
}

#[test]
fn hostile_texts_are_refused_by_budget_and_within_memory() {
    let own = std::env::current_exe().unwrap();
    for (index, case) in cases().iter().enumerate() {
        let doors = [("settings", case.wanted.0), ("offered", case.wanted.1)];
        for (door, wanted) in doors {
            let output = Command::new(&own)
                .args(["child", "--exact", "--nocapture", "--test-threads=1"])
                .env(CASE, format!("{door} {index}"))
                .env("RUST_BACKTRACE", "0")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let field = |name: &str| {
                said.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_else(|| panic!("{} as {door}: no answer\n{said}", case.name))
            };
            let error = field("error=");
            assert!(error.contains(wanted), "{} as {door}: {error}", case.name);
            assert!(error.len() < 400, "{} as {door}: {error}", case.name);
            let grown: u64 = field("grown=").parse().unwrap();
            println!("{:>8} KiB  {door:>8}  {}", grown, case.name);
            assert!(
                grown <= case.kib_max,
                "{} as {door}: {grown} KiB, allowed {}",
                case.name,
                case.kib_max
            );
        }
    }
}
