//! Servers that send anything at all. Whatever it is, it is told, counted, and the conversation goes on.

use opamp_client::SessionEvent;
use opamp_client::messages::ServerToAgent;
use opamp_client::transport::{Change, ClientEvent};
use prost::Message as _;

use crate::orders::{offer, restart};
use crate::run::{Run, ack, health, over_each};
use crate::server::{BINARY, PING, Wire};

/// Answers that are no message, the same on both transports once the header is gone.
fn garbage() -> Vec<Vec<u8>> {
    vec![
        vec![0x0A],
        vec![0x0A, 0x7F, 1],
        vec![0xFF; 11],
        vec![
            0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1,
        ],
        b"<html>not found</html>".to_vec(),
        // Five thousand unknown groups, one inside the other.
        vec![0x73; 5_000],
    ]
}

async fn malformed(run: &mut Run) {
    run.event("something malformed", |event| {
        matches!(event, ClientEvent::Malformed(_)).then_some(())
    })
    .await;
}

//
#[tokio::test]
async fn garbage_is_told_and_the_conversation_goes_on() {
    over_each(async |mut run| {
        run.exchange_any().await;
        for bytes in garbage() {
            run.say_bytes(&bytes).await;
            run.server.untake();
            malformed(&mut run).await;
            run.fence().await;
        }
        run.finish().await;
    })
    .await;
}

//
#[tokio::test]
async fn headers_are_read_as_the_protocol_says() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.exchange_any().await;
    let body = offer(b"h", b"a".to_vec()).encode_to_vec();
    // A header that is not zero, none at all in an empty message, one that never ends.
    for frame in [
        [&[1][..], &restart().encode_to_vec()].concat(),
        Vec::new(),
        vec![0x80; 12],
    ] {
        run.server.send(BINARY, &frame).await;
        malformed(&mut run).await;
    }
    // A longer zero, and no header as old servers send it.
    for frame in [[&[0x80, 0][..], &body].concat(), body] {
        run.server.send(BINARY, &frame).await;
        run.told("an offer", |event| {
            matches!(event, SessionEvent::RemoteConfig(_)).then_some(())
        })
        .await;
    }
    // A header alone is a message without fields.
    run.server.send(BINARY, &[0]).await;
    run.fence().await;
    run.finish().await;
}

// fragments of any size, split anywhere in TCP.
#[tokio::test]
async fn messages_in_any_pieces_are_one_message() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.exchange_any().await;
    let wanted = offer(b"pieces", (0..=255).collect());
    let payload = [&[0][..], &wanted.encode_to_vec()].concat();
    for size in [1, 2, 3, 7, 64, 125, 126, 200, payload.len()] {
        run.server.send_in_pieces(&payload, size).await;
        let seen = run
            .told("an offer", |event| match event {
                SessionEvent::RemoteConfig(offer) => Some(offer),
                _ => None,
            })
            .await;
        assert_eq!(Some(seen), wanted.remote_config, "pieces of {size}");
    }
    run.fence().await;
    run.finish().await;
}

//
#[tokio::test]
async fn what_a_later_version_adds_is_passed_over() {
    over_each(async |mut run| {
        run.exchange_any().await;
        let mut bytes = offer(b"known", Vec::new()).encode_to_vec();
        // Field 14, three bytes; field 200, a number.
        bytes.extend([0x72, 3, 1, 2, 3, 0xC0, 0x0C, 5]);
        run.say_bytes(&bytes).await;
        let hash = run
            .told("an offer", |event| match event {
                SessionEvent::RemoteConfig(offer) => Some(offer.config_hash),
                _ => None,
            })
            .await;
        assert_eq!(hash, b"known");
        let mut strange = restart();
        strange.command.as_mut().unwrap().r#type = 99;
        run.say(&strange).await;
        let kind = run
            .told("a command", |event| match event {
                SessionEvent::UnknownCommand(kind) => Some(kind),
                SessionEvent::Restart => panic!("taken for a restart"),
                _ => None,
            })
            .await;
        assert_eq!(kind, 99);
        run.fence().await;
        run.finish().await;
    })
    .await;
}

// of ten thousand offers that nobody reads the last one counts, and the rest takes no room.
#[tokio::test]
async fn a_flood_leaves_the_latest_order_and_a_client_that_answers() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.exchange_any().await;
    for number in 0..10_000_u32 {
        run.server
            .say(&offer(&number.to_be_bytes(), vec![b'x'; 512]).encode_to_vec())
            .await;
    }
    // The answer to the ping shows that all of them were read.
    run.server.send(PING, b"after the flood").await;
    while run.server.pong.is_none() {
        run.fence().await;
    }
    let last = 9_999_u32.to_be_bytes().to_vec();
    let mut seen = 0;
    run.told("the last offer", |event| match event {
        SessionEvent::RemoteConfig(offer) => {
            seen += 1;
            (offer.config_hash == last).then_some(())
        }
        _ => None,
    })
    .await;
    assert!(seen <= 400, "{seen} offers were kept");
    run.finish().await;
}

// bytes from a generator, a third of them a damaged real message.
#[tokio::test]
async fn ten_thousand_random_messages_leave_a_client_that_reports_and_says_goodbye() {
    let mut run = Run::start(Wire::WebSocket, |_| {}).await;
    run.exchange_any().await;
    let template = offer(b"hash", b"receivers: {}".to_vec()).encode_to_vec();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..10_000 {
        let mut bytes: Vec<u8> = match random() % 3 {
            0 => template.clone(),
            _ => (0..random() % 64)
                .map(|_| u8::try_from(random() & 0xFF).unwrap())
                .collect(),
        };
        for _ in 0..random() % 4 {
            let at = usize::try_from(random() >> 1).unwrap() % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = u8::try_from(random() & 0xFF).unwrap();
            }
        }
        run.server.say(&bytes).await;
    }
    // It may have been told another interval, capabilities that forbid everything, or to stay silent for a while: what
    // counts is that it lives, is the same one, and leaves in order.
    run.set(Change::Health(health("alive"))).await;
    run.finish().await;
}

//
#[tokio::test]
async fn plain_acknowledgements_cause_nothing() {
    over_each(async |mut run| {
        run.exchange_any().await;
        for _ in 0..20 {
            run.say(&ServerToAgent::default()).await;
            run.say(&ack()).await;
        }
        run.fence().await;
        run.finish().await;
    })
    .await;
}
