//! The link to the server: when to dial, how long to wait, what a loss means.
//!
//! Promises: one link at a time; retries for ever, jittered, never hot; a rejected credential is a visible state
//! with slow retry; what the server asks (Retry-After) is honoured up to a cap. A child never hears of any of it.
//! Must never: decode a message. The session does that; this file knows links and time.

use std::time::Duration;

use crate::config::Server;
use crate::engine::message::{LinkLoss, LinkSnapshot, LossKind};
use crate::engine::random::Random;
use crate::units::{LinkId, Moment};

/// Reference delays of the field: 0.5 s growing by half to a minute (OpAMP requirements §4.1).
const FIRST: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_mins(1);
/// A throttled client stays away at least this long when no delay was given.
const THROTTLED: Duration = Duration::from_secs(30);
/// Rejected credentials rarely heal by themselves: minutes, not seconds (F-023).
const REJECTED_FIRST: Duration = Duration::from_secs(30);
const REJECTED_CAP: Duration = Duration::from_mins(10);
/// No server may park us longer than this by one answer.
const RETRY_AFTER_CAP: Duration = Duration::from_hours(1);
/// A link that lived this long, or that brought a message, was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// The port has its own, shorter limits; this one catches an answer that never comes.
const DIAL_LIMIT: Duration = Duration::from_secs(90);
/// How long the closing handshake may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(6);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Disabled,
    Waiting {
        until: Moment,
    },
    Dialling {
        link: LinkId,
        give_up_at: Moment,
    },
    Up {
        link: LinkId,
        since: Moment,
        heard: bool,
    },
    Closing {
        link: LinkId,
        give_up_at: Moment,
    },
}

/// The token of the registration, as far as a link is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// No registration is set up.
    NotNeeded,
    /// There is none yet.
    Missing,
    /// There is one.
    Known,
}

/// Where the link leads that was dialled last, when offered settings say so and not the local ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its URL, without a query.
    pub(crate) endpoint: String,
    /// Whether it is polled.
    pub(crate) polled: bool,
    /// Whether the headers that go there say who we are; none leaves that to the local settings.
    pub(crate) authorizes: Option<bool>,
}

/// The link to the server.
#[derive(Debug)]
pub(crate) struct Uplink {
    server: Option<Server>,
    place: Option<Place>,
    /// Another link is being made in place of this one, which is therefore not dialled again.
    paused: bool,
    state: State,
    attempt: u32,
    rejected: bool,
    last_error: String,
    next: u64,
    stopping: bool,
    /// The token of the registration: whether this host has one to get, and whether it got it.
    token: Token,
    /// Links that came up since we started.
    pub(crate) connects: u64,
}

/// What the link wants done.
#[derive(Debug, PartialEq)]
pub(crate) enum LinkOrder {
    /// Dial.
    Dial(LinkId),
    /// Close.
    Hangup(LinkId),
}

impl Uplink {
    /// A link that has not been tried yet; without a server it never will be.
    pub(crate) fn new(server: Option<Server>) -> Self {
        let state = if server.is_some() {
            State::Waiting {
                until: Moment::START,
            }
        } else {
            State::Disabled
        };
        Self {
            server,
            place: None,
            paused: false,
            state,
            attempt: 0,
            rejected: false,
            last_error: String::new(),
            next: 0,
            stopping: false,
            token: Token::NotNeeded,
            connects: 0,
        }
    }

    /// The server's settings.
    pub(crate) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Changes the server. A live link to another one is closed first; the next goes to the new one.
    pub(crate) fn set_server(&mut self, now: Moment, server: Option<Server>) -> Option<LinkOrder> {
        if self.server == server {
            return None;
        }
        self.server = server;
        self.begin_anew(now)
    }

