//! What the engine asks about the clock, what it is told, and what a door may show.
//!
//! Promises: plain data. Must never: hold a credential; the time is asked for without any.

use std::time::Duration;

use crate::config::Tls;
use crate::units::WallTime;

/// Whom to ask for the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockQuestion {
    /// `http://…` or `https://…`.
    pub url: String,
    /// How the identity of whoever answers is verified.
    pub tls: Tls,
}

/// What a look at the clock saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockLook {
    /// How far our clock is ahead of the other one, in milliseconds, or why that is not known; none when nobody was
    /// asked.
    pub skew_ms: Option<Result<i64, String>>,
    /// Whether the kernel says that something keeps the clock; none where it does not say.
    pub synchronised: Option<bool>,
    /// How long the machine has slept since it booted.
    pub asleep: Duration,
}

/// The clock as a door may show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockSnapshot {
    /// Whether nothing is wrong with it.
    pub well: bool,
    /// How it is, for people.
    pub words: String,
    /// How far it was ahead of the other clock when they were compared last.
    pub skew_ms: Option<i64>,
    /// When that was.
    pub compared_at: Option<WallTime>,
    /// Whose time it is compared with.
    pub compared_with: Option<String>,
    /// Why the last comparison came to nothing; empty when it did not.
    pub last_error: String,
    /// Whether the kernel says that something keeps it.
    pub synchronised: Option<bool>,
    /// How often it was set since we started.
    pub jumps: u64,
    /// When it was set last, and by how many milliseconds.
    pub last_jump: Option<(WallTime, i64)>,
}
