//! Loading one agent's state, and mending what an interrupted life or a stranger left.
//!
//! Promises: afterwards `current` and `last-good` are absent or links to complete revisions, nothing half-made is
//! left, and everything that was done is said. A repair that the disk refuses is said, too, and does not keep the
//! child from being started.
//! Must never: touch anything when some of the state was written by a newer version; choose a revision that was
//! never proven.

use std::io;
use std::path::{Path, PathBuf};

use opamp_client::settings::SavedSettings;

use super::journal::{self, Journal};
use super::layout::{AgentLayout, CONNECTION_BYTES_MAX, SMALL_BYTES_MAX};
use super::reader::{AgentReader, Pointer};
use super::revision::{self, Flaw};
use super::wire::{self, RejectedFile, Unreadable};
use super::{AgentStore, move_aside};
use crate::engine::message::{Persisted, Record, Rejection, Revision, StoredRevision};
use crate::sys::durable::{DIR_MODE, Disk, Kind, remove_tree, swap_link};
use crate::units::{AgentName, RevisionId};

/// The state of an agent could not be loaded at all.
#[derive(Debug, thiserror::Error)]
#[error("load the state of agent {agent} from {}", path.display())]
pub struct LoadError {
    agent: AgentName,
    path: PathBuf,
    source: io::Error,
}

impl<D: Disk> AgentStore<D> {
    /// Loads an agent's state, creating its directories and mending what needs mending; `local` are its local layers.
    ///
    /// # Errors
    /// Only when its directories cannot be created or listed. Everything below that is mended, or said in
    /// [`Persisted::repairs`] or [`Persisted::frozen`].
    pub fn load(
        disk: D,
        layout: AgentLayout,
        local: &[PathBuf],
    ) -> Result<(Self, Persisted), LoadError> {
        let failed = |layout: &AgentLayout, source| LoadError {
            agent: layout.agent().clone(),
            path: layout.root(),
            source,
        };
        create_dirs(&disk, &layout).map_err(|error| failed(&layout, error))?;
        let reader = AgentReader::new(disk, layout);
        let survey = Survey::of(&reader).map_err(|error| failed(&reader.layout, error))?;
        let local = reader.read_local(local);
        let mut loader = Loader {
            reader,
            notes: Vec::new(),
        };
        let (journal, mut persisted) = match survey.frozen() {
            Some(reason) => loader.read_frozen(survey, reason),
            None => loader.mend(survey),
        };
        persisted.local = local;
        persisted.repairs = loader.notes;
        let store = Self {
            reader: loader.reader,
            journal,
            frozen: persisted.frozen.clone(),
            #[cfg(feature = "telemetry")]
            fresh_material: Vec::new(),
        };
        Ok((store, persisted))
    }
}

fn create_dirs<D: Disk>(disk: &D, layout: &AgentLayout) -> io::Result<()> {
    let root = layout.root();
    let dirs = [
        layout.agents(),
        root.clone(),
        layout.revisions(),
        layout.work(),
        layout.logs(),
    ];
    for dir in &dirs {
        if disk.kind(dir)? == Kind::Absent {
            disk.create_dir(dir, DIR_MODE)?;
        }
    }
    // A directory that is there may be from a life that died before it was synced, and all that is acknowledged
    // below it would go with it.
    // A journal is proof that a life came past this point.
    if disk.kind(&layout.journal())? == Kind::Absent {
        for parent in [layout.state(), &layout.agents(), &root] {
            disk.sync_dir(parent)?;
        }
    }
    Ok(())
}

/// A revision's name and what a glance at it showed.
type Found = (RevisionId, Result<StoredRevision, Flaw>);

/// Everything that was found, before anything is changed.
struct Survey {
    revisions: Vec<Found>,
    journal: io::Result<Result<journal::Contents, Unreadable>>,
    rejected: io::Result<Result<Vec<Rejection>, Unreadable>>,
}

impl Survey {
    fn of<D: Disk>(reader: &AgentReader<D>) -> io::Result<Self> {
        let (disk, layout) = (&reader.disk, &reader.layout);
        let ids = reader
            .ids()
            .map_err(|fault| io::Error::other(fault.reason))?;
        let glance = |id: RevisionId| {
            let found = revision::glance(disk, layout, &id);
            (id, found)
        };
        Ok(Self {
            revisions: ids.into_iter().map(glance).collect(),
            journal: journal::read(disk, &layout.journal()),
            rejected: read_rejected(disk, &layout.rejected()),
        })
    }

