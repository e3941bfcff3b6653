//! Two ways to bound how often something is sent, as arithmetic on given time.
//!
//! Promises: saturating and total; the last request or value is delayed, never lost.
//! Must never: know what is being sent.

use std::time::Duration;

/// Something that is sent when asked for, with a least gap between two answers. The first request is answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OnRequest {
    wanted: bool,
    answered_at: Option<Duration>,
}

impl OnRequest {
    pub(super) fn request(&mut self) {
        self.wanted = true;
    }

    /// When the open request, if there is one, may be answered.
    pub(super) fn due_at(&self, gap: Duration) -> Option<Duration> {
        self.wanted.then(|| {
            self.answered_at
                .map_or(Duration::ZERO, |at| at.saturating_add(gap))
        })
    }

    /// What is asked for was sent. Sending it unasked does not delay the answer to the next request.
    pub(super) fn answered(&mut self, now: Duration) {
        if self.wanted {
            self.wanted = false;
            self.answered_at = Some(now);
        }
    }
}

/// A burst at once, then one per period, whatever the demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pace {
    /// When the account would be empty again; each use moves it on by one period.
    used_until: Duration,
}

/// Changes that go out undelayed; the steps of a rollout fit in.
const BURST: u32 = 16;

/// Then one in this span.
const PERIOD: Duration = Duration::from_millis(500);

impl Pace {
    /// The earliest next use.
    pub(super) fn next_at(&self) -> Duration {
        self.used_until.saturating_sub(PERIOD * (BURST - 1))
    }

    /// One use. A use before its time, because something else was sent anyway, costs no more than the account
    /// holds: the next one is never more than a period away.
    pub(super) fn took(&mut self, now: Duration) {
        let full = now.saturating_add(PERIOD * BURST);
        self.used_until = self.used_until.max(now).saturating_add(PERIOD).min(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_before_their_time_delay_the_next_one_by_a_period_at_most() {
        let mut pace = Pace::default();
        let now = Duration::from_secs(100);
        for _ in 0..BURST {
            assert!(pace.next_at() <= now);
            pace.took(now);
        }
        assert_eq!(pace.next_at(), now + PERIOD);
        for _ in 0..100 {
            pace.took(now);
        }
        assert_eq!(pace.next_at(), now + PERIOD);
    }
}
