//! One offer: what of it is new, what is wrong with it, and what became of all of it.
//!
//! Promises: each class is looked at for itself; one status for all: APPLIED only if every one of them
//! succeeded, else FAILED with the names of those that did not. Equal content changes nothing, whatever its
//! hash says. Must never: wait for ever; who does not answer has failed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pair::{self, CertificateFacts};
use super::resolve::{Scope, add_destination, add_opamp};
use super::trial::Candidate;
use super::{Class, Clock, Destination, Refused, Settings, SettingsEffect, TrialLimits};
use crate::messages::{
    ConnectionSettingsOffers, ConnectionSettingsStatuses, OpAmpConnectionSettings,
    OtherConnectionSettings, TelemetryConnectionSettings, TlsCertificate,
};

/// Other connections that are known at a time.
const OTHERS_MAX: usize = 64;
/// Bytes of the name of one.
const NAME_BYTES_MAX: usize = 256;

/// The offer that is being carried out.
pub(super) struct Work {
    hash: Vec<u8>,
    /// The server's own connection is not settled yet.
    opamp: bool,
    /// What the caller has not answered for yet.
    destinations: BTreeMap<u64, Wanted>,
    failures: Vec<String>,
    /// When those who have not answered have failed. A trial has bounds of its own.
    until: Option<Duration>,
}

/// A destination that the caller is setting up or, without settings, taking down.
struct Wanted {
    class: Class,
    settings: Option<(OtherConnectionSettings, Destination)>,
}

impl Work {
    pub(super) fn due(&self) -> Option<Duration> {
        self.until.filter(|_| !self.destinations.is_empty())
    }

    /// The work of a candidate that an earlier life left.
    pub(super) fn of_candidate(hash: Vec<u8>, clock: Clock, limits: TrialLimits) -> Self {
        Self {
            hash,
            opamp: true,
            destinations: BTreeMap::new(),
            failures: Vec::new(),
            until: Some(clock.now.saturating_add(limits.outcome)),
        }
    }
}

impl Settings {
    pub(super) fn begin(&mut self, clock: Clock, offers: ConnectionSettingsOffers) {
        let known = &self.state.status.last_connection_settings_hash;
        if !offers.hash.is_empty() && offers.hash == *known {
            return;
        }
        self.work = Some(Work {
            opamp: false,
            ..Work::of_candidate(offers.hash.clone(), clock, self.config.trial)
        });
        let telemetry = [
            (Class::OwnMetrics, offers.own_metrics),
            (Class::OwnTraces, offers.own_traces),
            (Class::OwnLogs, offers.own_logs),
        ];
        for (class, offer) in telemetry {
            if let Some(offer) = offer {
                self.offer_destination(clock, class, as_other(offer));
            }
        }
        for (name, offer) in offers.other_connections {
            self.offer_destination(clock, Class::Other(name), offer);
        }
        let open = self
            .work
            .as_ref()
            .is_some_and(|work| !work.destinations.is_empty());
        let candidate = offers
            .opamp
            .and_then(|offer| self.offer_opamp(clock, offer, &offers.hash));
        if open || candidate.is_some() {
            self.report(offers.hash, ConnectionSettingsStatuses::Applying, "");
        }
        if let Some(candidate) = candidate {
            if let Some(work) = &mut self.work {
                work.opamp = true;
            }
            self.try_candidate(clock, candidate);
        }
    }

    /// A candidate if it takes a new connection to prove the offer.
    fn offer_opamp(
        &mut self,
        clock: Clock,
        mut offer: OpAmpConnectionSettings,
        hash: &[u8],
    ) -> Option<Candidate> {
        let mut answers_request = false;
        let new = match &mut offer.certificate {
            None => Ok(None),
            Some(certificate) => self
                .pair_with_own_key(certificate)
                .inspect(|answers| answers_request = *answers)
                .map(|_| Some(clock.unix)),
        };
        let resolved = new.and_then(|unix| {
            let fresh = offer.certificate.clone();
            let offered = add_opamp(&self.state.opamp, offer, &self.config.policy);
            let scope = Scope {
                name: "opamp",
                policy: &self.config.policy,
                unix,
            };
            let target = scope.opamp(&self.config.base, &offered)?;
            self.check_certificate("opamp", fresh.as_ref(), self.facts)?;
            Ok((offered, target))
        });
        let (offered, target) = match resolved {
            Ok(resolved) => resolved,
            Err(refused) => {
                self.fail(refused.to_string());
                return None;
            }
        };
        if target != self.current {
            let candidate = Candidate::new(offered, target, hash.to_vec());
            return Some(candidate.answering_request(answers_request));
        }
        // The same place: an interval alone is no reason to leave it.
        let interval = self.heartbeat();
        self.unsaved |= self.state.opamp != offered;
        self.state.opamp = offered;
        if answers_request {
            self.state.pending = None;
        }
        if self.heartbeat() != interval {
            self.effect(SettingsEffect::Heartbeat(self.heartbeat()));
        }
        None
    }

    fn offer_destination(&mut self, clock: Clock, class: Class, offer: OtherConnectionSettings) {
        match self.resolve_destination(clock, &class, offer) {
            Ok(None) => {}
            Ok(Some(wanted)) => {
                let ticket = self.new_id();
                let settings = wanted
                    .settings
                    .as_ref()
                    .map(|(_, destination)| Box::new(destination.clone()));
                self.effect(SettingsEffect::Destination {
                    ticket,
                    class,
                    settings,
                });
                if let Some(work) = &mut self.work {
                    work.destinations.insert(ticket, wanted);
                }
            }
            Err(refused) => self.fail(refused.to_string()),
        }
    }

