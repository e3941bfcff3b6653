//! How connections end and begin again: lost, cut in half, refused, throttled, silent, slow.

use std::time::Duration;

use opamp_client::BackoffConfig;
use opamp_client::messages::{AgentConfigFile, AgentConfigMap};
use opamp_client::messages::{
    EffectiveConfig, RetryInfo, ServerErrorResponse, ServerToAgent, server_error_response,
};
use opamp_client::transport::{Change, ClientEvent, Closed, ClosedBy};

use crate::run::{Run, WIRES, ack, description, health, in_time, over_each};
use crate::server::{PING, TEXT, Wire};
use crate::wire;

/// An error that says the server is overloaded.
fn unavailable(retry_ns: Option<u64>) -> ServerToAgent {
    ServerToAgent {
        error_response: Some(ServerErrorResponse {
            r#type: 2,
            error_message: "busy".to_owned(),
            details: retry_ns.map(|retry_after_nanoseconds| {
                server_error_response::Details::RetryInfo(RetryInfo {
                    retry_after_nanoseconds,
                })
            }),
        }),
        ..ack()
    }
}

fn effective(body: Vec<u8>) -> EffectiveConfig {
    let file = AgentConfigFile {
        body,
        content_type: String::new(),
    };
    EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [(String::new(), file)].into(),
        }),
    }
}

async fn closed(run: &mut Run) -> Closed {
    run.event("the end of the connection", |event| match event {
        ClientEvent::Disconnected { closed, .. } => Some(closed),
        _ => None,
    })
    .await
}

// a server that fails is asked again, and what was not delivered is delivered then.
#[tokio::test]
async fn a_failing_server_gets_the_report_once_it_works() {
    over_each(async |mut run| {
        for status in [400, 404, 500, 502] {
            run.refuse(status, "").await;
            assert!(
                run.retry_in().await <= Duration::from_millis(30),
                "{status}"
            );
        }
        run.set(Change::Description(description("a"))).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.fence().await;
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn throttling_is_obeyed_in_both_forms_and_capped() {
    for (status, headers, least, most) in [
        (503, "Retry-After: 9\r\n", 9, 9),
        (429, "Retry-After: 9\r\n", 9, 9),
        (503, "", 30, 30),
        (429, "Retry-After: soon\r\n", 30, 30),
        (503, "Retry-After: 999999999999\r\n", 3600, 3600),
        (
            503,
            "Retry-After: Sat, 01 Jan 2000 00:01:00 GMT\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\n",
            60,
            60,
        ),
        (
            503,
            "Retry-After: Sat, 01 Jan 2000 00:00:00 GMT\r\nDate: Sun, 02 Jan 2000 00:00:00 GMT\r\n",
            0,
            0,
        ),
    ] {
        over_each(async |mut run| {
            run.refuse(status, headers).await;
            let wait = run.retry_in().await.as_secs();
            assert!(
                (least..=most).contains(&wait),
                "{wait} s after {status} {headers:?}"
            );
            run.finish_apart().await;
        })
        .await;
    }
}

// no server is asked quickly again with credentials that it refused.
#[tokio::test]
async fn refused_credentials_are_not_tried_again_soon() {
    for status in [401, 403] {
        over_each(async |mut run| {
            run.refuse(status, "").await;
            assert!(run.retry_in().await >= Duration::from_secs(30));
            run.finish_apart().await;
        })
        .await;
    }
}

// as servers do that accept everybody first.
#[tokio::test]
async fn policy_violation_after_the_upgrade_is_a_refusal() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.hear_any().await;
    in_time("the close", run.server.close(1008, "token not valid")).await;
    assert!(run.retry_in().await >= Duration::from_secs(30));
    run.finish_apart().await;
}

//
#[tokio::test]
async fn an_unavailable_server_is_left_alone_and_then_told_again() {
    over_each(async |mut run| {
        run.set(Change::Description(description("a"))).await;
        while run.exchange().await.message.agent_description.is_none() {}
        run.set(Change::Health(health("unsaid"))).await;
        assert_eq!(run.hear().await.message.health, Some(health("unsaid")));
        run.say(&unavailable(Some(100_000_000))).await;
        run.server.untake();
        if run.wire == Wire::WebSocket {
            let last = run.hear().await;
            assert!(last.report.has(wire::GOODBYE));
            assert!(in_time("the close", run.server.hear_here()).await.is_none());
        }
        assert_eq!(run.retry_in().await, Duration::from_millis(100));
        let again = run.exchange().await;
        assert_eq!(again.message.health, Some(health("unsaid")));
        run.fence().await;
        run.finish().await;
    })
    .await;
}

// nanoseconds, and never more than an hour.
#[tokio::test]
async fn an_absurd_retry_time_is_capped() {
    over_each(async |mut run| {
        run.hear_any().await;
        run.say(&unavailable(Some(u64::MAX))).await;
        if run.wire == Wire::WebSocket {
            while in_time("the end", run.server.hear_here()).await.is_some() {}
        }
        assert_eq!(run.retry_in().await, Duration::from_hours(1));
        run.finish_apart().await;
    })
    .await;
}

//
#[tokio::test]
async fn without_a_time_an_unavailable_server_has_thirty_seconds() {
    over_each(async |mut run| {
        run.hear_any().await;
        run.say(&unavailable(None)).await;
        if run.wire == Wire::WebSocket {
            while in_time("the end", run.server.hear_here()).await.is_some() {}
        }
        assert_eq!(run.retry_in().await, Duration::from_secs(30));
        run.finish_apart().await;
    })
    .await;
}

// a close frame and a bare end of TCP are the same to us.
#[tokio::test]
async fn every_way_to_lose_a_connection_leads_to_the_next_one() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    for code in [1000, 1001, 1011] {
        run.exchange_any().await;
        run.end_with(code).await;
        assert_eq!(closed(&mut run).await.code, code);
    }
    run.exchange_any().await;
    run.cut();
    let end = closed(&mut run).await;
    assert_eq!((end.code, end.by), (1006, ClosedBy::Failure));
    run.exchange_any().await;
    in_time("the end of our direction", run.server.half_close()).await;
    assert_eq!(closed(&mut run).await.code, 1006);
    run.exchange_any().await;
    // The second half of a frame never comes.
    run.server.write(&[0x82, 0x7E, 1]).await.unwrap();
    run.cut();
    assert_eq!(closed(&mut run).await.code, 1006);
    run.exchange_any().await;
    run.fence().await;
    run.finish().await;
}

//
#[tokio::test]
async fn a_server_that_accepts_and_closes_is_asked_ever_more_slowly() {
    let mut run = Run::start(Wire::WebSocket, |config| {
        config.backoff = BackoffConfig {
            initial: Duration::from_millis(1),
            growth_permille: 2000,
            jitter_permille: 0,
            max: Duration::from_secs(1),
            ..BackoffConfig::default()
        };
    })
    .await;
    for wanted in [1, 2, 4, 8, 16, 32] {
        in_time("an attempt", run.server.upgrade()).await;
        run.lose();
        run.cut();
        assert_eq!(run.retry_in().await, Duration::from_millis(wanted));
    }
    run.exchange_any().await;
    run.finish().await;
}

// neither the loss of the server's answers nor of ours is noticed by TCP.
#[tokio::test]
async fn a_half_open_connection_is_found_and_replaced() {
    let mut run = Run::start(Wire::WebSocket, |config| {
        config.pump.ping_after = Duration::from_millis(30);
    })
    .await;
    run.exchange_any().await;
    run.server.pongs = false;
    assert!(in_time("the end", run.server.hear_here()).await.is_none());
    assert!(run.server.pings >= 1);
    let end = closed(&mut run).await;
    assert_eq!((end.code, end.by), (1006, ClosedBy::Failure));
    run.server.pongs = true;
    run.exchange_any().await;
    run.fence().await;
    run.finish().await;
}

//
#[tokio::test]
async fn pings_of_the_server_are_answered_with_their_payload() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.exchange_any().await;
    run.server.send(PING, b"are you there").await;
    while run.server.pong.is_none() {
        run.fence().await;
    }
    assert_eq!(run.server.pong.as_deref(), Some(&b"are you there"[..]));
    run.finish().await;
}

