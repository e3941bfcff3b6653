//! Connection settings that the server offers: proven by connecting before the link that stands is left.
//!
//! Promises: one conversation at a time; while a candidate is dialled, the link that stands goes on, and it is left
//! when the other server has let us in. Whatever fails, either the settings in force or the candidate are tried next.
//! What outlives a restart is on disk before anything is left for it. The client crate judges offers, this file has
//! the two links.
//! Must never: loosen what the local settings say, touch the child, or put a header or a key into a note.

mod local;

use std::time::Duration;

use opamp_client::messages::ConnectionSettingsOffers;
use opamp_client::session::SessionEvent;
use opamp_client::settings::{
    Clock, Loss, LossKind as SettingsLoss, Offered, SavedSettings, Settings, SettingsConfig,
    SettingsEffect,
};

use self::local::{local, of_link};

use crate::config::Server;
use crate::config::telemetry::Directed;
use crate::engine::disk::SaveId;
use crate::engine::message::{AgentEffect, DiskFault, DiskWork, LinkLoss, LossKind, NoteLevel};
#[cfg(feature = "telemetry")]
use crate::engine::own_telemetry::complete;
use crate::engine::uplink::Place;
use crate::engine::{Engine, from_session, to_session};
use crate::units::{LinkId, Moment, Now};

/// `AcceptsOpAMPConnectionSettings`: asked for by the settings.
const ACCEPTS: u64 = 0x100;
/// The port has its own, shorter limits; this one catches an answer that never comes.
const DIAL_LIMIT: Duration = Duration::from_secs(90);
/// Between two attempts with a candidate: the trial as a whole is bounded, and there are few of them.
const RETRY_MIN_MS: u64 = 500;
const RETRY_SPREAD_MS: u64 = 1000;
/// A server that says it is overloaded is left alone this long when it does not say how long.
const THROTTLED: Duration = Duration::from_secs(30);
/// No server may park a trial longer than this by one answer.
const RETRY_AFTER_CAP: Duration = Duration::from_hours(1);

/// The link that is made beside the one that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    None,
    Waiting { until: Moment },
    Dialling { link: LinkId, give_up_at: Moment },
}

/// Offered connection settings of one agent.
#[derive(Debug)]
pub(crate) struct Connection {
    settings: Settings,
    beside: Beside,
    /// Whether the link that stands, or is dialled, is the candidate's.
    on_candidate: bool,
    /// The server sent a message that has not been looked at yet.
    heard: bool,
    /// What was handed out for saving last: a change of the local settings starts from it.
    saved: Option<SavedSettings>,
    /// How often the local settings changed.
    generation: u64,
    seed: u64,
}

impl Connection {
    fn build(
        server: &Server,
        saved: Option<SavedSettings>,
        (generation, seed): (u64, u64),
        directed: Directed,
        clock: Clock,
    ) -> Option<(Self, Option<String>)> {
        let mut config = SettingsConfig {
            seed,
            ..SettingsConfig::new(local(server)?, server.heartbeat)
        };
        // The Collector's supervisor takes any destination; a receiver in the same cluster rarely has TLS.
        config.policy.allow_plaintext_telemetry |= directed.whole;
        let (settings, unusable) = match Settings::new(config.clone(), saved.as_ref(), clock) {
            Ok(settings) => (settings, None),
            Err(error) => {
                let settings = Settings::new(config, None, clock).ok()?;
                (settings, Some(error.to_string()))
            }
        };
        let connection = Self {
            settings,
            beside: Beside::None,
            on_candidate: false,
            heard: false,
            saved,
            generation,
            seed,
        };
        Some((connection, unusable))
    }

    /// Where the settings lead whose turn it is; none if those are the local ones.
    fn place(&self, server: Option<&Server>) -> Option<Place> {
        let authenticates = server.is_some_and(Server::authenticates);
        let offered = self.settings.offered()?;
        let target = self.settings.target();
        Some(Place {
            endpoint: target.to_string(),
            polled: target.is_polling(),
            authorizes: offered
                .replaces_headers()
                .then(|| authenticates || offered.has_header("authorization")),
        })
    }
}

fn clock(now: Now) -> Clock {
    Clock {
        now: to_session(now.mono),
        unix: Duration::from_millis(now.wall.unix_millis()),
    }
}

