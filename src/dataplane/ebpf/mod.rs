//! Kernel events: programs in the kernel that tell us of processes, connections and OOM kills.
//!
//! Promises: programs are attached in one call, before the process has a second thread, after which its capabilities
//! are gone for good; a host where that cannot be is a state with a reason and no error; the kernel keeps nothing of
//! us once [`Attached`] is dropped; every event the programs saw was read or is counted as lost.
//! Must never: be started twice in one life — privileges do not come back.
//!
//! `ebpf/` holds the programs, `load` attaches them, `layout` reads what they write.

mod cgroups;
pub(crate) mod layout;
mod load;
mod own;
mod privilege;
mod raw;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;

pub(crate) use cgroups::{Cgroup, Cgroups};
use layout::{COLUMN_LOST, COLUMN_UNTRACKED, COUNT_COLUMNS, Event, Kind};
use own::Own;
pub(crate) use privilege::drop_all;
use raw::Counts;

use super::config::KernelConfig;
use crate::sys::clock;

/// Programs that are attached, and what they write to.
pub(crate) struct Attached {
    programs: Option<load::Programs>,
    ring: RingBuf<MapData>,
    counts: Counts,
    /// Where control groups are.
    pub(crate) cgroups: Cgroups,
    /// Kinds of events that this kernel does not give, and why.
    pub(crate) without: BTreeMap<&'static str, String>,
}

/// What the programs have counted since they were attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    columns: [u64; COUNT_COLUMNS],
}

impl Counters {
    /// Events of a kind that there were.
    pub(crate) fn seen(&self, kind: Kind) -> u64 {
        self.column(kind.number())
    }

    /// Those that found no room.
    pub(crate) fn lost(&self, kind: Kind) -> u64 {
        self.column(COLUMN_LOST + kind.number())
    }

    /// Connections that found no place in the table, so that they are never told of.
    pub(crate) fn untracked(&self) -> u64 {
        self.column(COLUMN_UNTRACKED)
    }

    fn column(&self, column: usize) -> u64 {
        self.columns.get(column).copied().unwrap_or(0)
    }
}

/// Attaches the programs a config asks for. `supervised` says that our parent is the supervisor.
///
/// # Errors
/// The reason why this host does not do it, for people.
pub(crate) fn attach(config: &KernelConfig, supervised: bool) -> Result<Box<Attached>, String> {
    if let Some(missing) = privilege::missing() {
        return Err(missing);
    }
    let own = Own::find(supervised);
    let loaded = load::load(config, &own).map_err(|error| error.to_string())?;
    Ok(Box::new(Attached {
        programs: Some(loaded.programs),
        ring: loaded.ring,
        counts: loaded.counts,
        cgroups: Cgroups::find(clock::monotonic()),
        without: loaded.without,
    }))
}

impl Attached {
    /// The next event; none when we have caught up. A record that cannot be read is an error in its place.
    pub(crate) fn next(&mut self) -> Option<Result<Event, layout::LayoutError>> {
        self.ring.next().map(|record| layout::decode(&record))
    }

    /// A descriptor of the ring, readable when there is something to read, registered with the runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        raw::watch(self.ring.as_fd().try_clone_to_owned()?)
    }

    /// What the programs have counted.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            columns: self.counts.read(),
        }
    }

    /// Ends the events; what was written can still be read.
    pub(crate) fn detach(&mut self) {
        self.programs = None;
    }
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached")
            .field("programs", &self.programs)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
