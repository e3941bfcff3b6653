//! What is asked of a child and what it shows: probes, proof of a config, health.
//!
//! Promises: one question of a kind at a time; an answer that nobody waits for is counted and changes nothing.
//! Must never: judge a rollout; the watch and the transaction do, from what is seen here.

use std::time::Duration;

use crate::config::{HealthProbe, Proof};
use crate::engine::message::{AgentEffect, HttpAnswer, ToolEnd, ToolOutcome};
use crate::engine::reload::Heard;
use crate::engine::watch::{Seen, Watch};
use crate::engine::{Engine, PROOF_INTERVAL, PROOF_TIMEOUT, desired, report};
use crate::units::{Moment, Now, Ticket};

/// How often a process that came up by itself is asked which config it runs, until it runs the right one.
const SELF_INTERVAL: Duration = Duration::from_secs(5);

impl Engine {
    pub(super) fn on_tool(&mut self, now: Now, ticket: Ticket, outcome: &ToolOutcome) {
        if self.validated(now, ticket, outcome) {
            return;
        }
        let answer = match &outcome.end {
            ToolEnd::Exited(0) => Ok(()),
            ToolEnd::Exited(code) => Err(format!("probe ended with exit code {code}")),
            ToolEnd::Signalled(signal) => Err(format!("probe ended with signal {signal}")),
            ToolEnd::TimedOut => Err("probe took too long".to_owned()),
            ToolEnd::NotStarted(reason) => Err(reason.clone()),
        };
        self.probed(now.mono, ticket, answer);
    }

    pub(super) fn on_http(
        &mut self,
        now: Now,
        ticket: Ticket,
        outcome: Result<HttpAnswer, String>,
    ) {
        if self.counted_before(now, ticket, &outcome) {
            return;
        }
        let counts =
            self.proof_probe.is_asking(ticket) && self.settings.profile.proof.counts_reloads();
        if counts {
            let answer = outcome.and_then(|answer| self.judge_count(&answer));
            return self.probed(now.mono, ticket, answer);
        }
        let of_current = self.current.as_ref().map(|current| current.hash);
        let expected = match (
            &self.settings.profile.proof,
            self.watched_hash().or(of_current),
        ) {
            (
                Proof::Http {
                    expect_revision: true,
                    ..
                },
                Some(hash),
            ) => Some(hash.to_hex()),
            _ => None,
        };
        let answer = outcome.and_then(|answer| match (answer.status, expected) {
            (200..=299, Some(hash))
                if !answer.body.contains(&hash) && self.proof_probe.is_asking(ticket) =>
            {
                Err("the answer does not name the new revision".to_owned())
            }
            (200..=299, _) => Ok(()),
            (status, _) => Err(format!("the answer has status {status}")),
        });
        self.probed(now.mono, ticket, answer);
    }

    pub(super) fn probed(&mut self, now: Moment, ticket: Ticket, answer: Result<(), String>) {
        let watched = self.watched_hash().is_some() || self.reload_is_awaited();
        let interval = if watched {
            PROOF_INTERVAL
        } else {
            SELF_INTERVAL
        };
        if self
            .proof_probe
            .answered(now, ticket, answer.clone(), interval, 1)
        {
            self.note_config_shown();
            if self.proof_probe.good == Some(true) {
                let good = std::mem::take(&mut self.proof_probe);
                self.proof_probe.good = good.good;
            }
            return;
        }
        let (interval, failures) = match self.settings.profile.health {
            HealthProbe::Http {
                interval, failures, ..
            }
            | HealthProbe::Exec {
                interval, failures, ..
            } => (interval, failures),
            HealthProbe::LocalLink | HealthProbe::Process => return,
        };
        if !self
            .health_probe
            .answered(now, ticket, answer, interval, failures)
        {
            self.count("stale_answers");
        }
    }

