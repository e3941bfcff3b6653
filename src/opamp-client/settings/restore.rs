//! What an earlier life saved, taken up again.
//!
//! Promises: nothing comes back that the present local settings do not allow; a trial goes on where it was; a
//! certificate is not judged by a clock that may not be set yet. Must never: fail. What cannot be used is told and
//! left out.

use super::offer::{Failures, Work, as_other, end};
use super::resolve::Scope;
use super::saved::{SavedCandidate, State};
use super::trial::{Candidate, Phase, Side, Trial};
use super::{Class, Clock, Destination, Policy, Refused, Settings, SettingsEffect};
use crate::messages::{
    ConnectionSettingsOffers, ConnectionSettingsStatus, ConnectionSettingsStatuses,
    OpAmpConnectionSettings, OtherConnectionSettings,
};
use crate::session::printable;

/// Checks everything but dates.
fn scope<'a>(name: &'a str, policy: &'a Policy) -> Scope<'a> {
    Scope {
        name,
        policy,
        unix: None,
    }
}

impl Settings {
    pub(super) fn restore(&mut self, mut state: State, clock: Clock) {
        let base = self.config.base.to_string();
        if state.base != base {
            // The operator's word is newer than the server's.
            state = State {
                pending: state.pending,
                base,
                ..State::default()
            };
        }
        let candidate = state.candidate.take();
        let destinations = std::mem::take(&mut state.destinations);
        let applying = ConnectionSettingsStatuses::Applying as i32;
        if state.status.status == applying && candidate.is_none() {
            // Interrupted in the middle; without its hash the server offers it again.
            state.status = ConnectionSettingsStatus::default();
        }
        match scope("opamp", &self.config.policy).opamp(&self.config.base, &state.opamp) {
            Ok(target) => self.current = target,
            Err(refused) => {
                state.opamp = OpAmpConnectionSettings::default();
                state.status = ConnectionSettingsStatus::default();
                self.effect(SettingsEffect::Dropped(refused));
            }
        }
        self.state = state;
        for (class, offered) in destinations {
            self.restore_destination(class, offered);
        }
        if let Some(candidate) = candidate {
            self.restore_candidate(candidate, clock);
        }
        self.look_at_certificate();
        if self.state.status != ConnectionSettingsStatus::default() {
            self.effect(SettingsEffect::Report(self.state.status.clone()));
        }
    }

    /// Takes over destinations of own telemetry that another client set up here by order of the same server, where
    /// nothing of their class is known. They are handed out and saved as if they had been saved before; no status is
    /// reported of them, because nobody knows any more what they were offered as: offered again, they change nothing
    /// and are APPLIED. What the present settings do not allow is dropped and told.
    pub fn take_over(&mut self, clock: Clock, offers: ConnectionSettingsOffers) {
        let telemetry = [
            (Class::OwnMetrics, offers.own_metrics),
            (Class::OwnTraces, offers.own_traces),
            (Class::OwnLogs, offers.own_logs),
        ];
        for (class, offer) in telemetry {
            if let Some(offer) = offer.filter(|offer| !offer.destination_endpoint.is_empty())
                && !self.destinations.contains_key(&class)
            {
                self.restore_destination(class, as_other(offer));
                self.unsaved = true;
            }
        }
        self.go_on(clock);
    }

    /// Hands a destination out again.
    fn restore_destination(&mut self, class: Class, offered: OtherConnectionSettings) {
        match self.resolve_saved(&class, &offered) {
            Ok(destination) => {
                let ticket = self.new_id();
                self.effect(SettingsEffect::Destination {
                    ticket,
                    class: class.clone(),
                    settings: Some(Box::new(destination.clone())),
                });
                self.destinations.insert(class.clone(), destination);
                self.state.destinations.insert(class, offered);
            }
            Err(refused) => self.effect(SettingsEffect::Dropped(refused)),
        }
    }

    fn resolve_saved(
        &self,
        class: &Class,
        offered: &OtherConnectionSettings,
    ) -> Result<Destination, Refused> {
        let name = class.to_string();
        let scope = scope(&name, &self.config.policy);
        match class {
            Class::Other(_) => scope.destination(&self.config.destination, offered),
            _ => scope.telemetry(&self.config.destination, offered),
        }
    }

    /// Goes on with a trial: with the candidate, or with the old settings if it had failed already.
    fn restore_candidate(&mut self, saved: SavedCandidate, clock: Clock) {
        let limits = self.config.trial;
        match scope("opamp", &self.config.policy).opamp(&self.config.base, &saved.opamp) {
            Ok(target) => {
                let beside = Failures::from_lines(&saved.beside);
                let applying = ConnectionSettingsStatuses::Applying as i32;
                let side = if let Some(trouble) = &saved.failed {
                    if self.state.status.status == applying {
                        // Nobody is at work on the rest of the offer any more: this is its end.
                        let (status, text) = end(Some(format!("opamp: {trouble}")), &beside);
                        self.state.status.status = status as i32;
                        self.state.status.error_message = printable(&text);
                    }
                    Side::Old
                } else {
                    let hash = saved.hash.clone();
                    self.work = Some(Work::of_candidate(hash, beside.clone(), clock, limits));
                    Side::New
                };
                let candidate = Candidate::new(saved.opamp, target, saved.hash);
                self.phase = Phase::Trying {
                    candidate: candidate.failed_before(saved.failed, beside),
                    trial: Trial::new(side, clock, limits),
                };
            }
            Err(refused) => {
                let text = refused.to_string();
                self.report(saved.hash, ConnectionSettingsStatuses::Failed, &text);
                self.effect(SettingsEffect::Dropped(refused));
            }
        }
    }
}
