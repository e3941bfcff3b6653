//! Given a service that refuses, is in trouble, talks rubbish or is not there, and input that is not acceptable;
//! when a supervisor or a command meets it; then there is one sentence and one code, nothing stored is lost, and the
//! child runs.

use super::*;
use service::Canned;

fn answer(status: u16, body: &str) -> Canned {
    Canned::Answer(status, "", body.to_owned())
}

#[test]
fn each_refusal_has_its_code_and_leaves_the_stored_token() {
    let field = Field::new("");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let child = field.rig.child();
    let stored = field.stored();
    let detail = r#"{"detail":"because"}"#;
    let cases = [
        (401, detail, 20, "not valid, or has expired"),
        (403, detail, 21, "another organisation"),
        (404, detail, 22, "knows no gateway gateway/1"),
        (422, detail, 23, "does not take what was sent"),
        (302, detail, 26, "a redirect, which is not followed"),
        (201, "rubbish planted", 26, "not a gateway's record"),
        (201, r#"{"id":"x"}"#, 26, "no opamp_token"),
        (201, "<html>planted</html>", 26, "not a gateway's record"),
    ];
    for (status, body, code, text) in cases {
        field.service.next(answer(status, body));
        let calls = field.calls();
        let done = field.rig.cli(&["restart-registration"]);
        assert_eq!(done.code, Some(code), "{status}: {done:?}");
        assert!(done.err.contains(text), "{status}: {}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        assert!(!done.err.contains("planted"), "{}", done.err);
        assert_eq!(field.calls(), calls + 1, "{status} is not repeated");
        assert_eq!(field.stored(), stored, "{status}");
    }
    assert_eq!(field.rig.child(), child);
    field.until("registered", "connected");
    supervisor.stop();
}

#[test]
fn the_refusals_that_the_service_makes_by_itself_have_the_same_codes() {
    let field = Field::new("");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    // Another organisation's token.
    field.service.allow("planted-other-org", "5");
    field.put_token("planted-other-org\n");
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(21), "{done:?}");
    // One that has expired.
    field.service.forbid("planted-other-org");
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(20), "{done:?}");
    assert!(
        done.err.contains("Invalid or expired registration token …"),
        "{}",
        done.err
    );
    // A gateway that somebody deleted: a registration makes it anew.
    field.put_token(TOKEN);
    field.service.forget(INSTANCE);
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(22), "{done:?}");
    assert!(
        done.err.contains("`adjutant onboard` registers anew"),
        "{}",
        done.err
    );
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(field.service.gateway(INSTANCE).is_some());
    field.until_last_token_is_used();
    supervisor.stop();
}

#[test]
fn trouble_is_retried_and_then_has_its_code() {
    let field = Field::new("");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let stored = field.stored();
    // Two hiccups do not matter.
    field.service.next(answer(500, "oops"));
    field
        .service
        .next(Canned::Answer(429, "Retry-After: 1\r\n", String::new()));
    let calls = field.calls();
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(field.calls(), calls + 3);
    assert_ne!(field.stored(), stored);
    // Four do, and so does one that asks for more patience than a person has.
    for _ in 0..4 {
        field.service.next(answer(503, ""));
    }
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(25), "{done:?}");
    field
        .service
        .next(Canned::Answer(429, "Retry-After: 600\r\n", String::new()));
    let calls = field.calls();
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(25), "{done:?}");
    assert_eq!(field.calls(), calls + 1);
    supervisor.stop();
}

#[test]
fn a_service_that_is_not_there_has_its_code_with_and_without_a_supervisor() {
    let field = Field::new("");
    let nowhere = format!("http://127.0.0.1:{}", crate::peers::free_port());
    field.rig.set(&format!(
        "registration: {{url: '{nowhere}', token_file: '{{dir}}/token'}}\n{}",
        agent("one", LOCAL)
    ));
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(24), "{done:?}");
    let asked = format!("POST {nowhere}/api/v1/gateways: connect to");
    assert!(done.err.contains(&asked), "{}", done.err);
    let supervisor = field.rig.start();
    wait_until("a running child", || {
        field.rig.running("one").is_some()
            || !field.rig.children().is_empty()
            || field.rig.agent_status("one").is_some()
    });
    let registration = field.until_phase("waiting");
    assert_eq!(registration["state"], "unregistered");
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(24), "{done:?}");
    // It goes on by itself.
    field.until_phase("waiting");
    supervisor.stop();
}

