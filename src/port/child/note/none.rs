//! Without the feature `adopt` nothing is written down about a child but that it is there.
//!
//! Must never: refuse a record that another build has written.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ChildDirs;
use crate::engine::message::{ChildNote, SpawnSpec};

/// Nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RawNote {}

#[expect(clippy::unused_self, reason = "the same calls as with the feature")]
impl RawNote {
    pub(super) fn of(_: &ChildDirs, _: &SpawnSpec) -> Self {
        Self {}
    }

    pub(super) fn told(&mut self, _: &ChildNote, _: BTreeMap<String, String>) {}

    pub(super) fn end(&mut self) -> bool {
        false
    }

    pub(super) fn read(self, _: u32) -> Result<ChildNote, String> {
        Err("this build takes no child over".to_owned())
    }
}

pub(super) fn live_pairs(_: &Path) -> BTreeMap<String, String> {
    BTreeMap::new()
}

pub(super) fn carries(_: u32, _: &str) -> bool {
    true
}
