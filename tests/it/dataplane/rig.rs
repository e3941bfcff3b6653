//! Runs the real program with its dev server on a state directory of its own, and speaks to it and to real peers.
//!
//! Promises: everything is on loopback with ports the system chose; every wait has a deadline and says what it saw
//! last; whatever was started ends with its owner, children of a supervisor that was killed included.
//! Must never: hold a scenario.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub(crate) use crate::peers::eventually;
use crate::peers::{DEADLINE, Place, otelcol};

/// Writes a file.
pub(crate) fn put(path: &Path, text: &str) {
    File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

/// A process of ours; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts it, with standard output and error in one file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", || {
            self.0
                .try_wait()
                .unwrap()
                .ok_or_else(|| "it runs".to_owned())
        })
    }

    /// Where it listens on TCP, once it does.
    pub(crate) fn listens(&mut self) -> SocketAddr {
        let pid = self.pid();
        eventually("a listening port", || {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("process {pid} ended with {status} before it listened");
            }
            listening(pid).ok_or_else(|| format!("none of process {pid}"))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The lowest loopback port that a process listens on: its sockets by inode, found again among the listening ones.
fn listening(pid: i32) -> Option<SocketAddr> {
    const LISTEN: &str = "0A";
    let sockets: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    let ports = table.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let ours = *words.get(3)? == LISTEN && sockets.iter().any(|one| one == words[9]);
        let (_, port) = words.get(1)?.split_once(':')?;
        ours.then(|| u16::from_str_radix(port, 16).ok())?
    });
    let port = ports.min()?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// One exchange with a server on TCP: status and body. HTTP/1.0, so that the answer comes unchunked and ends with the
/// stream.
pub(crate) fn http(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&at, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    talk(stream, method, path, &at.to_string(), headers, body)
}

fn talk(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    host: &str,
    headers: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let malformed = || io::Error::other(format!("not an HTTP answer: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(malformed)?, body.to_owned()))
}

/// One agent under `adjutant run --dev-server`.
#[derive(Debug)]
pub(crate) struct Rig {
    dir: Place,
    supervisor: Option<Process>,
    /// The dev server's address.
    pub(crate) server: SocketAddr,
    /// Its token.
    pub(crate) token: String,
}

impl Rig {
    /// The own data plane as agent `a`, with these `apply` settings.
    pub(crate) fn own(apply: &str) -> Self {
        Self::new(
            Place::new(),
            &format!("{{profile: adjutant, apply: {{{apply}}}}}"),
        )
    }

    /// Any agent `a`; `settings` are a flow map, `dir` may hold its files.
    pub(crate) fn new(dir: Place, settings: &str) -> Self {
        let at = dir.path().display();
        put(
            &dir.path().join("supervisor.yaml"),
            &format!(
                "storage: {{directory: {at}/state}}\nhttp: {{listen: []}}\nagents: {{a: {settings}}}\n"
            ),
        );
        let mut rig = Self {
            dir,
            supervisor: None,
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token: String::new(),
        };
        rig.start();
        rig
    }

    /// Starts the supervisor (again).
    pub(crate) fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_adjutant"))
            .args(["run", "--config"])
            .arg(self.path("supervisor.yaml"))
            .args(["--dev-server", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        self.supervisor = Some(Process(child));
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.contains("://"));
        let found = url.and_then(|url| url.strip_prefix("http://")?.split_once("/#token="));
        let (at, token) = found.unwrap_or_else(|| panic!("{line:?}; log:\n{}", self.log()));
        self.server = at.parse().unwrap();
        token.clone_into(&mut self.token);
        eventually("the agent is connected", || {
            let agent = self.agent()?;
            let up = agent["connected"] == true && !agent["phase"].is_null();
            if up { Ok(()) } else { Err(agent.to_string()) }
        });
    }

    pub(crate) fn supervisor(&mut self) -> &mut Process {
        self.supervisor.as_mut().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn api(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let token = format!("Authorization: Bearer {}\r\n", self.token);
        let answer = http(self.server, method, path, &token, body);
        let (status, body) = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        match status {
            200..=299 => serde_json::from_str(&body).map_err(|error| format!("{error}: {body}")),
            _ => Err(format!("{method} {path}: {status} {body}")),
        }
    }

    /// What the dev server knows of the agent.
    pub(crate) fn agent(&self) -> Result<Value, String> {
        let list = self.api("GET", "/api/agents", "")?;
        let uid = list["agents"][0]["uid"].as_str().ok_or("no agent yet")?;
        self.api("GET", &format!("/api/agents/{uid}"), "")
    }

    /// Pushes one file and waits until the server has a verdict on it: the newest apply, with `status` and `error` of
    /// the remote config status beside.
    pub(crate) fn push(&self, name: &str, body: &str) -> Value {
        self.offer(name, body);
        self.verdict(body)
    }

    /// Pushes one file.
    pub(crate) fn offer(&self, name: &str, body: &str) {
        let uid = self.agent().unwrap()["uid"].as_str().unwrap().to_owned();
        let bundle = json!({"files": {name: {"type": "text/yaml", "body": body}}});
        let path = format!("/api/agents/{uid}/config");
        let answer = self.api("PUT", &path, &bundle.to_string()).unwrap();
        assert_eq!(answer["sent"], true, "{answer}");
    }

    /// Waits until the last offer has come to something; `what` is shown when it never does.
    pub(crate) fn verdict(&self, what: &str) -> Value {
        eventually(&format!("a verdict on {what}"), || {
            let agent = self.agent()?;
            let (mut apply, remote) = (agent["applies"][0].clone(), &agent["remote_config"]);
            let over = !apply["ended"].is_null()
                && apply["hash"] == remote["hash"]
                && (remote["status"] == "APPLIED" || remote["status"] == "FAILED");
            if !over {
                return Err(format!("{apply} {remote}; log:\n{}", self.log()));
            }
            apply["status"] = remote["status"].clone();
            apply["error"] = remote["error"].clone();
            Ok(apply)
        })
    }

    fn control(&self, path: &str) -> Result<String, String> {
        let stream = UnixStream::connect(self.path("state/control.sock"));
        let answer = stream.and_then(|stream| talk(stream, "GET", path, "localhost", "", ""));
        match answer.map_err(|error| format!("{path}: {error}"))? {
            (200, body) => Ok(body),
            (status, body) => Err(format!("{path}: {status} {body}")),
        }
    }

    /// The supervisor's own status of the agent.
    pub(crate) fn status(&self) -> Value {
        let body = self.control("/v1/status").unwrap();
        serde_json::from_str::<Value>(&body).unwrap()["agents"][0].take()
    }

    /// One of the counters in `/metrics`; what never happened is not there.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        let page = self.control("/metrics").unwrap();
        let start = format!("adjutant_agent_events_total{{agent=\"a\",kind=\"{kind}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&start));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// The process the supervisor says it runs.
    pub(crate) fn child(&self) -> i32 {
        eventually("a child", || {
            let status = self.status();
            let pid = status["child"]["pid"].as_i64();
            pid.and_then(|pid| pid.try_into().ok())
                .ok_or_else(|| status.to_string())
        })
    }

    /// The data planes that run on this state directory, whoever started them.
    pub(crate) fn data_planes(&self) -> Vec<i32> {
        processes_with(self.path("state/agents/a/current").as_os_str())
    }

    /// What one part in the health tree says is wrong.
    pub(crate) fn part_error(&self, name: &str) -> Result<String, String> {
        let agent = self.agent()?;
        let part = find(&agent["health"], name).ok_or_else(|| agent["health"].to_string())?;
        Ok(part["last_error"].as_str().unwrap_or_default().to_owned())
    }

    /// One part's status in the health tree, such as `ok: received 4 …`.
    pub(crate) fn part(&self, name: &str) -> Result<String, String> {
        let agent = self.agent()?;
        let part = find(&agent["health"], name).ok_or_else(|| agent["health"].to_string())?;
        Ok(part["status"].as_str().unwrap_or_default().to_owned())
    }
}

/// A component anywhere in a health tree.
fn find<'a>(health: &'a Value, name: &str) -> Option<&'a Value> {
    let parts = health["components"].as_object()?;
    parts
        .get(name)
        .or_else(|| parts.values().find_map(|part| find(part, name)))
}

#[expect(
    clippy::print_stderr,
    reason = "a test that fails shows what the supervisor said"
)]
impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the supervisor\n{}---", self.log());
        }
        if let Some(supervisor) = &mut self.supervisor {
            kill(Pid::from_raw(supervisor.pid()), Signal::SIGTERM).ok();
            let deadline = Instant::now() + Duration::from_secs(12);
            while matches!(supervisor.0.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.supervisor = None;
        for pid in self.data_planes() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// The processes that have this word on their command line.
fn processes_with(word: &OsStr) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // Gone meanwhile: then it does not run.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|one| one == word.as_encoded_bytes())
        })
        .collect()
}