    pub(super) fn probe(&mut self, now: Moment) {
        if self.proof_probe.wants(now) {
            let ticket = self.tickets.next();
            let effect = match &self.settings.profile.proof {
                Proof::Exec(command) => self
                    .tool_spec(command, PROOF_TIMEOUT)
                    .map(|spec| AgentEffect::RunTool { ticket, spec }),
                Proof::Http { url, .. } => Some(AgentEffect::HttpProbe {
                    ticket,
                    url: self.address(url),
                    timeout: PROOF_TIMEOUT,
                }),
                Proof::LocalDescription
                | Proof::LocalStatus
                | Proof::Output { .. }
                | Proof::FreshProcess { .. } => None,
            };
            self.proof_probe.asked(ticket);
            self.out.effects.extend(effect);
        }
        if self.health_probe.wants(now) && self.life.running().is_some() {
            let ticket = self.tickets.next();
            let effect = match &self.settings.profile.health {
                HealthProbe::Http { url, timeout, .. } => Some(AgentEffect::HttpProbe {
                    ticket,
                    url: self.address(url),
                    timeout: *timeout,
                }),
                HealthProbe::Exec {
                    command, timeout, ..
                } => self
                    .tool_spec(command, *timeout)
                    .map(|spec| AgentEffect::RunTool { ticket, spec }),
                HealthProbe::LocalLink | HealthProbe::Process => None,
            };
            self.health_probe.asked(ticket);
            self.out.effects.extend(effect);
        }
    }

    pub(super) fn address(&self, url: &str) -> String {
        let pid = self.life.running().map(|child| child.pid);
        desired::expand(
            url,
            &self.settings,
            &self.places,
            &self.places.config_dir(),
            pid,
        )
    }

    /// What the child shows now, for a watch over `watch.hash`.
    pub(super) fn seen(&self, now: Moment, watch: &Watch) -> (bool, bool, String, Option<String>) {
        let running = self.life.running().is_some();
        let (healthy, trouble) = self.child_health();
        let hash = watch.hash.to_hex();
        let fresh = self
            .life
            .up_since()
            .is_some_and(|since| since >= watch.since);
        let mut refused = None;
        let proven = running
            && match &self.settings.profile.proof {
                Proof::LocalDescription => self.child.revision.as_deref() == Some(hash.as_str()),
                Proof::LocalStatus => match &self.child.status {
                    Some(status) if status.applied => crate::units::hex(&status.hash) == hash,
                    Some(status) => {
                        refused = Some(format!("the child refused the config: {}", status.message));
                        false
                    }
                    None => false,
                },
                Proof::Exec(_) | Proof::Http { .. } => self.proof_probe.good == Some(true),
                Proof::FreshProcess { alive_for } | Proof::Output { alive_for, .. } => {
                    match self.said_after_hup() {
                        Heard::Refused(line) => {
                            refused = Some(format!("the child refused the config: {line}"));
                            false
                        }
                        Heard::Reloaded => true,
                        Heard::Nothing => false,
                        Heard::NotTold => {
                            let up = self.life.up_since();
                            fresh && up.is_some_and(|since| now.since(since) >= *alive_for)
                        }
                    }
                }
            };
        (proven, healthy, trouble, refused)
    }

    /// Whether the child is well, and if not, why.
    pub(super) fn child_health(&self) -> (bool, String) {
        if self.life.running().is_none() {
            let why = self.life.given_up().map(str::to_owned);
            let why = why.or_else(|| self.life.last_words.clone()).or_else(|| {
                self.life
                    .last_exit
                    .clone()
                    .map(|last| format!("not running; last: {last}"))
            });
            return (false, why.unwrap_or_else(|| "not running yet".to_owned()));
        }
        if let Some(lacks) = self.lacks_proof() {
            let why = format!("it has not shown that it runs its config: {lacks}");
            return (false, why);
        }
        match self.settings.profile.health {
            HealthProbe::Process => (true, String::new()),
            HealthProbe::LocalLink => match &self.child.health {
                Some(health) if health.healthy => (true, String::new()),
                Some(health) => (
                    false,
                    report::first_error(health)
                        .unwrap_or_else(|| "unhealthy, without a reason".to_owned()),
                ),
                None if self.is_trusted() => (true, String::new()),
                None => (false, "no health report from the child yet".to_owned()),
            },
            HealthProbe::Http { .. } | HealthProbe::Exec { .. } => match self.health_probe.good {
                Some(true) => (true, String::new()),
                None if self.is_trusted() => (true, String::new()),
                None if self.health_probe.error.is_empty() => (false, "not probed yet".to_owned()),
                Some(false) | None => (false, self.health_probe.error.clone()),
            },
        }
    }
}

/// What `seen` gives, as the watch wants it.
pub(crate) fn seen_of(
    (proven, healthy, trouble, refused): &(bool, bool, String, Option<String>),
) -> Seen<'_> {
    Seen {
        proven: *proven,
        healthy: *healthy,
        trouble,
        refused: refused.as_deref(),
    }
}
