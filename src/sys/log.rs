//! Sets up the process's own log: one subscriber, text or JSON lines, on standard error, and in a file once there is
//! one.
//!
//! Promises: a level that does not parse is an error and not a silent default; HTTP, TLS and WebSocket crates are
//! capped at
//! `warn`, because at `debug` they print headers, and headers carry tokens.
//! Must never: write to standard output, which belongs to what a command prints or to telemetry on the console,
//! unless the settings name it.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::log_file::LogFile;
use super::records::{self, Lines};
use crate::units::Rotation;

/// Crates that print headers or key material below `warn`.
const CAPPED: [&str; 8] = [
    "hyper",
    "hyper_util",
    "h2",
    "rustls",
    "tokio_rustls",
    "tungstenite",
    "tokio_tungstenite",
    "axum",
];

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object per line, for collectors and containers.
    #[default]
    Json,
    /// One line of text, for people.
    Text,
}

/// A log set-up that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none of ours.
    #[error("log level {0:?} is not one of error, warn, info, debug, trace")]
    Level(String),
    /// The format is none of ours.
    #[error("log format {0:?} is not one of json, text")]
    Format(String),
    /// Somebody set a subscriber before us.
    #[error("set up the log a second time")]
    Taken,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(LogError::Format(other.chars().take(32).collect())),
        }
    }
}

/// Parses a level as settings and command line write it.
///
/// # Errors
/// Names the levels there are.
pub fn parse_level(text: &str) -> Result<Level, LogError> {
    match text {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        other => Err(LogError::Level(other.chars().take(32).collect())),
    }
}

/// The filter of a level: everything of ours at it, foreign wire crates never below `warn`.
fn filter(level: Level) -> Targets {
    let capped = LevelFilter::from_level(level).min(LevelFilter::WARN);
    Targets::new()
        .with_default(level)
        .with_targets(CAPPED.map(|target| (target, capped)))
}

/// Where lines go besides standard error.
static FILE: OnceLock<Lines> = OnceLock::new();

/// Writes every line from now on to a file as well. The first one counts.
pub fn also_to(file: Lines) {
    // There is one log; a second file would be a mistake that costs nothing.
    drop(FILE.set(file));
}

/// Where lines go in place of standard error.
#[derive(Debug, Default)]
struct Outputs {
    stdout: bool,
    stderr: bool,
    files: Vec<Lines>,
}

/// Set before the first line, where the settings say so.
static OUTPUTS: OnceLock<Outputs> = OnceLock::new();

/// A file that the log cannot go to.
#[derive(Debug, thiserror::Error)]
#[error("open the log file {}", path.display())]
pub struct OutputError {
    path: PathBuf,
    source: io::Error,
}

/// Sends every line from now on to these places and not to standard error. The first call counts.
///
/// # Errors
/// A file that cannot be opened for appending.
pub fn only_to(
    (stdout, stderr): (bool, bool),
    files: &[PathBuf],
    rotation: Rotation,
) -> Result<(), OutputError> {
    let mut outputs = Outputs {
        stdout,
        stderr,
        files: Vec::new(),
    };
    for path in files {
        let failed = |source| OutputError {
            path: path.clone(),
            source,
        };
        let mut file = LogFile::new(path.clone(), rotation);
        file.probe().map_err(failed)?;
        outputs
            .files
            .push(records::start_one(file).map_err(failed)?);
    }
    // There is one log; a second set of places would be a mistake that costs nothing.
    drop(OUTPUTS.set(outputs));
    Ok(())
}

/// How our lines look, since there are any.
#[cfg(feature = "opampsupervisor")]
static FORMAT: OnceLock<Format> = OnceLock::new();

/// How our lines look.
#[cfg(feature = "opampsupervisor")]
pub fn format() -> Format {
    FORMAT.get().copied().unwrap_or_default()
}

