//! Raw text → [`Config`], in one pass, all errors together.
//!
//! Promises: sections and kinds of later versions are refused as "not supported in this version" and not as typing
//! errors; an upload that cannot carry what a source emits is refused here and not at run time (F-099); credentials
//! in an endpoint are refused.
//! Must never: touch the disk or the network.

mod otlp;

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::fields::{Errors, Fields, join};
use super::{
    Bounds, CollectorKind, Config, ConfigError, HostMetricsConfig, HttpConfig, SourceConfig,
    SourceKind, Thresholds, UnixSocketConfig, UploadConfig, UploadKind,
};
use crate::yaml::{self, Limits, Node, Value, nearest};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Parts of one kind; more are a mistake or an attack.
const PARTS_MAX: usize = 64;
/// Headers and resource attributes.
const PAIRS_MAX: usize = 64;
/// `sun_path` holds 108 bytes with the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const SOURCE_KINDS: [&str; 4] = ["host_metrics", "unix_socket", "otlp", "kernel"];
const UPLOAD_KINDS: [&str; 3] = ["victoria_metrics", "otlp_http", "console"];

/// Reads a config. `file` names it in errors.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Config, Vec<ConfigError>> {
    let tree = yaml::parse(file, text, Limits::SETTINGS).map_err(|error| {
        vec![ConfigError {
            file: file.to_owned(),
            line: error.line,
            column: error.column,
            path: String::new(),
            message: error.message,
        }]
    })?;
    let mut errors = Errors::of(file);
    let config = root(&tree, &mut errors);
    let errors = errors.into_sorted();
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(errors),
    }
}

fn root(tree: &Node, errors: &mut Errors) -> Option<Config> {
    let mut fields = Fields::open(tree, "", errors)?;
    for later in ["processors", "spool"] {
        if fields.get(later).is_some() {
            let key = tree
                .entries()
                .iter()
                .find(|(key, _)| key.text() == Some(later));
            let at = key.map_or(tree, |(key, _)| key);
            let message = format!("not supported in this version: the section {later:?}");
            fields.fail(at, later, message);
        }
    }
    let resource = resource(&mut fields);
    let sources = parts(&mut fields, "sources", source);
    let uploads = parts(&mut fields, "uploads", upload);
    otlp::listen_once(&mut fields, &sources);
    links(&mut fields, &sources, &uploads);
    kernel::alone(&mut fields, &sources);
    fields.finish();
    Some(Config {
        resource,
        sources: sources.into_iter().filter_map(defined).collect(),
        uploads: uploads
            .into_iter()
            .filter_map(defined)
            .map(|(id, upload)| (id, upload.config))
            .collect(),
    })
}

/// The parts of a section by id, the broken ones included, so that a link to one is not reported as unknown.
fn parts<'a, T>(
    fields: &mut Fields<'a, '_>,
    section: &'static str,
    read: fn(Fields<'a, '_>) -> Option<T>,
) -> Vec<(String, Option<T>)> {
    let Some(node) = fields.get(section) else {
        return Vec::new();
    };
    if !matches!(node.value, Value::Map(_)) {
        fields.fail(node, section, "a map of ids belongs here");
        return Vec::new();
    }
    if node.entries().len() > PARTS_MAX {
        fields.fail(node, section, format!("more than {PARTS_MAX} entries"));
        return Vec::new();
    }
    let mut parts = Vec::new();
    for (key, value) in node.entries() {
        let id = key.text().unwrap_or_default();
        let path = join(section, id);
        if !is_id(id) {
            let message = "an id is 1 to 63 of a-z A-Z 0-9 - _ .";
            fields.errors.add(key, &path, message);
        }
        let part = Fields::open(value, &path, fields.errors).and_then(read);
        parts.push((id.to_owned(), part));
    }
    parts
}

fn defined<T>((id, part): (String, Option<T>)) -> Option<(String, T)> {
    part.map(|part| (id, part))
}

