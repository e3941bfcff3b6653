//! Lines written to a stream socket, one log record each (S1-11, S1-19).
//!
//! Promises: a writer is never made to wait by what lies behind us — when the buffer is full the newest records are
//! dropped and counted; writers do not mix; the rest of a line is emitted and marked when its writer goes away; at
//! a stop everything already in the socket is read first. At the connection limit the newest writer is hung up on,
//! because leaving it in the backlog would block it.
//! Must never: hold a connection's memory beyond one line and one read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::lines::{LineSplitter, record};
use super::socket_file::SocketFile;
use super::{Buffer, Events, Outlet, Source, StartError};
use crate::dataplane::config::UnixSocketConfig;
use crate::dataplane::health::{Health, HealthCell};
use crate::dataplane::record::{Record, Wholeness};
use crate::sys::clock;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;
/// Reads of what is left in a socket at a stop: 1 MiB, five times the kernel's default buffer.
const LAST_READS_MAX: usize = 64;
/// How long a stop waits for a socket to say that it holds something.
const LAST_WAIT: Duration = Duration::from_millis(50);
/// Pause after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The socket source.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    id: Arc<str>,
    config: UnixSocketConfig,
    buffer: Buffer,
    health: HealthCell,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    file: SocketFile,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    events: Option<Events>,
}

impl UnixSocket {
    /// Builds the source.
    pub(crate) fn new(
        id: &str,
        config: &UnixSocketConfig,
        buffer: Buffer,
        health: HealthCell,
    ) -> Self {
        Self {
            id: id.into(),
            config: config.clone(),
            buffer,
            health,
            running: None,
        }
    }
}

impl Source for UnixSocket {
    fn name(&self) -> &str {
        &self.id
    }

