//! Registration of this host with a fleet: when to call, when to wait, when to leave it to a person.
//!
//! Promises: registers once; whoever has a token keeps it until a person or `on_rejected: register` says otherwise, and
//! then only a few times a day. Calls are repeated for network, 5xx and 429 alone, jittered, with Retry-After honoured;
//! everything else waits for a person. One call at a time. Expiry is said at thirty, seven and one days.
//! Must never: see a token (a [`Credential`] is what is known of one), hold up a child, or forget a token because a
//! server rejects it.

use std::time::Duration;

use crate::config::{self, Server, TokenSource};
use crate::engine::message::{
    Credential, Effect, Note, NoteLevel, Refusal, RefusalKind, RegistrationCall,
    RegistrationFailure, RegistrationOrder, Reply,
};
use crate::engine::random::Random;
use crate::units::{Moment, Now, Ticket};

/// Delays between calls that nobody waits for.
const FIRST: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_mins(5);
/// No service may park us longer than this by one answer.
const RETRY_AFTER_CAP: Duration = Duration::from_hours(1);
/// A registration token that cannot be read is looked for again; nobody is called for that.
const TOKEN_AGAIN: Duration = Duration::from_mins(1);
/// Calls for one order of a person, who waits for them.
const ORDER_CALLS: u32 = 4;
/// A person is not kept waiting longer than this between two of them.
const ORDER_PATIENCE: Duration = Duration::from_secs(15);
/// Registrations after rejections: how long each waits, and for how long it counts. A fourth is a person's: two hosts
/// under one name would otherwise revoke each other's token for ever.
const REISSUE_AFTER: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_mins(10),
    Duration::from_hours(1),
];
const REISSUE_WINDOW: Duration = Duration::from_hours(24);
/// Delays between attempts to put a token on disk.
const SAVE_FIRST: Duration = Duration::from_secs(5);
const SAVE_CAP: Duration = Duration::from_mins(1);

mod answers;
mod view;

#[cfg(test)]
mod tests;

/// What registration is built from.
#[derive(Debug)]
pub struct RegistrationSetup {
    /// The settings; none when nothing asks for a registration.
    pub settings: Option<config::Registration>,
    /// What is known of the token that an earlier life stored, or that the environment brought.
    pub credential: Option<Credential>,
    /// Why nothing is known of a stored token, although there may be one.
    pub unreadable: Option<String>,
    /// Seed of the jitter.
    pub seed: u64,
}

impl RegistrationSetup {
    /// The server that the service named, for settings that name none.
    pub fn server(&self) -> Option<Server> {
        named_server(self.settings.as_ref(), self.credential.as_ref())
    }
}

/// Why a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// There is no token.
    Missing,
    /// The server rejects the one there is.
    Rejected,
    /// A person wants it.
    Order {
        what: RegistrationOrder,
        calls_left: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Waiting {
        until: Moment,
        why: Why,
    },
    Calling {
        ticket: Ticket,
        since: Moment,
        why: Why,
    },
    Unsaved {
        until: Moment,
    },
    Saving {
        ticket: Ticket,
        since: Moment,
    },
}

#[derive(Debug)]
struct Order {
    number: u64,
    what: RegistrationOrder,
    outcome: Option<Result<(), RegistrationFailure>>,
}

/// What a step came to.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) effects: Vec<Effect>,
    /// There is a new token: links that use it are to be made anew.
    pub(crate) renewed: bool,
}

/// The registration of the host.
#[derive(Debug)]
pub(crate) struct Registration {
    settings: Option<config::Registration>,
    credential: Option<Credential>,
    unreadable: Option<String>,
    state: State,
    /// Failures in a row.
    attempt: u32,
    failure: Option<RegistrationFailure>,
    /// In the server's words.
    rejected: Option<String>,
    reissues: Vec<Moment>,
    order: Option<Order>,
    /// How many of [`WARN_AT`] were said of the current token.
    warned: usize,
    calls: u64,
    failures: u64,
    next_ticket: u64,
    random: Random,
    stopping: bool,
}

impl Registration {
    /// A registration that has not called anybody yet.
    pub(crate) fn new(setup: RegistrationSetup) -> Self {
        Self {
            settings: setup.settings,
            credential: setup.credential,
            unreadable: setup.unreadable,
            state: State::Idle,
            attempt: 0,
            failure: None,
            rejected: None,
            reissues: Vec::new(),
            order: None,
            warned: 0,
            calls: 0,
            failures: 0,
            next_ticket: 0,
            random: Random::seeded(setup.seed),
            stopping: false,
        }
    }