fn is_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn resource(fields: &mut Fields<'_, '_>) -> Vec<(String, String)> {
    let pairs = fields.pairs("resource");
    if pairs.len() > PAIRS_MAX {
        let node = fields.node;
        fields.fail(
            node,
            "resource",
            format!("more than {PAIRS_MAX} attributes"),
        );
    }
    let mut attributes = Vec::new();
    for (key, name, _, text) in pairs {
        if name.is_empty() {
            fields.fail(key, "resource", "an attribute needs a name");
        }
        attributes.push((name.to_owned(), text.to_owned()));
    }
    attributes
}

/// The kind of a part; one that we do not know is said not to be supported, because a later version may know it.
fn kind<'a>(fields: &mut Fields<'a, '_>, what: &str, known: &[&'static str]) -> Option<&'a str> {
    let node = fields.required("kind")?;
    let Some(word) = node.text() else {
        fields.fail(node, "kind", "a single value belongs here");
        return None;
    };
    if known.contains(&word) {
        return Some(word);
    }
    let hint = nearest(word, known.iter().copied())
        .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
    let shown: String = word.chars().take(64).collect();
    let message = format!(
        "not supported in this version: {what} of kind {shown:?} (supported: {}){hint}",
        known.join(", ")
    );
    fields.fail(node, "kind", message);
    None
}

fn bounds(fields: &mut Fields<'_, '_>, key: &'static str, default: Bounds) -> Bounds {
    let Some(node) = fields.get(key) else {
        return default;
    };
    let path = fields.path_of(key);
    let Some(mut inner) = Fields::open(node, &path, fields.errors) else {
        return default;
    };
    let bounds = Bounds {
        records: inner.count("records", default.records, (1, 10_000_000)),
        bytes: inner.size("size", default.bytes, (64 * KIB, 1024 * MIB)),
    };
    inner.finish();
    bounds
}

fn source(mut fields: Fields<'_, '_>) -> Option<SourceConfig> {
    let word = kind(&mut fields, "sources", &SOURCE_KINDS)?;
    // One request must fit as a whole.
    let bytes = if word == "otlp" { 32 * MIB } else { 8 * MIB };
    let default = Bounds {
        records: 65_536,
        bytes,
    };
    let buffer = bounds(&mut fields, "buffer", default);
    let kind = match word {
        "host_metrics" => Some(SourceKind::HostMetrics(host_metrics(&mut fields))),
        "otlp" => otlp::read(&mut fields).map(SourceKind::Otlp),
        "kernel" => Some(SourceKind::Kernel(kernel::kernel(&mut fields))),
        _ => unix_socket(&mut fields).map(SourceKind::UnixSocket),
    };
    fields.finish();
    kind.map(|kind| SourceConfig { buffer, kind })
}

fn host_metrics(fields: &mut Fields<'_, '_>) -> HostMetricsConfig {
    let interval = fields.duration("interval", Duration::from_secs(10));
    let mut collectors = Vec::new();
    match fields.texts("collectors") {
        None => collectors.extend(CollectorKind::ALL),
        Some(words) => {
            if words.is_empty() {
                let node = fields.node;
                fields.fail(node, "collectors", "at least one collector belongs here");
            }
            for (node, word) in words {
                let known = CollectorKind::ALL.map(CollectorKind::word);
                match CollectorKind::ALL
                    .into_iter()
                    .find(|kind| kind.word() == word)
                {
                    Some(kind) if collectors.contains(&kind) => {
                        fields.fail(node, "collectors", format!("{word:?} occurs twice"));
                    }
                    Some(kind) => collectors.push(kind),
                    None => {
                        let hint = nearest(word, known).map_or_else(
                            || format!("known: {}", known.join(", ")),
                            |near| format!("did you mean {near:?}?"),
                        );
                        fields.fail(node, "collectors", format!("unknown collector, {hint}"));
                    }
                }
            }
        }
    }
    let root = fields
        .path("root")
        .map_or_else(|| PathBuf::from("/"), |(_, root)| root);
    HostMetricsConfig {
        interval,
        collectors,
        root,
    }
}

