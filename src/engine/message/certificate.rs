//! What certificates bring into the host and what they want done.
//!
//! Promises: plain data, like the rest of the messages; a private key prints as an ellipsis.
//! Must never: parse a certificate, or know what a certificate authority is.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::DiskFault;
use crate::config::Acme;
use crate::units::{CertificateName, Domain, Secret, WallTime};

/// The directory name of a stored pair: `<serial>-<first 8 hexadecimal digits of its hash>`. The serial is what people
/// look for; the hash tells apart what two authorities numbered alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(String);

impl PairId {
    /// Names a pair.
    pub fn new(serial: &str, hash: &str) -> Self {
        let hash: String = hash.chars().take(8).collect();
        Self(format!("{serial}-{hash}"))
    }

    /// The directory name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PairId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PairId {
    type Err = NoPairId;

    fn from_str(text: &str) -> Result<Self, NoPairId> {
        let hexadecimal = |part: &str| {
            (1..=64).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
        };
        match text.split_once('-') {
            Some((serial, hash)) if hexadecimal(serial) && hexadecimal(hash) && hash.len() == 8 => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NoPairId),
        }
    }
}

/// A text that names no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not <serial>-<8 hexadecimal digits>")]
pub struct NoPairId;

/// What is known of a stored pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Its directory name.
    pub id: PairId,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// The DNS names that it is for; may begin with `*.`.
    pub names: Vec<String>,
    /// Valid from.
    pub not_before: WallTime,
    /// Valid until.
    pub not_after: WallTime,
}

impl Pair {
    /// Whether it is for all of `domains`.
    pub fn covers(&self, domains: &[Domain]) -> bool {
        domains
            .iter()
            .all(|domain| self.names.iter().any(|name| domain.is_covered_by(name)))
    }
}

/// A chain and its key, in PEM, as an authority and we made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemPair {
    /// The chain, leaf first.
    pub chain: String,
    /// The key of the leaf.
    pub key: Secret,
}

/// What was tried for a set of domains; kept on disk, so that a supervisor that dies and starts again does not use up
/// what an authority allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// For which domains.
    pub domains: Vec<Domain>,
    /// When orders were begun, oldest first; bounded.
    pub begun: Vec<WallTime>,
    /// Failures in a row.
    pub failures: u32,
    /// Not before this.
    pub not_before: Option<WallTime>,
    /// Whether the authority itself asked for that wait.
    pub asked_to_wait: bool,
    /// Why the last one failed; empty otherwise.
    pub last_error: String,
}

/// Work for one certificate.
#[derive(Debug, Clone)]
pub enum CertificateWork {
    /// Read what is stored.
    Look,
    /// Keep what was tried.
    Remember(Vec<Attempts>),
    /// Ask an authority.
    Order(Box<CertificateOrder>),
    /// Read two files and, if they are a good pair, make it the live one.
    Adopt {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What it must be for; none takes any.
        domains: Vec<Domain>,
    },
    /// Store a pair and make it the live one.
    Install {
        /// The pair.
        pair: PemPair,
        /// What it must be for.
        domains: Vec<Domain>,
    },
    /// Make a stored pair the live one again.
    Select(PairId),
}

impl CertificateWork {
    /// Whether it is done by the writer of the state directory; the rest is done over the network.
    pub fn is_disk(&self) -> bool {
        !matches!(self, Self::Order(_))
    }
}

/// One order at an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateOrder {
    /// The authority.
    pub acme: Acme,
    /// The names.
    pub domains: Vec<Domain>,
}

/// What came of work for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateDone {
    /// What is stored.
    Found(StoredPairs),
    /// It is on disk.
    Remembered,
    /// The authority gave a pair.
    Issued(PemPair),
    /// This pair is live.
    Live {
        /// Which.
        pair: Pair,
        /// Whether another one, or none, was live before.
        changed: bool,
    },
}

/// What is stored of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredPairs {
    /// Every whole pair.
    pub pairs: Vec<Pair>,
    /// Which of them is live.
    pub current: Option<PairId>,
    /// What was tried.
    pub attempts: Vec<Attempts>,
    /// Repairs made while looking, for the log.
    pub repairs: Vec<String>,
}

/// Why work for a certificate was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFault {
    /// The class that decides what happens next.
    pub kind: CertificateFaultKind,
    /// What was tried, on what, and what came back.
    pub reason: String,
    /// How long the authority asked us to wait.
    pub retry_after: Option<Duration>,
}

impl From<DiskFault> for CertificateFault {
    fn from(fault: DiskFault) -> Self {
        Self {
            kind: CertificateFaultKind::Disk,
            reason: fault.reason,
            retry_after: None,
        }
    }
}

/// The class of a certificate's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFaultKind {
    /// The authority was not reached.
    Unreachable,
    /// The authority looked and refused: a failed validation, a limit, a domain it does not serve.
    Refused,
    /// The address for challenges is taken or not ours.
    Address,
    /// What came, or what the operator's files hold, is not a good pair.
    Pair,
    /// The disk did not do it.
    Disk,
    /// It was called off.
    Cancelled,
}

/// One certificate as a door may show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSnapshot {
    /// Its name.
    pub name: CertificateName,
    /// `acme` or `files`.
    pub source: &'static str,
    /// `idle`, `waiting`, `ordering`, `live`, `renewing` or `expired`.
    pub state: &'static str,
    /// The names it is wanted for.
    pub domains: Vec<Domain>,
    /// The live pair.
    pub pair: Option<Pair>,
    /// When the live pair is renewed.
    pub renew_at: Option<WallTime>,
    /// When the authority is asked next, after a failure.
    pub next_attempt: Option<WallTime>,
    /// Why the last try failed; empty when it did not.
    pub last_error: String,
    /// Pairs made live since we started.
    pub renewals: u64,
    /// Tries that failed since we started.
    pub failures: u64,
    /// Looks since we started.
    pub checks: u64,
}
