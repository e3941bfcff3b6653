//! TLS client settings: system roots plus a configured CA, ring as the explicit provider.
//!
//! Promises: nothing is read from disk before the first caller needs TLS; a machine without any root says so in one
//! sentence instead of refusing every handshake later. Verification cannot be turned off here.
//! Must never: be given a private key or a switch that weakens verification.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// A CA file larger than this is not a CA file.
const CA_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How rustls says that no root leads to a certificate.
const UNKNOWN_ISSUER: &str = "UnknownIssuer";

/// TLS settings that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The configured CA file cannot be read.
    #[error("read the CA file {path}")]
    CaRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configured CA file holds no usable certificate.
    #[error("the CA file {path} {what}")]
    CaContent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Neither the system nor the settings gave a root.
    #[error(
        "no trusted root certificates: the system has none ({detail}); install ca-certificates, set SSL_CERT_FILE, \
         or configure a CA file"
    )]
    NoRoots {
        /// What the system said.
        detail: String,
    },
    /// The provider and the protocol versions do not fit.
    #[error("set up TLS 1.2 and 1.3")]
    Protocol(#[source] rustls::Error),
}

/// Builds a client configuration that trusts the system's roots and, if given, the certificates of one more file.
///
/// # Errors
/// The file is unreadable or holds no certificate, or there is no root at all.
pub fn client_config(extra_ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = extra_ca {
        add_file(&mut roots, path)?;
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let detail = system
            .errors
            .first()
            .map_or_else(|| "no certificate found".to_owned(), ToString::to_string);
        return Err(TlsError::NoRoots { detail });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let content = |what: String| TlsError::CaContent {
        path: path.to_owned(),
        what,
    };
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(|source| TlsError::CaRead {
            path: path.to_owned(),
            source,
        })?;
    if pem.len() as u64 > CA_FILE_BYTES_MAX {
        return Err(content(format!("is larger than {CA_FILE_BYTES_MAX} bytes")));
    }
    let mut added = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| content(format!("is not valid PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| content(format!("holds a certificate that is no root: {error}")))?;
        added += 1;
    }
    if added == 0 {
        return Err(content("holds no certificate".to_owned()));
    }
    Ok(())
}

/// Everything an error of a connection has to say, in one line, with what to do where that is known.
pub fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if text.contains(UNKNOWN_ISSUER) {
        text.push_str("; name its CA by `ca_file` in the settings");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file_with(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn an_unknown_ca_is_told_with_what_to_do_and_other_errors_without() {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let words = in_words(&io::Error::other(unknown));
        assert_eq!(
            words,
            "invalid peer certificate: UnknownIssuer; name its CA by `ca_file` in the settings"
        );
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert_eq!(in_words(&expired), "invalid peer certificate: Expired");
    }

    #[test]
    fn a_configured_ca_is_trusted() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["ca.test".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let file = file_with(&certificate.pem());
        let config = client_config(Some(file.path())).unwrap();
        assert!(config.alpn_protocols.is_empty());
    }

    #[test]
    fn a_file_that_is_no_ca_is_named_with_the_reason() {
        let empty = file_with("hello\n");
        let text = client_config(Some(empty.path())).unwrap_err().to_string();
        assert!(text.ends_with("holds no certificate"), "{text}");
        let missing = client_config(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert_eq!(missing.to_string(), "read the CA file /nonexistent/ca.pem");
    }
}
