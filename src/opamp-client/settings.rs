//! Connection settings that a server offers: checked, tried by connecting, kept or undone.
//!
//! Promises: owns no socket, clock, disk or randomness. The caller brings offers, the fate of connections, answers to
//! effects and the time; it takes effects and the next deadline, and connects with [`Settings::target`].
//!
//! Invariants:
//! 1. What is in force was proven by a connection, or is local; a candidate is saved before the old connection is left
//!    (R-147, R-148), and until it is proven nothing of the old settings is given up (R-152, R-153, R-155).
//! 2. An offer loosens nothing that [`Policy`] does not allow (R-165, R-168, R-300).
//! 3. Whatever fails, one of the settings that are known is tried next, for ever (R-156).
//! 4. One offer is carried out at a time and has one status; the same offer is carried out once (R-138, R-142).
//!
//! Must never: put a header, a key or a body into a reason or into `Debug` (R-301).
//!
//! ```
//! use std::time::Duration;
//! use opamp_client::messages::{ConnectionSettingsOffers, OpAmpConnectionSettings};
//! use opamp_client::settings::{Clock, Settings, SettingsConfig, SettingsEffect};
//!
//! let base = "wss://fleet.example/v1/opamp".parse()?;
//! let mut settings = Settings::new(SettingsConfig::new(base, Duration::from_secs(30)), None, Clock::default())?;
//! let offer = ConnectionSettingsOffers {
//!     hash: b"1".to_vec(),
//!     opamp: Some(OpAmpConnectionSettings {
//!         destination_endpoint: "wss://other.example/v1/opamp".into(),
//!         ..Default::default()
//!     }),
//!     ..Default::default()
//! };
//! let clock = Clock::default();
//! settings.handle_offer(clock, offer);
//! while let Some(effect) = settings.poll_effect() {
//!     match effect {
//!         // Tell the server: APPLYING now, APPLIED or FAILED later.
//!         SettingsEffect::Report(_status) => {}
//!         // Store the bytes durably, then say so.
//!         SettingsEffect::Save { id, state: _ } => settings.handle_saved(clock, id, Ok(())),
//!         // Say goodbye, close, say so, and connect with what `target` gives then.
//!         SettingsEffect::Leave => settings.handle_left(clock),
//!         _ => {}
//!     }
//! }
//! assert_eq!(settings.target().to_string(), "wss://other.example/v1/opamp");
//! // The server there answers: the new settings stay.
//! settings.handle_connected(clock);
//! settings.handle_answered(clock);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "csr")]
pub mod csr;
mod effect;
mod offer;
mod offered;
mod pair;
mod policy;
mod request;
mod resolve;
mod restore;
mod saved;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

pub use effect::{Class, Clock, Loss, LossKind, SettingsEffect, Trouble};
pub use offered::Offered;
pub use pair::CertificateFacts;
pub use policy::{Policy, Refused};
pub use request::{CertificateRequest, RequestError};
pub use resolve::Destination;
pub use saved::{SavedError, SavedSettings};
pub use trial::TrialLimits;

use crate::messages::{
    ConnectionSettingsOffers, ConnectionSettingsStatus, ConnectionSettingsStatuses,
};
use crate::session::{HEARTBEAT_OFFER_MIN, ServerErrorKind, printable};
use crate::transport::Target;
use offer::Work;
use resolve::Scope;
use saved::State;
use trial::{Phase, Side};

/// Offers that wait while one is carried out. When more come, the oldest are dropped, because the newest is what the
/// server wants now: the hash of a dropped one is never reported, so that what is missed is offered again.
const OFFERS_MAX: usize = 8;

/// Bytes of all of them; one alone may have more, as much as a message can bring.
const OFFERS_BYTES_MAX: usize = 1024 * 1024;

/// Refusals in a row after which the local settings get another chance (R-190).
const REJECTIONS_MAX: u32 = 3;

/// The longest sleep before a certificate's age is looked at again: wall clocks jump.
const RENEWAL_SLEEP_MAX: Duration = Duration::from_hours(6);

/// What connection settings start from.
#[derive(Debug, Clone)]
pub struct SettingsConfig {
    /// The local settings: where offers begin, and what is left of them when an offer is silent.
    pub base: Target,
    /// The local heartbeat interval.
    pub heartbeat: Duration,
    /// What offers may ask for.
    pub policy: Policy,
    /// How long a candidate has to prove itself.
    pub trial: TrialLimits,
    /// What holds for own telemetry and other connections where an offer is silent.
    pub destination: Destination,
    /// Say when the client certificate is due for renewal (R-189).
    pub renew: bool,
    /// Spreads renewals; any number that differs between clients.
    pub seed: u64,
}

impl SettingsConfig {
    /// A configuration with the policy that `base` implies and default limits.
    pub fn new(base: Target, heartbeat: Duration) -> Self {
        let policy = Policy::of(&base);
        let destination = Destination {
            proxies: base.proxies.clone(),
            ..Destination::default()
        };
        Self {
            base,
            heartbeat,
            policy,
            trial: TrialLimits::default(),
            destination,
            renew: false,
            seed: 0,
        }
    }
}

