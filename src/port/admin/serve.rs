//! Binds the doors and runs their accept loops.
//!
//! Promises: at most 64 connections per door, five seconds for the request's header, thirty for the whole exchange,
//! one request per connection; tasks belong to the future that `serve` returns and end with it, as does the socket
//! file.
//! Must never: detach a task, or let a busy HTTP door starve the control socket (each door has its own loop).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, select_all};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

#[cfg(feature = "opampsupervisor")]
use super::secured::Secured;
use super::socket::{ControlSocket, SocketError};
use super::{Questions, Token, routes};
use crate::config::HealthDoor;
use crate::sys::holder;
use crate::sys::http::Stream;

/// Connections one door serves at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a peer may take to send its request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one exchange may take, slow reader included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, such as one without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What to open.
#[derive(Debug, Clone)]
pub struct Doors {
    /// The state directory; the caller holds its lock.
    pub state_dir: PathBuf,
    /// Addresses of health, metrics and status.
    pub listen: Vec<SocketAddr>,
    /// What those of them that are not on loopback ask for. Without it they are open to nobody.
    pub token: Option<Token>,
    /// Address of the plain `/health` door of the `agent:` form.
    pub healthcheck: Option<SocketAddr>,
    /// How that door answers.
    pub health_door: HealthDoor,
}

/// The doors, bound but not yet served.
#[derive(Debug)]
pub struct Admin {
    control: ControlSocket,
    pages: Vec<TcpListener>,
    token: Option<Token>,
    healthcheck: Option<TcpListener>,
    health_door: HealthDoor,
    #[cfg(feature = "opampsupervisor")]
    secured: Option<Secured>,
    peers: Vec<u32>,
}

/// A door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The control socket.
    #[error("open the control socket")]
    Control(#[source] SocketError),
    /// An HTTP address.
    #[error("listen on {address} for health and metrics: {why}{help}")]
    Address {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        why: io::Error,
        /// Who is in the way, and what to do.
        help: String,
    },
    /// The pair of the health door.
    #[cfg(feature = "opampsupervisor")]
    #[error("serve health over TLS: healthcheck.tls: {0}")]
    Tls(String),
}

impl Admin {
    /// Binds every door. Must be called inside the runtime, with the lock of the state directory held.
    ///
    /// # Errors
    /// The first door that cannot be opened; the others are closed again.
    pub fn bind(doors: &Doors) -> Result<Self, BindError> {
        let pages = doors
            .listen
            .iter()
            .map(|address| listen(*address))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            control: ControlSocket::bind(&doors.state_dir).map_err(BindError::Control)?,
            pages,
            token: doors.token,
            healthcheck: doors.healthcheck.map(listen).transpose()?,
            health_door: doors.health_door.clone(),
            #[cfg(feature = "opampsupervisor")]
            secured: secured(doors)?,
            peers: vec![0, nix::unistd::geteuid().as_raw()],
        })
    }

    /// The addresses that are really listened on, those of `listen` first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.pages
            .iter()
            .chain(&self.healthcheck)
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves until dropped.
    ///
    /// # Errors
    /// The control socket cannot be handed to the runtime.
    ///
    /// # Cancel safety
    /// Dropping the future closes every door and ends every exchange.
    pub async fn serve(mut self, questions: Questions) -> Result<Infallible, io::Error> {
        let mut loops: Vec<LocalBoxFuture<'_, Infallible>> = Vec::new();
        if let Some(listener) = self.control.listener.take() {
            let listener = UnixListener::from_std(listener)?;
            let routers = (routes::control(questions.clone()), routes::strangers());
            loops.push(control_loop(listener, routers, self.peers.clone()).boxed_local());
        }
        for listener in self.pages.drain(..) {
            let ip = listener.local_addr()?.ip();
            let guard = if ip.is_loopback() {
                routes::Guard::Names(ip)
            } else {
                routes::Guard::Token(self.token)
            };
            let router = routes::pages(questions.clone(), guard);
            let limits = (HEADER_TIMEOUT, EXCHANGE_TIMEOUT);
            loops.push(page_loop(listener, router, limits).boxed_local());
        }
        if let Some(listener) = self.healthcheck.take() {
            let router = routes::healthcheck(questions, &self.health_door.headers);
            let limits = (
                self.health_door.header_timeout.unwrap_or(HEADER_TIMEOUT),
                self.health_door
                    .exchange_timeout
                    .unwrap_or(EXCHANGE_TIMEOUT),
            );
            #[cfg(feature = "opampsupervisor")]
            if let Some(secured) = self.secured.take() {
                loops.push(secured_loop(listener, secured, router, limits).boxed_local());
            } else {
                loops.push(page_loop(listener, router, limits).boxed_local());
            }
            #[cfg(not(feature = "opampsupervisor"))]
            loops.push(page_loop(listener, router, limits).boxed_local());
        }
        let (never, _, _) = select_all(loops).await;
        match never {}
    }
}

