//! An offer as it came → an offer that can be worked with.
//!
//! Promises: what is refused is refused for a reason that the server hears, and nothing else suffers for it.
//! Must never: look at what is installed.

use std::collections::{BTreeMap, BTreeSet};

use super::package::Offer;
use super::{Verification, name};
use crate::messages::{PackageAvailable, PackageType, PackagesAvailable};

/// Bytes of a hash of any kind. Real ones have 64 at most.
const HASH_MAX: usize = 1024;

/// Bytes of a SHA-256.
const SHA256_LEN: usize = 32;

/// What was made of an offer.
#[derive(Debug)]
pub(super) struct Read {
    /// The aggregate hash, to be echoed.
    pub(super) hash: Vec<u8>,
    /// What belongs to no package that could be listed.
    pub(super) complaint: String,
    /// `None` if the offer as a whole is of no use.
    pub(super) offers: Option<BTreeMap<String, Offer>>,
    /// Names that are offered, but not in a way that can be worked with.
    pub(super) refused: BTreeSet<String>,
}

pub(super) fn read(available: PackagesAvailable, packages_max: usize) -> Read {
    let PackagesAvailable {
        packages,
        all_packages_hash: mut hash,
    } = available;
    hash.truncate(HASH_MAX);
    let mut read = Read {
        hash,
        complaint: String::new(),
        offers: None,
        refused: BTreeSet::new(),
    };
    if packages.len() > packages_max {
        read.complaint = format!(
            "{} packages are offered, over the limit of {packages_max}",
            packages.len()
        );
        return read;
    }
    let mut offers = BTreeMap::new();
    for (name, package) in packages {
        match parse(&name, package) {
            Ok(offer) => {
                offers.insert(name, offer);
            }
            Err(reason) => {
                if read.complaint.is_empty() {
                    let name: String = name.chars().take(64).collect();
                    read.complaint = format!("package {name:?} is refused: {reason}");
                }
                read.refused.insert(name);
            }
        }
    }
    read.offers = Some(offers);
    read
}

fn parse(name: &str, package: PackageAvailable) -> Result<Offer, &'static str> {
    // An unknown type must not become the zero value, which is the top level.
    let kind = PackageType::try_from(package.r#type).map_err(|_| "its type is not known")?;
    if !name::is_allowed(name, kind) {
        return Err("its name cannot be used");
    }
    if package.hash.is_empty() {
        return Err("it has no hash");
    }
    let file = package.file.unwrap_or_default();
    if package.hash.len() > HASH_MAX || file.content_hash.len() > HASH_MAX {
        return Err("its hash is too long");
    }
    Ok(Offer {
        kind,
        version: package.version,
        hash: package.hash,
        url: file.download_url,
        content_hash: file.content_hash,
        signature: file.signature,
        headers: file.headers.unwrap_or_default().headers,
    })
}

impl Offer {
    /// Whether a download of it could ever be installed.
    pub(super) fn is_fetchable(
        &self,
        verification: Verification,
        without_digest: bool,
    ) -> Result<(), &'static str> {
        let scheme = self
            .url
            .split_once("://")
            .map(|(scheme, rest)| (scheme, !rest.is_empty()));
        match scheme {
            Some((scheme, true))
                if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") => {}
            _ => return Err("offered file has no http or https URL"),
        }
        if self
            .url
            .chars()
            .any(|char| char.is_control() || char == ' ')
        {
            return Err("URL of the offered file is malformed");
        }
        if verification == Verification::Always && self.signature.is_empty() {
            return Err("offered file is not signed");
        }
        if self.content_hash.is_empty() && !without_digest {
            return Err("offered file has no digest");
        }
        if !self.has_digest() && !without_digest && !self.must_be_verified(verification) {
            return Err("digest of the offered file is no SHA-256, and no signature is verified");
        }
        Ok(())
    }

    /// Whether the digest is one that can be computed; others are only compared with what is held, so they
    /// protect nothing.
    pub(super) fn has_digest(&self) -> bool {
        self.content_hash.len() == SHA256_LEN
    }

    pub(super) fn must_be_verified(&self, verification: Verification) -> bool {
        match verification {
            Verification::Always => true,
            Verification::WhereSigned => !self.signature.is_empty(),
            Verification::Never => false,
        }
    }
}
