//! One destination of logs or traces: a queue, batches, requests, patience.
//!
//! Promises: whoever brings a record never waits; a batch that a receiver may take later is kept and tried again, with
//! growing pauses or as long as the receiver asks for, until it is too old; what is refused for good is dropped. Every
//! record is counted once. At the stop what is left is sent once.
//! Must never: log each failure; the log would be what is sent next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::Method;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use opamp_client::transport::ProxyRules;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::encode::{self, Sender};
use crate::config::telemetry::Export;
use crate::port::fetch::{self, FetchRequest, fetch};

/// Bytes of an answer that are looked at: a refusal in words.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Pauses between tries.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// No receiver may park us longer than this by one answer.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// What is older than this is of no use to anybody.
const TRIES_MAX: Duration = Duration::from_mins(5);

/// One record.
#[derive(Debug)]
pub(super) enum Record {
    Log(Box<LogRecord>),
    Span(Box<Span>),
}

/// What became of records, each counted once.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// The near end of a queue.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    queue: mpsc::Sender<Record>,
    pub(super) counts: Arc<Counts>,
}

/// The far end of a queue, before it is known where it leads.
#[derive(Debug)]
pub(super) struct Queue {
    records: mpsc::Receiver<Record>,
    counts: Arc<Counts>,
}

impl Intake {
    /// A queue with room for `max` records.
    pub(super) fn new(max: usize) -> (Self, Queue) {
        let (queue, records) = mpsc::channel(max.max(1));
        let counts = Arc::new(Counts::default());
        let far = Queue {
            records,
            counts: Arc::clone(&counts),
        };
        (Self { queue, counts }, far)
    }

    /// Brings a record; a full queue drops it.
    pub(super) fn push(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Outlet {
    pub(super) signal: &'static str,
    pub(super) export: Export,
    pub(super) sender: Arc<Sender>,
    pub(super) proxies: ProxyRules,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) again: Again,
}

/// When to send the same once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// There is no use in it.
    Never,
    /// When we see fit.
    Sometime,
    /// As long as the receiver asked for.
    After(Duration),
}

impl Outlet {
    /// Sends one body.
    pub(super) async fn send(&self, body: Vec<u8>) -> Result<(), Refusal> {
        let (body, is_gzip) = encode::compressed(body, self.export.gzip);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.export.headers {
            let parsed = (
                name.parse::<HeaderName>(),
                value.expose().parse::<HeaderValue>(),
            );
            let (Ok(name), Ok(value)) = parsed else {
                return Err(Refusal {
                    reason: format!("the header {name:?} of the settings is none"),
                    again: Again::Never,
                });
            };
            headers.append(name, value);
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        if is_gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let later = |reason: String| Refusal {
            reason,
            again: Again::Sometime,
        };
        let tls = fetch::tls_options(self.export.tls.clone())
            .await
            .map_err(later)?;
        let request = FetchRequest {
            method: Method::POST,
            url: self.export.url.clone(),
            headers,
            body,
            deadline: self.export.timeout,
            body_max: ANSWER_BYTES_MAX,
        };
        let answer = match fetch(request, tls, &self.proxies).await {
            Ok(answer) => answer,
            // Certificates and names are mended while we run.
            Err(error) => return Err(later(error.to_string())),
        };
        let again = match answer.status {
            200..=299 => return Ok(()),
            429 | 502..=504 => answer.retry_after().map_or(Again::Sometime, |asked| {
                Again::After(asked.min(RETRY_AFTER_MAX))
            }),
            _ => Again::Never,
        };
        let url = fetch::shown(&self.export.url);
        let reason = format!("{url} answers {}", answer.status);
        Err(Refusal { reason, again })
    }
}

/// Whether the receiver takes what it is sent, for one line in the log at each change.
#[derive(Debug, Default)]
pub(super) struct Mood {
    is_failing: bool,
}

impl Mood {
    pub(super) fn tell(&mut self, outlet: &Outlet, result: Result<(), &Refusal>) {
        let was_failing = std::mem::replace(&mut self.is_failing, result.is_err());
        let signal = outlet.signal;
        match result {
            Err(refusal) if !was_failing => {
                let reason = &refusal.reason;
                tracing::warn!(signal, reason, "own telemetry is not taken");
            }
            Ok(()) if was_failing => tracing::info!(signal, "own telemetry is taken again"),
            _ => {}
        }
    }
}

/// A queue and where it leads.
#[derive(Debug)]
pub(super) struct Pipeline {
    queue: mpsc::Receiver<Record>,
    counts: Arc<Counts>,
    outlet: Outlet,
    /// True once what is left is to be sent.
    stop: watch::Receiver<bool>,
    mood: Mood,
}

impl Pipeline {
    /// Joins them.
    pub(super) fn new(queue: Queue, outlet: Outlet, stop: watch::Receiver<bool>) -> Self {
        Self {
            queue: queue.records,
            counts: queue.counts,
            outlet,
            stop,
            mood: Mood::default(),
        }
    }

    /// Sends until the stop.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.next().await {
            self.deliver(batch).await;
        }
    }

    /// The next batch: full, or as old as a record may become. None at the end.
    async fn next(&mut self) -> Option<Vec<Record>> {
        let max = self.outlet.export.batch_max;
        let mut batch = Vec::new();
        let stopping = *self.stop.borrow();
        if !stopping {
            let first = tokio::select! {
                first = self.queue.recv() => first,
                _ = self.stop.changed() => None,
            };
            batch.extend(first);
            let linger = sleep(self.outlet.export.every);
            tokio::pin!(linger);
            while !batch.is_empty() && batch.len() < max && !*self.stop.borrow() {
                tokio::select! {
                    more = self.queue.recv() => match more {
                        Some(more) => batch.push(more),
                        None => break,
                    },
                    () = &mut linger => break,
                    _ = self.stop.changed() => break,
                }
            }
        }
        while batch.len() < max
            && let Ok(more) = self.queue.try_recv()
        {
            batch.push(more);
        }
        (!batch.is_empty() || (!*self.stop.borrow() && !self.queue.is_closed())).then_some(batch)
    }

    async fn deliver(&mut self, batch: Vec<Record>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let body = self.body(batch);
        let mut pause = PAUSE_FIRST;
        let mut waited = Duration::ZERO;
        loop {
            let result = self.outlet.send(body.clone()).await;
            self.mood.tell(&self.outlet, result.as_ref().copied());
            let Err(refusal) = result else {
                self.counts.sent.fetch_add(count, Ordering::Relaxed);
                return;
            };
            let is_over = waited >= TRIES_MAX || *self.stop.borrow();
            let wait = match refusal.again {
                Again::After(asked) if !is_over => asked,
                // A fleet must not come back in one moment.
                Again::Sometime if !is_over => pause.mul_f64(0.5 + fastrand::f64()),
                _ => {
                    self.counts.dropped.fetch_add(count, Ordering::Relaxed);
                    return;
                }
            };
            // The stop comes before any pause; the last try follows it.
            timeout(wait, self.stop.changed()).await.ok();
            waited = waited.saturating_add(wait);
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    fn body(&self, batch: Vec<Record>) -> Vec<u8> {
        let (mut logs, mut spans) = (Vec::new(), Vec::new());
        for record in batch {
            match record {
                Record::Log(record) => logs.push(*record),
                Record::Span(span) => spans.push(*span),
            }
        }
        // A queue holds one kind.
        if logs.is_empty() {
            encode::spans(&self.outlet.sender, spans)
        } else {
            encode::logs(&self.outlet.sender, logs)
        }
    }
}

#[cfg(test)]
mod tests;
