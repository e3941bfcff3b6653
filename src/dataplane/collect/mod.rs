//! The contract of a source, the buffer behind it, and the list of sources there are.
//!
//! A source is five calls: `name`, `start`, `stop`, `events`, `healthy`. It owns its event stream: from `start` on
//! it may be taken once, and its end without a `stop` means that the source died.
//! Promises: a second `start` is an error, a second `stop` does nothing, a stopped source starts again; a full
//! buffer drops the newest records and books them; nothing here waits for the pipeline.
//! Must never: know an upload.

pub(crate) mod cpu;
pub(crate) mod disk;
pub(crate) mod host;
pub(crate) mod host_metrics;
pub(crate) mod kernel;
pub(crate) mod lines;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod otlp;
pub(crate) mod socket_file;
pub(crate) mod thermal;
pub(crate) mod unix_socket;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::admission::Gate;
use super::book::{Book, Held, Reason};
use super::config::{Bounds, SourceConfig, SourceKind};
use super::health::{Health, HealthCell};
use super::record::Record;
use super::upload::queue::Reserved;
use host_metrics::HostMetrics;
use kernel::{Kernel, Prepared};
use otlp::{Otlp, Parked};
use unix_socket::UnixSocket;

/// Batches between a source and the pipeline; the bounds of [`Bounds`] are reached first unless batches are tiny.
const BATCHES_MAX: usize = 4096;

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It runs already.
    #[error("source {0} is already started")]
    AlreadyStarted(Arc<str>),
    /// Something else is where the socket belongs.
    #[error("listen on {path}: {why}")]
    Occupied {
        /// The socket.
        path: PathBuf,
        /// What is there and what to do.
        why: String,
    },
    /// The address is not there or not for us.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why it did not work.
        source: io::Error,
    },
    /// Its programs were detached, and privileges do not come back.
    #[error(
        "the kernel programs of source {0} are gone; restart the data plane to have them again"
    )]
    Detached(Arc<str>),
    /// The system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
}

/// The five calls.
pub(crate) trait Source {
    /// Its id in the config.
    fn name(&self) -> &str;

    /// Begins to emit.
    ///
    /// # Errors
    /// It is already started, or the system refuses what it needs.
    async fn start(&mut self) -> Result<(), StartError>;

    /// Ends it: what was read is emitted, then the stream ends. Does nothing when it is stopped.
    async fn stop(&mut self);

    /// The stream of this start; nothing when it was taken already or the source is stopped.
    fn events(&mut self) -> Option<Events>;

    /// How it feels.
    fn healthy(&self) -> Health;
}

/// Any source there is.
#[derive(Debug)]
pub(crate) enum AnySource {
    /// Host metrics.
    HostMetrics(HostMetrics),
    /// Lines from a stream socket.
    UnixSocket(UnixSocket),
    /// OTLP over HTTP.
    Otlp(Otlp),
    /// Kernel events.
    Kernel(Kernel),
}

impl AnySource {
    /// Builds a source; nothing is read or opened before `start`. The kernel's takes what was prepared for it.
    pub(crate) fn build(
        id: &str,
        config: &SourceConfig,
        book: Arc<Book>,
        gate: Gate,
        health: HealthCell,
        prepared: &mut Option<Prepared>,
    ) -> Self {
        let buffer = Buffer {
            bounds: config.buffer,
            book,
        };
        match &config.kind {
            SourceKind::HostMetrics(host) => {
                Self::HostMetrics(HostMetrics::new(id, host, buffer, health))
            }
            SourceKind::UnixSocket(socket) => {
                Self::UnixSocket(UnixSocket::new(id, socket, buffer, health))
            }
            SourceKind::Kernel(_) => Self::Kernel(Kernel::new(id, prepared.take(), buffer, health)),
            SourceKind::Otlp(otlp) => Self::Otlp(Otlp::new(id, otlp, buffer, gate, health)),
        }
    }

    /// Gives the listening socket of a stopped source away, so that its successor can have it.
    pub(crate) fn park(&mut self) -> Option<Parked> {
        match self {
            Self::Otlp(source) => source.park(),
            Self::HostMetrics(_) | Self::UnixSocket(_) | Self::Kernel(_) => None,
        }
    }

    /// Takes over the socket that it would have to bind, if it is there.
    pub(crate) fn inherit(&mut self, parked: &mut Vec<Parked>) {
        match self {
            Self::Otlp(source) => source.inherit(parked),
            Self::HostMetrics(_) | Self::UnixSocket(_) | Self::Kernel(_) => {}
        }
    }
}

impl Source for AnySource {
    fn name(&self) -> &str {
        match self {
            Self::HostMetrics(source) => source.name(),
            Self::UnixSocket(source) => source.name(),
            Self::Otlp(source) => source.name(),
            Self::Kernel(source) => source.name(),
        }
    }

    async fn start(&mut self) -> Result<(), StartError> {
        match self {
            Self::HostMetrics(source) => source.start().await,
            Self::UnixSocket(source) => source.start().await,
            Self::Otlp(source) => source.start().await,
            Self::Kernel(source) => source.start().await,
        }
    }

    async fn stop(&mut self) {
        match self {
            Self::HostMetrics(source) => source.stop().await,
            Self::UnixSocket(source) => source.stop().await,
            Self::Otlp(source) => source.stop().await,
            Self::Kernel(source) => source.stop().await,
        }
    }

    fn events(&mut self) -> Option<Events> {
        match self {
            Self::HostMetrics(source) => source.events(),
            Self::UnixSocket(source) => source.events(),
            Self::Otlp(source) => source.events(),
            Self::Kernel(source) => source.events(),
        }
    }

