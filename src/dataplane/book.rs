//! The books: received = delivered + pending + dropped{reason}, for every source and for every source–upload pair.
//!
//! Promises: a [`Held`] record is settled exactly once; one that is thrown away unsettled — a panic, an aborted
//! task, a queue that vanished — is booked as `abandoned` by its `Drop`, so the books close whatever happens to the
//! code that held it.
//! Must never: drop a record without a reason.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a record was given up. The words are published; they are API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The source's own buffer was full.
    SourceFull,
    /// The kernel found no room between its programs and us.
    RingFull,
    /// The upload's queue was full.
    QueueFull,
    /// No upload takes this signal from this source.
    NoUpload,
    /// The upload's protocol has no form for this record.
    Unsupported,
    /// The endpoint refused the record for good.
    Rejected,
    /// The record alone is larger than a request may be.
    TooLarge,
    /// The endpoint took the request and said it left the record out.
    PartialSuccess,
    /// The upload or its link to the source was removed by a new config.
    Removed,
    /// The time to stop was over.
    Shutdown,
    /// The code that held it went away.
    Abandoned,
}

impl Reason {
    /// All of them, in the order of the counters.
    pub(crate) const ALL: [Self; 11] = [
        Self::SourceFull,
        Self::RingFull,
        Self::QueueFull,
        Self::NoUpload,
        Self::Unsupported,
        Self::Rejected,
        Self::TooLarge,
        Self::PartialSuccess,
        Self::Removed,
        Self::Shutdown,
        Self::Abandoned,
    ];

    /// The word it is published under.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::SourceFull => "source_full",
            Self::RingFull => "ring_full",
            Self::QueueFull => "queue_full",
            Self::NoUpload => "no_upload",
            Self::Unsupported => "unsupported",
            Self::Rejected => "rejected",
            Self::TooLarge => "too_large",
            Self::PartialSuccess => "partial_success",
            Self::Removed => "removed",
            Self::Shutdown => "shutdown",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The counters of one source or of one source–upload pair.
#[derive(Debug, Default)]
pub(crate) struct Book {
    received: AtomicU64,
    delivered: AtomicU64,
    pending: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
}

impl Book {
    /// Books `count` records in; each is pending until settled.
    pub(crate) fn receive(&self, count: u64) {
        self.received.fetch_add(count, Ordering::Relaxed);
        self.pending.fetch_add(count, Ordering::Relaxed);
    }

    /// Settles pending records as delivered.
    pub(crate) fn deliver(&self, count: u64) {
        self.pending.fetch_sub(count, Ordering::Relaxed);
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    /// Settles pending records as dropped.
    pub(crate) fn drop_pending(&self, count: u64, reason: Reason) {
        self.pending.fetch_sub(count, Ordering::Relaxed);
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Turns records that were handed on into dropped ones: whoever took them had no place for them.
    pub(crate) fn lose_delivered(&self, count: u64, reason: Reason) {
        self.delivered.fetch_sub(count, Ordering::Relaxed);
        self.pending.fetch_add(count, Ordering::Relaxed);
        self.drop_pending(count, reason);
    }

    /// Reads the counters.
    pub(crate) fn totals(&self) -> Totals {
        let mut dropped = [0; Reason::ALL.len()];
        for (slot, counter) in dropped.iter_mut().zip(&self.dropped) {
            *slot = counter.load(Ordering::Relaxed);
        }
        Totals {
            received: self.received.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            pending: self.pending.load(Ordering::Relaxed),
            dropped,
        }
    }
}

/// One reading of a [`Book`], or the sum of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    /// Records booked in.
    pub(crate) received: u64,
    /// Records the far side has acknowledged.
    pub(crate) delivered: u64,
    /// Records neither delivered nor dropped yet.
    pub(crate) pending: u64,
    dropped: [u64; Reason::ALL.len()],
}

impl Totals {
    /// Adds another reading.
    pub(crate) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.delivered += other.delivered;
        self.pending += other.pending;
        for (slot, more) in self.dropped.iter_mut().zip(other.dropped) {
            *slot += more;
        }
    }

    /// Records dropped for one reason.
    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// Records dropped for any reason.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether received = delivered + pending + dropped.
    pub(crate) fn closed(&self) -> bool {
        self.received == self.delivered + self.pending + self.dropped_total()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "received {} delivered {} pending {} dropped {}",
            self.received,
            self.delivered,
            self.pending,
            self.dropped_total()
        )?;
        let mut between = " (";
        for reason in Reason::ALL {
            let count = self.dropped(reason);
            if count > 0 {
                write!(f, "{between}{} {count}", reason.word())?;
                between = ", ";
            }
        }
        f.write_str(if between == ", " { ")" } else { "" })
    }
}

/// Something that is on the books as pending until it is settled.
#[derive(Debug)]
pub(crate) struct Held<T> {
    value: T,
    count: u64,
    book: Arc<Book>,
}

impl<T> Held<T> {
    /// Books `count` records in and holds them.
    pub(crate) fn receive(value: T, count: u64, book: Arc<Book>) -> Self {
        book.receive(count);
        Self { value, count, book }
    }

    /// Settles as delivered.
    pub(crate) fn deliver(mut self) {
        self.book.deliver(std::mem::take(&mut self.count));
    }

    /// Settles as dropped.
    pub(crate) fn give_up(mut self, reason: Reason) {
        self.book
            .drop_pending(std::mem::take(&mut self.count), reason);
    }
}

impl<T: Default> Held<T> {
    /// Takes the value out; what it stood for counts as delivered to whoever takes it.
    pub(crate) fn take(mut self) -> T {
        let value = std::mem::take(&mut self.value);
        self.deliver();
        value
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.book.drop_pending(self.count, Reason::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_end_is_booked_once() {
        let book = Arc::new(Book::default());
        let hold = || Held::receive((), 1, Arc::clone(&book));
        hold().deliver();
        hold().give_up(Reason::Rejected);
        drop(hold());
        let pending = hold();
        let totals = book.totals();
        assert_eq!(totals.received, 4);
        assert_eq!(totals.delivered, 1);
        assert_eq!(totals.pending, 1);
        assert_eq!(totals.dropped(Reason::Rejected), 1);
        assert_eq!(totals.dropped(Reason::Abandoned), 1);
        assert!(totals.closed());
        assert_eq!(
            totals.to_string(),
            "received 4 delivered 1 pending 1 dropped 2 (rejected 1, abandoned 1)"
        );
        drop(pending);
        assert_eq!(book.totals().pending, 0);
    }

    #[test]
    fn the_counters_stand_in_the_order_of_the_reasons() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.word());
        }
    }
}
