//! What is watched on disk: local layers and the files of what runs.
//!
//! Promises: plain data. Must never: hold the content of a file.

use std::time::Duration;

/// How files are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchedBy {
    /// The kernel says when one changes.
    Events,
    /// They are looked at again and again.
    Looks {
        /// How often.
        every: Duration,
        /// Why there is no better way.
        reason: String,
    },
}

impl std::fmt::Display for WatchedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Events => f.write_str("inotify"),
            Self::Looks { every, reason } => {
                let every = crate::units::format_duration(*every);
                write!(f, "a look every {every} ({reason})")
            }
        }
    }
}

/// A file of a stored revision that is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftedFile {
    /// Its path inside the revision.
    pub path: String,
    /// SHA-256 of what belongs there, hexadecimal; empty for the manifest itself.
    pub expected: String,
    /// SHA-256 of what is there; none when it cannot be read or is gone.
    pub found: Option<String>,
}

impl std::fmt::Display for DriftedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        write!(f, "{}: ", self.path)?;
        match &self.found {
            Some(found) => write!(f, "is {}", short(found))?,
            None => f.write_str("is gone or cannot be read")?,
        }
        match self.expected.as_str() {
            "" => Ok(()),
            expected => write!(f, ", belongs {}", short(expected)),
        }
    }
}

/// What is known of an agent's layers on disk, for doors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayersSnapshot {
    /// How files are watched; none when they are not.
    pub watched_by: Option<String>,
    /// Local files whose content was refused; what runs has its own copy of what they were.
    pub refused: Vec<String>,
    /// Why it was.
    pub reason: String,
    /// Files of the running revision that somebody else has changed.
    pub drift: Vec<DriftedFile>,
    /// Why they could not be put back; empty otherwise.
    pub drift_error: String,
}
