//! The upload core: a bounded queue in memory, and a task that empties it chunk by chunk.
//!
//! Promises: a record leaves the queue when its chunk is acknowledged, never before, so that a cancelled call loses
//! nothing (it may repeat a chunk); a full queue drops the newest and books them; one bad record costs itself and
//! not its chunk; an endpoint that is down, throttles or refuses our credentials keeps its data and is asked again
//! by back-off, with its Retry-After up to 5 minutes.
//! Must never: read a source, or touch another upload.

mod console;
mod http;
pub(crate) mod lag;
mod otlp;
mod outcome;
pub(crate) mod queue;
mod series;
mod victoria;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opamp_client::{Backoff, BackoffConfig};
use tokio::sync::{mpsc, watch};

use super::book::Reason;
use super::config::{UploadConfig, UploadKind};
use super::health::{Health, HealthCell};
use super::record::{Record, Signal};
use crate::sys::clock;
use console::Console;
use lag::Progress;
use otlp::Otlp;
use outcome::Outcome;
use queue::Queued;
use victoria::Victoria;

/// Attempts of a chunk that the server answers with an error of its own, before the data is suspected.
const SUSPECT_ATTEMPTS: u32 = 5;

/// Attributes of everything that leaves this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Resource {
    /// Name and value.
    pub(crate) attributes: Vec<(String, String)>,
}

impl Resource {
    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipment {
    /// Chunks acknowledged since the queue was last empty.
    pub(crate) chunk: u64,
    /// Attempts at this chunk, this one included.
    pub(crate) attempt: u32,
}

/// What an uploader is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Run,
    /// Stop at once and give back what is queued.
    HandOver,
    /// Send what can be sent in this time, then give back the rest.
    Drain(Duration),
}

#[derive(Debug)]
enum Exporter {
    Victoria(Victoria),
    Otlp(Otlp),
    Console(Console),
}

impl Exporter {
    fn new(kind: &UploadKind, resource: &Resource) -> Self {
        match kind {
            UploadKind::VictoriaMetrics(http) => {
                Self::Victoria(Victoria::new(http.clone(), resource))
            }
            UploadKind::OtlpHttp(http) => Self::Otlp(Otlp::new(http.clone(), resource)),
            UploadKind::Console => Self::Console(Console::new(resource)),
        }
    }

    async fn send(&mut self, shipment: Shipment, signal: Signal, records: &[&Record]) -> Outcome {
        match self {
            Self::Victoria(victoria) => victoria.send(shipment, records).await,
            Self::Otlp(otlp) => otlp.send(signal, records).await,
            Self::Console(console) => console.send(records).await,
        }
    }
}

/// The task of one upload.
#[derive(Debug)]
pub(crate) struct Uploader {
    config: UploadConfig,
    exporter: Exporter,
    rx: mpsc::Receiver<Queued>,
    /// Taken from the queue and not acknowledged yet, in the order of sending.
    staged: VecDeque<Queued>,
    /// Records of the next chunk; smaller than configured while a bad record is hunted.
    window: usize,
    chunk: u64,
    attempt: u32,
    backoff: Backoff,
    health: HealthCell,
    progress: Arc<Progress>,
    draining: bool,
}

impl Uploader {
    /// Builds an uploader over a queue, with what an earlier one left behind.
    pub(crate) fn new(
        config: UploadConfig,
        resource: &Resource,
        rx: mpsc::Receiver<Queued>,
        left: Vec<Queued>,
        (health, progress): (HealthCell, Arc<Progress>),
    ) -> Self {
        let backoff = Backoff::new(BackoffConfig {
            initial: Duration::from_secs(1),
            growth_permille: 2000,
            jitter_permille: 200,
            max: Duration::from_secs(30),
            throttled_min: Duration::ZERO,
            retry_after_max: Duration::from_mins(5),
            rejected_min: Duration::from_mins(1),
            ..BackoffConfig::default()
        });
        Self {
            exporter: Exporter::new(&config.kind, resource),
            window: config.chunk,
            config,
            rx,
            staged: left.into(),
            chunk: 0,
            attempt: 0,
            backoff,
            health,
            progress,
            draining: false,
        }
    }

    /// Works until told otherwise; gives back what is left.
    pub(crate) async fn run(mut self, mut orders: watch::Receiver<Order>) -> Vec<Queued> {
        if self.health.get() == Health::Starting {
            self.health.set(Health::Ok);
        }
        tokio::select! {
            () = self.work() => {}
            // An error means that the pipeline is gone.
            _ = orders.wait_for(|order| *order != Order::Run) => {}
        }
        let order = *orders.borrow();
        if let Order::Drain(within) = order {
            self.draining = true;
            self.take_all();
            // Too late is no error: what is left is given back.
            _ = tokio::time::timeout(within, self.deliver()).await;
        }
        self.take_all();
        self.staged.into()
    }

    /// Gathers and delivers for ever. Safe to drop at any await: what is taken is in `staged`.
    async fn work(&mut self) {
        loop {
            self.gather().await;
            self.deliver().await;
        }
    }

