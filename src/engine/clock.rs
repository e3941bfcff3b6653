//! The wall clock of the host, watched: how far it is from somebody else's, who keeps it, and when it was set.
//!
//! Promises: a look every `check_interval` and after every jump, the first a minute after the start, when whoever keeps
//! the clock has had a chance; one look at a time. A clock that is off degrades and stops nothing; one that cannot be
//! compared is said and counts as good. Time that the machine slept is no jump.
//! Must never: read a clock, set one, or let another clock decide anything but this component.

use std::time::Duration;

use crate::config::{ClockWatch, Server, Tls};
use crate::engine::message::{ClockLook, ClockQuestion, ClockSnapshot, Effect, Note, NoteLevel};
use crate::units::{Moment, Now, Ticket, WallTime};

/// When the first look is made, unless `check_interval` is shorter.
const FIRST: Duration = Duration::from_mins(1);
/// Both clocks may drift apart by so much without anybody having set one: a service may slew the wall clock by half a
/// thousandth of the time that passed.
const JUMP: Duration = Duration::from_secs(1);
const SLEW_PARTS: u32 = 1000;
/// A clock that goes in and out of bounds is not told of more often.
const WARN_EVERY: Duration = Duration::from_hours(1);

/// What the watch is built from.
#[derive(Debug, Default)]
pub struct ClockSetup {
    /// The settings; none watches nothing.
    pub settings: Option<ClockWatch>,
    /// The server whose time is asked for where the settings name no other.
    pub server: Option<Server>,
    /// How long the machine has slept since it booted.
    pub asleep: Duration,
}

/// Both clocks as they stood together, and the time slept until then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Now,
    asleep: Duration,
}

/// The watch.
#[derive(Debug)]
pub(crate) struct Clock {
    settings: Option<ClockWatch>,
    server: Option<Server>,
    /// Slept before the start.
    slept: Duration,
    mark: Option<Mark>,
    looking: Option<Ticket>,
    due: Option<Moment>,
    next_ticket: u64,
    /// Positive: ours is ahead. Kept until the next comparison, or a jump.
    skew_ms: Option<i64>,
    /// Why the last comparison came to nothing.
    error: String,
    synchronised: Option<bool>,
    /// Whether a look has ended.
    looked: bool,
    compared_at: Option<WallTime>,
    jumps: u64,
    last_jump: Option<(WallTime, i64)>,
    warned: Option<Moment>,
    well: bool,
    stopping: bool,
}

impl Clock {
    pub(crate) fn new(setup: ClockSetup) -> Self {
        Self {
            settings: setup.settings,
            server: setup.server,
            slept: setup.asleep,
            mark: None,
            looking: None,
            due: None,
            next_ticket: 0,
            skew_ms: None,
            error: String::new(),
            synchronised: None,
            looked: false,
            compared_at: None,
            jumps: 0,
            last_jump: None,
            warned: None,
            well: true,
            stopping: false,
        }
    }

    pub(crate) fn start(&mut self, now: Now) {
        self.mark = Some(Mark {
            at: now,
            asleep: self.slept,
        });
        self.schedule(now.mono, FIRST);
    }

    /// Takes over changed settings.
    pub(crate) fn set(&mut self, now: Now, settings: Option<ClockWatch>, server: Option<Server>) {
        if question(settings.as_ref(), server.as_ref()) != self.question() {
            // An answer to the old question is not waited for.
            self.looking = None;
            self.skew_ms = None;
            self.error.clear();
            self.compared_at = None;
        }
        self.settings = settings;
        self.server = server;
        self.schedule(now.mono, FIRST);
    }

    /// Takes over the server that a registration named.
    pub(crate) fn set_server(&mut self, now: Now, server: Server) {
        self.set(now, self.settings.clone(), Some(server));
    }

    /// No more looks.
    pub(crate) fn stop(&mut self) {
        self.due = None;
        self.stopping = true;
    }

    fn schedule(&mut self, now: Moment, at_most: Duration) {
        self.due = self
            .settings
            .as_ref()
            .filter(|_| !self.stopping)
            .filter(|settings| settings.require_synchronised || self.question().is_some())
            .map(|settings| now.after(settings.check_interval.min(at_most)));
    }

    fn question(&self) -> Option<ClockQuestion> {
        question(self.settings.as_ref(), self.server.as_ref())
    }