    /// Calls at once if there is no token; says what is known otherwise.
    pub(crate) fn start(&mut self, now: Now) -> Steps {
        if self.settings.is_none() {
            return Steps::default();
        }
        let mut steps = Steps::default();
        if let Some(reason) = self.unreadable.clone() {
            steps.note(NoteLevel::Error, "stored token not readable", reason);
        } else if let Some(credential) = &self.credential {
            let how = credential.source.word().to_owned();
            let mut note = note(NoteLevel::Info, "registered already");
            note.fields.push(("how", how));
            steps.effects.push(Effect::Note(note));
        } else {
            self.want_token(now.mono);
            if self.state == State::Idle {
                steps.note(NoteLevel::Warn, "not registered", self.reason(now));
            }
        }
        self.handle_timeout(now, &mut steps);
        steps
    }

    /// Whether links need a token of ours, and whether there is one.
    pub(crate) fn needs(&self) -> (bool, bool) {
        (self.settings.is_some(), self.credential.is_some())
    }

    /// The server that the service named, for settings that name none.
    pub(crate) fn server(&self) -> Option<Server> {
        named_server(self.settings.as_ref(), self.credential.as_ref())
    }

    /// Whether an answer is on its way that may bring a token.
    pub(crate) fn is_calling(&self) -> bool {
        matches!(self.state, State::Calling { .. } | State::Saving { .. })
    }

    /// No new calls from now on.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// The settings were read again. One that waits for a person takes it that one was here; one that waits to register
    /// again after a rejection goes on waiting, so that reading settings uses up nothing.
    pub(crate) fn set_settings(
        &mut self,
        now: Now,
        settings: Option<config::Registration>,
    ) -> Steps {
        let mut steps = Steps::default();
        let new = self.settings.is_none() && settings.is_some();
        self.settings = settings;
        if let Some(reason) = self.unreadable.clone().filter(|_| new) {
            steps.note(NoteLevel::Error, "stored token not readable", reason);
        }
        match self.state {
            State::Calling { .. }
            | State::Saving { .. }
            | State::Unsaved { .. }
            | State::Waiting {
                why: Why::Order { .. },
                ..
            } => {}
            State::Waiting {
                why: Why::Rejected,
                until,
            } => {
                if !self.registers_again() {
                    self.call_off();
                } else if self.attempt > 0 {
                    // Between failed calls: what failed may be mended now.
                    self.state = State::Waiting {
                        until: until.min(now.mono),
                        why: Why::Rejected,
                    };
                }
            }
            State::Idle | State::Waiting { .. } => {
                self.state = State::Idle;
                if self.credential.is_none() && self.unreadable.is_none() {
                    self.want_token(now.mono);
                } else if self.rejected.is_some() {
                    self.reissue(now.mono);
                }
            }
        }
        steps
    }

    /// Gives up a registration after a rejection; one for which nobody was called is not counted.
    fn call_off(&mut self) {
        if self.attempt == 0 {
            self.reissues.pop();
        }
        self.state = State::Idle;
    }

    /// A person wants a token.
    pub(crate) fn order(&mut self, now: Now, what: RegistrationOrder, steps: &mut Steps) -> Reply {
        let refused = |kind, reason: &str| {
            Reply::Refused(Refusal {
                kind,
                reason: reason.to_owned(),
            })
        };
        let Some(settings) = &self.settings else {
            let reason = "no registration is set up; set registration.url and registration.token_file, or BACKEND_URL \
                          and REGISTRATION_TOKEN";
            return refused(RefusalKind::Invalid, reason);
        };
        let Some(url) = settings.url.clone() else {
            let reason =
                "there is no service to register with; set registration.url or BACKEND_URL";
            return refused(RefusalKind::Invalid, reason);
        };
        if settings.token == TokenSource::None {
            let reason =
                "there is no registration token; set registration.token_file or REGISTRATION_TOKEN";
            return refused(RefusalKind::Invalid, reason);
        }
        if self.stopping {
            return refused(RefusalKind::Conflict, "the supervisor is stopping");
        }
        let ordered = matches!(
            self.state,
            State::Waiting {
                why: Why::Order { .. },
                ..
            }
        );
        if self.is_calling() || ordered {
            let reason = "a registration is under way already; see `adjutant status`";
            return refused(RefusalKind::Conflict, reason);
        }
        let number = self.order.as_ref().map_or(0, |order| order.number);
        self.order = Some(Order {
            number: number.saturating_add(1),
            what,
            outcome: None,
        });
        self.attempt = 0;
        self.state = State::Waiting {
            until: now.mono,
            why: Why::Order {
                what,
                calls_left: ORDER_CALLS,
            },
        };
        self.handle_timeout(now, steps);
        Reply::Accepted {
            what: format!("{}: asking {url}", what.word()),
        }
    }

