//! Builds a process: environment, directory, descriptors, group; and says why it could not be started.
//!
//! Promises: the environment is built from [`BASE_ENVIRONMENT`], what the spec names and what it sets, never inherited;
//! each process leads its own group, reads nothing, and starts with no signal blocked and, after [`prepare_host`], none
//! ignored. Must be called on the main thread: a parent-death signal would fire when the spawning thread ends.
//! Must never: wait for a process, or use code between `fork` and `exec` unless the settings confine the process:
//! std's `posix_spawn` does all that is needed otherwise.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};

use super::raw;
use crate::config::Process;

/// Names of our own variables that every process gets when they are set: where programs and certificates are found, how
/// text and time are shown, how the outside is reached. No name of ours is among them, so no token of ours is.
pub const BASE_ENVIRONMENT: [&str; 14] = [
    "PATH",
    "HOME",
    "TZ",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
];

/// What `PATH` is when ours is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files a child may have at most by our raising. Hard limits of a thousand millions exist in containers, and
/// there are programs that close every possible descriptor at start.
const OPEN_FILES_MAX: u64 = 1024 * 1024;

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SpawnFailure {
    /// What was tried and why it failed.
    pub reason: String,
    /// Whether trying again may help.
    pub transient: bool,
}

impl SpawnFailure {
    pub(super) fn of(what: &str, path: &Path, error: &io::Error) -> Self {
        Self {
            reason: format!("{what} {}: {error}", path.display()),
            transient: true,
        }
    }
}

/// Makes ready what children inherit from us whatever we do: signals, file mode mask, limit of open files.
///
/// A signal that our own parent ignores (a shell's background job, `nohup`) would stay ignored in every child; a
/// handler of ours is put back to the default by `exec`, so each ignored signal gets one and is dropped there.
pub(super) fn prepare_host() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for number in ignored_signals() {
        // Those that cannot be caught are refused; they cannot be ignored either.
        drop(signal(SignalKind::from_raw(number)));
    }
    // Before Linux 5.11 an inherited descriptor reaches children, which harms few; nothing else depends on it.
    if let Err(error) = raw::close_on_exec_from(3) {
        tracing::debug!(%error, "inherited descriptors stay inheritable");
    }
    // Never more open than we were started with, and closed to writing by others in any case.
    let ours = umask(Mode::from_bits_truncate(0o022));
    umask(ours | Mode::from_bits_truncate(0o022));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(OPEN_FILES_MAX);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

/// Numbers of the signals this process ignores. SIGPIPE is not among them: std ignores it for us and resets it for
/// children.
fn ignored_signals() -> Vec<i32> {
    let mask = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or_default();
    (1..=31)
        .filter(|number| mask & (1 << (number - 1)) != 0)
        .filter(|number| *number != nix::libc::SIGPIPE)
        .collect()
}

/// Makes a private directory with its parents unless it is there.
pub(super) fn private_directory(path: &Path) -> Result<(), SpawnFailure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| SpawnFailure::of("create directory", path, &error))
}

/// What a process is started with.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) inherit: &'a [String],
    /// Set after everything else.
    pub(super) marker: Option<(&'static str, &'a str)>,
    pub(super) directory: &'a Path,
    /// What the kernel sends it when we die.
    pub(super) death_signal: Option<i32>,
    pub(super) process: &'a Process,
    /// What it joins its control group by.
    #[cfg(feature = "isolation")]
    pub(super) group: Option<std::os::fd::OwnedFd>,
}

/// Starts the process and answers its id. It is reaped by the reaper and by nobody else.
#[cfg_attr(
    not(feature = "isolation"),
    expect(clippy::needless_pass_by_value, reason = "the group is handed on")
)]
pub(super) fn start(plan: Plan<'_>, stdout: Stdio, stderr: Stdio) -> Result<u32, SpawnFailure> {
    let environment = environment(&plan, |name| std::env::var_os(name));
    let path = environment.get(&OsString::from("PATH")).cloned();
    let directory = plan.process.directory.as_deref().unwrap_or(plan.directory);
    let mut command = Command::new(plan.program);
    command
        .args(plan.args)
        .env_clear()
        .envs(environment)
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    #[cfg(feature = "isolation")]
    let confined = super::confine::confine(&mut command, plan.process, plan.group)
        .map_err(|error| SpawnFailure::of("confine", plan.program, &error))?;
    // After everything else: the kernel forgets it when the user changes.
    if let Some(signal) = plan.death_signal {
        raw::end_with_us(&mut command, signal);
    }
    // Dropping std's handle neither waits nor kills: the reaper is the one that waits.
    let spawned = command.spawn().map(|child| child.id());
    spawned.map_err(|error| {
        #[cfg(feature = "isolation")]
        if let Some(failure) = confined.and_then(|it| it.explain(plan.program, &error)) {
            return failure;
        }
        if plan.process.directory.is_some() && !directory.is_dir() {
            return SpawnFailure::of("go to the working directory", directory, &error);
        }
        explain(plan.program, path, &error)
    })
}

