//! The life of a client: attempt, conversation, delay, again.
//!
//! Promises: every attempt has one [`Outcome`], and one function, `judge`, draws all conclusions from it: what the
//! embedder is told, how long to wait, and where to go next.
//! Must never: touch a connection; that is `conversation.rs`.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::conversation::{Life, wait};
use super::{Change, Client, ClientEvent, Target, WAITING_MAX, Worth};
use crate::backoff::LinkLife;
use crate::transport::pump::{Closed, ClosedClass};
use crate::transport::{Connection, DialClass, DialError, dial};

/// How one attempt went, from dialling to the end of the connection.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There was no connection.
    NotConnected(DialError),
    /// There was one, and it ended.
    Ended { closed: Closed, life: Life },
}

impl Client {
    /// Connects, talks, reconnects, until [`Change::Stop`] or until the handle is gone.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection without goodbye.
    pub async fn run(mut self) {
        let mut retry_in = Duration::ZERO;
        while !self.stopping {
            self.rest(retry_in).await;
            if std::mem::take(&mut self.moving) {
                retry_in = self.move_on();
                continue;
            }
            let Some(outcome) = self.attempt().await else {
                continue;
            };
            retry_in = self.judge(outcome);
        }
        self.publish();
        while let Some(event) = self.waiting.pop_front() {
            // Whoever does not read any more does not miss them.
            _ = self.events.try_send(event);
        }
    }

    /// Waits, taking changes and delivering events meanwhile. A new place ends the wait.
    async fn rest(&mut self, span: Duration) {
        let until = Instant::now() + span;
        let events = self.events.clone();
        while !self.stopping && !self.moving {
            self.publish();
            let due = self.settings_due();
            tokio::select! {
                () = sleep_until(until) => return,
                () = wait(due) => self.settings_timeout(),
                change = self.changes.recv() => self.apply(change),
                permit = events.reserve(), if !self.waiting.is_empty() => {
                    // A reader that is gone takes its events with it.
                    if let (Some(event), Ok(permit)) = (self.waiting.pop_front(), permit) {
                        permit.send(event);
                    }
                }
            }
        }
    }

    /// One connection, from dialling to its end; `None` if there was none because of a change meanwhile.
    async fn attempt(&mut self) -> Option<Outcome> {
        match self.connect().await? {
            Ok(connection) => {
                self.tell(ClientEvent::Connected);
                let (closed, life) = self.converse(connection).await;
                Some(Outcome::Ended { closed, life })
            }
            Err(error) => Some(Outcome::NotConnected(error)),
        }
    }

    /// Dials; `None` if told to stop or to go elsewhere meanwhile.
    async fn connect(&mut self) -> Option<Result<Connection, DialError>> {
        let target = self.next_target();
        self.places.attempt(target.clone());
        // On the heap, and gone with the attempt: a client at rest holds no room for handshakes.
        let mut attempt = Box::pin(dial(&target, self.dial));
        while !self.stopping && !self.moving {
            let due = self.settings_due();
            tokio::select! {
                result = &mut attempt => return Some(result),
                () = wait(due) => self.settings_timeout(),
                change = self.changes.recv() => self.apply(change),
            }
        }
        None
    }

    /// What follows from an attempt; the delay before the next.
    fn judge(&mut self, outcome: Outcome) -> Duration {
        let retry_in = self.delay_after(&outcome);
        let retry_in = if std::mem::take(&mut self.moving) {
            // The end was wanted, and the next attempt goes elsewhere.
            self.move_on()
        } else {
            self.settings_lost(&outcome, retry_in)
        };
        self.tell(match outcome {
            Outcome::Ended { closed, .. } => ClientEvent::Disconnected { closed, retry_in },
            Outcome::NotConnected(error) => ClientEvent::DialFailed { error, retry_in },
        });
        retry_in
    }

