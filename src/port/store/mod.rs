//! The state directory: what one agent has, on disk, and the only hands that change it.
//!
//! Promises: every piece of [`DiskWork`] is durable when it is answered, and one that is answered with a fault has
//! changed nothing that a later one relies on. `current` and `last-good` are replaced by one rename each and always
//! name a complete revision. What was acknowledged survives a crash at any byte; what was not shows the old or the
//! new. State of a newer version is read, never written.
//! Must never: parse an agent's config, retry, decide what to promote or to keep, or remove what `current` or
//! `last-good` point to.
//! Everything is written against [`Disk`], so that the simulator can take the power away between any two calls.

mod credential;
#[cfg(feature = "layers")]
mod drift;
mod fault;
mod hand_over;
mod identity;
mod journal;
mod layout;
#[cfg(feature = "telemetry")]
mod material;
mod pair;
mod pairs;
mod reader;
mod repair;
mod revision;
mod state_dir;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

use std::path::{Path, PathBuf};

pub use credential::{CredentialStore, LoadedCredential, StoredCredential};
pub use fault::fault_of;
pub use hand_over::{HandOver, HandOverError, Owner, hand_over};
pub use identity::{IdentityStore, LoadedIdentity};
pub use layout::{AgentLayout, FILE_BYTES_MAX, MANIFEST};
pub use pairs::{CHAIN_FILE, CURRENT, KEY_FILE, PairStore};
pub use reader::AgentReader;
pub use repair::LoadError;
pub use state_dir::{LockError, OpenError, StateDir, StateLock};
pub use writer::{AgentAnswer, Overrun, Writer, start_agent_writer};

use crate::engine::message::{
    DiskDone, DiskFault, DiskWork, FaultKind, Record, Rejection, Revision,
};
use crate::sys::durable::{Disk, FILE_MODE, Kind, remove_tree, swap_link, write_durable};
use crate::units::RevisionId;
use fault::Blame as _;
use journal::Journal;
use reader::Pointer;
use wire::RejectedFile;

/// So many names are tried for a directory that stands where a link belongs.
const ASIDE_MAX: u32 = 100;

/// Reads and writes one agent's state. There is one at a time, and it is born by loading, so it knows what it
/// writes onto.
#[derive(Debug)]
pub struct AgentStore<D> {
    reader: AgentReader<D>,
    journal: Journal,
    frozen: Option<String>,
    /// Files of own telemetry written in this life.
    #[cfg(feature = "telemetry")]
    fresh_material: Vec<String>,
}

impl<D: Disk> AgentStore<D> {
    /// The reading half.
    pub fn reader(&self) -> &AgentReader<D> {
        &self.reader
    }

    /// Where the revisions are.
    pub fn revisions_dir(&self) -> PathBuf {
        self.reader.layout().revisions()
    }

    /// Does one piece of work; it is durable when this returns.
    ///
    /// # Errors
    /// What was tried, on what, and what the system said. Nothing that was durable before is lost.
    ///
    /// # Panics
    /// When it is about to remove what `current` or `last-good` point to: a mistake of ours that must not reach the
    /// disk.
    pub fn perform(&mut self, work: DiskWork) -> Result<DiskDone, DiskFault> {
        match work {
            DiskWork::ReadLocal(paths) => Ok(DiskDone::Local(self.reader.read_local(&paths))),
            DiskWork::ReadRevision(id) => {
                let revision = self.reader.read(&id)?;
                Ok(DiskDone::Revision(Box::new(revision)))
            }
            DiskWork::Stage(revision) => self.stage(&revision),
            DiskWork::Journal(record) => self.append(&record),
            DiskWork::Promote(id) => {
                let link = self.layout().current();
                self.point("promote", &link, &id)
            }
            DiskWork::MarkGood(id) => {
                let link = self.layout().last_good();
                self.point("mark good", &link, &id)
            }
            DiskWork::SaveRejected(list) => self.save_rejected(&list),
            DiskWork::SaveConnection(state) => self.save_connection(&state.0),
            DiskWork::Prune { keep } => self.prune(&keep),
            #[cfg(feature = "layers")]
            DiskWork::StageTrial(files) => {
                let dir = self.layout().trial();
                let what = || format!("lay out files for the validator in {}", dir.display());
                self.thaw(&what())?;
                revision::lay_out(&self.reader.disk, &dir, &files).blame(what)?;
                Ok(DiskDone::Durable)
            }
            #[cfg(feature = "layers")]
            DiskWork::Verify(id) => {
                let (disk, layout) = (&self.reader.disk, self.layout());
                let drift =
                    drift::verify(disk, layout, &id).blame(|| format!("look at revision {id}"))?;
                Ok(DiskDone::Verified { id, drift })
            }
            #[cfg(feature = "layers")]
            DiskWork::Restore(revision) => {
                let what = || format!("put back revision {}", revision.id);
                self.thaw(&what())?;
                drift::restore(&self.reader.disk, self.layout(), &revision).blame(what)?;
                Ok(DiskDone::Durable)
            }
            #[cfg(feature = "layers")]
            DiskWork::DropTrial => {
                let dir = self.layout().trial();
                remove_tree(&self.reader.disk, &dir)
                    .blame(|| format!("remove {}", dir.display()))?;
                Ok(DiskDone::Durable)
            }
            DiskWork::ShowEffective(text) => {
                let path = self.layout().effective();
                let what = || format!("write {}", path.display());
                self.thaw(&what())?;
                write_durable(&self.reader.disk, &path, &text, FILE_MODE).blame(what)?;
                Ok(DiskDone::Durable)
            }
            #[cfg(feature = "telemetry")]
            DiskWork::KeepMaterial(files) => self.keep_material(&files),
        }
    }

