//! The real parts that black-box tests run against, and how to speak to them.
//!
//! Promises: everything listens on loopback; whatever is started here ends with its owner; every wait has a deadline
//! and says what it waited for and what it saw last.
//! Must never: hold a scenario, or know what a product should do.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest wait for anything: far beyond what an idle machine needs, so that a busy one passes too.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);
/// The whole stop budget of the supervisor and a bit.
const STOP: Duration = Duration::from_secs(15);
/// Lines of a process that are kept.
const LINES_MAX: usize = 5000;

/// The Collector with the opamp extension.
pub(crate) fn otelcol() -> PathBuf {
    peer("otelcol")
}

/// The supervisor of the OpenTelemetry project.
pub(crate) fn opampsupervisor() -> PathBuf {
    peer("opampsupervisor")
}

/// A Telegraf with few plugins.
pub(crate) fn telegraf() -> PathBuf {
    peer("telegraf")
}

/// A collector that knows neither OpAMP nor HUP.
pub(crate) fn rotel() -> PathBuf {
    let library = peer("rotel/bin/python")
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("lib");
    let versions = std::fs::read_dir(&library).unwrap();
    let programs = versions.map(|entry| {
        entry
            .unwrap()
            .path()
            .join("site-packages/rotel/rotel-agent")
    });
    programs
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no rotel-agent below {}: run tests/peers/build.sh",
                library.display()
            )
        })
}

/// A Python that knows the schemas of Kubernetes.
pub(crate) fn kubernetes() -> PathBuf {
    peer("kubernetes/bin/python")
}

/// A built peer, or a panic that says how to build it.
fn peer(name: &str) -> PathBuf {
    let directory = std::env::var_os("ADJUTANT_PEERS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/.cache"),
        PathBuf::from,
    );
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run tests/setup.sh (packages and peers) or tests/peers/build.sh (peers only), \
         or name their directory in ADJUTANT_PEERS_DIR",
        path.display()
    );
    path
}

/// The present moment of the test.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `probe` has an answer; its error is what is shown when it never has.
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    within(DEADLINE, what, probe)
}

/// As [`eventually`], with another deadline.
pub(crate) fn within<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = now() + limit;
    loop {
        let seen = match probe() {
            Ok(answer) => return answer,
            Err(seen) => seen,
        };
        assert!(
            now() < deadline,
            "{what}: not within {limit:?}; last seen: {seen}"
        );
        pause();
    }
}

fn pause() {
    std::thread::sleep(PAUSE);
}

/// A port of loopback that nobody listens on, outside the range from which the system gives ports away by itself.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap_or(0);
    for _ in 0..10_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start + step) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 30000");
}

/// A temporary directory whose end is the end of every process that works in it, too. Children live on when their
/// supervisor is killed, and are known by where they work: some of them write over their environment and command line.
#[derive(Debug)]
pub(crate) struct Place(tempfile::TempDir);

/// How often a place is looked through: whoever is seen is killed, and may have had a child in that moment.
const LOOKS: usize = 5;

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for _ in 0..LOOKS {
            let inside = working_in(self.path());
            if inside.is_empty() {
                return;
            }
            for pid in inside {
                // Gone already is what is wanted.
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
            pause();
        }
    }
}

/// The living processes whose working directory is there or below.
fn working_in(directory: &Path) -> Vec<nix::unistd::Pid> {
    let Ok(directory) = directory.canonicalize() else {
        return Vec::new();
    };
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        // One that is gone, or a zombie, works nowhere.
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(&directory))
    })
    .map(nix::unistd::Pid::from_raw)
    .collect()
}

