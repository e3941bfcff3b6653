//! The report to the supervisor over its Unix socket, as OpAMP.
//!
//! Promises: what is reported is the last state and not a queue of states; the proof of a config is its
//! `RevisionHash` in the remote config status; a link that is down is tried again by back-off and disturbs nobody;
//! without a supervisor there is no link.
//! Must never: take orders — configs come by HUP, from the directory — or report a value that is a secret by its name.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use opamp_client::messages::{
    AgentCapabilities, AgentConfigFile, AgentConfigMap, AgentDescription, AnyValue,
    ComponentHealth, EffectiveConfig, KeyValue, RemoteConfigStatus, RemoteConfigStatuses,
    any_value,
};
use opamp_client::transport::{Change, Client, ClientConfig, ClientEvent, ClientHandle, Target};
use opamp_client::{BackoffConfig, SessionConfig};
use tokio::sync::watch;

use super::pipeline::PartReport;
use crate::dataplane::health::Health;
use crate::units::{RevisionHash, WallTime, unhex};
use crate::yaml;

/// The name we report under.
const SERVICE_NAME: &str = "adjutant.collect";
/// Reconnects stay quick: the supervisor is on this host.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Time for a last report.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// What became of the last config that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigStatus {
    /// It runs.
    Applied(RevisionHash),
    /// It does not run; what ran before still does.
    Failed(Option<RevisionHash>, String),
}

/// The state of the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// What became of the last config.
    pub(crate) status: ConfigStatus,
    /// The files of the config that runs.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// One word and, if there is something to say, a sentence.
    pub(crate) summary: String,
    /// Every part.
    pub(crate) parts: Vec<PartReport>,
    /// When it was taken.
    pub(crate) at: WallTime,
}

/// Who reports.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The instance uid that the supervisor gave us.
    pub(crate) instance_uid: [u8; 16],
    /// When the process started.
    pub(crate) started: WallTime,
    /// The host's name.
    pub(crate) host: String,
}

/// A link that cannot be set up; the data plane runs without.
#[derive(Debug, thiserror::Error)]
#[error("set up the link to {socket}: {why}")]
pub(crate) struct LinkError {
    socket: String,
    why: String,
}

/// Reports every new state until the sender of `reports` is gone.
///
/// # Errors
/// The socket's path or the identity is unusable.
pub(crate) fn open(
    socket: &Path,
    identity: &Identity,
) -> Result<(Client, ClientHandle), LinkError> {
    let failed = |why: String| LinkError {
        socket: socket.display().to_string(),
        why,
    };
    let capabilities = [
        AgentCapabilities::ReportsStatus,
        AgentCapabilities::ReportsEffectiveConfig,
        AgentCapabilities::ReportsHealth,
        AgentCapabilities::ReportsRemoteConfig,
        AgentCapabilities::ReportsHeartbeat,
    ];
    let capabilities = capabilities
        .into_iter()
        .fold(0, |mask, one| mask | one.bit());
    let session = SessionConfig::new(identity.instance_uid, capabilities);
    let target = Target::unix(socket).map_err(|error| failed(error.to_string()))?;
    let mut config = ClientConfig::new(session, target, fastrand::u64(..));
    config.backoff = BackoffConfig {
        max: RETRY_MAX,
        ..config.backoff
    };
    Client::new(config).map_err(|error| failed(error.to_string()))
}

/// Drives an opened link.
pub(crate) async fn run(
    (client, handle): (Client, ClientHandle),
    identity: Identity,
    mut reports: watch::Receiver<Report>,
) {
    let reporting = async {
        let mut reporter = Reporter {
            handle,
            identity,
            last: None,
            up: false,
        };
        reporter.run(&mut reports).await;
    };
    let mut client = std::pin::pin!(client.run());
    let mut reporting = std::pin::pin!(reporting);
    tokio::select! {
        () = &mut client => return,
        () = &mut reporting => {}
    }
    // The client says goodbye; a supervisor that does not listen any more is not waited for.
    _ = tokio::time::timeout(GOODBYE_MAX, client).await;
}

