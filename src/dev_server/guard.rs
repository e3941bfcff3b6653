//! Who may talk to this server: programs and pages of this host, and for writes only those that know the token.
//!
//! Promises: a request whose `Host` is not a loopback name is refused (a web page may point its own name at 127.0.0.1,
//! which is called DNS rebinding); a request that a browser sends for another site's page is refused; a write without
//! the token is refused. The same rules hold for pages, API and the OpAMP handshake.
//! Must never: depend on the port in `Host`, since a forwarded port differs.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::units::Secret;

/// Why a request was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Turned {
    /// HTTP/1.1 requires `Host`.
    #[error("the request has no usable Host header")]
    NoHost,
    /// The name is not this host's.
    #[error("the Host header names neither localhost nor a loopback address")]
    ForeignHost,
    /// The request comes from a page of another origin.
    #[error("the request comes from a page of another origin")]
    ForeignOrigin,
    /// No token, or another one.
    #[error(
        "writes need the token printed at start, as \"Authorization: Bearer TOKEN\" or \"X-Adjutant-Token: TOKEN\""
    )]
    NoToken,
}

/// The headers that are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Claims<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    /// `Sec-Fetch-Site`, which browsers set and pages cannot.
    pub(super) fetch_site: Option<&'a str>,
}

/// Checks where a request comes from.
///
/// # Errors
/// The first rule that it breaks.
pub(super) fn check_origin(request: Claims<'_>) -> Result<(), Turned> {
    let host = request.host.ok_or(Turned::NoHost)?;
    if !is_loopback(host) {
        return Err(Turned::ForeignHost);
    }
    // A page elsewhere on this host is another origin too: same authority or nothing.
    let same = |origin: &str| {
        ["http://", "https://"]
            .into_iter()
            .filter_map(|scheme| origin.strip_prefix(scheme))
            .any(|authority| authority.eq_ignore_ascii_case(host))
    };
    let foreign_site = matches!(request.fetch_site, Some("cross-site" | "same-site"));
    if request.origin.is_some_and(|origin| !same(origin)) || foreign_site {
        return Err(Turned::ForeignOrigin);
    }
    Ok(())
}

/// Checks the token of a write, given in either header.
///
/// # Errors
/// There is none, or it is another one.
pub(super) fn check_token(
    token: &Secret,
    authorization: Option<&str>,
    header: Option<&str>,
) -> Result<(), Turned> {
    let bearer = authorization.and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    match header.map(str::trim).or(bearer) {
        Some(given) if same_secret(given.as_bytes(), token.expose().as_bytes()) => Ok(()),
        Some(_) | None => Err(Turned::NoToken),
    }
}

/// Compares without telling by its time how much was right.
fn same_secret(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len()
        && given
            .iter()
            .zip(wanted)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}

fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_ok
            && address
                .parse::<Ipv6Addr>()
                .is_ok_and(|one| one.is_loopback());
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|one| one.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass() {
        let good = [
            "localhost",
            "localhost:4319",
            "LOCALHOST:1",
            "127.0.0.1:4319",
            "127.9.9.9",
            "[::1]:4319",
            "[::1]",
        ];
        let bad = [
            "",
            "example.com",
            "example.com:4319",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "0.0.0.0:4319",
            "[::]:4319",
            "[::1].example.com",
            "[::1",
            "localhost:x",
            "localhost:1:2",
            "user@localhost",
        ];
        for host in good {
            let request = Claims {
                host: Some(host),
                ..Claims::default()
            };
            assert_eq!(check_origin(request), Ok(()), "{host}");
        }
        for host in bad {
            let request = Claims {
                host: Some(host),
                ..Claims::default()
            };
            assert_eq!(check_origin(request), Err(Turned::ForeignHost), "{host}");
        }
        assert_eq!(check_origin(Claims::default()), Err(Turned::NoHost));
    }

    #[test]
    fn only_our_own_page_passes() {
        let host = Some("127.0.0.1:4319");
        let cases = [
            (None, None, Ok(())),
            (Some("http://127.0.0.1:4319"), Some("same-origin"), Ok(())),
            (None, Some("none"), Ok(())),
            (
                Some("http://127.0.0.1:3000"),
                None,
                Err(Turned::ForeignOrigin),
            ),
            (
                Some("http://localhost:4319"),
                None,
                Err(Turned::ForeignOrigin),
            ),
            (
                Some("https://example.com"),
                None,
                Err(Turned::ForeignOrigin),
            ),
            (Some("null"), None, Err(Turned::ForeignOrigin)),
            (Some(""), None, Err(Turned::ForeignOrigin)),
            (None, Some("cross-site"), Err(Turned::ForeignOrigin)),
            (None, Some("same-site"), Err(Turned::ForeignOrigin)),
        ];
        for (origin, fetch_site, wanted) in cases {
            let request = Claims {
                host,
                origin,
                fetch_site,
            };
            assert_eq!(check_origin(request), wanted, "{request:?}");
        }
    }

    #[test]
    fn only_the_token_opens_writes() {
        let token = Secret::new("sesame");
        let cases = [
            (Some("Bearer sesame"), None, Ok(())),
            (Some("bearer  sesame"), None, Ok(())),
            (None, Some("sesame"), Ok(())),
            (None, None, Err(Turned::NoToken)),
            (Some("sesame"), None, Err(Turned::NoToken)),
            (Some("Bearer sesam"), None, Err(Turned::NoToken)),
            (Some("Bearer sesamx"), None, Err(Turned::NoToken)),
            (Some("Basic sesame"), None, Err(Turned::NoToken)),
            (None, Some(""), Err(Turned::NoToken)),
        ];
        for (authorization, header, wanted) in cases {
            let found = check_token(&token, authorization, header);
            assert_eq!(found, wanted, "{authorization:?} {header:?}");
        }
    }
}
