//! A control group for each child, where a part of the tree was given to us.
//!
//! Promises: a child's group has a name that only its agent's directory can have, so no supervisor meets another's; a
//! limit that cannot be kept is told once and keeps nothing down; what is left in a group when its child is gone is
//! killed and named, also what has left the process group; groups are removed when they are empty.
//! Must never: touch a part of the tree that nobody gave to us, or turn controllers on where that would keep a service
//! manager from starting us again.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{confine, process};
use crate::config::{CgroupLimits, CgroupRoot};
use crate::units::{AgentName, RevisionHash};

/// Where a service manager is asked to put us ourselves (`DelegateSubgroup=`), and where we move to otherwise.
const OWN: &str = "supervisor";
/// Bytes of a file of the tree that are read.
const FILE_MAX: u64 = 64 * 1024;
/// Left-over processes that are named.
const NAMED_MAX: usize = 8;
/// One hundred percent of a processor, in the microseconds of [`PERIOD`].
const PERCENT: u64 = 1_000;
const PERIOD: u64 = 100_000;
/// At our end a group is looked at so often, and a tenth of a second in all.
const LAST_LOOKS: u32 = 50;
const LAST_LOOK_MS: u8 = 2;

/// The part of the tree that is ours.
#[derive(Debug, Default)]
pub(super) struct Groups {
    base: Option<PathBuf>,
    /// Whether controllers may be turned on in it.
    limits: bool,
    /// Why not, for people.
    because: String,
    /// What was told already.
    told: BTreeSet<String>,
    /// Groups that were not empty when they were to be removed.
    to_remove: BTreeSet<PathBuf>,
}

impl Groups {
    /// Looks for the part that is ours.
    pub(super) fn find(root: &CgroupRoot) -> Self {
        match root {
            CgroupRoot::Off => Self::default(),
            CgroupRoot::At(path) => Self::at(path.clone(), true, ""),
            CgroupRoot::Auto => {
                let membership = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
                let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
                let Some(own) = own_group(&membership, &mounts) else {
                    return Self::default();
                };
                Self::delegated(&own, is_delegated, std::process::id() == 1)
            }
        }
    }

    fn delegated(own: &Path, is_delegated: impl Fn(&Path) -> bool, pid1: bool) -> Self {
        let above = own.parent().filter(|_| own.ends_with(OWN));
        if let Some(above) = above.filter(|above| is_delegated(above)) {
            return Self::at(above.to_owned(), true, "");
        }
        if is_delegated(own) {
            // A manager puts the next life of us into this very group, which is refused while it has controllers on.
            let because =
                "limits need DelegateSubgroup=supervisor in the unit, which systemd has since 254";
            return Self::at(own.to_owned(), false, because);
        }
        if pid1 {
            // An executable that took over in place is where the one before it has moved to.
            return Self::at(above.unwrap_or(own).to_owned(), true, "");
        }
        Self::default()
    }

    fn at(base: PathBuf, limits: bool, because: &str) -> Self {
        // Mounted read-only, or somebody else's.
        let writable = rustix::fs::access(&base, rustix::fs::Access::WRITE_OK).is_ok();
        let mut groups = Self::default();
        groups.base = Some(base).filter(|_| writable);
        groups.limits = limits;
        because.clone_into(&mut groups.because);
        groups
    }