impl Engine {
    /// Takes up what an earlier life saved, if the settings accept offers at all.
    pub(super) fn begin_connection(&mut self, now: Now) {
        let saved = self.stored_connection.take();
        #[cfg(feature = "telemetry")]
        let left = self.take_destinations().filter(|_| saved.is_none());
        let seed = self.random.below(u64::MAX);
        self.build_connection(now, saved, (0, seed));
        #[cfg(feature = "telemetry")]
        {
            if let Some(offers) = left {
                self.tell(now, |settings, clock| settings.take_over(clock, *offers));
                self.note_taken_over();
            }
            self.own_telemetry_begins(self.connection.is_some());
        }
    }

    fn build_connection(
        &mut self,
        now: Now,
        saved: Option<SavedSettings>,
        (generation, seed): (u64, u64),
    ) {
        let directed = self.settings.own_telemetry;
        if self.capabilities & ACCEPTS == 0 && directed.kinds == 0 {
            // The settings may come to take offers by a HUP.
            self.stored_connection = saved;
            return;
        }
        let Some(server) = self.uplink.server() else {
            // One may come; what is stored is for it.
            self.stored_connection = saved;
            return;
        };
        let built = Connection::build(server, saved, (generation, seed), directed, clock(now));
        let Some((connection, unusable)) = built else {
            return;
        };
        if let Some(error) = unusable {
            self.note(
                NoteLevel::Error,
                "stored connection settings not usable, the local ones are used",
                vec![("error", error)],
            );
        }
        if let Some(session) = &mut self.session {
            session.set_heartbeat(connection.settings.heartbeat());
        }
        self.connection = Some(Box::new(connection));
        self.tell(now, |_, _| {});
    }

    /// The local settings changed. What was offered goes on top of them as after a restart: it is given up where they
    /// name another endpoint, or do not allow it any more.
    pub(super) fn rebuild_connection(&mut self, now: Now) {
        let before = self.connection.take().map(|connection| *connection);
        if let Some(Connection {
            beside: Beside::Dialling { link, .. },
            ..
        }) = before
        {
            self.out.effects.push(AgentEffect::Hangup { link });
        }
        self.uplink.pause(false);
        self.uplink.lead_to(None);
        #[cfg(feature = "telemetry")]
        self.own.forget_orders();
        let (saved, generation, seed) = match before {
            Some(before) => (
                before.saved,
                before.generation.saturating_add(1),
                before.seed,
            ),
            None => (
                self.stored_connection.take(),
                0,
                self.random.below(u64::MAX),
            ),
        };
        self.build_connection(now, saved, (generation, seed));
    }

    /// A HUP that leaves the server alone must not take back an offered interval.
    pub(super) fn keep_heartbeat(&mut self) {
        if let (Some(connection), Some(session)) = (&self.connection, &mut self.session) {
            session.set_heartbeat(connection.settings.heartbeat());
        }
    }

    /// The server offered settings of classes that we said we take.
    pub(super) fn on_connection_offer(&mut self, now: Now, offers: ConnectionSettingsOffers) {
        if self.stopping || self.connection.is_none() {
            return self.count("ignored_session_events");
        }
        self.note(NoteLevel::Info, "connection settings offered", vec![]);
        #[cfg(feature = "telemetry")]
        let offers = complete(self.settings.own_telemetry, offers);
        self.tell(now, |settings, clock| settings.handle_offer(clock, offers));
        self.follow_own_telemetry(now);
        #[cfg(feature = "telemetry")]
        self.tell_outcomes(now);
    }