    /// What to ask the caller for; nothing if nothing changes.
    fn resolve_destination(
        &mut self,
        clock: Clock,
        class: &Class,
        offer: OtherConnectionSettings,
    ) -> Result<Option<Wanted>, Refused> {
        let name = class.to_string();
        let telemetry = !matches!(class, Class::Other(_));
        if let Class::Other(key) = class {
            let odd =
                key.is_empty() || key.len() > NAME_BYTES_MAX || key.chars().any(char::is_control);
            let others = self.state.destinations.len();
            if odd || (others >= OTHERS_MAX && !self.state.destinations.contains_key(class)) {
                let reason = "the name is empty, too long or not printable, or there are too many";
                return Err(Refused::new(&name, "", reason));
            }
        }
        if telemetry && offer.destination_endpoint.is_empty() {
            // The only way there is to withdraw a destination.
            let live = self.destinations.contains_key(class);
            return Ok(live.then(|| Wanted {
                class: class.clone(),
                settings: None,
            }));
        }
        let before = self
            .state
            .destinations
            .get(class)
            .cloned()
            .unwrap_or_default();
        let present = self.destinations.get(class);
        let facts = present
            .and_then(|present| present.tls.client_certificate.as_ref())
            .and_then(|own| CertificateFacts::of_pem(&own.chain_pem));
        let fresh = offer.certificate.clone();
        let offered = add_destination(&before, offer, &self.config.policy);
        let scope = Scope {
            name: &name,
            policy: &self.config.policy,
            unix: fresh.as_ref().map(|_| clock.unix),
        };
        let destination = if telemetry {
            scope.telemetry(&self.config.destination, &offered)?
        } else {
            scope.destination(&self.config.destination, &offered)?
        };
        self.check_certificate(&name, fresh.as_ref(), facts)?;
        if present == Some(&destination) {
            self.unsaved |= before != offered;
            self.state.destinations.insert(class.clone(), offered);
            return Ok(None);
        }
        Ok(Some(Wanted {
            class: class.clone(),
            settings: Some((offered, destination)),
        }))
    }

    /// What goes for a certificate beyond being a good one.
    fn check_certificate(
        &self,
        scope: &str,
        fresh: Option<&TlsCertificate>,
        present: Option<CertificateFacts>,
    ) -> Result<(), Refused> {
        let Some(fresh) = fresh else { return Ok(()) };
        let refuse = |reason: &str| Err(Refused::new(scope, "certificate", reason));
        if *fresh == TlsCertificate::default() {
            return refuse("is empty");
        }
        if !self.config.policy.can_save {
            return refuse("cannot be stored here");
        }
        match (CertificateFacts::of_pem(&fresh.cert), present) {
            (Some(new), Some(old)) => pair::not_weaker(&new, &old)
                .map_err(|reason| Refused::new(scope, "certificate.cert", reason)),
            _ => Ok(()),
        }
    }

    pub(super) fn destination_done(&mut self, ticket: u64, result: Result<(), String>) {
        let Some(work) = &mut self.work else { return };
        let Some(Wanted { class, settings }) = work.destinations.remove(&ticket) else {
            return;
        };
        match (result, settings) {
            (Err(reason), _) => work.failures.push(format!("{class}: {reason}")),
            (Ok(()), Some((offered, destination))) => {
                self.state.destinations.insert(class.clone(), offered);
                self.destinations.insert(class, destination);
                self.unsaved = true;
            }
            (Ok(()), None) => {
                self.state.destinations.remove(&class);
                self.destinations.remove(&class);
                self.unsaved = true;
            }
        }
    }

    pub(super) fn opamp_done(&mut self, result: Result<(), String>) {
        if let Some(work) = &mut self.work {
            work.opamp = false;
            work.failures.extend(result.err());
        }
    }

    pub(super) fn work_timeout(&mut self, clock: Clock) {
        let Some(work) = &mut self.work else { return };
        if work.due().is_none_or(|until| clock.now < until) {
            return;
        }
        for (_, wanted) in std::mem::take(&mut work.destinations) {
            work.failures
                .push(format!("{}: was not carried out in time", wanted.class));
        }
        work.until = None;
    }

    pub(super) fn finish_work(&mut self) {
        let done = |work: &mut Work| !work.opamp && work.destinations.is_empty();
        let Some(work) = self.work.take_if(done) else {
            return;
        };
        let status = if work.failures.is_empty() {
            ConnectionSettingsStatuses::Applied
        } else {
            ConnectionSettingsStatuses::Failed
        };
        self.report(work.hash, status, &work.failures.join("; "));
    }

    fn fail(&mut self, reason: String) {
        if let Some(work) = &mut self.work {
            work.failures.push(reason);
        }
    }
}

fn as_other(offer: TelemetryConnectionSettings) -> OtherConnectionSettings {
    OtherConnectionSettings {
        destination_endpoint: offer.destination_endpoint,
        headers: offer.headers,
        certificate: offer.certificate,
        tls: offer.tls,
        proxy: offer.proxy,
        ..OtherConnectionSettings::default()
    }
}
