//! `onboard` and `restart-registration`: by the supervisor if one runs, else here, on its state directory.
//!
//! Promises: a supervisor that runs does it itself, so that its links use the new token at once and nothing stops; the
//! exit code tells what the service answered. A failure leaves the stored token as it is.
//! Must never: touch a child, or print a token.

use std::time::Duration;

use tokio::time::timeout;

use super::args::Place;
use super::status::look_again;
use super::{Done, ExitCode, Failure, Out, settings};
use crate::app;
use crate::engine::message::RegistrationOrder;
use crate::port::admin::client::{Client, ClientError};
use crate::port::admin::registration::{OrderDocument, RegisterOrder, RegistrationDocument};
use crate::port::admin::wire::StatusDocument;

/// Four calls of half a minute, three pauses, and a disk.
const ORDER_TIMEOUT: Duration = Duration::from_mins(4);
/// How long the links may take to be made anew, for the words at the end; the order is done before.
const LINKS_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn register(place: &Place, what: RegistrationOrder, out: &mut Out<'_>) -> Done {
    let state_dir = settings::state_dir(place)?;
    let client = Client::new(&state_dir);
    let before = match client.status().await {
        Ok(document) => number(&document),
        Err(ClientError::Nobody { .. }) => return offline(place, what, out).await,
        Err(error) => return Err(error.into()),
    };
    let order = RegisterOrder {
        what: what.word().to_owned(),
    };
    let accepted = client.register(&order).await?;
    out.line(&accepted.accepted);
    let order = timeout(ORDER_TIMEOUT, followed(&client, before, out))
        .await
        .map_err(|_| {
            let reason = "no end of the order after 4m; see `adjutant status`";
            Failure::new(ExitCode::Failed, reason)
        })??;
    if let Some(Err(failure)) = order.outcome() {
        return Err(failure.into());
    }
    // Whether the server takes the token is its own matter; it is stored and in use.
    drop(timeout(LINKS_TIMEOUT, links(&client, out)).await);
    Ok(ExitCode::Ok)
}

/// Without a supervisor.
async fn offline(place: &Place, what: RegistrationOrder, out: &mut Out<'_>) -> Done {
    let config = settings::load(place)?;
    let done = app::register(&config, what, |line| out.progress(line)).await?;
    let known = done.map_err(Failure::from)?;
    out.line(&format!(
        "{}: no supervisor runs, so it was done here: {}",
        what.word(),
        describe(
            known.gateway.as_deref(),
            known.expires.map(|at| at.to_string())
        )
    ));
    Ok(ExitCode::Ok)
}

fn number(document: &StatusDocument) -> u64 {
    let order = document
        .registration
        .as_ref()
        .and_then(|registration| registration.order.as_ref());
    order.map_or(0, |order| order.number)
}

/// Waits for the end of the order that came after number `before`.
async fn followed(
    client: &Client,
    before: u64,
    out: &mut Out<'_>,
) -> Result<OrderDocument, Failure> {
    let mut shown = String::new();
    loop {
        let document = look_again(client).await?;
        let Some(registration) = &document.registration else {
            let reason = "the settings were changed and hold no registration any more";
            return Err(Failure::new(ExitCode::Refused, reason));
        };
        let line = progress(registration);
        if line != shown {
            out.progress(&line);
            shown = line;
        }
        if let Some(order) = &registration.order
            && order.number > before
            && order.over
        {
            if order.failure.is_none() {
                let token = registration.token.as_ref();
                let gateway = token.and_then(|token| token.gateway.as_deref());
                let expires = token.and_then(|token| token.expires.clone());
                out.line(&describe(gateway, expires));
            }
            return Ok(order.clone());
        }
    }
}

fn progress(registration: &RegistrationDocument) -> String {
    match registration.phase.as_str() {
        "calling" => format!("asking {}", registration.url),
        "waiting" => format!("waiting to ask again: {}", registration.reason),
        _ => registration.state.clone(),
    }
}

fn describe(gateway: Option<&str>, expires: Option<String>) -> String {
    let gateway = gateway.map_or_else(String::new, |gateway| format!(" as gateway {gateway}"));
    let expires = expires.map_or_else(String::new, |at| format!(", which expires at {at}"));
    format!("registered{gateway}; a new token is stored{expires}")
}

/// Shows how every link goes on, until none is on its way.
async fn links(client: &Client, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut shown = String::new();
    loop {
        let document = look_again(client).await?;
        let line = document
            .agents
            .iter()
            .map(|agent| format!("link of {}: {}", agent.name, agent.link.state))
            .collect::<Vec<_>>()
            .join(", ");
        if line != shown {
            out.progress(&line);
            shown = line;
        }
        let settled = |state: &str| matches!(state, "connected" | "disabled" | "rejected");
        if document
            .agents
            .iter()
            .all(|agent| settled(&agent.link.state))
        {
            return Ok(());
        }
    }
}