    /// Whether an event was one of the link beside.
    pub(super) fn is_beside(&self, link: LinkId) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            matches!(connection.beside, Beside::Dialling { link: wanted, .. } if wanted == link)
        })
    }

    /// The server of the candidate has let us in: the conversation moves there, and the other link is left.
    pub(super) fn beside_up(&mut self, now: Now, link: LinkId) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.beside = Beside::None;
        connection.on_candidate = true;
        let place = connection.place(self.uplink.server());
        let span = to_session(now.mono);
        // The place that is left may be the same one: it must hear the goodbye before it hears us again.
        if let (Some(old), Some(session)) = (self.uplink.live(), &mut self.session) {
            session.disconnect(span);
            while let Some(frame) = session.poll_transmit(span) {
                let effect = AgentEffect::Send { link: old, frame };
                self.out.effects.push(effect);
            }
            session.handle_disconnected(span);
        }
        self.uplink.pause(false);
        self.uplink.lead_to(place);
        let order = self.uplink.replace(now.mono, link);
        self.order_link(order.as_ref());
        let polled = self.uplink.is_polled();
        if !polled {
            self.note_connected(link);
        }
        self.publish(now);
        match &mut self.session {
            Some(session) if polled => session.handle_polling(span),
            Some(session) => session.handle_connected(span),
            None => {}
        }
        self.tell(now, Settings::handle_connected);
    }

    /// The candidate could not be connected with.
    pub(super) fn beside_down(&mut self, now: Now, loss: &LinkLoss) {
        let spread = self.random.below(RETRY_SPREAD_MS);
        let usual = Duration::from_millis(RETRY_MIN_MS.saturating_add(spread));
        let asked = match (loss.kind, loss.retry_after) {
            (_, Some(asked)) => asked.min(RETRY_AFTER_CAP),
            (LossKind::Throttled, None) => THROTTLED,
            _ => Duration::ZERO,
        };
        let retry_in = usual.max(asked);
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.beside = Beside::Waiting {
            until: now.mono.after(retry_in),
        };
        let loss = of_link(loss, retry_in);
        self.tell(now, |settings, clock| settings.handle_lost(clock, &loss));
    }

    /// The main link came up.
    pub(super) fn connection_up(&mut self, now: Now) {
        if self.is_in_turn() {
            self.tell(now, Settings::handle_connected);
        } else {
            self.follow_turn(now);
        }
    }

    /// A message of the server can be read; what it says is known in a moment.
    pub(super) fn connection_heard(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.heard = true;
        }
    }

    /// What the server said, before it is acted upon.
    pub(super) fn connection_answered(&mut self, now: Now, events: &[SessionEvent]) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let heard = std::mem::take(&mut connection.heard);
        if !self.is_in_turn() {
            return;
        }
        let is_error = |event: &SessionEvent| {
            matches!(
                event,
                SessionEvent::ServerError { .. } | SessionEvent::Unavailable { .. }
            )
        };
        if heard && !events.iter().any(is_error) {
            self.tell(now, Settings::handle_answered);
        }
        for event in events {
            match event {
                SessionEvent::ServerError { kind, message } => {
                    self.tell(now, |settings, clock| {
                        settings.handle_server_error(clock, *kind, message);
                    });
                }
                SessionEvent::Unavailable { retry_after } => {
                    let loss = Loss {
                        kind: SettingsLoss::Throttled {
                            retry_in: retry_after.unwrap_or(THROTTLED).min(RETRY_AFTER_CAP),
                        },
                        reason: "the server says it is unavailable".to_owned(),
                    };
                    self.tell(now, |settings, clock| settings.handle_lost(clock, &loss));
                }
                _ => {}
            }
        }
    }

    /// The main link is gone, or could not be made.
    pub(super) fn connection_down(&mut self, now: Now, loss: &LinkLoss) {
        let Some(connection) = &self.connection else {
            return;
        };
        if loss.kind == LossKind::Ours && self.is_in_turn() {
            self.tell(now, Settings::handle_left);
        } else if self.is_in_turn() {
            let first = connection.settings.is_on_trial();
            let retry_in = self.uplink.snapshot(now.mono).retry_in.unwrap_or_default();
            let told = of_link(loss, retry_in);
            self.tell(now, |settings, clock| settings.handle_lost(clock, &told));
            if first && loss.kind != LossKind::Throttled {
                let spread = self.random.below(RETRY_SPREAD_MS);
                let soon = Duration::from_millis(RETRY_MIN_MS.saturating_add(spread));
                self.uplink.hurry(now.mono, soon);
            }
        }
        self.follow_turn(now);
    }

    /// A state is on disk, or is not.
    pub(super) fn connection_saved(&mut self, now: Now, id: SaveId, result: Result<(), DiskFault>) {
        if let Err(fault) = &result {
            self.count("disk_faults");
            let fields = vec![("error", fault.reason.clone())];
            self.note(NoteLevel::Error, "connection settings not stored", fields);
        }
        let current = self.connection.as_ref();
        if current.is_some_and(|connection| connection.generation == id.generation) {
            let result = result.map_err(|fault| fault.reason);
            self.tell(now, |settings, clock| {
                settings.handle_saved(clock, id.number, result);
            });
        }
    }

    /// Dials beside the link that stands, gives up what does not answer, lets the main link lead to the right place.
    pub(super) fn serve_connection(&mut self, now: Now) {
        #[cfg(feature = "telemetry")]
        self.tell_outcomes(now);
        let Some(connection) = &self.connection else {
            return;
        };
        if self.stopping {
            return;
        }
        let due = connection.settings.poll_timeout();
        if due.is_some_and(|at| at <= to_session(now.mono)) {
            self.tell(now, Settings::handle_timeout);
        }
        let Some(connection) = &mut self.connection else {
            return;
        };
        match connection.beside {
            Beside::Waiting { until } if until <= now.mono => {
                let link = self.uplink.number();
                connection.beside = Beside::Dialling {
                    link,
                    give_up_at: now.mono.after(DIAL_LIMIT),
                };
                let place = connection.place(self.uplink.server());
                let authorizes = place.and_then(|place| place.authorizes);
                let authorize = self.uplink.would_use_token(authorizes);
                self.dial(link, authorize);
            }
            Beside::Dialling { link, give_up_at } if give_up_at <= now.mono => {
                self.out.effects.push(AgentEffect::Hangup { link });
                let loss = LinkLoss {
                    kind: LossKind::Network,
                    reason: "no answer to the connection attempt".to_owned(),
                    retry_after: None,
                };
                self.beside_down(now, &loss);
            }
            Beside::None | Beside::Waiting { .. } | Beside::Dialling { .. } => {}
        }
        if self.uplink.is_down()
            && let Some(connection) = &mut self.connection
        {
            connection.on_candidate = connection.settings.is_candidates_turn();
            let place = connection.place(self.uplink.server());
            self.uplink.lead_to(place);
        }
    }

    /// When it wants to be served.
    pub(super) fn connection_due(&self) -> Option<Moment> {
        let connection = self.connection.as_ref().filter(|_| !self.stopping)?;
        let beside = match connection.beside {
            Beside::None => None,
            Beside::Waiting { until } => Some(until),
            Beside::Dialling { give_up_at, .. } => Some(give_up_at),
        };
        let settings = connection.settings.poll_timeout().map(from_session);
        [beside, settings].into_iter().flatten().min()
    }

    /// What goes on top of the local settings when the main link is dialled.
    pub(super) fn offered(&self) -> Option<Box<Offered>> {
        let connection = self.connection.as_ref()?;
        connection.settings.offered().map(Box::new)
    }

    /// Whether the main link is, or would be, one of settings on trial.
    pub(super) fn is_on_candidate(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.on_candidate)
    }

    /// Whose settings the link uses, for people.
    pub(super) fn settings_in_use(&self) -> &'static str {
        match &self.connection {
            Some(connection) if connection.settings.is_on_trial() => "on_trial",
            Some(connection) if connection.settings.offered().is_some() => "offered",
            _ => "local",
        }
    }

    /// Nothing is tried any more.
    pub(super) fn stop_connection(&mut self) {
        if let Some(connection) = &mut self.connection {
            if let Beside::Dialling { link, .. } = connection.beside {
                self.out.effects.push(AgentEffect::Hangup { link });
            }
            connection.beside = Beside::None;
        }
    }

    /// Whether the main link uses the settings that the machine wants to hear of.
    fn is_in_turn(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            connection.on_candidate == connection.settings.is_candidates_turn()
        })
    }

    /// What became of destinations of own telemetry.
    #[cfg(feature = "telemetry")]
    fn tell_outcomes(&mut self, now: Now) {
        for (ticket, result) in self.own.take_outcomes() {
            self.tell(now, |settings, clock| {
                settings.handle_outcome(clock, ticket, result);
            });
        }
    }

    /// Tells the machine something, then does what it wants.
    fn tell(&mut self, now: Now, what: impl FnOnce(&mut Settings, Clock)) {
        if let Some(connection) = &mut self.connection {
            what(&mut connection.settings, clock(now));
        }
        self.carry_out(now);
        self.follow_turn(now);
    }

    fn carry_out(&mut self, now: Now) {
        while let Some(effect) = self
            .connection
            .as_mut()
            .and_then(|connection| connection.settings.poll_effect())
        {
            match effect {
                SettingsEffect::Report(status) => {
                    if let Some(session) = &mut self.session {
                        session.set_connection_settings_status(status);
                    }
                }
                SettingsEffect::Save { id, state } => self.save_connection(id, state),
                SettingsEffect::Leave => {
                    self.leave(now);
                    if let Some(connection) = &mut self.connection {
                        connection.settings.handle_left(clock(now));
                    }
                }
                SettingsEffect::Heartbeat(interval) => {
                    if let Some(session) = &mut self.session {
                        session.set_heartbeat(interval);
                    }
                    let delay = interval.as_millis().to_string();
                    self.note(
                        NoteLevel::Info,
                        "heartbeat interval changed",
                        vec![("delay_ms", delay)],
                    );
                }
                #[cfg(feature = "telemetry")]
                SettingsEffect::Destination {
                    ticket,
                    class,
                    settings,
                } => self.order_destination(now, ticket, class, settings.as_deref()),
                #[cfg(not(feature = "telemetry"))]
                SettingsEffect::Destination { ticket, class, .. } => {
                    // The session passes on no class whose bit is not announced.
                    let reason = format!("{class} is not supported by this version");
                    if let Some(connection) = &mut self.connection {
                        let settings = &mut connection.settings;
                        settings.handle_outcome(clock(now), ticket, Err(reason));
                    }
                }
                SettingsEffect::Accepted => self.accepted(),
                SettingsEffect::Reverted(trouble) => {
                    self.count("connection_settings_failed");
                    self.note(
                        NoteLevel::Warn,
                        "offered connection settings do not work, those before are used",
                        vec![("reason", trouble.to_string())],
                    );
                }
                SettingsEffect::Dropped(refused) => {
                    self.note(
                        NoteLevel::Warn,
                        "stored connection settings given up, the local ones do not allow them",
                        vec![("reason", refused.to_string())],
                    );
                }
                other => {
                    self.count("ignored_session_events");
                    let what = format!("{other:?}");
                    let what = what.split(['(', ' ', '{']).next().unwrap_or_default();
                    let fields = vec![("event", what.to_owned())];
                    self.note(NoteLevel::Debug, "settings effect ignored", fields);
                }
            }
        }
    }

    fn accepted(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.on_candidate = false;
        let endpoint = connection.settings.target().to_string();
        self.count("connection_settings_accepted");
        self.note(
            NoteLevel::Info,
            "offered connection settings work and are used",
            vec![("endpoint", endpoint)],
        );
    }

    fn save_connection(&mut self, number: u64, state: SavedSettings) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.saved = Some(state.clone());
        let id = SaveId {
            generation: connection.generation,
            number,
        };
        self.disk
            .push_connection(id, DiskWork::SaveConnection(state));
    }

    /// Ends the attempt with the candidate. The link of the settings in force stays.
    fn leave(&mut self, now: Now) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        match std::mem::replace(&mut connection.beside, Beside::None) {
            Beside::Dialling { link, .. } => {
                self.out.effects.push(AgentEffect::Hangup { link });
            }
            Beside::Waiting { .. } | Beside::None => {}
        }
        if connection.on_candidate {
            connection.on_candidate = false;
            self.leave_main(now);
        }
    }

    fn leave_main(&mut self, now: Now) {
        let span = to_session(now.mono);
        if let (Some(link), Some(session)) = (self.uplink.live(), &mut self.session) {
            session.disconnect(span);
            while let Some(frame) = session.poll_transmit(span) {
                self.out.effects.push(AgentEffect::Send { link, frame });
            }
        }
        let order = self.uplink.begin_anew(now.mono);
        self.part(now, order.as_ref());
    }

    /// Sees to it that what is tried next is what the machine wants to hear of.
    fn follow_turn(&mut self, now: Now) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if !connection.settings.is_candidates_turn() {
            if let Beside::Dialling { link, .. } = connection.beside {
                self.out.effects.push(AgentEffect::Hangup { link });
            }
            let tried = std::mem::replace(&mut connection.beside, Beside::None) != Beside::None;
            self.uplink.pause(false);
            if tried {
                // The link that stood all the while proves the settings in force.
                self.uplink.hurry(now.mono, Duration::ZERO);
                if self.uplink.live().is_some() {
                    let heard = self.uplink.is_heard();
                    self.tell(now, |settings, clock| {
                        settings.handle_connected(clock);
                        if heard {
                            settings.handle_answered(clock);
                        }
                    });
                }
            }
            return;
        }
        if connection.on_candidate {
            return;
        }
        if self.uplink.live().is_some() {
            if connection.beside == Beside::None {
                connection.beside = Beside::Waiting { until: now.mono };
            }
        } else if self.uplink.is_down() && connection.beside == Beside::None {
            // Nothing stands that could be kept: the main link itself tries the candidate.
            connection.on_candidate = true;
            let place = connection.place(self.uplink.server());
            self.uplink.lead_to(place);
            if connection.settings.is_on_trial() {
                self.uplink.hurry(now.mono, Duration::ZERO);
            }
        }
        let beside = self.connection.as_ref().map(|it| it.beside);
        self.uplink
            .pause(!matches!(beside, None | Some(Beside::None)));
    }
}
