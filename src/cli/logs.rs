//! `logs`: the output of an agent, from its files in the state directory.
//!
//! Promises: works without a running supervisor; prints bytes as they were written.
//! Must never: hold a lock, or keep more than the asked-for lines.

use std::path::Path;
use std::time::Duration;

use super::{Done, ExitCode, Failure, Out};
use crate::port::logs::{Log, LogsError};
use crate::units::AgentName;

/// Time between two looks of `--follow`.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn show(
    state_dir: &Path,
    agent: Option<&AgentName>,
    lines: usize,
    follow: bool,
    out: &mut Out<'_>,
) -> Done {
    let mut log = Log::find(state_dir, agent.map(AgentName::as_str))?;
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
