//! A program's own counters as the engine sees them: what to read, what was read.
//!
//! Promises: plain data. Must never: judge.

use std::time::Duration;

use crate::config::{Flow, FlowRole};

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterQuestion {
    /// Where.
    pub url: String,
    /// How long it may take.
    pub timeout: Duration,
    /// What is looked for, and how.
    pub flow: Box<Flow>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// How long the program says it has been up.
    pub uptime: Option<Duration>,
    /// Every counter that was looked for and found.
    pub counts: Vec<Count>,
}

impl Reading {
    /// Adds to a counter.
    pub fn add(&mut self, key: CountKey, value: u64) {
        match self.counts.iter_mut().find(|count| count.key == key) {
            Some(count) => count.value = count.value.saturating_add(value),
            None => self.counts.push(Count { key, value }),
        }
    }
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Of what.
    pub key: CountKey,
    /// How much.
    pub value: u64,
}

/// What a counter is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CountKey {
    /// Index of the signal in the profile.
    pub signal: usize,
    /// What it counts.
    pub role: FlowRole,
    /// The part of the program, where the counter says one; empty otherwise.
    pub part: String,
}
