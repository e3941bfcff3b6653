//! The child that an earlier life left behind, met at a start: found, its endpoint opened where it looks for it,
//! watched.
//!
//! Promises: a child of an earlier life is watched before a new one may be started, so that there are never two of one
//! agent; its own OpAMP is served where it was, unless the settings say otherwise or somebody else is there.
//! Must never: decide whether it goes on; the engine does.

use std::net::Ipv4Addr;
use std::path::Path;

use super::start::system;
use super::{AppError, AppErrorKind};
use crate::config::{Agent, LocalLink};
use crate::engine::message::Leftover;
use crate::port::child::{self, ChildDirs, Children, Found};
use crate::port::local::LocalDoor;
use crate::sys::holder;

/// Finds what is left of an agent's child and opens the endpoint of the agent's own OpAMP.
pub(super) fn meet(
    agent: &Agent,
    dirs: &ChildDirs,
    root: &Path,
    runtime_dir: Option<&Path>,
) -> Result<(Option<Leftover>, Option<LocalDoor>), AppError> {
    let mut leftover = match child::find_leftover(dirs) {
        Found::Nothing => None,
        Found::Alive(leftover) => Some(leftover),
        Found::Died(pid) => {
            tracing::warn!(agent = %agent.name, process.pid = pid, "child died while nobody watched");
            None
        }
    };
    let kind = agent.profile.local_link;
    if let Some(port) = noted_port(agent, leftover.as_ref()) {
        match LocalDoor::bind(&agent.name, kind, port, root, runtime_dir) {
            Ok(door) => return Ok((leftover, door)),
            Err(error) => {
                if let Some(leftover) = &mut leftover {
                    let address = (Ipv4Addr::LOCALHOST, port).into();
                    let holder =
                        holder::socket_at(address).map(|found| holder::with_process(&found));
                    let by = match holder {
                        Some(holder) => format!("held by {holder}"),
                        None => error.source.to_string(),
                    };
                    leftover.note = Err(format!(
                        "port {port}, on which it looks for us, is not ours any more: {by}"
                    ));
                }
            }
        }
    }
    let door = LocalDoor::bind(&agent.name, kind, agent.local_port, root, runtime_dir);
    let door = door.map_err(|error| AppError {
        kind: AppErrorKind::Address,
        cause: error.into(),
    })?;
    Ok((leftover, door))
}

/// Names the children of agents that the settings do not name any more, of which a life that was killed took no leave.
/// They are somebody's telemetry: only a person ends them.
pub(super) fn tell_strays(state: &Path, agents: &[Agent]) {
    let Some(rotation) = agents.first().map(|agent| agent.log_rotation) else {
        return;
    };
    let found = std::fs::read_dir(state.join("agents"));
    for entry in found.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if agents.iter().any(|agent| agent.name.as_str() == name) {
            continue;
        }
        let dirs = ChildDirs::below(&entry.path(), rotation);
        if let Found::Alive(leftover) = child::find_leftover(&dirs) {
            tracing::warn!(
                agent = name,
                process.pid = leftover.child.pid,
                "child of an agent that the settings do not name goes on by itself; name the agent again, or end it"
            );
        }
    }
}

/// The port that the system chose for an earlier life, on which a child that goes on looks for us.
fn noted_port(agent: &Agent, leftover: Option<&Leftover>) -> Option<u16> {
    if agent.profile.local_link != LocalLink::Loopback || agent.local_port != 0 {
        return None;
    }
    let link = leftover?.note.as_ref().ok()?.link.as_deref()?;
    let (_, rest) = link.rsplit_once(':')?;
    let port: u16 = rest.split('/').next()?.parse().ok()?;
    (port != 0).then_some(port)
}

/// Watches a left-over child.
pub(super) fn watch(
    children: &mut Children,
    agent: &Agent,
    dirs: &ChildDirs,
    leftover: Option<Leftover>,
) -> Result<Option<Leftover>, AppError> {
    let Some(leftover) = leftover else {
        return Ok(None);
    };
    let child = leftover.child.clone();
    children
        .watch_leftover(&agent.name, dirs, child, agent.passthrough_logs)
        .map_err(|error| system("watch the child of an earlier life", error))?;
    Ok(Some(leftover))
}
