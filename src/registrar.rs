//! Calls the registration service and keeps what it issues: the one place where tokens are.
//!
//! Promises: a token is on disk before anything else is done with it; the registration token is read when it is used
//! and forgotten; whatever goes wrong has a class and one sentence, in which no secret occurs even if the service
//! echoes it. The stored token is preferred over the environment's.
//! Must never: retry, decide when to call, or hand a token to anything but a connection.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use opamp_client::transport::ProxyRules;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::registration::{OPAMP_TOKEN, REGISTRATION_TOKEN};
use crate::config::{Registration, TokenSource};
use crate::engine::message::{
    Credential, CredentialSource, FailureClass, RegistrationCall, RegistrationFailure,
};
use crate::port::fetch::{self, FetchClass, FetchRequest};
use crate::port::host::HostFacts;
use crate::port::store::{CredentialStore, LoadedCredential, StoredCredential};
use crate::sys::clock;
use crate::sys::durable::{Disk as _, RealDisk};
use crate::units::Secret;

mod answer;
mod claims;

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

/// What a registration says about this host, unless the settings say otherwise.
#[derive(Debug, Clone, Default)]
struct Host {
    /// The node's name where there is one, else the host's.
    instance_id: String,
    hostname: String,
    machine_id: String,
    capabilities: u64,
}

/// The token that links use now; empty until there is one.
#[derive(Debug, Clone)]
pub(crate) struct Vault(watch::Sender<Option<StoredCredential>>);

impl Vault {
    fn new(stored: Option<StoredCredential>) -> Self {
        Self(watch::Sender::new(stored))
    }

    /// The token, for the connection that is about to be made.
    pub(crate) fn token(&self) -> Option<Secret> {
        self.0.borrow().as_ref().map(|stored| stored.token.clone())
    }

    fn put(&self, stored: StoredCredential) {
        self.0.send_replace(Some(stored));
    }
}

/// Calls the service, stores what comes.
#[derive(Debug, Clone)]
pub(crate) struct Registrar {
    store: CredentialStore<RealDisk>,
    host: Host,
    proxies: ProxyRules,
    vault: Vault,
}

/// What is there at the start.
#[derive(Debug)]
pub(crate) struct Known {
    /// For calls.
    pub(crate) registrar: Registrar,
    /// What is known of the token.
    pub(crate) credential: Option<Credential>,
    /// Why nothing is known of a token that may be there.
    pub(crate) unreadable: Option<String>,
}

impl Registrar {
    /// Reads what an earlier life stored, else, with a registration in the settings, what the environment
    /// brings.
    pub(crate) fn establish(
        state: &Path,
        settings: Option<&Registration>,
        facts: &HostFacts,
        capabilities: u64,
        proxies: ProxyRules,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Known {
        let (store, loaded, unreadable) = match CredentialStore::load(RealDisk, state) {
            Ok((store, loaded)) => (store, loaded, None),
            Err((store, fault)) => (store, LoadedCredential::default(), Some(fault.reason)),
        };
        let attribute = |name: &str| facts.attributes.get(name).cloned();
        let hostname = attribute("host.name").unwrap_or_default();
        let host = Host {
            instance_id: attribute("k8s.node.name").unwrap_or_else(|| hostname.clone()),
            hostname,
            machine_id: facts.machine_id.clone(),
            capabilities,
        };
        // Also without a registration in the settings: one may come with a HUP, and nobody asks twice for a token, nor
        // for one in place of a token that cannot be read.
        let mut found = ours(loaded.stored, &host.machine_id);
        if settings.is_some() {
            if let Some(repair) = &loaded.repair {
                tracing::warn!(repair, "stored token");
            }
            let seed = variable(OPAMP_TOKEN).and_then(|text| seeded(&text));
            match (&found, seed) {
                (Some(stored), Some(seed)) if stored.token != seed.token => {
                    tracing::warn!(
                        "OPAMP_TOKEN is set and not used, because a token that was issued to us is stored; unset it"
                    );
                }
                (None, Some(seed)) if unreadable.is_none() => found = Some(seed),
                _ => {}
            }
        }
        Known {
            credential: found.as_ref().map(|stored| stored.credential.clone()),
            unreadable,
            registrar: Self {
                store,
                host,
                proxies,
                vault: Vault::new(found),
            },
        }
    }

    /// Proxies as the environment named them at our start; links use the same.
    pub(crate) fn proxies(&self) -> &ProxyRules {
        &self.proxies
    }

    /// Where links find the token.
    pub(crate) fn vault(&self) -> Vault {
        self.vault.clone()
    }

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

    /// Tries again to put the current token on disk.
    pub(crate) async fn save_again(&self) -> Result<Credential, RegistrationFailure> {
        let stored = self.vault.0.borrow().clone();
        let Some(stored) = stored else {
            let reason = "there is no token to store".to_owned();
            return Err(failure(FailureClass::Settings, reason));
        };
        let mut credential = stored.credential.clone();
        credential.unsaved = self.keep(stored.token, stored.credential).await.err();
        Ok(credential)
    }

    /// Disk first, then the links: the old token is revoked by now, so a disk that refuses does not keep it in use.
    async fn keep(&self, token: Secret, credential: Credential) -> Result<(), String> {
        let stored = StoredCredential {
            token,
            credential,
            machine_id: self.host.machine_id.clone(),
        };
        let (store, written) = (self.store.clone(), stored.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&written)).await;
        self.vault.put(stored);
        match saved {
            Ok(saved) => saved.map_err(|fault| fault.reason),
            Err(error) => Err(format!("store the token: {error}")),
        }
    }

    fn body(&self, settings: &Registration, call: &RegistrationCall) -> Bytes {
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

/// A stored token, unless it was issued to another machine of which this directory is a copy.
fn ours(stored: Option<StoredCredential>, machine_id: &str) -> Option<StoredCredential> {
    let stored = stored?;
    let known = !stored.machine_id.is_empty() && !machine_id.is_empty();
    if known && stored.machine_id != machine_id {
        tracing::warn!(
            from = stored.machine_id,
            to = machine_id,
            "state directory comes from another machine, its token is not used"
        );
        return None;
    }
    Some(stored)
}

/// The token that the environment brings. It is not written down, so that changing the variable changes the token.
fn seeded(text: &str) -> Option<StoredCredential> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if !is_token(text) {
        tracing::warn!("OPAMP_TOKEN is set to something that is no token, and not used");
        return None;
    }
    let claims = claims::read(text);
    Some(StoredCredential {
        token: Secret::new(text),
        credential: Credential {
            source: CredentialSource::Environment,
            at: clock::wall(),
            expires: claims.expires,
            gateway: claims.gateway,
            org: claims.org,
            endpoint: None,
            management_mode: None,
            unsaved: None,
        },
        machine_id: String::new(),
    })
}

/// Whether a text can be sent behind `Bearer`: visible ASCII without spaces.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn path(call: &RegistrationCall) -> String {
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

fn token_of_file(path: &Path) -> Result<Secret, String> {
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

fn failure(class: FailureClass, reason: String) -> RegistrationFailure {
    RegistrationFailure {
        class,
        reason,
        retry_after: None,
    }
}

#[cfg(test)]
mod tests;
