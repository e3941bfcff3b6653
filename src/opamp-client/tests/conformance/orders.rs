//! What a server may order: configurations, restarts, custom messages; what it may complain about.

use opamp_client::SessionEvent;
use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, CustomCapabilities, CustomMessage,
    RemoteConfigStatus, RemoteConfigStatuses, ServerErrorResponse, ServerToAgent,
    ServerToAgentCommand,
};
use opamp_client::session::ServerErrorKind;
use opamp_client::transport::Change;

use crate::run::{Run, WIRES, ack, health, over_each};
use crate::wire;

pub(crate) fn offer(hash: &[u8], body: Vec<u8>) -> ServerToAgent {
    let file = AgentConfigFile {
        body,
        content_type: "text/yaml".to_owned(),
    };
    ServerToAgent {
        remote_config: Some(AgentRemoteConfig {
            config: Some(AgentConfigMap {
                config_map: [(String::new(), file)].into(),
            }),
            config_hash: hash.to_vec(),
        }),
        ..ack()
    }
}

pub(crate) fn restart() -> ServerToAgent {
    ServerToAgent {
        command: Some(ServerToAgentCommand { r#type: 0 }),
        ..ack()
    }
}

fn status(hash: &[u8], status: RemoteConfigStatuses) -> Change {
    Change::RemoteConfigStatus(RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec(),
        status: status.into(),
        error_message: String::new(),
    })
}

async fn offered(run: &mut Run) -> AgentRemoteConfig {
    run.told("an offer", |event| match event {
        SessionEvent::RemoteConfig(offer) => Some(offer),
        _ => None,
    })
    .await
}

//
#[tokio::test]
async fn an_offer_arrives_whole_and_its_progress_is_told() {
    over_each(async |mut run| {
        run.exchange_any().await;
        let message = offer(b"v7", b"receivers: {}\n".to_vec());
        run.say(&message).await;
        assert_eq!(Some(offered(&mut run).await), message.remote_config);
        for step in [
            RemoteConfigStatuses::Applying,
            RemoteConfigStatuses::Applied,
        ] {
            run.set(status(b"v7", step)).await;
            let heard = run.exchange().await;
            assert_eq!(heard.report.told(), [wire::REMOTE]);
            let told = heard.message.remote_config_status.unwrap();
            assert_eq!(
                (told.last_remote_config_hash, told.status),
                (b"v7".to_vec(), step.into())
            );
        }
        run.fence().await;
        run.finish().await;
    })
    .await;
}

// as servers do that repeat their offer in every answer.
#[tokio::test]
async fn an_offer_in_every_answer_is_no_reason_to_talk() {
    over_each(async |mut run| {
        let message = offer(b"v1", b"a: 1".to_vec());
        run.hear_any().await;
        run.say(&message).await;
        offered(&mut run).await;
        run.set(status(b"v1", RemoteConfigStatuses::Applied)).await;
        run.hear().await;
        for _ in 0..50 {
            run.say(&message).await;
        }
        run.set(Change::Health(health("behind"))).await;
        let heard = run.exchange().await;
        assert_eq!(heard.report.told(), [wire::HEALTH]);
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn a_restart_is_told_and_nothing_else_of_that_message() {
    over_each(async |mut run| {
        run.exchange_any().await;
        let both = ServerToAgent {
            remote_config: offer(b"no", Vec::new()).remote_config,
            ..restart()
        };
        run.say(&both).await;
        run.say(&offer(b"yes", Vec::new())).await;
        let mut seen = Vec::new();
        run.told("the offer behind it", |event| match event {
            SessionEvent::Restart => {
                seen.push("restart");
                None
            }
            SessionEvent::RemoteConfig(offer) => {
                assert_eq!(offer.config_hash, b"yes");
                Some(())
            }
            _ => None,
        })
        .await;
        assert_eq!(seen, ["restart"]);
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn what_was_not_announced_is_refused_once_and_told() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| config.session.capabilities = 1).await;
        run.exchange_any().await;
        for _ in 0..5 {
            run.say(&restart()).await;
            run.say(&offer(b"h", Vec::new())).await;
        }
        run.say(&ServerToAgent {
            capabilities: 0x7F,
            ..ack()
        })
        .await;
        let mut refusals = 0;
        run.told("what comes behind", |event| match event {
            SessionEvent::Refused(_) => {
                refusals += 1;
                None
            }
            SessionEvent::Restart | SessionEvent::RemoteConfig(_) => panic!("{event:?}"),
            SessionEvent::ServerCapabilities(_) => Some(()),
            _ => None,
        })
        .await;
        assert_eq!(refusals, 2);
        run.finish().await;
    }
}

//
#[tokio::test]
async fn custom_messages_go_both_ways_one_by_one() {
    over_each(async |mut run| {
        let list = CustomCapabilities {
            capabilities: vec!["org.example.echo".to_owned()],
        };
        run.set(Change::CustomCapabilities(list.clone())).await;
        while run
            .exchange_any()
            .await
            .message
            .custom_capabilities
            .is_none()
        {}
        let echo = |text: &str| CustomMessage {
            capability: "org.example.echo".to_owned(),
            r#type: "say".to_owned(),
            data: text.as_bytes().to_vec(),
        };
        run.say(&ServerToAgent {
            custom_capabilities: Some(list.clone()),
            custom_message: Some(echo("there")),
            ..ack()
        })
        .await;
        let told = run.told("a custom message", |event| match event {
            SessionEvent::CustomMessage(message) => Some(message),
            _ => None,
        });
        assert_eq!(told.await, echo("there"));
        for text in ["one", "two", "three"] {
            run.set(Change::CustomMessage(echo(text))).await;
        }
        for text in ["one", "two", "three"] {
            assert_eq!(
                run.exchange().await.message.custom_message,
                Some(echo(text))
            );
        }
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn a_complaint_is_told_and_not_answered_with_the_same_again() {
    over_each(async |mut run| {
        run.exchange_any().await;
        run.set(Change::Health(health("disliked"))).await;
        run.hear().await;
        run.say(&ServerToAgent {
            error_response: Some(ServerErrorResponse {
                r#type: 1,
                error_message: "no\u{7}".repeat(1 << 16),
                details: None,
            }),
            remote_config: offer(b"ignored", Vec::new()).remote_config,
            ..ack()
        })
        .await;
        let (kind, text) = run
            .told("a complaint", |event| match event {
                SessionEvent::ServerError { kind, message } => Some((kind, message)),
                SessionEvent::RemoteConfig(_) => panic!("{event:?}"),
                _ => None,
            })
            .await;
        assert_eq!(kind, ServerErrorKind::BadRequest);
        assert!(text.len() <= 1024 && !text.contains('\u{7}'), "{text}");
        run.fence().await;
        run.finish().await;
    })
    .await;
}
