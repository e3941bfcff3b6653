//! One HTTP/1.1 exchange over a stream that somebody else connected: a request, an answer, the end.
//!
//! Promises: one instance of the HTTP client for every caller, because each kind of stream would bring its own copy;
//! no more of a body is kept than the caller asked for; no redirect, no retry, no task left behind.
//! Must never: connect, or wait with a deadline of its own: the caller knows both.

use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Any stream, so that there is one client for TCP, TLS and Unix sockets.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Every header. They may hold what must not be logged.
    pub headers: HeaderMap,
    /// At most as many bytes as were asked for.
    pub body: Bytes,
    /// Whether `body` is all there was.
    pub whole: bool,
}

/// No answer, or half of one; hyper's words with their causes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExchangeError(String);

/// Sends `request`, whose URI is a path, and reads the answer with up to `body_max` bytes of its body.
///
/// # Errors
/// The other side is gone, or does not speak HTTP.
///
/// # Cancel safety
/// Dropping the future closes the stream.
pub async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    body_max: usize,
) -> Result<Answer, ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken("start HTTP", &error))?;
    let answer = pin!(async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken("no HTTP answer", &error))?;
        read(response, body_max).await
    });
    // Polled beside the answer, so that no task is left behind.
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // The connection has ended, and its last bytes are with the answer.
        Either::Right((_, answer)) => answer.await,
    }
}

async fn read(response: Response<Incoming>, body_max: usize) -> Result<Answer, ExchangeError> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut whole = true;
    while whole && let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken("read the body", &error))?;
        if let Some(data) = frame.data_ref() {
            let room = body_max.saturating_sub(bytes.len());
            whole = data.len() <= room;
            bytes.extend(data.iter().take(room));
        }
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes.into(),
        whole,
    })
}

/// hyper names the class and hides the cause below it.
fn broken(what: &str, error: &hyper::Error) -> ExchangeError {
    let mut text = format!("{what}: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    ExchangeError(text)
}
