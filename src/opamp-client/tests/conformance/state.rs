//! What is said when: full state on request, identities, capabilities, intervals.

use std::time::Duration;

use opamp_client::SessionEvent;
use opamp_client::messages::{
    AgentCapabilities, AgentIdentification, ConnectionSettingsOffers, OpAmpConnectionSettings,
    ServerCapabilities, ServerToAgent,
};
use opamp_client::transport::Change;
use tokio::time::Instant;

use crate::run::{Run, UID, WIRES, ack, description, health, over_each};
use crate::wire;

const FULL_STATE: u64 = 1;

fn full_state() -> ServerToAgent {
    ServerToAgent {
        flags: FULL_STATE,
        ..ack()
    }
}

fn identify(uid: &[u8]) -> ServerToAgent {
    ServerToAgent {
        agent_identification: Some(AgentIdentification {
            new_instance_uid: uid.to_vec(),
        }),
        ..ack()
    }
}

//
#[tokio::test]
async fn full_state_is_told_when_asked_for() {
    over_each(async |mut run| {
        run.server.shut();
        run.set(Change::Health(health("up"))).await;
        run.set(Change::Description(description("a"))).await;
        run.lose();
        run.server.open();
        run.exchange().await;
        run.say(&full_state()).await;
        let heard = run.exchange().await;
        // A remote config status is told even if there is none yet.
        assert_eq!(
            heard.report.told(),
            [wire::DESCRIPTION, wire::HEALTH, wire::REMOTE]
        );
        run.fence().await;
        run.finish().await;
    })
    .await;
}

// a server that never has enough is answered at the pace of the setting, not of its questions.
#[tokio::test]
async fn a_storm_of_questions_has_few_answers() {
    for wire in WIRES {
        let gap = Duration::from_millis(200);
        let mut run = Run::start(wire, |config| config.session.full_state_min_gap = gap).await;
        run.set(Change::Description(description("a"))).await;
        run.exchange_any().await;
        let start = Instant::now();
        for _ in 0..100 {
            run.say(&full_state()).await;
        }
        run.set(Change::Health(health("done"))).await;
        let mut told = 0_u16;
        loop {
            let heard = run.hear().await.report;
            run.say(&full_state()).await;
            told += u16::from(heard.has(wire::DESCRIPTION));
            if heard.has(wire::HEALTH) {
                break;
            }
        }
        let gaps = start.elapsed().div_duration_f32(gap);
        // At once, then once per gap.
        assert!(
            f32::from(told) <= 2.0 + gaps,
            "{told} full reports in {gaps} gaps over {wire:?}"
        );
        run.finish().await;
    }
}

