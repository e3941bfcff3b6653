//! Where to dial: a URL, parsed once, with headers, TLS options and proxies.
//!
//! Promises: a `Target` can be dialled; whatever is wrong with a URL or a header is an error here, with the reason.
//! `http` and `https` mean plain HTTP polling, every other scheme a WebSocket. Must never: print a header value.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::{ProxyRules, TlsOptions};

/// The path of the protocol, used when a URL has none.
const DEFAULT_PATH: &str = "/v1/opamp";

/// The port that servers listen on by default.
const DEFAULT_PORT: u16 = 4320;

/// Headers that belong to the handshake. `Origin` makes servers take us for a browser.
const OWN_HEADERS: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::ORIGIN,
    header::PROXY_AUTHORIZATION,
];

/// Where the stream goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    Polling,
}

/// A parsed destination.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) transport: Transport,
    pub(super) place: Place,
    /// Value of the `Host` header.
    pub(super) host_header: String,
    /// Path and query of the upgrade request.
    pub(super) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) tls: TlsOptions,
    pub(crate) proxies: ProxyRules,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.keys().map(HeaderName::as_str).collect();
        f.debug_struct("Target")
            .field("url", &self.to_string())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Target {
    /// The URL without its query, which may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        let scheme = match (&self.place, self.transport) {
            (Place::Unix(socket), _) => return write!(f, "unix:{}", socket.display()),
            (Place::Tcp { tls: true, .. }, Transport::WebSocket) => "wss",
            (Place::Tcp { tls: false, .. }, Transport::WebSocket) => "ws",
            (Place::Tcp { tls: true, .. }, Transport::Polling) => "https",
            (Place::Tcp { tls: false, .. }, Transport::Polling) => "http",
        };
        write!(f, "{scheme}://{}{path}", self.host_header)
    }
}

/// Why something cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not a URL at all.
    #[error("endpoint is not a URL: {reason}")]
    Syntax {
        /// The parser's words.
        reason: String,
    },
    /// A scheme other than ws, wss, http, https, unix.
    #[error("endpoint scheme {scheme:?} is not one of ws, wss, http, https, unix")]
    Scheme {
        /// What it says instead.
        scheme: String,
    },
    /// No host, or no socket path.
    #[error("endpoint names no host")]
    NoHost,
    /// A user name or password in the URL: it would end up in logs.
    #[error("endpoint holds credentials; put them into a header")]
    Credentials,
    /// A header name or value that HTTP does not allow.
    #[error("header {name:?} is not valid")]
    Header {
        /// Its name as given.
        name: String,
    },
    /// A header that belongs to the handshake.
    #[error("header {name:?} is set by the protocol")]
    OwnHeader {
        /// Its name.
        name: String,
    },
    /// The HTTP path is not one.
    #[error("path {path:?} is not valid")]
    Path {
        /// As given.
        path: String,
    },
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        let url = url.trim();
        if let Some(rest) = url.strip_prefix("unix:") {
            return Self::unix(rest.strip_prefix("//").unwrap_or(rest));
        }
        let uri = Uri::from_str(url).map_err(|error| TargetError::Syntax {
            reason: error.to_string(),
        })?;
        let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
        let (transport, tls) = match scheme.as_str() {
            "ws" => (Transport::WebSocket, false),
            "wss" => (Transport::WebSocket, true),
            "http" => (Transport::Polling, false),
            "https" => (Transport::Polling, true),
            _ => return Err(TargetError::Scheme { scheme }),
        };
        let authority = uri.authority().ok_or(TargetError::NoHost)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::Credentials);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // The parser turns a missing path into "/", which is a path that somebody may mean.
        let after_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
        let query = uri
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let named = after_scheme
            .split('?')
            .next()
            .is_some_and(|text| text.contains('/'));
        let path = if named { uri.path() } else { DEFAULT_PATH };
        Ok(Self {
            transport,
            place: Place::Tcp {
                host: host.to_owned(),
                port,
                tls,
            },
            host_header: authority.as_str().to_owned(),
            path: format!("{path}{query}"),
            headers: HeaderMap::new(),
            tls: TlsOptions::default(),
            proxies: ProxyRules::default(),
        })
    }
}

