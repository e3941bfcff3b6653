//! `collect.yaml`: what is collected and where it goes, every field resolved.
//!
//! Promises: reading has no side effects; all errors come together, each with key path, line and column; defaults
//! live here and nowhere else; a definition compares equal exactly when the running part built from it need not be
//! touched.
//! Must never: read a file or the environment, resolve a name, or keep a secret — tokens are named by file.

mod fields;
mod parse;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use parse::parse;

use crate::dataplane::record::Signal;

/// The name of the file in a config directory.
pub const FILE_NAME: &str = "collect.yaml";

/// What runs when nobody has configured anything. The supervisor's profile has the same file as its default.
pub const DEFAULT_CONFIG: &str = include_str!("default.yaml");

/// One thing wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, relative to the config directory.
    pub file: String,
    /// Line, counted from 1; 0 when the error has no place.
    pub line: usize,
    /// Column, counted from 1; 0 when the error has no place.
    pub column: usize,
    /// The keys that lead to it, joined by dots; empty for the whole file.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// A whole config.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Config {
    /// Attributes of everything that leaves this host, in the order of the file.
    pub(crate) resource: Vec<(String, String)>,
    /// The sources by id.
    pub(crate) sources: Vec<(String, SourceConfig)>,
    /// The uploads by id.
    pub(crate) uploads: Vec<(String, UploadConfig)>,
}

impl Config {
    /// The source of kernel events, of which there is one at most.
    pub(crate) fn kernel(&self) -> Option<(&str, &SourceConfig, &KernelConfig)> {
        self.sources
            .iter()
            .find_map(|(id, source)| match &source.kind {
                SourceKind::Kernel(kernel) => Some((id.as_str(), source, kernel)),
                SourceKind::HostMetrics(_) | SourceKind::UnixSocket(_) | SourceKind::Otlp(_) => {
                    None
                }
            })
    }
}

/// A source of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceConfig {
    /// Bounds of the buffer between the source and the pipeline.
    pub(crate) buffer: Bounds,
    /// What it is.
    pub(crate) kind: SourceKind,
}

/// The kinds of sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// CPU, memory, disk, network, temperatures.
    HostMetrics(HostMetricsConfig),
    /// Lines written to a stream socket.
    UnixSocket(UnixSocketConfig),
    /// OTLP over HTTP.
    Otlp(OtlpConfig),
    /// Processes, connections and OOM kills, from programs in the kernel.
    Kernel(KernelConfig),
}

impl SourceKind {
    /// The signals it emits.
    pub(crate) const fn signals(&self) -> &'static [Signal] {
        match self {
            Self::HostMetrics(_) => &[Signal::Metrics],
            Self::UnixSocket(_) | Self::Kernel(_) => &[Signal::Logs],
            Self::Otlp(_) => &Signal::ALL,
        }
    }

    /// The word under `kind`.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::HostMetrics(_) => "host_metrics",
            Self::UnixSocket(_) => "unix_socket",
            Self::Otlp(_) => "otlp",
            Self::Kernel(_) => "kernel",
        }
    }
}

/// Settings of host metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostMetricsConfig {
    /// Time between two readings.
    pub(crate) interval: Duration,
    /// The parts to read, each once.
    pub(crate) collectors: Vec<CollectorKind>,
    /// Where the host's `/proc` and `/sys` are found.
    pub(crate) root: PathBuf,
}

/// The parts of the host there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CollectorKind {
    /// `/proc/stat`.
    Cpu,
    /// `/proc/meminfo`.
    Memory,
    /// `/proc/diskstats`.
    Disk,
    /// `/proc/net/dev`.
    Network,
    /// `/sys/class/thermal`.
    Thermal,
}

impl CollectorKind {
    /// All of them; the default.
    pub(crate) const ALL: [Self; 5] = [
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Network,
        Self::Thermal,
    ];

    /// The word in settings.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Thermal => "thermal",
        }
    }
}

/// Settings of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnixSocketConfig {
    /// Where it listens; absolute.
    pub(crate) path: PathBuf,
    /// Permission bits of the socket file.
    pub(crate) mode: u32,
    /// Bytes of a line beyond which it is cut.
    pub(crate) line_bytes_max: usize,
    /// Writers at one time; more are hung up on.
    pub(crate) connections_max: usize,
}

/// Settings of the OTLP receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtlpConfig {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Bytes of a request's body, compressed or not, beyond which it is refused.
    pub(crate) body_bytes_max: usize,
    /// Connections at one time; more are answered that it is too many.
    pub(crate) connections_max: usize,
    /// Longest time for the head of a request, and again for its body.
    pub(crate) timeout: Duration,
}

