//! The embedded OpAMP server and its page, for trying and testing (`run --dev-server`).
//!
//! Promises: everything on one loopback port: OpAMP over WebSocket at `/v1/opamp`, the page at `/`, the API under
//! `/api`; nothing is kept on disk; every task belongs to [`DevServer::serve`] and ends with it; agents, histories,
//! bodies, queues and connections are bounded; writes need the token.
//! Must never: listen beyond loopback, be needed by the product, or turn into a fleet manager.
//!
//! `connection` tells agents from people, `guard` turns strangers away, `hub` owns the state, which is `fleet` (what to
//! say), `agent` (what one agent reported) and `apply` (what became of a push); `api` and `view` show it, `page`
//! draws it.

mod agent;
mod api;
mod apply;
mod connection;
mod fleet;
mod guard;
mod hub;
mod page;
mod prefixed;
mod uid;
mod view;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::connection::Ways;
use self::fleet::Fleet;
use crate::units::{Secret, WallTime, hex};

/// The path on which agents connect.
pub const OPAMP_PATH: &str = "/v1/opamp";
/// The port that is tried first when none is asked for.
pub const DEFAULT_PORT: u16 = 4319;

/// Open connections of any kind: each agent holds one, and people need some.
const CONNECTIONS_MAX: usize = fleet::AGENTS_MAX + 100;
/// For saying goodbye to agents when the server stops.
const STOP_BUDGET: Duration = Duration::from_secs(1);
/// After a failed accept (out of descriptors, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Random bytes of a token.
const TOKEN_BYTES: usize = 16;

/// The address that is tried first when none is asked for.
pub fn default_address() -> SocketAddr {
    loopback(DEFAULT_PORT)
}

/// How to build a [`DevServer`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; it must be loopback. `None` tries [`DEFAULT_PORT`] and takes any free port if that is in use.
    pub address: Option<SocketAddr>,
    /// What writes must show; `None` makes a random one.
    pub token: Option<Secret>,
    /// The wall clock, for the times that are shown.
    pub clock: fn() -> WallTime,
}

/// Why the server did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The page has no login, and a token in clear text is no protection beyond this host.
    #[error("dev server address {address} is not loopback; use 127.0.0.1:PORT")]
    NotLoopback {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The port cannot be had.
    #[error("listen on {address} for the dev server")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("make a token for the dev server: no random bytes: {reason}")]
    Random {
        /// What the system said.
        reason: String,
    },
}

/// A server that listens and does not answer yet; [`DevServer::serve`] makes it.
#[derive(Debug)]
pub struct DevServer {
    listener: TcpListener,
    address: SocketAddr,
    default_port_taken: bool,
    token: Arc<Secret>,
    seed: u64,
    clock: fn() -> WallTime,
}

impl DevServer {
    /// Opens the port. From here on agents can connect; they are answered once [`DevServer::serve`] runs.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(options: Options) -> Result<Self, BindError> {
        let Options {
            address,
            token,
            clock,
        } = options;
        let (listener, default_port_taken) = match address {
            Some(address) => (listen(address).await?, false),
            None => match listen(loopback(DEFAULT_PORT)).await {
                Ok(listener) => (listener, false),
                Err(BindError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse =>
                {
                    (listen(loopback(0)).await?, true)
                }
                Err(error) => return Err(error),
            },
        };
        let address = listener.local_addr().map_err(|source| BindError::Listen {
            address: address.unwrap_or_else(|| loopback(DEFAULT_PORT)),
            source,
        })?;
        let token = match token {
            Some(token) => token,
            None => Secret::new(hex(&random::<TOKEN_BYTES>()?)),
        };
        Ok(Self {
            listener,
            address,
            default_port_taken,
            token: Arc::new(token),
            seed: u64::from_le_bytes(random()?),
            clock,
        })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether [`DEFAULT_PORT`] was in use, so that another one was taken.
    pub fn default_port_taken(&self) -> bool {
        self.default_port_taken
    }

    /// What writes must show.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// The address of the page, without the token.
    pub fn page_url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The address of the page with the token as its fragment, which browsers send nowhere. To be shown to the person
    /// who started the server, not to be logged.
    pub fn page_url_with_token(&self) -> Secret {
        Secret::new(format!("{}#token={}", self.page_url(), self.token.expose()))
    }

    /// The address that agents connect to.
    pub fn opamp_url(&self) -> String {
        format!("ws://{}{OPAMP_PATH}", self.address)
    }

    /// Serves until `shutdown` is done, then says goodbye to the agents and ends, within about a second.
    ///
    /// # Cancel safety
    /// Dropping the future ends every connection at once.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self {
            listener,
            token,
            seed,
            clock,
            ..
        } = self;
        let (door, drive) = hub::open(Fleet::new(seed), clock);
        let (stopping, stop) = watch::channel(false);
        let ways = Ways {
            routes: api::routes(door.clone(), token),
            door,
            stop,
        };
        let mut state = JoinSet::new();
        state.spawn(drive.run());
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => note_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                        connections.spawn(connection::serve(stream, ways.clone()));
                    }
                    // Full: dropping it tells the caller.
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(error = %error, "accept on the dev server");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        // Nobody listening means that there is no link to say goodbye on.
        stopping.send(true).ok();
        let drained = async {
            while let Some(ended) = connections.join_next().await {
                note_panic(ended);
            }
        };
        // Event streams and idle connections never end by themselves; they end here with their set.
        timeout(STOP_BUDGET, drained).await.ok();
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "dev server connection panicked");
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback { address });
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError::Listen { address, source })
}

fn random<const N: usize>() -> Result<[u8; N], BindError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| BindError::Random {
        reason: error.to_string(),
    })?;
    Ok(bytes)
}
