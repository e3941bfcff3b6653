//! Where everything of one agent lies below the state directory, and how large it may be.
//!
//! Promises: the only place that knows the names of files and directories. Pure: it touches no disk.
//! Must never: hand out a path that leaves the agent's directory.

use std::path::{Component, Path, PathBuf};

use crate::sys::durable::temporary_name;
use crate::units::{AgentName, RevisionId};

/// The number in every file that this version writes, and the highest that it reads.
pub(super) const FORMAT: u64 = 1;
/// The manifest inside a revision directory; no file of a revision may have this name.
pub const MANIFEST: &str = "manifest.json";
/// Bound of a manifest: 10 000 files with long names fit.
pub(super) const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bound of one file of a revision or of a local layer.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bound of the journal; compaction keeps it far below.
pub(super) const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bound of `rejected.json` and `identity.json`.
pub(super) const SMALL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bound of `connection-settings`: as much as a message can bring, twice.
pub(super) const CONNECTION_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Bound of a reason on disk.
pub(super) const REASON_BYTES_MAX: usize = 4 * 1024;

const REVISIONS: &str = "revisions";
const CONNECTION: &str = "connection-settings";
const STAGING: &str = ".staging-";
const TRASH: &str = ".trash-";

/// Where the parts of one agent's state lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentLayout {
    state: PathBuf,
    agent: AgentName,
}

impl AgentLayout {
    /// The layout of an agent below the state directory `state`.
    pub fn new(state: &Path, agent: &AgentName) -> Self {
        Self {
            state: state.to_path_buf(),
            agent: agent.clone(),
        }
    }

    /// Whose layout it is.
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// `agents/<name>`.
    pub fn root(&self) -> PathBuf {
        self.agents().join(self.agent.as_str())
    }

    /// `effective.yaml`: where the OpenTelemetry Collector's supervisor has it.
    pub fn effective(&self) -> PathBuf {
        self.state.join("effective.yaml")
    }

    /// `agents/<name>/revisions`.
    pub fn revisions(&self) -> PathBuf {
        self.root().join(REVISIONS)
    }

    /// The directory of one revision.
    pub fn revision(&self, id: &RevisionId) -> PathBuf {
        self.revisions().join(id.as_str())
    }

    /// The link that the child's command line names.
    pub fn current(&self) -> PathBuf {
        self.root().join("current")
    }

    /// The link to the last revision that passed probation.
    pub fn last_good(&self) -> PathBuf {
        self.root().join("last-good")
    }

    /// The journal of transactions.
    pub fn journal(&self) -> PathBuf {
        self.root().join("journal")
    }

    /// The memory of rejected revisions.
    pub fn rejected(&self) -> PathBuf {
        self.root().join("rejected.json")
    }

    /// What outlives a restart of offered connection settings; holds keys and tokens.
    pub fn connection(&self) -> PathBuf {
        self.root().join(CONNECTION)
    }

    /// Files that generated layers name and that must not stand in a revision.
    pub fn material(&self) -> PathBuf {
        self.root().join("telemetry")
    }

    /// The child's working directory.
    pub fn work(&self) -> PathBuf {
        self.root().join("work")
    }

    /// Files that are laid out for a validator alone.
    pub(super) fn trial(&self) -> PathBuf {
        self.root().join("trial")
    }

    #[cfg(feature = "layers")]
    /// What strangers wrote into revisions, kept for people.
    pub(super) fn drifted(&self) -> PathBuf {
        self.root().join("drifted")
    }

    /// Child output.
    pub fn logs(&self) -> PathBuf {
        self.root().join("logs")
    }

    pub(super) fn agents(&self) -> PathBuf {
        self.state.join("agents")
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Where a revision is written before it gets its name.
    pub(super) fn staging(&self, id: &RevisionId) -> PathBuf {
        self.revisions().join(format!("{STAGING}{id}"))
    }

    /// Where a revision goes before its files are removed.
    pub(super) fn trash(&self, id: &RevisionId) -> PathBuf {
        self.revisions().join(format!("{TRASH}{id}"))
    }

    /// What a link holds that points to a revision: relative, so that the state directory can be moved.
    pub(super) fn target(id: &RevisionId) -> PathBuf {
        Path::new(REVISIONS).join(id.as_str())
    }

    /// Reads back what [`AgentLayout::target`] made; an absolute path to the same place is understood too.
    pub(super) fn parse_target(&self, target: &Path) -> Option<RevisionId> {
        let inside = target.strip_prefix(self.root()).unwrap_or(target);
        let name = inside.strip_prefix(REVISIONS).ok()?;
        let mut parts = name.components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(name)), None) => name.to_str()?.parse().ok(),
            _ => None,
        }
    }

    /// Names in the agent's directory that an interrupted replacement may have left.
    pub(super) fn temporaries(&self) -> [PathBuf; 6] {
        let [current, last_good, journal, rejected, connection] = [
            "current",
            "last-good",
            "journal",
            "rejected.json",
            CONNECTION,
        ]
        .map(|name| self.root().join(temporary_name(name)));
        [
            current,
            last_good,
            journal,
            rejected,
            connection,
            self.trial(),
        ]
    }
}

/// Whether a name in `revisions/` is that of a half-staged or half-removed revision.
pub(super) fn is_leftover(name: &str) -> bool {
    name.starts_with(STAGING) || name.starts_with(TRASH)
}

/// Whether a path may name a file inside a revision: relative, plain components only, and not the manifest.
pub(super) fn is_safe_path(path: &str) -> bool {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    // `components` forgives doubled and trailing slashes and inner dots; the text must be what it seems.
    let exact = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part.len() <= 255);
    plain && exact && path.len() <= 1024 && !path.contains('\0') && path != MANIFEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_name_files_of_a_revision() {
        for good in [
            "a",
            "config.yaml",
            "tls/ca.pem",
            "a/b/c",
            "..a",
            "sub/manifest.json",
        ] {
            assert!(is_safe_path(good), "{good}");
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/..",
            ".",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\0b",
            "manifest.json",
            &long,
        ] {
            assert!(!is_safe_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_link_target_is_read_back_and_everything_else_is_refused() {
        let layout = AgentLayout::new(Path::new("/state"), &"a".parse().unwrap());
        let id: RevisionId = "1700000000000-0123abcd".parse().unwrap();
        assert_eq!(
            layout.parse_target(&AgentLayout::target(&id)),
            Some(id.clone())
        );
        assert_eq!(layout.parse_target(&layout.revision(&id)), Some(id));
        for bad in [
            "revisions",
            "revisions/..",
            "revisions/x",
            "/etc",
            "../b/revisions/1700000000000-0123abcd",
            "revisions/1700000000000-0123abcd/sub",
            "/other/revisions/1700000000000-0123abcd",
        ] {
            assert_eq!(layout.parse_target(Path::new(bad)), None, "{bad}");
        }
    }
}
