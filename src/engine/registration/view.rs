//! Registration as the doors show it, and what is said of a token's end.
//!
//! Promises: one reason in words wherever something is not as it should be, with what to do about it.
//! Must never: change anything but what was said already.

use std::time::Duration;

use super::{Registration, State, Steps, Why, note};
use crate::config;
use crate::engine::message::{Effect, NoteLevel, OrderSnapshot, RegistrationSnapshot};
use crate::units::{Moment, Now, WallTime, format_duration};

/// A call takes half a minute at most, and then a disk.
const LATE: Duration = Duration::from_mins(2);

const DAY: Duration = Duration::from_hours(24);
/// Left of a token's life when somebody is told; zero is its end.
const WARN_AT: [Duration; 4] = [
    Duration::from_hours(30 * 24),
    Duration::from_hours(7 * 24),
    DAY,
    Duration::ZERO,
];

impl Registration {
    /// Spans of [`WARN_AT`] that mean something to the current token: those shorter than its whole life.
    fn warnings(&self) -> Option<(WallTime, impl Iterator<Item = Duration> + use<>)> {
        let credential = self.credential.as_ref()?;
        let expires = credential.expires?;
        let life = span(credential.at, expires);
        let meant = WARN_AT
            .into_iter()
            .filter(move |at| *at < life || at.is_zero());
        Some((expires, meant))
    }

    pub(super) fn next_warning(&self, now: Now) -> Option<Moment> {
        self.settings.as_ref()?;
        let (expires, mut meant) = self.warnings()?;
        let left = span(now.wall, expires);
        let next = meant.nth(self.warned)?;
        Some(now.mono.after(left.saturating_sub(next)))
    }

    pub(super) fn warn(&mut self, now: Now, steps: &mut Steps) {
        if self.settings.is_none() {
            return;
        }
        let Some((expires, meant)) = self.warnings() else {
            return;
        };
        let left = span(now.wall, expires);
        let passed = meant.take_while(|at| left <= *at).count();
        if passed > self.warned {
            let (level, message) = if left.is_zero() {
                (NoteLevel::Error, "token has expired")
            } else {
                (NoteLevel::Warn, "token expires soon")
            };
            let mut news = note(level, message);
            news.fields.push(("expires", expires.to_string()));
            steps.effects.push(Effect::Note(news));
        }
        self.warned = passed;
    }

    /// As a door may show it; none where no registration is set up.
    pub(crate) fn snapshot(&self, now: Now) -> Option<RegistrationSnapshot> {
        let settings = self.settings.as_ref()?;
        let state = match (&self.credential, &self.rejected) {
            (None, _) => "unregistered",
            (Some(_), Some(_)) => "rejected",
            (Some(_), None) => "registered",
        };
        let (phase, retry_in) = match self.state {
            State::Idle if state == "registered" => ("idle", None),
            State::Idle => ("held", None),
            State::Waiting { until, .. } | State::Unsaved { until } => {
                ("waiting", Some(until.since(now.mono)))
            }
            State::Calling { .. } | State::Saving { .. } => ("calling", None),
        };
        let expires = self.credential.as_ref().and_then(|known| known.expires);
        Some(RegistrationSnapshot {
            state,
            phase,
            reason: self.reason(now),
            url: settings.url.clone().unwrap_or_default(),
            credential: self.credential.clone(),
            expires_in: expires.map(|expires| span(now.wall, expires)),
            retry_in,
            calls: self.calls,
            failures: self.failures,
            order: self.order.as_ref().map(|order| OrderSnapshot {
                number: order.number,
                what: order.what.word(),
                outcome: order.outcome.clone(),
            }),
        })
    }

    /// Why it is not as it should be; empty when it is.
    pub(super) fn reason(&self, now: Now) -> String {
        if let State::Calling { since, .. } | State::Saving { since, .. } = self.state
            && now.mono.since(since) >= LATE
        {
            return "the call has been under way for minutes; the disk may be stalled".to_owned();
        }
        let Some(credential) = &self.credential else {
            return self.why_unregistered();
        };
        if let Some(reason) = &self.rejected {
            let failed = self.failure.as_ref().map_or_else(String::new, |failure| {
                format!("; the last call failed: {}", failure.reason)
            });
            return format!("{reason}; {}{failed}", self.remedy(now.mono));
        }
        if let Some(reason) = &credential.unsaved {
            return format!("the token works and is not on disk: {reason}");
        }
        match credential.expires.map(|expires| span(now.wall, expires)) {
            Some(Duration::ZERO) => {
                "the token has expired; run `adjutant restart-registration`".to_owned()
            }
            Some(left) if self.warned > 0 => format!(
                "the token expires in {}; run `adjutant restart-registration` before",
                days(left)
            ),
            _ => String::new(),
        }
    }

    fn why_unregistered(&self) -> String {
        if let Some(reason) = self.unreadable.as_ref() {
            return format!("{reason}; repair it, or run `adjutant onboard` for a new token");
        }
        if let Some(failure) = &self.failure {
            return match self.state {
                State::Idle => format!("{}; correct it and run `adjutant onboard`", failure.reason),
                _ => failure.reason.clone(),
            };
        }
        let registers = self
            .settings
            .as_ref()
            .is_some_and(config::Registration::can_register);
        if registers {
            "not registered yet".to_owned()
        } else {
            "there is no token; set registration.url with registration.token_file or REGISTRATION_TOKEN, or OPAMP_TOKEN"
                .to_owned()
        }
    }

    fn remedy(&self, now: Moment) -> String {
        match self.state {
            State::Waiting {
                until,
                why: Why::Rejected,
            } => format!(
                "registering again in {}",
                format_duration(whole(until.since(now)))
            ),
            State::Calling { .. } => "asking for a new one".to_owned(),
            _ => "run `adjutant restart-registration`".to_owned(),
        }
    }
}

/// From one wall time to a later one; zero when it is not later.
fn span(from: WallTime, to: WallTime) -> Duration {
    Duration::from_millis(to.unix_millis().saturating_sub(from.unix_millis()))
}

fn whole(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs().max(1))
}

fn days(left: Duration) -> String {
    match left.as_secs() / DAY.as_secs() {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_whole_days() {
        for (left, told) in [
            (Duration::ZERO, "less than a day"),
            (
                DAY.saturating_sub(Duration::from_secs(1)),
                "less than a day",
            ),
            (DAY, "1 day"),
            ((DAY * 2).saturating_sub(Duration::from_secs(1)), "1 day"),
            (DAY * 2, "2 days"),
        ] {
            assert_eq!(days(left), told, "{left:?}");
        }
    }
}
