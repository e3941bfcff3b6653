//! One run of the crate's `Client` against the scripted server, and what has to hold in every one of them.
//!
//! Promises: every wait has a deadline; [`Run::finish`] ends the client and checks the invariants:
//! 1. sequence numbers rise by one over all connections, from zero, unless the scenario itself threw
//!    messages away unread;
//! 2. there is one connection at a time, and none that nobody asked for;
//! 3. every message carries identity and capabilities, and both readings of its bytes agree;
//! 4. the last message says goodbye, and the close code is 1000;
//! 5. whatever the server repeats, a report has a cause: a change, a question, a connection.

use std::collections::VecDeque;
use std::time::Duration;

use opamp_client::messages::{
    AGENT_CAPABILITIES_ALL, AgentDescription, AgentToServer, ComponentHealth, KeyValue,
    ServerToAgent,
};
use opamp_client::session::SessionEvent;
use opamp_client::transport::{Change, Client, ClientConfig, ClientEvent, ClientHandle};
use opamp_client::{BackoffConfig, SessionConfig};
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server::{Heard, Server, Wire};
use crate::wire;

pub(crate) const UID: [u8; 16] = [7; 16];

/// Far longer than anything here takes; a run that hangs fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// Every transport there is.
pub(crate) const WIRES: [Wire; 2] = [Wire::WebSocket, Wire::Http];

/// A client and its server.
pub(crate) struct Run {
    pub(crate) wire: Wire,
    pub(crate) server: Server,
    pub(crate) handle: ClientHandle,
    tasks: JoinSet<()>,
    /// What justifies a report beside a new connection.
    causes: usize,
    /// Connections that ended otherwise than by goodbye.
    breaks: usize,
    fences: usize,
    /// Reports that were answered with what [`Run::say`] had to say.
    unread: VecDeque<Heard>,
    /// How many messages had been heard when some were lost on their way, as the scenario wanted it.
    lost: Vec<usize>,
}

/// Plays a scenario over every transport.
pub(crate) async fn over_each(scenario: impl AsyncFn(Run)) {
    for wire in WIRES {
        scenario(Run::start(wire, |_| {}).await).await;
    }
}

/// Waits, but not for ever.
pub(crate) async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let output = timeout(DEADLINE, future).await;
    output.unwrap_or_else(|elapsed| panic!("waited too long for {what}: {elapsed}"))
}

impl Run {
    /// All capabilities, no heartbeat but polls, short delays; `adjust` may change any of it.
    pub(crate) async fn start(wire: Wire, adjust: impl FnOnce(&mut ClientConfig)) -> Self {
        let server = Server::start(wire).await;
        Self::against(server, adjust)
    }

