//! One revision directory: written completely before it has its name, verified whenever it is read.
//!
//! Promises: a directory that has a revision's name is complete and durable; what is read is what the manifest
//! says, byte for byte.
//! Must never: change a revision that has its name. Files that the manifest does not know are ignored: a child may
//! leave some.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::{AgentLayout, FILE_BYTES_MAX, MANIFEST, MANIFEST_BYTES_MAX, is_safe_path};
use super::wire::{self, Manifest, Unreadable};
use crate::engine::message::{LayerKind, Origin, Revision, RevisionFile, StoredRevision};
use crate::sys::durable::{DIR_MODE, Disk, FILE_MODE, Kind, remove_tree};
use crate::units::{RevisionHash, RevisionId, WallTime};

/// Bound of files in a salvaged directory.
const SALVAGE_FILES_MAX: usize = 10_000;

/// Why a revision cannot be used.
#[derive(Debug)]
pub(super) enum Flaw {
    /// The disk did not let us read it.
    Io(io::Error),
    /// Newer than us, or damaged.
    Unreadable(Unreadable),
}

impl Flaw {
    fn damaged(why: impl Into<String>) -> Self {
        Self::Unreadable(Unreadable::Damaged(why.into()))
    }

    /// As an error of the system, for the class and the text of a fault.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Unreadable(why) => io::Error::new(io::ErrorKind::NotFound, why.to_string()),
        }
    }
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Unreadable(why) => why.fmt(f),
        }
    }
}

/// Reads a revision in full and verifies it against its manifest.
pub(super) fn read<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    id: &RevisionId,
) -> Result<Revision, Flaw> {
    let dir = layout.revision(id);
    let manifest = manifest(disk, layout, id)?;
    let mut contents = Vec::with_capacity(manifest.files().len());
    for file in manifest.files() {
        let bytes = disk
            .read(&dir.join(&file.path), FILE_BYTES_MAX)
            .map_err(|error| missing(&file.path, error))?;
        if bytes.len() as u64 != file.size || wire::digest(&bytes) != file.sha256 {
            return Err(Flaw::damaged(format!(
                "{} is not what its manifest says",
                file.path
            )));
        }
        contents.push(bytes);
    }
    manifest.revision(contents).map_err(Flaw::Unreadable)
}

/// Reads what the manifest says and looks at names and sizes, not at contents: for lists.
pub(super) fn glance<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    id: &RevisionId,
) -> Result<StoredRevision, Flaw> {
    let dir = layout.revision(id);
    let manifest = manifest(disk, layout, id)?;
    for file in manifest.files() {
        let kind = disk.kind(&dir.join(&file.path)).map_err(Flaw::Io)?;
        if kind != (Kind::File { len: file.size }) {
            return Err(Flaw::damaged(format!(
                "{} is not what its manifest says",
                file.path
            )));
        }
    }
    manifest.stored().map_err(Flaw::Unreadable)
}

/// Reads the manifest of a revision, and looks that it belongs to it.
pub(super) fn manifest<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    id: &RevisionId,
) -> Result<Manifest, Flaw> {
    let path = layout.revision(id).join(MANIFEST);
    let bytes = disk
        .read(&path, MANIFEST_BYTES_MAX)
        .map_err(|error| missing(MANIFEST, error))?;
    let manifest: Manifest = wire::parse(&bytes).map_err(|why| match why {
        Unreadable::Damaged(why) => Flaw::damaged(format!("{MANIFEST}: {why}")),
        newer @ Unreadable::Newer(_) => Flaw::Unreadable(newer),
    })?;
    let stored = manifest.stored().map_err(Flaw::Unreadable)?;
    if stored.id != *id {
        return Err(Flaw::damaged(format!(
            "{MANIFEST} belongs to revision {}",
            stored.id
        )));
    }
    // Before a name from disk is joined to a path, as before one from an offer was.
    match manifest
        .files()
        .iter()
        .find(|file| !is_safe_path(&file.path))
    {
        Some(file) => Err(Flaw::damaged(format!("{MANIFEST} names {:?}", file.path))),
        None => Ok(manifest),
    }
}

fn missing(path: &str, error: io::Error) -> Flaw {
    if error.kind() == io::ErrorKind::NotFound {
        Flaw::damaged(format!("{path} is missing"))
    } else {
        Flaw::Io(error)
    }
}