fn environment(
    plan: &Plan<'_>,
    own: impl Fn(&str) -> Option<OsString>,
) -> BTreeMap<OsString, OsString> {
    let mut environment = BTreeMap::from([("PATH".into(), DEFAULT_PATH.into())]);
    let inherited = plan.inherit.iter().map(String::as_str);
    for name in BASE_ENVIRONMENT.into_iter().chain(inherited) {
        if let Some(value) = own(name) {
            environment.insert(name.into(), value);
        }
    }
    // Of the user it becomes, where that is known; what the settings say of them stays.
    if let Some(account) = &plan.process.account {
        let home = account.home.clone().unwrap_or_else(|| PathBuf::from("/"));
        environment.insert("HOME".into(), home.into());
    }
    for (name, value) in plan.env {
        environment.insert(name.into(), value.into());
    }
    if let Some((name, value)) = plan.marker {
        environment.insert(name.into(), value.into());
    }
    environment
}

/// Turns the bare error number of `exec` into what an operator can act on.
fn explain(program: &Path, path: Option<OsString>, error: &io::Error) -> SpawnFailure {
    let shown = program.display();
    let errno = error.raw_os_error().map(Errno::from_raw);
    let transient = !matches!(
        errno,
        Some(
            Errno::ENOENT
                | Errno::EACCES
                | Errno::EPERM
                | Errno::ENOEXEC
                | Errno::ENOTDIR
                | Errno::EISDIR
                | Errno::ELOOP
                | Errno::ENAMETOOLONG
                | Errno::E2BIG
        )
    ) && error.kind() != io::ErrorKind::InvalidInput;
    let found = locate(program, path);
    let why = match (errno, &found) {
        (Some(Errno::ENOENT), None) if !has_directory(program) => {
            "no such program in PATH".to_owned()
        }
        (Some(Errno::ENOENT), None) => "no such file".to_owned(),
        (Some(Errno::ENOENT), Some(file)) => match interpreter(file) {
            Some(interpreter) => {
                format!("its interpreter {interpreter:?} does not exist")
            }
            None => {
                "the loader it names does not exist; it was built for another system".to_owned()
            }
        },
        (Some(Errno::EACCES), None) if !has_directory(program) => {
            "no such program in PATH, of which not every directory may be searched".to_owned()
        }
        (Some(Errno::EACCES), Some(file)) if file.is_dir() => "it is a directory".to_owned(),
        (Some(Errno::EACCES), Some(file)) if !is_executable(file) => {
            "it is not executable; chmod +x it".to_owned()
        }
        (Some(Errno::EACCES), Some(file)) => match interpreter(file) {
            Some(interpreter) => format!("its interpreter {interpreter:?} is not executable"),
            None => {
                "not permitted to execute it (a directory on the way, or a noexec mount)".to_owned()
            }
        },
        (Some(Errno::ENOEXEC), _) => {
            "not a program this machine can run (another architecture, or a script without #!)"
                .to_owned()
        }
        (Some(Errno::ETXTBSY), _) => "it is being written to right now".to_owned(),
        _ => error.to_string(),
    };
    SpawnFailure {
        reason: format!("start {shown}: {why}"),
        transient,
    }
}

fn has_directory(program: &Path) -> bool {
    program.components().count() > 1 || program.is_absolute()
}

/// The file that was to be executed, if it is there.
fn locate(program: &Path, path: Option<OsString>) -> Option<PathBuf> {
    if has_directory(program) {
        return program.exists().then(|| program.to_owned());
    }
    std::env::split_paths(&path?)
        .map(|directory| directory.join(program))
        .find(|file| file.exists())
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

/// What the first line of a script names.
fn interpreter(file: &Path) -> Option<String> {
    let mut head = Vec::new();
    // The kernel reads 256 bytes (BINPRM_BUF_SIZE) as well.
    fs::File::open(file)
        .ok()?
        .take(256)
        .read_to_end(&mut head)
        .ok()?;
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    // A carriage return stays visible: it is the usual reason.
    let line = String::from_utf8_lossy(line);
    let name = line.trim_matches([' ', '\t']).split([' ', '\t']).next()?;
    Some(name.to_owned())
}
