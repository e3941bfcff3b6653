//! From a target to an established connection: name, TCP or Unix socket, proxy, TLS, WebSocket upgrade.
//!
//! Promises: one attempt within one deadline; every way to fail is a class that a caller can act on. Redirects are
//! followed as `redirect.rs` allows: never to less security, and without our credentials to somebody else.
//! Must never: retry, or log. An error names places, never headers.

use std::io;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, header};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::date::retry_after;
use super::proxy::{Kind, Proxy};
use super::race::tcp;
use super::redirect::{Location, too_many};
use super::socket::{BoxStream, Connection, RequestHead, socket_config};
use super::target::{Place, Target};
use super::tls::client_config;
use crate::frame::MAX_MESSAGE_DEFAULT;

/// Limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialOptions {
    /// For everything, from the name to the upgrade.
    pub timeout: Duration,
    /// For each address that a name has; they are raced, so this bounds the last one.
    pub address_timeout: Duration,
    /// Largest message that will be received.
    pub max_message: usize,
    /// Redirects that are followed in one attempt; with zero, one is a status like any other.
    pub redirects: u8,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            address_timeout: Duration::from_secs(10),
            max_message: MAX_MESSAGE_DEFAULT,
            redirects: 10,
        }
    }
}

/// What a caller does about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialClass {
    /// The other end is not there: back-off.
    Unreachable,
    /// It is overloaded and said so: back-off, but not less than it asked for.
    Throttled,
    /// It does not want our credentials: long back-off, tell somebody.
    Rejected,
    /// It is there, but not what we expect: TLS, status, protocol. Back-off, tell somebody.
    Unexpected,
    /// Our own settings cannot work.
    Settings,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address.
    #[error("resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Nobody accepts the connection.
    #[error("connect to {place}")]
    Connect {
        /// The address, or the path of the socket.
        place: String,
        /// What the system says about the last address tried.
        source: io::Error,
    },
    /// The proxy does not do its work.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// What it did instead.
        reason: String,
    },
    /// Our proxy or TLS settings cannot work.
    #[error("connection settings: {reason}")]
    Settings {
        /// Which, and why.
        reason: String,
    },
    /// The TLS handshake failed, for example because the certificate does not verify.
    #[error("tls handshake with {host}")]
    Tls {
        /// The name that was verified.
        host: String,
        /// What rustls says.
        source: io::Error,
    },
    /// 401 or 403.
    #[error("credentials were refused with status {status}")]
    Unauthorized {
        /// Which of them.
        status: u16,
    },
    /// 429 or 503.
    #[error("server is throttling with status {status}")]
    Throttled {
        /// Which of them.
        status: u16,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// Any other status than 101.
    #[error("server answered the upgrade with status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("redirect: {reason}")]
    Redirect {
        /// Why not.
        reason: String,
    },
    /// What came back is not a WebSocket upgrade.
    #[error("upgrade: {reason}")]
    Upgrade {
        /// What is wrong with it.
        reason: String,
    },
    /// Not done in time.
    #[error("no connection within {} ms", after.as_millis())]
    Timeout {
        /// The whole time that was allowed.
        after: Duration,
    },
}

