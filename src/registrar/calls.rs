//! One call of the service: what is sent, with which token, and what comes of the answer (feature `registration`).
//!
//! Promises: the registration token is read when it is used and forgotten; one deadline and one limit for an answer.
//! Must never: retry.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::{Registrar, answer, failure, is_token};
use crate::config::registration::REGISTRATION_TOKEN;
use crate::config::{Registration, TokenSource};
use crate::engine::message::{Credential, FailureClass, RegistrationCall, RegistrationFailure};
use crate::port::fetch::{self, FetchClass, FetchRequest};
use crate::sys::clock;
use crate::sys::durable::{Disk as _, RealDisk};
use crate::units::Secret;

/// For one call, from the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of an answer; a gateway's record has about one thousand.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a registration token's file.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Mode bits: somebody else may write.
const OTHERS_WRITE: u32 = 0o022;
/// Mode bits: everybody may read.
const ALL_READ: u32 = 0o004;

/// Capabilities by the names that supervisors' settings use.
const CAPABILITIES: [(u64, &str); 7] = [
    (0x1, "reports_status"),
    (0x2, "accepts_remote_config"),
    (0x4, "reports_effective_config"),
    (0x400, "accepts_restart_command"),
    (0x800, "reports_health"),
    (0x1000, "reports_remote_config"),
    (0x2000, "reports_heartbeat"),
];

impl Registrar {
    /// Calls the service once. What it issues is on disk when this returns, or `unsaved` says why not.
    pub(crate) async fn call(
        &self,
        settings: &Registration,
        call: &RegistrationCall,
    ) -> Result<Credential, RegistrationFailure> {
        let service = settings.url.as_deref().unwrap_or_default();
        let token = registration_token(settings.token.clone()).await?;
        let url = format!("{service}{}", path(call));
        let asked = format!("POST {}", fetch::shown(&url));
        let tls = fetch::tls_options(settings.tls.clone())
            .await
            .map_err(|reason| failure(FailureClass::Settings, format!("{asked}: {reason}")))?;
        let request = FetchRequest {
            method: Method::POST,
            url,
            headers: headers(&token)?,
            body: self.body(settings, call),
            deadline: DEADLINE,
            body_max: ANSWER_BYTES_MAX,
        };
        let fetched = fetch::fetch(request, tls, &self.proxies)
            .await
            .map_err(|error| {
                let class = match error.class {
                    FetchClass::Network | FetchClass::Timeout | FetchClass::Tls => {
                        FailureClass::Network
                    }
                    FetchClass::TooLarge => FailureClass::Answer,
                    FetchClass::Request => FailureClass::Settings,
                };
                failure(class, error.to_string())
            })?;
        let issued =
            answer::read(&fetched, call, &token).map_err(|reason| reason.into_failure(&asked))?;
        let (token, mut credential) = issued.into_credential(service, call, clock::wall());
        credential.unsaved = self.keep(token, credential.clone()).await.err();
        Ok(credential)
    }

    pub(super) fn body(&self, settings: &Registration, call: &RegistrationCall) -> Bytes {
        if matches!(call, RegistrationCall::Restart { .. }) {
            return Bytes::new();
        }
        let instance = settings
            .instance_id
            .as_ref()
            .unwrap_or(&self.host.instance_id);
        let mut metadata: serde_json::Map<String, Value> = settings
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        metadata.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        // A label of the operator may say which collector runs here; we start whatever the settings name.
        metadata
            .entry("otel_version")
            .or_insert_with(|| json!("unknown"));
        let capabilities: Vec<&str> = CAPABILITIES
            .iter()
            .filter(|(bit, _)| self.host.capabilities & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        metadata.insert("capabilities".to_owned(), json!(capabilities));
        let body = json!({
            "name": settings.name.as_ref().unwrap_or(instance),
            "instance_id": instance,
            "hostname": self.host.hostname,
            "ip_address": settings.ip_address,
            "metadata": metadata,
        });
        body.to_string().into()
    }
}

pub(super) fn path(call: &RegistrationCall) -> String {
    match call {
        RegistrationCall::Register => "/api/v1/gateways".to_owned(),
        RegistrationCall::Restart { gateway, org } => {
            let mut path = format!("/api/v1/gateways/{}/restart-registration", escaped(gateway));
            if let Some(org) = org {
                path.push_str("?org_id=");
                path.push_str(&escaped(org));
            }
            path
        }
    }
}

/// Everything but letters, digits and `-_.` as `%XX`.
fn escaped(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.push_str(&crate::units::hex(&[byte]).to_uppercase());
        }
    }
    path
}

fn headers(token: &Secret) -> Result<HeaderMap, RegistrationFailure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
        let reason = "the registration token holds characters that no token has".to_owned();
        failure(FailureClass::Settings, reason)
    })?;
    value.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(headers)
}

/// Reads the registration token from where the settings say it is, now.
async fn registration_token(source: TokenSource) -> Result<Secret, RegistrationFailure> {
    // The file may be on a slow disk.
    let read = tokio::task::spawn_blocking(move || match source {
        TokenSource::None => Err(format!(
            "there is no registration token; set registration.token_file or {REGISTRATION_TOKEN}"
        )),
        TokenSource::Environment => std::env::var(REGISTRATION_TOKEN)
            .map_err(|_| format!("read the variable {REGISTRATION_TOKEN}: it is not set to a text"))
            .and_then(|text| token_of(&text, &format!("the variable {REGISTRATION_TOKEN}"))),
        TokenSource::File(path) => token_of_file(&path),
    });
    let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
    read.map_err(|reason| failure(FailureClass::Settings, reason))
}

pub(super) fn token_of_file(path: &Path) -> Result<Secret, String> {
    let what = format!("the registration token's file {}", path.display());
    let failed = |error: io::Error| {
        format!("read {what}: {error}; put the token there, readable by the supervisor's user")
    };
    let mode = std::fs::metadata(path).map_err(failed)?.mode();
    if mode & OTHERS_WRITE != 0 {
        return Err(format!(
            "{what} can be written by others (mode {:04o}), who could register us as they like; chmod go-w it",
            mode & 0o7777
        ));
    }
    if mode & ALL_READ != 0 {
        // Mounted secrets are readable for all by default, so this is no reason to refuse.
        tracing::warn!(
            path = %path.display(),
            "the registration token's file can be read by everybody on this host; chmod o-r it"
        );
    }
    let bytes = RealDisk.read(path, TOKEN_BYTES_MAX).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{what} holds no text"))?;
    token_of(&text, &what)
}

fn token_of(text: &str, what: &str) -> Result<Secret, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(format!(
            "{what} is empty; put the registration token into it"
        ));
    }
    if !is_token(text) {
        return Err(format!(
            "{what} holds more than one word, or characters that no token has; put the token alone into it"
        ));
    }
    Ok(Secret::new(text))
}