/// Settings of kernel events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelConfig {
    /// The kinds to report, each once.
    pub(crate) events: Vec<KernelEvents>,
    /// Whether command lines are read; they may hold secrets.
    pub(crate) command_args: bool,
    /// Ports whose connections are left out.
    pub(crate) exclude_ports: Vec<u16>,
    /// Bytes between the kernel and us; a power of two.
    pub(crate) ring_bytes: usize,
    /// Connections that are followed at one time.
    pub(crate) connections_max: usize,
}

/// The kinds of kernel events there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelEvents {
    /// A process runs another program.
    Exec,
    /// A process ends.
    Exit,
    /// TCP connections come, fail and go.
    Tcp,
    /// The kernel kills a process for its memory.
    Oom,
}

impl KernelEvents {
    /// All of them; the default.
    pub(crate) const ALL: [Self; 4] = [Self::Exec, Self::Exit, Self::Tcp, Self::Oom];

    /// The word in settings.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Tcp => "tcp",
            Self::Oom => "oom",
        }
    }
}

/// How much a queue holds: whichever bound is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Records.
    pub(crate) records: usize,
    /// Bytes in memory.
    pub(crate) bytes: usize,
}

/// When an upload counts as behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Records wait, and none was acknowledged for so long: degraded.
    pub(crate) degraded_after: Duration,
    /// The same: in error.
    pub(crate) error_after: Duration,
    /// So many percent of the queue are taken: degraded.
    pub(crate) degraded_backlog: usize,
    /// The same: in error.
    pub(crate) error_backlog: usize,
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UploadConfig {
    /// Ids of the sources it takes from.
    pub(crate) from: Vec<String>,
    /// Bounds of its queue.
    pub(crate) queue: Bounds,
    /// Longest time a record waits for company.
    pub(crate) interval: Duration,
    /// Records that are sent without waiting for more.
    pub(crate) batch: usize,
    /// Records of one request.
    pub(crate) chunk: usize,
    /// When it counts as behind.
    pub(crate) thresholds: Thresholds,
    /// What it is.
    pub(crate) kind: UploadKind,
}

/// The kinds of uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UploadKind {
    /// Import lines over HTTP.
    VictoriaMetrics(HttpConfig),
    /// OTLP protobuf over HTTP.
    OtlpHttp(HttpConfig),
    /// JSON lines on standard output.
    Console,
}

impl UploadKind {
    /// Whether it can carry a signal (F-099).
    pub(crate) const fn carries(&self, signal: Signal) -> bool {
        match self {
            Self::VictoriaMetrics(_) => matches!(signal, Signal::Metrics),
            Self::OtlpHttp(_) | Self::Console => true,
        }
    }

    /// The word under `kind`.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::VictoriaMetrics(_) => "victoria_metrics",
            Self::OtlpHttp(_) => "otlp_http",
            Self::Console => "console",
        }
    }
}

/// Where and how an HTTP upload sends.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpConfig {
    /// The endpoint as configured, without a slash at its end and without credentials.
    pub(crate) endpoint: hyper::Uri,
    /// Headers of every request.
    pub(crate) headers: Vec<(hyper::header::HeaderName, hyper::header::HeaderValue)>,
    /// A file with a bearer token, read anew at every attempt.
    pub(crate) bearer_token_file: Option<PathBuf>,
    /// One more trusted CA.
    pub(crate) ca_file: Option<PathBuf>,
    /// Longest time of one request, connecting included.
    pub(crate) timeout: Duration,
}

impl fmt::Debug for HttpConfig {
    /// Header values may be secrets: only their names are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("HttpConfig")
            .field("endpoint", &self.endpoint)
            .field("headers", &names)
            .field("bearer_token_file", &self.bearer_token_file)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_default_reads_the_host_and_listens_and_uploads_nothing() {
        let config = parse(FILE_NAME, DEFAULT_CONFIG).unwrap();
        let [(id, source), (other, otlp)] = config.sources.as_slice() else {
            panic!("{config:?}")
        };
        assert_eq!((id.as_str(), other.as_str()), ("host", "otlp"));
        let SourceKind::HostMetrics(host) = &source.kind else {
            panic!("{source:?}")
        };
        assert_eq!(host.interval, Duration::from_secs(10));
        assert_eq!(host.collectors, CollectorKind::ALL);
        let SourceKind::Otlp(otlp) = &otlp.kind else {
            panic!("{otlp:?}")
        };
        assert_eq!(otlp.listen.to_string(), "127.0.0.1:4318");
        assert_eq!(config.uploads, []);
    }

    #[test]
    fn header_values_do_not_print() {
        let config = parse(
            FILE_NAME,
            "sources: {h: {kind: host_metrics}}\nuploads: {u: {kind: otlp_http, endpoint: 'http://x:1', from: [h], headers: {x-key: hunter2}}}\n",
        )
        .unwrap();
        let text = format!("{config:?}");
        assert!(
            text.contains("x-key") && !text.contains("hunter2"),
            "{text}"
        );
    }
}