impl Target {
    /// A host of which nothing else is known: WebSocket over TLS, the port and the path that OpAMP servers have by
    /// default.
    ///
    /// # Errors
    /// [`TargetError`] for what is not a host name or an address.
    pub fn host(host: &str) -> Result<Self, TargetError> {
        let host = match host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
        let inside = host.trim_start_matches('[').trim_end_matches(']');
        let is_bracketed = inside.len() != host.len();
        if host.contains(['/', '?', '#']) || host.contains(':') && !is_bracketed {
            return Err(TargetError::Syntax {
                reason: "a host name or an address is wanted".to_owned(),
            });
        }
        format!("wss://{host}:{DEFAULT_PORT}").parse()
    }

    /// A Unix socket; the upgrade request goes to the default path.
    ///
    /// # Errors
    /// [`TargetError::NoHost`] for an empty path.
    pub fn unix(socket: impl AsRef<Path>) -> Result<Self, TargetError> {
        let socket = socket.as_ref();
        if socket.as_os_str().is_empty() {
            return Err(TargetError::NoHost);
        }
        Ok(Self {
            transport: Transport::WebSocket,
            place: Place::Unix(socket.to_owned()),
            host_header: "localhost".to_owned(),
            path: DEFAULT_PATH.to_owned(),
            headers: HeaderMap::new(),
            tls: TlsOptions::default(),
            proxies: ProxyRules::default(),
        })
    }

    /// Sends the upgrade request to another path.
    ///
    /// # Errors
    /// [`TargetError::Path`] if it does not begin with a slash or holds what a path cannot.
    pub fn with_path(mut self, path: &str) -> Result<Self, TargetError> {
        let valid = path.starts_with('/') && Uri::from_str(path).is_ok();
        if !valid {
            return Err(TargetError::Path {
                path: path.to_owned(),
            });
        }
        path.clone_into(&mut self.path);
        Ok(self)
    }

    /// Adds a header to the upgrade request.
    ///
    /// # Errors
    /// [`TargetError::Header`] for what HTTP does not allow, [`TargetError::OwnHeader`] for headers of the handshake.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, TargetError> {
        let (key, value) = checked_header(name, value)?;
        self.headers.append(key, value);
        Ok(self)
    }

    /// The same in place of every header of that name.
    ///
    /// # Errors
    /// As [`Target::with_header`] has them.
    pub fn with_header_alone(mut self, name: &str, value: &str) -> Result<Self, TargetError> {
        let (key, value) = checked_header(name, value)?;
        self.headers.insert(key, value);
        Ok(self)
    }

    /// Replaces the TLS options.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsOptions) -> Self {
        self.tls = tls;
        self
    }

    /// Replaces the proxy rules. Unix sockets never use a proxy.
    #[must_use]
    pub fn with_proxies(mut self, proxies: ProxyRules) -> Self {
        self.proxies = proxies;
        self
    }

    /// Whether `other` leads to the same place, path and scheme included, whatever headers and options differ.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.place == other.place && self.path == other.path && self.transport == other.transport
    }

    /// Whether one connection serves both, as far as it matters who answers.
    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        self.place == other.place
    }

    /// Whether a header of this name goes along.
    pub fn has_header(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    /// Whether the server is polled over plain HTTP.
    pub fn is_polling(&self) -> bool {
        self.transport == Transport::Polling
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.place, Place::Tcp { tls: true, .. })
    }

    /// Whether the other end is on this machine by construction.
    pub fn is_unix(&self) -> bool {
        matches!(self.place, Place::Unix(_))
    }
}

/// Checks one header of ours and marks its value as secret.
///
/// # Errors
/// As [`Target::with_header`] has them.
pub(crate) fn checked_header(
    name: &str,
    value: &str,
) -> Result<(HeaderName, HeaderValue), TargetError> {
    checked(name, value, None)
}

/// The same for a header that a proxy gets with CONNECT, where credentials are the usual thing.
///
/// # Errors
/// As [`Target::with_header`] has them.
pub(crate) fn checked_connect_header(
    name: &str,
    value: &str,
) -> Result<(HeaderName, HeaderValue), TargetError> {
    checked(name, value, Some(&header::PROXY_AUTHORIZATION))
}

