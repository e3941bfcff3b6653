//! The line between us and the file system: a few calls, and the two durable compositions of them.
//!
//! Promises: after [`write_durable`] or [`swap_link`] answered, a crash of the machine shows the new content, and a
//! reader sees the old or the new at every moment, never neither. A call that fails leaves the old content in place.
//! Must never: retry, keep a descriptor between calls (a descriptor whose `fsync` failed tells lies ever after), or
//! know what the bytes mean.
//! There are two real implementations of [`Disk`]: the file system here, and the simulator's model disk, which
//! forgets at a crash whatever was not synced. Every call is therefore the smallest thing that may fail or be
//! interrupted on its own.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::units::order;

/// Directories of ours: only for the owner.
pub const DIR_MODE: u32 = 0o700;
/// Files of ours: only for the owner.
pub const FILE_MODE: u32 = 0o600;
/// More entries than this in one directory of ours are a mistake of somebody.
const LIST_MAX: usize = 64 * 1024;
/// Deeper trees than this are not ours.
const DEPTH_MAX: usize = 64;

/// What a path names, without following a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// Its length in bytes.
        len: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Other,
}

/// The calls that the state directory needs from a file system.
pub trait Disk: Send {
    /// Creates one directory. Its parent is not synced.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Creates or empties a file, writes it and syncs it, all on one descriptor. Its parent is not synced.
    fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Appends to an existing file and syncs it, on one descriptor. After an error part of the bytes may be there.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Cuts an existing file to `len` bytes and syncs it.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames, replacing what `to` names.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Creates a symbolic link.
    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()>;
    /// What a symbolic link points to.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// Reads a regular file of at most `max` bytes, following links; anything else is refused without blocking.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>>;
    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// What a path names, without following a link.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// The permission bits of what a path names, following links; where there are none, those of a file of ours.
    fn mode(&self, path: &Path) -> io::Result<u32> {
        _ = path;
        Ok(FILE_MODE)
    }
    /// Removes a file or a link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// Replaces a file: temporary file beside it → write → sync → rename → sync of the directory.
///
/// # Errors
/// The first call that failed. The file then holds the old content or, when only the last sync failed, the new
/// content that a crash may take back.
pub fn write_durable<D: Disk + ?Sized>(
    disk: &D,
    path: &Path,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    replace(disk, path, bytes, mode)?;
    disk.sync_dir(&beside(path)?.0)
}

/// The first half of [`write_durable`], for callers who must know whether the file was replaced when an error
/// comes: after an error of this half it was not. The directory is not synced.
///
/// # Errors
/// The first call that failed; the old content is in place.
pub fn replace<D: Disk + ?Sized>(disk: &D, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (_, temp) = beside(path)?;
    let renamed = disk
        .write_file(&temp, bytes, mode)
        .and_then(|()| disk.rename(&temp, path));
    if renamed.is_err() {
        // Best effort: a cleanup that fails must not hide why we clean up.
        drop(disk.remove_file(&temp));
    }
    renamed
}

/// Points a symbolic link somewhere else: temporary link beside it → ONE rename over it → sync of the directory.
///
/// Unlink and create again would be shorter, and every reader in between would find nothing.
///
/// # Errors
/// The first call that failed. The link then points to where it did or, when only the last sync failed, to the new
/// target until a crash.
pub fn swap_link<D: Disk + ?Sized>(disk: &D, link: &Path, target: &Path) -> io::Result<()> {
    let (dir, temp) = beside(link)?;
    let made = match disk.symlink(target, &temp) {
        // Left behind by an earlier life.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk
            .remove_file(&temp)
            .and_then(|()| disk.symlink(target, &temp)),
        made => made,
    };
    let renamed = made.and_then(|()| disk.rename(&temp, link));
    if renamed.is_err() {
        // Best effort, as above.
        drop(disk.remove_file(&temp));
    }
    renamed?;
    disk.sync_dir(&dir)
}

/// Removes whatever `path` names, directories with all they hold; links are removed, not followed. Nothing there is
/// fine.
///
/// # Errors
/// The first call that failed; what was removed until then stays removed.
pub fn remove_tree<D: Disk + ?Sized>(disk: &D, path: &Path) -> io::Result<()> {
    remove_below(disk, path, DEPTH_MAX)
}

fn remove_below<D: Disk + ?Sized>(disk: &D, path: &Path, depth: usize) -> io::Result<()> {
    match disk.kind(path)? {
        Kind::Absent => Ok(()),
        Kind::Dir => {
            let below = depth.checked_sub(1).ok_or_else(|| {
                io::Error::other(format!("more than {DEPTH_MAX} directories deep"))
            })?;
            for name in disk.list(path)? {
                remove_below(disk, &path.join(name), below)?;
            }
            disk.remove_dir(path)
        }
        Kind::File { .. } | Kind::Link | Kind::Other => disk.remove_file(path),
    }
}

/// The name of the temporary entry that a replacement of `name` uses, so that a later life can sweep it up.
pub fn temporary_name(name: &str) -> String {
    format!(".{name}.tmp")
}

fn beside(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let parts = path
        .parent()
        .zip(path.file_name().and_then(|name| name.to_str()));
    let (dir, name) = parts.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a path without a directory or a plain name",
        )
    })?;
    Ok((dir.to_path_buf(), dir.join(temporary_name(name))))
}