#[cfg(feature = "opampsupervisor")]
fn secured(doors: &Doors) -> Result<Option<Secured>, BindError> {
    let settings = doors.health_door.tls.as_ref();
    let settings = settings.filter(|_| doors.healthcheck.is_some());
    let opened = settings.map(Secured::open).transpose();
    opened.map_err(BindError::Tls)
}

fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|why| {
        let help = match why.kind() {
            io::ErrorKind::AddrInUse => in_the_way(address),
            _ => "; set another address in http.listen".to_owned(),
        };
        BindError::Address { address, why, help }
    })
}

fn in_the_way(address: SocketAddr) -> String {
    let holder = holder::socket_at(address).map(|it| holder::with_process(&it));
    let holder = holder.map_or_else(String::new, |it| format!("; it is held by {it}"));
    format!("{holder}; stop that, or set another address in http.listen")
}

async fn control_loop(
    listener: UnixListener,
    (trusted, strangers): (Router, Router),
    peers: Vec<u32>,
) -> Infallible {
    let mut exchanges = Exchanges::default();
    loop {
        exchanges.make_room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let uid = stream.peer_cred().map(|peer| peer.uid());
                let known = uid.is_ok_and(|uid| peers.contains(&uid));
                let router = if known { &trusted } else { &strangers };
                let limits = (HEADER_TIMEOUT, EXCHANGE_TIMEOUT);
                exchanges.begin(Box::new(stream), router.clone(), limits);
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn page_loop(
    listener: TcpListener,
    router: Router,
    limits: (Duration, Duration),
) -> Infallible {
    let mut exchanges = Exchanges::default();
    loop {
        exchanges.make_room().await;
        match listener.accept().await {
            Ok((stream, _)) => exchanges.begin(Box::new(stream), router.clone(), limits),
            Err(error) => pause(&error).await,
        }
    }
}

#[cfg(feature = "opampsupervisor")]
async fn secured_loop(
    listener: TcpListener,
    secured: Secured,
    router: Router,
    limits: (Duration, Duration),
) -> Infallible {
    let mut exchanges = Exchanges::default();
    loop {
        exchanges.make_room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                exchanges.begin_secured(stream, secured.clone(), router.clone(), limits);
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(error = %error, "accept on a door failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The exchanges of one door.
#[derive(Debug, Default)]
struct Exchanges(JoinSet<()>);

impl Exchanges {
    /// Forgets those that ended and waits for one when all places are taken.
    async fn make_room(&mut self) {
        while let Some(ended) = self.0.try_join_next() {
            log_panic(ended);
        }
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(ended) = self.0.join_next().await
        {
            log_panic(ended);
        }
    }

    /// A boxed stream, so that there is one server for both kinds of doors.
    fn begin(
        &mut self,
        stream: Box<dyn Stream + Send>,
        router: Router,
        limits: (Duration, Duration),
    ) {
        self.0.spawn(exchange(stream, router, limits));
    }

    /// The same behind a handshake, which may take as long as a header.
    #[cfg(feature = "opampsupervisor")]
    fn begin_secured(
        &mut self,
        stream: tokio::net::TcpStream,
        secured: Secured,
        router: Router,
        limits: (Duration, Duration),
    ) {
        self.0.spawn(async move {
            match tokio::time::timeout(limits.0, secured.shake(stream)).await {
                Ok(Ok(stream)) => exchange(Box::new(stream), router, limits).await,
                Ok(Err(error)) => tracing::debug!(error = %error, "no TLS with a peer"),
                Err(_) => tracing::debug!("handshake took too long"),
            }
        });
    }
}

async fn exchange(
    stream: Box<dyn Stream + Send>,
    router: Router,
    (header, whole): (Duration, Duration),
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(whole, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %error, "exchange broken off"),
        Err(_) => tracing::debug!("exchange took too long"),
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "an exchange ended by a panic");
    }
}

#[cfg(test)]
mod tests;
