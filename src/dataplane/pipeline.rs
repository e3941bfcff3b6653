//! Sources → queues → uploads: who runs, what flows where, and the books of it all.
//!
//! Promises: one `apply` turns what runs into what a config says, touching only parts whose definition changed — a
//! changed or vanished source is read to its end first, the queue of a changed upload goes to its successor, that
//! of a vanished one is drained; one part that fails is tried again by back-off and stops nobody; the books close
//! at every moment.
//! Must never: read a config file, or wait for an endpoint.
//!
//! `next` is safe to drop at any await and changes nothing; `handle` does what it found and must run to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use opamp_client::{Backoff, BackoffConfig};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::admission::{Gate, Takers};
use super::book::{Book, Reason, Totals};
use super::collect::kernel::Prepared;
use super::collect::otlp::Parked;
use super::collect::{AnySource, Batch, Events, Source as _};
use super::config::{Config, SourceConfig, UploadConfig};
use super::health::{Health, HealthCell};
use super::record::Signal;
use super::upload::lag::{self, Progress};
use super::upload::queue::{self, Inlet, Queued};
use super::upload::{self, Order, Resource, Uploader};
use crate::sys::clock;
use crate::units::{Moment, WallTime};

/// Time that a vanished upload gets to empty its queue.
const RETIRE_MAX: Duration = Duration::from_secs(30);

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Pipeline {
    resource: Resource,
    sources: Vec<SourceSlot>,
    uploads: Vec<UploadSlot>,
    retiring: Vec<UploadSlot>,
    /// Totals of pairs that are no more.
    past: Totals,
    changed: Arc<Notify>,
    /// What was attached for the source of kernel events, until it is built.
    prepared: Option<Prepared>,
    /// The source that is looked at first, so that a loud one does not starve the rest.
    turn: usize,
}

#[derive(Debug)]
struct SourceSlot {
    id: Arc<str>,
    config: SourceConfig,
    source: AnySource,
    events: Option<Events>,
    restart: Option<Pin<Box<Sleep>>>,
    backoff: Backoff,
    book: Arc<Book>,
    health: HealthCell,
    /// Who takes from it, for its gate.
    takers: watch::Sender<Takers>,
}

#[derive(Debug)]
struct UploadSlot {
    id: Arc<str>,
    config: UploadConfig,
    inlet: Inlet,
    orders: watch::Sender<Order>,
    task: JoinSet<Vec<Queued>>,
    /// One book per source it takes from, those of former configs with pending records included.
    books: Vec<(Arc<str>, Arc<Book>)>,
    health: HealthCell,
    progress: Arc<Progress>,
}

/// Something to be handled.
#[derive(Debug)]
pub(crate) enum Event {
    /// A source emitted.
    Records(usize, Batch),
    /// A source's stream ended without a stop.
    SourceDied(usize),
    /// It is time to start a source again.
    SourceRestart(usize),
    /// An uploader ended without an order.
    UploadDied(usize),
    /// A vanished upload is done.
    Retired(usize, Vec<Queued>),
}

/// The state of one part, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartReport {
    /// `source.<id>` or `upload.<id>`.
    pub(crate) name: String,
    /// How it feels.
    pub(crate) health: Health,
    /// Its books.
    pub(crate) totals: Totals,
    /// Of an upload: how it keeps up.
    pub(crate) pace: Option<Pace>,
}

/// How an upload keeps up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Percent of its queue that are taken.
    pub(crate) queue_percent: usize,
    /// When a record was acknowledged last.
    pub(crate) acknowledged: Option<WallTime>,
}

