//! Starts the real program on a state directory of its own and watches it from outside.
//!
//! Promises: every wait has a deadline; whatever was started is gone when its [`Supervisor`] is dropped, children of an
//! earlier life included.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::peers::Place;

/// How long anything may take; a loaded machine is slow, and waiting costs only where something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place with settings and an agent's script, before anything runs.
pub(crate) struct Bench {
    dir: Place,
}

impl Bench {
    /// One `generic` agent `a` whose program is `script`, run with `/bin/sh`, and one local config file. `more` are
    /// further lines of the agent's settings.
    pub(crate) fn generic(script: &str, more: &str) -> Self {
        let bench = Self { dir: Place::new() };
        let program = bench.path("agent.sh");
        bench.put("agent.sh", &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        bench.put("local.conf", "local\n");
        let dir = bench.dir.path().display();
        bench.put(
            "supervisor.yaml",
            &format!(
                "storage: {{directory: {dir}/state}}
http: {{listen: [\"127.0.0.1:0\"]}}
agents:
  a:
    profile: generic
    executable: {dir}/agent.sh
    config_files: [{dir}/local.conf]
    main_file: local.conf
    proof: {{kind: fresh_process, alive_for: 100ms}}
    apply: {{probation: 1s}}
    restart: {{initial_delay: 100ms}}
{more}"
            ),
        );
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        use std::io::Write as _;
        let mut file = File::create(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        command
            .args(["run", "--config"])
            .arg(self.path("supervisor.yaml"))
            .stdin(Stdio::null());
        command
    }

    /// Starts the supervisor; its log goes to `log`.
    pub(crate) fn start(&self) -> Supervisor {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let process = self
            .command()
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Supervisor {
            process,
            dir: self.dir.path().to_owned(),
        }
    }

    /// The processes that run this bench's script.
    pub(crate) fn children(&self) -> Vec<i32> {
        running(&self.path("agent.sh"))
    }

    /// Waits until exactly one process runs the script, and says which.
    pub(crate) fn one_child(&self) -> i32 {
        let mut found = 0;
        self.until("exactly one child runs", || match self.children()[..] {
            [pid] => {
                found = pid;
                true
            }
            _ => false,
        });
        found
    }

    /// Waits for a condition.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(
                Instant::now() < deadline,
                "waited too long until {what}; the log says\n{}",
                self.text("log")
            );
            pause();
        }
    }
}

/// A running supervisor.
pub(crate) struct Supervisor {
    process: Child,
    dir: PathBuf,
}

impl Supervisor {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(self.process.id()), signal).unwrap();
    }

    /// Waits for its end and says how long that took.
    pub(crate) fn ended(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "the supervisor does not end");
            pause();
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        kill(pid(self.process.id()), Signal::SIGKILL).ok();
        self.process.wait().ok();
        for child in running(&self.dir.join("agent.sh")) {
            killpg(Pid::from_raw(child), Signal::SIGKILL).ok();
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

fn running(program: &Path) -> Vec<i32> {
    let program = program.as_os_str().as_encoded_bytes();
    let names = fs::read_dir("/proc").unwrap().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // Read at once and possibly gone: then it does not run.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == program)
        })
        .collect()
}

/// Between two looks at a condition.
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
