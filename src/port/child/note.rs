//! What is written down about a child in its record, and what stands in the way of taking it over.
//!
//! Promises: a child that was told to end says so in its record before it has the signal; what it was told to run is
//! written down after it has the signal, so that a record is never ahead of its child.
//! Must never: keep a child from being started or told because the disk refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::ChildDirs;
use super::facts::{self, Stat};
use crate::engine::message::{ChildNote, SpawnSpec};
use crate::units::RevisionHash;

/// Certificates whose pairs are noted.
const PAIRS_MAX: usize = 64;

/// [`ChildNote`] as it is on disk. What an older version did not write is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RawNote {
    revision: Option<String>,
    by_hup: bool,
    start: String,
    link: Option<String>,
    pairs: BTreeMap<String, String>,
    /// Hashes of the values that it inherited from us, by name; empty for one that was not set.
    inherited: BTreeMap<String, String>,
    /// It was told to end.
    #[serde(default)]
    ending: bool,
}

impl RawNote {
    /// Notes what a child is started with.
    pub(super) fn of(dirs: &ChildDirs, spec: &SpawnSpec) -> Self {
        let note = &spec.note;
        Self {
            revision: note.revision.as_ref().map(ToString::to_string),
            by_hup: note.by_hup,
            start: note.start.clone(),
            link: note.link.clone(),
            pairs: live_pairs(&dirs.certificates),
            inherited: spec
                .inherit
                .iter()
                .map(|name| (name.clone(), inherited(name)))
                .collect(),
            ending: false,
        }
    }

    /// It was told something else meanwhile, in the same process.
    pub(super) fn told(&mut self, note: &ChildNote, pairs: BTreeMap<String, String>) {
        self.revision = note.revision.as_ref().map(ToString::to_string);
        self.by_hup = note.by_hup;
        self.pairs = pairs;
    }

    /// It was told to end; false if that was noted before.
    pub(super) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.ending, true)
    }

    /// What it says of a process, or why that cannot be taken over.
    pub(super) fn read(self, pid: u32) -> Result<ChildNote, String> {
        if self.ending {
            return Err("it was told to end already".to_owned());
        }
        for (name, hash) in &self.inherited {
            if *hash != inherited(name) {
                return Err(format!(
                    "the variable {name}, which it has from us, has another value now"
                ));
            }
        }
        obstacle(pid)?;
        let revision = self.revision.map(|text| text.parse()).transpose();
        Ok(ChildNote {
            revision: revision.map_err(|_| "its record names no revision".to_owned())?,
            by_hup: self.by_hup,
            start: self.start,
            link: self.link,
            pairs: self.pairs,
            outdated: is_outdated(pid),
        })
    }
}

/// What stands in the way of looking after a process that is there.
fn obstacle(pid: u32) -> Result<(), String> {
    let target = i32::try_from(pid).map_err(|_| "no such process id".to_owned())?;
    if kill(Pid::from_raw(target), None) == Err(Errno::EPERM) {
        return Err("it belongs to a user whose processes we may not signal".to_owned());
    }
    match Stat::read(pid).map(|stat| stat.state) {
        Some('T' | 't') => Err("somebody has stopped it".to_owned()),
        _ => Ok(()),
    }
}

/// Whether the file of its program is not there any more. That of a script is the shell's.
fn is_outdated(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
}

/// What a variable of ours holds, as a hash: values may be secrets.
fn inherited(name: &str) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    std::env::var_os(name).map_or_else(String::new, |value| {
        RevisionHash::of([(name, "", value.as_bytes())]).to_hex()
    })
}

/// The live pair of each certificate.
pub(super) fn live_pairs(certificates: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(certificates).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let live = fs::read_link(entry.path().join("current")).ok()?;
            let id = live.file_name()?.to_str()?.to_owned();
            Some((entry.file_name().to_str()?.to_owned(), id))
        })
        .take(PAIRS_MAX)
        .collect()
}

/// Whether a process shows that it is the child of `marker`, or does not let us look.
pub(super) fn carries(pid: u32, entry: &str) -> bool {
    match fs::read(format!("/proc/{pid}/environ")) {
        Ok(_) => facts::environment_holds(pid, entry),
        Err(_) => true,
    }
}
