//! One HTTP/1.1 connection to an upload's endpoint, kept while it lasts.
//!
//! Promises: one time limit covers dialling, TLS, sending and the whole answer; at most 1 MiB of an answer is read;
//! the token file is read at every attempt; names are resolved at every dial; TLS is set up at the first need.
//! Dropping a call closes the connection.
//! Must never: follow a redirect — it could lead a token elsewhere — or retry.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::dataplane::config::HttpConfig;
use crate::sys::tls::{self, TlsError};
use crate::units::WallTime;

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A token file larger than this is not a token file.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;
/// How every request names us.
const AGENT: &str = concat!("adjutant/", env!("CARGO_PKG_VERSION"));

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Nothing to authenticate with; the request was not made.
    #[error("{what} the token file {path}")]
    Token {
        /// What is wrong.
        what: String,
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be had.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The request cannot be written as HTTP.
    #[error("build a request: {0}")]
    Build(hyper::http::Error),
    /// No connection.
    #[error("connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talk to {authority}: {what}")]
    Talk {
        /// Host and port.
        authority: String,
        /// How.
        what: String,
    },
    /// No answer in time.
    #[error("no answer from {authority} in {limit:?}")]
    Timeout {
        /// Host and port.
        authority: String,
        /// The limit.
        limit: Duration,
    },
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body, or its first bytes.
    pub(crate) body: Bytes,
}

impl Answer {
    /// How long the server asks us to wait: seconds or a date.
    pub(crate) fn retry_after(&self, now: WallTime) -> Option<Duration> {
        parse_retry_after(self.headers.get(RETRY_AFTER)?.to_str().ok()?, now)
    }
}

fn parse_retry_after(text: &str, now: WallTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(secs) = text.parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let at = u64::try_from(at.as_millisecond()).ok()?;
    Some(Duration::from_millis(at.saturating_sub(now.unix_millis())))
}

/// The client of one endpoint.
pub(crate) struct HttpClient {
    config: HttpConfig,
    authority: String,
    tls: Option<TlsConnector>,
    connection: Option<SendRequest<Full<Bytes>>>,
    driver: JoinSet<()>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl HttpClient {
    /// A client that is not connected yet.
    pub(crate) fn new(config: HttpConfig) -> Self {
        let authority = config
            .endpoint
            .authority()
            .map_or_else(String::new, ToString::to_string);
        Self {
            config,
            authority,
            tls: None,
            connection: None,
            driver: JoinSet::new(),
        }
    }

    /// Posts a body to a path below the endpoint.
    ///
    /// # Cancel safety
    /// Dropping the call closes the connection; the server may have taken the request.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let limit = self.config.timeout;
        // Taken out, so that a call that is dropped or fails leaves no half-used connection behind.
        let connection = self.connection.take();
        let exchange = self.exchange(connection, path, headers, body);
        let Ok(result) = tokio::time::timeout(limit, exchange).await else {
            self.driver.abort_all();
            let authority = self.authority.clone();
            return Err(HttpError::Timeout { authority, limit });
        };
        let (answer, connection) = result?;
        self.connection = connection;
        Ok(answer)
    }