/// The file system itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)
    }

    fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        // A file that has the length already is only synced: its time of change stays.
        if file.metadata()?.len() != len {
            file.set_len(len)?;
        }
        file.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, link)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        // Without O_NONBLOCK, opening a pipe without a writer would wait for one.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let capacity = usize::try_from(metadata.len().min(max)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(capacity.saturating_add(1));
        file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(too_large(max));
        }
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if names.len() >= LIST_MAX {
                return Err(io::Error::other(format!("more than {LIST_MAX} entries")));
            }
            names.push(entry?.file_name());
        }
        order::sort(&mut names);
        Ok(names)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kind::Absent),
            Err(error) => return Err(error),
        };
        let file_type = metadata.file_type();
        Ok(if file_type.is_symlink() {
            Kind::Link
        } else if file_type.is_dir() {
            Kind::Dir
        } else if file_type.is_file() {
            Kind::File {
                len: metadata.len(),
            }
        } else {
            Kind::Other
        })
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        Ok(fs::metadata(path)?.permissions().mode())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// The error of a file that is larger than its reader allows.
pub fn too_large(max: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("larger than {max} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_write_replaces_the_content_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejected.json");
        write_durable(&RealDisk, &path, b"one", FILE_MODE).unwrap();
        write_durable(&RealDisk, &path, b"two", FILE_MODE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            FILE_MODE
        );
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["rejected.json"]);
    }

    #[test]
    fn a_link_is_swapped_over_the_left_over_of_an_earlier_life() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        std::os::unix::fs::symlink("nowhere", dir.path().join(".current.tmp")).unwrap();
        swap_link(&RealDisk, &link, Path::new("revisions/a")).unwrap();
        swap_link(&RealDisk, &link, Path::new("revisions/b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("revisions/b"));
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["current"]);
    }

    #[test]
    fn a_link_cannot_replace_a_directory_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        fs::create_dir(&link).unwrap();
        let error = swap_link(&RealDisk, &link, Path::new("revisions/a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["current"]);
    }

    #[test]
    fn reading_is_bounded_and_never_waits_for_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        RealDisk.write_file(&file, b"12345", FILE_MODE).unwrap();
        assert_eq!(RealDisk.read(&file, 5).unwrap(), b"12345");
        let error = RealDisk.read(&file, 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);

        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(
            RealDisk.read(&pipe, 5).unwrap_err().to_string(),
            "not a regular file"
        );
        assert_eq!(
            RealDisk.read(dir.path(), 5).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
    }

    #[test]
    fn a_tree_is_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        RealDisk.write_file(&kept, b"x", FILE_MODE).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        RealDisk
            .write_file(&tree.join("a/b/c"), b"x", FILE_MODE)
            .unwrap();
        std::os::unix::fs::symlink(dir.path(), tree.join("a/up")).unwrap();
        remove_tree(&RealDisk, &tree).unwrap();
        remove_tree(&RealDisk, &tree).unwrap();
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["kept"]);
    }
}
