//! A supervisor in a directory of its own: settings, state, bundles; starting, asking, ending.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::proc;
use crate::peers::Place;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Nothing here takes a second on an idle machine; a busy one gets a minute.
const DEADLINE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A child that does what the first line of its config says, and writes that line down.
pub(super) const CHILD: &str = r#"#!/bin/sh
IFS= read -r line < "$1/config.yaml"
printf '%s\n' "$line" > running.tmp && mv running.tmp running
case $line in
  *dies*) echo "cannot work like this" >&2; exit 3 ;;
  *ends*) exit 0 ;;
esac
exec sleep 86400
"#;

/// How a program ended and what it said.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

/// Asks until the answer is `Some`, or panics after a minute.
pub(super) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_saying(|| what.to_owned(), look)
}

/// The same; what it waited for is put into words only when it gives up.
pub(super) fn wait_saying<T>(what: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let end = now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < end, "waited a minute for {}", what());
        pause();
    }
}

/// Asks until the answer is true, or panics after a minute.
pub(super) fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    wait_for(what, || look().then_some(()));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time of the test, not of the product"
)]
pub(super) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pace of asking for a condition, nothing waits for it alone"
)]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

pub(super) struct Rig {
    directory: Place,
}

impl Rig {
    /// A directory with settings in it: ours for the host, `agents` for the rest. `{dir}` stands for the directory.
    pub(super) fn new(agents: &str) -> Self {
        let rig = Self {
            directory: Place::new(),
        };
        rig.program("child.sh", CHILD);
        rig.set(agents);
        rig
    }

    /// One agent `one` that runs [`CHILD`], with short times.
    pub(super) fn generic() -> Self {
        Self::new(&agent("one", ""))
    }

    /// Writes the settings anew.
    pub(super) fn set(&self, agents: &str) {
        let text = format!(
            "storage: {{directory: '{{dir}}/state'}}\nhttp: {{listen: []}}\nlog: {{to: files}}\nstop: {{grace: 1s, budget: 5s}}\n{agents}"
        );
        self.set_all(&text);
    }

    /// Writes the settings anew, every line of them.
    pub(super) fn set_all(&self, text: &str) {
        let text = text.replace("{dir}", &self.path().to_string_lossy());
        self.write("supervisor.yaml", &text);
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(super) fn agent(&self, name: &str) -> PathBuf {
        self.state().join("agents").join(name)
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.path().join("supervisor.yaml")
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }

    /// A file that can be executed.
    pub(super) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A bundle with one file, `config.yaml`.
    pub(super) fn bundle(&self, line: &str) -> PathBuf {
        self.write("bundle/config.yaml", &format!("{line}\n"))
            .parent()
            .unwrap()
            .to_owned()
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        command.args(args).arg("--config").arg(self.settings());
        command
    }

    /// Runs a command to its end.
    pub(super) fn cli(&self, args: &[&str]) -> Done {
        done(&mut self.command(args))
    }

    /// Runs a command that takes no settings to its end.
    pub(super) fn cli_alone(&self, args: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        done(command.args(args).current_dir(self.path()))
    }

    /// The same with a variable in its environment.
    pub(super) fn cli_with(&self, name: &str, value: &str, args: &[&str]) -> Done {
        done(self.command(args).env(name, value))
    }

    /// A page of the control socket as text.
    pub(super) fn raw(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.state().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Applies a bundle of one line and waits for the end of the rollout.
    pub(super) fn apply(&self, line: &str) -> Done {
        let bundle = self.bundle(line);
        self.cli(&["apply", bundle.to_str().unwrap(), "--wait"])
    }

    /// Applies what must be accepted and committed.
    pub(super) fn commit(&self, line: &str) {
        let done = self.apply(line);
        assert_eq!(done.code, Some(0), "apply {line}: {}", done.err);
    }

    /// Starts the supervisor and waits until its loop answers.
    pub(super) fn start(&self) -> Supervisor {
        let supervisor = self.launch(&mut self.command(&["run"]));
        supervisor.answers(self);
        supervisor
    }

    /// Starts a command that becomes a supervisor. Its output goes to a file.
    pub(super) fn launch(&self, command: &mut Command) -> Supervisor {
        let log = self.path().join("supervisor.log");
        let to = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .mode(0o644)
                .open(path)
                .unwrap()
        };
        let process = command
            .stdin(Stdio::null())
            .stdout(to(&log))
            .stderr(to(&log))
            .spawn()
            .unwrap();
        Supervisor { process, log }
    }

    /// The state as the control socket tells it; none when nobody answers.
    pub(super) fn status(&self) -> Option<Value> {
        let (code, body) = self.ask("GET", "/v1/status", None)?;
        (code == 200).then_some(body)
    }

    /// One agent of the status.
    pub(super) fn agent_status(&self, name: &str) -> Option<Value> {
        let status = self.status()?;
        let agents = status["agents"].as_array()?;
        agents.iter().find(|agent| agent["name"] == name).cloned()
    }

    /// One exchange with the control socket.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        ask(&self.state().join("control.sock"), method, path, body)
    }