    /// As [`Run::start`], against a server that exists already.
    pub(crate) fn against(server: Server, adjust: impl FnOnce(&mut ClientConfig)) -> Self {
        // Polls are how a server without connection gets to say anything.
        let heartbeat = match server.wire {
            Wire::WebSocket => Duration::ZERO,
            Wire::Http => Duration::from_millis(20),
        };
        let session = SessionConfig {
            heartbeat,
            full_state_min_gap: Duration::from_millis(20),
            ..SessionConfig::new(UID, AGENT_CAPABILITIES_ALL)
        };
        let mut config = ClientConfig {
            backoff: BackoffConfig {
                initial: Duration::from_millis(2),
                max: Duration::from_millis(20),
                ..BackoffConfig::default()
            },
            ..ClientConfig::new(session, server.url().parse().unwrap(), 1)
        };
        adjust(&mut config);
        let (client, handle) = Client::new(config).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run());
        Self {
            wire: server.wire,
            server,
            handle,
            tasks,
            causes: 0,
            breaks: 0,
            fences: 0,
            unread: VecDeque::new(),
            lost: Vec::new(),
        }
    }

    /// Changes the client's state.
    pub(crate) async fn set(&mut self, change: Change) {
        self.causes += 1;
        in_time("a change to be taken", self.handle.set(change))
            .await
            .unwrap();
    }

    /// The next message that reports anything; polls and heartbeats are answered and passed over.
    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            let heard = self.hear_any().await;
            if !heard.report.told().is_empty() {
                return heard;
            }
            self.ack().await;
        }
    }

    /// The next message, whatever is in it.
    pub(crate) async fn hear_any(&mut self) -> Heard {
        if let Some(heard) = self.unread.pop_front() {
            return heard;
        }
        if self.server.owes() {
            self.ack().await;
        }
        let heard = in_time("a message", async {
            loop {
                if let Some(heard) = self.server.hear().await {
                    return heard;
                }
            }
        });
        heard.await
    }

    /// Hears a message and acknowledges it.
    pub(crate) async fn exchange(&mut self) -> Heard {
        let heard = self.hear().await;
        self.ack().await;
        heard
    }

    /// Hears a message, whatever is in it, and acknowledges it.
    pub(crate) async fn exchange_any(&mut self) -> Heard {
        let heard = self.hear_any().await;
        self.ack().await;
        heard
    }

    /// Ends an idle connection in order: a close frame, or the end of TCP between two exchanges.
    pub(crate) async fn end(&mut self) {
        match self.wire {
            Wire::WebSocket => self.end_with(1001).await,
            Wire::Http => self.server.cut(),
        }
    }

    /// Ends a WebSocket with a code.
    pub(crate) async fn end_with(&mut self, code: u16) {
        in_time("the client's close", self.server.close(code, "as scripted")).await;
    }

    /// Says that the last message arrived, and nothing else.
    pub(crate) async fn ack(&mut self) {
        if self.wire == Wire::Http && !self.server.owes() {
            // It was answered with something else.
            return;
        }
        let ack = ack().encode_to_vec();
        self.server.say(&ack).await;
    }

    /// Sends a message of the server: at once, or as the answer to the next poll.
    pub(crate) async fn say(&mut self, message: &ServerToAgent) {
        self.say_bytes(&message.encode_to_vec()).await;
    }

    /// As [`Run::say`], with any bytes in the place of the message.
    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) {
        // Whatever it is, it may be answered with one report.
        self.causes += 1;
        if self.wire == Wire::Http && !self.server.owes() {
            let poll = in_time("a poll", self.server.hear()).await.expect("a poll");
            if !poll.report.told().is_empty() {
                self.unread.push_back(poll);
            }
        }
        self.server.say(bytes).await;
    }

    /// Answers the last message with something that the client is seen to have understood: what it says from now on it
    /// says after that answer.
    pub(crate) async fn settle(&mut self) {
        self.fences += 1;
        let hash = format!("settle {}", self.fences).into_bytes();
        self.say(&crate::orders::offer(&hash, Vec::new())).await;
        let seen = |event| match event {
            SessionEvent::RemoteConfig(offer) => (offer.config_hash == hash).then_some(()),
            _ => None,
        };
        self.told("what was said", seen).await;
    }

    /// Breaks the connection without a word, and an exchange without an answer.
    pub(crate) fn cut(&mut self) {
        self.breaks += 1;
        self.server.cut();
    }

    /// As [`Run::cut`], and waits until the client has noticed: before that it may send what nobody hears.
    pub(crate) async fn cut_and_see(&mut self) {
        self.cut();
        // Over HTTP nothing is sent before the last request was answered.
        if self.wire == Wire::WebSocket {
            self.retry_in().await;
        }
    }

    /// Notes that messages may be on their way here that nobody will read.
    pub(crate) fn lose(&mut self) {
        self.lost.push(self.server.log.len());
    }

    /// Answers the next attempt, or the request that waits, with a status.
    pub(crate) async fn refuse(&mut self, status: u16, headers: &str) {
        self.breaks += 1;
        in_time("an attempt", self.server.refuse(status, headers)).await;
    }

    /// Changes the description, and shows that nothing was said since the last message heard.
    pub(crate) async fn fence(&mut self) -> AgentToServer {
        self.fences += 1;
        let fence = description(&format!("fence {}", self.fences));
        let before = self.server.log.len();
        self.set(Change::Description(fence.clone())).await;
        let heard = self.exchange().await;
        let said = &self.server.log[before..];
        let told: Vec<_> = said
            .iter()
            .map(|one| one.report.told())
            .filter(|told| !told.is_empty())
            .collect();
        assert_eq!(told, [[wire::DESCRIPTION]], "over {:?}", self.wire);
        assert_eq!(heard.message.agent_description, Some(fence));
        heard.message
    }

    /// The next event that `pick` wants; others are passed over.
    pub(crate) async fn event<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(ClientEvent) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                let event = self.handle.next_event().await.expect("an event");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        in_time(what, found).await
    }

    /// The next event of the session that `pick` wants.
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

    /// How long the client waits after the loss or the failure that comes next.
    pub(crate) async fn retry_in(&mut self) -> Duration {
        self.event(
            "the end of a connection or of an attempt",
            |event| match event {
                ClientEvent::Disconnected { retry_in, .. }
                | ClientEvent::DialFailed { retry_in, .. } => Some(retry_in),
                _ => None,
            },
        )
        .await
    }

    /// Ends the client and checks what holds in every run.
    pub(crate) async fn finish(mut self) {
        self.handle.set(Change::Stop).await.unwrap();
        loop {
            if self.server.owes() {
                self.ack().await;
            }
            match in_time("goodbye", self.server.hear()).await {
                Some(heard) if heard.report.has(wire::GOODBYE) && self.wire == Wire::Http => {
                    self.ack().await;
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        let last = self.server.log.last().expect("a message");
        assert!(last.report.has(wire::GOODBYE), "{last:?}");
        if self.wire == Wire::WebSocket {
            assert_eq!(self.server.close_code, Some(1000));
        }
        self.check().await;
    }

    /// As [`Run::finish`], for a client that has ended its connection already.
    pub(crate) async fn finish_later(mut self) {
        while in_time("the end", self.server.hear_here()).await.is_some() {}
        let last = self.server.log.last().expect("a message");
        assert!(last.report.has(wire::GOODBYE), "{last:?}");
        self.check().await;
    }

    /// As [`Run::finish`], for a client that has no connection to say goodbye on.
    pub(crate) async fn finish_apart(self) {
        self.handle.set(Change::Stop).await.unwrap();
        self.check().await;
    }

    async fn check(mut self) {
        in_time("the client to end", self.tasks.join_next())
            .await
            .unwrap()
            .unwrap();
        let Server {
            log,
            violations,
            untaken,
            ..
        } = &self.server;
        assert_eq!(*violations, [""; 0], "over {:?}", self.wire);
        assert_eq!(
            self.server.knocks().await,
            0,
            "connections that nobody asked for"
        );
        let mut number = 0;
        for (index, heard) in log.iter().enumerate() {
            let AgentToServer {
                instance_uid,
                sequence_num,
                capabilities,
                ..
            } = &heard.message;
            if self.lost.contains(&index) {
                number = number.max(*sequence_num);
            }
            assert_eq!(
                *sequence_num, number,
                "sequence numbers over {:?}",
                self.wire
            );
            // A request that was not taken is made again under its number.
            number += u64::from(!untaken.contains(&index));
            assert_eq!(heard.report.number(wire::SEQUENCE), *sequence_num);
            assert_eq!(heard.report.bytes(wire::UID), *instance_uid);
            assert_eq!(instance_uid.len(), 16);
            assert_eq!(heard.report.number(wire::CAPABILITIES), *capabilities);
            assert_eq!(capabilities & 1, 1, "ReportsStatus is always set");
        }
        let reports = log
            .iter()
            .filter(|heard| !heard.report.told().is_empty())
            .count();
        let links = match self.wire {
            Wire::WebSocket => self.server.connections,
            Wire::Http => self.breaks + 1,
        };
        // A greeting and a goodbye for each connection.
        let allowed = self.causes + 2 * links;
        assert!(
            reports <= allowed,
            "{reports} reports for {allowed} causes over {:?}",
            self.wire
        );
    }
}

/// A plain acknowledgement.
pub(crate) fn ack() -> ServerToAgent {
    ServerToAgent {
        instance_uid: UID.to_vec(),
        ..ServerToAgent::default()
    }
}

pub(crate) fn description(name: &str) -> AgentDescription {
    AgentDescription {
        identifying_attributes: vec![KeyValue::text("service.name", name)],
        ..AgentDescription::default()
    }
}

pub(crate) fn health(status: &str) -> ComponentHealth {
    ComponentHealth {
        healthy: true,
        status: status.to_owned(),
        ..ComponentHealth::default()
    }
}
