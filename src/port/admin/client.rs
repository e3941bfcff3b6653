//! The other end of the control socket: one request, one answer, for the command line.
//!
//! Promises: every exchange ends within twenty seconds and reads at most 24 MiB; "nobody answers" is an error of its
//! own, told apart from "somebody refused". Also asks a plain `http://` address, for health checks from inside a
//! container.
//! Must never: retry, or print.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use super::health::HealthDocument;
use super::registration::RegisterOrder;
use super::socket::{self, SOCKET};
use super::wire::{
    AcceptedDocument, AgentOrder, ApplyOrder, ContentDocument, ErrorDocument, RenewOrder,
    RevisionsDocument, RollbackOrder, StatusDocument,
};
use crate::sys::http::{self, Stream};

/// How long one exchange may take; longer than the server gives the loop for an order.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer: a whole revision in JSON, escapes included.
const ANSWER_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Speaks to the supervisor that owns a state directory.
#[derive(Debug, Clone)]
pub struct Client {
    state_dir: PathBuf,
}

/// An exchange that brought no answer of the wanted kind.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no supervisor answers on {place}")]
    Nobody {
        /// Which socket or address.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The socket may not be used by this user.
    #[error("use {place}: only root and the user of the supervisor may")]
    Denied {
        /// Which socket.
        place: String,
    },
    /// The supervisor said no.
    #[error("{reason}")]
    Refused {
        /// The class, one word.
        kind: String,
        /// In the supervisor's words.
        reason: String,
    },
    /// The exchange broke off.
    #[error("ask {place}: {reason}")]
    Broken {
        /// Which socket or address.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The address cannot be asked.
    #[error("ask {url}: only http://host:port/path can be asked")]
    Address {
        /// Which.
        url: String,
    },
}

impl Client {
    /// A client for a state directory. Connects with each request.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
        }
    }

    /// The whole state.
    pub async fn status(&self) -> Result<StatusDocument, ClientError> {
        self.get("/v1/status").await
    }

    /// The stored revisions of an agent.
    pub async fn revisions(&self, agent: Option<&str>) -> Result<RevisionsDocument, ClientError> {
        self.get(&query("/v1/revisions", &[("agent", agent)])).await
    }

    /// The files of a stored revision, of the current one when `id` is `None`.
    pub async fn revision(
        &self,
        agent: Option<&str>,
        id: Option<&str>,
    ) -> Result<ContentDocument, ClientError> {
        self.get(&query("/v1/revision", &[("agent", agent), ("id", id)]))
            .await
    }

    /// Orders a rollback.
    pub async fn rollback(&self, order: &RollbackOrder) -> Result<AcceptedDocument, ClientError> {
        self.post("/v1/rollback", order).await
    }

    /// Orders an apply.
    pub async fn apply(&self, order: &ApplyOrder) -> Result<AcceptedDocument, ClientError> {
        self.post("/v1/apply", order).await
    }

    /// Orders a restart.
    pub async fn restart(&self, order: &AgentOrder) -> Result<AcceptedDocument, ClientError> {
        self.post("/v1/restart", order).await
    }

    /// Orders a registration.
    pub async fn register(&self, order: &RegisterOrder) -> Result<AcceptedDocument, ClientError> {
        self.post("/v1/register", order).await
    }

    /// Orders a reload.
    pub async fn reload(&self, order: &AgentOrder) -> Result<AcceptedDocument, ClientError> {
        self.post("/v1/reload", order).await
    }

    #[cfg(feature = "adopt")]
    /// Orders that the executable at the supervisor's path takes over.
    pub async fn upgrade(&self) -> Result<AcceptedDocument, ClientError> {
        let nothing = serde_json::json!({});
        self.post("/v1/upgrade", &nothing).await
    }

    /// Orders new pairs.
    pub async fn renew_certificates(
        &self,
        order: &RenewOrder,
    ) -> Result<AcceptedDocument, ClientError> {
        self.post("/v1/certificates/renew", order).await
    }

    /// The health document; health that is an error is an answer too.
    pub async fn health(&self) -> Result<HealthDocument, ClientError> {
        let (status, body) = self.exchange(Method::GET, "/health", Bytes::new()).await?;
        read_health(&self.place(), status, &body)
    }

    fn place(&self) -> String {
        self.state_dir.join(SOCKET).display().to_string()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        read(&self.place(), status, &body)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(order).map_err(|cause| broken(&self.place(), &cause))?;
        let (status, body) = self.exchange(Method::POST, path, body.into()).await?;
        read(&self.place(), status, &body)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ClientError> {
        let place = self.place();
        let stream = connect(&self.state_dir).map_err(|source| unreachable(&place, source))?;
        exchange(Box::new(stream), &place, method, path, "localhost", body).await
    }
}

