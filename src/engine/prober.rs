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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn one_question_is_out_at_a_time_and_only_its_own_answer_counts() {
        const EVERY: Duration = Duration::from_secs(5);
        let mut prober = Prober::default();
        assert!(!prober.wants(at(0)));
        prober.begin(at(100));
        assert_eq!(prober.due(), Some(at(100)));
        assert!(!prober.wants(at(99)) && prober.wants(at(100)));
        prober.asked(Ticket(1));
        assert!(!prober.wants(at(10_000)));
        assert!(prober.is_asking(Ticket(1)) && !prober.is_asking(Ticket(2)));
        assert!(!prober.answered(at(200), Ticket(2), Ok(()), EVERY, 1));
        assert_eq!(prober.good, None);
        assert!(prober.answered(at(200), Ticket(1), Ok(()), EVERY, 1));
        assert_eq!((prober.good, prober.due()), (Some(true), Some(at(5_200))));
        assert!(!prober.is_asking(Ticket(1)));
    }

    #[test]
    fn it_is_bad_after_so_many_bad_answers_in_a_row() {
        let mut prober = Prober::default();
        let mut number = 0;
        let mut answer = |prober: &mut Prober, answer: Result<(), &str>| {
            number += 1;
            prober.asked(Ticket(number));
            let answer = answer.map_err(str::to_owned);
            prober.answered(at(0), Ticket(number), answer, Duration::ZERO, 2);
            (prober.good, prober.error.clone())
        };
        assert_eq!(answer(&mut prober, Err("a")), (None, "a".to_owned()));
        assert_eq!(answer(&mut prober, Ok(())), (Some(true), String::new()));
        assert_eq!(answer(&mut prober, Err("b")), (Some(true), "b".to_owned()));
        assert_eq!(answer(&mut prober, Err("c")), (Some(false), "c".to_owned()));
        assert_eq!(answer(&mut prober, Ok(())), (Some(true), String::new()));
        prober.stop();
        assert_eq!((prober.good, prober.due()), (None, None));
    }
}
