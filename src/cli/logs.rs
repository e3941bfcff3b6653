//! `logs`: the output of an agent or the log of the supervisor, from files in the state directory.
//!
//! Promises: works without a running supervisor; prints bytes as they were written.
//! Must never: hold a lock, or keep more than the asked-for lines.

use std::path::Path;
use std::time::Duration;

use super::{Done, ExitCode, Failure, Out};
use crate::port::events::own_log;
use crate::port::logs::{Log, LogsError};
use crate::units::AgentName;

/// Time between two looks of `--follow`.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn of_agent(state_dir: &Path, agent: Option<&AgentName>) -> Result<Log, Failure> {
    Ok(Log::find(state_dir, agent.map(AgentName::as_str))?)
}

pub(super) fn of_supervisor(state_dir: &Path) -> Result<Log, Failure> {
    Ok(Log::at(own_log(state_dir))?)
}

pub(super) async fn show(mut log: Log, lines: usize, follow: bool, out: &mut Out<'_>) -> Done {
    out.bytes(&log.tail(lines)?);
    while follow && !out.closed() {
        let more = log.more()?;
        if more.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        } else {
            out.bytes(&more);
        }
    }
    Ok(ExitCode::Ok)
}

impl From<LogsError> for Failure {
    fn from(error: LogsError) -> Self {
        Self::new(ExitCode::Failed, format!("{:#}", anyhow::Error::new(error)))
    }
}
