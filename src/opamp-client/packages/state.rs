//! What a caller keeps over a restart.
//!
//! Promises: bytes in, the same state out; bytes of a later version are read as far as they are known. Steps are not
//! kept: what was under way is planned anew from what is held and what is offered.
//! Must never: write. Where and how the bytes lie is the caller's; they may hold the headers of a download, so the
//! place should be for its owner only.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;

use super::name;
use super::package::{Failure, Goal, Held, Offer, Package, Step};
use crate::frame::FrameError;
use crate::messages::{Header, PackageType};

/// The packages of an agent and what became of the last offer.
#[derive(Debug, Clone, PartialEq)]
pub struct PackagesState {
    pub(super) offered_hash: Vec<u8>,
    pub(super) complaint: String,
    pub(super) packages: BTreeMap<String, Package>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredState {
    #[prost(bytes = "vec", tag = "1")]
    offered_hash: Vec<u8>,
    #[prost(string, tag = "2")]
    complaint: String,
    #[prost(btree_map = "string, message", tag = "3")]
    packages: BTreeMap<String, StoredPackage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredPackage {
    #[prost(message, optional, tag = "1")]
    held: Option<StoredHeld>,
    #[prost(message, optional, tag = "2")]
    offer: Option<StoredOffer>,
    #[prost(bool, tag = "3")]
    withdrawn: bool,
    #[prost(message, optional, tag = "4")]
    failed: Option<StoredFailure>,
    #[prost(message, optional, tag = "5")]
    interrupted: Option<StoredOffer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredHeld {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    content_hash: Vec<u8>,
    #[prost(bool, tag = "4")]
    addon: bool,
    #[prost(bool, tag = "5")]
    from_offer: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredOffer {
    #[prost(bool, tag = "1")]
    addon: bool,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
    #[prost(string, tag = "4")]
    url: String,
    #[prost(bytes = "vec", tag = "5")]
    content_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    signature: Vec<u8>,
    #[prost(message, repeated, tag = "7")]
    headers: Vec<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredFailure {
    #[prost(bool, tag = "1")]
    removal: bool,
    #[prost(message, optional, tag = "2")]
    offer: Option<StoredOffer>,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(bool, tag = "4")]
    may_retry: bool,
}

impl PackagesState {
    /// The state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let packages = self
            .packages
            .iter()
            .map(|(name, package)| (name.clone(), store(package)))
            .collect();
        StoredState {
            offered_hash: self.offered_hash.clone(),
            complaint: self.complaint.clone(),
            packages,
        }
        .encode_to_vec()
    }

    /// Reads what [`PackagesState::to_bytes`] gave.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        let stored = StoredState::decode(bytes).map_err(|error| FrameError::Malformed {
            reason: error.to_string(),
        })?;
        let packages = stored
            .packages
            .into_iter()
            .map(|(name, package)| (name, load(package)))
            .filter(|(name, package)| name::is_allowed(name, package.kind()))
            .collect();
        Ok(Self {
            offered_hash: stored.offered_hash,
            complaint: stored.complaint,
            packages,
        })
    }
}

fn store(package: &Package) -> StoredPackage {
    let failed = match &package.step {
        Step::Failed(failure) => Some(StoredFailure {
            removal: failure.goal == Goal::Remove,
            offer: failure.offer.as_ref().map(store_offer),
            message: failure.message.clone(),
            may_retry: failure.retry_at.is_some(),
        }),
        _ => None,
    };
    StoredPackage {
        held: package.held.as_ref().map(|held| StoredHeld {
            version: held.version.clone(),
            hash: held.hash.clone(),
            content_hash: held.content_hash.clone(),
            addon: held.kind == PackageType::Addon,
            from_offer: held.from_offer,
        }),
        offer: package.offer.as_ref().map(store_offer),
        withdrawn: package.withdrawn,
        failed,
        interrupted: match &package.step {
            Step::Installing { offer, .. } => Some(store_offer(offer)),
            _ => package.interrupted.as_ref().map(store_offer),
        },
    }
}

fn store_offer(offer: &Offer) -> StoredOffer {
    StoredOffer {
        addon: offer.kind == PackageType::Addon,
        version: offer.version.clone(),
        hash: offer.hash.clone(),
        url: offer.url.clone(),
        content_hash: offer.content_hash.clone(),
        signature: offer.signature.clone(),
        headers: offer.headers.clone(),
    }
}

fn load(stored: StoredPackage) -> Package {
    let step = stored.failed.map_or(Step::Rest, |failed| {
        Step::Failed(Failure {
            goal: if failed.removal {
                Goal::Remove
            } else {
                Goal::Install
            },
            offer: failed.offer.and_then(load_offer),
            message: failed.message,
            // When it was is of another life; the pause begins anew.
            retry_at: failed.may_retry.then_some(Duration::ZERO),
        })
    });
    Package {
        held: stored.held.map(|held| Held {
            version: held.version,
            hash: held.hash,
            content_hash: held.content_hash,
            kind: kind(held.addon),
            from_offer: held.from_offer,
        }),
        offer: stored.offer.and_then(load_offer),
        withdrawn: stored.withdrawn,
        step,
        interrupted: stored.interrupted.and_then(load_offer),
    }
}

/// An offer without hash is none.
fn load_offer(stored: StoredOffer) -> Option<Offer> {
    (!stored.hash.is_empty()).then(|| Offer {
        kind: kind(stored.addon),
        version: stored.version,
        hash: stored.hash,
        url: stored.url,
        content_hash: stored.content_hash,
        signature: stored.signature,
        headers: stored.headers,
    })
}

fn kind(addon: bool) -> PackageType {
    if addon {
        PackageType::Addon
    } else {
        PackageType::TopLevel
    }
}
