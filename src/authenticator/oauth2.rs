//! A token for client credentials (RFC 6749, section 4.4).
//!
//! Promises: one request for a token that has not ended is one too many; both ways of showing the credentials are
//! tried, the header first. Must never: let a token or a secret into an error, even if the server echoes it.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Method};
use opamp_client::transport::TlsOptions;
use serde::Deserialize;

use super::{Authenticator, joined, read, unusable};
use crate::config::OAuth2;
use crate::engine::message::{LinkLoss, LossKind};
use crate::port::admin::base64;
use crate::port::fetch::{self, FetchClass, FetchRequest, Fetched, fetch};
use crate::sys::clock;
use crate::units::{Moment, Secret};

/// Bytes of an answer.
const ANSWER_MAX: usize = 256 * 1024;
/// A token that does not say when it ends is used this long.
const LIFE_UNSAID: Duration = Duration::from_mins(5);

/// A token, and for which settings it was given.
#[derive(Debug, Clone)]
pub(super) struct Token {
    settings: OAuth2,
    header: Secret,
    until: Moment,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
}

/// What shows the credentials.
#[derive(Clone, Copy)]
enum Shown {
    Header,
    Body,
}

impl Authenticator {
    /// `Bearer …`: what is cached, or what the authorization server gives now.
    pub(super) async fn token(&self, settings: &OAuth2) -> Result<String, LinkLoss> {
        let cached = self.tokens.borrow().clone();
        if let Some(token) = cached
            && token.settings == *settings
            && clock::now().mono < token.until
        {
            return Ok(token.header.expose().to_owned());
        }
        let (id, secret) = (settings.client_id.clone(), settings.client_secret.clone());
        let pair =
            tokio::task::spawn_blocking(move || Ok::<_, String>((read(&id)?, read(&secret)?)));
        let (id, secret) = joined(pair.await)?;
        let tls = fetch::tls_options(settings.tls.clone())
            .await
            .map_err(unusable)?;
        let ask = |shown| self.ask(settings, (&id, &secret), tls.clone(), shown);
        let mut fetched = ask(Shown::Header).await?;
        if matches!(fetched.status, 400 | 401) {
            fetched = ask(Shown::Body).await?;
        }
        let (header, life) = token_of(&fetched, &settings.token_url)?;
        let life = life.saturating_sub(settings.expiry_buffer);
        self.tokens.send_replace(Some(Token {
            settings: settings.clone(),
            header: Secret::new(header.as_str()),
            until: clock::now().mono.after(life),
        }));
        Ok(header)
    }

    async fn ask(
        &self,
        settings: &OAuth2,
        (id, secret): (&Secret, &Secret),
        tls: TlsOptions,
        shown: Shown,
    ) -> Result<Fetched, LinkLoss> {
        let mut form = "grant_type=client_credentials".to_owned();
        let mut add = |name: &str, value: &str| {
            form.push('&');
            form.push_str(&encoded(name));
            form.push('=');
            form.push_str(&encoded(value));
        };
        if !settings.scopes.is_empty() {
            add("scope", &settings.scopes.join(" "));
        }
        for (name, value) in &settings.parameters {
            add(name, value.expose());
        }
        let mut headers = HeaderMap::new();
        let typed = "application/x-www-form-urlencoded".parse();
        headers.extend(typed.ok().map(|value| (CONTENT_TYPE, value)));
        match shown {
            Shown::Header => {
                let pair = format!("{}:{}", encoded(id.expose()), encoded(secret.expose()));
                let value = format!("Basic {}", base64::encode(pair.as_bytes())).parse();
                headers.extend(value.ok().map(|value| (AUTHORIZATION, value)));
            }
            Shown::Body => {
                add("client_id", id.expose());
                add("client_secret", secret.expose());
            }
        }
        let request = FetchRequest {
            method: Method::POST,
            url: settings.token_url.clone(),
            headers,
            body: form.into(),
            deadline: settings.timeout,
            body_max: ANSWER_MAX,
        };
        fetch(request, tls, &self.proxies).await.map_err(|error| {
            let kind = match error.class {
                FetchClass::Network | FetchClass::Timeout => LossKind::Network,
                FetchClass::Tls => LossKind::Tls,
                FetchClass::Request | FetchClass::TooLarge => LossKind::Protocol,
            };
            lost(kind, format!("token of server.auth: {error}"))
        })
    }
}

