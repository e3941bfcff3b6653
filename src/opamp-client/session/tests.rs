//! The session as a table of situations: a scripted server on one side, the calls of an embedder on the other.

mod capabilities;
mod commands;
mod components;
mod content;
mod conversation;
mod custom_messages;
mod errors;
mod flood;
mod full_state;
mod gateway;
mod health_and_heartbeat;
mod identity;
mod limits;
mod polling;
mod reconnect;

use std::time::Duration;

use super::*;
use crate::frame::{FrameError, Wire as _};
use crate::messages::{
    AgentConfigFile, AgentConfigMap, AgentIdentification, AgentRemoteConfig, AgentToServer,
    CertificateRequest, ComponentDetails, ConnectionSettingsOffers, ConnectionSettingsStatuses,
    KeyValue, OpAmpConnectionSettings, OpAmpConnectionSettingsRequest, OtherConnectionSettings,
    PackagesAvailable, RemoteConfigStatuses, RetryInfo, ServerCapabilities, ServerErrorResponse,
    ServerErrorResponseType, ServerToAgent, ServerToAgentCommand, ServerToAgentFlags,
    TelemetryConnectionSettings, server_error_response,
};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [9; 16];
const ALL: u64 = AGENT_CAPABILITIES_ALL;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn description(version: &str) -> AgentDescription {
    AgentDescription {
        identifying_attributes: vec![
            KeyValue::text("service.name", "adjutant"),
            KeyValue::text("service.version", version),
        ],
        non_identifying_attributes: vec![KeyValue::text("os.type", "linux")],
    }
}

fn health(status: &str) -> ComponentHealth {
    ComponentHealth {
        healthy: true,
        status: status.to_owned(),
        start_time_unix_nano: 1,
        ..ComponentHealth::default()
    }
}

fn config_map(body: &str) -> AgentConfigMap {
    AgentConfigMap {
        config_map: [(
            String::new(),
            AgentConfigFile {
                body: body.as_bytes().to_vec(),
                content_type: "text/yaml".to_owned(),
            },
        )]
        .into(),
    }
}

fn effective(body: &str) -> EffectiveConfig {
    EffectiveConfig {
        config_map: Some(config_map(body)),
    }
}

fn offer(hash: &[u8]) -> AgentRemoteConfig {
    AgentRemoteConfig {
        config: Some(config_map("receivers: {}")),
        config_hash: hash.to_vec(),
    }
}

fn status(hash: &[u8], status: RemoteConfigStatuses) -> RemoteConfigStatus {
    RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec(),
        status: status as i32,
        error_message: String::new(),
    }
}

fn components(hash: &[u8]) -> AvailableComponents {
    AvailableComponents {
        components: [("receivers".to_owned(), ComponentDetails::default())].into(),
        hash: hash.to_vec(),
    }
}

fn ack() -> ServerToAgent {
    ServerToAgent {
        instance_uid: UID.to_vec(),
        ..ServerToAgent::default()
    }
}

fn flagged(flag: ServerToAgentFlags) -> ServerToAgent {
    ServerToAgent {
        flags: u64::from((flag as i32).unsigned_abs()),
        ..ack()
    }
}

fn command(kind: i32) -> ServerToAgent {
    ServerToAgent {
        command: Some(ServerToAgentCommand { r#type: kind }),
        ..ack()
    }
}

fn error(kind: i32, retry_ns: Option<u64>) -> ServerToAgent {
    ServerToAgent {
        error_response: Some(ServerErrorResponse {
            r#type: kind,
            error_message: "no".to_owned(),
            details: retry_ns.map(|retry_after_nanoseconds| {
                server_error_response::Details::RetryInfo(RetryInfo {
                    retry_after_nanoseconds,
                })
            }),
        }),
        ..ack()
    }
}

fn identify(uid: &[u8]) -> ServerToAgent {
    ServerToAgent {
        agent_identification: Some(AgentIdentification {
            new_instance_uid: uid.to_vec(),
        }),
        ..ack()
    }
}

/// A session with an embedder's habits: drains after each input, keeps the time.
struct Bench {
    session: Session,
    now: Duration,
}

impl Bench {
    fn with(capabilities: u64) -> Self {
        Self::of(SessionConfig::new(UID, capabilities))
    }

    fn of(config: SessionConfig) -> Self {
        Self {
            session: Session::new(config).expect("valid configuration"),
            now: Duration::ZERO,
        }
    }

    /// All capabilities, every field set.
    fn full() -> Self {
        let mut bench = Self::with(ALL);
        let session = &mut bench.session;
        session.set_description(description("1"));
        session.set_health(health("up"));
        session.set_effective_config(effective("a: 1"));
        session.set_remote_config_status(status(b"h", RemoteConfigStatuses::Applied));
        session.set_package_statuses(PackageStatuses::default());
        session.set_connection_settings_status(ConnectionSettingsStatus::default());
        session.set_available_components(components(b"c1"));
        session.set_custom_capabilities(custom(&["org.example.echo"]));
        bench
    }

    /// Connected, first report sent and answered.
    fn greeted() -> Self {
        let mut bench = Self::full();
        bench.connect();
        bench.one();
        bench.hear(&ack());
        bench
    }

    fn connect(&mut self) {
        self.session.handle_connected(self.now);
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.session.handle_timeout(self.now);
    }

    fn hear(&mut self, message: &ServerToAgent) {
        let frame = frame::encode(message, usize::MAX).expect("encodes");
        self.session
            .handle_frame(self.now, &frame)
            .expect("decodes");
    }

    fn poll(&mut self) -> Option<AgentToServer> {
        let frame = self.session.poll_transmit(self.now)?;
        assert_eq!(frame[0], 0, "header");
        Some(AgentToServer::from_wire(&frame[1..]).expect("own message decodes"))
    }

    /// Everything that is sent now.
    fn drain(&mut self) -> Vec<AgentToServer> {
        let sent: Vec<_> = std::iter::from_fn(|| self.poll()).take(1000).collect();
        assert!(sent.len() < 1000, "sends for ever");
        sent
    }

    /// Exactly one message is sent now.
    fn one(&mut self) -> AgentToServer {
        let mut sent = self.drain();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn events(&mut self) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }
}

fn custom(list: &[&str]) -> CustomCapabilities {
    CustomCapabilities {
        capabilities: list.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn echo(text: &str) -> CustomMessage {
    CustomMessage {
        capability: "org.example.echo".to_owned(),
        r#type: "say".to_owned(),
        data: text.as_bytes().to_vec(),
    }
}

/// The names of the fields a message holds.
fn fields_of(message: &AgentToServer) -> Vec<&'static str> {
    [
        ("description", message.agent_description.is_some()),
        ("health", message.health.is_some()),
        ("effective", message.effective_config.is_some()),
        ("remote", message.remote_config_status.is_some()),
        ("packages", message.package_statuses.is_some()),
        ("settings", message.connection_settings_status.is_some()),
        ("components", message.available_components.is_some()),
        ("custom", message.custom_capabilities.is_some()),
        ("message", message.custom_message.is_some()),
        ("request", message.connection_settings_request.is_some()),
        ("disconnect", message.agent_disconnect.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

const EVERY_FIELD: [&str; 8] = [
    "description",
    "health",
    "effective",
    "remote",
    "packages",
    "settings",
    "components",
    "custom",
];
