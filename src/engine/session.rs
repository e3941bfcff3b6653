//! The engine and its OpAMP session: what the link brings, what goes out, what the server wants.
//!
//! Promises: everything that changed is reported once the link is up; an offer, a command and a new identity reach
//! the part that decides. Capability bits say what this version can do and the settings allow, nothing more.
//! Must never: touch the child because of the link's fate.

use opamp_client::messages::{AgentCapabilities, AgentRemoteConfig};
use opamp_client::session::{Session, SessionConfig, SessionEvent};

use crate::config;
use crate::engine::message::{AgentEffect, LinkEvent, LossKind, NoteLevel, OfferedFile};
use crate::engine::{Engine, HostRequest, Outcome, report, to_session};
use crate::units::{LinkId, Now, OfferHash};

/// What this version can do, before the settings say what it may.
const BUILT: u64 = AgentCapabilities::ReportsStatus as u64
    | AgentCapabilities::AcceptsRemoteConfig as u64
    | AgentCapabilities::ReportsEffectiveConfig as u64
    | AgentCapabilities::AcceptsRestartCommand as u64
    | AgentCapabilities::ReportsHealth as u64
    | AgentCapabilities::ReportsRemoteConfig as u64
    | AgentCapabilities::ReportsAvailableComponents as u64
    | AgentCapabilities::ReportsHeartbeat as u64;

const ACCEPTS_CONNECTION: u64 = AgentCapabilities::AcceptsOpAmpConnectionSettings as u64;

/// The capability bits of an agent.
pub(super) fn mask(wanted: u64, settings: &config::Agent) -> u64 {
    let mut mask = wanted & BUILT;
    if !settings.apply.accept_remote {
        mask &= !(AgentCapabilities::AcceptsRemoteConfig as u64);
    }
    if cfg!(feature = "connection") && wanted & ACCEPTS_CONNECTION != 0 {
        // Who takes settings says what became of them.
        mask |= ACCEPTS_CONNECTION | AgentCapabilities::ReportsConnectionSettingsStatus as u64;
    }
    if cfg!(feature = "telemetry") && settings.own_telemetry.kinds != 0 {
        mask |= settings.own_telemetry.kinds
            | AgentCapabilities::ReportsConnectionSettingsStatus as u64;
    }
    mask | AgentCapabilities::ReportsStatus as u64
}

/// A session for a server.
pub(super) fn build(uid: [u8; 16], capabilities: u64, server: &config::Server) -> Option<Session> {
    let mut settings = SessionConfig::new(uid, capabilities);
    settings.heartbeat = server.heartbeat;
    // The one error is an all-zero uid, which identity never makes; without a session there is just no link.
    Session::new(settings).ok()
}

impl Engine {
    /// The uid is stored: use it.
    pub(crate) fn confirm_instance_uid(&mut self, now: Now, uid: [u8; 16]) -> Outcome {
        self.instance_uid = uid;
        if let Some(session) = &mut self.session {
            session.set_instance_uid(uid);
        }
        self.note(
            NoteLevel::Info,
            "instance uid changed",
            vec![("service.instance.id", report::uid_text(uid))],
        );
        self.finish(now)
    }

    /// The uid could not be stored: keep the old one, and say why.
    pub(crate) fn refuse_instance_uid(&mut self, now: Now, reason: &str) -> Outcome {
        let uid = self.instance_uid;
        if let Some(session) = &mut self.session {
            session.set_instance_uid(uid);
        }
        self.note(
            NoteLevel::Error,
            "new instance uid refused",
            vec![("error", reason.to_owned())],
        );
        self.finish(now)
    }

    /// Takes another server, when the settings name none.
    pub(crate) fn set_server(&mut self, now: Now, server: config::Server) -> Outcome {
        if self.session.is_none() {
            let mask = mask(self.capabilities, &self.settings);
            self.session = build(self.instance_uid, mask, &server);
            self.effective_stale = true;
        }
        self.take_server(now, Some(server));
        self.finish(now)
    }

    /// Uses the local settings of a server from now on, and what was offered on top of them.
    pub(crate) fn take_server(&mut self, now: Now, server: Option<config::Server>) {
        let changed = self.uplink.server() != server.as_ref();
        let order = self.uplink.set_server(now.mono, server);
        self.part(now, order.as_ref());
        if changed {
            self.rebuild_connection(now);
        }
        self.keep_heartbeat();
    }