//
#[tokio::test]
async fn a_server_that_forgot_everything_is_told_everything() {
    over_each(async |mut run| {
        run.set(Change::Description(description("a"))).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.fence().await;
        run.end().await;
        run.server.shut();
        run.server.open();
        // Whatever it says first, the new server does not know who this is.
        run.set(Change::Health(health("new"))).await;
        run.hear_any().await;
        run.say(&full_state()).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn a_new_identity_is_used_once_it_is_stored() {
    over_each(async |mut run| {
        let new = [9_u8; 16];
        run.exchange_any().await;
        run.say(&identify(&new)).await;
        let told = run
            .told("an identity", |event| match event {
                SessionEvent::NewInstanceUid(uid) => Some(uid),
                _ => None,
            })
            .await;
        assert_eq!(told, new);
        run.set(Change::InstanceUid(new)).await;
        let message = run.fence().await;
        assert_eq!(message.instance_uid, new);
        if let Some(header) = run
            .server
            .heads
            .last()
            .unwrap()
            .header("opamp-instance-uid")
        {
            assert_eq!(header, "09090909-0909-0909-0909-090909090909");
        }
        // The old name is still ours: an answer may have been on its way.
        run.say(&full_state()).await;
        assert_eq!(run.exchange().await.message.instance_uid, new);
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn an_identity_that_is_none_is_refused() {
    over_each(async |mut run| {
        run.exchange_any().await;
        for bad in [&[][..], &[1, 2, 3], &[0; 16], &[1; 17]] {
            run.say(&identify(bad)).await;
        }
        run.told("a refusal", |event| {
            matches!(event, SessionEvent::Refused(_)).then_some(())
        })
        .await;
        assert_eq!(run.fence().await.instance_uid, UID);
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn orders_for_somebody_else_are_not_ours() {
    over_each(async |mut run| {
        run.exchange_any().await;
        let stranger = ServerToAgent {
            instance_uid: vec![5; 16],
            ..crate::orders::restart()
        };
        for _ in 0..5 {
            run.say(&stranger).await;
        }
        let mut told = Vec::new();
        run.fence().await;
        run.say(&crate::orders::offer(b"end", Vec::new())).await;
        run.told("the offer behind it", |event| {
            let end = matches!(event, SessionEvent::RemoteConfig(_));
            told.push(event);
            end.then_some(())
        })
        .await;
        assert!(!told.contains(&SessionEvent::Restart), "{told:?}");
        let foreign = |event: &&SessionEvent| matches!(event, SessionEvent::ForeignInstanceUid(_));
        assert_eq!(told.iter().filter(foreign).count(), 1, "{told:?}");
        run.finish().await;
    })
    .await;
}

// without capabilities there is little to say, and the mandatory bit all the same.
#[tokio::test]
async fn an_agent_without_capabilities_says_who_it_is_and_no_more() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| config.session.capabilities = 0).await;
        run.set(Change::Health(health("unsaid"))).await;
        run.set(Change::Description(description("a"))).await;
        while run.exchange_any().await.message.agent_description.is_none() {}
        for heard in &run.server.log {
            assert_eq!(
                heard.message.capabilities,
                AgentCapabilities::ReportsStatus.bit()
            );
            assert!(!heard.report.has(wire::HEALTH));
        }
        run.finish().await;
    }
}

//
#[tokio::test]
async fn new_capabilities_are_told_with_what_they_enable() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| config.session.capabilities = 0).await;
        run.set(Change::Health(health("hidden"))).await;
        run.exchange_any().await;
        run.set(Change::Capabilities(AgentCapabilities::ReportsHealth.bit()))
            .await;
        let heard = run.exchange().await;
        assert_eq!(heard.message.health, Some(health("hidden")));
        assert_eq!(heard.message.capabilities, 0x801);
        run.finish().await;
    }
}

//
#[tokio::test]
async fn what_the_server_cannot_take_is_kept_until_it_can() {
    over_each(async |mut run| {
        run.exchange_any().await;
        let able = |bits: u64| ServerToAgent {
            capabilities: bits,
            ..ack()
        };
        let status = ServerCapabilities::AcceptsStatus.bit();
        run.say(&able(status)).await;
        run.told("its capabilities", |event| {
            matches!(event, SessionEvent::ServerCapabilities(bits) if bits == status).then_some(())
        })
        .await;
        run.set(Change::EffectiveConfig(
            opamp_client::messages::EffectiveConfig::default(),
        ))
        .await;
        run.fence().await;
        run.say(&able(
            status | ServerCapabilities::AcceptsEffectiveConfig.bit(),
        ))
        .await;
        let heard = run.exchange().await;
        assert_eq!(heard.report.told(), [wire::EFFECTIVE]);
        run.finish().await;
    })
    .await;
}

// an offered interval is in force at once; zero is not "unset".
#[tokio::test]
async fn an_offered_interval_is_in_force_at_once() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| {
            config.session.heartbeat = Duration::from_millis(20);
            // Without this bit the interval is all that counts of an offer.
            config.session.capabilities &=
                !(AgentCapabilities::AcceptsOpAmpConnectionSettings as u64);
        })
        .await;
        let offer = |seconds| ServerToAgent {
            connection_settings: Some(ConnectionSettingsOffers {
                hash: b"s".to_vec(),
                opamp: Some(OpAmpConnectionSettings {
                    heartbeat_interval_seconds: seconds,
                    ..OpAmpConnectionSettings::default()
                }),
                ..ConnectionSettingsOffers::default()
            }),
            ..ack()
        };
        run.exchange_any().await;
        run.say(&offer(3600)).await;
        let interval = run
            .told("the interval", |event| match event {
                SessionEvent::HeartbeatInterval(interval) => Some(interval),
                _ => None,
            })
            .await;
        assert_eq!(interval, Duration::from_hours(1));
        run.finish().await;
    }
}

//
#[test]
fn an_all_zero_identity_is_no_identity() {
    let config = opamp_client::SessionConfig::new([0; 16], 0);
    let error = opamp_client::Session::new(config).unwrap_err();
    assert_eq!(error, opamp_client::ConfigError::ZeroInstanceUid);
}
