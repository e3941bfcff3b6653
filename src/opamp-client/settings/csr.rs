//! A fresh key and the signing request for it (feature `csr`).
//!
//! Promises: the key is new each time, of the elliptic curve P-256, and is nowhere but in the result.
//! Must never: send anything.

use std::fmt::Write as _;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::CertificateRequest;

/// Whom the certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The common name; many servers decide by it.
    pub common_name: String,
    /// The organization, if there is one.
    pub organization: Option<String>,
    /// Goes in as an alternative name `urn:uuid:…`, so that a server can compare it with the reports.
    pub instance_uid: Option<[u8; 16]>,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
#[error("make a certificate request for {common_name:?}")]
pub struct CsrError {
    common_name: String,
    source: rcgen::Error,
}

/// Makes a key and a request signed with it.
///
/// # Errors
/// [`CsrError`] if the system has no randomness, or the subject cannot be written.
pub fn generate(subject: &Subject) -> Result<CertificateRequest, CsrError> {
    let failed = |source| CsrError {
        common_name: subject.common_name.clone(),
        source,
    };
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject.common_name.as_str());
    if let Some(organization) = &subject.organization {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name = name;
    if let Some(uid) = subject.instance_uid {
        let urn = urn(uid).as_str().try_into().map_err(failed)?;
        params.subject_alt_names.push(SanType::URI(urn));
    }
    let key = KeyPair::generate().map_err(failed)?;
    let csr = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(failed)?;
    Ok(CertificateRequest {
        csr_pem: csr.into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    })
}

fn urn(uid: [u8; 16]) -> String {
    let mut text = "urn:uuid:".to_owned();
    for (at, byte) in uid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing into a text cannot fail.
        _ = write!(text, "{byte:02x}");
    }
    text
}
