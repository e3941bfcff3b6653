//! OTLP over HTTP: logs, metrics and traces that programs and Collectors on this host send (F-087).
//!
//! Promises: a request is answered with success only when all its records have their room in a queue; when there is
//! none the sender is told to come again, so that nothing is lost that it can keep; a taken port degrades this source
//! and nothing else, and is listened on as soon as it is free; a listening socket outlives a change of this source's
//! settings, so that nobody is refused meanwhile.
//! Bounds: connections, the head and the body of a request, what it unpacks to, all bodies together, and every wait.
//! Must never: end because of what a stranger sends.

mod body;
mod request;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::{Buffer, Events, Outlet, Source, StartError};
use crate::dataplane::admission::Gate;
use crate::dataplane::config::OtlpConfig;
use crate::dataplane::health::{Health, HealthCell};
use crate::sys::holder::{self, Holder};

/// Between two attempts at a port that is taken.
const BIND_RETRY: Duration = Duration::from_secs(2);
/// Pause after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Requests that are under way at a stop get this long; a stop has half a second for all sources.
const LAST_WAIT: Duration = Duration::from_millis(250);
/// Without further trouble for so long, all is well again.
const CALM: Duration = Duration::from_secs(10);
/// Connections beyond the limit that are told so at one time; more are hung up on.
const TURNED_AWAY_MAX: usize = 32;
/// How long one of them may take to ask.
const TURNED_AWAY_TIME: Duration = Duration::from_secs(2);
/// A connection older than this is closed at the end of its request: one that never reads its answers has no other end.
const AGE_MAX: Duration = Duration::from_mins(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The receiver.
#[derive(Debug)]
pub(crate) struct Otlp {
    id: Arc<str>,
    config: OtlpConfig,
    buffer: Buffer,
    gate: Gate,
    health: HealthCell,
    /// Bound, while it does not run.
    socket: Option<TcpListener>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Option<TcpListener>>,
    events: Option<Events>,
}

/// The listening socket of a stopped receiver.
#[derive(Debug)]
pub(crate) struct Parked {
    address: SocketAddr,
    socket: TcpListener,
}

impl Otlp {
    /// Builds the source.
    pub(crate) fn new(
        id: &str,
        config: &OtlpConfig,
        buffer: Buffer,
        gate: Gate,
        health: HealthCell,
    ) -> Self {
        Self {
            id: id.into(),
            config: config.clone(),
            buffer,
            gate,
            health,
            socket: None,
            running: None,
        }
    }

    /// Gives its socket away once it is stopped.
    pub(crate) fn park(&mut self) -> Option<Parked> {
        Some(Parked {
            address: self.config.listen,
            socket: self.socket.take()?,
        })
    }

    /// Takes over a socket that listens where it wants to.
    pub(crate) fn inherit(&mut self, parked: &mut Vec<Parked>) {
        let wanted = self.config.listen;
        if let Some(index) = parked.iter().position(|parked| parked.address == wanted) {
            self.socket = Some(parked.swap_remove(index).socket);
        }
    }
}

impl Source for Otlp {
    fn name(&self) -> &str {
        &self.id
    }

    async fn start(&mut self) -> Result<(), StartError> {
        if self.running.is_some() {
            return Err(StartError::AlreadyStarted(Arc::clone(&self.id)));
        }
        let address = self.config.listen;
        let listener = match self.socket.take() {
            Some(listener) => Some(listener),
            None => match TcpListener::bind(address).await {
                Ok(listener) => Some(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                Err(source) => return Err(StartError::Listen { address, source }),
            },
        };
        let (outlet, events) = self.buffer.open();
        let (stop, stopped) = watch::channel(false);
        if listener.is_some() {
            self.health.set(Health::Ok);
        }
        let acceptor = Acceptor {
            listener,
            shared: Arc::new(Shared {
                config: self.config.clone(),
                gate: self.gate.clone(),
                outlet,
                health: self.health.clone(),
                trouble: Notify::new(),
                bodies: AtomicUsize::new(0),
                refused: AtomicU64::new(0),
            }),
            connections: JoinSet::new(),
            turned_away: JoinSet::new(),
            stopped,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(acceptor.run());
        self.running = Some(Running {
            stop,
            tasks,
            events: Some(events),
        });
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(Running {
            stop, mut tasks, ..
        }) = self.running.take()
        {
            stop.send_replace(true);
            while let Some(ended) = tasks.join_next().await {
                // One that panicked has lost its socket too: the next start binds anew.
                self.socket = ended.ok().flatten();
            }
        }
    }

    fn events(&mut self) -> Option<Events> {
        self.running.as_mut()?.events.take()
    }

    fn healthy(&self) -> Health {
        self.health.get()
    }
}

/// What all connections of one start share.
#[derive(Debug)]
struct Shared {
    config: OtlpConfig,
    gate: Gate,
    outlet: Outlet,
    health: HealthCell,
    /// Woken at every trouble.
    trouble: Notify,
    /// Bytes of bodies that are being read, over all connections.
    bodies: AtomicUsize,
    /// Requests that were told to come again, and connections that were turned away.
    refused: AtomicU64,
}

impl Shared {
    /// Says what goes wrong for senders; after some calm it is forgotten.
    fn trouble(&self, what: String) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.health.set(Health::Degraded(what));
        self.trouble.notify_one();
    }
}

/// Accepts senders and owns their tasks.
struct Acceptor {
    listener: Option<TcpListener>,
    shared: Arc<Shared>,
    connections: JoinSet<()>,
    turned_away: JoinSet<()>,
    stopped: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Turn {
    Stop,
    Accepted(io::Result<TcpStream>),
    Ended,
    Trouble,
    Calm,
}

impl Acceptor {
    async fn run(mut self) -> Option<TcpListener> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => self.wait_for_port().await?,
        };
        let mut calm = None;
        loop {
            let turn = tokio::select! {
                () = told(&mut self.stopped) => Turn::Stop,
                accepted = listener.accept() => Turn::Accepted(accepted.map(|(stream, _)| stream)),
                Some(_) = self.connections.join_next() => Turn::Ended,
                Some(_) = self.turned_away.join_next() => Turn::Ended,
                () = self.shared.trouble.notified() => Turn::Trouble,
                () = until(calm), if calm.is_some() => Turn::Calm,
            };
            match turn {
                Turn::Stop => break,
                Turn::Accepted(Ok(stream)) => self.welcome(stream),
                Turn::Accepted(Err(error)) => {
                    // Out of descriptors, most likely: the backlog is left until one comes free.
                    self.shared.trouble(format!("accept: {error}"));
                    tokio::select! {
                        () = told(&mut self.stopped) => break,
                        Some(_) = self.connections.join_next() => {}
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
                Turn::Ended => {}
                Turn::Trouble => calm = Some(tokio::time::Instant::now() + CALM),
                Turn::Calm => {
                    calm = None;
                    self.shared.health.set(Health::Ok);
                }
            }
        }
        let last = async { while self.connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WAIT, last).await.is_err() {
            self.connections.shutdown().await;
        }
        self.turned_away.shutdown().await;
        let refused = self.shared.refused.load(Ordering::Relaxed);
        if refused > 0 {
            tracing::info!(refused, "senders were told to come again");
        }
        Some(listener)
    }

    /// Waits until the port is free, and says who has it; nothing when told to stop.
    async fn wait_for_port(&mut self) -> Option<TcpListener> {
        let address = self.shared.config.listen;
        let mut known: Option<Holder> = None;
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    self.shared.health.set(Health::Ok);
                    return Some(listener);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let found = holder::socket_at(address);
                    let same = known.as_ref().map(|known| known.inode)
                        == found.as_ref().map(|found| found.inode);
                    if !same || known.is_none() {
                        known = look(found).await;
                    }
                    self.shared
                        .health
                        .set(Health::Degraded(taken(address, known.as_ref())));
                }
                Err(error) => {
                    let why = format!("listen on {address}: {error}");
                    self.shared.health.set(Health::Down(why));
                }
            }
            tokio::select! {
                () = told(&mut self.stopped) => return None,
                () = tokio::time::sleep(BIND_RETRY) => {}
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream) {
        // Answers are small and awaited.
        stream.set_nodelay(true).ok();
        let max = self.shared.config.connections_max;
        if self.connections.len() < max {
            let serve = serve(
                stream,
                Arc::clone(&self.shared),
                Welcome::In,
                self.stopped.clone(),
            );
            self.connections.spawn(serve);
            return;
        }
        self.shared.trouble(format!(
            "all {max} connections are taken; further senders are answered 429"
        ));
        if self.turned_away.len() < TURNED_AWAY_MAX {
            let serve = serve(
                stream,
                Arc::clone(&self.shared),
                Welcome::Away,
                self.stopped.clone(),
            );
            self.turned_away.spawn(serve);
        }
    }
}

fn taken(address: SocketAddr, holder: Option<&Holder>) -> String {
    let by = holder.map_or_else(String::new, |holder| format!(" by {holder}"));
    let every = BIND_RETRY.as_secs();
    format!("nothing is received: {address} is taken{by}; tried again every {every} s")
}

/// Looks for the process of a socket, off the runtime's thread.
async fn look(found: Option<Holder>) -> Option<Holder> {
    let found = found?;
    let mut looking = JoinSet::new();
    looking.spawn_blocking({
        let found = found.clone();
        move || holder::with_process(&found)
    });
    match looking.join_next().await {
        Some(Ok(holder)) => Some(holder),
        Some(Err(_)) | None => Some(found),
    }
}

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits until the source is told to stop; one that was dropped is stopped too.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Whether a connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Welcome {
    In,
    /// Told that there are too many.
    Away,
}

/// Serves one connection to its end; at a stop, to the end of the request that is under way.
async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    welcome: Welcome,
    mut stopped: watch::Receiver<bool>,
) {
    let head_time = match welcome {
        Welcome::In => shared.config.timeout,
        Welcome::Away => TURNED_AWAY_TIME,
    };
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move {
            let answer = match welcome {
                Welcome::In => request::answer(request, &shared).await,
                Welcome::Away => request::turn_away(),
            };
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(AGE_MAX) => {
            connection.as_mut().graceful_shutdown();
            // Whatever is under way then has had its time.
            tokio::time::timeout(shared.config.timeout, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection of a sender ended");
    }
}

#[cfg(test)]
mod tests;
