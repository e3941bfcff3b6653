//! A normal life: connect, report, change, reconnect, leave.

use std::time::Duration;

use opamp_client::messages::{
    AvailableComponents, ConnectionSettingsStatus, CustomCapabilities, EffectiveConfig,
    PackageStatuses, RemoteConfigStatus,
};
use opamp_client::transport::{Change, ClientEvent};

use crate::run::{Run, WIRES, description, health, over_each};
use crate::server::Wire;
use crate::wire;

/// Every field that a full report can have.
const FULL: [u32; 8] = [
    wire::DESCRIPTION,
    wire::HEALTH,
    wire::EFFECTIVE,
    wire::REMOTE,
    wire::PACKAGES,
    wire::CUSTOM,
    wire::COMPONENTS,
    wire::SETTINGS,
];

/// One of each kind of state.
fn whole_state() -> Vec<Change> {
    vec![
        Change::Description(description("x")),
        Change::Health(health("up")),
        Change::EffectiveConfig(EffectiveConfig::default()),
        Change::RemoteConfigStatus(RemoteConfigStatus::default()),
        Change::PackageStatuses(PackageStatuses::default()),
        Change::ConnectionSettingsStatus(ConnectionSettingsStatus::default()),
        Change::CustomCapabilities(CustomCapabilities::default()),
        Change::AvailableComponents(AvailableComponents {
            hash: b"c".to_vec(),
            ..AvailableComponents::default()
        }),
    ]
}

//
#[tokio::test]
async fn the_first_message_is_a_full_status_report() {
    over_each(async |mut run| {
        run.server.shut();
        for change in whole_state() {
            run.set(change).await;
        }
        run.server.open();
        let first = run.exchange().await;
        assert_eq!(first.report.told(), FULL);
        assert_eq!(first.message.sequence_num, 0);
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn a_change_is_told_alone_and_an_equal_value_not_at_all() {
    over_each(async |mut run| {
        run.set(Change::Description(description("a"))).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.set(Change::Description(description("a"))).await;
        run.fence().await;
        run.set(Change::Description(description("b"))).await;
        let heard = run.exchange().await;
        assert_eq!(heard.report.told(), [wire::DESCRIPTION]);
        assert_eq!(heard.message.agent_description, Some(description("b")));
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn after_an_answer_a_reconnect_says_only_what_is_new() {
    over_each(async |mut run| {
        run.set(Change::Description(description("a"))).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.fence().await;
        run.set(Change::Health(health("new"))).await;
        let heard = run.hear().await;
        assert_eq!(heard.report.told(), [wire::HEALTH]);
        run.settle().await;
        run.end().await;
        run.set(Change::Health(health("newer"))).await;
        let mut told = Vec::new();
        while !told.contains(&wire::HEALTH) {
            told.extend(run.hear_any().await.report.told());
            run.ack().await;
        }
        assert_eq!(told, [wire::HEALTH]);
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn without_an_answer_a_reconnect_says_everything_again() {
    over_each(async |mut run| {
        run.server.shut();
        for change in whole_state() {
            run.set(change).await;
        }
        run.server.open();
        run.exchange().await;
        run.set(Change::Health(health("changed"))).await;
        let lost = run.hear().await;
        run.cut_and_see().await;
        let again = run.exchange().await;
        match run.wire {
            Wire::WebSocket => {
                assert_eq!(again.message.sequence_num, lost.message.sequence_num + 1);
                assert_eq!(again.message.health, lost.message.health);
                assert_eq!(again.report.told(), FULL);
            }
            // A request without an answer is made again.
            Wire::Http => assert_eq!(again.message, lost.message),
        }
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn a_hundred_changes_while_away_become_one_message() {
    over_each(async |mut run| {
        run.set(Change::Description(description("a"))).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.lose();
        run.server.shut();
        for number in 0..100 {
            run.set(Change::Health(health(&format!("{number}")))).await;
        }
        run.server.open();
        let before = run.server.log.len();
        while run.exchange().await.message.health != Some(health("99")) {}
        // The last of them may still have been on their way to the client when the first report left.
        let told = run.server.log.split_off(before);
        assert!(told.len() <= 3, "{told:?}");
        run.server.log.extend(told);
        run.fence().await;
        run.finish().await;
    })
    .await;
}

// a thousand messages, ten of them lost with their connection.
#[tokio::test]
async fn numbers_have_no_holes_over_a_thousand_messages_and_ten_reconnects() {
    over_each(async |mut run| {
        for life in 0..10 {
            for number in 0..100 {
                let state = description(&format!("{life} {number}"));
                run.set(Change::Description(state.clone())).await;
                while run.exchange().await.message.agent_description != Some(state.clone()) {}
            }
            let lost = description("lost");
            run.set(Change::Description(lost.clone())).await;
            while run.hear().await.message.agent_description != Some(lost.clone()) {}
            run.cut_and_see().await;
        }
        run.exchange().await;
        run.fence().await;
        assert!(run.server.log.len() > 1000);
        // The check of the numbers is in here.
        run.finish().await;
    })
    .await;
}

// a beat says who, which number and what it can, and nothing else.
#[tokio::test]
async fn heartbeats_are_bare_and_come_by_themselves() {
    for wire in WIRES {
        let beat = Duration::from_millis(15);
        let mut run = Run::start(wire, |config| config.session.heartbeat = beat).await;
        run.exchange_any().await;
        for _ in 0..5 {
            let heard = run.exchange_any().await;
            assert_eq!(heard.report.told(), [0_u32; 0]);
            assert!(heard.length <= 32, "{} bytes", heard.length);
        }
        run.fence().await;
        run.finish().await;
    }
}

//
#[tokio::test]
async fn the_request_says_path_version_and_the_callers_headers() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| {
            let target = config.target.clone();
            config.target = target.with_header("authorization", "Bearer t").unwrap();
        })
        .await;
        run.exchange_any().await;
        let head = &run.server.heads[0];
        assert_eq!(head.header("authorization"), Some("Bearer t"));
        match wire {
            Wire::WebSocket => {
                assert_eq!(head.line, "GET /v1/opamp HTTP/1.1");
                assert_eq!(head.header("sec-websocket-version"), Some("13"));
            }
            Wire::Http => {
                assert_eq!(head.line, "POST /v1/opamp HTTP/1.1");
                assert_eq!(head.header("content-type"), Some("application/x-protobuf"));
                let uid = "07070707-0707-0707-0707-070707070707";
                assert_eq!(head.header("opamp-instance-uid"), Some(uid));
            }
        }
        run.finish().await;
    }
}

// nothing is held back for an answer that does not come. Over HTTP each request has its answer.
#[tokio::test]
async fn a_silent_server_still_hears_every_change() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.hear_any().await;
    for number in 0..20 {
        let state = health(&format!("{number}"));
        run.set(Change::Health(state.clone())).await;
        assert_eq!(run.hear().await.message.health, Some(state));
    }
    run.finish().await;
}

// a server that does not answer the close is left after a while.
#[tokio::test]
async fn stopping_does_not_wait_for_a_stuck_server() {
    let mut run = Run::start(Wire::WebSocket, |config| {
        config.pump.close_timeout = Duration::from_millis(50);
    })
    .await;
    run.hear_any().await;
    run.handle.set(Change::Stop).await.unwrap();
    run.event("the end", |event| match event {
        ClientEvent::Disconnected { closed, .. } => Some(closed),
        _ => None,
    })
    .await;
    // The goodbye has arrived all the same.
    run.finish_later().await;
}