    /// The present place is left; how long until the next may be dialled.
    fn move_on(&mut self) -> Duration {
        self.settings_left();
        let gap = self.places.move_on();
        let next = self.next_target();
        let held = self.places.held(&next);
        if !held.is_zero() {
            self.settings_held(held);
        }
        gap.max(held)
    }

    fn delay_after(&mut self, outcome: &Outcome) -> Duration {
        let random = self.next_random();
        let backoff = &mut self.backoff;
        // `None`: throttled.
        let (asked, delay) = match outcome {
            Outcome::NotConnected(error) => match error.class() {
                DialClass::Throttled => (error.retry_after(), None),
                DialClass::Rejected => (None, Some(backoff.rejected(random))),
                _ => (None, Some(backoff.next_delay(random))),
            },
            Outcome::Ended { life, .. } if life.unavailable => (life.retry_after, None),
            Outcome::Ended { closed, life } => match closed.class() {
                ClosedClass::Throttled => (closed.retry_after, None),
                ClosedClass::Rejected => (None, Some(backoff.rejected(random))),
                _ => {
                    let life = LinkLife {
                        lasted: life.lasted,
                        answered: life.answered,
                    };
                    (None, Some(backoff.link_lost(life, random)))
                }
            },
        };
        delay.unwrap_or_else(|| {
            let delay = backoff.throttled(random, asked);
            self.places.throttle(delay);
            delay
        })
    }

    pub(super) fn apply(&mut self, change: Option<Change>) {
        let session = &mut self.session;
        match change {
            Some(Change::Description(value)) => session.set_description(value),
            Some(Change::Health(value)) => session.set_health(value),
            Some(Change::EffectiveConfig(value)) => session.set_effective_config(value),
            Some(Change::RemoteConfigStatus(value)) => session.set_remote_config_status(value),
            Some(Change::PackageStatuses(value)) => session.set_package_statuses(value),
            Some(Change::ConnectionSettingsStatus(value)) => {
                session.set_connection_settings_status(value);
            }
            Some(Change::AvailableComponents(value)) => session.set_available_components(value),
            Some(Change::CustomCapabilities(value)) => session.set_custom_capabilities(value),
            Some(Change::CustomMessage(message)) => {
                if let Err(error) = session.send_custom_message(message) {
                    self.tell(ClientEvent::CustomMessageRefused(error));
                }
            }
            Some(Change::Capabilities(mask)) => session.set_capabilities(mask),
            Some(Change::InstanceUid(uid)) => session.set_instance_uid(uid),
            Some(Change::RequestInstanceUid) => session.request_instance_uid(),
            Some(Change::Target(target)) => self.go_to(*target),
            Some(Change::Settings(answer)) => self.settings_answer(answer),
            Some(Change::Stop) | None => self.stopping = true,
        }
    }

    /// Leaves the present connection if it leads elsewhere.
    fn go_to(&mut self, target: Target) {
        let target = self.settings_base(target);
        if !self.target.is_same_place(&target) {
            self.moving = true;
            if !self.target.is_same_origin(&target) {
                self.backoff.reset();
            }
        }
        self.target = target;
    }

    pub(super) fn tell(&mut self, event: ClientEvent) {
        self.waiting.retain(|old| !old.is_replaced_by(&event));
        let size = event.size();
        // The newest is kept, whatever its size; what waits besides is bounded as the session's own queue is.
        while self.waiting.len() >= WAITING_MAX
            || !self.waiting.is_empty() && self.waiting_bytes() + size > self.dial.max_message
        {
            let ranked = self.waiting.iter().map(|event| event.worth()).enumerate();
            // The first of equals, which is the oldest.
            match ranked.min_by_key(|(_, worth)| *worth) {
                Some((oldest, worth)) if worth != Worth::Owed => {
                    self.waiting.remove(oldest);
                    self.dropped = self.dropped.saturating_add(1);
                }
                _ => break,
            }
        }
        self.waiting.push_back(Box::new(event));
    }

