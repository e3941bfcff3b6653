//! Whether a redirect is followed, and with what.
//!
//! Promises: the transport stays what it is (`http` for a WebSocket means `ws`, and the other way round); never from
//! TLS to none; to another origin go no headers and no certificate of ours. Nothing is remembered here.
//! Must never: follow anything by itself, or let a request become another method: the caller sends the same again.

use http::{HeaderMap, StatusCode, Uri, header};

use super::DialError;
use super::target::{Place, Target};

/// Longest address that is looked at.
const LOCATION_MAX: usize = 8 * 1024;

/// Where an answer points to.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) status: u16,
    to: String,
}

impl Location {
    /// The target of a redirect; 303 asks for another method and is none.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let redirects = [
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::FOUND,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::PERMANENT_REDIRECT,
        ];
        let to = headers.get(header::LOCATION)?.to_str().ok()?.trim();
        let usable = redirects.contains(&status) && !to.is_empty() && to.len() <= LOCATION_MAX;
        usable.then(|| Self {
            status: status.as_u16(),
            to: to.to_owned(),
        })
    }
}

/// Too many redirects in one attempt.
pub(super) fn too_many(hops: u8) -> DialError {
    let reason = format!("more than {hops} in one attempt");
    DialError::Redirect { reason }
}

impl Target {
    /// The target that `location` means, seen from this one.
    pub(super) fn redirected(&self, location: &Location) -> Result<Self, DialError> {
        let refuse = |reason: String| DialError::Redirect { reason };
        let to = location.to.split('#').next().unwrap_or_default();
        let mut next = match (to.split_once("://"), to.strip_prefix("//")) {
            (Some((scheme, rest)), _) => self.elsewhere(scheme, rest)?,
            (None, Some(rest)) => {
                let scheme = if self.is_tls() { "https" } else { "http" };
                self.elsewhere(scheme, rest)?
            }
            (None, None) => Self {
                path: self.relative(to),
                ..self.clone()
            },
        };
        if next.path.parse::<Uri>().is_err() {
            return Err(refuse("the path it names is not valid".to_owned()));
        }
        if self.is_tls() && !next.is_tls() {
            return Err(refuse(format!("{next} is not encrypted, as {self} is")));
        }
        if !self.trusts(&next) {
            next.headers = HeaderMap::new();
            next.tls.client_certificate = None;
        }
        Ok(next)
    }

    fn elsewhere(&self, scheme: &str, rest: &str) -> Result<Self, DialError> {
        let refuse = |reason: String| DialError::Redirect { reason };
        if self.is_unix() {
            return Err(refuse("a Unix socket leads nowhere else".to_owned()));
        }
        // Without a path the root is meant, and not the default of an endpoint.
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut next: Self = format!("{scheme}://{authority}{slash}{path}")
            .parse()
            .map_err(|error: super::TargetError| refuse(error.to_string()))?;
        if next.is_unix() {
            return Err(refuse(
                "a Unix socket is not reached over a network".to_owned(),
            ));
        }
        next.transport = self.transport;
        next.headers.clone_from(&self.headers);
        next.tls = self.tls.clone();
        next.proxies = self.proxies.clone();
        Ok(next)
    }

    fn relative(&self, to: &str) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        if to.starts_with('/') {
            to.to_owned()
        } else if to.starts_with('?') {
            format!("{path}{to}")
        } else {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{to}")
        }
    }

    /// The same origin, or the same host one step safer on the usual ports.
    fn trusts(&self, next: &Self) -> bool {
        if self.place == next.place {
            return true;
        }
        match (&self.place, &next.place) {
            (
                Place::Tcp {
                    host: from,
                    port: 80,
                    tls: false,
                },
                Place::Tcp {
                    host: to,
                    port: 443,
                    tls: true,
                },
            ) => from.eq_ignore_ascii_case(to),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ClientCertificate;
    use super::*;

    fn from(url: &str) -> Target {
        let mut target = url
            .parse::<Target>()
            .and_then(|target| target.with_header("Authorization", "Bearer t"))
            .unwrap();
        target.tls.client_certificate = Some(ClientCertificate {
            chain_pem: vec![],
            key_pem: vec![],
        });
        target
    }

    fn to(location: &str) -> Location {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location.parse().unwrap());
        Location::of(StatusCode::FOUND, &headers).unwrap()
    }

    //
    #[test]
    fn redirects_lead_where_they_say_with_credentials_for_the_same_origin_only() {
        let cases = [
            ("ws://h/a/b?c=d", "/x?y=z", "ws://h/x", "/x?y=z", true),
            ("ws://h/a/b?c=d", "x", "ws://h/a/x", "/a/x", true),
            ("ws://h/a/b?c=d", "?x", "ws://h/a/b", "/a/b?x", true),
            ("ws://h/a", "http://h/x#f", "ws://h/x", "/x", true),
            ("http://h/a", "ws://h", "http://h/", "/", true),
            ("http://h/a", "https://h/a", "https://h/a", "/a", true),
            ("ws://h/a", "https://h?b=c", "wss://h/", "/?b=c", true),
            ("wss://h/a", "//h/b", "wss://h/b", "/b", true),
            (
                "http://h/a",
                "http://h:8080/a",
                "http://h:8080/a",
                "/a",
                false,
            ),
            ("http://h:81/a", "https://h/a", "https://h/a", "/a", false),
            (
                "https://h/a",
                "https://other/a",
                "https://other/a",
                "/a",
                false,
            ),
            ("ws://h/a", "//other/b", "ws://other/b", "/b", false),
        ];
        for (start, location, shown, path, trusted) in cases {
            let next = from(start).redirected(&to(location)).unwrap();
            assert_eq!(next.to_string(), shown, "{start} {location}");
            assert_eq!(next.path, path, "{start} {location}");
            let kept = (next.headers.len(), next.tls.client_certificate.is_some());
            let wanted = if trusted { (1, true) } else { (0, false) };
            assert_eq!(kept, wanted, "{start} {location}");
        }
    }

    //
    #[test]
    fn redirects_to_less_security_or_nonsense_are_refused() {
        let cases = [
            ("https://h/a", "http://h/a", "is not encrypted"),
            ("wss://h/a", "ws://h/a", "is not encrypted"),
            ("ws://h/a", "ftp://h/a", "scheme"),
            ("ws://h/a", "unix:///run/x.sock", "Unix"),
            ("ws://h/a", "http://user:word@h/a", "credentials"),
            ("ws://h/a", "http://", "not a URL"),
            ("ws://h/a", "/a b", "not valid"),
        ];
        for (start, location, words) in cases {
            let error = from(start).redirected(&to(location)).unwrap_err();
            assert!(error.to_string().contains(words), "{location}: {error}");
        }
        let socket = Target::unix("/run/a.sock").unwrap();
        let error = socket.redirected(&to("http://h/")).unwrap_err();
        assert!(error.to_string().contains("nowhere else"), "{error}");
    }

    #[test]
    fn other_answers_are_no_redirects() {
        let mut headers = HeaderMap::new();
        for status in [StatusCode::FOUND, StatusCode::OK, StatusCode::SEE_OTHER] {
            assert!(Location::of(status, &headers).is_none(), "{status}");
            headers.insert(header::LOCATION, "/x".parse().unwrap());
        }
        headers.insert(header::LOCATION, "x".repeat(10_000).parse().unwrap());
        assert!(Location::of(StatusCode::FOUND, &headers).is_none());
    }
}