    async fn start(&mut self) -> Result<(), StartError> {
        if self.running.is_some() {
            return Err(StartError::AlreadyStarted(Arc::clone(&self.id)));
        }
        let (listener, file) = SocketFile::bind(&self.config.path, self.config.mode).await?;
        let (outlet, events) = self.buffer.open();
        let (stop, stopped) = watch::channel(false);
        let acceptor = Acceptor {
            listener,
            shared: Arc::new(Shared {
                outlet,
                line_bytes_max: self.config.line_bytes_max,
                lines_cut: AtomicU64::new(0),
            }),
            connections: JoinSet::new(),
            connections_max: self.config.connections_max,
            refused: 0,
            health: self.health.clone(),
            stopped,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(acceptor.run());
        self.health.set(Health::Ok);
        self.running = Some(Running {
            file,
            stop,
            tasks,
            events: Some(events),
        });
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(Running {
            file, stop, tasks, ..
        }) = self.running.take()
        {
            file.remove();
            stop.send_replace(true);
            super::finish(tasks).await;
        }
    }

    fn events(&mut self) -> Option<Events> {
        self.running.as_mut()?.events.take()
    }

    fn healthy(&self) -> Health {
        self.health.get()
    }
}

#[derive(Debug)]
struct Shared {
    outlet: Outlet,
    line_bytes_max: usize,
    lines_cut: AtomicU64,
}

/// Accepts writers and owns their tasks.
struct Acceptor {
    listener: UnixListener,
    shared: Arc<Shared>,
    connections: JoinSet<()>,
    connections_max: usize,
    refused: u64,
    health: HealthCell,
    stopped: watch::Receiver<bool>,
}

impl Acceptor {
    async fn run(mut self) {
        loop {
            let turn = tokio::select! {
                () = told(&mut self.stopped) => Turn::Stop,
                accepted = self.listener.accept() => Turn::Accepted(accepted.map(|(stream, _)| stream)),
                Some(ended) = self.connections.join_next() => Turn::Ended(ended.is_ok()),
            };
            match turn {
                Turn::Stop => break,
                Turn::Accepted(Ok(stream)) => self.welcome(stream),
                Turn::Accepted(Err(error)) => {
                    // Out of descriptors, most likely: say so and leave the backlog until one comes free.
                    self.health
                        .set(Health::Degraded(format!("accept: {error}")));
                    tokio::select! {
                        () = told(&mut self.stopped) => break,
                        Some(_) = self.connections.join_next() => {}
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
                Turn::Ended(well) => self.farewell(well),
            }
        }
        // Writers in the backlog believe that they are connected; what they wrote is read too.
        for _ in 0..self.connections_max {
            match tokio::time::timeout(LAST_WAIT, self.listener.accept()).await {
                Ok(Ok((stream, _))) => self.welcome(stream),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        while self.connections.join_next().await.is_some() {}
        let lines_cut = self.shared.lines_cut.load(Ordering::Relaxed);
        if lines_cut > 0 || self.refused > 0 {
            let refused = self.refused;
            tracing::info!(lines_cut, refused, "socket source stopped");
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        if self.connections.len() >= self.connections_max {
            self.refused += 1;
            let max = self.connections_max;
            self.health.set(Health::Degraded(format!(
                "all {max} connections are taken; further writers are hung up on"
            )));
            return;
        }
        let shared = Arc::clone(&self.shared);
        let stopped = self.stopped.clone();
        self.connections.spawn(read(stream, shared, stopped));
    }

    fn farewell(&self, ended_well: bool) {
        self.health.set(if ended_well {
            Health::Ok
        } else {
            Health::Degraded(
                "the reader of one connection died; its writer has to connect again".to_owned(),
            )
        });
    }
}

#[derive(Debug)]
enum Turn {
    Stop,
    Accepted(std::io::Result<UnixStream>),
    Ended(bool),
}

/// Waits until the source is told to stop; one that was dropped is stopped too.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Whether a socket holds something more. The runtime learns of it from the kernel a moment later than it is true.
async fn still_readable(stream: &UnixStream) -> bool {
    matches!(
        tokio::time::timeout(LAST_WAIT, stream.readable()).await,
        Ok(Ok(()))
    )
}

/// Reads one writer to its end or to the stop.
async fn read(stream: UnixStream, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut splitter = LineSplitter::new(shared.line_bytes_max);
    let mut buffer = vec![0; READ_BYTES];
    let mut last_reads = 0;
    loop {
        if last_reads == 0 {
            tokio::select! {
                ready = stream.readable() => if ready.is_err() { break },
                () = told(&mut stopped) => last_reads = 1,
            }
        } else if last_reads > LAST_READS_MAX || !still_readable(&stream).await {
            break;
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                emit(&shared, |take| splitter.push(bytes, take));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if last_reads > 0 {
            last_reads += 1;
        }
        // A loud writer must not keep the pipeline from emptying the buffer.
        tokio::task::yield_now().await;
    }
    emit(&shared, |take| splitter.finish(take));
}

/// Collects the lines of one step and offers them together.
fn emit(shared: &Shared, step: impl FnOnce(&mut dyn FnMut(&[u8], Wholeness))) {
    let now = clock::wall();
    let mut records = Vec::new();
    step(&mut |line, wholeness| {
        if wholeness == Wholeness::Cut {
            shared.lines_cut.fetch_add(1, Ordering::Relaxed);
        }
        records.push(Record::Log(record(line, wholeness, now)));
    });
    shared.outlet.offer(records);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::dataplane::book::{Book, Reason};
    use crate::dataplane::collect::tests::{BOUNDS, buffer};
    use crate::dataplane::config::Bounds;
    use crate::dataplane::record::LogRecord;

    struct Fixture {
        source: UnixSocket,
        events: Events,
        book: Arc<Book>,
        path: PathBuf,
        _dir: tempfile::TempDir,
    }

    async fn started(bounds: Bounds, connections_max: usize) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.sock");
        let config = UnixSocketConfig {
            path: path.clone(),
            mode: 0o600,
            line_bytes_max: 1024,
            connections_max,
        };
        let (buffer, book) = buffer(bounds);
        let health = HealthCell::new("source app", Arc::default());
        let mut source = UnixSocket::new("app", &config, buffer, health);
        source.start().await.unwrap();
        let events = source.events().unwrap();
        Fixture {
            source,
            events,
            book,
            path,
            _dir: dir,
        }
    }

    async fn next(events: &mut Events) -> Option<Vec<LogRecord>> {
        let records = tokio::time::timeout(Duration::from_secs(30), events.next())
            .await
            .unwrap()?;
        Some(
            records
                .into_iter()
                .map(|record| match record {
                    Record::Log(log) => log,
                    other => panic!("{other:?}"),
                })
                .collect(),
        )
    }

    fn write_lines(path: &Path, writer: &str, count: usize) {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        for index in 0..count {
            let line = format!("{{\"writer\":\"{writer}\",\"index\":{index}}}\n");
            // Cut across writes, so that a reader sees halves of lines.
            let (head, tail) = line.split_at(line.len() / 2);
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(tail.as_bytes()).unwrap();
        }
    }

    #[tokio::test]
    async fn two_writers_ten_thousand_lines_none_merged_or_lost() {
        const LINES: usize = 5000;
        let mut fixture = started(BOUNDS, 8).await;
        let mut threads = JoinSet::new();
        for writer in ["a", "b"] {
            let path = fixture.path.clone();
            threads.spawn_blocking(move || write_lines(&path, writer, LINES));
        }
        let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut count = 0;
        while count < 2 * LINES {
            for log in next(&mut fixture.events).await.unwrap() {
                let line: serde_json::Value = serde_json::from_slice(&log.body).unwrap();
                let writer = line["writer"].as_str().unwrap().to_owned();
                seen.entry(writer)
                    .or_default()
                    .push(line["index"].as_u64().unwrap());
                count += 1;
            }
        }
        while threads.join_next().await.is_some() {}
        let wanted: Vec<u64> = (0..LINES as u64).collect();
        assert_eq!(seen["a"], wanted);
        assert_eq!(seen["b"], wanted);
        fixture.source.stop().await;
        assert_eq!(next(&mut fixture.events).await, None);
        let totals = fixture.book.totals();
        assert_eq!((totals.received, totals.delivered), (10_000, 10_000));
    }

    #[tokio::test]
    async fn long_lines_are_cut_and_the_rest_of_a_line_is_marked() {
        let mut fixture = started(BOUNDS, 8).await;
        let mut stream = std::os::unix::net::UnixStream::connect(&fixture.path).unwrap();
        stream.write_all(&[b'x'; 5000]).unwrap();
        stream.write_all(b"\nshort\nunfinished").unwrap();
        drop(stream);
        let mut logs = Vec::new();
        while logs.len() < 3 {
            logs.extend(next(&mut fixture.events).await.unwrap());
        }
        let found: Vec<_> = logs
            .iter()
            .map(|log| (log.body.len(), log.wholeness))
            .collect();
        assert_eq!(
            found,
            [
                (1024, Wholeness::Cut),
                (5, Wholeness::Whole),
                (10, Wholeness::Partial)
            ]
        );
        fixture.source.stop().await;
    }

    #[tokio::test]
    async fn a_stop_reads_what_was_already_written() {
        let mut fixture = started(BOUNDS, 8).await;
        let mut stream = std::os::unix::net::UnixStream::connect(&fixture.path).unwrap();
        // One write: a thousand small ones fill the socket's buffer before anybody reads.
        stream.write_all("line\n".repeat(1000).as_bytes()).unwrap();
        // No await since the connect: the connection still lies in the backlog.
        fixture.source.stop().await;
        let mut count = 0;
        while let Some(logs) = next(&mut fixture.events).await {
            count += logs.len();
        }
        assert_eq!(count, 1000);
        assert!(!fixture.path.exists());
    }

    #[tokio::test]
    async fn a_full_buffer_never_blocks_the_writer() {
        let bounds = Bounds {
            records: 10,
            bytes: 1 << 20,
        };
        let mut fixture = started(bounds, 8).await;
        let path = fixture.path.clone();
        let mut threads = JoinSet::new();
        threads.spawn_blocking(move || write_lines(&path, "a", 20_000));
        // Nobody reads the events, and yet the writer comes to its end.
        tokio::time::timeout(Duration::from_secs(30), threads.join_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        fixture.source.stop().await;
        let totals = fixture.book.totals();
        assert_eq!(totals.received, 20_000);
        assert_eq!(totals.pending, 10);
        assert_eq!(totals.dropped(Reason::SourceFull), 19_990);
        assert!(totals.closed());
    }

    #[tokio::test]
    async fn writers_beyond_the_limit_are_hung_up_on_and_it_shows() {
        use tokio::io::AsyncReadExt as _;
        let mut fixture = started(BOUNDS, 1).await;
        let first = UnixStream::connect(&fixture.path).await.unwrap();
        let mut second = UnixStream::connect(&fixture.path).await.unwrap();
        let hung_up = tokio::time::timeout(Duration::from_secs(10), second.read_u8())
            .await
            .unwrap();
        assert_eq!(
            hung_up.unwrap_err().kind(),
            std::io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            fixture.source.healthy().error(),
            "all 1 connections are taken; further writers are hung up on"
        );
        drop(first);
        fixture.source.stop().await;
    }
}
