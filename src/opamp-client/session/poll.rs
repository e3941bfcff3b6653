//! The conversation over plain HTTP: every message is a request, and the next waits for its answer.
//!
//! Promises: one message is out at a time, and changes meanwhile become one following message; a
//! message that the server did not take gives back its number and everything in it, custom message and request
//! included; polling never stops and is a little irregular, so that a fleet does not poll
//! in step.
//! Must never: send the same again after the server found it too large.

use std::time::Duration;

use super::fields::Taken;
use super::pace::OnRequest;
use super::{Link, Session, SessionEvent};
use crate::messages::{ConnectionSettingsRequest, CustomMessage};

/// The polling interval while no heartbeat interval is set.
const POLL_DEFAULT: Duration = Duration::from_secs(30);

/// A poll comes earlier than its interval by up to one in this many parts of it.
const EARLY_PARTS: u32 = 20;

/// One request at a time.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The message whose answer is awaited.
    out: Option<Out>,
    /// Nothing is sent before: the last answer made no sense.
    not_before: Duration,
}

/// A message that is out, and what it takes to take it back.
#[derive(Debug)]
struct Out {
    sequence_num: u64,
    taken: Taken,
    custom_message: Option<CustomMessage>,
    settings_request: Option<ConnectionSettingsRequest>,
    greeting: bool,
    unanswered: u64,
    header_changed: bool,
    full_state: OnRequest,
    components: OnRequest,
}

impl Session {
    /// As [`Session::handle_connected`], for a connection on which every message is a request that is answered once:
    /// plain HTTP. A poll is due when nothing was sent for the heartbeat interval, or for 30 s while that is zero; no
    /// capability is needed for it. A request that failed is told by [`Session::handle_disconnected`].
    pub fn handle_polling(&mut self, now: Duration) {
        self.handle_connected(now);
        self.exchange = Some(Exchange::default());
    }

    /// The server found the last message too large (HTTP 413, close code 1009): its largest field is kept back until
    /// it changes. Call this before [`Session::handle_disconnected`].
    pub fn handle_too_large(&mut self, now: Duration) {
        self.advance(now);
        let out = self
            .exchange
            .as_mut()
            .and_then(|exchange| exchange.out.as_mut());
        let Some((field, bytes)) = self.largest.take() else {
            // Nothing can be left out. The number is used up, so that the next message is another one at least.
            if let Some(exchange) = &mut self.exchange {
                exchange.out = None;
            }
            return;
        };
        match (out, field) {
            (Some(out), "custom_message") => out.custom_message = None,
            (Some(out), "connection_settings_request") => out.settings_request = None,
            _ => {}
        }
        self.fields.refuse(field);
        self.stats.dropped_oversize = self.stats.dropped_oversize.saturating_add(1);
        self.emit(SessionEvent::Oversize { field, bytes });
    }

    /// Whether a request is out.
    pub(super) fn is_awaiting(&self) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| exchange.out.is_some())
    }

    /// Nothing is sent before this time; zero if nothing is held back.
    pub(super) fn not_before(&self) -> Duration {
        self.exchange
            .as_ref()
            .map_or(Duration::ZERO, |exchange| exchange.not_before)
    }

    /// Zero does not stop polling.
    pub(super) fn poll_interval(&self) -> Duration {
        let interval = if self.heartbeat.is_zero() {
            POLL_DEFAULT
        } else {
            self.heartbeat
        };
        let spread = interval / EARLY_PARTS;
        // 256 steps are spread enough, and every message of every agent takes another one.
        let mut step = self
            .sequence_num
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .to_le_bytes()[7];
        for byte in self.uid {
            step = step.wrapping_mul(31).wrapping_add(byte);
        }
        interval.saturating_sub(spread.saturating_mul(u32::from(step)) / 256)
    }

    /// Limit of a frame: over HTTP the one-byte header is not sent and does not count.
    pub(super) fn frame_max(&self) -> usize {
        let header = usize::from(self.exchange.is_some());
        self.max_message.saturating_add(header)
    }

    /// A message is about to be handed out: what it takes to take it back.
    pub(super) fn remember(&mut self, taken: &Taken, custom_message: Option<CustomMessage>) {
        // The last message of a connection does not wait for its turn: what it answers for is the one before it.
        if let Some(exchange) = &mut self.exchange
            && exchange.out.is_none()
        {
            exchange.out = Some(Out {
                sequence_num: self.sequence_num,
                taken: *taken,
                custom_message,
                settings_request: self
                    .settings_request
                    .clone()
                    .filter(|_| taken.settings_request),
                greeting: self.link == Link::Greeting,
                unanswered: self.unanswered,
                header_changed: self.header_changed,
                full_state: self.full_state,
                components: self.components,
            });
        }
    }

    /// The request was answered.
    pub(super) fn answered(&mut self) {
        if let Some(exchange) = &mut self.exchange
            && exchange.out.take().is_some()
        {
            self.unanswered = 0;
        }
    }

    /// The answer makes no sense: the request counts as not taken, and the next one waits for the interval.
    pub(super) fn answered_badly(&mut self) {
        self.take_back();
        let next = self.last_sent.saturating_add(self.poll_interval());
        if let Some(exchange) = &mut self.exchange {
            exchange.not_before = next;
        }
    }

    /// The server did not take what is out: all of it is owed again, under the same number.
    pub(super) fn take_back(&mut self) {
        let exchange = self.exchange.as_mut();
        let Some(out) = exchange.and_then(|exchange| exchange.out.take()) else {
            return;
        };
        self.sequence_num = out.sequence_num;
        self.unanswered = out.unanswered;
        self.header_changed |= out.header_changed;
        self.full_state = out.full_state;
        self.components = out.components;
        self.fields.owe_again(&out.taken);
        if let Some(message) = out.custom_message {
            self.custom_messages.push_front(message);
        }
        if self.settings_request.is_none() {
            self.settings_request = out.settings_request;
        }
        if out.greeting && self.link == Link::Open {
            self.link = Link::Greeting;
        }
    }
}
