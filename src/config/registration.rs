//! Registration with a fleet's REST service: the `registration:` section, and the names of the environment that
//! gateway images of the field use.
//!
//! Promises: a key of the settings wins over a variable; a variable that is set to nothing counts as not set; tokens
//! are looked for here and never read: whoever uses one reads it then. Every mapping of a URL is one function with
//! a table.
//! Must never: hold a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::ours::endpoint;
use super::read::{Reader, Section};
use super::tls::tls;
use super::{Environment, Server, Tls};
use crate::units::order;
use crate::yaml;

/// Holds the registration token.
pub const REGISTRATION_TOKEN: &str = "REGISTRATION_TOKEN";
/// Holds an OpAMP token that somebody else obtained.
pub const OPAMP_TOKEN: &str = "OPAMP_TOKEN";
/// Every variable of gateway images that has a meaning here, as the manual lists them.
#[cfg(test)]
const VARIABLES: [&str; 13] = [
    REGISTRATION_TOKEN,
    OPAMP_TOKEN,
    "BACKEND_URL",
    "OPAMP_WS_URL",
    "OPAMP_SERVER_URL",
    "INSTANCE_ID",
    "GATEWAY_NAME",
    "HOSTNAME",
    "IP_ADDRESS",
    "HEARTBEAT_INTERVAL",
    "USE_SUPERVISOR",
    "SUPERVISOR_CONFIG",
    "CONFIG_FILE",
];
/// What a build without the feature says when it is asked to register.
pub const NOT_BUILT: &str = "this build cannot register with a service (feature registration); bring a token in \
                             OPAMP_TOKEN, or use the full build";
/// Variables that no child is ever given.
pub const SECRET_VARIABLES: [&str; 2] = [REGISTRATION_TOKEN, OPAMP_TOKEN];

/// Where the OpAMP endpoint lies below the address of the field's servers.
const OPAMP_PATH: &str = "/api/v1/opamp/v1/opamp";
/// What such a server calls its OpAMP endpoint, although the protocol lies one step below.
const OPAMP_PREFIX: &str = "/api/v1/opamp";
/// The path of the protocol itself.
const OPAMP_STANDARD: &str = "/v1/opamp";
/// Where the REST service lies below its address.
const REST_PATH: &str = "/api/v1";
/// Characters of a name or a label.
const TEXT_MAX: usize = 255;
/// Entries of `metadata`.
const METADATA_MAX: usize = 64;

/// How to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The REST service, without a slash at its end; none when only a token was given.
    pub url: Option<String>,
    /// Where the registration token is.
    pub token: TokenSource,
    /// Whether `OPAMP_TOKEN` holds a token to begin with.
    pub seed: bool,
    /// What the service knows us by; the node's or the host's name without it.
    pub instance_id: Option<String>,
    /// What people see; the instance id without it.
    pub name: Option<String>,
    /// The address people see.
    pub ip_address: Option<String>,
    /// More about us, for people.
    pub metadata: BTreeMap<String, String>,
    /// What happens when the server rejects the token.
    pub on_rejected: OnRejected,
    /// How the service's identity is verified.
    pub tls: Tls,
}

impl Registration {
    /// Whether a call could be made at all.
    pub fn can_register(&self) -> bool {
        self.url.is_some() && self.token != TokenSource::None
    }
}

/// Where the registration token is. It is read when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Nowhere.
    None,
    /// In a file.
    File(PathBuf),
    /// In the variable `REGISTRATION_TOKEN`.
    Environment,
}

/// What happens when the server rejects the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRejected {
    /// Say so, retry slowly, and leave the rest to a person.
    Hold,
    /// Register again, a few times a day at most.
    Register,
}

