//! Local settings and what a server offered → what to connect with.
//!
//! Promises: field by field; what an offer leaves open is as it was; what it brings is
//! valid and loosens nothing, or is refused with its name. A TLS message replaces an earlier offered one as a whole
//! and what it leaves open is as the local settings have it, so that no two offers add up to less than either.
//! Pure. Must never: let a header, key or body into a reason.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::pair;
use super::policy::{Policy, Refused};
use crate::messages::{
    Headers, OpAmpConnectionSettings, OtherConnectionSettings, ProxyConnectionSettings,
    TlsCertificate, TlsConnectionSettings,
};
use crate::transport::{
    ClientCertificate, ProxyRules, Target, TargetError, TlsOptions, TlsVersion, check_tls,
    checked_connect_header, checked_header,
};

/// Headers of one connection.
const HEADERS_MAX: usize = 64;
/// Bytes of all of them.
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of an endpoint.
const ENDPOINT_BYTES_MAX: usize = 2048;
/// Settings of another connection that only the agent understands.
const OTHER_SETTINGS_MAX: usize = 128;
/// Bytes of all of them.
const OTHER_SETTINGS_BYTES_MAX: usize = 64 * 1024;

/// Where own telemetry or another connection goes to, resolved and checked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// For own telemetry the full URL, path included; nothing is to be appended. For other connections what
    /// the server says, which may be no URL.
    pub endpoint: String,
    /// Go on every request. The values are secret.
    pub headers: HeaderMap,
    /// How to verify the other end and how to prove ourselves.
    pub tls: TlsOptions,
    /// The proxy.
    pub proxies: ProxyRules,
    /// Passed through untouched; empty for own telemetry. May be secret.
    pub other_settings: BTreeMap<String, String>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.keys().map(http::HeaderName::as_str).collect();
        let settings: Vec<_> = self.other_settings.keys().collect();
        let endpoint = crate::messages::place(&self.endpoint);
        f.debug_struct("Destination")
            .field("endpoint", &endpoint)
            .field("headers", &headers)
            .field("tls", &self.tls)
            .field("proxies", &self.proxies)
            .field("other_settings", &settings)
            .finish()
    }
}

/// Puts an offer on top of those before it.
pub(super) fn add_opamp(
    before: &OpAmpConnectionSettings,
    offer: OpAmpConnectionSettings,
    policy: &Policy,
) -> OpAmpConnectionSettings {
    let no_certificate = policy.strict_certificate.then(TlsCertificate::default);
    OpAmpConnectionSettings {
        destination_endpoint: text_or(offer.destination_endpoint, &before.destination_endpoint),
        headers: offer.headers.or_else(|| before.headers.clone()),
        certificate: offer
            .certificate
            .or(no_certificate)
            .or_else(|| before.certificate.clone()),
        heartbeat_interval_seconds: match offer.heartbeat_interval_seconds {
            0 if !policy.zero_stops_heartbeat => before.heartbeat_interval_seconds,
            seconds => seconds,
        },
        tls: offer.tls.or_else(|| before.tls.clone()),
        proxy: offer.proxy.or_else(|| before.proxy.clone()),
    }
}

/// The same for own telemetry and other connections.
pub(super) fn add_destination(
    before: &OtherConnectionSettings,
    offer: OtherConnectionSettings,
    policy: &Policy,
) -> OtherConnectionSettings {
    let no_certificate = policy.strict_certificate.then(TlsCertificate::default);
    let other_settings = if offer.other_settings.is_empty() {
        before.other_settings.clone()
    } else {
        offer.other_settings
    };
    OtherConnectionSettings {
        destination_endpoint: text_or(offer.destination_endpoint, &before.destination_endpoint),
        headers: offer.headers.or_else(|| before.headers.clone()),
        certificate: offer
            .certificate
            .or(no_certificate)
            .or_else(|| before.certificate.clone()),
        tls: offer.tls.or_else(|| before.tls.clone()),
        proxy: offer.proxy.or_else(|| before.proxy.clone()),
        other_settings,
    }
}

fn text_or(text: String, before: &str) -> String {
    if text.is_empty() {
        before.to_owned()
    } else {
        text
    }
}

/// What is checked for one class of settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// As `own_logs`.
    pub(super) name: &'a str,
    pub(super) policy: &'a Policy,
    /// The present time if the certificate is new; one that was checked before is not checked again.
    pub(super) unix: Option<Duration>,
}

