//! How messages that may hold secrets are printed.
//!
//! Promises: no header value, key, config body, password or URL with a token in it reaches a log by way of `{:?}`
//! what is left still tells one message from another.
//! Must never: have a way around it. Who needs the values reads the fields.

use std::fmt::{Debug, Formatter, Result};

use super::{
    AgentConfigFile, DownloadableFile, Header, OtherConnectionSettings, ProxyConnectionSettings,
    TlsCertificate,
};

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

impl Debug for OtherConnectionSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let names: Vec<_> = self.other_settings.keys().collect();
        f.debug_struct("OtherConnectionSettings")
            .field("destination_endpoint", &self.destination_endpoint)
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
        let place = self.download_url.split('?').next().unwrap_or_default();
        f.debug_struct("DownloadableFile")
            .field("download_url", &place)
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
        AgentConfigMap, AgentRemoteConfig, ConnectionSettingsOffers, Headers,
        OpAmpConnectionSettings, PackageAvailable, PackagesAvailable, ServerToAgent,
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
        let other = OtherConnectionSettings {
            headers: headers.clone(),
            other_settings: [("password".to_owned(), secret.to_owned())].into(),
            ..OtherConnectionSettings::default()
        };
        let file = DownloadableFile {
            download_url: format!("https://files/a?token={secret}"),
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
                opamp: Some(OpAmpConnectionSettings {
                    headers,
                    certificate,
                    proxy,
                    ..OpAmpConnectionSettings::default()
                }),
                other_connections: [("db".to_owned(), other)].into(),
                ..ConnectionSettingsOffers::default()
            }),
            packages_available: Some(PackagesAvailable {
                packages: [("a".to_owned(), package)].into(),
                ..PackagesAvailable::default()
            }),
            ..ServerToAgent::default()
        };
        for printed in [format!("{message:?}"), format!("{message:#?}")] {
            assert!(!printed.contains(secret), "{printed}");
            let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
            assert!(!printed.contains(&bytes.join(", ")), "{printed}");
            for word in ["Authorization", "https://files/a", "password", "text/yaml"] {
                assert!(printed.contains(word), "{word}: {printed}");
            }
        }
    }
}