/// The header and how long it may be used.
fn token_of(fetched: &Fetched, url: &str) -> Result<(String, Duration), LinkLoss> {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let answer: Option<Answer> = serde_json::from_slice(&fetched.body).ok();
    if !(200..300).contains(&fetched.status) {
        let kind = match fetched.status {
            400 | 401 | 403 => LossKind::Rejected,
            429 | 503 => LossKind::Throttled,
            _ => LossKind::Network,
        };
        // The code of an error is one of a few words; its description may hold anything.
        let word = answer.and_then(|answer| answer.error).filter(|word| {
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            word.len() <= 64 && word.chars().all(plain)
        });
        let word = word.map(|word| format!(" ({word})")).unwrap_or_default();
        let reason = format!(
            "token of server.auth: {url} answered {}{word}",
            fetched.status
        );
        return Err(LinkLoss {
            retry_after: fetched.retry_after(),
            ..lost(kind, reason)
        });
    }
    let no_token = || {
        let reason = format!("token of server.auth: the answer of {url} holds no token");
        lost(LossKind::Protocol, reason)
    };
    let answer = answer.ok_or_else(no_token)?;
    let token = answer.access_token.filter(|token| is_token(token));
    let token = token.ok_or_else(no_token)?;
    let kind = answer.token_type.unwrap_or_default();
    let scheme = match kind.to_ascii_lowercase().as_str() {
        "" | "bearer" => "Bearer",
        "basic" => "Basic",
        "mac" => "MAC",
        _ if is_token(&kind) => kind.as_str(),
        _ => return Err(no_token()),
    };
    let seconds = answer.expires_in.and_then(|value| match value {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    });
    let life = seconds.map_or(LIFE_UNSAID, Duration::from_secs);
    Ok((format!("{scheme} {token}"), life))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn lost(kind: LossKind, reason: String) -> LinkLoss {
    LinkLoss {
        kind,
        reason,
        retry_after: None,
    }
}

/// As a form has it.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a text cannot fail.
            _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Fetched {
        Fetched {
            status,
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn what_a_server_gives_is_a_token_with_its_life_or_a_reason_without_secrets() {
        let url = "https://id.example/token?secret=1";
        let read = |status, body| token_of(&answer(status, body), url);
        let good = read(
            200,
            r#"{"access_token":"abc","token_type":"bearer","expires_in":3600}"#,
        );
        assert_eq!(
            good.unwrap(),
            ("Bearer abc".to_owned(), Duration::from_hours(1))
        );
        let text = read(200, r#"{"access_token":"abc","expires_in":"60"}"#);
        assert_eq!(
            text.unwrap(),
            ("Bearer abc".to_owned(), Duration::from_mins(1))
        );
        let bare = read(200, r#"{"access_token":"abc"}"#);
        assert_eq!(bare.unwrap().1, LIFE_UNSAID);

        let refused = read(
            401,
            r#"{"error":"invalid_client","error_description":"secret hunter2"}"#,
        );
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, LossKind::Rejected);
        assert_eq!(
            refused.reason,
            "token of server.auth: https://id.example/token answered 401 (invalid_client)"
        );
        assert_eq!(read(503, "").unwrap_err().kind, LossKind::Throttled);
        for odd in [
            "",
            "[]",
            "{}",
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":""}"#,
        ] {
            let lost = read(200, odd).unwrap_err();
            assert_eq!(lost.kind, LossKind::Protocol, "{odd}");
        }
    }
}