struct Reporter {
    handle: ClientHandle,
    identity: Identity,
    last: Option<Report>,
    up: bool,
}

impl Reporter {
    async fn run(&mut self, reports: &mut watch::Receiver<Report>) {
        let described = self
            .handle
            .set(Change::Description(describe(&self.identity)))
            .await;
        if described.is_err() {
            return;
        }
        reports.mark_changed();
        loop {
            tokio::select! {
                changed = reports.changed() => {
                    let report = reports.borrow_and_update().clone();
                    if self.send(report).await.is_err() {
                        return;
                    }
                    if changed.is_err() {
                        // Whether the client still takes it no longer matters.
                        _ = self.handle.set(Change::Stop).await;
                        return;
                    }
                }
                event = self.handle.next_event() => match event {
                    Some(event) => self.note(event),
                    None => return,
                },
            }
        }
    }

    /// Sends what differs from the last report.
    async fn send(&mut self, report: Report) -> Result<(), opamp_client::transport::Stopped> {
        let last = self.last.take();
        let differs = |same: fn(&Report, &Report) -> bool| {
            last.as_ref().is_none_or(|last| !same(last, &report))
        };
        if differs(|a, b| a.files == b.files) {
            self.handle
                .set(Change::EffectiveConfig(effective(&report)))
                .await?;
        }
        let health = health(&report, self.identity.started);
        self.handle.set(Change::Health(health)).await?;
        if differs(|a, b| a.status == b.status) {
            self.handle
                .set(Change::RemoteConfigStatus(status(&report.status)))
                .await?;
        }
        self.last = Some(report);
        Ok(())
    }

    /// Logs a link that comes or goes, once.
    fn note(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Connected => {
                self.up = true;
                tracing::info!("link up");
            }
            ClientEvent::Disconnected { closed, .. } => {
                self.up = false;
                tracing::warn!(?closed, "link lost");
            }
            ClientEvent::DialFailed { error, .. } => tracing::debug!(%error, "link not up yet"),
            other => tracing::debug!(event = ?other, "ignored from the link"),
        }
    }
}

fn describe(identity: &Identity) -> AgentDescription {
    let uid = uuid::Uuid::from_bytes(identity.instance_uid).to_string();
    AgentDescription {
        identifying_attributes: vec![
            KeyValue::text("service.name", SERVICE_NAME),
            KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::text("service.instance.id", uid),
        ],
        non_identifying_attributes: vec![
            KeyValue::text("os.type", "linux"),
            KeyValue::text("host.name", identity.host.as_str()),
            KeyValue::text("process.pid", std::process::id().to_string()),
        ],
    }
}

/// The files as they run, with values that are secrets by their key replaced; of other files only the size.
fn effective(report: &Report) -> EffectiveConfig {
    let file = |(name, bytes): &(String, Vec<u8>)| {
        let is_yaml = Path::new(name)
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml");
        let (body, content_type) = match std::str::from_utf8(bytes) {
            Ok(text) if is_yaml => (yaml::redact(text, yaml::is_secret_path), "text/yaml"),
            _ => (format!("[{} bytes]", bytes.len()), "text/plain"),
        };
        let file = AgentConfigFile {
            body: body.into_bytes(),
            content_type: content_type.to_owned(),
        };
        (name.clone(), file)
    };
    EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: report.files.iter().map(file).collect(),
        }),
    }
}

fn status(status: &ConfigStatus) -> RemoteConfigStatus {
    let raw = |revision: &RevisionHash| unhex(&revision.to_hex()).unwrap_or_default();
    match status {
        ConfigStatus::Applied(revision) => RemoteConfigStatus {
            last_remote_config_hash: raw(revision),
            status: RemoteConfigStatuses::Applied.into(),
            error_message: String::new(),
        },
        ConfigStatus::Failed(revision, why) => RemoteConfigStatus {
            last_remote_config_hash: revision.as_ref().map(raw).unwrap_or_default(),
            status: RemoteConfigStatuses::Failed.into(),
            error_message: why.chars().take(8 * 1024).collect(),
        },
    }
}

