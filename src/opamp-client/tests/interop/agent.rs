//! The crate's own client as these tests drive it.

use std::time::Duration;

use opamp_client::messages::{
    AGENT_CAPABILITIES_ALL, AgentConfigFile, AgentConfigMap, AgentDescription, AgentRemoteConfig,
    ComponentHealth, EffectiveConfig, KeyValue, RemoteConfigStatus, RemoteConfigStatuses,
};
use opamp_client::transport::{Change, Client, ClientConfig, ClientEvent, ClientHandle};
use opamp_client::{BackoffConfig, SessionConfig, SessionEvent};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::peer::DEADLINE;

pub(crate) const UID: [u8; 16] = [1, 0x97, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const UID_TEXT: &str = "01970000-0000-7000-8000-000000000001";

/// A client that runs, with a description and a config.
pub(crate) struct Agent {
    handle: ClientHandle,
    tasks: JoinSet<()>,
}

impl Agent {
    pub(crate) async fn start(url: &str) -> Self {
        Self::with(url, |_| {}).await
    }

    /// `adjust` may change any setting: short delays and polls, no heartbeats to speak of.
    pub(crate) async fn with(url: &str, adjust: impl FnOnce(&mut ClientConfig)) -> Self {
        let session = SessionConfig {
            heartbeat: Duration::from_millis(if url.starts_with("http") { 20 } else { 0 }),
            ..SessionConfig::new(UID, AGENT_CAPABILITIES_ALL)
        };
        let mut config = ClientConfig {
            backoff: BackoffConfig {
                initial: Duration::from_millis(5),
                max: Duration::from_millis(50),
                ..BackoffConfig::default()
            },
            ..ClientConfig::new(session, url.parse().unwrap(), 1)
        };
        adjust(&mut config);
        let (client, handle) = Client::new(config).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run());
        let agent = Self { handle, tasks };
        agent
            .set(Change::Description(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "stranger")],
                non_identifying_attributes: vec![KeyValue::text("os.type", "linux")],
            }))
            .await;
        agent
            .set(Change::Health(ComponentHealth {
                healthy: true,
                status: "up".to_owned(),
                ..ComponentHealth::default()
            }))
            .await;
        agent
            .set(Change::EffectiveConfig(EffectiveConfig {
                config_map: Some(files("a: 1\n")),
            }))
            .await;
        agent
    }

    pub(crate) async fn set(&self, change: Change) {
        self.handle.set(change).await.unwrap();
    }

    /// The next event that `pick` wants.
    pub(crate) async fn event<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(ClientEvent) -> Option<T>,
    ) -> T {
        let found = timeout(DEADLINE, async {
            loop {
                let event = self.handle.next_event().await.expect("an event");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        });
        let found = found.await;
        found.unwrap_or_else(|elapsed| panic!("waited too long for {what}: {elapsed}"))
    }

    pub(crate) async fn told<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(SessionEvent) -> Option<T>,
    ) -> T {
        self.event(what, |event| match event {
            ClientEvent::Session(event) => pick(event),
            _ => None,
        })
        .await
    }

    pub(crate) async fn offered(&mut self) -> AgentRemoteConfig {
        self.told("an offer", |event| match event {
            SessionEvent::RemoteConfig(offer) => Some(offer),
            _ => None,
        })
        .await
    }

    pub(crate) async fn connected(&mut self) {
        self.event("a connection", |event| {
            matches!(event, ClientEvent::Connected).then_some(())
        })
        .await;
    }

    pub(crate) async fn report(&self, hash: &[u8], status: RemoteConfigStatuses) {
        self.set(Change::RemoteConfigStatus(RemoteConfigStatus {
            last_remote_config_hash: hash.to_vec(),
            status: status.into(),
            error_message: String::new(),
        }))
        .await;
    }

    pub(crate) async fn stop(mut self) {
        self.set(Change::Stop).await;
        timeout(DEADLINE, self.tasks.join_next())
            .await
            .expect("an end in time")
            .unwrap()
            .unwrap();
    }
}

pub(crate) fn files(body: &str) -> AgentConfigMap {
    let file = AgentConfigFile {
        body: body.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    AgentConfigMap {
        config_map: [(String::new(), file)].into(),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
