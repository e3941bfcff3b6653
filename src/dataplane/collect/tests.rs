//! Conformance of every source with the contract, and the bounds of the buffer behind them.

use std::time::Duration;

use super::*;
use crate::dataplane::book::Totals;
use crate::dataplane::config::{CollectorKind, HostMetricsConfig, UnixSocketConfig};
use crate::dataplane::record::{LogRecord, Wholeness};
use crate::units::WallTime;
use tokio::io::AsyncWriteExt as _;

pub(super) const BOUNDS: Bounds = Bounds {
    records: 100_000,
    bytes: 64 * 1024 * 1024,
};

pub(super) fn buffer(bounds: Bounds) -> (Buffer, Arc<Book>) {
    let book = Arc::new(Book::default());
    let buffer = Buffer {
        bounds,
        book: Arc::clone(&book),
    };
    (buffer, book)
}

fn log(body: &str) -> Record {
    Record::Log(LogRecord {
        event: None,
        attributes: Vec::new(),
        body: body.as_bytes().into(),
        time: None,
        observed: WallTime::default(),
        severity: None,
        wholeness: Wholeness::Whole,
    })
}

fn closed(book: &Book) -> Totals {
    let totals = book.totals();
    assert!(totals.closed(), "{totals}");
    totals
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Every source there is, and something that makes it emit.
fn sources(dir: &std::path::Path) -> Vec<(SourceConfig, Option<PathBuf>)> {
    let host = SourceKind::HostMetrics(HostMetricsConfig {
        interval: Duration::from_hours(1),
        collectors: vec![CollectorKind::Memory],
        root: "/".into(),
    });
    let path = dir.join("in.sock");
    let socket = SourceKind::UnixSocket(UnixSocketConfig {
        path: path.clone(),
        mode: 0o600,
        line_bytes_max: 1024,
        connections_max: 4,
    });
    vec![
        (
            SourceConfig {
                buffer: BOUNDS,
                kind: host,
            },
            None,
        ),
        (
            SourceConfig {
                buffer: BOUNDS,
                kind: socket,
            },
            Some(path),
        ),
    ]
}

#[tokio::test]
async fn every_source_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    for (config, socket) in sources(dir.path()) {
        let kind = config.kind.word();
        let book = Arc::new(Book::default());
        let cell = HealthCell::new(kind, Arc::default());
        let (_takers, gate) = Gate::new();
        let mut source = AnySource::build("me", &config, Arc::clone(&book), gate, cell, &mut None);
        assert_eq!(source.name(), "me");
        assert_eq!(source.healthy(), Health::Starting, "{kind}");
        assert!(
            source.events().is_none(),
            "{kind}: no stream before a start"
        );
        source.stop().await;

        for round in 0..3 {
            source.start().await.unwrap();
            let second = source.start().await.unwrap_err();
            assert_eq!(second.to_string(), "source me is already started");
            let mut events = source.events().unwrap();
            assert!(
                source.events().is_none(),
                "{kind}: the stream is taken once"
            );
            if let Some(path) = &socket {
                let mut writer = tokio::net::UnixStream::connect(path).await.unwrap();
                writer.write_all(b"hello\n").await.unwrap();
            }
            let records = soon(kind, events.next()).await.unwrap();
            assert!(!records.is_empty(), "{kind} in round {round}");
            assert_eq!(source.healthy(), Health::Ok, "{kind}");

            soon("stop", source.stop()).await;
            source.stop().await;
            while soon("end of stream", events.next()).await.is_some() {}
            assert!(source.events().is_none(), "{kind}: no stream after a stop");
            let totals = closed(&book);
            assert_eq!(totals.pending, 0, "{kind}");
            assert_eq!(totals.dropped_total(), 0, "{kind}: {totals}");
        }
    }
}

#[tokio::test]
async fn a_full_buffer_drops_the_newest_and_counts_them() {
    let (buffer, book) = buffer(Bounds {
        records: 3,
        bytes: 1 << 20,
    });
    let (outlet, mut events) = buffer.open();
    outlet.offer(vec![log("1"), log("2")]);
    outlet.offer(vec![log("3"), log("4")]);
    outlet.offer(vec![log("5")]);
    let totals = closed(&book);
    assert_eq!((totals.received, totals.pending), (5, 3));
    assert_eq!(totals.dropped(Reason::SourceFull), 2);

    assert_eq!(events.next().await, Some(vec![log("1"), log("2")]));
    outlet.offer(vec![log("6")]);
    assert_eq!(events.next().await, Some(vec![log("3")]));
    assert_eq!(events.next().await, Some(vec![log("6")]));
    let totals = closed(&book);
    assert_eq!((totals.delivered, totals.pending), (4, 0));
}

#[tokio::test]
async fn the_buffer_is_bounded_in_bytes_too() {
    let one = log(&"x".repeat(1000)).weight();
    let (buffer, book) = buffer(Bounds {
        records: 1000,
        bytes: 2 * one,
    });
    let (outlet, _events) = buffer.open();
    outlet.offer(vec![log(&"x".repeat(1000)); 5]);
    let totals = closed(&book);
    assert_eq!((totals.pending, totals.dropped(Reason::SourceFull)), (2, 3));
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_closed_books() {
    let (buffer, book) = buffer(BOUNDS);
    let (outlet, events) = buffer.open();
    outlet.offer(vec![log("1"), log("2")]);
    drop(events);
    outlet.offer(vec![log("3")]);
    let totals = closed(&book);
    assert_eq!(totals.pending, 0);
    assert_eq!(totals.dropped(Reason::Abandoned), 2);
    assert_eq!(totals.dropped(Reason::SourceFull), 1);
}
