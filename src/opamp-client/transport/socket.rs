//! An established connection, not yet pumped: a WebSocket over any stream, or somebody who is polled over HTTP.
//!
//! Promises: buffers are small and bounded by the message limit; text frames are not known here, the pump refuses them.
//! Must never: read or write; that is the pump's.

use std::fmt;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Agents sit idle most of the time: a small buffer each, not 128 KiB.
const READ_BUFFER: usize = 4 * 1024;

/// Any stream, so that TCP, TLS and Unix sockets are one type from here on.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) type BoxStream = Box<dyn Stream>;

pub(super) type Socket = WebSocketStream<BoxStream>;

/// What the other side asked for when it connected to us.
#[derive(Clone, Default)]
pub struct RequestHead {
    /// Path without query.
    pub path: String,
    /// Query without question mark.
    pub query: Option<String>,
    /// All headers. They hold credentials, so `Debug` shows names only.
    pub headers: HeaderMap,
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.keys().map(http::HeaderName::as_str).collect();
        f.debug_struct("RequestHead")
            .field("path", &self.path)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// An established connection. Give it to [`super::Pump::new`].
pub struct Connection {
    pub(super) carrier: Carrier,
    head: RequestHead,
}

/// What messages travel on.
pub(super) enum Carrier {
    Socket(Box<Socket>),
    #[cfg(feature = "polling")]
    Poll(Box<super::exchange::Exchanger>),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(socket: Socket, head: RequestHead) -> Self {
        let carrier = Carrier::Socket(Box::new(socket));
        Self { carrier, head }
    }

    #[cfg(feature = "polling")]
    pub(super) fn polled(exchanger: super::exchange::Exchanger) -> Self {
        Self {
            carrier: Carrier::Poll(Box::new(exchanger)),
            head: RequestHead::default(),
        }
    }

    /// Whether every message on it is a request that is answered once. Tell the session so, see
    /// [`crate::session::Session::handle_polling`].
    pub fn is_polling(&self) -> bool {
        match &self.carrier {
            Carrier::Socket(_) => false,
            #[cfg(feature = "polling")]
            Carrier::Poll(_) => true,
        }
    }

    /// Wraps the server side of a stream on which somebody else (an HTTP server) has done the upgrade.
    pub async fn upgraded<S>(stream: S, head: RequestHead, max_message: usize) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream: BoxStream = Box::new(stream);
        let config = Some(socket_config(max_message));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, config).await;
        Self::new(socket, head)
    }

    /// What the other side asked for; empty for a connection that we dialled.
    pub fn head(&self) -> &RequestHead {
        &self.head
    }
}

/// Limits of what is read. What is written has none here: whoever makes a message bounds it, and the pump buffers
/// one at a time, since it flushes each before it takes the next.
pub(super) fn socket_config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}
