//! Calls the registration service and keeps what it issues: the one place where tokens are.
//!
//! Promises: a token is on disk before anything else is done with it; the registration token is read when it is used
//! and forgotten; whatever goes wrong has a class and one sentence, in which no secret occurs even if the service
//! echoes it. The stored token is preferred over the environment's.
//! Must never: retry, decide when to call, or hand a token to anything but a connection.

use std::path::Path;

use opamp_client::transport::ProxyRules;
use tokio::sync::watch;

use crate::config::Registration;
use crate::config::registration::OPAMP_TOKEN;
use crate::engine::message::{Credential, CredentialSource, FailureClass, RegistrationFailure};
use crate::port::host::HostFacts;
use crate::port::store::{CredentialStore, LoadedCredential, StoredCredential};
use crate::sys::clock;
use crate::sys::durable::RealDisk;
use crate::units::Secret;

#[cfg(feature = "registration")]
mod answer;
#[cfg(feature = "registration")]
mod calls;
mod claims;
#[cfg(not(feature = "registration"))]
mod no_calls;

/// What a registration says about this host, unless the settings say otherwise.
#[derive(Debug, Clone, Default)]
#[cfg_attr(
    not(feature = "registration"),
    expect(dead_code, reason = "only a call says it")
)]
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

fn failure(class: FailureClass, reason: String) -> RegistrationFailure {
    RegistrationFailure {
        class,
        reason,
        retry_after: None,
    }
}

#[cfg(all(test, feature = "registration"))]
mod tests;
