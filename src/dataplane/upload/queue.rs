//! The queue of one upload: bounded in records and bytes, what was taken but not acknowledged included.
//!
//! Promises: pushing never waits; what does not fit is dropped, newest first, and booked; room is given back when a
//! record is settled and not when it is taken; room that was reserved is there when its records come, and is given
//! back when they do not.
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

impl Fill {
    /// Takes room for so much if there is.
    fn take(&self, bounds: Bounds, records: usize, bytes: usize) -> bool {
        let fits = |used: &AtomicUsize, more: usize, bound: usize| {
            used.load(Ordering::Relaxed).saturating_add(more) <= bound
        };
        let room =
            fits(&self.records, records, bounds.records) && fits(&self.bytes, bytes, bounds.bytes);
        if room {
            self.records.fetch_add(records, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        room
    }

    fn give_back(&self, records: usize, bytes: usize) {
        self.records.fetch_sub(records, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How much room a queue has, for those who ask before they take a record in.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    fill: Arc<Fill>,
    bounds: Bounds,
}

impl Room {
    /// Whether so much could ever fit.
    pub(crate) const fn could_hold(&self, records: usize, bytes: usize) -> bool {
        records <= self.bounds.records && bytes <= self.bounds.bytes
    }

    /// Reserves room if there is.
    pub(crate) fn reserve(&self, records: usize, bytes: usize) -> Option<Reserved> {
        self.fill
            .take(self.bounds, records, bytes)
            .then(|| Reserved {
                fill: Arc::clone(&self.fill),
                records,
                bytes,
            })
    }
}

/// Room in one queue; what is not used is given back.
#[derive(Debug)]
pub(crate) struct Reserved {
    fill: Arc<Fill>,
    records: usize,
    bytes: usize,
}

impl Reserved {
    /// Whether it is in this queue.
    pub(crate) fn is_in(&self, inlet: &Inlet) -> bool {
        Arc::ptr_eq(&self.fill, &inlet.fill)
    }

    /// Hands over the room of one record.
    fn use_for(&mut self, bytes: usize) -> bool {
        match (self.records.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(records), Some(left)) => {
                (self.records, self.bytes) = (records, left);
                true
            }
            _ => false,
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.fill.give_back(self.records, self.bytes);
    }
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
    /// Pushes a record, into reserved room if it has some; drops and books it when there is no room.
    pub(crate) fn push(
        &self,
        record: &Arc<Record>,
        source: &Arc<str>,
        book: &Arc<Book>,
        reserved: Option<&mut Reserved>,
    ) {
        let weight = record.weight();
        let held = Held::receive((), 1, Arc::clone(book));
        let room = reserved.is_some_and(|reserved| reserved.use_for(weight))
            || self.fill.take(self.bounds, 1, weight);
        if !room {
            held.give_up(Reason::QueueFull);
            return;
        }
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

    /// Its room, for those who ask before they take a record in.
    pub(crate) fn room(&self) -> Room {
        Room {
            fill: self.fill(),
            bounds: self.bounds,
        }
    }

    /// How much of the queue is taken, by records or by bytes, whichever is more.
    pub(crate) fn percent(&self) -> usize {
        let share = |used: &AtomicUsize, bound: usize| {
            let used = used.load(Ordering::Relaxed).saturating_mul(100);
            used.checked_div(bound).unwrap_or(100)
        };
        let records = share(&self.fill.records, self.bounds.records);
        records.max(share(&self.fill.bytes, self.bounds.bytes))
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
            Record::Otlp(record) => (record.signal, 0),
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
        self.fill.give_back(1, self.weight);
    }
}
