//! Names that people give: of agents, of certificates, of hosts on the internet.
//!
//! Promises: what parses is safe as a directory name or in a request. Must never: hold an empty name.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// The name of one managed agent: 1 to 63 of `a-z 0-9 - _ .`, starting with a letter or digit. It names a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentName(std::sync::Arc<str>);

impl AgentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AgentName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let fits = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
            && text.bytes().next().is_some_and(plain);
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(ParseError::new(
                "agent name",
                text,
                "1 to 63 of a-z 0-9 - _ . starting with a letter or digit",
            ))
        }
    }
}

/// The name of one certificate: as [`AgentName`]. It names a directory, and stands in configs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateName(AgentName);

impl CertificateName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CertificateName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|error| ParseError {
            what: "certificate name",
            ..error
        })
    }
}

/// A name that a certificate is for: lower-case DNS labels, a dot between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name of a certificate, which may begin with `*.`, is for this domain.
    pub fn is_covered_by(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(parent) => self
                .0
                .split_once('.')
                .is_some_and(|(_, rest)| rest == parent),
            None => name == self.0,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && name.split('.').all(label) && !numeric {
            Ok(Self(name))
        } else {
            Err(ParseError::new(
                "domain",
                text,
                "a DNS name such as a.example.com (no wildcard, no address)",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_names_are_directory_names() {
        for good in ["collector", "otel-1", "a.b_c"] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "../x", ".hidden", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn domains_are_plain_dns_names_in_lower_case() {
        let domain: Domain = " A.Example.com.\n".parse().unwrap();
        assert_eq!(domain.as_str(), "a.example.com");
        let long = format!("{}.example", "x".repeat(64));
        for bad in [
            "",
            "*.example.com",
            "10.0.0.1",
            "::1",
            "a b",
            "a..b",
            "-a.b",
            "a/b",
            "ä.de",
            &long,
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
        assert!(domain.is_covered_by("A.example.com"));
        assert!(domain.is_covered_by("*.example.com"));
        assert!(!domain.is_covered_by("*.a.example.com"));
        assert!(!domain.is_covered_by("*.com"));
    }
}