// a server that takes nothing is given up, and the next one hears it.
#[tokio::test]
async fn a_server_that_does_not_read_is_left() {
    let mut run = Run::start(Wire::WebSocket, |config| {
        config.pump.write_timeout = Duration::from_secs(1);
        config.pump.close_timeout = Duration::from_millis(100);
    })
    .await;
    run.exchange_any().await;
    // More than the buffers of a socket hold.
    let large = effective(vec![b'x'; 12 << 20]);
    run.set(Change::EffectiveConfig(large.clone())).await;
    assert_eq!(closed(&mut run).await.by, ClosedBy::Failure);
    run.cut();
    run.lose();
    // This connection is read from its first byte on.
    let again = run.exchange().await;
    assert_eq!(again.message.effective_config, Some(large));
    run.finish().await;
}

// an offer over the limit is not an offer, and the next one is.
#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_next_is_heard() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| config.session.max_message = 64 << 10).await;
        run.hear_any().await;
        run.say(&crate::orders::offer(b"huge", vec![b'x'; 128 << 10]))
            .await;
        run.server.untake();
        assert_eq!(closed(&mut run).await.code, 1009);
        if wire == Wire::WebSocket {
            while in_time("the end", run.server.hear_here()).await.is_some() {}
            assert_eq!(run.server.close_code, Some(1009));
        }
        run.hear_any().await;
        run.say(&crate::orders::offer(b"small", vec![b'x'; 32 << 10]))
            .await;
        let hash = run
            .told("an offer", |event| match event {
                opamp_client::SessionEvent::RemoteConfig(offer) => Some(offer.config_hash),
                _ => None,
            })
            .await;
        assert_eq!(hash, b"small");
        run.finish().await;
    }
}

//
#[tokio::test]
async fn a_report_over_the_limit_is_never_sent_and_the_rest_flows() {
    for wire in WIRES {
        let mut run = Run::start(wire, |config| config.session.max_message = 64 << 10).await;
        run.exchange_any().await;
        run.set(Change::EffectiveConfig(effective(vec![b'x'; 128 << 10])))
            .await;
        let (field, bytes) = run
            .told("what was left out", |event| match event {
                opamp_client::SessionEvent::Oversize { field, bytes } => Some((field, bytes)),
                _ => None,
            })
            .await;
        assert_eq!(field, "effective_config");
        assert!(bytes > 128 << 10);
        run.set(Change::EffectiveConfig(effective(vec![b'x'; 32 << 10])))
            .await;
        loop {
            let heard = run.exchange().await;
            assert!(heard.length <= 64 << 10);
            if heard.report.has(wire::EFFECTIVE) {
                break;
            }
        }
        run.finish().await;
    }
}

//
#[tokio::test]
async fn text_is_refused_with_1003() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.exchange_any().await;
    run.server.send(TEXT, b"hello").await;
    assert_eq!(closed(&mut run).await.code, 1003);
    while in_time("the end", run.server.hear_here()).await.is_some() {}
    assert_eq!(run.server.close_code, Some(1003));
    run.exchange_any().await;
    run.finish().await;
}
