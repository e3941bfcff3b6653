//! A life with the server made with opamp-go, over both of its transports.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opamp_client::SessionEvent;
use opamp_client::messages::{
    ConnectionSettingsStatus, ConnectionSettingsStatuses, CustomCapabilities, CustomMessage,
    EffectiveConfig, RemoteConfigStatuses,
};
use opamp_client::settings::{SettingsConfig, SettingsEffect};
use opamp_client::transport::{Change, ClientEvent, DialClass, SettingsAnswer, SettingsStart};
use serde_json::{Value, json};

use crate::agent::{Agent, UID, UID_TEXT, files, hex};
use crate::peer::Peer;

const SCHEMES: [&str; 2] = ["ws", "http"];

/// What the server knows of our agent.
const AGENT: &str = "/agents/01970000-0000-7000-8000-000000000001";

/// Numbers of one agent, oldest first; a request that was made again has its number again.
async fn numbers(server: &Peer) -> Vec<u64> {
    let messages = server.get(&format!("{AGENT}/messages")).await;
    let list = messages.as_array().unwrap();
    list.iter()
        .map(|message| message["sequence_num"].as_u64().unwrap_or(0))
        .collect()
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn connect_configure_restart_and_leave() {
    for scheme in SCHEMES {
        let server = Peer::opamp_go(0);
        let mut client = Agent::start(&server.url(scheme)).await;
        let known = server.until("it is known", AGENT, |agent| {
            agent["description"].is_object()
                && agent["health"].is_object()
                && agent["effective_config"].is_object()
        });
        let known = known.await;
        assert_eq!(
            known["description"]["identifying"],
            json!({"service.name": "stranger"})
        );
        assert_eq!(known["health"]["status"], "up");
        assert_eq!(known["effective_config"], json!({"": "a: 1\n"}));
        assert_eq!(known["capabilities"], 0xFFFF);

        let offer = json!({"files": {"": {"body": "b: 2\n", "content_type": "text/yaml"}}});
        let answer = server.send("PUT", &format!("{AGENT}/config"), offer).await;
        let offered = client.offered().await;
        assert_eq!(hex(&offered.config_hash), answer["hash"].as_str().unwrap());
        assert_eq!(offered.config, Some(files("b: 2\n")));
        client
            .report(&offered.config_hash, RemoteConfigStatuses::Applying)
            .await;
        client
            .report(&offered.config_hash, RemoteConfigStatuses::Applied)
            .await;
        client
            .set(Change::EffectiveConfig(EffectiveConfig {
                config_map: offered.config,
            }))
            .await;
        server
            .until("it has applied the config", AGENT, |agent| {
                agent["remote_config_status"]["status"] == "APPLIED"
                    && agent["remote_config_status"]["hash"] == answer["hash"]
                    && agent["effective_config"][""] == "b: 2\n"
            })
            .await;

        server
            .send("POST", &format!("{AGENT}/restart"), json!({}))
            .await;
        client
            .told("a restart", |event| {
                (event == SessionEvent::Restart).then_some(())
            })
            .await;
        let before = numbers(&server).await.len();
        server
            .send("POST", &format!("{AGENT}/full-state"), json!({}))
            .await;
        server
            .until(
                "it told everything again",
                &format!("{AGENT}/messages?from={before}"),
                |messages| {
                    messages
                        .as_array()
                        .is_some_and(|list| list.iter().any(|one| one["description"].is_object()))
                },
            )
            .await;

        client.stop().await;
        let left = server
            .until("it has left", AGENT, |agent| {
                agent["agent_disconnect"] == true
            })
            .await;
        assert_eq!(
            left["sequence_num"].as_u64(),
            numbers(&server).await.last().copied()
        );
        let numbers = numbers(&server).await;
        let wanted: Vec<u64> = (0..).take(numbers.len()).collect();
        assert_eq!(numbers, wanted, "over {scheme}");
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn custom_messages_and_packages_arrive() {
    for scheme in SCHEMES {
        let server = Peer::opamp_go(0);
        let mut client = Agent::start(&server.url(scheme)).await;
        let list = CustomCapabilities {
            capabilities: vec!["org.example.echo".to_owned()],
        };
        client.set(Change::CustomCapabilities(list)).await;
        server
            .until("it is known", AGENT, |agent| {
                agent["description"].is_object()
            })
            .await;
        let message = json!({
            "customCapabilities": {"capabilities": ["org.example.echo"]},
            "customMessage": {"capability": "org.example.echo", "type": "say", "data": "aGk="},
            "packagesAvailable": {"allPackagesHash": "AQI=", "packages": {"p": {"version": "1"}}},
        });
        server
            .send("POST", &format!("{AGENT}/message"), message)
            .await;
        let (mut said, mut offered) = (None, None);
        client
            .told("message and packages", |event| {
                match event {
                    SessionEvent::CustomMessage(message) => said = Some(message),
                    SessionEvent::PackagesAvailable(packages) => offered = Some(packages),
                    _ => {}
                }
                (said.is_some() && offered.is_some()).then_some(())
            })
            .await;
        let echo = CustomMessage {
            capability: "org.example.echo".to_owned(),
            r#type: "say".to_owned(),
            data: b"hi".to_vec(),
        };
        assert_eq!(said, Some(echo.clone()));
        assert_eq!(offered.unwrap().packages["p"].version, "1");
        // Over polling this server repeats its own empty list in every answer: what it lacks is not sent.
        if scheme == "ws" {
            client.set(Change::CustomMessage(echo)).await;
            server
                .until(
                    "it hears the echo",
                    &format!("{AGENT}/messages"),
                    |messages| {
                        let echo = |one: &Value| one["other"]["custom_message"]["data"] == "aGk=";
                        messages
                            .as_array()
                            .is_some_and(|list| list.iter().any(echo))
                    },
                )
                .await;
        }
        client.stop().await;
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn a_new_identity_is_the_same_agent() {
    for scheme in SCHEMES {
        let server = Peer::opamp_go(0);
        let mut client = Agent::start(&server.url(scheme)).await;
        server
            .until("it is known", AGENT, |agent| {
                agent["description"].is_object()
            })
            .await;
        let new = "01010101-0101-0101-0101-010101010101";
        server
            .send(
                "POST",
                &format!("{AGENT}/identification"),
                json!({"new_instance_uid": new}),
            )
            .await;
        let uid = client
            .told("an identity", |event| match event {
                SessionEvent::NewInstanceUid(uid) => Some(uid),
                _ => None,
            })
            .await;
        assert_eq!(uid, [1; 16]);
        client.set(Change::InstanceUid(uid)).await;
        // Something to say under the new name; the server then asks for the rest by itself.
        client.report(b"h", RemoteConfigStatuses::Applied).await;
        server
            .until(
                "the new name is known",
                &format!("/agents/{new}"),
                |agent| agent["description"].is_object(),
            )
            .await;
        client.stop().await;
        server
            .until("it has left", &format!("/agents/{new}"), |agent| {
                agent["agent_disconnect"] == true
            })
            .await;
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn a_lost_connection_and_a_lost_server_are_outlived() {
    for scheme in SCHEMES {
        let mut server = Peer::opamp_go(0);
        let mut client = Agent::start(&server.url(scheme)).await;
        server
            .until("it is known", AGENT, |agent| {
                agent["description"].is_object()
            })
            .await;
        if scheme == "ws" {
            server
                .send("POST", &format!("/drop/{UID_TEXT}"), json!({}))
                .await;
            server
                .until("it is back", AGENT, |agent| {
                    agent["connected"] == true && agent["connections"] == 2
                })
                .await;
            let numbers = numbers(&server).await;
            let wanted: Vec<u64> = (0..).take(numbers.len()).collect();
            assert_eq!(numbers, wanted);
        }
        let port = server.port;
        server.kill();
        client
            .event("the loss", |event| match event {
                ClientEvent::Disconnected { .. } | ClientEvent::DialFailed { .. } => Some(()),
                _ => None,
            })
            .await;
        let server = Peer::opamp_go(port);
        let back = server.until("everything is known again", AGENT, |agent| {
            agent["description"].is_object()
                && agent["health"].is_object()
                && agent["effective_config"].is_object()
        });
        assert_eq!(
            back.await["description"]["identifying"]["service.name"],
            "stranger"
        );
        client.stop().await;
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn throttling_at_the_door_and_inside_is_obeyed() {
    for scheme in SCHEMES {
        let server = Peer::opamp_go(0);
        server
            .send("POST", "/mode", json!({"reject": 503, "retry_after": 1}))
            .await;
        let mut client = Agent::start(&server.url(scheme)).await;
        assert_eq!(lost(&mut client).await, Duration::from_secs(1));
        server
            .send(
                "POST",
                "/mode",
                json!({"reject": 0, "error": "unavailable", "retry_after": 1}),
            )
            .await;
        client.connected().await;
        assert_eq!(lost(&mut client).await, Duration::from_secs(1));
        server.send("POST", "/mode", json!({"error": ""})).await;
        server
            .until("it is known", AGENT, |agent| {
                agent["description"].is_object()
            })
            .await;
        client.stop().await;
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn a_wrong_token_is_a_refusal_and_a_right_one_is_let_in() {
    for scheme in SCHEMES {
        for late in [false, true] {
            if late && scheme == "http" {
                continue;
            }
            let server = Peer::opamp_go(0);
            server
                .send("POST", "/mode", json!({"bearer": "right", "late": late}))
                .await;
            let with = |token: &str| {
                let header = format!("Bearer {token}");
                let target: opamp_client::transport::Target = server.url(scheme).parse().unwrap();
                target.with_header("authorization", &header).unwrap()
            };
            let mut client =
                Agent::with(&server.url(scheme), |config| config.target = with("wrong")).await;
            assert!(
                lost(&mut client).await >= Duration::from_secs(30),
                "over {scheme}"
            );
            client.stop().await;
            let client =
                Agent::with(&server.url(scheme), |config| config.target = with("right")).await;
            server
                .until("it is known", AGENT, |agent| {
                    agent["description"].is_object()
                })
                .await;
            client.stop().await;
        }
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn garbage_from_a_real_server_ends_nothing() {
    let server = Peer::opamp_go(0);
    let mut client = Agent::start(&server.url("ws")).await;
    server
        .until("it is known", AGENT, |agent| {
            agent["description"].is_object()
        })
        .await;
    for bytes in ["00ff", "01", "", "80808080808080808080808080"] {
        server
            .send(
                "POST",
                &format!("{AGENT}/raw"),
                json!({"hex": bytes, "opcode": 2}),
            )
            .await;
        client
            .event("garbage", |event| {
                matches!(event, ClientEvent::Malformed(_)).then_some(())
            })
            .await;
    }
    client.report(b"after", RemoteConfigStatuses::Failed).await;
    let seen = server
        .until("it still reports", AGENT, |agent| {
            agent["remote_config_status"]["status"] == "FAILED"
        })
        .await;
    assert_eq!(seen["connections"], 1);
    client.stop().await;
}

// an offer to go elsewhere; who obeys says goodbye to the one and tells the other everything.
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn a_settings_offer_leads_to_another_server() {
    for (from, to) in [
        ("ws", "ws"),
        ("ws", "http"),
        ("http", "ws"),
        ("http", "http"),
    ] {
        let (first, second) = (Peer::opamp_go(0), Peer::opamp_go(0));
        let mut client = Agent::start(&first.url(from)).await;
        first
            .until("it is known", AGENT, |agent| {
                agent["description"].is_object()
            })
            .await;
        let offer =
            json!({"destination_endpoint": second.url(to), "uid": UID_TEXT, "hash": "0102"});
        first.send("POST", "/settings", offer).await;
        let offers = client
            .told("settings", |event| match event {
                SessionEvent::ConnectionSettings(offers) => Some(offers),
                _ => None,
            })
            .await;
        let endpoint = offers.opamp.unwrap().destination_endpoint;
        assert_eq!(endpoint, second.url(to));
        client
            .set(Change::Target(Box::new(endpoint.parse().unwrap())))
            .await;
        client
            .set(Change::ConnectionSettingsStatus(ConnectionSettingsStatus {
                last_connection_settings_hash: offers.hash,
                status: ConnectionSettingsStatuses::Applied.into(),
                error_message: String::new(),
            }))
            .await;
        let known = second.until("the other server knows it", AGENT, |agent| {
            agent["description"].is_object() && agent["connection_settings_status"].is_object()
        });
        let known = known.await;
        assert_eq!(
            known["connection_settings_status"]["hash"], "0102",
            "{known:#}"
        );
        let left = first.until("it has left the first", AGENT, |agent| {
            agent["agent_disconnect"] == true
        });
        let left: Value = left.await;
        let last = left["sequence_num"].as_u64().unwrap();
        assert!(
            numbers(&second).await.iter().all(|number| *number > last),
            "from {from} to {to}"
        );
        client.stop().await;
    }
}

/// What the client says about an offer that it carries out by itself, and answers to what it wants stored.
async fn verdict(client: &mut Agent) -> bool {
    enum Step {
        Save(u64),
        Over(bool),
    }
    loop {
        let step = client.event("the fate of an offer", |event| match event {
            ClientEvent::Settings(SettingsEffect::Save { id, .. }) => Some(Step::Save(id)),
            ClientEvent::Settings(SettingsEffect::Accepted) => Some(Step::Over(true)),
            ClientEvent::Settings(SettingsEffect::Reverted(_)) => Some(Step::Over(false)),
            _ => None,
        });
        match step.await {
            Step::Save(id) => {
                let saved = SettingsAnswer::Saved { id, result: Ok(()) };
                client.set(Change::Settings(saved)).await;
            }
            Step::Over(kept) => return kept,
        }
    }
}

// …: an offer is tried by connecting, kept where that works, undone where it does not.
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn an_offer_is_tried_and_kept_or_undone() {
    #[expect(clippy::disallowed_methods, reason = "a test is its own shell")]
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for (from, to) in [("ws", "http"), ("http", "ws")] {
        let (first, second) = (Peer::opamp_go(0), Peer::opamp_go(0));
        let mut client = Agent::with(&first.url(from), |config| {
            // Soon polled, once it polls.
            config.session.heartbeat = Duration::from_millis(100);
            config.settings = Some(SettingsStart {
                config: SettingsConfig::new(config.target.clone(), Duration::from_secs(30)),
                saved: None,
                unix,
            });
        })
        .await;
        let described = |agent: &Value| agent["description"].is_object();
        first.until("it is known", AGENT, described).await;
        let offer = |endpoint: String, hash: &str| json!({"destination_endpoint": endpoint, "uid": UID_TEXT, "hash": hash});
        first
            .send("POST", "/settings", offer(second.url(to), "0a"))
            .await;
        assert!(verdict(&mut client).await, "from {from} to {to}");
        let status = |hash: &'static str, word: &'static str| {
            move |agent: &Value| {
                let status = &agent["connection_settings_status"];
                status["hash"] == hash && status["status"].to_string().contains(word)
            }
        };
        second
            .until("it says APPLIED", AGENT, status("0a", "APPLIED"))
            .await;
        let left = |agent: &Value| agent["agent_disconnect"] == true;
        first.until("it has left the first", AGENT, left).await;
        // Nobody listens there.
        let mut gone = Peer::opamp_go(0);
        let nowhere = gone.url(to);
        gone.kill();
        second.send("POST", "/settings", offer(nowhere, "0b")).await;
        assert!(!verdict(&mut client).await, "from {from} to {to}");
        let known = second.until("it says FAILED", AGENT, status("0b", "FAILED"));
        let known = known.await;
        assert_eq!(known["health"]["healthy"], true, "{known:#}");
        client.stop().await;
    }
}

/// How long the client waits after what failed.
async fn lost(client: &mut Agent) -> Duration {
    client
        .event("a refusal", |event| match event {
            ClientEvent::Disconnected { retry_in, .. } => Some(retry_in),
            ClientEvent::DialFailed { error, retry_in } => {
                assert!(
                    matches!(error.class(), DialClass::Throttled | DialClass::Rejected),
                    "{error}"
                );
                Some(retry_in)
            }
            _ => None,
        })
        .await
}

#[test]
fn the_name_is_the_identity() {
    assert_eq!(hex(&UID), UID_TEXT.replace('-', ""));
    assert_eq!(AGENT, format!("/agents/{UID_TEXT}"));
}
