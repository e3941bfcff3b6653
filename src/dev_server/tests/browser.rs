//! The page in a real headless Chromium, driven over its debugging protocol.
//!
//! Screenshots go to the directory named by `ADJUTANT_SCREENSHOTS`, if it is set.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use opamp_client::messages::RemoteConfigStatuses::{self, Applied, Applying, Failed};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::support::{Agent, Running, effective, rollout_health, status};
use crate::units::WallTime;

const CHROMIUM: &str = "/usr/bin/chromium";
const DEADLINE: Duration = Duration::from_secs(30);

struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    next_id: u64,
    process: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
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
        browser.session = attached["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        browser
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
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

    async fn evaluate(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{script}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until `script` is true on the page.
    async fn until(&mut self, script: &str) {
        let held = async {
            while self.evaluate(&format!("Boolean({script})")).await != true {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let held = timeout(DEADLINE, held).await.is_ok();
        let page = self.evaluate("document.body.innerText").await;
        assert!(held, "never true: {script}\n{page}");
    }

    async fn screenshot(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("ADJUTANT_SCREENSHOTS") else {
            return;
        };
        let shot = self
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let bytes = unbase64(shot["data"].as_str().expect("data"));
        let path = Path::new(&directory).join(name);
        tokio::fs::write(path, bytes).await.expect("writes");
    }

    async fn stop(mut self) {
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

/// A clock that goes on by 40 ms per reading, so that the phases shown have lengths.
fn ticking() -> WallTime {
    static READINGS: AtomicU64 = AtomicU64::new(1_760_000_000_000);
    WallTime::from_unix_millis(READINGS.fetch_add(40, Ordering::Relaxed))
}

/// Takes the next offer and goes through `way`, watched on the page; ends with `result`.
async fn roll_out(
    agent: &mut Agent,
    browser: &mut Browser,
    way: &[&str],
    result: (RemoteConfigStatuses, &str),
) {
    let offer = agent.receive().await.remote_config.expect("an offer");
    let hash = offer.config_hash;
    agent
        .report(|message| message.remote_config_status = Some(status(&hash, Applying, "")))
        .await;
    for word in way {
        let error = if word.starts_with("roll") {
            result.1
        } else {
            ""
        };
        agent
            .report(|message| message.health = Some(rollout_health(word, error)))
            .await;
        browser
            .until(&format!("$('#phases').dataset.phase === '{word}'"))
            .await;
        if *word == "probation" {
            let now = "$('#phase-probation').dataset.state === 'now'";
            browser.until(now).await;
        }
    }
    let body = String::from_utf8(
        offer.config.expect("a config").config_map["collect.yaml"]
            .body
            .clone(),
    );
    agent
        .report(|message| {
            message.remote_config_status = Some(status(&hash, result.0, result.1));
            if result.0 == Applied {
                message.effective_config = Some(effective(&body.expect("text")));
            }
        })
        .await;
}

#[expect(
    clippy::too_many_lines,
    reason = "one visit to the page, top to bottom"
)]
#[tokio::test]
#[ignore = "needs /usr/bin/chromium"]
async fn a_person_pushes_configs_and_watches_the_phases() {
    assert!(
        Path::new(CHROMIUM).exists(),
        "install the Debian package chromium"
    );
    let server = Running::start_with(ticking).await;
    let mut browser = Browser::start().await;
    let still = json!({"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]});
    browser.call("Emulation.setEmulatedMedia", still).await;
    let url = format!("http://{}/#token={}", server.address, server.token);
    browser.call("Page.navigate", json!({"url": url})).await;
    browser
        .until("document.readyState === 'complete' && $('#stream-state').dataset.state === 'live'")
        .await;
    browser
        .until("!$('#nobody').hidden && $('#agent').hidden")
        .await;
    assert_eq!(
        browser.evaluate("location.hash").await,
        "",
        "the token left the address"
    );

    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    browser
        .until("$('#agent-name').textContent === 'scripted'")
        .await;
    browser
        .until("$('#agent-health').dataset.healthy === 'true'")
        .await;
    let body = browser.evaluate("$('#editor-body').value").await;
    assert!(
        body.as_str()
            .is_some_and(|text| text.contains("interval: 5s")),
        "{body}"
    );

    // A good one.
    browser.evaluate("$('#push').click()").await;
    let way = [
        "policy",
        "staging",
        "validating",
        "promoting",
        "reloading",
        "proving",
        "probation",
    ];
    roll_out(&mut agent, &mut browser, &way, (Applying, "")).await;
    browser.screenshot("page-probation.png").await;
    agent
        .report(|message| message.health = Some(rollout_health("committed", "")))
        .await;
    browser
        .until("$('#phase-committed').dataset.state === 'done'")
        .await;
    browser
        .until("$('#history [data-outcome]').dataset.outcome === 'committed'")
        .await;
    for word in way {
        let state = browser
            .evaluate(&format!("$('#phase-{word}').dataset.state"))
            .await;
        assert_eq!(state, "done", "{word}");
    }

    // A bad one, from the menu, with a second file beside it.
    browser
        .evaluate(
            "$('#example').value = [...$('#example').options].find((one) => one.text.startsWith('breaks')).value;
             $('#example').dispatchEvent(new Event('change')); $('#add-file').click();
             $('#editor-name').value = 'notes.txt'; $('#editor-name').dispatchEvent(new Event('input'));
             $('#push').click()",
        )
        .await;
    let way = [
        "policy",
        "validating",
        "promoting",
        "reloading",
        "probation",
        "rolling back",
        "rolled back",
    ];
    let reason = "exit code 1 after 3.1 s\nbind /proc/adjutant.sock: no such file or directory";
    roll_out(&mut agent, &mut browser, &way, (Failed, reason)).await;
    browser
        .until("$('#remote-status').dataset.status === 'FAILED'")
        .await;
    browser
        .until("$('#remote-error').textContent.includes('no such file')")
        .await;
    assert_eq!(
        browser
            .evaluate("$('#phase-rolled-back').dataset.state")
            .await,
        "bad"
    );
    assert_eq!(
        browser
            .evaluate("$('#phase-probation').dataset.state")
            .await,
        "broke"
    );
    assert_eq!(
        browser.evaluate("$('#phase-staging').dataset.state").await,
        "passed"
    );
    let rows = "[...document.querySelectorAll('#history [data-outcome]')].map((row) => row.dataset.outcome).join()";
    assert_eq!(browser.evaluate(rows).await, "rolled back,committed");
    let files = browser.evaluate("$('#history .what').innerText").await;
    assert!(
        files
            .as_str()
            .is_some_and(|text| text.contains("notes.txt")),
        "{files}"
    );
    browser.screenshot("page-rolled-back.png").await;

    // What an agent says is shown, never run.
    let hostile = "<img src=x onerror='document.title=1'>";
    agent
        .report(|message| message.health = Some(rollout_health("held", hostile)))
        .await;
    browser
        .until("$('#phase-note').textContent.includes('<img')")
        .await;
    assert_eq!(
        browser.evaluate("document.title").await,
        "Adjutant dev server"
    );
    assert_eq!(browser.evaluate("document.images.length").await, 0);

    // Without the token a push is refused with words.
    browser
        .evaluate("state.token = 'guess'; $('#push').click()")
        .await;
    browser
        .until("$('#push-message').dataset.kind === 'error'")
        .await;
    browser
        .until("$('#push-message').textContent.includes('token printed at start')")
        .await;
    browser.stop().await;
}
