//! One HTTP request to somebody outside: registration, certificate authorities, later packages.
//!
//! Promises: one connection over the same dialler as the link to the server (proxies, TLS, IPv4 and IPv6), one
//! request, one answer, within one deadline and one bound on the body; whatever goes wrong has a class. Verification is
//! as strict as the TLS settings say and is never turned off here.
//! Must never: follow a redirect (it would hand our credentials to whoever it names), retry, log, or let a query, a
//! header or a body into an error.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use opamp_client::transport::{
    DialError, DialOptions, ProxyRules, Target, TlsOptions, connect, retry_after,
};

use crate::config::Tls;
use crate::sys::http::exchange;
use crate::sys::pem::{self, PemFiles};
use crate::sys::tls;
use crate::units::format_duration;

/// The share of the deadline that one address of a name gets: a dead IPv6 route leaves room for IPv4.
const ADDRESS_SHARE: u32 = 3;

/// What to ask, and how long to wait for it.
#[derive(Clone)]
pub struct FetchRequest {
    /// `GET`, `HEAD`, `POST` …
    pub method: Method,
    /// `http://…` or `https://…`, with its query.
    pub url: String,
    /// Beside `Host`, `Connection` and the length, which are ours; `User-Agent` and `Accept` have defaults.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
    /// For everything, from the name to the last byte.
    pub deadline: Duration,
    /// A longer body is an error.
    pub body_max: usize,
}

impl std::fmt::Debug for FetchRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchRequest")
            .field("method", &self.method)
            .field("url", &shown(&self.url))
            .field("deadline", &self.deadline)
            .field("body_max", &self.body_max)
            .finish_non_exhaustive()
    }
}

/// An answer of whatever status.
#[derive(Clone)]
pub struct Fetched {
    /// The status code.
    pub status: u16,
    /// Every header.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Fetched {
    /// How long the answer asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers)
    }
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// No answer, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{method} {url}: {reason}")]
pub struct FetchError {
    /// What to do about it.
    pub class: FetchClass,
    method: Method,
    /// Without its query.
    url: String,
    reason: String,
}

/// What a caller does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchClass {
    /// The URL, a header or our own TLS files cannot work.
    Request,
    /// Nobody answers there, or the connection broke.
    Network,
    /// The handshake failed, for example because the certificate does not verify.
    Tls,
    /// Not done in time.
    Timeout,
    /// The body is longer than the caller wants.
    TooLarge,
}

impl FetchClass {
    /// Whether the same request may succeed later without anybody changing our settings.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Network | Self::Timeout => true,
            Self::Request | Self::Tls | Self::TooLarge => false,
        }
    }
}

/// Asks once.
///
/// # Errors
/// There is no answer; a status that means refusal is an answer.
///
/// # Cancel safety
/// Dropping the future closes the connection; the other side may have got the request.
pub async fn fetch(
    request: FetchRequest,
    tls: TlsOptions,
    proxies: &ProxyRules,
) -> Result<Fetched, FetchError> {
    let (method, url) = (request.method.clone(), shown(&request.url));
    let deadline = request.deadline;
    let failed = |(class, reason)| FetchError {
        class,
        method,
        url,
        reason,
    };
    let late = |_| {
        let reason = format!("no answer within {}", format_duration(deadline));
        Err((FetchClass::Timeout, reason))
    };
    tokio::time::timeout(deadline, ask(request, tls, proxies))
        .await
        .unwrap_or_else(late)
        .map_err(failed)
}

/// Reads the files of TLS settings as they are now.
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub async fn tls_options(tls: Tls) -> Result<TlsOptions, String> {
    let options = tls.options();
    let files = PemFiles {
        ca: tls.ca,
        client_pair: tls.client_pair,
    };
    pem::complete(options, files).await
}

async fn ask(
    request: FetchRequest,
    tls: TlsOptions,
    proxies: &ProxyRules,
) -> Result<Fetched, (FetchClass, String)> {
    let invalid = |reason: String| (FetchClass::Request, reason);
    let uri: Uri = request
        .url
        .parse()
        .map_err(|error| invalid(format!("not a URL: {error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("the scheme is not http or https".to_owned()));
    }
    let target: Target = request
        .url
        .parse()
        .map_err(|error| invalid(format!("{error}")))?;
    let host = uri.authority().map_or("", |it| it.as_str()).to_owned();
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let mut head = Request::builder()
        .method(request.method)
        .uri(path)
        .body(Full::new(request.body))
        .map_err(|error| invalid(error.to_string()))?;
    let headers = head.headers_mut();
    headers.extend(request.headers);
    let value = |text: &str| text.parse().map_err(|_| invalid("no host".to_owned()));
    headers.insert(HOST, value(&host)?);
    // One exchange is all we want, and a server that knows closes without waiting for another.
    headers.insert(CONNECTION, value("close")?);
    headers
        .entry(USER_AGENT)
        .or_insert(value(concat!("adjutant/", env!("CARGO_PKG_VERSION")))?);
    headers.entry(ACCEPT).or_insert(value("*/*")?);

    let options = DialOptions {
        timeout: request.deadline,
        address_timeout: request.deadline / ADDRESS_SHARE,
        ..DialOptions::default()
    };
    let target = target.with_tls(tls).with_proxies(proxies.clone());
    let stream = connect(&target, options)
        .await
        .map_err(|error| not_connected(&error))?;
    let answer = exchange(Box::new(stream), head, request.body_max)
        .await
        .map_err(|error| (FetchClass::Network, error.to_string()))?;
    if !answer.whole {
        let reason = format!("the answer is longer than {} bytes", request.body_max);
        return Err((FetchClass::TooLarge, reason));
    }
    Ok(Fetched {
        status: answer.status,
        headers: answer.headers,
        body: answer.body,
    })
}

fn not_connected(error: &DialError) -> (FetchClass, String) {
    let class = match error {
        DialError::Tls { .. } => FetchClass::Tls,
        DialError::Settings { .. } => FetchClass::Request,
        DialError::Timeout { .. } => FetchClass::Timeout,
        _ => FetchClass::Network,
    };
    (class, tls::in_words(error))
}

/// A URL without query, fragment and credentials, which may hold what must not be printed.
pub fn shown(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests;
