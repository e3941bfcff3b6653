//! How messages that may hold secrets are printed.
//!
//! Promises: no header value, key, config body, password or URL with a token in it reaches a log by way of `{:?}`
//! what is left still tells one message from another.
//! Must never: have a way around it. Who needs the values reads the fields.

use std::fmt::{Debug, Formatter, Result};

use super::{
    AgentConfigFile, CustomMessage, DownloadableFile, Header, OpAmpConnectionSettings,
    OtherConnectionSettings, ProxyConnectionSettings, TelemetryConnectionSettings, TlsCertificate,
};

/// A URL without user, password, query and fragment. What is no URL, or holds an `@` where it could be the end of a
/// badly written password, is not shown.
pub(crate) fn place(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return "…".to_owned();
    };
    let is_scheme = |char: char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.');
    if !scheme.chars().all(is_scheme) {
        return "…".to_owned();
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.is_empty() && path.contains('@') {
        return format!("{scheme}://…");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Stands for a value that is there.
struct Hidden;

impl Debug for Hidden {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("…")
    }
}

impl Debug for Header {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Header")
            .field("key", &self.key)
            .field("value", &Hidden)
            .finish()
    }
}

impl Debug for TlsCertificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("TlsCertificate")
            .field("cert_len", &self.cert.len())
            .field("private_key_len", &self.private_key.len())
            .field("ca_cert_len", &self.ca_cert.len())
            .finish()
    }
}

impl Debug for AgentConfigFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AgentConfigFile")
            .field("body_len", &self.body.len())
            .field("content_type", &self.content_type)
            .finish()
    }
}

impl Debug for ProxyConnectionSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ProxyConnectionSettings")
            .field("url", &Hidden)
            .field("connect_headers", &self.connect_headers)
            .finish()
    }
}

impl Debug for OpAmpConnectionSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("OpAmpConnectionSettings")
            .field("destination_endpoint", &place(&self.destination_endpoint))
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field(
                "heartbeat_interval_seconds",
                &self.heartbeat_interval_seconds,
            )
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

impl Debug for TelemetryConnectionSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("TelemetryConnectionSettings")
            .field("destination_endpoint", &place(&self.destination_endpoint))
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

impl Debug for CustomMessage {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CustomMessage")
            .field("capability", &self.capability)
            .field("type", &self.r#type)
            .field("data_len", &self.data.len())
            .finish()
    }
}

impl Debug for OtherConnectionSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let names: Vec<_> = self.other_settings.keys().collect();
        f.debug_struct("OtherConnectionSettings")
            .field("destination_endpoint", &place(&self.destination_endpoint))
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field("other_settings", &names)
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

impl Debug for DownloadableFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("DownloadableFile")
            .field("download_url", &place(&self.download_url))
            .field("content_hash", &self.content_hash)
            .field("signature_len", &self.signature.len())
            .field("headers", &self.headers)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{
        AgentConfigMap, AgentRemoteConfig, ConnectionSettingsOffers, Headers, PackageAvailable,
        PackagesAvailable, ServerToAgent,
    };

    //
    #[test]
    fn no_secret_of_a_message_is_printed() {
        let secret = "s3cr3t";
        let headers = Some(Headers {
            headers: vec![Header {
                key: "Authorization".to_owned(),
                value: secret.to_owned(),
            }],
        });
        let certificate = Some(TlsCertificate {
            private_key: secret.into(),
            ..TlsCertificate::default()
        });
        let proxy = Some(ProxyConnectionSettings {
            url: format!("http://user:{secret}@proxy"),
            connect_headers: headers.clone(),
        });
        let endpoint = |host: &str| format!("https://u:{secret}@{host}/v1?token={secret}#{secret}");
        let telemetry = |host: &str| {
            Some(TelemetryConnectionSettings {
                destination_endpoint: endpoint(host),
                headers: headers.clone(),
                certificate: certificate.clone(),
                proxy: proxy.clone(),
                ..TelemetryConnectionSettings::default()
            })
        };
        let other = OtherConnectionSettings {
            destination_endpoint: format!("Server=db;Password={secret}"),
            headers: headers.clone(),
            other_settings: [("password".to_owned(), secret.to_owned())].into(),
            ..OtherConnectionSettings::default()
        };
        let file = DownloadableFile {
            download_url: format!("https://{secret}@files/a?token={secret}"),
            headers: headers.clone(),
            ..DownloadableFile::default()
        };
        let package = PackageAvailable {
            file: Some(file),
            ..PackageAvailable::default()
        };
        let config = AgentConfigFile {
            body: secret.into(),
            content_type: "text/yaml".to_owned(),
        };
        let message = ServerToAgent {
            remote_config: Some(AgentRemoteConfig {
                config: Some(AgentConfigMap {
                    config_map: [("main".to_owned(), config)].into(),
                }),
                config_hash: vec![],
            }),
            connection_settings: Some(ConnectionSettingsOffers {
                own_metrics: telemetry("metrics"),
                own_traces: telemetry("traces"),
                own_logs: telemetry("logs"),
                opamp: Some(OpAmpConnectionSettings {
                    destination_endpoint: endpoint("fleet"),
                    headers: headers.clone(),
                    certificate: certificate.clone(),
                    proxy: proxy.clone(),
                    ..OpAmpConnectionSettings::default()
                }),
                other_connections: [("db".to_owned(), other)].into(),
                ..ConnectionSettingsOffers::default()
            }),
            packages_available: Some(PackagesAvailable {
                packages: [("a".to_owned(), package)].into(),
                ..PackagesAvailable::default()
            }),
            custom_message: Some(CustomMessage {
                capability: "org.example.echo".to_owned(),
                data: secret.into(),
                ..CustomMessage::default()
            }),
            ..ServerToAgent::default()
        };
        for printed in [format!("{message:?}"), format!("{message:#?}")] {
            assert!(!printed.contains(secret), "{printed}");
            let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
            assert!(!printed.contains(&bytes.join(", ")), "{printed}");
            for word in [
                "Authorization",
                "https://files/a",
                "https://fleet/v1",
                "https://metrics/v1",
                "https://traces/v1",
                "https://logs/v1",
                "org.example.echo",
                "password",
                "text/yaml",
            ] {
                assert!(printed.contains(word), "{word}: {printed}");
            }
        }
    }

    //
    #[test]
    fn a_place_is_a_url_without_what_may_be_secret() {
        let cases = [
            ("", ""),
            ("wss://fleet:4320/v1", "wss://fleet:4320/v1"),
            ("https://u:p@fleet/v1?t=x#y", "https://fleet/v1"),
            ("https://u:p@q@fleet", "https://fleet"),
            ("https://u:p/q@fleet/v1", "https://…"),
            ("https://u:p?q@fleet/v1", "https://…"),
            ("https://fleet?mail=a@b", "https://…"),
            ("u:p@fleet:4317", "…"),
            ("p ass://fleet", "…"),
        ];
        for (url, wanted) in cases {
            assert_eq!(place(url), wanted, "{url}");
        }
    }
}