    pub(crate) fn on_link(&mut self, now: Now, link: LinkId, event: LinkEvent) {
        if self.is_beside(link) {
            return match event {
                LinkEvent::Up => self.beside_up(now, link),
                LinkEvent::Down(loss) => self.beside_down(now, &loss),
                // Nothing is heard before it is up.
                LinkEvent::Frame(_) => self.count("stale_answers"),
            };
        }
        match event {
            LinkEvent::Up => {
                if self.uplink.up(now.mono, link) {
                    let polled = self.uplink.is_polled();
                    if !polled {
                        self.reached(now, link);
                    }
                    self.publish(now);
                    match &mut self.session {
                        Some(session) if polled => session.handle_polling(to_session(now.mono)),
                        Some(session) => session.handle_connected(to_session(now.mono)),
                        None => {}
                    }
                    self.connection_up(now);
                } else {
                    self.count("stale_answers");
                    self.out.effects.push(AgentEffect::Hangup { link });
                }
            }
            LinkEvent::Frame(bytes) => {
                let first = self.uplink.is_unheard();
                if !self.uplink.heard(link) {
                    return self.count("stale_answers");
                }
                if first && self.uplink.is_polled() {
                    self.reached(now, link);
                }
                if first && self.uplink.uses_token() {
                    self.out.requests.push(HostRequest::TokenAccepted);
                }
                let Some(session) = &mut self.session else {
                    return;
                };
                let read = session.handle_frame(to_session(now.mono), &bytes);
                if read.is_ok() {
                    self.connection_heard();
                }
                if let Err(error) = read {
                    self.count("malformed_frames");
                    self.note(
                        NoteLevel::Warn,
                        "message from the server not understood",
                        vec![("error", error.to_string())],
                    );
                }
            }
            LinkEvent::Down(loss) => {
                let was_up = self.uplink.live() == Some(link);
                let was_connected =
                    was_up && !(self.uplink.is_polled() && self.uplink.is_unheard());
                let before = self.uplink.snapshot(now.mono);
                if !self.uplink.down(now.mono, link, &loss, &mut self.random) {
                    return self.count("stale_answers");
                }
                if let (true, Some(session)) = (was_up, &mut self.session) {
                    if loss.kind == LossKind::TooLarge {
                        session.handle_too_large(to_session(now.mono));
                    }
                    session.handle_disconnected(to_session(now.mono));
                }
                // What settings on trial come to says nothing about the token.
                let tried = self.is_on_candidate();
                if self.uplink.is_rejected() && self.uplink.uses_token() && !tried {
                    let reason = HostRequest::TokenRejected(loss.reason.clone());
                    self.out.requests.push(reason);
                }
                self.connection_down(now, &loss);
                let after = self.uplink.snapshot(now.mono);
                // One line for each change, not for each attempt (F-042).
                let news =
                    was_connected || before.last_error != after.last_error || before.attempt == 0;
                if news && loss.kind != LossKind::Ours {
                    self.note(
                        NoteLevel::Warn,
                        "no link to the server",
                        vec![
                            ("reason", loss.reason),
                            ("attempt", after.attempt.to_string()),
                            (
                                "delay_ms",
                                after.retry_in.unwrap_or_default().as_millis().to_string(),
                            ),
                        ],
                    );
                }
            }
        }
    }

    fn reached(&mut self, now: Now, link: LinkId) {
        self.note_connected(link);
        self.end_fallback(now);
    }

    pub(crate) fn note_connected(&mut self, link: LinkId) {
        let fields = vec![("link", link.0.to_string())];
        self.note(NoteLevel::Info, "connected to the server", fields);
    }

    /// Dials, reports, listens: everything between engine and session, ending with what is to be sent.
    pub(crate) fn serve_link(&mut self, now: Now) {
        self.serve_connection(now);
        let order = self.uplink.handle_timeout(now.mono);
        self.order_link(order.as_ref());
        if self.session.is_none() {
            return;
        }
        self.publish(now);
        let clock = to_session(now.mono);
        if let Some(session) = &mut self.session {
            session.handle_timeout(clock);
        }
        let mut events = Vec::new();
        while let Some(event) = self.session.as_mut().and_then(Session::poll_event) {
            events.push(event);
        }
        self.connection_answered(now, &events);
        if !events.is_empty() {
            for event in events {
                self.on_session(now, event);
            }
            // What the events changed is part of the same answer.
            self.drive(now);
            self.publish(now);
        }
        if self.stopping && self.life.is_down() && !self.goodbye {
            self.goodbye = true;
            if let Some(session) = &mut self.session {
                session.disconnect(clock);
            }
        }
        if let Some(link) = self.uplink.live() {
            while let Some(frame) = self.session.as_mut().and_then(|s| s.poll_transmit(clock)) {
                self.out.effects.push(AgentEffect::Send { link, frame });
            }
        }
        if self.goodbye {
            let order = self.uplink.stop(now.mono);
            self.order_link(order.as_ref());
        }
    }

