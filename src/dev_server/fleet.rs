//! The server itself, as a value: message or request in, messages to send and changes to show out.
//!
//! Promises: every message of an agent is answered; a config that was pushed is offered again on a new link if the
//! agent reports another hash, once per link, and never if it reports FAILED for this very hash; a gap in the
//! sequence numbers asks for the full state. At most [`AGENTS_MAX`] agents; the one gone for longest makes room.
//! Must never: do I/O, read a clock, or send an agent anything that it did not say it can do (except raw bytes on
//! request).

use std::collections::BTreeMap;

use opamp_client::messages::{
    AgentCapabilities, AgentConfigFile, AgentConfigMap, AgentIdentification, AgentRemoteConfig,
    AgentToServer, AgentToServerFlags, CommandType, ConnectionSettingsOffers,
    OpAmpConnectionSettings, RetryInfo, ServerCapabilities, ServerErrorResponse,
    ServerErrorResponseType, ServerToAgent, ServerToAgentCommand, ServerToAgentFlags,
    server_error_response::Details,
};

use super::agent::{Agent, Kind, Stored, short};
use super::uid::Uid;
use crate::units::{LinkId, OfferHash, RevisionHash, WallTime};

/// Agents remembered.
pub(super) const AGENTS_MAX: usize = 1000;
/// What an agent that finds no room is told to wait.
const NO_ROOM_RETRY_NS: u64 = 30 * 1_000_000_000;

/// What goes out on a link.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outgoing {
    /// A message.
    Message(Box<ServerToAgent>),
    /// Bytes as they are, to see what the agent does with them.
    Raw(Vec<u8>),
    /// The end of the link, without a word.
    Close,
}

/// Which part of an agent's state is different now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Connection,
    Description,
    Health,
    EffectiveConfig,
    RemoteConfig,
    Stored,
}

impl Part {
    /// The word of the API.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Description => "description",
            Self::Health => "health",
            Self::EffectiveConfig => "effective_config",
            Self::RemoteConfig => "remote_config",
            Self::Stored => "stored_config",
        }
    }
}

/// An agent of which something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) uid: Uid,
    /// Timeline entries from this number on are new.
    pub(super) entries_from: u64,
    pub(super) parts: Vec<Part>,
}

/// What the outside must do after a call.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reaction {
    pub(super) send: Vec<(LinkId, Outgoing)>,
    pub(super) changes: Vec<Change>,
}

/// What can be asked of an agent besides taking a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Restart the process.
    Restart,
    /// Report everything again.
    FullState,
    /// Take this uid, or one made here.
    Identify(Option<Uid>),
    /// Take these bytes as a message.
    Raw(Vec<u8>),
    /// Lose the connection.
    Drop,
    /// Take this heartbeat interval.
    Heartbeat {
        /// Seconds between heartbeats.
        seconds: u64,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Nobody with this uid ever connected.
    #[error("no agent {uid} was seen; GET /api/agents lists those that were")]
    NoSuchAgent {
        /// The uid asked for.
        uid: Uid,
    },
    /// There is no link to send on.
    #[error("agent {uid} is not connected; ask again when it is back")]
    NotConnected {
        /// The uid asked for.
        uid: Uid,
    },
    /// The agent's capabilities do not have the bit.
    #[error("agent {uid} does not say that it {what}")]
    NotCapable {
        /// The uid asked for.
        uid: Uid,
        /// What it would have to say.
        what: &'static str,
    },
    /// The uid to hand out belongs to another agent.
    #[error("instance uid {uid} is taken by another agent")]
    UidTaken {
        /// The uid asked for.
        uid: Uid,
    },
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) hash: OfferHash,
    /// Whether it went out now; else it goes out when the agent connects.
    pub(super) sent: bool,
}

/// All agents.
#[derive(Debug)]
pub(super) struct Fleet {
    agents: BTreeMap<Uid, Agent>,
    random: fastrand::Rng,
}

impl Fleet {
    /// An empty fleet. `seed` is what the uids made here depend on.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            agents: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// All agents in order of their uids.
    pub(super) fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// One agent.
    pub(super) fn agent(&self, uid: Uid) -> Result<&Agent, Refused> {
        self.agents.get(&uid).ok_or(Refused::NoSuchAgent { uid })
    }

