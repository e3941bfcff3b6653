//! The shapes of our JSON on disk, and their conversion to and from the engine's words.
//!
//! Promises: the only types of the store that are serialised; names and meaning of their fields are the on-disk
//! format [`FORMAT`].
//! Must never: leak out of the store. Unknown fields are tolerated on purpose, so that a later version may add one
//! without a new number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layout::{FORMAT, REASON_BYTES_MAX};
use crate::engine::message::{
    Identity, LayerKind, Origin, Record, Rejection, Revision, RevisionFile, Step, StoredRevision,
};
use crate::units::{OfferHash, RevisionHash, RevisionId, WallTime, hex, order, unhex};

/// Why bytes on disk are not what this version wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Written by a newer version, in this format.
    Newer(u64),
    /// Not ours, or not whole.
    Damaged(String),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newer(format) => write!(
                f,
                "written by a newer version in format {format}, this one reads {FORMAT}"
            ),
            Self::Damaged(why) => f.write_str(why),
        }
    }
}

#[derive(Deserialize)]
struct Numbered {
    format: u64,
}

/// Parses a file or line that carries the format number, which is looked at first.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Unreadable> {
    check_format(bytes)?;
    parse_body(bytes)
}

/// Parses without looking at the format number: for lines below a header, and to salvage.
pub(super) fn parse_body<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(bytes).map_err(|error| Unreadable::Damaged(error.to_string()))
}

/// Looks at the format number only.
pub(super) fn check_format(bytes: &[u8]) -> Result<(), Unreadable> {
    let numbered: Numbered = parse_body(bytes)?;
    match numbered.format {
        FORMAT => Ok(()),
        format if format > FORMAT => Err(Unreadable::Newer(format)),
        format => Err(Unreadable::Damaged(format!("unknown format {format}"))),
    }
}

/// Prints one value as JSON.
pub(super) fn print<T: Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(std::io::Error::from)
}

/// An enum on disk with the variants of an enum of the engine; a variant added there is a compile error here.
macro_rules! mirror {
    ($wire:ident, $ours:ident { $($variant:ident),+ $(,)? }) => {
        #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum $wire { $($variant),+ }

        impl From<$ours> for $wire {
            fn from(ours: $ours) -> Self {
                match ours { $($ours::$variant => Self::$variant),+ }
            }
        }

        impl From<$wire> for $ours {
            fn from(wire: $wire) -> Self {
                match wire { $($wire::$variant => Self::$variant),+ }
            }
        }
    };
}

mirror!(
    WireOrigin,
    Origin {
        Offer,
        Manual,
        Local,
        Default
    }
);
mirror!(
    WireLayer,
    LayerKind {
        Local,
        Remote,
        Generated,
        Marker
    }
);
mirror!(
    WireStep,
    Step {
        Intent,
        Awaiting,
        Staged,
        Validated,
        Promoted,
        Signalled,
        Probation,
        Committed,
        RolledBack,
        Failed,
        Superseded,
        Resumed,
        Suspended,
    }
);

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u64,
    id: String,
    hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offer: Option<String>,
    origin: WireOrigin,
    staged_at_ms: u64,
    files: Vec<ManifestFile>,
}

/// One file in the manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ManifestFile {
    pub(super) path: String,
    layer: WireLayer,
    source: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    content_type: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// The digest of a file as the manifest holds it.
pub(super) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

impl Manifest {
    pub(super) fn of(revision: &Revision) -> Self {
        Self {
            format: FORMAT,
            id: revision.id.as_str().to_owned(),
            hash: revision.hash.to_hex(),
            offer: revision.offer.as_ref().map(OfferHash::to_hex),
            origin: revision.origin.into(),
            staged_at_ms: revision.at.unix_millis(),
            files: revision
                .files
                .iter()
                .map(|file| ManifestFile {
                    path: file.path.clone(),
                    layer: file.layer.into(),
                    source: file.source.clone(),
                    content_type: file.content_type.clone(),
                    size: file.bytes.len() as u64,
                    sha256: digest(&file.bytes),
                })
                .collect(),
        }
    }

    pub(super) fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The revision without its contents.
    pub(super) fn stored(&self) -> Result<StoredRevision, Unreadable> {
        Ok(StoredRevision {
            id: self.id()?,
            hash: hash(&self.hash)?,
            offer: offer(self.offer.as_deref())?,
            origin: self.origin.into(),
            at: WallTime::from_unix_millis(self.staged_at_ms),
            files: self.files.len(),
            bytes: self
                .files
                .iter()
                .fold(0, |sum: u64, file| sum.saturating_add(file.size)),
        })
    }

    /// The revision with its contents, which come in the manifest's order.
    pub(super) fn revision(self, contents: Vec<Vec<u8>>) -> Result<Revision, Unreadable> {
        Ok(Revision {
            id: self.id()?,
            hash: hash(&self.hash)?,
            offer: offer(self.offer.as_deref())?,
            origin: self.origin.into(),
            at: WallTime::from_unix_millis(self.staged_at_ms),
            files: self
                .files
                .into_iter()
                .zip(contents)
                .map(|(file, bytes)| RevisionFile {
                    path: file.path,
                    layer: file.layer.into(),
                    source: file.source,
                    content_type: file.content_type,
                    bytes,
                })
                .collect(),
        })
    }

