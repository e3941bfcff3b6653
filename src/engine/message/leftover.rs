//! A child that an earlier life left behind, and what that life wrote down about it.
//!
//! Promises: plain data. Must never: say more than was written down before the child could act on it.

use std::collections::BTreeMap;

use super::ChildIdentity;
use crate::units::RevisionId;

/// What is written down about a child, so that a later life knows what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChildNote {
    /// The revision that it was told last to run.
    pub revision: Option<RevisionId>,
    /// Whether it was told by HUP; at its start otherwise.
    pub by_hup: bool,
    /// How it was started: a hash over program, arguments and environment.
    pub start: String,
    /// Where its own OpAMP connects to.
    pub link: Option<String>,
    /// The live pair of each certificate at the time it was told, by the certificate's name. Filled in by the port.
    pub pairs: BTreeMap<String, String>,
    /// Whether the file of its program was replaced or removed since it was started. Filled in by the port when found.
    pub outdated: bool,
}

/// A child of an earlier life that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its process.
    pub child: ChildIdentity,
    /// What was written down about it, or why it cannot be taken over.
    pub note: Result<ChildNote, String>,
}
