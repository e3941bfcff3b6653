//! Gives a state directory to the user who will run the supervisor: the one piece of work that needs root before a
//! container without root can use a directory of the host.
//!
//! Promises: the directory itself changes hands last, so that an interrupted hand-over is seen and done again; nobody
//! uses the directory meanwhile (the lock is held); one that is already in the right hands is left alone.
//! Must never: follow a link, leave the file system of the directory, touch a file that has a second name elsewhere
//! (the one who owned the directory until now may have put it there), or open a file for writing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

use super::state_dir::{LOCK, LockError, try_lock};

/// A state directory is five levels deep; the rest is for what agents make in their own.
const DEPTH_MAX: usize = 64;

/// The modes of a state directory: nobody else's business.
const PRIVATE: Mode = Mode::RWXU;

/// How everything is opened: never what a link points to, never for another program.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Who is to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOver {
    /// It was in the right hands already.
    Unchanged,
    /// So many files and directories were handed over.
    Done(u64),
}

/// Why a state directory cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Somebody is using it.
    #[error(transparent)]
    Lock(LockError),
    /// The system refused.
    #[error("hand over {}; this needs the capabilities CHOWN, FOWNER and DAC_READ_SEARCH", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something that no state directory has.
    #[error("hand over {}: it {what}; take it away first", path.display())]
    Foreign {
        /// What.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Hands a state directory over, creating it if it is not there.
///
/// # Errors
/// Somebody is using it, the system refuses, or there is something in it that nobody of ours put there. What was
/// handed over until then stays so; the directory itself does not.
pub fn hand_over(path: &Path, owner: Owner) -> Result<HandOver, HandOverError> {
    match rustix::fs::mkdir(path, PRIVATE) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(failed(path)(error)),
    }
    let root = open_dir(CWD, path.as_os_str()).map_err(failed(path))?;
    let found = rustix::fs::fstat(&root).map_err(failed(path))?;
    if belongs(&found, owner) && Mode::from_raw_mode(found.st_mode) == PRIVATE {
        return Ok(HandOver::Unchanged);
    }
    let lock = lock(&root, path)?;
    let mut walk = Walk {
        owner,
        device: found.st_dev,
        changed: 0,
    };
    walk.descend(&root, path, 0)?;
    let (uid, gid) = ids(owner);
    // Its modes while it is still ours to change.
    rustix::fs::fchmod(&root, PRIVATE)
        .and_then(|()| rustix::fs::fchown(&root, uid, gid))
        .map_err(failed(path))?;
    drop(lock);
    Ok(HandOver::Done(walk.changed + 1))
}

struct Walk {
    owner: Owner,
    device: u64,
    changed: u64,
}

impl Walk {
    fn descend(
        &mut self,
        directory: &OwnedFd,
        path: &Path,
        depth: usize,
    ) -> Result<(), HandOverError> {
        if depth > DEPTH_MAX {
            return Err(foreign(path, "is nested too deeply"));
        }
        let (uid, gid) = ids(self.owner);
        for entry in Dir::read_from(directory).map_err(failed(path))? {
            let entry = entry.map_err(failed(path))?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let path = path.join(&name);
            let found = rustix::fs::statat(directory, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed(&path))?;
            if found.st_dev != self.device {
                return Err(foreign(&path, "is on another file system"));
            }
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                let inner = open_dir(directory.as_fd(), &name).map_err(failed(&path))?;
                self.descend(&inner, &path, depth + 1)?;
            } else if found.st_nlink > 1 {
                return Err(foreign(&path, "has a second name"));
            }
            if !belongs(&found, self.owner) {
                rustix::fs::chownat(
                    directory,
                    name.as_bytes(),
                    uid,
                    gid,
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(failed(&path))?;
                self.changed += 1;
            }
        }
        Ok(())
    }
}

/// Held as long as the file is open; a lock needs no right to write.
fn lock(root: &OwnedFd, path: &Path) -> Result<Option<File>, HandOverError> {
    let path = path.join(LOCK);
    let mut file = match rustix::fs::openat(root, LOCK, READ, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed(&path)(error)),
    };
    try_lock(&mut file, &path).map_err(HandOverError::Lock)?;
    Ok(Some(file))
}

fn open_dir(at: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = READ.union(OFlags::DIRECTORY);
    rustix::fs::openat(at, name.as_bytes(), flags, Mode::empty())
}

fn belongs(found: &Stat, owner: Owner) -> bool {
    found.st_uid == owner.uid && found.st_gid == owner.gid
}