/// Puts a line of somebody else among ours, wherever they go; `stream` writes to standard output (0) or standard
/// error (1). Waits for a disk, so it is not for the loop.
///
/// # Errors
/// The last place that did not take it.
#[cfg(feature = "opampsupervisor")]
pub fn pass_on(line: &[u8], stream: impl Fn(usize, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut outcome = Ok(());
    let (mut stdout, mut stderr) = (false, true);
    let outputs = OUTPUTS.get();
    if let Some(outputs) = outputs {
        (stdout, stderr) = (outputs.stdout, outputs.stderr);
    }
    let files = outputs.into_iter().flat_map(|outputs| &outputs.files);
    for file in files.chain(FILE.get()) {
        if !file.push_waiting(line.to_vec()) {
            outcome = Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    if stdout {
        let _alone = io::stdout().lock();
        outcome = stream(0, line).and(outcome);
    }
    if stderr {
        let _alone = io::stderr().lock();
        outcome = stream(1, line).and(outcome);
    }
    outcome
}

/// Waits a moment until the files have every line.
pub fn flush(patience: std::time::Duration) {
    let outputs = OUTPUTS.get().map(|outputs| &outputs.files);
    for file in FILE.get().into_iter().chain(outputs.into_iter().flatten()) {
        file.flush(patience);
    }
}

/// One line on its way: a formatter writes it whole.
#[derive(Debug)]
struct Tee;

impl io::Write for Tee {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(file) = FILE.get() {
            file.push(line.to_vec());
        }
        let (mut stdout, mut stderr) = (false, true);
        if let Some(outputs) = OUTPUTS.get() {
            (stdout, stderr) = (outputs.stdout, outputs.stderr);
            for file in &outputs.files {
                file.push(line.to_vec());
            }
        }
        if stdout {
            io::stdout().write_all(line)?;
        }
        if stderr {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Something that hears every record beside the lines.
#[cfg(feature = "telemetry")]
pub type Extra = Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>;

/// Starts logging to standard error. Called once, by `main`.
///
/// # Errors
/// A subscriber is already set.
pub fn init(level: Level, format: Format) -> Result<(), LogError> {
    tracing_subscriber::registry()
        .with(lines(level, format))
        .try_init()
        .map_err(|_| LogError::Taken)
}

/// The same with somebody who hears every record, at the same level.
///
/// # Errors
/// A subscriber is already set.
#[cfg(feature = "telemetry")]
pub fn init_with(level: Level, format: Format, extra: Extra) -> Result<(), LogError> {
    tracing_subscriber::registry()
        .with(extra.with_filter(filter(level)))
        .with(lines(level, format))
        .try_init()
        .map_err(|_| LogError::Taken)
}

fn lines<S>(level: Level, format: Format) -> Box<dyn tracing_subscriber::Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    #[cfg(feature = "opampsupervisor")]
    FORMAT.get_or_init(|| format);
    match format {
        Format::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(|| Tee)
            .with_filter(filter(level))
            .boxed(),
        Format::Text => tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| Tee)
            .with_filter(filter(level))
            .boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_crates_stay_at_warn_however_loud_we_are() {
        let loud = filter(Level::TRACE);
        assert!(loud.would_enable("adjutant::dataplane", &Level::TRACE));
        assert!(!loud.would_enable("hyper::proto", &Level::INFO));
        assert!(loud.would_enable("rustls::client", &Level::WARN));
        let quiet = filter(Level::ERROR);
        assert!(!quiet.would_enable("hyper::proto", &Level::WARN));
    }

    #[test]
    fn levels_and_formats_name_what_there_is() {
        assert_eq!(parse_level("debug").ok(), Some(Level::DEBUG));
        assert_eq!(
            parse_level("loud").unwrap_err().to_string(),
            "log level \"loud\" is not one of error, warn, info, debug, trace"
        );
        assert_eq!("text".parse::<Format>().ok(), Some(Format::Text));
        assert!("xml".parse::<Format>().is_err());
    }
}
