//! What this server knows of one agent: its last reports merged, the config stored for it, its timeline.
//!
//! Promises: a sub-message that is absent means unchanged; every change that a person would want to see is one timeline
//! entry with its time; the timeline keeps the last [`TIMELINE_MAX`] entries.
//! Must never: do I/O, read a clock, or decide what to send (that is `fleet.rs`).

use std::collections::{BTreeMap, VecDeque};

use opamp_client::messages::{
    AgentCapabilities, AgentConfigFile, AgentDescription, AgentToServer, ComponentHealth,
    EffectiveConfig, RemoteConfigStatus, RemoteConfigStatuses,
};

use super::apply::Applies;
use super::uid::Uid;
use crate::units::{LinkId, OfferHash, WallTime};

/// Entries remembered per agent.
pub(super) const TIMELINE_MAX: usize = 200;
/// Links remembered per agent; two live during a connection trial.
const LINKS_MAX: usize = 4;
/// Characters kept of an agent's words per timeline entry.
const WORDS_MAX: usize = 4096;

/// What a timeline entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A link came up or went away.
    Connection,
    /// The rollout went into another phase.
    Phase,
    /// The remote config status changed.
    RemoteConfig,
    /// The overall health changed.
    Health,
    /// A different effective config was reported.
    EffectiveConfig,
    /// This server offered a config.
    Offer,
    /// This server sent something else.
    Command,
    /// The agent's sequence numbers jumped, or it got another uid.
    Identity,
}

impl Kind {
    /// The word of the API and the page.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Phase => "phase",
            Self::RemoteConfig => "remote_config",
            Self::Health => "health",
            Self::EffectiveConfig => "effective_config",
            Self::Offer => "offer",
            Self::Command => "command",
            Self::Identity => "identity",
        }
    }
}

/// One line of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Counts up from 0 within an agent, without holes.
    pub(super) number: u64,
    pub(super) at: WallTime,
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) detail: String,
}

/// The config that this server wants on the agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) files: BTreeMap<String, AgentConfigFile>,
    pub(super) hash: OfferHash,
    pub(super) at: WallTime,
}

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) uid: Uid,
    /// A uid that was handed out and not yet used by the agent.
    pub(super) pending_uid: Option<Uid>,
    /// Newest last; that one gets what is pushed.
    links: Vec<LinkId>,
    pub(super) first_seen: WallTime,
    pub(super) last_seen: WallTime,
    pub(super) messages: u64,
    pub(super) sequence_num: Option<u64>,
    pub(super) capabilities: u64,
    pub(super) description: Option<AgentDescription>,
    pub(super) health: Option<ComponentHealth>,
    pub(super) effective_config: Option<EffectiveConfig>,
    pub(super) remote_config: Option<RemoteConfigStatus>,
    pub(super) stored: Option<Stored>,
    /// The link on which `stored` was last offered; it is offered once per link without being asked.
    pub(super) offered_on: Option<LinkId>,
    pub(super) applies: Applies,
    timeline: VecDeque<Entry>,
    next_number: u64,
}

impl Agent {
    /// An agent that was never heard of before.
    pub(super) fn new(uid: Uid, now: WallTime) -> Self {
        Self {
            uid,
            pending_uid: None,
            links: Vec::new(),
            first_seen: now,
            last_seen: now,
            messages: 0,
            sequence_num: None,
            capabilities: 0,
            description: None,
            health: None,
            effective_config: None,
            remote_config: None,
            stored: None,
            offered_on: None,
            applies: Applies::default(),
            timeline: VecDeque::new(),
            next_number: 0,
        }
    }

    /// The link that gets what is pushed.
    pub(super) fn link(&self) -> Option<LinkId> {
        self.links.last().copied()
    }

    /// Whether `link` is one of this agent's.
    pub(super) fn has_link(&self, link: LinkId) -> bool {
        self.links.contains(&link)
    }

    /// Whether the agent says that it can do this.
    pub(super) fn can(&self, capability: AgentCapabilities) -> bool {
        capability.is_in(self.capabilities)
    }

    /// The component that shows the rollout's phase.
    pub(super) fn rollout(&self) -> Option<&ComponentHealth> {
        self.health.as_ref()?.component_health_map.get("rollout")
    }

    /// The phase word, if the agent reports one.
    pub(super) fn phase(&self) -> Option<&str> {
        self.rollout()
            .map(|component| component.status.as_str())
            .filter(|word| !word.is_empty())
    }

    /// Notes that messages of this agent come over `link`.
    pub(super) fn attach(&mut self, now: WallTime, link: LinkId) {
        if self.has_link(link) {
            return;
        }
        if self.links.len() >= LINKS_MAX {
            self.links.remove(0);
        }
        self.links.push(link);
        self.note(now, Kind::Connection, "connected", "");
    }

    /// Notes that `link` is gone; says why.
    pub(super) fn detach(&mut self, now: WallTime, link: LinkId, why: &str) {
        if self.has_link(link) {
            self.links.retain(|one| *one != link);
            self.note(now, Kind::Connection, "disconnected", why);
        }
    }

    /// The hash in the last remote config status; empty if there is none.
    pub(super) fn reported_hash(&self) -> &[u8] {
        self.remote_config
            .as_ref()
            .map_or(&[], |status| status.last_remote_config_hash.as_slice())
    }

