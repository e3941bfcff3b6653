//! Health as the doors show it: one snapshot in, one document and one HTTP status out.
//!
//! Promises: pure; the same snapshot gives the same answer. A lost server degrades and never fails, because telemetry
//! goes on without it; waiting for a first config on the built-in default is healthy; one failing agent among several
//! degrades, all of them failing is an error. Readiness means "can do its job": every child takes data with a known
//! config.
//! Must never: ask anybody anything, or keep state between two answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::wire::days_left;
use crate::engine::message::{
    AgentSnapshot, CertificateSnapshot, ClockSnapshot, Origin, PartSnapshot, Snapshot,
};
use crate::units::{Domain, WallTime};

/// `GET /health`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct HealthDocument {
    /// Over all.
    pub status: Level,
    /// When the answer was made.
    #[serde(default)]
    pub timestamp: String,
    /// Seconds since the supervisor started.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// By name: `supervisor`, `agent.<name>`, `agent.<name>/<path>`, `rollout.<name>`, `link.<name>`,
    /// `certificate.<name>`, `clock`, `registration`.
    #[serde(default)]
    pub components: BTreeMap<String, Component>,
}

/// One component of the health document.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Component {
    /// Its state.
    pub status: Level,
    /// For people.
    pub message: String,
    /// When this was true.
    pub timestamp: String,
    /// Facts for machines.
    pub details: Map<String, Value>,
}

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as it should.
    Degraded,
    /// It does not do its job.
    Error,
}

impl Level {
    /// The word in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Error => "error",
        }
    }
}

/// `GET /health/ready`.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct ReadyDocument {
    /// `ready` or `not_ready`.
    pub status: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What `/health` says at the same moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_status: Option<Level>,
}

impl HealthDocument {
    /// Judges a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let timestamp = snapshot.at.to_string();
        let mut components = BTreeMap::new();
        components.insert("supervisor".to_owned(), supervisor(snapshot, &timestamp));
        let mut agents = Vec::with_capacity(snapshot.agents.len());
        for agent in &snapshot.agents {
            let child = child(agent, &timestamp);
            agents.push(child.status);
            components.insert(format!("agent.{}", agent.name), child);
            components.insert(
                format!("rollout.{}", agent.name),
                rollout(agent, &timestamp),
            );
            components.insert(format!("link.{}", agent.name), link(agent, &timestamp));
            for (path, part) in &agent.components {
                // Never an error here: what a child's far side does is no reason to restart anything.
                let well = part.healthy && part.state != "degraded";
                let level = if well { Level::Ok } else { Level::Degraded };
                components.insert(
                    format!("agent.{}/{path}", agent.name),
                    component(level, part.words.clone(), &timestamp, details_of(part)),
                );
            }
        }
        for certificate in &snapshot.certificates {
            components.insert(
                format!("certificate.{}", certificate.name),
                certificate_component(certificate, snapshot.at, &timestamp),
            );
        }
        if let Some(clock) = &snapshot.clock {
            components.insert("clock".to_owned(), clock_component(clock, &timestamp));
        }
        if let Some(registration) = &snapshot.registration {
            let health = super::registration::health(registration, &timestamp);
            components.insert("registration".to_owned(), health);
        }
        Self {
            status: overall(&agents, &components),
            timestamp,
            uptime_seconds: snapshot.uptime.as_secs(),
            components,
        }
    }

    /// 200 for ok and degraded, 503 for error.
    pub fn http_status(&self) -> u16 {
        match self.status {
            Level::Ok | Level::Degraded => 200,
            Level::Error => 503,
        }
    }
}

impl ReadyDocument {
    /// Judges a snapshot; the HTTP status is 200 when ready and 503 when not.
    pub fn of(snapshot: &Snapshot) -> (u16, Self) {
        match unready(snapshot) {
            None => (
                200,
                Self {
                    status: "ready",
                    message: None,
                    current_status: None,
                },
            ),
            Some(message) => (
                503,
                Self {
                    status: "not_ready",
                    message: Some(message),
                    current_status: Some(HealthDocument::of(snapshot).status),
                },
            ),
        }
    }
}