    /// What there is to know of the token. A link that uses an older one is closed, and the next is dialled at once.
    pub(crate) fn set_token(
        &mut self,
        now: Moment,
        needed: bool,
        known: bool,
        new: bool,
    ) -> Option<LinkOrder> {
        let before = self.token;
        self.token = match (needed, known) {
            (false, _) => Token::NotNeeded,
            (true, false) => Token::Missing,
            (true, true) => Token::Known,
        };
        if self.has_own_authorization() || (self.token == before && !new) {
            return None;
        }
        self.begin_anew(now)
    }

    /// Whether the next dial is to carry the token of the registration.
    pub(crate) fn uses_token(&self) -> bool {
        self.token == Token::Known && !self.has_own_authorization()
    }

    /// The same for a link whose headers are not, or not only, the local ones.
    #[cfg(feature = "connection")]
    pub(crate) fn would_use_token(&self, authorizes: Option<bool>) -> bool {
        let own = authorizes.unwrap_or_else(|| {
            let server = self.server.as_ref();
            server.is_some_and(Server::has_own_authorization)
        });
        self.token == Token::Known && !own
    }

    /// Whether there is no use in dialling, because there is no token.
    fn is_held(&self) -> bool {
        self.token == Token::Missing && !self.has_own_authorization()
    }

    fn has_own_authorization(&self) -> bool {
        let offered = self.place.as_ref().and_then(|place| place.authorizes);
        offered.unwrap_or_else(|| {
            let server = self.server.as_ref();
            server.is_some_and(Server::has_own_authorization)
        })
    }

    /// Closes whatever link there is, and dials at once.
    pub(crate) fn begin_anew(&mut self, now: Moment) -> Option<LinkOrder> {
        self.attempt = 0;
        self.rejected = false;
        match self.state {
            State::Up { link, .. } | State::Dialling { link, .. } => {
                self.state = State::Closing {
                    link,
                    give_up_at: now.after(CLOSE_LIMIT),
                };
                Some(LinkOrder::Hangup(link))
            }
            State::Closing { .. } => None,
            State::Disabled | State::Waiting { .. } => {
                self.rest(now, Duration::ZERO);
                None
            }
        }
    }

    /// A deadline passed.
    pub(crate) fn handle_timeout(&mut self, now: Moment) -> Option<LinkOrder> {
        match self.state {
            State::Waiting { until } if until <= now && !self.is_at_rest() => {
                let link = self.number();
                self.state = State::Dialling {
                    link,
                    give_up_at: now.after(DIAL_LIMIT),
                };
                Some(LinkOrder::Dial(link))
            }
            State::Dialling { link, give_up_at } if give_up_at <= now => {
                "no answer to the connection attempt".clone_into(&mut self.last_error);
                self.attempt = self.attempt.saturating_add(1);
                self.rest(now, CAP);
                Some(LinkOrder::Hangup(link))
            }
            State::Closing { give_up_at, .. } if give_up_at <= now => {
                self.rest(now, Duration::ZERO);
                None
            }
            _ => None,
        }
    }

    fn is_at_rest(&self) -> bool {
        self.stopping || self.paused || self.is_held()
    }

    /// A number for a link; no number is used twice.
    pub(crate) fn number(&mut self) -> LinkId {
        self.next = self.next.saturating_add(1);
        LinkId(self.next)
    }

