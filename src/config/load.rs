//! From a settings text to [`Config`]: tells the form, expands values, reads, and checks what concerns the whole.
//!
//! Promises: all problems come together, sorted by place; a text that is wrong anywhere yields no settings at all.
//! Must never: guess a form. Both forms in one file is an error that says so.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::units::{AgentName, order};
use crate::yaml::{Error, Limits, Node, Span, Style, Value, parse};

use super::expand::expand;
#[cfg(feature = "opampsupervisor")]
use super::otel;
use super::read::{Key, Reader};
use super::{Config, Environment, Form, Profile, Tls, ours};

/// Problems listed in one report.
const ERRORS_MAX: usize = 50;

/// What the command line puts over the settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Replaces `storage.directory`.
    pub storage: Option<PathBuf>,
    /// Replaces `server.endpoint`; a server is made with the defaults when the settings have none.
    pub endpoint: Option<String>,
    /// Replaces `http.listen`.
    pub listen: Option<Vec<SocketAddr>>,
    /// Replaces `log.level`.
    pub log_level: Option<String>,
    /// Feature gates that are on.
    pub feature_gates: Vec<String>,
}

/// What a build without the other form says of it.
#[cfg(not(feature = "opampsupervisor"))]
const WITHOUT_THEIRS: &str = "this build does not read the form of the OpenTelemetry Collector's supervisor: it was \
                              made without the feature `opampsupervisor`; write the settings in the `agents:` form";

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Error>);

impl ConfigErrors {
    pub(super) fn one(error: Error) -> Self {
        Self(vec![error])
    }

    fn new(mut errors: Vec<Error>) -> Self {
        order::sort_by(&mut errors, |a, b| {
            (&a.origin, a.line, a.column).cmp(&(&b.origin, b.line, b.column))
        });
        errors.dedup();
        Self(errors)
    }

    /// Each problem, by place.
    pub fn all(&self) -> &[Error] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().take(ERRORS_MAX).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        match self.0.len().saturating_sub(ERRORS_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Resolves a settings text. `origin` names it in errors, usually its path.
///
/// # Errors
/// Every problem of the text, of the profiles it uses, and of what it names on disk.
pub fn load(
    origin: &str,
    text: &str,
    env: &dyn Environment,
    overrides: &Overrides,
) -> Result<Config, ConfigErrors> {
    let tree = parse(origin, text, Limits::SETTINGS).map_err(ConfigErrors::one)?;
    let form = form_of(origin, &tree).map_err(ConfigErrors::one)?;
    resolve(origin, tree, form, env, overrides)
}

/// The settings of no file at all: one agent `collector`, our own data plane.
///
/// # Errors
/// When the environment names no place for the state, or our own executable cannot be run again.
pub fn defaults(env: &dyn Environment, overrides: &Overrides) -> Result<Config, ConfigErrors> {
    resolve("defaults", nothing(), Form::Agents, env, overrides)
}

/// Every key of a form, as the reader itself asks for it.
pub fn keys(form: Form) -> Vec<Key> {
    asked(form).keys
}

/// Every key of a form that is known and answered with an error, because this version cannot honour it.
pub fn keys_not_built(form: Form) -> Vec<String> {
    asked(form).not_built
}

fn asked(form: Form) -> Reader<'static> {
    let mut reader = Reader::new("", Some(form), &Nothing);
    // The values of an empty text do not matter here; the keys that were asked for do.
    drop(read(form, &nothing(), &mut reader));
    reader
}

/// Reads a text of a form; nothing in a build without it.
#[cfg_attr(
    feature = "opampsupervisor",
    expect(
        clippy::unnecessary_wraps,
        reason = "a build without the other form reads nothing of it"
    )
)]
pub(super) fn read(form: Form, tree: &Node, reader: &mut Reader<'_>) -> Option<Config> {
    match form {
        Form::Agents => Some(ours::read(tree, reader)),
        #[cfg(feature = "opampsupervisor")]
        Form::Agent => Some(otel::read(tree, reader)),
        #[cfg(not(feature = "opampsupervisor"))]
        Form::Agent => None,
    }
}

pub(super) fn nothing() -> Node {
    Node {
        span: Span::default(),
        value: Value::Scalar {
            text: String::new(),
            style: Style::Plain,
        },
    }
}

