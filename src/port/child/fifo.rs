//! The named pipes that carry a child's output.
//!
//! Promises: both ends are opened for reading *and* writing. So neither side ever sees the other go: the child gets no
//! EPIPE when we die, what it wrote meanwhile waits in the pipe for our next life, and an end of file never comes.
//! Must never: open anything that is not a pipe of ours. What stands in its place is moved aside, not removed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// What a child may write while nobody reads: what the kernel gives everybody, and less where a user has many pipes.
/// Memory is used as the pipe fills.
const ROOM: [usize; 3] = [1024 * 1024, 512 * 1024, 128 * 1024];

/// Opens the end that a child writes to; it blocks when the pipe is full.
pub(super) fn open_writer(path: &Path) -> io::Result<File> {
    ensure(path)?;
    let writer = open(path, OFlag::O_NOFOLLOW)?;
    let fits = |room: &usize| rustix::pipe::fcntl_setpipe_size(&writer, *room).is_ok();
    if !ROOM.iter().any(fits) {
        tracing::debug!(path = %path.display(), "output pipe keeps its size");
    }
    Ok(writer)
}

/// Opens the end that we read from; it never blocks.
pub(super) fn open_reader(path: &Path) -> io::Result<File> {
    ensure(path)?;
    open(path, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
}

fn open(path: &Path, flags: OFlag) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits())
        .open(path)
}

/// Makes the pipe unless it is there.
fn ensure(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_fifo() => {
            if found.permissions().mode() & 0o777 == 0o600 {
                return Ok(());
            }
            return fs::set_permissions(path, Permissions::from_mode(0o600));
        }
        Ok(_) => fs::rename(path, aside(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// One name only, so that what was moved aside stays bounded.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".aside");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn what_was_written_before_a_reader_died_is_read_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout.fifo");
        let mut writer = open_writer(&path).unwrap();
        let first = open_reader(&path).unwrap();
        drop(first);
        writer.write_all(b"kept\n").unwrap();
        let mut second = open_reader(&path).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(second.read(&mut buffer).unwrap(), 5);
        assert_eq!(
            second.read(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_in_its_place_is_moved_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout.fifo");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"precious").unwrap();
        open_writer(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
        let kept = fs::read(dir.path().join("stdout.fifo.aside")).unwrap();
        assert_eq!(kept, b"precious");
    }
}
