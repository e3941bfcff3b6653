//! The record of a child on disk, and the child of an earlier life that it leads to.
//!
//! Promises: what is found is the very process that was started, never a later one of the same number; a child started
//! in the instant before we were killed is found too. Call it with the state directory locked: a process between `fork`
//! and `exec` still holds the lock of the life that started it, so whoever has the lock sees every child in full.
//! Must never: signal anything, or believe a record of another boot or another process id namespace.
//!
//! The record is written without syncing: a power failure ends the child as well.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::facts::{self, Stat};
use super::note::{self, RawNote};
use super::{ChildDirs, MARKER};
use crate::engine::message::{ChildIdentity, ChildNote, Leftover};
use crate::units::WallTime;

/// Bytes of a record that are read.
const RECORD_MAX: u64 = 16 * 1024;
/// The format written here.
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RawRecord {
    format: u32,
    #[serde(flatten)]
    state: RawState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum RawState {
    /// A spawn is about to happen, or has just happened.
    Starting {
        marker: String,
        #[serde(default)]
        note: Option<RawNote>,
    },
    /// The child runs.
    Running {
        pid: u32,
        start_ticks: u64,
        started_unix_ms: u64,
        boot_id: String,
        pid_namespace: String,
        executable: PathBuf,
        #[serde(default)]
        note: Option<RawNote>,
    },
    /// The child was seen to end.
    Ended,
}

/// Notes that a spawn is about to happen.
pub(super) fn record_starting(dirs: &ChildDirs, note: &RawNote) {
    let marker = dirs.marker.clone();
    let note = Some(note.clone());
    write(&dirs.record, RawState::Starting { marker, note });
}

/// Notes the child that runs.
pub(super) fn record_running(
    dirs: &ChildDirs,
    child: &ChildIdentity,
    executable: &Path,
    note: RawNote,
) {
    let state = RawState::Running {
        pid: child.pid,
        start_ticks: child.start_ticks,
        started_unix_ms: child.started.unix_millis(),
        boot_id: facts::boot_id(),
        pid_namespace: facts::pid_namespace(),
        executable: executable.to_owned(),
        note: Some(note),
    };
    write(&dirs.record, state);
}

/// Notes that the child is told to end, before it is.
pub(super) fn record_ending(record: &Path) {
    amend(record, RawNote::end);
}

/// Notes what a running child was told.
pub(super) fn record_told(record: &Path, told: &ChildNote, certificates: &Path) {
    let pairs = note::live_pairs(certificates);
    amend(record, |note| {
        note.told(told, pairs);
        true
    });
}

/// Changes what is noted of a running child; a record that is not of one stays as it is.
fn amend(path: &Path, change: impl FnOnce(&mut RawNote) -> bool) {
    let Some(mut state) = read(path).map(|record| record.state) else {
        return;
    };
    let changed = match &mut state {
        RawState::Running {
            note: Some(note), ..
        } => change(note),
        RawState::Running { note: None, .. } | RawState::Starting { .. } | RawState::Ended => false,
    };
    if changed {
        write(path, state);
    }
}

/// Notes that no child runs.
pub(super) fn record_ended(record: &Path) {
    write(record, RawState::Ended);
}

/// Writes the record. A disk that takes none (full, read-only) must not keep a child down: a missing record is looked
/// up by the marker, so the old one, which would lie, is removed instead.
fn write(path: &Path, state: RawState) {
    if let Err(error) = try_write(path, state) {
        tracing::debug!(path = %path.display(), %error, "child record not written");
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(path = %path.display(), %error, "child record not removed");
        }
    }
}

fn try_write(path: &Path, state: RawState) -> io::Result<()> {
    let record = RawRecord {
        format: FORMAT,
        state,
    };
    let text = serde_json::to_vec(&record).map_err(io::Error::other)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&temporary, path))
}

