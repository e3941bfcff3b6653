//! Asking the server for a client certificate: the request goes out, the key stays here.
//!
//! Promises: a key is saved before its request leaves, and is kept until a certificate for it was proven; a
//! request leaves only for a server that says it takes them, over a connection that is encrypted and verified
//! and never in a hurry. Must never: let a key out.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};

use super::pair::{self, PEM_BYTES_MAX};
use super::{Clock, RENEWAL_SLEEP_MAX, Refused, Settings, SettingsEffect, Trouble};
use crate::messages::{
    self, ConnectionSettingsRequest, OpAmpConnectionSettingsRequest, ServerCapabilities,
    TlsCertificate,
};
use crate::session::printable;

/// Least wait between two requests, doubled each time.
const GAP_MIN: Duration = Duration::from_mins(1);
const GAP_MAX: Duration = Duration::from_hours(6);

/// A request for a certificate with the key that signed it, both PEM. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// PKCS#10.
    pub csr_pem: Vec<u8>,
    /// Never leaves this client.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateRequest(…)")
    }
}

/// Why no certificate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request is not PKCS#10 in PEM.
    #[error("certificate request is not PEM of PKCS#10")]
    Request,
    /// The key is not one in PEM.
    #[error("key of the certificate request is not PEM")]
    Key,
    /// Its key could not be kept over a restart.
    #[error("the key of a certificate request cannot be stored here")]
    Store,
    /// The answer could come from anybody.
    #[error("the connection to the server is not encrypted and verified")]
    Unverified,
}

/// Whether the key of a request would survive a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Not,
    /// A state with it was handed out under this id, or a later one.
    Since(u64),
    Stored,
}

/// A request that is not answered yet.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) csr_pem: Vec<u8>,
    pub(super) key_pem: Vec<u8>,
    kept: Kept,
    /// It left on this connection.
    sent: bool,
    not_before: Duration,
    gap: Duration,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("kept", &self.kept)
            .field("sent", &self.sent)
            .field("not_before", &self.not_before)
            .finish_non_exhaustive()
    }
}

impl Pending {
    pub(super) fn restored(csr_pem: Vec<u8>, key_pem: Vec<u8>) -> Self {
        Self {
            csr_pem,
            key_pem,
            kept: Kept::Stored,
            sent: false,
            not_before: Duration::ZERO,
            gap: GAP_MIN,
        }
    }

    /// A state with the key was handed out for saving.
    pub(super) fn handed_out(&mut self, id: u64) {
        if self.kept == Kept::Not {
            self.kept = Kept::Since(id);
        }
    }

    /// Whatever was sent on the last one may be lost.
    pub(super) fn new_connection(&mut self) {
        self.sent = false;
    }

    /// The server did not like it; it may later, for example when somebody has approved us.
    pub(super) fn refused(&mut self, clock: Clock) {
        if self.sent {
            self.sent = false;
            self.not_before = self.not_before.max(clock.now.saturating_add(GAP_MIN));
        }
    }
}

impl Settings {
    /// Asks the server for a certificate as soon as the key is stored and the server takes requests. Another request
    /// in the meantime replaces the one before. The answer arrives as an offer and is paired with the key. A key that
    /// cannot be stored ends in [`SettingsEffect::RequestGivenUp`].
    ///
    /// # Errors
    /// [`RequestError`]; nothing has changed then.
    pub fn request_certificate(
        &mut self,
        clock: Clock,
        request: CertificateRequest,
    ) -> Result<(), RequestError> {
        let CertificateRequest { csr_pem, key_pem } = request;
        let long = csr_pem.len() > PEM_BYTES_MAX;
        if long || CertificateSigningRequestDer::from_pem_slice(&csr_pem).is_err() {
            return Err(RequestError::Request);
        }
        if PrivateKeyDer::from_pem_slice(&key_pem).is_err() {
            return Err(RequestError::Key);
        }
        let policy = self.config.policy;
        if !policy.can_save {
            return Err(RequestError::Store);
        }
        let verified = self.current.is_tls() && !self.current.tls.insecure_skip_verify;
        if !verified && !policy.allow_plaintext_request {
            return Err(RequestError::Unverified);
        }
        let paced = self.state.pending.take();
        let mut pending = Pending::restored(csr_pem, key_pem);
        pending.kept = Kept::Not;
        if let Some(paced) = paced {
            pending.not_before = paced.not_before;
            pending.gap = paced.gap;
        }
        self.state.pending = Some(pending);
        self.unsaved = true;
        self.go_on(clock);
        Ok(())
    }