fn unix_socket(fields: &mut Fields<'_, '_>) -> Option<UnixSocketConfig> {
    let config = UnixSocketConfig {
        path: PathBuf::new(),
        mode: mode(fields),
        line_bytes_max: fields.size("max_line", 64 * KIB, (KIB, MIB)),
        connections_max: fields.count("max_connections", 64, (1, 4096)),
    };
    fields.required("path")?;
    let (node, path) = fields.path("path")?;
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message = format!("a socket path has at most {SOCKET_PATH_BYTES_MAX} bytes");
        fields.fail(node, "path", message);
        return None;
    }
    Some(UnixSocketConfig { path, ..config })
}

/// Permission bits as text such as `0660`: YAML reads a bare `0660` as six hundred and sixty or as octal, by version.
fn mode(fields: &mut Fields<'_, '_>) -> u32 {
    const OWNER_ONLY: u32 = 0o600;
    let Some((node, text)) = fields.text("mode") else {
        return OWNER_ONLY;
    };
    let octal = text.len() == 4 && text.starts_with('0');
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode & 0o200 != 0 && mode & 0o111 == 0 => mode,
        _ => {
            let message = format!("{text:?} is not an octal mode such as 0600, 0660 or 0666");
            fields.fail(node, "mode", message);
            OWNER_ONLY
        }
    }
}

/// An upload and where its links stand, for errors about them.
#[derive(Debug)]
struct RawUpload<'a> {
    config: UploadConfig,
    from: Vec<(&'a Node, &'a str)>,
}

fn upload<'a>(mut fields: Fields<'a, '_>) -> Option<RawUpload<'a>> {
    let word = kind(&mut fields, "uploads", &UPLOAD_KINDS)?;
    let from = if fields.required("from").is_some() {
        fields.texts("from").unwrap_or_default()
    } else {
        Vec::new()
    };
    let queue = Bounds {
        records: 200_000,
        bytes: 32 * MIB,
    };
    let queue = bounds(&mut fields, "queue", queue);
    let default = Duration::from_secs(if word == "console" { 1 } else { 5 });
    let interval = fields.duration("interval", default);
    let batch = fields.count("batch", 2500, (1, 100_000));
    let chunk = fields.count("chunk", 500, (1, 10_000));
    let thresholds = thresholds(&mut fields);
    let kind = match word {
        "victoria_metrics" => http(&mut fields).map(UploadKind::VictoriaMetrics),
        "otlp_http" => http(&mut fields).map(UploadKind::OtlpHttp),
        _ => Some(UploadKind::Console),
    };
    fields.finish();
    kind.map(|kind| RawUpload {
        config: UploadConfig {
            from: from.iter().map(|(_, id)| (*id).to_owned()).collect(),
            queue,
            interval,
            batch,
            chunk,
            thresholds,
            kind,
        },
        from,
    })
}

/// When an upload counts as behind.
fn thresholds(fields: &mut Fields<'_, '_>) -> Thresholds {
    let mut thresholds = Thresholds {
        degraded_after: Duration::from_mins(1),
        error_after: Duration::from_mins(10),
        degraded_backlog: 50,
        error_backlog: 90,
    };
    let Some(node) = fields.get("health") else {
        return thresholds;
    };
    let path = fields.path_of("health");
    let Some(mut inner) = Fields::open(node, &path, fields.errors) else {
        return thresholds;
    };
    let percent = (1, 100);
    thresholds = Thresholds {
        degraded_after: inner.duration("degraded_after", thresholds.degraded_after),
        error_after: inner.duration("error_after", thresholds.error_after),
        degraded_backlog: inner.count("degraded_backlog", thresholds.degraded_backlog, percent),
        error_backlog: inner.count("error_backlog", thresholds.error_backlog, percent),
    };
    if thresholds.error_after < thresholds.degraded_after {
        inner.fail(node, "error_after", "sooner than degraded_after");
    }
    if thresholds.error_backlog < thresholds.degraded_backlog {
        inner.fail(node, "error_backlog", "lower than degraded_backlog");
    }
    inner.finish();
    thresholds
}