/// A real VictoriaMetrics.
#[derive(Debug)]
pub(crate) struct Victoria {
    /// Where it takes and gives data.
    pub(crate) at: SocketAddr,
    // The process ends before its data goes.
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Victoria {
    pub(crate) fn start() -> Self {
        let program = installed("/usr/bin/victoria-metrics", "victoria-metrics");
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("-storageDataPath={}", dir.path().display()))
            .args(["-httpListenAddr=127.0.0.1:0", "-retentionPeriod=1"])
            .args(["-search.latencyOffset=0s", "-search.disableCache"])
            .arg("-memory.allowedBytes=64MB");
        let mut process = Process::start(&mut command, &dir.path().join("log"));
        let at = process.listens();
        Self {
            at,
            _process: process,
            _dir: dir,
        }
    }

    /// Asks it, after everything that came in is searchable.
    pub(crate) fn get(&self, path: &str) -> Result<String, String> {
        let ask = |path: &str| match http(self.at, "GET", path, "", "") {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => Err(format!("{path}: {status} {body}")),
            Err(error) => Err(format!("{path}: {error}")),
        };
        ask("/internal/force_flush")?;
        ask(path)
    }

    /// The times of all stored samples of one metric's first series, in milliseconds.
    pub(crate) fn times(&self, metric: &str) -> Result<Vec<u64>, String> {
        let lines = self.get(&format!("/api/v1/export?match[]={metric}"))?;
        let first = lines.lines().next().ok_or_else(|| format!("no {metric}"))?;
        let series: Value = serde_json::from_str(first).map_err(|error| error.to_string())?;
        let times = series["timestamps"].as_array().ok_or("no timestamps")?;
        let mut times: Vec<_> = times.iter().filter_map(Value::as_u64).collect();
        times.sort_unstable();
        Ok(times)
    }
}

