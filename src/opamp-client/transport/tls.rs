//! TLS of our own making: rustls with ring, given explicitly, and roots as the options say.
//!
//! Promises: verification is off only if a flag of that name says so; a CA without the system roots is the only
//! anchor; the system roots are read only when they are used.
//! Must never: choose a process-wide crypto provider.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How to verify the server, and how to prove ourselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM certificates to trust. `None` means the system roots.
    pub ca_pem: Option<Vec<u8>>,
    /// Trust the system roots beside `ca_pem`, too.
    pub include_system_roots: bool,
    /// No verification at all. Never set this because an offer says so.
    pub insecure_skip_verify: bool,
    /// Our own certificate.
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate chain with its key, both PEM. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Leaf first.
    pub chain_pem: Vec<u8>,
    /// Private key of the leaf.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(…)")
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub(super) struct TlsSetupError {
    what: &'static str,
    reason: String,
}

impl TlsSetupError {
    fn new(what: &'static str, reason: impl fmt::Display) -> Self {
        Self {
            what,
            reason: reason.to_string(),
        }
    }
}

/// Builds a configuration. Reads files of the system if its roots are wanted, so it may block.
pub(super) fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsSetupError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSetupError::new("tls versions", error))?;
    let builder = if options.insecure_skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
    } else {
        builder.with_root_certificates(roots(options)?)
    };
    let mut config = match &options.client_certificate {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = certificates("client certificate", &own.chain_pem)?;
            let key = PrivateKeyDer::from_pem_slice(&own.key_pem)
                .map_err(|error| TlsSetupError::new("client key", error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| TlsSetupError::new("client certificate", error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, TlsSetupError> {
    let mut store = RootCertStore::empty();
    if let Some(pem) = &options.ca_pem {
        for certificate in certificates("ca certificate", pem)? {
            store
                .add(certificate)
                .map_err(|error| TlsSetupError::new("ca certificate", error))?;
        }
    }
    if options.ca_pem.is_none() || options.include_system_roots {
        let found = rustls_native_certs::load_native_certs();
        // A few of them being odd is normal; none at all is not.
        let (usable, _odd) = store.add_parsable_certificates(found.certs);
        if usable == 0 {
            let detail = found
                .errors
                .first()
                .map_or_else(|| "none found".to_owned(), ToString::to_string);
            let reason = format!(
                "{detail}; install ca-certificates, set SSL_CERT_FILE, or name a CA file in the TLS settings"
            );
            return Err(TlsSetupError::new("system roots", reason));
        }
    }
    Ok(store)
}

fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsSetupError::new(what, error))?;
    if chain.is_empty() {
        return Err(TlsSetupError::new(what, "no certificate in the PEM text"));
    }
    Ok(chain)
}

/// Accepts any certificate, but still wants proof that the server holds its key.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
