//! The few system calls that no safe wrapper offers: which process ended, how it ended together with what it used, a
//! process that is not our child, and descriptors that nobody shall inherit.
//!
//! Promises: no call blocks; a peek changes nothing; a reap takes exactly the process it is told to take.
//! Must never: decide anything. Whom an exit belongs to is `reap.rs`' business.
//!
//! Why not nix or rustix: nix's `waitid` turns an exit by a real-time signal into an error without the process id, so
//! that one such exit would stand in the way of all later ones; rustix's `waitid` does not hand out the process id;
//! neither has `wait4`, and after the wait `/proc` no longer tells what the process used; neither has `close_range`
//! for descriptors that nothing of ours owns. tokio's safe constructors of `AsyncFd` are deprecated in favour of an
//! unsafe one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::engine::message::ExitStatus;

/// How a process ended and what it used, its own waited-for children included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reaped {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// User and system time.
    pub(super) cpu: Duration,
    /// Peak resident memory in bytes. A spawn by `vfork` makes it at least the spawner's own, because the kernel counts
    /// the memory that was shared until `exec`.
    pub(super) max_resident: u64,
}

/// The process id of some child that has ended and was not reaped; the child stays a zombie.
pub(super) fn peek() -> Option<u32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writes for the whole call and the flags are a documented combination.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) };
    if result != 0 {
        // ECHILD: nobody to wait for. WNOHANG rules EINTR out.
        return None;
    }
    // SAFETY: all bytes are initialised: zeroed above, and overwritten by the kernel where it had an answer.
    let info = unsafe { info.assume_init() };
    // SAFETY: after a successful `waitid` the `si_pid` member is the valid one; with no answer it is the zero from
    // above.
    let pid = unsafe { info.si_pid() };
    u32::try_from(pid).ok().filter(|pid| *pid != 0)
}

/// Reaps one ended child. `None` when it has not ended or is not a child of ours.
pub(super) fn reap(pid: u32) -> Option<Reaped> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writes for the whole call, `pid` is positive, WNOHANG is a documented flag.
    let result = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if result != pid {
        return None;
    }
    // SAFETY: all bytes are initialised: zeroed above, and `wait4` fills the structure when it reaps.
    let usage = unsafe { usage.assume_init() };
    let status = if libc::WIFEXITED(status) {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Unknown
    };
    Some(Reaped {
        status,
        cpu: span(usage.ru_utime).saturating_add(span(usage.ru_stime)),
        // The kernel counts in KiB.
        max_resident: u64::try_from(usage.ru_maxrss)
            .unwrap_or_default()
            .saturating_mul(1024),
    })
}

/// Registers a process descriptor, which becomes readable when the process has ended. Needs a running runtime.
pub(super) fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, is always the same descriptor, and lives inside the `AsyncFd` until that is
    // dropped; nothing here hands it out.
    let watch = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    Ok(watch?)
}

/// Has the kernel send a child a signal when the thread that spawns it ends, which is the main one.
pub(super) fn end_with_us(command: &mut Command, signal: i32) {
    let us = std::process::id();
    let signal = libc::c_ulong::try_from(signal).unwrap_or_default();
    let ask = move || {
        // SAFETY: integers only, no memory; `prctl` and `getppid` may be called between fork and exec.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // We may be gone already: then nobody will ever send it.
        if u32::try_from(nix::unistd::getppid().as_raw()) == Ok(us) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: what runs between fork and exec allocates nothing, takes no lock and touches no memory of ours.
    unsafe { command.pre_exec(ask) };
}

/// Keeps descriptors that we were started with (a shell's `3>file`, sockets of systemd) from every process we start.
///
/// # Errors
/// `ENOSYS` or `EINVAL` before Linux 5.11.
pub(super) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // In this kernel header's type, which is unsigned while libc's constant is not declared for every target.
    const CLOSE_RANGE_CLOEXEC: libc::c_ulong = 0x4;
    // SAFETY: three integers, no memory; with CLOEXEC nothing is closed here, only flags of descriptors are set, and
    // no code of ours relies on a descriptor being inherited: those for a child are duplicated by the spawn.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            libc::c_ulong::from(first),
            libc::c_ulong::from(u32::MAX),
            CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has a process confine itself between `fork` and `exec`. Nothing safe offers that moment: the user, the limits and
/// the group of a process that runs already could be missed by what it has started meanwhile.
#[cfg(feature = "isolation")]
pub(super) fn before_exec(command: &mut Command, confinement: super::confine::Confinement) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: the closure runs in the forked child and makes nothing but system calls on values that were made before
    // the fork: it allocates nothing, takes no lock and unwinds nowhere (`Confinement::apply` promises it).
    unsafe { command.pre_exec(move || confinement.apply()) };
}

fn span(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec).unwrap_or_default();
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}
