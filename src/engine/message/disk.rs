//! What the engine wants of the disk, what it gets back, and what is stored there.
//!
//! Promises: plain data; each piece of work is answered once and is durable by then.
//! Must never: know a path below the state directory or a file descriptor.

use std::collections::BTreeMap;
use std::path::PathBuf;

use opamp_client::settings::SavedSettings;

use crate::units::{OfferHash, RevisionHash, RevisionId, WallTime};

/// Work for an agent's writer thread. Each is durable when it is answered.
#[derive(Debug, Clone)]
pub enum DiskWork {
    /// Write a revision directory: staged beside the others, complete and synced before it gets its name.
    Stage(Box<Revision>),
    /// Append one record to the journal.
    Journal(Record),
    /// Point `current` at a revision by one rename.
    Promote(RevisionId),
    /// Point `last-good` at a revision by one rename.
    MarkGood(RevisionId),
    /// Replace the memory of rejected revisions.
    SaveRejected(Vec<Rejection>),
    /// Replace what outlives a restart of offered connection settings.
    SaveConnection(SavedSettings),
    /// Remove every revision that is not listed.
    Prune {
        /// Those that stay.
        keep: Vec<RevisionId>,
    },
    /// Read the local layers again.
    ReadLocal(Vec<PathBuf>),
    /// Read a stored revision.
    ReadRevision(RevisionId),
    #[cfg(feature = "layers")]
    /// Lay out files for the validator alone, in place of those of the last trial.
    StageTrial(Vec<RevisionFile>),
    #[cfg(feature = "layers")]
    /// Remove what was laid out for the validator alone.
    DropTrial,
    #[cfg(feature = "layers")]
    /// Look whether the files of a revision are what its manifest says.
    Verify(RevisionId),
    #[cfg(feature = "layers")]
    /// Put the files of a revision back.
    Restore(Box<Revision>),
    /// Write the merged config to where people look for it.
    ShowEffective(Vec<u8>),
    /// Put files beside the revisions that layers name and that must not stand in them.
    #[cfg(feature = "telemetry")]
    KeepMaterial(Vec<Material>),
}

/// A file that a generated layer names: a header value, a key. Named by its content, so it never changes.
#[cfg(feature = "telemetry")]
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Its name: lower-case hexadecimal digits.
    pub name: String,
    /// The secret.
    pub bytes: Vec<u8>,
}

#[cfg(feature = "telemetry")]
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Material({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// What came of disk work.
#[derive(Debug)]
pub enum DiskDone {
    /// It is on disk.
    Durable,
    /// These revisions are still there after pruning.
    Pruned(Vec<RevisionId>),
    /// The local layers, in the order asked for.
    Local(Vec<LocalFile>),
    /// A stored revision.
    Revision(Box<Revision>),
    #[cfg(feature = "layers")]
    /// The files of a revision that are not what they were.
    Verified {
        /// Which revision.
        id: RevisionId,
        /// Those files.
        drift: Vec<super::DriftedFile>,
    },
}

/// A local layer as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it was read.
    pub path: PathBuf,
    /// What it holds, or why it could not be read.
    pub bytes: Result<Vec<u8>, String>,
}

/// Why disk work was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFault {
    /// The class that decides what happens next.
    pub kind: FaultKind,
    /// What was tried, on what, and what the system said.
    pub reason: String,
}

/// The class of a disk fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No space, or a quota.
    Full,
    /// Read-only, or not permitted.
    Denied,
    /// Something that ought to be there is not, or is damaged.
    Missing,
    /// The device failed.
    Device,
}

/// The files of one revision with its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its directory name.
    pub id: RevisionId,
    /// Over all layers, without the proof marker.
    pub hash: RevisionHash,
    /// The offer that brought it.
    pub offer: Option<OfferHash>,
    /// Where it came from.
    pub origin: Origin,
    /// When it was staged.
    pub at: WallTime,
    /// Every file, in layer order.
    pub files: Vec<RevisionFile>,
}

/// One file of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionFile {
    /// Path inside the revision directory; relative, checked, without `..`.
    pub path: String,
    /// Which layer it belongs to.
    pub layer: LayerKind,
    /// The offer's key, or the local path.
    pub source: String,
    /// The offer's content type.
    pub content_type: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// Which layer a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A file of the operator.
    Local,
    /// A file of the offer.
    Remote,
    /// Generated by us, and part of the revision hash.
    Generated,
    /// Generated by us to carry the proof marker; not part of the revision hash.
    Marker,
}

