//! One order at an authority that speaks ACME: account, order, HTTP-01, certificate.
//!
//! Promises: one attempt within its deadline; the address for challenges is bound before the authority is asked and
//! free again when the order is over; the account is kept, so that an authority sees one of them; what fails says at
//! which step, in the authority's own words, with the wait it asked for. The key is made here and leaves only in the
//! answer.
//! Must never: retry an order (the engine paces that), touch a live pair, or print a key.

mod account;
mod challenge;
mod client;

use std::path::PathBuf;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use opamp_client::transport::ProxyRules;

use crate::config::Tls;
use crate::engine::message::{
    CertificateDone, CertificateFault, CertificateFaultKind, CertificateOrder, PemPair,
};
use crate::port::fetch;
use crate::units::{Secret, format_duration};
use challenge::{Answers, Listener};
use client::{Asked, Failure, Wire};

/// The kinds of problem that say nothing about us (RFC 8555 §6.7).
const NOT_OURS: [&str; 2] = [
    "urn:ietf:params:acme:error:badNonce",
    "urn:ietf:params:acme:error:serverInternal",
];
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
/// Waits between two looks at an order grow by this.
const POLL_GROWTH: f32 = 1.5;

/// What an order needs beside itself.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `certificates/` in the state directory, where accounts are kept.
    pub(crate) directory: PathBuf,
    /// How to get out.
    pub(crate) proxies: ProxyRules,
}

/// Orders once.
///
/// # Errors
/// What was tried, what came back, and of which class that is.
///
/// # Cancel safety
/// Dropping the future frees the address; the authority lets the order expire.
pub(crate) async fn order(
    place: Place,
    wanted: CertificateOrder,
) -> Result<CertificateDone, CertificateFault> {
    let limit = wanted.acme.timeout;
    match tokio::time::timeout(limit, run(place, &wanted)).await {
        Ok(Ok(pair)) => Ok(CertificateDone::Issued(pair)),
        Ok(Err(fault)) => Err(fault),
        Err(_) => {
            let (whom, limit) = (fetch::shown(&wanted.acme.directory), format_duration(limit));
            let reason = format!("order a certificate at {whom}: not done within {limit}");
            Err(fault(CertificateFaultKind::Unreachable, reason))
        }
    }
}

fn fault(kind: CertificateFaultKind, reason: String) -> CertificateFault {
    CertificateFault {
        kind,
        reason,
        retry_after: None,
    }
}

async fn run(place: Place, wanted: &CertificateOrder) -> Result<PemPair, CertificateFault> {
    let acme = &wanted.acme;
    let listener = Listener::bind(acme.listen)
        .await
        .map_err(|reason| fault(CertificateFaultKind::Address, reason))?;
    let tls = fetch::tls_options(Tls {
        ca: acme.ca_file.clone().map(crate::units::TextSource::File),
        ..Tls::default()
    });
    let tls = tls
        .await
        .map_err(|reason| fault(CertificateFaultKind::Unreachable, reason))?;
    let answers = Answers::default();
    let asked = Asked::default();
    let (wire, requests) = Wire::new(asked.clone());
    let talk = async {
        talk(&place, wanted, wire, &answers)
            .await
            .map_err(|(step, error)| classified(wanted, step, &error, &asked))
    };
    // Everything lives inside this one future: nothing is left behind when it ends or is dropped.
    tokio::select! {
        result = talk => result,
        () = listener.serve(&answers) => Err(fault(
            CertificateFaultKind::Address,
            format!("answer challenges on {}: the listener ended", acme.listen),
        )),
        () = requests.serve(tls, &place.proxies) => Err(fault(
            CertificateFaultKind::Unreachable,
            "the way to the authority ended".to_owned(),
        )),
    }
}

