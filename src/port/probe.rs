//! Asks a child over HTTP how it is. Answers facts, not verdicts.
//!
//! Promises: one connection, one GET, no redirect followed, no name but the URL's own asked for; ends within its time;
//! reads at most [`BODY_MAX`] bytes of the answer. Dropping the future closes the connection.
//! Must never: retry, send credentials, or take a status code for an error: 503 is an answer.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::engine::message::HttpAnswer;
use crate::units::format_duration;

/// Bytes of a body that are kept; the rest is not read.
const BODY_MAX: usize = 64 * 1024;

/// GETs `http://host[:port]/path`, or `unix:/path/of/socket:/path` over a Unix socket.
///
/// # Errors
/// A sentence for people when there is no answer: what was asked and what stood in the way.
///
/// # Cancel safety
/// Dropping the future ends the probe.
pub async fn http_get(url: &str, timeout: Duration) -> Result<HttpAnswer, String> {
    let failed = |reason: String| format!("GET {url}: {reason}");
    match tokio::time::timeout(timeout, get(url)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(format!(
            "no answer within {}",
            format_duration(timeout)
        ))),
    }
}

async fn get(url: &str) -> Result<HttpAnswer, String> {
    match Target::parse(url)? {
        Target::Tcp {
            address,
            host,
            path,
        } => {
            let stream = TcpStream::connect(&address)
                .await
                .map_err(|error| format!("connect to {address}: {error}"))?;
            exchange(stream, &host, &path).await
        }
        Target::Unix { socket, path } => {
            let stream = UnixStream::connect(&socket)
                .await
                .map_err(|error| format!("connect to {socket}: {error}"))?;
            exchange(stream, "localhost", &path).await
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Tcp {
        /// `host:port`, to connect to.
        address: String,
        /// The `Host` header.
        host: String,
        path: String,
    },
    Unix {
        socket: String,
        path: String,
    },
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        if let Some(rest) = url.strip_prefix("unix:") {
            let (socket, path) = rest.rsplit_once(":/").unwrap_or((rest, ""));
            if !socket.starts_with('/') {
                return Err("the socket's path is not absolute".to_owned());
            }
            return Ok(Self::Unix {
                socket: socket.to_owned(),
                path: format!("/{path}"),
            });
        }
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("only http:// and unix: can be probed".to_owned());
        }
        let authority = uri.authority().ok_or("the URL names no host")?;
        // Without a user part, which is nobody's business in a probe.
        let host = authority.host();
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self::Tcp {
            address: format!("{host}:{port}"),
            host: match authority.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

async fn exchange<S>(stream: S, host: &str, path: &str) -> Result<HttpAnswer, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("adjutant/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| format!("no HTTP answer: {}", chain(&error)))?;
        read(response).await
    };
    driven(answer, connection).await
}

/// Polls the connection beside the answer, so that no task is left behind.
async fn driven<A, C>(answer: A, connection: C) -> A::Output
where
    A: Future,
    C: Future,
{
    let answer = pin!(answer);
    let connection = pin!(connection);
    match select(answer, connection).await {
        Either::Left((answer, _)) => answer,
        // The connection has ended, and its last bytes are with the answer.
        Either::Right((_, answer)) => answer.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<HttpAnswer, String> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < BODY_MAX
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| format!("read the body: {}", chain(&error)))?;
        if let Some(data) = frame.data_ref() {
            let room = BODY_MAX - bytes.len();
            bytes.extend(data.iter().take(room));
        }
    }
    Ok(HttpAnswer {
        status,
        body: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// hyper names the class and hides the cause below it.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
