//! What a server message means, in the protocol's order of precedence.
//!
//! Promises: an error excludes all other fields, an accepted command all but uid and capabilities; each
//! field acts only with the capability bit that governs it. Nothing here sends: it sets what is owed.
//! Must never: obey a command or an identity that is addressed to somebody else.

use std::time::Duration;

use super::event::printable;
use super::{
    HEARTBEAT_MAX, HEARTBEAT_OFFER_MIN, Link, REKEY_HOLD, Refusal, Rekey, ServerErrorKind, Session,
    SessionEvent,
};
use crate::frame::{self, FrameError, FrameRules, HeaderRule};
use crate::messages::{
    AgentCapabilities, AgentIdentification, CommandType, ConnectionSettingsOffers,
    ConnectionSettingsStatus, ConnectionSettingsStatuses, CustomCapabilities, CustomMessage,
    OpAmpConnectionSettings, ServerErrorResponse, ServerErrorResponseType, ServerToAgent,
    ServerToAgentFlags, server_error_response,
};

/// Bytes of a foreign uid that are kept for the log.
const FOREIGN_UID_MAX: usize = 32;

impl Session {
    /// One binary WebSocket message arrived.
    ///
    /// # Errors
    /// [`FrameError`] if it is not a message; it is counted and has no other effect, and the caller may go on.
    pub fn handle_frame(&mut self, now: Duration, frame: &[u8]) -> Result<(), FrameError> {
        self.advance(now);
        let rules = FrameRules {
            max_message: self.frame_max(),
            header: HeaderRule::Tolerant,
        };
        let message = frame::decode(frame, rules).inspect_err(|_| {
            self.stats.malformed = self.stats.malformed.saturating_add(1);
            self.answered_badly();
        })?;
        if matches!(self.link, Link::Down | Link::Left) {
            self.stats.late = self.stats.late.saturating_add(1);
            self.answered();
        } else {
            self.stats.received = self.stats.received.saturating_add(1);
            self.receive(message);
        }
        Ok(())
    }