/// The tree: unhealthy is who is down; who is degraded still does its job.
fn health(report: &Report, started: WallTime) -> ComponentHealth {
    let down = |part: &PartReport| matches!(part.health, Health::Down(_));
    let node = |healthy: bool, status: String, last_error: String| ComponentHealth {
        healthy,
        start_time_unix_nano: started.unix_nanos(),
        last_error,
        status,
        status_time_unix_nano: report.at.unix_nanos(),
        component_health_map: BTreeMap::new(),
        attributes: Vec::new(),
    };
    let errors: Vec<_> = report
        .parts
        .iter()
        .filter(|part| down(part))
        .map(|part| format!("{}: {}", part.name, part.health.error()))
        .collect();
    let mut root = node(errors.is_empty(), report.summary.clone(), errors.join("; "));
    // A reading in which nothing moved is one, too, and times of states are no reason for a report.
    root.attributes = vec![number("counted.unix_ms", report.at.unix_millis())];
    for part in &report.parts {
        let status = format!("{}: {}", part.health.word(), part.totals);
        let error = match &part.health {
            // Doors show one text per part; these two leave it healthy, and have to say themselves what they are.
            Health::Degraded(why) => format!("degraded: {why}"),
            Health::Unsupported(why) => format!("unsupported: {why}"),
            other => other.error().to_owned(),
        };
        let behind = matches!(part.health, Health::Behind(_));
        let mut component = node(!down(part) && !behind, status, error);
        component.attributes = facts(part);
        root.component_health_map
            .insert(part.name.clone(), component);
    }
    root
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    KeyValue {
        key: format!("adjutant.{key}"),
        value: Some(AnyValue {
            value: Some(any_value::Value::IntValue(value)),
        }),
    }
}