/// Reads the section of the `agents:` form. The flag says whether there is one.
pub(super) fn read(mut section: Section<'_, '_, '_>) -> (Registration, bool) {
    let url = section.parsed(
        "url",
        ("URL", "the REST service to register with: http or https"),
        "$BACKEND_URL, else the address in $OPAMP_SERVER_URL",
        rest_url,
    );
    let token_file = section.path_value(
        "token_file",
        "holds the registration token; read when it is used",
        "none: the token is in $REGISTRATION_TOKEN",
    );
    let text = |about| ("text", about);
    let instance_id = section.parsed(
        "instance_id",
        text("what the service knows us by"),
        "$INSTANCE_ID, else the node's name, else the host's name",
        short,
    );
    let name = section.parsed(
        "name",
        text("what people see"),
        "$GATEWAY_NAME, else the instance id",
        short,
    );
    let ip_address = section.parsed(
        "ip_address",
        text("the address people see"),
        "$IP_ADDRESS, else none",
        short,
    );
    let metadata = section.pairs("metadata", "more about us, for people", false);
    if metadata.len() > METADATA_MAX {
        section.problem("metadata", format!("more than {METADATA_MAX} entries"));
    }
    for (key, value) in &metadata {
        if let Err(message) = short(key).and_then(|_| short(value)) {
            section.problem("metadata", message);
        }
    }
    let on_rejected = section.choice(
        "on_rejected",
        "what happens when the server rejects the token: hold and wait for a person, or register again",
        &[("hold", OnRejected::Hold), ("register", OnRejected::Register)],
        ("hold", OnRejected::Hold),
    );
    let (tls, _) = tls(section.sub("tls"));
    let present = section.is_present();
    section.finish();
    let given = Registration {
        url,
        token: token_file.map_or(TokenSource::None, TokenSource::File),
        seed: false,
        instance_id,
        name,
        ip_address,
        metadata: order::map(metadata),
        on_rejected,
        tls,
    };
    (given, present)
}

/// What the environment alone says, for the `agent:` form, which has no such section.
#[cfg(feature = "opampsupervisor")]
pub(super) fn of_environment(reader: &mut Reader<'_>) -> Option<Registration> {
    let nothing = Registration {
        url: None,
        token: TokenSource::None,
        seed: false,
        instance_id: None,
        name: None,
        ip_address: None,
        metadata: BTreeMap::new(),
        on_rejected: OnRejected::Hold,
        tls: Tls::default(),
    };
    complete(nothing, false, reader)
}

/// Takes what the environment adds. None when nothing asks for a registration.
pub(super) fn complete(
    mut given: Registration,
    present: bool,
    reader: &mut Reader<'_>,
) -> Option<Registration> {
    let env = reader.env;
    refuse_extension_mode(reader);
    given.seed = set(env, OPAMP_TOKEN).is_some();
    if set(env, REGISTRATION_TOKEN).is_some() {
        if let TokenSource::File(path) = &given.token {
            let message = format!(
                "registration.token_file names {} and the variable {REGISTRATION_TOKEN} is set too; keep one of them",
                path.display()
            );
            refuse(reader, message);
        } else {
            given.token = TokenSource::Environment;
        }
    }
    if given.url.is_none() {
        given.url = url_of_environment(reader);
    }
    let wanted = present || given.seed || given.token != TokenSource::None;
    if !wanted {
        return None;
    }
    if given.token != TokenSource::None && given.url.is_none() && reader.errors.is_empty() {
        let message = "there is a registration token but no service to register with; set registration.url or \
                       BACKEND_URL";
        refuse(reader, message.to_owned());
    }
    if given.token != TokenSource::None && !cfg!(feature = "registration") {
        refuse(reader, NOT_BUILT.to_owned());
    }
    if present && given.token == TokenSource::None && !given.seed {
        reader.warnings.push(format!(
            "registration: there is no token to register with; set registration.token_file or {REGISTRATION_TOKEN}"
        ));
    }
    for (field, name) in [
        (&mut given.instance_id, "INSTANCE_ID"),
        (&mut given.name, "GATEWAY_NAME"),
        (&mut given.ip_address, "IP_ADDRESS"),
    ] {
        if field.is_some() {
            continue;
        }
        match set(env, name).map(|value| short(&value)).transpose() {
            Ok(value) => *field = value,
            Err(message) => reader.errors.push(of_variable(name, &message)),
        }
    }
    if let Some(url) = given.url.as_deref().filter(|url| is_readable(url)) {
        reader.warnings.push(format!(
            "registration: {url} is plain http to another machine, so the token travels readable; use https"
        ));
    }
    if set(env, "CONFIG_FILE").is_some() {
        reader.warnings.push(
            "CONFIG_FILE is set and not used; name config files in the settings of their agent"
                .to_owned(),
        );
    }
    Some(given)
}