    /// Waits for the first record, then for company, up to the interval or a full batch.
    async fn gather(&mut self) {
        if self.staged.is_empty() {
            match self.rx.recv().await {
                Some(first) => self.staged.push_back(first),
                None => std::future::pending().await,
            }
        }
        let mut waited = std::pin::pin!(tokio::time::sleep(self.config.interval));
        while self.staged.len() < self.config.batch {
            tokio::select! {
                next = self.rx.recv() => match next {
                    Some(next) => self.staged.push_back(next),
                    None => break,
                },
                () = &mut waited => break,
            }
        }
    }

    fn take_all(&mut self) {
        while let Ok(next) = self.rx.try_recv() {
            self.staged.push_back(next);
        }
    }

    /// Sends all that is staged; while draining, gives up at the first failure that is not the data's.
    async fn deliver(&mut self) {
        self.staged.make_contiguous().sort_by_key(Queued::order);
        self.chunk = 0;
        if !self.staged.is_empty() {
            self.progress.begin(clock::monotonic());
        }
        while let Some(first) = self.staged.front() {
            let signal = first.record().signal();
            let records: Vec<&Record> = self
                .staged
                .iter()
                .take(self.window)
                .map(Queued::record)
                .take_while(|record| record.signal() == signal)
                .collect();
            let count = records.len();
            self.attempt = self.attempt.saturating_add(1);
            let shipment = Shipment {
                chunk: self.chunk,
                attempt: self.attempt,
            };
            let outcome = self.exporter.send(shipment, signal, &records).await;
            if let Some(delay) = self.settle(count, outcome) {
                if self.draining {
                    return;
                }
                tokio::time::sleep(delay).await;
            }
        }
        self.progress.end();
    }

    /// Books what became of the first `count` records; says how long to wait if they must be sent again.
    fn settle(&mut self, count: usize, outcome: Outcome) -> Option<Duration> {
        let outcome = match outcome {
            Outcome::Retry { why, suspect, .. } if suspect && self.attempt >= SUSPECT_ATTEMPTS => {
                Outcome::Poison(why)
            }
            other => other,
        };
        match outcome {
            Outcome::Accepted { left_out, why } => {
                let left_out = usize::try_from(left_out).unwrap_or(count).min(count);
                self.deliver_first(count - left_out);
                // An endpoint that leaves everything out has taken nothing.
                if left_out < count {
                    self.progress.advance(clock::now());
                }
                self.drop_first(left_out, Reason::PartialSuccess);
                self.chunk += 1;
                self.next_chunk();
                self.backoff.reset();
                self.window = self.window.saturating_mul(2).min(self.config.chunk);
                self.health.set(if left_out == 0 {
                    Health::Ok
                } else {
                    Health::Degraded(format!("the endpoint left out records: {why}"))
                });
                None
            }
            Outcome::Split(why) => {
                self.halve_or_drop(count, Reason::TooLarge, &why);
                None
            }
            Outcome::Poison(why) => {
                self.halve_or_drop(count, Reason::Rejected, &why);
                None
            }
            Outcome::Refused(why) => {
                self.drop_first(count, Reason::Rejected);
                self.next_chunk();
                self.health
                    .set(Health::Down(format!("records are dropped: {why}")));
                None
            }
            Outcome::Denied(why) => {
                self.health
                    .set(Health::Down(format!("records are kept: {why}")));
                Some(self.backoff.rejected(fastrand::u64(..)))
            }
            Outcome::Retry { why, after, .. } => {
                // However long it lasts: an endpoint that is away says nothing about our config, and a rollout that is
                // in its window must not go back for it.
                self.health.set(Health::Degraded(why));
                let random = fastrand::u64(..);
                Some(match after {
                    Some(after) => self.backoff.throttled(random, Some(after)),
                    None => self.backoff.next_delay(random),
                })
            }
        }
    }

    fn halve_or_drop(&mut self, count: usize, reason: Reason, why: &str) {
        if count > 1 {
            self.window = count.div_ceil(2);
        } else {
            self.drop_first(1, reason);
            let word = reason.word();
            self.health.set(Health::Degraded(format!(
                "a record was dropped as {word}: {why}"
            )));
        }
        self.next_chunk();
    }

    fn next_chunk(&mut self) {
        self.attempt = 0;
    }

    fn deliver_first(&mut self, count: usize) {
        for queued in self.staged.drain(..count) {
            queued.deliver();
        }
    }

    fn drop_first(&mut self, count: usize, reason: Reason) {
        for queued in self.staged.drain(..count) {
            queued.give_up(reason);
        }
    }
}

/// Whether an upload has a form for a record whose signal it carries.
pub(crate) fn can_say(kind: &UploadKind, record: &Record) -> bool {
    match (kind, record) {
        (UploadKind::VictoriaMetrics(_), Record::Otlp(record)) => series::can_say(record),
        _ => true,
    }
}

/// Compresses at the fastest level: the body is small and the network is not the bottleneck of a host.
fn gzip(bytes: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish().map(Bytes::from)
}

#[cfg(test)]
pub(super) mod tests;
