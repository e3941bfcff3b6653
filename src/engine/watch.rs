//! Watching a child prove a config: what was seen since it was told, and what that comes to.
//!
//! Promises: pure judgement over facts; a child that was told gets its time, one restart, and no more.
//! Must never: act. It says pass, wait or fail; the rollout acts.

use std::time::Duration;

use crate::config::Profile;
use crate::engine::message::{Exit, ExitStatus};
use crate::engine::report::ERROR_BYTES_MAX;
use crate::units::{Moment, RevisionHash};

/// How a watch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is decided.
    Wait,
    /// It runs the config and is well.
    Proven,
    /// It had its time: give it a new process and as much time again.
    Restart,
    /// It does not run the config, and why.
    Failed(String),
}

/// What is watched for.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// The config that has to be proven.
    pub(crate) hash: RevisionHash,
    /// When the child was told.
    pub(crate) since: Moment,
    deadline: Moment,
    timeout: Duration,
    restarted: bool,
    failure: Option<String>,
}

/// What the child shows now.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    /// Whether the proof is there.
    pub(crate) proven: bool,
    /// Whether it is well.
    pub(crate) healthy: bool,
    /// Why not.
    pub(crate) trouble: &'a str,
    /// Its own refusal of the config.
    pub(crate) refused: Option<&'a str>,
}

impl Watch {
    /// Begins when the child is told.
    pub(crate) fn new(hash: RevisionHash, now: Moment, timeout: Duration) -> Self {
        let deadline = now.after(timeout);
        Self {
            hash,
            since: now,
            deadline,
            timeout,
            restarted: false,
            failure: None,
        }
    }

    /// Counts what the child showed before the watch began, too: it was told earlier.
    pub(crate) fn of_old(mut self) -> Self {
        self.since = Moment::START;
        self
    }

    /// Gives the process that is there more time.
    pub(crate) fn patient(mut self, until: Moment) -> Self {
        self.deadline = self.deadline.max(until);
        self
    }

    /// The child died.
    pub(crate) fn crashed(&mut self, profile: &Profile, exit: &Exit) {
        let blames_config = matches!(exit.status,
            ExitStatus::Code(code) if profile.config_exit_codes.contains(&code));
        // One crash is answered by the restart it got anyway; a second one, or one that blames the config, is the end.
        if blames_config || self.restarted {
            self.failure = Some(died(exit));
        } else {
            self.restarted = true;
        }
    }

    /// The child could not be started.
    pub(crate) fn not_started(&mut self, reason: &str) {
        self.failure = Some(reason.to_owned());
    }

    /// How it stands.
    pub(crate) fn judge(&self, now: Moment, seen: &Seen<'_>) -> Verdict {
        if let Some(failure) = &self.failure {
            return Verdict::Failed(failure.clone());
        }
        if let Some(refused) = seen.refused {
            return Verdict::Failed(refused.to_owned());
        }
        if seen.proven && seen.healthy {
            return Verdict::Proven;
        }
        if now < self.deadline {
            return Verdict::Wait;
        }
        if !self.restarted {
            return Verdict::Restart;
        }
        let what = if seen.proven {
            "did not become healthy"
        } else {
            "did not prove the config"
        };
        let within = crate::units::format_duration(self.timeout);
        let trouble = if seen.trouble.is_empty() {
            String::new()
        } else {
            format!(": {}", seen.trouble)
        };
        Verdict::Failed(format!("the child {what} within {within}{trouble}"))
    }

    /// A new process gets as much time again.
    pub(crate) fn restarted(&mut self, now: Moment) {
        self.restarted = true;
        self.deadline = now.after(self.timeout);
    }

    /// When to judge again.
    pub(crate) fn due(&self) -> Moment {
        self.deadline
    }
}

/// Lines and bytes of a child's last output that a reason carries; the log file has the rest.
const LAST_WORDS_LINES: usize = 8;
const LAST_WORDS_BYTES: usize = 2 * 1024;
/// Bytes of a report that are left for what stands before the words.
const PREFACE_BYTES: usize = 256;

/// How a child died, for people: status and its last words.
pub(crate) fn died(exit: &Exit) -> String {
    let oom = if exit.oom_killed {
        ", killed by the kernel for lack of memory"
    } else {
        ""
    };
    let words = exit.tail.trim();
    if words.is_empty() {
        format!("the child died with {}{oom}", exit.status)
    } else {
        format!(
            "the child died with {}{oom}; its last output:\n{words}",
            exit.status
        )
    }
}

/// The end of an output as a report has it: whole lines as far as they fit, the last one in any case. `wanted` is what
/// the settings say of it, in bytes.
pub(crate) fn last_words(tail: &str, wanted: Option<usize>) -> String {
    let (lines_max, bytes_max) = match wanted {
        Some(0) => return String::new(),
        Some(bytes) => (
            usize::MAX,
            bytes.min(ERROR_BYTES_MAX.saturating_sub(PREFACE_BYTES)),
        ),
        None => (LAST_WORDS_LINES, LAST_WORDS_BYTES),
    };
    let mut lines: Vec<&str> = Vec::new();
    let mut bytes = 0usize;
    for line in tail.trim().lines().rev().take(lines_max) {
        bytes = bytes.saturating_add(line.len()).saturating_add(1);
        if bytes > bytes_max && !lines.is_empty() {
            break;
        }
        lines.push(line);
    }
    lines.reverse();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_the_last_whole_lines_that_fit() {
        let ten: Vec<_> = (0..10).map(|n| format!("line {n}")).collect();
        let (eight, ten) = (ten[2..].to_vec(), ten.join("\n") + "\n");
        assert_eq!(last_words(&ten, None), eight.join("\n"));
        assert_eq!(last_words(&ten, Some(0)), "");
        // With the end of the line each has seven bytes.
        assert_eq!(last_words(&ten, Some(20)), "line 8\nline 9");
        assert_eq!(last_words(&ten, Some(21)), "line 7\nline 8\nline 9");
        assert_eq!(last_words(&ten, Some(3)), "line 9", "the last in any case");
        // What the settings want has its limit, too: what stands before it has to fit into the report.
        let room = ERROR_BYTES_MAX - PREFACE_BYTES;
        let half = "y".repeat(room / 2 - 1);
        let three = [half.as_str(); 3].join("\n");
        assert_eq!(
            last_words(&three, Some(usize::MAX)),
            [half.as_str(); 2].join("\n")
        );
        let long = "x".repeat(LAST_WORDS_BYTES);
        assert_eq!(last_words(&format!("first\n{long}"), None), long);
    }
}