    /// Makes the group of an agent's child and sets its limits; the descriptor is what a process joins it by.
    pub(super) fn prepare(
        &mut self,
        agent: &AgentName,
        marker: &str,
        limits: &CgroupLimits,
    ) -> Option<OwnedFd> {
        let Some(group) = self.path(agent, marker) else {
            if !limits.is_empty() {
                let why = "no control group was given to us; in a unit, Delegate=yes gives one";
                self.tell(agent, why);
            }
            return None;
        };
        self.to_remove.remove(&group);
        match DirBuilder::new().create(&group) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Of the child before, or of a life before: nothing of it may stay beside the new one.
                kill_left(agent, &group);
            }
            Err(error) => {
                self.tell(agent, &format!("make {}: {error}", group.display()));
                return None;
            }
        }
        if let Err(why) = self.limit(&group, limits) {
            self.tell(agent, &why);
        }
        match confine::open_group(&group.join("cgroup.procs")) {
            Ok(procs) => Some(procs),
            Err(error) => {
                self.tell(agent, &format!("join {}: {error}", group.display()));
                None
            }
        }
    }

    /// Kills everything in an agent's group, whatever process group it is in.
    pub(super) fn kill(&self, agent: &AgentName, marker: &str) {
        if let Some(group) = self.path(agent, marker).filter(|group| group.exists()) {
            kill(&group);
        }
    }

    /// The child of an agent is gone: so is what it left behind, and then the group.
    pub(super) fn ended(&mut self, agent: &AgentName, marker: &str) {
        if let Some(group) = self.path(agent, marker).filter(|group| group.exists()) {
            kill_left(agent, &group);
            self.to_remove.insert(group);
            self.sweep();
        }
    }

    /// Removes the groups that have become empty.
    pub(super) fn sweep(&mut self) {
        self.to_remove.retain(|group| match fs::remove_dir(group) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
    }

    /// Two agents of two state directories never have the same one.
    fn path(&self, agent: &AgentName, marker: &str) -> Option<PathBuf> {
        let hash = RevisionHash::of([(marker, "", [].as_slice())]).short();
        let base = self.base.as_ref()?;
        Some(base.join(format!("adjutant-{hash}-{agent}")))
    }

    fn limit(&self, group: &Path, limits: &CgroupLimits) -> Result<(), String> {
        let bytes =
            |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |it| it.to_string());
        let cpu = limits.cpu_percent.map_or_else(
            || format!("max {PERIOD}"),
            |percent| format!("{} {PERIOD}", u64::from(percent).saturating_mul(PERCENT)),
        );
        let wanted = [
            (
                "memory",
                "memory.high",
                bytes(limits.memory_high),
                limits.memory_high.is_some(),
            ),
            (
                "memory",
                "memory.max",
                bytes(limits.memory_max),
                limits.memory_max.is_some(),
            ),
            ("cpu", "cpu.max", cpu, limits.cpu_percent.is_some()),
            (
                "pids",
                "pids.max",
                bytes(limits.pids_max.map(u64::from)),
                limits.pids_max.is_some(),
            ),
        ];
        for (controller, file, value, is_set) in wanted {
            let path = group.join(file);
            if is_set {
                self.turn_on(controller)?;
            } else if !path.exists() {
                continue;
            }
            put(&path, &value).map_err(|error| format!("set {file} to {value}: {error}"))?;
        }
        Ok(())
    }

    /// Has a controller for the groups below ours.
    fn turn_on(&self, controller: &str) -> Result<(), String> {
        let base = self.base.as_deref().unwrap_or_else(|| Path::new(""));
        let holds = |file: &str| {
            let text = read(&base.join(file)).unwrap_or_default();
            text.split_ascii_whitespace().any(|word| word == controller)
        };
        if holds("cgroup.subtree_control") {
            return Ok(());
        }
        if !self.limits {
            return Err(self.because.clone());
        }
        if !holds("cgroup.controllers") {
            return Err(format!("the controller {controller} was not given to us"));
        }
        step_aside(base).map_err(|error| format!("move out of {}: {error}", base.display()))?;
        let file = base.join("cgroup.subtree_control");
        put(&file, &format!("+{controller}"))
            .map_err(|error| format!("turn the controller {controller} on: {error}"))
    }

    /// Once for each reason.
    fn tell(&mut self, agent: &AgentName, why: &str) {
        if self.told.insert(format!("{agent}: {why}")) {
            tracing::warn!(%agent, reason = why, "control group not as set, the child runs without");
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // What was killed a moment ago may still be on its way out.
        for _ in 0..LAST_LOOKS {
            self.sweep();
            if self.to_remove.is_empty() {
                return;
            }
            nix::poll::poll(&mut [], LAST_LOOK_MS).ok();
        }
    }
}

fn kill_left(agent: &AgentName, group: &Path) {
    let left = members(group);
    if left.is_empty() {
        return;
    }
    let names: Vec<String> = left
        .iter()
        .take(NAMED_MAX)
        .map(|pid| format!("{} ({pid})", command(*pid)))
        .collect();
    let (count, names) = (left.len(), names.join(", "));
    tracing::warn!(%agent, count, processes = names, "left-over processes killed");
    kill(group);
}

/// A group with controllers below it may have no process itself.
fn step_aside(base: &Path) -> io::Result<()> {
    let own = std::process::id();
    if !members(base).contains(&own) {
        return Ok(());
    }
    let leaf = base.join(OWN);
    match DirBuilder::new().create(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => put(&leaf.join("cgroup.procs"), &own.to_string()),
    }
}

/// Our own group in the tree of version 2, wherever that is mounted.
fn own_group(membership: &str, mounts: &str) -> Option<PathBuf> {
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let is_tree = kind.split(' ').next() == Some("cgroup2");
        place.split(' ').nth(4).filter(|_| is_tree)
    })?;
    Some(Path::new(mount).join(path))
}

/// systemd marks what it gives away.
fn is_delegated(group: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 4];
        let length = rustix::fs::getxattr(group, *name, &mut value);
        length.is_ok_and(|length| value.get(..length) == Some(b"1".as_slice()))
    })
}

fn kill(group: &Path) {
    if put(&group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Before Linux 5.14 one by one; what is forked meanwhile is met by the next look.
    for _ in 0..4 {
        let left = members(group);
        if left.is_empty() {
            return;
        }
        for pid in left {
            if let Some(pid) = process(pid) {
                // Gone meanwhile: as wanted.
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
        }
    }
}

/// Every process in a group that still does something; ourselves never.
fn members(group: &Path) -> Vec<u32> {
    let text = read(&group.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.trim().parse().ok());
    pids.filter(|pid| super::facts::Stat::read(*pid).is_some_and(super::facts::Stat::is_alive))
        .collect()
}

fn command(pid: u32) -> String {
    read(Path::new(&format!("/proc/{pid}/comm")))
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}