    /// A call ended.
    pub(crate) fn answered(
        &mut self,
        now: Now,
        ticket: Ticket,
        outcome: Result<Box<Credential>, RegistrationFailure>,
    ) -> Steps {
        let mut steps = Steps::default();
        match self.state {
            State::Calling {
                ticket: wanted,
                why,
                ..
            } if wanted == ticket => match outcome {
                Ok(credential) => self.issued(now, why, *credential, &mut steps),
                Err(failure) => self.failed(now, why, failure, &mut steps),
            },
            State::Saving { ticket: wanted, .. } if wanted == ticket => match outcome {
                Ok(credential) => self.saved(now, &credential, &mut steps),
                Err(failure) => self.unsaved(now, &failure.reason, &mut steps),
            },
            _ => {}
        }
        self.handle_timeout(now, &mut steps);
        steps
    }

    /// A server does not want the token.
    pub(crate) fn rejected(&mut self, now: Now, reason: &str) -> Steps {
        let mut steps = Steps::default();
        if self.settings.is_none() || self.credential.is_none() {
            return steps;
        }
        let first = self.rejected.replace(reason.to_owned()).is_none();
        let held = self.state == State::Idle && !self.reissue(now.mono);
        if first {
            let message = if held && !self.reissues.is_empty() {
                "token rejected again and again"
            } else {
                "token rejected by the server"
            };
            let text = self.reason(now);
            steps.note(NoteLevel::Error, message, text);
        }
        steps
    }

    /// A server takes the token.
    pub(crate) fn accepted(&mut self, _now: Now) -> Steps {
        let mut steps = Steps::default();
        if self.rejected.take().is_some() {
            let note = note(NoteLevel::Info, "token accepted by the server again");
            steps.effects.push(Effect::Note(note));
            if let State::Waiting {
                why: Why::Rejected, ..
            } = self.state
            {
                self.call_off();
            }
        }
        steps
    }

    /// A deadline passed.
    pub(crate) fn tick(&mut self, now: Now) -> Steps {
        let mut steps = Steps::default();
        self.handle_timeout(now, &mut steps);
        steps
    }

    /// The next moment it wants to be called.
    pub(crate) fn due(&self, now: Now) -> Option<Moment> {
        let act = match self.state {
            State::Waiting { until, .. } | State::Unsaved { until } if !self.stopping => {
                Some(until)
            }
            _ => None,
        };
        let warn = self.next_warning(now);
        [act, warn].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Now, steps: &mut Steps) {
        self.warn(now, steps);
        if self.stopping {
            return;
        }
        match self.state {
            State::Waiting { until, why } if until <= now.mono => self.call(now, why, steps),
            State::Unsaved { until } if until <= now.mono => {
                let ticket = self.ticket();
                let since = now.mono;
                self.state = State::Saving { ticket, since };
                steps.effects.push(Effect::SaveCredential { ticket });
            }
            _ => {}
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket = self.next_ticket.saturating_add(1);
        Ticket(self.next_ticket)
    }

    fn want_token(&mut self, now: Moment) {
        if self
            .settings
            .as_ref()
            .is_some_and(config::Registration::can_register)
        {
            self.state = State::Waiting {
                until: now,
                why: Why::Missing,
            };
        }
    }

    fn call(&mut self, now: Now, why: Why, steps: &mut Steps) {
        let Some(settings) = self.settings.clone() else {
            self.state = State::Idle;
            return;
        };
        let ticket = self.ticket();
        self.state = State::Calling {
            ticket,
            since: now.mono,
            why,
        };
        self.calls = self.calls.saturating_add(1);
        let call = self.which(why);
        if self.attempt == 0 {
            let mut note = note(NoteLevel::Info, "registering");
            note.fields
                .push(("endpoint", settings.url.clone().unwrap_or_default()));
            let how = match call {
                RegistrationCall::Register => "registration",
                RegistrationCall::Restart { .. } => "restart-registration",
            };
            note.fields.push(("how", how.to_owned()));
            steps.effects.push(Effect::Note(note));
        }
        steps.effects.push(Effect::Register {
            ticket,
            settings: Box::new(settings),
            call,
        });
    }

    fn which(&self, why: Why) -> RegistrationCall {
        let known = self.credential.as_ref();
        let gateway = known.and_then(|known| known.gateway.clone());
        match (why, gateway) {
            (
                Why::Order {
                    what: RegistrationOrder::Restart,
                    ..
                },
                Some(gateway),
            ) => RegistrationCall::Restart {
                gateway,
                org: known.and_then(|known| known.org.clone()),
            },
            _ => RegistrationCall::Register,
        }
    }
}

fn named_server(
    settings: Option<&config::Registration>,
    credential: Option<&Credential>,
) -> Option<Server> {
    let endpoint = credential?.endpoint.clone()?;
    Some(config::server_at(endpoint, settings?.tls.clone()))
}

impl Steps {
    fn note(&mut self, level: NoteLevel, message: &'static str, reason: String) {
        let mut note = note(level, message);
        note.fields.push(("reason", reason));
        self.effects.push(Effect::Note(note));
    }
}

fn note(level: NoteLevel, message: &'static str) -> Note {
    Note {
        level,
        agent: None,
        message,
        fields: Vec::new(),
    }
}