/// A program under test, its output kept line by line.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Whom signals are for, where that is not what was started itself.
    aim: Option<u32>,
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it with its standard input held open.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &'static str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        keep(child.stdout.take().unwrap(), Arc::clone(&lines));
        keep(child.stderr.take().unwrap(), Arc::clone(&lines));
        Self {
            name,
            child,
            aim: None,
            lines,
            ended: None,
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.aim.unwrap_or_else(|| self.child.id())
    }

    /// Signals are for another process from here on, one that ends with what was started.
    pub(crate) fn aim(&mut self, pid: u32) {
        self.aim = Some(pid);
    }

    /// What it wrote, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().cloned().collect()
    }

    /// Waits for a line and returns what `pick` makes of it.
    pub(crate) fn line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        eventually(&format!("{}: {what}", self.name), || {
            if let Some(found) = self.lines().iter().find_map(|line| pick(line)) {
                return Ok(found);
            }
            match self.child.try_wait() {
                Ok(Some(status)) if self.ended.is_none() => {
                    // One more look: its last lines may have come meanwhile.
                    self.ended = Some(status);
                    Err("it has just ended".to_owned())
                }
                Ok(Some(status)) => {
                    panic!("{} ended with {status}: {:#?}", self.name, self.lines())
                }
                _ => Err(format!("{:?}", self.lines().last())),
            }
        })
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended.is_some()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(STOP)
            .unwrap_or_else(|| panic!("{} does not stop: {:#?}", self.name, self.lines()))
    }

    /// Ends it without a chance to say goodbye.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.ended = self.child.wait().ok();
    }

    /// Sends it a signal, by its name without `SIG`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.id()).unwrap());
        let signal = format!("SIG{signal}").parse::<nix::sys::signal::Signal>();
        if self.ended.is_none() {
            // Already gone is as good.
            nix::sys::signal::kill(pid, signal.unwrap()).ok();
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = now() + limit;
        while self.ended.is_none() && now() < deadline {
            self.ended = self.child.try_wait().unwrap();
            pause();
        }
        self.ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("TERM");
        if self.wait(STOP).is_none() {
            self.kill();
        }
        if std::thread::panicking() {
            let mut shown = format!("--- output of {}:\n", self.name);
            for line in self.lines() {
                writeln!(shown, "{line}").ok();
            }
            io::stderr()
                .write_all(format!("{shown}---\n").as_bytes())
                .ok();
        }
    }
}

fn keep(stream: impl Read + Send + 'static, lines: Arc<Mutex<VecDeque<String>>>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).unwrap_or(0) > 0 {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            let mut kept = lines.lock().unwrap();
            if kept.len() >= LINES_MAX {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    });
}

/// Where an HTTP server is.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// On loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body, when it is JSON; else null.
    pub(crate) json: Value,
}

impl Door {
    /// Asks for a document.
    pub(crate) fn get(&self, path: &str) -> Result<Answer, String> {
        self.request("GET", path, "", None)
    }

    /// Sends a document.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &Value,
    ) -> Result<Answer, String> {
        // A server that does not read an empty document would reset the connection over it, and its answer with it.
        let body = Some(body.to_string()).filter(|text| text != "{}");
        self.request(method, path, headers, body.as_deref())
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<&str>,
    ) -> Result<Answer, String> {
        let exchange = || match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, DEADLINE)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                talk(stream, method, path, &address.to_string(), headers, body)
            }
            Self::Unix(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                talk(stream, method, path, "localhost", headers, body)
            }
        };
        exchange().map_err(|error: io::Error| format!("{method} {path}: {error}"))
    }
}

/// One exchange. HTTP/1.0, so that the answer comes unchunked and ends with the connection.
fn talk(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    host: &str,
    headers: &str,
    body: Option<&str>,
) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n{headers}");
    if let Some(body) = body {
        let length = body.len();
        head.push_str("Content-Type: application/json\r\n");
        write!(head, "Content-Length: {length}\r\n").map_err(io::Error::other)?;
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.unwrap_or_default().as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let malformed = || io::Error::other(format!("not an HTTP answer: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(malformed)?,
        json: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// The server made with opamp-go.
#[derive(Debug)]
pub(crate) struct OpampServer {
    process: Process,
    /// Its HTTP API.
    pub(crate) api: Door,
    /// Where agents connect.
    pub(crate) port: u16,
}

impl OpampServer {
    /// Starts it; agents connect to `port`, 0 for any.
    pub(crate) fn start(port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        let args = ["--opamp-addr", &address, "--until-stdin-closes"];
        let mut process = Process::start("opampserver", &peer("opampserver"), args);
        let ports = process.line("the line with its ports", |line| {
            serde_json::from_str::<Value>(line).ok()
        });
        let read = |key: &str| u16::try_from(ports[key].as_u64().unwrap()).unwrap();
        Self {
            process,
            api: Door::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, read("api")))),
            port: read("opamp"),
        }
    }

    /// Ends it at once; its connections break.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}
