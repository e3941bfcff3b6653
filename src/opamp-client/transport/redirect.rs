//! Whether a redirect is followed, and with what.
//!
//! Promises: the transport stays what it is (`http` for a WebSocket means `ws`, and the other way round); never from TLS
//! to none; to another origin go no headers and no certificate of ours. Nothing is remembered here.
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