impl Scope<'_> {
    fn refuse(&self, field: &str, reason: impl fmt::Display) -> Refused {
        Refused::new(self.name, field, reason)
    }

    /// What to connect to the server with.
    pub(super) fn opamp(
        &self,
        base: &Target,
        offered: &OpAmpConnectionSettings,
    ) -> Result<Target, Refused> {
        let mut target = base.clone();
        let endpoint = offered.destination_endpoint.as_str();
        if !endpoint.is_empty() {
            target = self.endpoint(endpoint)?;
            target.headers.clone_from(&base.headers);
            target.proxies.clone_from(&base.proxies);
        }
        if let Some(headers) = &offered.headers {
            target.headers = self.headers("headers", headers)?;
        }
        target.tls = self.tls(
            &base.tls,
            offered.tls.as_ref(),
            offered.certificate.as_ref(),
        )?;
        if let Some(proxy) = &offered.proxy {
            target.proxies = self.proxy(&base.proxies, proxy)?;
        }
        Ok(target)
    }

    fn endpoint(&self, endpoint: &str) -> Result<Target, Refused> {
        let refuse = |reason: &dyn fmt::Display| self.refuse("destination_endpoint", reason);
        let endpoint = endpoint.trim();
        if endpoint.len() > ENDPOINT_BYTES_MAX {
            return Err(refuse(&format!(
                "is longer than {ENDPOINT_BYTES_MAX} bytes"
            )));
        }
        let target: Target = endpoint.parse().map_err(|error| refuse(&error))?;
        if target.is_unix() {
            return Err(refuse(&"a socket of this machine cannot be offered"));
        }
        if !target.is_tls() && !self.policy.allow_plaintext {
            return Err(refuse(
                &"is not encrypted, which the local settings do not allow",
            ));
        }
        Ok(target)
    }

    /// Where own telemetry goes to. `local` is what holds without an offer.
    pub(super) fn telemetry(
        &self,
        local: &Destination,
        offered: &OtherConnectionSettings,
    ) -> Result<Destination, Refused> {
        let refuse = |reason: &dyn fmt::Display| self.refuse("destination_endpoint", reason);
        let uri: Uri = offered
            .destination_endpoint
            .trim()
            .parse()
            .map_err(|_| refuse(&"is not a URL"))?;
        match uri.scheme_str().unwrap_or_default() {
            "https" => {}
            "http" if self.policy.allow_plaintext_telemetry => {}
            "http" => {
                return Err(refuse(
                    &"is not encrypted, which the local settings do not allow",
                ));
            }
            _ => return Err(refuse(&"is not a URL of http or https")),
        }
        if uri
            .authority()
            .is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err(refuse(
                &"names no host, or holds credentials; put them into a header",
            ));
        }
        self.destination(local, offered)
    }

    /// Where another connection goes to.
    pub(super) fn destination(
        &self,
        local: &Destination,
        offered: &OtherConnectionSettings,
    ) -> Result<Destination, Refused> {
        let endpoint = offered.destination_endpoint.trim();
        if endpoint.len() > ENDPOINT_BYTES_MAX || endpoint.chars().any(char::is_control) {
            let reason = format!("is longer than {ENDPOINT_BYTES_MAX} bytes, or not printable");
            return Err(self.refuse("destination_endpoint", reason));
        }
        let settings = &offered.other_settings;
        let bytes: usize = settings
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if settings.len() > OTHER_SETTINGS_MAX || bytes > OTHER_SETTINGS_BYTES_MAX {
            let reason = format!(
                "has more than {OTHER_SETTINGS_MAX} entries or {OTHER_SETTINGS_BYTES_MAX} bytes"
            );
            return Err(self.refuse("other_settings", reason));
        }
        Ok(Destination {
            endpoint: endpoint.to_owned(),
            headers: match &offered.headers {
                Some(headers) => self.headers("headers", headers)?,
                None => local.headers.clone(),
            },
            tls: self.tls(
                &local.tls,
                offered.tls.as_ref(),
                offered.certificate.as_ref(),
            )?,
            proxies: match &offered.proxy {
                Some(proxy) => self.proxy(&local.proxies, proxy)?,
                None => local.proxies.clone(),
            },
            other_settings: settings.clone(),
        })
    }

    /// Names and values as HTTP has them, none of those that belong to the protocol.
    fn headers(&self, field: &str, headers: &Headers) -> Result<HeaderMap, Refused> {
        self.checked_headers(field, headers, checked_header)
    }

    fn checked_headers(
        &self,
        field: &str,
        headers: &Headers,
        check: impl Fn(&str, &str) -> Result<(HeaderName, HeaderValue), TargetError>,
    ) -> Result<HeaderMap, Refused> {
        let headers = &headers.headers;
        let bytes: usize = headers
            .iter()
            .map(|header| header.key.len() + header.value.len())
            .sum();
        if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            let reason = format!("has more than {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes");
            return Err(self.refuse(field, reason));
        }
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) =
                check(&header.key, &header.value).map_err(|error| self.refuse(field, error))?;
            map.append(name, value);
        }
        Ok(map)
    }

    fn tls(
        &self,
        base: &TlsOptions,
        offered: Option<&TlsConnectionSettings>,
        certificate: Option<&TlsCertificate>,
    ) -> Result<TlsOptions, Refused> {
        let mut tls = base.clone();
        if let Some(offered) = offered {
            self.trust(&mut tls, offered)?;
            self.limits(&mut tls, offered)?;
        }
        if let Some(certificate) = certificate {
            tls.client_certificate = self.certificate(certificate)?;
        }
        Ok(tls)
    }

    /// Whom to believe.
    fn trust(&self, tls: &mut TlsOptions, offered: &TlsConnectionSettings) -> Result<(), Refused> {
        if offered.insecure_skip_verify && !self.policy.allow_insecure {
            return Err(self.refuse(
                "tls.insecure_skip_verify",
                "verification is turned off by local settings only",
            ));
        }
        tls.insecure_skip_verify = offered.insecure_skip_verify;
        let pem = offered.ca_pem_contents.as_bytes();
        if !pem.is_empty() {
            let field = "tls.ca_pem_contents";
            if !self.policy.allow_ca {
                return Err(self.refuse(field, "authorities are named by local settings only"));
            }
            if pem.len() > pair::PEM_BYTES_MAX {
                let reason = format!("is longer than {} bytes", pair::PEM_BYTES_MAX);
                return Err(self.refuse(field, reason));
            }
            pair::chain(pem).map_err(|reason| self.refuse(field, reason))?;
            tls.ca_pem = Some(pem.to_vec());
            tls.include_system_roots = false;
        }
        if offered.include_system_ca_certs_pool {
            if !self.policy.allow_system_roots {
                return Err(self.refuse(
                    "tls.include_system_ca_certs_pool",
                    "the local settings trust their own authorities alone",
                ));
            }
            tls.include_system_roots = true;
        }
        Ok(())
    }

    /// Versions and suites: within those of the local settings.
    fn limits(&self, tls: &mut TlsOptions, offered: &TlsConnectionSettings) -> Result<(), Refused> {
        let version = |field: &str, text: &str| match text.trim() {
            "" => Ok(None),
            text => text
                .parse::<TlsVersion>()
                .map(Some)
                .map_err(|error| self.refuse(field, error)),
        };
        if let Some(oldest) = version("tls.min_version", &offered.min_version)? {
            let floor = tls.min_version.unwrap_or(TlsVersion::V1_2);
            if oldest < floor {
                let reason = "is older than what the local settings allow";
                return Err(self.refuse("tls.min_version", reason));
            }
            tls.min_version = Some(oldest);
        }
        if let Some(newest) = version("tls.max_version", &offered.max_version)? {
            // A ceiling only ever takes the better versions away.
            if newest < tls.max_version.unwrap_or(TlsVersion::V1_3) {
                let reason = "is older than the newest that the local settings allow";
                return Err(self.refuse("tls.max_version", reason));
            }
        }
        if !offered.cipher_suites.is_empty() {
            let local = std::mem::take(&mut tls.cipher_suites);
            let allowed = |name: &&String| {
                local.is_empty()
                    || local
                        .iter()
                        .any(|own| own.eq_ignore_ascii_case(name.trim()))
            };
            tls.cipher_suites = offered
                .cipher_suites
                .iter()
                .filter(allowed)
                .cloned()
                .collect();
            if tls.cipher_suites.is_empty() {
                let reason = "none of them is allowed by the local settings";
                return Err(self.refuse("tls.cipher_suites", reason));
            }
        }
        check_tls(tls).map_err(|(what, reason)| {
            let field = if what == "cipher suites" {
                "tls.cipher_suites"
            } else {
                "tls.min_version"
            };
            self.refuse(field, reason)
        })
    }

    /// A pair of our own; an empty message is how no certificate at all is remembered.
    fn certificate(&self, offered: &TlsCertificate) -> Result<Option<ClientCertificate>, Refused> {
        if *offered == TlsCertificate::default() {
            return Ok(None);
        }
        let own = ClientCertificate {
            chain_pem: offered.cert.clone(),
            key_pem: offered.private_key.clone(),
        };
        pair::check(&own, self.unix).map_err(|reason| self.refuse("certificate.cert", reason))?;
        if !offered.ca_cert.is_empty() {
            // Who signed our certificate says nothing about whom we trust; it is only looked at.
            pair::chain(&offered.ca_cert)
                .map_err(|reason| self.refuse("certificate.ca_cert", reason))?;
        }
        Ok(Some(own))
    }

    fn proxy(
        &self,
        local: &ProxyRules,
        offered: &ProxyConnectionSettings,
    ) -> Result<ProxyRules, Refused> {
        let url = offered.url.trim();
        if url.is_empty() || url.len() > ENDPOINT_BYTES_MAX {
            let reason = format!("is empty or longer than {ENDPOINT_BYTES_MAX} bytes");
            return Err(self.refuse("proxy.url", reason));
        }
        let rules = ProxyRules {
            https_proxy: Some(url.to_owned()),
            http_proxy: Some(url.to_owned()),
            no_proxy: local.no_proxy.clone(),
            connect_headers: match &offered.connect_headers {
                Some(headers) => {
                    self.checked_headers("proxy.connect_headers", headers, checked_connect_header)?
                }
                None => HeaderMap::new(),
            },
        };
        rules
            .check()
            .map_err(|error| self.refuse("proxy.url", error))?;
        Ok(rules)
    }
}
