//! A life with Elastic's server, which polls only.

use std::time::Duration;

use opamp_client::SessionEvent;
use opamp_client::messages::RemoteConfigStatuses;
use opamp_client::session::ServerErrorKind;
use opamp_client::transport::ClientEvent;
use serde_json::{Value, json};

use crate::agent::{Agent, UID_TEXT, hex};
use crate::peer::{Peer, ask};

fn any(requests: &Value, wanted: impl Fn(&Value) -> bool) -> bool {
    requests
        .as_array()
        .is_some_and(|list| list.iter().any(wanted))
}

/// Numbers of all requests; one that was made again has its number again.
fn numbers(requests: &Value) -> Vec<u64> {
    let list = requests.as_array().unwrap();
    list.iter()
        .map(|one| one["a2s"]["sequenceNum"].as_u64().unwrap_or(0))
        .collect()
}

//
#[tokio::test]
#[ignore = "needs node, and the server that tests/peers/build.sh installs"]
async fn connect_configure_and_leave() {
    for compress in [false, true] {
        let server = Peer::elastic(0, "");
        let offer = json!({"": {"body": "b: 2\n", "contentType": "text/yaml"}}).to_string();
        let (status, _) = ask(server.port, "POST", "/api/agentConfigMap", &offer).await;
        assert_eq!(status, 204);
        let mut client = Agent::with(&server.url("http"), |config| {
            config.pump.compress = compress;
        })
        .await;
        let offered = client.offered().await;
        assert_eq!(offered.config, Some(crate::agent::files("b: 2\n")));
        client
            .report(&offered.config_hash, RemoteConfigStatuses::Applied)
            .await;
        let hash = hex(&offered.config_hash);
        server
            .until("it has applied the config", "/requests", |requests| {
                any(requests, |one| {
                    let status = &one["a2s"]["remoteConfigStatus"];
                    status["lastRemoteConfigHash"] == hash && status["status"] == 1
                })
            })
            .await;
        client.stop().await;
        let all = server.get("/requests").await;
        let list = all.as_array().unwrap();
        assert!(
            list.last().unwrap()["a2s"]["agentDisconnect"].is_object(),
            "{all:#}"
        );
        assert_eq!(numbers(&all), (0..).take(list.len()).collect::<Vec<u64>>());
        for one in list {
            assert_eq!(
                (&one["status"], &one["error"]),
                (&json!(200), &Value::Null),
                "{one:#}"
            );
            assert_eq!(one["headers"]["opamp-instance-uid"], UID_TEXT);
            assert_eq!(one["headers"]["content-encoding"] == "gzip", compress);
        }
        let offers = list
            .iter()
            .filter(|one| one["s2a"]["remoteConfig"].is_object())
            .count();
        assert!(offers >= 1);
        assert!(any(&all, |one| one["a2s"]["agentDescription"].is_object()));
    }
}

//
#[tokio::test]
#[ignore = "needs node, and the server that tests/peers/build.sh installs"]
async fn a_server_that_starts_anew_learns_everything() {
    let mut server = Peer::elastic(0, "");
    let mut client = Agent::start(&server.url("http")).await;
    server
        .until("it is known", "/requests", |all| {
            any(all, |one| one["a2s"]["agentDescription"].is_object())
        })
        .await;
    let port = server.port;
    server.kill();
    client
        .event("the loss", |event| match event {
            ClientEvent::Disconnected { .. } | ClientEvent::DialFailed { .. } => Some(()),
            _ => None,
        })
        .await;
    let server = Peer::elastic(port, "");
    server
        .until("it is known again", "/requests", |all| {
            any(all, |one| {
                one["a2s"]["agentDescription"].is_object() && one["a2s"]["health"].is_object()
            })
        })
        .await;
    client.stop().await;
}

//
#[tokio::test]
#[ignore = "needs node, and the server that tests/peers/build.sh installs"]
async fn its_errors_are_understood() {
    let server = Peer::elastic(0, "server_error_response_unknown");
    let mut client = Agent::start(&server.url("http")).await;
    let (kind, text) = client
        .told("an error", |event| match event {
            SessionEvent::ServerError { kind, message } => Some((kind, message)),
            _ => None,
        })
        .await;
    assert_eq!(
        (kind, text.as_str()),
        (ServerErrorKind::Unknown, "some unknown error")
    );
    client.stop().await;

    let server = Peer::elastic(0, "server_error_response_unavailable");
    let mut client = Agent::start(&server.url("http")).await;
    let wait = client
        .event("the end of the link", |event| match event {
            ClientEvent::Disconnected { retry_in, .. } => Some(retry_in),
            _ => None,
        })
        .await;
    assert_eq!(wait, Duration::from_secs(42));
    client.stop().await;
}
