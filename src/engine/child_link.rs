//! What the child says about itself over its own OpAMP.
//!
//! Promises: one connection counts, the newest; a new one replaces the old (a reload makes the Collector dial
//! again) and everything said on the old one is forgotten, so a proof is never a stale one. Whatever comes in is
//! bounded and may be garbage.
//! Must never: decide whether a config is good. It holds what was said; the rollout judges.

use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentDescription, AgentToServer, AvailableComponents, ComponentHealth, EffectiveConfig,
    KeyValue, RemoteConfigStatuses, ServerToAgent, any_value,
};

use crate::engine::desired::REVISION_ATTRIBUTE;

/// `ServerCapabilities`: `AcceptsStatus` | `AcceptsEffectiveConfig`.
const CAPABILITIES: u64 = 0x1 | 0x4;
/// `ServerToAgentFlags`: `ReportFullState`.
const REPORT_FULL_STATE: u64 = 0x1;
/// `ServerToAgentFlags`: `ReportAvailableComponents`.
const REPORT_COMPONENTS: u64 = 0x2;

/// What the child says about its own config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChildStatus {
    pub(crate) hash: Vec<u8>,
    pub(crate) applied: bool,
    pub(crate) message: String,
}

/// What the child says about itself.
#[derive(Debug, Default)]
pub(crate) struct ChildLink {
    connection: Option<u64>,
    pub(crate) description: Option<AgentDescription>,
    pub(crate) health: Option<ComponentHealth>,
    pub(crate) effective: Option<EffectiveConfig>,
    pub(crate) status: Option<ChildStatus>,
    /// What it is made of, in full; whether that is still to be told to the server.
    pub(crate) components: Option<AvailableComponents>,
    pub(crate) components_are_news: bool,
    /// The hash of components that it has named and not shown.
    components_wanted: Option<Vec<u8>>,
    /// The proof marker of the description on the current connection.
    pub(crate) revision: Option<String>,
    /// Messages that did not decode.
    pub(crate) malformed: u64,
}

/// What a local message changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    pub(crate) health: bool,
    pub(crate) effective: bool,
}

impl ChildLink {
    /// A child connected. Returns the connection it replaces.
    pub(crate) fn opened(&mut self, connection: u64) -> Option<u64> {
        let old = self.connection.replace(connection);
        self.forget();
        old
    }

    /// A connection is gone. False when it was not the one that counts.
    pub(crate) fn closed(&mut self, connection: u64) -> bool {
        if self.connection != Some(connection) {
            return false;
        }
        self.connection = None;
        self.forget();
        true
    }

    /// Forgets what could be taken for a proof of what comes next.
    pub(crate) fn expect_proof(&mut self) {
        self.revision = None;
        self.status = None;
    }

    /// Takes a message. Returns what changed and the answer; none when it is not ours or not a message.
    pub(crate) fn frame(
        &mut self,
        connection: u64,
        bytes: &[u8],
        instance_uid: [u8; 16],
    ) -> Option<(Heard, Vec<u8>)> {
        if self.connection != Some(connection) {
            return None;
        }
        let Ok(message) = frame::decode::<AgentToServer>(bytes, FrameRules::default()) else {
            self.malformed = self.malformed.saturating_add(1);
            return None;
        };
        let uid = message.instance_uid.clone();
        let heard = self.take(message);
        let mut answer = ServerToAgent {
            instance_uid: if uid.is_empty() {
                instance_uid.to_vec()
            } else {
                uid
            },
            capabilities: CAPABILITIES,
            ..ServerToAgent::default()
        };
        if self.description.is_none() {
            answer.flags = REPORT_FULL_STATE;
        }
        if self.components_wanted.is_some() {
            answer.flags |= REPORT_COMPONENTS;
        }
        let answer = frame::encode(&answer, frame::MAX_MESSAGE_DEFAULT).unwrap_or_default();
        Some((heard, answer))
    }

    fn take(&mut self, message: AgentToServer) -> Heard {
        let mut heard = Heard::default();
        if let Some(description) = message.agent_description {
            let marker =
                text_attribute(&description.non_identifying_attributes, REVISION_ATTRIBUTE);
            self.revision = marker.map(str::to_owned);
            self.description = Some(description);
        }
        if let Some(health) = message.health {
            heard.health = true;
            self.health = Some(health);
        }
        if let Some(effective) = message.effective_config {
            heard.effective = true;
            self.effective = Some(effective);
        }
        if let Some(components) = message.available_components {
            self.take_components(components);
        }
        if let Some(status) = message.remote_config_status {
            let applied = status.status == RemoteConfigStatuses::Applied as i32;
            let failed = status.status == RemoteConfigStatuses::Failed as i32;
            if applied || failed {
                self.status = Some(ChildStatus {
                    hash: status.last_remote_config_hash,
                    applied,
                    message: status.error_message,
                });
            }
        }
        heard
    }

    /// It names a hash first, and shows the rest when it is asked.
    fn take_components(&mut self, components: AvailableComponents) {
        let known = self.components.as_ref();
        if known.is_some_and(|known| known.hash == components.hash) {
            self.components_wanted = None;
        } else if components.components.is_empty() {
            self.components_wanted = Some(components.hash);
        } else {
            self.components_wanted = None;
            self.components = Some(components);
            self.components_are_news = true;
        }
    }

    fn forget(&mut self) {
        self.components_wanted = None;
        self.health = None;
        self.effective = None;
        self.status = None;
        self.revision = None;
    }
}

/// A text attribute by key.
pub(crate) fn text_attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes
        .iter()
        .find(|attribute| attribute.key == key)?
        .value
        .as_ref()?;
    match value.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