    fn layout(&self) -> &AgentLayout {
        &self.reader.layout
    }

    /// Every piece of work that writes passes here first.
    fn thaw(&self, what: &str) -> Result<(), DiskFault> {
        match &self.frozen {
            None => Ok(()),
            Some(reason) => Err(DiskFault {
                kind: FaultKind::Denied,
                reason: format!("{what}: {reason}"),
            }),
        }
    }

    fn stage(&self, revision: &Revision) -> Result<DiskDone, DiskFault> {
        let (disk, layout, id) = (&self.reader.disk, self.layout(), &revision.id);
        let what = || format!("stage revision {id} in {}", layout.revisions().display());
        self.thaw(&what())?;
        let there = disk.kind(&layout.revision(id)).blame(what)?;
        if there != Kind::Absent {
            if revision::read(disk, layout, id).is_ok_and(|stored| stored == *revision) {
                // It got its name in an attempt whose last sync failed, or in an earlier life.
                disk.sync_dir(&layout.revisions()).blame(what)?;
                return Ok(DiskDone::Durable);
            }
            if self.pinned()?.contains(id) {
                return Err(DiskFault {
                    kind: FaultKind::Denied,
                    reason: format!("{}: in use with other content", what()),
                });
            }
            self.discard(id)?;
        }
        revision::stage(disk, layout, revision).blame(what)?;
        Ok(DiskDone::Durable)
    }

    fn append(&mut self, record: &Record) -> Result<DiskDone, DiskFault> {
        let path = self.layout().journal();
        let what = || format!("append {:?} to {}", record.step, path.display());
        self.thaw(&what())?;
        self.journal.append(&self.reader.disk, record).blame(what)?;
        Ok(DiskDone::Durable)
    }

    /// Points a link at a revision, after looking that the revision is there in full: never a dangling link.
    fn point(&self, verb: &str, link: &Path, id: &RevisionId) -> Result<DiskDone, DiskFault> {
        let (disk, layout) = (&self.reader.disk, self.layout());
        let what = || format!("{verb} revision {id} in {}", link.display());
        self.thaw(&what())?;
        revision::read(disk, layout, id)
            .map_err(revision::Flaw::into_io)
            .blame(what)?;
        // What we just read may be a name whose sync failed when it was staged; the link must not outlive it.
        disk.sync_dir(&layout.revisions()).blame(what)?;
        let before = self.reader.pointer(link).blame(what)?;
        if before == Pointer::NoLink {
            move_aside(disk, link).blame(what)?;
        }
        if let Err(error) = swap_link(disk, link, &AgentLayout::target(id)) {
            // When only the last sync failed, readers see the new target already. An answer that says "not done"
            // must be true for them, too; what a crash would show is the old or the new in any case.
            drop(self.point_back(link, id, &before));
            return Err(error).blame(what);
        }
        Ok(DiskDone::Durable)
    }

