//! `credentials/opamp.json`: the token that a registration brought, with where it came from and when.
//!
//! Promises: replaced durably or not at all, readable by its owner alone; one that a newer version wrote is used and
//! never overwritten.
//! Must never: let a token into an error, decide whether a token is still good, or remove one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fault::{Blame as _, fault_of};
use super::layout::FORMAT;
use crate::engine::message::{Credential, CredentialSource, DiskFault, FaultKind};
use crate::sys::durable::{DIR_MODE, Disk, FILE_MODE, Kind, write_durable};
use crate::units::{Secret, WallTime};

const DIRECTORY: &str = "credentials";
const FILE: &str = "opamp.json";
/// Bound of the file; a token has a few hundred bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// Reads and writes the stored token.
#[derive(Debug, Clone)]
pub struct CredentialStore<D> {
    disk: D,
    state: PathBuf,
    frozen: Option<String>,
}

/// A token with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCredential {
    /// The token.
    pub token: Secret,
    /// What is known of it.
    pub credential: Credential,
    /// Which machine it was issued to; empty when that is not known.
    pub machine_id: String,
}

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadedCredential {
    /// The token, if there is one.
    pub stored: Option<StoredCredential>,
    /// What was wrong with it, for the log.
    pub repair: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CredentialFile {
    format: u64,
    token: String,
    source: String,
    at_ms: u64,
    #[serde(default)]
    machine_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    management_mode: Option<String>,
}

impl<D: Disk> CredentialStore<D> {
    /// Reads what is stored in a state directory.
    ///
    /// # Errors
    /// When something is there and the disk does not let us read it: it may be a good token.
    pub fn load(disk: D, state: &Path) -> Result<(Self, LoadedCredential), (Self, DiskFault)> {
        let mut store = Self {
            disk,
            state: state.to_owned(),
            frozen: None,
        };
        let bytes = match store.read() {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok((store, LoadedCredential::default())),
            Err(fault) => return Err((store, fault)),
        };
        let path = store.path();
        let loaded = match parse(&bytes) {
            Ok((stored, format)) => {
                store.frozen = (format > FORMAT).then(|| {
                    format!(
                        "{} was written by a newer version in format {format}, this one writes {FORMAT}",
                        path.display()
                    )
                });
                LoadedCredential {
                    stored: Some(stored),
                    repair: store.frozen.clone(),
                }
            }
            Err(why) => LoadedCredential {
                stored: None,
                repair: Some(format!("{} is damaged: {why}", path.display())),
            },
        };
        Ok((store, loaded))
    }

    fn read(&self) -> Result<Option<Vec<u8>>, DiskFault> {
        let path = self.path();
        let what = || format!("read {}", path.display());
        if self.disk.kind(&path).blame(what)? == Kind::Absent {
            return Ok(None);
        }
        self.disk.read(&path, BYTES_MAX).blame(what).map(Some)
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.state.join(DIRECTORY).join(FILE)
    }

    /// Writes the token durably.
    ///
    /// # Errors
    /// When the disk refuses, or a newer version wrote the file. The old content stays.
    pub fn save(&self, stored: &StoredCredential) -> Result<(), DiskFault> {
        let path = self.path();
        let what = || format!("write {}", path.display());
        if let Some(reason) = &self.frozen {
            return Err(DiskFault {
                kind: FaultKind::Denied,
                reason: format!("{}: {reason}", what()),
            });
        }
        let directory = self.state.join(DIRECTORY);
        if self.disk.kind(&directory).blame(what)? == Kind::Absent {
            self.disk
                .create_dir(&directory, DIR_MODE)
                .and_then(|()| self.disk.sync_dir(&self.state))
                .blame(|| format!("create {}", directory.display()))?;
        }
        let bytes = serde_json::to_vec(&CredentialFile::from(stored))
            .map_err(|error| fault_of(&what(), &error.into()))?;
        write_durable(&self.disk, &path, &bytes, FILE_MODE).blame(what)
    }
}

/// The token and the format it was written in. Why not: the parser's place, never its words, which quote the text.
fn parse(bytes: &[u8]) -> Result<(StoredCredential, u64), String> {
    let file: CredentialFile = serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "not what this version wrote, at line {} column {}",
            error.line(),
            error.column()
        )
    })?;
    if file.token.is_empty() {
        return Err("it holds no token".to_owned());
    }
    let credential = Credential {
        source: CredentialSource::of(&file.source).unwrap_or(CredentialSource::Registered),
        at: WallTime::from_unix_millis(file.at_ms),
        expires: file.expires_ms.map(WallTime::from_unix_millis),
        gateway: file.gateway,
        org: file.org,
        endpoint: file.endpoint,
        management_mode: file.management_mode,
        unsaved: None,
    };
    let stored = StoredCredential {
        token: Secret::new(file.token),
        credential,
        machine_id: file.machine_id,
    };
    Ok((stored, file.format))
}

