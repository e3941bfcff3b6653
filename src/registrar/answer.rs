//! What the service answered: a token, or a refusal with its class.
//!
//! Promises: the status decides, never a word in the body; a success without a usable token is a failure. Of a body
//! only what explains a refusal is quoted, bounded, and without the secrets that were sent.
//! Must never: quote a success, which holds a token.

use serde::Deserialize;
use serde_json::Value;

use super::{claims, failure, is_token};
use crate::config::registration::returned_endpoint;
use crate::engine::message::{
    Credential, CredentialSource, FailureClass, RegistrationCall, RegistrationFailure,
};
use crate::port::fetch::Fetched;
use crate::units::{Secret, WallTime};

/// Characters of the service's own explanation.
const DETAIL_MAX: usize = 200;
/// Entries of a list of mistakes that are quoted.
const MISTAKES_MAX: usize = 3;
/// A token longer than this would not fit into a header.
const TOKEN_MAX: usize = 8 * 1024;

/// A usable answer.
#[derive(Debug)]
pub(super) struct Issued {
    token: Secret,
    gateway: Option<String>,
    org: Option<String>,
    expires: Option<WallTime>,
    endpoint: Option<String>,
    management_mode: Option<String>,
}

/// An answer that brings no token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    class: FailureClass,
    text: String,
    retry_after: Option<std::time::Duration>,
}