#[test]
fn an_unregistered_host_runs_its_agents_and_says_what_is_missing() {
    let field = Field::new("");
    field.service.forbid(TOKEN);
    let supervisor = field.rig.start();
    let child = field.rig.child();
    let registration = field.until_phase("held");
    assert_eq!(registration["state"], "unregistered");
    let reason = registration["reason"].as_str().unwrap();
    assert!(reason.contains("status 401"), "{reason}");
    assert!(reason.contains("run `adjutant onboard`"), "{reason}");
    let status = field.rig.status().unwrap();
    assert_eq!(status["agents"][0]["link"]["state"], "unregistered");
    assert_eq!(status["agents"][0]["status"], "running");
    assert_eq!(field.accepted(), Vec::<String>::new());
    assert_eq!(field.calls(), 1, "a refusal is not repeated");
    let shown = field.rig.cli(&["status"]);
    assert!(
        shown.out.contains("registration: unregistered: POST"),
        "{}",
        shown.out
    );
    // A person brings a good token.
    field.service.allow(TOKEN, "4");
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    field.until("registered", "connected");
    assert_eq!(field.rig.child(), child);
    supervisor.stop();
}

#[test]
fn an_answer_that_got_lost_costs_one_more_call_and_no_gateway() {
    let field = Field::new("");
    field.service.next(Canned::Lost);
    field.service.next(Canned::Nothing);
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    field.until_last_token_is_used();
    assert_eq!(field.service.issued().len(), 2);
    assert_eq!(field.calls(), 3);
    supervisor.stop();
}

#[test]
fn a_token_file_that_is_no_good_is_one_sentence_and_the_child_runs() {
    let field = Field::new("");
    let path = field.rig.path().join("token");
    std::fs::remove_file(&path).unwrap();
    let supervisor = field.rig.start();
    let child = field.rig.child();
    let cases: [(Option<(&str, u32)>, &str); 4] = [
        (None, "No such file or directory"),
        (
            Some((" \n", 0o600)),
            "is empty; put the registration token into it",
        ),
        (
            Some(("two planted words", 0o600)),
            "holds more than one word",
        ),
        (Some((TOKEN, 0o666)), "can be written by others (mode 0666)"),
    ];
    for (file, text) in cases {
        if let Some((content, bits)) = file {
            field.rig.write("token", content);
            mode(&path, bits);
        }
        let done = field.rig.cli(&["onboard"]);
        assert_eq!(done.code, Some(78), "{done:?}");
        assert!(done.err.contains(text), "{}", done.err);
        assert!(done.err.contains("token"), "{}", done.err);
        assert!(!done.err.contains("planted"), "{}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    }
    assert_eq!(field.calls(), 0);
    // Readable for all is how secrets are mounted: a warning, no refusal.
    mode(&path, 0o644);
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    supervisor.logs("can be read by everybody");
    assert_eq!(field.rig.child(), child);
    supervisor.stop();
}

#[test]
fn settings_that_contradict_themselves_are_refused_and_a_running_child_stays() {
    let field = Field::new("");
    let run = |name: &str, value: &str| {
        super::super::rig::done(field.rig.command(&["run"]).env(name, value))
    };
    let both = run("REGISTRATION_TOKEN", TOKEN);
    assert_eq!(both.code, Some(78), "{both:?}");
    assert!(both.err.contains("keep one of them"), "{}", both.err);
    assert!(!both.err.contains("planted"), "{}", both.err);
    let extension = run("USE_SUPERVISOR", "false");
    assert_eq!(extension.code, Some(78), "{extension:?}");
    assert!(
        extension.err.contains("adjutant is always the supervisor"),
        "{}",
        extension.err
    );
    let good = std::fs::read_to_string(field.rig.settings()).unwrap();
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let child = field.rig.child();
    field
        .rig
        .set_all(&good.replace("url: http://", "url: ftp://"));
    let bad = field.rig.cli(&["onboard"]);
    assert_eq!(bad.code, Some(78), "{bad:?}");
    assert!(
        bad.err.contains("begin the URL with http:// or https://"),
        "{}",
        bad.err
    );
    supervisor.send(nix::sys::signal::Signal::SIGHUP);
    supervisor.logs("settings not taken over, the old ones stay");
    assert_eq!(field.rig.child(), child);
    supervisor.stop();
}
