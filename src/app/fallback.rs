//! Shows the fallback configs to the agent's own validator before a life that may need them begins.
//!
//! Promises: each file is judged alone, composed and with the arguments it would be run with; the first that is not
//! acceptable is named, with the validator's words.
//! Must never: hold up a life that has a stored config, which is the one that runs.

use super::bundle::{judge, read_local};
use super::{AppError, AppErrorKind, BundleVerdict};
use crate::config::{Agent, Config, Layer};
use crate::engine::fallback::may_run;
use crate::engine::message::Revision;
use crate::port::child::Children;

/// Checks the fallback configs of an agent, if this life could come to run them.
pub(super) async fn check(
    children: &mut Children,
    config: &Config,
    agent: &Agent,
    stored: Option<&Revision>,
) -> Result<(), AppError> {
    if !may_run(stored, &agent.fallback) {
        return Ok(());
    }
    for path in &agent.fallback {
        let alone = Agent {
            layers: vec![Layer::Local(path.clone())],
            ..agent.clone()
        };
        let local = [read_local(path.clone())];
        let verdict = judge(children, config, &alone, &local, &[]).await?;
        if let BundleVerdict::Unacceptable(words) = verdict {
            return Err(AppError {
                kind: AppErrorKind::Settings,
                cause: anyhow::anyhow!("check the fallback config {}: {words}", path.display()),
            });
        }
    }
    Ok(())
}