/// The same for machines; the supervisor makes details and metrics of it.
fn facts(part: &PartReport) -> Vec<KeyValue> {
    let totals = &part.totals;
    let mut facts = vec![
        KeyValue::text("adjutant.state", part.health.word()),
        number("records.received", totals.received),
        number("records.delivered", totals.delivered),
        number("records.pending", totals.pending),
        number("records.dropped", totals.dropped_total()),
    ];
    if let Some(pace) = &part.pace {
        let percent = u64::try_from(pace.queue_percent).unwrap_or(u64::MAX);
        facts.push(number("queue.percent", percent));
        if let Some(at) = pace.acknowledged {
            facts.push(number("acknowledged.unix_ms", at.unix_millis()));
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::book::Totals;

    fn report() -> Report {
        Report {
            status: ConfigStatus::Applied(RevisionHash::of([])),
            files: vec![
                (
                    "collect.yaml".to_owned(),
                    b"uploads: {u: {headers: {x-key: hunter2}}}\n".to_vec(),
                ),
                ("key.pem".to_owned(), b"hunter2".to_vec()),
            ],
            summary: "running".to_owned(),
            parts: vec![
                PartReport {
                    name: "source.host".to_owned(),
                    health: Health::Degraded("collector.cpu: gone".to_owned()),
                    totals: Totals::default(),
                    pace: None,
                },
                PartReport {
                    name: "upload.vm".to_owned(),
                    health: Health::Ok,
                    totals: Totals::default(),
                    pace: None,
                },
            ],
            at: WallTime::from_unix_millis(2),
        }
    }

    #[test]
    fn degraded_is_healthy_and_down_is_not() {
        let mut report = report();
        let tree = health(&report, WallTime::from_unix_millis(1));
        assert!(tree.healthy);
        let host = &tree.component_health_map["source.host"];
        assert!(host.healthy);
        assert_eq!(host.last_error, "degraded: collector.cpu: gone");
        assert_eq!(
            host.status,
            "degraded: received 0 delivered 0 pending 0 dropped 0"
        );
        report.parts[1].health = Health::Unsupported("needs wings".to_owned());
        let tree = health(&report, WallTime::from_unix_millis(1));
        assert!(tree.healthy);
        let unsupported = &tree.component_health_map["upload.vm"];
        assert!(unsupported.healthy);
        assert_eq!(unsupported.last_error, "unsupported: needs wings");
        report.parts[1].health = Health::Down("no answer".to_owned());
        let tree = health(&report, WallTime::from_unix_millis(1));
        assert!(!tree.healthy);
        assert_eq!(tree.last_error, "upload.vm: no answer");
    }

    #[test]
    fn secrets_are_not_reported() {
        let map = effective(&report()).config_map.unwrap().config_map;
        for (name, file) in &map {
            let body = String::from_utf8_lossy(&file.body);
            assert!(!body.contains("hunter2"), "{name}: {body}");
        }
        assert_eq!(map["key.pem"].body, b"[7 bytes]");
        assert!(map["collect.yaml"].body.starts_with(b"uploads: "));
    }

    #[test]
    fn the_proof_is_the_raw_hash() {
        let revision: RevisionHash = "0f".repeat(32).parse().unwrap();
        let applied = status(&ConfigStatus::Applied(revision));
        assert_eq!(applied.last_remote_config_hash, [0x0f; 32]);
        assert_eq!(applied.status, 1);
        let failed = status(&ConfigStatus::Failed(Some(revision), "line 3".to_owned()));
        assert_eq!(
            (failed.status, failed.error_message.as_str()),
            (3, "line 3")
        );
        assert_eq!(failed.last_remote_config_hash, [0x0f; 32]);
    }

    /// Given a supervisor that comes up late, when the state changes and then ends,
    /// then it hears who reports, the proof, the failure and the goodbye.
    #[tokio::test]
    async fn the_supervisor_hears_the_proof_and_every_change() {
        use opamp_client::frame::{FrameRules, decode};
        use opamp_client::messages::AgentToServer;
        use opamp_client::transport::{AcceptRules, Pump, PumpConfig, accept};

        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("link.sock");
        let identity = Identity {
            instance_uid: [7; 16],
            started: WallTime::from_unix_millis(1),
            host: "h1".to_owned(),
        };
        let opened = open(&socket, &identity).unwrap();
        let (reports, receiver) = watch::channel(report());
        let supervisor = async {
            // The first attempt finds nobody.
            tokio::task::yield_now().await;
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let connection = accept(stream, &AcceptRules::default(), |_| Ok(())).await;
            let (pump, sender, mut frames) = Pump::new(connection.unwrap(), PumpConfig::default());
            let serve = async {
                let _sender = sender;
                let mut reports = Some(reports);
                let mut seen = Vec::new();
                while let Some(frame) = frames.recv().await {
                    let message: AgentToServer = decode(&frame, FrameRules::default()).unwrap();
                    let status = message.remote_config_status.clone();
                    seen.push(message);
                    match status.map(|status| status.status) {
                        Some(1) => {
                            let mut failed = report();
                            failed.status = ConfigStatus::Failed(None, "line 3".to_owned());
                            reports.as_ref().unwrap().send_replace(failed);
                        }
                        Some(3) => reports = None,
                        _ => {}
                    }
                }
                seen
            };
            tokio::join!(pump.run(), serve).1
        };
        let both = async { tokio::join!(run(opened, identity, receiver), supervisor).1 };
        let seen = tokio::time::timeout(Duration::from_secs(20), Box::pin(both))
            .await
            .unwrap();

        assert!(seen.iter().all(|message| message.instance_uid == [7; 16]));
        let description = seen
            .iter()
            .find_map(|message| message.agent_description.clone())
            .unwrap();
        let name = &description.identifying_attributes[0];
        assert_eq!(name.as_text(), Some("adjutant.collect"));
        let statuses: Vec<_> = seen
            .iter()
            .filter_map(|message| message.remote_config_status.clone())
            .collect();
        let revision = RevisionHash::of([]);
        assert_eq!(
            statuses[0],
            status(&ConfigStatus::Applied(revision)),
            "the proof"
        );
        assert_eq!(statuses.last().unwrap().error_message, "line 3");
        let health = seen
            .iter()
            .find_map(|message| message.health.clone())
            .unwrap();
        assert!(health.component_health_map.contains_key("upload.vm"));
        assert!(
            seen.iter()
                .any(|message| message.effective_config.is_some())
        );
        assert!(seen.last().unwrap().agent_disconnect.is_some());
    }
}