    /// Why nothing may be written, if so.
    fn frozen(&self) -> Option<String> {
        let newer = |what: String, format: u64| {
            let flaw = Unreadable::Newer(format);
            format!("{what} was {flaw}; applies are frozen until this version is upgraded")
        };
        for (id, found) in &self.revisions {
            if let Err(Flaw::Unreadable(Unreadable::Newer(format))) = found {
                return Some(newer(format!("revision {id}"), *format));
            }
        }
        match &self.journal {
            Ok(Err(Unreadable::Newer(format))) => {
                return Some(newer("the journal".into(), *format));
            }
            // Written anew it would lose an unfinished transaction that may be readable tomorrow.
            Err(error) => return Some(format!("the journal cannot be read: {error}")),
            Ok(_) => {}
        }
        match &self.rejected {
            Ok(Err(Unreadable::Newer(format))) => Some(newer("rejected.json".into(), *format)),
            Err(error) => Some(format!("rejected.json cannot be read: {error}")),
            Ok(_) => None,
        }
    }
}

fn read_rejected<D: Disk>(disk: &D, path: &Path) -> io::Result<Result<Vec<Rejection>, Unreadable>> {
    if disk.kind(path)? == Kind::Absent {
        return Ok(Ok(Vec::new()));
    }
    let bytes = disk.read(path, SMALL_BYTES_MAX)?;
    Ok(wire::parse::<RejectedFile>(&bytes).and_then(RejectedFile::rejections))
}

/// Why a link is of no use.
enum Useless {
    /// The disk did not let us look; it may be fine.
    NotRead(String),
    /// It is wrong, and will be.
    Wrong(String),
}

struct Loader<D> {
    reader: AgentReader<D>,
    notes: Vec<String>,
}

impl<D: Disk> Loader<D> {
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Says what came of a repair that may fail.
    fn tried(&mut self, done: impl Into<String>, result: io::Result<()>) {
        let done = done.into();
        match result {
            Ok(()) => self.note(done),
            Err(error) => self.note(format!("{done}: not done: {error}")),
        }
    }

    /// Reads as much as it can and changes nothing.
    fn read_frozen(&mut self, survey: Survey, reason: String) -> (Journal, Persisted) {
        let layout = self.reader.layout.clone();
        let current = match self.reader.pointer(&layout.current()) {
            Ok(Pointer::Revision(id)) => self.read_anyhow(&id),
            _ => None,
        };
        let last_good = match self.reader.pointer(&layout.last_good()) {
            Ok(Pointer::Revision(id)) => Some(id),
            _ => None,
        };
        let persisted = Persisted {
            journal: readable(survey.journal).map_or_else(Vec::new, |contents| contents.records),
            current,
            last_good,
            revisions: complete(survey.revisions),
            rejected: readable(survey.rejected).unwrap_or_default(),
            connection: self.read_connection(),
            frozen: Some(reason),
            ..Persisted::default()
        };
        (Journal::absent(layout.journal()), persisted)
    }