    /// Whether knowledge is missing that only a full report brings.
    pub(super) fn lacks_state(&self, message: &AgentToServer) -> bool {
        let in_order = self
            .sequence_num
            .is_some_and(|last| last.wrapping_add(1) == message.sequence_num);
        let owes =
            |bit: AgentCapabilities, present: bool| bit.is_in(message.capabilities) && !present;
        let full = message.agent_description.is_some()
            && !owes(AgentCapabilities::ReportsHealth, message.health.is_some());
        !in_order && !full
    }

    /// Takes over what the message says; what it does not say stays.
    pub(super) fn merge(&mut self, now: WallTime, message: AgentToServer) {
        if let Some(last) = self.sequence_num {
            let wanted = last.wrapping_add(1);
            if message.sequence_num != wanted && message.sequence_num != 0 {
                let text = format!("sequence number {} after {last}", message.sequence_num);
                self.note(now, Kind::Identity, &text, "");
            }
        }
        self.sequence_num = Some(message.sequence_num);
        self.messages = self.messages.saturating_add(1);
        self.last_seen = now;
        self.capabilities = message.capabilities;
        if let Some(description) = message.agent_description {
            self.description = Some(description);
        }
        if let Some(status) = message.remote_config_status {
            self.merge_remote_config(now, status);
        }
        if let Some(health) = message.health {
            self.merge_health(now, health);
        }
        if let Some(config) = message.effective_config {
            self.merge_effective_config(now, config);
        }
    }

    fn merge_remote_config(&mut self, now: WallTime, status: RemoteConfigStatus) {
        let hash = OfferHash::new(status.last_remote_config_hash.clone());
        let reason = clip(&status.error_message);
        // Also when nothing changed: a status repeated after the same config was pushed again is the answer to that
        // push.
        self.applies.reported(now, &hash, status.status(), &reason);
        if self.remote_config.as_ref() == Some(&status) {
            return;
        }
        let word = status_word(status.status());
        let text = if hash.is_empty() {
            word.to_owned()
        } else {
            format!("{word} {}", short(&hash))
        };
        self.note(now, Kind::RemoteConfig, &text, &status.error_message);
        self.remote_config = Some(status);
    }

    fn merge_health(&mut self, now: WallTime, health: ComponentHealth) {
        let before = self.health.as_ref();
        let same =
            before.is_some_and(|old| old.healthy == health.healthy && old.status == health.status);
        let phase_before = self.phase().map(str::to_owned);
        if !same {
            let word = if health.healthy {
                "healthy"
            } else {
                "unhealthy"
            };
            let text = if health.status.is_empty() {
                word.to_owned()
            } else {
                format!("{word}: {}", health.status)
            };
            self.note(now, Kind::Health, &text, &health.last_error);
        }
        self.health = Some(health);
        let Some(phase) = self.phase().map(str::to_owned) else {
            return;
        };
        if phase_before.as_ref() != Some(&phase) {
            let reason = self
                .rollout()
                .map(|component| clip(&component.last_error))
                .unwrap_or_default();
            self.note(now, Kind::Phase, &phase, &reason);
            self.applies.phase(now, &clip(&phase), &reason);
        }
    }

    fn merge_effective_config(&mut self, now: WallTime, config: EffectiveConfig) {
        if self.effective_config.as_ref() == Some(&config) {
            return;
        }
        let names = config
            .config_map
            .iter()
            .flat_map(|map| map.config_map.keys())
            .map(|name| {
                if name.is_empty() {
                    "\"\""
                } else {
                    name.as_str()
                }
            })
            .collect::<Vec<_>>()
            .join(", ");
        self.note(
            now,
            Kind::EffectiveConfig,
            "effective config changed",
            &names,
        );
        self.effective_config = Some(config);
    }

    /// Adds a line to the timeline.
    pub(super) fn note(&mut self, now: WallTime, kind: Kind, text: &str, detail: &str) {
        if self.timeline.len() >= TIMELINE_MAX {
            self.timeline.pop_front();
        }
        self.timeline.push_back(Entry {
            number: self.next_number,
            at: now,
            kind,
            text: clip(text),
            detail: clip(detail),
        });
        self.next_number = self.next_number.saturating_add(1);
    }

    /// The number that the next entry will get.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Entries from `number` on, oldest first.
    pub(super) fn entries_from(&self, number: u64) -> impl Iterator<Item = &Entry> {
        self.timeline
            .iter()
            .filter(move |entry| entry.number >= number)
    }
}

/// The status word as the protocol writes it.
pub(super) fn status_word(status: RemoteConfigStatuses) -> &'static str {
    match status {
        RemoteConfigStatuses::Unset => "UNSET",
        RemoteConfigStatuses::Applied => "APPLIED",
        RemoteConfigStatuses::Applying => "APPLYING",
        RemoteConfigStatuses::Failed => "FAILED",
    }
}

/// The first 12 hexadecimal digits, as logs show a hash.
pub(super) fn short(hash: &OfferHash) -> String {
    let mut text = hash.to_hex();
    text.truncate(12);
    text
}

fn clip(text: &str) -> String {
    text.chars().take(WORDS_MAX).collect()
}