    fn healthy(&self) -> Health {
        match self {
            Self::HostMetrics(source) => source.healthy(),
            Self::UnixSocket(source) => source.healthy(),
            Self::Otlp(source) => source.healthy(),
            Self::Kernel(source) => source.healthy(),
        }
    }
}

/// Waits for tasks that were told to end. One that panicked has ended too: its stream has, and that is what the
/// pipeline sees.
async fn finish(mut tasks: tokio::task::JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// How a source's buffer is built at each start.
#[derive(Debug, Clone)]
pub(crate) struct Buffer {
    /// Its bounds.
    pub(crate) bounds: Bounds,
    /// Where everything offered to it is booked.
    pub(crate) book: Arc<Book>,
}

impl Buffer {
    /// A fresh buffer: the end a source writes to and the end the pipeline reads from.
    pub(crate) fn open(&self) -> (Outlet, Events) {
        let (tx, rx) = mpsc::channel(BATCHES_MAX);
        let fill = Arc::new(Fill::default());
        let outlet = Outlet {
            tx,
            fill: Arc::clone(&fill),
            buffer: self.clone(),
        };
        (outlet, Events { rx, fill })
    }
}

#[derive(Debug, Default)]
struct Fill {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

/// The end of the buffer that a source writes to. Never waits.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    tx: mpsc::Sender<Held<Batch>>,
    fill: Arc<Fill>,
    buffer: Buffer,
}

/// Records that were read together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The records, in order.
    pub(crate) records: Vec<Record>,
    /// Room for them in the queues of uploads, where it was asked for before.
    pub(crate) reserved: Vec<Reserved>,
    bytes: usize,
}

impl Outlet {
    /// Offers records in order; those that do not fit are dropped, newest first, and booked.
    pub(crate) fn offer(&self, mut records: Vec<Record>) {
        let offered = records.len();
        if offered == 0 {
            return;
        }
        let room =
            |bound: usize, used: &AtomicUsize| bound.saturating_sub(used.load(Ordering::Relaxed));
        let records_free = room(self.buffer.bounds.records, &self.fill.records);
        let bytes_free = room(self.buffer.bounds.bytes, &self.fill.bytes);
        let mut bytes = 0_usize;
        let fitting = records
            .iter()
            .take(records_free)
            .take_while(|record| {
                let sum = bytes.saturating_add(record.weight());
                let fits = sum <= bytes_free;
                if fits {
                    bytes = sum;
                }
                fits
            })
            .count();
        records.truncate(fitting);
        self.lose((offered - fitting) as u64, Reason::SourceFull);
        if fitting == 0 {
            return;
        }
        self.send(Batch {
            records,
            reserved: Vec::new(),
            bytes,
        });
    }

    /// Offers records that belong together: all of them or none. Those that do not fit stay with their sender, so
    /// nothing is booked for them.
    pub(crate) fn offer_whole(
        &self,
        records: Vec<Record>,
        bytes: usize,
        reserved: Vec<Reserved>,
    ) -> bool {
        let fits = |bound: usize, used: &AtomicUsize, more: usize| {
            used.load(Ordering::Relaxed).saturating_add(more) <= bound
        };
        let bounds = self.buffer.bounds;
        if self.tx.capacity() == 0
            || self.tx.is_closed()
            || !fits(bounds.records, &self.fill.records, records.len())
            || !fits(bounds.bytes, &self.fill.bytes, bytes)
        {
            return false;
        }
        self.send(Batch {
            records,
            reserved,
            bytes,
        });
        true
    }

    /// The buffer's bounds and the book of the source.
    pub(crate) const fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    fn send(&self, batch: Batch) {
        let (fitting, bytes) = (batch.records.len(), batch.bytes);
        let book = &self.buffer.book;
        let held = Held::receive(batch, fitting as u64, Arc::clone(book));
        self.fill.records.fetch_add(fitting, Ordering::Relaxed);
        self.fill.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(refused) = self.tx.try_send(held) {
            self.fill.records.fetch_sub(fitting, Ordering::Relaxed);
            self.fill.bytes.fetch_sub(bytes, Ordering::Relaxed);
            match refused {
                mpsc::error::TrySendError::Full(held) | mpsc::error::TrySendError::Closed(held) => {
                    held.give_up(Reason::SourceFull);
                }
            }
        }
    }
}

impl Outlet {
    /// Books records that were lost before they could be offered.
    pub(crate) fn lose(&self, count: u64, reason: Reason) {
        if count > 0 {
            self.buffer.book.receive(count);
            self.buffer.book.drop_pending(count, reason);
        }
    }
}

/// The end of the buffer that the pipeline reads from: the event stream of one start.
#[derive(Debug)]
pub(crate) struct Events {
    rx: mpsc::Receiver<Held<Batch>>,
    fill: Arc<Fill>,
}

impl Events {
    /// The next records; nothing more when the source has ended.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Batch>> {
        self.rx.poll_recv(context).map(|held| {
            let batch = held?.take();
            self.fill
                .records
                .fetch_sub(batch.records.len(), Ordering::Relaxed);
            self.fill.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
            Some(batch)
        })
    }

    /// Waits for the next records.
    #[cfg(test)]
    pub(crate) async fn next(&mut self) -> Option<Vec<Record>> {
        let batch = std::future::poll_fn(|context| self.poll_next(context)).await;
        batch.map(|batch| batch.records)
    }
}

#[cfg(test)]
mod tests;