/// A program of a Debian package; without it the test fails and says how to get it.
pub(crate) fn installed(path: &str, package: &str) -> PathBuf {
    assert!(
        Path::new(path).is_file(),
        "{path} is missing: run tests/setup.sh, or apt-get install {package}"
    );
    path.into()
}

/// A real OpenTelemetry Collector that writes what it gets by OTLP to a file.
#[derive(Debug)]
pub(crate) struct Collector {
    /// Where it takes OTLP over HTTP.
    pub(crate) at: SocketAddr,
    process: Process,
    dir: tempfile::TempDir,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::exporting("127.0.0.1:0", "")
    }

    /// One that listens on a given address.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self::exporting(&address.to_string(), "")
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// One that also sends what it gets on; `exporter` is its exporter `otlp_http`, a flow map.
    pub(crate) fn forwarding(exporter: &str) -> Self {
        Self::exporting("127.0.0.1:0", &format!("otlp_http: {exporter}, "))
    }

    fn exporting(listen: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yaml");
        let out = dir.path().join("out.json").display().to_string();
        let mut text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: \"{listen}\"}}}}}}}}\nservice:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n",
        );
        let exporters = if more.is_empty() {
            "file"
        } else {
            "file, otlp_http"
        };
        for signal in ["logs", "metrics", "traces"] {
            writeln!(
                text,
                "    {signal}: {{receivers: [otlp], exporters: [{exporters}]}}"
            )
            .unwrap();
        }
        writeln!(
            text,
            "exporters: {{{more}file: {{path: {out}, flush_interval: 100ms}}}}"
        )
        .unwrap();
        put(&config, &text);
        let mut command = Command::new(otelcol());
        command.arg("--config").arg(&config);
        let mut process = Process::start(&mut command, &dir.path().join("log"));
        let at = process.listens();
        Self { at, process, dir }
    }

    /// The whole requests it wrote so far.
    pub(crate) fn received(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("out.json")).unwrap_or_default();
        // The last line may be half written.
        let whole = text.lines().map(serde_json::from_str);
        whole.filter_map(Result::ok).collect()
    }
}
