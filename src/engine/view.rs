//! The engine as others may see it: health for the server, a snapshot and answers for the doors.
//!
//! Promises: reading changes nothing; every order gets an answer that says what will happen or why not.
//! Must never: act on its own; orders go through the rollout and the lifecycle.

use opamp_client::messages::ComponentHealth;

use crate::engine::disk::Purpose;
use crate::engine::flow::FlowWatch;
use crate::engine::message::{
    AgentSnapshot, Command, CommandId, DiskWork, LinkSnapshot, OfferedFile, Origin, Refusal,
    RefusalKind, Reply, Step,
};
use crate::engine::rollout::{Job, Source, stored_of};
use crate::engine::{Engine, Outcome, desired, report};
use crate::units::{Now, RevisionId, order};

/// An order refused.
pub(crate) fn refusal(kind: RefusalKind, reason: &str) -> Reply {
    Reply::Refused(Refusal {
        kind,
        reason: reason.to_owned(),
    })
}

/// Whether all is well, in a word, and if not, why.
struct Condition {
    healthy: bool,
    word: String,
    error: String,
}

impl Engine {
    fn condition(&self, now: Now) -> Condition {
        let bad = |word: &str, error: String| Condition {
            healthy: false,
            word: word.to_owned(),
            error,
        };
        let good = |word: &str| Condition {
            healthy: true,
            word: word.to_owned(),
            error: String::new(),
        };
        if self.stopping {
            return bad(
                if self.life.is_down() {
                    "stopped"
                } else {
                    "stopping"
                },
                "shutting down".to_owned(),
            );
        }
        if let Some(reason) = &self.turn {
            return bad("waiting", reason.clone());
        }
        if self.disk.stalled(now.mono) {
            return bad(
                "disk stalled",
                "the state directory has not answered for 10 s".to_owned(),
            );
        }
        if self.life.unkillable() {
            return bad(
                "stopping",
                "the child does not go away although it was killed".to_owned(),
            );
        }
        let runs = self
            .current
            .as_ref()
            .is_some_and(|current| !desired::is_empty(&current.files));
        if !runs && self.held.is_none() && self.life.is_down() {
            return match (&self.transaction, &self.current) {
                (Some(_), _) => bad("starting", "the config is being applied".to_owned()),
                (None, Some(_)) => good("stopped"),
                (None, None) => good("waiting for config"),
            };
        }
        if let Some(reason) = self.life.given_up() {
            return bad("given up", reason.to_owned());
        }
        let (healthy, trouble) = self.child_health();
        let silent = self.life.running().is_some()
            && self.settings.profile.health == crate::config::HealthProbe::LocalLink
            && self.child.health.is_none();
        match (&self.held, healthy) {
            (Some(held), false) => bad("held", held.clone()),
            (_, true) if self.runs_default() && !self.offer_was_committed_last() => {
                good("waiting for config")
            }
            (_, true) => good("running"),
            // It runs, and has not said how it is.
            (None, false) if silent => bad("starting", trouble),
            (None, false) => bad(self.life.word(), trouble),
        }
    }

    /// Whether its child was started, or there is a reason that it is not.
    pub(crate) fn has_begun(&self, now: Now) -> bool {
        let word = self.condition(now).word;
        self.life.running().is_some()
            || !matches!(
                word.as_str(),
                "starting" | "stopping" | "restarting" | "waiting"
            )
    }

    /// Whether all is well with it.
    pub(crate) fn is_healthy(&self, now: Now) -> bool {
        self.condition(now).healthy
    }

    /// In one line: its condition, why it is not well, and whether the server hears of it.
    pub(crate) fn headline(&self, now: Now) -> String {
        let condition = self.condition(now);
        let mut line = format!("{}: {}", self.name, condition.word);
        if !condition.healthy {
            line.extend([
                " (",
                condition.error.lines().next().unwrap_or_default(),
                ")",
            ]);
        }
        match self.uplink.snapshot(now.mono).state {
            "disabled" => {}
            state => line.extend([", server ", state]),
        }
        line
    }