    /// Where the link leads that is dialled now; none means where the local settings say.
    #[cfg(feature = "connection")]
    pub(crate) fn lead_to(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// The link came up. False when it is not the one that is waited for.
    pub(crate) fn up(&mut self, now: Moment, link: LinkId) -> bool {
        match self.state {
            State::Dialling { link: wanted, .. } if wanted == link => {
                self.state = State::Up {
                    link,
                    since: now,
                    heard: false,
                };
                if !self.is_polled() {
                    self.connected();
                }
                true
            }
            _ => false,
        }
    }

    /// A message came. False when it came on a link that is no longer ours.
    pub(crate) fn heard(&mut self, link: LinkId) -> bool {
        match &mut self.state {
            State::Up {
                link: current,
                heard,
                ..
            } if *current == link => {
                let first = !std::mem::replace(heard, true);
                self.attempt = 0;
                self.rejected = false;
                if first && self.is_polled() {
                    self.connected();
                }
                true
            }
            _ => false,
        }
    }

    /// A link is gone. False when it was not ours any more.
    pub(crate) fn down(
        &mut self,
        now: Moment,
        link: LinkId,
        loss: &LinkLoss,
        random: &mut Random,
    ) -> bool {
        let delay = match self.state {
            State::Up {
                link: current,
                since,
                heard,
            } if current == link => {
                let stood = now.since(since) >= GOOD_AFTER && !self.is_polled();
                let good = heard || stood;
                if good {
                    self.attempt = 0;
                }
                self.delay(loss, good, random)
            }
            State::Dialling { link: current, .. } if current == link => {
                self.delay(loss, false, random)
            }
            State::Closing { link: current, .. } if current == link => Duration::ZERO,
            _ => return false,
        };
        self.last_error.clone_from(&loss.reason);
        // How a link of ours ended that was given up anyway says nothing about the next one.
        let given_up = matches!(self.state, State::Closing { .. });
        self.rejected = loss.kind == LossKind::Rejected && !given_up;
        self.rest(now, delay);
        true
    }

    /// The server asks us to go away and come back (OpAMP `Unavailable`, R-281 … R-283).
    pub(crate) fn unavailable(
        &mut self,
        now: Moment,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) -> Option<LinkOrder> {
        let State::Up { link, .. } = self.state else {
            return None;
        };
        let loss = LinkLoss {
            kind: LossKind::Throttled,
            reason: "the server says it is unavailable".to_owned(),
            retry_after,
        };
        let delay = self.delay(&loss, false, random);
        self.last_error = loss.reason;
        self.rest(now, delay);
        Some(LinkOrder::Hangup(link))
    }

    /// Stops for good: no more dialling. Returns the link that is still up.
    pub(crate) fn stop(&mut self, now: Moment) -> Option<LinkOrder> {
        self.stopping = true;
        match self.state {
            State::Up { link, .. } | State::Dialling { link, .. } => {
                self.state = State::Closing {
                    link,
                    give_up_at: now.after(CLOSE_LIMIT),
                };
                Some(LinkOrder::Hangup(link))
            }
            State::Closing { .. } | State::Waiting { .. } | State::Disabled => None,
        }
    }

    /// Whether the server is polled over plain HTTP. Then only its first answer shows that there is a link.
    pub(crate) fn is_polled(&self) -> bool {
        match &self.place {
            Some(place) => place.polled,
            None => self.server.as_ref().is_some_and(Server::is_polled),
        }
    }

    fn connected(&mut self) {
        self.connects = self.connects.saturating_add(1);
        self.last_error.clear();
    }

    /// Whether an attempt to reach the server has failed, and none succeeded since.
    pub(crate) fn has_failed(&self) -> bool {
        self.attempt > 0 || self.rejected
    }

    /// Whether a link is up on which the server has not said anything yet.
    pub(crate) fn is_unheard(&self) -> bool {
        matches!(self.state, State::Up { heard: false, .. })
    }

    /// Whether the last link ended because of our credentials.
    pub(crate) fn is_rejected(&self) -> bool {
        self.rejected
    }

    /// The link that carries messages.
    pub(crate) fn live(&self) -> Option<LinkId> {
        match self.state {
            State::Up { link, .. } => Some(link),
            _ => None,
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.state, State::Disabled | State::Waiting { .. })
    }

    /// The next moment it wants to be called.
    pub(crate) fn due(&self) -> Option<Moment> {
        match self.state {
            State::Waiting { until } if !self.is_at_rest() => Some(until),
            State::Dialling { give_up_at, .. } | State::Closing { give_up_at, .. } => {
                Some(give_up_at)
            }
            State::Waiting { .. } | State::Disabled | State::Up { .. } => None,
        }
    }

    /// As a door may show it.
    pub(crate) fn snapshot(&self, now: Moment) -> LinkSnapshot {
        let (state, retry_in) = match self.state {
            State::Disabled => ("disabled", None),
            State::Waiting { .. } if self.is_held() => ("unregistered", None),
            State::Waiting { until } if self.rejected => ("rejected", Some(until.since(now))),
            State::Waiting { until } => ("waiting", Some(until.since(now))),
            State::Dialling { .. } => ("connecting", None),
            State::Up { heard: false, .. } if self.is_polled() => ("connecting", None),
            State::Up { .. } => ("connected", None),
            State::Closing { .. } => ("closing", None),
        };
        LinkSnapshot {
            state,
            endpoint: match (&self.place, &self.server) {
                (Some(place), _) => place.endpoint.clone(),
                (None, Some(server)) => bare(&server.endpoint),
                (None, None) => String::new(),
            },
            settings: "local",
            last_error: self.last_error.clone(),
            attempt: self.attempt,
            retry_in,
        }
    }

    fn rest(&mut self, now: Moment, delay: Duration) {
        self.state = match self.server {
            Some(_) => State::Waiting {
                until: now.after(delay),
            },
            None => State::Disabled,
        };
    }

    fn delay(&mut self, loss: &LinkLoss, was_good: bool, random: &mut Random) -> Duration {
        if was_good
            && matches!(
                loss.kind,
                LossKind::Network | LossKind::Closed | LossKind::Ours
            )
        {
            // at once, but not all of a fleet in the same millisecond.
            return Duration::from_millis(random.below(900));
        }
        self.attempt = self.attempt.saturating_add(1);
        let (first, cap) = match loss.kind {
            LossKind::Rejected => (REJECTED_FIRST, REJECTED_CAP),
            _ => (FIRST, CAP),
        };
        let exponent = i32::try_from(self.attempt.saturating_sub(1).min(64)).unwrap_or(64);
        let grown = (first.as_secs_f64() * 1.5f64.powi(exponent)).min(cap.as_secs_f64());
        let jittered = Duration::from_secs_f64(grown * random.between(0.5, 1.5)).min(cap);
        let asked = match (loss.kind, loss.retry_after) {
            (_, Some(asked)) => asked.min(RETRY_AFTER_CAP),
            (LossKind::Throttled, None) => THROTTLED,
            _ => Duration::ZERO,
        };
        jittered.max(asked)
    }
}

/// The endpoint without user information and query, which may hold credentials.
fn bare(endpoint: &str) -> String {
    let without_query = endpoint.split(['?', '#']).next().unwrap_or(endpoint);
    match without_query.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('/') {
            Some((authority, path)) => format!("{scheme}://{}/{path}", host(authority)),
            None => format!("{scheme}://{}", host(rest)),
        },
        None => without_query.to_owned(),
    }
}

fn host(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

/// What offered settings on trial ask of the link.
#[cfg(feature = "connection")]
impl Uplink {
    /// Whether the link may be dialled again when it is down.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Another link, which stands already, takes the place of this one. Returns the one to be closed.
    pub(crate) fn replace(&mut self, now: Moment, link: LinkId) -> Option<LinkOrder> {
        let before = match self.state {
            State::Up { link, .. } | State::Dialling { link, .. } => Some(link),
            State::Disabled | State::Waiting { .. } | State::Closing { .. } => None,
        };
        self.attempt = 0;
        self.rejected = false;
        self.state = State::Up {
            link,
            since: now,
            heard: false,
        };
        if !self.is_polled() {
            self.connected();
        }
        before.map(LinkOrder::Hangup)
    }

    /// A wait ends after `span`, if it would have lasted longer.
    pub(crate) fn hurry(&mut self, now: Moment, span: Duration) {
        if let State::Waiting { until } = &mut self.state {
            *until = (*until).min(now.after(span));
        }
    }

    /// Whether the link stands and the server has said something on it.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(self.state, State::Up { heard: true, .. })
    }
}

#[cfg(test)]
mod tests;
