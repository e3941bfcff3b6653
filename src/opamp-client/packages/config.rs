//! What a caller allows.
//!
//! Promises: the defaults are the strict ones.

use std::time::Duration;

use crate::backoff::BackoffConfig;

/// Which packages a new offer removes when it lacks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Removal {
    /// Those that were installed from an earlier offer.
    #[default]
    Offered,
    /// Every package, those that were installed by hand included.
    All,
}

/// Which downloads the caller must verify before they are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verification {
    /// Every one; an offer without signature is refused before anything is fetched.
    #[default]
    Always,
    /// Those that are offered with a signature.
    WhereSigned,
    /// None. The SHA-256 alone is compared.
    Never,
}

/// What a caller allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackagesConfig {
    /// What a new offer removes.
    pub removal: Removal,
    /// Whether an offer may remove the top-level package by not naming it. Not, by default.
    pub remove_top_level: bool,
    /// What must be verified.
    pub verification: Verification,
    /// Whether a file may be offered without a digest of its content, or with one that is no SHA-256 although no
    /// signature of it is verified. Not, by default.
    pub without_digest: bool,
    /// Span between two reports of a download's progress; a second at least.
    pub progress_interval: Duration,
    /// Downloads of one offer of one package, the first included.
    pub attempts_max: u32,
    /// Delays between them.
    pub backoff: BackoffConfig,
    /// How long a package rests after its attempts are used up, before the same offer may try again.
    pub retry_pause: Duration,
    /// Most packages that an offer may name.
    pub packages_max: usize,
    /// Start of the jitter; any number that differs between agents.
    pub seed: u64,
}

impl PackagesConfig {
    /// The documented defaults: removes what was offered, never the top level; signatures and digests required;
    /// progress each 10 s; 5 attempts, then 5 minutes of rest; 256 packages.
    pub fn new(seed: u64) -> Self {
        Self {
            removal: Removal::default(),
            remove_top_level: false,
            verification: Verification::default(),
            without_digest: false,
            progress_interval: Duration::from_secs(10),
            attempts_max: 5,
            backoff: BackoffConfig::default(),
            retry_pause: Duration::from_mins(5),
            packages_max: 256,
            seed,
        }
    }
}
