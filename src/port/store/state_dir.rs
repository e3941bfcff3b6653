//! The state directory itself: found, ours, and locked.
//!
//! Promises: one process at a time writes; whoever is refused learns which path, who holds or owns it, and what to
//! do. Nothing in the directory is changed before the lock is held.
//! Must never: delete the lock file (a new one would be another inode, and two processes would each hold a lock),
//! or open another user's directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Uid, User};

use super::layout::AgentLayout;
use super::reader::AgentReader;
use crate::sys::durable::{DIR_MODE, Disk as _, FILE_MODE, RealDisk};
use crate::units::AgentName;

/// The file whose lock is the right to write.
pub(super) const LOCK: &str = "adjutant.lock";
/// Bytes of it that are read for a message.
const HOLDER_BYTES_MAX: u64 = 160;

/// A state directory that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

/// The right to write in a state directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be created or looked at.
    #[error("open state directory {}; it has to be writable, or set storage.directory to one that is", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else has that name.
    #[error("open state directory {}: it is not a directory", path.display())]
    NotADirectory {
        /// Which one.
        path: PathBuf,
    },
    /// It belongs to somebody else.
    #[error(
        "open state directory {}: it belongs to {owner} and this process runs as {us}; run as {owner}, \
         change the owner of the directory, or set storage.directory to another one", path.display()
    )]
    NotOurs {
        /// Which one.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// Our user.
        us: String,
    },
}

/// Why a state directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "lock {}: held by {holder}; only one process may use a state directory, stop that one or set \
         storage.directory to another one", path.display()
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process in it.
        holder: String,
    },
    /// The file cannot be opened or written.
    #[error("lock {}; the state directory has to be writable", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StateDir {
    /// Opens a state directory, creating it if it is not there. The path is made absolute and free of links first,
    /// so that two spellings are one directory.
    ///
    /// # Errors
    /// When it cannot be created, is no directory, or belongs to another user.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: path.to_path_buf(),
            source,
        };
        let absolute = std::path::absolute(path).map_err(failed)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(&absolute)
            .or_else(|error| match error.kind() {
                // Said more clearly below.
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => Ok(()),
                _ => Err(error),
            })
            .map_err(failed)?;
        let state = Self::open_existing(path)?;
        if !state.root.join(LOCK).exists() {
            // New, or from a life that died right here. Its name has to be as durable as what will be acknowledged
            // inside. Directories above that we may not read are not ours to sync.
            for above in state.root.ancestors().skip(1) {
                drop(RealDisk.sync_dir(above));
            }
        }
        Ok(state)
    }

    /// Opens a state directory that has to be there, for reading.
    ///
    /// # Errors
    /// When it is not there, is no directory, or belongs to another user.
    pub fn open_existing(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: path.to_path_buf(),
            source,
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        let path = path.to_path_buf();
        if !metadata.is_dir() {
            return Err(OpenError::NotADirectory { path });
        }
        let (owner, us) = (Uid::from_raw(metadata.uid()), Uid::effective());
        if owner != us {
            return Err(OpenError::NotOurs {
                path,
                owner: describe(owner),
                us: describe(us),
            });
        }
        let root = fs::canonicalize(&path).map_err(|source| OpenError::Io { path, source })?;
        Ok(Self { root })
    }

    /// The directory, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an agent's state lies.
    pub fn layout(&self, agent: &AgentName) -> AgentLayout {
        AgentLayout::new(&self.root, agent)
    }

    /// Reads an agent's state; needs no lock.
    pub fn reader(&self, agent: &AgentName) -> AgentReader<RealDisk> {
        AgentReader::new(RealDisk, self.layout(agent))
    }

    /// Takes the lock, without waiting for it.
    ///
    /// # Errors
    /// When another process has it, or the lock file cannot be written.
    pub fn lock(&self) -> Result<StateLock, LockError> {
        self.lock_from("")
    }

    /// The same, with words about where we run, for whom the lock refuses: the first process of a container is
    /// number 1 everywhere.
    ///
    /// # Errors
    /// As [`StateDir::lock`].
    pub fn lock_from(&self, place: &str) -> Result<StateLock, LockError> {
        let path = self.root.join(LOCK);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(failed)?;
        try_lock(&mut file, &path)?;
        // The lock is what counts, and it ends with us: who holds it is not worth a wait for the disk.
        let us = format!("{} {place}", std::process::id());
        file.write_all_at(format!("{}\n", us.trim_end()).as_bytes(), 0)
            .and_then(|()| file.set_len(us.trim_end().len() as u64 + 1))
            .map_err(failed)?;
        Ok(StateLock { _file: file })
    }
}

/// Locks the open lock file, or says who holds it.
pub(super) fn try_lock(file: &mut File, path: &Path) -> Result<(), LockError> {
    let path = path.to_path_buf();
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = holder(file);
            Err(LockError::Held { path, holder })
        }
        Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
    }
}

/// The process that wrote itself into the lock file. It may be between taking the lock and writing.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // For a message only; without it the path has to do.
    drop(file.take(HOLDER_BYTES_MAX).read_to_string(&mut text));
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse::<u32>().ok());
    let place: Vec<_> = words
        .map(|word| word.escape_default().to_string())
        .collect();
    match pid {
        Some(pid) if place.is_empty() => format!("process {pid}"),
        Some(pid) => format!("process {pid} of {}", place.join(" ")),
        None => "another process".to_owned(),
    }
}

fn describe(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("user {} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}
