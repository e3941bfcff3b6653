//! The file of a listening Unix socket: taken over only when it is ours and nobody listens, removed only while it
//! is still ours.
//!
//! Promises (F-013, S1-T15): a path that holds anything but a dead socket of our own user is left alone and named;
//! permissions are narrowed before anybody can connect, as far as the umask of the process reaches, and set exactly
//! after.
//! Must never: follow a symbolic link, or unlink what another process has put there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::StartError;

/// A listener that does not take a connection in this time is alive and busy.
const PROBE_MAX: Duration = Duration::from_secs(1);

/// A bound socket file; [`SocketFile::remove`] takes it away.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Binds a listener at a path, taking over a dead socket of ours.
    pub(crate) async fn bind(path: &Path, mode: u32) -> Result<(UnixListener, Self), StartError> {
        clear_stale(path).await?;
        let error = |what| {
            move |source| StartError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let listener = UnixListener::bind(path).map_err(error("listen on"))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(error("set the mode of"))?;
        let metadata = fs::symlink_metadata(path).map_err(error("look at"))?;
        let file = Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok((listener, file))
    }

    /// Takes the file away if it is still the one we bound.
    pub(crate) fn remove(self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket file left behind");
        }
    }
}

async fn clear_stale(path: &Path) -> Result<(), StartError> {
    let occupied = |why: String| StartError::Occupied {
        path: path.to_owned(),
        why,
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(StartError::Io {
                what: "look at",
                path: path.to_owned(),
                source,
            });
        }
    };
    if !found.file_type().is_socket() {
        return Err(occupied(
            "the path holds something that is no socket; remove it or choose another".to_owned(),
        ));
    }
    let us = nix::unistd::geteuid().as_raw();
    if found.uid() != us {
        return Err(occupied(format!(
            "the socket there belongs to uid {}, we are uid {us}; remove it or choose another path",
            found.uid()
        )));
    }
    match tokio::time::timeout(PROBE_MAX, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|source| StartError::Io {
                what: "remove the dead socket",
                path: path.to_owned(),
                source,
            }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) => Err(occupied(format!(
            "the socket there answers a probe with {error}"
        ))),
        Ok(Ok(_)) | Err(_) => Err(occupied("another process listens there".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_of_ours_is_taken_over_and_the_mode_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_listener, file) = SocketFile::bind(&path, 0o640).await.unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        file.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn anything_else_is_left_alone_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::File::create(path("file")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        let _alive = std::os::unix::net::UnixListener::bind(path("alive")).unwrap();
        for (name, wanted) in [
            ("file", "no socket"),
            ("link", "no socket"),
            ("alive", "another process listens there"),
            ("missing/s", "listen on"),
        ] {
            let error = SocketFile::bind(&path(name), 0o600).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(wanted), "{name}: {text}");
        }
        assert!(path("file").is_file());
        assert!(path("link").is_symlink());
        assert!(path("alive").exists());
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, file) = SocketFile::bind(&path, 0o600).await.unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::File::create(&path).unwrap();
        file.remove();
        assert!(path.is_file());
    }
}
