//! Reads the log files in a state directory: `agents/<name>/logs/<name>.log` of the children and those of the
//! supervisor, each with `.1`, `.2`, … behind it.
//!
//! Promises: reads at most 16 MiB however many lines are asked for; follows a file over its rotation without losing a
//! line.
//! Must never: write, lock, or need the supervisor to be alive.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::units::order;

/// Bytes of old lines that are read at most.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of new lines that one look brings at most.
const LOOK_MAX: u64 = 1024 * 1024;
/// Rotated files that are looked at.
const ROTATED_MAX: usize = 100;

/// The log of one agent.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    open: Option<File>,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The system refused.
    #[error("read {path}")]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No agent of that name, or none at all.
    #[error("{path} holds no agent {wanted}; there are: {found}")]
    NoAgent {
        /// The directory of the agents.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The supervisor wrote nothing there.
    #[error(
        "{path} does not exist: no supervisor has run on this state directory yet, or its log goes to \
         standard error alone"
    )]
    Unwritten {
        /// Which file.
        path: PathBuf,
    },
    /// Nothing was logged to files.
    #[error(
        "{path} does not exist: the agent has not written yet, or its \
         output goes to the output of the supervisor itself"
    )]
    NoFile {
        /// Which file.
        path: PathBuf,
    },
}

impl Log {
    /// Finds the log of an agent; of the only one when `agent` is `None`.
    ///
    /// # Errors
    /// There is no such agent, or it has no log file.
    pub fn find(state_dir: &Path, agent: Option<&str>) -> Result<Self, LogsError> {
        let agents = state_dir.join("agents");
        let mut names: Vec<String> = fs::read_dir(&agents)
            .map_err(|source| LogsError::Read {
                path: agents.clone(),
                source,
            })?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        order::sort(&mut names);
        let name = match (agent, names.as_slice()) {
            (None, [only]) => only,
            (Some(wanted), names) if names.iter().any(|name| name == wanted) => wanted,
            (wanted, names) => {
                return Err(LogsError::NoAgent {
                    path: agents,
                    wanted: wanted.map_or_else(|| "by default".to_owned(), str::to_owned),
                    found: names.join(", "),
                });
            }
        };
        let path = agents.join(name).join("logs").join(format!("{name}.log"));
        if path.exists() {
            Ok(Self { path, open: None })
        } else {
            Err(LogsError::NoFile { path })
        }
    }

    /// A file that the supervisor itself writes.
    ///
    /// # Errors
    /// It does not exist.
    pub fn at(path: PathBuf) -> Result<Self, LogsError> {
        if path.exists() {
            Ok(Self { path, open: None })
        } else {
            Err(LogsError::Unwritten { path })
        }
    }

    /// The last `lines` lines, rotated files included. What is written later comes from [`Log::more`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tail(&mut self, lines: usize) -> Result<Vec<u8>, LogsError> {
        let mut left = BYTES_MAX;
        let mut kept: Vec<u8> = Vec::new();
        for number in 0..=ROTATED_MAX {
            let path = if number == 0 {
                self.path.clone()
            } else {
                PathBuf::from(format!("{}.{number}", self.path.display()))
            };
            let failed = |source| LogsError::Read {
                path: path.clone(),
                source,
            };
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(failed(error)),
            };
            let mut older = read_end(&mut file, left).map_err(failed)?;
            left = left.saturating_sub(older.len() as u64);
            if number == 0 {
                self.open = Some(file);
            }
            older.append(&mut kept);
            kept = older;
            if left == 0 || count(&kept) > lines {
                break;
            }
        }
        let surplus = count(&kept).saturating_sub(lines);
        let start = start_after(&kept, surplus);
        kept.drain(..start);
        Ok(kept)
    }

    /// What was written since the last look; empty when nothing was.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn more(&mut self) -> Result<Vec<u8>, LogsError> {
        let path = self.path.clone();
        let failed = |source| LogsError::Read { path, source };
        self.look().map_err(failed)
    }

    fn look(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = match self.open.take() {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => file,
                // Between the two renames of a rotation.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes),
                Err(error) => return Err(error),
            },
        };
        (&mut file).take(LOOK_MAX).read_to_end(&mut bytes)?;
        let ours = file.metadata()?.ino();
        let rotated = fs::metadata(&self.path).is_ok_and(|found| found.ino() != ours);
        // The old file is read to its end before the new one is opened by the next look.
        if !(rotated && bytes.is_empty()) {
            self.open = Some(file);
            return Ok(bytes);
        }
        let mut next = File::open(&self.path)?;
        (&mut next).take(LOOK_MAX).read_to_end(&mut bytes)?;
        self.open = Some(next);
        Ok(bytes)
    }
}

/// The last `limit` bytes, and the file left standing at its end.
fn read_end(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn count(bytes: &[u8]) -> usize {
    bytes.split_inclusive(|byte| *byte == b'\n').count()
}

fn start_after(bytes: &[u8], lines: usize) -> usize {
    match lines.checked_sub(1) {
        None => 0,
        Some(index) => bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(index)
            .map_or(bytes.len(), |(place, _)| place.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    struct State(tempfile::TempDir);

    impl State {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("agents/collector/logs")).unwrap();
            Self(dir)
        }

        fn log(&self) -> PathBuf {
            self.0.path().join("agents/collector/logs/collector.log")
        }

        fn put(&self, suffix: &str, text: &str) {
            let path = format!("{}{suffix}", self.log().display());
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(path)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_last_lines_reach_into_rotated_files() {
        let state = State::new();
        state.put(".2", "1\n2\n");
        state.put(".1", "3\n4\n");
        state.put("", "5\n6");
        let cases = [
            (0, ""),
            (1, "6"),
            (2, "5\n6"),
            (3, "4\n5\n6"),
            (5, "2\n3\n4\n5\n6"),
            (100, "1\n2\n3\n4\n5\n6"),
        ];
        for (lines, wanted) in cases {
            let mut log = Log::find(state.0.path(), None).unwrap();
            assert_eq!(text(log.tail(lines).unwrap()), wanted, "{lines} lines");
        }
    }

    #[test]
    fn following_loses_no_line_over_a_rotation() {
        let state = State::new();
        state.put("", "1\n");
        let mut log = Log::find(state.0.path(), Some("collector")).unwrap();
        assert_eq!(text(log.tail(10).unwrap()), "1\n");
        assert_eq!(text(log.more().unwrap()), "");
        state.put("", "2\n");
        let rotated = format!("{}.1", state.log().display());
        fs::rename(state.log(), rotated).unwrap();
        state.put("", "3\n");
        assert_eq!(text(log.more().unwrap()), "2\n");
        assert_eq!(text(log.more().unwrap()), "3\n");
        assert_eq!(text(log.more().unwrap()), "");
    }

    #[test]
    fn a_missing_agent_or_file_is_named() {
        let state = State::new();
        let said = |agent| Log::find(state.0.path(), agent).unwrap_err().to_string();
        assert!(said(None).contains("the output of the supervisor itself"));
        assert!(said(Some("x")).ends_with("holds no agent x; there are: collector"));
        assert!(said(Some("../..")).contains("no agent ../.."));
    }
}