/// Reads a revision of a newer version as well as it can be: for showing and reporting, never for promoting.
pub(super) fn salvage<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    id: &RevisionId,
) -> io::Result<Revision> {
    let dir = layout.revision(id);
    let manifest = disk.read(&dir.join(MANIFEST), MANIFEST_BYTES_MAX)?;
    let mut paths = Vec::new();
    collect(disk, &dir, Path::new(""), 16, &mut paths)?;
    let mut files = Vec::new();
    for path in paths {
        let bytes = disk.read(&dir.join(&path), FILE_BYTES_MAX)?;
        files.push((path, bytes));
    }
    // What this version knows of the manifest is used if it is still there under the same names.
    if let Ok(manifest) = wire::parse_body::<Manifest>(&manifest) {
        let content = |path: &str| {
            let found = files.iter().find(|(name, _)| name == path);
            found.map(|(_, bytes)| bytes.clone())
        };
        let known = manifest.files().iter().map(|file| content(&file.path));
        if let Some(contents) = known.collect::<Option<Vec<_>>>()
            && let Ok(revision) = manifest.revision(contents)
        {
            return Ok(revision);
        }
    }
    let hash = RevisionHash::of(
        files
            .iter()
            .map(|(path, bytes)| (path.as_str(), "", bytes.as_slice())),
    );
    let staged_at = id.as_str().split('-').next();
    Ok(Revision {
        id: id.clone(),
        hash,
        offer: None,
        origin: Origin::Local,
        at: WallTime::from_unix_millis(staged_at.and_then(|ms| ms.parse().ok()).unwrap_or(0)),
        files: files
            .into_iter()
            .map(|(path, bytes)| RevisionFile {
                source: path.clone(),
                path,
                layer: LayerKind::Local,
                content_type: String::new(),
                bytes,
            })
            .collect(),
    })
}

fn collect<D: Disk>(
    disk: &D,
    dir: &Path,
    below: &Path,
    depth: usize,
    paths: &mut Vec<String>,
) -> io::Result<()> {
    for name in disk.list(&dir.join(below))? {
        let path = below.join(name);
        match disk.kind(&dir.join(&path))? {
            Kind::Dir if depth > 0 => collect(disk, dir, &path, depth - 1, paths)?,
            Kind::File { .. } if path != Path::new(MANIFEST) => {
                if let Some(text) = path.to_str()
                    && paths.len() < SALVAGE_FILES_MAX
                {
                    paths.push(text.to_owned());
                }
            }
            Kind::Dir | Kind::File { .. } | Kind::Link | Kind::Other | Kind::Absent => {}
        }
    }
    Ok(())
}

/// Writes a revision beside the others and gives it its name when it is complete and synced.
pub(super) fn stage<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    revision: &Revision,
) -> io::Result<()> {
    check_paths(&revision.files)?;
    let staging = layout.staging(&revision.id);
    remove_tree(disk, &staging)?;
    let named = write_all(disk, &staging, revision)
        .and_then(|()| disk.rename(&staging, &layout.revision(&revision.id)));
    if named.is_err() {
        // Best effort: on a full disk this is what makes room again; the first error is what counts.
        drop(remove_tree(disk, &staging));
    }
    named?;
    disk.sync_dir(&layout.revisions())
}

#[cfg(feature = "layers")]
/// Writes files to a directory of their own, in place of whatever was there. They need not survive a crash.
pub(super) fn lay_out<D: Disk>(disk: &D, dir: &Path, files: &[RevisionFile]) -> io::Result<()> {
    check_paths(files)?;
    remove_tree(disk, dir)?;
    disk.create_dir(dir, DIR_MODE)?;
    for below in &parents(files) {
        disk.create_dir(&dir.join(below), DIR_MODE)?;
    }
    for file in files {
        disk.write_file(&dir.join(&file.path), &file.bytes, FILE_MODE)?;
    }
    Ok(())
}

fn check_paths(files: &[RevisionFile]) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let mut seen = BTreeSet::new();
    for file in files {
        if !is_safe_path(&file.path) {
            return Err(invalid(format!(
                "{:?} may not be the name of a file in a revision",
                file.path
            )));
        }
        if !seen.insert(file.path.as_str()) {
            return Err(invalid(format!("two files named {:?}", file.path)));
        }
    }
    Ok(())
}

fn write_all<D: Disk>(disk: &D, staging: &Path, revision: &Revision) -> io::Result<()> {
    disk.create_dir(staging, DIR_MODE)?;
    let dirs = parents(&revision.files);
    for dir in &dirs {
        disk.create_dir(&staging.join(dir), DIR_MODE)?;
    }
    for file in &revision.files {
        disk.write_file(&staging.join(&file.path), &file.bytes, FILE_MODE)?;
    }
    let manifest = wire::print(&Manifest::of(revision))?;
    disk.write_file(&staging.join(MANIFEST), &manifest, FILE_MODE)?;
    for dir in dirs.iter().rev() {
        disk.sync_dir(&staging.join(dir))?;
    }
    disk.sync_dir(staging)
}

/// Every directory that a file of the revision lies in, parents first.
pub(super) fn parents(files: &[RevisionFile]) -> BTreeSet<PathBuf> {
    let ancestors = |file: &RevisionFile| {
        let path = PathBuf::from(&file.path);
        let parents: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
        parents
    };
    let mut dirs = BTreeSet::new();
    dirs.extend(files.iter().flat_map(ancestors));
    dirs.remove(Path::new(""));
    dirs
}