    /// An agent sent a message over `link`.
    pub(super) fn receive(
        &mut self,
        now: WallTime,
        link: LinkId,
        message: AgentToServer,
    ) -> Reaction {
        let Some(uid) = Uid::from_wire(&message.instance_uid) else {
            let words = "instance_uid is not 16 bytes, or is all zero";
            return refuse(link, &message, ServerErrorResponseType::BadRequest, words);
        };
        self.adopt_pending_uid(now, link, uid);
        if !self.agents.contains_key(&uid) && !self.make_room() {
            let words = "this server has no room for another agent";
            return refuse(link, &message, ServerErrorResponseType::Unavailable, words);
        }
        let fresh_uid = self.fresh_uid(now);
        let agent = self
            .agents
            .entry(uid)
            .or_insert_with(|| Agent::new(uid, now));
        let entries_from = agent.next_number();
        let mut parts = parts_of(&message);
        if !agent.has_link(link) {
            agent.attach(now, link);
            parts.push(Part::Connection);
        }
        let lacks_state = agent.lacks_state(&message);
        let leaves = message.agent_disconnect.is_some();
        let wants_uid = message.flags & AgentToServerFlags::RequestInstanceUid as u64 != 0;
        agent.merge(now, message);

        let mut answer = answer_to(uid);
        if lacks_state {
            answer.flags = ServerToAgentFlags::ReportFullState as u64;
            agent.note(now, Kind::Command, "asked for the full state", "");
        }
        if wants_uid {
            agent.pending_uid = Some(fresh_uid);
            answer.agent_identification = Some(AgentIdentification {
                new_instance_uid: fresh_uid.to_wire(),
            });
            agent.note(now, Kind::Identity, "gave a uid", &fresh_uid.to_string());
        }
        if let Some(offer) = owed_offer(agent, link) {
            agent.offered_on = Some(link);
            agent.note(now, Kind::Offer, "offered the stored config", "");
            answer.remote_config = Some(offer);
        }
        if leaves {
            agent.detach(now, link, "the agent said goodbye");
            parts.push(Part::Connection);
        }
        Reaction {
            send: vec![(link, Outgoing::Message(Box::new(answer)))],
            changes: vec![Change {
                uid,
                entries_from,
                parts,
            }],
        }
    }

    /// A link is gone.
    pub(super) fn closed(&mut self, now: WallTime, link: LinkId, why: &str) -> Reaction {
        let mut reaction = Reaction::default();
        for agent in self.agents.values_mut().filter(|a| a.has_link(link)) {
            let entries_from = agent.next_number();
            agent.detach(now, link, why);
            reaction.changes.push(Change {
                uid: agent.uid,
                entries_from,
                parts: vec![Part::Connection],
            });
        }
        reaction
    }

    /// Stores a config for an agent, and offers it at once if there is a link.
    ///
    /// Without `hash`, SHA-256 over the sorted names, types and bytes stands for the files.
    ///
    /// # Errors
    /// The agent is unknown, or is connected and does not accept remote config.
    pub(super) fn push(
        &mut self,
        now: WallTime,
        uid: Uid,
        files: BTreeMap<String, AgentConfigFile>,
        hash: Option<OfferHash>,
    ) -> Result<(Pushed, Reaction), Refused> {
        let agent = self
            .agents
            .get_mut(&uid)
            .ok_or(Refused::NoSuchAgent { uid })?;
        if !agent.can(AgentCapabilities::AcceptsRemoteConfig) {
            let what = "accepts remote config";
            return Err(Refused::NotCapable { uid, what });
        }
        let hash = hash.unwrap_or_else(|| hash_of(&files));
        let names: Vec<String> = files.keys().cloned().collect();
        let entries_from = agent.next_number();
        let detail = format!("{} {}", short(&hash), names.join(", "));
        agent.note(now, Kind::Offer, "config pushed", &detail);
        agent.applies.offered(now, &hash, names);
        if let Some(status) = agent.remote_config.clone() {
            // An agent need not repeat what it reported about this very hash.
            let reason: String = status.error_message.chars().take(4096).collect();
            let reported = OfferHash::new(status.last_remote_config_hash.clone());
            if !reported.is_empty() && reported == hash {
                agent.applies.reported(now, &hash, status.status(), &reason);
            }
        }
        let stored = Stored {
            files,
            hash: hash.clone(),
            at: now,
        };
        let offer = offer_of(&stored);
        agent.stored = Some(stored);
        agent.offered_on = agent.link();
        let mut reaction = Reaction {
            send: Vec::new(),
            changes: vec![Change {
                uid,
                entries_from,
                parts: vec![Part::Stored],
            }],
        };
        if let Some(link) = agent.link() {
            let message = ServerToAgent {
                remote_config: Some(offer),
                ..answer_to(uid)
            };
            reaction
                .send
                .push((link, Outgoing::Message(Box::new(message))));
        }
        let sent = !reaction.send.is_empty();
        Ok((Pushed { hash, sent }, reaction))
    }

