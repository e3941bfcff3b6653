//! The server side of the upgrade, for local endpoints and test servers. The caller owns the listener.
//!
//! Promises: a wrong path, a browser's `Origin` and whatever the caller's check refuses get an HTTP status and nothing
//! else; a silent client is dropped at the deadline.
//! Must never: accept from the network by itself, or answer plain HTTP requests.

use std::time::Duration;

use http::{Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request};

use super::socket::{BoxStream, Connection, RequestHead, socket_config};
use crate::frame::MAX_MESSAGE_DEFAULT;

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptRules {
    /// The only path that is served; `None` serves all.
    pub path: Option<String>,
    /// Whether requests with an `Origin` header are served. Agents send none; browsers do, and a page from anywhere may
    /// connect to loopback.
    pub allow_origin: bool,
    /// For the whole request.
    pub timeout: Duration,
    /// Largest message that will be received.
    pub max_message: usize,
}

impl Default for AcceptRules {
    fn default() -> Self {
        Self {
            path: Some("/v1/opamp".to_owned()),
            allow_origin: false,
            timeout: Duration::from_secs(10),
            max_message: MAX_MESSAGE_DEFAULT,
        }
    }
}

/// Why a client was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It got this HTTP status.
    #[error("request was refused with status {status}")]
    Refused {
        /// The status that was sent.
        status: u16,
    },
    /// It did not send a whole request in time.
    #[error("no request within {} ms", after.as_millis())]
    Timeout {
        /// The time that was allowed.
        after: Duration,
    },
    /// It did not speak WebSocket, or went away.
    #[error("upgrade: {reason}")]
    Upgrade {
        /// What it did instead.
        reason: String,
    },
}

/// Serves one upgrade request. `check` sees path and headers and may refuse with a status, for example 401.
///
/// # Errors
/// [`AcceptError`]; the stream is closed then.
pub async fn accept<S, F>(
    stream: S,
    rules: &AcceptRules,
    check: F,
) -> Result<Connection, AcceptError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: FnOnce(&RequestHead) -> Result<(), StatusCode> + Unpin,
{
    let stream: BoxStream = Box::new(stream);
    let mut head = RequestHead::default();
    #[expect(
        clippy::result_large_err,
        reason = "the error is the response that the WebSocket library wants"
    )]
    let callback = |request: &Request, response| {
        head = RequestHead {
            path: request.uri().path().to_owned(),
            query: request.uri().query().map(str::to_owned),
            headers: request.headers().clone(),
        };
        admit(&head, rules)
            .and_then(|()| check(&head))
            .map(|()| response)
            .map_err(refusal)
    };
    let config = Some(socket_config(rules.max_message));
    let upgrade = tokio_tungstenite::accept_hdr_async_with_config(stream, callback, config);
    match timeout(rules.timeout, upgrade).await {
        Ok(Ok(socket)) => Ok(Connection::new(socket, head)),
        Ok(Err(WsError::Http(response))) => Err(AcceptError::Refused {
            status: response.status().as_u16(),
        }),
        Ok(Err(error)) => Err(AcceptError::Upgrade {
            reason: error.to_string(),
        }),
        Err(_) => Err(AcceptError::Timeout {
            after: rules.timeout,
        }),
    }
}

fn admit(head: &RequestHead, rules: &AcceptRules) -> Result<(), StatusCode> {
    if rules.path.as_ref().is_some_and(|path| *path != head.path) {
        return Err(StatusCode::NOT_FOUND);
    }
    if head.headers.contains_key(header::ORIGIN) && !rules.allow_origin {
        return Err(StatusCode::FORBIDDEN);
    }
    Ok(())
}

fn refusal(status: StatusCode) -> ErrorResponse {
    let mut response = Response::new(None);
    *response.status_mut() = status;
    response
}