/// Where a revision came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The server offered it.
    Offer,
    /// A person applied it.
    Manual,
    /// The local layers changed.
    Local,
    /// The built-in default.
    Default,
}

/// One entry of an offer, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedFile {
    /// The key in the config map; may be empty.
    pub name: String,
    /// The content type; may be empty.
    pub content_type: String,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Number of the transaction; rises.
    pub transaction: u64,
    /// When it was written.
    pub at: WallTime,
    /// What has been done.
    pub step: Step,
    /// The revision it is about; none for an offer that never became one.
    pub revision: Option<RevisionId>,
    /// Its hash.
    pub hash: Option<RevisionHash>,
    /// The offer behind it.
    pub offer: Option<OfferHash>,
    /// Where it came from.
    pub origin: Origin,
    /// Why, for steps that end badly; bounded.
    pub reason: String,
}

/// What has been done in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// About to stage.
    Intent,
    /// The revision is on disk.
    Staged,
    /// It waits for a certificate that it names.
    Awaiting,
    /// The validator accepted it.
    Validated,
    /// `current` points to it.
    Promoted,
    /// The child was told.
    Signalled,
    /// The child has proven it; the window runs.
    Probation,
    /// It is last good.
    Committed,
    /// It failed after promotion, and `current` points elsewhere again (or nothing better was there).
    RolledBack,
    /// It failed before promotion.
    Failed,
    /// A newer offer took its place.
    Superseded,
    /// A start found it unfinished and took it up again.
    Resumed,
    /// An ordered stop came before its end; the next start takes it up, and the stop is no mark against it.
    Suspended,
}

impl Step {
    /// Whether the transaction is over.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Committed | Self::RolledBack | Self::Failed | Self::Superseded
        )
    }
}

/// A revision that is not to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its hash.
    pub hash: RevisionHash,
    /// Why; bounded.
    pub reason: String,
    /// When.
    pub at: WallTime,
    /// The offers that led to it.
    pub offers: Vec<OfferHash>,
}

/// Everything the state directory knows about one agent at start.
#[derive(Debug, Clone, Default)]
pub struct Persisted {
    /// The journal, oldest first.
    pub journal: Vec<Record>,
    /// What `current` points to, read in full.
    pub current: Option<Revision>,
    /// What `last-good` points to.
    pub last_good: Option<RevisionId>,
    /// Every complete revision, oldest first, without contents.
    pub revisions: Vec<StoredRevision>,
    /// Revisions that are not to be tried again.
    pub rejected: Vec<Rejection>,
    /// The local layers as they are now.
    pub local: Vec<LocalFile>,
    /// Offered connection settings, as they were saved last.
    pub connection: Option<SavedSettings>,
    /// Why applies are frozen: state written by a newer version.
    pub frozen: Option<String>,
    /// Files of what `current` pointed to that were changed by somebody else and could not be put back.
    pub drift: Vec<super::DriftedFile>,
    /// Repairs made while loading, for the log and the report.
    pub repairs: Vec<String>,
}

/// What the OpenTelemetry Collector's supervisor left in a state directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Inheritance {
    /// Where the server wanted the agent's own telemetry.
    #[cfg(feature = "telemetry")]
    pub destinations: Option<Box<opamp_client::messages::ConnectionSettingsOffers>>,
    /// The last offer that it received.
    pub received: Option<InheritedOffer>,
    /// Why that one did not hold, if it did not.
    pub failed: Option<String>,
    /// The last offer that worked.
    pub working: Option<InheritedOffer>,
}

/// An offer that it kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritedOffer {
    /// The server's hash.
    pub hash: OfferHash,
    /// Its files.
    pub files: Vec<OfferedFile>,
}

/// One line of `config list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRevision {
    /// Its directory name.
    pub id: RevisionId,
    /// Its hash.
    pub hash: RevisionHash,
    /// The offer that brought it.
    pub offer: Option<OfferHash>,
    /// Where it came from.
    pub origin: Origin,
    /// When it was staged.
    pub at: WallTime,
    /// How many files it holds.
    pub files: usize,
    /// How many bytes they hold.
    pub bytes: u64,
}

/// What identifies this host's agents; `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// `/etc/machine-id` or its substitute when the file was written.
    pub machine_id: String,
    /// Instance uid by agent name.
    pub instance_uids: BTreeMap<String, [u8; 16]>,
}
