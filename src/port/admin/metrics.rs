//! The metrics page: one snapshot in, one text in the `OpenMetrics` format out.
//!
//! Promises: names start with `adjutant_`, units come last, counters end in `_total`; every name is in
//! `docs/metrics.md` and a test compares both. The registry lives for one scrape, so an agent that is gone leaves no
//! stale series.
//! Must never: keep a counter of its own; whoever counts puts the count into the snapshot.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::health::{HealthDocument, ReadyDocument};
use crate::engine::message::{AgentSnapshot, CertificateSnapshot, ClockSnapshot, Snapshot};

/// What the page is; Prometheus picks its parser by it.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;
type Seconds = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// Writes the page.
///
/// # Errors
/// The encoder's; writing to a string has none of its own.
pub(crate) fn page(snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("adjutant");
    host(&mut registry, snapshot);
    let agents = registry.sub_registry_with_prefix("agent");
    children(agents, &snapshot.agents);
    parts(agents, &snapshot.agents);
    revisions(agents, &snapshot.agents);
    counters(agents, &snapshot.agents);
    links(registry.sub_registry_with_prefix("link"), &snapshot.agents);
    certificates(
        registry.sub_registry_with_prefix("certificate"),
        &snapshot.certificates,
    );
    if let Some(watched) = &snapshot.clock {
        clock(registry.sub_registry_with_prefix("clock"), watched);
    }
    if let Some(registration) = &snapshot.registration {
        let registry = registry.sub_registry_with_prefix("registration");
        super::registration::metrics(registry, registration);
    }
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

fn host(registry: &mut Registry, snapshot: &Snapshot) {
    let build = gauges(registry, "build_info", "Version of the running supervisor");
    build
        .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
        .set(1);
    let uptime = Gauge::<f64, AtomicU64>::default();
    uptime.set(snapshot.uptime.as_secs_f64());
    registry.register_with_unit(
        "uptime",
        "Time since the supervisor started",
        Unit::Seconds,
        uptime,
    );
    gauge(
        registry,
        "previous_end_unclean",
        "1 when the supervisor's life before this one ended without a goodbye",
        i64::from(snapshot.previous_end.is_some()),
    );
    gauge(
        registry,
        "ready",
        "1 when every child takes data with a known config",
        i64::from(ReadyDocument::of(snapshot).0 == 200),
    );
    gauge(
        registry,
        "health_status",
        "Health over all: 0 ok, 1 degraded, 2 error",
        HealthDocument::of(snapshot).status as i64,
    );
}

fn children(registry: &mut Registry, agents: &[AgentSnapshot]) {
    let up = gauges(registry, "up", "1 when the agent's process runs");
    let healthy = gauges(registry, "healthy", "1 when the agent is healthy over all");
    let looping = gauges(
        registry,
        "crash_loop",
        "1 when the agent's process dies again and again, or was given up",
    );
    let component = gauges(
        registry,
        "component_healthy",
        "1 when a component below the agent is healthy",
    );
    let started = seconds(
        registry,
        "start_time",
        "When the agent's process was started, since the Unix epoch",
    );
    for agent in agents {
        let labels = of(agent);
        up.get_or_create(&labels)
            .set(i64::from(agent.child.is_some()));
        healthy.get_or_create(&labels).set(i64::from(agent.healthy));
        looping
            .get_or_create(&labels)
            .set(i64::from(agent.crash_loop.is_some()));
        if let Some(child) = &agent.child {
            let at = std::time::Duration::from_millis(child.started.unix_millis());
            started.get_or_create(&labels).set(at.as_secs_f64());
        }
        for (path, part) in &agent.components {
            component
                .get_or_create(&with(agent, "component", path))
                .set(i64::from(part.healthy));
        }
    }
}

/// What our data plane counts; other agents have pages of their own.
fn parts(registry: &mut Registry, agents: &[AgentSnapshot]) {
    let records = counter(
        registry,
        "component_records",
        "Records of a source or an upload, by what became of them",
    );
    let pending = gauges(
        registry,
        "component_pending_records",
        "Records of a source or an upload that are neither delivered nor dropped",
    );
    let queue = gauges(
        registry,
        "component_queue_percent",
        "How much of an upload's queue is taken",
    );
    let acknowledged = seconds(
        registry,
        "component_last_acknowledged_timestamp",
        "When an endpoint acknowledged a record last, since the Unix epoch",
    );
    for agent in agents {
        for (path, part) in &agent.components {
            let labels = with(agent, "component", path);
            for (name, value) in &part.numbers {
                let level = i64::try_from(*value).unwrap_or(i64::MAX);
                match *name {
                    "records.pending" => {
                        pending.get_or_create(&labels).set(level);
                    }
                    "queue.percent" => {
                        queue.get_or_create(&labels).set(level);
                    }
                    "acknowledged.unix_ms" => {
                        let at = std::time::Duration::from_millis(*value);
                        acknowledged.get_or_create(&labels).set(at.as_secs_f64());
                    }
                    name => {
                        let mut labels = labels.clone();
                        let word = name.strip_prefix("records.").unwrap_or(name);
                        labels.push(("state", word.to_owned()));
                        records.get_or_create(&labels).inc_by(*value);
                    }
                }
            }
        }
    }
}

fn revisions(registry: &mut Registry, agents: &[AgentSnapshot]) {
    let current = gauges(
        registry,
        "revision_info",
        "The revision that `current` points to",
    );
    let phase = gauges(registry, "rollout_phase_info", "The phase of the rollout");
    let stored = gauges(
        registry,
        "revisions_stored",
        "Revisions in the state directory",
    );
    let rejected = gauges(
        registry,
        "revisions_rejected",
        "Revisions that are not tried again",
    );
    let on_default = gauges(
        registry,
        "on_default",
        "1 when the default config runs although a remote one was applied",
    );
    let frozen = gauges(
        registry,
        "frozen",
        "1 when applies are frozen because a newer version wrote the state",
    );
    let drift = gauges(
        registry,
        "config_drift",
        "Files of the running revision that somebody else has changed",
    );
    let refused = gauges(
        registry,
        "local_config_refused",
        "1 when the local config on disk was refused and what runs keeps its own copy",
    );
    for agent in agents {
        let labels = of(agent);
        drift
            .get_or_create(&labels)
            .set(count(agent.layers.drift.len()));
        refused
            .get_or_create(&labels)
            .set(i64::from(!agent.layers.refused.is_empty()));
        if let Some(revision) = &agent.current {
            current
                .get_or_create(&with(agent, "revision", revision.id.as_str()))
                .set(1);
        }
        phase
            .get_or_create(&with(agent, "phase", agent.phase))
            .set(1);
        stored
            .get_or_create(&labels)
            .set(count(agent.revisions.len()));
        rejected
            .get_or_create(&labels)
            .set(count(agent.rejected.len()));
        on_default
            .get_or_create(&labels)
            .set(i64::from(agent.on_default));
        frozen
            .get_or_create(&labels)
            .set(i64::from(agent.frozen.is_some()));
    }
}

fn counters(registry: &mut Registry, agents: &[AgentSnapshot]) {
    let restarts = counter(
        registry,
        "restarts",
        "Restarts of the agent, asked for or not",
    );
    let crashes = counter(
        registry,
        "crashes",
        "Exits of the agent that nobody asked for",
    );
    let events = counter(
        registry,
        "events",
        "What the engine counted, by kind; the kinds are those of the status document",
    );
    for agent in agents {
        let labels = of(agent);
        restarts.get_or_create(&labels).inc_by(agent.restarts);
        crashes.get_or_create(&labels).inc_by(agent.crashes);
        for (kind, value) in &agent.counters {
            events
                .get_or_create(&with(agent, "kind", kind))
                .inc_by(*value);
        }
    }
}

fn certificates(registry: &mut Registry, certificates: &[CertificateSnapshot]) {
    let expiry = seconds(
        registry,
        "expiry_timestamp",
        "When the live pair ends, since the Unix epoch",
    );
    let healthy = gauges(
        registry,
        "healthy",
        "1 when a live pair is there and the last try to renew it did not fail",
    );
    let renewals = counter(
        registry,
        "renewals",
        "Pairs made live, and tries that failed, by result",
    );
    for certificate in certificates {
        let labels = vec![("certificate", certificate.name.to_string())];
        if let Some(pair) = &certificate.pair {
            let at = std::time::Duration::from_millis(pair.not_after.unix_millis());
            expiry.get_or_create(&labels).set(at.as_secs_f64());
        }
        healthy
            .get_or_create(&labels)
            .set(i64::from(certificate.state == "live"));
        for (result, count) in [
            ("success", certificate.renewals),
            ("failure", certificate.failures),
        ] {
            let mut labels = labels.clone();
            labels.push(("result", result.to_owned()));
            renewals.get_or_create(&labels).inc_by(count);
        }
    }
}

fn clock(registry: &mut Registry, watched: &ClockSnapshot) {
    if let Some(millis) = watched.skew_ms {
        let skew = Gauge::<f64, AtomicU64>::default();
        // A clock that is off by a year is off by 3e10 ms: far inside what this type says exactly.
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        skew.set(millis as f64 / 1000.0);
        registry.register_with_unit(
            "skew",
            "How far the clock is ahead of the one it is compared with",
            Unit::Seconds,
            skew,
        );
    }
    if let Some(synchronised) = watched.synchronised {
        gauge(
            registry,
            "synchronised",
            "1 when the kernel says that something keeps the clock",
            i64::from(synchronised),
        );
    }
    let jumps: Counter = Counter::default();
    jumps.inc_by(watched.jumps);
    registry.register("jumps", "How often the clock was set", jumps);
}

fn links(registry: &mut Registry, agents: &[AgentSnapshot]) {
    let connected = gauges(
        registry,
        "connected",
        "1 when connected to the OpAMP server",
    );
    let attempts = gauges(
        registry,
        "failed_attempts",
        "Attempts in a row that failed to reach the OpAMP server",
    );
    for agent in agents {
        let labels = of(agent);
        connected
            .get_or_create(&labels)
            .set(i64::from(agent.link.state == "connected"));
        attempts
            .get_or_create(&labels)
            .set(i64::from(agent.link.attempt));
    }
}

fn of(agent: &AgentSnapshot) -> Labels {
    vec![("agent", agent.name.to_string())]
}

fn with(agent: &AgentSnapshot, key: &'static str, value: &str) -> Labels {
    vec![("agent", agent.name.to_string()), (key, value.to_owned())]
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Gauges {
    let family = Gauges::default();
    registry.register(name, help, family.clone());
    family
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Seconds {
    let family = Seconds::default();
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
    family
}

pub(super) fn counter(registry: &mut Registry, name: &str, help: &str) -> Counters {
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::message::PartSnapshot;
    use crate::port::admin::testing::{registration, snapshot};

    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

    fn full() -> String {
        let mut all = snapshot();
        all.agents[0].components.insert(
            "upload.vm".to_owned(),
            PartSnapshot {
                healthy: true,
                state: "ok".to_owned(),
                words: "ok".to_owned(),
                numbers: [
                    ("records.received", 9),
                    ("records.pending", 4),
                    ("queue.percent", 12),
                    ("acknowledged.unix_ms", 1_700_000_000_500),
                ]
                .into(),
            },
        );
        all.registration = Some(registration());
        page(&all).unwrap()
    }

    fn samples(page: &str) -> BTreeSet<&str> {
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect()
    }

    #[test]
    fn the_page_and_its_document_agree() {
        let page = full();
        let documented: BTreeSet<&str> = DOCUMENT
            .lines()
            .filter_map(|line| line.strip_prefix("| `adjutant_"))
            .filter_map(|rest| rest.split('`').next())
            .collect();
        let exported: BTreeSet<&str> = samples(&page)
            .into_iter()
            .map(|name| name.strip_prefix("adjutant_").expect("our prefix"))
            .collect();
        assert_eq!(exported, documented);
    }

    #[test]
    fn every_metric_has_help_and_type_and_counters_end_in_total() {
        let page = full();
        assert!(page.ends_with("# EOF\n"));
        for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
            let mut words = line.split(' ').skip(2);
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            assert!(page.contains(&format!("# HELP {name} ")), "{name}");
            let sample = match kind {
                "counter" => format!("\n{name}_total"),
                "gauge" => format!("\n{name}"),
                other => panic!("{name} is a {other}"),
            };
            assert!(page.contains(&sample), "{name} has no sample {sample:?}");
        }
    }

    #[test]
    fn values_come_from_the_snapshot() {
        let page = full();
        for line in [
            "adjutant_uptime_seconds 61.0",
            "adjutant_ready 1",
            "adjutant_health_status 0",
            "adjutant_agent_up{agent=\"collector\"} 1",
            "adjutant_agent_restarts_total{agent=\"collector\"} 3",
            "adjutant_agent_crashes_total{agent=\"collector\"} 1",
            "adjutant_agent_events_total{agent=\"collector\",kind=\"stale_answers\"} 2",
            "adjutant_agent_revisions_stored{agent=\"collector\"} 2",
            "adjutant_agent_start_time_seconds{agent=\"collector\"} 1699999700.0",
            "adjutant_link_connected{agent=\"collector\"} 1",
            "adjutant_agent_component_records_total{agent=\"collector\",component=\"upload.vm\",state=\"received\"} 9",
            "adjutant_agent_component_pending_records{agent=\"collector\",component=\"upload.vm\"} 4",
            "adjutant_agent_component_queue_percent{agent=\"collector\",component=\"upload.vm\"} 12",
            "adjutant_clock_skew_seconds -0.25",
            "adjutant_clock_synchronised 1",
            "adjutant_clock_jumps_total 2",
            "adjutant_registration_registered 1",
            "adjutant_registration_rejected 0",
            "adjutant_registration_calls_total{outcome=\"failed\"} 1",
            "adjutant_registration_token_expiry_time_seconds 1731536000.0",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is missing in\n{page}"
            );
        }
    }
}
