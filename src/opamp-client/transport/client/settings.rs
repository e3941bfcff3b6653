//! What a client does with offered connection settings: the state machine decides, this carries out.
//!
//! Promises: an offer is answered, saved by the embedder, tried over a connection of its own after the old one is
//! closed, and kept or undone, without the embedder's doing (R-147…R-156). There is one connection at any time
//! (R-276). Must never: judge an offer; that is [`crate::settings`].

use std::time::Duration;

use tokio::time::Instant;

use super::run::Outcome;
use super::{Client, ClientEvent};
use crate::session::SessionEvent;
use crate::settings::{
    CertificateRequest, Clock, Loss, LossKind, SavedSettings, Settings, SettingsConfig,
    SettingsEffect,
};
use crate::transport::pump::ClosedClass;
use crate::transport::{DialClass, Target};

/// How a client accepts connection settings. Its agent's capability bits say which. An embedder that stores nothing
/// says so by [`crate::settings::Policy::can_save`]: an offer is not tried before it is saved.
///
/// ```
/// use std::time::Duration;
/// use opamp_client::messages::AgentCapabilities;
/// use opamp_client::session::SessionConfig;
/// use opamp_client::settings::{SettingsConfig, SettingsEffect};
/// use opamp_client::transport::{
///     Change, Client, ClientConfig, ClientEvent, ClientHandle, SettingsAnswer, SettingsStart,
/// };
///
/// let bits = AgentCapabilities::AcceptsOpAmpConnectionSettings.bit()
///     | AgentCapabilities::ReportsConnectionSettingsStatus.bit();
/// let target: opamp_client::transport::Target = "wss://fleet.example".parse()?;
/// let start = SettingsStart {
///     config: SettingsConfig::new(target.clone(), Duration::from_secs(30)),
///     saved: None, // what the last `Save` brought, if there was one
///     unix: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?,
/// };
/// let (client, handle) = Client::new(ClientConfig {
///     settings: Some(start),
///     ..ClientConfig::new(SessionConfig::new([7; 16], bits), target, 1)
/// })?;
///
/// async fn embed(mut handle: ClientHandle) {
///     while let Some(event) = handle.next_event().await {
///         if let ClientEvent::Settings(SettingsEffect::Save { id, state }) = event {
///             // Write `state.0` durably, readable by nobody else, and say how that went.
///             let result = Ok(());
///             _ = handle.set(Change::Settings(SettingsAnswer::Saved { id, result })).await;
///         }
///     }
/// }
/// # _ = (client.run(), embed(handle));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SettingsStart {
    /// Policy and limits. Local settings and heartbeat interval are those of the client.
    pub config: SettingsConfig,
    /// What the last [`SettingsEffect::Save`] brought that was stored.
    pub saved: Option<SavedSettings>,
    /// The wall clock now, as a span since 1970-01-01 UTC: certificates have dates.
    pub unix: Duration,
}

/// What the embedder answers to a [`SettingsEffect`].
#[derive(Debug)]
#[non_exhaustive]
pub enum SettingsAnswer {
    /// To [`SettingsEffect::Save`].
    Saved {
        /// As it came.
        id: u64,
        /// Or why not, for the server and for people.
        result: Result<(), String>,
    },
    /// To [`SettingsEffect::Destination`].
    Outcome {
        /// As it came.
        ticket: u64,
        /// Or why not, for the server and for people.
        result: Result<(), String>,
    },
    /// To [`SettingsEffect::CertificateDue`], or at any time: ask the server for a certificate. One that cannot be
    /// asked for is told as [`ClientEvent::RequestRefused`].
    Request(CertificateRequest),
}

/// The state machine and the wall clock at the client's start.
#[derive(Debug)]
pub(super) struct Accepting {
    settings: Box<Settings>,
    unix: Duration,
}

impl Client {
    /// Begins to accept connection settings.
    pub(super) fn accept_settings(&mut self, start: SettingsStart) {
        let SettingsStart {
            mut config,
            saved,
            unix,
        } = start;
        config.base = self.target.clone();
        config.heartbeat = self.session.heartbeat();
        let clock = Clock {
            now: Duration::ZERO,
            unix,
        };
        let built = Settings::new(config.clone(), saved.as_ref(), clock).or_else(|error| {
            self.tell(ClientEvent::SavedUnusable(error));
            Settings::new(config, None, clock)
        });
        if let Ok(settings) = built {
            self.session.set_heartbeat(settings.heartbeat());
            let settings = Box::new(settings);
            self.accepting = Some(Accepting { settings, unix });
            self.carry_out();
        }
    }