fn checked(
    name: &str,
    value: &str,
    allowed: Option<&HeaderName>,
) -> Result<(HeaderName, HeaderValue), TargetError> {
    let invalid = || TargetError::Header {
        name: name
            .chars()
            .filter(|char| !char.is_control())
            .take(64)
            .collect(),
    };
    let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
    if Some(&key) != allowed
        && (OWN_HEADERS.contains(&key) || key.as_str().starts_with("sec-websocket-"))
    {
        return Err(TargetError::OwnHeader {
            name: key.to_string(),
        });
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: bool) -> Place {
        Place::Tcp {
            host: host.to_owned(),
            port,
            tls,
        }
    }

    //
    #[test]
    fn urls_name_place_and_path() {
        let unix = |path: &str| Place::Unix(path.into());
        let cases = [
            (
                "ws://h:4320",
                tcp("h", 4320, false),
                "/v1/opamp",
                "ws://h:4320/v1/opamp",
            ),
            (
                "http://h",
                tcp("h", 80, false),
                "/v1/opamp",
                "http://h/v1/opamp",
            ),
            ("wss://h/x/y", tcp("h", 443, true), "/x/y", "wss://h/x/y"),
            ("HTTPS://h/", tcp("h", 443, true), "/", "https://h/"),
            (
                "wss://h?token=t",
                tcp("h", 443, true),
                "/v1/opamp?token=t",
                "wss://h/v1/opamp",
            ),
            (
                "ws://[::1]:1/p",
                tcp("::1", 1, false),
                "/p",
                "ws://[::1]:1/p",
            ),
            (
                "unix:/run/a.sock",
                unix("/run/a.sock"),
                "/v1/opamp",
                "unix:/run/a.sock",
            ),
            (
                "unix:///run/a.sock",
                unix("/run/a.sock"),
                "/v1/opamp",
                "unix:/run/a.sock",
            ),
        ];
        for (url, place, path, shown) in cases {
            let target: Target = url.parse().unwrap();
            assert_eq!(
                (&target.place, target.path.as_str()),
                (&place, path),
                "{url}"
            );
            assert_eq!(target.to_string(), shown, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_dialled_says_why() {
        let scheme = |scheme: &str| TargetError::Scheme {
            scheme: scheme.to_owned(),
        };
        let cases = [
            ("ftp://h", scheme("ftp")),
            ("h:4320", scheme("")),
            ("ws://user:secret@h", TargetError::Credentials),
            ("unix:", TargetError::NoHost),
        ];
        for (url, wanted) in cases {
            assert_eq!(url.parse::<Target>().unwrap_err(), wanted, "{url}");
        }
        let syntax = "ws://a b".parse::<Target>().unwrap_err();
        assert!(matches!(syntax, TargetError::Syntax { .. }), "{syntax}");
    }

    //
    #[test]
    fn a_host_alone_means_tls_and_the_default_port() {
        for (host, url) in [
            ("fleet.example", "wss://fleet.example:4320/v1/opamp"),
            ("10.0.0.1", "wss://10.0.0.1:4320/v1/opamp"),
            ("::1", "wss://[::1]:4320/v1/opamp"),
            ("[::1]", "wss://[::1]:4320/v1/opamp"),
        ] {
            let target = Target::host(host).unwrap();
            assert_eq!(target.to_string(), url);
            assert!(target.is_tls() && !target.is_polling());
        }
        for host in ["", "a/b", "ws://a", "a:1", "a b", "u@a", "[::1]:5"] {
            assert!(Target::host(host).is_err(), "{host}");
        }
    }

    //
    #[test]
    fn headers_cannot_inject_or_take_over_the_handshake() {
        let target: Target = "ws://h".parse().unwrap();
        let own = |name: &str| TargetError::OwnHeader {
            name: name.to_owned(),
        };
        let bad = |name: &str| TargetError::Header {
            name: name.to_owned(),
        };
        let cases = [
            ("Host", "x", own("host")),
            ("sec-websocket-key", "x", own("sec-websocket-key")),
            ("Origin", "x", own("origin")),
            ("X-A", "a\r\nX-B: b", bad("X-A")),
            ("X A", "a", bad("X A")),
        ];
        for (name, value, wanted) in cases {
            assert_eq!(target.clone().with_header(name, value).unwrap_err(), wanted);
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let target = "wss://h?token=hunter2".parse::<Target>().unwrap();
        let target = target
            .with_header("authorization", "Bearer hunter2")
            .unwrap();
        let shown = format!("{target:?} {target}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("authorization"), "{shown}");
    }
}