    fn runs_default(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| current.origin == Origin::Default)
    }

    /// What was committed last is what somebody wanted: a default that runs instead of an offer is worth an alarm, one
    /// that the operator went back to is not.
    fn offer_was_committed_last(&self) -> bool {
        let mut committed = self
            .history
            .iter()
            .rev()
            .filter(|r| r.step == Step::Committed);
        committed
            .next()
            .is_some_and(|record| record.origin == Origin::Offer)
    }

    pub(crate) fn health(&self, now: Now) -> ComponentHealth {
        let condition = self.condition(now);
        let phase = if self.held.is_some() {
            "held"
        } else {
            self.phase
        };
        let rollout_healthy = self.held.is_none() && self.frozen.is_none();
        let rollout_error = match (&self.held, &self.frozen) {
            (Some(held), _) => held,
            (None, Some(frozen)) => frozen,
            (None, None) => &self.phase_error,
        };
        let mut attributes = Vec::new();
        if let Some(current) = &self.current {
            attributes.push(("adjutant.revision", current.id.to_string()));
            attributes.push((desired::REVISION_HASH_ATTRIBUTE, current.hash.to_hex()));
        }
        if let Some(good) = &self.last_good {
            attributes.push(("adjutant.last_good", good.to_string()));
        }
        if self.is_adopted() {
            attributes.push(("adjutant.adopted", "true".to_owned()));
        }
        if !self.flow_words().is_empty() {
            attributes.push(("adjutant.flow", self.flow_words().to_owned()));
        }
        if let Some(end) = &self.previous_end {
            attributes.push(("adjutant.previous_end", end.clone()));
        }
        report::health(&report::HealthFacts {
            healthy: condition.healthy,
            status: &condition.word,
            last_error: &condition.error,
            child_started: self.life.running().map(|child| child.started),
            at: now.wall,
            phase,
            rollout_healthy,
            rollout_error,
            rollout_attributes: attributes,
            child: self
                .child
                .health
                .as_ref()
                .filter(|_| self.life.running().is_some()),
            more: self.host_health(now),
        })
    }

    /// What is of the host: the certificates it uses, the clock.
    fn host_health(&self, now: Now) -> Vec<(String, ComponentHealth)> {
        let mut more = self.certificate_health(now);
        if let Some((well, words)) = &self.clock {
            let words = report::bounded(words);
            let (status, last_error) = match well {
                true => (words, String::new()),
                false => ("degraded".to_owned(), words),
            };
            let health = ComponentHealth {
                healthy: *well,
                status,
                last_error,
                ..ComponentHealth::default()
            };
            more.push(("clock".to_owned(), health));
        }
        if let Some(trouble) = self.layers_trouble() {
            let health = ComponentHealth {
                healthy: false,
                status: "degraded".to_owned(),
                last_error: report::bounded(&trouble),
                ..ComponentHealth::default()
            };
            more.push(("config".to_owned(), health));
        }
        more
    }

    /// Everything a door may show.
    pub(crate) fn snapshot(&self, now: Now) -> AgentSnapshot {
        let condition = self.condition(now);
        let mut revisions = self.revisions.clone();
        order::sort_by(&mut revisions, |a, b| b.id.cmp(&a.id));
        let mut counters = self.counters.clone();
        counters.insert("connects", self.uplink.connects);
        counters.insert("malformed_local_messages", self.child.malformed);
        if let Some(session) = &self.session {
            let stats = session.stats();
            counters.insert("messages_sent", stats.sent);
            counters.insert("messages_received", stats.received);
            counters.insert("messages_oversize", stats.dropped_oversize);
        }
        let current = self.current.as_ref();
        AgentSnapshot {
            name: self.name.clone(),
            profile: self.settings.profile.name.clone(),
            instance_uid: self.instance_uid,
            healthy: condition.healthy,
            status: condition.word,
            last_error: report::bounded(&condition.error),
            child: self.life.process().cloned(),
            adopted: self.is_adopted(),
            restarts: self.life.restarts,
            crashes: self.life.crashes,
            last_exit: self.life.last_exit.clone(),
            crash_loop: self.life.crash_loop(now.mono),
            phase: if self.held.is_some() {
                "held"
            } else {
                self.phase
            },
            phase_error: report::bounded(&self.phase_error),
            flow: self.flow_told(),
            flow_baseline: self.flow_baseline(),
            current: current.map(stored_of),
            last_good: self.last_good.clone(),
            revisions,
            history: self.history.iter().rev().cloned().collect(),
            remote: self.remote.clone(),
            link: LinkSnapshot {
                settings: self.settings_in_use(),
                ..self.uplink.snapshot(now.mono)
            },
            components: report::components(self.child.health.as_ref()),
            on_default: self.runs_default() && self.offer_was_committed_last(),
            layers: self.layers_snapshot(),
            rejected: self
                .rejected
                .iter()
                .map(|bad| (bad.hash, bad.reason.clone()))
                .collect(),
            frozen: self.frozen.clone(),
            counters,
        }
    }

    /// An order through a door.
    pub(crate) fn command(&mut self, now: Now, id: CommandId, command: Command) -> Outcome {
        let reply = match command {
            Command::Show { revision, .. } => self.show(id, revision),
            _ if self.stopping => Some(refusal(
                RefusalKind::Conflict,
                "adjutant is stopping; nothing is changed any more",
            )),
            Command::Rollback { to, .. } => Some(self.order_rollback(now, to)),
            Command::Apply { files, .. } => Some(self.order_apply(now, files)),
            Command::Restart { .. } => Some(self.order_restart(now)),
            Command::Reload { .. } => Some(self.order_reload(now)),
            // The host answers these itself.
            Command::Status
            | Command::RenewCertificate { .. }
            | Command::Register(_)
            | Command::Upgrade => None,
        };
        if let Some(reply) = reply {
            self.out.replies.push((id, reply));
        }
        self.tick(now)
    }

    fn show(&mut self, id: CommandId, revision: Option<RevisionId>) -> Option<Reply> {
        let current = self.current.as_ref();
        match revision {
            None => Some(match current {
                Some(current) => Reply::Revision(Box::new(current.clone())),
                None => refusal(RefusalKind::NotFound, "no config has been applied yet"),
            }),
            Some(wanted) if self.revisions.iter().any(|stored| stored.id == wanted) => {
                self.push_disk(Purpose::Show(id), DiskWork::ReadRevision(wanted));
                None
            }
            Some(wanted) => Some(refusal(
                RefusalKind::NotFound,
                &format!(
                    "no revision {wanted} is stored; `adjutant config list` shows those that are"
                ),
            )),
        }
    }

    fn frozen(&self) -> Option<Reply> {
        self.frozen
            .as_ref()
            .map(|frozen| refusal(RefusalKind::Conflict, frozen))
    }

    fn order_rollback(&mut self, now: Now, to: Option<RevisionId>) -> Reply {
        if let Some(frozen) = self.frozen() {
            return frozen;
        }
        let current = self.current.as_ref().map(|current| current.id.clone());
        let target = match to {
            Some(to) if self.revisions.iter().any(|stored| stored.id == to) => to,
            Some(to) => {
                return refusal(
                    RefusalKind::NotFound,
                    &format!(
                        "no revision {to} is stored; `adjutant config list` shows those that are"
                    ),
                );
            }
            None => {
                let earlier = self
                    .history
                    .iter()
                    .rev()
                    .filter(|r| r.step == Step::Committed);
                let mut earlier =
                    earlier
                        .filter_map(|record| record.revision.clone())
                        .filter(|id| {
                            Some(id) != current.as_ref()
                                && self.revisions.iter().any(|s| &s.id == id)
                        });
                match earlier.next() {
                    Some(id) => id,
                    None => {
                        return refusal(
                            RefusalKind::NotFound,
                            "no earlier config that was ever committed is stored",
                        );
                    }
                }
            }
        };
        if Some(&target) == current.as_ref() {
            return refusal(
                RefusalKind::Conflict,
                &format!("revision {target} is what runs already"),
            );
        }
        let what = format!("rolling back {} to {target}", self.name);
        let source = Source::Stored(target);
        self.propose(
            now,
            Job {
                origin: Origin::Manual,
                offer: None,
                source,
                last_resort: false,
            },
        );
        Reply::Accepted { what }
    }

    fn order_apply(&mut self, now: Now, files: Vec<OfferedFile>) -> Reply {
        if let Some(frozen) = self.frozen() {
            return frozen;
        }
        if files.is_empty() {
            return refusal(
                RefusalKind::Invalid,
                "nothing to apply: the order has no files",
            );
        }
        // Told at once what cannot work; the transaction would only say it later.
        if let Err(refused) = self.composed(&files) {
            return refusal(RefusalKind::Invalid, &refused.0);
        }
        let what = format!("applying {} files to {}", files.len(), self.name);
        let source = Source::Files(files);
        self.propose(
            now,
            Job {
                origin: Origin::Manual,
                offer: None,
                source,
                last_resort: false,
            },
        );
        Reply::Accepted { what }
    }

    fn order_restart(&mut self, now: Now) -> Reply {
        if let Some(reason) = &self.turn {
            return refusal(RefusalKind::Conflict, reason);
        }
        let runs = self
            .current
            .as_ref()
            .is_some_and(|current| !desired::is_empty(&current.files));
        if !runs {
            return refusal(
                RefusalKind::Conflict,
                "there is no config, so there is no child to restart",
            );
        }
        self.restart_child(now);
        Reply::Accepted {
            what: format!("restarting {}", self.name),
        }
    }

    fn order_reload(&mut self, now: Now) -> Reply {
        if let Some(frozen) = self.frozen() {
            return frozen;
        }
        self.reread(now);
        Reply::Accepted {
            what: format!("reading the local config of {} again", self.name),
        }
    }

    /// Reads the local layers again and applies what changed.
    pub(crate) fn reread(&mut self, now: Now) {
        self.watch_again();
        self.follow_files(now);
    }

    /// The offer behind what runs, if that is what the server was told last.
    pub(crate) fn reported_offer(&self) -> Option<crate::units::OfferHash> {
        let offer = self
            .current
            .as_ref()
            .and_then(|current| current.offer.clone());
        offer.filter(|offer| {
            self.remote
                .as_ref()
                .is_some_and(|remote| &remote.offer == offer)
        })
    }

    /// Takes over changed settings (F-009): never a kill; a changed command line is one restart.
    pub(crate) fn set_settings(
        &mut self,
        now: Now,
        mut settings: crate::config::Agent,
        server: Option<crate::config::Server>,
        grace: std::time::Duration,
    ) -> Outcome {
        self.keep_fallback(&mut settings);
        let before = self.spawn_spec();
        self.life.set_policy(settings.restart, grace);
        if self.settings.profile.flow != settings.profile.flow {
            // What was counted may be counted in another way from here on.
            self.flow = FlowWatch::default();
        }
        let directed = std::mem::replace(&mut self.settings, settings).own_telemetry;
        let mask = super::session::mask(self.capabilities, &self.settings);
        match (&mut self.session, &server) {
            (Some(session), Some(server)) => {
                session.set_capabilities(mask);
                session.set_heartbeat(server.heartbeat);
            }
            (None, Some(server)) => {
                self.session = super::session::build(self.instance_uid, mask, server);
                self.effective_stale = true;
            }
            (_, None) => {}
        }
        self.take_server(now, server);
        if directed != self.settings.own_telemetry {
            self.direct_anew(now);
        }
        if self.spawn_spec() != before && self.life.running().is_some() {
            self.restart_child(now);
        }
        if self.frozen.is_none() {
            self.reread(now);
        }
        self.tick(now)
    }
}