    /// Offered connection settings; without them the local ones are used.
    fn read_connection(&mut self) -> Option<SavedSettings> {
        let path = self.reader.layout.connection();
        let disk = &self.reader.disk;
        let read = match disk.kind(&path) {
            Ok(Kind::Absent) => return None,
            Ok(_) => disk.read(&path, CONNECTION_BYTES_MAX),
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) => Some(SavedSettings(bytes)),
            Err(error) => {
                self.note(format!(
                    "{}: cannot be read, the local connection settings are used: {error}",
                    path.display()
                ));
                None
            }
        }
    }

    fn read_anyhow(&mut self, id: &RevisionId) -> Option<Revision> {
        let (disk, layout) = (&self.reader.disk, &self.reader.layout);
        let flaw = match revision::read(disk, layout, id) {
            Ok(revision) => return Some(revision),
            Err(Flaw::Unreadable(Unreadable::Newer(_))) => {
                match revision::salvage(disk, layout, id) {
                    Ok(revision) => return Some(revision),
                    Err(error) => Flaw::Io(error),
                }
            }
            Err(flaw) => flaw,
        };
        self.note(format!("current: revision {id} cannot be read: {flaw}"));
        None
    }

    /// Mends everything. Order matters: what later steps rely on is made durable first.
    fn mend(&mut self, survey: Survey) -> (Journal, Persisted) {
        let layout = self.reader.layout.clone();
        self.sync_dirs();
        self.sweep();
        let (journal, records) = self.take_over_journal(survey.journal);
        let rejected = self.take_over_rejected(survey.rejected);
        let revisions = survey.revisions;
        #[cfg(not(feature = "layers"))]
        let drift = Vec::new();
        #[cfg(feature = "layers")]
        let drift = self.heal(&layout);
        #[cfg(feature = "layers")]
        let revisions = if drift.is_empty() {
            revisions
        } else {
            self.glance_again(revisions, &layout)
        };
        for (id, found) in &revisions {
            if let Err(flaw) = found {
                self.note(format!("revision {id} is not complete: {flaw}"));
            }
        }
        let good = self.mend_last_good(&layout.last_good());
        let last_good = good.as_ref().map(|revision| revision.id.clone());
        #[cfg(not(feature = "layers"))]
        let before = None;
        #[cfg(feature = "layers")]
        let before = self
            .committed_before(&records)
            .filter(|_| !drift.is_empty());
        let current = self.mend_current(&layout.current(), good, before);
        let persisted = Persisted {
            journal: records,
            current,
            last_good,
            revisions: complete(revisions),
            rejected,
            connection: self.read_connection(),
            drift,
            ..Persisted::default()
        };
        (journal, persisted)
    }

    #[cfg(feature = "layers")]
    /// Puts back what somebody changed in the revisions that links name, where other revisions have the same content.
    /// Says which files were changed.
    fn heal(&mut self, layout: &AgentLayout) -> Vec<crate::engine::message::DriftedFile> {
        let mut found = Vec::new();
        let mut looked = None;
        for link in [layout.current(), layout.last_good()] {
            let Ok(Pointer::Revision(id)) = self.reader.pointer(&link) else {
                continue;
            };
            if looked.as_ref() == Some(&id) {
                continue;
            }
            looked = Some(id.clone());
            let disk = &self.reader.disk;
            // A link to nothing is mended as such.
            if !matches!(disk.kind(&layout.revision(&id)), Ok(Kind::Dir)) {
                continue;
            }
            let drift = super::drift::verify(disk, layout, &id).unwrap_or_default();
            if drift.is_empty() {
                continue;
            }
            let healed = super::drift::heal(disk, layout, &id);
            let words: Vec<String> = drift.iter().map(ToString::to_string).collect();
            let end = if healed {
                "put back from other revisions"
            } else {
                "and no other revision has what belongs there"
            };
            self.note(format!(
                "revision {id} was changed by somebody else: {}; {end}",
                words.join(", ")
            ));
            found.extend(drift);
        }
        found
    }

    /// What was put back is complete again.
    #[cfg(feature = "layers")]
    fn glance_again(&self, mut revisions: Vec<Found>, layout: &AgentLayout) -> Vec<Found> {
        for (id, found) in &mut revisions {
            if found.is_err() {
                *found = revision::glance(&self.reader.disk, layout, id);
            }
        }
        revisions
    }

    /// The newest revision that was committed once and is whole.
    #[cfg(feature = "layers")]
    fn committed_before(&self, records: &[Record]) -> Option<Revision> {
        let committed = records
            .iter()
            .rev()
            .filter(|it| it.step == crate::engine::message::Step::Committed);
        let mut ids = committed.filter_map(|record| record.revision.as_ref());
        ids.find_map(|id| revision::read(&self.reader.disk, &self.reader.layout, id).ok())
    }

    /// A life that was killed between a rename and its sync left something that we see and a crash takes back. From
    /// here on we decide on what we see, so it has to stay.
    fn sync_dirs(&mut self) {
        for dir in [self.reader.layout.revisions(), self.reader.layout.root()] {
            if let Err(error) = self.reader.disk.sync_dir(&dir) {
                self.note(format!("sync {}: {error}", dir.display()));
            }
        }
    }

    fn sweep(&mut self) {
        let temporaries = self.reader.layout.temporaries();
        let mut left = self.reader.leftovers().unwrap_or_default();
        left.extend(temporaries.into_iter().filter(|path| {
            let kind = self.reader.disk.kind(path);
            kind.is_ok_and(|kind| kind != Kind::Absent)
        }));
        if left.is_empty() {
            return;
        }
        for path in left {
            let removed = remove_tree(&self.reader.disk, &path);
            self.tried(format!("unfinished {} removed", name(&path)), removed);
        }
        self.sync_dirs();
    }

    fn take_over_journal(
        &mut self,
        found: io::Result<Result<journal::Contents, Unreadable>>,
    ) -> (Journal, Vec<Record>) {
        let path = self.reader.layout.journal();
        let disk = &self.reader.disk;
        match found {
            Ok(Ok(mut contents)) => {
                let journal = Journal::take_over(disk, path, &mut contents, &mut self.notes);
                (journal, contents.records)
            }
            // Newer and unreadable ones froze the agent before.
            Ok(Err(flaw)) => {
                self.set_aside(&path, &flaw.to_string());
                (Journal::absent(path), Vec::new())
            }
            Err(error) => {
                self.set_aside(&path, &error.to_string());
                (Journal::absent(path), Vec::new())
            }
        }
    }

    fn take_over_rejected(
        &mut self,
        found: io::Result<Result<Vec<Rejection>, Unreadable>>,
    ) -> Vec<Rejection> {
        let path = self.reader.layout.rejected();
        let why = match found {
            Ok(Ok(rejected)) => return rejected,
            Ok(Err(flaw)) => flaw.to_string(),
            Err(error) => error.to_string(),
        };
        self.set_aside(&path, &why);
        Vec::new()
    }

    /// Keeps a damaged file for people and makes room for a new one.
    fn set_aside(&mut self, path: &Path, why: &str) {
        let moved = move_aside(&self.reader.disk, path).map(|_| ());
        self.tried(format!("damaged {} moved aside ({why})", name(path)), moved);
    }

    fn mend_last_good(&mut self, link: &Path) -> Option<Revision> {
        match self.follow(link) {
            Ok(found) => found,
            Err(Useless::NotRead(why)) => {
                self.note(format!("last-good cannot be read now: {why}"));
                None
            }
            Err(Useless::Wrong(why)) => {
                let cleared = self.clear(link);
                self.tried(format!("last-good removed: {why}"), cleared);
                None
            }
        }
    }

    fn mend_current(
        &mut self,
        link: &Path,
        good: Option<Revision>,
        before: Option<Revision>,
    ) -> Option<Revision> {
        let useless = match self.follow(link) {
            Ok(Some(revision)) => return Some(revision),
            Ok(None) if good.is_none() => return None,
            Ok(None) => Useless::Wrong("missing".to_owned()),
            Err(useless) => useless,
        };
        match (good, useless) {
            (Some(good), Useless::NotRead(why) | Useless::Wrong(why)) => {
                self.rebuild_current(link, (good, "last-good"), &why)
            }
            // What a failing disk hides today it may show tomorrow.
            (None, Useless::NotRead(why)) => {
                self.note(format!("current cannot be read now: {why}"));
                None
            }
            (None, Useless::Wrong(why)) => {
                // An edit of a file must not cost the host its config where an earlier one was good.
                if let Some(before) = before {
                    return self.rebuild_current(link, (before, "committed before"), &why);
                }
                let cleared = self.clear(link);
                self.tried(
                    format!("current removed, nothing proven to point to: {why}"),
                    cleared,
                );
                None
            }
        }
    }

    fn rebuild_current(
        &mut self,
        link: &Path,
        (good, what): (Revision, &str),
        why: &str,
    ) -> Option<Revision> {
        // A link is replaced by one rename; anything else must make room first, and is kept for people.
        let cleared = match self.reader.pointer(link) {
            Ok(Pointer::NoLink) => move_aside(&self.reader.disk, link).map(|_| ()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        let target = AgentLayout::target(&good.id);
        let rebuilt = cleared.and_then(|()| swap_link(&self.reader.disk, link, &target));
        let usable = rebuilt.is_ok();
        self.tried(
            format!("current rebuilt from {what} {}: {why}", good.id),
            rebuilt,
        );
        usable.then_some(good)
    }

    /// The revision behind a link.
    fn follow(&self, link: &Path) -> Result<Option<Revision>, Useless> {
        let about =
            |id, flaw: &Flaw| format!("it points to revision {id}, which is unusable: {flaw}");
        match self.reader.pointer(link) {
            Ok(Pointer::Absent) => Ok(None),
            Ok(Pointer::Revision(id)) => {
                match revision::read(&self.reader.disk, &self.reader.layout, &id) {
                    Ok(revision) => Ok(Some(revision)),
                    Err(flaw @ Flaw::Io(_)) => Err(Useless::NotRead(about(id, &flaw))),
                    Err(flaw @ Flaw::Unreadable(_)) => Err(Useless::Wrong(about(id, &flaw))),
                }
            }
            Ok(Pointer::Elsewhere(target)) => Err(Useless::Wrong(format!(
                "it points to {}, not to a revision",
                target.display()
            ))),
            Ok(Pointer::NoLink) => Err(Useless::Wrong("it was not a link; moved aside".to_owned())),
            Err(error) => Err(Useless::NotRead(error.to_string())),
        }
    }

    /// Removes a link, or moves aside what is none, durably.
    fn clear(&self, link: &Path) -> io::Result<()> {
        let disk = &self.reader.disk;
        match self.reader.pointer(link)? {
            Pointer::Absent => return Ok(()),
            Pointer::Revision(_) | Pointer::Elsewhere(_) => disk.remove_file(link)?,
            Pointer::NoLink => {
                move_aside(disk, link)?;
            }
        }
        disk.sync_dir(&self.reader.layout.root())
    }
}

fn complete(revisions: Vec<Found>) -> Vec<StoredRevision> {
    let found = revisions.into_iter().filter_map(|(_, found)| found.ok());
    found.collect()
}

fn readable<T>(found: io::Result<Result<T, Unreadable>>) -> Option<T> {
    found.ok()?.ok()
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
}
