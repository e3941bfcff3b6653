//! Orders to a running supervisor: `apply`, `rollback`, `restart`, `reload`, and waiting for what comes of them.
//!
//! Promises: without `--wait` a command ends when the order is taken; with it, when the rollout it began is over, and
//! the exit code tells which way. Waiting has a limit.
//! Must never: repeat an order.

use std::path::Path;
use std::time::Duration;

#[cfg(feature = "adopt")]
use tokio::time::Instant;
use tokio::time::timeout;

use super::args::Wait;
use super::status::look_again;
use super::{Done, ExitCode, Failure, Out};
use crate::port::admin::client::Client;
use crate::port::admin::wire::{
    AcceptedDocument, AgentDocument, AgentOrder, ApplyOrder, FileDocument, RecordDocument,
    RollbackOrder, StatusDocument,
};
use crate::port::bundle;
use crate::units::{AgentName, RevisionId, format_duration};

/// How long an order may take to become a transaction in the history.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another executable may take to start and answer.
#[cfg(feature = "adopt")]
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn apply(
    client: &Client,
    directory: &Path,
    agent: Option<AgentName>,
    wait: &Wait,
    out: &mut Out<'_>,
) -> Done {
    let files = bundle::read(directory)?
        .into_iter()
        .map(|file| FileDocument::new(file.name, file.bytes))
        .collect();
    let agent = agent.map(|agent| agent.to_string());
    let before = Before::look(client, agent.as_deref(), wait).await?;
    let accepted = client.apply(&ApplyOrder { agent, files }).await?;
    before.follow(client, accepted, wait, out).await
}

pub(super) async fn rollback(
    client: &Client,
    agent: Option<AgentName>,
    to: Option<RevisionId>,
    wait: &Wait,
    out: &mut Out<'_>,
) -> Done {
    let agent = agent.map(|agent| agent.to_string());
    let to = to.map(|to| to.to_string());
    let before = Before::look(client, agent.as_deref(), wait).await?;
    let accepted = client.rollback(&RollbackOrder { agent, to }).await?;
    before.follow(client, accepted, wait, out).await
}

pub(super) async fn restart(client: &Client, agent: Option<AgentName>, out: &mut Out<'_>) -> Done {
    let agent = agent.map(|agent| agent.to_string());
    let accepted = client.restart(&AgentOrder { agent }).await?;
    out.line(&accepted.accepted);
    Ok(ExitCode::Ok)
}

pub(super) async fn reload(client: &Client, agent: Option<AgentName>, out: &mut Out<'_>) -> Done {
    let agent = agent.map(|agent| agent.to_string());
    let accepted = client.reload(&AgentOrder { agent }).await?;
    out.line(&accepted.accepted);
    Ok(ExitCode::Ok)
}

/// Lets another executable take over, and waits until it answers.
#[cfg(feature = "adopt")]
pub(super) async fn upgrade(client: &Client, out: &mut Out<'_>) -> Done {
    let (before, asked) = (client.status().await?, Instant::now());
    let accepted = client.upgrade().await?;
    out.line(&accepted.accepted);
    let next = async {
        loop {
            if let Ok(document) = look_again(client).await {
                let passed = asked.elapsed().as_secs_f64();
                // The life that was asked would be older by what has passed, but for what an answer takes.
                if document.uptime_seconds + 0.1 < before.uptime_seconds + passed {
                    return document;
                }
            }
        }
    };
    let Ok(after) = timeout(UPGRADE_TIMEOUT, next).await else {
        let limit = format_duration(UPGRADE_TIMEOUT);
        let text = format!("no answer from the new executable within {limit}; see its log");
        return Err(Failure::new(ExitCode::Failed, text));
    };
    let adopted = |agent: &&AgentDocument| agent.child.as_ref().is_some_and(|it| it.adopted);
    let kept = after.agents.iter().filter(adopted).count();
    let of = after.agents.len();
    out.line(&format!(
        "{} runs, {kept} of {of} agents went on",
        after.version
    ));
    Ok(ExitCode::Ok)
}

/// The last transaction before an order, so that the one it begins is recognised.
struct Before {
    agent: Option<String>,
    transaction: u64,
}

impl Before {
    async fn look(client: &Client, agent: Option<&str>, wait: &Wait) -> Result<Self, Failure> {
        let mut before = Self {
            agent: agent.map(str::to_owned),
            transaction: 0,
        };
        if wait.wait {
            let document = client.status().await?;
            let last = before.of(&document).and_then(newest);
            before.transaction = last.map_or(0, |record| record.transaction);
        }
        Ok(before)
    }