impl Pipeline {
    /// Nothing runs yet. `changed` is woken when a report would differ.
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self {
            resource: Resource::default(),
            sources: Vec::new(),
            uploads: Vec::new(),
            retiring: Vec::new(),
            past: Totals::default(),
            changed,
            prepared: None,
            turn: 0,
        }
    }

    /// Takes what was attached for the source of kernel events.
    pub(crate) fn prepared(mut self, prepared: Option<Prepared>) -> Self {
        self.prepared = prepared;
        self
    }

    /// Waits for something to handle.
    ///
    /// # Cancel safety
    /// Safe: an event that is not returned is not taken.
    pub(crate) async fn next(&mut self) -> Event {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let count = self.sources.len();
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            let Some(slot) = self.sources.get_mut(index) else {
                continue;
            };
            if let Some(event) = slot.poll(index, context) {
                self.turn = index + 1;
                return Poll::Ready(event);
            }
        }
        for (index, slot) in self.uploads.iter_mut().enumerate() {
            if let Poll::Ready(Some(_)) = slot.task.poll_join_next(context) {
                return Poll::Ready(Event::UploadDied(index));
            }
        }
        for (index, slot) in self.retiring.iter_mut().enumerate() {
            if let Poll::Ready(ended) = slot.task.poll_join_next(context) {
                let left = ended.and_then(Result::ok).unwrap_or_default();
                return Poll::Ready(Event::Retired(index, left));
            }
        }
        Poll::Pending
    }

    /// Does what an event asks for.
    pub(crate) async fn handle(&mut self, event: Event) {
        match event {
            Event::Records(index, batch) => {
                if let Some(slot) = self.sources.get_mut(index) {
                    // It works: its next failure is a first one.
                    slot.backoff.reset();
                }
                self.route(index, batch);
            }
            Event::SourceDied(index) => {
                if let Some(slot) = self.sources.get_mut(index) {
                    slot.source.stop().await;
                    let name = slot.source.name();
                    slot.fail(format!("the source {name} ended without being asked to"));
                }
            }
            Event::SourceRestart(index) => {
                if let Some(slot) = self.sources.get_mut(index) {
                    slot.start().await;
                }
            }
            Event::UploadDied(index) => {
                let Some(slot) = self.uploads.get_mut(index) else {
                    return;
                };
                // What it held was booked as abandoned when its task was dropped.
                slot.health.set(Health::Down(
                    "its task died and was started again; what it held is lost".to_owned(),
                ));
                slot.spawn(&self.resource, Vec::new());
            }
            Event::Retired(index, left) => {
                let slot = self.retiring.swap_remove(index);
                self.bury(&slot, left, Reason::Removed);
            }
        }
    }

    /// Turns what runs into what `config` says.
    pub(crate) async fn apply(&mut self, config: &Config, resource: Resource) {
        let mut parked = self
            .stop_sources(|slot| {
                let wanted = config.sources.iter().find(|(id, _)| **id == *slot.id);
                wanted.is_none_or(|(_, wanted)| *wanted != slot.config)
            })
            .await;
        let fresh = self.resource != resource;
        self.resource = resource;
        self.arrange_uploads(config, fresh).await;
        for (id, config) in &config.sources {
            if self.sources.iter().any(|slot| *slot.id == **id) {
                continue;
            }
            let changed = Arc::clone(&self.changed);
            let mut slot = SourceSlot::new(id, config.clone(), changed, &mut self.prepared);
            slot.source.inherit(&mut parked);
            // It must know who is behind it before anybody can ask.
            slot.tell(&self.uploads);
            slot.start().await;
            self.sources.push(slot);
        }
        for slot in &self.sources {
            slot.tell(&self.uploads);
        }
        self.turn = 0;
        self.changed.notify_one();
    }

    /// Stops everything inside the budget; what cannot be delivered in it is counted.
    pub(crate) async fn stop(&mut self, budget: Duration) {
        // Reading out the sources takes no network; a tenth of the budget is more than enough.
        let sources = self.stop_sources(|_| true);
        if tokio::time::timeout(budget / 10, sources).await.is_err() {
            tracing::warn!("a source did not stop in time");
        }
        let within = budget.mul_f32(0.7);
        let mut slots: Vec<_> = self
            .uploads
            .drain(..)
            .chain(self.retiring.drain(..))
            .collect();
        for slot in &slots {
            slot.orders.send_replace(Order::Drain(within));
        }
        let joined = async {
            for slot in &mut slots {
                let left = slot.task.join_next().await;
                for queued in left.and_then(Result::ok).unwrap_or_default() {
                    queued.give_up(Reason::Shutdown);
                }
            }
        };
        if tokio::time::timeout(budget.mul_f32(0.8), joined)
            .await
            .is_err()
        {
            // A vanished upload may be draining under its own, longer limit: what it holds is booked as abandoned.
            for slot in &mut slots {
                slot.task.shutdown().await;
            }
        }
        for slot in &slots {
            self.bury(slot, Vec::new(), Reason::Shutdown);
        }
    }

    /// The state of every part, sources first.
    pub(crate) fn parts(&self) -> Vec<PartReport> {
        let sources = self.sources.iter().map(|slot| PartReport {
            name: format!("source.{}", slot.id),
            health: slot.source.healthy(),
            totals: slot.book.totals(),
            pace: None,
        });
        let now = clock::monotonic();
        let uploads = self.uploads.iter().map(|slot| slot.report(now));
        sources.chain(uploads).collect()
    }

    /// The books of all source–upload pairs there are and were.
    pub(crate) fn delivery_totals(&self) -> Totals {
        let mut totals = self.past;
        for slot in self.uploads.iter().chain(&self.retiring) {
            totals.add(&slot.totals());
        }
        totals
    }

    /// Ids of sources that nobody takes from.
    pub(crate) fn untaken(&self) -> Vec<&str> {
        self.sources
            .iter()
            .map(|slot| &*slot.id)
            .filter(|id| !self.uploads.iter().any(|upload| upload.takes(id)))
            .collect()
    }

    /// Stops the sources chosen, routing what they had read; their listening sockets stay open until the answer is
    /// dropped.
    async fn stop_sources(&mut self, chosen: impl Fn(&SourceSlot) -> bool) -> Vec<Parked> {
        let mut parked = Vec::new();
        let mut index = 0;
        while let Some(slot) = self.sources.get_mut(index) {
            if !chosen(slot) {
                index += 1;
                continue;
            }
            slot.source.stop().await;
            parked.extend(slot.source.park());
            let mut rest = Vec::new();
            if let Some(mut events) = slot.events.take() {
                while let Some(batch) = std::future::poll_fn(|cx| events.poll_next(cx)).await {
                    rest.push(batch);
                }
            }
            for batch in rest {
                self.route(index, batch);
            }
            let slot = self.sources.remove(index);
            let totals = slot.book.totals();
            tracing::info!(source = %slot.id, books = %totals, "source stopped");
        }
        parked
    }

    /// Hands records to the uploads that take them from this source and can carry them.
    fn route(&self, index: usize, batch: Batch) {
        let Some(slot) = self.sources.get(index) else {
            return;
        };
        let targets: Vec<_> = self
            .uploads
            .iter()
            .filter_map(|upload| Some((upload, upload.book_of(&slot.id)?)))
            .collect();
        let Batch {
            records,
            mut reserved,
            ..
        } = batch;
        for record in records {
            let record = Arc::new(record);
            let mut taken = false;
            for (upload, book) in &targets {
                if !upload.config.kind.carries(record.signal()) {
                    continue;
                }
                taken = true;
                if !upload::can_say(&upload.config.kind, &record) {
                    book.receive(1);
                    book.drop_pending(1, Reason::Unsupported);
                    continue;
                }
                let place = reserved.iter_mut().find(|room| room.is_in(&upload.inlet));
                upload.inlet.push(&record, &slot.id, book, place);
            }
            if !taken {
                slot.book.lose_delivered(1, Reason::NoUpload);
            }
        }
    }

    async fn arrange_uploads(&mut self, config: &Config, fresh: bool) {
        let mut before = std::mem::take(&mut self.uploads);
        for (id, wanted) in &config.uploads {
            let place = before.iter().position(|slot| *slot.id == **id);
            let slot = match place.map(|place| before.swap_remove(place)) {
                Some(slot) if slot.config == *wanted && !fresh => slot,
                Some(slot) => slot.changed(wanted.clone(), &self.resource).await,
                None => {
                    let changed = Arc::clone(&self.changed);
                    UploadSlot::new(id, wanted.clone(), &self.resource, changed)
                }
            };
            self.uploads.push(slot);
        }
        for slot in before {
            slot.orders.send_replace(Order::Drain(RETIRE_MAX));
            self.retiring.push(slot);
        }
    }

    fn bury(&mut self, slot: &UploadSlot, left: Vec<Queued>, reason: Reason) {
        for queued in left {
            queued.give_up(reason);
        }
        let totals = slot.totals();
        self.past.add(&totals);
        tracing::info!(upload = %slot.id, books = %totals, "upload stopped");
    }
}

