//! Whether a destination is reached through a proxy, and the CONNECT exchange.
//!
//! Promises: the rules are values that the caller read from wherever it likes; loopback never goes through a proxy;
//! credentials of the destination never reach the proxy, because everything but CONNECT is inside the tunnel.
//! Must never: read a byte beyond the proxy's answer; the next one belongs to the destination.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr as _;

use http::{HeaderMap, Uri, header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::socks;

/// Largest answer of a proxy that is read.
const ANSWER_MAX: usize = 8 * 1024;

/// The values of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`. They may hold credentials, so `Debug` shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyRules {
    /// Proxy for `wss` destinations.
    pub https_proxy: Option<String>,
    /// Proxy for `ws` destinations.
    pub http_proxy: Option<String>,
    /// Comma-separated hosts, domains (with their sub-domains), `host:port`, address ranges (`10.0.0.0/8`), or `*`.
    pub no_proxy: Option<String>,
    /// Headers of our own for CONNECT. Nobody but the proxy sees them.
    pub connect_headers: HeaderMap,
}

impl fmt::Debug for ProxyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyRules")
            .field("https_proxy", &self.https_proxy.is_some())
            .field("http_proxy", &self.http_proxy.is_some())
            .field("no_proxy", &self.no_proxy)
            .field("connect_headers", &self.connect_headers.len())
            .finish()
    }
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    /// HTTP inside TLS; verified as the connection's own TLS options say.
    Https,
    Socks5,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) kind: Kind,
    pub(super) host: String,
    pub(super) port: u16,
    /// `user:password`, percent-decoded.
    credentials: Option<String>,
    headers: HeaderMap,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// What is wrong with a proxy or its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ProxyError(pub(super) String);

impl ProxyRules {
    /// The proxy for a destination, if it needs one.
    pub(super) fn proxy_for(
        &self,
        host: &str,
        port: u16,
        tls: bool,
    ) -> Result<Option<Proxy>, ProxyError> {
        let rule = if tls {
            &self.https_proxy
        } else {
            &self.http_proxy
        };
        match rule.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(_) if is_loopback(host) || self.is_exempt(host, port) => Ok(None),
            Some(url) => {
                let mut proxy = Proxy::parse(url)?;
                proxy.headers.clone_from(&self.connect_headers);
                Ok(Some(proxy))
            }
        }
    }

    /// Whether both proxies, where they are named, could be used at all.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), impl fmt::Display + use<>> {
        [&self.https_proxy, &self.http_proxy]
            .into_iter()
            .flatten()
            .try_for_each(|url| Proxy::parse(url.trim()).map(drop))
    }

    fn is_exempt(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let with_port = format!("{host}:{port}");
        self.no_proxy
            .as_deref()
            .unwrap_or_default()
            .split(',')
            .any(|rule| {
                let rule = rule.trim().to_ascii_lowercase();
                let domain = rule.trim_start_matches("*.").trim_start_matches('.');
                let below = host
                    .strip_suffix(domain)
                    .is_some_and(|front| front.ends_with('.'));
                match rule.as_str() {
                    "" => false,
                    "*" => true,
                    _ if in_range(&rule, &host) => true,
                    _ => host == domain || with_port == domain || (!domain.is_empty() && below),
                }
            })
    }
}