fn http(fields: &mut Fields<'_, '_>) -> Option<HttpConfig> {
    let timeout = fields.duration("timeout", Duration::from_secs(30));
    let headers = headers(fields);
    let token = fields.path("bearer_token_file");
    if let Some((node, _)) = &token
        && headers.iter().any(|(name, _)| *name == AUTHORIZATION)
    {
        let message = "stands beside a header authorization; keep one of them";
        fields.fail(node, "bearer_token_file", message);
    }
    let ca_file = fields.path("ca_file").map(|(_, path)| path);
    fields.required("endpoint")?;
    let (node, text) = fields.text("endpoint")?;
    match endpoint(text) {
        Ok(endpoint) => Some(HttpConfig {
            endpoint,
            headers,
            bearer_token_file: token.map(|(_, path)| path),
            ca_file,
            timeout,
        }),
        Err(message) => {
            fields.fail(node, "endpoint", message);
            None
        }
    }
}

/// Checks an endpoint. The text is quoted in no error: it may hold the credentials we refuse.
fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text
        .trim_end_matches('/')
        .parse()
        .map_err(|_| "this is not a URL such as http://host:8428")?;
    let Some(authority) = uri.authority() else {
        return Err("this is not a URL such as http://host:8428");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("the scheme is neither http nor https");
    }
    if authority.as_str().contains('@') {
        return Err("credentials in a URL end up in logs; use headers or bearer_token_file");
    }
    if authority.host().is_empty() || authority.port().is_some_and(|port| port.as_u16() == 0) {
        return Err("the URL names no host and port that can be dialled");
    }
    Ok(uri)
}

fn headers(fields: &mut Fields<'_, '_>) -> Vec<(HeaderName, HeaderValue)> {
    const OURS: [&str; 6] = [
        "host",
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
    ];
    let mut headers = Vec::new();
    let pairs = fields.pairs("headers");
    if pairs.len() > PAIRS_MAX {
        let node = fields.node;
        fields.fail(node, "headers", format!("more than {PAIRS_MAX} headers"));
    }
    for (key, name, value, text) in pairs {
        let path = join("headers", name);
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            fields.fail(key, &path, "this is not a header name");
            continue;
        };
        if OURS.contains(&name.as_str()) {
            fields.fail(key, &path, "this header is set by the upload itself");
            continue;
        }
        match HeaderValue::from_str(text) {
            Ok(mut text) => {
                text.set_sensitive(true);
                headers.push((name, text));
            }
            Err(_) => fields.fail(value, &path, "a header value has no control characters"),
        }
    }
    headers
}

/// Every link must lead to a source, once, and carry what it emits.
fn links(
    fields: &mut Fields<'_, '_>,
    sources: &[(String, Option<SourceConfig>)],
    uploads: &[(String, Option<RawUpload<'_>>)],
) {
    for (id, upload) in uploads {
        let Some(upload) = upload else { continue };
        let path = format!("uploads.{id}.from");
        for (index, (node, from)) in upload.from.iter().enumerate() {
            let twice = upload
                .from
                .iter()
                .take(index)
                .any(|(_, other)| other == from);
            let message = match sources.iter().find(|(id, _)| id == from) {
                _ if twice => format!("{from:?} occurs twice"),
                None => {
                    let ids = || sources.iter().map(|(id, _)| id.as_str());
                    match nearest(from, ids()) {
                        Some(near) => format!("no source {from:?}, did you mean {near:?}?"),
                        None => format!(
                            "no source {from:?}, there are: {}",
                            ids().collect::<Vec<_>>().join(", ")
                        ),
                    }
                }
                // Of a source with several signals an upload takes what it can carry.
                Some((_, Some(source))) if !carries_any(&upload.config.kind, &source.kind) => {
                    let signals = source.kind.signals().iter().map(|signal| signal.word());
                    format!(
                        "{} cannot carry {}, which the source {from:?} ({}) emits",
                        upload.config.kind.word(),
                        signals.collect::<Vec<_>>().join(", "),
                        source.kind.word()
                    )
                }
                Some(_) => continue,
            };
            fields.errors.add(node, &path, message);
        }
    }
}

fn carries_any(upload: &UploadKind, source: &SourceKind) -> bool {
    source
        .signals()
        .iter()
        .any(|signal| upload.carries(*signal))
}

mod kernel;
#[cfg(test)]
mod tests;