    /// Completes a certificate that comes without a key by ours; true if it answers the pending request.
    pub(super) fn pair_with_own_key(
        &self,
        certificate: &mut TlsCertificate,
    ) -> Result<bool, Refused> {
        if !certificate.private_key.is_empty() || certificate.cert.is_empty() {
            return Ok(false);
        }
        let pending = self.state.pending.as_ref().map(|pending| &pending.key_pem);
        let present = self.current.tls.client_certificate.as_ref();
        let present = present.map(|present| &present.key_pem);
        let fits = |key: &&Vec<u8>| pair::belongs(&certificate.cert, key);
        let key = pending.filter(fits).or_else(|| present.filter(fits));
        let Some(key) = key.cloned() else {
            let reason = "is missing, and no key that is held here belongs to the certificate";
            return Err(Refused::new("opamp", "certificate.private_key", reason));
        };
        let answers = pending == Some(&key);
        certificate.private_key = key;
        Ok(answers)
    }

    /// A state was saved, or could not be: the key of a request may be in it.
    pub(super) fn request_saved(&mut self, id: u64, result: &Result<(), String>) {
        let Some(pending) = &mut self.state.pending else {
            return;
        };
        match pending.kept {
            Kept::Since(first) if (first..=self.next_id).contains(&id) => {}
            _ => return,
        }
        match result {
            Ok(()) => pending.kept = Kept::Stored,
            Err(reason) => {
                self.state.pending = None;
                let reason = format!("the key could not be stored: {reason}");
                self.effect(SettingsEffect::RequestGivenUp(Trouble(printable(&reason))));
            }
        }
    }

    fn takes_requests(&self) -> bool {
        self.link.is_some()
            && self.server_capabilities.is_some_and(|mask| {
                ServerCapabilities::AcceptsConnectionSettingsRequest.is_in(mask)
            })
    }

    pub(super) fn request_due(&self) -> Option<Duration> {
        let pending = self
            .state
            .pending
            .as_ref()
            .filter(|pending| pending.kept == Kept::Stored && !pending.sent)?;
        self.takes_requests().then_some(pending.not_before)
    }

    pub(super) fn send_request(&mut self, clock: Clock) {
        if self.request_due().is_none_or(|due| due > clock.now) {
            return;
        }
        let Some(pending) = &mut self.state.pending else {
            return;
        };
        pending.sent = true;
        pending.not_before = clock.now.saturating_add(pending.gap);
        pending.gap = pending.gap.saturating_mul(2).min(GAP_MAX);
        let certificate_request = messages::CertificateRequest {
            csr: pending.csr_pem.clone(),
        };
        self.effect(SettingsEffect::Request(ConnectionSettingsRequest {
            opamp: Some(OpAmpConnectionSettingsRequest {
                certificate_request: Some(certificate_request),
            }),
        }));
    }

    /// When the certificate in force should be replaced, if anybody asked to be told.
    fn renewal_at(&self) -> Option<Duration> {
        let facts = self.facts.filter(|_| self.config.renew)?;
        let told = self.renewal_told == Some(facts.not_after) || self.state.pending.is_some();
        (!told).then(|| facts.renew_at(self.config.seed))
    }

    pub(super) fn renewal_due(&self) -> Option<Duration> {
        let left = self.renewal_at()?.saturating_sub(self.last.unix);
        Some(self.last.now.saturating_add(left.min(RENEWAL_SLEEP_MAX)))
    }

    pub(super) fn tell_renewal(&mut self, clock: Clock) {
        if self.renewal_at().is_some_and(|at| at <= clock.unix)
            && let Some(facts) = self.facts
        {
            self.renewal_told = Some(facts.not_after);
            self.effect(SettingsEffect::CertificateDue {
                not_after: facts.not_after,
            });
        }
    }
}
