//! What a process is given between `fork` and `exec`: its control group, limits, user, mask, and no way to more rights.
//!
//! Promises: everything is prepared before the `fork`; a step that the kernel refuses is named; a process that could
//! not be confined as the settings say is not started.
//! Must never: allocate or take a lock in [`Confinement::apply`], which runs in a copy of a process of several threads.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::raw;
use super::spawn::SpawnFailure;
use crate::config::{Account, LimitKind, Process};

/// One after another, by the number that goes through the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Cgroup,
    Limit(usize),
    Groups,
    Group,
    User,
    NoNewPrivileges,
}

impl Step {
    const fn number(self) -> u8 {
        match self {
            Self::Cgroup => 1,
            Self::Groups => 2,
            Self::Group => 3,
            Self::User => 4,
            Self::NoNewPrivileges => 5,
            // There are eight kinds of limits, so this fits.
            Self::Limit(index) => 16_u8.saturating_add(index.to_le_bytes()[0]),
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Cgroup),
            2 => Some(Self::Groups),
            3 => Some(Self::Group),
            4 => Some(Self::User),
            5 => Some(Self::NoNewPrivileges),
            16..=64 => Some(Self::Limit(usize::from(number.saturating_sub(16)))),
            _ => None,
        }
    }
}

/// Prepared, for one process.
#[derive(Debug)]
pub(super) struct Confinement {
    /// The file of a control group that a process joins by writing to it.
    cgroup: Option<OwnedFd>,
    limits: Vec<(Resource, u64, u64)>,
    account: Option<(Uid, Gid, Vec<Gid>)>,
    umask: Option<Mode>,
    no_new_privileges: bool,
    told: OwnedFd,
}

/// Our end: what went wrong.
#[derive(Debug)]
pub(super) struct Confined {
    reader: File,
    process: Process,
}

impl Confinement {
    /// In the child: each step by its own system call.
    pub(super) fn apply(&self) -> io::Result<()> {
        let step = |step: Step, done: nix::Result<()>| {
            done.map_err(|errno| {
                // Nobody to tell when this fails, and the error itself goes back by std's own way.
                nix::unistd::write(&self.told, &[step.number()]).ok();
                io::Error::from(errno)
            })
        };
        if let Some(cgroup) = &self.cgroup {
            step(Step::Cgroup, nix::unistd::write(cgroup, b"0").map(drop))?;
        }
        for (index, (resource, soft, hard)) in self.limits.iter().enumerate() {
            step(Step::Limit(index), setrlimit(*resource, *soft, *hard))?;
        }
        if let Some((user, group, groups)) = &self.account {
            step(Step::Groups, setgroups(groups))?;
            step(Step::Group, setgid(*group))?;
            step(Step::User, setuid(*user))?;
        }
        if let Some(mask) = self.umask {
            umask(mask);
        }
        if self.no_new_privileges {
            step(Step::NoNewPrivileges, nix::sys::prctl::set_no_new_privs())?;
        }
        Ok(())
    }
}

/// Has a command confined as the settings say; none when they say nothing, and then the spawn stays std's quick one.
pub(super) fn confine(
    command: &mut Command,
    process: &Process,
    cgroup: Option<OwnedFd>,
) -> io::Result<Option<Confined>> {
    let idle = process.account.is_none()
        && process.limits.is_empty()
        && process.umask.is_none()
        && process.no_new_privileges != Some(true)
        && cgroup.is_none();
    if idle {
        return Ok(None);
    }
    let (reader, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let account = process.account.as_ref().map(|account| {
        let groups = account.groups.iter().copied().map(Gid::from_raw);
        let (user, group) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        (user, group, groups.collect())
    });
    // One that we are already needs no right to become it.
    let account = account.filter(|(user, group, _)| {
        *user != nix::unistd::geteuid() || *group != nix::unistd::getegid()
    });
    let confinement = Confinement {
        cgroup,
        limits: process
            .limits
            .iter()
            .map(|limit| (resource(limit.kind), limit.soft, limit.hard))
            .collect(),
        account,
        umask: process.umask.map(Mode::from_bits_truncate),
        no_new_privileges: process.no_new_privileges == Some(true),
        told,
    };
    raw::before_exec(command, confinement);
    let reader = File::from(reader);
    Ok(Some(Confined {
        reader,
        process: process.clone(),
    }))
}

impl Confined {
    /// Why a spawn failed, if it was by a step of ours.
    pub(super) fn explain(mut self, program: &Path, error: &io::Error) -> Option<SpawnFailure> {
        let mut byte = [0];
        let read = self.reader.read(&mut byte).ok()?;
        let step = byte
            .first()
            .copied()
            .filter(|_| read == 1)
            .and_then(Step::of)?;
        let refused = error.raw_os_error() == Some(Errno::EPERM as i32);
        let user = self
            .process
            .account
            .as_ref()
            .map_or("", |it| it.name.as_str());
        let (what, advice) = match step {
            Step::Cgroup => ("put it into its control group".to_owned(), ""),
            Step::Groups | Step::Group | Step::User => (
                format!("run it as {user}"),
                "only root may run a child as another user",
            ),
            Step::NoNewPrivileges => ("keep it from further rights".to_owned(), ""),
            Step::Limit(index) => (
                match self.process.limits.get(index) {
                    Some(limit) => {
                        let (word, soft, hard) = (limit.kind.word(), limit.soft, limit.hard);
                        format!("limit its {word} to {soft}:{hard}")
                    }
                    None => "limit it".to_owned(),
                },
                "the second number is above our own hard limit, and only root may go there",
            ),
        };
        let advice = match advice {
            "" => String::new(),
            advice if refused => format!("; {advice}"),
            _ => String::new(),
        };
        let shown = program.display();
        Some(SpawnFailure {
            reason: format!("start {shown}: {what}: {error}{advice}"),
            transient: !refused,
        })
    }
}

/// Joining is one write of "0".
pub(super) fn open_group(procs: &Path) -> io::Result<OwnedFd> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(procs)?;
    file.as_fd().try_clone_to_owned()
}

const fn resource(kind: LimitKind) -> Resource {
    match kind {
        LimitKind::Nofile => Resource::RLIMIT_NOFILE,
        LimitKind::Core => Resource::RLIMIT_CORE,
        LimitKind::As => Resource::RLIMIT_AS,
        LimitKind::Nproc => Resource::RLIMIT_NPROC,
        LimitKind::Memlock => Resource::RLIMIT_MEMLOCK,
        LimitKind::Stack => Resource::RLIMIT_STACK,
        LimitKind::Fsize => Resource::RLIMIT_FSIZE,
        LimitKind::Cpu => Resource::RLIMIT_CPU,
    }
}

/// Whether we may run a child as somebody else.
pub(super) fn may_become(account: &Account) -> bool {
    let same = account.uid == nix::unistd::geteuid().as_raw()
        && account.gid == nix::unistd::getegid().as_raw();
    same || holds(&[CAP_SETGID, CAP_SETUID])
}

/// Numbers of capabilities, as `linux/capability.h` has them.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

fn holds(capabilities: &[u32]) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    capabilities.iter().all(|number| mask & (1 << number) != 0)
}