    fn point_back(
        &self,
        link: &Path,
        from: &RevisionId,
        to: &Pointer,
    ) -> Result<(), std::io::Error> {
        let disk = &self.reader.disk;
        if self.reader.pointer(link)? != Pointer::Revision(from.clone()) {
            return Ok(());
        }
        match to {
            Pointer::Revision(id) => swap_link(disk, link, &AgentLayout::target(id)),
            Pointer::Elsewhere(target) => swap_link(disk, link, target),
            Pointer::Absent | Pointer::NoLink => disk.remove_file(link),
        }
    }

    fn save_rejected(&self, rejections: &[Rejection]) -> Result<DiskDone, DiskFault> {
        let path = self.layout().rejected();
        let what = || format!("write {}", path.display());
        self.thaw(&what())?;
        wire::print(&RejectedFile::of(rejections))
            .and_then(|bytes| write_durable(&self.reader.disk, &path, &bytes, FILE_MODE))
            .blame(what)?;
        Ok(DiskDone::Durable)
    }

    fn save_connection(&self, state: &[u8]) -> Result<DiskDone, DiskFault> {
        let path = self.layout().connection();
        let what = || format!("write {}", path.display());
        self.thaw(&what())?;
        write_durable(&self.reader.disk, &path, state, FILE_MODE).blame(what)?;
        Ok(DiskDone::Durable)
    }

    fn prune(&self, keep: &[RevisionId]) -> Result<DiskDone, DiskFault> {
        let (disk, layout) = (&self.reader.disk, self.layout());
        let what = || format!("prune revisions in {}", layout.revisions().display());
        self.thaw(&what())?;
        let pinned = self.pinned()?;
        let (left, surplus): (Vec<_>, Vec<_>) = self
            .reader
            .ids()?
            .into_iter()
            .partition(|id| keep.contains(id) || pinned.contains(id));
        for id in &surplus {
            self.discard(id)?;
        }
        #[cfg(feature = "telemetry")]
        self.prune_material(&left)?;
        for path in self.reader.leftovers().blame(what)? {
            remove_tree(disk, &path).blame(what)?;
        }
        Ok(DiskDone::Pruned(left))
    }

    /// What must not be removed, whatever anybody says. A link that is not understood forbids removing anything.
    fn pinned(&self) -> Result<Vec<RevisionId>, DiskFault> {
        let mut pinned = Vec::with_capacity(2);
        for link in [self.layout().current(), self.layout().last_good()] {
            let what = || format!("read {}", link.display());
            match self.reader.pointer(&link).blame(what)? {
                Pointer::Absent => {}
                Pointer::Revision(id) => pinned.push(id),
                Pointer::Elsewhere(_) | Pointer::NoLink => {
                    return Err(DiskFault {
                        kind: FaultKind::Missing,
                        reason: format!("{}: not a link to a revision", what()),
                    });
                }
            }
        }
        Ok(pinned)
    }

    /// Removes a revision: renamed first, so that a half-removed one never has a revision's name.
    fn discard(&self, id: &RevisionId) -> Result<(), DiskFault> {
        let (disk, layout) = (&self.reader.disk, self.layout());
        let what = || format!("remove revision {id} in {}", layout.revisions().display());
        assert!(
            !self.pinned()?.contains(id),
            "revision {id} is in use and must not be removed"
        );
        let trash = layout.trash(id);
        remove_tree(disk, &trash)
            .and_then(|()| disk.rename(&layout.revision(id), &trash))
            .and_then(|()| disk.sync_dir(&layout.revisions()))
            .and_then(|()| remove_tree(disk, &trash))
            .blame(what)
    }
}

/// Renames what stands where a link belongs to a free name beside it; returns the name.
fn move_aside<D: Disk>(disk: &D, link: &Path) -> std::io::Result<PathBuf> {
    for number in 1..=ASIDE_MAX {
        let mut name = link.as_os_str().to_owned();
        name.push(format!(".found-{number}"));
        let aside = PathBuf::from(name);
        if disk.kind(&aside)? == Kind::Absent {
            disk.rename(link, &aside)?;
            return Ok(aside);
        }
    }
    Err(std::io::Error::other(format!(
        "{ASIDE_MAX} directories were moved aside here before; remove some"
    )))
}
