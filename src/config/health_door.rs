//! `healthcheck:` of the Collector's form: how the plain `/health` door answers.
//!
//! Promises: what our small HTTP server honours of the Collector's server settings is honoured; what it does not is an
//! error that says why. Must never: open anything.

use std::net::SocketAddr;
use std::time::Duration;

use super::ours::address;
use super::read::Section;

/// How the door answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthDoor {
    /// Headers of every answer.
    pub headers: Vec<(String, String)>,
    /// How long a peer may take to send its request's header; none leaves our own limit.
    pub header_timeout: Option<Duration>,
    /// How long an exchange may take; none leaves our own limit.
    pub exchange_timeout: Option<Duration>,
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
    let endpoint = section.parsed("endpoint", about, "off", address);
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
    section.not_built(
        &[
            "tls",
            "auth",
            "cors",
            "transport",
            "include_metadata",
            "compression_algorithms",
        ],
        NOT_HERE,
    );
    section.finish();
    let door = HealthDoor {
        headers,
        header_timeout,
        exchange_timeout: [read, write].into_iter().flatten().min(),
    };
    (endpoint, door)
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