type Step<T> = Result<T, (&'static str, Error)>;

async fn talk(
    place: &Place,
    wanted: &CertificateOrder,
    wire: Wire,
    answers: &Answers,
) -> Step<PemPair> {
    let at = |step: &'static str| move |error: Error| (step, error);
    let identifiers: Vec<Identifier> = wanted
        .domains
        .iter()
        .map(|domain| Identifier::Dns(domain.to_string()))
        .collect();
    let account = account::open(&place.directory, &wanted.acme, &wire)
        .await
        .map_err(at("open the account"))?;
    let order = match account.new_order(&NewOrder::new(&identifiers)).await {
        Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
            // The authority has forgotten us.
            let account = account::create(&place.directory, &wanted.acme, &wire)
                .await
                .map_err(at("make an account"))?;
            begin(&account, &identifiers).await
        }
        order => order,
    };
    let mut order = order.map_err(at("begin an order"))?;
    prove(&mut order, answers)
        .await
        .map_err(at("prove control of the domain"))?;
    let polls = RetryPolicy::new()
        .timeout(wanted.acme.timeout)
        .backoff(POLL_GROWTH);
    let status = order
        .poll_ready(&polls)
        .await
        .map_err(at("wait for the validation"));
    match status {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
        Ok(_) | Err((_, Error::Api(_))) => {
            // The order says that it failed; its authorizations say why.
            let why = refusals(&mut order).await;
            let step = "prove control of the domain";
            match (why, status) {
                (Some(why), _) => {
                    return Err((step, Error::Other(Box::new(Failure::refused(why)))));
                }
                (None, Err(error)) => return Err(error),
                (None, Ok(_)) => return Err((step, Error::Str("the order became invalid"))),
            }
        }
        Err(error) => return Err(error),
    }
    let key = order.finalize().await.map_err(at("hand in the request"))?;
    let chain = order
        .poll_certificate(&polls)
        .await
        .map_err(at("fetch the certificate"))?;
    Ok(PemPair {
        chain,
        key: Secret::new(key),
    })
}

async fn begin(account: &Account, identifiers: &[Identifier]) -> Result<Order, Error> {
    account.new_order(&NewOrder::new(identifiers)).await
}

/// Puts up the answers to all challenges and says so.
async fn prove(order: &mut Order, answers: &Answers) -> Result<(), Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(Error::Str("an authorization that can still be given")),
        }
        let mut challenge = authorization
            .challenge(ChallengeType::Http01)
            .ok_or(Error::Unsupported("HTTP-01 for this domain"))?;
        let token = challenge.token.clone();
        answers.put(&token, challenge.key_authorization().as_str());
        challenge.set_ready().await?;
    }
    Ok(())
}

/// Domains of which it is told why they were refused.
const SENTENCES_MAX: usize = 5;
/// Characters that are kept of what an authority says about one of them.
const WORDS_MAX: usize = 300;

/// What the authority says about each domain it could not validate.
async fn refusals(order: &mut Order) -> Option<String> {
    let mut sentences = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let domain = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let errors = state.challenges.iter().filter_map(|it| it.error.as_ref());
        for error in errors.take(1) {
            if sentences.len() >= SENTENCES_MAX {
                sentences.push("…".to_owned());
                return Some(sentences.join("; "));
            }
            sentences.push(format!("{domain}: {}", in_words(error)));
        }
    }
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn in_words(problem: &instant_acme::Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    let mut text = problem.detail.clone().unwrap_or_default();
    for sub in &problem.subproblems {
        text = format!("{text}; {}", sub.detail.as_deref().unwrap_or_default());
    }
    let kind = shortened(kind);
    if text.is_empty() {
        kind
    } else {
        format!("{} ({kind})", shortened(&text))
    }
}

/// Words of somebody else, as many as a line can bear.
fn shortened(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(WORDS_MAX).collect()
}

fn classified(
    wanted: &CertificateOrder,
    step: &str,
    error: &Error,
    asked: &Asked,
) -> CertificateFault {
    let mut kind = CertificateFaultKind::Refused;
    let words = match error {
        Error::Api(problem) => {
            if problem
                .r#type
                .as_deref()
                .is_some_and(|it| NOT_OURS.contains(&it))
            {
                kind = CertificateFaultKind::Unreachable;
            }
            in_words(problem)
        }
        Error::Other(other) => {
            if other
                .downcast_ref::<Failure>()
                .is_some_and(Failure::is_unreached)
            {
                kind = CertificateFaultKind::Unreachable;
            }
            other.to_string()
        }
        Error::Json(cause) => {
            kind = CertificateFaultKind::Unreachable;
            format!("the answer is not ACME: {cause}")
        }
        Error::Timeout(_) => "the authority did not decide in time".to_owned(),
        other => other.to_string(),
    };
    let whom = fetch::shown(&wanted.acme.directory);
    CertificateFault {
        kind,
        reason: format!("{step} at {whom}: {words}"),
        retry_after: asked.take(),
    }
}
