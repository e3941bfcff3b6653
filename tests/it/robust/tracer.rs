//! Faults at chosen system calls of a running supervisor, by `strace`.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::proc;
use super::rig::{Rig, have, lacks, wait_for, wait_until};

/// Which thread of the supervisor is watched.
#[derive(Debug, Clone, Copy)]
pub(super) enum Thread {
    /// The one that runs the loop and starts processes.
    Main,
    /// The one that writes the state of agent `one`.
    Disk,
    /// The one that writes pairs.
    Certificates,
    /// All of them, those that come later included.
    Every,
}

impl Thread {
    fn of(self, pid: u32) -> u32 {
        let wanted = match self {
            Self::Main | Self::Every => return pid,
            Self::Disk => "disk one",
            Self::Certificates => "disk certs",
        };
        // A thread takes its name when it first runs.
        wait_for(&format!("a thread {wanted}"), || {
            let threads = proc::threads(pid);
            let found = threads.iter().find(|(_, name)| name == wanted);
            found.map(|(id, _)| *id)
        })
    }
}

/// A fault as `strace -e inject=` takes it: calls, and what happens to them.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) calls: &'static str,
    pub(super) what: String,
}

impl Fault {
    /// SIGKILL on entering the `nth` of the calls.
    pub(super) fn kill(calls: &'static str, nth: usize) -> Self {
        Self {
            calls,
            what: format!("signal=SIGKILL:when={nth}"),
        }
    }

    /// Every one of the calls fails.
    pub(super) fn error(calls: &'static str, errno: &str) -> Self {
        Self {
            calls,
            what: format!("error={errno}"),
        }
    }

    /// The `nth` of each of the calls fails, and no other.
    pub(super) fn error_at(calls: &'static str, errno: &str, nth: usize) -> Self {
        Self {
            calls,
            what: format!("error={errno}:when={nth}"),
        }
    }

    /// The `nth` of the calls and every later one fails.
    pub(super) fn error_from(calls: &'static str, errno: &str, nth: usize) -> Self {
        Self {
            calls,
            what: format!("error={errno}:when={nth}+"),
        }
    }

    fn args(&self) -> [String; 4] {
        [
            "-e".to_owned(),
            format!("trace={}", self.calls),
            "-e".to_owned(),
            format!("inject={}:{}", self.calls, self.what),
        ]
    }
}

/// A tracer at work; dropped, it lets go.
pub(super) struct Tracer {
    process: Child,
    log: PathBuf,
}

impl Tracer {
    /// Whether there is a tracer on this machine.
    pub(super) fn is_there() -> bool {
        have(lacks("strace"))
    }

    /// Watches one thread of a running process.
    pub(super) fn attach(rig: &Rig, pid: u32, thread: Thread, fault: &Fault) -> Self {
        let log = trace_file(rig);
        let follow = matches!(thread, Thread::Every).then_some("-f");
        let thread = thread.of(pid);
        let mut process = Command::new("strace")
            .args(follow)
            .args(["-qq", "-o"])
            .arg(&log)
            .args(fault.args())
            .args(["-p", &thread.to_string()])
            .stdin(Stdio::null())
            .stderr(File::create(log.with_extension("err")).unwrap())
            .spawn()
            .unwrap();
        wait_until("the tracer", || {
            let said = std::fs::read_to_string(log.with_extension("err")).unwrap();
            assert_eq!(process.try_wait().unwrap(), None, "strace ended: {said}");
            proc::status_line(thread, "TracerPid") == Some(process.id().to_string())
        });
        Self { process, log }
    }

    /// What it has seen.
    pub(super) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts a program under watch from its first system call, threads and children included.
    pub(super) fn start(rig: &Rig, command: &Command, fault: &Fault) -> Command {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "-o"])
            .arg(trace_file(rig))
            .args(fault.args())
            .arg(command.get_program())
            .args(command.get_args());
        strace
    }
}

fn trace_file(rig: &Rig) -> PathBuf {
    rig.path().join("trace")
}

impl Drop for Tracer {
    fn drop(&mut self) {
        proc::send(self.process.id(), Signal::SIGTERM);
        self.process.wait().ok();
    }
}
