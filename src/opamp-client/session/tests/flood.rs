//! A server that sends far too much: what is kept of it is counted.

use super::*;

fn custom(bytes: usize) -> ServerToAgent {
    ServerToAgent {
        custom_message: Some(CustomMessage {
            capability: "org.example.echo".to_owned(),
            data: vec![7; bytes],
            ..CustomMessage::default()
        }),
        ..ack()
    }
}

fn bench(max_message: usize) -> Bench {
    let mut bench = Bench::of(SessionConfig {
        max_message,
        ..SessionConfig::new(UID, ALL)
    });
    bench
        .session
        .set_custom_capabilities(super::custom(&["org.example.echo"]));
    bench.connect();
    bench.drain();
    bench
}

//
#[test]
fn large_messages_that_nobody_reads_cost_one_message_limit() {
    let limit = 1024 * 1024;
    let mut bench = bench(limit);
    let mut peak = 0;
    for _ in 0..2000 {
        bench.hear(&custom(limit / 2));
        peak = peak.max(bench.session.queued_bytes());
        assert!(peak <= limit, "{peak}");
    }
    assert!(peak > limit / 2);
    let kept = u64::try_from(bench.events().len()).unwrap();
    assert_eq!(kept + bench.session.stats().events_dropped, 2000);
    assert_eq!(bench.session.queued_bytes(), 0);
}

// a flood of one kind does not push out what matters.
#[test]
fn offers_outlive_a_flood_of_custom_messages() {
    let mut bench = bench(1024 * 1024);
    bench.hear(&ServerToAgent {
        remote_config: Some(offer(b"kept")),
        ..ack()
    });
    for _ in 0..10_000 {
        bench.hear(&custom(100_000));
    }
    let events = bench.events();
    assert_eq!(events[0], SessionEvent::RemoteConfig(offer(b"kept")));
    assert!(matches!(
        events.last(),
        Some(SessionEvent::CustomMessage(_))
    ));
}

#[test]
fn a_message_of_the_limit_itself_is_kept_alone() {
    let limit = 64 * 1024;
    let mut bench = bench(limit);
    bench.hear(&custom(1000));
    let overhead = frame::encode(&custom(60_000), usize::MAX).unwrap().len() - 60_000;
    bench.hear(&custom(limit - overhead));
    let events = bench.events();
    assert_eq!(events.len(), 1);
    assert_eq!(bench.session.stats().events_dropped, 1);
}

// what a flood can make us say and do is bounded too.
#[test]
fn a_flood_of_everything_causes_a_handful_of_messages() {
    let mut bench = Bench::greeted();
    let mut sent = 0;
    for n in 0..20_000_u64 {
        bench.hear(&ServerToAgent {
            flags: 3,
            capabilities: n % 7 + 1,
            remote_config: Some(offer(&n.to_be_bytes())),
            custom_capabilities: Some(super::custom(&[&format!("org.example.c{}", n % 3)])),
            ..ack()
        });
        bench.hear(&command(0));
        if n % 100 == 0 {
            bench.pass(Duration::from_millis(10));
            sent += bench.drain().len();
        }
    }
    // Two seconds.
    assert!(sent <= 3, "{sent}");
    let events = bench.events();
    assert!(events.len() <= 256, "{}", events.len());
    let restarts = events
        .iter()
        .filter(|event| **event == SessionEvent::Restart);
    assert_eq!(restarts.count(), 1);
}