/// The connection that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    since: Duration,
}

/// Connection settings in force, and those on trial. See the top of this file. `Debug` shows no secret.
pub struct Settings {
    config: SettingsConfig,
    /// What is in force and what is to be saved; its candidate is filled in when it is.
    state: State,
    /// `state.opamp` on top of the local settings.
    current: Target,
    /// `state.destinations`, resolved.
    destinations: BTreeMap<Class, Destination>,
    phase: Phase,
    link: Option<Link>,
    /// Refusals of the settings in force since they last worked.
    rejections: u32,
    server_capabilities: Option<u64>,
    queue: VecDeque<ConnectionSettingsOffers>,
    work: Option<Work>,
    /// The end of the certificate whose renewal was asked for.
    renewal_told: Option<Duration>,
    facts: Option<CertificateFacts>,
    /// Of own telemetry that was withdrawn: what comes next is measured by it.
    withdrawn_facts: BTreeMap<Class, CertificateFacts>,
    next_id: u64,
    unsaved: bool,
    effects: VecDeque<SettingsEffect>,
    last: Clock,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("target", self.target())
            .field("on_trial", &!matches!(self.phase, Phase::Settled))
            .field("destinations", &self.destinations)
            .field("status", &self.state.status)
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Starts from the local settings and from what was saved last. A saved candidate is tried first (R-148), a saved
    /// status is to be reported first (R-144), saved destinations are handed out again. Saved offers that the present
    /// policy does not allow, and all of them if the local endpoint was changed meanwhile, are given up.
    ///
    /// # Errors
    /// [`SavedError`] if `saved` cannot be read; the caller may go on with `None`.
    pub fn new(
        config: SettingsConfig,
        saved: Option<&SavedSettings>,
        clock: Clock,
    ) -> Result<Self, SavedError> {
        let state = saved.map(State::decode).transpose()?.unwrap_or_default();
        let mut settings = Self {
            current: config.base.clone(),
            config,
            state: State::default(),
            destinations: BTreeMap::new(),
            phase: Phase::Settled,
            link: None,
            rejections: 0,
            server_capabilities: None,
            queue: VecDeque::new(),
            work: None,
            renewal_told: None,
            facts: None,
            withdrawn_facts: BTreeMap::new(),
            next_id: 0,
            unsaved: false,
            effects: VecDeque::new(),
            last: clock,
        };
        settings.restore(state, clock);
        Ok(settings)
    }

    /// What to connect with next.
    pub fn target(&self) -> &Target {
        match &self.phase {
            Phase::Trying { candidate, trial } if trial.side == Side::New => &candidate.target,
            _ => &self.current,
        }
    }

    /// The heartbeat interval in force; zero means none. Settings on trial have no say in it (R-155).
    pub fn heartbeat(&self) -> Duration {
        let policy = self.config.policy;
        match self.state.opamp.heartbeat_interval_seconds {
            0 if policy.zero_stops_heartbeat && self.is_offered() => Duration::ZERO,
            0 => self.config.heartbeat,
            seconds => Duration::from_secs(seconds).clamp(
                HEARTBEAT_OFFER_MIN,
                policy.heartbeat_max.max(HEARTBEAT_OFFER_MIN),
            ),
        }
    }

    /// Whether settings are on trial: an attempt that fails should be repeated soon.
    pub fn is_on_trial(&self) -> bool {
        matches!(&self.phase, Phase::Trying { trial, .. } if trial.is_first())
    }

    /// Uses other local settings from now on. What was offered stays on top of them, for example of a token that was
    /// renewed; but with another endpoint the operator's word is newer than the server's, and all offers for this
    /// connection are given up. What the new settings do not allow themselves any more cannot be offered either, and
    /// nothing that was refused becomes allowed. Nothing changes if the offered settings cannot be put on top of them.
    ///
    /// # Errors
    /// [`Refused`] if they cannot.
    pub fn set_base(&mut self, base: Target) -> Result<(), Refused> {
        let policy = self.config.policy.moved(&self.config.base, &base);
        if base.to_string() != self.config.base.to_string() {
            self.give_up_offers(&base);
        }
        let scope = Scope {
            name: "opamp",
            policy: &policy,
            unix: None,
        };
        let current = scope.opamp(&base, &self.state.opamp)?;
        if let Some(candidate) = self.phase.candidate_mut() {
            candidate.target = scope.opamp(&base, &candidate.opamp)?;
        }
        self.current = current;
        self.config.base = base;
        self.config.policy = policy;
        self.look_at_certificate();
        self.go_on(self.last);
        Ok(())
    }

