//! What an answer of the service, of the disk or of the server comes to: done, again later, or a person's.
//!
//! Promises: a delay grows, is jittered and has a cap; an order of a person always gets its end.
//! Must never: drop a token that was issued.

use std::time::Duration;

use super::{
    CAP, FIRST, ORDER_PATIENCE, REISSUE_AFTER, REISSUE_WINDOW, RETRY_AFTER_CAP, Registration,
    SAVE_CAP, SAVE_FIRST, State, Steps, TOKEN_AGAIN, Why, note,
};
use crate::config::OnRejected;
use crate::engine::message::{Credential, Effect, FailureClass, NoteLevel, RegistrationFailure};
use crate::units::{Moment, Now};

impl Registration {
    pub(super) fn issued(&mut self, now: Now, why: Why, credential: Credential, steps: &mut Steps) {
        let mut news = note(NoteLevel::Info, "registered");
        news.fields
            .push(("how", credential.source.word().to_owned()));
        if let Some(gateway) = &credential.gateway {
            news.fields.push(("gateway", gateway.clone()));
        }
        if let Some(expires) = credential.expires {
            news.fields.push(("expires", expires.to_string()));
        }
        steps.effects.push(Effect::Note(news));
        self.attempt = 0;
        self.failure = None;
        self.rejected = None;
        self.unreadable = None;
        self.warned = 0;
        steps.renewed = true;
        let unsaved = credential.unsaved.clone();
        self.credential = Some(credential);
        self.state = State::Idle;
        if let Some(reason) = unsaved {
            self.unsaved(now, &reason, steps);
        }
        self.close_order(why, Ok(()));
    }

    pub(super) fn saved(&mut self, now: Now, credential: &Credential, steps: &mut Steps) {
        self.state = State::Idle;
        if let Some(reason) = &credential.unsaved {
            return self.unsaved(now, reason, steps);
        }
        self.attempt = 0;
        if let Some(known) = &mut self.credential {
            known.unsaved = None;
        }
        let note = note(NoteLevel::Info, "token stored");
        steps.effects.push(Effect::Note(note));
    }

    pub(super) fn unsaved(&mut self, now: Now, reason: &str, steps: &mut Steps) {
        if let Some(known) = &mut self.credential {
            known.unsaved = Some(reason.to_owned());
        }
        if self.attempt == 0 {
            steps.note(NoteLevel::Error, "token not stored", reason.to_owned());
        }
        let delay = self.delay(SAVE_FIRST, SAVE_CAP);
        self.state = State::Unsaved {
            until: now.mono.after(delay),
        };
    }

    pub(super) fn failed(
        &mut self,
        now: Now,
        why: Why,
        failure: RegistrationFailure,
        steps: &mut Steps,
    ) {
        self.failures = self.failures.saturating_add(1);
        let news = self.failure.as_ref().map(|it| &it.reason) != Some(&failure.reason);
        let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_CAP);
        let transient = failure.class.is_transient();
        let next = match why {
            Why::Order { what, calls_left } => {
                let delay = self.delay(FIRST, ORDER_PATIENCE).max(asked);
                let again = transient && calls_left > 1 && delay <= ORDER_PATIENCE;
                let why = Why::Order {
                    what,
                    calls_left: calls_left.saturating_sub(1),
                };
                again.then_some((delay, why))
            }
            Why::Missing | Why::Rejected if transient => {
                Some((self.delay(FIRST, CAP).max(asked), why))
            }
            Why::Missing if failure.class == FailureClass::Settings => {
                Some((self.delay(TOKEN_AGAIN, CAP), why))
            }
            Why::Missing | Why::Rejected => None,
        };
        if news {
            let level = if next.is_some() {
                NoteLevel::Warn
            } else {
                NoteLevel::Error
            };
            let mut news = note(level, "registration failed");
            news.fields.push(("reason", failure.reason.clone()));
            news.fields.push(("attempt", self.attempt.to_string()));
            if let Some((delay, _)) = next {
                news.fields
                    .push(("delay_ms", delay.as_millis().to_string()));
            }
            steps.effects.push(Effect::Note(news));
        }
        self.failure = Some(failure.clone());
        self.state = State::Idle;
        if let Some((delay, why)) = next {
            self.state = State::Waiting {
                until: now.mono.after(delay),
                why,
            };
        } else if matches!(why, Why::Order { .. }) {
            self.close_order(why, Err(failure));
            self.after_order(now, transient, asked);
        }
    }

    /// What an order that failed interrupted goes on, at its own pace.
    fn after_order(&mut self, now: Now, transient: bool, asked: Duration) {
        let unsaved = self
            .credential
            .as_ref()
            .is_some_and(|known| known.unsaved.is_some());
        if unsaved {
            let delay = self.delay(SAVE_FIRST, SAVE_CAP);
            self.state = State::Unsaved {
                until: now.mono.after(delay),
            };
        } else if self.credential.is_none() && transient {
            let delay = self.delay(FIRST, CAP).max(asked);
            self.state = State::Waiting {
                until: now.mono.after(delay),
                why: Why::Missing,
            };
        }
    }

    fn close_order(&mut self, why: Why, outcome: Result<(), RegistrationFailure>) {
        if let (Why::Order { .. }, Some(order)) = (why, &mut self.order) {
            order.outcome = Some(outcome);
        }
    }

    /// Registers again after a rejection, if the settings say so and it was not done too often. Says whether it will.
    pub(super) fn reissue(&mut self, now: Moment) -> bool {
        let wanted = self.registers_again();
        self.reissues.retain(|at| now.since(*at) < REISSUE_WINDOW);
        let Some(after) = REISSUE_AFTER.get(self.reissues.len()).filter(|_| wanted) else {
            return false;
        };
        self.reissues.push(now);
        self.attempt = 0;
        let wait = after.mul_f64(self.random.between(0.2, 1.0));
        self.state = State::Waiting {
            until: now.after(wait),
            why: Why::Rejected,
        };
        true
    }

    /// Whether the settings say to register again after a rejection.
    pub(super) fn registers_again(&self) -> bool {
        self.settings
            .as_ref()
            .is_some_and(|it| it.on_rejected == OnRejected::Register && it.can_register())
    }

    /// The next delay of a row of failures, jittered.
    fn delay(&mut self, first: Duration, cap: Duration) -> Duration {
        let exponent = i32::try_from(self.attempt.min(32)).unwrap_or(32);
        self.attempt = self.attempt.saturating_add(1);
        let grown = (first.as_secs_f64() * 2f64.powi(exponent)).min(cap.as_secs_f64());
        Duration::from_secs_f64(grown * self.random.between(0.5, 1.0))
    }
}
