//! The history for people: every transition that is worth a log line, kept over restarts in a small rotated file.
//!
//! Promises: one JSON object per line with `at`, `level`, `agent`, `event` and `fields`; at most [`BYTES_MAX`] bytes in
//! two files; writing waits for no disk, reading needs no supervisor.
//! Must never: be a source of truth. What has to survive the loss of power stands in the journals; this is read by
//! people who ask what happened.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::message::{Note, NoteLevel};
use crate::sys::log_file::LogFile;
use crate::sys::records::{self, Lines};
use crate::units::{Rotation, WallTime, order};

/// Bytes of both files together.
pub const BYTES_MAX: u64 = 1024 * 1024;
/// Characters of one field that are kept; an output of a dead child has its own file.
const FIELD_MAX: usize = 1024;
/// How long the last lines may take.
const FLUSH: Duration = Duration::from_millis(500);

/// One transition.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct EventDocument {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// About which agent; absent when it is about the supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What happened, in constant words.
    pub event: String,
    /// What varies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

/// Where transitions are written; silent by default.
#[derive(Debug, Default)]
pub struct Events(Option<Lines>);

/// The directory of what the supervisor itself writes down.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("logs")
}

/// The current file of events.
pub fn file(state_dir: &Path) -> PathBuf {
    directory(state_dir).join("events.jsonl")
}

/// The current file of the supervisor's own log.
pub fn own_log(state_dir: &Path) -> PathBuf {
    directory(state_dir).join("adjutant.log")
}

/// Opens the files of events and of our own log below a state directory whose lock the caller holds.
///
/// # Errors
/// The directory cannot be made, or the system has no thread for us.
pub fn open(state_dir: &Path, own_log_rotation: Rotation) -> io::Result<(Events, Lines)> {
    match DirBuilder::new().mode(0o700).create(directory(state_dir)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let rotation = Rotation {
        bytes: BYTES_MAX / 2,
        files: 1,
    };
    let events = LogFile::new(file(state_dir), rotation);
    let log = LogFile::new(own_log(state_dir), own_log_rotation);
    let [events, log] = records::start([events, log])?;
    Ok((Events(Some(events)), log))
}

impl Events {
    /// Writes a transition down; decisions (`debug`) are not among them.
    pub fn record(&self, at: WallTime, note: &Note) {
        let (Some(lines), Some(level)) = (&self.0, word(note.level)) else {
            return;
        };
        let fields = note.fields.iter().map(|(name, value)| {
            let value = value.chars().take(FIELD_MAX).collect();
            ((*name).to_owned(), value)
        });
        let event = EventDocument {
            at: at.to_string(),
            level: level.to_owned(),
            agent: note.agent.as_ref().map(ToString::to_string),
            event: note.message.to_owned(),
            fields: order::map(fields),
        };
        if let Ok(mut line) = serde_json::to_vec(&event) {
            line.push(b'\n');
            lines.push(line);
        }
    }

    /// Waits a moment for the disk.
    pub fn flush(&self) {
        if let Some(lines) = &self.0 {
            lines.flush(FLUSH);
        }
    }
}

fn word(level: NoteLevel) -> Option<&'static str> {
    match level {
        NoteLevel::Debug => None,
        NoteLevel::Info => Some("info"),
        NoteLevel::Warn => Some("warn"),
        NoteLevel::Error => Some("error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: WallTime = WallTime::from_unix_millis(1_700_000_000_000);
    const ROTATION: Rotation = Rotation {
        bytes: 1024,
        files: 1,
    };

    fn note(level: NoteLevel, value: &str) -> Note {
        Note {
            level,
            agent: Some("one".parse().unwrap()),
            message: "child died",
            fields: vec![("status", value.to_owned())],
        }
    }

    #[test]
    fn a_transition_is_a_line_that_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let (events, _log) = open(dir.path(), ROTATION).unwrap();
        events.record(AT, &note(NoteLevel::Debug, "not this"));
        events.record(AT, &note(NoteLevel::Warn, &"x".repeat(5000)));
        events.flush();
        let text = std::fs::read_to_string(file(dir.path())).unwrap();
        let event: EventDocument = serde_json::from_str(&text).unwrap();
        assert_eq!(event.at, "2023-11-14T22:13:20.000Z");
        assert_eq!(
            (event.level.as_str(), event.agent.as_deref()),
            ("warn", Some("one"))
        );
        assert_eq!(event.event, "child died");
        assert_eq!(event.fields["status"].len(), FIELD_MAX);
    }

    #[test]
    fn the_history_stays_within_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (events, _log) = open(dir.path(), ROTATION).unwrap();
        for round in 0..40 {
            for _ in 0..100 {
                events.record(AT, &note(NoteLevel::Info, &"y".repeat(900)));
            }
            events.flush();
            assert!(file(dir.path()).exists(), "round {round}");
        }
        let bytes: u64 = std::fs::read_dir(directory(dir.path()))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= BYTES_MAX && bytes > BYTES_MAX / 2, "{bytes}");
    }
}