impl Refused {
    /// With what was asked.
    pub(super) fn into_failure(self, asked: &str) -> RegistrationFailure {
        RegistrationFailure {
            retry_after: self.retry_after,
            ..failure(self.class, format!("{asked}: {}", self.text))
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    org_id: Value,
    opamp_token: Option<String>,
    #[serde(default)]
    opamp_endpoint: Value,
    #[serde(default)]
    management_mode: Value,
    #[serde(default)]
    expires_at: Value,
}

/// Reads an answer.
pub(super) fn read(
    fetched: &Fetched,
    call: &RegistrationCall,
    sent: &Secret,
) -> Result<Issued, Refused> {
    let status = fetched.status;
    if !(200..300).contains(&status) {
        return Err(refused(fetched, call, sent));
    }
    let unusable = |what: &str| Refused {
        class: FailureClass::Answer,
        text: format!("status {status}, but {what}; ask whoever runs the service"),
        retry_after: None,
    };
    let body: Body = serde_json::from_slice(&fetched.body)
        .map_err(|_| unusable("the answer is not a gateway's record in JSON"))?;
    let token = body.opamp_token.unwrap_or_default();
    let token = token.trim();
    if token.is_empty() {
        return Err(unusable("there is no opamp_token in the answer"));
    }
    if !is_token(token) || token.len() > TOKEN_MAX {
        return Err(unusable("its opamp_token cannot be one"));
    }
    let claims = claims::read(token);
    let expires = [claims.expires, moment(&body.expires_at)];
    Ok(Issued {
        token: Secret::new(token),
        gateway: claims::word(&body.id).or(claims.gateway),
        org: claims::word(&body.org_id).or(claims.org),
        expires: expires.into_iter().flatten().min(),
        endpoint: claims::word(&body.opamp_endpoint),
        management_mode: claims::word(&body.management_mode),
    })
}

impl Issued {
    /// Parts the token from what is known of it.
    pub(super) fn into_credential(
        self,
        service: &str,
        call: &RegistrationCall,
        at: WallTime,
    ) -> (Secret, Credential) {
        let endpoint = self.endpoint.and_then(|text| {
            returned_endpoint(&text, service)
                .inspect_err(|reason| tracing::info!(reason, "returned endpoint not used"))
                .ok()
        });
        let (source, known) = match call {
            RegistrationCall::Register => (CredentialSource::Registered, (None, None)),
            RegistrationCall::Restart { gateway, org } => {
                (CredentialSource::Restarted, (Some(gateway), org.as_ref()))
            }
        };
        let credential = Credential {
            source,
            at,
            expires: self.expires,
            gateway: self.gateway.or_else(|| known.0.cloned()),
            org: self.org.or_else(|| known.1.cloned()),
            endpoint,
            management_mode: self.management_mode,
            unsaved: None,
        };
        (self.token, credential)
    }
}

/// RFC 3339, or seconds since the epoch.
fn moment(value: &Value) -> Option<WallTime> {
    match value {
        Value::String(text) => WallTime::parse(text),
        Value::Number(number) => claims::seconds(number.as_f64()?),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn refused(fetched: &Fetched, call: &RegistrationCall, sent: &Secret) -> Refused {
    let status = fetched.status;
    let (class, text) = match (status, call) {
        (401, _) => (
            FailureClass::Unauthorized,
            "the registration token is not valid, or has expired; get one from whoever runs the service".to_owned(),
        ),
        (403, _) => (
            FailureClass::Forbidden,
            "the registration token may not do this; it may be another organisation's".to_owned(),
        ),
        (404, RegistrationCall::Restart { gateway, .. }) => (
            FailureClass::NotFound,
            format!("the service knows no gateway {gateway}; `adjutant onboard` registers anew"),
        ),
        (404, RegistrationCall::Register) => (
            FailureClass::NotFound,
            "there is no such service at this address; check registration.url".to_owned(),
        ),
        (400 | 422, _) => (
            FailureClass::Invalid,
            "the service does not take what was sent; check registration.name, instance_id and metadata".to_owned(),
        ),
        (429, _) => (FailureClass::Throttled, "it was asked too often".to_owned()),
        (500..=599, _) => (FailureClass::Server, "the service is in trouble".to_owned()),
        (300..=399, _) => (
            FailureClass::Answer,
            "a redirect, which is not followed; name the service itself in registration.url".to_owned(),
        ),
        _ => (FailureClass::Answer, "nobody expects this status here".to_owned()),
    };
    let detail = detail(&fetched.body, sent).map_or_else(String::new, |text| format!(" ({text})"));
    Refused {
        class,
        text: format!("status {status}: {text}{detail}"),
        retry_after: fetched.retry_after(),
    }
}

/// `{"detail": "…"}`, or the list of mistakes that comes with 422. What was sent is not echoed.
fn detail(body: &[u8], sent: &Secret) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = match body.get("detail")? {
        Value::String(text) => text.clone(),
        Value::Array(mistakes) => mistakes
            .iter()
            .take(MISTAKES_MAX)
            .filter_map(mistake)
            .collect::<Vec<_>>()
            .join("; "),
        _ => return None,
    };
    let text: String = text
        .replace(sent.expose(), "…")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_MAX)
        .collect();
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn mistake(mistake: &Value) -> Option<String> {
    let message = mistake.get("msg")?.as_str()?;
    let place: Vec<String> = mistake
        .get("loc")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(claims::word)
        .collect();
    Some(format!("{}: {message}", place.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "planted-registration-token";

    fn read_of(status: u16, body: &str, call: &RegistrationCall) -> Result<Issued, Refused> {
        let fetched = Fetched {
            status,
            headers: hyper::HeaderMap::new(),
            body: body.to_owned().into(),
        };
        read(&fetched, call, &Secret::new(SENT))
    }

    fn restart() -> RegistrationCall {
        RegistrationCall::Restart {
            gateway: "g 1".to_owned(),
            org: Some("7".to_owned()),
        }
    }

    #[test]
    fn a_success_is_a_token_with_what_is_known_of_it() {
        let body = r#"{"id":"error-gw","org_id":7,"opamp_token":" planted-opamp ","status":"registered",
            "opamp_endpoint":"http://0.0.0.0:4320/api/v1/opamp","management_mode":"supervisor",
            "expires_at":"2027-01-01T00:00:00Z","name":"error \"x\"\n"}"#;
        for (call, source) in [
            (RegistrationCall::Register, CredentialSource::Registered),
            (restart(), CredentialSource::Restarted),
        ] {
            let issued = read_of(201, body, &call).unwrap();
            let at = WallTime::from_unix_millis(5);
            let (token, credential) = issued.into_credential("http://b:8000", &call, at);
            assert_eq!(token.expose(), "planted-opamp");
            assert_eq!(
                credential,
                Credential {
                    source,
                    at,
                    expires: Some(WallTime::from_unix_millis(1_798_761_600_000)),
                    gateway: Some("error-gw".to_owned()),
                    org: Some("7".to_owned()),
                    endpoint: None,
                    management_mode: Some("supervisor".to_owned()),
                    unsaved: None,
                }
            );
        }
    }

    #[test]
    fn what_a_restart_leaves_out_is_known_from_before() {
        let call = restart();
        let issued = read_of(200, r#"{"opamp_token":"t"}"#, &call).unwrap();
        let (_, credential) = issued.into_credential("http://b", &call, WallTime::default());
        assert_eq!(credential.gateway.as_deref(), Some("g 1"));
        assert_eq!(credential.org.as_deref(), Some("7"));
    }

    #[test]
    fn the_status_decides_and_no_word_in_the_body() {
        let detail = format!(r#"{{"detail":"no {SENT} no"}}"#);
        let cases = [
            (401, RegistrationCall::Register, FailureClass::Unauthorized),
            (403, restart(), FailureClass::Forbidden),
            (404, restart(), FailureClass::NotFound),
            (404, RegistrationCall::Register, FailureClass::NotFound),
            (400, RegistrationCall::Register, FailureClass::Invalid),
            (422, RegistrationCall::Register, FailureClass::Invalid),
            (429, RegistrationCall::Register, FailureClass::Throttled),
            (500, RegistrationCall::Register, FailureClass::Server),
            (503, RegistrationCall::Register, FailureClass::Server),
            (302, RegistrationCall::Register, FailureClass::Answer),
            (418, RegistrationCall::Register, FailureClass::Answer),
        ];
        for (status, call, class) in cases {
            let refused = read_of(status, &detail, &call).unwrap_err();
            assert_eq!(refused.class, class, "{status}");
            let failure = refused.into_failure("POST http://b/x");
            let start = format!("POST http://b/x: status {status}: ");
            assert!(failure.reason.starts_with(&start), "{}", failure.reason);
            assert!(failure.reason.ends_with(" (no … no)"), "{}", failure.reason);
        }
    }

    #[test]
    fn mistakes_are_quoted_without_what_was_sent() {
        let body =
            r#"{"detail":[{"loc":["body","name"],"msg":"too long","input":"planted-input"}]}"#;
        let refused = read_of(422, body, &RegistrationCall::Register).unwrap_err();
        assert!(
            refused.text.ends_with(" (body.name: too long)"),
            "{}",
            refused.text
        );
        let long = format!(r#"{{"detail":"{}"}}"#, "x".repeat(5000));
        let refused = read_of(422, &long, &RegistrationCall::Register).unwrap_err();
        assert!(refused.text.len() < 500, "{}", refused.text.len());
    }

    #[test]
    fn a_success_with_rubbish_is_a_failure_that_quotes_nothing() {
        for body in [
            "",
            "planted",
            "<html>planted</html>",
            "[\"planted\"]",
            r#"{"id":"planted"}"#,
            r#"{"id":1,"opamp_token":""}"#,
            r#"{"id":1,"opamp_token":"planted two words"}"#,
            r#"{"id":1,"opamp_token":"planted\nheader: x"}"#,
            r#"{"id":1,"opamp_token":["planted"]}"#,
        ] {
            let refused = read_of(201, body, &RegistrationCall::Register).unwrap_err();
            assert_eq!(refused.class, FailureClass::Answer, "{body}");
            assert!(!refused.text.contains("planted"), "{}", refused.text);
        }
    }
}
