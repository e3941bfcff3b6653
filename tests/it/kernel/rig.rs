//! Runs `adjutant collect` with kernel events on its console, and finds among them what a test looks for.
//!
//! Promises: what was started ends with its owner, control groups are removed, every wait has a deadline.
//! Must never: hold a scenario.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(super) use crate::peers::eventually;

/// The user that has nothing.
pub(super) const NOBODY: u32 = 65534;

/// A running data plane.
pub(super) struct Plane {
    child: Child,
    dir: tempfile::TempDir,
}

impl Plane {
    /// Starts one with these settings of its source `k`, and waits until its programs are attached.
    pub(super) fn start(settings: &str) -> Self {
        let plane = Self::with(Command::new(env!("CARGO_BIN_EXE_adjutant")), settings, "");
        plane.says("\"part\":\"source.k\"");
        let log = plane.log();
        assert!(
            log.contains("part healthy\",\"part\":\"source.k\""),
            "{log}"
        );
        plane
    }

    /// Starts one by a command that ends before `collect`; `more` are further lines of its config.
    pub(super) fn with(mut command: Command, settings: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let separator = if settings.is_empty() { "" } else { ", " };
        let text = format!(
            "sources:\n  k: {{kind: kernel{separator}{settings}}}\n  h: {{kind: host_metrics, interval: 500ms}}\n\
             uploads:\n  out: {{kind: console, from: [k, h], interval: 100ms}}\n{more}"
        );
        put(&config.join("collect.yaml"), &text);
        let out = File::create(dir.path().join("out")).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = command
            .arg("collect")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log);
        let child = child
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, dir }
    }

    /// A command that runs a copy of the program as nobody.
    pub(super) fn as_nobody(at: &Path) -> Command {
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        let program = at.join("adjutant");
        fs::copy(env!("CARGO_BIN_EXE_adjutant"), &program).unwrap();
        let mut command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY);
        command
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.path().join("config/collect.yaml")
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Waits until its log holds a text.
    pub(super) fn says(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// The whole lines of its console so far.
    pub(super) fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("out")).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// All events of one name that fit.
    pub(super) fn events(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let named = |record: &Value| record["event"] == name && fits(&record["attributes"]);
        self.records().into_iter().filter(named).collect()
    }

    /// Waits for the first event of one name that fits; its attributes.
    pub(super) fn event(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let record = self.record(name, fits);
        record["attributes"].clone()
    }

    /// Waits for the first event of one name that fits.
    pub(super) fn record(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("an event {name}"), || {
            let found = self.events(name, &fits).into_iter().next();
            found.ok_or_else(|| {
                format!(
                    "{} records, none of them; {}",
                    self.records().len(),
                    self.log()
                )
            })
        })
    }

    /// Ends what runs below the command it was started by, with that command.
    pub(super) fn end_below(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = fs::read_to_string(children).unwrap_or_default();
        for pid in children
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
        {
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        self.signal(Signal::SIGTERM);
        self.ended();
    }

    /// Asks it to stop and waits for that.
    pub(super) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    pub(super) fn ended(&mut self) -> ExitStatus {
        eventually("the end of the data plane", || {
            self.child.try_wait().unwrap().ok_or_else(|| self.log())
        })
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes a file.
pub(super) fn put(path: &Path, text: &str) {
    File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

/// Whether an attribute is this number.
pub(super) fn is(attributes: &Value, name: &str, number: impl Into<u64>) -> bool {
    attributes[name].as_u64() == Some(number.into())
}

/// A control group of a hierarchy, made for one test and removed with it.
pub(super) struct Cgroup {
    at: PathBuf,
    name: String,
}

impl Cgroup {
    /// In the unified hierarchy.
    pub(super) fn unified(word: &str) -> Self {
        Self::below(&mount("cgroup2", None), word)
    }

    /// In the hierarchy that bounds memory, old or new; none where there is none.
    pub(super) fn memory(word: &str, bytes: u64) -> Self {
        let old = mounts().into_iter().find(|(_, kind, options)| {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        });
        let (at, limit) = match old {
            Some((at, _, _)) => (at, "memory.limit_in_bytes"),
            None => (mount("cgroup2", None), "memory.max"),
        };
        let group = Self::below(&at, word);
        let limit = group.at.join(limit);
        fs::metadata(&limit).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; this test needs a memory controller, in either hierarchy",
                limit.display()
            )
        });
        put(&limit, &bytes.to_string());
        group
    }

    fn below(root: &Path, word: &str) -> Self {
        let name = format!("adjutant-test-{}-{word}", std::process::id());
        let at = root.join(&name);
        fs::create_dir(&at)
            .unwrap_or_else(|error| panic!("make the control group {}: {error}", at.display()));
        Self { at, name }
    }

    /// Its path as events tell it.
    pub(super) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Prefixes a shell command with moving into the group.
    pub(super) fn enter(&self, command: &str) -> String {
        format!(
            "echo $$ > {}/cgroup.procs && exec {command}",
            self.at.display()
        )
    }

    /// Removes it, once it is empty.
    pub(super) fn remove(&self) {
        eventually(
            "the control group can be removed",
            || match fs::remove_dir(&self.at) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        );
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What still runs in it is ours alone.
        let left = fs::read_to_string(self.at.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines().filter_map(|line| line.parse().ok()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        if self.at.exists() && !std::thread::panicking() {
            self.remove();
        } else {
            fs::remove_dir(&self.at).ok();
        }
    }
}

/// Mount points with kind and options.
fn mounts() -> Vec<(PathBuf, String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rows = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let kind = after.next()?.to_owned();
        let options = after.nth(1)?.to_owned();
        Some((PathBuf::from(before.split(' ').nth(4)?), kind, options))
    });
    rows.collect()
}

fn mount(wanted: &str, option: Option<&str>) -> PathBuf {
    let found = mounts().into_iter().find(|(_, kind, options)| {
        kind == wanted && option.is_none_or(|option| options.split(',').any(|one| one == option))
    });
    found.unwrap_or_else(|| panic!("no {wanted} is mounted")).0
}

/// A helper program: python3 with a script, its standard input and output piped.
pub(super) fn python(script: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-S", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}