/// What is left of the child of an earlier life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, and nothing was to be there.
    Nothing,
    /// It was alive when the earlier life ended, and is not any more; its process id.
    Died(u32),
    /// It lives.
    Alive(Leftover),
}

/// Finds the child of an earlier life of ours.
///
/// A record of a running child is believed when boot, namespace, number and start time agree. Without a usable record,
/// or when the record says that a spawn was under way, every process is asked for the marker variable; of those that
/// lead a process group the oldest is the child, the others are its descendants. What such a child was given is known
/// in the second case only.
pub fn find(dirs: &ChildDirs) -> Found {
    match read(&dirs.record).map(|record| record.state) {
        Some(RawState::Ended) => Found::Nothing,
        Some(RawState::Running {
            pid,
            start_ticks,
            started_unix_ms,
            boot_id,
            pid_namespace,
            note,
            ..
        }) => {
            if boot_id != facts::boot_id() || pid_namespace != facts::pid_namespace() {
                return Found::Nothing;
            }
            if !facts::is_same_and_alive(pid, start_ticks) {
                return Found::Died(pid);
            }
            let child = ChildIdentity {
                pid,
                start_ticks,
                started: WallTime::from_unix_millis(started_unix_ms),
            };
            alive(child, note, &dirs.marker)
        }
        Some(RawState::Starting { marker, note }) => match find_marked(&marker) {
            Some(child) => alive(child, note, &marker),
            None => Found::Nothing,
        },
        None => match find_marked(&dirs.marker) {
            Some(child) => alive(child, None, &dirs.marker),
            None => Found::Nothing,
        },
    }
}

fn alive(child: ChildIdentity, note: Option<RawNote>, marker: &str) -> Found {
    let entry = format!("{MARKER}={marker}");
    let note = match note {
        None => Err("what it was started with was not written down".to_owned()),
        Some(_) if !note::carries(child.pid, &entry) => {
            Err("another program has taken the place of the one that we started".to_owned())
        }
        Some(note) => note.read(child.pid),
    };
    Found::Alive(Leftover { child, note })
}

fn read(path: &Path) -> Option<RawRecord> {
    use std::io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(RECORD_MAX)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice::<RawRecord>(&text)
        .ok()
        .filter(|record| record.format == FORMAT)
}

/// The group of a recorded child that is gone while members of the group live on: a wrapper died before what it had
/// started, and nobody was there to see it.
pub(super) fn orphaned_group(dirs: &ChildDirs) -> Option<u32> {
    match read(&dirs.record)?.state {
        RawState::Running {
            pid,
            start_ticks,
            boot_id,
            pid_namespace,
            ..
        } => {
            let here = boot_id == facts::boot_id() && pid_namespace == facts::pid_namespace();
            let orphaned = here
                && !facts::is_same_and_alive(pid, start_ticks)
                && group_is_still_ours(pid, &dirs.marker);
            orphaned.then_some(pid)
        }
        RawState::Starting { .. } | RawState::Ended => None,
    }
}

fn find_marked(marker: &str) -> Option<ChildIdentity> {
    let entry = format!("{MARKER}={marker}");
    facts::processes()
        .filter_map(|pid| {
            let stat = Stat::read(pid)?;
            let leads = stat.group == pid && stat.is_alive();
            (leads && facts::environment_holds(pid, &entry)).then_some((stat.start_ticks, pid))
        })
        .min()
        .map(|(start_ticks, pid)| ChildIdentity {
            pid,
            start_ticks,
            started: facts::started_at(start_ticks),
        })
}

/// Whether a process of the group that `leader` led carries the marker: then the number was not given away meanwhile.
pub(super) fn group_is_still_ours(leader: u32, marker: &str) -> bool {
    let entry = format!("{MARKER}={marker}");
    facts::processes().any(|pid| {
        Stat::read(pid).is_some_and(|stat| stat.group == leader)
            && facts::environment_holds(pid, &entry)
    })
}
