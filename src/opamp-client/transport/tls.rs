//! TLS of our own making: rustls with ring, given explicitly, and roots as the options say.
//!
//! Promises: verification is off only if a flag of that name says so; a CA without the system roots is the only
//! anchor; versions and suites are at most those that the options name; the system roots are
//! read only when they are used.
//! Must never: choose a process-wide crypto provider.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};

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
    /// The oldest version that is spoken; TLS 1.2 if none is named.
    pub min_version: Option<TlsVersion>,
    /// The newest version that is spoken; the newest there is if none is named.
    pub max_version: Option<TlsVersion>,
    /// The suites that are spoken, by their registered names (`TLS_AES_256_GCM_SHA384` …); empty means all.
    /// A list of TLS 1.2 suites alone leaves TLS 1.3 as it is: it says nothing about it, and must not be what turns
    /// it off. Unknown names are passed over as long as one is known.
    pub cipher_suites: Vec<String>,
    /// The curves that are offered for the key exchange, the preferred first; empty means all there are.
    pub curves: Vec<Curve>,
    /// The name that the server's certificate must have, instead of the host of the destination.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// Whether versions, suites and curves leave anything to speak with.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        check(self).map_err(|(what, reason)| format!("{what}: {reason}"))
    }
}

/// The curves of key exchanges that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Curve {
    /// X25519.
    X25519,
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

/// A curve that is not spoken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("curve {curve:?} is not one of X25519, P256, P384")]
pub struct CurveError {
    curve: String,
}

impl FromStr for Curve {
    type Err = CurveError;

    /// Reads `X25519`, `P256`, `P-256`, `CurveP256` and the like.
    fn from_str(text: &str) -> Result<Self, CurveError> {
        let upper = text.trim().to_ascii_uppercase().replace('-', "");
        match upper.strip_prefix("CURVE").unwrap_or(&upper) {
            "X25519" => Ok(Self::X25519),
            "P256" => Ok(Self::P256),
            "P384" => Ok(Self::P384),
            _ => Err(CurveError {
                curve: text.chars().filter(|c| !c.is_control()).take(32).collect(),
            }),
        }
    }
}

impl Curve {
    fn group(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519 => ring::kx_group::X25519,
            Self::P256 => ring::kx_group::SECP256R1,
            Self::P384 => ring::kx_group::SECP384R1,
        }
    }
}

/// The versions of TLS that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// A version that is not spoken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {version:?} is not one of 1.2, 1.3")]
pub struct TlsVersionError {
    version: String,
}

impl FromStr for TlsVersion {
    type Err = TlsVersionError;

    /// Reads `1.2`, `TLSv1.2` and the like.
    fn from_str(text: &str) -> Result<Self, TlsVersionError> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let number = ["tlsv", "tls", "v"]
            .iter()
            .find_map(|prefix| lower.strip_prefix(prefix))
            .unwrap_or(&lower);
        match number.trim() {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(TlsVersionError {
                version: text.chars().filter(|c| !c.is_control()).take(32).collect(),
            }),
        }
    }
}

impl TlsVersion {
    fn supported(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::V1_2 => &rustls::version::TLS12,
            Self::V1_3 => &rustls::version::TLS13,
        }
    }
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

/// Whether versions and suites leave anything to speak with; what is wrong and why if not.
pub(crate) fn check(options: &TlsOptions) -> Result<(), (&'static str, String)> {
    limits(options)
        .map(drop)
        .map_err(|error| (error.what, error.reason))
}

/// Builds a configuration. Reads files of the system if its roots are wanted, so it may block.
pub(super) fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsSetupError> {
    let (provider, versions) = limits(options)?;
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
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

/// The suites and versions that the options leave.
fn limits(
    options: &TlsOptions,
) -> Result<(CryptoProvider, Vec<&'static SupportedProtocolVersion>), TlsSetupError> {
    let mut provider = ring::default_provider();
    let oldest = options.min_version.unwrap_or(TlsVersion::V1_2);
    let newest = options.max_version.unwrap_or(TlsVersion::V1_3);
    if oldest > newest {
        return Err(TlsSetupError::new(
            "tls versions",
            "the oldest version is newer than the newest",
        ));
    }
    if !options.curves.is_empty() {
        provider.kx_groups = options.curves.iter().map(|curve| curve.group()).collect();
    }
    let suites = &options.cipher_suites;
    let named: Vec<bool> = provider
        .cipher_suites
        .iter()
        .map(|suite| suites.iter().any(|name| is_named(suite, name)))
        .collect();
    if !suites.is_empty() {
        let old_only = provider
            .cipher_suites
            .iter()
            .zip(&named)
            .all(|(suite, named)| !named || suite.tls13().is_none());
        let any = named.contains(&true);
        let mut kept = named.iter();
        provider.cipher_suites.retain(|suite| {
            let named = kept.next().is_some_and(|named| *named);
            any && (named || (old_only && suite.tls13().is_some()))
        });
    }
    let versions: Vec<_> = [TlsVersion::V1_2, TlsVersion::V1_3]
        .into_iter()
        .filter(|version| (oldest..=newest).contains(version))
        .map(TlsVersion::supported)
        .filter(|version| {
            let has_suite = |suite: &SupportedCipherSuite| suite.version() == *version;
            provider.cipher_suites.iter().any(has_suite)
        })
        .collect();
    if versions.is_empty() {
        return Err(TlsSetupError::new(
            "cipher suites",
            "none of them is known here for the versions allowed",
        ));
    }
    Ok((provider, versions))
}

/// Whether `name` is the registered name of `suite`. The library marks TLS 1.3 in the names of its suites; the
/// registry does not.
fn is_named(suite: &SupportedCipherSuite, name: &str) -> bool {
    let own = format!("{:?}", suite.suite());
    let own = own
        .strip_prefix("TLS13_")
        .unwrap_or_else(|| own.strip_prefix("TLS_").unwrap_or(&own));
    let name = name.trim();
    name.get(..4)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("TLS_"))
        && name
            .get(4..)
            .is_some_and(|rest| rest.eq_ignore_ascii_case(own))
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