pub(super) fn form_of(origin: &str, tree: &Node) -> Result<Form, Error> {
    let key = |name: &str| {
        tree.entries()
            .iter()
            .map(|(key, _)| key)
            .find(|key| key.text() == Some(name))
    };
    match (key("agent"), key("agents")) {
        (Some(one), Some(other)) => {
            let later = if one.span.start > other.span.start {
                one
            } else {
                other
            };
            Err(Error {
                origin: origin.to_owned(),
                line: later.span.line,
                column: later.span.column,
                message: "`agent:` is the form of the OpenTelemetry Collector's supervisor, `agents:` is ours; \
                          keep one of them"
                    .to_owned(),
            })
        }
        #[cfg(not(feature = "opampsupervisor"))]
        (Some(theirs), None) => Err(Error {
            origin: origin.to_owned(),
            line: theirs.span.line,
            column: theirs.span.column,
            message: WITHOUT_THEIRS.to_owned(),
        }),
        #[cfg(feature = "opampsupervisor")]
        (Some(_), None) => Ok(Form::Agent),
        #[cfg(feature = "opampsupervisor")]
        // `capabilities:` is a key of the other form only; a text with it has forgotten its `agent:`.
        (None, None) if key("capabilities").is_some() => Ok(Form::Agent),
        (None, _) => Ok(Form::Agents),
    }
}

fn resolve(
    origin: &str,
    mut tree: Node,
    form: Form,
    env: &dyn Environment,
    overrides: &Overrides,
) -> Result<Config, ConfigErrors> {
    let mut reader = Reader::new(origin, Some(form), env);
    reader.gates.clone_from(&overrides.feature_gates);
    expand(&mut tree, &mut reader);
    let mut config = read(form, &tree, &mut reader).ok_or_else(|| {
        // `form_of` has refused it already.
        ConfigErrors::new(Vec::new())
    })?;
    config.warnings.append(&mut reader.warnings);
    let mut errors = reader.errors;
    over(&mut config, overrides, env, &mut errors);
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors::new(errors))
    }
}

fn over(
    config: &mut Config,
    overrides: &Overrides,
    env: &dyn Environment,
    errors: &mut Vec<Error>,
) {
    let mut refuse = |flag: &str, message: String| {
        errors.push(Error {
            origin: flag.to_owned(),
            line: 0,
            column: 0,
            message,
        });
    };
    let Overrides {
        storage,
        endpoint,
        listen,
        log_level,
        feature_gates: _,
    } = overrides;
    if let Some(storage) = storage {
        config.storage = env.working_directory().join(storage);
    }
    if let Some(endpoint) = endpoint {
        match ours::endpoint(endpoint) {
            Ok(endpoint) => match &mut config.server {
                Some(server) => server.endpoint = endpoint,
                None => config.server = Some(ours::server_at(endpoint, Tls::default())),
            },
            Err(message) => refuse("the server given on the command line", message),
        }
    }
    if let Some(listen) = listen {
        config.listen.clone_from(listen);
    }
    if let Some(level) = log_level {
        match ours::level(level) {
            Ok(level) => config.log.level = level,
            Err(message) => refuse("the log level given on the command line", message),
        }
    }
    if config.storage.as_os_str().is_empty() {
        refuse(
            "storage.directory",
            "neither XDG_STATE_HOME nor HOME is set, name a directory for the state".to_owned(),
        );
    }
}

/// Finds the program of an agent: the settings' own or the profile's.
pub(super) fn executable(
    given: Option<PathBuf>,
    profile: &Profile,
    env: &dyn Environment,
) -> Result<PathBuf, String> {
    let path = match (given, profile.executable.as_deref()) {
        (Some(path), _) => path,
        (None, Some("{self}")) => env.own_executable(),
        (None, Some(path)) => PathBuf::from(path),
        (None, None) => {
            return Err(format!(
                "the profile {:?} has no program of its own, name one",
                profile.name
            ));
        }
    };
    if env.is_executable(&path) {
        Ok(path)
    } else {
        Err(format!(
            "{} is not an executable file, install it or correct the path",
            path.display()
        ))
    }
}

/// The agent that runs when none is named.
pub(super) const DEFAULT_AGENT: &str = "collector";

/// A name that stands in for one that does not parse; an error has been recorded, so nobody meets it.
pub(super) fn agent_name(text: &str) -> Result<AgentName, String> {
    text.parse::<AgentName>().map_err(|error| error.to_string())
}

/// An environment in which nothing is set and everything exists; only [`keys`] reads in it.
struct Nothing;

impl Environment for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        Err(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            path.to_owned(),
        ))
    }

    fn own_executable(&self) -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }

    fn is_root(&self) -> bool {
        true
    }
}
