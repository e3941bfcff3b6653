//! How the server's identity is verified and how we prove ours: the keys that both forms share.
//!
//! Promises: what our TLS cannot do (versions before 1.2, suites and curves that it does not speak) is an error that
//! names it; nothing here turns verification off but the key that says so.
//! Must never: read a file, or show a key.

use std::time::Duration;

use opamp_client::transport::{Curve, TlsOptions, TlsVersion};

use crate::units::{Secret, TextSource};

use super::Form;
use super::read::Section;

/// The suites that are spoken, by their registered names.
const SUITES: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// What kind a key is that holds a PEM text itself; its value is never shown.
pub(super) const PEM_TEXT: &str = "PEM text";

/// TLS settings of a client connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// CA bundle that verifies the server.
    pub ca: Option<TextSource>,
    /// Whether the system roots count beside `ca`; without `ca` they always do.
    pub include_system_roots: bool,
    /// Client certificate and key.
    pub client_pair: Option<(TextSource, TextSource)>,
    /// Turns verification off. Never set by an offer.
    pub insecure_skip_verify: bool,
    /// The name that the server's certificate must have, instead of the endpoint's host.
    pub server_name: Option<String>,
    /// The oldest version that is spoken.
    pub min_version: Option<TlsVersion>,
    /// The newest version that is spoken.
    pub max_version: Option<TlsVersion>,
    /// The suites that are spoken; all if empty.
    pub cipher_suites: Vec<String>,
    /// The curves that are offered, the preferred first; all if empty.
    pub curves: Vec<Curve>,
}

impl Tls {
    /// Everything that is not a PEM text.
    pub fn options(&self) -> TlsOptions {
        TlsOptions {
            include_system_roots: self.include_system_roots,
            insecure_skip_verify: self.insecure_skip_verify,
            server_name: self.server_name.clone(),
            min_version: self.min_version,
            max_version: self.max_version,
            cipher_suites: self.cipher_suites.clone(),
            curves: self.curves.clone(),
            ..TlsOptions::default()
        }
    }
}

/// Reads the section. `insecure` of the Collector's form is answered for by the caller, who knows the scheme.
pub(super) fn tls(mut section: Section<'_, '_, '_>) -> (Tls, bool) {
    let about = "CA bundle that verifies the server";
    let ca = pem(&mut section, ("ca_file", about), "ca_pem", "system roots");
    let include_system_roots = section.switch(
        "include_system_ca_certs_pool",
        "whether the system roots count beside the CA that is named",
        false,
    );
    let insecure_skip_verify = section.switch(
        "insecure_skip_verify",
        "turns verification off; never set by an offer",
        false,
    );
    let certificate = pem(
        &mut section,
        ("cert_file", "client certificate"),
        "cert_pem",
        "none",
    );
    let about = "key of the client certificate";
    let key = pem(&mut section, ("key_file", about), "key_pem", "none");
    let has = |names: [&str; 2]| names.iter().any(|name| section.has(name));
    if has(["cert_file", "cert_pem"]) != has(["key_file", "key_pem"]) {
        section.problem(
            "",
            "`cert_file` and `key_file` (or `cert_pem` and `key_pem`) come together, give both or neither",
        );
    }
    let server_name = section.parsed(
        "server_name_override",
        (
            "host name",
            "the name that the server's certificate must have, instead of the endpoint's host",
        ),
        "the endpoint's host",
        host_name,
    );
    let about = ("1.2 or 1.3", "the oldest version that is spoken");
    let min_version = section.parsed("min_version", about, "1.2", version);
    let about = ("1.2 or 1.3", "the newest version that is spoken");
    let max_version = section.parsed("max_version", about, "1.3", version);
    if let (Some(min), Some(max)) = (min_version, max_version)
        && min > max
    {
        section.problem("min_version", "newer than max_version, nothing is left");
    }
    let about = ("list of names", "the cipher suites that are spoken");
    let cipher_suites = section.list("cipher_suites", about, "all there are", |_, text| {
        suite(text)
    });
    let about = (
        "list of names",
        "the curves of the key exchange, the preferred first",
    );
    let curves = section.list("curve_preferences", about, "all there are", |_, text| {
        curve(text)
    });
    section.duration(
        "reload_interval",
        "accepted; files are read again at every connection",
        Duration::ZERO,
        Duration::ZERO..=Duration::from_hours(24 * 365),
    );
    if section.reader.form == Some(Form::Agent) {
        section.not_built(
            &["include_insecure_cipher_suites", "tpm"],
            "broken cipher suites are not spoken and keys in a TPM not used here, remove it",
        );
    }
    let insecure = section.reader.form == Some(Form::Agent)
        && section.switch(
            "insecure",
            "accepted; the scheme of the endpoint says whether TLS is used",
            false,
        );
    let tls = Tls {
        ca,
        include_system_roots,
        client_pair: certificate.zip(key),
        insecure_skip_verify,
        server_name,
        min_version,
        max_version,
        cipher_suites: cipher_suites.unwrap_or_default(),
        curves: curves.unwrap_or_default(),
    };
    if let Err(error) = tls.options().check() {
        section.problem("", error);
    }
    section.finish();
    (tls, insecure)
}

/// A file, or the text itself.
pub(super) fn pem(
    section: &mut Section<'_, '_, '_>,
    (file, about): (&'static str, &'static str),
    text: &'static str,
    default: &str,
) -> Option<TextSource> {
    let path = section.path_value(file, about, default);
    let kind = (PEM_TEXT, "the same as a text, instead of the file");
    let found = section.parsed(text, kind, "none", |found| {
        if found.contains("-----BEGIN ") {
            Ok(Secret::new(found))
        } else {
            Err("a PEM text belongs here, it has a line that begins with -----BEGIN".to_owned())
        }
    });
    if section.has(file) && section.has(text) {
        section.problem(text, format!("`{file}` is given, too; give one of them"));
    }
    path.map(TextSource::File)
        .or_else(|| found.map(TextSource::Text))
}

fn host_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if text.is_empty() || text.len() > 253 || !text.chars().all(plain) {
        return Err("a host name or an address belongs here".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn version(text: &str) -> Result<TlsVersion, String> {
    if matches!(text.trim(), "1.0" | "1.1") {
        return Err(format!(
            "TLS {text} is broken and not spoken here; the oldest version is 1.2"
        ));
    }
    text.parse().map_err(|_| "write 1.2 or 1.3".to_owned())
}

fn suite(text: &str) -> Result<String, String> {
    let text = text.trim();
    if SUITES.iter().any(|known| known.eq_ignore_ascii_case(text)) {
        return Ok(text.to_owned());
    }
    let why = if text.contains("_CBC_") || text.contains("_RC4_") || text.contains("TLS_RSA_") {
        "CBC, RC4 and suites without forward secrecy are not spoken here"
    } else {
        "not a suite that is spoken here"
    };
    Err(format!("{why}; there are: {}", SUITES.join(", ")))
}

fn curve(text: &str) -> Result<Curve, String> {
    text.parse()
        .map_err(|_| "not a curve that is spoken here; there are: X25519, P256, P384".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_that_is_named_is_one_that_is_spoken() {
        for suite in SUITES {
            let tls = Tls {
                cipher_suites: vec![suite.to_owned()],
                ..Tls::default()
            };
            assert_eq!(tls.options().check(), Ok(()), "{suite}");
        }
        let unknown = Tls {
            cipher_suites: vec!["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()],
            ..Tls::default()
        };
        assert!(unknown.options().check().is_err());
    }
}
