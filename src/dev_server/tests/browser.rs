//! The page in a real headless Chromium.
//!
//! Screenshots go to the directory named by `ADJUTANT_SCREENSHOTS`, if it is set.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use opamp_client::messages::RemoteConfigStatuses::{self, Applied, Applying, Failed};
use serde_json::json;

use super::chromium::Browser;
use super::support::{Agent, Running, effective, rollout_health, status};
use crate::units::WallTime;

async fn screenshot(browser: &mut Browser, name: &str) {
    if let Some(directory) = std::env::var_os("ADJUTANT_SCREENSHOTS") {
        browser.screenshot(&Path::new(&directory).join(name)).await;
    }
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
    screenshot(&mut browser, "page-probation.png").await;
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
            "$('#example').value = [...$('#example').options].find((one) => one.text.startsWith('never healthy')).value;
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
    screenshot(&mut browser, "page-rolled-back.png").await;

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
