//! `healthcheck`: one exit code for container probes.
//!
//! Promises: 0 when healthy, degraded or waiting for a first config; 1 when an agent is in error, when the default
//! config runs although a remote one was applied, or when the loop does not answer; 6 when nobody answers at all.
//! Must never: fail because a server is unreachable.

use super::{Done, ExitCode, Failure, Out};
use crate::port::admin::client::{Client, ClientError, health_of};
use crate::port::admin::health::{HealthDocument, Level};

pub(super) async fn check(client: &Client, out: &mut Out<'_>) -> Done {
    judge(client.health().await, out)
}

pub(super) async fn check_url(url: &str, out: &mut Out<'_>) -> Done {
    judge(health_of(url).await, out)
}

fn judge(answer: Result<HealthDocument, ClientError>, out: &mut Out<'_>) -> Done {
    let document = answer?;
    if let Some(reason) = fault(&document) {
        return Err(Failure::new(
            ExitCode::Failed,
            format!("unhealthy: {reason}"),
        ));
    }
    let remark = document
        .components
        .iter()
        .find(|(_, component)| component.status != Level::Ok);
    match remark {
        Some((name, component)) => out.line(&format!(
            "{}: {name}: {}",
            document.status.word(),
            component.message
        )),
        None => out.line(document.status.word()),
    }
    Ok(ExitCode::Ok)
}

fn fault(document: &HealthDocument) -> Option<String> {
    for (name, component) in &document.components {
        let on_default = component
            .details
            .get("on_default")
            .and_then(serde_json::Value::as_bool);
        if component.status == Level::Error || on_default == Some(true) {
            return Some(format!("{name}: {}", component.message));
        }
    }
    (document.status == Level::Error).then(|| "the supervisor says so".to_owned())
}
