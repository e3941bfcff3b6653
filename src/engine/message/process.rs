//! Processes as the engine sees them: what to start, what became of it, what a probe answered.
//!
//! Promises: plain data. Must never: hold a handle of a process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::ChildNote;
use crate::config::Process;
use crate::units::WallTime;

/// A process that cannot be confused with a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildIdentity {
    /// Process id; also its process group.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub start_ticks: u64,
    /// Wall time of the start.
    pub started: WallTime,
}

/// How to start the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnSpec {
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Variables set on top of the inherited ones named in `inherit`.
    pub env: BTreeMap<String, String>,
    /// Names of our own variables that are passed on when set.
    pub inherit: Vec<String>,
    /// Whether output goes to our own output instead of log files.
    pub passthrough: bool,
    /// The signal that the kernel sends it when we die; none lets it live on.
    pub death_signal: Option<i32>,
    /// What is written down about it.
    pub note: ChildNote,
    /// As whom and within which limits.
    pub process: Process,
}

/// How to run a short-lived tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSpec {
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// As for a child.
    pub env: BTreeMap<String, String>,
    /// As for a child.
    pub inherit: Vec<String>,
    /// After which it is killed.
    pub timeout: Duration,
    /// Bytes of output that are kept, from the end.
    pub output_max: usize,
    /// As for a child, but for the control group.
    pub process: Process,
}

/// What came of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// How it ended.
    pub end: ToolEnd,
    /// Both streams together, the last `output_max` bytes, as text.
    pub output: String,
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEnd {
    /// It exited by itself.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It took too long and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The status.
    pub status: ExitStatus,
    /// The last lines of its output, bounded.
    pub tail: String,
    /// Whether the kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// CPU time it used.
    pub cpu: Duration,
    /// Peak resident memory, bytes.
    pub max_resident: u64,
}

/// The status a child ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was not our child, so nobody knows.
    Unknown,
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// An HTTP probe's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The first 64 KiB of the body.
    pub body: String,
}
