//! The queue of one upload: bounded in records and bytes, what was taken but not acknowledged included.
//!
//! Promises: pushing never waits; what does not fit is dropped, newest first, and booked; room is given back when a
//! record is settled and not when it is taken.
//! Must never: lose a record without its book knowing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::dataplane::book::{Book, Held, Reason};
use crate::dataplane::config::Bounds;
use crate::dataplane::record::{Record, Signal};

/// How full a queue is.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

/// The end that the pipeline pushes to.
#[derive(Debug, Clone)]
pub(crate) struct Inlet {
    tx: mpsc::Sender<Queued>,
    fill: Arc<Fill>,
    bounds: Bounds,
}

/// A record in a queue, on the book of its source–upload pair.
#[derive(Debug)]
pub(crate) struct Queued {
    held: Option<Held<()>>,
    record: Arc<Record>,
    source: Arc<str>,
    weight: usize,
    fill: Arc<Fill>,
}

/// Opens a queue. `fill` carries over what an earlier queue of the same upload still holds.
pub(crate) fn open(bounds: Bounds, fill: Arc<Fill>) -> (Inlet, mpsc::Receiver<Queued>) {
    let (tx, rx) = mpsc::channel(bounds.records);
    (Inlet { tx, fill, bounds }, rx)
}

impl Inlet {
    /// Pushes a record, or drops and books it when there is no room.
    pub(crate) fn push(&self, record: &Arc<Record>, source: &Arc<str>, book: &Arc<Book>) {
        let weight = record.weight();
        let held = Held::receive((), 1, Arc::clone(book));
        let full = self.fill.records.load(Ordering::Relaxed) >= self.bounds.records
            || self
                .fill
                .bytes
                .load(Ordering::Relaxed)
                .saturating_add(weight)
                > self.bounds.bytes;
        if full {
            held.give_up(Reason::QueueFull);
            return;
        }
        self.fill.records.fetch_add(1, Ordering::Relaxed);
        self.fill.bytes.fetch_add(weight, Ordering::Relaxed);
        let queued = Queued {
            held: Some(held),
            record: Arc::clone(record),
            source: Arc::clone(source),
            weight,
            fill: Arc::clone(&self.fill),
        };
        if let Err(refused) = self.tx.try_send(queued) {
            match refused {
                mpsc::error::TrySendError::Full(queued) => queued.give_up(Reason::QueueFull),
                // The uploader died and is about to be replaced.
                mpsc::error::TrySendError::Closed(queued) => queued.give_up(Reason::Abandoned),
            }
        }
    }

    /// How full the queue is, for the one that comes after it.
    pub(crate) fn fill(&self) -> Arc<Fill> {
        Arc::clone(&self.fill)
    }
}

impl Queued {
    /// The record.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The source it came from.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Its place in a batch: signals apart, points by time, lines as they came.
    pub(crate) fn order(&self) -> (Signal, u64) {
        match &*self.record {
            Record::Point(point) => (Signal::Metrics, point.time.unix_millis()),
            Record::Log(_) => (Signal::Logs, 0),
        }
    }

    /// The endpoint has it.
    pub(crate) fn deliver(mut self) {
        if let Some(held) = self.held.take() {
            held.deliver();
        }
    }

    /// It is given up.
    pub(crate) fn give_up(mut self, reason: Reason) {
        if let Some(held) = self.held.take() {
            held.give_up(reason);
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.fill.records.fetch_sub(1, Ordering::Relaxed);
        self.fill.bytes.fetch_sub(self.weight, Ordering::Relaxed);
    }
}
