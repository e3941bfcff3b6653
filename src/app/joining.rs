//! Makes the ports of an agent that joins a running supervisor, as a start makes them.
//!
//! Promises: what cannot be made is a reason in words, and nothing of it is left open.
//! Must never: start a process, or wait for the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::container::no_thread;
use super::start::{Loaded, load_agent};
use super::{AppError, AppErrorKind, identity};
use crate::config::{Agent, Form};
use crate::engine::fallback::may_run;
use crate::engine::message::Admission;
use crate::perform::{Admit, Admitted, AgentPorts};
use crate::port::local::LocalDoor;
use crate::port::store::{AgentAnswer, StateDir, start_agent_writer};
use crate::sys::clock;

/// What every agent of this host is given.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) form: Form,
    pub(super) state: StateDir,
    /// Ports of our own doors, and of the agents of the start.
    pub(super) reserved: Vec<u16>,
    pub(super) supervisor: String,
    pub(super) facts: BTreeMap<String, String>,
    /// Where writer threads answer.
    pub(super) answers: mpsc::Sender<AgentAnswer>,
}

/// How an agent's ports are made, on a thread that may wait for the disk.
pub(super) fn admit(common: Common) -> Admit {
    Arc::new(move |agent, instance_uid| {
        made(&common, agent, instance_uid).map_err(|error| error.to_string())
    })
}

fn made(common: &Common, agent: &Agent, known: Option<[u8; 16]>) -> Result<Admitted, AppError> {
    let Loaded {
        dirs,
        root,
        store,
        persisted,
        leftover,
        door,
        ..
    } = load_agent(agent, common.form, &common.state)?;
    if may_run(persisted.current.as_ref(), &agent.fallback) {
        return Err(AppError {
            kind: AppErrorKind::Settings,
            cause: anyhow::anyhow!(
                "agents.{}.fallback_configs: they are shown to the agent's validator at a start only; restart \
                 adjutant, or remove them",
                agent.name
            ),
        });
    }
    let instance_uid = match known {
        Some(uid) => uid,
        None => identity::new_uid(clock::wall())?,
    };
    let port = door.as_ref().and_then(LocalDoor::port);
    let admission = Admission {
        instance_uid,
        state_dir: root,
        link: door.as_ref().map(|door| door.link().to_owned()),
        reserved_ports: common.reserved.iter().copied().chain(port).collect(),
        certificates: common.state.root().join("certificates"),
        supervisor: common.supervisor.clone(),
        port,
        facts: common.facts.clone(),
        persisted,
        leftover,
        seed: identity::random_u64()?,
    };
    let writer = start_agent_writer(agent.name.clone(), store, common.answers.clone())
        .map_err(|error| no_thread("start a writer thread", error))?;
    Ok(Admitted {
        admission,
        ports: AgentPorts { dirs, writer },
        door,
        passthrough: agent.passthrough_logs,
    })
}
