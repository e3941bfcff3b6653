//! A log file: appended to, rotated by size.
//!
//! Promises: a file passes its limit only by a single line longer than the limit; `<name>.log.1` is the newest of the
//! old ones; after a failed write the next line starts on a line of its own.
//! Must never: sync (what is lost with the power was read by nobody), or keep bytes that the disk did not take.
//!
//! Ours, not a crate: the rotation is forty lines, and the crates at hand split lines or bring a date library.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::units::Rotation;

/// A log file; opened at the first write.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    open: Option<Open>,
    /// The last write failed and may have left half a line.
    torn: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

impl LogFile {
    /// Names the file; nothing is touched yet.
    pub(crate) fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self {
            path,
            rotation,
            open: None,
            torn: false,
        }
    }

    /// Opens it now.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn probe(&mut self) -> io::Result<()> {
        self.opened().map(drop)
    }

    /// Whether it is this file with this rotation.
    pub(crate) fn is_at(&self, path: &Path, rotation: Rotation) -> bool {
        self.path == path && self.rotation == rotation
    }

    /// Appends bytes. Between whole lines the file may be rotated; `inside_line` says that `bytes` continue a line.
    ///
    /// # Errors
    /// What the system said; the bytes are lost, and the next write tries again.
    pub(crate) fn write(&mut self, bytes: &[u8], inside_line: bool) -> io::Result<()> {
        let mut rest = bytes;
        let mut inside = inside_line;
        while !rest.is_empty() {
            let size = self.opened()?.size;
            let room = self.rotation.bytes.saturating_sub(size);
            let fresh = size == 0;
            let fits = usize::try_from(room).map_or(true, |room| rest.len() <= room);
            let length = if fits {
                rest.len()
            } else if inside {
                line_length(rest)
            } else {
                let room = usize::try_from(room).unwrap_or(usize::MAX);
                let within = rest.get(..room).unwrap_or(rest);
                match within.iter().rposition(|byte| *byte == b'\n') {
                    Some(end) => end + 1,
                    None if fresh => line_length(rest),
                    None => {
                        self.rotate()?;
                        continue;
                    }
                }
            };
            let (part, after) = rest.split_at(length);
            self.append(part)?;
            inside = false;
            rest = after;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let torn = self.torn;
        let open = self.opened()?;
        let result = if torn {
            open.file.write_all(b"\n")
        } else {
            Ok(())
        };
        let result = result.and_then(|()| open.file.write_all(bytes));
        open.size = open.size.saturating_add(bytes.len() as u64);
        self.torn = result.is_err();
        if result.is_err() {
            // Opened again next time: the directory may have been replaced meanwhile.
            self.open = None;
        }
        result
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        if self.open.is_none() {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?;
            let size = file.metadata()?.len();
            self.open = Some(Open { file, size });
        }
        self.open
            .as_mut()
            .ok_or_else(|| io::Error::other("log file is not open"))
    }

    /// Moves every old file one number up and the current one to number 1; the oldest falls out.
    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        if self.rotation.files == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.rotation.files).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

/// Length of the first line with its end, or of everything.
fn line_length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes: u64, files: usize) -> (tempfile::TempDir, LogFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        (dir, LogFile::new(path, Rotation { bytes, files }))
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> Option<String> {
        fs::read_to_string(dir.path().join(name)).ok()
    }

    #[test]
    fn files_are_rotated_between_lines_and_the_oldest_falls_out() {
        let (dir, mut log) = log(20, 2);
        for number in 0..8 {
            // Nine bytes each: two to a file.
            log.write(format!("line {number:03}\n").as_bytes(), false)
                .unwrap();
        }
        assert_eq!(read(&dir, "a.log").unwrap(), "line 006\nline 007\n");
        assert_eq!(read(&dir, "a.log.1").unwrap(), "line 004\nline 005\n");
        assert_eq!(read(&dir, "a.log.2").unwrap(), "line 002\nline 003\n");
        assert_eq!(read(&dir, "a.log.3"), None);
    }

    #[test]
    fn many_lines_in_one_write_are_spread_over_files() {
        let (dir, mut log) = log(20, 2);
        log.write(b"line 000\nline 001\nline 002\nline 003\nxyz\n", false)
            .unwrap();
        assert_eq!(read(&dir, "a.log.2").unwrap(), "line 000\nline 001\n");
        assert_eq!(read(&dir, "a.log.1").unwrap(), "line 002\nline 003\n");
        assert_eq!(read(&dir, "a.log").unwrap(), "xyz\n");
    }

    #[test]
    fn a_line_longer_than_a_file_stays_whole() {
        let (dir, mut log) = log(10, 1);
        log.write(b"short\n", false).unwrap();
        log.write(b"0123456789", false).unwrap();
        log.write(b"0123456789", true).unwrap();
        log.write(b"end\nnext\n", true).unwrap();
        assert_eq!(read(&dir, "a.log").unwrap(), "next\n");
        assert_eq!(read(&dir, "a.log.1").unwrap(), "01234567890123456789end\n");
    }

    #[test]
    fn without_old_files_the_log_starts_over() {
        let (dir, mut log) = log(10, 0);
        log.write(b"12345678\n", false).unwrap();
        log.write(b"abc\n", false).unwrap();
        assert_eq!(read(&dir, "a.log").unwrap(), "abc\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_failed_does_not_glue_two_lines_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/a.log");
        let rotation = Rotation {
            bytes: 1000,
            files: 1,
        };
        let mut log = LogFile::new(path.clone(), rotation);
        assert!(log.write(b"lost\n", false).is_err(), "no directory yet");
        fs::create_dir(dir.path().join("logs")).unwrap();
        log.write(b"half", false).unwrap();
        log.torn = true;
        log.write(b"whole\n", false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half\nwhole\n");
        assert!(log.is_at(&path, rotation));
    }
}
