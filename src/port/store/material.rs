//! Files beside the revisions that generated layers name: header values, keys, authorities of own telemetry.
//!
//! Promises: readable by their owner alone; durable before the layer that names them is staged; named by their content,
//! so that every stored revision finds what it was proven with; gone when no stored revision names them any more.
//! Must never: let a content into an error, or parse a layer: a name of 32 digits is looked for as text.

use std::collections::BTreeSet;
use std::path::Path;

use super::AgentStore;
use super::fault::Blame as _;
use crate::engine::message::{DiskDone, DiskFault, LayerKind, Material};
use crate::sys::durable::{DIR_MODE, Disk, FILE_MODE, Kind, replace};
use crate::units::RevisionId;

/// Digits of a name.
const NAME_LENGTH: usize = 32;
/// Files that no revision names yet and that are kept all the same: they were just written.
const FRESH_MAX: usize = 512;

impl<D: Disk> AgentStore<D> {
    pub(super) fn keep_material(&mut self, files: &[Material]) -> Result<DiskDone, DiskFault> {
        let (disk, directory) = (&self.reader.disk, self.layout().material());
        let what = || format!("keep files of own telemetry in {}", directory.display());
        self.thaw(&what())?;
        if disk.kind(&directory).blame(what)? == Kind::Absent {
            disk.create_dir(&directory, DIR_MODE).blame(what)?;
            disk.sync_dir(&self.layout().root()).blame(what)?;
        }
        for file in files {
            let path = directory.join(&file.name);
            let max = file.bytes.len() as u64;
            if disk.read(&path, max).ok().as_ref() != Some(&file.bytes) {
                replace(disk, &path, &file.bytes, FILE_MODE).blame(what)?;
            }
        }
        disk.sync_dir(&directory).blame(what)?;
        let fresh = files.iter().map(|file| file.name.clone());
        self.fresh_material.extend(fresh);
        let surplus = self.fresh_material.len().saturating_sub(FRESH_MAX);
        self.fresh_material.drain(..surplus);
        Ok(DiskDone::Durable)
    }

    /// Removes what no revision names that is left, and that was not written in this life.
    pub(super) fn prune_material(&self, left: &[RevisionId]) -> Result<(), DiskFault> {
        let (disk, directory) = (&self.reader.disk, self.layout().material());
        let what = || format!("remove files of own telemetry in {}", directory.display());
        if disk.kind(&directory).blame(what)? == Kind::Absent {
            return Ok(());
        }
        let mut named: BTreeSet<String> = self.fresh_material.iter().cloned().collect();
        for id in left {
            // A revision that cannot be read may name any of them.
            let revision = self.reader.read(id)?;
            for file in revision.files {
                if file.layer == LayerKind::Generated {
                    named.extend(names(&file.bytes));
                }
            }
        }
        let mut removed = false;
        for name in disk.list(&directory).blame(what)? {
            if !named.contains(name.to_string_lossy().as_ref()) {
                disk.remove_file(&directory.join(Path::new(&name)))
                    .blame(what)?;
                removed = true;
            }
        }
        if removed {
            disk.sync_dir(&directory).blame(what)?;
        }
        Ok(())
    }
}

/// Every run of hexadecimal digits that is as long as a name.
fn names(text: &[u8]) -> impl Iterator<Item = String> {
    text.split(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        .filter(|run| run.len() == NAME_LENGTH)
        .map(|run| String::from_utf8_lossy(run).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::store::AgentLayout;
    use crate::sys::durable::RealDisk;
    use std::os::unix::fs::PermissionsExt as _;

    fn material(content: &str) -> Material {
        Material::new(content.as_bytes())
    }

    #[test]
    fn files_are_for_their_owner_alone_and_go_when_nothing_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let layout = AgentLayout::new(dir.path(), &"it".parse().unwrap());
        let load = || AgentStore::load(RealDisk, layout.clone(), &[]).unwrap().0;
        let file = material("Bearer x");
        let mut store = load();
        store.keep_material(std::slice::from_ref(&file)).unwrap();
        let path = layout.material().join(&file.name);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&layout.material())), (0o600, 0o700));
        // Written in this life, it may belong to a revision that is on its way.
        store.prune_material(&[]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"Bearer x");
        load().prune_material(&[]).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_somebody_changed_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = AgentLayout::new(dir.path(), &"it".parse().unwrap());
        let mut store = AgentStore::load(RealDisk, layout.clone(), &[]).unwrap().0;
        let file = material("Bearer x");
        let path = layout.material().join(&file.name);
        for found in ["Bearer y", "longer than it was", ""] {
            store.keep_material(std::slice::from_ref(&file)).unwrap();
            let first = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
            store.keep_material(std::slice::from_ref(&file)).unwrap();
            let same = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
            assert_eq!(first, same, "what is as it was is left alone");
            RealDisk
                .write_file(&path, found.as_bytes(), FILE_MODE)
                .unwrap();
            store.keep_material(std::slice::from_ref(&file)).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"Bearer x");
        }
    }

    #[test]
    fn names_are_found_in_any_text() {
        let name = material("a").name;
        let text = format!("value: \"${{file:${{env:DIR}}/{name}}}\"\nuid: 0123456789abcdef\n");
        assert_eq!(names(text.as_bytes()).collect::<Vec<_>>(), [name]);
    }
}