    /// A server offered settings, of those classes that the agent accepts.
    pub fn handle_offer(&mut self, clock: Clock, offers: ConnectionSettingsOffers) {
        self.queue.push_back(offers);
        let bytes = |queue: &VecDeque<ConnectionSettingsOffers>| -> usize {
            queue.iter().map(prost::Message::encoded_len).sum()
        };
        while self.queue.len() > OFFERS_MAX
            || (self.queue.len() > 1 && bytes(&self.queue) > OFFERS_BYTES_MAX)
        {
            self.queue.pop_front();
        }
        self.go_on(clock);
    }

    /// A state was saved, or could not be.
    pub fn handle_saved(&mut self, clock: Clock, id: u64, result: Result<(), String>) {
        self.request_saved(id, &result);
        self.candidate_saved(id, result);
        self.go_on(clock);
    }

    /// A connection with [`Settings::target`] stands.
    pub fn handle_connected(&mut self, clock: Clock) {
        self.link = Some(Link { since: clock.now });
        self.server_capabilities = None;
        if let Some(pending) = &mut self.state.pending {
            pending.new_connection();
        }
        self.go_on(clock);
    }

    /// The server of this connection sent a message that is no error. To be told before what was in it.
    pub fn handle_answered(&mut self, clock: Clock) {
        self.rejections = 0;
        self.proven();
        self.go_on(clock);
    }

    /// The server told its capability bits.
    pub fn handle_server_capabilities(&mut self, clock: Clock, mask: u64) {
        self.server_capabilities = Some(mask);
        self.go_on(clock);
    }

    /// The server could not use a message of ours.
    pub fn handle_server_error(&mut self, clock: Clock, kind: ServerErrorKind, message: &str) {
        if kind == ServerErrorKind::BadRequest
            && let Some(pending) = &mut self.state.pending
        {
            pending.refused(clock);
        }
        let reason = format!("server answered with an error: {}", printable(message));
        self.refused_by_server(&reason);
        self.go_on(clock);
    }

    /// An attempt to connect failed, or a connection ended that was not left on purpose.
    pub fn handle_lost(&mut self, clock: Clock, loss: &Loss) {
        self.link = None;
        self.lost(clock, loss);
        self.go_on(clock);
    }

    /// The connection was left as [`SettingsEffect::Leave`] asks, or there was none.
    pub fn handle_left(&mut self, clock: Clock) {
        self.link = None;
        self.left(clock);
        self.go_on(clock);
    }

    /// The caller has carried out a [`SettingsEffect::Destination`], or could not.
    pub fn handle_outcome(&mut self, clock: Clock, ticket: u64, result: Result<(), String>) {
        self.destination_done(ticket, result);
        self.go_on(clock);
    }

    /// A deadline of [`Settings::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, clock: Clock) {
        self.trial_timeout(clock);
        self.work_timeout(clock);
        self.go_on(clock);
    }

    /// The next thing to do, oldest first.
    pub fn poll_effect(&mut self) -> Option<SettingsEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Settings::handle_timeout`], as a time of [`Clock::now`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        [
            self.trial_due(),
            self.work.as_ref().and_then(Work::due),
            self.request_due(),
            self.renewal_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What follows from whatever has just happened.
    fn go_on(&mut self, clock: Clock) {
        self.last = clock;
        loop {
            self.finish_work();
            if self.work.is_some() || !matches!(self.phase, Phase::Settled) {
                break;
            }
            let Some(offers) = self.queue.pop_front() else {
                break;
            };
            self.begin(clock, offers);
        }
        self.send_request(clock);
        self.tell_renewal(clock);
        self.save();
    }

    fn is_offered(&self) -> bool {
        self.state.opamp != crate::messages::OpAmpConnectionSettings::default()
    }

    fn look_at_certificate(&mut self) {
        let own = self.current.tls.client_certificate.as_ref();
        self.facts = own.and_then(|own| CertificateFacts::of_pem(&own.chain_pem));
    }

    /// Hands out the state if it changed; what was not taken yet is replaced.
    fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) || !self.config.policy.can_save {
            return;
        }
        self.effects
            .retain(|effect| !matches!(effect, SettingsEffect::Save { .. }));
        let id = self.new_id();
        if let Phase::Saving { save, .. } = &mut self.phase {
            *save = Some(id);
        }
        if let Some(pending) = &mut self.state.pending {
            pending.handed_out(id);
        }
        self.state.candidate = self.phase.to_be_saved();
        if let (Some(candidate), Some(work)) = (&mut self.state.candidate, &self.work) {
            candidate.beside = work.failures_if_interrupted().lines();
        }
        self.state.base = self.config.base.to_string();
        let state = self.state.encode();
        self.effect(SettingsEffect::Save { id, state });
    }

    fn report(&mut self, hash: Vec<u8>, status: ConnectionSettingsStatuses, text: &str) {
        let status = ConnectionSettingsStatus {
            last_connection_settings_hash: hash,
            status: status as i32,
            error_message: printable(text),
        };
        self.unsaved |= self.state.status != status;
        self.state.status = status.clone();
        self.effect(SettingsEffect::Report(status));
    }

    fn effect(&mut self, effect: SettingsEffect) {
        self.effects.push_back(effect);
    }

    fn new_id(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}