/// Whether an address lies in a range such as `10.0.0.0/8` or `2001:db8::/32`.
fn in_range(range: &str, host: &str) -> bool {
    fn bits(address: IpAddr) -> (u128, u32) {
        match address {
            IpAddr::V4(four) => (u128::from(four.to_bits()), 32),
            IpAddr::V6(six) => (six.to_bits(), 128),
        }
    }
    let Some((network, length)) = range.split_once('/') else {
        return false;
    };
    let (Ok(network), Ok(length), Ok(host)) =
        (network.parse(), length.parse::<u32>(), host.parse())
    else {
        return false;
    };
    let ((network, width), (host, host_width)) = (bits(network), bits(host));
    // The bits that may differ; a shift by the whole width leaves nothing to compare.
    let free = width.checked_sub(length).filter(|_| width == host_width);
    free.is_some_and(|free| (network ^ host).checked_shr(free).unwrap_or(0) == 0)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl Proxy {
    /// Without a scheme, `http` is meant.
    fn parse(url: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (kind, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => {
                return Err(ProxyError(format!(
                    "proxy scheme {scheme:?} is not one of http, https, socks5"
                )));
            }
        };
        let (credentials, authority) = match rest.trim_end_matches('/').rsplit_once('@') {
            Some((credentials, authority)) => (Some(percent_decoded(credentials)), authority),
            None => (None, rest.trim_end_matches('/')),
        };
        let uri = Uri::from_str(&format!("http://{authority}"))
            .map_err(|error| ProxyError(format!("proxy is not a URL: {error}")))?;
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() {
            return Err(ProxyError("proxy names no host".to_owned()));
        }
        Ok(Self {
            kind,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(port),
            credentials,
            headers: HeaderMap::new(),
        })
    }

    /// Asks for a tunnel to `host:port` on a fresh connection to the proxy.
    pub(super) async fn connect<S>(
        &self,
        stream: &mut S,
        host: &str,
        port: u16,
    ) -> Result<(), ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.kind == Kind::Socks5 {
            // It has no headers.
            return socks::connect(stream, host, port, self.credentials.as_deref()).await;
        }
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(credentials) = &self.credentials
            && !self.headers.contains_key(header::PROXY_AUTHORIZATION)
        {
            let encoded = base64(credentials.as_bytes());
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&encoded);
            request.push_str("\r\n");
        }
        let mut request = request.into_bytes();
        for (name, value) in &self.headers {
            request.extend_from_slice(name.as_str().as_bytes());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let io = |error: std::io::Error| ProxyError(error.to_string());
        stream.write_all(&request).await.map_err(io)?;
        stream.flush().await.map_err(io)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_MAX {
                return Err(ProxyError(format!(
                    "answer is longer than {ANSWER_MAX} bytes"
                )));
            }
            answer.push(stream.read_u8().await.map_err(io)?);
        }
        let text = String::from_utf8_lossy(&answer);
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(()),
            Some(status) => Err(ProxyError(format!("answered CONNECT with status {status}"))),
            None => Err(ProxyError("did not answer with HTTP".to_owned())),
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(first));
        rest = code.and_then(|_| tail.get(2..)).unwrap_or(tail);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| {
        let index = usize::try_from(bits & 0x3F).unwrap_or_default();
        char::from(ALPHABET.get(index).copied().unwrap_or(b'='))
    };
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        out.push(digit(bits >> 18));
        out.push(digit(bits >> 12));
        out.push(if chunk.len() > 1 {
            digit(bits >> 6)
        } else {
            '='
        });
        out.push(if chunk.len() > 2 { digit(bits) } else { '=' });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn proxies_are_chosen_as_the_environment_variables_mean_it() {
        let rules = |no_proxy: &str| ProxyRules {
            https_proxy: Some("http://user:p%40ss@secure:3128".to_owned()),
            http_proxy: Some("plain".to_owned()),
            no_proxy: Some(no_proxy.to_owned()),
            ..ProxyRules::default()
        };
        let secure = Some(("secure".to_owned(), 3128, Some("user:p@ss".to_owned())));
        let plain = Some(("plain".to_owned(), 80, None));
        let cases = [
            ("example.com", true, "", secure.clone()),
            ("example.com", false, "", plain.clone()),
            ("example.com", true, "other.com, .example.com", None),
            ("a.example.com", true, "example.com", None),
            ("a.example.com", true, "*.example.com", None),
            ("badexample.com", true, "example.com", secure.clone()),
            ("example.com", true, "example.com:443", None),
            ("example.com", true, "example.com:80", secure),
            ("example.com", false, "*", None),
            ("10.0.0.1", false, "10.0.0.1", None),
            ("10.1.2.3", false, "192.168.0.0/16,10.0.0.0/8", None),
            ("11.1.2.3", false, "10.0.0.0/8", plain.clone()),
            ("11.1.2.3", false, "10.0.0.0/0", None),
            ("2001:db8::5", false, "2001:db8::/32", None),
            ("2001:db9::5", false, "2001:db8::/32", plain.clone()),
            ("2001:db8::5", false, "10.0.0.0/0", plain.clone()),
            ("10.1.2.3", false, "10.0.0.0/33,10.0.0.0/x,x/8", plain),
            ("localhost", true, "", None),
            ("127.0.0.1", true, "", None),
            ("::1", true, "", None),
        ];
        for (host, tls, no_proxy, wanted) in cases {
            let proxy = rules(no_proxy).proxy_for(host, 443, tls).unwrap();
            let seen = proxy.map(|proxy| (proxy.host, proxy.port, proxy.credentials));
            assert_eq!(seen, wanted, "{host} {no_proxy}");
        }
    }

    #[test]
    fn unusable_proxies_are_errors() {
        for (url, words) in [
            ("socks4://h", "is not one of http, https, socks5"),
            ("http://", "proxy"),
            ("http://a b", "not a URL"),
        ] {
            let error = Proxy::parse(url).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
    }

    #[test]
    fn base64_is_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