    fn id(&self) -> Result<RevisionId, Unreadable> {
        revision_id(&self.id)
    }
}

/// First line of the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JournalHeader {
    format: u64,
}

impl JournalHeader {
    pub(super) const fn new() -> Self {
        Self { format: FORMAT }
    }
}

/// Every other line of the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JournalLine {
    transaction: u64,
    at_ms: u64,
    step: WireStep,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offer: Option<String>,
    origin: WireOrigin,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl From<&Record> for JournalLine {
    fn from(record: &Record) -> Self {
        Self {
            transaction: record.transaction,
            at_ms: record.at.unix_millis(),
            step: record.step.into(),
            revision: record.revision.as_ref().map(|id| id.as_str().to_owned()),
            hash: record.hash.map(RevisionHash::to_hex),
            offer: record.offer.as_ref().map(OfferHash::to_hex),
            origin: record.origin.into(),
            reason: bounded(&record.reason),
        }
    }
}

impl TryFrom<JournalLine> for Record {
    type Error = Unreadable;

    fn try_from(line: JournalLine) -> Result<Self, Unreadable> {
        Ok(Self {
            transaction: line.transaction,
            at: WallTime::from_unix_millis(line.at_ms),
            step: line.step.into(),
            revision: line.revision.as_deref().map(revision_id).transpose()?,
            hash: line.hash.as_deref().map(hash).transpose()?,
            offer: offer(line.offer.as_deref())?,
            origin: line.origin.into(),
            reason: line.reason,
        })
    }
}

/// `rejected.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RejectedFile {
    format: u64,
    rejected: Vec<RejectedEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RejectedEntry {
    hash: String,
    reason: String,
    at_ms: u64,
    offers: Vec<String>,
}

impl RejectedFile {
    pub(super) fn of(rejections: &[Rejection]) -> Self {
        let entry = |one: &Rejection| RejectedEntry {
            hash: one.hash.to_hex(),
            reason: bounded(&one.reason),
            at_ms: one.at.unix_millis(),
            offers: one.offers.iter().map(OfferHash::to_hex).collect(),
        };
        Self {
            format: FORMAT,
            rejected: rejections.iter().map(entry).collect(),
        }
    }

    pub(super) fn rejections(self) -> Result<Vec<Rejection>, Unreadable> {
        let rejection = |entry: RejectedEntry| {
            let offers: Result<Vec<_>, _> =
                entry.offers.iter().map(|text| offer_hash(text)).collect();
            Ok(Rejection {
                hash: hash(&entry.hash)?,
                reason: entry.reason,
                at: WallTime::from_unix_millis(entry.at_ms),
                offers: offers?,
            })
        };
        self.rejected.into_iter().map(rejection).collect()
    }
}

/// `identity.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IdentityFile {
    format: u64,
    machine_id: String,
    instance_uids: BTreeMap<String, String>,
}

impl From<&Identity> for IdentityFile {
    fn from(identity: &Identity) -> Self {
        let uids = identity.instance_uids.iter();
        Self {
            format: FORMAT,
            machine_id: identity.machine_id.clone(),
            instance_uids: order::map(uids.map(|(name, uid)| (name.clone(), hex(uid)))),
        }
    }
}

impl TryFrom<IdentityFile> for Identity {
    type Error = Unreadable;

    fn try_from(file: IdentityFile) -> Result<Self, Unreadable> {
        let mut instance_uids = BTreeMap::new();
        for (name, text) in file.instance_uids {
            let uid = unhex(&text)
                .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
                .ok_or_else(|| {
                    Unreadable::Damaged(format!("instance uid of {name:?} is not 32 hex digits"))
                })?;
            instance_uids.insert(name, uid);
        }
        Ok(Self {
            machine_id: file.machine_id,
            instance_uids,
        })
    }
}

fn revision_id(text: &str) -> Result<RevisionId, Unreadable> {
    text.parse()
        .map_err(|error: crate::units::ParseError| Unreadable::Damaged(error.to_string()))
}

fn hash(text: &str) -> Result<RevisionHash, Unreadable> {
    text.parse()
        .map_err(|error: crate::units::ParseError| Unreadable::Damaged(error.to_string()))
}

fn offer_hash(text: &str) -> Result<OfferHash, Unreadable> {
    OfferHash::from_hex(text)
        .ok_or_else(|| Unreadable::Damaged("an offer hash is not hexadecimal".to_owned()))
}

fn offer(text: Option<&str>) -> Result<Option<OfferHash>, Unreadable> {
    text.map(offer_hash).transpose()
}

/// The beginning of a text, cut between characters.
fn bounded(text: &str) -> String {
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    text.get(..end).unwrap_or_default().to_owned()
}
