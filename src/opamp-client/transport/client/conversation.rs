//! One connection of a client: the session talks over the pump until one of them ends it.
//!
//! Promises: a message is made only when it is certain to leave; leaving (told to stop, to go elsewhere, or asked to
//! by an overloaded server) says goodbye first and is bounded in time.
//! Must never: decide what comes after the connection; that is `run.rs`.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Client, ClientEvent};
use crate::session::SessionEvent;
use crate::transport::pump::{Closed, ClosedBy, ClosedClass, FrameSender, Pump};
use crate::transport::{Connection, Permit};

/// What was learnt on one connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Life {
    /// From the handshake to the end.
    pub(super) lasted: Duration,
    /// Plain HTTP.
    polling: bool,
    /// The server sent at least one message without error.
    pub(super) answered: bool,
    /// The server asked us to go away.
    pub(super) unavailable: bool,
    /// For how long.
    pub(super) retry_after: Option<Duration>,
}

impl Client {
    pub(super) async fn converse(&mut self, connection: Connection) -> (Closed, Life) {
        let polling = connection.is_polling();
        let (pump, sender, mut receiver) = Pump::new(connection, self.pump);
        let mut pump = pin!(pump.run());
        let mut sender = Some(sender);
        let mut life = Life {
            polling,
            ..Life::default()
        };
        let events = self.events.clone();
        let start = self.now();
        if polling {
            self.session.handle_polling(start);
        } else {
            self.session.handle_connected(start);
            self.settings_connected();
        }
        let closed = loop {
            self.publish();
            let leaving = self.stopping || self.moving || life.unavailable;
            if leaving {
                self.session.disconnect(self.now());
            }
            let wake = self.session.poll_timeout();
            let owes = wake.is_some_and(|at| at <= self.now());
            if leaving && !owes {
                // Goodbye is queued; without a sender the pump closes behind it.
                sender = None;
            }
            let wake = wake.filter(|_| !owes).map(|at| self.start + at);
            let due = self.settings_due();
            tokio::select! {
                closed = &mut pump => break closed,
                permit = reserve(sender.as_ref()), if owes => {
                    // A message is made only when it is certain to leave: it takes a sequence number.
                    if let Some(permit) = permit
                        && let Some(frame) = self.session.poll_transmit(self.now())
                    {
                        permit.send(frame);
                    }
                    self.collect(&mut life);
                }
                Some(frame) = receiver.recv() => self.hear(&frame, &mut life),
                change = self.changes.recv(), if !self.stopping => self.apply(change),
                permit = events.reserve(), if !self.waiting.is_empty() => {
                    if let (Some(event), Ok(permit)) = (self.waiting.pop_front(), permit) {
                        permit.send(event);
                    }
                }
                () = wait(wake) => self.session.handle_timeout(self.now()),
                () = wait(due) => self.settings_timeout(),
            }
        };
        // What arrived before the end still counts.
        while let Some(frame) = receiver.recv().await {
            self.hear(&frame, &mut life);
        }
        if closed.by == ClosedBy::Peer && closed.class() == ClosedClass::TooLarge {
            self.session.handle_too_large(self.now());
            self.collect(&mut life);
        }
        self.session.handle_disconnected(self.now());
        life.lasted = self.now().saturating_sub(start);
        (closed, life)
    }

    fn hear(&mut self, frame: &[u8], life: &mut Life) {
        let result = self.session.handle_frame(self.now(), frame);
        let events: Vec<_> = std::iter::from_fn(|| self.session.poll_event()).collect();
        match result {
            Ok(()) => {
                if life.polling && !life.answered {
                    // What was dialled proves nothing before the first answer.
                    self.settings_connected();
                }
                life.answered = true;
                let events = self.settings_heard(events);
                self.pass_on(events, life);
            }
            Err(error) => {
                self.tell(ClientEvent::Malformed(error));
                self.pass_on(events, life);
            }
        }
    }

    /// Takes the session's events at once: one of them ends the connection, however slow the reader is.
    fn collect(&mut self, life: &mut Life) {
        let events = std::iter::from_fn(|| self.session.poll_event()).collect();
        self.pass_on(events, life);
    }

    fn pass_on(&mut self, events: Vec<SessionEvent>, life: &mut Life) {
        for event in events {
            if let SessionEvent::Unavailable { retry_after } = event {
                life.unavailable = true;
                life.retry_after = retry_after;
            }
            self.tell(ClientEvent::Session(event));
        }
    }
}

pub(super) async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn reserve(sender: Option<&FrameSender>) -> Option<Permit<'_>> {
    match sender {
        Some(sender) => sender.reserve().await.ok(),
        None => std::future::pending().await,
    }
}
