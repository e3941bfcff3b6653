//! Given tokens that are easily recognised, when a host registers, is rejected, crashes its child and is asked for
//! everything it can show; then no token is seen anywhere but in the files that hold it and in the header that sends
//! it.

use std::fs;
use std::path::Path;

use super::super::proc;
use super::*;

/// Everything below a directory that a secret could have got into.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                if String::from_utf8_lossy(&bytes).contains(text) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn planted_secrets_are_seen_nowhere() {
    let field = Field::without_token_file("  on_rejected: register\n");
    field.rig.set_all(
        &fs::read_to_string(field.rig.settings())
            .unwrap()
            .replace("log: {to: files}", "log: {to: files, level: trace}"),
    );
    let mut command = field.rig.command(&["run"]);
    command
        .env("REGISTRATION_TOKEN", TOKEN)
        .env("OPAMP_TOKEN", "");
    let supervisor = field.rig.launch(&mut command);
    supervisor.answers(&field.rig);
    field.until("registered", "connected");
    // A crash report with its tail, a rejection, an echo of the token by the service, a new registration.
    let failed = field.rig.apply("mode: dies");
    assert_eq!(failed.code, Some(10), "{failed:?}");
    field.rig.commit("mode: works");
    field.service.next(service::Canned::Answer(
        401,
        "",
        format!("{{\"detail\":\"bad {TOKEN}\"}}"),
    ));
    let refused = field
        .rig
        .cli_with("REGISTRATION_TOKEN", TOKEN, &["restart-registration"]);
    assert_eq!(refused.code, Some(20), "{refused:?}");
    field.service.reissue(INSTANCE);
    drop_links(&field.server);
    wait_until("a registration after the rejection", || field.calls() == 3);
    field.until("registered", "connected");

    let child = field.rig.child();
    for process in proc::marked(&field.rig.state()) {
        let environment = format!("{:?}", proc::environment(process.pid));
        assert!(!environment.contains("planted"), "{environment}");
        assert!(!environment.contains("REGISTRATION_TOKEN"), "{environment}");
        assert!(!environment.contains("OPAMP_TOKEN"), "{environment}");
    }
    for pid in [child, supervisor.pid()] {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!line.contains("planted"), "{line}");
    }
    let shown = [
        ("log", supervisor.log()),
        ("status", field.rig.cli(&["status", "--json"]).out),
        ("table", field.rig.cli(&["status"]).out),
        (
            "health",
            field.rig.ask("GET", "/health", None).unwrap().1.to_string(),
        ),
        (
            "revisions",
            field.rig.cli(&["config", "list", "--json"]).out,
        ),
        ("config", field.rig.cli(&["config", "show", "--json"]).out),
        ("refusal", format!("{refused:?}")),
        ("what the server was told", {
            // Its messages; the headers that it shows beside them hold the token, as they should.
            let agents = field.server.api.get("/agents").unwrap().json;
            let told = agents.as_object().unwrap().keys().map(|uid| {
                let path = format!("/agents/{uid}/messages");
                field.server.api.get(&path).unwrap().json.to_string()
            });
            told.collect::<String>()
        }),
    ];
    for (what, text) in shown {
        assert!(!text.is_empty(), "{what}");
        assert!(!text.contains("planted"), "{what}: {text}");
    }
    let metrics = field.rig.raw("/metrics");
    assert!(
        metrics.contains("adjutant_registration_registered 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("adjutant_registration_token_expiry_time_seconds"),
        "{metrics}"
    );
    assert!(!metrics.contains("planted"), "{metrics}");
    let stored = field.rig.state().join("credentials/opamp.json");
    let holders = files_with(field.rig.path(), "planted");
    assert_eq!(holders, [stored.display().to_string()]);
    supervisor.stop();
}

#[test]
fn a_token_that_ends_soon_is_said_in_log_status_health_and_metrics() {
    let field = Field::new("");
    let first = field.rig.start();
    field.until("registered", "connected");
    first.stop();
    let mut stored = field.stored();
    let now = adjutant::sys::clock::wall().unix_millis();
    // Six days and a bit of a life of sixty.
    stored["at_ms"] = (now - 54 * 86_400_000).into();
    stored["expires_ms"] = (now + 6 * 86_400_000 + 60_000).into();
    field
        .rig
        .write("state/credentials/opamp.json", &stored.to_string());
    let second = field.rig.start();
    let status = field.until("registered", "connected");
    let reason = status["registration"]["reason"].as_str().unwrap();
    assert_eq!(
        reason,
        "the token expires in 6 days; run `adjutant restart-registration` before"
    );
    second.logs("token expires soon");
    let health = field.rig.ask("GET", "/health", None).unwrap().1;
    assert_eq!(health["components"]["registration"]["status"], "degraded");
    let metrics = field.rig.raw("/metrics");
    let wanted = (now + 6 * 86_400_000 + 60_000) / 1000;
    assert!(
        metrics.contains(&format!("token_expiry_time_seconds {wanted}")),
        "{metrics}"
    );
    second.stop();
}

#[test]
fn doctor_asks_the_service_without_a_token_and_registers_nothing() {
    let field = Field::new("");
    let done = field.rig.cli(&["doctor"]);
    let line = done.out.lines().find(|it| it.contains("registration"));
    let line = line.unwrap_or_else(|| panic!("{}", done.out));
    assert!(
        line.starts_with("ok") && line.contains("answers (status "),
        "{line}"
    );
    let asked = field.service.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].line.starts_with("GET "), "{asked:?}");
    assert_eq!(asked[0].authorization, "");
    assert!(!done.out.contains("planted"), "{}", done.out);
    assert!(!field.rig.state().exists());
}
