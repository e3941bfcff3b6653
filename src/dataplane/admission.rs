//! How a source whose senders can be told to wait asks whether there is room behind it, before it says yes.
//!
//! Promises: a yes is kept: the room is reserved in every queue that has some, until the records come or are dropped;
//! as long as one upload has room the others do not hold it up — what they miss is counted on their books.
//! Must never: know what an upload does with a record.

use std::sync::Arc;

use tokio::sync::watch;

use super::record::Signal;
use super::upload::queue::{Reserved, Room};

/// Who takes what from one source, as the config says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Takers(Vec<Taker>);

#[derive(Debug, Clone)]
struct Taker {
    upload: Arc<str>,
    signals: Vec<Signal>,
    room: Room,
}

impl Takers {
    /// Adds an upload.
    pub(crate) fn add(&mut self, upload: &Arc<str>, signals: Vec<Signal>, room: Room) {
        self.0.push(Taker {
            upload: Arc::clone(upload),
            signals,
            room,
        });
    }
}

/// What a source is told.
#[derive(Debug)]
pub(crate) enum Admission {
    /// There is room, and it is theirs.
    Granted(Vec<Reserved>),
    /// Every upload that takes this signal is full.
    Full(Arc<str>),
    /// More than any of them could ever hold.
    TooLarge,
    /// No upload takes this signal.
    Nobody,
}

/// What a source asks.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Receiver<Takers>);

impl Gate {
    /// A gate and the end that says who is behind it.
    pub(crate) fn new() -> (watch::Sender<Takers>, Self) {
        let (takers, gate) = watch::channel(Takers::default());
        (takers, Self(gate))
    }

    /// Asks for room for records of one signal.
    pub(crate) fn admit(&self, signal: Signal, records: usize, bytes: usize) -> Admission {
        let takers = self.0.borrow();
        let takers: Vec<_> = takers
            .0
            .iter()
            .filter(|taker| taker.signals.contains(&signal))
            .collect();
        let Some(first) = takers.first() else {
            return Admission::Nobody;
        };
        if !takers
            .iter()
            .any(|taker| taker.room.could_hold(records, bytes))
        {
            return Admission::TooLarge;
        }
        let reserved: Vec<_> = takers
            .iter()
            .filter_map(|taker| taker.room.reserve(records, bytes))
            .collect();
        if reserved.is_empty() {
            return Admission::Full(Arc::clone(&first.upload));
        }
        Admission::Granted(reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::book::{Book, Reason};
    use crate::dataplane::config::Bounds;
    use crate::dataplane::record::{LogRecord, Record, Wholeness};
    use crate::dataplane::upload::queue;
    use crate::units::WallTime;

    fn log() -> Arc<Record> {
        Arc::new(Record::Log(LogRecord {
            event: None,
            attributes: Vec::new(),
            body: b"x".as_slice().into(),
            time: None,
            observed: WallTime::default(),
            severity: None,
            wholeness: Wholeness::Whole,
        }))
    }

    fn bounds(records: usize) -> Bounds {
        Bounds {
            records,
            bytes: 1 << 20,
        }
    }

    #[test]
    fn room_that_was_granted_is_there_and_is_given_back_when_nobody_comes() {
        let (inlet, mut rx) = queue::open(bounds(2), Arc::default());
        let (takers, gate) = Gate::new();
        let mut all = Takers::default();
        all.add(&"u".into(), vec![Signal::Logs], inlet.room());
        takers.send_replace(all);
        let weight = log().weight();
        let Admission::Granted(mut reserved) = gate.admit(Signal::Logs, 2, 2 * weight) else {
            panic!("there is room")
        };
        // It is gone for everybody else.
        let (book, source) = (Arc::new(Book::default()), "s".into());
        inlet.push(&log(), &source, &book, None);
        assert_eq!(book.totals().dropped(Reason::QueueFull), 1);
        assert!(
            matches!(gate.admit(Signal::Logs, 1, weight), Admission::Full(upload) if &*upload == "u")
        );
        // And there for whom it was granted.
        inlet.push(&log(), &source, &book, reserved.first_mut());
        assert_eq!(book.totals().pending, 1);
        drop(reserved);
        inlet.push(&log(), &source, &book, None);
        assert_eq!(book.totals().pending, 2, "the unused room came back");
        rx.try_recv().unwrap().deliver();
        assert!(matches!(
            gate.admit(Signal::Logs, 1, weight),
            Admission::Granted(_)
        ));
        assert!(matches!(
            gate.admit(Signal::Logs, 3, weight),
            Admission::TooLarge
        ));
        assert!(matches!(
            gate.admit(Signal::Traces, 1, weight),
            Admission::Nobody
        ));
    }

    #[test]
    fn one_upload_with_room_is_enough() {
        let (full, _full_rx) = queue::open(bounds(1), Arc::default());
        let (free, _free_rx) = queue::open(bounds(9), Arc::default());
        let _taken = full.room().reserve(1, 1).unwrap();
        let (takers, gate) = Gate::new();
        let mut all = Takers::default();
        all.add(&"full".into(), vec![Signal::Logs], full.room());
        all.add(&"free".into(), vec![Signal::Logs], free.room());
        takers.send_replace(all);
        let Admission::Granted(reserved) = gate.admit(Signal::Logs, 1, 1) else {
            panic!("there is room")
        };
        assert_eq!(reserved.len(), 1);
        assert!(reserved[0].is_in(&free));
    }
}
