//! Registration with a service that behaves as the field's do, and a fleet server on opamp-go that takes nobody but
//! the holder of the last token issued.

mod life;
mod refused;
mod secrets;
mod service;

use serde_json::Value;

use super::rig::{Rig, agent, wait_for, wait_until};
use crate::peers::{OpampServer, eventually};
use service::Service;

/// A registration token. It must never be seen where it does not belong, nor any token that the service issues:
/// everything secret here has `planted` in it.
const TOKEN: &str = "planted-registration-token";
/// The instance as the settings have it; JSON by text pasting would break on it.
const INSTANCE: &str = "error-gw \"7\"";

/// A config of its own, so that the agent runs from the first moment.
const LOCAL: &str = "    config_files: ['{dir}/config.yaml']\n    main_file: config.yaml\n";

/// Service, fleet server and a supervisor's directory.
struct Field {
    rig: Rig,
    service: Service,
    server: std::sync::Arc<OpampServer>,
}

impl Field {
    /// Everything set up to work, nothing started; `more` are further lines of `registration:`.
    fn new(more: &str) -> Self {
        let field = Self::without_token_file(&format!("  token_file: '{{dir}}/token'\n{more}"));
        field.put_token(TOKEN);
        field
    }

    fn without_token_file(more: &str) -> Self {
        let service = Service::start();
        service.allow(TOKEN, "4");
        let server = std::sync::Arc::new(OpampServer::start(0));
        let rig = Rig::new("");
        let settings = format!(
            "server: {{endpoint: 'ws://127.0.0.1:{}/v1/opamp'}}\nregistration:\n  url: {}\n  instance_id: '{INSTANCE}'\n{more}{}",
            server.port,
            service.url(),
            agent("one", LOCAL)
        );
        rig.write("config.yaml", "mode: local\n");
        rig.set(&settings);
        let fleet = std::sync::Arc::clone(&server);
        service.on_issue(move |token| takes_only(&fleet, token));
        // Nobody is let in before the first token.
        takes_only(&server, "none yet");
        Self {
            rig,
            service,
            server,
        }
    }

    fn put_token(&self, text: &str) {
        let path = self.rig.write("token", text);
        mode(&path, 0o600);
    }

    fn registration(&self) -> Option<Value> {
        let found = self.rig.status()?["registration"].clone();
        found.is_object().then_some(found)
    }

    /// Waits until registration and link are in these states.
    fn until(&self, registration: &str, link: &str) -> Value {
        let what = format!("registration {registration} and link {link}");
        let mut last = Value::Null;
        wait_for(&what, || {
            let status = self.rig.status()?;
            let found = (
                status["registration"]["state"].as_str()?.to_owned(),
                status["agents"][0]["link"]["state"].as_str()?.to_owned(),
            );
            if last != status["registration"] {
                last = status["registration"].clone();
            }
            (found.0 == registration && found.1 == link).then_some(status)
        })
    }

    /// Waits for a phase of the registration.
    fn until_phase(&self, phase: &str) -> Value {
        wait_for(&format!("registration phase {phase}"), || {
            self.registration().filter(|it| it["phase"] == phase)
        })
    }

    /// The authorization of every connection that the fleet server accepted.
    fn accepted(&self) -> Vec<String> {
        let answer = self.server.api.get("/connections").unwrap().json;
        answer
            .as_array()
            .unwrap()
            .iter()
            .filter(|connection| connection["accepted"] == true)
            .map(|connection| {
                let value = &connection["headers"]["Authorization"];
                value.as_str().unwrap_or_default().to_owned()
            })
            .collect()
    }

    /// Waits until the fleet server talks with the holder of the last token.
    fn until_last_token_is_used(&self) {
        let last = format!("Bearer {}", self.service.issued().last().unwrap());
        eventually("a connection with the last token", || {
            let accepted = self.accepted();
            (accepted.last() == Some(&last))
                .then_some(())
                .ok_or_else(|| format!("{accepted:?}"))
        });
    }

    fn stored(&self) -> Value {
        let path = self.rig.state().join("credentials/opamp.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn calls(&self) -> usize {
        self.service.asked().len()
    }
}

fn mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The fleet server takes nobody but who shows this token, and drops whoever is there.
fn takes_only(server: &OpampServer, token: &str) {
    let mode = serde_json::json!({ "bearer": token });
    let answer = server.api.send("POST", "/mode", "", &mode).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Breaks every connection of the fleet server, as a restart of it would.
fn drop_links(server: &OpampServer) {
    let agents = server.api.get("/agents").unwrap().json;
    for uid in agents.as_object().unwrap().keys() {
        // Not connected is what is wanted.
        drop(
            server
                .api
                .send("POST", &format!("/drop/{uid}"), "", &serde_json::json!({})),
        );
    }
}

/// Lets everybody up and closes then with 1008, as some servers of the field do.
fn refuses_late(server: &OpampServer) {
    let mode = serde_json::json!({ "late": true });
    server.api.send("POST", "/mode", "", &mode).unwrap();
}