impl From<&StoredCredential> for CredentialFile {
    fn from(stored: &StoredCredential) -> Self {
        let known = &stored.credential;
        Self {
            format: FORMAT,
            token: stored.token.expose().to_owned(),
            source: known.source.word().to_owned(),
            at_ms: known.at.unix_millis(),
            machine_id: stored.machine_id.clone(),
            expires_ms: known.expires.map(WallTime::unix_millis),
            gateway: known.gateway.clone(),
            org: known.org.clone(),
            endpoint: known.endpoint.clone(),
            management_mode: known.management_mode.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::sys::durable::RealDisk;

    fn stored() -> StoredCredential {
        StoredCredential {
            token: Secret::new("planted-token"),
            credential: Credential {
                source: CredentialSource::Restarted,
                at: WallTime::from_unix_millis(1_700_000_000_000),
                expires: Some(WallTime::from_unix_millis(1_731_536_000_000)),
                gateway: Some("42".to_owned()),
                org: None,
                endpoint: Some("ws://h:4320/api/v1/opamp/v1/opamp".to_owned()),
                management_mode: Some("supervisor".to_owned()),
                unsaved: None,
            },
            machine_id: "m1".to_owned(),
        }
    }

    #[test]
    fn a_token_is_read_back_and_its_owner_alone_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, loaded) = CredentialStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded, LoadedCredential::default());
        store.save(&stored()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&store.path()), 0o600);
        assert_eq!(mode(&dir.path().join("credentials")), 0o700);
        let (_, loaded) = CredentialStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded.stored, Some(stored()));
        assert_eq!(loaded.repair, None);
    }

    #[test]
    fn damage_is_said_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = CredentialStore::load(RealDisk, dir.path()).unwrap();
        store.save(&stored()).unwrap();
        let cases = [
            r#"{"format":1,"token":"planted-token","#,
            r#"{"format":"planted-token"}"#,
            r#"{"format":1,"token":"","source":"x","at_ms":1}"#,
            "planted-token",
        ];
        for text in cases {
            RealDisk
                .write_file(&store.path(), text.as_bytes(), FILE_MODE)
                .unwrap();
            let (_, loaded) = CredentialStore::load(RealDisk, dir.path()).unwrap();
            assert_eq!(loaded.stored, None, "{text}");
            let repair = loaded.repair.unwrap();
            assert!(repair.contains("opamp.json is damaged"), "{repair}");
            assert!(!repair.contains("planted"), "{repair}");
        }
        store.save(&stored()).unwrap();
    }

    #[test]
    fn a_token_of_a_newer_version_is_used_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = CredentialStore::load(RealDisk, dir.path()).unwrap();
        store.save(&stored()).unwrap();
        let text = String::from_utf8(RealDisk.read(&store.path(), BYTES_MAX).unwrap()).unwrap();
        let newer = text.replace("\"format\":1", "\"format\":9,\"more\":1");
        RealDisk
            .write_file(&store.path(), newer.as_bytes(), FILE_MODE)
            .unwrap();
        let (store, loaded) = CredentialStore::load(RealDisk, dir.path()).unwrap();
        assert_eq!(loaded.stored, Some(stored()));
        assert!(loaded.repair.unwrap().contains("newer version"));
        assert_eq!(store.save(&stored()).unwrap_err().kind, FaultKind::Denied);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials/opamp.json");
        std::fs::create_dir_all(&path).unwrap();
        let (_, fault) = CredentialStore::load(RealDisk, dir.path()).unwrap_err();
        assert!(
            fault.reason.contains("credentials/opamp.json"),
            "{}",
            fault.reason
        );
    }
}
