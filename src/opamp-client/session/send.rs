//! What a session says, and when.
//!
//! Promises: one predicate, `next_send_at`, decides both the deadline that the caller sleeps for and whether a
//! message is handed out, so that the two cannot disagree into a busy loop. State is marked as told only for a
//! message that left.
//! Must never: look at what the server sent; `receive.rs` has turned that into state.

use std::time::Duration;

use super::fields::{self, Gate, Report};
use super::{Link, Session, SessionEvent};
use crate::frame;
use crate::messages::{AgentCapabilities, AgentDisconnect, AgentToServer, AgentToServerFlags};

/// The message to build, and what it answers.
#[derive(Debug, Clone, Copy)]
struct Due {
    report: Report,
    components: bool,
}

impl Session {
    /// The next message to send, framed. Handing it out is what counts as sending.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.advance(now);
        if self.next_send_at()? > self.now {
            return None;
        }
        let due = self.due();
        let mut message = self.header();
        self.fields.fill(&mut message, due.report, self.gate());
        if due.components {
            self.fields.fill_components(&mut message, self.gate());
        }
        let leaving = matches!(self.link, Link::Leaving { .. });
        message.agent_disconnect = leaving.then_some(AgentDisconnect {});
        if due.report != Report::Bare {
            message.custom_message = self.custom_messages.front().cloned();
            if self.gate().settings_request() {
                message
                    .connection_settings_request
                    .clone_from(&self.settings_request);
            }
        }
        let taken = fields::Taken::of(&message);
        let custom_message = message.custom_message.clone();
        let bytes = self.shed_and_encode(message)?;
        self.remember(&taken, custom_message);
        self.sent(due, taken);
        Some(bytes)
    }

    fn gate(&self) -> Gate {
        Gate {
            agent: self.capabilities,
            server: self.server_capabilities,
        }
    }

    pub(super) fn greeting(&self) -> Report {
        if self.unanswered > 0 {
            Report::Full
        } else {
            Report::Delta
        }
    }

    /// The earliest time at which something other than a heartbeat may be handed out; zero means at once.
    pub(super) fn owed_at(&self) -> Option<Duration> {
        if self.is_awaiting() && !matches!(self.link, Link::Leaving { .. }) {
            return None;
        }
        match self.link {
            Link::Down | Link::Held | Link::Left => None,
            // Saying goodbye does not wait for a new identity to be stored.
            Link::Leaving { .. } => Some(Duration::ZERO),
            Link::Greeting => Some(self.held_until()),
            Link::Open => {
                let at_once = self.header_changed
                    || !self.custom_messages.is_empty()
                    || (self.settings_request.is_some() && self.gate().settings_request())
                    || self.fields.owed(self.gate());
                [
                    at_once.then_some(Duration::ZERO),
                    self.fields
                        .health_owed(self.gate())
                        .then(|| self.health_pace.next_at()),
                    self.full_state.due_at(self.full_state_min_gap),
                    self.components.due_at(self.full_state_min_gap),
                ]
                .into_iter()
                .flatten()
                .min()
                .map(|at| at.max(self.held_until()))
            }
        }
    }

    /// Counts from the last message of any kind; silent without the bit and while not connected
    /// . Polls need no bit.
    fn heartbeat_at(&self) -> Option<Duration> {
        let beats = !self.heartbeat.is_zero()
            && AgentCapabilities::ReportsHeartbeat.is_in(self.capabilities);
        let interval = match self.exchange {
            Some(_) => (!self.is_awaiting()).then(|| self.poll_interval()),
            None => beats.then_some(self.heartbeat),
        };
        interval
            .filter(|_| self.link == Link::Open)
            .map(|interval| {
                self.last_sent
                    .saturating_add(interval)
                    .max(self.held_until())
            })
    }

    pub(super) fn next_send_at(&self) -> Option<Duration> {
        [self.owed_at(), self.heartbeat_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn held_until(&self) -> Duration {
        let rekey = self.rekey.map_or(Duration::ZERO, |rekey| rekey.hold_until);
        rekey.max(self.not_before())
    }

    /// What the message that is sent now answers.
    fn due(&self) -> Due {
        let passed = |at: Option<Duration>| at.is_some_and(|at| at <= self.now);
        let full = passed(self.full_state.due_at(self.full_state_min_gap));
        let report = match self.link {
            Link::Leaving { last } => last,
            _ if full => Report::Full,
            Link::Greeting => self.greeting(),
            _ => Report::Delta,
        };
        let components = passed(self.components.due_at(self.full_state_min_gap));
        Due {
            report,
            components: components && report != Report::Bare,
        }
    }

    fn header(&self) -> AgentToServer {
        let flags = if self.uid_wanted {
            AgentToServerFlags::RequestInstanceUid
        } else {
            AgentToServerFlags::Unspecified
        };
        AgentToServer {
            instance_uid: self.uid.to_vec(),
            sequence_num: self.sequence_num,
            capabilities: self.capabilities,
            flags: u64::from((flags as i32).unsigned_abs()),
            ..AgentToServer::default()
        }
    }

    /// Encodes within the limit. What makes the message too large is left out, counted and told: the
    /// rest must still reach the server, the first report above all.
    fn shed_and_encode(&mut self, mut message: AgentToServer) -> Option<Vec<u8>> {
        loop {
            if let Ok(bytes) = frame::encode(&message, self.frame_max()) {
                self.largest = fields::largest(&message);
                return Some(bytes);
            }
            let (field, bytes) = fields::shed_largest(&mut message)?;
            self.stats.dropped_oversize = self.stats.dropped_oversize.saturating_add(1);
            self.emit(SessionEvent::Oversize { field, bytes });
        }
    }

    /// A message was handed out.
    fn sent(&mut self, due: Due, taken: fields::Taken) {
        if due.report == Report::Full {
            self.full_state.answered(self.now);
            self.stats.full_states = self.stats.full_states.saturating_add(1);
        }
        if due.components {
            self.components.answered(self.now);
        }
        if taken.health {
            self.health_pace.took(self.now);
        }
        if taken.settings_request {
            self.settings_request = None;
        }
        if taken.custom_message {
            self.custom_messages.pop_front();
            self.stats.custom_messages_sent = self.stats.custom_messages_sent.saturating_add(1);
        }
        self.fields.sent(&taken);
        self.header_changed = false;
        self.sequence_num = self.sequence_num.wrapping_add(1);
        self.stats.sent = self.stats.sent.saturating_add(1);
        self.last_sent = self.now;
        // A greeting repeats whatever was lost before it.
        let before = if self.link == Link::Greeting {
            0
        } else {
            self.unanswered
        };
        self.unanswered = before.saturating_add(1);
        self.link = match self.link {
            Link::Leaving { .. } => Link::Left,
            _ => Link::Open,
        };
    }
}
