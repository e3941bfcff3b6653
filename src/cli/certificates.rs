//! `certificates list` and `certificates renew`: what is live and for how long, and a new pair on demand.
//!
//! Promises: `renew --wait` ends when every renewal that was ordered is live or has failed, and the exit code tells
//! which; what goes wrong is a line in the words of whoever refused.
//! Must never: repeat an order, or print a key.

use tokio::time::timeout;

use super::args::Wait;
use super::status::{look_again, table};
use super::{Done, ExitCode, Failure, Out};
use crate::port::admin::client::Client;
use crate::port::admin::wire::{CertificateDocument, RenewOrder, StatusDocument};
use crate::units::{CertificateName, format_duration};

pub(super) async fn list(client: &Client, json: bool, out: &mut Out<'_>) -> Done {
    let document = client.status().await?;
    if json {
        let text = serde_json::to_string(&document.certificates)
            .map_err(|cause| Failure::new(ExitCode::Failed, cause.to_string()))?;
        out.line(&text);
    } else if document.certificates.is_empty() {
        out.line("no certificates are set up");
    } else {
        out.text(&render(&document.certificates));
    }
    Ok(ExitCode::Ok)
}

/// The table and the lines below it.
pub(super) fn render(certificates: &[CertificateDocument]) -> String {
    let dash = || "-".to_owned();
    let rows = certificates.iter().map(|one| {
        [
            one.name.clone(),
            one.source.clone(),
            one.state.clone(),
            if one.domains.is_empty() {
                one.names.join(" ")
            } else {
                one.domains.join(" ")
            },
            one.days_left.map_or_else(dash, |days| days.to_string()),
            one.not_after.clone().unwrap_or_else(dash),
            one.serial.clone().unwrap_or_else(dash),
        ]
    });
    let header = [
        "CERTIFICATE",
        "SOURCE",
        "STATE",
        "DOMAINS",
        "DAYS LEFT",
        "ENDS",
        "SERIAL",
    ];
    let mut text = table(header, rows);
    for one in certificates.iter().filter(|one| !one.last_error.is_empty()) {
        text.extend([one.name.as_str(), ": ", &one.last_error]);
        if let Some(at) = &one.next_attempt {
            text.extend(["; tried again at ", at]);
        }
        text.push('\n');
    }
    text
}

pub(super) async fn renew(
    client: &Client,
    name: Option<CertificateName>,
    wait: &Wait,
    out: &mut Out<'_>,
) -> Done {
    let name = name.map(|name| name.to_string());
    let before = client.status().await?;
    let order = RenewOrder { name: name.clone() };
    let accepted = client.renew_certificates(&order).await?;
    out.line(&accepted.accepted);
    if !wait.wait {
        return Ok(ExitCode::Ok);
    }
    let meant = |one: &&CertificateDocument| name.as_ref().is_none_or(|name| *name == one.name);
    let ordered: Vec<&CertificateDocument> = before.certificates.iter().filter(meant).collect();
    match timeout(wait.timeout, settled(client, &ordered)).await {
        Ok(document) => verdict(&document?, &ordered, out),
        Err(_) => Err(Failure::new(
            ExitCode::NotApplied,
            format!(
                "the renewal is not over after {}; it goes on, see `adjutant certificates list`",
                format_duration(wait.timeout)
            ),
        )),
    }
}

/// Looks until each of them has come to an end.
async fn settled(
    client: &Client,
    ordered: &[&CertificateDocument],
) -> Result<StatusDocument, Failure> {
    loop {
        let document = look_again(client).await?;
        let over = |before: &&&CertificateDocument| {
            after(&document, before).is_none_or(|now| {
                now.renewals > before.renewals
                    || now.failures > before.failures
                    // Files that hold what is live already.
                    || (now.source == "files" && now.checks > before.checks && now.state == "live")
            })
        };
        if ordered.iter().filter(over).count() == ordered.len() {
            return Ok(document);
        }
    }
}

fn after<'a>(
    document: &'a StatusDocument,
    before: &CertificateDocument,
) -> Option<&'a CertificateDocument> {
    let mut all = document.certificates.iter();
    all.find(|now| now.name == before.name)
}

fn verdict(document: &StatusDocument, ordered: &[&CertificateDocument], out: &mut Out<'_>) -> Done {
    let mut failed = Vec::new();
    for before in ordered {
        match after(document, before) {
            Some(now) if now.failures > before.failures && now.renewals == before.renewals => {
                failed.push(format!("certificate {}: {}", now.name, now.last_error));
            }
            Some(now) => {
                let until = now.not_after.as_deref().unwrap_or("-");
                let serial = now.serial.as_deref().unwrap_or("-");
                out.line(&format!("live: {} serial {serial} until {until}", now.name));
            }
            None => failed.push(format!("certificate {}: not set up any more", before.name)),
        }
    }
    if failed.is_empty() {
        Ok(ExitCode::Ok)
    } else {
        Err(Failure::new(ExitCode::NotApplied, failed.join("\n")))
    }
}