/// All agents failing, or anything else failing, is an error; anything less than ok degrades.
fn overall(agents: &[Level], components: &BTreeMap<String, Component>) -> Level {
    let failing = agents
        .iter()
        .filter(|level| **level == Level::Error)
        .count();
    if failing > 0 && failing == agents.len() {
        return Level::Error;
    }
    let worst = components.values().map(|component| component.status).max();
    worst.map_or(Level::Ok, |level| level.min(Level::Degraded))
}

fn unready(snapshot: &Snapshot) -> Option<String> {
    if snapshot.stopping {
        return Some("stopping".to_owned());
    }
    snapshot.agents.iter().find_map(|agent| {
        if let Some(deaths) = agent.crash_loop {
            Some(format!(
                "agent {}: crash loop, {}",
                agent.name,
                deaths_of(agent, deaths)
            ))
        } else if agent.child.is_none() {
            Some(format!(
                "agent {}: no child runs ({})",
                agent.name, agent.status
            ))
        } else if !agent.healthy {
            Some(format!("agent {}: {}", agent.name, why(agent)))
        } else if agent.current.is_none() {
            Some(format!("agent {}: runs without a known config", agent.name))
        } else {
            None
        }
    })
}

fn deaths_of(agent: &AgentSnapshot, deaths: u32) -> String {
    let last = agent
        .last_exit
        .as_deref()
        .unwrap_or("for an unknown reason");
    format!("{deaths} deaths in a row, the last: {last}")
}

fn why(agent: &AgentSnapshot) -> &str {
    if agent.last_error.is_empty() {
        &agent.status
    } else {
        &agent.last_error
    }
}

/// Whether nothing runs, or only the built-in default, because nothing else came yet.
pub(crate) fn waiting_for_config(agent: &AgentSnapshot) -> bool {
    let on_builtin = agent
        .current
        .as_ref()
        .is_some_and(|current| current.origin == Origin::Default);
    (on_builtin && !agent.on_default) || agent.status == "waiting for config"
}

/// It answers, so it is well; what it has to tell is how the life before this one ended.
fn supervisor(snapshot: &Snapshot, timestamp: &str) -> Component {
    let message = match &snapshot.previous_end {
        Some(told) => format!("running; {told}"),
        None => "running".to_owned(),
    };
    let details = json!({ "previous_end": snapshot.previous_end });
    component(Level::Ok, message, timestamp, details)
}

fn child(agent: &AgentSnapshot, timestamp: &str) -> Component {
    let waiting = waiting_for_config(agent);
    let (level, message) = match (agent.healthy, agent.status.as_str()) {
        // It runs again, as it did before it died the last times.
        (true, status) if let Some(deaths) = agent.crash_loop => (
            Level::Degraded,
            format!("{status}, in a crash loop: {}", deaths_of(agent, deaths)),
        ),
        (true, _) if waiting => (Level::Ok, "waiting for config".to_owned()),
        (true, status) => (Level::Ok, status.to_owned()),
        // On its way up or down: not yet a failure, and not what one wants to page for.
        (false, "starting" | "stopping" | "restarting" | "waiting") => {
            (Level::Degraded, why(agent).to_owned())
        }
        (false, _) => (Level::Error, why(agent).to_owned()),
    };
    let details = json!({
        "status": agent.status,
        "profile": agent.profile,
        "pid": agent.child.as_ref().map(|child| child.pid),
        "adopted": agent.adopted,
        "restarts": agent.restarts,
        "crashes": agent.crashes,
        "crash_loop": agent.crash_loop.is_some(),
        "last_exit": agent.last_exit,
        "waiting_for_config": waiting,
    });
    component(level, message, timestamp, details)
}

