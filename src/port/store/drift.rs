//! Whether a revision is what it was, and how it becomes that again.
//!
//! Promises: looking changes nothing; putting back replaces each file by one rename, so that a reader finds the old or
//! the new, and keeps what a stranger wrote in `drifted/`, the last of each name.
//! Must never: put back anything but bytes that it is given, or look into a file.

use std::io;
use std::path::Path;

use super::layout::{AgentLayout, FILE_BYTES_MAX, MANIFEST, MANIFEST_BYTES_MAX};
use super::revision;
use super::wire::{self, Manifest};
use crate::engine::message::{DriftedFile, Revision};
use crate::sys::durable::{DIR_MODE, Disk, FILE_MODE, Kind, remove_tree, write_durable};
use crate::units::RevisionId;

/// Every file of a revision that is not what its manifest says.
pub(super) fn verify<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    id: &RevisionId,
) -> io::Result<Vec<DriftedFile>> {
    let directory = layout.revision(id);
    let manifest = match revision::manifest(disk, layout, id) {
        Ok(manifest) => manifest,
        Err(revision::Flaw::Io(error)) => return Err(error),
        Err(revision::Flaw::Unreadable(_)) => {
            let found = disk.read(&directory.join(MANIFEST), MANIFEST_BYTES_MAX);
            return Ok(vec![DriftedFile {
                path: MANIFEST.to_owned(),
                expected: String::new(),
                found: found.ok().map(|bytes| wire::digest(&bytes)),
            }]);
        }
    };
    let mut drift = Vec::new();
    for file in manifest.files() {
        let path = directory.join(&file.path);
        let found = plain(disk, &path)?.map(|bytes| wire::digest(&bytes));
        if found.as_ref() != Some(&file.sha256) {
            drift.push(DriftedFile {
                path: file.path.clone(),
                expected: file.sha256.clone(),
                found,
            });
        }
    }
    Ok(drift)
}

/// The content of a regular file; none when there is none, or something else.
fn plain<D: Disk>(disk: &D, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match disk.kind(path)? {
        Kind::File { len } if len <= FILE_BYTES_MAX => disk.read(path, FILE_BYTES_MAX).map(Some),
        Kind::File { .. } | Kind::Dir | Kind::Link | Kind::Other | Kind::Absent => Ok(None),
    }
}

/// Makes a revision what it was.
pub(super) fn restore<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    revision: &Revision,
) -> io::Result<()> {
    let directory = layout.revision(&revision.id);
    make_dir(disk, &directory)?;
    for below in revision::parents(&revision.files) {
        make_dir(disk, &directory.join(below))?;
    }
    for file in &revision.files {
        let path = directory.join(&file.path);
        put_back(disk, layout, &path, &file.path, &file.bytes)?;
    }
    let manifest = wire::print(&Manifest::of(revision))?;
    put_back(disk, layout, &directory.join(MANIFEST), MANIFEST, &manifest)?;
    disk.sync_dir(&layout.revisions())
}

fn put_back<D: Disk>(
    disk: &D,
    layout: &AgentLayout,
    path: &Path,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let there = plain(disk, path)?;
    if there.as_deref() == Some(bytes) {
        return Ok(());
    }
    if let Some(theirs) = there {
        let kept = layout.drifted();
        make_dir(disk, &kept)?;
        disk.write_file(&kept.join(name.replace('/', "_")), &theirs, FILE_MODE)?;
    } else if disk.kind(path)? == Kind::Dir {
        remove_tree(disk, path)?;
    }
    write_durable(disk, path, bytes, FILE_MODE)
}

/// Makes a directory where there is none; what stands in its place goes.
fn make_dir<D: Disk>(disk: &D, path: &Path) -> io::Result<()> {
    match disk.kind(path)? {
        Kind::Dir => Ok(()),
        Kind::Absent => disk.create_dir(path, DIR_MODE),
        Kind::File { .. } | Kind::Link | Kind::Other => {
            disk.remove_file(path)?;
            disk.create_dir(path, DIR_MODE)
        }
    }
}

/// Puts back what other revisions still have of the same content. True when the revision is whole again.
pub(super) fn heal<D: Disk>(disk: &D, layout: &AgentLayout, id: &RevisionId) -> bool {
    let Ok(manifest) = revision::manifest(disk, layout, id) else {
        return false;
    };
    let names = disk.list(&layout.revisions()).unwrap_or_default();
    let others: Vec<(RevisionId, Manifest)> = names
        .iter()
        .filter_map(|name| name.to_str()?.parse::<RevisionId>().ok())
        .filter(|other| other != id)
        .filter_map(|other| {
            let manifest = revision::manifest(disk, layout, &other).ok()?;
            Some((other, manifest))
        })
        .collect();
    let directory = layout.revision(id);
    manifest.files().iter().all(|file| {
        let right = |bytes: &Vec<u8>| wire::digest(bytes) == file.sha256;
        let path = directory.join(&file.path);
        if plain(disk, &path).is_ok_and(|found| found.as_ref().is_some_and(right)) {
            return true;
        }
        let copy = others.iter().find_map(|(other, manifest)| {
            let twin = manifest.files().iter();
            let mut twin = twin.filter(|twin| twin.sha256 == file.sha256);
            twin.find_map(|twin| {
                let path = layout.revision(other).join(&twin.path);
                plain(disk, &path).ok().flatten().filter(right)
            })
        });
        copy.is_some_and(|bytes| put_back(disk, layout, &path, &file.path, &bytes).is_ok())
    })
}
