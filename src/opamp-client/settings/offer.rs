//! One offer: what of it is new, what is wrong with it, and what became of all of it.
//!
//! Promises: each class is looked at for itself; one status for all: APPLIED only if every one of them
//! succeeded, else FAILED with the names of those that did not. Equal content changes nothing, whatever its
//! hash says. Must never: wait for ever; who does not answer has failed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pair::{self, CertificateFacts};
use super::resolve::{Scope, add_destination, add_opamp};
use super::trial::{Candidate, Phase};
use super::{Class, Clock, Destination, Refused, Settings, SettingsEffect, TrialLimits};
use crate::messages::{
    ConnectionSettingsOffers, ConnectionSettingsStatuses, OpAmpConnectionSettings,
    OtherConnectionSettings, TelemetryConnectionSettings, TlsCertificate,
};
use crate::session::printable;

/// Other connections that are known at a time.
const OTHERS_MAX: usize = 64;
/// Bytes of the name of one.
const NAME_BYTES_MAX: usize = 256;

/// Failures of one offer that are told one by one; what comes on top is counted.
const FAILURES_MAX: usize = 16;

/// What went wrong with one offer, for its status: bounded, whatever it holds and whatever the caller answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failures {
    told: Vec<String>,
    more: usize,
}

impl Failures {
    pub(super) fn push(&mut self, reason: &str) {
        if self.told.len() < FAILURES_MAX {
            self.told.push(printable(reason));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// One line each; the same that [`Failures::from_lines`] takes.
    pub(super) fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("{} more", self.more));
        self.told.iter().cloned().chain(more).collect()
    }

    pub(super) fn from_lines(lines: &[String]) -> Self {
        let mut failures = Self::default();
        for line in lines {
            failures.push(line);
        }
        failures
    }
}

/// The offer that is being carried out.
pub(super) struct Work {
    hash: Vec<u8>,
    /// The server's own connection is not settled yet.
    opamp: bool,
    /// Why the server's own connection is not as offered; forgotten if it works after all.
    opamp_failure: Option<String>,
    /// What the caller has not answered for yet.
    destinations: BTreeMap<u64, Wanted>,
    failures: Failures,
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

    /// The work of a candidate that an earlier life left, and what had failed beside it.
    pub(super) fn of_candidate(
        hash: Vec<u8>,
        failures: Failures,
        clock: Clock,
        limits: TrialLimits,
    ) -> Self {
        Self {
            hash,
            opamp: true,
            opamp_failure: None,
            destinations: BTreeMap::new(),
            failures,
            until: Some(clock.now.saturating_add(limits.outcome)),
        }
    }

    /// What has failed if nobody answers any more: this life ends before those who are still at it are done.
    pub(super) fn failures_if_interrupted(&self) -> Failures {
        let mut failures = self.failures.clone();
        for wanted in self.destinations.values() {
            failures.push(&format!("{}: was interrupted by a restart", wanted.class));
        }
        failures
    }

    /// The server's own connection works after all.
    pub(super) fn opamp_works(&mut self) {
        self.opamp_failure = None;
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
            ..Work::of_candidate(
                offers.hash.clone(),
                Failures::default(),
                clock,
                self.config.trial,
            )
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
                self.fail(&refused);
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
            Err(refused) => self.fail(&refused),
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
            if odd || !self.has_room_for(class) {
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
            .and_then(facts_of)
            .or_else(|| self.withdrawn_facts.get(class).copied())
            .or_else(|| facts_of(&self.config.destination));
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

    /// Whether another connection is known, or may become so. Those of this offer that are not set up yet count too.
    fn has_room_for(&self, class: &Class) -> bool {
        let known = &self.state.destinations;
        let wanted = self
            .work
            .iter()
            .flat_map(|work| work.destinations.values())
            .filter(|wanted| !known.contains_key(&wanted.class));
        let others = known
            .keys()
            .chain(wanted.map(|wanted| &wanted.class))
            .filter(|class| matches!(class, Class::Other(_)));
        known.contains_key(class) || others.count() < OTHERS_MAX
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
            (Err(reason), _) => {
                work.failures.push(&format!("{class}: {reason}"));
                // A candidate on trial is saved with what failed beside it.
                self.unsaved |= !matches!(self.phase, Phase::Settled);
            }
            (Ok(()), Some((offered, destination))) => {
                self.state.destinations.insert(class.clone(), offered);
                self.destinations.insert(class, destination);
                self.unsaved = true;
            }
            (Ok(()), None) => {
                self.state.destinations.remove(&class);
                let withdrawn = self.destinations.remove(&class);
                if let Some(facts) = withdrawn.as_ref().and_then(facts_of) {
                    self.withdrawn_facts.insert(class, facts);
                }
                self.unsaved = true;
            }
        }
    }

    pub(super) fn opamp_done(&mut self, result: Result<(), String>) {
        if let Some(work) = &mut self.work {
            work.opamp = false;
            work.opamp_failure = result.err().map(|reason| printable(&reason));
        }
    }

    pub(super) fn work_timeout(&mut self, clock: Clock) {
        let Some(work) = &mut self.work else { return };
        if work.due().is_none_or(|until| clock.now < until) {
            return;
        }
        for (_, wanted) in std::mem::take(&mut work.destinations) {
            let reason = format!("{}: was not carried out in time", wanted.class);
            work.failures.push(&reason);
        }
        work.until = None;
        self.unsaved |= !matches!(self.phase, Phase::Settled);
    }

    pub(super) fn finish_work(&mut self) {
        let done = |work: &mut Work| !work.opamp && work.destinations.is_empty();
        let Some(work) = self.work.take_if(done) else {
            return;
        };
        if let Some(candidate) = self.phase.candidate_mut() {
            // It failed, and may still be proven: then the rest of the offer counts.
            candidate.beside = work.failures.clone();
        }
        self.report_end(work.hash, work.opamp_failure, &work.failures);
    }

    /// The status of an offer with which nothing more is going to be done.
    pub(super) fn report_end(&mut self, hash: Vec<u8>, opamp: Option<String>, beside: &Failures) {
        let (status, text) = end(opamp, beside);
        self.report(hash, status, &text);
    }

    fn fail(&mut self, refused: &Refused) {
        if let Some(work) = &mut self.work {
            work.failures.push(&refused.to_string());
        }
    }
}

fn facts_of(destination: &Destination) -> Option<CertificateFacts> {
    let own = destination.tls.client_certificate.as_ref()?;
    CertificateFacts::of_pem(&own.chain_pem)
}

/// APPLIED only if nothing failed.
pub(super) fn end(
    opamp: Option<String>,
    beside: &Failures,
) -> (ConnectionSettingsStatuses, String) {
    let mut lines = beside.lines();
    lines.extend(opamp);
    let status = if lines.is_empty() {
        ConnectionSettingsStatuses::Applied
    } else {
        ConnectionSettingsStatuses::Failed
    };
    (status, lines.join("; "))
}

pub(super) fn as_other(offer: TelemetryConnectionSettings) -> OtherConnectionSettings {
    OtherConnectionSettings {
        destination_endpoint: offer.destination_endpoint,
        headers: offer.headers,
        certificate: offer.certificate,
        tls: offer.tls,
        proxy: offer.proxy,
        ..OtherConnectionSettings::default()
    }
}
