//! A Debian of its own, booted with systemd in a container, and everything in it reached from outside.
//!
//! Promises: what a test changes in it is gone with it, as its disk is a layer above a tree that is only read; it has
//! no network but its own loopback; one machine at a time, also over several test runs on one host; whatever was
//! started ends with its owner, and the cgroups go too.
//! Must never: touch the host's systemd, or need one.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The longest wait for anything: far beyond what an idle machine needs, so that a busy one passes too.
const DEADLINE: Duration = Duration::from_mins(2);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one command inside may take, in seconds, before it counts as stuck.
const COMMAND_S: &str = "120";
/// Where packages are inside.
pub(super) const PACKAGES: &str = "/packages";
/// Below each of these, if it is there, the machine gets a cgroup of its own.
const HIERARCHIES: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How a command ended and what it said.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

/// A booted machine.
pub(super) struct Machine {
    nspawn: Child,
    leader: Pid,
    cgroups: Vec<PathBuf>,
    directory: TempDir,
    /// Given up last.
    _turn: (File, MutexGuard<'static, ()>),
}

impl Machine {
    /// Boots it, with the packages of a directory at [`PACKAGES`] and further arguments for nspawn.
    pub(super) fn boot(packages: &Path, more: &[&str]) -> Self {
        let cache = cache();
        let base = cache.join("debian");
        assert!(
            base.join("lib/systemd/systemd").exists(),
            "no Debian to boot in {}; tests/setup.sh makes it, as root",
            base.display()
        );
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = File::create(cache.join("debian.lock")).unwrap();
        lock.lock().unwrap();

        let directory = tempfile::tempdir().unwrap();
        let name = format!("adjutant-test-{}", std::process::id());
        let cgroups = cgroups(&name);
        let log = File::create(directory.path().join("console")).unwrap();
        // It ends with this thread, should that be killed; TERM makes nspawn halt the machine.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "sh", "-c"])
            .arg("until [ $1 = -- ]; do echo $$ > $1/cgroup.procs; shift; done; shift; exec \"$@\"")
            .arg("sh")
            .args(&cgroups)
            .args(["--", "systemd-nspawn", "--quiet", "--boot", "--directory"])
            .arg(&base)
            .args(["--volatile=overlay", "--register=no", "--keep-unit"])
            .args(["--private-network", "--console=pipe", "--machine", &name])
            .arg(format!("--bind-ro={}:{PACKAGES}", packages.display()))
            .args(more);
        let nspawn = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut machine = Self {
            leader: Pid::from_raw(0),
            nspawn,
            cgroups,
            directory,
            _turn: (lock, turn),
        };
        machine.leader = machine.wait_for("process 1 of the machine", || machine.process_one());
        machine.until("the machine to have booted", || {
            let state = machine.run("systemctl is-system-running").out;
            ["running", "degraded"].contains(&state.trim())
        });
        machine
    }

    /// The child of nspawn that is process 1 of the machine.
    fn process_one(&self) -> Option<Pid> {
        let nspawn = self.nspawn.id().to_string();
        let mut pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.find(|pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map(|rest| rest.split_whitespace().collect::<Vec<_>>())
            };
            // Its id in the namespaces, ours first.
            field("PPid:").is_some_and(|ids| ids == [nspawn.as_str()])
                && field("NSpid:").is_some_and(|ids| ids.last() == Some(&"1"))
                && field("Name:").is_some_and(|name| name == ["systemd"])
        })
        .map(Pid::from_raw)
    }

    /// Runs a line of shell inside, as root.
    pub(super) fn run(&self, line: &str) -> Done {
        let output = Command::new("timeout")
            .args([COMMAND_S, "nsenter", "--target"])
            .arg(self.leader.to_string())
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"])
            .args(["env", "-i", "HOME=/root", "TERM=dumb", "LC_ALL=C"])
            .arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=cat"])
            .args(["sh", "-c", line])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Done {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs what must succeed, and answers what it printed.
    pub(super) fn ok(&self, line: &str) -> String {
        let done = self.run(line);
        assert_eq!(done.code, Some(0), "{line}: {done:?}\n{}", self.journal());
        done.out.trim().to_owned()
    }

    /// Properties of the service, in the order of the question.
    pub(super) fn property(&self, name: &str) -> String {
        self.ok(&format!(
            "systemctl show --property {name} --value adjutant"
        ))
    }

    pub(super) fn is_active(&self) -> bool {
        self.run("systemctl is-active adjutant").out.trim() == "active"
    }

    /// What the service and systemd said of it.
    pub(super) fn journal(&self) -> String {
        self.run("journalctl --no-pager --output=short-monotonic --unit adjutant")
            .out
    }

    /// Command lines of the processes inside whose program is ours, with their ids inside.
    pub(super) fn processes(&self) -> Vec<(i32, String)> {
        let line = "for it in /proc/[0-9]*; do echo \"${it#/proc/} $(tr '\\0' ' ' < $it/cmdline)\"; done 2>/dev/null";
        let listed = self.run(line).out;
        let lines = listed.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter(|(_, command)| command.starts_with("/usr/bin/adjutant "))
            .map(|(pid, command)| (pid.parse().unwrap(), command.trim().to_owned()))
            .collect()
    }

    /// Waits until exactly one child runs besides the supervisor, and answers its id.
    pub(super) fn child(&self) -> i32 {
        self.wait_for("exactly one child", || {
            let all = self.processes();
            let (runs, children): (Vec<_>, Vec<_>) =
                all.iter().partition(|(_, line)| line.contains(" run "));
            match (runs.len(), children.as_slice()) {
                (1, [(pid, _)]) => Some(*pid),
                _ => None,
            }
        })
    }

    /// Asks until the answer is `Some`.
    pub(super) fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() > end {
                let console = fs::read_to_string(self.directory.path().join("console"));
                let journal = if self.leader.as_raw() > 0 {
                    self.journal()
                } else {
                    String::new()
                };
                panic!(
                    "waited too long for {what}\n{journal}\n{}",
                    console.unwrap_or_default()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks until the answer is true.
    pub(super) fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        self.wait_for(what, || look().then_some(()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of process 1 is the end of all in its namespace, and nspawn ends with it.
        if self.leader.as_raw() > 0 {
            kill(self.leader, Signal::SIGKILL).ok();
        } else {
            self.nspawn.kill().ok();
        }
        self.nspawn.wait().ok();
        let end = Instant::now() + DEADLINE;
        for cgroup in &self.cgroups {
            // A cgroup is busy until the kernel has seen the last of its processes off.
            while remove(cgroup).is_err() && Instant::now() < end {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Prints a number that the run is asked for, past the capture of the test harness.
pub(super) fn tell(what: &str) {
    writeln!(std::io::stderr(), "systemd: {what}").ok();
}

fn cache() -> PathBuf {
    let set = std::env::var_os("ADJUTANT_PEERS_DIR").map(PathBuf::from);
    set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/.cache"))
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let roots = HIERARCHIES.iter().map(Path::new);
    roots
        .filter(|root| root.join("cgroup.procs").exists())
        .map(|root| root.join(name))
        .inspect(|path| {
            // A killed run may have left an empty one under the same process id.
            if !path.exists() {
                fs::create_dir(path).unwrap();
            }
        })
        .collect()
}

/// Removes a tree of cgroups, whose files cannot and need not be removed.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