impl DialError {
    /// What to do about it.
    pub fn class(&self) -> DialClass {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Proxy { .. }
            | Self::Timeout { .. } => DialClass::Unreachable,
            Self::Throttled { .. } => DialClass::Throttled,
            Self::Unauthorized { .. } => DialClass::Rejected,
            Self::Tls { .. }
            | Self::Status { .. }
            | Self::Redirect { .. }
            | Self::Upgrade { .. } => DialClass::Unexpected,
            Self::Settings { .. } => DialClass::Settings,
        }
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Connects to `target`, once.
///
/// # Errors
/// [`DialError`], whose [`DialError::class`] says what to do.
///
/// # Cancel safety
/// Dropping the future drops the half-open connection and has no other effect.
pub async fn dial(target: &Target, options: DialOptions) -> Result<Connection, DialError> {
    if target.is_polling() {
        return polled(target, options).await;
    }
    let attempt = async {
        let mut present = std::borrow::Cow::Borrowed(target);
        let mut hops = 0;
        loop {
            let stream = open(&present, options).await?;
            match upgrade(stream, &present, options.max_message).await? {
                Answer::Upgraded(connection) => return Ok(connection),
                Answer::Elsewhere(location) if hops < options.redirects => {
                    hops += 1;
                    present = std::borrow::Cow::Owned(present.redirected(&location)?);
                }
                Answer::Elsewhere(_) if options.redirects > 0 => return Err(too_many(hops)),
                Answer::Elsewhere(location) => {
                    return Err(DialError::Status {
                        status: location.status,
                    });
                }
            }
        }
    };
    timeout(options.timeout, attempt)
        .await
        .unwrap_or(Err(DialError::Timeout {
            after: options.timeout,
        }))
}

/// What an upgrade request came to.
enum Answer {
    Upgraded(Connection),
    Elsewhere(Location),
}

/// Connects to a server that is to be polled.
#[cfg(feature = "polling")]
async fn polled(target: &Target, options: DialOptions) -> Result<Connection, DialError> {
    let exchanger = super::exchange::Exchanger::connect(target, options).await?;
    Ok(Connection::polled(exchanger))
}

#[cfg(not(feature = "polling"))]
#[expect(clippy::unused_async, reason = "it is awaited where it exists")]
async fn polled(target: &Target, _: DialOptions) -> Result<Connection, DialError> {
    Err(DialError::Settings {
        reason: format!("{target}: plain HTTP polling is not built in; use ws or wss"),
    })
}

/// Connects to `target` without an upgrade, for embedders that speak plain HTTP there, too. Its headers and its path
/// are the caller's to send.
///
/// # Errors
/// As [`dial`] has them, but for those of the upgrade.
///
/// # Cancel safety
/// Dropping the future drops the half-open connection and has no other effect.
pub async fn connect(
    target: &Target,
    options: DialOptions,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, DialError> {
    timeout(options.timeout, open(target, options))
        .await
        .unwrap_or(Err(DialError::Timeout {
            after: options.timeout,
        }))
}

pub(super) async fn open(target: &Target, options: DialOptions) -> Result<BoxStream, DialError> {
    let (host, port, tls) = match &target.place {
        Place::Unix(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|source| DialError::Connect {
                    place: path.display().to_string(),
                    source,
                })?;
            return Ok(Box::new(stream));
        }
        Place::Tcp { host, port, tls } => (host, *port, *tls),
    };
    let proxy = target
        .proxies
        .proxy_for(host, port, tls)
        .map_err(|error| DialError::Settings {
            reason: error.to_string(),
        })?;
    let stream: BoxStream = match &proxy {
        None => Box::new(tcp(host, port, options.address_timeout).await?),
        Some(proxy) => through(proxy, target, host, port, options.address_timeout).await?,
    };
    if tls {
        let name = target.tls.server_name.as_deref().unwrap_or(host);
        secure(stream, name, target).await
    } else {
        Ok(stream)
    }
}

async fn through(
    proxy: &Proxy,
    target: &Target,
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<BoxStream, DialError> {
    let stream = Box::new(tcp(&proxy.host, proxy.port, limit).await?);
    let mut stream = if proxy.kind == Kind::Https {
        secure(stream, &proxy.host, target).await?
    } else {
        stream
    };
    proxy
        .connect(&mut stream, host, port)
        .await
        .map_err(|error| DialError::Proxy {
            proxy: format!("{}:{}", proxy.host, proxy.port),
            reason: error.to_string(),
        })?;
    Ok(stream)
}

async fn secure(stream: BoxStream, host: &str, target: &Target) -> Result<BoxStream, DialError> {
    let settings = |reason: String| DialError::Settings { reason };
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| settings(error.to_string()))?;
    // Reads the system's certificate files, which may be on a slow disk.
    let options = target.tls.clone();
    let config = tokio::task::spawn_blocking(move || client_config(&options))
        .await
        .map_err(|error| settings(error.to_string()))?
        .map_err(|error| settings(error.to_string()))?;
    let stream = TlsConnector::from(std::sync::Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|source| DialError::Tls {
            host: host.to_owned(),
            source,
        })?;
    Ok(Box::new(stream))
}

async fn upgrade(
    stream: BoxStream,
    target: &Target,
    max_message: usize,
) -> Result<Answer, DialError> {
    let broken = |error: &dyn std::fmt::Display| DialError::Upgrade {
        reason: error.to_string(),
    };
    // The authority only completes the URI; the stream is connected already.
    let mut request = Request::builder()
        .uri(format!("ws://{}{}", target.host_header, target.path))
        .header(header::HOST, &target.host_header)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .body(())
        .map_err(|error| broken(&error))?;
    request.headers_mut().extend(target.headers.clone());
    let config = Some(socket_config(max_message));
    match tokio_tungstenite::client_async_with_config(request, stream, config).await {
        Ok((socket, _response)) => {
            let connection = Connection::new(socket, RequestHead::default());
            Ok(Answer::Upgraded(connection))
        }
        Err(WsError::Http(response)) => match Location::of(response.status(), response.headers()) {
            Some(location) => Ok(Answer::Elsewhere(location)),
            None => Err(refused(response.status(), response.headers())),
        },
        Err(error) => Err(broken(&error)),
    }
}

fn refused(status: StatusCode, headers: &HeaderMap) -> DialError {
    let code = status.as_u16();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            DialError::Unauthorized { status: code }
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => DialError::Throttled {
            status: code,
            retry_after: retry_after(headers),
        },
        _ => DialError::Status { status: code },
    }
}
