//! A probe that repeats: when to ask again, and what the answers come to.
//!
//! Promises: one question at a time; a late answer of an earlier question is not taken for this one.
//! Must never: ask by itself.

use std::time::Duration;

use crate::units::{Moment, Ticket};

/// A probe that repeats.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    outstanding: Option<Ticket>,
    next_at: Option<Moment>,
    failures: u32,
    /// What the last answers came to; none before the first.
    pub(crate) good: Option<bool>,
    /// What the last bad answer said.
    pub(crate) error: String,
}

impl Prober {
    /// Forgets everything and asks at `at`.
    pub(crate) fn begin(&mut self, at: Moment) {
        *self = Self {
            next_at: Some(at),
            ..Self::default()
        };
    }

    /// Stops asking.
    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }

    /// Whether it is time to ask.
    pub(crate) fn wants(&self, now: Moment) -> bool {
        self.outstanding.is_none() && self.next_at.is_some_and(|at| at <= now)
    }

    /// Whether `ticket` is of the question that is asked now.
    pub(crate) fn is_asking(&self, ticket: Ticket) -> bool {
        self.outstanding == Some(ticket)
    }

    /// The question was asked.
    pub(crate) fn asked(&mut self, ticket: Ticket) {
        self.outstanding = Some(ticket);
        self.next_at = None;
    }

    /// An answer came. False when it is not to this probe's question.
    pub(crate) fn answered(
        &mut self,
        now: Moment,
        ticket: Ticket,
        answer: Result<(), String>,
        interval: Duration,
        failures_max: u32,
    ) -> bool {
        if self.outstanding != Some(ticket) {
            return false;
        }
        self.outstanding = None;
        self.next_at = Some(now.after(interval));
        match answer {
            Ok(()) => {
                self.failures = 0;
                self.good = Some(true);
                self.error.clear();
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.error = error;
                if self.failures >= failures_max {
                    self.good = Some(false);
                }
            }
        }
        true
    }

    /// When it wants to ask.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.next_at
    }
}