    /// The agent the order is about.
    fn of<'a>(&self, document: &'a StatusDocument) -> Option<&'a AgentDocument> {
        match &self.agent {
            Some(name) => document.agents.iter().find(|agent| agent.name == *name),
            None => document.agents.first(),
        }
    }

    async fn follow(
        &self,
        client: &Client,
        accepted: AcceptedDocument,
        wait: &Wait,
        out: &mut Out<'_>,
    ) -> Done {
        out.line(&accepted.accepted);
        if !wait.wait {
            return Ok(ExitCode::Ok);
        }
        let begun = timeout(BEGIN_TIMEOUT.min(wait.timeout), self.begun(client));
        if begun.await.map_err(|_| self.not_begun())??.over {
            return self.end(client, out).await;
        }
        match timeout(wait.timeout, self.end(client, out)).await {
            Ok(done) => done,
            Err(_) => Err(self.not_over(client, wait).await),
        }
    }

    async fn not_over(&self, client: &Client, wait: &Wait) -> Failure {
        let span = format_duration(wait.timeout);
        let mut text =
            format!("the rollout is not over after {span}; it goes on, see `adjutant status`");
        // What holds it up, if it says so: a disk that refuses tells more than the time.
        if let Ok(document) = client.status().await
            && let Some(agent) = self.of(&document)
            && !agent.phase_error.is_empty()
        {
            text = format!(
                "the rollout is not over after {span}, it is held up in {}: {}; it goes on, see `adjutant status`",
                agent.phase, agent.phase_error
            );
        }
        Failure::new(ExitCode::NotApplied, text)
    }

    fn not_begun(&self) -> Failure {
        let agent = self.agent.as_deref().unwrap_or("the agent");
        Failure::new(
            ExitCode::NotApplied,
            format!(
                "the order was taken, but no rollout of {agent} began; it may run already, see `adjutant status`"
            ),
        )
    }

    async fn begun(&self, client: &Client) -> Result<RecordDocument, Failure> {
        loop {
            let document = look_again(client).await?;
            if let Some(record) = self.ours(&document) {
                return Ok(record.clone());
            }
        }
    }

    fn ours<'a>(&self, document: &'a StatusDocument) -> Option<&'a RecordDocument> {
        order_after(&self.of(document)?.history, self.transaction)
    }

    async fn end(&self, client: &Client, out: &mut Out<'_>) -> Done {
        let mut phase = String::new();
        loop {
            let document = look_again(client).await?;
            if let Some(agent) = self.of(&document)
                && agent.phase != phase
            {
                phase.clone_from(&agent.phase);
                out.progress(&format!("{}: {phase}", agent.name));
            }
            if let Some(record) = self.ours(&document)
                && record.over
            {
                return verdict(record, out);
            }
        }
    }
}

/// The last step of the first order of a person after a transaction. A newer transaction may already have taken its
/// place, and one that was under way before the order shows itself only when it is over.
fn order_after(history: &[RecordDocument], last: u64) -> Option<&RecordDocument> {
    let orders = history.iter().filter(|record| record.origin == "manual");
    orders
        .filter(|record| record.transaction > last)
        .min_by_key(|record| record.transaction)
}

fn newest(agent: &AgentDocument) -> Option<&RecordDocument> {
    agent.history.iter().max_by_key(|record| record.transaction)
}

fn verdict(record: &RecordDocument, out: &mut Out<'_>) -> Done {
    let revision = record.revision.as_deref().unwrap_or("no revision");
    if record.step == "committed" {
        out.line(&format!("committed: {revision}"));
        return Ok(ExitCode::Ok);
    }
    let step = record.step.replace('_', " ");
    let reason = if record.reason.is_empty() {
        "no reason was given"
    } else {
        &record.reason
    };
    Err(Failure::new(
        ExitCode::NotApplied,
        format!("{step}: {revision}: {reason}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_before_an_order_is_not_taken_for_it() {
        let record = |transaction, origin: &str| RecordDocument {
            transaction,
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            step: "superseded".to_owned(),
            over: true,
            revision: None,
            offer: None,
            origin: origin.to_owned(),
            reason: String::new(),
        };
        // The host's own config was looked for when the order came, and gave way to it.
        let mut history = vec![record(1, "manual"), record(2, "local"), record(3, "offer")];
        assert_eq!(order_after(&history, 1), None);
        history.extend([record(5, "manual"), record(4, "manual")]);
        assert_eq!(order_after(&history, 1).unwrap().transaction, 4);
        assert_eq!(order_after(&history, 5), None);
    }
}
