//! `healthcheck:` of the Collector's form: how the plain `/health` door answers.
//!
//! Promises: what our small HTTP server honours of the Collector's server settings is honoured; what it does not is an
//! error that says why. Must never: open anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use opamp_client::transport::TlsVersion;

use crate::units::TextSource;

use super::ours::address;
use super::read::Section;
use super::tls::{pem, version};

/// How the door answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthDoor {
    /// Headers of every answer.
    pub headers: Vec<(String, String)>,
    /// How long a peer may take to send its request's header; none leaves our own limit.
    pub header_timeout: Option<Duration>,
    /// How long an exchange may take; none leaves our own limit.
    pub exchange_timeout: Option<Duration>,
    /// What it proves itself with; none serves in the clear.
    pub tls: Option<DoorTls>,
}

/// TLS of the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorTls {
    /// Its chain.
    pub certificate: TextSource,
    /// Its key.
    pub key: TextSource,
    /// Who vouches for peers; none asks them for nothing.
    pub client_ca: Option<PathBuf>,
    /// The versions that are spoken.
    pub versions: Vec<TlsVersion>,
}

/// What is said of keys whose promise this door cannot keep.
const NOT_HERE: &str = "the door serves one plain GET on one address and keeps nothing of a request; put a reverse \
                        proxy before it, or remove it";

#[cfg_attr(
    not(feature = "opampsupervisor"),
    expect(dead_code, reason = "only that form has the section")
)]
pub(super) fn read(mut section: Section<'_, '_, '_>) -> (Option<SocketAddr>, HealthDoor) {
    let about = ("address", "where GET /health is served");
    let endpoint = section.parsed("endpoint", about, "off", |text| {
        match text.strip_prefix(':') {
            // As there: every address of the host. Of the two families the one that every host has.
            Some(port) => address(&format!("0.0.0.0:{port}")),
            None => address(text),
        }
    });
    let headers = section.pairs("response_headers", "headers of every answer", true);
    if let Some((name, _)) = headers.iter().find(|(name, value)| !is_header(name, value)) {
        let message =
            format!("{name:?} is not a header that HTTP allows, or one of the server's own");
        section.problem("response_headers", message);
    }
    let mut limit = |key, about| {
        let bounds = Duration::ZERO..=Duration::from_hours(1);
        let span = section.duration(key, about, Duration::ZERO, bounds);
        (!span.is_zero()).then_some(span)
    };
    let header_timeout = limit(
        "read_header_timeout",
        "how long a peer may take for its request's header; 0 leaves 5s",
    );
    let read = limit(
        "read_timeout",
        "how long a whole exchange may take, as write_timeout; 0 leaves 30s",
    );
    let write = limit(
        "write_timeout",
        "how long a whole exchange may take; the shorter of the two counts",
    );
    limit(
        "idle_timeout",
        "accepted; every connection ends with its answer",
    );
    section.switch(
        "keep_alives_enabled",
        "accepted; every connection ends with its answer",
        false,
    );
    section.parsed(
        "max_request_body_size",
        ("bytes", "accepted; no body of a request is read"),
        "0",
        |text| {
            let number = text.parse::<u64>();
            number.map_err(|_| "a number of bytes belongs here".to_owned())
        },
    );
    let about = ("tcp, tcp4, tcp6", "accepted; the address says which");
    section.parsed("transport", about, "tcp", |text| match text {
        "" | "tcp" | "tcp4" | "tcp6" => Ok(()),
        _ => Err("the door is served over TCP, write tcp or remove it".to_owned()),
    });
    let about = "accepted; no body of a request is read";
    section.texts("compression_algorithms", about, "none");
    let about = "accepted; nothing of a request is kept";
    section.switch("include_metadata", about, false);
    let tls = door_tls(section.sub("tls"));
    section.not_built(&["auth", "cors", "dialer", "middlewares"], NOT_HERE);
    section.finish();
    let door = HealthDoor {
        headers,
        header_timeout,
        exchange_timeout: [read, write].into_iter().flatten().min(),
        tls,
    };
    (endpoint, door)
}

fn door_tls(mut section: Section<'_, '_, '_>) -> Option<DoorTls> {
    let about = "chain that the door proves itself with; read again at every connection";
    let certificate = pem(&mut section, ("cert_file", about), "cert_pem", "none");
    let about = "its key";
    let key = pem(&mut section, ("key_file", about), "key_pem", "none");
    let about = "CA bundle that every peer's certificate must lead to";
    let client_ca = section.path_value("client_ca_file", about, "peers need no certificate");
    let about = ("1.2 or 1.3", "the oldest version that is spoken");
    let min_version = section.parsed("min_version", about, "1.2", version);
    let about = ("1.2 or 1.3", "the newest version that is spoken");
    let max_version = section.parsed("max_version", about, "1.3", version);
    let about = "accepted; files are read again at every connection";
    section.switch("client_ca_file_reload", about, false);
    let bounds = Duration::ZERO..=Duration::from_hours(24 * 365);
    section.duration("reload_interval", about, Duration::ZERO, bounds);
    section.not_built(
        &[
            "ca_file",
            "ca_pem",
            "include_system_ca_certs_pool",
            "cipher_suites",
            "include_insecure_cipher_suites",
            "curve_preferences",
            "tpm",
        ],
        "means nothing to this door or cannot be had here, remove it",
    );
    let is_wanted = section.is_present();
    let has = |names: [&str; 2]| names.iter().any(|name| section.has(name));
    let whole = has(["cert_file", "cert_pem"]) && has(["key_file", "key_pem"]);
    if is_wanted && !whole {
        section.problem(
            "",
            "TLS needs `cert_file` and `key_file`, or `cert_pem` and `key_pem`",
        );
    }
    let (oldest, newest) = (
        min_version.unwrap_or(TlsVersion::V1_2),
        max_version.unwrap_or(TlsVersion::V1_3),
    );
    if oldest > newest {
        section.problem("min_version", "newer than max_version, nothing is left");
    }
    section.finish();
    let versions = [TlsVersion::V1_2, TlsVersion::V1_3].into_iter();
    let versions = versions.filter(|version| (oldest..=newest).contains(version));
    Some(DoorTls {
        certificate: certificate?,
        key: key?,
        client_ca,
        versions: versions.collect(),
    })
}

fn is_header(name: &str, value: &str) -> bool {
    let own = [
        "connection",
        "content-length",
        "content-type",
        "transfer-encoding",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let visible = |c: char| c == ' ' || c.is_ascii_graphic();
    !name.is_empty()
        && name.chars().all(plain)
        && value.chars().all(visible)
        && !own.iter().any(|own| name.eq_ignore_ascii_case(own))
}