fn ids(owner: Owner) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    (Some(uid), Some(gid))
}

fn foreign(path: &Path, what: &'static str) -> HandOverError {
    let path = path.to_owned();
    HandOverError::Foreign { path, what }
}

fn failed(path: &Path) -> impl Fn(rustix::io::Errno) -> HandOverError + '_ {
    |error| HandOverError::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::port::store::StateDir;

    const OWNER: Owner = Owner {
        uid: 54_321,
        gid: 54_322,
    };

    /// Giving files away needs root; nothing else here does.
    fn someone() -> Owner {
        if nix::unistd::Uid::effective().is_root() {
            OWNER
        } else {
            let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
            Owner {
                uid: uid.as_raw(),
                gid: gid.as_raw(),
            }
        }
    }

    fn owner_of(path: &Path) -> Owner {
        let found = fs::symlink_metadata(path).unwrap();
        Owner {
            uid: found.uid(),
            gid: found.gid(),
        }
    }

    #[test]
    fn everything_changes_hands_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let before = owner_of(&outside);
        let state = dir.path().join("state");
        let someone = someone();
        assert!(matches!(
            hand_over(&state, someone),
            Ok(HandOver::Done(1) | HandOver::Unchanged)
        ));
        assert_eq!(owner_of(&state), someone);

        // As after a life as somebody else.
        fs::create_dir_all(state.join("agents/a/revisions")).unwrap();
        File::create(state.join("agents/a/journal")).unwrap();
        symlink(&outside, state.join("agents/a/current")).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(hand_over(&state, someone), Ok(HandOver::Done(_))));
        for path in [
            "",
            "agents",
            "agents/a/revisions",
            "agents/a/journal",
            "agents/a/current",
        ] {
            assert_eq!(owner_of(&state.join(path)), someone, "{path}");
        }
        assert_eq!(owner_of(&outside), before);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o700);
        assert!(matches!(
            hand_over(&state, someone),
            Ok(HandOver::Unchanged)
        ));
    }

    #[test]
    fn a_directory_in_use_or_with_a_trap_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDir::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let held = state.lock_from("pod a-1").unwrap();
        let error = hand_over(&path, someone()).unwrap_err().to_string();
        let us = std::process::id();
        assert!(
            error.contains(&format!("held by process {us} of pod a-1;")),
            "{error}"
        );
        drop(held);

        let elsewhere = dir.path().join("shadow");
        File::create(&elsewhere).unwrap();
        fs::hard_link(&elsewhere, path.join("trap")).unwrap();
        let error = hand_over(&path, someone()).unwrap_err().to_string();
        let wanted = format!(
            "hand over {}: it has a second name; take it away first",
            path.join("trap").display()
        );
        assert_eq!(error, wanted);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn as_many_changes_are_told_as_there_were() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(hand_over(&state, someone()).is_ok());
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        for name in ["a", "b", "c"] {
            File::create(state.join(name)).unwrap();
        }
        // As after a life as somebody else, which the directory itself shows.
        let open = || fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        open();
        let done = hand_over(&state, someone());
        assert!(matches!(done, Ok(HandOver::Done(4))), "{done:?}");
        // The right user with another group is not the owner either.
        std::os::unix::fs::chown(state.join("b"), Some(OWNER.uid), Some(0)).unwrap();
        open();
        let done = hand_over(&state, someone());
        assert!(matches!(done, Ok(HandOver::Done(2))), "{done:?}");
        assert_eq!(owner_of(&state.join("b")), OWNER);
    }

    #[test]
    fn a_lock_that_is_a_link_and_a_bottomless_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(hand_over(&state, someone()).is_ok());
        let elsewhere = dir.path().join("elsewhere");
        File::create(&elsewhere).unwrap();
        symlink(&elsewhere, state.join(LOCK)).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        let error = hand_over(&state, someone()).unwrap_err();
        assert!(matches!(error, HandOverError::Io { .. }), "{error}");
        fs::remove_file(state.join(LOCK)).unwrap();

        fs::create_dir_all(state.join("d/".repeat(DEPTH_MAX))).unwrap();
        let error = hand_over(&state, someone()).map(|_| ());
        assert!(error.is_ok(), "{error:?}");
        fs::create_dir_all(state.join("d/".repeat(DEPTH_MAX + 2))).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        let error = hand_over(&state, someone()).unwrap_err().to_string();
        assert!(error.contains("is nested too deeply"), "{error}");
    }
}
