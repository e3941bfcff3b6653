//! `identity.json`: who this host's agents are to the server.
//!
//! Promises: replaced durably or not at all; one that a newer version wrote is read as well as it can be and never
//! overwritten.
//! Must never: make up an identity, or decide whether a cloned host needs a new one.

use std::io;
use std::path::{Path, PathBuf};

use super::fault::{Blame as _, fault_of};
use super::layout::SMALL_BYTES_MAX;
use super::wire::{self, IdentityFile, Unreadable};
use crate::engine::message::{DiskFault, FaultKind, Identity};
use crate::sys::durable::{Disk, FILE_MODE, Kind, write_durable};

/// Reads and writes the identity file.
#[derive(Debug)]
pub struct IdentityStore<D> {
    disk: D,
    path: PathBuf,
    frozen: Option<String>,
}

/// What the identity file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadedIdentity {
    /// The identity, if there is one.
    pub identity: Option<Identity>,
    /// Why it must not be written.
    pub frozen: Option<String>,
    /// What was wrong with it, for the log.
    pub repair: Option<String>,
}

impl<D: Disk> IdentityStore<D> {
    /// Reads the identity file of a state directory.
    ///
    /// # Errors
    /// When it is there and the disk does not let us read it: going on would give every agent a new identity.
    pub fn load(disk: D, state: &Path) -> Result<(Self, LoadedIdentity), DiskFault> {
        let path = state.join("identity.json");
        let what = || format!("read {}", path.display());
        if disk.kind(&path).blame(what)? == Kind::Absent {
            return Ok((Self::new(disk, path, None), LoadedIdentity::default()));
        }
        let bytes = disk.read(&path, SMALL_BYTES_MAX).blame(what)?;
        let parse = |bytes: &[u8]| wire::parse_body::<IdentityFile>(bytes)?.try_into();
        let loaded = match wire::check_format(&bytes).and_then(|()| parse(&bytes)) {
            Ok(identity) => LoadedIdentity {
                identity: Some(identity),
                ..LoadedIdentity::default()
            },
            Err(newer @ Unreadable::Newer(_)) => LoadedIdentity {
                identity: parse(&bytes).ok(),
                frozen: Some(format!("{} was {newer}", path.display())),
                repair: None,
            },
            Err(Unreadable::Damaged(why)) => LoadedIdentity {
                repair: Some(format!("{} is damaged: {why}", path.display())),
                ..LoadedIdentity::default()
            },
        };
        let frozen = loaded.frozen.clone();
        Ok((Self::new(disk, path, frozen), loaded))
    }

    fn new(disk: D, path: PathBuf, frozen: Option<String>) -> Self {
        Self { disk, path, frozen }
    }

    /// Writes the identity durably.
    ///
    /// # Errors
    /// When the disk refuses, or a newer version wrote the file. The old content stays.
    pub fn save(&self, identity: &Identity) -> Result<(), DiskFault> {
        let what = format!("write {}", self.path.display());
        if let Some(reason) = &self.frozen {
            return Err(DiskFault {
                kind: FaultKind::Denied,
                reason: format!("{what}: {reason}"),
            });
        }
        let written = wire::print(&IdentityFile::from(identity))
            .and_then(|bytes| write_durable(&self.disk, &self.path, &bytes, FILE_MODE));
        written.map_err(|error: io::Error| fault_of(&what, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::durable::RealDisk;

    fn identity() -> Identity {
        Identity {
            machine_id: "abc".to_owned(),
            instance_uids: [("collector".to_owned(), [7; 16])].into(),
        }
    }

    #[test]
    fn an_identity_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (store, loaded) = IdentityStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded, LoadedIdentity::default());
        store.save(&identity()).unwrap();
        let (_, loaded) = IdentityStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded.identity, Some(identity()));
        assert_eq!((loaded.frozen, loaded.repair), (None, None));
    }

    #[test]
    fn an_identity_of_a_newer_version_is_used_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = IdentityStore::load(RealDisk, dir.path()).unwrap();
        store.save(&identity()).unwrap();
        let path = dir.path().join("identity.json");
        let text = String::from_utf8(RealDisk.read(&path, 1 << 20).unwrap()).unwrap();
        let newer = text.replace("\"format\":1", "\"format\":2,\"more\":true");
        RealDisk
            .write_file(&path, newer.as_bytes(), FILE_MODE)
            .unwrap();

        let (store, loaded) = IdentityStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded.identity, Some(identity()));
        assert!(loaded.frozen.unwrap().contains("format 2"));
        let fault = store.save(&Identity::default()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Denied);
        assert_eq!(RealDisk.read(&path, 1 << 20).unwrap(), newer.as_bytes());
    }

    #[test]
    fn a_damaged_identity_is_said_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        RealDisk
            .write_file(&path, b"{\"format\":1,", FILE_MODE)
            .unwrap();
        let (store, loaded) = IdentityStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded.identity, None);
        assert!(loaded.repair.unwrap().contains("identity.json is damaged"));
        store.save(&identity()).unwrap();
        let (_, loaded) = IdentityStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded.identity, Some(identity()));
    }
}