fn rollout(agent: &AgentSnapshot, timestamp: &str) -> Component {
    let (level, message) = if let Some(reason) = &agent.frozen {
        (Level::Degraded, format!("applies are frozen: {reason}"))
    } else if agent.on_default {
        (
            Level::Degraded,
            "the default config runs although a remote one was applied".to_owned(),
        )
    } else if let Some(trouble) = trouble_on_disk(agent) {
        (Level::Degraded, trouble)
    } else if agent.phase == "waiting for certificate" {
        (
            Level::Degraded,
            format!("waiting for {}", agent.phase_error),
        )
    } else {
        (Level::Ok, agent.phase.to_owned())
    };
    let details = json!({
        "phase": agent.phase,
        "current": agent.current.as_ref().map(|current| current.id.as_str()),
        "last_good": agent.last_good.as_ref().map(crate::units::RevisionId::as_str),
        "on_default": agent.on_default,
        "rejected": agent.rejected.len(),
        "refused_local_files": agent.layers.refused,
        "drift": agent.layers.drift.len(),
        "flow": agent.flow,
    });
    component(level, message, timestamp, details)
}

/// What is wrong with the agent's layers on disk. What runs is what was proven, so it degrades.
fn trouble_on_disk(agent: &AgentSnapshot) -> Option<String> {
    let layers = &agent.layers;
    if !layers.drift.is_empty() {
        let files: Vec<String> = layers.drift.iter().map(ToString::to_string).collect();
        let mut text = format!("changed by somebody else: {}", files.join(", "));
        if !layers.drift_error.is_empty() {
            text.extend(["; not put back: ", &layers.drift_error]);
        }
        return Some(text);
    }
    (!layers.refused.is_empty()).then(|| {
        let files = layers.refused.join(", ");
        format!("local config refused ({files}): {}", layers.reason)
    })
}

fn link(agent: &AgentSnapshot, timestamp: &str) -> Component {
    let link = &agent.link;
    let level = match link.state {
        "connected" | "disabled" => Level::Ok,
        _ => Level::Degraded,
    };
    let message = if link.last_error.is_empty() {
        link.state.to_owned()
    } else {
        format!("{}: {}", link.state, link.last_error)
    };
    let details = json!({
        "state": link.state,
        "endpoint": link.endpoint,
        "settings": link.settings,
        "attempt": link.attempt,
        "retry_in_seconds": link.retry_in.map(|span| span.as_secs()),
    });
    component(level, message, timestamp, details)
}

/// A pair that is over, or none where one is wanted and cannot be had, is an error of the certificate; telemetry goes
/// on, so over all it degrades.
fn certificate_component(
    certificate: &CertificateSnapshot,
    at: WallTime,
    timestamp: &str,
) -> Component {
    let pair = certificate.pair.as_ref();
    let days_left = pair.map(|pair| days_left(pair.not_after, at));
    let trouble = &certificate.last_error;
    let (level, message) = match (certificate.state, days_left) {
        ("expired", _) => (Level::Error, "expired".to_owned()),
        (state, None) if !trouble.is_empty() => (Level::Error, format!("{state}: no pair yet")),
        (state, Some(days)) if !trouble.is_empty() => {
            (Level::Degraded, format!("{state}: {days} days left"))
        }
        (_, Some(days)) => (Level::Ok, format!("{days} days left")),
        (state, None) => (Level::Ok, state.to_owned()),
    };
    let message = if trouble.is_empty() {
        message
    } else {
        format!("{message}; {trouble}")
    };
    let domains: Vec<&str> = certificate.domains.iter().map(Domain::as_str).collect();
    let details = json!({
        "state": certificate.state,
        "source": certificate.source,
        "domains": domains,
        "serial": pair.map(|pair| pair.serial.as_str()),
        "not_after": pair.map(|pair| pair.not_after.to_string()),
        "days_left": days_left,
        "next_attempt": certificate.next_attempt.map(|at| at.to_string()),
        "failures": certificate.failures,
    });
    component(level, message, timestamp, details)
}

