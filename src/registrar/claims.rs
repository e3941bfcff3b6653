//! What a token says about itself, if it is a JSON Web Token: when it expires and whose it is.
//!
//! Promises: total; a text that is no such token says nothing.
//! Must never: verify, or grant anything by what it reads: the signature is the server's matter, and what stands
//! here is only shown and counted down.

use serde::Deserialize;
use serde_json::Value;

use crate::port::admin::base64;
use crate::units::WallTime;

/// What the field's servers put into a token for OpAMP.
const OPAMP_TYPE: &str = "opamp_token";

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Claims {
    /// `exp`.
    pub(super) expires: Option<WallTime>,
    /// `sub`, of a token for OpAMP.
    pub(super) gateway: Option<String>,
    /// `org_id`, of a token for OpAMP.
    pub(super) org: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    exp: Option<f64>,
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    org_id: Value,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Reads the middle part of a token.
pub(super) fn read(token: &str) -> Claims {
    payload(token).map_or_else(Claims::default, |payload| {
        let ours = payload.kind.as_deref() == Some(OPAMP_TYPE);
        Claims {
            expires: payload.exp.and_then(seconds),
            gateway: word(&payload.sub).filter(|_| ours),
            org: word(&payload.org_id).filter(|_| ours),
        }
    })
}

fn payload(token: &str) -> Option<Payload> {
    let mut parts = token.split('.');
    let (_head, body, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    // The URL's alphabet without padding, as the standard one with it.
    let mut text = body.replace('-', "+").replace('_', "/");
    while text.len() % 4 != 0 {
        text.push('=');
    }
    serde_json::from_slice(&base64::decode(&text)?).ok()
}

/// Seconds since the epoch, as far as a calendar goes.
pub(super) fn seconds(number: f64) -> Option<WallTime> {
    /// The year 9999.
    const LAST: f64 = 253_402_300_799.0;
    if !(0.0..=LAST).contains(&number) {
        return None;
    }
    let span = std::time::Duration::try_from_secs_f64(number).ok()?;
    let millis = u64::try_from(span.as_millis()).ok()?;
    Some(WallTime::from_unix_millis(millis))
}

/// An id, be it a text or a number; bounded.
pub(super) fn word(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let fits = !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
    fits.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        let part = |text: &str| {
            let text = base64::encode(text.as_bytes());
            text.trim_end_matches('=')
                .replace('+', "-")
                .replace('/', "_")
        };
        format!(
            "{}.{}.c2lnbmF0dXJl",
            part("{\"alg\":\"HS256\"}"),
            part(payload)
        )
    }

    #[test]
    fn the_claims_of_a_token_for_opamp_are_read() {
        let claims = read(&token(
            r#"{"sub":"17","org_id":4,"type":"opamp_token","iat":1700000000,"exp":1731536000,"x":"ä?>"}"#,
        ));
        assert_eq!(claims.gateway.as_deref(), Some("17"));
        assert_eq!(claims.org.as_deref(), Some("4"));
        let wanted = WallTime::from_unix_millis(1_731_536_000_000);
        assert_eq!(claims.expires, Some(wanted));
    }

    #[test]
    fn whose_another_kind_of_token_is_is_not_taken_over() {
        let claims = read(&token(r#"{"sub":"user","exp":1731536000.5}"#));
        assert_eq!(claims.gateway, None);
        let wanted = WallTime::from_unix_millis(1_731_536_000_500);
        assert_eq!(claims.expires, Some(wanted));
    }

    #[test]
    fn what_is_no_such_token_says_nothing() {
        for text in [
            "",
            "opaque",
            "a.b",
            "a.b.c.d",
            "a.!!!.c",
            &token("[]"),
            &token("{\"exp\":\"soon\"}"),
            &token("{\"exp\":-1}"),
            &token("{\"exp\":1e300}"),
        ] {
            assert_eq!(read(text), Claims::default(), "{text}");
        }
    }
}
