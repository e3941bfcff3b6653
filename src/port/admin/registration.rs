//! Registration as the doors show it: its part of the status document, of health and of the metrics.
//!
//! Promises: what is known of a token is shown, the token never is: it is not in what this is made from. Trouble
//! degrades health and never fails it, because telemetry goes on without a server.
//! Must never: decide anything.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::health::{Component, Level, component};
use super::metrics::{counter, gauge};
use crate::engine::message::{
    Credential, CredentialSource, FailureClass, OrderSnapshot, RegistrationFailure,
    RegistrationSnapshot,
};

/// A token with less than this left degrades health.
const SOON: Duration = Duration::from_hours(7 * 24);

/// Registration in the status document.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct RegistrationDocument {
    /// `registered`, `unregistered` or `rejected`.
    pub state: String,
    /// `idle`, `calling`, `waiting` or `held`.
    pub phase: String,
    /// Why it is not as it should be; empty otherwise.
    pub reason: String,
    /// The service.
    pub url: String,
    /// What is known of the token.
    pub token: Option<TokenDocument>,
    /// Seconds until the next call.
    pub retry_in_seconds: Option<f64>,
    /// Calls since the supervisor started.
    pub calls: u64,
    /// Of these, the ones that brought no token.
    pub failures: u64,
    /// The last order of a person.
    pub order: Option<OrderDocument>,
}

/// What is known of the token.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct TokenDocument {
    /// `registration`, `restart-registration` or `environment`.
    pub source: String,
    /// When it was issued to us, or read from the environment.
    pub at: String,
    /// When it expires.
    pub expires: Option<String>,
    /// Seconds until then; zero when it has expired.
    pub expires_in_seconds: Option<f64>,
    /// What the service calls us.
    pub gateway: Option<String>,
    /// Our organisation there.
    pub org: Option<String>,
    /// The endpoint that the service named, if one can be meant.
    pub endpoint: Option<String>,
    /// What the service says about the mode.
    pub management_mode: Option<String>,
    /// Whether it is on disk; one of the environment never is.
    pub stored: bool,
}

/// What became of an order.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct OrderDocument {
    /// Its number; rises.
    pub number: u64,
    /// `onboard` or `restart-registration`.
    pub what: String,
    /// Whether it is over.
    pub over: bool,
    /// The class of its failure, if it failed.
    pub failure: Option<String>,
    /// Why it failed; empty otherwise.
    pub reason: String,
}

/// `POST /v1/register`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RegisterOrder {
    /// `onboard` or `restart-registration`.
    pub what: String,
}

impl From<&RegistrationSnapshot> for RegistrationDocument {
    fn from(snapshot: &RegistrationSnapshot) -> Self {
        Self {
            state: snapshot.state.to_owned(),
            phase: snapshot.phase.to_owned(),
            reason: snapshot.reason.clone(),
            url: snapshot.url.clone(),
            token: snapshot
                .credential
                .as_ref()
                .map(|known| TokenDocument::of(known, snapshot.expires_in)),
            retry_in_seconds: snapshot.retry_in.map(|span| span.as_secs_f64()),
            calls: snapshot.calls,
            failures: snapshot.failures,
            order: snapshot.order.as_ref().map(OrderDocument::from),
        }
    }
}

impl TokenDocument {
    fn of(known: &Credential, expires_in: Option<Duration>) -> Self {
        let seed = known.source == CredentialSource::Environment;
        Self {
            source: known.source.word().to_owned(),
            at: known.at.to_string(),
            expires: known.expires.map(|at| at.to_string()),
            expires_in_seconds: expires_in.map(|span| span.as_secs_f64()),
            gateway: known.gateway.clone(),
            org: known.org.clone(),
            endpoint: known.endpoint.clone(),
            management_mode: known.management_mode.clone(),
            stored: !seed && known.unsaved.is_none(),
        }
    }
}

impl From<&OrderSnapshot> for OrderDocument {
    fn from(order: &OrderSnapshot) -> Self {
        let failure = order
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.as_ref().err());
        Self {
            number: order.number,
            what: order.what.to_owned(),
            over: order.outcome.is_some(),
            failure: failure.map(|failure| failure.class.word().to_owned()),
            reason: failure.map_or_else(String::new, |failure| failure.reason.clone()),
        }
    }
}