    /// Sends an agent something else than a config.
    ///
    /// # Errors
    /// The agent is unknown, not connected, or not able to do this.
    pub(super) fn request(
        &mut self,
        now: WallTime,
        uid: Uid,
        request: Request,
    ) -> Result<Reaction, Refused> {
        if let Request::Identify(Some(wanted)) = &request
            && *wanted != uid
            && self.agents.contains_key(wanted)
        {
            return Err(Refused::UidTaken { uid: *wanted });
        }
        let fresh_uid = self.fresh_uid(now);
        let agent = self
            .agents
            .get_mut(&uid)
            .ok_or(Refused::NoSuchAgent { uid })?;
        let link = agent.link().ok_or(Refused::NotConnected { uid })?;
        let can = |bit, what| {
            if AgentCapabilities::is_in(bit, agent.capabilities) {
                Ok(())
            } else {
                Err(Refused::NotCapable { uid, what })
            }
        };
        let mut message = answer_to(uid);
        let (out, text, detail) = match request {
            Request::Restart => {
                let what = "accepts the restart command";
                can(AgentCapabilities::AcceptsRestartCommand, what)?;
                message.command = Some(ServerToAgentCommand {
                    r#type: CommandType::Restart as i32,
                });
                (None, "asked to restart", String::new())
            }
            Request::FullState => {
                message.flags = ServerToAgentFlags::ReportFullState as u64;
                (None, "asked for the full state", String::new())
            }
            Request::Identify(wanted) => {
                let wanted = wanted.unwrap_or(fresh_uid);
                agent.pending_uid = Some(wanted);
                message.agent_identification = Some(AgentIdentification {
                    new_instance_uid: wanted.to_wire(),
                });
                (None, "gave a uid", wanted.to_string())
            }
            Request::Heartbeat { seconds } => {
                let what = "accepts OpAMP connection settings";
                can(AgentCapabilities::AcceptsOpAmpConnectionSettings, what)?;
                message.connection_settings = Some(heartbeat_offer(seconds));
                (None, "offered a heartbeat interval", format!("{seconds} s"))
            }
            Request::Raw(bytes) => {
                let detail = format!("{} bytes", bytes.len());
                (Some(Outgoing::Raw(bytes)), "sent raw bytes", detail)
            }
            Request::Drop => (Some(Outgoing::Close), "dropped the link", String::new()),
        };
        let entries_from = agent.next_number();
        agent.note(now, Kind::Command, text, &detail);
        let out = out.unwrap_or_else(|| Outgoing::Message(Box::new(message)));
        Ok(Reaction {
            send: vec![(link, out)],
            changes: vec![Change {
                uid,
                entries_from,
                parts: Vec::new(),
            }],
        })
    }

    /// A message under a uid that was handed out on this link belongs to the agent that got it.
    fn adopt_pending_uid(&mut self, now: WallTime, link: LinkId, uid: Uid) {
        if self.agents.contains_key(&uid) {
            return;
        }
        let renamed = self
            .agents
            .values()
            .find(|agent| agent.pending_uid == Some(uid) && agent.has_link(link))
            .map(|agent| agent.uid);
        if let Some(mut agent) = renamed.and_then(|old| self.agents.remove(&old)) {
            let before = agent.uid.to_string();
            agent.uid = uid;
            agent.pending_uid = None;
            agent.note(now, Kind::Identity, "took the new uid; before", &before);
            self.agents.insert(uid, agent);
        }
    }

