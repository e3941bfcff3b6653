//! Watches children of an earlier life until they are gone, whether they were taken over or are to end.
//!
//! Promises: watched by a descriptor that means this very process and nothing else; its group is killed afterwards when
//! a member still carries our marker, and only then, because the number may have been given away.
//! Must never: claim to know how such a process ended: only its parent learns that.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::task::Context;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use super::facts::OomCounter;
use super::reap::Ending;
use super::{ChildDirs, Children, SpawnFailure, facts, kill_group, leftover, raw};
use crate::engine::message::{ChildIdentity, Exit, ExitStatus};
use crate::units::AgentName;

/// A child of an earlier life. It is not our child, so the kernel tells its end through a descriptor only.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) agent: AgentName,
    pub(super) identity: ChildIdentity,
    pub(super) record: PathBuf,
    pub(super) certificates: PathBuf,
    pub(super) memory: Option<OomCounter>,
    /// We sent KILL.
    pub(super) killed: bool,
    pub(super) marker: String,
    watch: AsyncFd<OwnedFd>,
}

impl Children {
    /// Watches a child of an earlier life until it is gone, and reads on where its output was left.
    ///
    /// # Errors
    /// When its output or the process cannot be watched. One that is gone already is an exit, not an error.
    pub fn watch_leftover(
        &mut self,
        agent: &AgentName,
        dirs: &ChildDirs,
        identity: ChildIdentity,
        passthrough: bool,
    ) -> Result<(), SpawnFailure> {
        let pid = identity.pid;
        // Our ends for the child are not needed: it has its own.
        self.open_output(agent, dirs, passthrough)?;
        let failed = |error: io::Error| SpawnFailure {
            reason: format!("watch process {pid}: {error}"),
            transient: true,
        };
        let descriptor = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let watch = match descriptor {
            Some(Ok(descriptor)) => descriptor,
            None | Some(Err(rustix::io::Errno::SRCH)) => {
                self.leftover_gone(agent.clone(), pid, &dirs.record);
                return Ok(());
            }
            Some(Err(errno)) => return Err(failed(errno.into())),
        };
        // Checked after the descriptor was opened: from here on it cannot come to mean another process.
        if !facts::is_same_and_alive(pid, identity.start_ticks) {
            self.leftover_gone(agent.clone(), pid, &dirs.record);
            return Ok(());
        }
        let leftover = Foreign {
            agent: agent.clone(),
            identity,
            record: dirs.record.clone(),
            certificates: dirs.certificates.clone(),
            memory: OomCounter::of(pid),
            killed: false,
            marker: dirs.marker.clone(),
            watch: raw::watch(watch).map_err(failed)?,
        };
        self.leftovers.insert(pid, leftover);
        Ok(())
    }

    /// Looks for left-overs that are gone.
    pub(super) fn poll_leftovers(&mut self, cx: &mut Context<'_>) {
        let gone: Vec<u32> = self
            .leftovers
            .iter()
            .filter(|(_, left)| left.watch.poll_read_ready(cx).is_ready())
            .map(|(pid, _)| *pid)
            .collect();
        for pid in gone {
            let ours = self.leftovers.get(&pid).map(|left| left.marker.clone());
            if ours.is_some_and(|marker| leftover::group_is_still_ours(pid, &marker)) {
                kill_group(pid);
            }
            // We were replaced in place: then it is our child, and its status waits for us.
            if let Some(reaped) = raw::reap(pid) {
                self.route(pid, reaped);
            } else if let Some(left) = self.leftovers.remove(&pid) {
                #[cfg(feature = "isolation")]
                self.groups.ended(&left.agent, &left.marker);
                self.leftover_gone(left.agent, pid, &left.record);
            }
        }
    }

    fn leftover_gone(&mut self, agent: AgentName, pid: u32, record: &Path) {
        leftover::record_ended(record);
        let exit = Exit {
            status: ExitStatus::Unknown,
            tail: String::new(),
            oom_killed: false,
            cpu: Duration::ZERO,
            max_resident: 0,
        };
        let words = self.output.finish_child(&agent);
        self.endings.push(Ending::child(agent, pid, exit, words));
    }
}
