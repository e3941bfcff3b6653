//! A log file: appended to, rotated by size.
//!
//! Promises: a file passes its limit only by a single line longer than the limit; `<name>.log.1` is the newest of the
//! old ones; after a failed write, and after a life that was killed inside a write, the next line starts on a line of
//! its own.
//! Must never: sync (what is lost with the power was read by nobody), or keep bytes that the disk did not take.
//!
//! Ours, not a crate: the rotation is forty lines, and the crates at hand split lines or bring a date library.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::units::Rotation;

/// Bytes at the end of a file that are looked at for the beginning of its last line.
const END: usize = 32 * 1024;
/// A write that is ended by a kill has filled whole pages: the kernel looks for the kill between two of them.
const PAGE: u64 = 4096;

/// A log file; opened at the first write.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    /// An earlier life may have left half a line whose rest is still to come.
    continued: bool,
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
    /// Names the file, which gets whole lines; nothing is touched yet.
    pub(crate) fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self {
            path,
            rotation,
            continued: false,
            open: None,
            torn: false,
        }
    }

    /// Names a file that gets what somebody else writes, from one life of ours to the next; nothing is touched yet.
    pub(crate) fn continued(path: PathBuf, rotation: Rotation) -> Self {
        let continued = true;
        Self {
            continued,
            ..Self::new(path, rotation)
        }
    }

    /// Takes the half of a line back that a life wrote which was killed inside that write, when `coming` shows that
    /// the whole line is written now: it has this half at the beginning of a line, and before it what the file has.
    /// Half a line that nothing repeats stays, and goes on where it ended.
    ///
    /// # Errors
    /// What the system said; the half line stays.
    pub(crate) fn take_back_half_line(&mut self, coming: &[u8]) -> io::Result<()> {
        if coming.is_empty() {
            return Ok(());
        }
        let open = self.opened()?;
        if !open.size.is_multiple_of(PAGE) {
            return Ok(());
        }
        let end = open.end(END)?;
        let line = end.iter().rposition(|byte| *byte == b'\n');
        let (before, half) = end.split_at(line.map_or(0, |line| line + 1));
        if !half.is_empty() && comes_again(before, half, coming) {
            open.size -= half.len() as u64;
            open.file.set_len(open.size)?;
        }
        Ok(())
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
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?;
            let size = file.metadata()?.len();
            let open = Open { file, size };
            if !self.continued {
                self.torn = !matches!(open.end(1)?.last(), None | Some(b'\n'));
            }
            self.open = Some(open);
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

impl Open {
    /// The last bytes of the file, so many at most.
    fn end(&self, max: usize) -> io::Result<Vec<u8>> {
        let from = self.size.saturating_sub(max as u64);
        let mut bytes = vec![0; usize::try_from(self.size - from).unwrap_or(max)];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }
}

/// Whether `half` begins a line in `coming`, after what the file has before it.
fn comes_again(before: &[u8], half: &[u8], coming: &[u8]) -> bool {
    let line_ends = coming
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n');
    let mut starts = line_ends.map(|(at, _)| at + 1).chain([0]);
    starts.any(|start| {
        let (ahead, line) = coming.split_at(start);
        line.starts_with(half) && (before.ends_with(ahead) || ahead.ends_with(before))
    })
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

    /// Leaves a file as an earlier life did.
    fn write(path: &Path, text: &str) {
        let mut file = File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
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
        let mut log = LogFile::continued(path.clone(), rotation);
        assert!(log.write(b"lost\n", false).is_err(), "no directory yet");
        fs::create_dir(dir.path().join("logs")).unwrap();
        log.write(b"half", false).unwrap();
        log.torn = true;
        log.write(b"whole\n", false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half\nwhole\n");
        assert!(log.is_at(&path, rotation));
    }

    #[test]
    fn whole_lines_of_the_next_life_start_on_a_line_of_their_own() {
        let (dir, mut log) = log(1000, 1);
        let path = dir.path().join("a.log");
        write(&path, "whole\nhal");
        log.write(b"next\n", false).unwrap();
        log.write(b"last\n", false).unwrap();
        assert_eq!(read(&dir, "a.log").unwrap(), "whole\nhal\nnext\nlast\n");
    }

    /// What is left of a file of two pages that ends with `half` after `before`.
    fn left(before: &str, half: &str, coming: &str) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let end = format!("{before}{half}");
        let text = format!("{}\n{end}", "x".repeat(8192 - 1 - end.len()));
        write(&path, &text);
        let rotation = Rotation {
            bytes: 100_000,
            files: 1,
        };
        let mut log = LogFile::continued(path.clone(), rotation);
        log.take_back_half_line(coming.as_bytes()).unwrap();
        let length = fs::metadata(&path).unwrap().len();
        log.write(coming.as_bytes(), false).unwrap();
        let all = fs::metadata(&path).unwrap().len();
        assert_eq!(all, length + coming.len() as u64);
        8192 - usize::try_from(length).unwrap()
    }

    #[test]
    fn half_a_line_of_a_killed_life_is_taken_back_when_it_comes_again() {
        assert_eq!(left("one\ntwo\n", "thr", "three\nfour\n"), 3);
        assert_eq!(left("one\ntwo\n", "thr", "two\nthree\nfour\n"), 3);
        assert_eq!(left("one\ntwo\n", "thr", "one\ntwo\nthree\n"), 3);
        // The rest of the same line, and what only looks like it.
        assert_eq!(left("one\ntwo\n", "thr", "ee\nfour\n"), 0);
        assert_eq!(left("one\ntwo\n", "thr", "two\nTHREE\n"), 0);
        assert_eq!(left("one\ntwo\n", "thr", "else\nthree\n"), 0);
        assert_eq!(left("one\ntwo\n", "", "two\n"), 0);
    }

    #[test]
    fn what_a_killed_life_wrote_into_a_fresh_file_is_taken_back_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let lines = "0123456\n".repeat(511) + "0123";
        write(&path, &lines[..4092]);
        let rotation = Rotation {
            bytes: 100_000,
            files: 1,
        };
        let coming = "0123456\n".repeat(600);
        let mut log = LogFile::continued(path.clone(), rotation);
        log.take_back_half_line(coming.as_bytes()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 4092, "not a whole page");
        write(&path, &format!("abc\n{}", &lines[..4092]));
        let coming = "abd\nabc\n".to_owned() + &coming;
        let mut log = LogFile::continued(path.clone(), rotation);
        log.take_back_half_line(coming.as_bytes()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 4092);
    }

    #[test]
    fn nothing_is_opened_for_a_child_that_says_nothing() {
        let (dir, _) = log(1000, 1);
        let rotation = Rotation {
            bytes: 1000,
            files: 1,
        };
        let mut log = LogFile::continued(dir.path().join("a.log"), rotation);
        log.take_back_half_line(b"").unwrap();
        assert_eq!(read(&dir, "a.log"), None);
    }
}