    /// Makes room for one more agent if there is none; says whether there is some now.
    fn make_room(&mut self) -> bool {
        if self.agents.len() < AGENTS_MAX {
            return true;
        }
        let longest_gone = self
            .agents
            .values()
            .filter(|agent| agent.link().is_none())
            .min_by_key(|agent| agent.last_seen)
            .map(|agent| agent.uid);
        longest_gone.is_some_and(|uid| self.agents.remove(&uid).is_some())
    }

    fn fresh_uid(&mut self, now: WallTime) -> Uid {
        let mut random = [0_u8; 10];
        self.random.fill(&mut random);
        Uid::fresh(now, random)
    }
}

fn parts_of(message: &AgentToServer) -> Vec<Part> {
    [
        (Part::Description, message.agent_description.is_some()),
        (Part::Health, message.health.is_some()),
        (Part::EffectiveConfig, message.effective_config.is_some()),
        (Part::RemoteConfig, message.remote_config_status.is_some()),
    ]
    .into_iter()
    .filter_map(|(part, present)| present.then_some(part))
    .collect()
}

/// What every message of this server carries.
fn answer_to(uid: Uid) -> ServerToAgent {
    let capabilities = [
        ServerCapabilities::AcceptsStatus,
        ServerCapabilities::OffersRemoteConfig,
        ServerCapabilities::AcceptsEffectiveConfig,
        ServerCapabilities::OffersConnectionSettings,
    ];
    ServerToAgent {
        instance_uid: uid.to_wire(),
        capabilities: capabilities
            .into_iter()
            .fold(0, |mask, bit| mask | bit.bit()),
        ..ServerToAgent::default()
    }
}

fn refuse(
    link: LinkId,
    message: &AgentToServer,
    kind: ServerErrorResponseType,
    words: &str,
) -> Reaction {
    let details =
        (kind == ServerErrorResponseType::Unavailable).then_some(Details::RetryInfo(RetryInfo {
            retry_after_nanoseconds: NO_ROOM_RETRY_NS,
        }));
    let answer = ServerToAgent {
        instance_uid: message.instance_uid.clone(),
        error_response: Some(ServerErrorResponse {
            r#type: kind as i32,
            error_message: words.to_owned(),
            details,
        }),
        ..ServerToAgent::default()
    };
    Reaction {
        send: vec![(link, Outgoing::Message(Box::new(answer)))],
        changes: Vec::new(),
    }
}

/// The stored config, if the agent reports another hash and was not yet offered it on this link.
fn owed_offer(agent: &Agent, link: LinkId) -> Option<AgentRemoteConfig> {
    let stored = agent.stored.as_ref()?;
    let owed = agent.can(AgentCapabilities::AcceptsRemoteConfig)
        && agent.offered_on != Some(link)
        && agent.reported_hash() != stored.hash.as_bytes();
    owed.then(|| offer_of(stored))
}

fn offer_of(stored: &Stored) -> AgentRemoteConfig {
    AgentRemoteConfig {
        config: Some(AgentConfigMap {
            config_map: stored.files.clone(),
        }),
        config_hash: stored.hash.as_bytes().to_vec(),
    }
}

fn heartbeat_offer(seconds: u64) -> ConnectionSettingsOffers {
    ConnectionSettingsOffers {
        hash: format!("heartbeat-{seconds}").into_bytes(),
        opamp: Some(OpAmpConnectionSettings {
            heartbeat_interval_seconds: seconds,
            ..OpAmpConnectionSettings::default()
        }),
        ..ConnectionSettingsOffers::default()
    }
}

/// The default hash of an offer. To the agent it is opaque like any other.
fn hash_of(files: &BTreeMap<String, AgentConfigFile>) -> OfferHash {
    let layers = files.iter().map(|(name, file)| {
        (
            name.as_str(),
            file.content_type.as_str(),
            file.body.as_slice(),
        )
    });
    OfferHash::from_hex(&RevisionHash::of(layers).to_hex()).unwrap_or_default()
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
