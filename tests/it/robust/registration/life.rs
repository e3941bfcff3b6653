//! Given a service and a fleet server, when a supervisor starts, starts again, is told to register anew or finds its
//! token revoked; then the last token is stored and used, and the child never notices.

use std::os::unix::fs::PermissionsExt as _;

use super::super::tracer::{Fault, Thread, Tracer};
use super::*;

#[test]
fn the_first_start_registers_once_and_connects_with_what_it_got() {
    let field = Field::new(
        "  metadata: {team: 'a \"b\"', otel_version: 0.150.0}\n  ip_address: 192.0.2.7\n",
    );
    let supervisor = field.rig.start();
    let status = field.until("registered", "connected");
    field.until_last_token_is_used();

    let asked = field.service.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let call = &asked[0];
    assert_eq!(call.line, "POST /api/v1/gateways");
    assert_eq!(call.authorization, format!("Bearer {TOKEN}"));
    assert_eq!(call.body["name"], INSTANCE);
    assert_eq!(call.body["instance_id"], INSTANCE);
    assert_eq!(call.body["ip_address"], "192.0.2.7");
    assert!(call.body["hostname"].is_string(), "{call:?}");
    let metadata = &call.body["metadata"];
    assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata["otel_version"], "0.150.0");
    assert_eq!(metadata["team"], "a \"b\"");
    let capabilities = metadata["capabilities"].as_array().unwrap();
    assert!(
        capabilities.contains(&"accepts_remote_config".into()),
        "{call:?}"
    );

    // What is stored says where it came from and when; nobody else can read it.
    let stored = field.stored();
    assert_eq!(stored["token"], field.service.issued()[0].as_str());
    assert_eq!(stored["source"], "registration");
    assert!(stored["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
    for (path, wanted) in [("credentials", 0o700), ("credentials/opamp.json", 0o600)] {
        let metadata = std::fs::metadata(field.rig.state().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, wanted, "{path}");
    }
    let token = &status["registration"]["token"];
    assert_eq!(token["gateway"], "gateway/1");
    assert_eq!(token["org"], "4");
    assert_eq!(token["management_mode"], "supervisor");
    assert_eq!(token["stored"], true);
    // The address it listens on is no endpoint; the settings' is used.
    assert_eq!(token["endpoint"], Value::Null);
    supervisor.logs("returned endpoint not used");
    let left = token["expires_in_seconds"].as_f64().unwrap() / 86_400.0;
    assert!((364.0..=365.0).contains(&left), "{left} days");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_restart_needs_no_registration_token_and_makes_no_call() {
    let field = Field::new("");
    let first = field.rig.start();
    field.until("registered", "connected");
    first.stop();
    std::fs::remove_file(field.rig.path().join("token")).unwrap();
    let second = field.rig.start();
    let status = field.until("registered", "connected");
    assert_eq!(status["registration"]["calls"], 0);
    assert_eq!(field.calls(), 1);
    assert_eq!(field.accepted().len(), 2);
    second.stop();
}

#[test]
fn onboarding_again_updates_the_gateway_and_the_latest_token_wins() {
    let field = Field::new("");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let child = field.rig.child();
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("onboard: asking http://"), "{done:?}");
    assert!(
        done.out.contains("registered as gateway gateway/1"),
        "{done:?}"
    );
    field.until_last_token_is_used();
    assert_eq!(field.service.issued().len(), 2);
    assert_eq!(field.service.status(INSTANCE), Some("active"));
    assert_eq!(field.stored()["token"], field.service.issued()[1].as_str());
    assert_eq!(field.rig.child(), child);
    supervisor.stop();
}

#[test]
fn restart_registration_stores_a_new_token_and_reconnects_at_once_beside_the_same_child() {
    let field = Field::new("");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let child = field.rig.child();
    for round in 2..5 {
        let done = field.rig.cli(&["restart-registration"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        field.until_last_token_is_used();
        assert_eq!(field.service.issued().len(), round);
        assert_eq!(
            field.stored()["token"],
            field.service.issued()[round - 1].as_str()
        );
        assert_eq!(field.stored()["source"], "restart-registration");
    }
    let asked = field.service.asked();
    assert_eq!(
        asked[1].line,
        "POST /api/v1/gateways/gateway%2F1/restart-registration?org_id=4"
    );
    assert_eq!(asked[1].authorization, format!("Bearer {TOKEN}"));
    assert_eq!(field.rig.child(), child);
    let agent = field.rig.agent_status("one").unwrap();
    assert_eq!(agent["restarts"], 0, "{agent}");
    supervisor.stop();
}

#[test]
fn without_a_supervisor_the_commands_work_on_the_state_directory() {
    let field = Field::new("");
    // No id is stored, so it registers.
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("no supervisor runs"), "{done:?}");
    assert_eq!(field.stored()["source"], "registration");
    let done = field.rig.cli(&["restart-registration"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(field.stored()["source"], "restart-registration");
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(field.stored()["token"], field.service.issued()[2].as_str());
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    assert_eq!(field.calls(), 3);
    supervisor.stop();
}

#[test]
fn a_revoked_token_is_a_visible_state_until_a_person_acts() {
    let field = Field::new("");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let child = field.rig.child();
    let stored = field.stored();
    for late in [false, true] {
        field.service.reissue(INSTANCE);
        if late {
            refuses_late(&field.server);
        }
        drop_links(&field.server);
        let status = field.until("rejected", "rejected");
        let registration = &status["registration"];
        assert_eq!(registration["phase"], "held", "{registration}");
        let reason = registration["reason"].as_str().unwrap();
        let wanted = if late { "1008" } else { "401" };
        assert!(reason.contains(wanted), "{reason}");
        assert!(
            reason.contains("run `adjutant restart-registration`"),
            "{reason}"
        );
        // Slow, and the token stays where it is.
        let retry = status["agents"][0]["link"]["retry_in_seconds"]
            .as_f64()
            .unwrap();
        assert!(retry > 5.0, "{retry}");
        if !late {
            assert_eq!(field.stored(), stored);
        }
        let health = field.rig.ask("GET", "/health", None).unwrap();
        assert_eq!(health.0, 200, "{health:?}");
        assert_eq!(health.1["components"]["registration"]["status"], "degraded");
        let done = field.rig.cli(&["restart-registration"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        field.until_last_token_is_used();
        field.until("registered", "connected");
    }
    assert_eq!(field.rig.child(), child);
    supervisor.stop();
}

#[test]
fn a_revoked_token_is_replaced_where_the_settings_say_so() {
    let field = Field::new("  on_rejected: register\n");
    let supervisor = field.rig.start();
    field.until("registered", "connected");
    let child = field.rig.child();
    field.service.reissue(INSTANCE);
    drop_links(&field.server);
    wait_until("a second registration", || field.calls() == 2);
    field.until("registered", "connected");
    field.until_last_token_is_used();
    assert_eq!(field.service.asked()[1].line, "POST /api/v1/gateways");
    assert_eq!(field.rig.child(), child);
    supervisor.stop();
}

#[test]
fn the_environment_brings_a_token_to_begin_with_and_an_issued_one_wins() {
    let field = Field::new("");
    let seed = "planted-seed";
    takes_only(&field.server, seed);
    let start = || {
        let supervisor = field
            .rig
            .launch(field.rig.command(&["run"]).env("OPAMP_TOKEN", seed));
        supervisor.answers(&field.rig);
        supervisor
    };
    let first = start();
    let status = field.until("registered", "connected");
    assert_eq!(status["registration"]["token"]["source"], "environment");
    assert_eq!(field.calls(), 0, "a valid identity registers nothing");
    assert!(!field.rig.state().join("credentials/opamp.json").exists());
    let done = field.rig.cli(&["onboard"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    field.until_last_token_is_used();
    first.stop();
    // The variable is still set, with a token that the service has revoked.
    let second = start();
    field.until("registered", "connected");
    second.logs("OPAMP_TOKEN is set and not used");
    assert_eq!(field.calls(), 1);
    second.stop();
}

#[test]
fn everything_can_be_said_by_the_environment_alone() {
    let field = Field::new("");
    field.rig.set(&agent("one", LOCAL));
    let mut command = field.rig.command(&["run"]);
    command
        .env("BACKEND_URL", field.service.url())
        .env(
            "OPAMP_WS_URL",
            format!("ws://127.0.0.1:{}/v1/opamp", field.server.port),
        )
        .env("INSTANCE_ID", "gateway-1")
        .env("GATEWAY_NAME", "Gateway 1")
        .env("IP_ADDRESS", "192.0.2.9")
        .env("HOSTNAME", "host-1")
        .env("REGISTRATION_TOKEN", format!(" {TOKEN}\n"))
        .env("HEARTBEAT_INTERVAL", "20")
        .env("USE_SUPERVISOR", "true");
    let supervisor = field.rig.launch(&mut command);
    supervisor.answers(&field.rig);
    field.until("registered", "connected");
    let body = &field.service.asked()[0].body;
    assert_eq!(body["instance_id"], "gateway-1");
    assert_eq!(body["name"], "Gateway 1");
    assert_eq!(body["hostname"], "host-1");
    assert_eq!(body["ip_address"], "192.0.2.9");
    supervisor.stop();
}

#[test]
fn the_returned_endpoint_is_used_where_the_settings_name_none() {
    let field = Field::new("");
    let url = format!("http://127.0.0.1:{}/v1/opamp", field.server.port);
    field.service.name_endpoint(&url);
    field.rig.set(&format!(
        "registration: {{url: '{}', token_file: '{{dir}}/token'}}\n{}",
        field.service.url(),
        agent("one", LOCAL)
    ));
    let first = field.rig.start();
    let child = field.rig.child();
    let status = field.until("registered", "connected");
    let endpoint = &status["registration"]["token"]["endpoint"];
    assert_eq!(*endpoint, url.replace("http:", "ws:").as_str());
    field.until_last_token_is_used();
    assert_eq!(field.rig.child(), child);
    first.stop();
    let second = field.rig.start();
    field.until("registered", "connected");
    assert_eq!(field.calls(), 1);
    second.stop();
}

#[test]
fn a_directory_with_a_token_of_another_machine_registers_anew() {
    let field = Field::new("");
    let start = |node: &str| {
        let supervisor = field
            .rig
            .launch(field.rig.command(&["run"]).env("K8S_NODE_NAME", node));
        supervisor.answers(&field.rig);
        supervisor
    };
    let first = start("node-1");
    field.until("registered", "connected");
    first.stop();
    let second = start("node-2");
    field.until("registered", "connected");
    second.logs("its token is not used");
    field.until_last_token_is_used();
    assert_eq!(field.service.issued().len(), 2);
    second.stop();
}

#[test]
fn killed_at_any_step_of_storing_it_connects_at_the_next_start() {
    if !Tracer::is_there() {
        return;
    }
    // Creating the directory, writing, syncing, renaming, syncing the directory.
    let mut kills = 0;
    for calls in ["mkdir,mkdirat", "fsync", "rename,renameat,renameat2"] {
        for nth in 1..8 {
            let field = Field::new("");
            field.service.hold();
            let mut supervisor = field.rig.start();
            wait_until("the call", || field.calls() == 1);
            let child = field.rig.child();
            let fault = Fault::kill(calls, nth);
            let tracer = Tracer::attach(&field.rig, supervisor.pid(), Thread::Every, &fault);
            field.service.release();
            let survived = wait_for("the kill, or the token on disk", || {
                if supervisor.ended().is_some() {
                    return Some(false);
                }
                let status = field.rig.status()?;
                (status["registration"]["state"] == "registered").then_some(true)
            });
            drop(tracer);
            if survived {
                assert_eq!(field.rig.child(), child);
                supervisor.stop();
                break;
            }
            kills += 1;
            supervisor.end();
            // Whole or not there, never half.
            if field.rig.state().join("credentials/opamp.json").exists() {
                assert_eq!(field.stored()["token"], field.service.issued()[0].as_str());
            }
            let next = field.rig.start();
            field.until("registered", "connected");
            field.until_last_token_is_used();
            assert!(field.calls() <= 2, "{calls} {nth}");
            next.stop();
        }
    }
    assert!(kills >= 5, "only {kills}");
}