    fn on_session(&mut self, now: Now, event: SessionEvent) {
        match event {
            SessionEvent::RemoteConfig(offer) => {
                let (hash, files) = unpack(offer);
                self.note(
                    NoteLevel::Info,
                    "config offered",
                    vec![("offer_hash", hash.to_hex().chars().take(12).collect())],
                );
                self.on_offer(now, hash, files);
            }
            SessionEvent::ConnectionSettings(offers) => self.on_connection_offer(now, offers),
            SessionEvent::Restart => {
                if !self.stopping {
                    self.count("restart_commands");
                    self.note(NoteLevel::Info, "restart ordered by the server", vec![]);
                    self.restart_child(now);
                }
            }
            SessionEvent::NewInstanceUid(uid) => {
                self.out.requests.push(HostRequest::NewInstanceUid(uid));
            }
            SessionEvent::Unavailable { retry_after } => {
                let order = self
                    .uplink
                    .unavailable(now.mono, retry_after, &mut self.random);
                self.order_link(order.as_ref());
                if let Some(session) = &mut self.session {
                    session.handle_disconnected(to_session(now.mono));
                }
            }
            SessionEvent::ServerError { message, .. } => {
                self.count("server_errors");
                self.note(
                    NoteLevel::Warn,
                    "the server could not process a report",
                    vec![("error", message)],
                );
            }
            SessionEvent::HeartbeatInterval(interval) => {
                let delay = interval.as_millis().to_string();
                self.note(
                    NoteLevel::Info,
                    "heartbeat interval changed",
                    vec![("delay_ms", delay)],
                );
            }
            SessionEvent::Oversize { field, bytes } => {
                self.note(
                    NoteLevel::Warn,
                    "report too large to send",
                    vec![("field", field.to_owned()), ("bytes", bytes.to_string())],
                );
            }
            SessionEvent::ForeignInstanceUid(_) => {
                self.note(
                    NoteLevel::Debug,
                    "the server addresses us by another instance uid",
                    vec![],
                );
            }
            other => {
                // Offers of kinds that this version does not take, and news that nothing depends on.
                self.count("ignored_session_events");
                let what: String = format!("{other:?}")
                    .chars()
                    .take_while(|c| c.is_alphanumeric())
                    .collect();
                self.note(
                    NoteLevel::Debug,
                    "session event ignored",
                    vec![("event", what)],
                );
            }
        }
    }

    /// A new process for the child, by order.
    pub(crate) fn restart_child(&mut self, now: Now) {
        let runs = self
            .current
            .as_ref()
            .is_some_and(|current| !crate::engine::desired::is_empty(&current.files));
        if runs {
            let orders = self.life.restart(now.mono, &mut self.tickets);
            self.obey(orders);
        }
    }

    /// Tells the session what is true now; it sends what is news.
    pub(crate) fn publish(&mut self, now: Now) {
        if self.session.is_none() {
            return;
        }
        let uid = report::uid_text(self.instance_uid);
        let description = report::description(
            &self.settings.profile.name,
            &self.facts,
            self.child.description.as_ref(),
            &self.settings.description,
            &uid,
        );
        let health = self.health(now);
        let effective = std::mem::take(&mut self.effective_stale).then(|| {
            let files = self
                .current
                .as_ref()
                .map_or(&[][..], |current| &current.files);
            let runs = !crate::engine::desired::is_empty(files);
            match &self.child.effective {
                // The Collector says itself what it made of its layers.
                Some(effective) if runs && self.speaks_for_itself() => report::redacted(effective),
                _ => report::effective_config(files),
            }
        });
        if let Some(effective) = &effective {
            self.show_effective(effective);
        }
        let news = std::mem::take(&mut self.child.components_are_news);
        let components = news.then(|| self.child.components.clone()).flatten();
        let status = self.remote.as_ref().map(report::remote_config_status);
        let Some(session) = &mut self.session else {
            return;
        };
        if let Some(components) = components {
            session.set_available_components(components);
        }
        session.set_description(description);
        session.set_health(health);
        if let Some(effective) = effective {
            session.set_effective_config(effective);
        }
        if let Some(status) = status {
            session.set_remote_config_status(status);
        }
    }

    fn speaks_for_itself(&self) -> bool {
        self.settings.profile.composition == config::Composition::OtelLayers
    }
}

fn unpack(offer: AgentRemoteConfig) -> (OfferHash, Option<Vec<OfferedFile>>) {
    let files = offer.config.map(|map| {
        map.config_map
            .into_iter()
            .map(|(name, file)| OfferedFile {
                name,
                content_type: file.content_type,
                body: file.body,
            })
            .collect()
    });
    (OfferHash::new(offer.config_hash), files)
}
