//! The one place that holds the fleet: every connection and every request asks it, one at a time, in order.
//!
//! Promises: no locks; every queue is bounded (a link whose agent does not read is closed, an event stream that does
//! not read is told how much it missed); what changed is told to the event streams before the one who asked gets an
//! answer.
//! Must never: wait for anybody; calls are plain functions over the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use opamp_client::messages::AgentToServer;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::fleet::{Fleet, Outgoing, Reaction};
use super::uid::Uid;
use super::view;
use crate::units::{LinkId, WallTime};

/// Calls waiting for the hub.
const CALLS_MAX: usize = 256;
/// Messages waiting for one agent to read.
const OUTGOING_MAX: usize = 32;
/// Events that a slow stream may be behind.
const EVENTS_MAX: usize = 512;

/// How new links are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// They are taken.
    #[default]
    Accept,
    /// They are refused with an HTTP status.
    Reject {
        /// The status, 400 to 599.
        status: u16,
        /// Seconds for `Retry-After`.
        retry_after: Option<u64>,
    },
}

/// A change, ready for the event streams.
#[derive(Debug)]
pub(super) struct Event {
    /// The agent it is about.
    pub(super) uid: Uid,
    /// JSON.
    pub(super) data: String,
}

/// The state behind the door.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) fleet: Fleet,
    pub(super) mode: Mode,
    links: BTreeMap<LinkId, mpsc::Sender<Outgoing>>,
    next_link: u64,
    clock: fn() -> WallTime,
    events: broadcast::Sender<Arc<Event>>,
}

/// What a connection gets when it is let in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) link: LinkId,
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
}

impl Hub {
    /// The wall clock's reading.
    pub(super) fn now(&self) -> WallTime {
        (self.clock)()
    }

    /// Lets a connection in, or says how to turn it away.
    pub(super) fn admit(&mut self) -> Result<Admitted, Mode> {
        if self.mode != Mode::Accept {
            return Err(self.mode);
        }
        let link = LinkId(self.next_link);
        self.next_link = self.next_link.saturating_add(1);
        let (tx, outgoing) = mpsc::channel(OUTGOING_MAX);
        self.links.insert(link, tx);
        Ok(Admitted { link, outgoing })
    }

    /// A message came over a link.
    pub(super) fn heard(&mut self, link: LinkId, message: AgentToServer) {
        let now = self.now();
        let reaction = self.fleet.receive(now, link, message);
        self.perform(reaction);
    }

    /// A link is gone.
    pub(super) fn gone(&mut self, link: LinkId, why: &str) {
        self.links.remove(&link);
        let now = self.now();
        let reaction = self.fleet.closed(now, link, why);
        self.publish(&reaction);
    }

    /// Closes every link.
    pub(super) fn drop_links(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.send(link, Outgoing::Close);
        }
    }

    /// Carries out what the fleet decided.
    pub(super) fn perform(&mut self, reaction: Reaction) {
        self.publish(&reaction);
        for (link, outgoing) in reaction.send {
            self.send(link, outgoing);
        }
    }

    fn send(&mut self, link: LinkId, outgoing: Outgoing) {
        let Some(tx) = self.links.get(&link) else {
            return;
        };
        if let Err(error) = tx.try_send(outgoing) {
            let why = match error {
                mpsc::error::TrySendError::Full(_) => "the agent does not read what it is sent",
                mpsc::error::TrySendError::Closed(_) => "the link is closed",
            };
            // Without its sender the connection's task ends.
            self.gone(link, why);
        }
    }

    fn publish(&self, reaction: &Reaction) {
        if self.events.receiver_count() == 0 {
            return;
        }
        for change in &reaction.changes {
            let Ok(agent) = self.fleet.agent(change.uid) else {
                continue;
            };
            let data = view::change(agent, change.entries_from, &change.parts).to_string();
            let event = Event {
                uid: change.uid,
                data,
            };
            // Nobody listening any more is no error.
            self.events.send(Arc::new(event)).ok();
        }
    }
}

/// A way to ask the hub; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Door {
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<Arc<Event>>,
}

/// The server is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this server is stopping")]
pub(super) struct Stopping;

/// A function to be run over the hub.
struct Call(Box<dyn FnOnce(&mut Hub) + Send>);

impl Door {
    /// Runs `question` over the hub and brings its answer.
    ///
    /// # Errors
    /// The hub is gone.
    pub(super) async fn ask<T, F>(&self, question: F) -> Result<T, Stopping>
    where
        T: Send + 'static,
        F: FnOnce(&mut Hub) -> T + Send + 'static,
    {
        let (answer, reply) = oneshot::channel();
        let call = Call(Box::new(move |hub| {
            // Whoever asked may have gone; that is their affair.
            answer.send(question(hub)).ok();
        }));
        self.calls.send(call).await.map_err(|_| Stopping)?;
        reply.await.map_err(|_| Stopping)
    }

    /// Opens a stream of everything that changes from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }
}

/// The hub and its queue, to be driven by the server's own task set.
pub(super) struct Drive {
    hub: Hub,
    calls: mpsc::Receiver<Call>,
}

impl std::fmt::Debug for Drive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drive")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

/// Builds a hub.
pub(super) fn open(fleet: Fleet, clock: fn() -> WallTime) -> (Door, Drive) {
    let (tx, calls) = mpsc::channel(CALLS_MAX);
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let hub = Hub {
        fleet,
        mode: Mode::Accept,
        links: BTreeMap::new(),
        next_link: 1,
        clock,
        events: events.clone(),
    };
    (Door { calls: tx, events }, Drive { hub, calls })
}

impl Drive {
    /// Answers calls until the last door is dropped.
    pub(super) async fn run(mut self) {
        while let Some(Call(call)) = self.calls.recv().await {
            call(&mut self.hub);
        }
    }
}
