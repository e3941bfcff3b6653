//! `server.proxy`: the proxy that links go through, instead of what the environment names.
//!
//! Promises: a password is a secret of its own and never part of the URL; what the environment says of hosts that need
//! no proxy holds unless the settings say it. Must never: read the environment itself.

use opamp_client::transport::ProxyRules;

use crate::units::Secret;

use super::read::Section;

/// A proxy of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its URL without credentials; none for a direct connection whatever the environment says.
    pub url: Option<String>,
    /// User and password.
    pub credentials: Option<(String, Secret)>,
    /// Hosts that are reached without it; none leaves what the environment says.
    pub no_proxy: Option<String>,
}

impl Proxy {
    /// As the transport takes it, where the environment says `otherwise`.
    pub fn rules(&self, otherwise: &ProxyRules) -> ProxyRules {
        let url = self.url.as_ref().map(|url| match &self.credentials {
            None => url.clone(),
            Some((user, password)) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
                let (user, password) = (encoded(user), encoded(password.expose()));
                format!("{scheme}://{user}:{password}@{rest}")
            }
        });
        ProxyRules {
            https_proxy: url.clone(),
            http_proxy: url,
            no_proxy: self.no_proxy.clone().or_else(|| otherwise.no_proxy.clone()),
            ..ProxyRules::default()
        }
    }
}

/// Percent-encoded, so that no character of a password ends it.
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a text cannot fail.
            _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

pub(super) fn proxy(mut section: Section<'_, '_, '_>) -> Option<Proxy> {
    let present = section.is_present();
    let about = (
        "URL",
        "http, https or socks5 URL of the proxy for the server; `none` connects directly whatever the environment says",
    );
    let default = "$HTTPS_PROXY for wss and https, $HTTP_PROXY for ws and http";
    let url = section.parsed("url", about, default, url);
    let user = section.text("username", "who we are for the proxy", "none");
    let password = section.text("password", "the password; a secret", "none");
    let no_proxy = section.texts(
        "no_proxy",
        "hosts, domains, host:port or address ranges that are reached directly",
        "$NO_PROXY",
    );
    if present && !section.has("url") {
        section.problem("", "a proxy needs a `url`");
    }
    if user.is_some() != password.is_some() {
        section.problem(
            "",
            "`username` and `password` come together, give both or neither",
        );
    }
    section.finish();
    let proxy = Proxy {
        url: url?,
        credentials: user.zip(password.map(Secret::new)),
        no_proxy: no_proxy.map(|hosts| hosts.join(",")),
    };
    Some(proxy)
}

fn url(text: &str) -> Result<Option<String>, String> {
    if text == "none" {
        return Ok(None);
    }
    if text.contains('@') {
        return Err("no user or password in a URL, use `username` and `password`".to_owned());
    }
    let rules = ProxyRules {
        https_proxy: Some(text.to_owned()),
        ..ProxyRules::default()
    };
    rules.check().map_err(|error| error.to_string())?;
    Ok(Some(text.to_owned()))
}
