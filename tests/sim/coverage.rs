//! Which events met an agent in which of its states, over many histories.
//!
//! Promises: the table says with numbers which pairs were met; no run meets a pair that [`why_not`] calls impossible,
//! and a large one meets every other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use adjutant::engine::host::Host;
use adjutant::engine::message::{AgentEvent, Event, HostSignal, LinkEvent, LocalEvent};

/// What can happen, as columns.
const EVENTS: [(&str, &str); 17] = [
    ("di", "disk done"),
    ("df", "disk refused"),
    ("sp", "child started"),
    ("sf", "child not started"),
    ("ex", "child ended"),
    ("to", "validator ended"),
    ("lu", "link up"),
    ("lm", "server's message"),
    ("ld", "link down"),
    ("co", "child connected"),
    ("cm", "child's message"),
    ("cc", "child disconnected"),
    ("ti", "a deadline, or the clock"),
    ("te", "terminate"),
    ("hu", "hang up"),
    ("se", "settings read"),
    ("or", "a person's order"),
];

/// States of a child.
const CHILD: [&str; 6] = ["down", "starting", "up", "stopping", "waiting", "given up"];

/// Steps of a transaction; none under way, or a config gone back to that has yet to come up.
const ROLLOUT: [&str; 29] = [
    "idle",
    "settling",
    "gathering",
    "fetching",
    "recalling",
    "intent",
    "staging",
    "marking staged",
    "marking awaiting",
    "awaiting",
    "validating",
    "fetching baseline",
    "staging trial",
    "trying",
    "marking validated",
    "promoting",
    "marking promoted",
    "marking signalled",
    "proving",
    "marking probation",
    "probation",
    "marking good",
    "marking committed",
    "rejecting",
    "fetching good",
    "restoring good",
    "staging base",
    "returning",
    "marking rolled back",
];

/// How often each pair was met.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visits(BTreeMap<(&'static str, &'static str), u64>);

fn column(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::Tick | Event::Clock { .. } | Event::ClockJumped { .. } => "ti",
        Event::Signal(HostSignal::Terminate) => "te",
        Event::Signal(HostSignal::Hangup) => "hu",
        Event::Settings(_) => "se",
        Event::Command { .. } => "or",
        Event::Agent { event, .. } => match event {
            AgentEvent::Disk { result: Ok(_), .. } => "di",
            AgentEvent::Disk { result: Err(_), .. } => "df",
            AgentEvent::Spawned { .. } => "sp",
            AgentEvent::SpawnFailed { .. } => "sf",
            AgentEvent::Exited { .. } => "ex",
            AgentEvent::ToolDone { .. } => "to",
            AgentEvent::Link { event, .. } => match event {
                LinkEvent::Up => "lu",
                LinkEvent::Frame(_) => "lm",
                LinkEvent::Down(_) => "ld",
            },
            AgentEvent::Local { event, .. } => match event {
                LocalEvent::Opened { .. } => "co",
                LocalEvent::Frame(_) => "cm",
                LocalEvent::Closed => "cc",
            },
            _ => return None,
        },
        _ => return None,
    })
}

impl Visits {
    /// The event is about to reach the host.
    pub(crate) fn see(&mut self, host: &Host, event: &Event) {
        let Some(column) = column(event) else { return };
        let whose = match event {
            Event::Agent { agent, .. } => Some(agent),
            _ => None,
        };
        for (agent, child, rollout) in host.positions() {
            if whose.is_none_or(|whose| whose == agent) {
                *self.0.entry((child, column)).or_default() += 1;
                *self.0.entry((rollout, column)).or_default() += 1;
            }
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (pair, count) in &other.0 {
            *self.0.entry(*pair).or_default() += count;
        }
    }

    fn count(&self, row: &'static str, column: &'static str) -> u64 {
        self.0.get(&(row, column)).copied().unwrap_or(0)
    }

    /// The table, for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        for (code, name) in EVENTS {
            writeln!(out, "  {code} = {name}").unwrap();
        }
        for (title, rows) in [("child", &CHILD[..]), ("rollout", &ROLLOUT[..])] {
            write!(out, "{title:20}").unwrap();
            for (code, _) in EVENTS {
                write!(out, "{code:>8}").unwrap();
            }
            out.push('\n');
            for row in rows {
                write!(out, "{row:20}").unwrap();
                for (code, _) in EVENTS {
                    match (self.count(row, code), why_not(row, code)) {
                        (0, Some(_)) => write!(out, "{:>8}", "-"),
                        (0, None) => write!(out, "{:>8}", "MISSED"),
                        (n, _) => write!(out, "{n:>8}"),
                    }
                    .unwrap();
                }
                out.push('\n');
            }
        }
        out
    }

    /// Pairs that can be met and were not.
    pub(crate) fn missed(&self) -> Vec<(&'static str, &'static str)> {
        pairs()
            .filter(|(row, code)| why_not(row, code).is_none() && self.count(row, code) == 0)
            .collect()
    }

    /// Pairs that were met though they cannot be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let impossible = pairs().filter_map(|(row, code)| {
            let (count, why) = (self.count(row, code), why_not(row, code)?);
            (count > 0)
                .then(|| format!("{row} × {code} was met {count} times, but cannot be: {why}"))
        });
        impossible.collect()
    }

    /// Whether every state that was met is one of the table.
    pub(crate) fn strangers(&self) -> Vec<&'static str> {
        let known = |row: &&str| CHILD.contains(row) || ROLLOUT.contains(row);
        let mut strangers: Vec<_> = self.0.keys().map(|(row, _)| *row).collect();
        strangers.dedup();
        strangers.retain(|row| !known(row));
        strangers
    }
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = CHILD.iter().chain(&ROLLOUT);
    rows.flat_map(|row| EVENTS.iter().map(move |(code, _)| (*row, *code)))
}

/// Every pair that can be met, for those who want to.
pub(crate) fn possible() -> Vec<(&'static str, &'static str)> {
    pairs()
        .filter(|(row, code)| why_not(row, code).is_none())
        .collect()
}

/// Why a pair cannot be met in these histories.
fn why_not(row: &str, column: &str) -> Option<&'static str> {
    let of_a_child = matches!(column, "ex" | "co" | "cm" | "cc");
    match row {
        "marking awaiting" | "awaiting" => {
            Some("no config here names a certificate; `certs` plays those")
        }
        "recalling" if column == "to" => Some("begun by a start, before any validator is"),
        "starting" if of_a_child => Some("the process does not run yet, the one before it is gone"),
        "down" | "waiting" | "given up" if of_a_child => Some("there is no process"),
        "down" | "up" | "stopping" | "waiting" | "given up" if matches!(column, "sp" | "sf") => {
            Some("nothing was started")
        }
        _ => None,
    }
}