    /// Tells the state machine something, then does what it wants.
    fn settings(&mut self, tell: impl FnOnce(&mut Settings, Clock)) {
        let now = self.now();
        if let Some(accepting) = &mut self.accepting {
            let clock = Clock {
                now,
                unix: accepting.unix.saturating_add(now),
            };
            tell(&mut accepting.settings, clock);
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self
            .accepting
            .as_mut()
            .and_then(|accepting| accepting.settings.poll_effect())
        {
            match effect {
                SettingsEffect::Report(status) => {
                    self.session.set_connection_settings_status(status);
                }
                SettingsEffect::Leave => self.moving = true,
                SettingsEffect::Heartbeat(interval) => self.session.set_heartbeat(interval),
                SettingsEffect::Request(request) => {
                    self.session.request_connection_settings(request);
                }
                other => self.tell(ClientEvent::Settings(other)),
            }
        }
    }

    /// The old connection or attempt is gone; the next goes where the settings say.
    pub(super) fn settings_left(&mut self) {
        self.settings(Settings::handle_left);
    }

    /// Where the next attempt goes to.
    pub(super) fn next_target(&mut self) -> Target {
        if let Some(accepting) = &self.accepting {
            self.target = accepting.settings.target().clone();
        }
        self.target.clone()
    }

    /// The embedder's own settings changed: what was offered stays on top of them.
    pub(super) fn settings_base(&mut self, base: Target) -> Target {
        let Some(accepting) = &mut self.accepting else {
            return base;
        };
        let target = match accepting.settings.set_base(base) {
            Ok(()) => accepting.settings.target().clone(),
            Err(refused) => {
                self.tell(ClientEvent::Settings(SettingsEffect::Dropped(refused)));
                self.target.clone()
            }
        };
        self.carry_out();
        target
    }

    pub(super) fn settings_connected(&mut self) {
        self.settings(Settings::handle_connected);
    }

    /// One message of the server, as the events that it became; what is left is for the embedder.
    pub(super) fn settings_heard(&mut self, events: Vec<SessionEvent>) -> Vec<SessionEvent> {
        if self.accepting.is_none() {
            return events;
        }
        let is_error = |event: &SessionEvent| {
            matches!(
                event,
                SessionEvent::ServerError { .. } | SessionEvent::Unavailable { .. }
            )
        };
        if !events.iter().any(is_error) {
            self.settings(Settings::handle_answered);
        }
        if let Some(mask) = self.session.server_capabilities() {
            self.settings(|settings, clock| settings.handle_server_capabilities(clock, mask));
        }
        let mut rest = Vec::with_capacity(events.len());
        for event in events {
            match event {
                SessionEvent::ConnectionSettings(offers) => {
                    self.settings(|settings, clock| settings.handle_offer(clock, offers));
                }
                SessionEvent::ServerError { kind, message } => {
                    self.settings(|settings, clock| {
                        settings.handle_server_error(clock, kind, &message);
                    });
                    rest.push(SessionEvent::ServerError { kind, message });
                }
                other => rest.push(other),
            }
        }
        rest
    }

    /// What an attempt that was not ended on purpose says about the settings; the delay before the next one.
    pub(super) fn settings_lost(&mut self, outcome: &Outcome, retry_in: Duration) -> Duration {
        let on_trial = self.is_on_trial();
        let loss = loss(outcome, retry_in);
        self.settings(|settings, clock| settings.handle_lost(clock, &loss));
        let gap = if on_trial && !self.is_on_trial() {
            // Back to where it worked, without the delay that the failed ones earned.
            self.places.move_on()
        } else {
            retry_in
        };
        let next = self.next_target();
        gap.max(self.places.held(&next))
    }

    /// The place that is next is to be left alone for so long: that is no fault of settings on trial.
    pub(super) fn settings_held(&mut self, retry_in: Duration) {
        let loss = Loss {
            kind: LossKind::Throttled { retry_in },
            reason: "server has asked to wait".to_owned(),
        };
        self.settings(|settings, clock| settings.handle_lost(clock, &loss));
    }

    fn is_on_trial(&self) -> bool {
        self.accepting
            .as_ref()
            .is_some_and(|accepting| accepting.settings.is_on_trial())
    }

    pub(super) fn settings_answer(&mut self, answer: SettingsAnswer) {
        match answer {
            SettingsAnswer::Saved { id, result } => {
                self.settings(|settings, clock| settings.handle_saved(clock, id, result));
            }
            SettingsAnswer::Outcome { ticket, result } => {
                self.settings(|settings, clock| settings.handle_outcome(clock, ticket, result));
            }
            SettingsAnswer::Request(request) => {
                let mut refused = None;
                self.settings(|settings, clock| {
                    refused = settings.request_certificate(clock, request).err();
                });
                if let Some(error) = refused {
                    self.tell(ClientEvent::RequestRefused(error));
                }
            }
        }
    }

    /// When the settings want to be woken.
    pub(super) fn settings_due(&self) -> Option<Instant> {
        let due = self.accepting.as_ref()?.settings.poll_timeout()?;
        self.start.checked_add(due)
    }

    pub(super) fn settings_timeout(&mut self) {
        self.settings(Settings::handle_timeout);
    }
}

fn loss(outcome: &Outcome, retry_in: Duration) -> Loss {
    let (kind, reason) = match outcome {
        Outcome::NotConnected(error) => {
            let kind = match error.class() {
                DialClass::Throttled => LossKind::Throttled { retry_in },
                DialClass::Rejected => LossKind::Rejected,
                DialClass::Settings => LossKind::Settings,
                _ => LossKind::Lost,
            };
            (kind, chain(error))
        }
        Outcome::Ended { closed, life } => {
            let kind = match closed.class() {
                _ if life.unavailable => LossKind::Throttled { retry_in },
                ClosedClass::Throttled => LossKind::Throttled { retry_in },
                ClosedClass::Rejected => LossKind::Rejected,
                _ => LossKind::Lost,
            };
            let reason = format!(
                "connection ended with code {}: {}",
                closed.code, closed.reason
            );
            (kind, reason)
        }
    };
    Loss { kind, reason }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
