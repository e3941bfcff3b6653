//! The control socket's file: bound with mode 0600 inside the state directory, however long its path is.
//!
//! Promises: a left-over is removed only if it is a socket and nobody answers on it; the caller holds the lock of the
//! state directory, so whoever answers is not another supervisor of this directory. The socket is removed when its
//! owner is dropped, and only if it is still the one that was bound.
//! Must never: follow a link out of the state directory, or touch a file that is not a socket.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmodat, open, statat, unlinkat};

/// Its name in the state directory.
pub const SOCKET: &str = "control.sock";

/// Owner only.
const MODE: Mode = Mode::from_raw_mode(0o600);

/// A bound control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    directory: OwnedFd,
    identity: (u64, u64),
    /// Taken by the server; the file stays ours.
    pub(crate) listener: Option<UnixListener>,
}

/// The control socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The state directory cannot be opened.
    #[error("open the state directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that is not a socket has the name.
    #[error("{path} is not a socket; move it away")]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Somebody answers on it.
    #[error("{path}: somebody answers on it although we hold the lock; stop that process")]
    Answered {
        /// Which.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{action} {path}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ControlSocket {
    /// Binds the control socket of a state directory whose lock the caller holds.
    pub(crate) fn bind(state_dir: &Path) -> Result<Self, SocketError> {
        let path = state_dir.join(SOCKET);
        let system = |action| {
            let path = path.clone();
            move |source: io::Error| SocketError::System {
                action,
                path,
                source,
            }
        };
        let directory = open_directory(state_dir).map_err(|source| SocketError::Directory {
            path: state_dir.to_owned(),
            source,
        })?;
        remove_stale(&directory, &path)?;
        let listener = UnixListener::bind(short_path(&directory)).map_err(system("bind"))?;
        chmodat(&directory, SOCKET, MODE, AtFlags::empty())
            .map_err(io::Error::from)
            .map_err(system("set mode 0600 on"))?;
        let identity = identity(&directory).map_err(system("look at"))?;
        listener
            .set_nonblocking(true)
            .map_err(system("make non-blocking"))?;
        Ok(Self {
            directory,
            identity,
            listener: Some(listener),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if identity(&self.directory).is_ok_and(|found| found == self.identity) {
            // Nobody is left to tell; a stale socket is recognised by the next start.
            _ = unlinkat(&self.directory, SOCKET, AtFlags::empty());
        }
    }
}

/// Connects to the control socket of a state directory.
pub(crate) fn connect(state_dir: &Path) -> io::Result<UnixStream> {
    let directory = open_directory(state_dir)?;
    UnixStream::connect(short_path(&directory))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// A socket address holds 108 bytes; through the open directory every path fits.
fn short_path(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = statat(directory, SOCKET, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn remove_stale(directory: &OwnedFd, path: &Path) -> Result<(), SocketError> {
    let system = |action, source: io::Error| SocketError::System {
        action,
        path: path.to_owned(),
        source,
    };
    let stat = match statat(directory, SOCKET, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(system("look at", error.into())),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(SocketError::Foreign {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(short_path(directory)) {
        Ok(_) => Err(SocketError::Answered {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            unlinkat(directory, SOCKET, AtFlags::empty())
                .map_err(|error| system("remove the stale", error.into()))
        }
        Err(error) => Err(system("ask who listens on", error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_socket_is_for_its_owner_and_leaves_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(dir.path()).unwrap();
        let path = dir.path().join(SOCKET);
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            0o600
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_longer_than_a_socket_address_works() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = ControlSocket::bind(&deep).unwrap();
        assert!(connect(&deep).is_ok());
        drop(socket);
        assert!(connect(&deep).is_err());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        // A listener that is dropped leaves its file behind, as a killed process does.
        drop(UnixListener::bind(&path).unwrap());
        let before = path.metadata().unwrap().ino();
        let socket = ControlSocket::bind(dir.path()).unwrap();
        let bound = path.metadata().unwrap().ino();
        assert!(bound != before || connect(dir.path()).is_ok());
        let error = ControlSocket::bind(dir.path()).unwrap_err();
        assert!(matches!(error, SocketError::Answered { .. }), "{error}");
        assert!(path.exists());
        drop(socket);
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        let target = dir.path().join("target");
        std::fs::File::create(&target).unwrap();
        symlink(&target, &path).unwrap();
        let error = ControlSocket::bind(dir.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{} is not a socket; move it away", path.display())
        );
        assert!(path.is_symlink() && target.exists());
    }

    #[test]
    fn a_socket_of_a_successor_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        let first = ControlSocket::bind(dir.path()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(connect(dir.path()).is_ok());
        drop(second);
    }
}