    /// Offers files by the control socket, names as they are.
    pub(super) fn offer(&self, files: &[(&str, &str)]) -> (u16, Value) {
        self.try_offer(files).expect("the control socket answers")
    }

    /// The same for a supervisor that may die before it answers.
    pub(super) fn try_offer(&self, files: &[(&str, &str)]) -> Option<(u16, Value)> {
        let files: Vec<Value> = files
            .iter()
            .map(|(name, text)| json!({"name": name, "text": text}))
            .collect();
        self.ask("POST", "/v1/apply", Some(&json!({"files": files})))
    }

    /// What the child of an agent says it runs.
    pub(super) fn running(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.agent(name).join("work/running")).ok()?;
        Some(text.trim().to_owned())
    }

    /// What `current` of an agent holds.
    pub(super) fn current(&self, name: &str) -> std::io::Result<String> {
        let text = fs::read_to_string(self.agent(name).join("current/config.yaml"))?;
        Ok(text.trim().to_owned())
    }

    /// Waits until nobody holds the state directory: a process that was killed lets go of it with its last thread, and
    /// a child that it was about to start, with that.
    pub(super) fn is_let_go(&self) {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(lock) = fs::metadata(self.state().join("adjutant.lock")) else {
            return;
        };
        let inode = format!(":{}", lock.ino());
        wait_until("the lock to be let go", || {
            let held = fs::read_to_string("/proc/locks").unwrap();
            !held.split_whitespace().any(|word| word.ends_with(&inode))
        });
    }

    pub(super) fn children(&self) -> Vec<u32> {
        proc::children(&self.state())
    }

    /// Waits for exactly one child and answers its process id.
    pub(super) fn child(&self) -> u32 {
        wait_for("exactly one child", || match self.children()[..] {
            [only] => Some(only),
            _ => None,
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Those who work elsewhere; who works here ends with the place.
        for process in proc::marked(self.path()) {
            proc::send(process.pid, Signal::SIGKILL);
        }
    }
}

/// Settings of one agent that runs [`CHILD`], with short times; `more` is indented by four.
pub(super) fn agent(name: &str, more: &str) -> String {
    format!("agents:\n{}", agent_entry(name, more))
}

/// The entry of [`agent`] alone.
pub(super) fn agent_entry(name: &str, more: &str) -> String {
    format!(
        "  {name}:
    profile: generic
    executable: '{{dir}}/child.sh'
    args: ['{{config_dir}}']
    proof: {{kind: fresh_process, alive_for: 100ms}}
    apply: {{probation: 200ms, proof_timeout: 20s, keep_revisions: 2}}
{more}"
    )
}

pub(super) fn done(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(super) fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Option<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, serde_json::from_str(body).ok()?))
}

/// A running supervisor. Dropped, it is killed; its children are the rig's to end.
pub(super) struct Supervisor {
    process: Child,
    log: PathBuf,
}

impl Supervisor {
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the control socket of the rig answers.
    pub(super) fn answers(&self, rig: &Rig) {
        wait_until("the supervisor's answer", || {
            assert!(proc::is_alive(self.pid()), "it ended: {}", self.log());
            rig.status().is_some()
        });
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(super) fn logs(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || {
            self.log().contains(text)
        });
    }

    pub(super) fn send(&self, signal: Signal) {
        proc::send(self.pid(), signal);
    }

    /// Waits for its end.
    pub(super) fn end(&mut self) -> ExitStatus {
        let process = &mut self.process;
        wait_for("the end of the supervisor", || process.try_wait().unwrap())
    }

    /// Has it ended already?
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Does it answer, or has it ended? Who was killed before this is asked does not answer any more.
    pub(super) fn lives(&mut self, rig: &Rig) -> bool {
        wait_for("the supervisor's answer, or its end", || {
            if self.ended().is_some() {
                return Some(false);
            }
            rig.status().map(|_| true)
        })
    }

    /// Ends it as an operator would.
    pub(super) fn stop(mut self) -> ExitStatus {
        self.send(Signal::SIGTERM);
        self.end()
    }

    /// Ends it as the kernel would.
    pub(super) fn kill(mut self) {
        self.send(Signal::SIGKILL);
        self.end();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Whether what a test needs is there. In CI its absence is a failure, elsewhere it is said and the test ends.
pub(crate) fn have(missing: Option<String>) -> bool {
    let Some(missing) = missing else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "{missing}; tests/setup.sh installs what the tests need, and CI runs as root"
    );
    writeln!(std::io::stderr(), "SKIPPED: {missing}").ok();
    false
}

/// What is missing for a test that needs `program` in PATH.
pub(crate) fn lacks(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    (!found).then(|| format!("needs `{program}` in PATH"))
}

/// What is missing for a test that needs root.
pub(crate) fn lacks_root() -> Option<String> {
    (!nix::unistd::Uid::effective().is_root()).then(|| "needs root".to_owned())
}
