//! How often an authority may be asked for one set of names.
//!
//! Promises: at most four orders are begun inside a window of four first delays (an hour by default), whoever asks and
//! however often we die; failures double the wait up to six hours; an authority that was not reached is asked again
//! sooner, because that costs it nothing; its own Retry-After is never undercut. A time that a jump of the clock put
//! out of reach is forgotten.
//! Must never: forget a set of names while its window runs, but for the oldest of many.

use std::time::Duration;

use crate::engine::message::{Attempts, CertificateFault, CertificateFaultKind};
use crate::engine::random::Random;
use crate::units::{Domain, WallTime, order};

/// Orders inside a window; authorities allow about five failed validations an hour.
const ORDERS_MAX: usize = 4;
/// Sets of names that are remembered.
const SETS_MAX: usize = 16;
/// Longest wait of ours.
const WAIT_MAX: Duration = Duration::from_hours(6);
/// Longest wait that an authority may ask for.
const ASKED_MAX: Duration = Duration::from_hours(24);
/// An authority that was not reached is asked again after this part of the first delay.
const UNREACHED_PART: u32 = 15;
/// Up to this much is added to a wait.
const JITTER: f64 = 0.25;

/// What was tried, by set of names.
#[derive(Debug, Default)]
pub(super) struct Pace {
    sets: Vec<Attempts>,
}

impl Pace {
    /// Takes up what an earlier life kept.
    pub(super) fn of(mut sets: Vec<Attempts>) -> Self {
        sets.truncate(SETS_MAX);
        Self { sets }
    }

    /// What is to be kept.
    pub(super) fn kept(&self) -> Vec<Attempts> {
        self.sets.clone()
    }

    fn set(&self, domains: &[Domain]) -> Option<&Attempts> {
        self.sets.iter().find(|set| set.domains == domains)
    }

    fn set_mut(&mut self, domains: &[Domain]) -> Option<&mut Attempts> {
        self.sets.iter_mut().find(|set| set.domains == domains)
    }

    /// Until when nothing may be ordered for `domains`; none when it may be now.
    pub(super) fn hold(
        &self,
        domains: &[Domain],
        now: WallTime,
        retry: Duration,
    ) -> Option<WallTime> {
        let set = self.set(domains)?;
        let window = retry.saturating_mul(u32::try_from(ORDERS_MAX).unwrap_or(u32::MAX));
        let recent = |at: &&WallTime| **at <= now && now < plus(**at, window);
        let mut recent: Vec<WallTime> = set.begun.iter().filter(recent).copied().collect();
        order::sort(&mut recent);
        let crowded = recent.len().checked_sub(ORDERS_MAX);
        let crowded = crowded
            .and_then(|at| recent.get(at))
            .map(|at| plus(*at, window));
        let far = if set.asked_to_wait {
            ASKED_MAX
        } else {
            longest(retry)
        };
        let waits = set.not_before.filter(|at| *at <= plus(now, far));
        [crowded, waits]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .max()
    }

    /// Until when the authority itself asked to be left alone.
    pub(super) fn asked_to_wait(&self, domains: &[Domain], now: WallTime) -> Option<WallTime> {
        let set = self.set(domains).filter(|set| set.asked_to_wait)?;
        let within = |at: &WallTime| *at > now && *at <= plus(now, ASKED_MAX);
        set.not_before.filter(within)
    }

    /// Why the last order failed; empty when it did not.
    pub(super) fn last_error(&self, domains: &[Domain]) -> String {
        let set = self.set(domains);
        set.map(|set| set.last_error.clone()).unwrap_or_default()
    }

    /// An order is about to be made.
    pub(super) fn begin(&mut self, domains: &[Domain], now: WallTime) {
        if self.set(domains).is_none() {
            if self.sets.len() >= SETS_MAX {
                let oldest = self.sets.iter().enumerate();
                let oldest = oldest.min_by_key(|(_, set)| set.begun.last().copied());
                if let Some((at, _)) = oldest {
                    self.sets.remove(at);
                }
            }
            self.sets.push(Attempts {
                domains: domains.to_vec(),
                begun: Vec::new(),
                failures: 0,
                not_before: None,
                asked_to_wait: false,
                last_error: String::new(),
            });
        }
        if let Some(set) = self.set_mut(domains) {
            if set.begun.len() >= ORDERS_MAX {
                set.begun.remove(0);
            }
            set.begun.push(now);
        }
    }

    /// It was not made after all.
    pub(super) fn not_begun(&mut self, domains: &[Domain]) {
        if let Some(set) = self.set_mut(domains) {
            set.begun.pop();
        }
    }

    /// It failed.
    pub(super) fn failed(
        &mut self,
        domains: &[Domain],
        now: WallTime,
        fault: &CertificateFault,
        retry: Duration,
        random: &mut Random,
    ) {
        let asked_nothing = matches!(
            fault.kind,
            CertificateFaultKind::Unreachable | CertificateFaultKind::Address
        );
        let Some(set) = self.set_mut(domains) else {
            return;
        };
        if asked_nothing {
            set.begun.pop();
        }
        let doublings = set.failures.min(16);
        set.failures = set.failures.saturating_add(1);
        let wait = if asked_nothing {
            (retry / UNREACHED_PART)
                .saturating_mul(1 << doublings)
                .min(retry)
        } else {
            retry
                .saturating_mul(1 << doublings)
                .min(WAIT_MAX.max(retry))
        };
        let wait = wait.mul_f64(1.0 + random.between(0.0, JITTER));
        let asked = fault.retry_after.map(|asked| asked.min(ASKED_MAX));
        set.asked_to_wait = asked.is_some_and(|asked| asked > wait);
        set.not_before = Some(plus(now, asked.map_or(wait, |asked| asked.max(wait))));
        set.last_error.clone_from(&fault.reason);
    }

    /// It gave a pair that is live now.
    pub(super) fn succeeded(&mut self, domains: &[Domain]) {
        if let Some(set) = self.set_mut(domains) {
            set.failures = 0;
            set.not_before = None;
            set.asked_to_wait = false;
            set.last_error.clear();
        }
    }
}

/// The longest wait that [`Pace::failed`] can have come to.
fn longest(retry: Duration) -> Duration {
    WAIT_MAX.max(retry).mul_f64(1.0 + JITTER)
}

fn plus(at: WallTime, span: Duration) -> WallTime {
    super::later(at, span)
}
