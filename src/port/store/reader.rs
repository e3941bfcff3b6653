//! The reading half of the store: what doors and the loader need, without changing anything.
//!
//! Promises: bounded reads; a revision is handed out only when it is what its manifest says. Needs no lock: what it
//! reads is replaced by renames, so that it sees the old or the new.
//! Must never: write, repair or create.

use std::io;
use std::path::{Path, PathBuf};

use super::fault::Blame as _;
use super::layout::{AgentLayout, FILE_BYTES_MAX, is_leftover};
use super::{journal, revision};
use crate::engine::message::{DiskFault, LocalFile, Record, Revision, StoredRevision};
use crate::sys::durable::{Disk, Kind};
use crate::units::RevisionId;

/// Reads one agent's state without changing anything; needs no lock.
#[derive(Debug, Clone)]
pub struct AgentReader<D> {
    pub(super) disk: D,
    pub(super) layout: AgentLayout,
}

/// What a link of ours points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pointer {
    Absent,
    Revision(RevisionId),
    /// A link, but not to a revision.
    Elsewhere(PathBuf),
    /// Not a link at all.
    NoLink,
}

impl<D: Disk> AgentReader<D> {
    /// Reads below `layout`.
    pub fn new(disk: D, layout: AgentLayout) -> Self {
        Self { disk, layout }
    }

    /// Where the parts lie.
    pub fn layout(&self) -> &AgentLayout {
        &self.layout
    }

    /// Every complete revision, oldest first.
    ///
    /// # Errors
    /// When the directory of revisions cannot be read; a damaged revision is left out.
    pub fn revisions(&self) -> Result<Vec<StoredRevision>, DiskFault> {
        let ids = self.ids()?;
        let glances = ids
            .iter()
            .map(|id| revision::glance(&self.disk, &self.layout, id));
        Ok(glances.filter_map(Result::ok).collect())
    }

    /// Reads one revision and verifies it.
    ///
    /// # Errors
    /// When it is not there, damaged, newer than this version or unreadable.
    pub fn read(&self, id: &RevisionId) -> Result<Revision, DiskFault> {
        revision::read(&self.disk, &self.layout, id)
            .map_err(revision::Flaw::into_io)
            .blame(|| {
                format!(
                    "read revision {id} in {}",
                    self.layout.revisions().display()
                )
            })
    }

    /// The revision that `current` points to.
    ///
    /// # Errors
    /// When the link cannot be read.
    pub fn current(&self) -> Result<Option<RevisionId>, DiskFault> {
        self.pointed(&self.layout.current())
    }

    /// The revision that `last-good` points to.
    ///
    /// # Errors
    /// When the link cannot be read.
    pub fn last_good(&self) -> Result<Option<RevisionId>, DiskFault> {
        self.pointed(&self.layout.last_good())
    }

    /// The last `max` records of the journal, oldest first.
    ///
    /// # Errors
    /// When the journal cannot be read or is not one that this version understands.
    pub fn journal_tail(&self, max: usize) -> Result<Vec<Record>, DiskFault> {
        let path = self.layout.journal();
        let contents = journal::read(&self.disk, &path)
            .and_then(|read| read.map_err(|flaw| io::Error::other(flaw.to_string())))
            .blame(|| format!("read {}", path.display()))?;
        let mut records = contents.records;
        let surplus = records.len().saturating_sub(max);
        records.drain(..surplus);
        Ok(records)
    }

    fn pointed(&self, link: &Path) -> Result<Option<RevisionId>, DiskFault> {
        let pointer = self
            .pointer(link)
            .blame(|| format!("read {}", link.display()))?;
        Ok(match pointer {
            Pointer::Revision(id) => Some(id),
            Pointer::Absent | Pointer::Elsewhere(_) | Pointer::NoLink => None,
        })
    }

    pub(super) fn pointer(&self, link: &Path) -> io::Result<Pointer> {
        match self.disk.kind(link)? {
            Kind::Absent => Ok(Pointer::Absent),
            Kind::Link => {
                let target = self.disk.read_link(link)?;
                Ok(match self.layout.parse_target(&target) {
                    Some(id) => Pointer::Revision(id),
                    None => Pointer::Elsewhere(target),
                })
            }
            Kind::File { .. } | Kind::Dir | Kind::Other => Ok(Pointer::NoLink),
        }
    }

    /// The names of revisions, complete or not, oldest first.
    pub(super) fn ids(&self) -> Result<Vec<RevisionId>, DiskFault> {
        let dir = self.layout.revisions();
        let names = match self.disk.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.blame(|| format!("list {}", dir.display()))?,
        };
        let id = |name: &std::ffi::OsString| name.to_str()?.parse().ok();
        Ok(names.iter().filter_map(id).collect())
    }

    /// What is left of interrupted staging and pruning.
    pub(super) fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let dir = self.layout.revisions();
        let names = self.disk.list(&dir)?;
        let left = names
            .iter()
            .filter(|name| name.to_str().is_some_and(is_leftover));
        Ok(left.map(|name| dir.join(name)).collect())
    }

    pub(super) fn read_local(&self, paths: &[PathBuf]) -> Vec<LocalFile> {
        let read = |path: &PathBuf| LocalFile {
            path: path.clone(),
            bytes: self
                .disk
                .read(path, FILE_BYTES_MAX)
                .map_err(|error| format!("read {}: {error}", path.display())),
        };
        paths.iter().map(read).collect()
    }
}
