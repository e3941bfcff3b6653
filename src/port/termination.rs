//! The last words for an orchestrator: a file that says why the container ended (Kubernetes' termination message).
//!
//! Promises: at most [`BYTES_MAX`] bytes, the beginning of the reason; without a setting, only a file that is there
//! already is written (Kubernetes puts it there); a file that cannot be written costs a line in the log.
//! Must never: create a file where nobody asked for one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use std::os::unix::fs::OpenOptionsExt as _;

/// Where Kubernetes reads it, unless a pod says otherwise.
const USUAL: &str = "/dev/termination-log";
/// Kubernetes keeps 4096 bytes of a container and 12 KiB of a whole pod.
pub const BYTES_MAX: usize = 2048;

/// Where last words go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    path: PathBuf,
    create: bool,
}

impl Termination {
    /// The file of the settings, else the usual one, where that exists.
    pub fn new(setting: Option<&Path>) -> Self {
        Self {
            path: setting.map_or_else(|| PathBuf::from(USUAL), Path::to_owned),
            create: setting.is_some(),
        }
    }

    /// Replaces what stands there.
    pub fn write(&self, words: &str) {
        if !self.create && !self.path.exists() {
            return;
        }
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(self.create)
                .truncate(true)
                .mode(0o644)
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(&self.path)?;
            file.write_all(bounded(words).as_bytes())
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.path.display(), %error, "termination message not written");
        }
    }
}

fn bounded(words: &str) -> &str {
    let words = words.trim();
    let mut end = words.len().min(BYTES_MAX);
    while !words.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    words.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_bounded_and_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        let termination = Termination::new(Some(&path));
        termination.write(&"ö".repeat(5000));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2048);
        termination.write("agent one was given up: exit code 3\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "agent one was given up: exit code 3");
    }

    #[test]
    fn nothing_is_created_where_nobody_asked() {
        let dir = tempfile::tempdir().unwrap();
        let usual = Termination {
            path: dir.path().join("termination-log"),
            create: false,
        };
        usual.write("x");
        assert!(!usual.path.exists());
        // A link out of there is not followed, a pipe without a reader does not hold us.
        std::os::unix::fs::symlink("target", &usual.path).unwrap();
        Termination {
            create: true,
            ..usual
        }
        .write("x");
        assert!(!dir.path().join("target").exists());
    }
}