/// A way to read a URL, with what is wrong about the text where it is none.
type ReadUrl = fn(&str) -> Result<String, String>;

fn url_of_environment(reader: &mut Reader<'_>) -> Option<String> {
    first_url(
        reader,
        [
            ("BACKEND_URL", rest_url as ReadUrl),
            ("OPAMP_SERVER_URL", rest_url_of_server),
        ],
    )
}

/// The endpoint that the environment names: `OPAMP_WS_URL`, else what `OPAMP_SERVER_URL` comes to.
pub(super) fn server_of_environment(reader: &mut Reader<'_>) -> Option<String> {
    first_url(
        reader,
        [
            ("OPAMP_WS_URL", endpoint as ReadUrl),
            ("OPAMP_SERVER_URL", opamp_url),
        ],
    )
}

/// The first of these variables that holds a URL. One that holds something else is a mistake and not skipped quietly.
fn first_url(reader: &mut Reader<'_>, names: [(&'static str, ReadUrl); 2]) -> Option<String> {
    for (name, read) in names {
        match set(reader.env, name).map(|value| read(&value)).transpose() {
            Ok(Some(url)) => return Some(url),
            Ok(None) => {}
            Err(message) => reader.errors.push(of_variable(name, &message)),
        }
    }
    None
}

/// `HEARTBEAT_INTERVAL`, in seconds.
pub(super) fn heartbeat_of_environment(reader: &mut Reader<'_>) -> Option<u64> {
    let text = set(reader.env, "HEARTBEAT_INTERVAL")?;
    if let Ok(seconds @ 1..=3600) = text.trim().parse() {
        Some(seconds)
    } else {
        let message = "a whole number of seconds from 1 to 3600 belongs here";
        let error = of_variable("HEARTBEAT_INTERVAL", message);
        reader.errors.push(error);
        None
    }
}

/// Drops an `Authorization` that was to hold a token which is not there: the token of the registration is sent then.
pub(super) fn drop_empty_authorization(server: &mut Option<Server>) {
    if let Some(server) = server {
        server.headers.retain(|(name, value)| {
            let value = value.expose().trim();
            let empty = value.is_empty() || value.eq_ignore_ascii_case("bearer");
            !(name.eq_ignore_ascii_case("authorization") && empty)
        });
    }
}

/// A name of our environment that a child may be given.
pub(super) fn child_variable(name: &str) -> Result<String, String> {
    if SECRET_VARIABLES.contains(&name) {
        return Err(format!(
            "{name} holds a secret of ours and is given to no child, remove it"
        ));
    }
    Ok(name.to_owned())
}

fn refuse_extension_mode(reader: &mut Reader<'_>) {
    let Some(value) = set(reader.env, "USE_SUPERVISOR") else {
        return;
    };
    if !value.trim().eq_ignore_ascii_case("true") {
        let message = "asks for a collector that speaks to the server by itself; adjutant is always the supervisor, \
                       unset the variable or start the collector without adjutant";
        reader.errors.push(of_variable("USE_SUPERVISOR", message));
    }
}

fn refuse(reader: &mut Reader<'_>, message: String) {
    reader.errors.push(yaml::Error {
        origin: reader.origin.clone(),
        line: 0,
        column: 0,
        message,
    });
}

fn of_variable(name: &str, message: &str) -> yaml::Error {
    yaml::Error {
        origin: format!("the variable {name}"),
        line: 0,
        column: 0,
        message: message.to_owned(),
    }
}

fn set(env: &dyn Environment, name: &str) -> Option<String> {
    env.var(name).filter(|value| !value.trim().is_empty())
}