/// Asks a plain HTTP address for its health document.
///
/// # Errors
/// As for the socket; an address that is not `http://` is refused.
pub async fn health_of(url: &str) -> Result<HealthDocument, ClientError> {
    let address = || ClientError::Address {
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| address())?;
    let authority = uri.authority().ok_or_else(address)?;
    if uri.scheme_str() != Some("http") {
        return Err(address());
    }
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(80);
    let connect = tokio::time::timeout(TIMEOUT, TcpStream::connect((host, port)));
    let stream = match connect.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(unreachable(url, source)),
        Err(_) => return Err(unreachable(url, io::ErrorKind::TimedOut.into())),
    };
    // A base address will do: what is asked for is its health.
    let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
        "/" => "/health",
        path => path,
    };
    let (status, body) = exchange(
        Box::new(stream),
        url,
        Method::GET,
        path,
        authority.as_str(),
        Bytes::new(),
    )
    .await?;
    read_health(url, status, &body)
}

fn connect(state_dir: &Path) -> io::Result<UnixStream> {
    let stream = socket::connect(state_dir)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn unreachable(place: &str, source: io::Error) -> ClientError {
    let place = place.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        ClientError::Denied { place }
    } else {
        ClientError::Nobody { place, source }
    }
}

fn broken(place: &str, cause: &dyn std::fmt::Display) -> ClientError {
    ClientError::Broken {
        place: place.to_owned(),
        reason: cause.to_string(),
    }
}

async fn exchange(
    stream: Box<dyn Stream>,
    place: &str,
    method: Method,
    path: &str,
    host: &str,
    body: Bytes,
) -> Result<(u16, Bytes), ClientError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|cause| broken(place, &cause))?;
    let talk = http::exchange(stream, request, ANSWER_BYTES_MAX);
    match tokio::time::timeout(TIMEOUT, talk).await {
        Ok(Ok(answer)) if answer.whole => Ok((answer.status, answer.body)),
        Ok(Ok(_)) => Err(broken(place, &"the answer is longer than 24 MiB")),
        Ok(Err(cause)) => Err(broken(place, &cause)),
        Err(_) => Err(broken(place, &"no answer within 20 seconds")),
    }
}

fn read<T: DeserializeOwned>(place: &str, status: u16, body: &[u8]) -> Result<T, ClientError> {
    if (200..300).contains(&status) {
        return serde_json::from_slice(body).map_err(|cause| broken(place, &cause));
    }
    Err(refused(place, status, body))
}

fn read_health(place: &str, status: u16, body: &[u8]) -> Result<HealthDocument, ClientError> {
    serde_json::from_slice(body).map_err(|_| refused(place, status, body))
}

fn refused(place: &str, status: u16, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorDocument>(body) {
        Ok(document) => ClientError::Refused {
            kind: document.error.kind,
            reason: document.error.reason,
        },
        Err(_) => broken(place, &format_args!("HTTP status {status}")),
    }
}

/// A path with those parameters that have a value; everything but letters, digits and `-_.` is escaped.
fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (key, value) in parameters {
        if let Some(value) = value {
            text.push(separator);
            text.push_str(key);
            text.push('=');
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
                    text.push(char::from(byte));
                } else {
                    text.push('%');
                    text.push_str(&crate::units::hex(&[byte]));
                }
            }
            separator = '&';
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped_and_absent_ones_left_out() {
        assert_eq!(query("/x", &[("a", None), ("b", None)]), "/x");
        assert_eq!(
            query("/x", &[("a", Some("b c&d")), ("e", Some("f"))]),
            "/x?a=b%20c%26d&e=f"
        );
    }
}
