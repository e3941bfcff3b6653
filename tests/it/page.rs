//! Given `adjutant run --dev-server` with the own data plane and its page in a real headless Chromium,
//! when a person pushes configs by clicking, good ones and broken ones,
//! then the page shows each phase, the reason of a failure, and what runs afterwards; each example does what its label
//! says.
//!
//! Screenshots go to `page/` in the directory named by `ADJUTANT_ARTEFACTS`, by default `target/test-artefacts`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::dataplane::rig::{Rig, put};
use crate::peers::{Place, otelcol};

#[expect(clippy::expect_used, reason = "a driver of tests fails by panicking")]
#[path = "../../src/dev_server/tests/chromium.rs"]
mod chromium;

use chromium::Browser;

fn artefacts() -> PathBuf {
    let directory = std::env::var_os("ADJUTANT_ARTEFACTS").map_or_else(
        || {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
            target.join("test-artefacts")
        },
        PathBuf::from,
    );
    let directory = directory.join("page");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// One visit to the page of one supervisor.
struct Visit {
    browser: Browser,
    rig: Rig,
}

impl Visit {
    async fn begin(rig: Rig) -> Self {
        let mut browser = Browser::start().await;
        let still = json!({"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]});
        browser.call("Emulation.setEmulatedMedia", still).await;
        let url = format!("http://{}/#token={}", rig.server, rig.token);
        browser.call("Page.navigate", json!({"url": url})).await;
        let ready =
            "document.readyState === 'complete' && $('#stream-state').dataset.state === 'live'";
        browser.until(ready).await;
        browser
            .until("$('#agent-health').dataset.healthy === 'true' && $('#phases').dataset.phase === 'committed'")
            .await;
        // Keeps every phase that is shown, for however short a time.
        let script = "window.shown = []; new MutationObserver(() => {
             const word = $('#phases').dataset.phase; if (shown.at(-1) !== word) shown.push(word); })
             .observe($('#phases'), {attributes: true, attributeFilter: ['data-phase']})";
        browser.evaluate(script).await;
        Self { browser, rig }
    }

    async fn shot(&mut self, name: &str) {
        let path = artefacts().join(name);
        self.browser.screenshot(&path).await;
        assert!(fs::metadata(&path).unwrap().len() > 10_000, "{name}");
    }

    /// Clicks in the middle of an element, with the mouse.
    async fn click(&mut self, selector: &str) {
        let script = format!(
            "(() => {{ const one = $('{selector}'); one.scrollIntoView({{block: 'center'}});
             const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let place = self.browser.evaluate(&script).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.browser.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Fills the editor by typing.
    async fn write(&mut self, body: &str) {
        self.click("#editor-body").await;
        self.browser.evaluate("$('#editor-body').select()").await;
        self.browser
            .call("Input.insertText", json!({"text": body}))
            .await;
        assert_eq!(self.browser.evaluate("$('#editor-body').value").await, body);
    }

    /// Pushes what is in the editor.
    async fn push(&mut self) {
        let before = self.applies().await;
        // Where the last push has led is still shown until the agent speaks.
        let reset = "shown.splice(0, Infinity, $('#phases').dataset.phase)";
        self.browser.evaluate(reset).await;
        self.click("#push").await;
        self.browser
            .until("$('#push-message').dataset.kind === 'ok'")
            .await;
        self.browser
            .until(&format!(
                "document.querySelectorAll('#history [data-outcome]').length > {before}"
            ))
            .await;
    }

    async fn applies(&mut self) -> u64 {
        let count = "document.querySelectorAll('#history [data-outcome]').length";
        self.browser.evaluate(count).await.as_u64().unwrap()
    }

    async fn until_outcome(&mut self, outcome: &str) {
        self.browser
            .until(&format!(
                "$('#history [data-outcome]').dataset.outcome === '{outcome}'"
            ))
            .await;
    }

    async fn text(&mut self, selector: &str) -> String {
        let script = format!("$('{selector}').textContent");
        let text = self.browser.evaluate(&script).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Phases shown since the last push, in the order of the way they must go.
    async fn shown_in_order(&mut self, way: &[&str]) {
        let shown: Value = self.browser.evaluate("window.shown").await;
        let shown: Vec<_> = shown
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .skip(1)
            .collect();
        let mut rest = way.iter();
        assert!(
            shown.iter().all(|one| rest.any(|next| next == one)),
            "{shown:?}"
        );
        assert_eq!(shown.last(), way.last(), "{shown:?}");
    }
}

const FORWARD: [&str; 8] = [
    "policy",
    "staging",
    "validating",
    "promoting",
    "reloading",
    "proving",
    "probation",
    "committed",
];

/// The own data plane with times that a test can wait for.
fn own() -> Rig {
    Rig::own("probation: 3s, proof_timeout: 2s")
}

const GOOD: &str = "sources:\n  host:\n    kind: host_metrics\n    interval: 2s\nuploads:\n  out:\n    kind: console\n    from: [host]\n";

#[tokio::test]
async fn a_person_pushes_a_good_a_bad_and_a_breaking_config_and_watches() {
    let mut visit = Visit::begin(own()).await;
    let child = visit.rig.child();
    let health = visit.text("#agent-health").await;
    assert_eq!(health, "healthy: waiting for config");
    visit.shot("1-healthy.png").await;

    visit.write(GOOD).await;
    visit.push().await;
    visit
        .browser
        .until("$('#phase-probation').dataset.state === 'now'")
        .await;
    visit.shot("2-probation.png").await;
    visit.until_outcome("committed").await;
    visit
        .browser
        .until("$('#remote-status').dataset.status === 'APPLIED'")
        .await;
    visit.shown_in_order(&FORWARD).await;
    for word in ["policy", "validating", "probation", "committed"] {
        let script = format!("$('#phase-{word}').dataset.state");
        let look = visit.browser.evaluate(&script).await;
        assert!(look == "done" || look == "passed", "{word}: {look}");
    }
    visit
        .browser
        .until("$('#effective-config').textContent.includes('interval: 2s')")
        .await;
    let status = visit.rig.status();
    assert_eq!(visit.text("#revision").await, status["current"]["id"]);
    assert_eq!(visit.text("#last-good").await, status["current"]["id"]);
    let health = visit.text("#agent-health").await;
    assert_eq!(health, "healthy: running");
    visit.shot("3-committed.png").await;

    visit.write(&GOOD.replace("interval", "intervall")).await;
    visit.push().await;
    visit.until_outcome("failed").await;
    let words = "collect.yaml:4:5: sources.host.intervall: unknown key, did you mean";
    visit
        .browser
        .until(&format!(
            "$('#remote-error').textContent.includes('{words}')"
        ))
        .await;
    visit
        .browser
        .until("$('#phase-failed').dataset.state === 'bad'")
        .await;
    assert_eq!(
        visit
            .browser
            .evaluate("$('#agent-health').dataset.healthy")
            .await,
        "true"
    );
    assert_eq!(visit.text("#revision").await, status["current"]["id"]);
    visit.shot("4-refused.png").await;

    let breaks = "sources:\n  app:\n    kind: unix_socket\n    path: /proc/adjutant.sock\nuploads:\n  out:\n    kind: console\n    from: [app]\n";
    visit.write(breaks).await;
    visit.push().await;
    visit
        .browser
        .until("$('#phase-proving').dataset.state === 'now'")
        .await;
    visit
        .browser
        .until("$('#agent-health').dataset.healthy === 'false'")
        .await;
    visit.shot("5-proving.png").await;
    visit.until_outcome("rolled back").await;
    visit
        .browser
        .until("$('#remote-status').dataset.status === 'FAILED' && $('#agent-health').dataset.healthy === 'true'")
        .await;
    visit
        .browser
        .until("$('#remote-error').textContent.includes('listen on /proc/adjutant.sock')")
        .await;
    visit
        .browser
        .until("$('#phase-rolled-back').dataset.state === 'bad' && $('#phase-proving').dataset.state === 'broke'")
        .await;
    let back = [&FORWARD[..6], &["rolling back", "rolled back"]].concat();
    visit.shown_in_order(&back).await;
    assert_eq!(visit.text("#revision").await, status["current"]["id"]);
    visit
        .browser
        .until("$('#effective-config').textContent.includes('interval: 2s')")
        .await;
    visit.shot("6-rolled-back.png").await;
    assert_ne!(
        visit.rig.child(),
        child,
        "a child that did not get well was given one restart"
    );
    visit.browser.stop().await;
}

/// The examples of the groups wanted: title and place in the menu.
async fn examples(visit: &mut Visit, groups: &[&str]) -> Vec<(String, u64)> {
    let titles = "EXAMPLES.map((one, index) => [one.group, one.title, index])";
    let all = visit.browser.evaluate(titles).await;
    let all = all.as_array().unwrap().iter();
    all.filter(|one| groups.contains(&one[0].as_str().unwrap()))
        .map(|one| {
            (
                one[1].as_str().unwrap().to_owned(),
                one[2].as_u64().unwrap(),
            )
        })
        .collect()
}

/// Chooses an example, pushes it, waits for what must come of it, and for these words as the reason.
async fn try_example(
    visit: &mut Visit,
    (title, index): &(String, u64),
    outcome: &str,
    words: &str,
) {
    let choose = format!(
        "$('#example').value = '{index}'; $('#example').dispatchEvent(new Event('change'))"
    );
    visit.browser.evaluate(&choose).await;
    let before = visit.rig.status();
    visit.push().await;
    visit.until_outcome(outcome).await;
    let after = visit.rig.status();
    assert_eq!(after["last_good"], after["current"]["id"], "{title}");
    if outcome != "committed" {
        assert_eq!(after["current"], before["current"], "{title}");
    }
    let error = format!("$('#remote-error').textContent.includes('{words}')");
    visit.browser.until(&error).await;
    assert_eq!(
        visit.text("#remote-error").await.is_empty(),
        outcome == "committed",
        "{title}"
    );
}

#[tokio::test]
async fn every_example_for_the_own_data_plane_does_what_its_label_says() {
    let mut visit = Visit::begin(own()).await;
    let examples = examples(&mut visit, &["Own data plane", "Any agent"]).await;
    assert!(examples.len() >= 7, "{examples:?}");
    for example in &examples {
        let (outcome, words, runs) = match example.0.as_str() {
            "host metrics each 5 s" => ("committed", "", "interval: 5s"),
            "host metrics each 30 s" => ("committed", "", "interval: 30s"),
            "CPU and memory only" => ("committed", "", "collectors: [cpu, memory]"),
            "broken: does not parse" => ("failed", "unclosed bracket", "host_metrics"),
            "broken: unknown key" => ("failed", "unknown key, did you mean", "host_metrics"),
            "never healthy: socket in a place that cannot hold one" => (
                "rolled back",
                "listen on /proc/adjutant.sock",
                "host_metrics",
            ),
            "empty config map" => ("failed", "the running config is kept", "host_metrics"),
            other => panic!("an example that no test knows: {other}"),
        };
        try_example(&mut visit, example, outcome, words).await;
        let runs = format!("$('#effective-config').textContent.includes('{runs}')");
        visit.browser.until(&runs).await;
    }
    visit.browser.stop().await;
}

#[tokio::test]
async fn every_example_for_the_collector_does_what_its_label_says() {
    let dir = Place::new();
    // Its own metrics would take a fixed port.
    let local = dir.path().join("local.yaml");
    put(&local, "service: {telemetry: {metrics: {level: none}}}\n");
    let settings = format!(
        "{{profile: otelcol, executable: {}, config_files: [{}], apply: {{probation: 3s, proof_timeout: 15s}}}}",
        otelcol().display(),
        local.display()
    );
    let mut visit = Visit::begin(Rig::new(dir, &settings)).await;
    let examples = examples(&mut visit, &["OpenTelemetry Collector"]).await;
    assert!(examples.len() >= 3, "{examples:?}");
    for example in &examples {
        let (outcome, words) = match example.0.as_str() {
            "host metrics each 5 s" => ("committed", ""),
            "broken: unknown exporter" => ("failed", "nowhere"),
            "breaks at start: address of another host" => ("rolled back", "192.0.2.1:4317"),
            other => panic!("an example that no test knows: {other}"),
        };
        try_example(&mut visit, example, outcome, words).await;
        if outcome == "rolled back" {
            visit.shot("7-collector-rolled-back.png").await;
        }
    }
    visit.browser.stop().await;
}