impl OrderDocument {
    /// What came of it: none while it is under way.
    pub fn outcome(&self) -> Option<Result<(), RegistrationFailure>> {
        let failure = self.failure.as_deref().map(|word| RegistrationFailure {
            class: FailureClass::ALL
                .into_iter()
                .find(|class| class.word() == word)
                .unwrap_or(FailureClass::Answer),
            reason: self.reason.clone(),
            retry_after: None,
        });
        self.over.then(|| failure.map_or(Ok(()), Err))
    }
}

/// The component of the health document.
pub(super) fn health(snapshot: &RegistrationSnapshot, timestamp: &str) -> Component {
    // A token whose whole life is short is always near its end; only one that is warned about has a reason.
    let warned = !snapshot.reason.is_empty();
    let soon = warned && snapshot.expires_in.is_some_and(|left| left <= SOON);
    let unsaved = snapshot
        .credential
        .as_ref()
        .is_some_and(|known| known.unsaved.is_some());
    let level = if snapshot.state == "registered" && !soon && !unsaved {
        Level::Ok
    } else {
        Level::Degraded
    };
    let message = if snapshot.reason.is_empty() {
        snapshot.state.to_owned()
    } else {
        format!("{}: {}", snapshot.state, snapshot.reason)
    };
    let known = snapshot.credential.as_ref();
    let details = json!({
        "state": snapshot.state,
        "phase": snapshot.phase,
        "expires": known.and_then(|known| known.expires).map(|at| at.to_string()),
        "gateway": known.and_then(|known| known.gateway.clone()),
        "retry_in_seconds": snapshot.retry_in.map(|span| span.as_secs()),
    });
    component(level, message, timestamp, details)
}

/// The series of the metrics page.
pub(super) fn metrics(registry: &mut Registry, snapshot: &RegistrationSnapshot) {
    gauge(
        registry,
        "registered",
        "1 when there is a token that the server has not rejected",
        i64::from(snapshot.state == "registered"),
    );
    gauge(
        registry,
        "rejected",
        "1 when the server rejects the token",
        i64::from(snapshot.state == "rejected"),
    );
    let calls = counter(
        registry,
        "calls",
        "Calls to the registration service, by what they brought",
    );
    let issued = snapshot.calls.saturating_sub(snapshot.failures);
    for (outcome, number) in [("issued", issued), ("failed", snapshot.failures)] {
        calls
            .get_or_create(&vec![("outcome", outcome.to_owned())])
            .inc_by(number);
    }
    let expires = snapshot.credential.as_ref().and_then(|known| known.expires);
    if let Some(expires) = expires {
        let at = Duration::from_millis(expires.unix_millis());
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(at.as_secs_f64());
        registry.register_with_unit(
            "token_expiry_time",
            "When the token expires, since the Unix epoch",
            Unit::Seconds,
            gauge,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::admin::testing::registration as snapshot;

    #[test]
    fn health_degrades_with_trouble_and_never_fails() {
        type Change = fn(&mut RegistrationSnapshot);
        let cases: [(Change, Level, &str); 6] = [
            (|_| {}, Level::Ok, "registered"),
            (
                |all| {
                    all.expires_in = Some(Duration::from_hours(29 * 24));
                    all.reason = "the token expires in 29 days".to_owned();
                },
                Level::Ok,
                "registered: the token expires in 29 days",
            ),
            (
                |all| {
                    all.expires_in = Some(Duration::from_hours(6 * 24));
                    all.reason = "the token expires in 6 days".to_owned();
                },
                Level::Degraded,
                "registered: the token expires in 6 days",
            ),
            // Issued for five days: nothing is wrong.
            (
                |all| all.expires_in = Some(Duration::from_hours(5 * 24)),
                Level::Ok,
                "registered",
            ),
            (
                |all| {
                    all.state = "rejected";
                    all.reason = "401".to_owned();
                },
                Level::Degraded,
                "rejected: 401",
            ),
            (
                |all| all.credential.as_mut().unwrap().unsaved = Some("full".to_owned()),
                Level::Degraded,
                "registered",
            ),
        ];
        for (change, level, message) in cases {
            let mut all = snapshot();
            change(&mut all);
            let component = health(&all, "now");
            assert_eq!(
                (component.status, component.message.as_str()),
                (level, message)
            );
        }
    }

    #[test]
    fn an_order_is_read_back_from_the_document() {
        let failure = RegistrationFailure {
            class: FailureClass::Forbidden,
            reason: "no".to_owned(),
            retry_after: None,
        };
        for outcome in [None, Some(Ok(())), Some(Err(failure))] {
            let order = OrderSnapshot {
                number: 3,
                what: "onboard",
                outcome: outcome.clone(),
            };
            assert_eq!(OrderDocument::from(&order).outcome(), outcome);
        }
    }
}