/// A text for people: not empty, not a book, no control characters.
fn short(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(format!(
            "a text of 1 to {TEXT_MAX} characters without line breaks belongs here"
        ));
    }
    Ok(text.to_owned())
}

/// Scheme, authority and path without the slash at its end; no query, no fragment, no credentials.
fn parts(text: &str) -> Result<(&'static str, &str, &str), String> {
    let text = text.trim();
    let (scheme, rest) = ["http", "https", "ws", "wss"]
        .into_iter()
        .find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?.strip_prefix("://")?)))
        .ok_or("begin the URL with http:// or https://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if rest.contains(['?', '#']) {
        return Err("no query and no fragment here; a token in a URL ends up in logs".to_owned());
    }
    if authority.contains('@') {
        return Err("no user or password in a URL".to_owned());
    }
    if authority.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a URL with a host belongs here".to_owned());
    }
    Ok((scheme, authority, path.trim_end_matches('/')))
}

/// The address of the REST service.
fn rest_url(text: &str) -> Result<String, String> {
    let (scheme, authority, path) = parts(text)?;
    if !matches!(scheme, "http" | "https") {
        return Err("begin the URL with http:// or https://".to_owned());
    }
    // Some write the address, some the root of the interface.
    let path = path.strip_suffix(REST_PATH).unwrap_or(path);
    Ok(format!("{scheme}://{authority}{path}"))
}

/// The address of the REST service that lies beside an OpAMP server.
fn rest_url_of_server(text: &str) -> Result<String, String> {
    let (scheme, authority, _) = parts(text)?;
    let scheme = if matches!(scheme, "https" | "wss") {
        "https"
    } else {
        "http"
    };
    Ok(format!("{scheme}://{authority}"))
}

/// The WebSocket URL that the address of a server comes to: `http` → `ws`, and the path of the field's servers where
/// none is given.
///
/// # Errors
/// For people: what is not right about it.
pub fn opamp_url(text: &str) -> Result<String, String> {
    let (scheme, authority, path) = parts(text)?;
    let is_socket = scheme.starts_with("ws");
    let scheme = if matches!(scheme, "https" | "wss") {
        "wss"
    } else {
        "ws"
    };
    let path = if path.ends_with(OPAMP_PATH) || path == OPAMP_STANDARD {
        path.to_owned()
    } else if path.ends_with(OPAMP_PREFIX) {
        format!("{path}{OPAMP_STANDARD}")
    } else if is_socket && !path.is_empty() {
        path.to_owned()
    } else {
        format!("{path}{OPAMP_PATH}")
    };
    Ok(format!("{scheme}://{authority}{path}"))
}

/// What an endpoint that a service returned is good for: the WebSocket URL it comes to, if it can be meant.
///
/// # Errors
/// For people: why it is not used.
pub fn returned_endpoint(text: &str, service: &str) -> Result<String, String> {
    let url = opamp_url(text)?;
    let (scheme, authority, _) = parts(&url)?;
    let (service_scheme, service_authority, _) = parts(service)?;
    let name = host(authority);
    let unspecified = name
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_unspecified());
    if unspecified {
        return Err(format!(
            "{authority} is an address to listen on, not one to connect to"
        ));
    }
    if service_scheme == "https" && scheme != "wss" {
        return Err("the service speaks https and the endpoint does not".to_owned());
    }
    if service_scheme != "https" && name != host(service_authority) {
        return Err(format!(
            "{name} is another host than the service, whose answer was not protected by TLS"
        ));
    }
    Ok(url)
}

fn host(authority: &str) -> &str {
    if let Some((bracketed, _)) = authority
        .strip_prefix('[')
        .and_then(|it| it.split_once(']'))
    {
        return bracketed;
    }
    authority.split(':').next().unwrap_or(authority)
}

/// Whether a token sent there can be read on the way.
fn is_readable(url: &str) -> bool {
    let Ok((scheme, authority, _)) = parts(url) else {
        return false;
    };
    let name = host(authority);
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    scheme == "http" && !loopback
}

#[cfg(test)]
mod tests;