/// What our data plane tells of a part; others tell nothing of the kind.
fn details_of(part: &PartSnapshot) -> Value {
    let mut details = Map::new();
    if !part.state.is_empty() {
        details.insert("state".to_owned(), json!(part.state));
    }
    for (name, value) in &part.numbers {
        let (name, value) = match *name {
            "acknowledged.unix_ms" => (
                "last_acknowledged".to_owned(),
                json!(WallTime::from_unix_millis(*value).to_string()),
            ),
            name => (name.replace('.', "_"), json!(value)),
        };
        details.insert(name, value);
    }
    Value::Object(details)
}

/// A clock that is off is no reason to send nothing: it degrades.
fn clock_component(clock: &ClockSnapshot, timestamp: &str) -> Component {
    let level = if clock.well {
        Level::Ok
    } else {
        Level::Degraded
    };
    let details = json!({
        "skew_ms": clock.skew_ms,
        "compared_at": clock.compared_at.map(|at| at.to_string()),
        "compared_with": clock.compared_with,
        "last_error": clock.last_error,
        "synchronised": clock.synchronised,
        "jumps": clock.jumps,
        "last_jump": clock.last_jump.map(|(at, _)| at.to_string()),
        "last_jump_ms": clock.last_jump.map(|(_, by)| by),
    });
    component(level, clock.words.clone(), timestamp, details)
}