    fn receive(&mut self, message: ServerToAgent) {
        let foreign = self.is_foreign(&message.instance_uid);
        if let Some(error) = message.error_response {
            return self.receive_error(&error);
        }
        self.answered();
        if self.link == Link::Open {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        self.receive_capabilities(message.capabilities);
        if let Some(command) = message.command {
            if !AgentCapabilities::AcceptsRestartCommand.is_in(self.capabilities) {
                // As the reference client does, the rest is processed.
                self.refuse(Refusal::Command);
            } else if foreign {
                return self.refuse(Refusal::ForeignCommand);
            } else {
                let known = CommandType::try_from(command.r#type);
                return self.emit(match known {
                    Ok(CommandType::Restart) => SessionEvent::Restart,
                    Err(_) => SessionEvent::UnknownCommand(command.r#type),
                });
            }
        }
        // The identity goes first: whatever else this message makes us say is said under the new one.
        if let Some(identification) = message.agent_identification {
            self.receive_identification(&identification, foreign);
        }
        if ServerToAgentFlags::ReportFullState.is_in(message.flags) {
            self.full_state.request();
        }
        if ServerToAgentFlags::ReportAvailableComponents.is_in(message.flags)
            && AgentCapabilities::ReportsAvailableComponents.is_in(self.capabilities)
        {
            self.components.request();
        }
        self.accept(
            message.remote_config,
            AgentCapabilities::AcceptsRemoteConfig,
            SessionEvent::RemoteConfig,
            Refusal::RemoteConfig,
        );
        if let Some(offers) = message.connection_settings {
            self.receive_settings(offers);
        }
        self.accept(
            message.packages_available,
            AgentCapabilities::AcceptsPackages,
            SessionEvent::PackagesAvailable,
            Refusal::Packages,
        );
        if let Some(custom) = message.custom_capabilities {
            self.receive_custom_capabilities(custom);
        }
        if let Some(custom) = message.custom_message {
            self.receive_custom_message(custom);
        }
    }

    /// Whether `uid` names somebody else. Absent is fine, and so is the uid that we had until just now.
    fn is_foreign(&mut self, uid: &[u8]) -> bool {
        let ours = uid.is_empty()
            || uid == self.uid
            || self.previous_uid.is_some_and(|previous| uid == previous)
            || self.rekey.is_some_and(|rekey| uid == rekey.uid);
        if !ours {
            self.stats.foreign_uid = self.stats.foreign_uid.saturating_add(1);
            if self.stats.foreign_uid == 1 {
                let uid = uid.iter().copied().take(FOREIGN_UID_MAX).collect();
                self.emit(SessionEvent::ForeignInstanceUid(uid));
            }
        }
        !ours
    }

    fn receive_error(&mut self, error: &ServerErrorResponse) {
        let kind = match ServerErrorResponseType::try_from(error.r#type) {
            Ok(ServerErrorResponseType::Unavailable) => {
                // What was sent stays unanswered, so the next connection begins with all of it.
                self.take_back();
                if matches!(self.link, Link::Greeting | Link::Open) {
                    self.link = Link::Held;
                }
                let retry_after = error.details.as_ref().map(|details| match details {
                    server_error_response::Details::RetryInfo(info) => {
                        Duration::from_nanos(info.retry_after_nanoseconds)
                    }
                });
                return self.emit(SessionEvent::Unavailable { retry_after });
            }
            Ok(ServerErrorResponseType::BadRequest) => ServerErrorKind::BadRequest,
            Ok(ServerErrorResponseType::Unknown) | Err(_) => ServerErrorKind::Unknown,
        };
        self.answered();
        if self.link == Link::Open {
            // Answered, if badly: repeating the same would not help. A change sends the field whole.
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        let message = printable(&error.error_message);
        self.emit(SessionEvent::ServerError { kind, message });
    }

    fn receive_capabilities(&mut self, mask: u64) {
        // Zero means no change; unknown bits are kept and never looked at.
        if mask != 0 && self.server_capabilities != Some(mask) {
            self.server_capabilities = Some(mask);
            self.emit(SessionEvent::ServerCapabilities(mask));
        }
    }

    fn receive_identification(&mut self, identification: &AgentIdentification, foreign: bool) {
        if foreign {
            return self.refuse(Refusal::ForeignIdentification);
        }
        match <[u8; 16]>::try_from(identification.new_instance_uid.as_slice()) {
            Ok(uid) if uid != [0; 16] => {
                self.uid_wanted = false;
                let known = uid == self.uid || self.rekey.is_some_and(|rekey| rekey.uid == uid);
                if !known {
                    self.rekey = Some(Rekey {
                        uid,
                        hold_until: self.now.saturating_add(REKEY_HOLD),
                    });
                    self.emit(SessionEvent::NewInstanceUid(uid));
                }
            }
            _ => self.refuse(Refusal::Identification),
        }
    }

    /// Applies the heartbeat and passes on the kinds of settings that the agent accepts.
    fn receive_settings(&mut self, mut offers: ConnectionSettingsOffers) {
        let capabilities = self.capabilities;
        let bit = |bit: AgentCapabilities| bit.is_in(capabilities);
        if let Some(opamp) = &offers.opamp
            && !bit(AgentCapabilities::AcceptsOpAmpConnectionSettings)
        {
            // With the bit the interval stands and falls with the rest of the offer.
            self.receive_heartbeat(opamp.heartbeat_interval_seconds);
        }
        let offered = count(&offers);
        // An interval alone is all that was asked for, and it is in force.
        let beat = offered == 1
            && bit(AgentCapabilities::ReportsHeartbeat)
            && offers.opamp.as_ref().is_some_and(|opamp| {
                let rest = OpAmpConnectionSettings {
                    heartbeat_interval_seconds: 0,
                    ..opamp.clone()
                };
                rest == OpAmpConnectionSettings::default()
            });
        offers.opamp = offers
            .opamp
            .filter(|_| bit(AgentCapabilities::AcceptsOpAmpConnectionSettings));
        offers.own_metrics = offers
            .own_metrics
            .filter(|_| bit(AgentCapabilities::ReportsOwnMetrics));
        offers.own_traces = offers
            .own_traces
            .filter(|_| bit(AgentCapabilities::ReportsOwnTraces));
        offers.own_logs = offers
            .own_logs
            .filter(|_| bit(AgentCapabilities::ReportsOwnLogs));
        if !bit(AgentCapabilities::AcceptsOtherConnectionSettings) {
            offers.other_connections.clear();
        }
        let accepted = count(&offers);
        if accepted < offered {
            self.refuse(Refusal::ConnectionSettings);
        }
        // An offer that is empty from the start still has a hash to be reported.
        if accepted > 0 || offered == 0 {
            self.emit(SessionEvent::ConnectionSettings(offers));
        } else {
            // The status has a bit of its own: the server must not wait for one that never comes.
            let (status, error_message) = if beat {
                (ConnectionSettingsStatuses::Applied, String::new())
            } else {
                let reason = "these connection settings are not supported".to_owned();
                (ConnectionSettingsStatuses::Failed, reason)
            };
            self.set_connection_settings_status(ConnectionSettingsStatus {
                last_connection_settings_hash: offers.hash,
                status: status as i32,
                error_message,
            });
        }
    }

    /// Zero cannot be told from "not set" and keeps the interval.
    fn receive_heartbeat(&mut self, seconds: u64) {
        if seconds == 0 || !AgentCapabilities::ReportsHeartbeat.is_in(self.capabilities) {
            return;
        }
        let interval = Duration::from_secs(seconds).clamp(HEARTBEAT_OFFER_MIN, HEARTBEAT_MAX);
        if interval != self.heartbeat {
            self.heartbeat = interval;
            self.emit(SessionEvent::HeartbeatInterval(interval));
        }
    }

    fn receive_custom_capabilities(&mut self, custom: CustomCapabilities) {
        let list = custom.capabilities;
        if self.server_custom.as_ref() != Some(&list) {
            // What the server cannot understand is not sent any more.
            self.custom_messages
                .retain(|message| list.contains(&message.capability));
            self.server_custom = Some(list.clone());
            self.emit(SessionEvent::ServerCustomCapabilities(list));
        }
    }

    fn receive_custom_message(&mut self, custom: CustomMessage) {
        let announced = self
            .fields
            .custom_capabilities
            .get()
            .is_some_and(|own| own.capabilities.contains(&custom.capability));
        if announced {
            self.emit(SessionEvent::CustomMessage(custom));
        } else {
            self.refuse(Refusal::CustomMessage);
        }
    }

    fn accept<T>(
        &mut self,
        offer: Option<T>,
        bit: AgentCapabilities,
        event: fn(T) -> SessionEvent,
        refusal: Refusal,
    ) {
        match offer {
            Some(offer) if bit.is_in(self.capabilities) => self.emit(event(offer)),
            Some(_) => self.refuse(refusal),
            None => {}
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.stats.refused = self.stats.refused.saturating_add(1);
        self.emit(SessionEvent::Refused(refusal));
    }
}

/// How many kinds of settings an offer holds.
fn count(offers: &ConnectionSettingsOffers) -> usize {
    [
        offers.opamp.is_some(),
        offers.own_metrics.is_some(),
        offers.own_traces.is_some(),
        offers.own_logs.is_some(),
        !offers.other_connections.is_empty(),
    ]
    .into_iter()
    .filter(|offered| *offered)
    .count()
}
