//! The settings of the OTLP receiver.
//!
//! Promises: an address is one that can be listened on without asking anybody; no two receivers want the same.
//! Must never: resolve a name.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::OtlpConfig;
use super::{Fields, KIB, MIB, SourceConfig, SourceKind};

/// Where programs look for an OTLP receiver on HTTP.
const OTLP_HTTP_PORT: u16 = 4318;

/// Reads the settings of a receiver.
pub(super) fn read(fields: &mut Fields<'_, '_>) -> Option<OtlpConfig> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, OTLP_HTTP_PORT));
    let listen = fields.text("listen").map_or(Some(default), |(node, text)| {
        let literal = match text.split_once(':') {
            Some(("localhost", port)) => format!("{}:{port}", Ipv4Addr::LOCALHOST),
            _ => text.to_owned(),
        };
        match literal.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Some(address),
            _ => {
                let message = format!(
                    "{text:?} is no address with a port, such as 127.0.0.1:4318 or [::1]:4318"
                );
                fields.fail(node, "listen", message);
                None
            }
        }
    });
    let config = OtlpConfig {
        listen: default,
        body_bytes_max: fields.size("max_body", 16 * MIB, (KIB, 64 * MIB)),
        connections_max: fields.count("max_connections", 128, (1, 4096)),
        timeout: fields.duration("timeout", Duration::from_secs(10)),
    };
    listen.map(|listen| OtlpConfig { listen, ..config })
}

/// One address cannot be listened on twice.
pub(super) fn listen_once(fields: &mut Fields<'_, '_>, sources: &[(String, Option<SourceConfig>)]) {
    let mut seen: Vec<(SocketAddr, &str)> = Vec::new();
    for (id, source) in sources {
        let Some(SourceKind::Otlp(OtlpConfig { listen, .. })) =
            source.as_ref().map(|source| &source.kind)
        else {
            continue;
        };
        let clash = seen.iter().find(|(other, _)| {
            let any = other.ip().is_unspecified() || listen.ip().is_unspecified();
            other.port() == listen.port() && (any || other.ip() == listen.ip())
        });
        if let Some((_, other)) = clash {
            let node = fields.node;
            fields.fail(
                node.get("sources")
                    .and_then(|all| all.get(id))
                    .unwrap_or(node),
                &format!("sources.{id}.listen"),
                format!("{listen} is listened on by the source {other:?} already"),
            );
        }
        seen.push((*listen, id));
    }
}