    async fn exchange(
        &mut self,
        connection: Option<SendRequest<Full<Bytes>>>,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<(Answer, Option<SendRequest<Full<Bytes>>>), HttpError> {
        let request = self.request(path, headers, body)?;
        let kept = match connection {
            Some(mut connection) => connection.ready().await.is_ok().then_some(connection),
            None => None,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let response = connection
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        // A status whose body is endless or breaks off is still the server's word; its connection is of no more use.
        let (body, connection) = match body {
            Ok(body) => (body.to_bytes(), Some(connection)),
            Err(_) => (Bytes::new(), None),
        };
        let answer = Answer {
            status: head.status,
            headers: head.headers,
            body,
        };
        Ok((answer, connection))
    }

    fn request(
        &self,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut request = Request::post(target(&self.config.endpoint, path))
            .header(HOST, &self.authority)
            .header(USER_AGENT, AGENT);
        for (name, value) in self.config.headers.iter().chain(headers) {
            request = request.header(name, value);
        }
        if let Some(file) = &self.config.bearer_token_file {
            request = request.header(AUTHORIZATION, bearer(file)?);
        }
        request.body(Full::new(body)).map_err(HttpError::Build)
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let failed = |source| HttpError::Connect {
            authority: self.authority.clone(),
            source,
        };
        let endpoint = &self.config.endpoint;
        let host = endpoint.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let secure = endpoint.scheme_str() == Some("https");
        let port = endpoint.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn Stream> = if secure {
            let connector = if let Some(connector) = &self.tls {
                connector.clone()
            } else {
                let config = tls::client_config(self.config.ca_file.as_deref())?;
                self.tls.insert(TlsConnector::from(config)).clone()
            };
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            Box::new(connector.connect(name, stream).await.map_err(failed)?)
        } else {
            Box::new(stream)
        };
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // One connection at a time: the driver of the last one ends with it.
        self.driver.abort_all();
        while self.driver.try_join_next().is_some() {}
        self.driver.spawn(async move {
            // Whoever has a request on it hears of it too.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(sender)
    }

    fn broken(&self, error: &hyper::Error) -> HttpError {
        use std::error::Error as _;
        let what = error
            .source()
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        HttpError::Talk {
            authority: self.authority.clone(),
            what,
        }
    }
}

/// The endpoint's own path, then ours, unless it is there already; then the endpoint's query.
fn target(endpoint: &hyper::Uri, path: &str) -> String {
    let base = endpoint.path().trim_end_matches('/');
    let base = base.strip_suffix(path).unwrap_or(base);
    match endpoint.query() {
        Some(query) => format!("{base}{path}?{query}"),
        None => format!("{base}{path}"),
    }
}

fn bearer(path: &Path) -> Result<HeaderValue, HttpError> {
    let error = |what: String| HttpError::Token {
        what,
        path: path.to_owned(),
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
        .map_err(|cause| error(format!("cannot read ({cause})")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(error("nothing is in".to_owned()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| error("no header can hold what is in".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_once() {
        let cases = [
            ("http://h:1", "/v1/logs", "/v1/logs"),
            ("http://h:1/", "/v1/logs", "/v1/logs"),
            ("http://h:1/otlp/", "/v1/logs", "/otlp/v1/logs"),
            ("http://h:1/otlp/v1/logs", "/v1/logs", "/otlp/v1/logs"),
            (
                "http://h:1/a?extra_label=b=c",
                "/api/v1/import",
                "/a/api/v1/import?extra_label=b=c",
            ),
        ];
        for (endpoint, path, wanted) in cases {
            assert_eq!(
                target(&endpoint.parse().unwrap(), path),
                wanted,
                "{endpoint}"
            );
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = WallTime::from_unix_millis(784_111_777_000);
        let secs = |text| parse_retry_after(text, now).map(|span| span.as_secs());
        assert_eq!(secs("120"), Some(120));
        assert_eq!(secs("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(secs("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(secs("soon"), None);
        assert_eq!(secs("-1"), None);
    }

    #[test]
    fn a_token_file_is_trimmed_and_never_empty() {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let error = bearer(file.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("nothing is in the token file /"),
            "{error}"
        );
        file.write_all(b" t0ken\n").unwrap();
        assert_eq!(bearer(file.path()).unwrap(), "Bearer t0ken");
        let error = bearer(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ("), "{error}");
    }

    /// A server with a certificate of its own authority, which answers one request with 204.
    async fn secure_server() -> (std::net::SocketAddr, tempfile::NamedTempFile, JoinSet<()>) {
        use std::io::Write as _;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(certificate.pem().as_bytes()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"\r\n\r\nhello") {
                    stream.read_buf(&mut bytes).await.unwrap();
                }
                let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        (address, ca, tasks)
    }

    #[tokio::test]
    async fn https_trusts_the_configured_authority_and_nobody_else() {
        let (address, ca, _tasks) = secure_server().await;
        let client = |ca_file: &Path| {
            HttpClient::new(HttpConfig {
                endpoint: format!("https://localhost:{}", address.port())
                    .parse()
                    .unwrap(),
                headers: Vec::new(),
                bearer_token_file: None,
                ca_file: Some(ca_file.to_owned()),
                timeout: Duration::from_secs(10),
            })
        };
        let answer = client(ca.path())
            .post("/x", &[], Bytes::from_static(b"hello"))
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::NO_CONTENT);

        let (_, other_ca, _other_tasks) = secure_server().await;
        let refused = client(other_ca.path())
            .post("/x", &[], Bytes::from_static(b"hello"))
            .await
            .unwrap_err();
        assert!(matches!(refused, HttpError::Connect { .. }), "{refused}");
        let missing = client(Path::new("/nonexistent/ca.pem"))
            .post("/x", &[], Bytes::from_static(b"hello"))
            .await
            .unwrap_err();
        assert_eq!(missing.to_string(), "read the CA file /nonexistent/ca.pem");
    }
}