pub(super) fn component(
    status: Level,
    message: String,
    timestamp: &str,
    details: Value,
) -> Component {
    let details = match details {
        Value::Object(details) => details,
        _ => Map::new(),
    };
    Component {
        status,
        message,
        timestamp: timestamp.to_owned(),
        details,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::admin::testing::{agent, snapshot, stored};

    fn level(change: impl FnOnce(&mut Snapshot)) -> (Level, u16, u16) {
        let mut snapshot = snapshot();
        change(&mut snapshot);
        let health = HealthDocument::of(&snapshot);
        (
            health.status,
            health.http_status(),
            ReadyDocument::of(&snapshot).0,
        )
    }

    #[test]
    fn a_part_that_is_behind_degrades_and_never_fails() {
        let part = |healthy, state: &str| PartSnapshot {
            healthy,
            state: state.to_owned(),
            words: "records wait".to_owned(),
            numbers: [("queue.percent", 95), ("acknowledged.unix_ms", 0)].into(),
        };
        for (healthy, state, wanted) in [
            (true, "ok", Level::Ok),
            (true, "unsupported", Level::Ok),
            (true, "degraded", Level::Degraded),
            (false, "error", Level::Degraded),
            (false, "", Level::Degraded),
        ] {
            let mut snapshot = snapshot();
            let name = "upload.vm".to_owned();
            snapshot.agents[0]
                .components
                .insert(name, part(healthy, state));
            let health = HealthDocument::of(&snapshot);
            assert_eq!(
                (health.status, health.http_status()),
                (wanted, 200),
                "{state}"
            );
            assert_eq!(ReadyDocument::of(&snapshot).0, 200, "{state}");
            let component = &health.components["agent.collector/upload.vm"];
            assert_eq!(component.details["queue_percent"], 95);
            assert_eq!(
                component.details["last_acknowledged"],
                "1970-01-01T00:00:00.000Z"
            );
        }
    }

    #[test]
    fn health_and_readiness_follow_the_table() {
        type Change = fn(&mut Snapshot);
        let cases: [(&str, Change, (Level, u16, u16)); 13] = [
            ("all well", |_| {}, (Level::Ok, 200, 200)),
            ("no agents", |all| all.agents.clear(), (Level::Ok, 200, 200)),
            (
                "server unreachable",
                |all| all.agents[0].link.state = "waiting",
                (Level::Degraded, 200, 200),
            ),
            (
                "starting",
                |all| {
                    all.agents[0].healthy = false;
                    all.agents[0].status = "starting".to_owned();
                },
                (Level::Degraded, 200, 503),
            ),
            (
                "the only agent backs off",
                |all| {
                    all.agents[0].healthy = false;
                    all.agents[0].child = None;
                    all.agents[0].status = "backing off".to_owned();
                },
                (Level::Error, 503, 503),
            ),
            (
                "up again in a crash loop",
                |all| all.agents[0].crash_loop = Some(4),
                (Level::Degraded, 200, 503),
            ),
            (
                "one of two is given up",
                |all| {
                    all.agents.push(agent("second"));
                    all.agents[1].healthy = false;
                    all.agents[1].status = "given up".to_owned();
                },
                (Level::Degraded, 200, 503),
            ),
            (
                "waiting for a first config",
                |all| all.agents[0].current = Some(stored(1, Origin::Default)),
                (Level::Ok, 200, 200),
            ),
            (
                "default although a remote config was applied",
                |all| all.agents[0].on_default = true,
                (Level::Degraded, 200, 200),
            ),
            (
                "frozen",
                |all| all.agents[0].frozen = Some("newer state".to_owned()),
                (Level::Degraded, 200, 200),
            ),
            (
                "a component below the child",
                |all| {
                    all.agents[0].components.insert(
                        "pipeline:metrics".to_owned(),
                        PartSnapshot {
                            words: "stuck".to_owned(),
                            ..PartSnapshot::default()
                        },
                    );
                },
                (Level::Degraded, 200, 200),
            ),
            (
                "a part of the child that says itself that it does less",
                |all| {
                    all.agents[0].components.insert(
                        "source.otlp".to_owned(),
                        PartSnapshot {
                            healthy: true,
                            state: "degraded".to_owned(),
                            words: "degraded: nothing is received".to_owned(),
                            ..PartSnapshot::default()
                        },
                    );
                },
                (Level::Degraded, 200, 200),
            ),
            ("stopping", |all| all.stopping = true, (Level::Ok, 200, 503)),
        ];
        for (name, change, wanted) in cases {
            assert_eq!(level(change), wanted, "{name}");
        }
    }

    #[test]
    fn the_document_has_the_fields_that_probes_read() {
        let document = serde_json::to_value(HealthDocument::of(&snapshot())).unwrap();
        assert_eq!(document["status"], "ok");
        assert_eq!(document["timestamp"], "2023-11-14T22:13:20.000Z");
        assert_eq!(document["uptime_seconds"], 61);
        let child = &document["components"]["agent.collector"];
        assert_eq!(child["status"], "ok");
        assert_eq!(child["message"], "running");
        assert_eq!(child["timestamp"], "2023-11-14T22:13:20.000Z");
        assert_eq!(child["details"]["pid"], 4242);
        assert_eq!(
            document["components"]["link.collector"]["message"],
            "connected"
        );
    }

    #[test]
    fn the_document_of_the_plain_door_reads_as_one() {
        let document: HealthDocument = serde_json::from_str(r#"{"status":"degraded"}"#).unwrap();
        assert_eq!(document.status, Level::Degraded);
        assert!(document.components.is_empty());
    }

    #[test]
    fn waiting_for_config_says_so() {
        let mut all = snapshot();
        all.agents[0].current = Some(stored(1, Origin::Default));
        let document = HealthDocument::of(&all);
        let child = &document.components["agent.collector"];
        assert_eq!(child.message, "waiting for config");
        assert_eq!(child.details["waiting_for_config"], true);
    }

    #[test]
    fn not_ready_names_the_agent_and_the_reason() {
        let mut all = snapshot();
        all.agents[0].healthy = false;
        all.agents[0].last_error = "no proof within 30s".to_owned();
        let (status, document) = ReadyDocument::of(&all);
        assert_eq!(status, 503);
        assert_eq!(
            serde_json::to_value(document).unwrap(),
            json!({
                "status": "not_ready",
                "message": "agent collector: no proof within 30s",
                "current_status": "error",
            })
        );
    }
}