    /// The next moment it wants to be called.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.due.filter(|_| self.looking.is_none())
    }

    /// Looks, if it is time.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<Effect> {
        if self.due().is_none_or(|due| due > now.mono) {
            return Vec::new();
        }
        self.due = None;
        self.next_ticket = self.next_ticket.saturating_add(1);
        let ticket = Ticket(self.next_ticket);
        self.looking = Some(ticket);
        vec![Effect::LookAtClock {
            ticket,
            question: self.question().map(Box::new),
        }]
    }

    /// The kernel said that the clock was set, or that the machine woke up.
    pub(crate) fn jumped(&mut self, now: Now, asleep: Duration) -> Vec<Effect> {
        let effects = self.compare_clocks(now, asleep);
        if self.settings.is_some() {
            self.schedule(now.mono, Duration::ZERO);
        }
        effects
    }

    /// A look ended.
    pub(crate) fn looked(&mut self, now: Now, ticket: Ticket, look: ClockLook) -> Vec<Effect> {
        if self.looking != Some(ticket) {
            return Vec::new();
        }
        self.looking = None;
        let mut effects = self.compare_clocks(now, look.asleep);
        self.synchronised = look.synchronised;
        self.looked = true;
        match look.skew_ms {
            Some(Ok(skew)) => {
                self.skew_ms = Some(skew);
                self.compared_at = Some(now.wall);
                self.error.clear();
            }
            Some(Err(reason)) => self.error = reason,
            None => {}
        }
        if self.due.is_none()
            && let Some(settings) = &self.settings
        {
            let interval = settings.check_interval;
            self.schedule(now.mono, interval);
        }
        effects.extend(self.news(now.mono));
        effects
    }

    /// How far the wall clock went beyond the time that passed.
    fn compare_clocks(&mut self, now: Now, asleep: Duration) -> Vec<Effect> {
        let before = self.mark.replace(Mark { at: now, asleep });
        let (Some(before), true) = (before, self.settings.is_some()) else {
            return Vec::new();
        };
        let ran = now.mono.since(before.at.mono);
        let passed = ran.saturating_add(asleep.saturating_sub(before.asleep));
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let wall = |at: Now| i64::try_from(at.wall.unix_millis()).unwrap_or(i64::MAX);
        let went = wall(now).saturating_sub(wall(before.at));
        let jump = went.saturating_sub(millis(passed));
        let slewed = passed.checked_div(SLEW_PARTS).unwrap_or_default();
        if jump.saturating_abs() <= millis(JUMP.saturating_add(slewed)) {
            return Vec::new();
        }
        self.jumps = self.jumps.saturating_add(1);
        self.last_jump = Some((now.wall, jump));
        // What was compared is no longer true.
        self.skew_ms = None;
        self.compared_at = None;
        let reason = format!("{} by {}", direction(jump), seconds(jump));
        vec![note(NoteLevel::Warn, "clock was set", reason)]
    }

    fn news(&mut self, now: Moment) -> Option<Effect> {
        let trouble = self.trouble();
        let before = std::mem::replace(&mut self.well, trouble.is_none());
        match trouble {
            Some(reason) if before => {
                let recent = self.warned.is_some_and(|at| now.since(at) < WARN_EVERY);
                self.warned = Some(self.warned.filter(|_| recent).unwrap_or(now));
                (!recent).then(|| note(NoteLevel::Warn, "clock is not right", reason))
            }
            None if !before => {
                let text = self.words();
                Some(note(NoteLevel::Info, "clock is right again", text))
            }
            _ => None,
        }
    }

    /// What is wrong with the clock.
    fn trouble(&self) -> Option<String> {
        let settings = self.settings.as_ref()?;
        let max = i64::try_from(settings.max_skew.as_millis()).unwrap_or(i64::MAX);
        if let Some(skew) = self.skew_ms.filter(|skew| skew.saturating_abs() > max) {
            return Some(format!("{}; set the clock (NTP)", beside(skew)));
        }
        (settings.require_synchronised && self.synchronised == Some(false))
            .then(|| "no time service keeps the clock, says the kernel; start one (NTP)".to_owned())
    }

    /// How the clock is, where nothing is wrong with it. It changes only when something happened.
    fn words(&self) -> String {
        let Some(settings) = &self.settings else {
            return String::new();
        };
        let compared = match (self.skew_ms, self.error.as_str()) {
            (Some(_), _) => {
                let bound = crate::units::format_duration(settings.max_skew);
                format!("within {bound} of the other clock")
            }
            (None, "") => "not compared with another clock".to_owned(),
            (None, error) => format!("not compared with another clock: {error}"),
        };
        if settings.require_synchronised && self.looked && self.synchronised.is_none() {
            format!(
                "{compared}; the kernel does not say whether anything keeps it (the call adjtimex is not allowed here)"
            )
        } else {
            compared
        }
    }

    /// Whether it is well, and in words.
    pub(crate) fn condition(&self) -> Option<(bool, String)> {
        self.settings.as_ref()?;
        Some(match self.trouble() {
            Some(trouble) => (false, trouble),
            None => (true, self.words()),
        })
    }

    /// As a door may show it; none where it is not watched.
    pub(crate) fn snapshot(&self) -> Option<ClockSnapshot> {
        let (well, words) = self.condition()?;
        Some(ClockSnapshot {
            well,
            words,
            skew_ms: self.skew_ms,
            compared_at: self.compared_at,
            compared_with: self.question().map(|question| question.url),
            last_error: self.error.clone(),
            synchronised: self.synchronised,
            jumps: self.jumps,
            last_jump: self.last_jump,
        })
    }
}

/// Whom to ask. The whole site is asked and not its OpAMP endpoint, where a plain request looks like a mistake.
fn question(settings: Option<&ClockWatch>, server: Option<&Server>) -> Option<ClockQuestion> {
    match (&settings?.url, server) {
        (Some(url), _) => Some(ClockQuestion {
            url: url.clone(),
            tls: Tls::default(),
        }),
        (None, Some(server)) => Some(ClockQuestion {
            url: site(&server.endpoint)?,
            tls: server.tls.clone(),
        }),
        (None, None) => None,
    }
}

/// `wss://host:1/path` → `https://host:1/`.
fn site(endpoint: &str) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let scheme = match scheme {
        "ws" | "http" => "http",
        _ => "https",
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    Some(format!("{scheme}://{host}/"))
}

fn direction(skew: i64) -> &'static str {
    if skew > 0 { "forward" } else { "back" }
}

/// `60 s ahead of the other clock`: whole seconds, so that the text does not change with every look.
fn beside(skew: i64) -> String {
    let side = if skew > 0 { "ahead of" } else { "behind" };
    format!("the clock is {} {side} the other one", seconds(skew))
}

fn seconds(millis: i64) -> String {
    let rounded = millis.unsigned_abs().saturating_add(500);
    format!("{} s", rounded.checked_div(1000).unwrap_or_default())
}

fn note(level: NoteLevel, message: &'static str, reason: String) -> Effect {
    Effect::Note(Note {
        level,
        agent: None,
        message,
        fields: vec![("reason", reason)],
    })
}

#[cfg(test)]
mod tests;