    /// Shows the handle the counters.
    pub(super) fn publish(&self) {
        let mut stats = *self.session.stats();
        stats.events_dropped = stats.events_dropped.saturating_add(self.dropped);
        self.stats.send_if_modified(|shown| {
            let differs = *shown != stats;
            *shown = stats;
            differs
        });
    }

    fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|event| event.size()).sum()
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// `SplitMix64`: jitter needs spread, not secrecy.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientConfig, ClientHandle};
    use super::*;
    use crate::messages::{AGENT_CAPABILITIES_ALL, AgentRemoteConfig, CustomMessage};
    use crate::session::{SessionConfig, SessionEvent};
    use crate::settings::{Class, SavedSettings, SettingsEffect};

    fn client() -> (Client, ClientHandle) {
        let target = "ws://127.0.0.1:1".parse().unwrap();
        let config = SessionConfig::new([7; 16], AGENT_CAPABILITIES_ALL);
        Client::new(ClientConfig::new(config, target, 1)).unwrap()
    }

    fn save(id: u64, bytes: usize) -> ClientEvent {
        let state = SavedSettings(vec![0; bytes]);
        ClientEvent::Settings(SettingsEffect::Save { id, state })
    }

    fn destination(ticket: u64, class: Class) -> ClientEvent {
        ClientEvent::Settings(SettingsEffect::Destination {
            ticket,
            class,
            settings: None,
        })
    }

    fn custom(bytes: usize) -> ClientEvent {
        ClientEvent::Session(SessionEvent::CustomMessage(CustomMessage {
            data: vec![0; bytes],
            ..CustomMessage::default()
        }))
    }

    fn settings_waiting(client: &Client) -> Vec<u64> {
        let ids = client.waiting.iter().filter_map(|event| match **event {
            ClientEvent::Settings(SettingsEffect::Save { id, .. }) => Some(id),
            ClientEvent::Settings(SettingsEffect::Destination { ticket, .. }) => Some(ticket),
            _ => None,
        });
        ids.collect()
    }

    #[test]
    fn a_flood_that_nobody_reads_does_not_cost_what_must_be_answered() {
        let (mut client, handle) = client();
        client.tell(save(1, 100));
        client.tell(destination(2, Class::OwnLogs));
        client.tell(ClientEvent::Session(SessionEvent::RemoteConfig(
            AgentRemoteConfig::default(),
        )));
        for _ in 0..WAITING_MAX {
            client.tell(ClientEvent::Connected);
        }
        for _ in 0..WAITING_MAX {
            client.tell(custom(10));
        }
        assert_eq!(client.waiting.len(), WAITING_MAX);
        assert_eq!(settings_waiting(&client), [1, 2]);
        let is_offer = |event: &ClientEvent| event.worth() == Worth::Order;
        assert!(client.waiting.iter().any(|event| is_offer(event)));
        let news = client.waiting.iter();
        let news = news.filter(|event| matches!(***event, ClientEvent::Connected));
        assert_eq!(news.count(), WAITING_MAX - 4, "a custom message goes first");
        client.publish();
        let dropped = u64::try_from(WAITING_MAX + 3).unwrap();
        assert_eq!(handle.stats().events_dropped, dropped);
    }

    #[test]
    fn settings_count_with_all_their_bytes_and_the_last_of_a_kind_stands_for_all() {
        let (mut client, _handle) = client();
        client.dial.max_message = 64 * 1024;
        for _ in 0..10 {
            client.tell(custom(1024));
        }
        client.tell(save(1, 60 * 1024));
        assert!(client.waiting.len() < 5, "{}", client.waiting.len());
        client.tell(destination(2, Class::OwnLogs));
        client.tell(destination(3, Class::OwnTraces));
        client.tell(save(4, 100));
        client.tell(destination(5, Class::OwnLogs));
        assert_eq!(settings_waiting(&client), [3, 4, 5]);
    }
}
