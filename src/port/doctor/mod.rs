//! What on this host would be in the way: places, owners, modes, kernel. Findings, each with what to do about it.
//!
//! Promises: changes nothing, takes no lock, needs no supervisor and no root; what it may not see it says so; every
//! walk is bounded.
//! Must never: judge the settings (their reader does), or print what is inside a file.

mod kernel;
mod place;

pub use kernel::{Process, cgroup, kernel_events, limits, release, seccomp};
pub use place::{Lock, lock, open_files_of_state, socket_path, space, state_directory};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, with something less.
    Warn,
    /// It does not work, or will not at the next start.
    Fail,
}

impl Level {
    /// The word in both outputs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub check: String,
    /// What was found.
    pub text: String,
    /// What to do; empty when nothing has to be done.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, text, "")
    }

    /// Works with something less.
    pub fn warn(check: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warn, check, text, remedy)
    }

    /// Does not work.
    pub fn fail(check: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Fail, check, text, remedy)
    }

    fn new(level: Level, check: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level,
            check: check.to_owned(),
            text: text.into(),
            remedy: remedy.into(),
        }
    }
}
