//! The servers as processes, and questions to their own doors.
//!
//! Promises: everything listens on loopback and ends with its owner; every wait has a deadline and says what it saw.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Far longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Something that `tests/peers/build.sh` has built.
pub(crate) fn built(name: &str) -> PathBuf {
    let directory = std::env::var_os("ADJUTANT_PEERS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/.cache"),
        PathBuf::from,
    );
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run tests/peers/build.sh, or name its directory in ADJUTANT_PEERS_DIR",
        path.display()
    );
    path
}

/// A server that says its ports in its first line.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    pub(crate) port: u16,
    api: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Peer {
    /// The server made with opamp-go; port 0 is any.
    pub(crate) fn opamp_go(port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        Self::start(
            &built("opampserver"),
            ["--opamp-addr", &address, "--until-stdin-closes"],
        )
    }

    /// Elastic's server; `bad_mode` is one of its own, or empty.
    pub(crate) fn elastic(port: u16, bad_mode: &str) -> Self {
        let main = built("mockopampserver/main.js");
        let mut args = vec![main.into_os_string(), port.to_string().into()];
        if !bad_mode.is_empty() {
            args.push(bad_mode.into());
        }
        Self::start(Path::new("node"), args)
    }

    fn start<A: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = A>) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ports: Value = serde_json::from_str(&line).expect("a line with ports");
        let read = |key: &str| u16::try_from(ports[key].as_u64().unwrap()).unwrap();
        Self {
            child,
            port: read("opamp"),
            api: read("api"),
        }
    }

    /// Ends it at once; its connections break.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/v1/opamp", self.port)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = ask(self.api, "GET", path, "").await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = ask(self.api, method, path, &body.to_string()).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// Waits until what stands at `path` is as `done` wants it.
    pub(crate) async fn until(
        &self,
        what: &str,
        path: &str,
        done: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (_, seen) = ask(self.api, "GET", path, "").await;
            if done(&seen) {
                return seen;
            }
            assert!(
                Instant::now() < deadline,
                "waited too long until {what}; last seen: {seen:#}"
            );
            sleep(PAUSE).await;
        }
    }
}

/// One exchange in HTTP/1.0, so that the answer ends with the connection.
pub(crate) async fn ask(port: u16, method: &str, path: &str, body: &str) -> (u16, Value) {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(DEADLINE, exchange)
        .await
        .expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}
