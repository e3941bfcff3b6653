//! The layer that makes a Collector send its own telemetry where a server wants it.
//!
//! Promises: the same destinations give the same text on every machine; a header value or a key never stands in it,
//! only the name of a file that holds it; what of an offer a Collector cannot be told is refused with its name and
//! never left out in silence.
//! Must never: decide whether a destination may be used. The settings of the connection did.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use opamp_client::settings::{Class, Destination};
use opamp_client::transport::{ProxyRules, TlsVersion};
use sha2::{Digest as _, Sha256};

use super::resource::MATERIAL_VARIABLE;
use super::resource::quoted;
use crate::engine::message::Material;

/// How often metrics are sent, as OpAMP recommends.
const METRICS_INTERVAL_MS: u32 = 10_000;

/// What one signal comes to: the exporter of its layer and the files that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exporter {
    lines: Vec<String>,
    /// Files that have to be there before the layer is used.
    pub(crate) material: Vec<Material>,
}

/// Writes the exporter of a destination.
///
/// # Errors
/// A field of the offer that a Collector's own exporter has no setting for.
pub(crate) fn exporter(class: &Class, destination: &Destination) -> Result<Exporter, String> {
    let refuse = |field: &str, why: &str| Err(format!("{class}.{field}: {why}"));
    let no_setting = "the agent's own exporter has no such setting";
    let tls = &destination.tls;
    if matches!(class, Class::Other(_)) {
        return refuse("destination_endpoint", "is no own telemetry");
    }
    if destination.proxies != ProxyRules::default() {
        return refuse("proxy", no_setting);
    }
    if tls.insecure_skip_verify {
        return refuse("tls.insecure_skip_verify", no_setting);
    }
    // 1.2 is where it begins anyway, and the newest is where it ends.
    if tls
        .min_version
        .is_some_and(|oldest| oldest != TlsVersion::V1_2)
    {
        return refuse("tls.min_version", no_setting);
    }
    if tls
        .max_version
        .is_some_and(|newest| newest != TlsVersion::V1_3)
    {
        return refuse("tls.max_version", no_setting);
    }
    if !tls.cipher_suites.is_empty() {
        return refuse("tls.cipher_suites", no_setting);
    }
    if tls.ca_pem.is_some() && tls.include_system_roots {
        return refuse("tls.include_system_ca_certs_pool", no_setting);
    }
    let mut material = Vec::new();
    let mut lines = vec![
        "protocol: http/protobuf".to_owned(),
        format!("endpoint: {}", quoted(&destination.endpoint)),
    ];
    if !destination.headers.is_empty() {
        lines.push("headers:".to_owned());
    }
    for (name, value) in &destination.headers {
        let file = Material::new(value.as_bytes());
        lines.push(format!("  - name: {}", quoted(name.as_str())));
        lines.push(format!("    value: \"${{file:{}}}\"", place(&file)));
        material.push(file);
    }
    let pair = tls.client_certificate.as_ref();
    let files = [
        ("certificate", tls.ca_pem.as_deref()),
        (
            "client_certificate",
            pair.map(|pair| pair.chain_pem.as_slice()),
        ),
        ("client_key", pair.map(|pair| pair.key_pem.as_slice())),
    ];
    for (key, bytes) in files {
        if let Some(bytes) = bytes {
            let file = Material::new(bytes);
            lines.push(format!("{key}: \"{}\"", place(&file)));
            material.push(file);
        }
    }
    Ok(Exporter { lines, material })
}

/// The layer of all signals; none when there is no signal.
pub(crate) fn layer(exporters: &BTreeMap<Class, Exporter>) -> Option<String> {
    if exporters.is_empty() {
        return None;
    }
    let mut text = "service:\n  telemetry:\n".to_owned();
    for (class, exporter) in exporters {
        let interval = format!("            interval: {METRICS_INTERVAL_MS}\n");
        let (head, more) = match class {
            Class::OwnMetrics => (
                "    metrics:\n      readers:\n        - periodic:\n",
                interval.as_str(),
            ),
            Class::OwnTraces => ("    traces:\n      processors:\n        - batch:\n", ""),
            Class::OwnLogs => ("    logs:\n      processors:\n        - batch:\n", ""),
            Class::Other(_) => continue,
        };
        text.push_str(head);
        text.push_str(more);
        text.push_str("            exporter:\n              otlp:\n");
        for line in &exporter.lines {
            // Writing to a string has no error of its own.
            writeln!(text, "                {line}").ok();
        }
    }
    Some(text)
}

fn place(file: &Material) -> String {
    format!("${{env:{MATERIAL_VARIABLE}}}/{}", file.name)
}

impl Material {
    /// A file whose name says what is in it, so that a layer stands for one content for ever.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let name = digest
            .iter()
            .take(16)
            .fold(String::new(), |mut name, byte| {
                write!(name, "{byte:02x}").ok();
                name
            });
        Self {
            name,
            bytes: bytes.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests;
