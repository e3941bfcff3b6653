//! A real headless Chromium, driven over its debugging protocol. Used by the tests of the page here and by the
//! black-box tests, so it knows neither.
//!
//! Promises: its own profile directory, nothing fetched from outside, every wait with a deadline; it ends with its
//! owner.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const CHROMIUM: &str = "/usr/bin/chromium";
const DEADLINE: Duration = Duration::from_mins(1);

/// A browser with one page.
pub(crate) struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    next_id: u64,
    process: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it with an empty page and a profile of its own.
    pub(crate) async fn start() -> Self {
        assert!(
            Path::new(CHROMIUM).exists(),
            "{CHROMIUM} is missing: run tests/setup.sh, or apt-get install chromium"
        );
        let profile = tempfile::tempdir().expect("a directory");
        let mut process = Command::new(CHROMIUM)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-sync",
            ])
            .args(["--disable-component-update", "--remote-debugging-port=0"])
            .args(["--window-size=1360,1500", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium starts; Debian package chromium");
        let errors = process.stderr.take().expect("piped");
        let mut lines = BufReader::new(errors).lines();
        let url = timeout(DEADLINE, async {
            loop {
                let line = lines.next_line().await.expect("reads").expect("a line");
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    return url.to_owned();
                }
            }
        });
        let url = url.await.expect("in time");
        let authority = url.split('/').nth(2).expect("an authority");
        let stream = TcpStream::connect(authority).await.expect("connects");
        let (socket, _) = client_async(url.as_str(), stream).await.expect("upgrades");
        let mut browser = Self {
            socket,
            session: String::new(),
            next_id: 0,
            process,
            profile,
        };
        let targets = browser.call("Target.getTargets", json!({})).await;
        let page = targets["targetInfos"]
            .as_array()
            .expect("targets")
            .iter()
            .find(|target| target["type"] == "page")
            .expect("a page");
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().expect("a session");
        session.clone_into(&mut browser.session);
        browser
    }

    /// One command of the protocol and its answer.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let mut request = json!({"id": self.next_id, "method": method, "params": params});
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        let text = Message::Text(request.to_string().into());
        self.socket.send(text).await.expect("sends");
        let answer = timeout(DEADLINE, async {
            loop {
                let message = self.socket.next().await.expect("open").expect("reads");
                let Message::Text(text) = message else {
                    continue;
                };
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                if answer["id"] == self.next_id {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return answer["result"].clone();
                }
            }
        });
        answer.await.expect("in time")
    }

    /// What a script on the page comes to.
    pub(crate) async fn evaluate(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{script}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until `script` is true on the page.
    pub(crate) async fn until(&mut self, script: &str) {
        let held = async {
            while self.evaluate(&format!("Boolean({script})")).await != true {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let held = timeout(DEADLINE, held).await.is_ok();
        let page = self.evaluate("document.body.innerText").await;
        assert!(held, "never true: {script}\n{page}");
    }

    /// Takes a picture of the page from top to bottom, whatever the window shows.
    pub(crate) async fn screenshot(&mut self, path: &Path) {
        let whole = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.call("Page.captureScreenshot", whole).await;
        let bytes = unbase64(shot["data"].as_str().expect("data"));
        tokio::fs::write(path, bytes).await.expect("writes");
    }

    /// Closes it and all its processes.
    pub(crate) async fn stop(mut self) {
        self.session.clear();
        self.call("Browser.close", json!({})).await;
        timeout(DEADLINE, self.process.wait())
            .await
            .expect("in time")
            .expect("ends");
        self.profile.close().ok();
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let digit = DIGITS.iter().position(|one| *one == byte).expect("a digit");
        bits = bits << 6 | u32::try_from(digit).expect("small");
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).expect("a byte"));
        }
    }
    bytes
}
