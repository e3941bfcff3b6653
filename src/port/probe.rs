//! Asks a child over HTTP how it is. Answers facts, not verdicts.
//!
//! Promises: one connection, one GET, no redirect followed, no name but the URL's own asked for; ends within its time;
//! reads at most [`BODY_MAX`] bytes of the answer. Dropping the future closes the connection.
//! Must never: retry, send credentials, or take a status code for an error: 503 is an answer.

#[cfg(feature = "flow")]
mod counters;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Uri};
use tokio::net::{TcpStream, UnixStream};

use crate::engine::message::HttpAnswer;
use crate::sys::http::{Stream, exchange};
use crate::units::format_duration;

#[cfg(feature = "flow")]
pub use counters::read_counters;

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
    let answer = fetch(url, timeout, BODY_MAX).await;
    answer.map(|(answer, _)| answer)
}

/// The same, with another bound of the body, and whether that was all of it.
async fn fetch(
    url: &str,
    timeout: Duration,
    body_max: usize,
) -> Result<(HttpAnswer, bool), String> {
    let failed = |reason: String| format!("GET {url}: {reason}");
    match tokio::time::timeout(timeout, get(url, body_max)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(format!(
            "no answer within {}",
            format_duration(timeout)
        ))),
    }
}

async fn get(url: &str, body_max: usize) -> Result<(HttpAnswer, bool), String> {
    match Target::parse(url)? {
        Target::Tcp {
            address,
            host,
            path,
        } => {
            let stream = connect(&address)
                .await
                .map_err(|error| format!("connect to {address}: {error}"))?;
            ask(Box::new(stream), &host, &path, body_max).await
        }
        Target::Unix { socket, path } => {
            let stream = UnixStream::connect(&socket)
                .await
                .map_err(|error| format!("connect to {socket}: {error}"))?;
            ask(Box::new(stream), "localhost", &path, body_max).await
        }
    }
}

/// `localhost` needs no resolver, and so no thread that waits for one.
async fn connect(address: &str) -> std::io::Result<TcpStream> {
    let port = address.strip_prefix("localhost:");
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(port) => {
            let addresses: [SocketAddr; 2] = [
                (Ipv4Addr::LOCALHOST, port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ];
            TcpStream::connect(&addresses[..]).await
        }
        None => TcpStream::connect(address).await,
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

async fn ask(
    stream: Box<dyn Stream>,
    host: &str,
    path: &str,
    body_max: usize,
) -> Result<(HttpAnswer, bool), String> {
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("adjutant/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let answer = exchange(stream, request, body_max)
        .await
        .map_err(|error| error.to_string())?;
    let page = HttpAnswer {
        status: answer.status,
        body: String::from_utf8_lossy(&answer.body).into_owned(),
    };
    Ok((page, answer.whole))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Answers one connection with `answer` and hands back the request's head.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await.unwrap();
            head.push(byte);
        }
        // The prober may have read enough and gone.
        drop(stream.write_all(answer).await);
        String::from_utf8(head).unwrap()
    }

    async fn probe(answer: &[u8]) -> (Result<HttpAnswer, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://localhost:{port}/health?x=1");
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, answer).await
        };
        tokio::join!(http_get(&url, LONG), server)
    }

    fn answered(status: u16, body: &str) -> HttpAnswer {
        let body = body.to_owned();
        HttpAnswer { status, body }
    }

    #[tokio::test]
    async fn any_status_is_an_answer_and_no_redirect_is_followed() {
        let (answer, head) = probe(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(answer, Ok(answered(200, "ok")));
        assert!(head.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(
            head.to_lowercase().contains("\r\nhost: localhost:"),
            "{head}"
        );
        let (answer, _) = probe(b"HTTP/1.1 503 No\r\nConnection: close\r\n\r\nexporter down").await;
        assert_eq!(answer, Ok(answered(503, "exporter down")));
        let (answer, _) = probe(
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert_eq!(answer, Ok(answered(302, "")));
    }

    #[tokio::test]
    async fn a_long_body_is_cut_and_not_read_to_its_end() {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            u64::MAX / 2
        );
        let answer = [head.as_bytes(), &vec![b'x'; 4 * BODY_MAX]].concat();
        let (answer, _) = probe(&answer).await;
        assert_eq!(answer.unwrap().body.len(), BODY_MAX);
    }

    #[tokio::test]
    async fn a_unix_socket_is_probed_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let url = format!("unix:{}:/ready", socket.display());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, b"HTTP/1.1 204 No Content\r\n\r\n").await
        };
        let (answer, head) = tokio::join!(http_get(&url, LONG), server);
        assert_eq!(answer, Ok(answered(204, "")));
        assert!(head.starts_with("GET /ready HTTP/1.1\r\n"), "{head}");
    }

    #[tokio::test]
    async fn what_is_not_answered_says_why() {
        let (answer, _) = probe(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        let reason = answer.unwrap_err();
        assert!(reason.contains("no HTTP answer: "), "{reason}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}/");
        let silent = http_get(&url, Duration::from_millis(50)).await;
        assert_eq!(silent, Err(format!("GET {url}: no answer within 50ms")));
        drop(listener);
        let refused = http_get(&url, LONG).await.unwrap_err();
        let wanted = format!("GET {url}: connect to {address}: Connection refused");
        assert!(refused.starts_with(&wanted), "{refused}");
        for (url, reason) in [
            ("https://127.0.0.1/", "only http:// and unix: can be probed"),
            ("unix:relative.sock", "the socket's path is not absolute"),
            ("/health", "only http:// and unix: can be probed"),
        ] {
            let wanted = Err(format!("GET {url}: {reason}"));
            assert_eq!(http_get(url, LONG).await, wanted);
        }
    }

    #[test]
    fn targets_are_taken_from_the_url_without_its_user_part() {
        let tcp = |address: &str, host: &str, path: &str| Target::Tcp {
            address: address.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
        };
        let cases = [
            ("http://localhost", tcp("localhost:80", "localhost", "/")),
            (
                "http://u:p@127.0.0.1:13133/a?b",
                tcp("127.0.0.1:13133", "127.0.0.1:13133", "/a?b"),
            ),
            ("http://[::1]:80/", tcp("[::1]:80", "[::1]:80", "/")),
        ];
        for (url, wanted) in cases {
            assert_eq!(Target::parse(url), Ok(wanted), "{url}");
        }
    }
}