impl SourceSlot {
    fn new(
        id: &str,
        config: SourceConfig,
        changed: Arc<Notify>,
        prepared: &mut Option<Prepared>,
    ) -> Self {
        let book = Arc::new(Book::default());
        let health = HealthCell::new(&format!("source.{id}"), changed);
        let (takers, gate) = Gate::new();
        Self {
            id: id.into(),
            source: AnySource::build(
                id,
                &config,
                Arc::clone(&book),
                gate,
                health.clone(),
                prepared,
            ),
            config,
            events: None,
            restart: None,
            backoff: Backoff::new(BackoffConfig {
                initial: Duration::from_secs(1),
                growth_permille: 2000,
                jitter_permille: 200,
                ..BackoffConfig::default()
            }),
            book,
            health,
            takers,
        }
    }

    /// Says who takes what from it.
    fn tell(&self, uploads: &[UploadSlot]) {
        let mut takers = Takers::default();
        for upload in uploads.iter().filter(|upload| upload.takes(&self.id)) {
            let signals = Signal::ALL
                .into_iter()
                .filter(|signal| upload.config.kind.carries(*signal))
                .collect();
            takers.add(&upload.id, signals, upload.inlet.room());
        }
        self.takers.send_replace(takers);
    }

    async fn start(&mut self) {
        match self.source.start().await {
            Ok(()) => {
                self.events = self.source.events();
                tracing::info!(source = %self.id, "source started");
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, why: String) {
        self.health.set(Health::Down(why));
        self.events = None;
        let delay = self.backoff.next_delay(fastrand::u64(..));
        self.restart = Some(Box::pin(tokio::time::sleep(delay)));
    }

    fn poll(&mut self, index: usize, context: &mut Context<'_>) -> Option<Event> {
        if let Some(events) = &mut self.events {
            match events.poll_next(context) {
                Poll::Ready(Some(records)) => return Some(Event::Records(index, records)),
                Poll::Ready(None) => return Some(Event::SourceDied(index)),
                Poll::Pending => {}
            }
        }
        let due = self.restart.as_mut()?.as_mut().poll(context).is_ready();
        if !due {
            return None;
        }
        self.restart = None;
        Some(Event::SourceRestart(index))
    }
}

impl UploadSlot {
    fn new(id: &str, config: UploadConfig, resource: &Resource, changed: Arc<Notify>) -> Self {
        let (inlet, _) = queue::open(config.queue, Arc::default());
        let mut slot = Self {
            id: id.into(),
            inlet,
            orders: watch::Sender::new(Order::Run),
            task: JoinSet::new(),
            books: Vec::new(),
            health: HealthCell::new(&format!("upload.{id}"), changed),
            progress: Arc::default(),
            config,
        };
        slot.open_books();
        slot.spawn(resource, Vec::new());
        slot
    }

    /// Starts the task over a fresh queue and what an earlier one left.
    fn spawn(&mut self, resource: &Resource, left: Vec<Queued>) {
        let (inlet, rx) = queue::open(self.config.queue, self.inlet.fill());
        self.inlet = inlet;
        self.orders = watch::Sender::new(Order::Run);
        let seen = (self.health.clone(), Arc::clone(&self.progress));
        let uploader = Uploader::new(self.config.clone(), resource, rx, left, seen);
        self.task = JoinSet::new();
        self.task.spawn(uploader.run(self.orders.subscribe()));
        tracing::info!(upload = %self.id, "upload started");
    }

    /// Replaces the definition; the queue goes over.
    async fn changed(mut self, config: UploadConfig, resource: &Resource) -> Self {
        self.orders.send_replace(Order::HandOver);
        let left = self.task.join_next().await;
        let left = left.and_then(Result::ok).unwrap_or_default();
        self.config = config;
        self.open_books();
        let mut kept = Vec::with_capacity(left.len());
        for queued in left {
            let carried = self.config.kind.carries(queued.record().signal());
            if carried && self.takes(queued.source()) {
                kept.push(queued);
            } else {
                queued.give_up(Reason::Removed);
            }
        }
        self.health.set(Health::Starting);
        self.spawn(resource, kept);
        self
    }

    fn report(&self, now: Moment) -> PartReport {
        let queue_percent = self.inlet.percent();
        let waited = self.progress.waited(now);
        let own = self.health.get();
        PartReport {
            name: format!("upload.{}", self.id),
            health: lag::judge(own, &self.config.thresholds, waited, queue_percent),
            totals: self.totals(),
            pace: Some(Pace {
                queue_percent,
                acknowledged: self.progress.acknowledged(),
            }),
        }
    }

    fn takes(&self, source: &str) -> bool {
        self.config.from.iter().any(|from| from == source)
    }

    fn open_books(&mut self) {
        for source in &self.config.from {
            if !self.books.iter().any(|(id, _)| **id == **source) {
                self.books.push((source.as_str().into(), Arc::default()));
            }
        }
    }

    fn book_of(&self, source: &str) -> Option<&Arc<Book>> {
        if !self.takes(source) {
            return None;
        }
        self.books
            .iter()
            .find(|(id, _)| **id == *source)
            .map(|(_, book)| book)
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (_, book) in &self.books {
            totals.add(&book.totals());
        }
        totals
    }
}
